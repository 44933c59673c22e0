"""Check the prose of the package and the names of the tests.

`make lint` runs it. It counts the words that hide a noun in the docstrings and comments of the package, and fails
above a limit: "What a batch has of a workflow" says less than "the step ids in a batch". It also fails for a long
name of a test function.
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

NAME_LIMIT = 60
"""Maximum length of the name of a test function."""

ROOT = Path(__file__).parent.parent


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


def has_clear_prose() -> bool:
    """Print the count of the words, and the files with most of them if there are too many."""
    total, found = 0, Counter[str]()
    for path in sorted((ROOT / "pgqrs").rglob("*.py")):
        text = " ".join(prose_of(path.read_text()))
        total += len(text.split())
        found[str(path.relative_to(ROOT))] = len(WORDS.findall(text))
    rate = 1000 * found.total() / total
    print(f"{found.total()} of {total} words hide a noun: {rate:.1f} in 1,000, at most {LIMIT:g}")
    if rate > LIMIT:
        for name, count in found.most_common(20):
            print(f"  {name}: {count}")
    return rate <= LIMIT


def names_of_tests(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of each test function of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node.lineno, node.name


def has_short_names() -> bool:
    """Print the test functions whose names are too long."""
    too_long = [
        f"  {path.relative_to(ROOT)}:{line}: {name}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for line, name in names_of_tests(path.read_text())
        if len(name) > NAME_LIMIT
    ]
    print(f"{len(too_long)} names of test functions have more than {NAME_LIMIT} characters", *too_long, sep="\n")
    return not too_long


def main() -> None:
    """Run both checks, and fail if one of them fails."""
    if not all([has_clear_prose(), has_short_names()]):
        sys.exit(1)


if __name__ == "__main__":
    main()
