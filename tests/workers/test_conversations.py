"""Conversations of workflows: a run that has sent a message waits a moment in memory for the answer, and then parks."""

from __future__ import annotations

import asyncio

import pytest

from pgqrs import Admin, PyWorkflow, Topic, WaitTimeoutError, Worker, workflow
from pgqrs.engine import parking
from tests.support.admins import limit
from tests.support.waiting import DEADLINE, no_hang, until
from tests.support.wire import Wire

BALL = Topic("ball", int)
ROUNDS = 10
LONG = 10 * DEADLINE


@workflow
async def serving(ctx: PyWorkflow, other: int, rounds: int) -> None:
    """Send a ball to another workflow, and receive it again."""
    for _ in range(rounds):
        await ctx.send(other, BALL, ctx.id())
        await ctx.receive(BALL)


@workflow
async def returning(ctx: PyWorkflow, rounds: int) -> None:
    """Send each ball back."""
    for _ in range(rounds):
        sender = await ctx.receive(BALL)
        await ctx.send(sender, BALL, 1)


@workflow
async def impatient(ctx: PyWorkflow, other: int) -> None:
    """Send a ball, and wait for it for a short time."""
    await ctx.send(other, BALL, ctx.id())
    await ctx.receive(BALL, timeout=0.05)


FUNCTIONS = [serving, returning, impatient]


@pytest.fixture
def patient(monkeypatch):
    """Let a run linger for longer than a test may take."""
    monkeypatch.setattr(parking, "MAX_LINGER", LONG)


async def _have_status(sql, status, count):
    return await sql.fetchval("SELECT count(*) FROM pgqrs_workflows WHERE status = $1", status) == count


async def _lingers(admin):
    """Return whether a run waits in memory: a parked one has no subscription."""
    return (await admin.store()).arrivals._waiting


async def _epoch(sql, handle):
    return await sql.fetchval("SELECT epoch FROM pgqrs_workflows WHERE id = $1", handle.id)


@pytest.mark.without_replay("it counts round trips")
@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(("pairs", "most"), [(1, 6.5), (20, 2.0)])
async def test_round_trips_of_a_message(dsn, admin, sql, pairs, most):
    async with no_hang(), Wire(dsn, sql) as wire, Admin(wire.dsn, admin.schema) as own:
        limit(own, heartbeat_interval=3600.0)
        async with Worker(own, FUNCTIONS, concurrency=100):
            for rounds, ended in ((1, 0), (ROUNDS, 2 * pairs)):  # after the first one, the statements are known
                others = await own.enqueue_many(returning, ((rounds,) for _ in range(pairs)))
                await until(_have_status, sql, "WAITING", pairs)
                before = wire.exchanges
                await own.enqueue_many(serving, ((other.id, rounds) for other in others))
                await until(_have_status, sql, "SUCCESS", ended + 2 * pairs)
    assert (wire.exchanges - before) / (2 * pairs * ROUNDS) <= most


@pytest.mark.without_replay("it counts the runs")
@pytest.mark.usefixtures("patient")
async def test_answer_that_comes_at_once_needs_no_second_run(admin, sql):
    async with no_hang(), Worker(admin, FUNCTIONS, concurrency=10):
        other = await admin.enqueue(returning, 5)
        handle = await admin.enqueue(serving, other.id, 5)
        await handle.result()
    assert await _epoch(sql, handle) == 1


@pytest.mark.without_replay("no run lingers there")
@pytest.mark.usefixtures("patient")
async def test_answer_of_another_process_ends_the_short_wait(dsn, admin, sql):
    other = await admin.enqueue(returning, 1)
    async with no_hang(), Admin(dsn, admin.schema) as elsewhere, Worker(admin, [serving], concurrency=10):
        handle = await admin.enqueue(serving, other.id, 1)
        await until(_lingers, admin)
        await elsewhere.send(handle.id, BALL, 1)
        await handle.result()
    assert await _epoch(sql, handle) == 1


async def test_run_that_gets_no_answer_parks_with_one_commit(admin, sql):
    other = await admin.enqueue(returning, 1)
    async with no_hang(), Worker(admin, [serving], concurrency=10):
        handle = await admin.enqueue(serving, other.id, 1)
        await until(_have_status, sql, "WAITING", 1)
        one = """
            SELECT s.xmin = w.xmin FROM pgqrs_workflow_steps s JOIN pgqrs_workflows w ON w.id = s.workflow_id
            WHERE w.id = $1 AND s.status = 'RUNNING'
        """
        assert await sql.fetchval(one, handle.id)
        await handle.send(BALL, 1)
        await handle.result()


@pytest.mark.usefixtures("patient")
async def test_run_without_a_free_slot_beside_it_parks_at_once(admin, sql):
    other = await admin.enqueue(returning, 3)
    async with no_hang(), Worker(admin, [serving], concurrency=1):
        handles = [await admin.enqueue(serving, other.id, 1) for _ in range(3)]
        await until(_have_status, sql, "WAITING", 3)
        for each in handles:
            await each.send(BALL, 1)
            await each.result()


@pytest.mark.usefixtures("patient")
async def test_run_that_has_sent_nothing_parks_at_once(admin, sql):
    async with no_hang(), Worker(admin, [returning], concurrency=10):
        await admin.enqueue(returning, 1)
        await until(_have_status, sql, "WAITING", 1)


@pytest.mark.usefixtures("patient")
async def test_timeout_ends_the_short_wait(admin):
    other = await admin.enqueue(returning, 1)
    async with no_hang(), Worker(admin, [impatient], concurrency=10):
        with pytest.raises(WaitTimeoutError):
            await (await admin.enqueue(impatient, other.id)).result()


@pytest.mark.without_replay("no run lingers there")
@pytest.mark.usefixtures("patient")
async def test_stopping_worker_hands_over_a_run_that_lingers(admin, sql):
    other = await admin.enqueue(returning, 1)
    async with no_hang():
        async with Worker(admin, [serving], concurrency=10):
            handle = await admin.enqueue(serving, other.id, 1)
            await until(_lingers, admin)
        assert await _have_status(sql, "PENDING", 2)
        async with Worker(admin, FUNCTIONS, concurrency=10):
            await asyncio.gather(handle.result(), other.result())
