"""Messages to workflows: by any sender and at any time, each is received once and in the order of its sender."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal

import pytest
from pydantic import BaseModel
from sqlalchemy import event, text

from pgqrs import (
    Admin,
    CodecMismatchError,
    InvalidNameError,
    PyWorkflow,
    Receive,
    SerializationError,
    Sleep,
    StepMismatchError,
    Topic,
    WaitTimeoutError,
    Worker,
    WorkflowCancelledError,
    WorkflowFencedError,
    WorkflowFinishedError,
    WorkflowNotFoundError,
    WorkflowTimeoutError,
    step,
    workflow,
)
from pgqrs.codecs import FernetCodec, JsonCodec, PydanticCodec
from tests.support.recorded import is_replay
from tests.support.waiting import no_hang, until
from tests.support.workflows import Gate, Killed, cancel_task, note

pytest_plugins = ("pytest_pgqrs",)

KEY = base64.urlsafe_b64encode(b"k" * 32)
PAID = Topic("paid", int)


@workflow
async def paying(ctx: PyWorkflow) -> list:
    """Execute a step, and wait for one message."""
    return [await note(ctx, "before"), await ctx.receive(PAID)]


@workflow
async def collecting(ctx: PyWorkflow, count: int) -> list:
    """Receive messages one after the other."""
    return [await ctx.receive(PAID) for _ in range(count)]


@workflow
async def sending(ctx: PyWorkflow, receiver: int, *values: int) -> list:
    """Send messages to another workflow, and execute a step."""
    for value in values:
        await ctx.send(receiver, PAID, value)
    return list(values)


async def waits(sql):
    """Return the addresses for which parked workflows wait."""
    return [row["address"] for row in await sql.fetch("SELECT address FROM pgqrs_waits ORDER BY address")]


async def unread(sql):
    """Return the payloads of the messages that no workflow has received."""
    rows = await sql.fetch("SELECT payload FROM pgqrs_messages WHERE taken_at IS NULL ORDER BY id")
    return [json.loads(row["payload"]) for row in rows]


async def is_recorded(admin, workflow_id, step_id):
    with suppress(WorkflowNotFoundError):
        return any(each.step_id == step_id for each in await admin.list_steps(workflow_id))


async def waiting_in_place(admin, function, *args):
    """Start a run that waits in memory, for no worker has claimed it; return its handle and its task."""
    handle = await admin.options(key="here").enqueue(function, *args)
    task = asyncio.create_task(admin.options(key="here").run(function, *args))
    await until(has_subscribed, admin)
    return handle, task


async def has_subscribed(admin):
    return (await admin.store()).arrivals._waiting


# --- the moment of sending ---


async def test_message_before_the_first_run_is_received(admin, claimer):
    handle = await admin.enqueue(paying)
    await handle.send(PAID, 7)
    assert await claimer.run(paying) == ["before", 7]


async def test_message_before_the_wait_is_received(admin):
    gate = Gate()
    slow = gate.step("slow")

    @workflow
    async def later(ctx: PyWorkflow) -> int:
        await slow(ctx)
        return await ctx.receive(PAID)

    handle = await admin.options(key="later").enqueue(later)
    task = asyncio.create_task(admin.options(key="later").run(later))
    await gate.reached.wait()
    await handle.send(PAID, 7)
    gate.open()
    async with no_hang():
        assert await task == 7


async def test_message_wakes_a_run_that_waits_in_place(admin, sql):
    handle, task = await waiting_in_place(admin, paying)
    await handle.send(PAID, 7)
    async with no_hang():
        assert await task == ["before", 7]
    assert await unread(sql) == []


async def test_message_is_received_while_another_step_executes(admin):
    gate = Gate()
    slow = gate.step("slow")

    @workflow
    async def both(ctx: PyWorkflow) -> list:
        receiving = asyncio.create_task(ctx.receive(PAID, id="payment"))
        return [await slow(ctx), await receiving]

    handle = await admin.options(key="both").enqueue(both)
    task = asyncio.create_task(admin.options(key="both").run(both))
    await gate.reached.wait()
    await handle.send(PAID, 7)
    await until(is_recorded, admin, handle.id, "receive/payment")
    gate.open()
    async with no_hang():
        assert await task == ["done", 7]


async def test_message_wakes_a_parked_workflow(admin, claimer, sql):
    handle = await admin.enqueue(paying)
    await claimer.park(paying)
    assert await handle.status() == "WAITING"
    assert await waits(sql) == [f"m/{handle.id}/paid"]
    await handle.send(PAID, 7)
    assert await claimer.run(paying) == ["before", 7]
    assert (await waits(sql), await unread(sql)) == ([], [])


async def test_message_between_two_searches_is_received(admin, claimer, sql):
    """A search that saw the wait and no message, and one that saw the message and another wait, lose nothing."""
    handle = await admin.enqueue(paying)
    await claimer.park(paying)
    assert (await claimer.deliver()).woken == 0
    await handle.send("other topic", 1)
    assert (await claimer.deliver()).woken == 0
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_waits WHERE is_new") == 0
    await handle.send(PAID, 7)
    assert await claimer.run(paying) == ["before", 7]
    assert await unread(sql) == [1]


async def test_message_that_commits_while_the_run_parks_is_received(admin, claimer, sessions):
    """The wait is looked for before the message is there, and the message is looked for after it."""
    handle = await admin.enqueue(paying)
    async with sessions() as session:
        await admin.options(session=session).send(handle.id, PAID, 7)
        await claimer.park(paying)
        assert (await claimer.deliver()).woken == 0
        await session.commit()
    assert await claimer.run(paying) == ["before", 7]


async def test_message_wakes_a_workflow_of_a_worker(admin):
    async with no_hang(), Worker(admin, [paying]):
        handle = await admin.enqueue(paying)
        await until(is_waiting, handle)
        await handle.send(PAID, 7)
        assert await handle.result() == ["before", 7]


async def is_waiting(handle):
    return await handle.status() == "WAITING"


# --- senders ---


async def by_handle(admin, sessions, sql, workflow_id):
    await admin.handle(workflow_id).send("paid", {"cents": 700})


async def by_admin(admin, sessions, sql, workflow_id):
    await admin.send(workflow_id, "paid", {"cents": 700})


async def by_workflow(admin, sessions, sql, workflow_id):
    @workflow
    async def sender(ctx: PyWorkflow) -> None:
        await ctx.send(workflow_id, "paid", {"cents": 700})

    await admin.run(sender)


async def by_session(admin, sessions, sql, workflow_id):
    async with sessions() as session, session.begin():
        await admin.options(session=session).send(workflow_id, "paid", {"cents": 700})


async def by_connection(admin, sessions, sql, workflow_id):
    async with sessions.kw["bind"].begin() as connection:
        await admin.options(session=connection).send(workflow_id, "paid", {"cents": 700})


async def by_sql(admin, sessions, sql, workflow_id):
    await sql.execute("SELECT send($1, 'paid', '{\"cents\": 700}')", workflow_id)


async def by_trigger(admin, sessions, sql, workflow_id):
    await sql.execute("""
        CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            PERFORM send(NEW.order_number, 'paid', json_build_object('cents', NEW.amount)); RETURN NULL;
        END $$;
        CREATE TRIGGER tell AFTER INSERT ON payments FOR EACH ROW EXECUTE FUNCTION tell();
    """)
    await sql.execute("INSERT INTO payments (order_number, amount) VALUES ($1, 700)", workflow_id)


SENDERS = [by_handle, by_admin, by_workflow, by_session, by_connection, by_sql, by_trigger]


@workflow
async def untyped(ctx: PyWorkflow) -> dict:
    return await ctx.receive("paid")


@pytest.mark.parametrize("sender", SENDERS)
async def test_parked_workflow_receives_from_each_sender(admin, claimer, sessions, sql, sender):
    handle = await admin.enqueue(untyped)
    await claimer.park(untyped)
    await sender(admin, sessions, sql, handle.id)
    assert await claimer.run(untyped) == {"cents": 700}


@pytest.mark.parametrize("sender", SENDERS)
async def test_run_in_place_receives_from_each_sender(admin, sessions, sql, sender):
    handle, task = await waiting_in_place(admin, untyped)
    await sender(admin, sessions, sql, handle.id)
    async with no_hang():
        assert await task == {"cents": 700}


@pytest.mark.parametrize(
    "name", ["50% off", "two\nlines", "a\\nb", "%0A", "'quoted' \"twice\"", "ünï ☃"], ids=ascii
)
async def test_any_topic_has_one_address_in_python_and_in_sql(admin, sql, name):
    @workflow
    async def pair(ctx: PyWorkflow) -> list:
        return [await ctx.receive(name), await ctx.receive(name)]

    handle = await admin.options(key="pair").enqueue(pair)
    await sql.execute("SELECT send($1, $2, '1')", handle.id, name)
    await handle.send(name, 2)
    assert await admin.options(key="pair").run(pair) == [1, 2]
    assert await sql.fetchval("SELECT count(DISTINCT address) FROM pgqrs_messages") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("NULL, 'paid', '1'", "needs a workflow"),
        ("1, '', '1'", "needs a workflow, a topic"),
        ("1, NULL, '1'", "needs a workflow, a topic"),
        ("1, 'paid', NULL", "and a payload"),
        ("1, 'paid', '1', ''", "a key is not empty"),
        ("99, 'paid', '1'", "no workflow 99"),
    ],
)
async def test_sql_function_refuses_what_cannot_be_sent(admin, sql, arguments, told):
    await admin.enqueue(paying)
    with pytest.raises(Exception, match=told):
        await sql.execute(f"SELECT send({arguments})")
    assert await unread(sql) == []


# --- values ---


class Bill(BaseModel):
    id: int
    total: Decimal


CODECS = {
    "json": (JsonCodec(), dict, {"id": 7, "total": "0.10"}),
    "pydantic": (PydanticCodec(), Bill, Bill(id=7, total=Decimal("0.10"))),
    "fernet": (FernetCodec([KEY]), dict, {"id": 7, "total": "0.10"}),
    "fernet of pydantic": (FernetCodec([KEY], PydanticCodec()), Bill, Bill(id=7, total=Decimal("0.10"))),
}


@pytest.mark.parametrize("name", CODECS)
async def test_typed_value_arrives_as_it_was_sent(dsn, admin, sql, name):
    codec, of_type, value = CODECS[name]
    billed = Topic("billed", of_type)
    seen = []

    @workflow
    async def billing(ctx: PyWorkflow) -> bool:
        seen.append(await ctx.receive(billed))
        seen.append(await ctx.receive(billed))
        return True

    async with Admin(dsn, admin.schema, codec=codec) as own, Worker(own, [billing]), no_hang():
        handle = await own.enqueue(billing)
        await handle.send(billed, value)
        await until(is_waiting, handle)  # the second message finds it parked
        stored = await sql.fetchval("SELECT payload FROM pgqrs_messages")
        await handle.send(billed, value)
        assert await handle.result()
        received = [each for each in await handle.steps() if each.step_id.startswith("receive/billed")]
    assert all(each == value and type(each) is of_type for each in seen)
    assert ("0.10" in stored) is (not name.startswith("fernet"))
    assert [json.loads(JsonCodec().encode(each.output).text)["id"] for each in received] == [7, 7]


async def test_value_that_the_codec_cannot_encode_is_refused(admin, sql):
    handle = await admin.enqueue(paying)
    with pytest.raises(SerializationError):
        await handle.send("paid", object())
    assert await unread(sql) == []


async def test_topic_in_plain_json_is_sent_by_sql_to_a_sealing_codec(dsn, admin, sql):
    plain = Topic("plain", dict, is_plain=True)

    @workflow
    async def reading(ctx: PyWorkflow) -> list:
        return [await ctx.receive(plain), await ctx.receive(plain)]

    async with Admin(dsn, admin.schema, codec=FernetCodec([KEY])) as own:
        handle = await own.options(key="plain").enqueue(reading)
        await sql.execute("SELECT send($1, 'plain', '{\"n\": 1}')", handle.id)
        await admin.send(handle.id, plain, {"n": 2})  # by an Admin with another codec
        assert await own.options(key="plain").run(reading) == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("codec", [JsonCodec(), PydanticCodec()], ids=["json", "pydantic"])
async def test_message_of_sql_arrives_with_the_type_of_the_topic(dsn, admin, sql, codec):
    """To a receive, and to a select, which finds the type of its branch."""
    of_type = Bill if isinstance(codec, PydanticCodec) else dict
    billed, seen = Topic("billed", of_type), []

    @workflow
    async def billing(ctx: PyWorkflow) -> None:
        seen.extend([await ctx.receive(billed), await ctx.receive(billed)])
        seen.append((await ctx.select(bill=Receive(billed), late=Sleep(3600)))[1])

    async with Admin(dsn, admin.schema, codec=codec) as own, Worker(own, [billing]), no_hang():
        handle = await own.enqueue(billing)
        for sent in range(3):
            await sql.execute('SELECT send($1, \'billed\', \'{"id": 7, "total": "0.10"}\')', handle.id)
            await until(is_waiting_for, sql, sent + 1)
        await handle.result()
    expected = Bill(id=7, total=Decimal("0.10")) if of_type is Bill else {"id": 7, "total": "0.10"}
    assert seen[-3:] == [expected] * 3
    assert {type(each) for each in seen} == {of_type}


async def is_waiting_for(sql, received):
    """Return whether the workflow has received so many messages, and waits for the next or has ended."""
    return await sql.fetchval(
        "SELECT (SELECT count(*) FROM pgqrs_messages WHERE taken_at IS NOT NULL) = $1"
        " AND (SELECT bool_and(status IN ('WAITING', 'SUCCESS')) FROM pgqrs_workflows)",
        received,
    )


async def test_message_of_sql_of_another_type_is_an_error(dsn, admin, sql):
    billed = Topic("billed", Bill)

    @workflow
    async def billing(ctx: PyWorkflow) -> str:
        try:
            await ctx.receive(billed)
        except SerializationError:
            return "refused"
        return "received"

    async with Admin(dsn, admin.schema, codec=PydanticCodec()) as own, Worker(own, [billing]), no_hang():
        handle = await own.enqueue(billing)
        await until(is_waiting, handle)
        await sql.execute("SELECT send($1, 'billed', '{\"id\": \"no number\"}')", handle.id)
        assert await handle.result() == "refused"


async def test_parked_receiver_with_a_sealing_codec_refuses_sql(dsn, admin, sql):
    async with Admin(dsn, admin.schema, codec=FernetCodec([KEY])) as own, Worker(own, [untyped]), no_hang():
        handle = await own.enqueue(untyped)
        await until(is_waiting, handle)
        await sql.execute("SELECT send($1, 'paid', '{\"cents\": 1}')", handle.id)
        with pytest.raises(SerializationError, match="not encrypted"):
            await handle.result()
        assert await handle.status() == "ERROR"


async def test_sealing_codec_refuses_plain_json_of_sql(dsn, admin, sql):
    async with Admin(dsn, admin.schema, codec=FernetCodec([KEY])) as own:
        handle = await own.options(key="paying").enqueue(untyped)
        await sql.execute("SELECT send($1, 'paid', '{\"cents\": 1}')", handle.id)
        with pytest.raises(SerializationError, match="not encrypted"):
            await own.options(key="paying").run(untyped)
        assert await handle.status() == "ERROR"


async def test_body_can_catch_a_message_that_its_codec_refuses(dsn, admin, sql):
    @workflow
    async def careful(ctx: PyWorkflow) -> list:
        got = []
        while len(got) < 2:
            try:
                got.append(await ctx.receive("paid"))
            except SerializationError as error:
                got.append(error.step_id)
        return got

    async with Admin(dsn, admin.schema, codec=FernetCodec([KEY])) as own:
        handle = await own.options(key="careful").enqueue(careful)
        await sql.execute("SELECT send($1, 'paid', '{\"cents\": 1}')", handle.id)
        await handle.send("paid", 7)
        assert await own.options(key="careful").run(careful) == ["receive/paid:1", 7]


@pytest.mark.parametrize("is_sealed", [True, False], ids=["json to sealed", "pydantic to json"])
async def test_sender_with_another_codec_is_refused(dsn, admin, sessions, sql, is_sealed):
    codec = FernetCodec([KEY]) if is_sealed else PydanticCodec()
    async with Admin(dsn, admin.schema, codec=codec) as own, sessions() as session:
        sender, receiver = (admin, own) if is_sealed else (own, admin)
        handle = await receiver.enqueue(paying)
        for send in (
            sender.handle(handle.id).send(PAID, 7),
            sender.run(sending, handle.id, 7),
            sender.options(session=session).send(handle.id, PAID, 7),
        ):
            with pytest.raises(CodecMismatchError, match="fernet.*'json'" if is_sealed else "'json'.*pydantic"):
                await send
    assert await unread(sql) == []


def test_a_topic_has_a_readable_repr():
    assert repr(PAID) == "Topic('paid')"


# --- input that cannot be stored ---

BAD_NAMES = ["", "a\0b", "\ud800", "x" * 513, 5, None]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
async def test_topic_that_cannot_be_stored_is_refused(admin, name):
    ctx = await admin.create_workflow("paying")
    with pytest.raises((InvalidNameError, TypeError)):
        Topic(name)
    for call in (ctx.receive(name, timeout=0), ctx.send(ctx.id(), name, 1), admin.send(ctx.id(), name, 1)):
        with pytest.raises((InvalidNameError, TypeError)):
            await call


@pytest.mark.parametrize("key", ["", "a\0b", "\ud800", 5], ids=ascii)
async def test_message_key_that_cannot_be_stored_is_refused(admin, sql, key):
    handle = await admin.enqueue(paying)
    with pytest.raises((InvalidNameError, TypeError)):
        await handle.send(PAID, 7, key=key)
    assert await unread(sql) == []


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1e11, "1", True])
async def test_invalid_timeouts_are_refused(admin, wrong):
    ctx = await admin.create_workflow("paying")
    for call in (ctx.receive(PAID, timeout=wrong), ctx.wait_event("closed", timeout=wrong)):
        with pytest.raises((ValueError, TypeError)):
            await call


# --- receivers that are not there ---


async def test_message_to_an_unknown_workflow_is_refused(admin, sessions):
    for workflow_id in (99, 2**62):
        with pytest.raises(WorkflowNotFoundError):
            await admin.send(workflow_id, PAID, 7)
    async with sessions() as session:
        with pytest.raises(WorkflowNotFoundError):
            await admin.options(session=session).send(99, PAID, 7)


async def ended(admin, status):
    """Return the id of a workflow that has ended."""
    ctx = await admin.create_workflow("paying")
    match status:
        case "SUCCESS":
            await ctx.success()
        case "ERROR":
            await ctx.fail("broken")
        case _:
            await admin.cancel_workflow(ctx.id())
    return ctx.id()


@pytest.mark.parametrize("status", ["SUCCESS", "ERROR", "CANCELLED"])
async def test_message_to_an_ended_workflow_is_refused(admin, sessions, sql, status):
    workflow_id = await ended(admin, status)
    with pytest.raises(WorkflowFinishedError, match=status):
        await admin.send(workflow_id, PAID, 7)
    async with sessions() as session:
        with pytest.raises(WorkflowFinishedError, match=status):
            await admin.options(session=session).send(workflow_id, PAID, 7)
    with pytest.raises(Exception, match=status):
        await sql.execute("SELECT send($1, 'paid', '7')", workflow_id)
    assert await unread(sql) == []


async def test_message_to_a_workflow_of_another_token_is_refused(admin, sql):
    """The server has lost the workflow of the handle, and has given its id to another one."""
    handle = await admin.enqueue(paying)
    await sql.execute("UPDATE pgqrs_workflows SET token = token + 1")
    with pytest.raises(WorkflowNotFoundError):
        await handle.send(PAID, 7)
    await admin.handle(handle.id).send(PAID, 8)  # it knows the id alone
    assert await unread(sql) == [8]


# --- keys ---


async def test_key_is_sent_once_by_two_admins(dsn, admin, claimer, sql):
    handle = await admin.enqueue(collecting, 2)
    async with Admin(dsn, admin.schema) as other:
        await asyncio.gather(
            *(each.send(handle.id, PAID, 7, key="evt_1") for each in (admin, other) for _ in range(5))
        )
        assert await unread(sql) == [7]
        await claimer.park(collecting)
        await other.send(handle.id, PAID, 7, key="evt_1")  # the key is known after the message was received
        await other.send(handle.id, Topic("another", int), 1, key="evt_1")
        assert await unread(sql) == [1]
        await other.send(handle.id, PAID, 8, key="evt_2")
    assert await claimer.run(collecting) == [7, 8]


@workflow
async def sending_again(ctx: PyWorkflow, receiver: int, key: str) -> None:
    await ctx.send(receiver, PAID, 7, key=key)


@pytest.mark.parametrize("how", ["handle", "session", "workflow", "SQL"])
async def test_key_of_an_ended_workflow_counts_as_sent(admin, sessions, sql, how):
    handle = await admin.options(key="c").enqueue(collecting, 1)
    await handle.send(PAID, 7, key="evt_1")
    assert await admin.options(key="c").run(collecting, 1) == [7]

    async def send(key):
        if how == "handle":
            await handle.send(PAID, 7, key=key)
        elif how == "session":
            async with sessions() as session:
                await admin.options(session=session).send(handle.id, PAID, 7, key=key)
        elif how == "workflow":
            await admin.run(sending_again, handle.id, key)
        else:
            await sql.execute("SELECT send($1, 'paid', '7', key => $2)", handle.id, key)

    await send("evt_1")
    with pytest.raises(Exception, match="ended with SUCCESS") as caught:
        await send("evt_2")
    assert how == "SQL" or isinstance(caught.value, WorkflowFinishedError)
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_messages") == 1


async def test_send_of_a_workflow_reads_nothing(admin, engine, schema):
    async with Admin(engine, schema) as own:
        receiver = await own.enqueue(collecting, 1)
        read = []
        event.listen(engine.sync_engine, "before_cursor_execute", lambda *told: read.append(told[2]))
        await own.run(sending_again, receiver.id, "k")
    assert not any("pgqrs_workflows" in each for each in read)


async def test_send_of_a_workflow_waits_for_no_lock_on_the_receiver(admin, sql):
    receiver = await admin.enqueue(collecting, 1)
    async with no_hang(), sql.transaction():
        await sql.execute("SELECT FROM pgqrs_workflows WHERE id = $1 FOR UPDATE", receiver.id)
        await admin.run(sending_again, receiver.id, "k")
    assert await unread(sql) == [7]


async def test_refused_send_keeps_no_other_send_of_its_batch(admin, sql):
    over, *live = [await admin.enqueue(collecting, 1) for _ in range(4)]
    await over.cancel()
    receivers = [over.id, live[0].id, over.id + 1_000_000, live[1].id, 2**70, live[2].id]
    runs = (admin.run(sending_again, each, "k") for each in receivers)
    ends = await asyncio.gather(*runs, return_exceptions=True)
    none, gone = type(None), WorkflowNotFoundError
    kinds = WorkflowFinishedError, none, gone, none, gone, none
    assert all(isinstance(end, kind) for end, kind in zip(ends, kinds, strict=True)), ends
    assert await unread(sql) == [7, 7, 7]


async def test_send_waits_for_no_step_that_is_named_like_one(admin):
    @step
    async def send(ctx: PyWorkflow) -> int:
        return await ctx.receive("ack")

    @workflow
    async def wf(ctx: PyWorkflow) -> int:
        async with asyncio.TaskGroup() as group:
            acked = group.create_task(send(ctx))
            await asyncio.sleep(0)  # the step begins first
            await ctx.send(ctx.id(), "ack", 1)
        return acked.result()

    async with no_hang():
        assert await admin.run(wf) == 1


async def test_reason_of_a_refusal_is_read_without_the_input(admin, engine, schema):
    """The input of the receiver may be large."""
    async with Admin(engine, schema) as own:
        receiver = await own.enqueue(collecting, 1)
        await receiver.cancel()
        read = []
        event.listen(engine.sync_engine, "before_cursor_execute", lambda *told: read.append(told[2]))
        with pytest.raises(WorkflowFinishedError):
            await own.run(sending_again, receiver.id, "k")
    assert any("pgqrs_workflows" in each for each in read)
    assert not any("input" in each for each in read)


async def test_key_is_known_to_every_kind_of_sender(admin, sessions, sql):
    handle = await admin.enqueue(paying)
    await handle.send(PAID, 1, key="k")
    await sql.execute("SELECT send($1, 'paid', '2', key => 'k')", handle.id)
    async with sessions() as session, session.begin():
        await admin.options(session=session).send(handle.id, PAID, 3, key="k")

    @workflow
    async def sender(ctx: PyWorkflow) -> None:
        await ctx.send(handle.id, PAID, 4, key="k")

    await admin.run(sender)
    assert await unread(sql) == [1]


async def test_key_sent_again_in_an_open_session_holds_nothing_up(admin, claimer, sessions):
    """The message is there already: the second sending must not lock it against its receiver."""
    handle = await admin.enqueue(paying)
    await claimer.park(paying)
    await handle.send(PAID, 7, key="k")
    async with sessions() as session:
        await admin.options(session=session).send(handle.id, PAID, 7, key="k")
        async with asyncio.timeout(5):
            assert await claimer.run(paying) == ["before", 7]
        await session.commit()


async def test_key_held_by_an_open_session_delays_no_step(admin, sessions):
    """The second sender waits for the end of the session; the receiver does not."""
    gate = Gate()
    slow = gate.step("slow")

    @workflow
    async def working(ctx: PyWorkflow) -> list:
        await slow(ctx)
        return [await note(ctx, f"n{n}") for n in range(5)]

    handle = await admin.options(key="w").enqueue(working)
    task = asyncio.create_task(admin.options(key="w").run(working))
    await gate.reached.wait()
    async with sessions() as session, session.begin():
        await admin.options(session=session).send(handle.id, PAID, 7, key="k")
        again = asyncio.create_task(handle.send(PAID, 7, key="k"))
        await asyncio.wait([again], timeout=0.5)  # its statement waits for the session
        assert not again.done()
        gate.open()
        async with asyncio.timeout(5):
            assert await task == ["n0", "n1", "n2", "n3", "n4"]
    async with no_hang():
        await again


async def test_one_key_from_a_workflow_and_a_handle_in_one_batch(admin, sql):
    handle = await admin.enqueue(paying)
    contexts = [await admin.create_workflow("sender") for _ in range(5)]
    for ctx in contexts:
        await ctx.start()
    calls = [ctx.send(handle.id, PAID, 7, key="k", id="once") for ctx in contexts]
    async with no_hang():
        await asyncio.gather(*calls, *(handle.send(PAID, 7, key="k") for _ in range(5)))
    assert await unread(sql) == [7]


# --- the caller's transaction ---


async def test_session_decides_whether_a_message_is_sent(admin, claimer, sessions, sql):
    handle = await admin.enqueue(collecting, 2)
    async with sessions() as session:
        await admin.options(session=session).send(handle.id, PAID, 1)
        await session.rollback()
        await admin.options(session=session).send(handle.id, PAID, 2)
        savepoint = await session.begin_nested()
        await admin.options(session=session).send(handle.id, PAID, 3)
        await savepoint.rollback()
        async with session.begin_nested():
            await admin.options(session=session).send(handle.id, PAID, 4)
        assert await unread(sql) == []
        await session.commit()
    assert await unread(sql) == [2, 4]
    assert await claimer.run(collecting) == [2, 4]


async def test_connection_decides_whether_a_message_is_sent(admin, app, sessions, sql):
    handle = await admin.enqueue(paying)
    async with app.connect() as connection:
        await admin.options(session=connection).send(handle.id, PAID, 1)
        await connection.rollback()
        await admin.options(session=connection).send(handle.id, PAID, 2)
        await connection.commit()
    assert await unread(sql) == [2]


async def test_workflow_and_its_message_are_created_in_one_transaction(admin, claimer, sessions):
    async with sessions() as session, session.begin():
        submit = admin.options(session=session)
        handle = await submit.enqueue(paying)
        await submit.send(handle.id, PAID, 7)
    assert await claimer.run(paying) == ["before", 7]


async def test_receiver_records_steps_while_the_sender_is_open(admin, sessions):
    gate = Gate()
    slow = gate.step("slow")

    @workflow
    async def working(ctx: PyWorkflow) -> list:
        await slow(ctx)
        names = [await note(ctx, f"n{n}") for n in range(5)]
        return [*names, await ctx.receive(PAID)]

    handle = await admin.options(key="w").enqueue(working)
    task = asyncio.create_task(admin.options(key="w").run(working))
    await gate.reached.wait()
    async with sessions() as session, session.begin():
        await session.execute(text("SELECT 1"))
        await admin.options(session=session).send(handle.id, PAID, 7)
        gate.open()
        await until(is_recorded, admin, handle.id, "note:n4")
        assert not task.done()
    async with no_hang():
        assert await task == ["n0", "n1", "n2", "n3", "n4", 7]


async def test_two_open_senders_in_opposite_order_do_not_deadlock(admin, sessions, sql):
    first, second = await admin.enqueue(paying), await admin.enqueue(paying)
    async with sessions() as one, sessions() as two, no_hang():
        await admin.options(session=one).send(first.id, PAID, 1)
        await admin.options(session=two).send(second.id, PAID, 2)
        await admin.options(session=one).send(second.id, PAID, 3)
        await admin.options(session=two).send(first.id, PAID, 4)
        await one.commit()
        await two.commit()
    assert await unread(sql) == [1, 2, 3, 4]


# --- from a workflow ---


async def test_replay_sends_no_second_message(admin, sql):
    handle = await admin.enqueue(paying)
    killed = []

    @workflow
    async def sender(ctx: PyWorkflow) -> None:
        await ctx.send(handle.id, PAID, 7)
        if not killed:
            killed.append(True)
            raise Killed

    ctx = await admin.create_workflow("sender")
    with pytest.raises(Killed):
        await sender(ctx)
    await sender(ctx)
    assert await unread(sql) == [7]
    assert [each.step_id for each in await admin.list_steps(ctx.id())] == ["send/paid:1"]


@pytest.mark.parametrize("reason", [WorkflowNotFoundError, WorkflowFinishedError])
async def test_refusal_of_a_message_is_recorded(admin, sql, reason):
    receiver = await ended(admin, "SUCCESS") if reason is WorkflowFinishedError else 99
    seen = []

    @workflow
    async def sender(ctx: PyWorkflow) -> None:
        try:
            await ctx.send(receiver, PAID, 7)
        except reason as error:
            seen.append(error)
        if len(seen) == 1:
            raise Killed
        await note(ctx, "after")

    ctx = await admin.create_workflow("sender")
    with pytest.raises(Killed):
        await sender(ctx)
    await sql.execute(
        "DELETE FROM pgqrs_workflows WHERE status = 'SUCCESS'"
    )  # what is recorded counts, not what is so
    await sender(ctx)
    assert isinstance(seen[0], reason)
    assert all(is_replay(each, reason) for each in seen[1:])
    assert len(seen) >= 2
    assert await unread(sql) == []


async def test_workflow_can_send_to_itself(admin):
    @workflow
    async def own(ctx: PyWorkflow) -> int:
        await ctx.send(ctx.id(), PAID, 7)
        return await ctx.receive(PAID)

    assert await admin.run(own) == 7


async def test_message_from_a_workflow_wakes_the_receiver(admin):
    async with no_hang(), Worker(admin, [collecting, sending]):
        receiver = await admin.enqueue(collecting, 3)
        await until(is_waiting, receiver)
        sender = await admin.enqueue(sending, receiver.id, 1, 2, 3)
        assert await receiver.result() == [1, 2, 3] == await sender.result()


# --- what a message is received by ---


@pytest.mark.unfaulted("a thousand messages")
@pytest.mark.without_replay("each message would be received anew for each later one")
async def test_thousand_messages_of_one_sender_keep_their_order(admin, claimer, sessions):
    handle = await admin.enqueue(collecting, 1000)
    for n in range(300):
        await handle.send(PAID, n)
    async with sessions() as session, session.begin():
        for n in range(300, 700):
            await admin.options(session=session).send(handle.id, PAID, n)
    await admin.run(sending, handle.id, *range(700, 1000))
    assert await claimer.run(collecting) == list(range(1000))


@workflow
async def sending_at_once(ctx: PyWorkflow, receiver: int, count: int) -> None:
    await asyncio.gather(*(ctx.send(receiver, PAID, each) for each in range(count)))


@pytest.mark.unfaulted("a thousand messages")
@pytest.mark.without_replay("each message would be received anew for each later one")
@pytest.mark.parametrize("sender", ["handle", "keys", "workflow"])
async def test_messages_that_are_sent_at_once_keep_their_order(admin, claimer, sender):
    count = 100 if sender == "workflow" else 1000
    handle = await admin.enqueue(collecting, count)
    async with no_hang():
        if sender == "workflow":
            await admin.run(sending_at_once, handle.id, count)
        else:
            keys = [f"{each % 7} {each}" if sender == "keys" and each % 2 else None for each in range(count)]
            await asyncio.gather(*(handle.send(PAID, n, key=key) for n, key in enumerate(keys)))
        assert await claimer.run(collecting) == list(range(count))


async def test_two_tasks_on_one_topic_receive_each_message_once(admin, claimer, sql):
    @workflow
    async def racing(ctx: PyWorkflow) -> list:
        return await asyncio.gather(*(ctx.receive(PAID, id=f"{n}") for n in range(5)))

    handle = await admin.options(key="r").enqueue(racing)
    task = asyncio.create_task(admin.options(key="r").run(racing))
    await asyncio.gather(*(handle.send(PAID, n) for n in range(5)))
    async with no_hang():
        assert sorted(await task) == [0, 1, 2, 3, 4]
    assert await unread(sql) == []


async def test_parked_tasks_on_one_topic_receive_each_message_once(admin, claimer, sql):
    @workflow
    async def racing(ctx: PyWorkflow) -> list:
        return await asyncio.gather(*(ctx.receive(PAID, id=f"{n}") for n in range(3)))

    handle = await admin.enqueue(racing)
    await claimer.park(racing)
    for n in range(3):
        await handle.send(PAID, n)
        if n < 2:
            await claimer.park(racing)
            assert len(await waits(sql)) == 2 - n
    assert sorted(await claimer.run(racing)) == [0, 1, 2]


async def test_two_tasks_wait_for_different_topics(admin, claimer, sql):
    @workflow
    async def two(ctx: PyWorkflow) -> list:
        return await asyncio.gather(ctx.receive("a"), ctx.receive("b", timeout=3600))

    handle = await admin.enqueue(two)
    await claimer.park(two)
    assert await waits(sql) == [f"m/{handle.id}/a", f"m/{handle.id}/b"]
    await handle.send("b", 2)
    await claimer.park(two)  # it has an outcome, and still waits for the other one
    assert await waits(sql) == [f"m/{handle.id}/a"]
    await handle.send("a", 1)
    assert await claimer.run(two) == [1, 2]


async def test_stale_run_receives_no_message(admin, sql):
    """Another executor has started the workflow meanwhile; the message is the new run's."""
    handle, task = await waiting_in_place(admin, paying)
    await sql.execute("UPDATE pgqrs_workflows SET claim = claim + 1, epoch = epoch + 1")
    await handle.send(PAID, 7)
    async with no_hang():
        with pytest.raises(WorkflowFencedError):
            await task
    assert await unread(sql) == [7]


