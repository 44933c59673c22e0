"""Re-running a workflow in ERROR: which steps are executed again, and which errors are raised again."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from pgqrs import PyWorkflow, StepFailedError, WorkflowFinishedError, workflow
from tests.support.recorded import status, steps
from tests.support.waiting import no_hang


async def test_only_the_transient_step_is_executed_again(admin, scenario):
    a, b, c = scenario.step("a"), scenario.step("b", OSError("x")), scenario.step("c")

    async def body(ctx: PyWorkflow):
        return [await each(ctx) for each in (a, b, c)]

    assert await scenario.run_twice(admin, body) == (["a", "b"], ["b", "c"])


async def test_a_terminal_error_is_replayed_at_once(admin, scenario):
    a, b, c = scenario.step("a"), scenario.step("b", ValueError("x")), scenario.step("c")

    async def body(ctx: PyWorkflow):
        return [await each(ctx) for each in (a, b, c)]

    assert await scenario.run_twice(admin, body, second=ValueError) == (["a", "b"], [])


async def test_transient_error_reopens_on_every_run(admin, scenario, sql):
    a = scenario.step("a", *[OSError(str(n)) for n in range(5)])

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        return await a(ctx)

    ctx = await admin.create_workflow("wf")
    for n in range(5):
        with pytest.raises(OSError, match=str(n)):
            await wf(ctx)
        assert await status(sql, ctx) == "ERROR"
    assert await wf(ctx) == "a"
    assert len(scenario.executed) == 6


async def test_newly_fetched_context_reopens_the_step(admin, scenario):
    a = scenario.step("a", OSError("x"))

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        return await a(ctx)

    ctx = await admin.create_workflow("wf")
    with pytest.raises(OSError):
        await wf(ctx)
    assert await wf(await admin.get_workflow(ctx.id())) == "a"


# --- found through the exception that left the body ---


async def test_step_is_found_through_the_cause(admin, scenario):
    a = scenario.step("a", OSError("x"))

    async def body(ctx: PyWorkflow):
        try:
            await a(ctx)
        except OSError as error:
            raise LookupError("no luck") from error

    assert await scenario.run_twice(admin, body, first=LookupError) == (["a"], ["a"])


async def test_step_is_found_through_the_exception_context(admin, scenario):
    a = scenario.step("a", OSError("x"))

    async def body(ctx: PyWorkflow):
        try:
            await a(ctx)
        except OSError:
            raise LookupError("no luck")  # noqa: B904

    assert await scenario.run_twice(admin, body, first=LookupError) == (["a"], ["a"])


async def test_step_is_found_through_a_suppressed_context(admin, scenario):
    """`from None` changes what a traceback shows, and not what brought the workflow down."""
    a = scenario.step("a", OSError("x"))

    async def body(ctx: PyWorkflow):
        try:
            await a(ctx)
        except OSError:
            raise LookupError("no luck") from None

    assert await scenario.run_twice(admin, body, first=LookupError) == (["a"], ["a"])


async def test_transient_error_caused_by_a_terminal_error_is_final(admin, scenario):
    a = scenario.step("a", ValueError("x"))

    async def body(ctx: PyWorkflow):
        try:
            await a(ctx)
        except ValueError as error:
            raise RuntimeError("wrapped") from error

    assert await scenario.run_twice(admin, body, first=RuntimeError, second=RuntimeError) == (["a"], [])


async def test_step_is_found_in_a_task_group_error(admin, scenario):
    a, b, c = scenario.step("a", OSError("x")), scenario.step("b"), scenario.step("c", ValueError("y"))

    async def body(ctx: PyWorkflow):
        await b(ctx)
        async with asyncio.TaskGroup() as group:
            group.create_task(a(ctx))

    assert await scenario.run_twice(admin, body, first=ExceptionGroup) == (["b", "a"], ["a"])
    del c


async def test_both_failures_of_a_task_group_are_reopened(admin, scenario):
    ready = asyncio.Barrier(2)

    async def meet(ctx):
        if not met:
            await ready.wait()

    met = []
    a, b = scenario.step("a", OSError("x"), body=meet), scenario.step("b", OSError("y"), body=meet)

    async def body(ctx: PyWorkflow):
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(a(ctx))
                group.create_task(b(ctx))
        finally:
            met.append(1)

    async with no_hang():
        one, two = await scenario.run_twice(admin, body, first=ExceptionGroup)
    assert sorted(one) == ["a", "b"]
    assert sorted(two) == ["a", "b"]


async def test_group_reopens_only_its_transient_leaf(admin, scenario):
    a, b = scenario.step("a", OSError("x")), scenario.step("b", ValueError("y"))

    async def body(ctx: PyWorkflow):
        results = await asyncio.gather(a(ctx), b(ctx), return_exceptions=True)
        raise ExceptionGroup("both", [each for each in results if isinstance(each, Exception)])

    one, two = await scenario.run_twice(admin, body, first=ExceptionGroup, second=ExceptionGroup)
    assert (sorted(one), two) == (["a", "b"], ["a"])


async def test_second_failure_of_a_gather_is_reopened(admin, scenario):
    ready = asyncio.Barrier(2)

    async def meet(ctx):
        if not crashed:
            await ready.wait()

    crashed = []
    a, b = scenario.step("a", OSError("x"), body=meet), scenario.step("b", OSError("y"), body=meet)

    async def body(ctx: PyWorkflow):
        try:
            return await asyncio.gather(a(ctx), b(ctx))
        finally:
            crashed.append(1)

    async with no_hang():
        one, two = await scenario.run_twice(admin, body, first=OSError)
    assert sorted(one) == ["a", "b"]
    assert sorted(two) == ["a", "b"]


async def test_failures_returned_by_a_gather_and_raised_are_reopened(admin, scenario):
    a, b = scenario.step("a", OSError("x")), scenario.step("b", OSError("y"))

    async def body(ctx: PyWorkflow):
        results = await asyncio.gather(a(ctx), b(ctx), return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    one, two = await scenario.run_twice(admin, body, first=OSError)
    assert sorted(one) == ["a", "b"]
    assert sorted(two) == ["a", "b"]


async def test_cleanup_steps_do_not_hide_the_failed_step(admin, scenario):
    a, cleanup, last = scenario.step("a", OSError("x")), scenario.step("cleanup"), scenario.step("last")

    async def body(ctx: PyWorkflow):
        try:
            await a(ctx)
        except OSError:
            await cleanup(ctx)
            raise
        finally:
            await last(ctx)

    assert await scenario.run_twice(admin, body, first=OSError) == (["a", "cleanup", "last"], ["a"])


async def test_replayed_transient_error_reopens_its_step(admin, scenario):
    a = scenario.step("a", OSError("x"))
    seen = []

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        try:
            return await a(ctx)
        except OSError as error:
            seen.append(isinstance(error, StepFailedError))
            if not crashed:
                crashed.append(1)
                raise asyncio.CancelledError from error
            raise

    crashed = []
    ctx = await admin.create_workflow("wf")
    with pytest.raises(asyncio.CancelledError):
        await wf(ctx)
    with pytest.raises(OSError):
        await wf(ctx)
    assert len(seen) == 2
    assert seen[-1]
    assert scenario.since() == ["a"]
    assert await wf(ctx) == "a"
    assert scenario.since() == ["a"]


async def test_sibling_cancelled_by_a_task_group_is_executed_again(admin, scenario):
    running, first_over = asyncio.Event(), []

    async def hang(ctx):
        running.set()
        if not first_over:
            await asyncio.Event().wait()

    async def wait(ctx):
        await running.wait()

    a, b = scenario.step("a", OSError("x"), body=wait), scenario.step("b", body=hang)

    async def body(ctx: PyWorkflow):
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(a(ctx))
                group.create_task(b(ctx))
        finally:
            first_over.append(1)

    async with no_hang():
        one, two = await scenario.run_twice(admin, body, first=ExceptionGroup)
    assert sorted(one) == sorted(two) == ["a", "b"]


# --- nested steps ---


async def test_transient_inner_error_reopens_its_outer_step(admin, scenario):
    inner = scenario.step("inner", OSError("x"))
    outer = scenario.step("outer", body=inner)

    async def body(ctx: PyWorkflow):
        await outer(ctx)

    assert await scenario.run_twice(admin, body, first=OSError) == (["outer", "inner"], ["outer", "inner"])


async def test_inner_success_is_skipped_when_its_outer_step_reopens(admin, scenario):
    inner = scenario.step("inner")
    outer = scenario.step("outer", OSError("x"), body=inner)

    async def body(ctx: PyWorkflow):
        await outer(ctx)

    assert await scenario.run_twice(admin, body, first=OSError) == (["outer", "inner"], ["outer"])


async def test_wrapped_inner_error_reopens_both_steps(admin, scenario):
    inner = scenario.step("inner", OSError("x"))

    async def wrapping(ctx):
        try:
            await inner(ctx)
        except OSError as error:
            raise RuntimeError("outer") from error

    outer = scenario.step("outer", body=wrapping)

    async def body(ctx: PyWorkflow):
        await outer(ctx)

    assert await scenario.run_twice(admin, body, first=RuntimeError) == (["outer", "inner"], ["outer", "inner"])


async def test_a_terminal_inner_error_keeps_failing_its_outer_step(admin, scenario):
    inner = scenario.step("inner", ValueError("x"))
    outer = scenario.step("outer", body=inner)

    async def body(ctx: PyWorkflow):
        await outer(ctx)

    one, two = await scenario.run_twice(admin, body, first=ValueError, second=ValueError)
    assert (one, two) == (["outer", "inner"], [])


async def test_deeply_nested_error_reopens_all_enclosing_steps(admin, scenario):
    c = scenario.step("c", OSError("x"))
    b = scenario.step("b", body=c)
    a = scenario.step("a", body=b)

    async def body(ctx: PyWorkflow):
        await a(ctx)

    assert await scenario.run_twice(admin, body, first=OSError) == (["a", "b", "c"], ["a", "b", "c"])


async def test_crash_before_the_end_of_a_run_keeps_inner_errors(admin, scenario):
    """The run after the crash is only told the outer step's error; the inner step must be executed again too."""
    c = scenario.step("c", OSError("x"))
    b = scenario.step("b", body=c)
    a = scenario.step("a", body=b)
    crashed = []

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        try:
            return await a(ctx)
        except OSError:
            if not crashed:
                crashed.append(1)
                raise asyncio.CancelledError from None
            raise

    ctx = await admin.create_workflow("wf")
    with pytest.raises(asyncio.CancelledError):
        await wf(ctx)
    again = await admin.get_workflow(ctx.id())
    with pytest.raises(StepFailedError):
        await wf(again)
    assert scenario.since() == ["a", "b", "c"]
    assert await wf(again) == "a"
    assert scenario.since() == ["a", "b", "c"]


