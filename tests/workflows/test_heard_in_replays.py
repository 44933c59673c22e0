"""A cancellation that a later run hears while it replays or undoes: no call repeats for ever, and all is undone."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from pgqrs import PyWorkflow, SagaError, Topic, Worker, WorkflowCancelledError, step, workflow
from tests.support.recorded import row_of, status, steps
from tests.support.waiting import no_hang, until
from tests.support.workflows import Gate, Killed, cancel_once_begun, note

TOLD = Topic("told", int)
SOON = 10.0
"""The seconds after which a call counts as repeated for ever."""


@step
async def inner(ctx: PyWorkflow) -> None: ...


@step
async def outer(ctx: PyWorkflow) -> None:
    """Call a step that a later run does not ask for."""
    await inner(ctx)


@workflow
async def listening(ctx: PyWorkflow) -> int:
    return await ctx.receive(TOLD)


class Script:
    """What happens to the runs of one workflow: the first one dies, and the second one is to be cancelled."""

    def __init__(self, admin, sql):
        self._admin = admin
        self._sql = sql
        self._has_died = False
        self._is_asked = False
        self.log = []

    def die_once(self):
        """End the first run that comes here as the death of its process does."""
        if not self._has_died:
            self._has_died = True
            raise Killed

    async def ask(self, ctx):
        """Ask for the cancellation once; the run hears of it by its next write."""
        if not self._is_asked:
            self._is_asked = True
            await self._sql.execute("UPDATE pgqrs_workflows SET cancel_interrupts = false WHERE id = $1", ctx.id())

    async def second_run(self, function, error):
        """Run a workflow until it dies, and again until it raises the error; return its context."""
        ctx = await self._admin.create_workflow(function.__name__)
        with pytest.raises(Killed):
            await function(ctx)
        async with asyncio.timeout(SOON):
            with pytest.raises(error):
                await function(await self._admin.get_workflow(ctx.id()))
        return ctx


@pytest.fixture
def script(admin, sql):
    return Script(admin, sql)


async def unread(sql):
    return await sql.fetchval("SELECT count(*) FROM pgqrs_messages WHERE taken_at IS NULL")


@pytest.mark.parametrize("call", ["send", "set_event", "receive"])
@pytest.mark.parametrize("place", ["undo", "cleanup"])
async def test_call_in_a_shelter_that_hears_it_is_made(admin, sql, script, place, call):
    receiver = await admin.enqueue(listening)

    async def speak(ctx: PyWorkflow) -> None:
        await script.ask(ctx)
        if call == "send":
            await ctx.send(receiver.id, TOLD, 7)
        elif call == "set_event":
            await ctx.set_event("told", 7)
        else:
            await ctx.receive(TOLD, timeout=0.01, default=7)
        script.log.append(call)

    @step
    async def give_back(ctx: PyWorkflow, value: None) -> None:
        if place == "undo":
            await speak(ctx)

    @step(undo=give_back)
    async def book(ctx: PyWorkflow) -> None: ...

    @workflow
    async def trip(ctx: PyWorkflow) -> None:
        await outer(ctx)
        async with ctx.saga():
            await book(ctx)
            script.die_once()
            if place == "cleanup":
                async with ctx.cleanup():
                    await speak(ctx)
            raise ValueError("no")

    ctx = await script.second_run(trip, WorkflowCancelledError)
    assert script.log
    assert await status(sql, ctx) == "CANCELLED"
    assert (await steps(sql, ctx))["undo/book"] == "SUCCESS"
    assert await unread(sql) == (call == "send")


async def test_undo_that_hears_it_and_fails_is_an_error(admin, sql, script):
    @step
    async def give_back(ctx: PyWorkflow, value: None) -> None:
        await script.ask(ctx)
        await ctx.set_event("told", 7)
        raise OSError("no answer")

    @step(undo=give_back)
    async def book(ctx: PyWorkflow) -> None: ...

    @workflow
    async def trip(ctx: PyWorkflow) -> None:
        await outer(ctx)
        async with ctx.saga():
            await book(ctx)
            script.die_once()
            raise ValueError("no")

    ctx = await script.second_run(trip, SagaError)
    assert await status(sql, ctx) == "ERROR"


async def test_undos_that_are_late_when_it_is_heard_are_left(admin, sql, script):
    @step
    async def give_back(ctx: PyWorkflow, value: None) -> None:
        await script.ask(ctx)
        await ctx.set_event("told", 7)
        await asyncio.Event().wait()

    @step(undo=give_back)
    async def book(ctx: PyWorkflow) -> None: ...

    @workflow
    async def trip(ctx: PyWorkflow) -> None:
        await outer(ctx)
        async with ctx.saga(undo_timeout=0.3):
            await book(ctx)
            script.die_once()
            raise ValueError("no")

    ctx = await script.second_run(trip, WorkflowCancelledError)
    assert "left: book" in (await row_of(sql, ctx.id()))["error"]


async def test_send_of_the_body_that_hears_it_is_not_made(admin, sql, script):
    receiver = await admin.enqueue(listening)

    @step
    async def give_back(ctx: PyWorkflow, value: None) -> None:
        script.log.append("undo")

    @step(undo=give_back)
    async def book(ctx: PyWorkflow) -> None: ...

    @workflow
    async def trip(ctx: PyWorkflow) -> None:
        await outer(ctx)
        async with ctx.saga():
            await book(ctx)
            script.die_once()
            await script.ask(ctx)
            await ctx.send(receiver.id, TOLD, 7)

    ctx = await script.second_run(trip, WorkflowCancelledError)
    assert await status(sql, ctx) == "CANCELLED"
    assert script.log == ["undo"]
    assert await unread(sql) == 0


async def test_called_child_does_not_run_in_a_replay(admin, script):
    """The parent dies in the child that it calls, is cancelled, and only replays then."""

    @step
    async def give_back(ctx: PyWorkflow, value: None) -> None:
        script.log.append("undo")

    @step(undo=give_back)
    async def book(ctx: PyWorkflow) -> None: ...

    @workflow
    async def child(ctx: PyWorkflow) -> None:
        script.log.append("child")
        script.die_once()

    @workflow
    async def trip(ctx: PyWorkflow) -> None:
        async with ctx.saga():
            await book(ctx)
            await ctx.call(child)

    ctx = await admin.create_workflow("trip")
    with pytest.raises(Killed):
        await trip(ctx)
    await (await admin.store()).journal.drain()
    handle = admin.handle(ctx.id())
    await handle.cancel()
    async with no_hang(), Worker(admin, [trip]):
        await until(is_cancelled, handle)
    assert script.log == ["child", "undo"]


async def is_cancelled(handle):
    return await handle.status() == "CANCELLED"


class TestNumbersInACleanup:
    """The numbers of the calls in a clean-up are its own, so a stop at another place shifts no id."""

    async def test_of_a_cancelled_run_answer_no_call_of_the_body(self, admin, sql, script):
        gate = Gate()

        @step(numbered=True)
        async def count(ctx: PyWorkflow, place: str) -> str:
            script.log.append(place)
            return place

        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            try:
                await count(ctx, "first")
                await script.ask(ctx)
                await note(ctx, "heard")
                await count(ctx, "second")
            finally:
                async with ctx.cleanup():
                    await count(ctx, "cleaned")
                    await gate.stop()

        ctx = await admin.create_workflow("trip")
        await cancel_once_begun(trip(ctx), gate.reached)  # as its process dies
        gate.open()
        async with no_hang():
            with pytest.raises(WorkflowCancelledError):
                await trip(await admin.get_workflow(ctx.id()))
        assert script.log == ["first", "cleaned"]
        assert set(await steps(sql, ctx)) == {"/count:1", "note:heard", "cleanup/:1//count:1"}

    async def test_in_a_step_shift_none_when_the_step_is_replayed(self, admin, sql, script):
        times = []

        @step
        async def cleaning(ctx: PyWorkflow) -> None:
            async with ctx.cleanup():
                await ctx.now()

        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            await cleaning(ctx)
            times.append(await ctx.now())
            script.die_once()

        ctx = await admin.create_workflow("trip")
        with pytest.raises(Killed):
            await trip(ctx)
        await trip(ctx)
        assert len(set(times)) == 1
        assert set(await steps(sql, ctx)) == {"cleaning", "cleaning/cleanup/:1/now:1", "now:1"}

    async def test_name_a_saga_in_it(self, admin, sql, script):
        @step
        async def give_back(ctx: PyWorkflow, value: None) -> None: ...

        @step(undo=give_back)
        async def book(ctx: PyWorkflow) -> None: ...

        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            async with ctx.cleanup(), ctx.saga():
                await book(ctx)
                raise ValueError("no")

        ctx = await admin.create_workflow("trip")
        with pytest.raises(ValueError, match="no"):
            await trip(ctx)
        assert set(await steps(sql, ctx)) == {"book", "saga/cleanup/:1/saga:1", "undo/book"}

    async def test_belong_to_the_step_around_it_and_to_no_saga(self, admin, sql, script):
        @step
        async def give_back(ctx: PyWorkflow, value: None) -> None:
            script.log.append("undo")

        @step(undo=give_back)
        async def book(ctx: PyWorkflow) -> None: ...

        @step
        async def cleaning(ctx: PyWorkflow) -> None:
            async with ctx.cleanup():
                await book(ctx)

        @workflow
        async def trip(ctx: PyWorkflow) -> None:
            async with ctx.saga():
                await cleaning(ctx)
                raise ValueError("no")

        ctx = await admin.create_workflow("trip")
        with pytest.raises(ValueError, match="no"):
            await trip(ctx)
        assert script.log == []
        assert set(await steps(sql, ctx)) == {"book", "cleaning"}


@pytest.mark.without_replay("the other task would begin anew after each step")
async def test_new_steps_of_another_task_hold_up_no_undo(script):
    """A step that is nested in another is not asked for again, so there is always one that is left to replay."""

    @step
    async def give_back(ctx: PyWorkflow, value: None) -> None:
        script.log.append("undo")

    @step(undo=give_back)
    async def book(ctx: PyWorkflow) -> None:
        script.log.append("book")

    @step(numbered=True)
    async def beat(ctx: PyWorkflow) -> None: ...

    async def beating(ctx: PyWorkflow) -> None:
        latest = asyncio.get_running_loop().time() + 3
        while "undo" not in script.log:
            await beat(ctx)
            if asyncio.get_running_loop().time() > latest:
                script.log.append("late")
                return

    @workflow
    async def trip(ctx: PyWorkflow) -> None:
        await outer(ctx)
        other = asyncio.create_task(beating(ctx) if "book" in script.log else asyncio.sleep(0))
        with suppress(ValueError):
            async with ctx.saga():
                await book(ctx)
                script.die_once()
                raise ValueError("no")
        await other
        raise LookupError("undone")

    await script.second_run(trip, LookupError)
    assert script.log == ["book", "undo"]
