"""Steps without a decorator, numbered calls of steps, the current context, and the number of an attempt."""

from __future__ import annotations

import asyncio
import base64
import functools
import gc
import weakref
from collections import Counter
from decimal import Decimal

import pytest
from pydantic import BaseModel

import pgqrs
from pgqrs import (
    InvalidNameError,
    PgqrsError,
    PyWorkflow,
    RetryPolicy,
    RunStopped,
    StepMismatchError,
    StepTimeoutError,
    TransientError,
    Worker,
    step,
    workflow,
)
from pgqrs.codecs import FernetCodec, PydanticCodec
from pgqrs.testing import crash_everywhere
from tests.support.recorded import is_replay, steps
from tests.support.waiting import no_hang
from tests.support.workflows import Killed

pytest_plugins = ("pytest_pgqrs",)

SOON = RetryPolicy(attempts=3, initial=0.001, jitter=0)
KEY = base64.urlsafe_b64encode(b"k" * 32)


class Bill(BaseModel):
    total: Decimal


class Log:
    """Notes the calls of functions, and returns functions without arguments."""

    def __init__(self):
        self.calls = Counter()

    async def called(self, name, value=None, pause=0.0):
        self.calls[name] += 1
        await asyncio.sleep(pause)
        return value


@pytest.fixture
def log():
    return Log()


# --- ctx.step ---


async def test_lambda_is_a_step_with_a_recorded_outcome(admin, sql, log):
    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        first = await ctx.step("fetch", lambda: log.called("fetch", (1, 2)))
        assert await ctx.step("keyed", lambda: log.called("keyed"), key=("a:b", 3)) is None
        if log.calls["died"] == 0:
            log.calls["died"] += 1
            raise asyncio.CancelledError
        return first

    ctx = await admin.create_workflow("wf")
    with pytest.raises(asyncio.CancelledError):
        await wf(ctx)
    assert await wf(await admin.get_workflow(ctx.id())) == [1, 2]  # the recorded form, both times
    assert (log.calls["fetch"], log.calls["keyed"]) == (1, 1)
    assert set(await steps(sql, ctx)) == {"fetch", "keyed:a%3Ab:3"}


async def test_body_step_within_a_step_is_nested(admin, sql, log):
    @step
    async def outer(ctx: PyWorkflow) -> str:
        for _ in range(2):
            await ctx.step("poll", lambda: log.called("poll"), numbered=True)
        return await ctx.step("inner", functools.partial(log.called, "inner", "value"))

    ctx = await admin.create_workflow("wf")
    assert await outer(ctx) == "value"
    assert set(await steps(sql, ctx)) == {"outer", "inner", "outer//poll:1", "outer//poll:2"}


async def test_recorded_error_of_a_body_step_is_raised_again(admin, log):
    async def fails():
        await log.called("fails")
        raise ValueError("no such order")

    @workflow
    async def wf(ctx: PyWorkflow) -> bool:
        with pytest.raises(ValueError, match="no such order") as caught:
            await ctx.step("fails", fails)
        if not log.calls["died"]:
            log.calls["died"] += 1
            raise asyncio.CancelledError
        return is_replay(caught.value, ValueError)

    ctx = await admin.create_workflow("wf")
    with pytest.raises(asyncio.CancelledError):
        await wf(ctx)
    assert await wf(await admin.get_workflow(ctx.id()))
    assert log.calls["fails"] == 1


async def test_retry_and_error_classes_apply_to_a_body_step(admin, log):
    async def busy():
        await log.called("busy")
        if log.calls["busy"] < 3:
            raise ValueError("busy")
        return "done"

    async def gone():
        await log.called("gone")
        raise OSError("gone")

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        with pytest.raises(OSError, match="gone"):
            await ctx.step("gone", gone, retry=SOON, terminal=(OSError,))
        return await ctx.step("busy", busy, retry=SOON, transient=(ValueError,))

    async with no_hang():
        assert await admin.run(wf) == "done"
    assert (log.calls["gone"], log.calls["busy"]) == (1, 3)


async def test_timeout_applies_to_a_body_step(admin):
    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        with pytest.raises(StepTimeoutError):
            await ctx.step("hangs", lambda: asyncio.sleep(3600), timeout=0.01)
        return "in time"

    async with no_hang():
        assert await admin.run(wf) == "in time"


@pytest.mark.parametrize(
    ("body", "message"),
    [(lambda: 5, "must return an awaitable, got int"), (lambda: None, r"`@step\(thread=True\)`")],
)
async def test_body_without_an_awaitable_is_a_clear_error(admin, body, message):
    ctx = await admin.create_workflow("wf")
    with pytest.raises(TypeError, match=message):
        await ctx.step("plain", body)


