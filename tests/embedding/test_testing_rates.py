"""The clock of the test kit, and queues with a rate or a pause."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import pairwise

import pytest

from pgqrs import PyWorkflow, Rate, Worker, workflow
from pgqrs.testing import run_enqueued
from tests.support.waiting import no_hang, until

pytest_plugins = ("pytest_pgqrs",)

MINUTE = timedelta(minutes=1)


@workflow
async def call(ctx: PyWorkflow) -> int:
    return 1


async def have_ended(admin, count):
    return len(await admin.list_workflows(status="SUCCESS")) == count


@pytest.mark.parametrize("limit", ["rate", "partition_rate"])
async def test_clock_that_moves_allows_the_next_start(kit, clock, limit):
    await kit.set_queue("api", **{limit: Rate(1, per=60)})
    submit = kit.options(queue="api", partition_key="acme")
    async with no_hang(), Worker(kit, [call], ["api"]) as worker:
        await submit.enqueue_many(call, [()] * 3)
        for count in (1, 2, 3):
            await until(have_ended, kit, count)
            await clock.advance(seconds=58)
            looks = worker._services._claim_connection.statements
            await until(lambda looks=looks: worker._services._claim_connection.statements > looks + 2)
            assert await have_ended(kit, count)
            await clock.advance(seconds=2)
    times = sorted(each.started_at for each in await kit.list_workflows())
    assert all(MINUTE <= later - earlier < 2 * MINUTE for earlier, later in pairwise(times))


@pytest.mark.parametrize("limit", ["rate", "partition_rate"])
async def test_run_enqueued_skips_to_the_next_start(kit, clock, limit):
    await kit.set_queue("api", **{limit: Rate(1, per=60, burst=2)})
    submit = kit.options(queue="api", partition_key="acme")
    await submit.enqueue_many(call, [()] * 5)
    async with no_hang():
        assert await run_enqueued(kit, [call]) == 5
    assert 2.9 * MINUTE < clock.ahead < 3.1 * MINUTE


async def test_skipping_moves_a_worker_to_the_next_start(kit, clock):
    await kit.set_queue("api", rate=Rate(1, per=3600))
    async with no_hang(), Worker(kit, [call], ["api"]), clock.skipping():
        handles = await kit.options(queue="api").enqueue_many(call, [()] * 3)
        assert await asyncio.gather(*(each.result() for each in handles)) == [1, 1, 1]
    assert timedelta(hours=1.9) < clock.ahead < timedelta(hours=2.1)


async def test_run_enqueued_leaves_a_paused_queue(kit):
    await kit.pause_queue("api")
    await kit.options(queue="api").enqueue(call)
    await kit.enqueue(call)
    async with no_hang():
        assert await run_enqueued(kit, [call]) == 1
        await kit.resume_queue("api")
        assert await run_enqueued(kit, [call]) == 1