async def test_step_error_names_the_inner_steps_that_caused_it(admin, scenario):
    inner, caught = scenario.step("inner", OSError("x")), scenario.step("caught", OSError("y"))

    async def both(ctx):
        with suppress(OSError):
            await caught(ctx)
        await inner(ctx)

    outer = scenario.step("outer", body=both)

    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        await outer(ctx)

    ctx = await admin.create_workflow("wf")
    with pytest.raises(OSError, match="x"):
        await wf(ctx)
    errors = {each.step_id: each.error for each in await admin.list_steps(ctx.id())}
    assert errors["outer"]["steps"] == ["inner"]
    assert "steps" not in errors["inner"]
    [record] = await admin.list_workflows()
    assert "steps" not in record.error


# --- errors that the body has caught ---


async def test_failed_fallback_does_not_reopen_the_caught_error(admin, scenario):
    primary, fallback = scenario.step("primary", OSError("x")), scenario.step("fallback", OSError("y"))

    async def body(ctx: PyWorkflow):
        try:
            return await primary(ctx)
        except OSError:
            return await fallback(ctx)

    assert await scenario.run_twice(admin, body, first=OSError) == (["primary", "fallback"], ["fallback"])


async def test_later_failure_of_the_body_reopens_no_caught_error(admin, scenario):
    a, b = scenario.step("a", OSError("x")), scenario.step("b")
    crashed = []

    async def body(ctx: PyWorkflow):
        with suppress(OSError):
            await a(ctx)
        await b(ctx)
        if not crashed:
            crashed.append(1)
            raise RuntimeError("of the body")

    assert await scenario.run_twice(admin, body, first=RuntimeError) == (["a", "b"], [])


