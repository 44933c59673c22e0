"""Durable time: replayed sleeps, parked workflows, cancellation, requeueing."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import time
import weakref
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from pgqrs import PyWorkflow, RetryPolicy, WorkflowCancelledError, step, workflow
from pgqrs.engine.lifecycle import Parked
from tests.support.recorded import status, steps
from tests.support.waiting import no_hang, until
from tests.support.workflows import Gate, cancel_task, note


async def row(sql, ctx_or_id):
    workflow_id = ctx_or_id if isinstance(ctx_or_id, int) else ctx_or_id.id()
    return await sql.fetchrow("SELECT * FROM pgqrs_workflows WHERE id = $1", workflow_id)


async def make_due(sql, workflow_id):
    """Let the time of a sleeping workflow come: its timer, and the time that its sleeps recorded."""
    await sql.execute("UPDATE pgqrs_workflows SET due_at = now() WHERE id = $1", workflow_id)
    await sql.execute(
        "UPDATE pgqrs_workflow_steps SET output = to_json(now()) WHERE workflow_id = $1 AND step_id LIKE '%sleep:%'",
        workflow_id,
    )


async def output(sql, workflow_id, step_id):
    text = await sql.fetchval(
        "SELECT output FROM pgqrs_workflow_steps WHERE workflow_id = $1 AND step_id = $2", workflow_id, step_id
    )
    return json.loads(text)


# --- in place ---


async def test_sleep_lasts_its_duration_and_is_recorded(admin, sql):
    @workflow
    async def naps(ctx: PyWorkflow) -> None:
        await ctx.sleep(0.05)
        await ctx.sleep(timedelta(milliseconds=50))
        await ctx.sleep(0, id="blink")

    ctx = await admin.create_workflow("naps")
    began = time.monotonic()
    await naps(ctx)
    assert time.monotonic() - began >= 0.1
    assert await steps(sql, ctx) == dict.fromkeys(("sleep:1", "sleep:2", "sleep/blink"), "SUCCESS")
    wake_up = datetime.fromisoformat(await output(sql, ctx.id(), "sleep:1"))
    started = await sql.fetchval("SELECT started_at FROM pgqrs_workflows")
    assert abs(wake_up - started - timedelta(seconds=0.05)) < timedelta(seconds=2)


async def test_replay_continues_the_recorded_sleep(admin, sql):
    """Not with a sleep of its own: the second run waits for what is left, the third not at all."""
    sleeping = asyncio.Event()

    @workflow
    async def long(ctx: PyWorkflow) -> str:
        sleeping.set()
        await ctx.sleep(0.6)
        return "awake"

    ctx = await admin.create_workflow("long")
    began = time.monotonic()
    task = asyncio.create_task(long(ctx))
    await sleeping.wait()
    await until(steps, sql, ctx)
    await cancel_task(task)
    wake_up = await output(sql, ctx.id(), "sleep:1")
    assert await long(ctx) == "awake"
    assert 0.55 < time.monotonic() - began < 1.1
    assert await output(sql, ctx.id(), "sleep:1") == wake_up
    await admin.verify(deep=True)


async def test_now_is_recorded_and_timezone_aware(admin, sql):
    seen = []

    @workflow
    async def clock(ctx: PyWorkflow) -> None:
        seen.append((await ctx.now(), await ctx.now(), await ctx.now(id="third")))
        if len(seen) == 1:
            raise RuntimeError("once more")

    ctx = await admin.create_workflow("clock")
    with pytest.raises(RuntimeError):
        await clock(ctx)
    await clock(ctx)
    assert seen[0] == seen[1]
    assert seen[0][0] <= seen[0][1] <= seen[0][2]
    assert all(each.utcoffset() is not None for each in seen[0])
    assert await steps(sql, ctx) == dict.fromkeys(("now:1", "now:2", "now/third"), "SUCCESS")
    assert abs(seen[0][0] - await sql.fetchval("SELECT started_at FROM pgqrs_workflows")) < timedelta(seconds=5)


async def test_sleep_until_waits_for_the_given_time(admin):
    @workflow
    async def until_then(ctx: PyWorkflow) -> None:
        await ctx.sleep_until(await ctx.now() + timedelta(seconds=0.1))
        await ctx.sleep_until(datetime(1999, 12, 31, tzinfo=UTC))

    began = time.monotonic()
    await admin.run(until_then)
    assert 0.1 <= time.monotonic() - began < 5


async def test_timer_numbers_of_a_step_are_freed_with_it(admin, sql):
    """Kept in the run, each further step would have to look through those of all before it."""

    @step(key=lambda n: n, retry=RetryPolicy(attempts=2, initial=0))
    async def stamped(ctx: PyWorkflow, n: int) -> None:
        await ctx.now()
        await ctx.now()
        if not failed_once:
            failed_once.append(n)
            raise OSError

    failed_once = []
    ctx = await admin.create_workflow("wf")
    for n in range(5):
        await stamped(ctx, n)
    ids = {f"stamped:{n}{rest}" for n in range(5) for rest in ("", "/now:1", "/now:2")}
    assert set(await steps(sql, ctx)) == ids
    assert ctx._run.steps._numbers == {}


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1e11, "1", None, True])
async def test_invalid_sleep_durations_are_refused(admin, wrong):
    ctx = await admin.create_workflow("wf")
    with pytest.raises((ValueError, TypeError)):
        await ctx.sleep(wrong)


async def test_naive_time_is_refused(admin):
    ctx = await admin.create_workflow("wf")
    with pytest.raises(ValueError, match="aware"):
        await ctx.sleep_until(datetime(2030, 1, 1))  # noqa: DTZ001
    with pytest.raises(TypeError):
        await ctx.sleep_until(5)


async def test_sleeps_are_numbered_within_their_step(admin, sql):
    """A replay skips the step, and must not give the body's sleep the number of the step's."""

    @step
    async def sleepy(ctx: PyWorkflow) -> None:
        await ctx.sleep(0)

    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        await sleepy(ctx)
        await ctx.sleep(0.01)

    ctx = await admin.create_workflow("wf")
    await wf(ctx)
    assert set(await steps(sql, ctx)) == {"sleepy", "sleepy/sleep:1", "sleep:1"}


# --- parked ---


@workflow
async def sleeper(ctx: PyWorkflow, seconds: float) -> list:
    before = await note(ctx, "before")
    await ctx.sleep(seconds)
    return [before, await note(ctx, "after")]


async def test_worker_run_parks_and_resumes_when_due(sql, claimer):
    workflow_id = await claimer.submit(sleeper, 3600)
    with pytest.raises(Parked):
        await claimer.run(sleeper)
    parked = await row(sql, workflow_id)
    assert (parked["status"], parked["executor"]) == ("WAITING", None)
    wake_up = datetime.fromisoformat(await output(sql, workflow_id, "sleep:1"))
    assert abs(wake_up - parked["due_at"]) < timedelta(seconds=1)
    assert claimer.store.runs == {}
    await make_due(sql, workflow_id)
    assert await claimer.run(sleeper) == ["before", "after"]
    assert (await row(sql, workflow_id))["epoch"] == 2


async def test_run_claimed_too_early_parks_for_the_remaining_time(sql, claimer):
    workflow_id = await claimer.submit(sleeper, 3600)
    with pytest.raises(Parked):
        await claimer.run(sleeper)
    first = (await row(sql, workflow_id))["due_at"]
    await sql.execute("UPDATE pgqrs_workflows SET due_at = now()")
    with pytest.raises(Parked):
        await claimer.run(sleeper)
    assert abs((await row(sql, workflow_id))["due_at"] - first) < timedelta(seconds=1)


async def test_a_short_sleep_does_not_park(claimer):
    await claimer.submit(sleeper, 0.1)
    assert await claimer.run(sleeper) == ["before", "after"]


async def test_a_parked_run_is_not_held_in_memory(claimer):
    class Held:
        pass

    held = []

    @workflow
    async def holding(ctx: PyWorkflow) -> None:
        mine = Held()
        held.append(weakref.ref(mine))
        await ctx.sleep(3600)
        raise AssertionError(mine)

    await claimer.submit(holding)
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(Parked):
            await claimer.run(holding)
        await asyncio.sleep(0)
        gc.collect()  # what pytest keeps of the exception
        assert held[0]() is None
    finally:
        gc.enable()


SWALLOWING = {}


def swallowing(function):
    SWALLOWING[function.__name__] = workflow(function)
    return function


@swallowing
async def except_exception(ctx: PyWorkflow) -> str:
    try:
        await ctx.sleep(3600)
    except Exception:
        return "swallowed"
    return "slept"


@swallowing
async def except_base_exception(ctx: PyWorkflow) -> str:
    with suppress(BaseException):
        await ctx.sleep(3600)
    await note(ctx, "too early")
    return "slept"


@swallowing
async def finally_returns(ctx: PyWorkflow) -> str:
    try:
        await ctx.sleep(3600)
    finally:
        return "slept"  # noqa: B012


@swallowing
async def finally_raises(ctx: PyWorkflow) -> str:
    try:
        await ctx.sleep(3600)
    finally:
        if await ctx.now() is None:
            raise RuntimeError
    return "slept"


@swallowing
async def in_a_gather(ctx: PyWorkflow) -> str:
    await asyncio.gather(ctx.sleep(7200, id="long"), ctx.sleep(3600, id="short"))
    return "slept"


@swallowing
async def in_a_gather_of_exceptions(ctx: PyWorkflow) -> str:
    await asyncio.gather(ctx.sleep(7200, id="long"), ctx.sleep(3600, id="short"), return_exceptions=True)
    return "slept"


@swallowing
async def in_a_task_group(ctx: PyWorkflow) -> str:
    async with asyncio.TaskGroup() as group:
        group.create_task(ctx.sleep(7200, id="long"))
        group.create_task(ctx.sleep(3600, id="short"))
    return "slept"


@swallowing
async def in_an_unawaited_task(ctx: PyWorkflow) -> str:
    awake = asyncio.Event()

    async def wake():
        await ctx.sleep(3600)
        awake.set()

    task = asyncio.create_task(wake())
    await awake.wait()
    await task
    return "slept"


@pytest.mark.parametrize("name", SWALLOWING)
async def test_parking_survives_exception_handlers_of_the_body(sql, claimer, caplog, name):
    function = SWALLOWING[name]
    workflow_id = await claimer.submit(function)
    async with no_hang():
        with pytest.raises(Parked):
            await claimer.run(function)
        parked = await row(sql, workflow_id)
        assert parked["status"] == "WAITING"
        left = parked["due_at"] - await sql.fetchval("SELECT now()")
        assert timedelta(seconds=3500) < left <= timedelta(seconds=3600)
        assert "note:too early" not in await steps(sql, _Id(workflow_id))
        await sql.execute(
            "UPDATE pgqrs_workflow_steps SET output = to_json(now()) WHERE step_id IN ('sleep/long', 'sleep/short')"
        )
        await make_due(sql, workflow_id)
        assert await claimer.run(function) == "slept"
    gc.collect()
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


class _Id:
    def __init__(self, workflow_id):
        self._id = workflow_id

    def id(self):
        return self._id


async def test_run_does_not_park_while_a_step_executes(sql, claimer):
    release = asyncio.Event()

    @step
    async def slow(ctx: PyWorkflow) -> str:
        await release.wait()
        return "done"

    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        return await asyncio.gather(slow(ctx), ctx.sleep(3600))

    workflow_id = await claimer.submit(wf)
    task = asyncio.create_task(claimer.run(wf))
    async with no_hang():
        await until(steps, sql, _Id(workflow_id))
        done, _ = await asyncio.wait([task], timeout=0.6)
        assert not done
        release.set()
        with pytest.raises(Parked):
            await task
    assert await steps(sql, _Id(workflow_id)) == {"slow": "SUCCESS", "sleep:1": "SUCCESS"}


async def test_run_does_not_park_between_steps_of_a_task(sql, claimer):
    @step(key=lambda n: n)
    async def work(ctx: PyWorkflow, n: int) -> None:
        await asyncio.sleep(0.02)

    async def chain(ctx):
        for n in range(30):
            await work(ctx, n)
            await asyncio.sleep(0.01)

    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        await asyncio.gather(chain(ctx), ctx.sleep(3600))

    workflow_id = await claimer.submit(wf)
    async with no_hang():
        with pytest.raises(Parked):
            await claimer.run(wf)
    assert len(await steps(sql, _Id(workflow_id))) == 31


async def test_long_replay_does_not_park_the_run_early(sql, claimer):
    """Between steps that are recorded nothing executes, but a body that comes to the next one goes on."""
    executed, failed = [], []

    @step(key=lambda n: n)
    async def work(ctx: PyWorkflow, n: int) -> None:
        executed.append(n)

    async def chain(ctx):
        for n in range(8):
            await work(ctx, n)
            await asyncio.sleep(0.05)
        if not failed:
            failed.append(1)
            raise OSError
        await work(ctx, "last")

    @workflow(retry=RetryPolicy(attempts=2, initial=0.01))
    async def wf(ctx: PyWorkflow) -> None:
        await asyncio.gather(chain(ctx), ctx.sleep(3600))

    workflow_id = await claimer.submit(wf)
    async with no_hang():
        for _ in range(2):
            with pytest.raises(Parked):
                await claimer.run(wf)
    assert executed == [*range(8), "last"]
    assert len(await steps(sql, _Id(workflow_id))) == 10


async def test_a_sleep_within_a_step_waits_in_place(sql, claimer):
    executed = []

    @step
    async def napping(ctx: PyWorkflow) -> str:
        executed.append(1)
        await ctx.sleep(1.3)
        return "napped"

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        return await napping(ctx)

    await claimer.submit(wf)
    assert await claimer.run(wf) == "napped"
    assert executed == [1]


async def test_thousands_of_sleeps_park_until_the_earliest(sql, claimer):
    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        await asyncio.gather(*(ctx.sleep(1000 + n, id=f"nap {n}") for n in range(2000)))

    workflow_id = await claimer.submit(wf)
    async with no_hang():
        with pytest.raises(Parked):
            await claimer.run(wf)
    left = (await row(sql, workflow_id))["due_at"] - await sql.fetchval("SELECT now()")
    assert timedelta(seconds=900) < left <= timedelta(seconds=1000)


# --- cancelled ---


@pytest.mark.parametrize("interrupt", [False, True])
async def test_cancellation_ends_a_sleep(admin, sql, interrupt):
    ctx = await admin.create_workflow("sleeper")
    task = asyncio.create_task(sleeper(ctx, 3600))
    async with no_hang():
        await until(_is_there, sql, ctx, "sleep:1")
        await (await admin.store()).operations.cancel(ctx.id(), interrupt=interrupt)
        with pytest.raises(WorkflowCancelledError):
            await task
    assert await status(sql, ctx) == "CANCELLED"
    with pytest.raises(WorkflowCancelledError):
        await sleeper(ctx, 3600)
    assert (await admin.store()).runs == {}


async def _is_cancelled(sql, ctx):
    return await status(sql, ctx) == "CANCELLED"


async def _is_there(sql, ctx, step_id):
    return step_id in await steps(sql, ctx)


async def test_cancellation_lets_a_running_step_end(admin, sql):
    gate = Gate()
    slow = gate.step("slow")

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        try:
            await slow(ctx)
            await note(ctx, "next")
        except Exception:
            return await note(ctx, "clean up")
        return "went on"

    ctx = await admin.create_workflow("wf")
    task = asyncio.create_task(wf(ctx))
    async with no_hang():
        await gate.reached.wait()
        (await admin.store()).runs[ctx.id()].cancel(interrupt=False)
        gate.open()
        with pytest.raises(WorkflowCancelledError):
            await task
    assert await steps(sql, ctx) == {"slow": "SUCCESS"}
    assert await status(sql, ctx) == "CANCELLED"


async def test_interruption_cancels_steps_in_all_tasks(admin, sql):
    started, seen = [], []

    @step(key=lambda n: n)
    async def hangs(ctx: PyWorkflow, n: int) -> None:
        started.append(n)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append(n)
            raise RuntimeError("converted") from None

    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        background = asyncio.create_task(hangs(ctx, 0))
        try:
            await asyncio.gather(hangs(ctx, 1), hangs(ctx, 2), return_exceptions=True)
        finally:
            await asyncio.gather(background, return_exceptions=True)

    ctx = await admin.create_workflow("wf")
    task = asyncio.create_task(wf(ctx))

    async def all_started():
        return len(started) == 3

    async with no_hang():
        await until(all_started)
        run = (await admin.store()).runs[ctx.id()]
        assert run.busy_with in {"hangs:0", "hangs:1", "hangs:2"}
        run.cancel(interrupt=True)
        with pytest.raises(WorkflowCancelledError):
            await task
    assert not task.cancelled()
    assert sorted(seen) == [0, 1, 2]
    assert "SUCCESS" not in (await steps(sql, ctx)).values()
    assert "ERROR" not in (await steps(sql, ctx)).values()
    assert await status(sql, ctx) == "CANCELLED"


async def test_cancelled_workflow_does_not_cancel_its_caller(admin):
    started = asyncio.Event()

    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        started.set()
        await asyncio.Event().wait()

    async def caller():
        ctx = await admin.create_workflow("wf")
        asyncio.get_running_loop().create_task(cancel(ctx))
        with pytest.raises(WorkflowCancelledError):
            await wf(ctx)
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0.01)
        return "went on"

    async def cancel(ctx):
        await started.wait()
        (await admin.store()).runs[ctx.id()].cancel(interrupt=True)

    async with no_hang():
        assert await asyncio.create_task(caller()) == "went on"


async def test_task_cancellation_is_not_replaced_by_an_interruption(admin, sql):
    started = asyncio.Event()

    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        started.set()
        await asyncio.Event().wait()

    ctx = await admin.create_workflow("wf")
    task = asyncio.create_task(wf(ctx))
    async with no_hang():
        await started.wait()
        (await admin.store()).runs[ctx.id()].cancel(interrupt=True)
        await cancel_task(task)
    assert await status(sql, ctx) in {"RUNNING", "CANCELLED"}


async def test_manual_run_is_cancelled(admin, sql):
    ctx = await admin.create_workflow("wf")
    await ctx.start()
    await note(ctx, "a")
    await (await admin.store()).operations.cancel(ctx.id(), interrupt=False)
    async with no_hang():
        await until(_is_cancelled, sql, ctx)
    for call in (lambda: note(ctx, "b"), ctx.success, lambda: ctx.fail("x")):
        with pytest.raises(WorkflowCancelledError):
            await call()


async def test_parked_workflow_is_cancelled(admin, sql, claimer):
    workflow_id = await claimer.submit(sleeper, 3600)
    with pytest.raises(Parked):
        await claimer.run(sleeper)
    await claimer.store.operations.cancel(workflow_id, interrupt=False)
    assert (await row(sql, workflow_id))["status"] == "CANCELLED"


# --- handed back ---


async def test_requeued_run_is_resumed_by_another_claim(sql, claimer):
    waiting = asyncio.Event()

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        await note(ctx, "first")
        if not waiting.is_set():
            waiting.set()
            await asyncio.Event().wait()
        return await note(ctx, "second")

    workflow_id = await claimer.submit(wf)
    ctx, args = await claimer.adopt(wf)
    task = asyncio.create_task(wf(ctx, *args))
    async with no_hang():
        await waiting.wait()
        await ctx.requeue()
        with pytest.raises(Parked):
            await task
        handed = await row(sql, workflow_id)
        assert (handed["status"], handed["executor"], handed["attempts"]) == ("PENDING", None, 0)
        await ctx.requeue()
        assert await claimer.run(wf) == "second"


async def _hand_back_at(gate, ctx):
    """Hand the run back while its step waits at the gate, and let the step go on within the grace."""
    await gate.reached.wait()
    handing = asyncio.create_task(ctx.requeue(60))
    await asyncio.sleep(0)
    gate.open()
    await handing


async def test_requeue_waits_for_the_running_step_only(sql, claimer):
    gate = Gate()
    slow = gate.step("slow")

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        await slow(ctx)
        return await note(ctx, "second")

    workflow_id = await claimer.submit(wf)
    ctx, args = await claimer.adopt(wf)
    task = asyncio.create_task(wf(ctx, *args))
    async with no_hang():
        await _hand_back_at(gate, ctx)
        with pytest.raises(Parked):
            await task
        assert await steps(sql, ctx) == {"slow": "SUCCESS"}
        assert (await row(sql, workflow_id))["status"] == "PENDING"
        assert await claimer.run(wf) == "second"


async def test_workflow_ending_within_the_requeue_grace_succeeds(sql, claimer):
    gate = Gate()
    last = gate.step("last")

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        return await last(ctx)

    await claimer.submit(wf)
    ctx, args = await claimer.adopt(wf)
    task = asyncio.create_task(wf(ctx, *args))
    async with no_hang():
        await _hand_back_at(gate, ctx)
        assert await task == "done"
    assert await status(sql, ctx) == "SUCCESS"


async def test_step_is_interrupted_after_the_requeue_grace(sql, claimer):
    started = asyncio.Event()

    @step
    async def endless(ctx: PyWorkflow) -> str:
        if not started.is_set():
            started.set()
            await asyncio.Event().wait()
        return "done"

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        return await endless(ctx)

    await claimer.submit(wf)
    ctx, args = await claimer.adopt(wf)
    task = asyncio.create_task(wf(ctx, *args))
    async with no_hang():
        await started.wait()
        await ctx.requeue(0.05)
        with pytest.raises(Parked):
            await task
        assert await claimer.run(wf) == "done"


async def test_unstarted_run_can_be_requeued(sql, claimer):
    workflow_id = await claimer.submit(sleeper, 0)
    ctx, _ = await claimer.adopt(sleeper)
    await ctx.requeue()
    assert (await row(sql, workflow_id))["status"] == "PENDING"
    assert await claimer.run(sleeper) == ["before", "after"]
