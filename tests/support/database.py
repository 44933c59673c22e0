"""Connections to the tests' server that owe nothing to the library."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine


@asynccontextmanager
async def connected(
    dsn: str, schema: str | None = None, **settings: str
) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Give a raw connection, which finds the tables of the schema without naming it, and close it in the end."""
    connection = await asyncpg.connect(dsn, server_settings=_settings(schema, settings))
    try:
        yield connection
    finally:
        await connection.close()


class Kept:
    """One connection for the fixtures of all tests of a process; its methods block, in an event loop of its own.

    A connection of each fixture's own costs the server more than what the fixture does with it.
    """

    def __init__(self, dsn: str) -> None:
        self._loop = asyncio.new_event_loop()
        # Each test has a schema of its own, so no statement comes twice.
        self._connection = self._loop.run_until_complete(asyncpg.connect(dsn, statement_cache_size=0))

    def execute(self, script: str) -> None:
        """Execute statements in one transaction."""
        self._loop.run_until_complete(self._connection.execute(script))

    def fetch(self, query: str) -> list[asyncpg.Record]:
        """Return the rows that a query finds."""
        return self._loop.run_until_complete(self._connection.fetch(query))

    def close(self) -> None:
        """Close the connection and its loop."""
        self._loop.run_until_complete(self._connection.close())
        self._loop.close()


async def is_held_up(connection: asyncpg.Connection[asyncpg.Record], schema: str) -> int:
    """Return how many statements on the tables of a schema wait for the lock of another transaction."""
    waiting: int = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND strpos(query, $1) > 0", schema
    )
    return waiting


def engine_on(dsn: str, schema: str | None = None, **options: Any) -> AsyncEngine:
    """Return an application's engine; its connections look into the schema first."""
    settings = _settings(schema, {})
    return create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(dsn, server_settings=settings), **options
    )


def _settings(schema: str | None, settings: dict[str, str]) -> dict[str, str]:
    return settings if schema is None else {"search_path": f'"{schema}"'} | settings
