"""pgqrs, this checkout: queues with limits (Q1 to Q3), and very many schedules that are due at once (S1)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import partial
from statistics import median
from typing import Any

import asyncpg
from common import (
    MOST_WARMING_UP,
    Arguments,
    busy_millisecond,
    is_ready,
    refills,
    report,
    small_dict,
    step_functions,
    tune_collector,
    until_ended,
    worked_off,
    worker_processes,
)

from pgqrs import Admin, Every, PyWorkflow, Worker, step, workflow
from pgqrs.storage.sql.tokens import new_token
from pgqrs.storage.writes.creation import Submission, in_partition
from pgqrs.storage.writes.runs import RunEnd, RunRelease
from pgqrs.types import WorkflowStatus

WORKER = "worker_of_queues"
QUEUE = "default"
PLACES = 4
OF_KEY = {"q2free": 2, "q2": 2, "q2ordered": 20}
LIMITS: dict[str, dict[str, Any]] = {"q2": {"partition_concurrency": 2}, "q2ordered": {"ordered": True}}
FREE_KEYS = 100
WARMING_CLAIMS = 5
SOON = 3.0
ENDED = "SELECT count(*) FROM pgqrs.pgqrs_workflows WHERE status = 'SUCCESS'"
SPANS = "SELECT output->>0, output->>1 FROM pgqrs.pgqrs_workflows WHERE name = 'brief'"
KEYED = """
    INSERT INTO pgqrs.pgqrs_workflows (name, queue, partition_key, ready_at, input)
    SELECT 'keyed', $1, 'key ' || number % $2, now(),
        json_build_object('args', json_build_array(number), 'kwargs', json_build_object())
    FROM generate_series(1, $3::int) AS number
"""
COPIES = """
    INSERT INTO pgqrs.pgqrs_schedules
    SELECT (json_populate_record(s, json_build_object('name', 's' || n, 'next_at', $1::timestamptz))).*
    FROM pgqrs.pgqrs_schedules s, generate_series(1, $2::int) n WHERE name = 'first'