async def test_replay_receives_the_recorded_messages(admin, claimer):
    seen = []

    @workflow
    async def twice(ctx: PyWorkflow) -> list:
        seen.append([await ctx.receive(PAID), await ctx.receive(PAID)])
        if len(seen) == 1:
            raise ValueError
        return seen

    ctx = await admin.create_workflow("twice")
    for n in range(3):
        await admin.send(ctx.id(), PAID, n)
    with pytest.raises(ValueError):
        await twice(ctx)
    await twice(ctx)
    assert all(each == [0, 1] for each in seen)
    assert len(seen) >= 2


async def test_interrupted_wait_leaves_the_message(admin, sql):
    """The task of the wait is cancelled, the workflow goes on, and receives the message later."""

    @workflow
    async def impatient(ctx: PyWorkflow) -> int:
        await cancel_task(asyncio.create_task(ctx.receive(PAID, id="first")))
        await note(ctx, "gave up")
        return await ctx.receive(PAID, id="second")

    handle, task = await waiting_in_place(admin, impatient)
    await handle.send(PAID, 7)
    async with no_hang():
        assert await task == 7
    assert not await is_recorded(admin, handle.id, "receive/first")


async def test_changed_topic_is_a_mismatch_in_a_strict_workflow(admin):
    topics = ["a", "b"]

    @workflow(strict=True)
    async def changed(ctx: PyWorkflow) -> None:
        await ctx.receive(topics[0], id="payment")
        if topics[0] == "a":
            raise Killed

    ctx = await admin.create_workflow("changed")
    await admin.send(ctx.id(), "a", 1)
    with pytest.raises(Killed):
        await changed(ctx)
    topics.pop(0)
    with pytest.raises(StepMismatchError):
        await changed(ctx)


