"""A workflow that waits for the result of another workflow frees its slot in the worker."""

import asyncio
import logging

from pgqrs import Admin, PyWorkflow, Worker, step, workflow
from tests.support.waiting import no_hang, until

ADMIN: list[Admin] = []


@step
async def begun(ctx: PyWorkflow, depth: int) -> int:
    return (await ADMIN[0].options(key=f"{ctx.id()}").enqueue(nested, depth)).id


@step
async def awaited(ctx: PyWorkflow, workflow_id: int) -> int:
    return await ADMIN[0].handle(workflow_id, nested).result()


@workflow
async def nested(ctx: PyWorkflow, depth: int) -> int:
    if not depth:
        return 0
    workflow_id = await begun(ctx, depth - 1)
    if depth % 2:
        return 1 + await awaited(ctx, workflow_id)
    return 1 + await ADMIN[0].handle(workflow_id, nested).result()


async def test_worker_with_one_slot_runs_parents_and_children(admin):
    ADMIN[:] = [admin]
    async with no_hang(), Worker(admin, [nested], concurrency=1):
        handles = await admin.enqueue_many(nested, [(5,), (3,)])
        assert [await each.result() for each in handles] == [5, 3]


async def test_worker_warns_and_claims_no_more_when_all_runs_wait(admin, caplog):
    waiting = []
    never = await admin.options(queue="nobody serves it").enqueue(nested, 0)

    @workflow
    async def endless(ctx: PyWorkflow) -> None:
        waiting.append(ctx.id())
        await never.result()

    async def has_warned():
        return [each for each in caplog.messages if "wait for the results of other workflows" in each]

    caplog.set_level(logging.WARNING, "pgqrs")
    await admin.enqueue_many(endless, [()] * 12)
    async with no_hang(), Worker(admin, [endless], concurrency=1, grace=0):
        await until(has_warned)
        assert len(waiting) == 10
        await asyncio.sleep(0)
    assert len(await has_warned()) == 1
