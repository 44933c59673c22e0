"""Retries: of steps and of workflows, in place and parked, across crashes; and which errors are tried again."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import timedelta

import pytest
from asyncpg import PostgresError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from pgqrs import (
    PyWorkflow,
    RetryPolicy,
    StepFailedError,
    TerminalError,
    TransientError,
    WorkflowCancelledError,
    WorkflowInProgressError,
    step,
    workflow,
)
from pgqrs.engine.lifecycle import Parked
from tests.support.recorded import is_replay, status, steps
from tests.support.waiting import no_hang, until
from tests.support.workflows import Killed, cancel_task

QUICK = RetryPolicy(attempts=3, initial=0.01)


class Flaky:
    """Fails as told, then succeeds; counts its calls."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.calls = 0

    def __call__(self):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


async def failures(sql, step_id):
    return await sql.fetchval("SELECT failures FROM pgqrs_workflow_steps WHERE step_id = $1", step_id)


async def column(sql, name):
    return await sql.fetchval(f"SELECT {name} FROM pgqrs_workflows")


# --- steps, in place ---


async def test_transient_error_is_retried(admin, sql):
    flaky = Flaky(OSError("1"), OSError("2"))

    @step(retry=QUICK)
    async def attempt(ctx: PyWorkflow) -> str:
        return flaky()

    ctx = await admin.create_workflow("wf")
    assert await attempt(ctx) == "done"
    assert flaky.calls == 3
    assert await failures(sql, "attempt") == 2
    [recorded] = await admin.list_steps(ctx.id())
    assert (recorded.status, recorded.failures, recorded.error) == ("SUCCESS", 2, None)
    assert await attempt(ctx) == "done"
    assert flaky.calls == 3


async def test_last_error_is_the_outcome(admin, sql):
    flaky = Flaky(OSError("1"), OSError("2"), OSError("3"))

    @step(retry=QUICK)
    async def attempt(ctx: PyWorkflow) -> str:
        return flaky()

    ctx = await admin.create_workflow("wf")
    with pytest.raises(OSError, match="3") as caught:
        await attempt(ctx)
    assert not is_replay(caught.value, OSError)
    with pytest.raises(OSError, match="3") as caught:
        await attempt(ctx)
    assert is_replay(caught.value, OSError)
    assert flaky.calls == 3
    assert await steps(sql, ctx) == {"attempt": "ERROR"}


async def test_retry_number_is_the_number_of_attempts(admin, monkeypatch):
    flaky = Flaky(TransientError("1", retry_after=0.01), TransientError("2", retry_after=0), TransientError("3"))

    @step(retry=2)
    async def attempt(ctx: PyWorkflow) -> str:
        return flaky()

    with pytest.raises(TransientError, match="2"):
        await attempt(await admin.create_workflow("wf"))
    assert flaky.calls == 2


@pytest.mark.parametrize("error", [ValueError("x"), TerminalError("x"), KeyError("x")])
async def test_terminal_error_is_not_retried(admin, error):
    flaky = Flaky(error)

    @step(retry=QUICK)
    async def attempt(ctx: PyWorkflow) -> str:
        return flaky()

    with pytest.raises(type(error)):
        await attempt(await admin.create_workflow("wf"))
    assert flaky.calls == 1


async def test_error_classes_of_the_step_decide_on_retries(admin):
    flaky = Flaky(ValueError("mend"), OSError("give up"))

    @step(retry=QUICK, transient=(ValueError,), terminal=(OSError,))
    async def attempt(ctx: PyWorkflow) -> str:
        return flaky()

    with pytest.raises(OSError, match="give up"):
        await attempt(await admin.create_workflow("wf"))
    assert flaky.calls == 2


async def test_refused_value_is_not_retried(admin):
    calls = []

    @step(retry=QUICK)
    async def attempt(ctx: PyWorkflow) -> object:
        calls.append(1)
        return object()

    with pytest.raises(ValueError, match="attempt"):
        await attempt(await admin.create_workflow("wf"))
    assert calls == [1]


