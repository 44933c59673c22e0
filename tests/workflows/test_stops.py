"""A stop of a run is no failure of its code: no `except Exception` takes it, and nothing made after it is recorded."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from sqlalchemy import text

from pgqrs import (
    Admin,
    PyWorkflow,
    RetryPolicy,
    RunStopped,
    StepFailedError,
    Worker,
    WorkflowCancelledError,
    WorkflowFencedError,
    WorkflowFinishedError,
    WorkflowTimeoutError,
    step,
    workflow,
)
from pgqrs.observer import Observer
from tests.support.recorded import status, steps
from tests.support.waiting import no_hang, until
from tests.support.workflows import note


async def run_of(admin, ctx):
    return (await admin.store()).runs[ctx.id()]


async def cancel(admin, ctx, *, interrupt=False):
    """Have the run in this process cancelled at once, as its executor would on hearing of it."""
    (await admin.store()).cancel_asked(ctx.id(), interrupt)


async def stop(admin, ctx, why):
    """Stop the run, in the middle of what it does."""
    if why == "cancelled":
        await cancel(admin, ctx)
    elif why == "fenced":
        await (await admin.get_workflow(ctx.id())).start()
        with contextlib.suppress(BaseException):
            await note(ctx, "fenced here")
    else:
        asyncio.get_running_loop().call_soon((await run_of(admin, ctx)).lifecycle._time_out)
        with contextlib.suppress(asyncio.CancelledError):  # the interrupt
            await asyncio.sleep(60)


ERRORS = {
    "cancelled": WorkflowCancelledError,
    "fenced": WorkflowFencedError,
    "timed out": WorkflowTimeoutError,
}

SWALLOWS = ["except Exception", "except BaseException", "gather", "task", "converted"]


async def swallowing(how, call):
    """Call and go on after an exception, as code does that means well."""
    if how == "except Exception":
        with contextlib.suppress(Exception):
            await call()
    elif how == "except BaseException":
        with contextlib.suppress(BaseException):
            await call()
    elif how == "gather":
        await asyncio.gather(call(), asyncio.sleep(0), return_exceptions=True)
    elif how == "task":
        await asyncio.wait([asyncio.create_task(_awaiting(call))])
    else:
        try:
            await call()
        except BaseException:
            raise OSError("the fallback failed too") from None
    return "fallback"


async def _awaiting(call):
    await call()


# --- in steps ---


@pytest.mark.parametrize("why", ERRORS)
@pytest.mark.parametrize("how", SWALLOWS)
async def test_step_fallback_is_not_recorded_after_a_stop(admin, sql, why, how):
    @step
    async def careful(ctx: PyWorkflow) -> str:
        await stop(admin, ctx, why)
        return await swallowing(how, lambda: note(ctx, "inner"))

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        caught.append(None)
        try:
            return await careful(ctx)
        except BaseException as error:
            caught[-1] = error
            raise

    caught = []
    ctx = await admin.create_workflow("wf")
    async with no_hang():
        with pytest.raises(ERRORS[why]) as raised:
            await wf(ctx)
    assert raised.value.workflow_id == ctx.id()
    assert not isinstance(caught[-1], Exception)
    assert "careful" not in [each for each, state in (await steps(sql, ctx)).items() if state != "RUNNING"]
    assert asyncio.current_task().cancelling() == 0


@pytest.mark.parametrize("how", SWALLOWS)
async def test_enclosing_steps_record_nothing_after_a_stop(admin, sql, how):
    @step
    async def inner(ctx: PyWorkflow) -> str:
        await cancel(admin, ctx)
        return await swallowing(how, lambda: ctx.sleep(3600))

    @step
    async def middle(ctx: PyWorkflow) -> str:
        return await swallowing(how, lambda: inner(ctx))

    @step(retry=RetryPolicy(initial=0.01))
    async def outer(ctx: PyWorkflow) -> str:
        return await swallowing(how, lambda: asyncio.create_task(middle(ctx)))

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        return await swallowing(how, lambda: outer(ctx))

    ctx = await admin.create_workflow("wf")
    async with no_hang():
        with pytest.raises(WorkflowCancelledError):
            await wf(ctx)
    assert {"SUCCESS", "ERROR"}.isdisjoint((await steps(sql, ctx)).values())
    assert await status(sql, ctx) == "CANCELLED"


async def test_resumed_workflow_executes_the_stopped_step_again(admin):
    charged = []

    @step
    async def charge(ctx: PyWorkflow) -> int:
        if not charged:
            charged.append("cancelled")
            await cancel(admin, ctx)
        try:
            await note(ctx, "tariff")
        except Exception:
            return 0
        return 100

    @workflow
    async def wf(ctx: PyWorkflow) -> int:
        return await charge(ctx)

    ctx = await admin.create_workflow("wf")
    async with no_hang():
        with pytest.raises(WorkflowCancelledError):
            await wf(ctx)
        assert await wf(await admin.resume_workflow(ctx.id())) == 100


async def test_transactional_step_rolls_back_after_a_stop(dsn, schema, sessions, sql):
    async with Admin(dsn, schema, sessionmaker=sessions) as shop:

        @step(transactional=True, retry=3)
        async def charge(ctx: PyWorkflow) -> int:
            await cancel(shop, ctx)
            with contextlib.suppress(BaseException):
                await note(ctx, "tariff")
            await ctx.session.execute(text("INSERT INTO payments (order_number, amount) VALUES (1, 0)"))
            return 0

        @workflow
        async def wf(ctx: PyWorkflow) -> int:
            return await charge(ctx)

        ctx = await shop.create_workflow("wf")
        async with no_hang():
            with pytest.raises(WorkflowCancelledError):
                await wf(ctx)
        assert "SUCCESS" not in (await steps(sql, ctx)).values()
        assert await sql.fetchval("SELECT count(*) FROM payments") == 0


async def test_step_that_never_met_the_stop_is_recorded(admin, sql):
    """No stop was told within it: its effect happened."""

    @step
    async def charge(ctx: PyWorkflow) -> int:
        await cancel(admin, ctx)
        return 100

    @workflow
    async def wf(ctx: PyWorkflow) -> int:
        return await charge(ctx)

    ctx = await admin.create_workflow("wf")
    async with no_hang():
        with pytest.raises(WorkflowCancelledError):
            await wf(ctx)
    assert await steps(sql, ctx) == {"charge": "SUCCESS"}


async def test_error_converted_from_a_stop_is_not_raised_in_the_body(admin):
    """`except Exception` of the body would log a failure that there was not."""

    @step(retry=3)
    async def converts(ctx: PyWorkflow) -> None:
        await cancel(admin, ctx)
        try:
            await note(ctx, "inner")
        except BaseException:
            raise OSError("shipping failed") from None

    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        try:
            await converts(ctx)
        except Exception as error:
            failures.append(error)

    failures = []
    async with no_hang():
        with pytest.raises(WorkflowCancelledError):
            await wf(await admin.create_workflow("wf"))
    assert failures == []


async def test_task_group_propagates_a_stop(admin, sql):
    @step
    async def grouped(ctx: PyWorkflow) -> str:
        await cancel(admin, ctx)
        try:
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                group.create_task(note(ctx, "a"))
                group.create_task(note(ctx, "b"))
        except* Exception:
            pass
        return "done"

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        return await grouped(ctx)

    for call in (wf, grouped):
        ctx = await admin.create_workflow("wf")
        async with no_hang():
            with pytest.raises(WorkflowCancelledError):
                await call(ctx)
        assert "SUCCESS" not in (await steps(sql, ctx)).values()


async def test_thread_step_swallowing_a_stop_is_not_recorded(admin, sql):
    loop = asyncio.get_running_loop()

    @step(thread=True)
    def threaded(ctx: PyWorkflow) -> str:
        asyncio.run_coroutine_threadsafe(cancel(admin, ctx), loop).result()
        with contextlib.suppress(BaseException):
            asyncio.run_coroutine_threadsafe(note(ctx, "inner"), loop).result()
        return "fallback"

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        return await threaded(ctx)

    ctx = await admin.create_workflow("wf")
    async with no_hang():
        with pytest.raises(WorkflowCancelledError):
            await wf(ctx)
    assert "SUCCESS" not in (await steps(sql, ctx)).values()


# --- in the body ---


@pytest.mark.parametrize("why", ERRORS)
async def test_except_exception_in_the_body_does_not_catch_a_stop(admin, why):
    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        await stop(admin, ctx, why)
        try:
            await note(ctx, "after")
        except Exception as error:
            failures.append(error)
        except BaseException as error:
            told.append(error)
            raise
        return "went on"

    failures, told = [], []
    async with no_hang():
        with pytest.raises(ERRORS[why]):
            await wf(await admin.create_workflow("wf"))
    assert failures == []
    assert isinstance(told[0], RunStopped)
    assert isinstance(told[0].error, ERRORS[why])
    assert told[0].__cause__ is told[0].error


async def test_body_that_ends_its_run_is_stopped_at_its_next_step(admin):
    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        await ctx.fail("by hand")
        try:
            await note(ctx, "after")
        except Exception as error:
            failures.append(error)

    failures = []
    with pytest.raises(WorkflowFinishedError):
        await wf(await admin.create_workflow("wf"))
    assert failures == []


async def test_stop_of_a_child_is_an_ordinary_error_in_its_parent(admin):
    @workflow
    async def child(ctx: PyWorkflow) -> None:
        await cancel(admin, ctx)
        await note(ctx, "after")

    @workflow
    async def parent(ctx: PyWorkflow) -> str:
        ended = await admin.create_workflow("child")
        try:
            await child(ended)
        except WorkflowCancelledError:
            by_hand = await admin.create_workflow("by hand")
            await by_hand.start()
            await cancel(admin, by_hand)
            with pytest.raises(WorkflowCancelledError):
                await note(by_hand, "a")
            return await note(ctx, "went on")

    async with no_hang():
        assert await admin.run(parent) == "went on"


# --- by hand ---


@pytest.mark.parametrize("how", ["swallows", "lets through"])
async def test_outermost_manual_step_raises_the_error_of_the_stop(admin, sql, how):
    @step
    async def outer(ctx: PyWorkflow) -> str:
        await cancel(admin, ctx)
        try:
            await note(ctx, "inner")
        except BaseException as error:
            told.append(type(error))
            if how == "lets through":
                raise
        return "fallback"

    told = []
    ctx = await admin.create_workflow("wf")
    await ctx.start()
    async with no_hang():
        with pytest.raises(WorkflowCancelledError):
            await outer(ctx)
    assert told == [RunStopped]
    assert "SUCCESS" not in (await steps(sql, ctx)).values()


async def test_interrupted_manual_step_does_not_cancel_its_task(admin):
    @step
    async def hangs(ctx: PyWorkflow) -> None:
        began.set()
        await asyncio.Event().wait()

    async def caller():
        with pytest.raises(WorkflowCancelledError):
            await hangs(ctx)
        await asyncio.sleep(0)
        return asyncio.current_task().cancelling()

    began = asyncio.Event()
    ctx = await admin.create_workflow("wf")
    await ctx.start()
    task = asyncio.create_task(caller())
    async with no_hang():
        await began.wait()
        await cancel(admin, ctx, interrupt=True)
        assert await task == 0


async def test_manual_guard_raises_a_stop_received_while_open(admin, sql):
    ctx = await admin.create_workflow("wf")
    guard = (await ctx.acquire_step("by hand")).guard
    await cancel(admin, ctx)
    with pytest.raises(RunStopped):
        await note(ctx, "within")
    with pytest.raises(WorkflowCancelledError):
        await guard.success("fallback")
    assert await note(await admin.create_workflow("other"), "the task is in no step any more")
    assert "SUCCESS" not in (await steps(sql, ctx)).values()


# --- the body that waits for something foreign ---


async def test_body_awaiting_a_foreign_future_is_cancelled(admin, sql, monkeypatch):
    monkeypatch.setattr("pgqrs.engine.lifecycle.UNWIND_GRACE", 0.05)

    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        waits.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(1)

    waits, cleaned = asyncio.Event(), []
    ctx = await admin.create_workflow("wf")
    task = asyncio.create_task(wf(ctx))
    async with no_hang():
        await waits.wait()
        await admin.cancel_workflow(ctx.id())
        with pytest.raises(WorkflowCancelledError):
            await task
    assert cleaned == [1]
    assert await status(sql, ctx) == "CANCELLED"
    assert task.cancelling() == 0


async def test_body_that_does_not_end_is_named(admin, monkeypatch, caplog):
    """A run that parks or is cancelled waits for its tasks, of which one waits for an event that does not come."""
    for name in ("UNWIND_GRACE", "STUCK_AFTER"):
        monkeypatch.setattr(f"pgqrs.engine.lifecycle.{name}", 0.05)

    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        async def rest():
            try:
                await asyncio.Event().wait()
            finally:
                await came.wait()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(rest())
            await ctx.sleep(3600)

    came = asyncio.Event()
    async with no_hang(), Worker(admin, [wf]):
        handle = await admin.enqueue(wf)
        await until(lambda: f"the function of workflow {handle.id} does not end" in caplog.text)
        assert await handle.status() == "RUNNING"
        came.set()
        await until(status_of, handle, "WAITING")
    assert caplog.text.count("does not end") == 1


async def status_of(handle, expected):
    return await handle.status() == expected


async def test_body_swallowing_an_interruption_stops_at_its_next_call(admin, sql, monkeypatch):
    monkeypatch.setattr("pgqrs.engine.lifecycle.UNWIND_GRACE", 0.05)

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        with contextlib.suppress(asyncio.CancelledError):
            waits.set()
            await asyncio.Event().wait()
        return await note(ctx, "after")

    waits = asyncio.Event()
    ctx = await admin.create_workflow("wf")
    task = asyncio.create_task(wf(ctx))
    async with no_hang():
        await waits.wait()
        await cancel(admin, ctx)
        with pytest.raises(WorkflowCancelledError):
            await task
    assert await steps(sql, ctx) == {}


async def test_unwind_grace_excludes_executing_steps(admin, sql, monkeypatch):
    monkeypatch.setattr("pgqrs.engine.lifecycle.UNWIND_GRACE", 0.05)

    @step
    async def slow(ctx: PyWorkflow) -> str:
        began.set()
        await asyncio.sleep(0.3)
        return "done"

    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        stepping.append(asyncio.create_task(slow(ctx)))
        await asyncio.Event().wait()

    began, stepping = asyncio.Event(), []
    ctx = await admin.create_workflow("wf")
    task = asyncio.create_task(wf(ctx))
    async with no_hang():
        await began.wait()
        await cancel(admin, ctx)
        with pytest.raises(WorkflowCancelledError):
            await task
        assert await stepping[0] == "done"
    assert await steps(sql, ctx) == {"slow": "SUCCESS"}


@pytest.mark.parametrize("interrupt", [False, True])
async def test_repeated_cancellation_of_a_run_is_harmless(admin, sql, interrupt):
    """As the journal and each beat do until the run has ended."""

    @step
    async def slow(ctx: PyWorkflow) -> str:
        began.set()
        try:
            await release.wait()
        finally:
            await asyncio.sleep(0.01)
        return "done"

    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        try:
            await slow(ctx)
        finally:
            await asyncio.sleep(0.01)
            cleaned.append(1)

    began, release, cleaned = asyncio.Event(), asyncio.Event(), []
    ctx = await admin.create_workflow("wf")
    task = asyncio.create_task(wf(ctx))
    async with no_hang():
        await began.wait()
        await cancel(admin, ctx, interrupt=interrupt)
        release.set()
        while not task.done():
            await cancel(admin, ctx, interrupt=interrupt)
            await asyncio.sleep(0)
        with pytest.raises(WorkflowCancelledError):
            await task
    assert cleaned == [1]
    assert task.cancelling() == 0
    assert ("SUCCESS" in (await steps(sql, ctx)).values()) is not interrupt


@pytest.mark.parametrize("interrupt", [False, True])
@pytest.mark.parametrize("carried_out", ["in a body", "by hand"])
async def test_run_can_be_cancelled_while_its_step_is_recorded(admin, sql, interrupt, carried_out):
    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        await note(ctx, "a")
        await note(ctx, "b")

    async def by_hand(ctx):
        await note(ctx, "a")
        await note(ctx, "b")

    class CancelsAfterWrite(Observer):
        async def written(self, records):
            if any(getattr(each, "step_id", None) == "note:a" for each in records):
                await cancel(twin, ctx, interrupt=interrupt)

    async with admin.twin(observer=CancelsAfterWrite()) as twin, no_hang():
        ctx = await twin.create_workflow("wf")
        await ctx.start()
        with pytest.raises(WorkflowCancelledError):
            await (wf if carried_out == "in a body" else by_hand)(ctx)
        await until(_is_cancelled, sql, ctx)
    assert await steps(sql, ctx) == {"note:a": "SUCCESS"}
    assert asyncio.current_task().cancelling() == 0


async def _is_cancelled(sql, ctx):
    return await status(sql, ctx) == "CANCELLED"


# --- started steps without an outcome ---


@pytest.mark.parametrize("how", ["interrupted", "swallowed", "timed out"])
async def test_started_step_of_a_stopped_run_has_an_unknown_outcome(admin, how):
    """A compensation looks at the steps; one that left no trace would be taken for one that never began."""

    @step
    async def charge(ctx: PyWorkflow) -> int:
        if how == "timed out":
            await stop(admin, ctx, "timed out")
        else:
            await cancel(admin, ctx, interrupt=how == "interrupted")
        with contextlib.suppress(BaseException):
            await note(ctx, "tariff")
        return 0

    @step
    async def around(ctx: PyWorkflow) -> int:
        return await charge(ctx)

    @workflow
    async def wf(ctx: PyWorkflow) -> int:
        await note(ctx, "recorded")
        return await around(ctx)

    ctx = await admin.create_workflow("wf")
    async with no_hang():
        with pytest.raises((WorkflowCancelledError, WorkflowTimeoutError)):
            await wf(ctx)
    found = {each.step_id: each.outcome_unknown for each in await admin.list_steps(ctx.id())}
    assert found == {"note:recorded": False, "around": True, "charge": True}


async def test_cancelling_an_ended_workflow_reports_its_status(admin):
    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        return "done"

    ctx = await admin.create_workflow("wf")
    await wf(ctx)
    with pytest.raises(WorkflowFinishedError) as caught:
        await admin.cancel_workflow(ctx.id())
    assert caught.value.status == "SUCCESS"


@pytest.mark.parametrize("fate", ["cancelled in the step", "cancelled before it", "cancelled too late"])
async def test_compensation_runs_only_for_an_unknown_outcome(admin, fate):
    """The example of docs/workers.md."""
    refunds = []

    @step
    async def charge(ctx: PyWorkflow) -> int:
        if fate == "cancelled in the step":
            await cancel(admin, ctx, interrupt=True)
        await asyncio.sleep(0)
        return 100

    @workflow
    async def order(ctx: PyWorkflow) -> int:
        if fate == "cancelled before it":
            await cancel(admin, ctx)
        return await charge(ctx)

    @step
    async def end_of(ctx: PyWorkflow, workflow_id: int) -> str:
        handle = admin.handle(workflow_id)
        with contextlib.suppress(WorkflowCancelledError, StepFailedError):
            await handle.result()
        return await handle.status()

    @step
    async def begun_in(ctx: PyWorkflow, workflow_id: int) -> list:
        return [each.step_id for each in await admin.list_steps(workflow_id)]

    @step
    async def refund(ctx: PyWorkflow, workflow_id: int) -> None:
        refunds.append(workflow_id)

    @workflow
    async def undo(ctx: PyWorkflow, workflow_id: int) -> None:
        if await end_of(ctx, workflow_id) == "SUCCESS":
            return
        if "charge" in await begun_in(ctx, workflow_id):
            await refund(ctx, workflow_id)

    ctx = await admin.create_workflow("order")
    async with no_hang():
        with contextlib.suppress(WorkflowCancelledError):
            await order(ctx)
        with contextlib.suppress(WorkflowFinishedError):
            await admin.cancel_workflow(ctx.id())
        await admin.run(undo, ctx.id())
    assert refunds == ([ctx.id()] if fate == "cancelled in the step" else [])


# --- guards that are let go ---


async def test_collected_guard_releases_its_step_with_a_warning(admin, caplog):
    ctx = await admin.create_workflow("wf")
    await ctx.start()

    async def forgets():
        assert (await ctx.acquire_step("charge")).status == "EXECUTE"

    async def asks():
        return await ctx.acquire_step("charge")

    async with no_hang():
        await asyncio.create_task(forgets())
        acquired = await asyncio.create_task(asks())
    assert acquired.status == "EXECUTE"
    await acquired.guard.success("charged")
    [warning] = caplog.records
    assert "'charge'" in warning.getMessage()
    assert f"workflow {ctx.id()} " in warning.getMessage()


async def test_guard_can_be_collected_in_another_thread(admin, caplog):
    ctx = await admin.create_workflow("wf")
    held = [await asyncio.create_task(ctx.acquire_step("charge"))]
    async with no_hang():
        waits = asyncio.create_task(ctx.acquire_step("charge"))
        await asyncio.to_thread(held.clear)
        assert (await waits).status == "EXECUTE"
    assert "charge" in caplog.records[0].getMessage()


async def test_used_or_outliving_guard_is_collected_silently(admin, caplog, run_program):
    ctx = await admin.create_workflow("wf")
    await (await ctx.acquire_step("a")).guard.success(1)
    await (await ctx.acquire_step("b")).guard.fail("no")
    await asyncio.sleep(0)
    assert caplog.records == []
    source = """
import asyncio, os
from pgqrs import Admin

async def main():
    async with Admin(os.environ["PGQRS_DSN"], os.environ["PGQRS_SCHEMA"]) as admin:
        return await (await admin.get_workflow(1)).acquire_step("c")

kept = asyncio.run(main())
"""
    await ctx.fail("over to the other process")
    assert await asyncio.to_thread(run_program, source) == (0, "", "")
