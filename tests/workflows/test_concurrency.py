"""Tasks of a run that call the same step, and steps that wait for each other."""

from __future__ import annotations

import asyncio

import pytest

from pgqrs import PyWorkflow, StepCycleError, StepFailedError, step, workflow
from tests.support.recorded import status, steps
from tests.support.waiting import no_hang
from tests.support.workflows import cancel_task


async def asleep():
    """Let every task that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_concurrent_calls_of_one_step_share_one_execution(admin, sql):
    executed = []
    release = asyncio.Event()

    @step
    async def shared(ctx: PyWorkflow, n: int) -> int:
        executed.append(n)
        await release.wait()
        return n

    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        tasks = [asyncio.create_task(shared(ctx, n)) for n in range(5)]
        await asleep()
        assert executed == [0]
        release.set()
        return await asyncio.gather(*tasks)

    async with no_hang():
        ctx = await admin.create_workflow("wf")
        assert await wf(ctx) == [0] * 5
    assert executed == [0]
    assert await steps(sql, ctx) == {"shared": "SUCCESS"}


async def test_shared_execution_error_reaches_all_callers(admin):
    executed = []

    @step
    async def shared(ctx: PyWorkflow) -> None:
        executed.append(1)
        await asleep()
        raise KeyError("gone")

    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        results = await asyncio.gather(*(shared(ctx) for _ in range(4)), return_exceptions=True)
        found.append([isinstance(each, KeyError) for each in results])
        replayed.append(sum(isinstance(each, StepFailedError) for each in results))
        return [str(each) for each in results]

    found, replayed = [], []
    async with no_hang():
        assert await admin.run(wf) == ["'gone'"] * 4
    assert executed == [1]
    assert found[-1] == [True] * 4
    assert replayed[-1] >= 3  # in a replay of the body the fourth gets it too


async def test_waiter_executes_the_step_of_a_cancelled_task(admin):
    executed = []
    release = asyncio.Event()

    @step
    async def shared(ctx: PyWorkflow, who: str) -> str:
        executed.append(who)
        await release.wait()
        return who

    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        first, second, third = [asyncio.create_task(shared(ctx, who)) for who in "abc"]
        await asleep()
        first.cancel()
        await asleep()
        release.set()
        await asyncio.wait([first])
        cancelled.append(first.cancelled())
        return [await second, await third]

    cancelled = []
    async with no_hang():
        assert await admin.run(wf) == ["b", "b"]
    assert executed == ["a", "b"]
    assert cancelled[0]


async def test_cancelled_waiter_does_not_stop_the_execution(admin):
    release = asyncio.Event()

    @step
    async def shared(ctx: PyWorkflow, who: str) -> str:
        await release.wait()
        return who

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        first, second = [asyncio.create_task(shared(ctx, who)) for who in "ab"]
        await asleep()
        second.cancel()
        await asleep()
        release.set()
        await asyncio.wait([second])
        cancelled.append(second.cancelled())
        return await first

    cancelled = []
    async with no_hang():
        assert await admin.run(wf) == "a"
    assert cancelled[0]


async def test_cancelled_waiter_does_not_lose_the_pending_outcome(admin, sql):
    """The row is locked by somebody else, so the write is on its way for as long as we want."""
    executed = []
    executing = asyncio.Event()

    @step
    async def written(ctx: PyWorkflow) -> int:
        executed.append(1)
        executing.set()
        return 1

    @workflow
    async def wf(ctx: PyWorkflow) -> int:
        async with sql.transaction():
            await sql.execute("SELECT 1 FROM pgqrs_workflows WHERE id = $1 FOR UPDATE", ctx.id())
            task = asyncio.create_task(written(ctx))
            await executing.wait()
            await asleep()
            await cancel_task(task)
        return await written(ctx)

    ctx = await admin.create_workflow("wf")
    async with no_hang():
        assert await wf(ctx) == 1
    assert executed == [1]


# --- circles ---


async def test_a_step_that_calls_itself_is_an_error(admin):
    @step
    async def itself(ctx: PyWorkflow) -> None:
        await itself(ctx)

    async with no_hang():
        with pytest.raises(StepCycleError, match="'itself'") as caught:
            await itself(await admin.create_workflow("wf"))
    assert caught.value.step_id == "itself"


async def test_a_step_that_calls_itself_through_another_is_an_error(admin):
    @step
    async def a(ctx: PyWorkflow) -> None:
        await b(ctx)

    @step
    async def b(ctx: PyWorkflow) -> None:
        await a(ctx)

    async with no_hang():
        with pytest.raises(StepCycleError, match="'a'"):
            await a(await admin.create_workflow("wf"))


async def test_indirect_step_recursion_through_tasks_is_an_error(admin):
    @step
    async def gathers(ctx: PyWorkflow) -> None:
        await asyncio.gather(asyncio.sleep(0), inner(ctx))

    @step
    async def inner(ctx: PyWorkflow) -> None:
        await asyncio.create_task(gathers(ctx))

    async with no_hang():
        with pytest.raises(StepCycleError, match="'gathers'"):
            await gathers(await admin.create_workflow("wf"))


async def test_mutually_waiting_branches_raise_a_cycle_error(admin, sql):
    both = asyncio.Barrier(2)

    @step
    async def a(ctx: PyWorkflow) -> None:
        await both.wait()
        await b(ctx)

    @step
    async def b(ctx: PyWorkflow) -> None:
        await both.wait()
        await a(ctx)

    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        await asyncio.gather(a(ctx), b(ctx))

    ctx = await admin.create_workflow("wf")
    async with no_hang():
        with pytest.raises(StepCycleError):
            await wf(ctx)
    assert await status(sql, ctx) == "ERROR"


async def test_cycle_of_three_steps_through_tasks_does_not_hang(admin):
    everybody = asyncio.Barrier(3)
    following = {"a": "b", "b": "c", "c": "a"}

    @step(key=lambda name: name)
    async def node(ctx: PyWorkflow, name: str) -> str:
        await everybody.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(node(ctx, following[name]))
        return name

    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        return await asyncio.gather(*(node(ctx, name) for name in following), return_exceptions=True)

    async with no_hang():
        with pytest.raises(ValueError):  # the errors that it returns are not JSON: what counts is that it returns
            await admin.run(wf)


async def test_workflow_continues_after_a_caught_cycle_error(admin):
    @step
    async def careful(ctx: PyWorkflow) -> str:
        try:
            return await careful(ctx)
        except StepCycleError:
            return "broke the circle"

    async with no_hang():
        assert await careful(await admin.create_workflow("wf")) == "broke the circle"


async def test_waiting_for_an_independent_step_is_not_a_cycle(admin):
    started = asyncio.Event()

    @step
    async def slow(ctx: PyWorkflow) -> int:
        started.set()
        await asleep()
        return 1

    @step
    async def waits(ctx: PyWorkflow) -> int:
        await started.wait()
        return await slow(ctx) + 1

    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        return await asyncio.gather(slow(ctx), waits(ctx))

    async with no_hang():
        assert await admin.run(wf) == [1, 2]


async def test_recursion_with_different_keys_is_not_a_cycle(admin):
    @step(key=lambda n: n)
    async def factorial(ctx: PyWorkflow, n: int) -> int:
        return 1 if n == 0 else n * await factorial(ctx, n - 1)

    async with no_hang():
        assert await factorial(await admin.create_workflow("wf"), 10) == 3628800


async def test_repeated_call_after_a_cycle_error_does_not_hang(admin):
    @step
    async def first(ctx: PyWorkflow) -> str:
        return await first(ctx)

    ctx = await admin.create_workflow("wf")
    async with no_hang():
        for _ in range(2):
            with pytest.raises(StepCycleError):
                await first(ctx)


# --- many ---


async def test_failing_workflows_do_not_affect_other_workflows(admin):
    @step
    async def maybe(ctx: PyWorkflow, n: int) -> int:
        if n % 3 == 0:
            raise ValueError(str(n))
        if n % 3 == 1:
            raise asyncio.CancelledError
        return n

    @workflow
    async def wf(ctx: PyWorkflow, n: int) -> int:
        return await maybe(ctx, n)

    async with no_hang():
        results = await asyncio.gather(*(admin.run(wf, n) for n in range(60)), return_exceptions=True)
    for n, result in enumerate(results):
        expected = {0: ValueError, 1: asyncio.CancelledError, 2: int}[n % 3]
        assert isinstance(result, expected), (n, result)
    counted = {}
    for record in await admin.list_workflows():
        counted[str(record.status)] = counted.get(str(record.status), 0) + 1
    assert counted == {"ERROR": 20, "RUNNING": 20, "SUCCESS": 20}
