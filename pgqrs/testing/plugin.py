"""What the fixtures of the pytest plugin (`pytest_pgqrs`, a module beside this package) are made of."""

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
"""How long, in seconds, the closing of an `Admin` may take whose event loop runs in another thread."""


def embedded_dsn(root: Path) -> str:
    """Return the DSN of the embedded server of a project's tests."""
    return f"embedded://{quote(str(root / '.pgqrs' / 'testing'))}"


@contextmanager
def lent_admin(dsn: str, schemas: BlockingSchemaPool, options: Mapping[str, Any]) -> Generator[Admin]:
    """Give an `Admin` with these options on a schema of `schemas` while the block runs."""
    schema = schemas.lend()
    admin = make_admin(dsn, schema, **options)
    try:
        yield admin
    finally:
        _close(admin)
        schemas.give_back(schema)


def _close(admin: Admin) -> None:
    """Close an `Admin` in each event loop that it was used in; one that has ended has done so."""
    for loop in admin.loops:
        if loop.is_closed():
            continue
        if loop.is_running():
            asyncio.run_coroutine_threadsafe(admin.close(), loop).result(CLOSING)
        else:
            loop.run_until_complete(admin.close())