async def test_wrong_arguments_of_a_body_step_are_refused(admin, log):
    ctx = await admin.create_workflow("wf")
    with pytest.raises(TypeError, match=r"got coroutine.*ctx.step\('fetch', lambda"):
        ctx.step("fetch", log.called("fetch"))
    with pytest.raises(InvalidNameError, match="must not contain"):
        ctx.step("a:b", log.called)
    with pytest.raises(InvalidNameError, match=r"ctx.sleep\(\)"):
        ctx.step("sleep", log.called, key=1)
    with pytest.raises(InvalidNameError, match="the key of a step"):
        ctx.step("a", log.called, key={1})
    with pytest.raises(ValueError, match="timeout"):
        ctx.step("a", log.called, timeout=0)
    assert not log.calls


async def test_never_awaited_body_step_is_named_in_the_warning(admin):
    ctx = await admin.create_workflow("wf")
    with pytest.warns(RuntimeWarning, match=r"PyWorkflow.step\('fetch'\)' was never awaited"):
        ctx.step("fetch", lambda: asyncio.sleep(0))  # the coroutine is freed at once


async def test_body_step_in_a_loop_without_a_key_warns(admin, caplog):
    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        found = [await ctx.step("fetch", lambda n=n: asyncio.sleep(0, n)) for n in range(3)]
        found += [await ctx.step("part", functools.partial(asyncio.sleep, 0, n)) for n in range(3)]
        for each in range(3):
            found.append(await ctx.step("cell", lambda: asyncio.sleep(0, each)))  # noqa: B023
        return found

    assert await admin.run(wf) == [0] * 9
    found = [each for each in caplog.messages if "answers a call with different arguments" in each]
    assert [next(name for name in ("fetch", "part", "cell") if f"'{name}'" in each) for each in found] == [
        "fetch", "part", "cell",
    ]  # fmt: skip
    assert "numbered=True" in found[0]


async def test_body_step_in_a_strict_loop_raises(admin):
    @workflow(strict=True)
    async def wf(ctx: PyWorkflow) -> list:
        same = [await ctx.step("same", lambda: asyncio.sleep(0, "x")) for _ in range(2)]
        with pytest.raises(StepMismatchError):
            for n in range(2):
                await ctx.step("fetch", lambda n=n: asyncio.sleep(0, n))
        return same

    assert await admin.run(wf) == ["x", "x"]


async def test_two_bodies_under_one_name_warn(admin, caplog):
    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        one = await ctx.step("same", lambda: asyncio.sleep(0, 1))
        return [one, await ctx.step("same", lambda: asyncio.sleep(0, 2))]

    assert await admin.run(wf) == [1, 1]
    assert [each for each in caplog.messages if "is answered by the outcome of" in each]


async def test_body_steps_leave_no_garbage(admin):
    class Held:
        pass

    held = []

    @workflow
    async def wf(ctx: PyWorkflow) -> int:
        mine = Held()
        held.append(weakref.ref(mine))

        async def uses() -> int:
            assert mine
            return ctx.id()

        await ctx.step("numbered", uses, numbered=True)
        return await ctx.step("once", uses)

    gc.collect()
    gc.disable()
    try:
        assert await admin.run(wf)
        await asyncio.sleep(0)
        assert held[0]() is None
    finally:
        gc.enable()


# --- numbered ---


@step(numbered=True)
async def count(ctx: PyWorkflow, value: int) -> int:
    return value


@step(numbered=True, key=lambda name, value: name)
async def keyed(ctx: PyWorkflow, name: str, value: int) -> int:
    return value


@step(numbered=True, thread=True)
def in_thread(ctx: PyWorkflow, value: int) -> int:
    return value


async def test_numbered_calls_are_steps_of_their_own(admin, sql):
    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        found = [await count(ctx, n) for n in range(3)]
        found += [await keyed(ctx, name, n) for n, name in enumerate("aab")]
        return [*found, await in_thread(ctx, 7), await ctx.step("count", lambda: asyncio.sleep(0, "key"), key=1)]

    ctx = await admin.create_workflow("wf")
    assert await wf(ctx) == [0, 1, 2, 0, 1, 2, 7, "key"]
    assert set(await steps(sql, ctx)) == {
        "/count:1", "/count:2", "/count:3", "/keyed:a:1", "/keyed:a:2", "/keyed:b:1", "/in_thread:1", "count:1",
    }  # fmt: skip


