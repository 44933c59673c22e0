"""The parts of the fixtures of the pytest plugin (`pytest_pgqrs`, a module beside this package)."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pgqrs.client.admin import Admin
from pgqrs.testing.schemas import BlockingSchemaPool
from pgqrs.testing.scratch import make_admin

CLOSING = 30.0
"""Maximum seconds to close an `Admin` whose event loop runs in another thread."""


def embedded_dsn(root: Path) -> str:
    """Return the DSN of the embedded server for the tests of a project."""
    return f"embedded://{quote(str(root / '.pgqrs' / 'testing'))}"


@contextmanager
def lent_admin(dsn: str, schemas: BlockingSchemaPool, options: Mapping[str, Any]) -> Generator[Admin]:
    """Yield an `Admin` with these options on a schema of `schemas`, and return the schema at the end."""
    schema = schemas.lend()
    admin = make_admin(dsn, schema, **options)
    try:
        yield admin
    finally:
        _close(admin)
        schemas.give_back(schema)


def _close(admin: Admin) -> None:
    """Close an `Admin` in each event loop that used it; a closed event loop has closed it already."""
    for loop in admin.loops:
        if loop.is_closed():
            continue
        if loop.is_running():
            asyncio.run_coroutine_threadsafe(admin.close(), loop).result(CLOSING)
        else:
            loop.run_until_complete(admin.close())
