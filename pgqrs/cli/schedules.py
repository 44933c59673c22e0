"""The commands `pgqrs schedule`: list the schedules, control and delete them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Concatenate, ParamSpec, TypeVar

import click

from pgqrs.cli.connection import DatabaseOptions, database_options
from pgqrs.cli.output import counted, print_json, print_table, shown
from pgqrs.client.admin import Admin
from pgqrs.schedules import ScheduleRecord

P = ParamSpec("P")
R = TypeVar("R")

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

_HEAD = ("NAME", "WORKFLOW", "RULE", "NEXT", "LAST", "STATE")


@click.group()
def schedule() -> None:
    """List and control the schedules."""


def _of_one(command: Callable[Concatenate[DatabaseOptions, P], R]) -> Callable[..., R]:
    """Add the options of a command for one schedule."""
    return click.argument("name")(database_options(_json(command)))


@schedule.command(name="list")
@database_options
@_json
def list_(database: DatabaseOptions, *, as_json: bool) -> None:
    """List all schedules, with their next times."""

    async def act(admin: Admin) -> None:
        found = await admin.list_schedules()
        if as_json:
            print_json([_values(each) for each in found])
        else:
            print_table(_HEAD, [_row(each) for each in found])

    database.run(act)


@schedule.command()
@_of_one
def pause(database: DatabaseOptions, name: str, *, as_json: bool) -> None:
    """Start no more workflows of the schedule NAME, until it is resumed."""
    _change(database, name, as_json=as_json, pauses=True)


@schedule.command()
@_of_one
def resume(database: DatabaseOptions, name: str, *, as_json: bool) -> None:
    """Go on with the schedule NAME; the times that passed during the pause are not caught up."""
    _change(database, name, as_json=as_json, pauses=False)


@schedule.command()
@_of_one
def delete(database: DatabaseOptions, name: str, *, as_json: bool) -> None:
    """Delete the schedule NAME; the workflows that it has started stay."""

    async def act(admin: Admin) -> None:
        was_there = await (await admin.find_schedule(name)).delete()
        if as_json:
            print_json({"deleted": was_there})
        else:
            click.echo(f"The schedule {name!r} is deleted.")

    database.run(act)


@schedule.command()
@_of_one
def trigger(database: DatabaseOptions, name: str, *, as_json: bool) -> None:
    """Start a workflow of the schedule NAME now."""

    async def act(admin: Admin) -> None:
        handle = await (await admin.find_schedule(name)).trigger()
        if as_json:
            print_json({"id": handle.id})
        else:
            click.echo(f"The schedule {name!r} has started workflow {handle.id}.")

    database.run(act)


@schedule.command()
@_of_one
@click.argument("since")
@click.argument("until")
@click.option("--dry-run", is_flag=True, help="Print the times, and start nothing.")
def backfill(
    database: DatabaseOptions, name: str, since: str, until: str, *, dry_run: bool, as_json: bool
) -> None:
    """Start the workflows that the schedule NAME has missed from SINCE on and before UNTIL.

    The times are ISO 8601 with an offset, as 2026-11-27T00:00:00+01:00.
    """
    period = _time("SINCE", since), _time("UNTIL", until)

    async def act(admin: Admin) -> None:
        times = await (await admin.find_schedule(name)).backfill(*period, dry_run=dry_run)
        _print_times(times, as_json=as_json)
        if not as_json:
            verb = "would start" if dry_run else "has started"
            click.echo(f"The schedule {name!r} {verb} {counted(len(times), 'workflow')}.")

    database.run(act)


@schedule.command(name="next")
@click.option("--count", type=click.IntRange(min=1), default=5, show_default=True, help="The number of times.")
@_of_one
def next_(database: DatabaseOptions, name: str, *, count: int, as_json: bool) -> None:
    """Print the next times of the schedule NAME."""

    async def act(admin: Admin) -> None:
        _print_times(await (await admin.find_schedule(name)).next(count), as_json=as_json)

    database.run(act)


def _change(database: DatabaseOptions, name: str, *, as_json: bool, pauses: bool) -> None:
    """Pause or resume a schedule, and print its state."""

    async def act(admin: Admin) -> None:
        handle = await admin.find_schedule(name)
        await (handle.pause() if pauses else handle.resume())
        record = await handle.record()
        if as_json:
            print_json(_values(record))
        else:
            click.echo(f"The schedule {name!r} is {_state(record)}; its next time is {shown(record.next_at)}.")

    database.run(act)


def _time(what: str, text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(
            f"{what} must be a time such as 2026-11-27T00:00:00+01:00, got {text!r}."
        ) from error
    if time.utcoffset() is None:
        raise click.BadParameter(f"{what} needs an offset, as 2026-11-27T00:00:00+01:00 has one, got {text!r}.")
    return time


def _print_times(times: Sequence[datetime], *, as_json: bool) -> None:
    if as_json:
        print_json(times)
    else:
        for each in times:
            click.echo(shown(each))


def _row(record: ScheduleRecord) -> tuple[str, ...]:
    times = shown(record.next_at), shown(record.last_at)
    return record.name, record.workflow, str(record.rule), *times, _state(record)


def _state(record: ScheduleRecord) -> str:
    if record.is_paused:
        return "paused"
    return "over" if record.next_at is None else "active"


def _values(record: ScheduleRecord) -> dict[str, Any]:
    """Return a record as values for JSON, with the rule in words."""
    return asdict(record) | {"rule": str(record.rule)}
