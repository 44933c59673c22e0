"""The `pgqrs` command: the tables and the SQL that creates them, workers, queues and schedules."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import click
from click.core import ParameterSource

from pgqrs.cli.connection import Act, dsn_option, dsn_required, errors_in_one_line, run, schema_option
from pgqrs.cli.queues import queue
from pgqrs.cli.schedules import schedule
from pgqrs.cli.worker_options import served_queues, set_up_logging
from pgqrs.client.admin import Admin
from pgqrs.models import HEAD
from pgqrs.storage.schema.grants import grants
from pgqrs.storage.schema.migrate import sql_script
from pgqrs.types import DEFAULT_QUEUE
from pgqrs.worker.worker import Worker
from pgqrs.workflow.definition import definition_of

Workflow: TypeAlias = Callable[..., Coroutine[Any, Any, Any]]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pgqrs", message="%(prog)s %(version)s", prog_name="pgqrs")
def main() -> None:
    """Durable workflows on PostgreSQL: install and check the tables, run workers, control queues and schedules."""


main.add_command(schedule)
main.add_command(queue)


@main.command()
@dsn_required
@schema_option
def install(dsn: str, schema: str) -> None:
    """Create the tables, or migrate them to the newest revision."""
    run(dsn, schema, Admin.install, creates=True)
    click.echo(f"pgqrs is installed in the schema {schema!r}, at revision {HEAD}.")


@main.command()
@dsn_required
@schema_option
@click.option("--deep", is_flag=True, help="Check the contents of the tables, too; this reads all rows.")
def verify(dsn: str, schema: str, *, deep: bool) -> None:
    """Check that the tables exist and are at the newest revision."""
    run(dsn, schema, partial(Admin.verify, deep=deep))
    click.echo(f"The schema {schema!r} is up to date, at revision {HEAD}.")


@main.command()
@schema_option
@click.option(
    "--from", "start", metavar="REV", default="base", help="The current revision, if there is one; or head."
)
@click.option("--to", "end", metavar="REV", default=HEAD, help="The revision to migrate to, if not the newest.")
@click.option(
    "--grant-to", "workers", metavar="ROLE", multiple=True, help="Grant a role the rights of a worker, too."
)
@click.option(
    "--producer", "producers", metavar="ROLE", multiple=True, help="Grant a role the rights to enqueue, too."
)
def sql(schema: str, start: str, end: str, *, workers: tuple[str, ...], producers: tuple[str, ...]) -> None:
    """Print the SQL that `install` runs, without a database.

    Run the SQL in one transaction, as in `pgqrs sql | psql -1`, or paste it into a migration of the application.
    With --grant-to and --producer, the grants for these roles follow. To print only the grants, for tables that
    exist already, pass --from head, the newest revision.
    """
    with errors_in_one_line():
        parts = [
            sql_script(schema, start=HEAD if start == "head" else start, end=end),
            grants(schema, workers=workers, producers=producers),
        ]
    click.echo("\n\n".join(each for each in parts if each))


@main.command()
@click.argument("targets", metavar="MODULE[:NAME[,NAME]]...", nargs=-1, required=True)
@dsn_option()
@schema_option
@click.option(
    "--admin",
    "admin_target",
    metavar="MODULE:NAME",
    help="The application's Admin, or a function (sync or async) without arguments that returns it: for a custom "
    "codec, engine or limits. It replaces --dsn and --schema.",
)
@click.option(
    "--queue",
    "queues",
    metavar="NAME[=SHARE]",
    callback=served_queues,
    multiple=True,
    default=[DEFAULT_QUEUE],
    show_default=True,
    help="A queue to serve, as in mail; or, as in mail=20, with the maximum of its workflows that run in this "
    "process at once. Repeat the option for further queues.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    help="Maximum workflows that run in this process at once; by default 100, or the sum of the shares.",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Seconds that executing steps may take to end after the worker receives a signal to stop.",
)
@click.option("--json", "as_json", is_flag=True, help="Write the log as JSON, one object a line.")
@click.pass_context
def worker(
    context: click.Context,
    targets: tuple[str, ...],
    *,
    dsn: str | None,
    schema: str,
    admin_target: str | None,
    queues: Sequence[str] | Mapping[str, int],
    concurrency: int | None,
    grace: float,
    as_json: bool,
) -> None:
    """Run the workflows of modules, until SIGTERM or SIGINT.

    For each MODULE, as in `shop.orders`, the worker runs all functions that are decorated with @workflow, or only
    the named functions, as in `shop.orders:send,bill`. The first signal starts a drain: executing steps may end,
    and other workers run the remaining work. A second signal stops the worker at once.
    """
    _check_one_database(context, dsn, admin_target)
    set_up_logging(as_json=as_json)
    _look_here()
    workflows = _collected(targets)

    async def work(admin: Admin) -> None:
        await Worker(admin, workflows, queues, concurrency, grace=grace).run()

    if admin_target is not None:
        make = _admin_maker(admin_target)
        with errors_in_one_line():
            asyncio.run(_with_own_admin(admin_target, make, work))
    elif dsn is not None:
        run(dsn, schema, work)


def _check_one_database(context: click.Context, dsn: str | None, admin_target: str | None) -> None:
    """Refuse --dsn and --schema beside --admin, but ignore their variables, which the Admin's module may read."""
    if admin_target is None:
        if dsn is None:
            raise click.UsageError("Missing option '--dsn' (env var: 'PGQRS_DSN') or '--admin'.")
        return
    for name in ("dsn", "schema"):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--admin already defines the database and the schema: leave --{name} out.")


