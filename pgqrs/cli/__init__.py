"""The `pgqrs` command: the tables, the workflows, their workers, queues and schedules."""

from __future__ import annotations

import click

from pgqrs.cli.actions import cancel, purge, resume, rewind, send
from pgqrs.cli.connection import DatabaseOptions, database_options, errors_in_one_line, schema_option
from pgqrs.cli.dashboard import dashboard
from pgqrs.cli.documents import export, import_
from pgqrs.cli.health import doctor, workers
from pgqrs.cli.queues import queue
from pgqrs.cli.run_worker import worker
from pgqrs.cli.schedules import schedule
from pgqrs.cli.top import top
from pgqrs.cli.workflows import ls, show, tail, why
from pgqrs.client.admin import Admin
from pgqrs.models import HEAD
from pgqrs.storage.schema.grants import RoleKind, grants
from pgqrs.storage.schema.migrate import sql_script


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pgqrs", message="%(prog)s %(version)s", prog_name="pgqrs")
def main() -> None:
    """Durable workflows on PostgreSQL: install the tables, run workers, find and control workflows."""


@main.command()
@database_options
def install(database: DatabaseOptions) -> None:
    """Create the tables, or migrate them to the newest revision."""

    async def act(admin: Admin) -> None:
        await admin.install()
        click.echo(f"pgqrs is installed in the schema {admin.schema!r}, at revision {HEAD}.")

    database.run(act, creates=True)


@main.command()
@database_options
@click.option("--deep", is_flag=True, help="Check the contents of the tables, too; this reads all rows.")
def verify(database: DatabaseOptions, *, deep: bool) -> None:
    """Check that the tables exist, and that this version of pgqrs supports their revision."""

    async def act(admin: Admin) -> None:
        await admin.verify(deep=deep)
        revision = await (await admin.store()).tables.verify()
        click.echo(f"The schema {admin.schema!r} is {_state_of(revision)}.")

    database.run(act)


def _state_of(revision: str) -> str:
    if revision == HEAD:
        return f"up to date, at revision {HEAD}"
    if revision > HEAD:
        return f"at revision {revision}, of a newer pgqrs that supports this version"
    return f"at revision {revision}, which this version supports; `pgqrs install` migrates it to {HEAD}"


def _kinds_and_names(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> list[tuple[RoleKind, str]]:
    roles: list[tuple[RoleKind, str]] = []
    for value in values:
        kind, equals, name = value.partition("=")
        if kind not in set(RoleKind) or not equals:
            listed = ", ".join(f"{each}=NAME" for each in RoleKind)
            raise click.BadParameter(f"{value!r} must be one of {listed}.")
        roles.append((RoleKind(kind), name))
    return roles


@main.command()
@schema_option
@click.option(
    "--from", "start", metavar="REV", default="base", help="The current revision, if there is one; or head."
)
@click.option("--to", "end", metavar="REV", default=HEAD, help="The revision to migrate to, if not the newest.")
@click.option(
    "--role",
    "roles",
    metavar="KIND=NAME",
    multiple=True,
    callback=_kinds_and_names,
    help=f"Grant a role the rights of a kind, too: {', '.join(RoleKind)}.",
)
def sql(schema: str, start: str, end: str, *, roles: list[tuple[RoleKind, str]]) -> None:
    """Print the SQL that `install` runs, without a database.

    Run the SQL in one transaction, as in `pgqrs sql | psql -1`, or paste it into a migration of the application.
    With --role the grants for these roles follow. To print only the grants, for tables that exist already, pass
    --from head, the newest revision.
    """
    with errors_in_one_line():
        parts = [
            sql_script(schema, start=HEAD if start == "head" else start, end=end),
            grants(schema, roles),
        ]
    click.echo("\n\n".join(each for each in parts if each))


for each in (
    ls,
    show,
    why,
    tail,
    top,
    cancel,
    resume,
    rewind,
    send,
    purge,
    export,
    import_,
    queue,
    schedule,
    worker,
    workers,
    doctor,
    dashboard,
):
    main.add_command(each)


if __name__ == "__main__":
    main()
