"""Workers carry out the retention, beside their runs."""

import asyncio
import logging

import pytest

from pgqrs import PyWorkflow, Worker, WorkflowNotFoundError, step, workflow
from pgqrs.worker import retention
from tests.support.retention import aged, left
from tests.support.waiting import no_hang, until


@step
async def told(ctx: PyWorkflow, number: int) -> int:
    return number


@workflow
async def brief(ctx: PyWorkflow, number: int) -> int:
    return await told(ctx, number)


@workflow
async def long(ctx: PyWorkflow) -> None:
    await ctx.sleep(3600)


@pytest.fixture
def soon(monkeypatch):
    """Let workers look for a step of the retention at once, and often."""
    monkeypatch.setattr(retention, "FIRST_LOOK", 0.001)
    monkeypatch.setattr(retention, "OTHERS_TURN", 0.01)


async def test_workers_delete_beside_their_runs(admin, sql, soon, caplog):
    caplog.set_level(logging.INFO, "pgqrs.worker")
    old = {await aged(sql) for _ in range(1200)}
    await admin.set_retention()
    async with no_hang(), admin.twin() as other, Worker(admin, [brief]), Worker(other, [brief]):
        handles = [await admin.enqueue(brief, n) for n in range(50)]
        assert [await each.result() for each in handles] == list(range(50))
        await until(lambda: [each for each in caplog.messages if "has deleted 1200 workflows" in each])
        assert old.isdisjoint(await left(sql))
        assert await handles[0].result() == 0


async def test_worker_says_the_default_and_keeps_all_in_the_grace(admin, sql, soon, caplog):
    caplog.set_level(logging.INFO, "pgqrs.worker")
    old = await aged(sql, 4000)
    async with Worker(admin, [brief]):
        await until(lambda: [each for each in caplog.messages if "the first deletion is in 7.0 days" in each])
    assert await left(sql) == [old]


async def test_idle_worker_sends_one_statement_for_the_retention(admin, sql, soon):
    async with Worker(admin, [brief]) as worker:
        steps = worker._services._retention._pass
        await until(lambda: steps.statements == 3)  # no row; it is made; the look
        await until(lambda: not steps._dedicated.is_open)
    async with Worker(admin, [brief]) as worker:
        steps = worker._services._retention._pass
        await until(lambda: steps.statements == 1)
        await until(lambda: not steps._dedicated.is_open)
        assert steps.statements == 1


async def test_missing_right_is_logged_and_stops_nothing(admin, sql, soon, caplog):
    await admin.set_retention()
    await aged(sql)
    await sql.execute("ALTER TABLE pgqrs_events RENAME TO pgqrs_events_away")
    async with Worker(admin, [brief]):
        await until(lambda: [each for each in caplog.messages if "the retention is interrupted" in each])
        assert await (await admin.enqueue(brief, 1)).result() == 1
        await sql.execute("ALTER TABLE pgqrs_events_away RENAME TO pgqrs_events")
        await until(lambda: sql.fetchval("SELECT deleted = 1 AND stage IS NULL FROM pgqrs_retention"))


async def test_waiting_handle_learns_of_the_deletion(admin, sql):
    handle = await admin.options(queue="unserved").enqueue(long)
    waiting = asyncio.ensure_future(handle.result())
    await asyncio.sleep(0)
    await sql.execute("DELETE FROM pgqrs_workflows")
    with pytest.raises(WorkflowNotFoundError):
        await asyncio.wait_for(waiting, 30)