# --- the end of a wait from outside ---


@pytest.mark.parametrize("how", ["cancel", "resume", "start", "deadline"])
async def test_end_of_a_parked_wait_leaves_no_wait(admin, claimer, sql, how):
    handle = await admin.options(timeout=3600).enqueue(paying)
    await claimer.park(paying)
    assert len(await waits(sql)) == 1
    match how:
        case "cancel":
            await handle.cancel()
        case "resume":
            await handle.cancel()
            await admin.resume_workflow(handle.id)
        case "start":
            await (await admin.get_workflow(handle.id)).start()
        case "deadline":
            await sql.execute("UPDATE pgqrs_workflows SET deadline = now(), due_at = now()")
            await until(is_timed_out, claimer, handle)
    assert await waits(sql) == []
    await admin.verify(deep=True)


async def is_timed_out(claimer, handle):
    await claimer._watch.run_maintenance(["paying"], ["default"])
    return await handle.status() == "ERROR"


async def test_parked_workflow_goes_on_by_hand(admin, claimer, sql):
    handle = await admin.enqueue(paying)
    await claimer.park(paying)
    ctx = await admin.get_workflow(handle.id)
    task = asyncio.create_task(paying(ctx))
    await until(has_subscribed, admin)
    assert await waits(sql) == []
    await handle.send(PAID, 7)
    async with no_hang():
        assert await task == ["before", 7]


