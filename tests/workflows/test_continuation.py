"""Workflows that continue as new: their histories, messages, children, ends, and crashes in between."""

from __future__ import annotations

import asyncio
import base64
import os
from contextlib import suppress

import pytest
from pydantic import BaseModel

from examples.endless import PAYMENT, account
from pgqrs import (
    Admin,
    ContinuationError,
    JsonCodec,
    PyWorkflow,
    RunStopped,
    SerializationError,
    StepFailedError,
    Topic,
    TransientError,
    Worker,
    WorkflowCancelledError,
    WorkflowTimeoutError,
    step,
    workflow,
)
from pgqrs.codecs import FernetCodec, PydanticCodec
from pgqrs.engine.step_runner import ALWAYS_REPLAY
from pgqrs.observer import Observer
from pgqrs.storage.writes.continuations import RunContinuation
from pgqrs.testing import crash_everywhere
from tests.support.families import children_of, double, is_quiet, is_waiting, nap
from tests.support.recorded import row_of, tables
from tests.support.waiting import no_hang, until
from tests.support.workflows import Gate, cancel_task

pytest_plugins = ("pytest_pgqrs",)

NUMBERS = Topic("numbers", int)


@step(key=lambda number: number)
async def noted(ctx: PyWorkflow, number: int) -> int:
    return number


@workflow
async def counting(ctx: PyWorkflow, number: int, last: int) -> list:
    """Count up to a number, one generation for each."""
    await noted(ctx, number)
    if number < last:
        await ctx.continue_as_new(counting, number + 1, last=last)
    return [number, ctx.id()]


@pytest.fixture(params=["worker", "run", "by hand"])
def result(request, admin):
    """Run a workflow to its end, and return its result."""

    async def of(function, *args):
        async with no_hang(), Worker(admin, [function, double, nap]):
            if request.param == "worker":
                return await (await admin.enqueue(function, *args)).result()
            if request.param == "run":
                return await admin.run(function, *args)
            return await function(await admin.create_workflow("by hand"), *args)

    return of


# --- one generation after the other ---


async def test_workflow_continues_with_new_arguments(result, sql):
    number, own_id = await result(counting, 1, 5)
    assert number == 5
    row = await row_of(sql, own_id)
    assert (row["status"], row["generation"], row["attempts"] <= 1) == ("SUCCESS", row["epoch"] - 1, True)
    steps = await sql.fetch("SELECT step_id FROM pgqrs_workflow_steps")
    assert [each["step_id"] for each in steps] == ["noted:5"]
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflows") == 1


async def test_handle_returns_the_result_of_the_last_generation(admin, sql):
    handle = await admin.enqueue(counting, 1, 20)
    waiting = asyncio.create_task(handle.result())
    async with no_hang(), Worker(admin, [counting]):
        assert await waiting == [20, handle.id]
        assert await handle.result() == [20, handle.id]
    assert [each.step_id for each in await handle.steps()] == ["noted:20"]


async def test_thousand_generations_leave_one_row_and_one_step(admin, sql):
    assert (await admin.run(counting, 1, 1000))[0] == 1000
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflows") == 1
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflow_steps") == 1


@pytest.mark.skipif(os.environ.get(ALWAYS_REPLAY) == "1", reason="a replay writes a mark")
async def test_continuation_is_one_statement(admin):
    journal = (await admin.store()).journal
    await admin.run(counting, 1, 1)
    before = journal.statements
    await admin.run(counting, 1, 11)
    assert journal.statements - before == 2 + 11 + 10  # start and end, steps, continuations


async def test_next_generation_runs_by_newer_code(admin, sql):
    @workflow(name="deployed")
    async def old(ctx: PyWorkflow, number: int) -> None:
        await noted(ctx, number)
        await ctx.continue_as_new(old, number + 1)

    @workflow(name="deployed")
    async def new(ctx: PyWorkflow, number: int) -> list:
        return [number, await ctx.patched("new code")]

    handle = await admin.enqueue(old, 1)
    async with no_hang():
        async with Worker(admin, [old]):
            await until(lambda: sql.fetchval("SELECT count(*) = 1 FROM pgqrs_workflows WHERE generation > 2"))
        async with Worker(admin, [new]):
            number, _ = await handle.result()
    assert number > 2


