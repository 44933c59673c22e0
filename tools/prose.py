"""Count the words that hide a noun, in the docstrings and comments of the package; fail above a limit.

`make lint` runs it. "What a batch has of a workflow" says less than "the step ids in a batch".
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

WORDS = re.compile(r"\b(what|whoever|nobody|somebody|those)\b", re.IGNORECASE)
LIMIT = 3.0
"""Maximum number of such words in 1,000 words."""

PACKAGE = Path(__file__).parent.parent / "pgqrs"


def prose_of(source: str) -> Iterator[str]:
    """Yield the docstrings, of constants too, and the comments of a module."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.value.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def main() -> None:
    """Print the count, and the files with most of these words where there are too many."""
    total, found = 0, Counter[str]()
    for path in sorted(PACKAGE.rglob("*.py")):
        text = " ".join(prose_of(path.read_text()))
        total += len(text.split())
        found[str(path.relative_to(PACKAGE.parent))] = len(WORDS.findall(text))
    rate = 1000 * found.total() / total
    print(f"{found.total()} of {total} words hide a noun: {rate:.1f} in 1,000, at most {LIMIT:g}")
    if rate > LIMIT:
        for name, count in found.most_common(20):
            print(f"  {name}: {count}")
        sys.exit(1)


if __name__ == "__main__":
    main()