async def test_numbers_count_from_the_call_in_any_order(admin, log):
    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        calls = [ctx.step("part", lambda n=n: log.called(n, n, 0.02 * (2 - n)), numbered=True) for n in range(3)]
        calls += [count(ctx, n) for n in range(3)]
        if log.calls["died"]:
            return (await asyncio.gather(*reversed(calls)))[::-1]
        await asyncio.gather(*calls)
        log.calls["died"] += 1
        raise asyncio.CancelledError

    ctx = await admin.create_workflow("wf")
    with pytest.raises(asyncio.CancelledError):
        await wf(ctx)
    assert await wf(await admin.get_workflow(ctx.id())) == [0, 1, 2, 0, 1, 2]
    assert [log.calls[n] for n in range(3)] == [1, 1, 1]


async def test_numbers_begin_anew_with_each_attempt_of_a_step(admin, log):
    @step(retry=SOON)
    async def outer(ctx: PyWorkflow) -> list:
        found = [await ctx.step("part", lambda n=n: log.called("part", n), numbered=True) for n in range(2)]
        await log.called("outer")
        if log.calls["outer"] == 1:
            raise TransientError("again")
        return found

    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        return await outer(ctx)

    async with no_hang():
        assert await admin.run(wf) == [0, 1]
    assert log.calls == {"part": 2, "outer": 2}


async def test_unused_numbered_step_is_logged(admin, caplog):
    async def old(ctx: PyWorkflow) -> str:
        await ctx.sleep(0, id="1")
        await count(ctx, 1)
        raise asyncio.CancelledError

    async def new(ctx: PyWorkflow) -> str:
        return "new"

    ctx = await admin.create_workflow("wf")
    with pytest.raises(asyncio.CancelledError):
        await workflow(old)(ctx)
    assert await workflow(new)(await admin.get_workflow(ctx.id())) == "new"
    [warning] = [each for each in caplog.messages if "did not use" in each]
    assert "1 steps that its earlier runs recorded: '/count:1'." in warning


async def test_numbered_call_by_hand_starts_the_run(admin, sql):
    ctx = await admin.create_workflow("wf")
    assert await count(ctx, 1) == 1
    assert await ctx.step("count", lambda: asyncio.sleep(0, 2), numbered=True) == 2
    assert await steps(sql, ctx) == {"/count:1": "SUCCESS", "/count:2": "SUCCESS"}
    with pytest.raises(TypeError, match="must be a PyWorkflow"):
        await count("ctx", 1)


# --- codecs and crashes ---


@pytest.mark.parametrize(
    "codec", [PydanticCodec(), FernetCodec([KEY], PydanticCodec())], ids=["pydantic", "fernet"]
)
async def test_types_of_body_steps_are_those_of_the_codec(dsn, installed, codec):
    async def annotated() -> list[Bill]:
        return [Bill(total=Decimal("1.10"))]

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        one = await ctx.step("one", lambda: asyncio.sleep(0, Bill(total=Decimal(2))), returns=Bill)
        several = await ctx.step("several", annotated)
        union = await ctx.step("union", lambda: asyncio.sleep(0), returns=Bill | None)
        plain = await ctx.step("plain", lambda: asyncio.sleep(0, one))
        same = await ctx.step("one", lambda: asyncio.sleep(0, Bill(total=Decimal(2))), returns=Bill)
        return repr((one, several, union, plain, same))

    expected = "(Bill(total=Decimal('2')), [Bill(total=Decimal('1.10'))], None, {'total': '2'}, "
    async with pgqrs.Admin(dsn, installed, codec=codec) as typed:
        assert await typed.run(wf) == expected + "Bill(total=Decimal('2')))"


@pytest.mark.parametrize(
    "pgqrs_admin_options",
    [{}, pytest.param({"codec": PydanticCodec()}, marks=pytest.mark.slow), {"codec": FernetCodec([KEY])}],
)
async def test_body_steps_survive_every_crash(kit):
    async def part(n):
        await asyncio.sleep(0.002 * (3 - n))
        return n

    @step
    async def nested(ctx: PyWorkflow) -> int:
        return sum([await ctx.step("in", lambda: part(1), numbered=True) for _ in range(2)])

    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        found = [await ctx.step("turn", lambda n=n: part(n), numbered=True) for n in range(2)]
        calls = [ctx.step("part", lambda n=n: part(n), numbered=True) for n in range(3)]
        found += await asyncio.gather(*calls, ctx.step("tool", lambda: part(7), key="call 1"), nested(ctx))
        await ctx.sleep(3600)
        return [*found, await count(ctx, 9)]

    assert await crash_everywhere(wf, admin=kit) == [0, 1, 0, 1, 2, 7, 2, 9]


# --- the current context ---


