"""Thousands of workflows in one process: what they cost, and that the event loop stays free."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time

import pytest

from pgqrs import PyWorkflow, Worker, step, workflow
from pgqrs.runtime.garbage import HELD, NOTICEABLE, Garbage

DEADLINE = 90
TOTAL = 10_000

# `python -m benchmarks.at_once` measures the lag: under 50 ms at the 99th percentile where nothing else runs. Other
# tests run beside this one, so it goes by the processor time of the loop's turns, and leaves room.
MOST_OF_A_TURN = 0.15


async def _until(condition):
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


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
async def test_ten_thousand_run_at_once_without_a_thread_each_and_the_loop_stays_free(admin):
    inside, most = set(), 0

    @step(key=lambda number: number)
    async def rest(ctx: PyWorkflow, number: int) -> int:
        await asyncio.sleep(4 + (ctx.id() * 7919 + number * 104729) % 1000 / 250)
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
    async with asyncio.timeout(DEADLINE), Worker(admin, [crowd], concurrency=TOTAL):
        turns = Turns()
        await _until(lambda: most > TOTAL / 2)
        assert threading.active_count() < threads + 10
        await _until(lambda: not inside)
        lags = turns.stop()
        assert set(await asyncio.gather(*(each.result() for each in handles))) == {1}
    p99 = lags[int(len(lags) * 0.99)]
    logging.getLogger("tests").info("most at once %d, p99 %.3f s, longest %.3f s", most, p99, lags[-1])
    assert p99 < MOST_OF_A_TURN
    assert gc.get_threshold()[2] != HELD


@pytest.fixture
def threshold():
    before = gc.get_threshold()
    gc.set_threshold(before[0], before[1], 7)
    yield 7
    gc.set_threshold(*before)


def _third():
    return gc.get_threshold()[2]


async def test_full_collections_are_held_back_while_a_worker_works_and_then_no_more(admin, threshold):
    @workflow
    async def nothing(ctx: PyWorkflow) -> None: ...

    async with Worker(admin, [nothing]):
        assert _third() == HELD
        async with Worker(admin, [nothing]):
            assert _third() == HELD
        assert _third() == HELD
    assert _third() == threshold


async def test_full_collections_that_take_long_are_held_back_for_a_while(threshold, monkeypatch):
    monkeypatch.setattr("pgqrs.runtime.garbage.AT_FIRST", 0.0)
    monkeypatch.setattr("pgqrs.runtime.garbage.NOTICEABLE", 0.0)
    garbage = Garbage()
    garbage.start()
    try:
        await _until(lambda: _third() == threshold)
        gc.collect(1)
        assert _third() == threshold
        gc.collect()
        assert _third() == HELD
    finally:
        await garbage.stop()
    assert _third() == threshold


async def test_what_the_application_sets_meanwhile_stays(threshold):
    garbage = Garbage()
    garbage.start()
    gc.set_threshold(700, 10, 11)
    await garbage.stop()
    assert _third() == 11


async def test_short_collections_are_let_alone(threshold):
    garbage = Garbage()
    garbage._note("start", {"generation": 2})
    garbage._note("stop", {"generation": 2})
    assert (_third(), NOTICEABLE) == (threshold, 0.02)