async def test_error_of_the_body_reopens_no_caught_error(admin, scenario):
    a = scenario.step("a", OSError("x"))
    crashed = []

    async def body(ctx: PyWorkflow):
        try:
            await a(ctx)
        except OSError as error:
            seen.append(str(error))
        if not crashed:
            crashed.append(1)
            raise RuntimeError("of the body")

    seen = []
    assert await scenario.run_twice(admin, body, first=RuntimeError) == (["a"], [])
    assert seen == ["x", "x"]


# --- after the body has left ---


async def test_late_step_records_its_success_and_not_its_error(admin, scenario, sql):
    release, both = asyncio.Event(), asyncio.Barrier(3)

    async def wait(ctx):
        await both.wait()
        await release.wait()

    failing, succeeding = scenario.step("failing", ValueError("late"), body=wait), scenario.step("good", body=wait)
    tasks = []

    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        tasks.extend(asyncio.create_task(each(ctx)) for each in (failing, succeeding))
        await both.wait()
        raise RuntimeError("the body left")

    ctx = await admin.create_workflow("wf")
    async with no_hang():
        with pytest.raises(RuntimeError):
            await wf(ctx)
        release.set()
        late, good = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(late, ValueError)
    assert good == "good"
    recorded = await steps(sql, ctx)
    # On a slow machine it executes for long enough to be marked.
    assert recorded.pop("failing", "RUNNING") == "RUNNING"
    assert recorded == {"good": "SUCCESS"}
    assert await status(sql, ctx) == "ERROR"


