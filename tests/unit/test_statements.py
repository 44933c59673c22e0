"""The rendered statements, one file each in `tests/statements`: a diff shows the change of a statement.

`PGQRS_WRITE_STATEMENTS=1 .venv/bin/python -m pytest tests/unit/test_statements.py` writes the files anew.
"""

import os
import re
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import ClauseElement, SelectBase
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.sql.dml import UpdateBase

from pgqrs.storage.queries import invariants
from pgqrs.storage.writes.registry import OPERATIONS
from tests.support.statements import statements

FOLDER = Path(__file__).parents[1] / "statements"

IN_THE_BATCH = {operation.name for operation in OPERATIONS.values()}
"""Statements of several records of one type; the batch of all types has each of them."""

INVARIANTS = {sentence for sentence, _query in invariants.invariants()}

PART = re.compile(r"\._[a-z]")
"""Functions that return a part of a statement, not a statement that is sent."""

CLAUSE = re.compile(
    r" +(?=(?:FROM|WHERE|AND|OR|SET|VALUES|RETURNING|UNION|ORDER BY|LIMIT|ON CONFLICT|DO UPDATE|LEFT OUTER JOIN|JOIN"
    r"|FOR (?:NO KEY )?UPDATE|FOR (?:KEY )?SHARE)\b)"
)


def rendered(statement: ClauseElement) -> str:
    """Return the text of a statement, a clause a line."""
    text = CLAUSE.sub("\n", str(statement.compile(dialect=asyncpg.dialect())))
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


pytestmark = pytest.mark.skipif(
    tuple(map(int, sqlalchemy.__version__.split(".")[:2])) < (2, 1),
    reason="an older SQLAlchemy writes them in other words",
)


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """The texts by the names of their files; not rendered while pytest collects, which each of its processes does."""
    texts = {
        re.sub(r"\W+", "_", name).strip("_").lower(): rendered(statement)
        for name, statement in statements()
        if isinstance(statement, (SelectBase, UpdateBase))
        and name not in IN_THE_BATCH | INVARIANTS
        and not PART.search(name)
    }
    if os.environ.get("PGQRS_WRITE_STATEMENTS"):
        for name, text in texts.items():
            (FOLDER / f"{name}.sql").write_text(text)
    return texts


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.sql")), ids=lambda path: path.stem)
def test_statement_equals_its_committed_text(path, texts):
    assert path.read_text() == texts.get(path.stem)


def test_each_statement_has_a_file_and_no_other_remains(texts):
    assert {path.stem for path in FOLDER.glob("*.sql")} == set(texts)