"""
FIRED = "SELECT count(*) FROM pgqrs.pgqrs_schedules WHERE next_at > $1 AND name <> 'first'"
SINCE = "SELECT extract(epoch FROM {time} - $1)::float8"


@step
async def tiny(_ctx: PyWorkflow) -> list[float]:
    """Take a millisecond, and return the times of its beginning and its end."""
    return await busy_millisecond()


@workflow
async def brief(ctx: PyWorkflow, _number: int) -> list[float]:
    """Execute one step."""
    return await tiny(ctx)


@workflow
async def fired(ctx: PyWorkflow) -> None:
    """Do nothing."""


def keyed(steps: int) -> Any:
    """Create the workflow of a few steps."""
    functions = step_functions(step, steps)

    @workflow(name="keyed")
    async def own(ctx: PyWorkflow, number: int) -> dict[str, Any]:
        for function in functions:
            await function(ctx, number)
        return small_dict(number)

    return own


async def few_places(asked: Arguments) -> None:
    """Measure a queue with a few places, and the time in which a place that is free gets another workflow (Q1)."""
    async with Admin(asked.dsn) as admin:
        await admin.install()
        await admin.set_queue(QUEUE, concurrency=PLACES)
        connection = await asyncpg.connect(asked.dsn)

        async def enqueue(count: int) -> None:
            await admin.enqueue_many(brief, ((number,) for number in range(count)))

        with worker_processes(asked, WORKER):
            _, seconds = await worked_off(enqueue, partial(connection.fetchval, ENDED), asked.workflows)
        spans = [(float(began), float(ended)) for began, ended in await connection.fetch(SPANS)]
        await connection.close()
    refill = refills(sorted(spans)[MOST_WARMING_UP:], PLACES)
    report("pgqrs", seconds=seconds, workflows=asked.workflows, steps=asked.workflows, **refill)


async def many_keys(asked: Arguments) -> None:
    """Measure a queue with very many partition keys: without limits, with a limit of each, in order (Q2)."""
    async with Admin(asked.dsn) as admin:
        await admin.install()
        if asked.work in LIMITS:
            await admin.set_queue(QUEUE, **LIMITS[asked.work])
        connection = await asyncpg.connect(asked.dsn)
        own = keyed(asked.steps)

        async def enqueue(count: int) -> None:
            # One statement takes less time than the calls of a client; the last workflow notifies the workers.
            await connection.execute(KEYED, QUEUE, max(1, count // OF_KEY[asked.work]), count - 1)
            await admin.options(partition_key="key 0").enqueue(own, 0)

        with worker_processes(asked, WORKER):
            _, seconds = await worked_off(enqueue, partial(connection.fetchval, ENDED), asked.workflows)
        await connection.close()
    report("pgqrs", seconds=seconds, workflows=asked.workflows, steps=asked.workflows * asked.steps)


async def worker(asked: Arguments) -> None:
    """Run the workflows of the queue until the process is killed."""
    workflows = [brief, fired, keyed(asked.steps)]
    async with Admin(asked.dsn) as admin, Worker(admin, workflows, concurrency=asked.concurrency):
        is_ready()
        await asyncio.Event().wait()


async def claims(asked: Arguments) -> None:
    """Measure claims of one workflow of each key, beside a key that is full (Q3)."""
    async with Admin(asked.dsn) as admin:
        await admin.install()
        await admin.set_queue(QUEUE, partition_concurrency=1)
        store = await admin.store()
        store.without_task = lambda _held: []  # type: ignore[method-assign]  # no task executes these runs
        watch = await store.claim_connection(lambda _queue: None)
        held = await watch.claim(
            ["bench"], [QUEUE], 1
        )  # the one workflow that the full key may have, if it has any
        new = Submission(0, "bench", '{"args": [1], "kwargs": {}}', QUEUE, 0, None, None, None)
        await store.operations.submit(
            [
                in_partition(new._replace(token=new_token()), f"free {number % FREE_KEYS}")
                for number in range(asked.workflows)
            ]
        )
        tune_collector()
        latencies: list[float] = []
        for _ in range(asked.workflows // asked.concurrency):
            began = time.perf_counter()
            claimed = await watch.claim(["bench"], [QUEUE], asked.concurrency)
            latencies.append(time.perf_counter() - began)
            assert len(claimed) == asked.concurrency
            ends = [RunEnd(run.workflow_id, run.epoch, "1", None, claim=run.claim) for run in claimed]
            await asyncio.gather(*map(store.write_end, ends))
        await watch.close()
        leaves = [RunRelease(run.workflow_id, run.epoch, WorkflowStatus.PENDING, claim=run.claim) for run in held]
        await asyncio.gather(*map(store.write_end, leaves))
    measured = latencies[WARMING_CLAIMS:]
    report("pgqrs", seconds=sum(measured), workflows=asked.workflows, steps=0, claim=median(measured))


async def schedules(asked: Arguments) -> None:
    """Measure the time in which the workers start the workflows of very many schedules due at once (S1)."""
    async with Admin(asked.dsn) as admin:
        await admin.install()
        connection = await asyncpg.connect(asked.dsn)
        await admin.schedule("first", Every(3600), fired)
        seconds, ended = 0.0, 0
        with worker_processes(asked, WORKER):
            for count in (MOST_WARMING_UP, asked.workflows):
                await connection.execute("DELETE FROM pgqrs.pgqrs_schedules WHERE name <> 'first'")
                due = await connection.fetchval("SELECT now() + $1 * interval '1 second'", SOON)
                await connection.execute(COPIES, due, count)
                await until_ended(partial(connection.fetchval, FIRED, due), count)
                seconds = await connection.fetchval(SINCE.format(time="clock_timestamp()"), due)
                ended += count
                await until_ended(partial(connection.fetchval, ENDED), ended)
            to_end = await connection.fetchval(
                SINCE.format(time="max(completed_at)") + " FROM pgqrs.pgqrs_workflows", due
            )
        await connection.close()
    report(
        "pgqrs",
        seconds=seconds,
        workflows=asked.workflows,
        steps=asked.workflows,
        seconds_to_fire=seconds,
        seconds_to_end=to_end,
    )


WORKS: dict[str, Callable[[Arguments], Coroutine[Any, Any, None]]] = {
    "q1": few_places,
    "q2": many_keys,
    "q2free": many_keys,
    "q2ordered": many_keys,
    "q3": claims,
    "q3full": claims,
    "s1": schedules,
    WORKER: worker,
}
