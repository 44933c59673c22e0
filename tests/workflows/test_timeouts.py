"""Timeouts of steps, and deadlines of workflows that hold across restarts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from datetime import timedelta

import pytest

from pgqrs import (
    ConfigurationError,
    PyWorkflow,
    RetryPolicy,
    StepError,
    StepTimeoutError,
    WorkflowTimeoutError,
    step,
    workflow,
)
from pgqrs.engine.lifecycle import Parked
from tests.support.recorded import is_replay, status, steps
from tests.support.waiting import no_hang, until
from tests.support.workflows import cancel_once_begun


async def error_of(sql, ctx):
    return json.loads(await sql.fetchval("SELECT error FROM pgqrs_workflows WHERE id = $1", ctx.id()))


@step
async def hangs(ctx: PyWorkflow) -> None:
    await asyncio.Event().wait()


# --- steps ---


async def test_step_exceeding_its_timeout_fails(admin, sql):
    cleaned = []

    @step(timeout=0.05)
    async def slow(ctx: PyWorkflow) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(1)

    ctx = await admin.create_workflow("wf")
    async with no_hang():
        with pytest.raises(StepTimeoutError, match="slow") as caught:
            await slow(ctx)
    assert isinstance(caught.value, TimeoutError)
    assert isinstance(caught.value, StepError)
    assert (caught.value.workflow_id, caught.value.step_id, caught.value.timeout) == (ctx.id(), "slow", 0.05)
    assert cleaned == [1]
    assert await steps(sql, ctx) == {"slow": "ERROR"}
    with pytest.raises(StepTimeoutError) as caught:
        await slow(ctx)
    assert is_replay(caught.value, TimeoutError)


async def test_step_timeout_is_transient_and_applies_per_attempt(admin):
    calls = []

    @step(timeout=timedelta(seconds=0.05), retry=RetryPolicy(initial=0.01))
    async def slow(ctx: PyWorkflow) -> str:
        calls.append(1)
        if len(calls) < 3:
            await asyncio.Event().wait()
        return "done"

    async with no_hang():
        assert await slow(await admin.create_workflow("wf")) == "done"
    assert len(calls) == 3


async def test_step_swallowing_its_timeout_still_times_out(admin, sql):
    @step(timeout=0.05)
    async def late(ctx: PyWorkflow) -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "late"

    ctx = await admin.create_workflow("wf")
    async with no_hang():
        with pytest.raises(StepTimeoutError):
            await late(ctx)
    assert await steps(sql, ctx) == {"late": "ERROR"}
    assert asyncio.current_task().cancelling() == 0


async def test_late_attempt_is_retried(admin):
    calls = []

    @step(timeout=0.05, retry=RetryPolicy(initial=0.01))
    async def late_at_first(ctx: PyWorkflow) -> str:
        calls.append(1)
        if len(calls) == 1:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            return "late"
        return "in time"

    async with no_hang():
        assert await late_at_first(await admin.create_workflow("wf")) == "in time"


async def test_timeout_raised_by_the_step_is_not_a_step_timeout(admin):
    @step(timeout=60)
    async def own(ctx: PyWorkflow) -> None:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError) as caught:
        await own(await admin.create_workflow("wf"))
    assert not isinstance(caught.value, StepTimeoutError)


async def test_inner_step_of_a_timed_out_step_ends_without_a_warning(admin, sql, caplog):
    @step(timeout=0.05)
    async def outer(ctx: PyWorkflow) -> None:
        await hangs(ctx)

    @step
    async def after(ctx: PyWorkflow) -> str:
        return "after"

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        try:
            await outer(ctx)
        except TimeoutError:
            return await after(ctx)

    ctx = await admin.create_workflow("wf")
    async with no_hang():
        assert await wf(ctx) == "after"
    recorded = await steps(sql, ctx)
    assert (recorded["outer"], recorded["after"]) == ("ERROR", "SUCCESS")
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING] == []


async def test_cancellation_is_not_a_timeout(admin, sql):
    started = asyncio.Event()

    @step(timeout=60)
    async def slow(ctx: PyWorkflow) -> None:
        started.set()
        await asyncio.Event().wait()

    ctx = await admin.create_workflow("wf")
    await cancel_once_begun(slow(ctx), started)
    assert "ERROR" not in (await steps(sql, ctx)).values()


# --- workflows ---


async def test_workflow_ends_at_its_deadline(admin, sql):
    @workflow(timeout=0.3)
    async def wf(ctx: PyWorkflow) -> None:
        try:
            await hangs(ctx)
        except Exception:
            await hangs(ctx)

    ctx = await admin.create_workflow("wf")
    began = time.monotonic()
    async with no_hang():
        with pytest.raises(WorkflowTimeoutError) as caught:
            await wf(ctx)
    assert time.monotonic() - began < 2
    assert (caught.value.workflow_id, caught.value.timeout) == (ctx.id(), 0.3)
    assert await status(sql, ctx) == "ERROR"
    assert (await error_of(sql, ctx))["type"] == "WorkflowTimeoutError"
    assert (await error_of(sql, ctx))["terminal"] is True
    assert "ERROR" not in (await steps(sql, ctx)).values()
    assert asyncio.current_task().cancelling() == 0


async def test_deadline_cancels_steps_in_tasks(admin, sql):
    ended = []

    @step(key=lambda n: n)
    async def stubborn(ctx: PyWorkflow, n: int) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append(n)
            raise OSError("converted") from None

    @workflow(timeout=0.2)
    async def wf(ctx: PyWorkflow) -> None:
        tasks = [asyncio.create_task(stubborn(ctx, n)) for n in range(3)]
        await asyncio.wait(tasks)
        await asyncio.gather(*tasks)

    ctx = await admin.create_workflow("wf")
    async with no_hang():
        with pytest.raises(WorkflowTimeoutError):
            await wf(ctx)
    assert sorted(ended) == [0, 1, 2]
    assert "ERROR" not in (await steps(sql, ctx)).values()


@pytest.mark.parametrize("how", ["swallows", "returns", "raises", "sleeps", "gathers"])
async def test_body_cannot_avoid_its_deadline(admin, sql, how):
    @workflow(timeout=0.1)
    async def wf(ctx: PyWorkflow) -> str:
        try:
            if how == "sleeps":
                await ctx.sleep(3600)
            elif how == "gathers":
                await asyncio.gather(ctx.sleep(3600), hangs(ctx), return_exceptions=True)
            else:
                await asyncio.Event().wait()
        except BaseException:
            if how == "raises":
                raise OSError("own") from None
            if how == "swallows":
                await ctx.sleep(0)
        return "out"

    ctx = await admin.create_workflow("wf")
    async with no_hang():
        with pytest.raises(WorkflowTimeoutError):
            await wf(ctx)
    assert await status(sql, ctx) == "ERROR"


async def test_workflow_within_its_timeout_succeeds(admin, sql):
    @workflow(timeout=30)
    async def wf(ctx: PyWorkflow) -> str:
        return "in time"

    ctx = await admin.create_workflow("wf")
    assert await wf(ctx) == "in time"
    assert await sql.fetchval("SELECT deadline FROM pgqrs_workflows") is None
    assert await admin.run(wf) == "in time"


async def test_task_cancellation_before_the_deadline_is_not_a_timeout(admin, sql):
    started = asyncio.Event()

    @workflow(timeout=30)
    async def wf(ctx: PyWorkflow) -> None:
        started.set()
        await asyncio.Event().wait()

    ctx = await admin.create_workflow("wf")
    await cancel_once_begun(wf(ctx), started)
    assert await status(sql, ctx) == "RUNNING"


async def test_deadline_holds_across_runs(admin, sql):
    """The second run has what is left, the third does not begin."""
    runs = []

    @workflow(timeout=1)
    async def wf(ctx: PyWorkflow) -> None:
        runs.append(time.monotonic())
        if len(runs) == 1:
            await asyncio.sleep(0.5)
            raise KeyboardInterrupt
        await asyncio.Event().wait()

    ctx = await admin.create_workflow("wf")
    async with no_hang():
        with pytest.raises(KeyboardInterrupt):
            await wf(ctx)
        with pytest.raises(WorkflowTimeoutError):
            await wf(await admin.get_workflow(ctx.id()))
    assert 0.7 < time.monotonic() - runs[0] < 1.5


async def test_passed_deadline_prevents_a_new_run(admin, sql):
    runs = []

    @workflow(timeout=60)
    async def wf(ctx: PyWorkflow) -> None:
        runs.append(1)
        raise KeyboardInterrupt

    ctx = await admin.create_workflow("wf")
    with pytest.raises(KeyboardInterrupt):
        await wf(ctx)
    await sql.execute("UPDATE pgqrs_workflows SET deadline = now() - interval '1 second'")
    with pytest.raises(WorkflowTimeoutError):
        await wf(await admin.get_workflow(ctx.id()))
    assert runs == [1]
    assert await status(sql, ctx) == "ERROR"


async def test_workflow_timeout_is_not_retried(admin):
    runs = []

    @workflow(timeout=0.1, retry=5)
    async def wf(ctx: PyWorkflow) -> None:
        runs.append(1)
        await asyncio.Event().wait()

    async with no_hang():
        with pytest.raises(WorkflowTimeoutError):
            await admin.run(wf)
    assert runs == [1]


async def test_workflow_retries_end_at_the_deadline(admin):
    @workflow(timeout=0.2, retry=RetryPolicy(attempts=1000, initial=0.05, factor=1))
    async def wf(ctx: PyWorkflow) -> None:
        raise OSError("again")

    async with no_hang():
        with pytest.raises(WorkflowTimeoutError):
            await admin.run(wf)


async def test_worker_run_ends_at_the_deadline(sql, claimer):
    @workflow(timeout=0.2)
    async def wf(ctx: PyWorkflow) -> None:
        await hangs(ctx)

    await claimer.submit(wf)
    async with no_hang():
        with pytest.raises(WorkflowTimeoutError):
            await claimer.run(wf)
    assert await sql.fetchval("SELECT status FROM pgqrs_workflows") == "ERROR"


async def test_maintenance_times_out_a_parked_workflow(sql, claimer):
    @workflow(timeout=60)
    async def wf(ctx: PyWorkflow) -> None:
        await ctx.sleep(3600)

    await claimer.submit(wf)
    with pytest.raises(Parked):
        await claimer.run(wf)
    await sql.execute("UPDATE pgqrs_workflows SET deadline = now() - interval '2 seconds'")

    async def has_ended():
        await claimer._watch.run_maintenance(["wf"], ["default"])
        return await sql.fetchval("SELECT status FROM pgqrs_workflows") == "ERROR"

    async with no_hang():
        await until(has_ended)


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), "1", True, timedelta(0)])
def test_invalid_timeout_is_refused(wrong):
    for decorator in (step, workflow):
        with pytest.raises((ConfigurationError, TypeError)):
            decorator(timeout=wrong)


@pytest.mark.parametrize("wait", ["a sleep", "a message", "a step"])
async def test_timeout_of_the_options_ends_a_run_in_this_task(admin, sql, wait):
    @workflow(timeout=60)
    async def waiting(ctx: PyWorkflow) -> None:
        match wait:
            case "a sleep":
                await ctx.sleep(3600)
            case "a message":
                await ctx.receive("paid")
            case _:
                await hangs(ctx)

    async with no_hang():
        with pytest.raises(WorkflowTimeoutError) as caught:
            await admin.options(timeout=0.2).run(waiting)
    assert caught.value.timeout == 0.2
    assert await sql.fetchval("SELECT status FROM pgqrs_workflows") == "ERROR"
