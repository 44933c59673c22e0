"""One PostgreSQL for a test run, one schema for a test."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from pgqrs import Admin, embedded


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
    connection = await asyncpg.connect(dsn)
    await connection.execute(f'DROP SCHEMA IF EXISTS "{name}" CASCADE')
    await connection.close()


@pytest_asyncio.fixture
async def engine(dsn: str) -> AsyncIterator[AsyncEngine]:
    """An application's own engine."""
    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(dsn))
    yield engine
    await engine.dispose()


@pytest_asyncio.fixture
async def admin(dsn: str, schema: str, request: pytest.FixtureRequest) -> AsyncIterator[Admin]:
    """An `Admin` on the test's schema, installed; in the end the tables hold nothing that they must never hold.

    Those that a test marked `plants_rows` has written by hand are not looked at.
    """
    async with Admin(dsn, schema) as admin:
        await admin.install()
        yield admin
        if request.node.get_closest_marker("plants_rows") is None:
            await admin.verify(deep=True)
