"""Thousands of workflows in one process use few threads, and the event loop stays responsive."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest

from pgqrs import PyWorkflow, Worker, step, workflow
from tests.support.waiting import DEADLINE, until

TOTAL = 3_000

# `python -m benchmarks.at_once` measures the lag: under 50 ms at the 99th percentile where nothing else runs. Other
# tests run beside this one, so it goes by the processor time of the loop's turns, and leaves room.
MOST_OF_A_TURN = 0.15


class Turns:
    """The processor time that passes between two timers of 5 ms, each 5 ms of it counted: what a timer is late."""

    def __init__(self):
        self.lags = []
        self._loop = asyncio.get_running_loop()
        self._used = time.thread_time()
        self._timer = self._loop.call_later(0.005, self._beat)

    def _beat(self):
        used = time.thread_time()
        lag, self._used = used - self._used, used
        while lag > 0:
            self.lags.append(lag)
            lag -= 0.005
        self._timer = self._loop.call_later(0.005, self._beat)

    def stop(self):
        self._timer.cancel()
        return sorted(self.lags)


@pytest.mark.without_replay("it measures what runs cost that are not replayed")
async def test_worker_runs_many_concurrent_workflows_responsively(admin):
    inside, most = set(), 0

    @step(key=lambda number: number)
    async def rest(ctx: PyWorkflow, number: int) -> int:
        await asyncio.sleep(2 + (ctx.id() * 7919 + number * 104729) % 1000 / 500)
        return number

    @workflow
    async def crowd(ctx: PyWorkflow) -> int:
        nonlocal most
        inside.add(ctx.id())
        most = max(most, len(inside))
        total = sum([await rest(ctx, number) for number in range(2)])
        inside.discard(ctx.id())
        return total

    threads = threading.active_count()
    handles = await admin.enqueue_many(crowd, [()] * TOTAL)
    async with asyncio.timeout(1.5 * DEADLINE), Worker(admin, [crowd], concurrency=TOTAL):
        turns = Turns()
        await until(lambda: most > TOTAL / 2)
        assert threading.active_count() < threads + 10
        await until(lambda: not inside)
        lags = turns.stop()
        assert set(await asyncio.gather(*(each.result() for each in handles))) == {1}
    p99 = lags[int(len(lags) * 0.99)]
    logging.getLogger("tests").info("most at once %d, p99 %.3f s, longest %.3f s", most, p99, lags[-1])
    assert p99 < MOST_OF_A_TURN
