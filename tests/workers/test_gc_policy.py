"""Tuning of Python's garbage collector while the process runs workflows, unless the application has set it."""

import asyncio
import gc
import threading

import pytest

from pgqrs import Admin, PyWorkflow, Worker, workflow
from pgqrs import gc_policy as collector
from pgqrs.gc_policy import HELD, YOUNG_THRESHOLD
from tests.support.waiting import DEADLINE, blocking_until

DEFAULT = (700, 10, 10)
TUNED = (YOUNG_THRESHOLD, 10, HELD)


@pytest.fixture(autouse=True)
def as_python_sets_it():
    before = gc.get_threshold()
    gc.set_threshold(*DEFAULT)
    yield
    gc.enable()
    gc.set_threshold(*before)


@workflow
async def seen(ctx: PyWorkflow) -> list[int]:
    return list(gc.get_threshold())


def set_meanwhile(*thresholds):
    @workflow
    async def setting(ctx: PyWorkflow) -> None:
        assert gc.get_threshold() == TUNED
        gc.set_threshold(*thresholds)

    return setting


async def test_gc_is_tuned_from_the_first_run_until_close(dsn, installed):
    async with Admin(dsn, installed) as admin:
        await admin.list_workflows()
        assert gc.get_threshold() == DEFAULT
        assert await admin.run(seen) == list(TUNED)
        await asyncio.gather(*(admin.run(seen) for _ in range(10)))
        assert gc.get_threshold() == TUNED
    assert gc.get_threshold() == DEFAULT
    assert await admin.run(seen) == list(TUNED)
    await admin.close()
    assert gc.get_threshold() == DEFAULT


async def test_concurrent_starts_count_as_one_gc_user(dsn, installed):
    async with Admin(dsn, installed) as admin:
        assert await asyncio.gather(*(admin.run(seen) for _ in range(10))) == [list(TUNED)] * 10
    assert gc.get_threshold() == DEFAULT


async def test_last_user_restores_the_gc_thresholds(dsn, installed):
    async with Admin(dsn, installed) as first, Admin(dsn, installed) as second:
        await first.run(seen)
        async with Worker(second, [seen]), Worker(second, [seen]):
            await first.close()
            assert await (await second.enqueue(seen)).result(timeout=DEADLINE) == list(TUNED)
        await second.close()
        assert gc.get_threshold() == DEFAULT


async def test_gc_tuning_can_be_turned_off(dsn, installed):
    async with Admin(dsn, installed, tune_gc=False) as admin:
        assert await admin.run(seen) == list(DEFAULT)
        async with Worker(admin, [seen]):
            assert await (await admin.enqueue(seen)).result(timeout=DEADLINE) == list(DEFAULT)
        async with admin.twin() as twin:
            assert await twin.run(seen) == list(DEFAULT)


async def test_thresholds_set_during_tuning_are_kept(dsn, installed):
    async with Admin(dsn, installed) as admin:
        await admin.run(set_meanwhile(500, 5, 11))
    assert gc.get_threshold() == (500, 5, 11)


@pytest.mark.parametrize("thresholds", [(20_000, 20, 100), (700, 10, 50), (0, 10, 10)])
async def test_custom_thresholds_are_not_tuned(dsn, installed, thresholds):
    gc.set_threshold(*thresholds)
    async with Admin(dsn, installed) as admin:
        assert await admin.run(seen) == list(thresholds)
    assert gc.get_threshold() == thresholds


async def test_disabled_collector_stays_disabled(dsn, installed):
    gc.disable()
    async with Admin(dsn, installed) as admin:
        assert await admin.run(seen) == list(DEFAULT)
    assert not gc.isenabled()


def test_event_loops_of_several_threads_share_the_tuning(dsn, installed):
    inside, outside, found = threading.Barrier(3), threading.Barrier(3), []

    async def use():
        found.append(await Admin(dsn, installed).run(seen))  # the loop's end closes it
        inside.wait(DEADLINE)
        outside.wait(DEADLINE)

    threads = [threading.Thread(target=asyncio.run, args=(use(),)) for _ in range(2)]
    for each in threads:
        each.start()
    inside.wait(DEADLINE)
    assert gc.get_threshold() == TUNED
    outside.wait(DEADLINE)
    for each in threads:
        each.join(DEADLINE)
    assert found == [list(TUNED)] * 2
    assert gc.get_threshold() == DEFAULT


def test_long_full_collections_are_postponed(monkeypatch):
    monkeypatch.setattr(collector, "AT_FIRST", 0.0)
    monkeypatch.setattr(collector, "NOTICEABLE", 0.0)
    monkeypatch.setattr(collector, "MAX_PAUSE", 0.05)
    collector.start()
    try:
        gc.collect(1)
        assert gc.get_threshold() == (YOUNG_THRESHOLD, 10, 10)
        gc.collect()
        assert gc.get_threshold() == TUNED

        def are_held_back():
            gc.collect(0)
            return gc.get_threshold() != TUNED

        blocking_until(are_held_back)
    finally:
        collector.stop()
    assert gc.get_threshold() == DEFAULT


def test_short_full_collections_are_not_postponed(monkeypatch):
    monkeypatch.setattr(collector, "AT_FIRST", 0.0)
    monkeypatch.setattr(collector, "NOTICEABLE", 60.0)
    collector.start()
    gc.collect()
    assert gc.get_threshold() == (YOUNG_THRESHOLD, 10, 10)
    collector.stop()