@workflow
async def swallowing(ctx: PyWorkflow, number: int) -> int:
    """Catch the stop of the first generation, and return something else."""
    if number == 1:
        with suppress(BaseException):
            await ctx.continue_as_new(swallowing, 2)
        with pytest.raises(RunStopped):
            await noted(ctx, number)
    return number


async def test_continuation_cannot_be_caught(result):
    assert await result(swallowing, 1) == 2


@workflow
async def cleaning(ctx: PyWorkflow, number: int) -> int:
    """Note what `finally` does before the next generation begins."""
    try:
        if number < 3:
            await ctx.continue_as_new(cleaning, number + 1)
        return len(cleaned)
    finally:
        cleaned.append(number)


cleaned: list[int] = []


@pytest.mark.without_replay("it counts the runs of the function")
async def test_finally_runs_before_the_next_generation(result):
    cleaned.clear()
    assert await result(cleaning, 1) == 2
    assert cleaned == [1, 2, 3]


@workflow
async def in_a_task(ctx: PyWorkflow, number: int, is_awaited: bool) -> int:
    """Continue in a task of the function, which awaits this task or something else."""
    if number == 1:
        task = asyncio.create_task(ctx.continue_as_new(in_a_task, 2, is_awaited))
        await (task if is_awaited else asyncio.Event().wait())
    return number


@pytest.mark.parametrize("is_awaited", [True, False])
async def test_task_of_the_function_continues_the_workflow(result, is_awaited):
    assert await result(in_a_task, 1, is_awaited) == 2


# --- where it is refused ---


async def refused(admin, body, error, match):
    """Assert that a call of `continue_as_new` raises an error, and changes nothing."""

    @workflow(name="refused")
    async def wf(ctx: PyWorkflow, number: int) -> str:
        await noted(ctx, number)
        with pytest.raises(error, match=match) as caught:
            await body(ctx, wf)
        assert not isinstance(caught.value, ContinuationError) or caught.value.workflow_id == ctx.id()
        return "went on"

    async with no_hang():
        assert await admin.run(wf, 1) == "went on"
    record = (await admin.list_workflows(name="refused"))[0]
    assert (record.input, record.epoch) == ({"args": [1], "kwargs": {}}, 1)


async def test_wrong_arguments_are_refused(admin):
    for args in ((), (1, 2)):
        await refused_arguments(admin, args, TypeError, "does not accept")


async def refused_arguments(admin, args, error, match):
    @workflow
    async def wf(ctx: PyWorkflow, number: int) -> str:
        with pytest.raises(error, match=match):
            await ctx.continue_as_new(wf, *args)
        return "went on"

    assert await admin.run(wf, 1) == "went on"


async def test_arguments_that_cannot_be_encoded_are_refused(admin):
    await refused_arguments(admin, ({1},), SerializationError, "set")


async def test_another_function_is_refused(admin):
    await refused(admin, lambda ctx, wf: ctx.continue_as_new(counting, 1, 2), ContinuationError, "own function")
    await refused(admin, lambda ctx, wf: ctx.continue_as_new(len, 1), TypeError, "not a workflow")


async def test_call_in_a_step_is_refused(admin):
    async def body(ctx, wf):
        @step
        async def nested(ctx: PyWorkflow) -> None:
            await ctx.continue_as_new(wf, 2)

        await nested(ctx)

    await refused(admin, body, ContinuationError, "in the step 'nested'")


@pytest.mark.parametrize("kind", ["step", "receive"])
async def test_call_while_a_step_has_no_outcome_is_refused(admin, kind):
    async def body(ctx, wf):
        gate = Gate()
        waiting = gate.step("slow")(ctx) if kind == "step" else ctx.receive("paid")
        task = asyncio.create_task(waiting)
        await asyncio.sleep(0)
        try:
            await ctx.continue_as_new(wf, 2)
        finally:
            await cancel_task(task)

    await refused(admin, body, ContinuationError, "slow" if kind == "step" else "receive/paid:1")