async def test_cancelled_workflow_can_be_resumed_and_receives(admin, claimer):
    handle = await admin.enqueue(paying)
    await claimer.park(paying)
    await handle.cancel()
    with pytest.raises(WorkflowCancelledError):
        await handle.result()
    await admin.resume_workflow(handle.id)
    await claimer.park(paying)
    await handle.send(PAID, 7)
    assert await claimer.run(paying) == ["before", 7]


@pytest.mark.parametrize("interrupt", [False, True])
async def test_cancellation_ends_a_wait_in_place(admin, sql, interrupt):
    handle, task = await waiting_in_place(admin, paying)
    await handle.cancel(interrupt=interrupt)
    async with no_hang():
        with pytest.raises(WorkflowCancelledError):
            await task
    assert await has_subscribed(admin) == {}
    with pytest.raises(WorkflowFinishedError):
        await handle.send(PAID, 7)


async def test_deadline_ends_a_wait_in_place(admin):
    @workflow(timeout=0.2)
    async def limited(ctx: PyWorkflow) -> int:
        return await ctx.receive(PAID)

    async with no_hang():
        with pytest.raises(WorkflowTimeoutError):
            await admin.run(limited)


async def test_workflow_that_waits_can_end_another_wait(admin):
    """The end of the function ends what its tasks wait for."""

    @workflow
    async def leaving(ctx: PyWorkflow) -> str:
        task = asyncio.create_task(ctx.receive("never", id="never"))
        answer = await ctx.receive(PAID)
        task.cancel()
        return f"paid {answer}"

    handle, task = await waiting_in_place(admin, leaving)
    await handle.send(PAID, 7)
    async with no_hang():
        assert await task == "paid 7"
    assert await has_subscribed(admin) == {}