async def test_concurrent_callers_share_all_attempts(admin):
    flaky = Flaky(OSError("1"), OSError("2"))

    @step(retry=QUICK)
    async def attempt(ctx: PyWorkflow) -> str:
        return flaky()

    ctx = await admin.create_workflow("wf")
    await ctx.start()
    async with no_hang():
        assert await asyncio.gather(*(attempt(ctx) for _ in range(5))) == ["done"] * 5
    assert flaky.calls == 3


async def test_long_attempt_is_listed_as_running(admin, sql):
    release = asyncio.Event()
    flaky = Flaky(OSError("first"))

    @step(retry=QUICK)
    async def attempt(ctx: PyWorkflow) -> str:
        flaky()
        await release.wait()
        return "done"

    ctx = await admin.create_workflow("wf")
    await ctx.start()
    task = asyncio.create_task(attempt(ctx))
    async with no_hang():
        assert (await until(steps, sql, ctx)) == {"attempt": "RUNNING"}
        [record] = await admin.list_steps(ctx.id())
        assert record.failures == 1
        assert record.error["message"] == "first"
        release.set()
        assert await task == "done"


async def test_inner_step_error_is_not_retried_by_its_outer_step(admin):
    """The inner step's error is its outcome in this run: another attempt would only meet it again."""
    inner_calls, outer_calls = Flaky(OSError("inner")), []

    @step
    async def inner(ctx: PyWorkflow) -> str:
        return inner_calls()

    @step(retry=QUICK)
    async def outer(ctx: PyWorkflow) -> str:
        outer_calls.append(1)
        return await inner(ctx)

    @workflow(retry=QUICK)
    async def wf(ctx: PyWorkflow) -> str:
        return await outer(ctx)

    assert await admin.run(wf) == "done"
    assert (inner_calls.calls, len(outer_calls)) == (2, 2)


async def test_attempts_share_the_ids_of_their_sleeps(admin, sql):
    flaky = Flaky(OSError("1"), OSError("2"))

    @step(retry=QUICK)
    async def attempt(ctx: PyWorkflow) -> str:
        await ctx.sleep(0.01)
        return flaky()

    ctx = await admin.create_workflow("wf")
    await attempt(ctx)
    assert set(await steps(sql, ctx)) == {"attempt", "attempt/sleep:1"}


# --- steps, across crashes ---


async def test_failed_attempts_count_across_crashes(admin, sql):
    flaky = Flaky(OSError("1"), Killed(), OSError("2"), OSError("3"))

    @step(retry=QUICK)
    async def attempt(ctx: PyWorkflow) -> str:
        return flaky()

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        return await attempt(ctx)

    ctx = await admin.create_workflow("wf")
    with pytest.raises(Killed):
        await wf(ctx)
    assert await failures(sql, "attempt") == 1
    with pytest.raises(OSError, match="3"):
        await wf(await admin.get_workflow(ctx.id()))
    assert flaky.calls == 4


async def test_retry_delay_continues_after_a_crash(admin, sql):
    flaky = Flaky(TransientError("1", retry_after=30))

    @step(retry=QUICK)
    async def attempt(ctx: PyWorkflow) -> str:
        return flaky()

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        return await attempt(ctx)

    ctx = await admin.create_workflow("wf")
    task = asyncio.create_task(wf(ctx))
    async with no_hang():
        await until(failures, sql, "attempt")
        await cancel_task(task)
        again = asyncio.create_task(wf(await admin.get_workflow(ctx.id())))
        done, _ = await asyncio.wait([again], timeout=0.5)
        assert not done
        assert flaky.calls == 1
        await cancel_task(again)
        await sql.execute("UPDATE pgqrs_workflow_steps SET retry_at = now()")
        assert await wf(await admin.get_workflow(ctx.id())) == "done"
    assert flaky.calls == 2


async def test_cancellation_ends_a_retry_delay(admin, sql):
    @step(retry=RetryPolicy(initial=3600, maximum=3600))
    async def attempt(ctx: PyWorkflow) -> str:
        raise OSError("1")

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        return await attempt(ctx)

    ctx = await admin.create_workflow("wf")
    task = asyncio.create_task(wf(ctx))
    async with no_hang():
        await until(failures, sql, "attempt")
        (await admin.store()).runs[ctx.id()].cancel(interrupt=False)
        with pytest.raises(WorkflowCancelledError):
            await task
    assert (await status(sql, ctx), await steps(sql, ctx)) == ("CANCELLED", {"attempt": "RUNNING"})


