"""The `pgqrs` command: install the tables, check them, or print the SQL that makes them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

import click

from pgqrs.admin import Admin
from pgqrs.errors import PgqrsError
from pgqrs.models import HEAD, SCHEMA
from pgqrs.storage.migrate import sql_script

_dsn = click.option(
    "--dsn",
    envvar="PGQRS_DSN",
    show_envvar=True,
    required=True,
    help="The database: postgresql://..., or embedded:// for a server of its own.",
)
_schema = click.option(
    "--schema",
    envvar="PGQRS_SCHEMA",
    show_envvar=True,
    default=SCHEMA,
    show_default=True,
    help="The schema of the tables.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pgqrs", message="%(prog)s %(version)s", prog_name="pgqrs")
def main() -> None:
    """Durable workflows on PostgreSQL: look after their tables."""


@main.command()
@_dsn
@_schema
def install(dsn: str, schema: str) -> None:
    """Create the tables, or bring them up to date."""
    _run(dsn, schema, Admin.install)
    click.echo(f"pgqrs is installed in the schema {schema!r}, at revision {HEAD}.")


@main.command()
@_dsn
@_schema
def verify(dsn: str, schema: str) -> None:
    """Check that the tables are there and up to date."""
    _run(dsn, schema, Admin.verify)
    click.echo(f"The schema {schema!r} is up to date, at revision {HEAD}.")


@main.command()
@_schema
@click.option("--from", "start", metavar="REV", default="base", help="The revision that you have, if any.")
def sql(schema: str, start: str) -> None:
    """Print the SQL that `install` would run; it needs no database.

    Run it in one transaction, as in `pgqrs sql | psql -1`, or paste it into a migration of your own.
    """
    with _errors_in_one_line():
        click.echo(sql_script(schema, start=start))


def _run(dsn: str, schema: str, act: Callable[[Admin], Awaitable[object]]) -> None:
    async def connected() -> None:
        async with Admin(dsn, schema) as admin:
            await act(admin)

    with _errors_in_one_line():
        asyncio.run(connected())


@contextmanager
def _errors_in_one_line() -> Generator[None, None, None]:
    try:
        yield
    except PgqrsError as error:
        raise click.ClickException(" ".join(str(error).split())) from error


if __name__ == "__main__":
    main()