# --- timeouts of the machine's clock; those of a clock that is moved are at the end ---


async def test_timeout_in_place_is_recorded(admin):
    seen = []

    @workflow
    async def impatient(ctx: PyWorkflow) -> str:
        with pytest.raises(WaitTimeoutError) as timed_out:
            await ctx.receive(PAID, timeout=0.1)
        seen.append(timed_out.value)
        if len(seen) == 1:
            await admin.send(ctx.id(), PAID, 7)  # too late
            raise Killed
        return await ctx.receive(PAID)

    ctx = await admin.create_workflow("impatient")
    with pytest.raises(Killed):
        await impatient(ctx)
    async with no_hang():
        assert await impatient(ctx) == 7
    assert isinstance(seen[0], TimeoutError)
    assert {each.step_id for each in seen} == {"receive/paid:1"}


@pytest.mark.parametrize("default", [None, 0, "late", [1]])
async def test_default_stands_for_a_timeout(admin, default):
    @workflow
    async def patient(ctx: PyWorkflow) -> list:
        return [
            await ctx.receive(PAID, timeout=0.05, default=default),
            await ctx.receive(PAID, timeout=0, default=1),
        ]

    assert await admin.run(patient) == [default, 1]


@pytest.mark.parametrize("timeout", [0, -5, 0.2, 3600])
async def test_message_that_is_there_wins_over_the_timeout(admin, timeout):
    @workflow
    async def prompt(ctx: PyWorkflow) -> int:
        return await ctx.receive(PAID, timeout=timeout)

    handle = await admin.options(key="p").enqueue(prompt)
    await handle.send(PAID, 7)
    assert await admin.options(key="p").run(prompt) == 7


