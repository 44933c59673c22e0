"""`scratch_admin`: an `Admin` on a schema that exists for one test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

from pgqrs import embedded
from pgqrs.client.admin import Admin
from pgqrs.testing.clock import TestClock
from pgqrs.testing.schemas import SchemaPool


@asynccontextmanager
async def scratch_admin(dsn: str = "embedded://", **options: Any) -> AsyncGenerator[Admin]:
    """Yield an `Admin` with a `TestClock` (`clock_of`) on a new schema while the block runs.

    The schema is created with its tables, and dropped at the end. The fixture `pgqrs_admin` does the same, and is
    faster from the second test on.

    Args:
        dsn: The DSN of the server; an embedded server by default.
        **options: Options of `Admin`, as `codec`.

    Yields:
        The `Admin`.

    Raises:
        PgqrsError: The server could not be reached or started, or an option of `Admin` is invalid.
    """
    server = await asyncio.to_thread(embedded.start, dsn) if embedded.is_embedded(dsn) else dsn
    schemas = SchemaPool(server)
    try:
        async with make_admin(server, await schemas.lend(), **options) as admin:
            yield admin
    finally:
        await schemas.close()


def make_admin(dsn: str, schema: str, **options: Any) -> Admin:
    """Return an `Admin` with a `TestClock` on a schema of a `SchemaPool`."""
    clock = TestClock(schema)
    admin = Admin(_clocked(dsn, clock), schema, clock=clock, **options)
    clock.follow(admin)
    return admin


def _clocked(dsn: str, clock: TestClock) -> str:
    """Return a DSN whose connections see the time of a clock."""
    return f"{dsn}{'&' if '?' in dsn else '?'}search_path={quote(clock.search_path, safe='')}"