async def test_late_failing_gather_step_is_executed_again(admin, scenario):
    release = asyncio.Event()

    async def wait(ctx):
        if not first_over:
            await release.wait()

    first_over = []
    a, b = scenario.step("a", OSError("x")), scenario.step("b", ValueError("late"), body=wait)

    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        tasks[:] = [asyncio.create_task(a(ctx)), asyncio.create_task(b(ctx))]
        return await asyncio.gather(*tasks)

    tasks = []
    ctx = await admin.create_workflow("wf")
    async with no_hang():
        with pytest.raises(OSError):
            await wf(ctx)
        first_over.append(1)
        release.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        scenario.since()
        assert await wf(ctx) == ["a", "b"]
    assert sorted(scenario.since()) == ["a", "b"]


# --- the operator's button ---


async def test_resume_workflow_reopens_terminal_errors(admin, scenario, sql):
    a, b, c = scenario.step("a"), scenario.step("b", ValueError("bug")), scenario.step("c", TypeError("bug"))

    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        try:
            found = [await a(ctx), await b(ctx)]
        except ValueError:
            found = ["caught"]
        return [*found, await c(ctx)]

    ctx = await admin.create_workflow("wf")
    for _ in range(2):
        with pytest.raises(TypeError):
            await wf(ctx)
    assert scenario.since() == ["a", "b", "c"]
    resumed = await admin.resume_workflow(ctx.id())
    assert resumed.id() == ctx.id()
    assert await status(sql, ctx) == "PENDING"
    assert await wf(resumed) == ["a", "b", "c"]
    assert scenario.since() == ["b", "c"]
    assert await steps(sql, ctx) == {"a": "SUCCESS", "b": "SUCCESS", "c": "SUCCESS"}


async def test_failed_manual_run_reopens_its_transient_step(admin, scenario):
    a = scenario.step("a", OSError("x"))
    ctx = await admin.create_workflow("wf")
    await ctx.start()
    with pytest.raises(OSError) as caught:
        await a(ctx)
    await ctx.fail(caught.value)
    await ctx.start()
    assert await a(ctx) == "a"


async def test_manual_run_failed_with_a_text_reopens_its_last_step(admin, scenario):
    a = scenario.step("a", OSError("x"))
    ctx = await admin.create_workflow("wf")
    await ctx.start()
    with pytest.raises(OSError) as caught:
        await a(ctx)
    await ctx.fail(str(caught.value))
    assert await a(await admin.get_workflow(ctx.id())) == "a"


async def test_step_error_of_an_unfinished_run_is_replayed(admin, scenario, sql):
    """Only the end of a run re-opens: until then the recorded error is what every later run sees."""
    a = scenario.step("a", OSError("x"))
    ctx = await admin.create_workflow("wf")
    with pytest.raises(OSError):
        await a(ctx)
    elsewhere = await admin.get_workflow(ctx.id())
    with pytest.raises(StepFailedError, match="x"):
        await a(elsewhere)
    assert scenario.since() == ["a"]


async def test_failed_run_cannot_end_its_workflow_again(admin, scenario):
    a = scenario.step("a", OSError("x"))

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        return await a(ctx)

    ctx = await admin.create_workflow("wf")
    with pytest.raises(OSError):
        await wf(ctx)
    with pytest.raises(WorkflowFinishedError, match="ERROR"):
        await ctx.success("no")
    assert await wf(ctx) == "a"
