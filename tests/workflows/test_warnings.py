"""Log messages of workflows: mistakes that a run shows, failed attempts, and errors on one line each."""

from __future__ import annotations

import asyncio
import functools
import logging

import pytest
from cryptography.fernet import Fernet

from pgqrs import (
    Admin,
    ConfigurationError,
    PyWorkflow,
    RetryPolicy,
    StepFailedError,
    TransientError,
    Worker,
    WorkflowTimeoutError,
    step,
)
from pgqrs import workflow as workflow_
from pgqrs.codecs import FernetCodec
from pgqrs.codecs.failures import shown_error
from tests.support.waiting import no_hang

SOON = RetryPolicy(attempts=2, initial=0.001, jitter=0)
FORGED = "bad\n2026-11-26 INFO workflow 99 was approved\x1b[2J"


def messages_with(caplog, text):
    return [
        each.getMessage() for each in caplog.records if each.name.startswith("pgqrs") and text in each.getMessage()
    ]


async def killed(workflow, ctx):
    with pytest.raises(asyncio.CancelledError):
        await workflow(ctx)


# --- recorded steps that the code does not come to ---


async def test_unused_outcome_of_a_renamed_step_is_logged(admin, caplog):
    @step
    async def charge(ctx: PyWorkflow) -> str:
        return "receipt"

    @step(id="charge_card")
    async def renamed(ctx: PyWorkflow) -> str:
        return "receipt"

    @step
    async def inner(ctx: PyWorkflow) -> None:
        await ctx.now()

    @step
    async def outer(ctx: PyWorkflow) -> None:
        await asyncio.sleep(0.02)
        await inner(ctx)
        await asyncio.sleep(0.02)

    async def old(ctx: PyWorkflow) -> str:
        await ctx.now()
        await charge(ctx)
        await asyncio.sleep(0.02)
        await outer(ctx)
        raise asyncio.CancelledError

    async def new(ctx: PyWorkflow) -> str:
        await outer(ctx)
        return await renamed(ctx)

    async def same(ctx: PyWorkflow) -> str:
        await outer(ctx)
        return await charge(ctx)

    for code, expected in ((same, 0), (new, 1)):
        ctx = await admin.create_workflow("order")
        await killed(workflow_(name="order")(old), ctx)
        assert await workflow_(name="order")(code)(await admin.get_workflow(ctx.id())) == "receipt"
        found = messages_with(caplog, "did not use")
        assert len(found) == expected
    assert "1 steps that its earlier runs recorded: 'charge'." in found[0]


async def test_run_that_is_stopped_warns_of_no_unused_step(admin, sql, caplog):
    async def killed_later(ctx: PyWorkflow) -> None:
        await ctx.now()
        await counted(ctx)
        raise asyncio.CancelledError

    @step
    async def counted(ctx: PyWorkflow) -> int:
        return 1

    body = workflow_(name="late", timeout=60)(killed_later)
    ctx = await admin.create_workflow("late")
    await killed(body, ctx)
    await sql.execute("UPDATE pgqrs_workflows SET deadline = now() - interval '1 second'")
    with pytest.raises(WorkflowTimeoutError):
        await body(await admin.get_workflow(ctx.id()))
    assert messages_with(caplog, "did not use") == []


async def test_at_most_ten_unused_steps_are_named(admin, caplog):
    @step(key=lambda n: n)
    async def count(ctx: PyWorkflow, n: int) -> None: ...

    async def old(ctx: PyWorkflow) -> None:
        for n in range(12):
            await count(ctx, n)
        raise asyncio.CancelledError

    async def new(ctx: PyWorkflow) -> None:
        raise ValueError("at once")

    ctx = await admin.create_workflow("wf")
    await killed(workflow_(old), ctx)
    with pytest.raises(ValueError, match="at once"):
        await workflow_(new)(await admin.get_workflow(ctx.id()))
    [warning] = messages_with(caplog, "did not use")
    assert "12 steps" in warning
    assert warning.count("'count:") == 10


# --- two functions, a poll, a submission in a body ---


async def test_two_functions_sharing_a_step_id_are_logged_once(admin, caplog):
    def made(value):
        @step(id="same")
        async def one(ctx: PyWorkflow) -> str:
            return value

        return one

    @step(id="same")
    async def another(ctx: PyWorkflow) -> str:
        return "another's"

    @workflow_
    async def wf(ctx: PyWorkflow) -> list[str]:
        return [await each(ctx) for each in (made("a"), made("a"), another, another)]

    assert await admin.run(wf) == ["a"] * 4
    [warning] = messages_with(caplog, "is answered by the outcome of")
    assert "made.<locals>.one" in warning
    assert "another" in warning


async def test_step_polled_without_a_key_is_logged_once(admin, caplog, monkeypatch):
    monkeypatch.setattr("pgqrs.engine.replay.history.REPEATS_BEFORE_WARNING", 5)

    @step
    async def check(ctx: PyWorkflow) -> bool:
        return False

    @workflow_
    async def polls(ctx: PyWorkflow, times: int) -> None:
        for _ in range(times):
            await check(ctx)

    await admin.run(polls, 4)
    assert not messages_with(caplog, "from its recorded outcome")
    await admin.run(polls, 12)
    [warning] = messages_with(caplog, "from its recorded outcome")
    assert "'check' was replayed from its recorded outcome 5 times" in warning


