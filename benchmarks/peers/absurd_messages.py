"""absurd: `emit_event` and `await_event` (M1 to M3); each message is an event of a name of its own.

A task that waits is suspended, and pulled again once its event was emitted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from absurd_connection import CLIENTS, install, working
from absurd_sdk import AsyncAbsurd
from common import (
    MOST_WARMING_UP,
    Arguments,
    in_slices,
    is_ready,
    percentiles,
    report,
    until_ended,
    worker_processes,
)

WORKER = "worker_of_messages"
CONCURRENCY = 500
WAITING = "SELECT count(*) FROM absurd.t_default WHERE state = 'sleeping'"
TIMES = """
    SELECT json_object_agg(completed_payload->>'number', completed_payload->'time') FROM absurd.t_default
"""
ENDED = "SELECT count(*) FROM absurd.t_default WHERE state = 'completed'"

Work = Callable[[Arguments], Coroutine[Any, Any, None]]
Read = Callable[[str], Awaitable[int]]


async def receiving(params: Any, ctx: Any) -> dict[str, float]:
    """Return the time of the step after an event."""
    await ctx.await_event(f"go/{params['number']}")

    async def stamp() -> float:
        return time.time()

    return {"number": params["number"], "time": await ctx.step("stamp", stamp)}


async def serving(params: Any, ctx: Any) -> dict[str, int]:
    """Send the ball to another task, and receive it again."""
    for number in range(params["rounds"]):
        await ctx.emit_event(f"ping/{params['pair']}/{number}", {"number": number})
        await ctx.await_event(f"pong/{params['pair']}/{number}")
    return {"pair": params["pair"]}


async def returning(params: Any, ctx: Any) -> dict[str, int]:
    """Send the ball back to its sender."""
    for number in range(params["rounds"]):
        await ctx.await_event(f"ping/{params['pair']}/{number}")
        await ctx.emit_event(f"pong/{params['pair']}/{number}", {"number": number})
    return {"pair": params["pair"]}


TASKS = {"receiving": receiving, "serving": serving, "returning": returning}


async def connected(asked: Arguments, count: int) -> list[AsyncAbsurd]:
    """Return clients that have the tasks registered."""
    clients = [AsyncAbsurd(asked.dsn) for _ in range(count)]
    for client in clients:
        for name, task in TASKS.items():
            client.register_task(name=name)(task)
        await client.list_queues()  # connects
    return clients


@contextmanager
def reading(asked: Arguments) -> Iterator[Read]:
    """Connect, and yield a function that reads one value."""
    with psycopg.connect(asked.dsn, autocommit=True) as connection:

        async def read(query: str) -> Any:
            found = connection.execute(query).fetchone()
            return found[0] if found else 0

        yield read


async def in_turn(clients: list[AsyncAbsurd], calls: list[Callable[[AsyncAbsurd], Awaitable[Any]]]) -> None:
    """Make calls with all clients."""
    left = iter(calls)

    async def some(client: AsyncAbsurd) -> None:
        for call in left:
            await call(client)

    await asyncio.gather(*map(some, clients))


async def latency(asked: Arguments) -> None:
    """Measure the time from an event to the next step of the task that waits for it (M1)."""
    count = MOST_WARMING_UP + asked.workflows
    (client,) = await connected(asked, 1)
    with reading(asked) as read, worker_processes(asked, WORKER):
        for number in range(count):
            await client.spawn("receiving", {"number": number})
        await until_ended(lambda: read(WAITING), count)
        sent = []
        for number in range(count):
            sent.append(time.time())
            await client.emit_event(f"go/{number}", 1)
            await until_ended(lambda: read(ENDED), number + 1)
        times = await read(TIMES)
    await client.close()
    latencies = [times[str(number)] - begin for number, begin in enumerate(sent)][MOST_WARMING_UP:]
    report("absurd-sdk", **percentiles(latencies), workflows=asked.workflows, steps=asked.workflows)


async def ping_pong(asked: Arguments) -> None:
    """Measure events between pairs of tasks (M2); each task emits one, and waits for the answer."""
    pairs, rounds = asked.concurrency, max(1, asked.workflows // (2 * asked.concurrency))
    clients = await connected(asked, CLIENTS)
    with reading(asked) as read, worker_processes(asked, WORKER):

        async def play(first: int, rounds: int) -> float:
            ended = await read(ENDED)
            games = [{"pair": first + each, "rounds": rounds} for each in range(pairs)]
            await in_turn(clients, [lambda client, each=each: client.spawn("returning", each) for each in games])
            await until_ended(lambda: read(WAITING), pairs)
            began = time.perf_counter()
            await in_turn(clients, [lambda client, each=each: client.spawn("serving", each) for each in games])
            await until_ended(lambda: read(ENDED), ended + 2 * pairs)
            return time.perf_counter() - began

        await play(0, 1)
        seconds = await play(pairs, rounds)
    for client in clients:
        await client.close()
    report("absurd-sdk", seconds=seconds, workflows=2 * pairs, steps=2 * pairs * rounds)


async def sending(asked: Arguments) -> None:
    """Measure the events of many clients of one process, beside as many spawns (M3)."""
    clients = await connected(asked, CLIENTS)
    free = asyncio.Queue[AsyncAbsurd]()
    for client in clients:
        free.put_nowait(client)
    numbers = iter(range(10 * asked.workflows))

    async def with_a_client(call: Callable[[AsyncAbsurd], Awaitable[Any]]) -> None:
        client = await free.get()
        await call(client)
        free.put_nowait(client)

    taken = await in_slices(
        lambda _: with_a_client(lambda client: client.emit_event(f"go/{next(numbers)}", 1)),
        lambda number: with_a_client(lambda client: client.spawn("receiving", {"number": number})),
        asked.workflows,
        asked.concurrency,
    )
    for client in clients:
        await client.close()
    report("absurd-sdk", **taken, workflows=asked.concurrency, steps=asked.workflows)


async def worker(asked: Arguments) -> None:
    """Pull tasks until the process is killed."""
    workers = working(await connected(asked, min(asked.concurrency, CLIENTS)), CONCURRENCY)
    is_ready()
    await asyncio.gather(*workers)


def installed(work: Work) -> Work:
    """Return the work, done after the tables were created."""

    async def run(asked: Arguments) -> None:
        await install(asked)
        await work(asked)

    return run


WORKS = {"m1": installed(latency), "m2": installed(ping_pong), "m3": installed(sending), WORKER: worker}