# --- steps, parked ---


async def test_long_retry_delay_parks_the_run(sql, claimer):
    flaky = Flaky(TransientError("1", retry_after=600))

    @step(retry=QUICK)
    async def attempt(ctx: PyWorkflow) -> str:
        return flaky()

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        return await attempt(ctx)

    await claimer.submit(wf)
    async with no_hang():
        with pytest.raises(Parked):
            await claimer.run(wf)
        left = await column(sql, "due_at - now()")
        assert timedelta(seconds=590) < left <= timedelta(seconds=600)
        assert (await column(sql, "status"), await failures(sql, "attempt")) == ("WAITING", 1)
        await sql.execute("UPDATE pgqrs_workflows SET due_at = now()")
        await sql.execute("UPDATE pgqrs_workflow_steps SET retry_at = now()")
        assert await claimer.run(wf) == "done"
    assert flaky.calls == 2


async def test_concurrent_retry_delays_park_until_the_earliest(sql, claimer):
    flaky = {n: Flaky(TransientError("1", retry_after=600 + n)) for n in range(3)}

    @step(key=lambda n: n, retry=QUICK)
    async def attempt(ctx: PyWorkflow, n: int) -> str:
        return flaky[n]()

    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        return await asyncio.gather(*(attempt(ctx, n) for n in flaky))

    await claimer.submit(wf)
    async with no_hang():
        with pytest.raises(Parked):
            await claimer.run(wf)
        assert await column(sql, "due_at - now()") <= timedelta(seconds=600)
        await sql.execute("UPDATE pgqrs_workflows SET due_at = now()")
        await sql.execute("UPDATE pgqrs_workflow_steps SET retry_at = now()")
        assert await claimer.run(wf) == ["done"] * 3


# --- workflows ---


async def test_workflow_is_retried_in_the_same_call(admin, sql):
    calls, flaky = [], Flaky(OSError("1"), OSError("2"))

    @step
    async def first(ctx: PyWorkflow) -> str:
        calls.append("first")
        return "kept"

    @step
    async def second(ctx: PyWorkflow) -> str:
        return flaky()

    @workflow(retry=QUICK)
    async def wf(ctx: PyWorkflow) -> list:
        return [await first(ctx), await second(ctx)]

    ctx = await admin.create_workflow("wf")
    assert await wf(ctx) == ["kept", "done"]
    assert (calls, flaky.calls) == (["first"], 3)
    assert (await column(sql, "epoch"), await column(sql, "retries"), await column(sql, "error")) == (3, 2, None)
    assert (await admin.store()).runs == {}


async def test_exhausted_workflow_retries_end_in_error(admin, sql):
    flaky = Flaky(OSError("1"), OSError("2"), OSError("3"))

    @workflow(retry=QUICK)
    async def wf(ctx: PyWorkflow) -> str:
        return flaky()

    with pytest.raises(OSError, match="3"):
        await admin.run(wf)
    assert (flaky.calls, await column(sql, "status")) == (3, "ERROR")
    assert json.loads(await column(sql, "error"))["message"] == "3"


async def test_new_call_of_a_failed_workflow_resets_its_retries(admin, sql):
    flaky = Flaky(*(OSError(str(n)) for n in range(1, 6)))

    @workflow(retry=QUICK)
    async def wf(ctx: PyWorkflow) -> str:
        return flaky()

    ctx = await admin.create_workflow("wf")
    async with no_hang():
        with pytest.raises(OSError, match="3"):
            await wf(ctx)
        assert (await column(sql, "status"), await column(sql, "retries")) == ("ERROR", 2)
        assert await wf(await admin.get_workflow(ctx.id())) == "done"
    assert (flaky.calls, await column(sql, "retries")) == (6, 2)