async def test_call_outside_of_the_function_is_refused(admin):
    ctx = await admin.create_workflow("counting")
    with pytest.raises(ContinuationError, match="does not run"):
        await ctx.continue_as_new(counting, 1, 2)
    await ctx.success("ended")


# --- what stays: messages, events, the key ---


@workflow
async def collecting(ctx: PyWorkflow, found: list, count: int, crashes: bool) -> list:
    """Receive messages, three in each generation, with deaths of the process on the way."""
    for _ in range(min(3, count - len(found))):
        found.append(await ctx.receive(NUMBERS, timeout=30))
        if crashes and found[-1] % 7 == 5 and found[-1] not in crashed:
            crashed.append(found[-1])
            raise SystemExit(3)
    await ctx.set_event("count", len(found))
    if len(found) < count:
        await ctx.continue_as_new(collecting, found, count, crashes)
    return found


crashed: list[int] = []


@pytest.mark.without_replay("it counts the runs of the function")
@pytest.mark.parametrize("crashes", [False, True])
async def test_hundred_messages_are_received_once_and_in_order(admin, sql, crashes):
    crashed.clear()
    handle = await admin.enqueue(collecting, [], 100, crashes)

    async def send() -> None:
        for each in range(100):
            await handle.send(NUMBERS, each)
            if each % 10 == 0:
                await asyncio.sleep(0.02)

    async with no_hang(), Worker(admin, [collecting]), asyncio.TaskGroup() as group:
        group.create_task(send())
        assert await handle.result() == list(range(100))
    assert len(crashed) == (14 if crashes else 0)
    assert await handle.events() == {"count": 100}
    unread = "SELECT count(*) FROM pgqrs_messages WHERE taken_at IS NULL"
    assert await sql.fetchval(unread) == 0


@workflow
async def talking(ctx: PyWorkflow, found: list) -> list:
    """Send itself two messages in each generation, and receive one."""
    number = len(found)
    for each in (0, 1):
        await ctx.send(ctx.id(), NUMBERS, 2 * number + each)
    found = [*found, await ctx.receive(NUMBERS)]
    if len(found) < 3:
        await ctx.set_event("found", found)
        await ctx.continue_as_new(talking, found)
    return [*found, *[await ctx.receive(NUMBERS) for _ in range(3)]]


async def test_unread_messages_survive_a_crash_at_each_write(kit):
    assert await crash_everywhere(talking, [], admin=kit) == list(range(6))


class _Deaths(Observer):
    """Holds the first continuation, before or after its commit."""

    def __init__(self, *, after: bool) -> None:
        self.after = after
        self.gate = Gate()
        self.is_held = False

    async def writing(self, records) -> None:
        if not self.after:
            await self._hold(records)

    async def written(self, records) -> None:
        if self.after:
            await self._hold(records)

    async def _hold(self, records) -> None:
        if not self.is_held and any(isinstance(each, RunContinuation) for each in records):
            self.is_held = True
            await self.gate.stop()


@pytest.mark.parametrize("after", [False, True])
async def test_worker_goes_on_where_the_caller_of_run_was_cancelled(admin, sql, after):
    deaths = _Deaths(after=after)
    async with no_hang(), admin.twin(observer=deaths) as twin:
        run = asyncio.create_task(twin.run(counting, 1, 3))
        await deaths.gate.reached.wait()
        await cancel_task(run)
        deaths.gate.open()
        async with Worker(admin, [counting]):
            assert await admin.handle(1).result() == [3, 1]
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflow_steps") == 1


async def test_key_belongs_to_all_generations(admin):
    async with no_hang(), Worker(admin, [counting]):
        handle = await admin.options(key="one").enqueue(counting, 1, 3)
        assert await handle.result() == [3, handle.id]
        again = await admin.options(key="one").enqueue(counting, 1, 3)
    assert again.id == handle.id


# --- cancellations, and stale runs ---


