"""DBOS: a queue with a limit of a few workflows, which its processes poll once a second by default (Q1)."""

from __future__ import annotations

import asyncio

import psycopg
from common import (
    MOST_WARMING_UP,
    Arguments,
    busy_millisecond,
    is_ready,
    refills,
    report,
    worked_off,
    worker_processes,
)
from dbos import DBOS
from dbos_connection import CONNECTIONS, QUEUE, launch

WORKER = "worker_of_queues"
PLACES = 4
ENDED = "SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'"


@DBOS.step()
async def tiny() -> list[float]:
    """Take a millisecond, and return the times of its beginning and its end."""
    return await busy_millisecond()


@DBOS.workflow()
async def brief(_number: int) -> list[float]:
    """Execute one step."""
    return await tiny()


async def few_places(asked: Arguments) -> None:
    """Measure a queue with a few places, and the time in which a place that is free gets another workflow (Q1)."""
    launch(asked, "client")
    await DBOS.register_queue_async(QUEUE, global_concurrency=PLACES)
    with psycopg.connect(asked.dsn, autocommit=True) as connection:

        async def enqueue(count: int) -> None:
            numbers = iter(range(count))

            async def some() -> None:
                for number in numbers:
                    await DBOS.enqueue_workflow_async(QUEUE, brief, number)

            await asyncio.gather(*(some() for _ in range(CONNECTIONS)))

        async def ended() -> int:
            found = connection.execute(ENDED).fetchone()
            return int(found[0]) if found else 0

        with worker_processes(asked, WORKER):
            _, seconds = await worked_off(enqueue, ended, asked.workflows)
    spans = [tuple(each.output) for each in await DBOS.list_workflows_async(status="SUCCESS") if each.output]
    refill = refills(sorted(spans)[MOST_WARMING_UP:], PLACES)
    report("dbos", seconds=seconds, workflows=asked.workflows, steps=asked.workflows, **refill)
    DBOS.destroy()


async def worker(asked: Arguments) -> None:
    """Execute the workflows of the queue until the process is killed."""
    launch(asked, f"worker {id(asked)}", (QUEUE,))
    is_ready()
    await asyncio.Event().wait()


WORKS = {"q1": few_places, WORKER: worker}
