"""One PostgreSQL for a test run, one schema for a test."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from pgqrs import Admin, embedded
from pgqrs.engine.step_runner import ALWAYS_REPLAY
from pgqrs.models import SCHEMA
from pgqrs.storage.migrate import sql_script
from pgqrs.storage.queries.invariants import INVARIANTS

RENDERED = "test_rendered"
"""The schema that stands in SQL which is rendered once and used for every test's schema."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what takes long, unless PGQRS_SLOW_TESTS=1, and in the always-replay mode what it tells nothing of."""
    for item in items:
        replayed = item.get_closest_marker("without_replay")
        if replayed is not None and os.environ.get(ALWAYS_REPLAY) == "1":
            # It counts runs of the body, which this mode repeats; without the mode it runs, with its reason beside it.
            item.add_marker(pytest.mark.skip(reason=f"always replaying: {replayed.args[0]}"))
        if item.get_closest_marker("slow") is not None and os.environ.get("PGQRS_SLOW_TESTS") != "1":
            # A minute of waiting; the same test runs with a short wait each time, and this one by `make test-slow`.
            item.add_marker(pytest.mark.skip(reason="slow: PGQRS_SLOW_TESTS=1 runs it"))


@pytest.fixture(scope="session")
def dsn() -> Iterator[str]:
    """The server that the tests run on: PGQRS_TEST_DSN, or an embedded one shared by all test processes."""
    given = os.environ.get("PGQRS_TEST_DSN")
    if given:
        yield given
        return
    folder = Path(__file__).parent.parent / ".pgqrs" / "tests"
    yield embedded.start(f"embedded://{folder}")
    embedded.stop(f"embedded://{folder}")


@pytest_asyncio.fixture
async def schema(dsn: str) -> AsyncIterator[str]:
    """The name of a schema that is the test's own."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield name
    async with _connected(dsn) as connection:
        await connection.execute(f'DROP SCHEMA IF EXISTS "{name}" CASCADE')


@pytest_asyncio.fixture
async def own_database(dsn: str) -> AsyncIterator[str]:
    """The DSN of an empty database that is the test's own, for programs that use the default schema."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    connection = await asyncpg.connect(dsn)
    await connection.execute(f'CREATE DATABASE "{name}"')
    yield urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))
    await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await connection.close()


@cache
def _script() -> str:
    """Return the SQL of the tables in `RENDERED`: rendering it, as `install` does, takes longer than running it."""
    return sql_script(RENDERED)


@cache
def _search() -> str:
    """Return one statement that finds all that `verify(deep=True)`, which compiles a dozen for each engine, looks for."""
    searches: list[str] = []
    for sentence, query in INVARIANTS:
        compiled = query.compile(
            dialect=postgresql.dialect(),
            compile_kwargs={"literal_binds": True},
            schema_translate_map={SCHEMA: RENDERED},
            render_schema_translate=True,
        )
        searches.append(f"SELECT $${sentence}$$ AS sentence, found::text FROM ({compiled}) AS found")
    return " UNION ALL ".join(searches)


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


@pytest_asyncio.fixture
async def installed(dsn: str, schema: str) -> str:
    """The test's schema, with the tables in it."""
    async with _connected(dsn) as connection:
        await connection.execute(_script().replace(RENDERED, schema))
    return schema


@pytest_asyncio.fixture
async def engine(dsn: str) -> AsyncIterator[AsyncEngine]:
    """An application's own engine."""
    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(dsn))
    yield engine
    await engine.dispose()


@pytest_asyncio.fixture
async def admin(dsn: str, installed: str, request: pytest.FixtureRequest) -> AsyncIterator[Admin]:
    """An `Admin` on the test's schema with its tables; in the end they hold nothing that they must never hold.

    Those that a test marked `plants_rows` has written by hand are not looked at.
    """
    async with Admin(dsn, installed) as admin:
        yield admin
        if request.node.get_closest_marker("plants_rows") is None:
            async with _connected(dsn) as connection:
                assert await connection.fetch(_search().replace(RENDERED, installed)) == []