@workflow
async def endless(ctx: PyWorkflow, number: int) -> None:
    await noted(ctx, number)
    await ctx.continue_as_new(endless, number + 1)


@pytest.mark.parametrize("kind", ["worker", "run"])
async def test_cancellation_is_heard_between_generations(admin, sql, kind):
    async with no_hang(), Worker(admin, [endless]):
        if kind == "worker":
            handle = await admin.enqueue(endless, 1)
            ended = asyncio.create_task(handle.result())
        else:
            ended = asyncio.create_task(admin.run(endless, 1))
        await until(lambda: sql.fetchval("SELECT count(*) > 0 FROM pgqrs_workflows WHERE generation > 5"))
        await admin.cancel_workflow(1)
        with pytest.raises(WorkflowCancelledError):
            await ended
    assert (await row_of(sql, 1))["status"] == "CANCELLED"


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("kind", ["worker", "run"])
async def test_cancellation_in_a_transaction_holds_the_continuation(admin, sql, sessions, kind, commits):
    gate = Gate()

    @workflow
    async def waiting(ctx: PyWorkflow, number: int) -> int:
        if number == 1:
            await noted(ctx, number)
            await gate.stop()
            await ctx.continue_as_new(waiting, 2)
        return number

    async with no_hang(), Worker(admin, [waiting]):
        if kind == "worker":
            run = asyncio.create_task((await admin.enqueue(waiting, 1)).result())
        else:
            run = asyncio.create_task(admin.run(waiting, 1))
        await gate.reached.wait()
        session = sessions()
        await admin.cancel_workflow(1, session=session)
        gate.open()
        await asyncio.wait([run], timeout=0.3)
        assert not run.done()
        await (session.commit() if commits else session.rollback())
        await session.close()
        if commits:
            with pytest.raises(WorkflowCancelledError):
                await run
        else:
            assert await run == 2
    row = await row_of(sql, 1)
    assert (row["status"], row["generation"]) == (("CANCELLED", None) if commits else ("SUCCESS", 1))


async def test_cancelled_workflow_is_resumed_in_its_generation(admin, sql):
    async with no_hang(), Worker(admin, [counting]):
        handle = await admin.enqueue(counting, 1, 2)
        await handle.result()
    await sql.execute("UPDATE pgqrs_workflows SET status = 'ERROR', output = NULL, error = '{}'")
    async with no_hang(), Worker(admin, [counting]):
        await admin.resume_workflow(handle.id)
        assert await handle.result() == [2, handle.id]
    assert [each.step_id for each in await handle.steps()] == ["noted:2"]


@pytest.mark.parametrize("can_park", [False, True])
async def test_stale_run_does_not_continue(admin, sql, claimer, can_park):
    gate = Gate()

    @workflow(name="stale")
    async def stale(ctx: PyWorkflow, number: int) -> None:
        await noted(ctx, number)
        await gate.stop()
        await ctx.continue_as_new(stale, number + 1)

    async with no_hang(), Worker(admin, [stale] if can_park else [counting]):
        handle = await admin.enqueue(stale, 1)
        run = None
        if not can_park:
            run = asyncio.create_task(stale(await admin.get_workflow(handle.id), 1))
        await gate.reached.wait()
        await sql.execute("UPDATE pgqrs_workflows SET claim = 7, epoch = epoch + 1")
        before = await tables(sql)
        gate.open()
        if run is not None:
            await asyncio.wait([run])
            assert type(run.exception()).__name__ == "WorkflowFencedError"
        else:
            store = await admin.store()
            await until(lambda: handle.id not in store.runs)
        assert await tables(sql) == before
        await sql.execute("UPDATE pgqrs_workflows SET status = 'ERROR', error = '{}', executor = NULL")


# --- children ---


@workflow
async def parenting(ctx: PyWorkflow, number: int, earlier: list) -> list:
    """Start a child in each generation by the same step, and await the child of the last one."""
    child = await ctx.start(double, 10) if number else await ctx.start(nap)
    if number < 3:
        await ctx.continue_as_new(parenting, number + 1, [*earlier, child.id])
    many = await ctx.start_many(double, [(1,), (2,)])
    found = [await child, *await ctx.gather(many)]
    found += [await each async for each in ctx.as_completed(await ctx.start(double, 4))]
    return [*found, earlier]


