"""The commands that look at the whole: `pgqrs workers` and `pgqrs doctor`."""

from __future__ import annotations

import click

from pgqrs.cli.connection import DatabaseOptions, database_options
from pgqrs.cli.output import escaped, json_option, moment, print_json, print_table, to_values
from pgqrs.client.admin import Admin
from pgqrs.types import WorkerRecord

HEAD = ("EXECUTOR", "HOST", "PID", "STARTED", "HEARTBEAT", "RUNNING", "QUEUES", "WORKFLOWS", "CODEC", "STATE")


@click.command()
@database_options
@json_option
def workers(database: DatabaseOptions, *, as_json: bool) -> None:
    """List the live workers, and the processes that run workflows without a worker."""

    async def act(admin: Admin) -> None:
        found = await admin.list_workers()
        if as_json:
            print_json(to_values(found))
        else:
            print_table(HEAD, [row(each) for each in found])

    database.run(act)


@click.command()
@database_options
@json_option
def doctor(database: DatabaseOptions, *, as_json: bool) -> None:
    """Look for conditions that slow pgqrs down or stop it.

    The exit code is 1 if one of them needs an action now.
    """

    async def act(admin: Admin) -> None:
        found = await admin.doctor()
        if as_json:
            print_json(to_values(found))
        else:
            for line in "\n".join(map(str, found)).splitlines():
                click.echo(escaped(line))
        if any(each.severity == "error" for each in found):
            raise click.exceptions.Exit(1)

    database.run(act)


def row(record: WorkerRecord) -> tuple[str, ...]:
    """Return the cells of a worker in a table."""
    running = str(record.running) if record.concurrency is None else f"{record.running}/{record.concurrency}"
    queues = [queue if share is None else f"{queue}={share}" for queue, share in record.queues.items()]
    return (
        str(record.executor_id)[:8],
        record.host,
        str(record.pid),
        moment(record.started_at),
        moment(record.heartbeat_at),
        running,
        ",".join(queues) or "-",
        "-" if record.names is None else str(len(record.names)),
        record.codec or "-",
        "suspected" if record.suspected else "alive",
    )
