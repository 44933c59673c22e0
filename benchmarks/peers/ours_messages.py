"""pgqrs, this checkout: messages to workflows of a `Worker` (M1 to M3), and the children of a workflow (C1)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from common import (
    MOST_WARMING_UP,
    Arguments,
    Memory,
    in_slices,
    is_ready,
    percentiles,
    report,
    small_dict,
    until_ended,
    worked_off,
    worker_processes,
)

from pgqrs import Admin, PyWorkflow, Topic, Worker, step, workflow

WORKER = "worker_of_messages"
CONCURRENCY = 500
GO = Topic("go", int)
BALL = Topic("ball", dict)
ENDED = "SELECT count(*) FROM pgqrs.pgqrs_workflows WHERE status = 'SUCCESS'"
PARKED = """
    SELECT count(*) FROM pgqrs.pgqrs_workflows w WHERE status = 'WAITING'
    AND NOT EXISTS (SELECT FROM pgqrs.pgqrs_waits WHERE workflow_id = w.id AND is_new)
"""
COMMITS_OF_A_WAIT = """
    SELECT avg(CASE WHEN w.xmin = s.xmin THEN 1 ELSE 2 END)::float8
    FROM pgqrs.pgqrs_workflows w JOIN pgqrs.pgqrs_workflow_steps s ON s.workflow_id = w.id
    WHERE w.status = 'WAITING'
"""
TRANSACTIONS = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"


@step
async def stamp(_ctx: PyWorkflow) -> float:
    """Return the time."""
    return time.time()


@workflow
async def receiving(ctx: PyWorkflow) -> float:
    """Return the time of the step after a message."""
    await ctx.receive(GO)
    return await stamp(ctx)


@workflow
async def serving(ctx: PyWorkflow, other: int, rounds: int) -> None:
    """Send the ball to another workflow, and receive it again."""
    for number in range(rounds):
        await ctx.send(other, BALL, {"sender": ctx.id(), "number": number})
        await ctx.receive(BALL)


@workflow
async def returning(ctx: PyWorkflow, rounds: int) -> None:
    """Send the ball back to its sender."""
    for _ in range(rounds):
        ball = await ctx.receive(BALL)
        await ctx.send(ball["sender"], BALL, {"sender": ctx.id(), "number": ball["number"]})


@step
async def one_step(_ctx: PyWorkflow, number: int) -> dict[str, Any]:
    """Return the small dict."""
    return small_dict(number)


@workflow
async def child(ctx: PyWorkflow, number: int) -> dict[str, Any]:
    """Execute one step."""
    return await one_step(ctx, number)


@workflow
async def parent(ctx: PyWorkflow, count: int) -> int:
    """Start children, and count their results."""
    children = ctx.options(queue="default")
    return len(await ctx.gather(await children.start_many(child, ((number,) for number in range(count)))))


@asynccontextmanager
async def connected(asked: Arguments) -> AsyncIterator[tuple[Admin, Callable[[str], Coroutine[Any, Any, Any]]]]:
    """Install pgqrs, and yield an `Admin` and a function that reads one value."""
    async with Admin(asked.dsn) as admin:
        await admin.install()
        connection = await asyncpg.connect(asked.dsn)
        try:
            yield admin, connection.fetchval
        finally:
            await connection.close()


async def latency(asked: Arguments) -> None:
    """Measure the time from a message to the next step of its parked receiver, in an idle worker (M1)."""
    async with connected(asked) as (admin, read):
        with worker_processes(asked, WORKER):
            handles = await admin.enqueue_many(receiving, ((),) * (MOST_WARMING_UP + asked.workflows))
            await until_ended(lambda: read(PARKED), len(handles))
            commits, before, sent = await read(COMMITS_OF_A_WAIT), await read(TRANSACTIONS), []
            for count, handle in enumerate(handles, 1):
                sent.append(time.time())
                await handle.send(GO, 1)
                await until_ended(lambda: read(ENDED), count)
            received = [await handle.result() for handle in handles]
            transactions = await read(TRANSACTIONS) - before
    latencies = [end - begin for begin, end in zip(sent, received, strict=True)][MOST_WARMING_UP:]
    report(
        "pgqrs",
        **percentiles(latencies),
        workflows=asked.workflows,
        steps=asked.workflows,
        commits_of_a_wait=commits,
        commits_of_a_message=transactions / len(handles),
    )


async def ping_pong(asked: Arguments) -> None:
    """Measure messages between pairs of workflows (M2); each workflow sends, and waits for the answer."""
    pairs, rounds = asked.concurrency, max(1, asked.workflows // (2 * asked.concurrency))
    async with connected(asked) as (admin, read):

        async def play(rounds: int) -> float:
            ended = await read(ENDED)
            others = await admin.enqueue_many(returning, ((rounds,) for _ in range(pairs)))
            await until_ended(lambda: read(PARKED), pairs)
            began = time.perf_counter()
            await admin.enqueue_many(serving, ((other.id, rounds) for other in others))
            await until_ended(lambda: read(ENDED), ended + 2 * pairs)
            return time.perf_counter() - began

        with worker_processes(asked, WORKER):
            await play(1)
            seconds = await play(rounds)
    report("pgqrs", seconds=seconds, workflows=2 * pairs, steps=2 * pairs * rounds)


async def sending(asked: Arguments) -> None:
    """Measure the sends of many tasks of one process, beside as many enqueues (M3)."""
    async with connected(asked) as (admin, _):
        handles = await admin.enqueue_many(receiving, ((),) * asked.concurrency)
        taken = await in_slices(
            lambda number: handles[number % asked.concurrency].send(GO, number),
            lambda number: admin.enqueue(child, number),
            asked.workflows,
            asked.concurrency,
        )
    report("pgqrs", **taken, workflows=asked.concurrency, steps=asked.workflows)


async def fan_out(asked: Arguments) -> None:
    """Measure the children of one workflow, beside as many workflows without a parent (C1)."""
    async with connected(asked) as (admin, read), Worker(admin, [parent], queues=["parents"]):

        async def since(before: int) -> int:
            return int(await read(ENDED)) - before

        async def enqueue(count: int) -> None:
            await admin.enqueue_many(child, ((number,) for number in range(count)))

        with worker_processes(asked, WORKER):
            submit = admin.options(queue="parents")
            await (await submit.enqueue(parent, MOST_WARMING_UP)).result()
            memory, began = Memory(), time.perf_counter()
            ended = await (await submit.enqueue(parent, asked.workflows)).result()
            seconds, grown = time.perf_counter() - began, memory.grown()
            # Afterwards: what a process has freed would hide how much the parent needs.
            before = await read(ENDED)
            _, without_parent = await worked_off(enqueue, lambda: since(before), asked.workflows)
    assert ended == asked.workflows
    report(
        "pgqrs",
        seconds=seconds,
        workflows=asked.workflows,
        steps=asked.workflows,
        seconds_without_parent=without_parent,
        memory_of_parent=grown,
    )


async def worker(asked: Arguments) -> None:
    """Run receivers, players and children until the process is killed."""
    functions = [receiving, serving, returning, child]
    async with Admin(asked.dsn) as admin, Worker(admin, functions, concurrency=CONCURRENCY):
        is_ready()
        await asyncio.Event().wait()


WORKS: dict[str, Callable[[Arguments], Coroutine[Any, Any, None]]] = {
    "m1": latency,
    "m2": ping_pong,
    "m3": sending,
    "c1": fan_out,
    WORKER: worker,
}
