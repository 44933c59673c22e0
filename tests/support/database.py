"""Connections to the tests' server that owe nothing to the library."""

from __future__ import annotations

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


def engine_on(dsn: str, schema: str | None = None, **options: Any) -> AsyncEngine:
    """Return an application's engine; its connections look into the schema first."""
    settings = _settings(schema, {})
    return create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(dsn, server_settings=settings), **options
    )


def _settings(schema: str | None, settings: dict[str, str]) -> dict[str, str]:
    return settings if schema is None else {"search_path": f'"{schema}"'} | settings
