"""The commands that change workflows: `pgqrs cancel`, `resume`, `rewind`, `send` and `purge`."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, NamedTuple, TypeAlias, TypeVar

import click

from pgqrs.cli.connection import DatabaseOptions, database_options
from pgqrs.cli.filters import filter_options
from pgqrs.cli.output import counted, json_option, print_json, to_values
from pgqrs.client.admin import Admin
from pgqrs.storage.selection.bulk import Progress
from pgqrs.storage.selection.filters import WorkflowFilter
from pgqrs.types import BulkReport

R = TypeVar("R")


Change: TypeAlias = Callable[[Admin, bool, Progress | None], Awaitable[BulkReport]]


class Action(NamedTuple):
    """The options of a command that changes workflows: ids, or a filter, select them."""

    database: DatabaseOptions
    which: Sequence[int] | WorkflowFilter
    is_confirmed: bool
    is_dry: bool
    as_json: bool

    def run(self, change: Change, verb: str) -> None:
        """Change the workflows, after a question if a filter selects them, and print the report.

        `change` is called with the Admin, whether it writes nothing, and a function for its progress. The exit
        code is 1 if a workflow that the command names by its id was left unchanged.
        """

        async def act(admin: Admin) -> None:
            if self.is_dry:
                self._print(await change(admin, True, None))  # noqa: FBT003
                return
            count = await self._confirmed(admin, change, verb)
            with _progress(count) as progress:
                report = await change(admin, False, progress)  # noqa: FBT003
            self._print(report)

        self.database.run(act)

    async def _confirmed(self, admin: Admin, change: Change, verb: str) -> int:
        """Return the number of workflows to change; ask before a change of those that a filter finds."""
        if not isinstance(self.which, WorkflowFilter):
            return len(self.which)
        found = (await change(admin, True, None)).changed  # noqa: FBT003
        if not self.is_confirmed:
            click.confirm(f"{verb.capitalize()} {counted(found, 'workflow')}?", abort=True, err=True)
        return found

    def _print(self, report: BulkReport) -> None:
        if self.as_json:
            print_json(to_values(report))
        else:
            click.echo(str(report))
        if report.left and not isinstance(self.which, WorkflowFilter):
            raise click.exceptions.Exit(1)


@contextmanager
def _progress(count: int) -> Generator[Progress]:
    """Return a function that shows the progress of a change of `count` workflows, on the standard error stream."""
    told = 0
    with click.progressbar(length=count, file=sys.stderr) as bar:

        def tell(report: BulkReport) -> None:
            nonlocal told
            bar.update(report.changed - told)
            told = report.changed

        yield tell


def _action(command: Callable[..., R]) -> Callable[..., R]:
    """Add the options of a change of workflows to a command, whose first argument is the `Action`."""

    @click.argument("ids", metavar="[ID]...", nargs=-1, type=int)
    @database_options
    @filter_options
    @click.option("--dry-run", is_flag=True, help="Change nothing, and print the report.")
    @click.option(
        "--yes", "-y", is_flag=True, help="Do not ask before a change of workflows that a filter selects."
    )
    @json_option
    @wraps(command)
    def with_action(
        matching: WorkflowFilter,
        database: DatabaseOptions,
        /,
        *,
        ids: Sequence[int],
        dry_run: bool,
        yes: bool,
        as_json: bool,
        **others: Any,
    ) -> R:
        if bool(ids) == bool(matching.conditions()):
            raise click.UsageError(
                "Give the ids of workflows, or options that find them, such as --name and --status."
            )
        return command(Action(database, ids or matching, yes, dry_run, as_json), **others)

    return with_action


@click.command()
@_action
@click.option("--interrupt", is_flag=True, help="Interrupt executing steps, instead of letting them end.")
def cancel(action: Action, *, interrupt: bool) -> None:
    """Cancel workflows: those with the given IDs, or those that a filter finds."""

    async def change(admin: Admin, is_dry: bool, progress: Progress | None) -> BulkReport:
        return await admin.cancel_workflows(action.which, interrupt=interrupt, dry_run=is_dry, progress=progress)

    action.run(change, "cancel")


@click.command()
@_action
def resume(action: Action) -> None:
    """Resume workflows that have ended without success: they go on from their last recorded step."""

    async def change(admin: Admin, is_dry: bool, progress: Progress | None) -> BulkReport:
        return await admin.resume_workflows(action.which, dry_run=is_dry, progress=progress)

    action.run(change, "resume")


@click.command()
@_action
@click.option("--topic", required=True, help="The topic of the message.")
@click.option("--value", default="null", show_default=True, help="The value of the message, as JSON.")
@click.option(
    "--message-key",
    help="The idempotency key of the message: a workflow gets one message of a key, however often the "
    "command is repeated. By default each call of the command has a key of its own.",
)
def send(action: Action, *, topic: str, value: str, message_key: str | None) -> None:
    """Send a message to workflows that have not ended."""
    try:
        decoded = json.loads(value)
    except ValueError as error:
        raise click.BadParameter(f"--value must be JSON, as in '{{\"amount\": 5}}': {error}.") from error
    key = uuid.uuid4().hex if message_key is None else message_key

    async def change(admin: Admin, is_dry: bool, progress: Progress | None) -> BulkReport:
        return await admin.send_many(action.which, topic, decoded, key=key, dry_run=is_dry, progress=progress)

    action.run(change, "send a message to")


@click.command()
@_action
@click.option("--before", required=True, metavar="STEP", help="The id of the step, as `pgqrs show` prints it.")
def rewind(action: Action, *, before: str) -> None:
    """Run workflows again from a step on: what they have recorded since is set aside."""

    async def change(admin: Admin, is_dry: bool, progress: Progress | None) -> BulkReport:
        return await admin.rewind_workflows(action.which, before=before, dry_run=is_dry, progress=progress)

    action.run(change, "rewind")


@click.command()
@_action
def purge(action: Action) -> None:
    """Delete workflows that have ended, with everything that they have recorded."""

    async def change(admin: Admin, is_dry: bool, progress: Progress | None) -> BulkReport:
        return await admin.purge(action.which, dry_run=is_dry, progress=progress)

    action.run(change, "delete")
