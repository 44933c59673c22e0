"""absurd, with the async client.

A task is spawned into a queue, and a worker pulls it. For one task at a time, a client spawns a task and executes
it with `work_batch`, so that no poll delays it. For a higher concurrency all tasks are spawned first, then workers
pull them in batches with `start_worker`. An async client has one connection, which executes one statement at a
time. Several clients in the process are several times as fast; 25 clients were the fastest of 1, 5, 10, 25 and 50.

From a queue (W7) one process spawns the tasks with the same number of clients, and another process pulls them in
the same way.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import psycopg
from absurd_connection import CLIENTS, install, working
from absurd_messages import WORKS as MESSAGES
from absurd_sdk import AsyncAbsurd
from common import (
    MOST_WARMING_UP,
    WORKER,
    Arguments,
    arguments,
    is_ready,
    report,
    small_dict,
    timed,
    worked_off,
    worker_processes,
)

ENDED = "SELECT count(*) FROM absurd.t_default WHERE state = 'completed'"


class Tasks:
    """The task, and the number of tasks that have run."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._left = 0
        self._all_ran = asyncio.Event()

    def register(self, client: AsyncAbsurd) -> None:
        """Register the task with a client."""
        client.register_task(name="bench")(self._bench)

    async def _bench(self, params: Any, ctx: Any) -> dict[str, int]:
        for number in range(self._steps):

            async def one_step(number: int = number) -> dict[str, Any]:
                return small_dict(number)

            await ctx.step(f"step_{number}", one_step)
        self._left -= 1
        if self._left == 0:
            self._all_ran.set()
        return {"number": params["number"]}

    async def pulled(self, clients: list[AsyncAbsurd], workflows: int, concurrency: int) -> float:
        """Spawn tasks, let workers pull them, and return the seconds until all have run."""
        began = time.perf_counter()
        self._left = workflows
        self._all_ran.clear()
        await spawned(clients, workflows)
        workers = working(clients, concurrency)
        await self._all_ran.wait()
        for client in clients:
            client.stop_worker()
        await asyncio.gather(*workers)
        return time.perf_counter() - began


async def spawned(clients: list[AsyncAbsurd], workflows: int) -> None:
    """Spawn tasks with all clients."""
    numbers = iter(range(workflows))

    async def spawn(client: AsyncAbsurd) -> None:
        for number in numbers:
            await client.spawn("bench", {"number": number})

    await asyncio.gather(*map(spawn, clients))


async def connected(asked: Arguments) -> tuple[Tasks, list[AsyncAbsurd]]:
    """Return the task and the clients that have it registered."""
    tasks = Tasks(asked.steps)
    clients = [AsyncAbsurd(asked.dsn) for _ in range(min(asked.concurrency, CLIENTS))]
    for client in clients:
        tasks.register(client)
        await client.list_queues()  # connects
    return tasks, clients


async def queue(asked: Arguments) -> None:
    """Measure tasks that are spawned here and pulled by worker processes (W7)."""
    await install(asked)
    _, clients = await connected(asked)
    with psycopg.connect(asked.dsn, autocommit=True) as connection:

        async def ended() -> int:
            found = connection.execute(ENDED).fetchone()
            return int(found[0]) if found else 0

        with worker_processes(asked):
            enqueued, seconds = await worked_off(lambda count: spawned(clients, count), ended, asked.workflows)
    report(
        "absurd-sdk",
        seconds=seconds,
        workflows=asked.workflows,
        steps=asked.workflows * asked.steps,
        seconds_to_enqueue=enqueued,
    )
    for client in clients:
        await client.close()


async def worker(asked: Arguments) -> None:
    """Pull tasks until the process is killed."""
    _, clients = await connected(asked)
    workers = working(clients, asked.concurrency)
    is_ready()
    await asyncio.gather(*workers)


async def throughput(asked: Arguments) -> None:
    """Measure many short workflows."""
    await install(asked)
    tasks, clients = await connected(asked)

    async def run(number: int) -> None:
        await clients[0].spawn("bench", {"number": number})
        await clients[0].work_batch()

    if asked.concurrency == 1:
        warming_up = 1
        seconds = await timed(run, asked.workflows, 1)
    else:
        warming_up = min(asked.concurrency, MOST_WARMING_UP)
        await tasks.pulled(clients, warming_up, asked.concurrency)
        seconds = await tasks.pulled(clients, asked.workflows, asked.concurrency)
    check(asked.dsn, warming_up + asked.workflows)
    report("absurd-sdk", seconds=seconds, workflows=asked.workflows, steps=asked.workflows * asked.steps)
    for client in clients:
        await client.close()


def check(dsn: str, workflows: int) -> None:
    """Check that all tasks were completed, because the client reports no failure."""
    with psycopg.connect(dsn) as connection:
        found = connection.execute("SELECT state, count(*) FROM absurd.t_default GROUP BY state").fetchall()
    assert found == [("completed", workflows)], found


WORKS = {"w7": queue, WORKER: worker, **MESSAGES}

if __name__ == "__main__":
    given = arguments()
    asyncio.run(WORKS.get(given.work, throughput)(given))