async def test_children_of_generations_are_told_apart(result, sql):
    *found, earlier = await result(parenting, 0, [])
    assert found == [20, 2, 4, 8]
    (parent,) = await sql.fetch("SELECT * FROM pgqrs_workflows WHERE parent_id IS NULL")
    rows = await children_of(sql, parent["id"])
    generation = parent["generation"]
    assert [each["id"] for each in rows[:3]] == earlier
    assert {each["parent_step"] for each in rows[3:]} == {
        f"{generation}//start/double:1",
        f"{generation}//start_many/double:1",
        f"{generation}//start/double:2",
    }
    assert len({each["parent_step"] for each in rows}) == 6


@workflow
async def leaving(ctx: PyWorkflow, number: int) -> str:
    """Start a child in the first generation, and wait for another in the second."""
    await ctx.options(queue="first" if number == 1 else "second").start(double, number)
    if number == 1:
        await ctx.continue_as_new(leaving, 2)
    child = await ctx.options(queue="second").start(double, number)
    return f"got {await child}"


async def test_end_of_an_earlier_child_wakes_no_later_wait(admin, sql):
    async with no_hang(), Worker(admin, [leaving]):
        handle = await admin.enqueue(leaving, 1)
        await until(lambda: is_waiting(sql, handle.id))
        async with Worker(admin, [double], queues=["first"]):
            first = (await children_of(sql, handle.id))[0]["id"]
            assert await admin.handle(first, double).result() == 2
            await until(lambda: is_quiet(sql))
        assert await is_waiting(sql, handle.id)
        async with Worker(admin, [double], queues=["second"]):
            assert await handle.result() == "got 4"
    left = "SELECT count(*) FROM pgqrs_messages WHERE address LIKE 'c/%'"
    assert await sql.fetchval(left) == 0


@workflow
async def ending(ctx: PyWorkflow, number: int) -> int:
    """Start a child that never ends, and continue once."""
    await ctx.start(nap)
    if number == 1:
        await ctx.continue_as_new(ending, 2)
    return number


async def test_end_of_the_last_generation_cancels_all_children(admin, sql):
    async with no_hang(), Worker(admin, [ending]):
        handle = await admin.enqueue(ending, 1)
        assert await handle.result() == 2
        ended = "SELECT array_agg(status) = '{CANCELLED,CANCELLED}' FROM pgqrs_workflows WHERE parent_id = $1"
        await until(lambda: sql.fetchval(ended, handle.id))


@workflow
async def awaiting(ctx: PyWorkflow, calls: bool) -> list:
    """Wait for a child that continues as new."""
    if calls:
        return await ctx.call(counting, 1, 4)
    return await (await ctx.start(counting, 1, 4))


@pytest.mark.parametrize("calls", [False, True])
@pytest.mark.parametrize("parks", [False, True])
async def test_parent_waits_for_the_last_generation_of_a_child(admin, calls, parks):
    async with no_hang(), Worker(admin, [awaiting, counting]):
        if parks:
            found = await (await admin.enqueue(awaiting, calls)).result()
        else:
            found = await admin.run(awaiting, calls)
    assert found[0] == 4


async def test_children_survive_a_crash_at_each_write(kit):
    async with Worker(kit, [double], queues=["kids"]):
        assert await crash_everywhere(with_children, 1, admin=kit) == 4
        parents = await kit.list_workflows(name="with_children", limit=1000)
        assert len(await kit.list_workflows(name="double", limit=1000)) == 2 * len(parents)
    await kit.verify(deep=True)


@workflow
async def with_children(ctx: PyWorkflow, number: int) -> int:
    child = await ctx.options(queue="kids").start(double, number)
    if number == 1:
        await ctx.continue_as_new(with_children, 2)
    return await child


# --- retries, timeouts, codecs ---