@workflow_
async def child(ctx: PyWorkflow, n: int) -> int:
    return n


async def test_keyless_submission_in_a_body_is_logged_once(admin, caplog):
    @step
    async def submits(ctx: PyWorkflow) -> None:
        await admin.enqueue(child, 1)
        await admin.run(child, 1)

    @workflow_
    async def parent(ctx: PyWorkflow, how: str) -> None:
        for n in range(2):
            if how == "enqueue":
                await admin.enqueue(child, n)
            elif how == "many":
                await admin.enqueue_many(child, [(n,)])
            elif how == "run":
                await admin.run(child, n)
            elif how == "create":
                await admin.create_workflow("child", n)
            elif how == "keyed":
                await admin.options(key=f"child {n}").enqueue(child, n)
                await admin.enqueue_many(child, [(n,)], key=lambda n: f"many {n}")
            else:
                await submits(ctx)

    for how, expected in (("keyed", 0), ("step", 0), ("enqueue", 1), ("many", 2), ("run", 3), ("create", 4)):
        await admin.run(parent, how)
        found = messages_with(caplog, "submits 'child' in its body")
        assert len(found) == expected, how
    await admin.enqueue(child, 1)
    assert len(messages_with(caplog, "in its body")) == 4


# --- failed attempts, and errors in the log ---


async def test_retried_attempts_are_logged_on_one_line(admin, caplog):
    failures = []

    @step(retry=SOON)
    async def fetch(ctx: PyWorkflow) -> str:
        if not failures:
            failures.append("step")
            raise TransientError(FORGED, retry_after=0.001)
        return "fetched"

    @workflow_(retry=SOON)
    async def wf(ctx: PyWorkflow) -> str:
        fetched = await fetch(ctx)
        if len(failures) == 1:
            failures.append("workflow")
            raise OSError("x" * 10_000)
        return fetched

    assert await admin.run(wf) == "fetched"
    of_step, of_workflow = messages_with(caplog, "is retried in")
    assert of_step.startswith("step 'fetch' of workflow 1 ('wf') failed in attempt 1 and is retried in 0.001 s: ")
    assert of_step.endswith(r"TransientError: bad\n2026-11-26 INFO workflow 99 was approved\x1b[2J")
    assert of_workflow.startswith("workflow 1 ('wf') failed in attempt 1 and is retried in 0.001 s: OSError: xxx")
    assert len(of_workflow) < 1000


async def test_log_record_has_workflow_and_step_attributes(admin, caplog):
    failures = []

    @step(retry=SOON)
    async def fetch(ctx: PyWorkflow) -> None:
        if not failures:
            failures.append("once")
            raise TransientError("busy", retry_after=0.001)

    @workflow_
    async def wf(ctx: PyWorkflow) -> int:
        await fetch(ctx)
        return ctx.id()

    workflow_id = await admin.run(wf)
    [record] = [each for each in caplog.records if "is retried in" in each.getMessage()]
    assert (record.name, record.levelno) == ("pgqrs.engine", logging.WARNING)
    assert (record.workflow_id, record.workflow_name, record.step_id) == (workflow_id, "wf", "fetch")
    assert (record.attempt, record.delay) == (1, 0.001)


@pytest.mark.parametrize("encrypted", [False, True])
async def test_failed_workflow_is_logged_without_encrypted_text(dsn, installed, caplog, encrypted):
    @step(retry=SOON)
    async def pays(ctx: PyWorkflow) -> None:
        raise OSError(FORGED)

    @workflow_
    async def wf(ctx: PyWorkflow) -> None:
        await pays(ctx)

    codec = {"codec": FernetCodec([Fernet.generate_key()])} if encrypted else {}
    async with Admin(dsn, installed, **codec) as admin, Worker(admin, [wf]), no_hang():
        with pytest.raises(StepFailedError):
            await (await admin.enqueue(wf)).result()
    found = messages_with(caplog, "failed")
    assert len(found) == 2
    assert all("OSError" in each and "\n" not in each for each in found)
    assert all(("approved" in each) is not encrypted for each in found)


def test_an_error_is_shown_on_one_line():
    class Odd(Exception):
        def __str__(self):
            raise RuntimeError

    assert shown_error(ValueError("grün\u2028\u202e")) == r"ValueError: grün\u2028\u202e"
    assert shown_error(ValueError()) == "ValueError"
    assert "str() failed" in shown_error(Odd())
    assert shown_error(ValueError("secret"), is_sealed=True) == "ValueError"


# --- a decorator around a workflow ---


async def test_workers_call_a_workflow_through_its_outer_decorators(admin):
    traces = []

    def traced(function):
        @functools.wraps(function)
        async def around(ctx, *args):
            traces.append(args)
            return await function(ctx, *args)

        return around

    @traced
    @workflow_
    async def wf(ctx: PyWorkflow, n: int) -> int:
        return n

    async with no_hang(), Worker(admin, [wf, wf]):
        assert await (await admin.enqueue(wf, 1)).result() == 1
    assert await admin.run(wf, 2) == 2
    assert traces == [(1,), (2,)]
    with pytest.raises(ConfigurationError, match="two workflows are named"):
        Worker(admin, [wf, wf.__wrapped__])
