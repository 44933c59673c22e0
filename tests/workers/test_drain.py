"""Draining a worker: executing steps may end, other runs are requeued at once, and attempts are not counted."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from datetime import timedelta

import pytest

from pgqrs import Admin, PyWorkflow, Worker, step, workflow
from tests.support.admins import limit
from tests.support.waiting import no_hang, until
from tests.support.workflows import Gate, cancel_task


class Scene:
    """What the workflow of a test does, and where it waits."""

    def __init__(self):
        self.executed = []
        self.gate = Gate()
        self.beside = Gate()


scene: Scene


@pytest.fixture(autouse=True)
def _fresh_scene():
    global scene  # noqa: PLW0603  # the workflows below are at the top level, as an application's are
    scene = Scene()


@step
async def first(ctx: PyWorkflow, *, wait: bool = False) -> str:
    scene.executed.append("first")
    if wait:
        await scene.gate.stop()
    return "1"


@step
async def second(ctx: PyWorkflow) -> str:
    scene.executed.append("second")
    return "2"


@workflow
async def pausing_between(ctx: PyWorkflow) -> list[str]:
    done = [await first(ctx)]
    await scene.gate.stop()
    return [*done, await second(ctx)]


@workflow
async def pausing_within(ctx: PyWorkflow) -> list[str]:
    return [await first(ctx, wait=True), await second(ctx)]


@workflow
async def pausing_in_parallel(ctx: PyWorkflow) -> list[str]:
    async def beside() -> str:
        await scene.beside.stop()
        return await second(ctx)

    return await asyncio.gather(first(ctx, wait=True), beside())


async def _handed_back(sql, handle):
    row = await sql.fetchrow("SELECT * FROM pgqrs_workflows WHERE id = $1", handle.id)
    assert (row["status"], row["attempts"], row["epoch"], row["executor"]) == ("PENDING", 0, 1, None)
    assert row["ready_at"] is not None


async def test_run_between_steps_is_requeued_and_resumed_by_a_worker(admin, sql, dsn, schema):
    async with no_hang():
        async with Worker(admin, [pausing_between]):
            handle = await admin.enqueue(pausing_between)
            await scene.gate.reached.wait()
            began = time.monotonic()
        assert time.monotonic() - began < 3  # the grace is 30 seconds
        await _handed_back(sql, handle)
        scene.gate.open()
        async with Admin(dsn, schema) as other, Worker(other, [pausing_between]):
            assert await handle.result() == ["1", "2"]
    assert scene.executed == ["first", "second"]
    [record] = await admin.list_workflows()
    assert (record.attempts, record.epoch) == (1, 2)


async def test_step_ending_within_the_grace_is_the_last_of_its_run(admin, sql):
    async with no_hang():
        worker = Worker(admin, [pausing_within])
        await worker.start()
        handle = await admin.enqueue(pausing_within)
        await scene.gate.reached.wait()
        draining = asyncio.create_task(worker.drain(15))
        later = await admin.enqueue(pausing_within)
        done, _ = await asyncio.wait([draining], timeout=0.7)
        assert not done
        scene.gate.open()
        await draining
    await _handed_back(sql, handle)
    assert [(each.step_id, each.status) for each in await handle.steps()] == [("first", "SUCCESS")]
    assert scene.executed == ["first"]
    assert await later.status() == "PENDING"
    assert await later.steps() == []


@pytest.mark.parametrize("how", ["drain", "cancel"])
async def test_run_is_released_once_all_of_its_steps_have_ended(admin, how):
    """The body has ended before: `gather` raises the stop of one branch, and the step of the other goes on."""
    async with no_hang():
        worker = Worker(admin, [pausing_in_parallel])
        await worker.start()
        handle = await admin.enqueue(pausing_in_parallel)
        await scene.gate.reached.wait()
        await scene.beside.reached.wait()
        (held,) = worker._services.runs._held
        run = held.context._run
        stopping = asyncio.create_task(worker.drain(15) if how == "drain" else handle.cancel())
        await until(lambda: not run.live)
        scene.beside.open()
        await until(lambda: run.lifecycle.body.task is None)
        assert run.may_write
        scene.gate.open()
        await stopping
        await until(lambda: not worker._services.runs._held)
        await worker.drain()
    assert await handle.status() == ("PENDING" if how == "drain" else "CANCELLED")
    assert [(each.step_id, each.status) for each in await handle.steps()] == [("first", "SUCCESS")]
    assert scene.executed == ["first"]


async def test_workflow_claimed_while_the_worker_stops_is_requeued(admin, sql):
    worker, claimed, stopping = Worker(admin, [pausing_within]), asyncio.Event(), asyncio.Event()
    await worker.start()
    claimer = worker._services._claimer
    claim = claimer._claim

    async def answered_late(*given):
        if found := await claim(*given):
            claimed.set()
            await stopping.wait()
        return found

    claimer._claim = answered_late
    async with no_hang():
        handle = await admin.enqueue(pausing_within)
        await claimed.wait()
        draining = asyncio.create_task(worker.drain(0.5))
        await until(lambda: claimer._stopping)
        stopping.set()
        await draining
    await _handed_back(sql, handle)
    assert scene.executed == []


async def test_step_exceeding_the_grace_is_executed_by_another_worker(admin, sql):
    async with no_hang():
        worker = Worker(admin, [pausing_within])
        await worker.start()
        handle = await admin.enqueue(pausing_within)
        await scene.gate.reached.wait()
        await worker.drain(timedelta(seconds=0.3).total_seconds())
        await _handed_back(sql, handle)
        scene.gate.open()
        async with Worker(admin, [pausing_within]):
            assert await handle.result() == ["1", "2"]
    assert scene.executed == ["first", "first", "second"]


async def test_second_or_cancelled_drain_shortens_the_grace(admin, sql):
    for hasten in (lambda worker, _draining: worker.drain(0), lambda _worker, draining: cancel_task(draining)):
        async with no_hang():
            scene.gate.reached.clear()
            worker = Worker(admin, [pausing_within])
            await worker.start()
            handle = await admin.enqueue(pausing_within)
            await scene.gate.reached.wait()
            draining = asyncio.create_task(worker.drain(60))
            await asyncio.sleep(0)
            began = time.monotonic()
            await hasten(worker, draining)
            await asyncio.wait([draining])
            assert time.monotonic() - began < 3
        await _handed_back(sql, handle)
        await handle.cancel()


async def test_error_in_the_worker_block_stops_it_without_grace(admin, sql):
    async with no_hang():
        began = time.monotonic()
        with pytest.raises(ZeroDivisionError):
            async with Worker(admin, [pausing_within]):
                handle = await admin.enqueue(pausing_within)
                await scene.gate.reached.wait()
                _ = 1 / 0
        assert time.monotonic() - began < 5
    await _handed_back(sql, handle)


async def test_cancelled_worker_requeues_its_runs_at_once(admin, sql):
    async with no_hang():
        running = asyncio.create_task(Worker(admin, [pausing_within]).run())
        handle = await admin.enqueue(pausing_within)
        await scene.gate.reached.wait()
        await cancel_task(running)
    await _handed_back(sql, handle)


async def test_heartbeat_continues_until_the_drain_ends(dsn, schema, admin, sql):
    own = Admin(dsn, schema)
    limit(own, heartbeat_interval=0.1, heartbeat_timeout=1.5)
    async with no_hang(), own, Worker(admin, [pausing_between]):  # the second knows not what the first runs
        worker = Worker(own, [pausing_within])
        await worker.start()
        handle = await admin.enqueue(pausing_within)
        await scene.gate.reached.wait()
        draining = asyncio.create_task(worker.drain(15))
        executor = (await own.store()).executor_id
        began = await sql.fetchval("SELECT now()")

        async def long_after():
            row = await sql.fetchrow("SELECT *, now() AS now FROM pgqrs_executors WHERE id = $1", executor)
            assert row["expires_at"] > row["now"]
            assert (row["stopped_at"], row["suspected_at"]) == (None, None)
            return row["now"] - began > timedelta(seconds=2)

        await until(long_after)
        assert await handle.status() == "RUNNING"
        scene.gate.open()
        await draining
    await _handed_back(sql, handle)


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]])
async def test_first_signal_drains_and_second_stops_the_worker(admin, sql, signals):
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    async with no_hang():
        running = asyncio.create_task(Worker(admin, [pausing_within], grace=60).run())
        handle = await admin.enqueue(pausing_within)
        await scene.gate.reached.wait()
        for each in signals:
            os.kill(os.getpid(), each)
            done, _ = await asyncio.wait([running], timeout=0.3)
        if len(signals) == 1:
            assert not done
            scene.gate.open()
        await running
    assert {each: signal.getsignal(each) for each in before} == before
    await _handed_back(sql, handle)
    assert scene.executed == ["first"]
    assert [each.status for each in await handle.steps() if each.status == "SUCCESS"] == ["SUCCESS"] * (
        2 - len(signals)
    )


async def test_signal_drains_all_workers_of_the_loop(admin):
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    async with no_hang():
        workers = [Worker(admin, [pausing_within], queues=(queue,)) for queue in ("first", "second", "third")]
        running = [asyncio.create_task(worker.run()) for worker in workers]

        async def have_started():
            return all(worker._services for worker in workers)

        await until(have_started)
        await workers[2].drain()
        await running[2]
        assert {each: signal.getsignal(each) for each in before} != before
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.gather(*running)
    assert {each: signal.getsignal(each) for each in before} == before


async def test_draining_an_idle_worker_returns_quickly(admin):
    began = time.monotonic()
    async with no_hang(), Worker(admin, [pausing_within]) as worker:
        await worker.drain()
        await worker.drain()
    assert time.monotonic() - began < 2
