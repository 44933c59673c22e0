"""Calls that belong elsewhere are noticed: polls of a recorded step, effects in a body, waits through handles, methods."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from pgqrs import (
    Admin,
    PyWorkflow,
    Receive,
    RetryPolicy,
    Sleep,
    Topic,
    TransientError,
    Worker,
    WorkflowInProgressError,
    step,
    workflow,
)
from tests.support.waiting import no_hang
from tests.support.workflows import Killed

pytest_plugins = ("pytest_pgqrs",)

SOON = RetryPolicy(attempts=6, initial=0.001, jitter=0)
NEWS = Topic("news", int)


def polled(caplog):
    return [each for each in caplog.messages if "is called again after each wait" in each]


def of_workflow(caplog, text):
    return [each for each in caplog.messages if text in each]


# --- a step that is polled ---


@step
async def status(ctx: PyWorkflow, order: int = 1) -> str:
    return "PENDING"


@step(key=lambda order: order)
async def status_of(ctx: PyWorkflow, order: int) -> str:
    return "PENDING"


@workflow
async def polls(ctx: PyWorkflow, times: int) -> int:
    for _ in range(times):
        if await status(ctx) == "PENDING":
            await ctx.sleep(timedelta(hours=1))
    return times


@pytest.mark.parametrize("runs", ["in memory", "parked"])
async def test_step_polled_between_sleeps_is_logged(kit, clock, caplog, runs):
    async with no_hang(), clock.skipping():
        if runs == "in memory":
            await kit.run(polls, 2)
            assert not polled(caplog)
            await kit.run(polls, 5)
            assert len(polled(caplog)) == 1
        else:
            async with Worker(kit, [polls]):
                await (await kit.enqueue(polls, 3)).result()
    assert "'status'" in polled(caplog)[0]
    assert "`numbered=True`" in polled(caplog)[0]
    assert "`key=`" in polled(caplog)[0]


async def test_polls_around_any_wait_are_logged(admin, caplog):
    @workflow
    async def waits(ctx: PyWorkflow, how: str) -> None:
        for _ in range(3):
            await status_of(ctx, 1)
            if how == "receive":
                await ctx.receive(NEWS, timeout=0.001, default=0)
            elif how == "select":
                await ctx.select(news=Receive(NEWS), late=Sleep(0.001))
            elif how == "event":
                await ctx.wait_event("never", timeout=0.001, default=0)

    for how, expected in (("nothing", 0), ("receive", 1), ("select", 2), ("event", 3)):
        await admin.run(waits, how)
        assert len(polled(caplog)) == expected, how


async def test_tasks_that_share_a_step_are_not_logged(admin, caplog):
    async def ship(ctx, n):
        await status(ctx)
        await ctx.sleep(0.001, id=f"before {n}")
        await ctx.sleep(0.001, id=f"after {n}")

    @workflow
    async def gathers(ctx: PyWorkflow) -> None:
        await asyncio.gather(*(status(ctx) for _ in range(3)))
        for n in range(4):
            await asyncio.create_task(ship(ctx, n))
        await asyncio.gather(*(ship(ctx, n) for n in range(4, 8)))

    await admin.run(gathers)
    assert not polled(caplog)


async def test_polls_in_gathered_tasks_are_logged(admin, caplog):
    async def poll(ctx, order):
        for n in range(3):
            await status_of(ctx, order)
            await ctx.sleep(0.001, id=f"{order} {n}")

    @workflow
    async def gathers(ctx: PyWorkflow) -> None:
        await asyncio.gather(poll(ctx, 1), poll(ctx, 2))

    await admin.run(gathers)
    assert sorted("status_of:2" in each for each in polled(caplog)) == [False, True]


async def test_retries_around_a_wait_are_not_logged(admin, caplog):
    attempts = []

    @step(retry=SOON)
    async def outer(ctx: PyWorkflow) -> None:
        await status(ctx)
        await ctx.sleep(0.001)
        attempts.append(ctx.id())
        if len(attempts) < 5:
            raise TransientError("busy", retry_after=0.001)

    @workflow(retry=SOON)
    async def wf(ctx: PyWorkflow) -> None:
        await status(ctx)
        await ctx.sleep(0.001)
        await outer(ctx)
        attempts.append(0)
        if len(attempts) < 9:
            raise TransientError("busy", retry_after=0.001)

    async with no_hang():
        await admin.run(wf)
    assert len(attempts) == 9
    assert not polled(caplog)


async def test_replays_after_takeovers_are_not_logged(claimer, caplog):
    runs = []

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        found = await status(ctx)
        await ctx.sleep(0.001)
        await ctx.sleep(0.001)
        runs.append(1)
        if len(runs) < 4:
            raise Killed
        return found

    await claimer.submit(wf)
    async with no_hang():
        for _ in range(3):
            with pytest.raises(Killed):
                await claimer.run(wf)
        assert await claimer.run(wf) == "PENDING"
    assert not polled(caplog)


# --- effects in a body ---


async def test_repeated_effects_in_a_body_name_the_right_call(admin, caplog):
    listener = await admin.create_workflow("listener")
    done = await admin.create_workflow("done")

    @workflow
    async def child(ctx: PyWorkflow) -> None: ...

    @step
    async def effects(ctx: PyWorkflow) -> None:
        await admin.send(listener.id(), NEWS, 1)
        await admin.cancel_workflow(done.id())
        await admin.enqueue(child)

    @workflow
    async def parent(ctx: PyWorkflow, how: str) -> None:
        for _ in range(2):
            if how == "enqueue":
                await admin.enqueue(child)
            elif how == "many":
                await admin.enqueue_many(child, [()])
            elif how == "run":
                await admin.run(child)
            elif how == "create":
                await admin.create_workflow("child")
            elif how == "send":
                await admin.handle(listener.id()).send(NEWS, 1)
                await admin.send(listener.id(), NEWS, 1)
                await admin.options().send(listener.id(), NEWS, 1)
            elif how == "cancel":
                await admin.handle(done.id()).cancel()
                await admin.cancel_workflow(done.id())
            else:  # a replay of these has no effect
                await effects(ctx)
                await admin.emit("closed", 1)
                await admin.send(listener.id(), NEWS, 1, key="once")
                await admin.options(key="once").enqueue(child)

    for how, advice in (
        ("harmless", None),
        ("enqueue", "`await ctx.start(...)`"),
        ("many", "`await ctx.start_many(...)`"),
        ("run", "`await ctx.call(...)`"),
        ("create", "in a step"),
        ("send", "`await ctx.send(...)`"),
        ("cancel", "in a step"),
    ):
        caplog.clear()
        await admin.run(parent, how)
        found = of_workflow(caplog, "each replay does so again")
        assert len(found) == (advice is not None), how
        assert advice is None or advice in found[0]


# --- waits through handles ---


ADMIN: list[Admin] = []


@workflow
async def echo(ctx: PyWorkflow, value: int) -> int:
    await ctx.set_event("state", value)
    return value


@step
async def result_in_step(ctx: PyWorkflow, workflow_id: int) -> int:
    return await ADMIN[0].handle(workflow_id, echo).result()


@workflow
async def asks(ctx: PyWorkflow, how: str, workflow_id: int) -> int:
    handle = ADMIN[0].handle(workflow_id, echo)
    match how:
        case "result":
            return await handle.result()
        case "step":
            return await result_in_step(ctx, workflow_id)
        case "event":
            return await handle.event("state")
        case _:
            return await ADMIN[0].options(key="shared").run(echo, 7)


@pytest.mark.parametrize(
    ("how", "advice"),
    [
        ("result", "`await child`"),
        ("step", "`await ctx.call(...)`"),
        ("event", "`await ctx.receive(...)`"),
        ("run", None),
    ],
)
async def test_wait_through_a_handle_frees_the_slot_and_warns(admin, caplog, how, advice):
    ADMIN[:] = [admin]
    first = admin.options(priority=1)
    later = [await admin.enqueue(echo, 7) for _ in range(2)]
    handles = [await first.enqueue(asks, how, each.id) for each in later]
    async with no_hang(), Worker(admin, [asks, echo], concurrency=1):
        assert [await each.result() for each in handles] == [7, 7]
    found = of_workflow(caplog, "stays in the memory of its worker")
    assert len(found) == (advice is not None)
    assert advice is None or advice in found[0]


async def test_wait_in_admin_run_is_not_logged(admin, caplog):
    ADMIN[:] = [admin]
    handle = await admin.enqueue(echo, 7)
    async with no_hang(), Worker(admin, [echo]):
        assert await admin.run(asks, "result", handle.id) == 7
    assert not of_workflow(caplog, "stays in the memory")


async def test_event_wait_keeps_its_timeout_in_a_workflow(admin):
    never = await admin.create_workflow("never")

    @workflow
    async def reads(ctx: PyWorkflow) -> str:
        for timeout in (0, 0.02):
            with pytest.raises(TimeoutError, match="has not set the event"):
                await admin.handle(never.id()).event("state", timeout=timeout)
        return "in time"

    async with no_hang():
        assert await admin.run(reads) == "in time"


async def test_waiting_for_the_own_result_is_refused(admin):
    @step
    async def in_step(ctx: PyWorkflow) -> None:
        await admin.handle(ctx.id()).result()

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        with pytest.raises(WorkflowInProgressError, match="cannot wait for its own result") as caught:
            await admin.handle(ctx.id()).result(timeout=60)
        assert caught.value.workflow_id == ctx.id()
        with pytest.raises(WorkflowInProgressError, match="its own result"):
            await in_step(ctx)
        return "refused"

    async with no_hang(), Worker(admin, [wf]):
        assert await (await admin.enqueue(wf)).result() == "refused"


# --- methods ---


def test_methods_are_refused_at_decoration():
    with pytest.raises(TypeError, match=r"Shop.charge is a method.*ctx.step\('charge', lambda: self"):

        class Shop:
            @step
            async def charge(self, ctx: PyWorkflow) -> None: ...

    with pytest.raises(TypeError, match="is a method, which cannot be a workflow"):

        class Other:
            @workflow
            async def order(self, ctx: PyWorkflow) -> None: ...

    with pytest.raises(TypeError, match="is a method, which cannot be a step"):

        class Third:
            @step(executor=lambda: None)
            def heavy(self, n: int) -> None: ...


async def test_static_methods_and_methods_through_step_work(admin):
    class Shop:
        def __init__(self, price: int) -> None:
            self.price = price

        @staticmethod
        @step
        async def tax(ctx: PyWorkflow, price: int) -> int:
            return price // 10

        async def charge(self) -> int:
            return self.price

    @step
    async def named_self(self: PyWorkflow) -> int:
        return self.id()

    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        return [await Shop.tax(ctx, 50), await ctx.step("charge", Shop(5).charge), await named_self(ctx)]

    ctx = await admin.create_workflow("wf")
    assert await wf(ctx) == [5, 5, ctx.id()]