@workflow(retry=2)
async def failing(ctx: PyWorkflow, number: int) -> int:
    """Fail once in each generation."""
    if number not in failed:
        failed.append(number)
        raise TransientError("once", retry_after=0.01)
    if number < 4:
        await ctx.continue_as_new(failing, number + 1)
    return number


failed: list[int] = []


async def test_each_generation_has_its_own_retries(result):
    failed.clear()
    assert await result(failing, 1) == 4
    assert failed == [1, 2, 3, 4]


@workflow(timeout=2.0)
async def slow(ctx: PyWorkflow, number: int, last: float) -> int:
    await ctx.sleep(last if number == 4 else 0.9)
    if number < 4:
        await ctx.continue_as_new(slow, number + 1, last)
    return number


async def test_timeout_counts_for_each_generation(result):
    assert await result(slow, 1, 0.1) == 4


async def test_last_generation_can_time_out(result):
    with pytest.raises((WorkflowTimeoutError, StepFailedError)):
        await result(slow, 3, 30.0)


@workflow(timeout=1000.0)
async def family(ctx: PyWorkflow) -> None:
    child = await ctx.options(timeout=5000.0, queue="kids").start(counting, 1, 2)
    await child


async def test_deadline_of_the_parent_holds_for_each_generation(admin, sql):
    gate = Gate()

    @workflow(name="counting")
    async def held(ctx: PyWorkflow, number: int, last: int) -> int:
        if number < last:
            await ctx.continue_as_new(held, last, last=last)
        await gate.stop()
        return number

    async with no_hang(), Worker(admin, [family]), Worker(admin, [held], queues=["kids"]):
        handle = await admin.enqueue(family)
        await gate.reached.wait()
        parent, child = await sql.fetch("SELECT * FROM pgqrs_workflows ORDER BY id")
        gate.open()
        await handle.result()
    assert (child["generation"], child["deadline"]) == (1, parent["deadline"])


class Total(BaseModel):
    amount: int = 0
    notes: tuple[str, ...] = ()


@workflow
async def adding(ctx: PyWorkflow, total: Total, left: int) -> Total:
    assert isinstance(total, Total)
    more = Total(amount=total.amount + left, notes=(*total.notes, f"{left}"))
    if left > 1:
        await ctx.continue_as_new(adding, more, left=left - 1)
    return more


KEY = base64.urlsafe_b64encode(b"k" * 32)


@pytest.mark.parametrize("codec", [PydanticCodec(), FernetCodec([KEY], PydanticCodec())], ids=["typed", "sealed"])
@pytest.mark.parametrize("kind", ["worker", "run"])
async def test_typed_arguments_continue_under_any_codec(dsn, installed, codec, kind):
    async with no_hang(), Admin(dsn, installed, codec=codec) as own, Worker(own, [adding]):
        if kind == "worker":
            total = await (await own.enqueue(adding, Total(), 3)).result()
        else:
            total = await own.run(adding, Total(), 3)
    assert total == Total(amount=6, notes=("3", "2", "1"))


async def test_arguments_have_their_recorded_form(admin):
    @workflow
    async def forms(ctx: PyWorkflow, value: object, number: int) -> list:
        if number == 1:
            await ctx.continue_as_new(forms, (1, (2,)), number=2)
        return [value, isinstance(value, list)]

    assert isinstance(admin.codec, JsonCodec)
    assert await admin.run(forms, None, 1) == [[1, [2]], True]


async def test_large_arguments_are_continued_with(admin):
    @workflow
    async def large(ctx: PyWorkflow, text: str, number: int) -> int:
        await asyncio.gather(*(noted(ctx, each) for each in range(20)))
        if number < 3:
            await ctx.continue_as_new(large, "x" * 5_000_000, number + 1)
        return len(text)

    assert await admin.run(large, "", 1) == 5_000_000


async def test_example_of_an_endless_workflow_runs(admin):
    handle = await admin.enqueue(account, 100)
    for each in (10, 20, 30, 40, 50, 0):
        await handle.send(PAYMENT, each)
    async with no_hang(), Worker(admin, [account]):
        assert await handle.result() == 245
    assert await handle.events() == {"balance": 157}
