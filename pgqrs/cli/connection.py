"""The options of the commands that need a database, and their connection to it."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import click
from click.core import ParameterSource

from pgqrs import embedded
from pgqrs.cli.targets import Act, admin_maker, look_here, with_own_admin
from pgqrs.client.admin import Admin
from pgqrs.errors import EmbeddedServerError, PgqrsError
from pgqrs.models import SCHEMA

P = ParamSpec("P")
R = TypeVar("R")

schema_option = click.option(
    "--schema",
    envvar="PGQRS_SCHEMA",
    show_envvar=True,
    default=SCHEMA,
    show_default=True,
    help="The schema of the tables.",
)

_OPTIONS = (
    click.option(
        "--dsn",
        envvar="PGQRS_DSN",
        show_envvar=True,
        help="The DSN of the database: postgresql://..., or embedded:// for an embedded server. A password "
        "belongs into the variable or a file, because other users can read the arguments of a process.",
    ),
    click.option(
        "--dsn-file",
        envvar="PGQRS_DSN_FILE",
        show_envvar=True,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="A file whose first line is the DSN.",
    ),
    schema_option,
    click.option(
        "--admin",
        "admin_target",
        metavar="MODULE:NAME",
        help="The application's Admin, or a function (sync or async) without arguments that returns it: for a "
        "custom codec, engine or limits. It replaces the other options of the database.",
    ),
)


class DatabaseOptions(NamedTuple):
    """The database of a command: a DSN with a schema, or the Admin of an application."""

    dsn: str | None
    schema: str
    admin_target: str | None

    def run(self, act: Act, *, creates: bool = False) -> None:
        """Call `act` with an `Admin`; report errors in one line. `creates` permits a missing server."""
        if self.admin_target is not None:
            look_here()
            make = admin_maker(self.admin_target)
            with errors_in_one_line():
                asyncio.run(with_own_admin(self.admin_target, make, act))
        elif self.dsn is not None:
            with errors_in_one_line():
                asyncio.run(_connected(self.dsn, self.schema, act, creates=creates))


def database_options(command: Callable[Concatenate[DatabaseOptions, P], R]) -> Callable[..., R]:
    """Add the options of the database to a command, whose first argument they become."""

    @click.pass_context
    @wraps(command)
    def with_database(
        context: click.Context,
        /,
        *arguments: Any,
        dsn: str | None,
        dsn_file: Path | None,
        schema: str,
        admin_target: str | None,
        **others: Any,
    ) -> R:
        if admin_target is not None:
            _check_alone(context)
        elif dsn_file is not None and not _is_given(context, "dsn"):
            dsn = _first_line(dsn_file)
        if admin_target is None and dsn is None:
            raise click.UsageError("Missing option '--dsn' (env var: 'PGQRS_DSN'), '--dsn-file' or '--admin'.")
        return command(DatabaseOptions(dsn, schema, admin_target), *arguments, **others)

    decorated: Callable[..., R] = with_database
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


@contextmanager
def errors_in_one_line() -> Generator[None, None, None]:
    """Report an error of pgqrs in one line, without a traceback."""
    try:
        yield
    except PgqrsError as error:
        raise click.ClickException(" ".join(str(error).split())) from error


async def _connected(dsn: str, schema: str, act: Act, *, creates: bool) -> None:
    if not creates and embedded.is_embedded(dsn) and not embedded.exists(dsn):
        raise EmbeddedServerError(
            f"there is no embedded PostgreSQL in {embedded.data_folder(dsn)}: "
            f"check the path, or create one with `pgqrs install --dsn {shlex.quote(dsn)}`."
        )
    async with Admin(dsn, schema) as admin:
        await act(admin)


def _check_alone(context: click.Context) -> None:
    """Refuse --dsn and --schema beside --admin, but ignore their variables, which the Admin's module may read."""
    for name in ("dsn", "dsn_file", "schema"):
        if _is_given(context, name):
            option = name.replace("_", "-")
            raise click.UsageError(f"--admin already defines the database and the schema: leave --{option} out.")


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _first_line(path: Path) -> str:
    line = path.read_text(encoding="utf-8").partition("\n")[0].strip()
    if not line:
        raise click.UsageError(f"the first line of {path} is empty: it must be the DSN.")
    return line