async def test_payload_none_is_not_a_timeout(admin, claimer):
    @workflow
    async def nothing(ctx: PyWorkflow) -> list:
        return [await ctx.receive("t", timeout=3600, default="late") for _ in range(3)]

    handle = await admin.enqueue(nothing)
    await handle.send("t", None)
    await claimer.park(nothing)
    await handle.send("t", None)
    await claimer.park(nothing)
    await handle.send("t", 1)
    assert await claimer.run(nothing) == [None, None, 1]


async def test_wait_shows_as_running_without_an_outcome(admin, claimer):
    @workflow
    async def patient(ctx: PyWorkflow) -> None:
        await ctx.receive(PAID, timeout=3600)

    handle = await admin.enqueue(patient)
    await claimer.park(patient)
    (wait,) = await handle.steps()
    assert (wait.step_id, wait.status, wait.output, wait.error) == ("receive/paid:1", "RUNNING", None, None)


# --- timeouts of a clock that is moved ---


@workflow
async def three_days(ctx: PyWorkflow) -> str:
    """Wait three days for a payment."""
    try:
        return f"paid {await ctx.receive(PAID, timeout=timedelta(days=3))}"
    except WaitTimeoutError:
        return f"late, {await ctx.receive(PAID, timeout=1, default='never paid')}"


