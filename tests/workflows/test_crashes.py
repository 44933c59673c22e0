"""Cancellations, interrupts and timeouts of the application are not outcomes; lost and fenced runs."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import pytest

from pgqrs import Admin, PyWorkflow, RunStopped, WorkflowFencedError, step, workflow
from pgqrs.storage.queries.executors import ABANDONED
from tests.support.admins import limit
from tests.support.recorded import status, steps
from tests.support.waiting import no_hang, until
from tests.support.workflows import cancel_once_begun


@pytest.mark.parametrize(
    "crash",
    [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(3), GeneratorExit()],
    ids=lambda crash: type(crash).__name__,
)
@pytest.mark.parametrize("where", ["step", "body"])
async def test_crash_is_not_recorded_and_the_next_run_continues(admin, sql, crash, where):
    executed = []
    crashes = [crash]

    @step
    async def before(ctx: PyWorkflow) -> str:
        executed.append("before")
        return "b"

    @step
    async def during(ctx: PyWorkflow) -> str:
        executed.append("during")
        if where == "step" and crashes:
            raise crashes.pop()
        return "d"

    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        found = [await before(ctx), await during(ctx)]
        if where == "body" and crashes:
            raise crashes.pop()
        return found

    ctx = await admin.create_workflow("wf")
    with pytest.raises(type(crash)):
        await wf(ctx)
    [record] = await admin.list_workflows()
    assert (record.status, record.error, record.completed_at) == ("RUNNING", None, None)
    recorded = {"before": "SUCCESS"} if where == "step" else {"before": "SUCCESS", "during": "SUCCESS"}
    assert await steps(sql, ctx) == recorded
    assert await wf(await admin.get_workflow(ctx.id())) == ["b", "d"]
    assert executed == (["before", "during", "during"] if where == "step" else ["before", "during"])


async def test_cancelled_workflow_task_resumes_at_its_step(admin, sql):
    started = asyncio.Event()
    executed = []

    @step
    async def slow(ctx: PyWorkflow) -> str:
        executed.append(1)
        started.set()
        if len(executed) == 1:
            await asyncio.Event().wait()
        return "done"

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        return await slow(ctx)

    ctx = await admin.create_workflow("wf")
    await cancel_once_begun(wf(ctx), started)
    assert await status(sql, ctx) == "RUNNING"
    async with no_hang():
        assert await wf(ctx) == "done"
    assert len(executed) == 2


async def test_base_exception_group_counts_as_a_crash(admin, sql):
    crashes = [BaseExceptionGroup("both", [ValueError("x"), KeyboardInterrupt()])]

    @step
    async def during(ctx: PyWorkflow) -> str:
        if crashes:
            raise crashes.pop()
        return "d"

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        return await during(ctx)

    ctx = await admin.create_workflow("wf")
    with pytest.raises(BaseExceptionGroup):
        await wf(ctx)
    assert await status(sql, ctx) == "RUNNING"
    assert await steps(sql, ctx) == {}
    assert await wf(ctx) == "d"


async def test_errors_caught_before_a_crash_are_replayed(admin):
    executed = []

    @step
    async def flaky(ctx: PyWorkflow) -> str:
        executed.append(1)
        raise OSError("down")

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        try:
            return await flaky(ctx)
        except OSError as error:
            if not crashed:
                crashed.append(1)
                raise asyncio.CancelledError from error
            return f"caught {error}"

    crashed = []
    ctx = await admin.create_workflow("wf")
    with pytest.raises(asyncio.CancelledError):
        await wf(ctx)
    assert await wf(ctx) == "caught down"
    assert executed == [1]


# --- deadlines of the user's own ---


async def test_timed_out_step_warns_when_the_run_continues(admin, sql, caplog):
    @step
    async def slow(ctx: PyWorkflow) -> None:
        await asyncio.Event().wait()

    @step
    async def after(ctx: PyWorkflow) -> str:
        return "after"

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        try:
            async with asyncio.timeout(0.01):
                await slow(ctx)
        except TimeoutError:
            warned_before.append(bool(caplog.records))
        return await after(ctx)

    warned_before = []
    ctx = await admin.create_workflow("wf")
    async with no_hang():
        assert await wf(ctx) == "after"
    assert not warned_before[0]
    warning, *again = caplog.records
    assert len(again) == len(warned_before) - 1  # one for each time that the body goes on
    assert (warning.name, warning.levelno) == ("pgqrs.engine", logging.WARNING)
    assert "'slow'" in warning.getMessage()
    assert await steps(sql, ctx) == {"after": "SUCCESS"}


async def test_timed_out_last_step_warns_when_the_workflow_succeeds(admin, caplog):
    @step
    async def slow(ctx: PyWorkflow) -> None:
        await asyncio.Event().wait()

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        try:
            await asyncio.wait_for(slow(ctx), 0.01)
        except TimeoutError:
            return "gave up"

    assert await admin.run(wf) == "gave up"
    assert ["'slow'" in each.getMessage() for each in caplog.records] == [True]


async def test_timeout_that_ends_the_run_reexecutes_the_step_silently(admin, caplog):
    executed = []

    @step
    async def slow(ctx: PyWorkflow) -> str:
        executed.append(1)
        if len(executed) == 1:
            await asyncio.Event().wait()
        return "done"

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        async with asyncio.timeout(None if executed else 0.01):
            return await slow(ctx)

    ctx = await admin.create_workflow("wf")
    async with no_hang():
        with pytest.raises(TimeoutError):
            await wf(ctx)
        assert await wf(ctx) == "done"
    assert caplog.records == []


async def test_timeout_inside_a_step_is_its_recorded_error(admin):
    executed = []

    @step
    async def slow(ctx: PyWorkflow) -> None:
        executed.append(1)
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        with suppress(TimeoutError):
            await slow(ctx)
        if not seen:
            seen.append("crash")
            raise asyncio.CancelledError
        return "went on"

    seen = []
    ctx = await admin.create_workflow("wf")
    with pytest.raises(asyncio.CancelledError):
        await wf(ctx)
    assert await wf(ctx) == "went on"
    assert executed == [1]


# --- poison ---


async def test_fenced_run_executes_no_further_step(admin, sql):
    executed = []

    @step(key=lambda n: n)
    async def each(ctx: PyWorkflow, n: int) -> int:
        executed.append(n)
        if n == 1:
            await (await admin.get_workflow(ctx.id())).start()
        return n

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        for n in range(5):
            try:
                await each(ctx, n)
            except BaseException as error:
                errors.append(error)
        return "carried on"

    errors = []
    ctx = await admin.create_workflow("wf")
    with pytest.raises(WorkflowFencedError, match=str(ctx.id())):
        await wf(ctx)
    # In a replay of the body it has swallowed that one too.
    assert [(type(each), type(each.error)) for each in errors[-4:]] == [(RunStopped, WorkflowFencedError)] * 4
    assert executed == [0, 1]
    assert await steps(sql, ctx) == {"each:0": "SUCCESS"}
    assert await status(sql, ctx) == "RUNNING"


async def test_fenced_context_raises_until_the_next_start(admin):
    ctx = await admin.create_workflow("wf")
    await ctx.start()
    other = await admin.get_workflow(ctx.id())
    await other.start()
    with pytest.raises(WorkflowFencedError):
        await (await ctx.acquire_step("a")).guard.success(1)
    for call in (ctx.acquire_step, ctx.success, ctx.fail):
        with pytest.raises(WorkflowFencedError):
            await call("b")
    await ctx.start()
    assert (await ctx.acquire_step("a")).status == "EXECUTE"
    with pytest.raises(WorkflowFencedError):
        await other.success(1)


async def test_step_error_of_a_fenced_run_is_not_recorded(admin, sql):
    @step
    async def fails(ctx: PyWorkflow) -> None:
        await (await admin.get_workflow(ctx.id())).start()
        raise ValueError("of the stale run")

    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        await fails(ctx)

    ctx = await admin.create_workflow("wf")
    with pytest.raises(WorkflowFencedError):
        await wf(ctx)
    assert await steps(sql, ctx) == {}
    assert await status(sql, ctx) == "RUNNING"


async def test_run_is_abandoned_when_its_end_cannot_be_recorded(admin, dsn, schema, sql, monkeypatch):
    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        raise ValueError("the workflow's")

    async def fails(*_given):
        raise RecursionError("pgqrs's own")

    async def given_up():
        return await sql.fetchval("SELECT executor = $1 FROM pgqrs_workflows", ABANDONED)

    monkeypatch.setattr("pgqrs.engine.run.Run.fail", fails)
    async with Admin(dsn, schema) as own:
        limit(own, heartbeat_interval=3600.0)  # or the next beat but one would give it up
        with pytest.raises(RecursionError):
            await own.run(wf)
        await until(given_up)