def _look_here() -> None:
    here = str(Path.cwd())
    if here not in sys.path:  # a console script does not search the working directory
        sys.path.insert(0, here)


def _admin_maker(target: str) -> Callable[[], object]:
    """Return a function that returns the Admin of `target`, or an awaitable; call it in the worker's loop."""
    module_name, _, name = target.partition(":")
    if not name:
        raise click.ClickException(f"--admin takes MODULE:NAME, as in `shop.app:admin`, got {target!r}.")
    module = _imported(module_name)
    if not hasattr(module, name):
        raise click.ClickException(f"the module {module_name!r} has no {name!r}.")
    found: object = getattr(module, name)
    if isinstance(found, Admin):
        return lambda: found
    if not callable(found) or not _takes_nothing(found):
        raise click.ClickException(
            f"{target} is neither an Admin nor a function without arguments that returns an Admin."
        )
    return found


def _takes_nothing(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):
        return False
    return True


async def _with_own_admin(target: str, make: Callable[[], object], act: Act) -> None:
    made = make()
    admin = await made if inspect.isawaitable(made) else made
    if not isinstance(admin, Admin):
        raise click.ClickException(
            f"{target} must return an Admin, got an object of the class {type(admin).__name__!r}."
        )
    async with admin:
        await act(admin)


def _collected(targets: Iterable[str]) -> list[Workflow]:
    return list(dict.fromkeys(each for target in targets for each in _workflows_of(target)))


def _workflows_of(target: str) -> list[Workflow]:
    module_name, _, names = target.partition(":")
    module = _imported(module_name)
    if names:
        return [_named(module, name.strip()) for name in names.split(",")]
    found = [each for each in vars(module).values() if _is_workflow(each)]
    if not found:
        raise click.ClickException(f"the module {module_name!r} has no function that is decorated with @workflow.")
    return found


def _imported(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise click.ClickException(f"{name!r} is not the name of a module: write it as in `shop.orders`.")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # If an import within the module fails, its traceback shows the place.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise click.ClickException(f"there is no module {name!r} here.") from None


def _named(module: ModuleType, name: str) -> Workflow:
    found: Any = getattr(module, name, None)
    if not _is_workflow(found):
        raise click.ClickException(f"{module.__name__}.{name} is not a function that is decorated with @workflow.")
    return found  # type: ignore[no-any-return]


def _is_workflow(value: Any) -> bool:
    try:
        definition_of(value)
    except TypeError:
        return False
    return True


if __name__ == "__main__":
    main()