def current_id():
    found = pgqrs.current()
    return None if found is None else found.id()


async def test_current_context_is_that_of_the_executing_code(admin):
    @step
    async def seen(ctx: PyWorkflow) -> bool:
        tasks = await asyncio.gather(*(asyncio.sleep(0, pgqrs.current()) for _ in range(2)))
        return pgqrs.current() is ctx and all(each is ctx for each in tasks)

    @step(thread=True)
    def seen_in_thread(ctx: PyWorkflow) -> bool:
        return pgqrs.current() is ctx

    async def task(ctx):
        await asyncio.sleep(0)
        return pgqrs.current() is ctx

    @workflow
    async def child(ctx: PyWorkflow) -> bool:
        return pgqrs.current() is ctx

    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        found = [pgqrs.current() is ctx, await seen(ctx), await seen_in_thread(ctx)]
        found += await asyncio.gather(task(ctx), task(ctx), ctx.step("body", lambda: task(ctx)))
        return [*found, await ctx.call(child), pgqrs.current() is ctx]

    assert pgqrs.current() is None
    async with no_hang(), Worker(admin, [wf, child]):
        assert await (await admin.enqueue(wf)).result() == [True] * 8
    assert pgqrs.current() is None
    ctx = await admin.create_workflow("by hand")
    assert await seen(ctx)
    assert pgqrs.current() is None


async def test_task_that_outlives_its_run_has_a_stopped_context(admin):
    ended = asyncio.Event()
    tasks = []

    async def late():
        await ended.wait()
        gc.collect()
        found = pgqrs.current()
        with pytest.raises(RunStopped):
            await found.step("late", lambda: asyncio.sleep(0))
        return found.id(), pgqrs.current() is found

    @workflow
    async def wf(ctx: PyWorkflow) -> int:
        tasks.append(asyncio.create_task(late()))
        return ctx.id()

    workflow_id = await admin.run(wf)
    ended.set()
    assert set(await asyncio.gather(*tasks)) == {(workflow_id, True)}


async def test_current_context_keeps_no_finished_workflow_alive(admin):
    @workflow
    async def wf(ctx: PyWorkflow) -> int:
        contexts.append(weakref.ref(pgqrs.current()))
        return ctx.id()

    contexts = []
    gc.collect()
    gc.disable()
    try:
        await admin.run(wf)
        await asyncio.sleep(0)
        assert contexts[0]() is None
    finally:
        gc.enable()


# --- attempts ---


async def test_attempt_is_that_of_the_innermost_step(admin, log):
    seen = []

    async def inner(ctx):
        seen.append(("inner", ctx.attempt))
        if ctx.attempt < 3:
            raise TransientError("busy", retry_after=0.001)

    @step(retry=SOON)
    async def outer(ctx: PyWorkflow) -> int:
        seen.append(("outer", ctx.attempt))
        if ctx.attempt == 2:
            await ctx.step("inner", lambda: inner(ctx), retry=SOON)
            seen.append(("outer", ctx.attempt))
            return ctx.attempt
        raise TransientError("busy", retry_after=0.001)

    @step(thread=True)
    def in_a_thread(ctx: PyWorkflow) -> int:
        return ctx.attempt

    @workflow(retry=SOON)
    async def wf(ctx: PyWorkflow) -> list:
        number = ctx.attempt
        found = [number, await outer(ctx), await in_a_thread(ctx)]
        if number == 1:
            raise TransientError("once more", retry_after=0.001)
        return found

    async with no_hang():
        assert await admin.run(wf) == [2, 2, 1]
    assert seen == [("outer", 1), ("outer", 2), ("inner", 1), ("inner", 2), ("inner", 3), ("outer", 2)]


async def test_attempt_counts_over_a_takeover(claimer):
    seen = []

    @step(retry=RetryPolicy(attempts=5, initial=3600, jitter=0))
    async def flaky(ctx: PyWorkflow) -> int:
        seen.append(ctx.attempt)
        if ctx.attempt < 2:
            raise TransientError("busy", retry_after=0.01)
        if len(seen) == 2:
            raise Killed
        return ctx.attempt

    @workflow
    async def wf(ctx: PyWorkflow) -> int:
        return await flaky(ctx)

    await claimer.submit(wf)
    async with no_hang():
        with pytest.raises(Killed):
            await claimer.run(wf)
        assert await claimer.run(wf) == 2
    assert seen == [1, 2, 2]


async def test_attempt_outside_the_workflow_is_a_clear_error(admin):
    ctx = await admin.create_workflow("wf")
    with pytest.raises(PgqrsError, match="only in the workflow's function and its steps"):
        _ = ctx.attempt
