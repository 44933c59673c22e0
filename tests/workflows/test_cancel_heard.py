"""A requested cancellation takes effect at the next durable write of the workflow."""

import asyncio

import pytest

from pgqrs import PyWorkflow, TransientError, WorkflowCancelledError, WorkflowStatus, step, workflow
from pgqrs.types import StepStatus

ASK = "UPDATE pgqrs_workflows SET cancel_interrupts = $1 WHERE id = $2"
"""A cancellation of which no notification tells: a row changed by a transaction of the application."""

pytestmark = pytest.mark.without_replay("it counts the steps that begin")


@step(key=lambda n: n)
async def part(ctx: PyWorkflow, n: int) -> int:
    return n


@step(key=lambda n: n, transactional=True)
async def booked(ctx: PyWorkflow, n: int) -> int:
    return n


@pytest.mark.parametrize("kind", [part, booked], ids=["a step", "a transactional step"])
async def test_step_that_detects_a_cancellation_is_the_last(admin, sql, kind):
    begun = []

    @workflow
    async def many(ctx: PyWorkflow):
        for n in range(20):
            begun.append(n)
            if n == 3:
                await sql.execute(ASK, False, ctx.id())
            await kind(ctx, n)

    with pytest.raises(WorkflowCancelledError):
        await admin.run(many)
    assert begun == [0, 1, 2, 3, 4]  # the call of the last one raised
    ((record,), steps) = await admin.list_workflows(), await admin.list_steps(1)
    assert record.status == WorkflowStatus.CANCELLED
    assert [each.step_id for each in steps if each.status == StepStatus.SUCCESS] == [
        f"{kind.__name__}:{n}" for n in range(4)
    ]


async def test_running_steps_are_recorded_despite_a_cancellation(admin, sql):
    @step(key=lambda n: n)
    async def slow(ctx: PyWorkflow, n: int) -> int:
        await asyncio.sleep(0.01 * n)
        return n

    @workflow
    async def gathered(ctx: PyWorkflow):
        await sql.execute(ASK, False, ctx.id())
        await asyncio.gather(*(slow(ctx, n) for n in range(5)))
        await slow(ctx, 5)

    with pytest.raises(WorkflowCancelledError):
        await admin.run(gathered)
    assert sorted(each.output for each in await admin.list_steps(1)) == [0, 1, 2, 3, 4]


async def test_cancellation_wins_over_the_end_of_the_workflow(admin, sql):
    @workflow
    async def last_moment(ctx: PyWorkflow) -> str:
        await sql.execute(ASK, False, ctx.id())
        return "shipped"

    @workflow
    async def failing(ctx: PyWorkflow) -> str:
        await sql.execute(ASK, False, ctx.id())
        raise ValueError("no")

    for function in (last_moment, failing):
        with pytest.raises(WorkflowCancelledError):
            await admin.run(function)
    records = await admin.list_workflows()
    assert [(each.status, each.output, each.error) for each in records] == [
        (WorkflowStatus.CANCELLED, None, None)
    ] * 2


async def test_failed_attempt_is_recorded_and_ends_a_cancelled_run(admin, sql):
    calls = []

    @step(retry=5)
    async def flaky(ctx: PyWorkflow):
        calls.append(1)
        await sql.execute(ASK, False, ctx.id())
        raise TransientError("again", retry_after=30)

    @workflow
    async def retrying(ctx: PyWorkflow):
        await flaky(ctx)

    async with asyncio.timeout(15):
        with pytest.raises(WorkflowCancelledError):
            await admin.run(retrying)
    (recorded,) = await admin.list_steps(1)
    assert (len(calls), recorded.failures, recorded.status) == (1, 1, StepStatus.RUNNING)


async def test_interrupting_cancellation_cancels_running_steps(admin, sql):
    ended = []

    @step
    async def endless(ctx: PyWorkflow):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)

    @workflow
    async def both(ctx: PyWorkflow):
        await sql.execute(ASK, True, ctx.id())
        await asyncio.gather(endless(ctx), part(ctx, 1))

    async with asyncio.timeout(15):
        with pytest.raises(WorkflowCancelledError):
            await admin.run(both)
    assert ended == [1]


async def test_cancellation_by_caller_session_takes_effect_at_commit(dsn, admin, app, sessions):
    waiting = asyncio.Event()

    @workflow
    async def idle(ctx: PyWorkflow):
        await part(ctx, 1)
        waiting.set()
        await ctx.sleep(60)

    running = asyncio.create_task(admin.run(idle))
    await waiting.wait()
    async with sessions.begin() as session:
        await admin.cancel_workflow(1, session=session)
    async with asyncio.timeout(2):  # the beat is every three seconds, and has just been
        with pytest.raises(WorkflowCancelledError):
            await running
