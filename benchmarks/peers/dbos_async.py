"""DBOS, with async workflows and steps that are called directly.

Several documented configurations were tried: the size of the pool, the threads, `use_listen_notify` and
`start_workflow_async`. None is clearly faster than the defaults. Two settings are changed. Connections are not
tested at each checkout (`pool_pre_ping`), which saves a round trip for each transaction. There are as many threads
as connections, so that all connections are used.

From a queue (W7) one process enqueues, with as many workflows at a time as it has connections, and listens to no
queue. Another process dequeues the workflows. It polls every tenth of a second, instead of once a second by
default.
"""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
from common import (
    WORKER,
    Arguments,
    arguments,
    is_ready,
    outcome,
    report,
    size_of,
    small_dict,
    timed,
    worked_off,
    worker_processes,
)
from dbos import DBOS
from dbos_connection import CONNECTIONS, POLL_SECONDS, QUEUE, launch
from dbos_messages import WORKS as MESSAGES
from dbos_queues import WORKS as QUEUES

ENDED = "SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'"


@DBOS.step()
async def one_step(number: int) -> dict[str, Any]:
    """Return the small dict."""
    return small_dict(number)


@DBOS.step()
async def large_step(number: int, size: int) -> dict[str, Any]:
    """Return a dict with a text of `size` characters."""
    return outcome(number, size)


@DBOS.workflow()
async def bench(number: int, steps: int) -> dict[str, int]:
    """Execute steps one after another."""
    for each in range(steps):
        await one_step(each)
    return {"number": number}


@DBOS.workflow()
async def large(number: int, steps: int, size: int) -> dict[str, int]:
    """Execute steps with large outcomes one after another."""
    for each in range(steps):
        await large_step(number * steps + each, size)
    return {"number": number}


async def queue(asked: Arguments) -> None:
    """Measure workflows that are enqueued here and executed by worker processes (W7)."""
    launch(asked, "client")
    await DBOS.register_queue_async(QUEUE, polling_interval_sec=POLL_SECONDS)
    with psycopg.connect(asked.dsn, autocommit=True) as connection:

        async def enqueue(count: int) -> None:
            numbers = iter(range(count))

            async def some() -> None:
                for number in numbers:
                    await DBOS.enqueue_workflow_async(QUEUE, bench, number, asked.steps)

            await asyncio.gather(*(some() for _ in range(CONNECTIONS)))

        async def ended() -> int:
            found = connection.execute(ENDED).fetchone()
            return int(found[0]) if found else 0

        with worker_processes(asked):
            enqueued, seconds = await worked_off(enqueue, ended, asked.workflows)
    report(
        "dbos",
        seconds=seconds,
        workflows=asked.workflows,
        steps=asked.workflows * asked.steps,
        seconds_to_enqueue=enqueued,
    )
    DBOS.destroy()


async def worker(asked: Arguments) -> None:
    """Execute the workflows of the queue until the process is killed."""
    launch(asked, "worker", (QUEUE,))
    is_ready()
    await asyncio.Event().wait()


async def throughput(asked: Arguments) -> None:
    """Measure many short workflows."""
    launch(asked, "local")

    async def run(number: int) -> None:
        if size := size_of(asked.work):
            await large(number, asked.steps, size)
        else:
            await bench(number, asked.steps)

    seconds = await timed(run, asked.workflows, asked.concurrency)
    report("dbos", seconds=seconds, workflows=asked.workflows, steps=asked.workflows * asked.steps)
    DBOS.destroy()


WORKS = {"w7": queue, WORKER: worker, **MESSAGES, **QUEUES}

if __name__ == "__main__":
    given = arguments()
    asyncio.run(WORKS.get(given.work, throughput)(given))
