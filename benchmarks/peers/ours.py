"""pgqrs, this checkout: `Admin.run` for workflows run here, `Admin.enqueue_many` and `Worker` for a queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from statistics import median
from typing import Any

import asyncpg
from common import (
    WORKER,
    Arguments,
    arguments,
    is_ready,
    report,
    size_of,
    small_dict,
    step_functions,
    timed,
    worked_off,
    worker_processes,
)
from costs import Costs, costs_so_far
from ours_messages import WORKS as MESSAGES
from ours_queues import WORKS as QUEUES
from ours_retention import WORKS as RETENTION

from pgqrs import Admin, PyWorkflow, Worker, step, workflow
from pgqrs.storage.sql.tokens import new_token
from pgqrs.storage.writes.creation import Submission
from pgqrs.storage.writes.runs import RunEnd

KILOBYTE = "x" * 1000
HUNDRED = 100
AT_ONCE = 500
WARMING_CLAIMS = 5
ENDED = "SELECT count(*) FROM pgqrs.pgqrs_workflows WHERE status = 'SUCCESS'"


class Killed(BaseException):
    """Ends a run as a crash does: no outcome is recorded."""


def short_workflow(steps: int, size: int = 0) -> Callable[..., Coroutine[Any, Any, dict[str, int]]]:
    """Create the workflow of a few steps, whose outcomes have a text of `size` characters."""
    functions = step_functions(step, steps, size)

    @workflow
    async def bench(ctx: PyWorkflow, number: int) -> dict[str, int]:
        for function in functions:
            await function(ctx, number)
        return {"number": number}

    return bench


async def throughput(asked: Arguments) -> None:
    """Measure many short workflows (W1, W2, W3, W6, and V10K to V1M)."""
    bench = short_workflow(asked.steps, size_of(asked.work))
    async with Admin(asked.dsn) as admin:
        await admin.install()
        journal = (await admin.store()).journal
        connection = await asyncpg.connect(asked.dsn)
        sent, before = 0, Costs(0, 0, 0)

        async def run(number: int) -> None:
            await admin.run(bench, number)

        async def warm() -> None:
            nonlocal sent, before
            sent, before = journal.statements, await costs_so_far(connection)

        seconds = await timed(run, asked.workflows, asked.concurrency, warm=warm)
        costs = (await costs_so_far(connection)).since(before)
        await connection.close()
    report(
        "pgqrs",
        seconds=seconds,
        workflows=asked.workflows,
        steps=asked.workflows * asked.steps,
        statements=journal.statements - sent,
        **costs,
    )


@step(key=lambda number: number)
async def numbered(_ctx: PyWorkflow, number: int) -> dict[str, Any]:
    """Return the small dict; there is a step for each number."""
    return small_dict(number)


@step(key=lambda number: number)
async def kilobyte(_ctx: PyWorkflow, number: int) -> dict[str, Any]:
    """Return a kilobyte; there is a step for each number."""
    return {"step": number, "text": KILOBYTE}


@workflow
async def long(ctx: PyWorkflow, steps: int) -> list[float]:
    """Execute steps one after another, and return the times at which they were recorded."""
    recorded = [time.perf_counter()]
    for number in range(steps):
        await numbered(ctx, number)
        recorded.append(time.perf_counter())
    return recorded


async def long_workflow(asked: Arguments) -> None:
    """Measure workflows of many steps, one after another, with their first and their last hundred steps (W4)."""
    async with Admin(asked.dsn) as admin:
        await admin.install()
        await admin.run(long, HUNDRED)
        runs = [await admin.run(long, asked.steps) for _ in range(asked.workflows)]
    report(
        "pgqrs",
        seconds=sum(recorded[-1] - recorded[0] for recorded in runs),
        workflows=asked.workflows,
        steps=asked.workflows * asked.steps,
        first_hundred=sum(recorded[HUNDRED] - recorded[0] for recorded in runs),
        last_hundred=sum(recorded[-1] - recorded[-1 - HUNDRED] for recorded in runs),
    )


async def resume(asked: Arguments) -> None:
    """Measure the seconds from the resumption of a crashed workflow of many steps to its first new step (W5)."""
    async with Admin(asked.dsn) as admin:
        await admin.install()
        workflow_id = await _crashed(admin, asked.steps)
    async with Admin(asked.dsn) as admin:
        await admin.run(long, 1)
        began = time.perf_counter()
        in_body, in_step = await _resumed(await admin.get_workflow(workflow_id), asked.steps)
    report("pgqrs", seconds=in_step - began, workflows=1, steps=asked.steps, seconds_to_the_body=in_body - began)


async def _crashed(admin: Admin, steps: int) -> int:
    @workflow
    async def dying(ctx: PyWorkflow) -> None:
        for first in range(0, steps, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, steps))
            await asyncio.gather(*(kilobyte(ctx, number) for number in numbers))
        raise Killed

    ctx = await admin.create_workflow("dying")
    try:
        await dying(ctx)
    except Killed:
        return ctx.id()
    raise AssertionError("the workflow did not crash")


async def _resumed(ctx: PyWorkflow, steps: int) -> tuple[float, float]:
    @workflow
    async def carried_on(ctx: PyWorkflow) -> list[float]:
        in_body = time.perf_counter()
        for number in range(steps):
            value = await kilobyte(ctx, number)
            assert value["step"] == number
        return [in_body, await new(ctx)]

    @step
    async def new(_ctx: PyWorkflow) -> float:
        return time.perf_counter()

    in_body, in_step = await carried_on(ctx)
    return in_body, in_step


async def queue(asked: Arguments) -> None:
    """Measure workflows that are enqueued here and run by worker processes (W7)."""
    bench = short_workflow(asked.steps)
    async with Admin(asked.dsn) as admin:
        await admin.install()
        connection = await asyncpg.connect(asked.dsn)

        async def enqueue(count: int) -> None:
            await admin.enqueue_many(bench, ((number,) for number in range(count)))

        async def ended() -> int:
            return int(await connection.fetchval(ENDED))

        with worker_processes(asked):
            enqueued, seconds = await worked_off(enqueue, ended, asked.workflows)
        await connection.close()
    report(
        "pgqrs",
        seconds=seconds,
        workflows=asked.workflows,
        steps=asked.workflows * asked.steps,
        seconds_to_enqueue=enqueued,
    )


async def worker(asked: Arguments) -> None:
    """Run the workflows of a queue until the process is killed."""
    bench = short_workflow(asked.steps)
    async with Admin(asked.dsn) as admin, Worker(admin, [bench], concurrency=asked.concurrency):
        is_ready()
        await asyncio.Event().wait()


async def claims(asked: Arguments) -> None:
    """Measure the claim of a batch, as a worker claims it, without other work at the same time (W8)."""
    async with Admin(asked.dsn) as admin:
        await admin.install()
        store = await admin.store()
        new = Submission(0, "bench", '{"args": [1], "kwargs": {}}', "default", 0, None, None, None)
        await store.operations.submit([new._replace(token=new_token()) for _ in range(asked.workflows)])
        watch = await store.claim_connection(lambda _queue: None)
        latencies, runs = [], []
        for _ in range(asked.workflows // asked.concurrency):
            began = time.perf_counter()
            claimed = await watch.claim(["bench"], ["default"], asked.concurrency)
            latencies.append(time.perf_counter() - began)
            assert len(claimed) == asked.concurrency
            runs += claimed
        await watch.close()
        await asyncio.gather(
            *(store.write_end(RunEnd(run.workflow_id, run.epoch, "1", None, claim=run.claim)) for run in runs)
        )
    measured = latencies[WARMING_CLAIMS:]
    report("pgqrs", seconds=sum(measured), workflows=asked.workflows, steps=0, claim=median(measured))


async def install(asked: Arguments) -> None:
    """Create the tables, which the caller fills (W6, W8)."""
    async with Admin(asked.dsn) as admin:
        await admin.install()
    report("pgqrs", seconds=0, workflows=0, steps=0)


WORKS: dict[str, Callable[[Arguments], Coroutine[Any, Any, None]]] = {
    "install": install,
    "w4": long_workflow,
    "w5": resume,
    "w7": queue,
    "w7x2": queue,
    "w8": claims,
    "w8queued": claims,
    "w8finished": claims,
    WORKER: worker,
    **MESSAGES,
    **QUEUES,
    **RETENTION,
}

if __name__ == "__main__":
    given = arguments()
    asyncio.run(WORKS.get(given.work, throughput)(given))
