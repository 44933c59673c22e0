"""The commands `pgqrs queue`: list the queues, set their limits, pause and resume them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import get_args

import click

from pgqrs.cli.connection import DatabaseOptions, database_options
from pgqrs.cli.output import print_json, print_table
from pgqrs.client.admin import Admin
from pgqrs.types import Holds, QueueRecord, Rate

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_name = click.argument("name")
_limit = partial(click.option, type=click.IntRange(min=1))

HEADINGS = (
    "QUEUE",
    "LIMIT",
    "PER KEY",
    "RATE",
    "RATE PER KEY",
    "MODE",
    "READY",
    "RUNNING",
    "HELD BACK",
    "OLDEST",
    "STATE",
)


def _parsed_rate(_context: click.Context, _option: click.Parameter, given: str | None) -> Rate | None:
    if given is None:
        return None
    pace, _, burst = given.partition(":")
    limit, _, per = pace.partition("/")
    try:
        return Rate(int(limit), float(per), int(burst or 1))
    except ValueError:
        raise click.BadParameter(f"a rate is NUMBER/SECONDS[:BURST], as in 100/60:20, got {given!r}.") from None


def _parsed_weights(_context: click.Context, _option: click.Parameter, given: Sequence[str]) -> dict[str, float]:
    return dict(map(_weight, given))


def _weight(given: str) -> tuple[str, float]:
    key, _, number = given.rpartition("=")
    try:
        return key, float(number)
    except ValueError:
        raise click.BadParameter(f"a weight is KEY=NUMBER, as in gold=4, got {given!r}.") from None


_rate = partial(click.option, metavar="NUMBER/SECONDS[:BURST]", callback=_parsed_rate)


@click.group()
def queue() -> None:
    """List the queues, set their limits, pause and resume them."""


@queue.command("list")
@database_options
@_as_json
def list_queues(database: DatabaseOptions, *, as_json: bool) -> None:
    """List the queues that have limits, are paused, or have workflows that are ready or running."""

    async def show(admin: Admin) -> None:
        _print(await admin.list_queues(), as_json=as_json)

    database.run(show)


@queue.command("set")
@_name
@database_options
@_limit("--concurrency", help="Maximum runs of the queue at once, in all processes; no limit if omitted.")
@_limit("--partition-concurrency", help="Maximum runs of each partition key at once; no limit if omitted.")
@_rate("--rate", help="Maximum rate of the starts, as in 100/60:20: 100 in 60 seconds, 20 at once.")
@_rate("--partition-rate", help="Maximum rate of the starts of each partition key.")
@click.option(
    "--weight",
    "weights",
    metavar="KEY=NUMBER",
    callback=_parsed_weights,
    multiple=True,
    help="The weight of a partition key; repeat the option for further keys.",
)
@click.option(
    "--holds",
    type=click.Choice(get_args(Holds)),
    default="running",
    help="The time for which a workflow counts: while it runs, or until its end.",
)
@click.option("--ordered", is_flag=True, help="Run the workflows of each partition key in their order.")
@click.option("--fair/--no-fair", default=True, help="Serve the partition keys in turn, or by priority and age.")
@_as_json
def set_queue(
    database: DatabaseOptions,
    name: str,
    *,
    concurrency: int | None,
    partition_concurrency: int | None,
    rate: Rate | None,
    partition_rate: Rate | None,
    weights: dict[str, float],
    holds: Holds,
    ordered: bool,
    fair: bool,
    as_json: bool,
) -> None:
    """Set the limits of a queue; they replace its earlier limits."""

    async def change(admin: Admin) -> None:
        await admin.set_queue(
            name,
            concurrency=concurrency,
            partition_concurrency=partition_concurrency,
            rate=rate,
            partition_rate=partition_rate,
            weights=weights or None,
            holds=holds,
            ordered=ordered,
            fair=fair,
        )
        await _show(admin, name, as_json=as_json)

    database.run(change)


@queue.command("pause")
@_name
@database_options
@_as_json
def pause_queue(database: DatabaseOptions, name: str, *, as_json: bool) -> None:
    """Pause a queue: no worker claims its workflows until it is resumed."""

    async def change(admin: Admin) -> None:
        await admin.pause_queue(name)
        await _show(admin, name, as_json=as_json)

    database.run(change)


@queue.command("resume")
@_name
@database_options
@_as_json
def resume_queue(database: DatabaseOptions, name: str, *, as_json: bool) -> None:
    """End the pause of a queue."""

    async def change(admin: Admin) -> None:
        await admin.resume_queue(name)
        await _show(admin, name, as_json=as_json)

    database.run(change)


@queue.command("delete")
@_name
@database_options
@_as_json
def delete_queue(database: DatabaseOptions, name: str, *, as_json: bool) -> None:
    """Take the limits and the pause of a queue away; its workflows stay."""

    async def change(admin: Admin) -> None:
        await admin.delete_queue(name)
        await _show(admin, name, as_json=as_json)

    database.run(change)


async def _show(admin: Admin, name: str, *, as_json: bool) -> None:
    """Print the queue as it is now."""
    found = [each for each in await admin.list_queues() if each.name == name]
    _print(found or [QueueRecord(name, None, None, None, None, {}, None, 0, 0, 0, None)], as_json=as_json)


def _print(records: Sequence[QueueRecord], *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(each) for each in records])
    else:
        print_table(HEADINGS, [row(each) for each in records])


def row(record: QueueRecord) -> tuple[str, ...]:
    """Return the cells of a queue in a table."""
    limits = (record.concurrency, record.partition_concurrency)
    counts = (record.ready, record.running, record.held_back)
    return (
        record.name,
        *("-" if each is None else str(each) for each in limits),
        *map(_shown_rate, (record.rate, record.partition_rate)),
        _mode(record),
        *map(str, counts),
        "-" if record.oldest_age is None else f"{record.oldest_age:.0f} s",
        "active" if record.paused_at is None else "paused",
    )


def _shown_rate(rate: Rate | None) -> str:
    return "-" if rate is None else f"{rate.limit}/{rate.per:g}:{rate.burst}"


def _mode(record: QueueRecord) -> str:
    """Return the settings of a queue that differ from those of every queue."""
    held = "ordered" if record.ordered else record.holds
    modes = (None if held == "running" else held, None if record.fair else "not_fair")
    return ",".join(filter(None, modes)) or "-"