async def test_terminal_workflow_error_is_not_retried(admin, sql):
    flaky = Flaky(ValueError("1"))

    @workflow(retry=QUICK)
    async def wf(ctx: PyWorkflow) -> str:
        return flaky()

    with pytest.raises(ValueError, match="1"):
        await admin.run(wf)
    assert (flaky.calls, await column(sql, "status")) == (1, "ERROR")


async def test_worker_parks_a_workflow_between_its_retries(sql, claimer):
    flaky = Flaky(*(TransientError(str(n), retry_after=0) for n in range(3)))

    @workflow(retry=3)
    async def wf(ctx: PyWorkflow) -> str:
        return flaky()

    await claimer.submit(wf)
    async with no_hang():
        for retries in (1, 2):
            with pytest.raises(Parked):
                await claimer.run(wf)
            assert (await column(sql, "status"), await column(sql, "retries")) == ("WAITING", retries)
            assert json.loads(await column(sql, "error"))["message"] == str(retries - 1)
        with pytest.raises(TransientError, match="2"):
            await claimer.run(wf)
    assert await column(sql, "status") == "ERROR"


async def test_workflow_retries_count_across_crashes(admin, sql):
    flaky = Flaky(OSError("1"), Killed(), OSError("2"), OSError("3"))

    @workflow(retry=QUICK)
    async def wf(ctx: PyWorkflow) -> str:
        return flaky()

    ctx = await admin.create_workflow("wf")
    with pytest.raises(Killed):
        await wf(ctx)
    with pytest.raises(OSError, match="3"):
        await wf(await admin.get_workflow(ctx.id()))
    assert flaky.calls == 4


async def test_workflow_between_retries_can_be_cancelled(admin, sql):
    @workflow(retry=RetryPolicy(initial=0.5, jitter=0))
    async def wf(ctx: PyWorkflow) -> str:
        raise OSError("1")

    ctx = await admin.create_workflow("wf")
    task = asyncio.create_task(wf(ctx))

    async def waits():
        return await status(sql, ctx) == "WAITING"

    async with no_hang():
        await until(waits)
        with pytest.raises(WorkflowInProgressError):
            await wf(ctx)
        await (await admin.store()).operations.cancel(ctx.id(), interrupt=False)
        with pytest.raises(WorkflowCancelledError):
            await task
    assert await status(sql, ctx) == "CANCELLED"


async def test_step_and_workflow_retries_combine(admin, caplog):
    flaky = Flaky(*(OSError(str(n)) for n in range(5)))

    @step(retry=QUICK)
    async def attempt(ctx: PyWorkflow) -> str:
        return flaky()

    @workflow(retry=QUICK)
    async def wf(ctx: PyWorkflow) -> str:
        return await attempt(ctx)

    assert await admin.run(wf) == "done"
    assert flaky.calls == 6
    warnings = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert [each for each in warnings if "is retried in" not in each] == []
    assert len(warnings) == 5


@pytest.mark.parametrize("wrong", [0, -1, True, "3", 2.5])
def test_invalid_retry_policy_is_refused(wrong):
    for decorator in (step, workflow):
        with pytest.raises((ValueError, TypeError)):
            decorator(retry=wrong)


# --- errors of a database ---


@pytest.mark.parametrize("through", ["asyncpg", "SQLAlchemy"])
@pytest.mark.parametrize("case", [("22012", 1), ("42P01", 1), ("40001", 2), ("40P01", 2), ("55P03", 2)])
async def test_only_transient_database_errors_are_retried(admin, sql, engine, through, case):
    code, calls = case
    called = []
    statement = f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}'; END $$"

    @step(retry=RetryPolicy(attempts=2, initial=0.001))
    async def asks(ctx: PyWorkflow) -> None:
        called.append(1)
        if through == "asyncpg":
            await sql.execute(statement)
        async with engine.connect() as connection:
            await connection.execute(text(statement))

    ctx = await admin.create_workflow("wf")
    with pytest.raises((PostgresError, DBAPIError)):
        await asks(ctx)
    assert len(called) == calls
    with pytest.raises(StepFailedError):
        await asks(ctx)
    assert await sql.fetchval("SELECT error->'terminal' FROM pgqrs_workflow_steps") == str(calls == 1).lower()