async def test_timeout_of_days_ends_in_place(kit, clock):
    task = asyncio.create_task(kit.run(three_days))
    await until(is_recorded, kit, 1, "receive/paid:1")
    await clock.advance(days=2, hours=23)
    assert not task.done()
    async with no_hang(), clock.skipping():
        assert await task == "late, never paid"
    assert clock.ahead < timedelta(days=3, minutes=1)


async def test_timeout_of_days_ends_a_parked_wait(kit, clock):
    async with no_hang(), Worker(kit, [three_days]), clock.skipping():
        handle = await kit.enqueue(three_days)
        assert await handle.result() == "late, never paid"
    assert timedelta(days=3) < clock.ahead < timedelta(days=3, minutes=1)
    (first, *_) = await handle.steps()
    assert first.error["type"] == "WaitTimeoutError"
    await kit.verify(deep=True)


@pytest.mark.parametrize("parks", [True, False], ids=["parked", "in place"])
async def test_restart_does_not_extend_a_timeout(kit, clock, parks):
    """The time counts from the first call, whatever takes the run over meanwhile."""
    handle = await kit.options(key="k").enqueue(three_days)
    async with no_hang():
        for day in (1, 2):
            if parks:
                async with Worker(kit, [three_days]):
                    await until(is_waiting, handle)
                await kit.handle(handle.id).cancel()
                await kit.resume_workflow(handle.id)
            else:
                task = asyncio.create_task(kit.options(key="k").run(three_days))
                await until(is_recorded, kit, handle.id, "receive/paid:1")
                await until(has_subscribed, kit)
                await cancel_task(task)
            await clock.advance(days=1)
            assert clock.ahead >= timedelta(days=day)
        async with Worker(kit, [three_days]), clock.skipping():
            assert await handle.result() == "late, never paid"
    assert clock.ahead < timedelta(days=3, minutes=1)


