"""Statements name their functions whole and compare like with like; see `pgqrs.storage.sql.expressions`."""

import ast
import re
from pathlib import Path

import pytest
from sqlalchemy import func
from sqlalchemy.dialects.postgresql import asyncpg

from pgqrs.models import HEAD, Workflow
from pgqrs.storage.connections.pooler import OPTION
from pgqrs.storage.queries.workflows import bigints
from pgqrs.storage.schema.migrate import sql_script
from tests.support.statements import statements

CHECKOUT = Path(__file__).parents[2]
SOURCES = [
    *(CHECKOUT / "pgqrs" / "storage").rglob("*.py"),
    CHECKOUT / "pgqrs" / "testing" / "sql.py",
    *(CHECKOUT / "migrations").rglob("*.py"),
]

WORDS_OF_THE_GRAMMAR = {"coalesce", "least", "greatest", "any", "all", "exists"}
SHADOWED_BY_THE_TEST_CLOCK = {"now", "transaction_timestamp", "statement_timestamp", "clock_timestamp"}
BARE = WORDS_OF_THE_GRAMMAR | SHADOWED_BY_THE_TEST_CLOCK

ALIAS = re.compile(r"\b(AS|RECURSIVE) \"?\w+\"?\(|, \n\w+\((?=[\w, ]+\) AS \n)")
CALL = re.compile(r"(?<![.\w\"$])([a-z_]\w*)\(")
SEVERAL_ARRAYS = re.compile(r"\bunnest\((?:[^(),]|\([^()]*\))*,")
ARRAY_OF_OTHERS = re.compile(r"\$\d+::(?!TEXT)\w+\[\]")
SQL = re.compile(r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM|CREATE|ALTER|SET)\b")


def bare_calls(text: str) -> set[str]:
    """Return the functions that a statement calls by half their names."""
    return set(CALL.findall(SEVERAL_ARRAYS.sub("", ALIAS.sub("", text)))) - BARE


def test_statements_qualify_functions_and_avoid_varchar():
    # One test for all, not one each: pytest would build every statement while it collects, in each of its processes.
    texts = {name: str(statement.compile(dialect=asyncpg.dialect())) for name, statement in statements()}
    assert len(texts) > 90
    assert {name: bare for name, text in texts.items() if (bare := bare_calls(text))} == {}
    assert [name for name, text in texts.items() if "VARCHAR" in text] == []
    arrays = [
        name
        for name, text in texts.items()
        if "caller" in name or name.startswith(("server.", "steps.", "uniqueness.", "workflows."))
        if ARRAY_OF_OTHERS.search(text)
    ]
    assert arrays == [], "give them as text: see array_of in pgqrs/storage/sql/expressions.py"
    casts = [name for name, text in texts.items() if "any(CAST(" in text]
    assert casts == [], "a scan casts for each row: see ids_of in pgqrs/storage/sql/expressions.py"


def test_condition_on_ids_casts_their_text_once():
    condition = Workflow.id == func.any(bigints([1, 2]))
    text = str(condition.compile(dialect=asyncpg.dialect()))
    assert "any(coalesce((SELECT CAST(" in text


def test_schema_scripts_qualify_functions():
    up, down = sql_script("s"), sql_script("s", start=HEAD, end="base")
    for text in (up, down):
        assert bare_calls(text) == set()
        assert ".version_num = " not in text
    assert ".version_num::text = '0001'" in up


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_code_builds_an_unqualified_function(path):
    found = {
        node.attr
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in {"func", "sa.func"}
    }
    allowed = BARE | {"pg_catalog"} | ({"unnest"} if path.name == "expressions.py" else set())
    assert found <= allowed, "call it as pg.name(...): see pgqrs/storage/sql/expressions.py"


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if "migrations" not in path.parts], ids=lambda path: path.name
)
def test_no_code_imports_string_types_of_sqlalchemy(path):
    found = {
        name.name
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sqlalchemy")
        for name in node.names
    }
    assert not found & {"String", "Text", "Unicode", "UnicodeText", "VARCHAR", "TEXT"}, "take that of pgqrs.models"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_sql_text_calls_an_unqualified_function(path):
    module = parsed(path)
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(module)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(module):
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(each.value) if isinstance(each, ast.Constant) else "x" for each in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            text = node.value
        else:
            continue
        if SQL.search(text) and OPTION not in text:
            assert bare_calls(text) == set(), text


def test_unqualified_calls_are_detected():
    assert bare_calls("SELECT pg_notify($1::TEXT, now())") == {"pg_notify"}
    assert bare_calls("SELECT * FROM unnest($1::TEXT[]) AS names(name)") == {"unnest"}
    assert bare_calls("SELECT * FROM unnest($1::TEXT[], $2::TEXT[]) AS pairs(a, b)") == set()
    assert bare_calls("SELECT pg_catalog.count(*) FROM s.t WHERE a IN (1)") == set()
