"""One PostgreSQL for a test run, one schema for a test."""

from __future__ import annotations

import gc
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from pgqrs import Admin, embedded
from pgqrs.engine.step_runner import ALWAYS_REPLAY
from pgqrs.storage.connections import database
from pgqrs.storage.schema.migrate import sql_script
from pgqrs.testing import TestClock
from pgqrs.testing.sql import violations
from tests.support import shop
from tests.support.claims import Claims, claims
from tests.support.database import Kept, connected, engine_on
from tests.support.forks import Forkery
from tests.support.processes import Children, Ended, Program, ended
from tests.support.scenario import Scenario
from tests.support.schemas import SchemaPool

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
            # It takes long; its short form runs each time, and it by `make test-slow`.
            item.add_marker(pytest.mark.skip(reason="slow: PGQRS_SLOW_TESTS=1 runs it"))


def pytest_collection_finish() -> None:
    """Keep the garbage collector from visiting the imported modules and the tests at the end of each test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def dsn() -> Iterator[str]:
    """The server that the tests run on: PGQRS_TEST_DSN, or an embedded one shared by all test processes."""
    given = os.environ.get("PGQRS_TEST_DSN")
    if given:
        yield given
        return
    folder = Path(__file__).parent.parent / ".pgqrs" / "tests"
    dsn = embedded.start(f"embedded://{folder}")
    with closing(Kept(dsn)) as kept:
        # A run of all tests would write 60 GB. What a crash of the machine breaks, `rm -r .pgqrs/tests` mends.
        kept.execute("ALTER SYSTEM SET fsync = off")
        kept.execute("SELECT pg_reload_conf()")
    yield dsn
    embedded.stop(f"embedded://{folder}")


@pytest.fixture
def set_in_statements(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[ModuleType, str, object], None]]:
    """Set a constant of a module that stands in statements, which a process compiles once for all its tests."""
    database.compiled.cache_clear()
    yield monkeypatch.setattr
    database.compiled.cache_clear()


@pytest.fixture(scope="session")
def pgqrs_dsn(dsn: str) -> str:
    """The server of the fixtures of pgqrs.testing, for the modules that load them."""
    return dsn


@pytest.fixture
def kit(pgqrs_admin: Admin) -> Admin:
    """The installation of pgqrs.testing: its schema is the test's own and its clock can be moved."""
    return pgqrs_admin


@pytest.fixture
def clock(pgqrs_clock: TestClock) -> TestClock:
    """The clock of `kit`."""
    return pgqrs_clock


@pytest.fixture(scope="session")
def kept(dsn: str) -> Iterator[Kept]:
    """The connection of the fixtures."""
    with closing(Kept(dsn)) as kept:
        yield kept


@pytest.fixture
def schema(kept: Kept) -> Iterator[str]:
    """The name of a schema that is the test's own."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield name
    kept.execute(f'DROP SCHEMA IF EXISTS "{name}" CASCADE')


@pytest_asyncio.fixture
async def own_database(dsn: str) -> AsyncIterator[str]:
    """The DSN of an empty database that is the test's own, for programs that use the default schema."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    async with connected(dsn) as connection:
        await connection.execute(f'CREATE DATABASE "{name}"')
        yield urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))
        await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@cache
def _script() -> str:
    """Return the SQL of the tables in `RENDERED`: rendering it, as `install` does, takes longer than running it."""
    return sql_script(RENDERED)


@pytest.fixture(scope="session")
def schemas(kept: Kept) -> Iterator[SchemaPool]:
    """Schemas with the tables, for one test after another."""
    with closing(SchemaPool(kept, lambda name: _script().replace(RENDERED, name))) as schemas:
        yield schemas


@pytest.fixture
def installed(kept: Kept, schema: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The test's schema, with the tables in it; they are new if the test is marked `new_tables`."""
    if request.node.get_closest_marker("new_tables") is not None:
        kept.execute(_script().replace(RENDERED, schema))
        yield schema
    else:
        schemas: SchemaPool = request.getfixturevalue("schemas")
        schemas.take(schema)
        yield schema
        schemas.give_back(schema)


@pytest_asyncio.fixture
async def sql(dsn: str, schema: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A raw connection beside the library's, which finds the tables of the test's schema without naming it."""
    async with connected(dsn, schema) as connection:
        yield connection


@pytest_asyncio.fixture
async def engine(dsn: str) -> AsyncIterator[AsyncEngine]:
    """An application's own engine."""
    engine = engine_on(dsn)
    yield engine
    await engine.dispose()


@pytest.fixture
def sound(kept: Kept, installed: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The test's schema; in the end its tables hold nothing that they must never hold.

    Those that a test marked `plants_rows` has written by hand are not looked at.
    """
    yield installed
    if request.node.get_closest_marker("plants_rows") is None:
        assert kept.fetch(violations(installed)) == []


@pytest_asyncio.fixture
async def admin(dsn: str, sound: str) -> AsyncIterator[Admin]:
    """An `Admin` on the test's schema with its tables."""
    async with Admin(dsn, sound) as admin:
        yield admin


@pytest_asyncio.fixture
async def claimer(admin: Admin) -> AsyncIterator[Claims]:
    """Claims workflows as a worker does, when the test tells it to."""
    async with claims(admin) as claimer:
        yield claimer


@pytest_asyncio.fixture
async def app(dsn: str, schema: str) -> AsyncIterator[AsyncEngine]:
    """The application's engine; its tables are beside ours, in a schema that its connections look into first."""
    engine = engine_on(dsn, schema)
    yield engine
    await engine.dispose()


@pytest_asyncio.fixture
async def sessions(app: AsyncEngine, admin: Admin) -> async_sessionmaker[AsyncSession]:
    """Makes the application's sessions, on its own engine, with its table."""
    async with app.begin() as connection:
        await connection.run_sync(shop.Base.metadata.create_all)
    return async_sessionmaker(app, expire_on_commit=False)


@pytest.fixture
def children() -> Iterator[Children]:
    """Starts processes; those that still run at the end are killed."""
    with Children() as children:
        yield children


@pytest.fixture(scope="session")
def forkery() -> Iterator[Forkery]:
    """The process that the programs of tests are forked from; every warning is an error."""
    with Forkery("-W", "error") as forkery:
        yield forkery


@pytest.fixture
def program(children: Children, forkery: Forkery, dsn: str, schema: str, tmp_path: Path) -> Program:
    """Starts Python programs, which find the server in PGQRS_DSN and the test's schema in PGQRS_SCHEMA."""
    return Program(children, forkery, tmp_path, {"PGQRS_DSN": dsn, "PGQRS_SCHEMA": schema})


@pytest.fixture
def run_program(program: Program) -> Callable[..., Ended]:
    """Run a program in a process that imports all anew; return its exit code, its output and its errors."""
    return lambda source, *arguments, **options: ended(program.anew(source, *arguments, **options))


@pytest.fixture
def scenario() -> Scenario:
    """Steps that fail as often as they are told to, and a record of what was executed."""
    return Scenario()
