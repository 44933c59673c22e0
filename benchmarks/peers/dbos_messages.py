"""DBOS: `send_async` and `recv_async` (M1 to M3), and child workflows in a queue (C1).

A receiver waits in the memory of its executor, which DBOS's trigger and its LISTEN connection wake. A workflow
enqueues its children 20 at a time, and looks at their results each tenth of a second, instead of once a second by
default.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from common import (
    MOST_WARMING_UP,
    Arguments,
    in_slices,
    is_ready,
    percentiles,
    report,
    small_dict,
    until_ended,
    worker_processes,
)
from dbos import DBOS
from dbos_connection import CONNECTIONS, POLL_SECONDS, QUEUE, launch

WORKER = "worker_of_messages"
PATIENCE_SECONDS = 600
WAITING = "SELECT count(*) FROM dbos.workflow_status WHERE status = 'PENDING'"
ENDED = "SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'"

Work = Callable[[Arguments], Coroutine[Any, Any, None]]
Read = Callable[[str], Awaitable[int]]


@DBOS.step()
async def stamp() -> float:
    """Return the time."""
    return time.time()


@DBOS.workflow()
async def receiving() -> float:
    """Return the time of the step after a message."""
    await DBOS.recv_async("go", PATIENCE_SECONDS)
    return await stamp()


@DBOS.workflow()
async def serving(other: str, rounds: int) -> None:
    """Send the ball to another workflow, and receive it again."""
    for number in range(rounds):
        await DBOS.send_async(other, {"sender": DBOS.workflow_id, "number": number}, "ball")
        await DBOS.recv_async("ball", PATIENCE_SECONDS)


@DBOS.workflow()
async def returning(rounds: int) -> None:
    """Send the ball back to its sender."""
    for _ in range(rounds):
        ball = await DBOS.recv_async("ball", PATIENCE_SECONDS)
        answer = {"sender": DBOS.workflow_id, "number": ball["number"]}
        await DBOS.send_async(ball["sender"], answer, "ball")


@DBOS.step()
async def child_step(number: int) -> dict[str, Any]:
    """Return the small dict."""
    return small_dict(number)


@DBOS.workflow()
async def child(number: int) -> dict[str, Any]:
    """Execute one step."""
    return await child_step(number)


@DBOS.workflow()
async def parent(count: int) -> int:
    """Enqueue children, and count their results."""
    handles: list[Any] = []
    for first in range(0, count, CONNECTIONS):
        numbers = range(first, min(first + CONNECTIONS, count))
        handles += await asyncio.gather(*(DBOS.enqueue_workflow_async(QUEUE, child, each) for each in numbers))
    return len([await each.get_result(polling_interval_sec=POLL_SECONDS) for each in handles])


async def enqueued(function: Any, inputs: list[tuple[Any, ...]]) -> list[Any]:
    """Enqueue workflows, as many at a time as there are connections, and return their handles in order."""
    handles: list[Any] = []
    for first in range(0, len(inputs), CONNECTIONS):
        some = inputs[first : first + CONNECTIONS]
        handles += await asyncio.gather(*(DBOS.enqueue_workflow_async(QUEUE, function, *each) for each in some))
    return handles


@contextmanager
def reading(asked: Arguments) -> Iterator[Read]:
    """Connect, and yield a function that reads one value."""
    with psycopg.connect(asked.dsn, autocommit=True) as connection:

        async def read(query: str) -> int:
            found = connection.execute(query).fetchone()
            return int(found[0]) if found else 0

        yield read


async def latency(asked: Arguments) -> None:
    """Measure the time from a message to the next step of its waiting receiver (M1)."""
    count = MOST_WARMING_UP + asked.workflows
    with reading(asked) as read, worker_processes(asked, WORKER):
        handles = await enqueued(receiving, [()] * count)
        await until_ended(lambda: read(WAITING), count)
        await asyncio.sleep(1)  # until the last of them waits
        sent = []
        for ended, each in enumerate(handles, 1):
            sent.append(time.time())
            await DBOS.send_async(each.get_workflow_id(), 1, "go")
            await until_ended(lambda: read(ENDED), ended)
        received = [await each.get_result(polling_interval_sec=POLL_SECONDS) for each in handles]
    latencies = [end - begin for begin, end in zip(sent, received, strict=True)][MOST_WARMING_UP:]
    report("dbos", **percentiles(latencies), workflows=asked.workflows, steps=asked.workflows)


async def ping_pong(asked: Arguments) -> None:
    """Measure messages between pairs of workflows (M2); each workflow sends, and waits for the answer."""
    pairs, rounds = asked.concurrency, max(1, asked.workflows // (2 * asked.concurrency))
    with reading(asked) as read, worker_processes(asked, WORKER):

        async def play(rounds: int) -> float:
            ended = await read(ENDED)
            others = await enqueued(returning, [(rounds,)] * pairs)
            await until_ended(lambda: read(WAITING), pairs)
            await asyncio.sleep(1)  # until the last of them waits
            began = time.perf_counter()
            await enqueued(serving, [(other.get_workflow_id(), rounds) for other in others])
            await until_ended(lambda: read(ENDED), ended + 2 * pairs)
            return time.perf_counter() - began

        await play(1)
        seconds = await play(rounds)
    report("dbos", seconds=seconds, workflows=2 * pairs, steps=2 * pairs * rounds)


async def sending(asked: Arguments) -> None:
    """Measure the sends of many tasks of one process, beside as many enqueues (M3)."""
    handles = await enqueued(receiving, [()] * asked.concurrency)
    ids = [each.get_workflow_id() for each in handles]
    taken = await in_slices(
        lambda number: DBOS.send_async(ids[number % asked.concurrency], number, "go"),
        lambda number: DBOS.enqueue_workflow_async(QUEUE, child, number),
        asked.workflows,
        asked.concurrency,
    )
    report("dbos", **taken, workflows=asked.concurrency, steps=asked.workflows)


async def fan_out(asked: Arguments) -> None:
    """Measure the children of one workflow, beside as many workflows without a parent (C1)."""
    with reading(asked) as read, worker_processes(asked, WORKER):
        ended = await parent(MOST_WARMING_UP)
        before = await read(ENDED)
        began = time.perf_counter()
        await enqueued(child, [(number,) for number in range(asked.workflows)])
        await until_ended(lambda: read(ENDED), before + asked.workflows)
        without_parent = time.perf_counter() - began
        began = time.perf_counter()
        ended = await parent(asked.workflows)
        seconds = time.perf_counter() - began
    assert ended == asked.workflows
    report(
        "dbos",
        seconds=seconds,
        workflows=asked.workflows,
        steps=asked.workflows,
        seconds_without_parent=without_parent,
    )


async def worker(asked: Arguments) -> None:
    """Execute the workflows of the queue until the process is killed."""
    launch(asked, "worker", (QUEUE,))
    is_ready()
    await asyncio.Event().wait()


def from_a_client(work: Work) -> Work:
    """Return the work, done by an executor that listens to no queue."""

    async def run(asked: Arguments) -> None:
        launch(asked, "client")
        await DBOS.register_queue_async(QUEUE, polling_interval_sec=POLL_SECONDS)
        await work(asked)
        DBOS.destroy()

    return run


WORKS = {
    "m1": from_a_client(latency),
    "m2": from_a_client(ping_pong),
    "m3": from_a_client(sending),
    "c1": from_a_client(fan_out),
    WORKER: worker,
}
