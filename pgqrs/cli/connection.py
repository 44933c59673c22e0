"""The options of the commands that need a database, and their connection to it."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import TypeAlias

import click

from pgqrs import embedded
from pgqrs.client.admin import Admin
from pgqrs.errors import EmbeddedServerError, PgqrsError
from pgqrs.models import SCHEMA

Act: TypeAlias = Callable[[Admin], Awaitable[object]]

dsn_option = partial(
    click.option,
    "--dsn",
    envvar="PGQRS_DSN",
    show_envvar=True,
    help="The DSN of the database: postgresql://..., or embedded:// for an embedded server.",
)
dsn_required = dsn_option(required=True)
schema_option = click.option(
    "--schema",
    envvar="PGQRS_SCHEMA",
    show_envvar=True,
    default=SCHEMA,
    show_default=True,
    help="The schema of the tables.",
)


def run(dsn: str, schema: str, act: Act, *, creates: bool = False) -> None:
    """Call `act` with an `Admin`, and report errors in one line; only a command that `creates` starts a server."""

    async def connected() -> None:
        async with Admin(dsn, schema) as admin:
            await act(admin)

    with errors_in_one_line():
        if not creates:
            _check_exists(dsn)
        asyncio.run(connected())


def _check_exists(dsn: str) -> None:
    """Refuse a DSN of an embedded server that does not exist: only `install` creates a server."""
    if embedded.is_embedded(dsn) and not embedded.exists(dsn):
        raise EmbeddedServerError(
            f"there is no embedded PostgreSQL in {embedded.data_folder(dsn)}: "
            f"check the path, or create one with `pgqrs install --dsn {shlex.quote(dsn)}`."
        )


@contextmanager
def errors_in_one_line() -> Generator[None, None, None]:
    """Report an error of pgqrs in one line, without a traceback."""
    try:
        yield
    except PgqrsError as error:
        raise click.ClickException(" ".join(str(error).split())) from error
