"""`scratch_admin`: an `Admin` on a schema that is there for a test alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

from pgqrs.client.admin import Admin
from pgqrs.embedded import cluster as embedded
from pgqrs.testing.clock import TestClock
from pgqrs.testing.schemas import SchemaPool


@asynccontextmanager
async def scratch_admin(dsn: str = "embedded://", **options: Any) -> AsyncGenerator[Admin]:
    """Give an `Admin` on a schema of its own while the block runs, with a `TestClock` (`clock_of`).

    `dsn` is the server's, an embedded one by default; `options` are those of `Admin`. The schema is made with its
    tables, and dropped in the end. The fixture `pgqrs_admin` does the same, and faster from the second time on.
    """
    server = await asyncio.to_thread(embedded.start, dsn) if embedded.is_embedded(dsn) else dsn
    schemas = SchemaPool(server)
    try:
        async with make_admin(server, await schemas.lend(), **options) as admin:
            yield admin
    finally:
        await schemas.close()


def make_admin(dsn: str, schema: str, **options: Any) -> Admin:
    """Return an `Admin` on a schema of `Schemas`, with a `TestClock`."""
    clock = TestClock(schema)
    admin = Admin(_clocked(dsn, clock), schema, clock=clock, **options)
    clock.follow(admin)
    return admin


def _clocked(dsn: str, clock: TestClock) -> str:
    """Return a DSN whose connections see the time of a clock."""
    return f"{dsn}{'&' if '?' in dsn else '?'}search_path={quote(clock.search_path, safe='')}"
