"""A parent that failed by a child and is resumed waits for the child again."""

from __future__ import annotations

import pytest

from pgqrs import PyWorkflow, Sleep, StepFailedError, Worker, workflow
from pgqrs.types import StepStatus
from tests.support.families import children_of
from tests.support.waiting import no_hang, until
from tests.support.workflows import note

FAILING: set[int] = set()
"""The numbers with which `fragile` fails."""


class BrokenError(ValueError):
    """The failure of a child."""


@pytest.fixture(autouse=True)
def _second_fails():
    FAILING.clear()
    FAILING.add(2)


@workflow
async def fragile(ctx: PyWorkflow, number: int) -> int:
    await note(ctx, "begun")
    if number in FAILING:
        raise BrokenError(f"{number} is broken")
    return 10 * number


@workflow
async def by_await(ctx: PyWorkflow) -> list:
    children = [await ctx.start(fragile, each) for each in (1, 2)]
    return [await each for each in children]


@workflow
async def by_gather(ctx: PyWorkflow) -> list:
    return await ctx.gather(*[await ctx.start(fragile, each) for each in (1, 2)])


@workflow
async def by_many(ctx: PyWorkflow) -> list:
    return await ctx.gather(await ctx.start_many(fragile, [(1,), (2,)]))


@workflow
async def by_completion(ctx: PyWorkflow) -> list:
    children = [await ctx.start(fragile, each) for each in (1, 2)]
    return sorted([await each async for each in ctx.as_completed(*children)])


@workflow
async def by_group(ctx: PyWorkflow) -> list:
    async with ctx.children() as group:
        first = await group.start(fragile, 1)
        await first
        await group.start(fragile, 2)
    return group.results


@workflow
async def by_select(ctx: PyWorkflow) -> list:
    first = await ctx.start(fragile, 1)
    second = await ctx.start(fragile, 2)
    return [await first, (await ctx.select(done=second, late=Sleep(3600)))[1]]


@workflow
async def by_call(ctx: PyWorkflow) -> list:
    return [await ctx.call(fragile, each) for each in (1, 2)]


PARENTS = [by_await, by_gather, by_many, by_completion, by_group, by_select, by_call]


async def failed(handle):
    """Wait until a parent has failed by its second child."""
    with pytest.raises((StepFailedError, ExceptionGroup)) as caught:
        await handle.result()
    assert "2 is broken" in str(getattr(caught.value, "exceptions", caught.value))
    return await handle.steps()


async def has_ended(handle):
    return await handle.status() in {"SUCCESS", "ERROR", "CANCELLED"}


def step_of(records, step_id):
    (found,) = (each for each in records if each.step_id == step_id)
    return found


@pytest.mark.parametrize("parent", PARENTS, ids=lambda each: each.__name__)
async def test_resumed_parent_gets_the_output_of_the_resumed_child(admin, sql, parent):
    async with no_hang(), Worker(admin, [parent, fragile]):
        handle = await admin.enqueue(parent)
        await failed(handle)
        _, child = await children_of(sql, handle.id)
        FAILING.clear()
        await admin.resume_workflow(child["id"])
        assert await admin.handle(child["id"]).result() == 20
        await admin.resume_workflow(handle.id)
        assert await handle.result() == [10, 20]


@pytest.mark.parametrize("parent", PARENTS, ids=lambda each: each.__name__)
async def test_resumed_parent_of_a_failed_child_fails_again(admin, sql, parent):
    async with no_hang(), Worker(admin, [parent, fragile]):
        handle = await admin.enqueue(parent)
        before = await failed(handle)
        FAILING.clear()  # a new run of the child would succeed
        await admin.resume_workflow(handle.id)
        after = await failed(handle)
    assert [each["epoch"] for each in await children_of(sql, handle.id)] == [1, 1]
    assert [each.step_id for each in after] == [each.step_id for each in before]


@pytest.mark.parametrize("parent", PARENTS[:-1], ids=lambda each: each.__name__)
async def test_resumed_parent_waits_for_a_child_that_lives_again(admin, sql, parent):
    async with no_hang():
        async with Worker(admin, [parent, fragile]):
            handle = await admin.enqueue(parent)
            await failed(handle)
        _, child = await children_of(sql, handle.id)
        FAILING.clear()
        await admin.resume_workflow(child["id"])
        await admin.resume_workflow(handle.id)
        async with Worker(admin, [parent]):
            await until(is_parked, handle)
            async with Worker(admin, [fragile]):
                assert await handle.result() == [10, 20]


async def is_parked(handle):
    return await handle.status() == "WAITING"


async def test_resume_keeps_the_outcomes_of_children_that_succeeded(admin, sql):
    async with no_hang(), Worker(admin, [by_await, fragile]):
        handle = await admin.enqueue(by_await)
        before = await failed(handle)
        await admin.resume_workflow(handle.id)
        after = await failed(handle)
    first, second = "result/start/fragile:1", "result/start/fragile:2"
    assert step_of(after, first) == step_of(before, first)
    assert step_of(before, second).completed_at < step_of(after, second).completed_at
    assert step_of(after, second).status is StepStatus.SUCCESS


@workflow
async def tolerant(ctx: PyWorkflow) -> str:
    """Go on after the failure of a child, and fail by something else."""
    child = await ctx.start(fragile, 2)
    try:
        return f"child {await child}"
    except BrokenError:
        await note(ctx, "handled")
    if FAILING:
        raise RuntimeError("fails for another reason")
    return "handled"


async def test_new_run_without_a_resume_keeps_the_failure(admin, sql):
    async with no_hang(), Worker(admin, [tolerant, fragile]):
        handle = await admin.enqueue(tolerant)
        with pytest.raises(RuntimeError):
            await handle.result()
        (child,) = await children_of(sql, handle.id)
        FAILING.clear()
        await admin.resume_workflow(child["id"])
        assert await admin.handle(child["id"]).result() == 20
        assert await tolerant(await admin.get_workflow(handle.id)) == "handled"