async def test_message_of_the_last_second_is_received(kit, clock):
    async with no_hang(), Worker(kit, [three_days]):
        handle = await kit.enqueue(three_days)
        await until(is_waiting, handle)
        await clock.advance(days=2, hours=23)
        await handle.send(PAID, 7)
        assert await handle.result() == "paid 7"


@pytest.mark.parametrize("first", ["message", "timeout"])
async def test_message_and_timeout_at_once_give_one_outcome(kit, clock, first):
    """Whichever wins is recorded, and a message that lost is there for the next receive."""
    outcomes = set()
    async with no_hang():
        for _ in range(5):
            async with Worker(kit, [three_days]):
                handle = await kit.enqueue(three_days)
                await until(is_waiting, handle)
                moves = [clock.advance(days=3), handle.send(PAID, 7)]
                await asyncio.gather(*(moves if first == "timeout" else reversed(moves)))
                outcomes.add(await handle.result())
    assert outcomes <= {"paid 7", "late, 7"}
    await kit.verify(deep=True)


async def test_replay_after_a_timeout_times_out_again(kit, clock):
    seen = []

    @workflow
    async def replayed(ctx: PyWorkflow) -> None:
        try:
            seen.append(await ctx.receive(PAID, timeout=timedelta(days=1)))
        except WaitTimeoutError as error:
            seen.append(error)
        await ctx.receive("go on")

    async with no_hang(), Worker(kit, [replayed]):
        handle = await kit.enqueue(replayed)
        await until(is_waiting, handle)
        await clock.advance(days=1)
        await until(lambda: seen)
        await handle.send(PAID, 7)
        await until(is_waiting, handle)
        await handle.send("go on", None)
        await handle.result()
    assert len(seen) >= 2
    assert all(isinstance(each, WaitTimeoutError) for each in seen)
    assert {each.timeout for each in seen} == {86400.0}


async def test_skipping_clock_waits_for_no_message(kit, clock):
    """Time is not skipped while nothing but a message can end the wait."""
    async with no_hang(), Worker(kit, [collecting]), clock.skipping():
        handle = await kit.enqueue(collecting, 1)
        await until(is_waiting, handle)
        await asyncio.sleep(0.2)
        await handle.send(PAID, 7)
        assert await handle.result() == [7]
    assert clock.ahead < timedelta(minutes=1)
