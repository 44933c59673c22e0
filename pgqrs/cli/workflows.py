"""The commands that show workflows: `pgqrs ls`, `show`, `why` and `tail`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import click

from pgqrs.cli.connection import DatabaseOptions, database_options
from pgqrs.cli.filters import filter_options
from pgqrs.cli.output import cut, escaped, json_option, moment, plain, print_json, print_table, to_values
from pgqrs.client.admin import Admin
from pgqrs.storage.selection.filters import WorkflowFilter
from pgqrs.types import StepRecord, Unreadable, WorkflowRecord, WorkflowStatus

SHOWN_CHILDREN = 20
"""Maximum children that `pgqrs show` lists."""

MAX_VALUE = 500
"""Maximum characters of a value that `pgqrs show` prints without --full."""

HEAD = ("ID", "NAME", "STATUS", "QUEUE", "KEY", "CREATED", "ENDED", "ERROR")

_STEPS_HEAD = ("STEP", "STATUS", "RUN", "STARTED", "SECONDS", "FAILURES", "OUTPUT OR ERROR")


@click.command()
@database_options
@filter_options
@click.option("--limit", type=click.IntRange(min=0), default=50, show_default=True, help="Maximum workflows.")
@click.option("--after", type=int, help="The cursor of the page before, which that page has printed.")
@click.option("--count", "counts", is_flag=True, help="Print the numbers of workflows by name and status.")
@json_option
def ls(
    matching: WorkflowFilter,
    database: DatabaseOptions,
    *,
    limit: int,
    after: int | None,
    counts: bool,
    as_json: bool,
) -> None:
    """List workflows, the newest first, or count them."""

    async def act(admin: Admin) -> None:
        if counts:
            await _print_counts(admin, matching, as_json=as_json)
        else:
            await _print_page(admin, matching, after=after, limit=limit, as_json=as_json)

    database.run(act)


@click.command()
@click.argument("workflow_id", metavar="ID", type=int)
@database_options
@click.option("--full", is_flag=True, help="Print whole values; without it, 500 characters of each.")
@json_option
def show(database: DatabaseOptions, workflow_id: int, *, full: bool, as_json: bool) -> None:
    """Show a workflow: its state, why it is not running, its steps, events and children."""

    async def act(admin: Admin) -> None:
        found = await _details(admin, workflow_id)
        if as_json:
            print_json(found)
        else:
            _print_details(found, None if full else MAX_VALUE)

    database.run(act)


@click.command()
@click.argument("workflow_id", metavar="ID", type=int)
@database_options
@json_option
def why(database: DatabaseOptions, workflow_id: int, *, as_json: bool) -> None:
    """Tell why a workflow is not running."""

    async def act(admin: Admin) -> None:
        found = await admin.why(workflow_id)
        if as_json:
            print_json(to_values(found))
        else:
            _print_lines(str(found))

    database.run(act)


@click.command()
@click.argument("workflow_id", metavar="ID", type=int)
@database_options
@click.option(
    "--interval", type=click.FloatRange(min=0.05), default=1.0, show_default=True, help="Seconds between looks."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def tail(database: DatabaseOptions, workflow_id: int, *, interval: float, as_json: bool) -> None:
    """Print the steps of a workflow as they are recorded, until it ends.

    The exit code is 0 for a workflow that has succeeded, and 1 otherwise.
    """

    async def act(admin: Admin) -> None:
        status = await _follow(admin, workflow_id, interval, as_json=as_json)
        if status != WorkflowStatus.SUCCESS:
            raise click.exceptions.Exit(1)

    database.run(act)


async def _print_counts(admin: Admin, matching: WorkflowFilter, *, as_json: bool) -> None:
    found = await admin.count_workflows(matching)
    if as_json:
        print_json(to_values(found))
    else:
        print_table(("NAME", "STATUS", "COUNT"), [(each.name, each.status, str(each.number)) for each in found])


async def _print_page(
    admin: Admin, matching: WorkflowFilter, *, after: int | None, limit: int, as_json: bool
) -> None:
    page = await admin.list_workflows(matching, after=after, limit=limit)
    if as_json:
        print_json({"workflows": to_values(list(page)), "next": page.next})
        return
    print_table(HEAD, [row(each) for each in page])
    if page.next is not None:
        click.echo(f"There may be more: --after {page.next}", err=True)


def row(record: WorkflowRecord) -> tuple[str, ...]:
    """Return the cells of a workflow in a table."""
    times = moment(record.created_at), moment(record.completed_at)
    names = record.name, record.status, record.queue or "-", record.key or "-"
    return str(record.id), *names, *times, cut(_told_error(record.error), 80)


def _told_error(error: dict[str, Any] | Unreadable | None) -> str:
    """Return an error in one line: its class and message."""
    if error is None:
        return "-"
    if isinstance(error, Unreadable):
        return f"unreadable: {error.error}"
    return f"{error.get('type', 'error')}: {error.get('message', '')}"


async def _details(admin: Admin, workflow_id: int) -> dict[str, Any]:
    """Return what `show` prints, as values for JSON."""
    handle = admin.handle(workflow_id)
    reasons = await admin.why(workflow_id)
    record = await handle.record()
    children = await admin.list_workflows(parent=workflow_id, limit=SHOWN_CHILDREN)
    return {
        "workflow": to_values(record),
        "why": to_values(reasons.reasons),
        "steps": to_values(await handle.steps()),
        "events": await handle.events(),
        "children": [{"id": each.id, "name": each.name, "status": each.status} for each in children],
    }


def _print_details(found: Mapping[str, Any], most: int | None) -> None:
    workflow = found["workflow"]
    click.echo(escaped(f"workflow {workflow['id']}: {workflow['name']}, {workflow['status']}"))
    for name, value in workflow.items():
        if name not in ("id", "name", "status") and value not in (None, [], {}):
            _print_lines(f"  {name}: {cut(_text(value), most)}")
    for each in found["why"]:
        _print_lines(f"  why: {each['text']}")
    if found["steps"]:
        click.echo("")
        print_table(_STEPS_HEAD, [_step_row(each, most) for each in found["steps"]])
    for name, value in found["events"].items():
        _print_lines(f"event {name}: {cut(_text(value), most)}")
    if found["children"]:
        click.echo("")
        rows = [(str(each["id"]), each["name"], each["status"]) for each in found["children"]]
        print_table(("CHILD", "NAME", "STATUS"), rows)


def _step_row(step: Mapping[str, Any], most: int | None) -> tuple[str, ...]:
    value = step["output"] if step["error"] is None else step["error"]
    text = "-" if value is None else cut(_text(value), most)
    seconds = _seconds(step["started_at"], step["completed_at"])
    started = moment(step["started_at"])
    return step["step_id"], step["status"], str(step["epoch"]), started, seconds, str(step["failures"]), text


def _seconds(began: datetime, ended: datetime | None) -> str:
    return "-" if ended is None else f"{(ended - began).total_seconds():.3f}"


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, datetime):
        return moment(value)
    return json.dumps(value, default=plain, ensure_ascii=False)


def _print_lines(text: str) -> None:
    for line in text.splitlines():
        click.echo(escaped(line))


async def _follow(admin: Admin, workflow_id: int, interval: float, *, as_json: bool) -> WorkflowStatus:
    """Print each step once it has an outcome, until the workflow ends; return its status."""
    handle, told = admin.handle(workflow_id), set[tuple[str, datetime]]()
    while True:
        status = await handle.status()
        for each in await handle.steps():
            if each.completed_at is not None and (each.step_id, each.completed_at) not in told:
                told.add((each.step_id, each.completed_at))
                _print_step(each, as_json=as_json)
        if status in _OVER:
            record = await handle.record()
            if as_json:
                _print_line_of_json({"workflow": to_values(record)})
            else:
                error = "" if record.error is None else f": {cut(_told_error(record.error), MAX_VALUE)}"
                _print_lines(f"workflow {workflow_id} ended: {status}{error}")
            return status
        await asyncio.sleep(interval)


_OVER = frozenset({WorkflowStatus.SUCCESS, WorkflowStatus.ERROR, WorkflowStatus.CANCELLED})


def _print_step(step: StepRecord, *, as_json: bool) -> None:
    values = to_values(step)
    if as_json:
        _print_line_of_json({"step": values})
    else:
        cells = _step_row(values, 80)
        click.echo(escaped(f"{moment(step.completed_at)}  {cells[0]}  {cells[1]}  {cells[4]} s  {cells[6]}"))


def _print_line_of_json(value: Any) -> None:
    click.echo(json.dumps(value, default=plain))
