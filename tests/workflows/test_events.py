"""Events: what a workflow shows of itself, and what an application tells to all workflows."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import timedelta

import pytest

from pgqrs import (
    Admin,
    CodecMismatchError,
    InvalidNameError,
    PyWorkflow,
    SerializationError,
    WaitTimeoutError,
    Worker,
    WorkflowFencedError,
    WorkflowFinishedError,
    WorkflowNotFoundError,
    workflow,
)
from pgqrs.codecs import FernetCodec, PydanticCodec
from tests.support.waiting import no_hang, until
from tests.support.workflows import Gate, Killed, note

KEY = base64.urlsafe_b64encode(b"k" * 32)


@workflow
async def progressing(ctx: PyWorkflow, *values: int) -> str:
    """Set an event to one value after the other."""
    for value in values:
        await ctx.set_event("progress", value)
    return "done"


@workflow
async def closing(ctx: PyWorkflow) -> object:
    """Wait for an event of the schema."""
    return await ctx.wait_event("closed")


async def is_waiting(handle):
    return await handle.status() == "WAITING"


async def has_subscribed(admin):
    return (await admin.store()).arrivals._waiting


async def emitted(sql):
    """Return the values of the events of the schema, by their addresses."""
    rows = await sql.fetch("SELECT address, payload FROM pgqrs_messages WHERE workflow_id IS NULL ORDER BY id")
    return {row["address"]: json.loads(row["payload"])["value"] for row in rows}


# --- events of a workflow ---


async def test_newest_value_of_an_event_is_read(admin):
    gate = Gate()
    slow = gate.step("slow")

    @workflow
    async def halfway(ctx: PyWorkflow) -> None:
        await ctx.set_event("progress", 1)
        await ctx.set_event("progress", 2)
        await ctx.set_event("link", "https://example.org")
        await slow(ctx)
        await ctx.set_event("progress", 100)

    handle = await admin.options(key="h").enqueue(halfway)
    task = asyncio.create_task(admin.options(key="h").run(halfway))
    await gate.reached.wait()
    assert await handle.event("progress") == 2
    assert await handle.events() == {"link": "https://example.org", "progress": 2}
    gate.open()
    await task
    assert await handle.event("progress") == 100
    assert await admin.handle(handle.id).events() == {"link": "https://example.org", "progress": 100}


@pytest.mark.parametrize("value", [None, 0, "", [], {"a": [1, None]}, "null"])
async def test_any_value_can_be_an_event(admin, value):
    @workflow
    async def showing(ctx: PyWorkflow) -> int:
        await ctx.set_event("e", value)
        return ctx.id()

    handle = admin.handle(await admin.run(showing))
    assert await handle.event("e", timeout=0) == value
    assert await handle.events() == {"e": value}


async def test_event_is_read_without_a_worker_and_in_every_state(admin, dsn, claimer):
    @workflow
    async def resting(ctx: PyWorkflow) -> None:
        await ctx.set_event("link", 1)
        await ctx.receive("go on")

    handle = await admin.enqueue(resting)
    await claimer.park(resting)
    async with Admin(dsn, admin.schema) as reader:
        assert await reader.handle(handle.id).event("link") == 1
        await handle.cancel()
        assert await reader.handle(handle.id).event("link") == 1


async def test_reader_waits_until_the_event_is_set(admin):
    handle = await admin.options(key="p").enqueue(progressing, 5)
    reading = asyncio.create_task(handle.event("progress", timeout=30))
    await asyncio.sleep(0.05)
    assert not reading.done()
    await admin.options(key="p").run(progressing, 5)
    assert await reading == 5


@pytest.mark.parametrize("timeout", [0, 0.05])
async def test_event_that_is_not_set_in_time_is_a_timeout(admin, timeout):
    handle = await admin.enqueue(progressing)
    with pytest.raises(TimeoutError, match="has not set the event 'progress'"):
        await handle.event("progress", timeout=timeout)
    assert await handle.events() == {}


async def test_event_of_an_ended_workflow_that_never_set_it(admin):
    handle = await admin.options(key="p").enqueue(progressing, 5)
    reading = asyncio.create_task(handle.event("another"))
    await admin.options(key="p").run(progressing, 5)
    async with no_hang():
        with pytest.raises(WorkflowFinishedError, match="SUCCESS"):
            await reading


async def test_events_of_an_unknown_workflow_are_refused(admin, sql):
    handle = await admin.enqueue(progressing, 5)
    await sql.execute("UPDATE pgqrs_workflows SET token = token + 1")
    for each in (admin.handle(99), handle):
        with pytest.raises(WorkflowNotFoundError):
            await each.event("progress", timeout=0)
        with pytest.raises(WorkflowNotFoundError):
            await each.events()


async def test_replay_sets_no_older_value_again(admin):
    """Someone who reads sees the values of the run go forward, although the run begins anew."""
    seen = []

    @workflow
    async def killed(ctx: PyWorkflow) -> None:
        await ctx.set_event("progress", 1)
        if len(seen) == 1:
            seen.append(await admin.handle(ctx.id()).event("progress"))
        await ctx.set_event("progress", 2)
        if not seen:
            seen.append(None)
            raise Killed
        await note(ctx, "after")

    ctx = await admin.create_workflow("killed")
    with pytest.raises(Killed):
        await killed(ctx)
    await killed(ctx)
    assert seen == [None, 2]


async def test_stale_run_sets_no_event(admin, sql):
    gate = Gate()
    slow = gate.step("slow")

    @workflow
    async def late(ctx: PyWorkflow) -> None:
        await slow(ctx)
        await ctx.set_event("progress", "stale")

    ctx = await admin.create_workflow("late")
    task = asyncio.create_task(late(ctx))
    await gate.reached.wait()
    await sql.execute("UPDATE pgqrs_workflows SET claim = claim + 1, epoch = epoch + 1")
    gate.open()
    with pytest.raises(WorkflowFencedError):
        await task
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_events") == 0


async def test_event_is_one_commit_with_its_step(admin, sql):
    ctx = await admin.create_workflow("progressing")
    await progressing(ctx, 1, 2, 3)
    handle = admin.handle(ctx.id())
    assert [each.step_id for each in await handle.steps()] == [f"set_event/progress:{n}" for n in (1, 2, 3)]
    xmins = "SELECT s.xmin = e.xmin FROM pgqrs_events e, pgqrs_workflow_steps s WHERE s.step_id LIKE '%:3'"
    assert await sql.fetchval(xmins)


async def test_concurrent_events_of_one_workflow_are_all_set(admin):
    @workflow
    async def many(ctx: PyWorkflow) -> int:
        await asyncio.gather(*(ctx.set_event(f"e{n}", n) for n in range(50)))
        return ctx.id()

    assert await admin.handle(await admin.run(many)).events() == {f"e{n}": n for n in range(50)}


async def test_sealed_event_is_read_with_its_codec_alone(dsn, admin, sql):
    async with Admin(dsn, admin.schema, codec=FernetCodec([KEY])) as own:
        handle = await own.options(key="p").enqueue(progressing, 5)
        await own.options(key="p").run(progressing, 5)
        assert await handle.event("progress") == 5
        assert await handle.events() == {"progress": 5}
    assert await sql.fetchval("SELECT value::text <> '5' FROM pgqrs_events")
    with pytest.raises(CodecMismatchError):
        await admin.handle(handle.id).event("progress")
    with pytest.raises(CodecMismatchError):
        await admin.handle(handle.id).events()


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800", "x" * 513, 5], ids=ascii)
async def test_event_name_that_cannot_be_stored_is_refused(admin, name):
    ctx = await admin.create_workflow("progressing")
    for call in (
        lambda: ctx.set_event(name, 1),
        lambda: ctx.wait_event(name, timeout=0),
        lambda: admin.emit(name),
        lambda: admin.handle(ctx.id()).event(name, timeout=0),
    ):
        with pytest.raises((InvalidNameError, TypeError)):
            await call()


async def test_event_that_the_codec_cannot_encode_is_refused(admin):
    ctx = await admin.create_workflow("progressing")
    for call in (lambda: ctx.set_event("e", object()), lambda: admin.emit("e", object())):
        with pytest.raises(SerializationError):
            await call()


# --- events of the schema ---


async def test_first_value_of_an_emitted_event_stays(dsn, admin, sql):
    async with Admin(dsn, admin.schema) as other:
        assert await admin.emit("closed", {"by": "a"})
        assert await other.emit("closed", {"by": "a"})  # it has this value
        assert not await other.emit("closed", {"by": "b"})
        assert not await sql.fetchval("SELECT emit('closed', '{\"by\": \"c\"}')")
        assert await sql.fetchval("SELECT emit('other')")
        assert not await admin.emit("other", 1)
    assert await emitted(sql) == {"e/closed": {"by": "a"}, "e/other": None}


async def test_one_of_many_emitters_is_the_first(admin):
    won = await asyncio.gather(*(admin.emit("closed", n) for n in range(20)))
    assert won.count(True) == 1
    assert await admin.run(closing) == won.index(True)


@pytest.mark.parametrize("moment", ["before the run", "in place", "parked"])
async def test_event_is_received_whenever_it_is_emitted(admin, claimer, moment):
    handle = await admin.options(key="c").enqueue(closing)
    match moment:
        case "before the run":
            await admin.emit("closed", 7)
            assert await claimer.run(closing) == 7
        case "parked":
            await claimer.park(closing)
            await admin.emit("closed", 7)
            assert await claimer.run(closing) == 7
        case _:
            task = asyncio.create_task(admin.options(key="c").run(closing))
            await until(has_subscribed, admin)
            await admin.emit("closed", 7)
            async with no_hang():
                assert await task == 7
    assert await handle.result() == 7


async def test_event_is_received_by_all_and_again(admin, claimer):
    @workflow
    async def twice(ctx: PyWorkflow) -> list:
        return [await ctx.wait_event("closed"), await ctx.wait_event("closed")]

    for _ in range(3):
        await admin.enqueue(twice)
        await claimer.park(twice)
    await admin.emit("closed", 7)
    for _ in range(3):
        assert await claimer.run(twice) == [7, 7]
    assert await admin.run(twice) == [7, 7]


async def test_event_from_sql_is_received(admin, claimer, sql):
    await admin.enqueue(closing)
    await claimer.park(closing)
    await sql.execute("SELECT emit('closed', '{\"by\": \"sql\"}')")
    assert await claimer.run(closing) == {"by": "sql"}


@pytest.mark.parametrize("name", ["50% off", "two\nlines", "%0A", "'quoted'", "ünï ☃"], ids=ascii)
async def test_any_event_has_one_address_in_python_and_in_sql(admin, sql, name):
    @workflow
    async def named(ctx: PyWorkflow) -> int:
        return await ctx.wait_event(name)

    assert await sql.fetchval("SELECT emit($1, '7')", name)
    assert not await admin.emit(name, 8)
    assert await admin.run(named) == 7
    assert len(await emitted(sql)) == 1


@pytest.mark.parametrize("arguments", ["''", "NULL", "'closed', NULL"])
async def test_sql_function_refuses_a_bad_event(admin, sql, arguments):
    with pytest.raises(Exception, match="needs a name and a payload"):
        await sql.execute(f"SELECT emit({arguments})")
    assert await emitted(sql) == {}


async def test_session_decides_whether_an_event_is_emitted(admin, claimer, sessions, sql):
    await admin.enqueue(closing)
    await claimer.park(closing)
    async with sessions() as session:
        assert await admin.options(session=session).emit("closed", 1)
        await session.rollback()
        assert await admin.options(session=session).emit("closed", 2)
        assert not await admin.options(session=session).emit("closed", 3)
        assert await emitted(sql) == {}
        await session.commit()
    assert not await admin.emit("closed", 4)
    assert await claimer.run(closing) == 2


async def test_open_emitter_delays_only_emitters_of_its_event(admin, sessions):
    async with sessions() as session:
        await admin.options(session=session).emit("closed", 1)
        second = asyncio.create_task(admin.emit("closed", 2))
        await asyncio.wait([second], timeout=0.5)  # its statement waits for the session
        assert not second.done()
        async with asyncio.timeout(5):
            assert await admin.emit("another", 1)
            assert await admin.run(progressing, 1) == "done"
        await session.commit()
    async with no_hang():
        assert not await second


@pytest.mark.parametrize("parks", [True, False], ids=["parked", "in place"])
async def test_event_that_does_not_come_times_out(admin, claimer, sql, parks):
    seen = []

    @workflow
    async def impatient(ctx: PyWorkflow) -> str:
        with pytest.raises(WaitTimeoutError) as late:
            await ctx.wait_event("closed", timeout=3600 if parks else 0.1)
        seen.append(late.value)
        return await ctx.wait_event("closed", timeout=0, default="open")

    if parks:
        await admin.enqueue(impatient)
        await claimer.park(impatient)
        await sql.execute("UPDATE pgqrs_workflows SET due_at = now()")
        await sql.execute("UPDATE pgqrs_workflow_steps SET retry_at = now()")
        assert await claimer.run(impatient) == "open"
    else:
        assert await admin.run(impatient) == "open"
    assert {each.step_id for each in seen} == {"event/closed:1"}


async def test_replay_receives_the_recorded_event(admin):
    seen = []

    @workflow
    async def killed(ctx: PyWorkflow) -> None:
        seen.append(await ctx.wait_event("closed", timeout=0, default="open"))
        if len(seen) == 1:
            await admin.emit("closed", 7)
            raise Killed
        await note(ctx, "after")

    ctx = await admin.create_workflow("killed")
    with pytest.raises(Killed):
        await killed(ctx)
    await killed(ctx)
    assert set(seen) == {"open"}
    assert len(seen) >= 2


async def test_event_of_another_codec_is_an_error_of_its_reader(dsn, admin):
    async with Admin(dsn, admin.schema, codec=PydanticCodec()) as other:
        await other.emit("closed", {"total": timedelta(seconds=1)})
        with pytest.raises(SerializationError, match="emitted with the codec 'pydantic'"):
            await admin.run(closing)
        assert await other.run(closing) is not None


async def test_only_a_sealing_codec_refuses_an_event_of_sql(dsn, admin, sql):
    await sql.execute("SELECT emit('closed', '{\"by\": \"sql\"}')")
    async with Admin(dsn, admin.schema, codec=PydanticCodec()) as typed:
        assert await typed.run(closing) == {"by": "sql"}
    async with Admin(dsn, admin.schema, codec=FernetCodec([KEY])) as sealing:
        with pytest.raises(SerializationError, match="not encrypted"):
            await sealing.run(closing)


async def test_sealed_event_is_received(dsn, admin, sql):
    async with Admin(dsn, admin.schema, codec=FernetCodec([KEY])) as own, Worker(own, [closing]), no_hang():
        handle = await own.enqueue(closing)
        await until(is_waiting, handle)
        await own.emit("closed", {"secret": 7})
        assert await handle.result() == {"secret": 7}
    assert "secret" not in await sql.fetchval("SELECT payload FROM pgqrs_messages")


async def test_event_wakes_the_workflows_of_a_worker(admin):
    async with no_hang(), Worker(admin, [closing]):
        handles = [await admin.enqueue(closing) for _ in range(20)]
        for handle in handles:
            await until(is_waiting, handle)
        await admin.emit("closed", 7)
        assert [await handle.result() for handle in handles] == [7] * 20
