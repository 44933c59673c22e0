"""Updates: a request to a workflow is received once, answered once, and its reply is there for its key."""

from __future__ import annotations

import asyncio
import base64
import json
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
from pydantic import BaseModel

from examples.updates import CLOSE, GRANT, budget
from pgqrs import (
    Admin,
    CodecMismatchError,
    ConfigurationError,
    InvalidNameError,
    PyWorkflow,
    Receive,
    RequestAnsweredError,
    SerializationError,
    Sleep,
    Topic,
    TransientError,
    Update,
    UpdateRefusedError,
    UpdateTimeoutError,
    WaitTimeoutError,
    Worker,
    WorkflowCancelledError,
    WorkflowFencedError,
    WorkflowFinishedError,
    WorkflowNotFoundError,
    step,
    workflow,
)
from pgqrs.codecs import FernetCodec, JsonCodec, PydanticCodec
from tests.support.waiting import no_hang, until
from tests.support.workflows import Gate, HeldRecord, Killed, cancel_task, note

KEY = base64.urlsafe_b64encode(b"k" * 32)
ADD = Update("add", int, int)
STOP = Topic("stop", str)


@workflow
async def counter(ctx: PyWorkflow, most: int = 100) -> list:
    """Add each number of a request, refuse what is too much, and return what was asked until it is told to stop."""
    total, asked = 0, []
    while True:
        what, request = await ctx.select(add=Receive(ADD), stop=Receive(STOP))
        if what == "stop":
            return asked
        asked.append(request.value)
        if total + request.value > most:
            await request.refuse(f"at most {most}")
        else:
            total += request.value
            await request.reply(total)


@workflow
async def deaf(ctx: PyWorkflow, end: str = "SUCCESS") -> None:
    """Receive one request, do not answer it, and end as it is told to."""
    await ctx.receive(ADD, timeout=0, default=None)
    await ctx.receive(STOP)
    if end == "ERROR":
        raise ValueError(end)


async def is_waiting(handle):
    return await handle.status() == "WAITING"


async def messages(sql, kind):
    """Return the keys of the requests (u) or of the replies (r), in the order of their sending."""
    rows = await sql.fetch("SELECT key FROM pgqrs_messages WHERE address LIKE $1 ORDER BY id", f"{kind}/%")
    return [row["key"] for row in rows]


async def asked(sql, count=1):
    return len(await messages(sql, "u")) >= count


async def count_waiting(admin, count):
    """Tell whether so many callers wait for replies."""
    return sum(map(len, (await admin.loop_state()).replies._waiting.values())) >= count


# --- requests and replies ---


async def test_workflow_replies_and_refuses(admin, sql):
    async with no_hang(), Worker(admin, [counter]):
        handle = await admin.enqueue(counter)
        assert await handle.update(ADD, 5, timeout=30) == 5
        assert await admin.update(handle.id, ADD, 7) == 12
        with pytest.raises(UpdateRefusedError, match="at most 100") as refused:
            await admin.options().update(handle.id, ADD, 89)
        error = refused.value
        assert (error.workflow_id, error.update, error.reason) == (handle.id, "add", "at most 100")
        await handle.send(STOP, "")
        assert await handle.result() == [5, 7, 89]
    steps = {each.step_id: each.output for each in await handle.steps()}
    assert steps == {
        "select/add,stop:1": 5,
        "select/add,stop:1/answer": "select/add,stop:1/reply:1",
        "select/add,stop:2": 7,
        "select/add,stop:2/answer": "select/add,stop:2/reply:1",
        "select/add,stop:3": 89,
        "select/add,stop:3/answer": "select/add,stop:3/refuse:1",
        "select/add,stop:4": "",
    }
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_messages WHERE is_new OR taken_at IS NULL") == 0


async def test_request_before_the_first_run_is_answered(admin, claimer, sql):
    handle = await admin.enqueue(counter)
    asking = asyncio.create_task(handle.update(ADD, 5))
    await until(asked, sql)
    await claimer.park(counter)
    async with no_hang():
        assert await asking == 5


async def test_request_wakes_a_parked_workflow(dsn, admin, claimer):
    """Another worker's delivery is announced; here the test delivers, and nothing but the request wakes it."""
    handle = await admin.enqueue(counter)
    await claimer.park(counter)
    async with Admin(dsn, admin.schema) as other, no_hang():
        asking = asyncio.create_task(other.update(handle.id, ADD, 5))
        await claimer.park(counter)
        assert await asking == 5


async def test_request_wakes_a_workflow_of_a_worker_at_once(dsn, admin):
    loop = asyncio.get_running_loop()
    took = []
    async with no_hang(), Admin(dsn, admin.schema) as other, Worker(admin, [counter]):
        handle = await admin.enqueue(counter)
        for n in range(9):
            await until(is_waiting, handle)
            began = loop.time()
            assert await other.update(handle.id, ADD, 1) == n + 1
            took.append(loop.time() - began)
    # Some 30 ms on a machine with nothing else to do; the tick and the longest pause of a poll are a second.
    assert sorted(took)[4] < 0.5, took


async def test_two_callers_are_answered_in_their_order(admin, claimer, sql):
    handle = await admin.enqueue(counter)
    callers = []
    for n in range(1, 11):
        callers.append(asyncio.create_task(handle.update(ADD, n)))
        await until(asked, sql, n)
    await handle.send(STOP, "")
    assert await claimer.run(counter) == list(range(1, 11))  # the other branch, which came later, does not win
    async with no_hang():
        assert await asyncio.gather(*callers) == [n * (n + 1) // 2 for n in range(1, 11)]


async def test_receive_takes_requests_and_a_topic_of_the_name(admin):
    """An update and a topic of one name are apart."""

    @workflow
    async def both(ctx: PyWorkflow) -> list:
        request = await ctx.receive(ADD)
        await request.reply(1)
        return [request.value, request.key, await ctx.receive("add")]

    handle = await admin.options(key="b").enqueue(both)
    await handle.send("add", "a message")
    task = asyncio.create_task(admin.options(key="b").run(both))
    async with no_hang():
        assert await handle.update(ADD, 5, key="click 1") == 1
        assert await task == [5, "click 1", "a message"]


async def test_receive_of_a_request_times_out(admin):
    @workflow
    async def impatient(ctx: PyWorkflow) -> str:
        with pytest.raises(WaitTimeoutError):
            await ctx.receive(ADD, timeout=0.01)
        assert await ctx.receive(ADD, timeout=0.01, default=None) is None
        what, request = await ctx.select(add=Receive(ADD), late=Sleep(0.01))
        assert request is None
        return what

    assert await admin.run(impatient) == "late"


async def test_request_has_a_readable_repr(admin):
    @workflow
    async def shown(ctx: PyWorkflow) -> list:
        request = await ctx.receive(ADD)
        return [repr(request), request.key]

    handle = await admin.options(key="s").enqueue(shown)
    task = asyncio.create_task(handle.update(ADD, 5))
    async with no_hang():
        assert await admin.options(key="s").run(shown) == ["<Request of step 'receive/add:1'>", None]
        with pytest.raises(WorkflowFinishedError):
            await task
    assert repr(ADD) == "Update('add')"


# --- keys ---


async def test_key_asks_again_from_any_process(dsn, admin, sql):
    async with no_hang(), Admin(dsn, admin.schema) as other, Worker(admin, [counter]):
        handle = await admin.enqueue(counter)
        calls = [each.update(handle.id, ADD, 5, key="k") for each in (admin, other) for _ in range(5)]
        assert await asyncio.gather(*calls) == [5] * 10
        assert await other.update(handle.id, ADD, 5, key="another") == 10
        with pytest.raises(UpdateRefusedError):
            await other.update(handle.id, ADD, 100, key="too much")
        await handle.send(STOP, "")
        assert await handle.result() == [5, 5, 100]
        # After the end, too, and whatever the value is now.
        assert await other.update(handle.id, ADD, 6, key="k") == 5
        with pytest.raises(UpdateRefusedError, match="at most"):
            await admin.update(handle.id, ADD, 0, key="too much")
        with pytest.raises(WorkflowFinishedError):
            await admin.update(handle.id, ADD, 5, key="new")
    assert await messages(sql, "u") == ["k", "another", "too much"] == await messages(sql, "r")


async def test_timeout_of_the_caller_leaves_the_request(admin, claimer, sql):
    handle = await admin.enqueue(counter)
    with pytest.raises(UpdateTimeoutError, match=r"the same key, 'k'\.") as late:
        await handle.update(ADD, 5, timeout=0.05, key="k")
    error = late.value
    assert isinstance(error, TimeoutError)
    assert (error.workflow_id, error.update, error.key, error.timeout) == (handle.id, "add", "k", 0.05)
    with pytest.raises(UpdateTimeoutError, match="Pass a key"):
        await handle.update(ADD, 7, timeout=0.05)
    assert len((await admin.loop_state()).replies._waiting) == 0
    await claimer.park(counter)
    async with no_hang():
        assert await handle.update(ADD, 5, key="k") == 5
    assert len(await messages(sql, "u")) == 2


async def test_cancelled_caller_leaves_the_request(admin, claimer, sql):
    handle = await admin.enqueue(counter)
    caller = asyncio.create_task(handle.update(ADD, 5, key="k"))
    await until(count_waiting, admin, 1)
    await cancel_task(caller)
    await claimer.park(counter)
    async with no_hang():
        assert await handle.update(ADD, 5, key="k") == 5


ASKER = """
import asyncio, os, sys
from pgqrs import Admin, Update

async def main():
    async with Admin(os.environ["PGQRS_DSN"], os.environ["PGQRS_SCHEMA"]) as admin:
        await admin.update(int(sys.argv[1]), Update("add", int, int), 5, key="k")

asyncio.run(main())
"""


async def test_reply_outlives_the_process_that_has_asked(admin, claimer, sql, program):
    handle = await admin.enqueue(counter)
    process = program(ASKER, str(handle.id))
    await until(asked, sql)
    process.kill()
    await claimer.park(counter)
    async with no_hang():
        assert await handle.update(ADD, 5, key="k") == 5
    assert await messages(sql, "r") == ["k"]


async def test_callers_in_two_event_loops_are_answered(admin, dsn):
    async with no_hang(), Worker(admin, [counter]):
        handle = await admin.enqueue(counter)

        async def elsewhere():
            async with admin:
                return await admin.update(handle.id, ADD, 5, key="k", timeout=30)

        there = asyncio.to_thread(asyncio.run, elsewhere())
        assert await asyncio.gather(handle.update(ADD, 5, key="k", timeout=30), there) == [5, 5]


@pytest.mark.parametrize("key", ["", "a\0b", "\ud800", 5], ids=ascii)
async def test_key_that_cannot_be_stored_is_refused(admin, sql, key):
    handle = await admin.enqueue(counter)
    with pytest.raises((InvalidNameError, TypeError)):
        await handle.update(ADD, 5, key=key)
    assert await messages(sql, "u") == []


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), "1"])
async def test_invalid_timeout_of_a_caller_is_refused(admin, sql, timeout):
    handle = await admin.enqueue(counter)
    with pytest.raises((ConfigurationError, TypeError)):
        await handle.update(ADD, 5, timeout=timeout)
    assert await messages(sql, "u") == []


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 513, 5, None], ids=ascii)
async def test_update_that_cannot_be_stored_is_refused(name):
    with pytest.raises(InvalidNameError):
        Update(name)


@pytest.mark.parametrize("name", ["50% off", "two\nlines", "a/b", ', "value": ', "ünï ☃"], ids=ascii)
async def test_any_name_and_key_carry_a_request(admin, name):
    of = Update(name, str, str)

    @workflow
    async def echo(ctx: PyWorkflow) -> str:
        request = await ctx.receive(of)
        await request.reply(f"{request.key}: {request.value}")
        return request.key

    handle = await admin.options(key="e").enqueue(echo)
    task = asyncio.create_task(admin.options(key="e").run(echo))
    async with no_hang():
        assert await handle.update(of, ', "value": {}', key=name) == f'{name}: , "value": {{}}'
        assert await task == name


# --- values ---


class Approval(BaseModel):
    by: str
    cents: Decimal


class Receipt(BaseModel):
    total: Decimal


CODECS = {
    "json": (JsonCodec(), dict, {"by": "ada", "cents": "0.10"}, dict, {"total": "0.30"}),
    "pydantic": (PydanticCodec(), Approval, Approval(by="ada", cents="0.10"), Receipt, Receipt(total="0.30")),
    "fernet": (FernetCodec([KEY]), dict, {"by": "ada", "cents": "0.10"}, dict, {"total": "0.30"}),
    "fernet of pydantic": (
        FernetCodec([KEY], PydanticCodec()),
        Approval,
        Approval(by="ada", cents="0.10"),
        Receipt,
        Receipt(total="0.30"),
    ),
}


@pytest.mark.parametrize("name", CODECS)
async def test_typed_values_arrive_as_they_were_sent(dsn, admin, sql, name):
    codec, of_request, given, of_reply, answer = CODECS[name]
    approve = Update("approve", of_request, of_reply)
    seen = []

    @workflow
    async def approving(ctx: PyWorkflow) -> bool:
        for _ in range(2):
            request = await ctx.receive(approve)
            seen.append(request.value)
            await request.reply(answer)
        await (await ctx.receive(approve)).refuse("0.30 is enough")
        return True

    async with Admin(dsn, admin.schema, codec=codec) as own, Worker(own, [approving]), no_hang():
        handle = await own.enqueue(approving)
        for n in range(2):  # the second request finds it parked
            reply = await handle.update(approve, given, key=f"{n}")
            assert (type(reply), reply) == (of_reply, answer)
            await until(is_waiting, handle)
        with pytest.raises(UpdateRefusedError, match="is enough"):
            await handle.update(approve, given)
        assert await handle.result()
        shown = [each.output for each in await handle.steps() if each.step_id == "receive/approve:1"]
        stored = [row["payload"] for row in await sql.fetch("SELECT payload FROM pgqrs_messages")]
    assert all(each == given and type(each) is of_request for each in seen)
    assert json.loads(JsonCodec().encode(shown[0]).text) == {"by": "ada", "cents": "0.10"}
    assert len(stored) == 6
    assert any("0.10" in each or "0.30" in each for each in stored) is (not name.startswith("fernet"))


async def test_bad_value_never_reaches_the_workflow(dsn, admin, sql):
    approve = Update("approve", Approval, Receipt)
    async with Admin(dsn, admin.schema, codec=PydanticCodec()) as own:
        handle = await own.enqueue(counter)
        submit = own.options(key="new").with_start(counter)
        for bad in ("ada", {"by": 5}, None, Receipt(total=1)):
            with pytest.raises(SerializationError):
                await handle.update(approve, bad)
            with pytest.raises(SerializationError):
                await submit.update(approve, bad)
        assert await messages(sql, "u") == []
        assert [each.id for each in await own.list_workflows()] == [handle.id]
    with pytest.raises(SerializationError):
        await admin.update((await admin.enqueue(counter)).id, ADD, object())


async def test_bad_reply_leaves_the_request_unanswered(admin):
    """The error is the same in a replay, and another reply can follow."""
    seen, killed = [], []

    @workflow
    async def clumsy(ctx: PyWorkflow) -> str:
        request = await ctx.receive(ADD)
        try:
            await request.reply(object())
        except SerializationError as error:
            seen.append(error)
        with pytest.raises(TypeError):
            await request.refuse(5)
        await request.reply(7)
        if not killed:
            killed.append(True)
            raise Killed
        return await note(ctx, "replied")

    ctx = await admin.create_workflow("clumsy")
    caller = asyncio.create_task(admin.update(ctx.id(), ADD, 5))
    with pytest.raises(Killed):
        await clumsy(ctx)
    assert await clumsy(ctx) == "replied"
    async with no_hang():
        assert await caller == 7
    assert len(seen) >= 2


async def test_plain_update_serves_any_codec(dsn, admin, sql):
    plain = Update("plain", dict, list, is_plain=True)

    @workflow
    async def reading(ctx: PyWorkflow) -> dict:
        request = await ctx.receive(plain)
        await request.reply([request.value])
        return request.value

    async with Admin(dsn, admin.schema, codec=FernetCodec([KEY])) as own:
        handle = await own.options(key="p").enqueue(reading)
        task = asyncio.create_task(own.options(key="p").run(reading))
        async with no_hang():
            assert await admin.update(handle.id, plain, {"n": 1}) == [{"n": 1}]
            assert await task == {"n": 1}
    stored = await sql.fetch("SELECT payload FROM pgqrs_messages ORDER BY id")
    assert [json.loads(row["payload"])["value"] for row in stored] == [{"n": 1}, [{"n": 1}]]


async def test_caller_with_another_codec_is_refused(dsn, admin, sql):
    handle = await admin.enqueue(counter)
    async with Admin(dsn, admin.schema, codec=PydanticCodec()) as other:
        with pytest.raises(CodecMismatchError, match="pydantic"):
            await other.update(handle.id, ADD, 7)
    async with Admin(dsn, admin.schema, codec=FernetCodec([KEY])) as sealing:
        sealed = await sealing.enqueue(counter)
        with pytest.raises(CodecMismatchError, match="fernet"):
            await admin.update(sealed.id, ADD, 7)
    assert await messages(sql, "u") == []


async def test_sealed_reply_does_not_fit_another_request(dsn, admin, sql):
    """Whoever can write into the tables cannot move a reply from one request to another."""
    async with no_hang(), Admin(dsn, admin.schema, codec=FernetCodec([KEY])) as own, Worker(own, [counter]):
        handle = await own.enqueue(counter)
        assert [await handle.update(ADD, 1, key=each) for each in ("a", "b")] == [1, 2]
        await sql.execute(
            "UPDATE pgqrs_messages SET payload ="
            " (SELECT payload FROM pgqrs_messages WHERE address LIKE 'r/%' AND key = 'a')"
            " WHERE address LIKE 'r/%' AND key = 'b'"
        )
        with pytest.raises(SerializationError):
            await handle.update(ADD, 1, key="b")


@pytest.mark.plants_rows
@pytest.mark.parametrize("payload", ["5", "[]", "{}", '{"key": "k", "value": 5}', '{"key": 5, "is_kept": true}'])
async def test_request_of_another_program_is_an_error(admin, sql, payload):
    handle = await admin.options(key="c").enqueue(counter)
    await sql.execute(
        "INSERT INTO pgqrs_messages (workflow_id, address, key, payload) VALUES ($1::bigint, $2, 'k', $3)",
        handle.id,
        f"u/{handle.id}/add",
        payload,
    )
    with pytest.raises(SerializationError, match="written by another program"):
        await admin.options(key="c").run(counter)


# --- the end of the workflow ---


@pytest.mark.unfaulted("a hundred callers")
@pytest.mark.parametrize("end", ["SUCCESS", "ERROR", "CANCELLED"])
async def test_end_of_the_workflow_answers_all_callers(dsn, admin, end):
    async with no_hang(), Admin(dsn, admin.schema) as other, Worker(admin, [deaf]):
        handle = await admin.enqueue(deaf, end)
        own = [asyncio.create_task(handle.update(ADD, n)) for n in range(50)]
        others = [asyncio.create_task(other.update(handle.id, ADD, n)) for n in range(50)]
        await until(count_waiting, admin, 50)
        await until(count_waiting, other, 50)
        await (handle.cancel() if end == "CANCELLED" else handle.send(STOP, ""))
        answers = await asyncio.gather(*own, *others, return_exceptions=True)
    assert {(type(each), each.workflow_id, str(each.status)) for each in answers} == {
        (WorkflowFinishedError, handle.id, end)
    }


async def test_resumed_workflow_answers_the_request(admin, claimer, sql):
    @workflow
    async def failing(ctx: PyWorkflow) -> int:
        if await note(ctx, "before") and not fixed:
            raise ValueError
        request = await ctx.receive(ADD)
        await request.reply(2 * request.value)
        return request.value

    fixed = []
    handle = await admin.enqueue(failing)
    caller = asyncio.create_task(handle.update(ADD, 5, key="k"))
    await until(asked, sql)
    with pytest.raises(ValueError):
        await claimer.run(failing)
    async with no_hang():
        for asking in (caller, handle.update(ADD, 5, key="k")):
            with pytest.raises(WorkflowFinishedError, match="ERROR"):
                await asking
        fixed.append(True)
        await admin.resume_workflow(handle.id)
        again = asyncio.create_task(handle.update(ADD, 5, key="k"))
        assert await claimer.run(failing) == 5
        assert await again == 10
    assert await messages(sql, "u") == ["k"]


async def test_unanswered_request_of_a_live_workflow_times_out(admin):
    async with no_hang(), Worker(admin, [deaf]):
        handle = await admin.enqueue(deaf)
        await until(is_waiting, handle)
        with pytest.raises(UpdateTimeoutError):
            await handle.update(ADD, 5, timeout=0.2)


async def test_unknown_workflow_is_not_asked(admin):
    for workflow_id in (99, 2**62):
        with pytest.raises(WorkflowNotFoundError):
            await admin.update(workflow_id, ADD, 5)


@pytest.mark.parametrize("what", ["deleted", "replaced"])
async def test_caller_learns_that_the_workflow_is_gone(admin, sql, what):
    handle = await admin.enqueue(counter)
    caller = asyncio.create_task(handle.update(ADD, 5))
    await until(count_waiting, admin, 1)
    if what == "deleted":
        await sql.execute("DELETE FROM pgqrs_workflows")
    else:
        await sql.execute("UPDATE pgqrs_workflows SET token = token + 1")
    async with no_hang():
        with pytest.raises(WorkflowNotFoundError):
            await caller


async def test_loss_of_one_workflow_fails_no_other_caller(admin, claimer, sql):
    """The poller is told of the lost workflow again before its caller has ended."""
    lost = await admin.enqueue(deaf)
    handle = await admin.enqueue(counter)
    callers = [asyncio.create_task(each.update(ADD, 5)) for each in (lost, handle)]
    await until(count_waiting, admin, 2)
    await sql.execute("UPDATE pgqrs_workflows SET token = token + 1 WHERE id = $1", lost.id)
    replies = (await admin.loop_state()).replies
    async with no_hang():
        while not callers[0].done():
            replies.notify(lost.id)
            await asyncio.sleep(0)
        with pytest.raises(WorkflowNotFoundError):
            await callers[0]
        await claimer.park(counter)
        assert await callers[1] == 5


async def test_closed_admin_ends_the_wait(dsn, admin):
    handle = await admin.enqueue(counter)
    async with Admin(dsn, admin.schema) as other:
        caller = asyncio.create_task(other.update(handle.id, ADD, 5))
        await until(count_waiting, other, 1)
        await other.close()
        with pytest.raises(Exception, match="call `update` again"):
            await caller


# --- one answer ---


@pytest.mark.parametrize("first", ["reply", "refuse"])
@pytest.mark.parametrize("second", ["reply", "refuse"])
@pytest.mark.parametrize("where", ["body", "step"])
async def test_second_answer_is_an_error_and_changes_nothing(admin, sql, first, second, where):
    async def answer(request, how):
        await (request.reply(7) if how == "reply" else request.refuse("no"))

    @step
    async def answering(ctx: PyWorkflow, request, how: str) -> str:
        await answer(request, how)
        return how

    killed = []

    @workflow
    async def twice(ctx: PyWorkflow) -> str:
        request = await ctx.receive(ADD)
        await answer(request, first)
        with pytest.raises(RequestAnsweredError, match="already answered") as refused:
            await (answering(ctx, request, second) if where == "step" else answer(request, second))
        assert refused.value.workflow_id == ctx.id()
        assert refused.value.step_id in {"receive/add:1", "answering"}  # a replayed error is that of its step
        if not killed:
            killed.append(True)
            raise Killed
        return await note(ctx, "after")

    ctx = await admin.create_workflow("twice")
    caller = asyncio.create_task(admin.update(ctx.id(), ADD, 5))
    async with no_hang():
        with pytest.raises(Killed):
            await twice(ctx)
        assert await twice(ctx) == "after"
        if first == "reply":
            assert await caller == 7
        else:
            with pytest.raises(UpdateRefusedError):
                await caller
    assert len(await messages(sql, "r")) == 1


@pytest.mark.without_replay("the body would begin anew while the write of the reply is held")
async def test_answer_after_a_cancelled_one_is_a_second_answer(admin, sql):
    """The reply of the cancelled task is being written, so it is sent all the same."""
    held = HeldRecord("receive/add:1/answer")

    @workflow
    async def hasty(ctx: PyWorkflow) -> str:
        request = await ctx.receive(ADD)
        first = asyncio.create_task(request.reply(1))
        await held.gate.reached.wait()
        await cancel_task(first)
        held.gate.open()
        with pytest.raises(RequestAnsweredError):
            await request.reply(2)
        return "answered once"

    async with admin.twin(observer=held) as twin, no_hang():
        ctx = await twin.create_workflow("hasty")
        caller = asyncio.create_task(admin.update(ctx.id(), ADD, 5))
        assert await hasty(ctx) == "answered once"
        assert await caller == 1
    assert len(await messages(sql, "r")) == 1


async def test_retried_step_replays_its_reply(admin, sql):
    """The first attempt has replied, and fails; the second attempt does not reply again, and is no error."""
    attempts = []

    @step(retry=3)
    async def handle_one(ctx: PyWorkflow, request) -> int:
        attempts.append(request.value)
        await request.reply(len(attempts))
        if len(attempts) < 3:
            raise TransientError(retry_after=0)
        return len(attempts)

    @workflow
    async def handling(ctx: PyWorkflow) -> int:
        return await handle_one(ctx, await ctx.receive(ADD))

    ctx = await admin.create_workflow("handling")
    caller = asyncio.create_task(admin.update(ctx.id(), ADD, 5))
    async with no_hang():
        assert await handling(ctx) == 3
        assert await caller == 1
    assert len(await messages(sql, "r")) == 1


async def test_replay_answers_concurrent_requests_in_any_order(admin, sql):
    """Tasks answer the requests in one order, and in the replay in the other order."""
    killed = []

    @workflow
    async def concurrent(ctx: PyWorkflow) -> str:
        requests = [await ctx.receive(ADD) for _ in range(3)]
        ordered = reversed(requests) if killed else requests
        await asyncio.gather(*(each.reply(10 * each.value) for each in ordered))
        if not killed:
            killed.append(True)
            raise Killed
        return await note(ctx, "after")

    ctx = await admin.create_workflow("concurrent")
    callers = [asyncio.create_task(admin.update(ctx.id(), ADD, n)) for n in range(3)]
    async with no_hang():
        with pytest.raises(Killed):
            await concurrent(ctx)
        assert await concurrent(ctx) == "after"
        assert await asyncio.gather(*callers) == [0, 10, 20]
    assert len(await messages(sql, "r")) == 3


async def test_reply_of_a_stale_run_is_not_delivered(admin, sql):
    """Another executor has started the workflow between the request and the reply."""
    gate = Gate()
    slow = gate.step("slow")

    @workflow
    async def stale(ctx: PyWorkflow) -> str:
        request = await ctx.receive(ADD)
        await gate.stop()
        await request.reply(7)
        return await slow(ctx)

    handle = await admin.options(key="s").enqueue(stale)
    task = asyncio.create_task(admin.options(key="s").run(stale))
    caller = asyncio.create_task(handle.update(ADD, 5, key="k"))
    async with no_hang():
        await gate.reached.wait()
        await sql.execute("UPDATE pgqrs_workflows SET claim = claim + 1, epoch = epoch + 1")
        gate.open()
        with pytest.raises(WorkflowFencedError):
            await task
    assert await messages(sql, "r") == []
    await cancel_task(caller)


async def test_cancelled_workflow_sends_no_reply(admin, sql):
    gate = Gate()

    @workflow
    async def cancelled(ctx: PyWorkflow) -> None:
        request = await ctx.receive(ADD)
        await gate.stop()
        await request.reply(7)

    handle = await admin.options(key="c").enqueue(cancelled)
    task = asyncio.create_task(admin.options(key="c").run(cancelled))
    caller = asyncio.create_task(handle.update(ADD, 5))
    async with no_hang():
        await gate.reached.wait()
        await handle.cancel()
        gate.open()
        with pytest.raises(WorkflowFinishedError, match="CANCELLED"):
            await caller
        with pytest.raises(WorkflowCancelledError):
            await task
    assert await messages(sql, "r") == []


async def test_step_asks_another_workflow_once(admin):
    """The worker has one place, and runs the other workflow while the step waits for its reply."""

    @step
    async def ask(ctx: PyWorkflow, workflow_id: int, value: int) -> int:
        return await admin.update(workflow_id, ADD, value, key=f"{ctx.id()}", timeout=30)

    @workflow
    async def asking(ctx: PyWorkflow, workflow_id: int) -> list:
        refused = None
        try:
            await ask(ctx, workflow_id, 101)
        except UpdateRefusedError as error:
            refused = error.reason
        await note(ctx, "after")
        return [refused]

    asker = await admin.enqueue(asking, 2)
    other = await admin.enqueue(counter)
    assert other.id == 2
    async with no_hang(), Worker(admin, [counter, asking], concurrency=1):
        assert await asker.result() == ["at most 100"]
        await other.send(STOP, "")
        assert await other.result() == [101]


# --- the caller's transaction ---


async def test_update_in_a_session_is_refused(admin, app, sessions, sql):
    handle = await admin.enqueue(counter)
    async with sessions() as session, app.connect() as connection:
        for each in (session, connection):
            options = admin.options(session=each, key="k")
            with pytest.raises(ConfigurationError, match="cannot come before you commit"):
                await options.update(handle.id, ADD, 5)
            with pytest.raises(ConfigurationError, match="cannot come before you commit"):
                options.with_start(counter)
        await session.commit()
    assert await messages(sql, "u") == []


# --- with the start of the workflow ---


async def test_update_starts_the_workflow_once(dsn, admin, sql):
    async with no_hang(), Admin(dsn, admin.schema) as other, Worker(admin, [counter]):
        calls = [
            each.options(key="c 17").with_start(counter, 50).update(ADD, 5, key="k", timeout=30)
            for each in (admin, other)
            for _ in range(5)
        ]
        assert await asyncio.gather(*calls) == [5] * 10
        handle = await other.options(key="c 17").enqueue(counter, most=50)
        assert await handle.update(ADD, 7) == 12
        start = other.options(key="c 17").with_start(counter, most=50)
        assert [await start.update(ADD, 1), await start.update(ADD, 1)] == [13, 14]
        await handle.send(STOP, "")
        assert await handle.result() == [5, 7, 1, 1]
        assert await start.update(ADD, 5, key="k") == 5
        with pytest.raises(WorkflowFinishedError):
            await start.update(ADD, 5, key="new")
    assert len(await admin.list_workflows()) == 1


async def test_start_anew_if_the_workflow_has_ended_meanwhile(admin, kept):
    class Late(Update[int, int]):
        """Cancels the workflow that was found before the request is placed."""

        def message(self, codec, to, value, key, *, is_kept):
            ended = "status = 'CANCELLED', due_at = NULL, completed_at = now()"
            with ThreadPoolExecutor(1) as another:  # the connection of the fixtures has an event loop of its own
                another.submit(
                    kept.execute, f"UPDATE {admin.schema}.pgqrs_workflows SET {ended} WHERE id = {found.id}"
                ).result()
            return super().message(codec, to, value, key, is_kept=is_kept)

    found = await admin.options(key="c", until="end", delay=3600).enqueue(counter)
    start = admin.options(key="c", until="end").with_start(counter)
    async with no_hang(), Worker(admin, [counter]):
        assert await start.update(Late("add", int, int), 5) == 5
    assert await found.status() == "CANCELLED"
    assert (await admin.find(counter, key="c")).id != found.id


async def test_start_and_request_are_one_transaction(admin, claimer, sql):
    caller = asyncio.create_task(admin.options(key="c").with_start(counter).update(ADD, 5))
    await until(asked, sql)
    row = await sql.fetchrow("SELECT w.xmin = m.xmin AS same FROM pgqrs_workflows w, pgqrs_messages m")
    assert row["same"]
    await claimer.park(counter)
    async with no_hang():
        assert await caller == 5


async def test_start_with_another_codec_or_arguments_is_refused(dsn, admin, sql):
    handle = await admin.options(key="c").enqueue(counter, 10)
    async with Admin(dsn, admin.schema, codec=PydanticCodec()) as other:
        with pytest.raises(CodecMismatchError):
            await other.options(key="c").with_start(counter, 10).update(ADD, 5)
    with pytest.raises(Exception, match="different arguments"):
        await admin.options(key="c").with_start(counter, 11).update(ADD, 5)
    with pytest.raises(TypeError):
        admin.options(key="c").with_start(counter, 1, 2, 3)
    with pytest.raises(ConfigurationError, match="needs the key"):
        admin.options().with_start(counter)
    assert await messages(sql, "u") == []
    assert [each.id for each in await admin.list_workflows()] == [handle.id]


async def test_budget_of_the_example_is_never_exceeded(admin):
    async with no_hang(), Worker(admin, [budget]):
        year = admin.options(key="2026").with_start(budget, 1000)
        calls = [year.update(GRANT, 300, timeout=30, key=f"order {n}") for n in range(5) for _ in range(2)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert list(map(str, answers[0::2])) == list(map(str, answers[1::2]))
        assert sum(each == "paid 300 cents" for each in answers) == 2 * 3
        assert {each.reason for each in answers if each != "paid 300 cents"} == {"only 100 cents are left"}
        handle = await admin.options(key="2026").enqueue(budget, 1000)
        await handle.send(CLOSE, None)
        assert await handle.result() == 100


# --- events ---


async def test_event_of_a_workflow_that_always_crashes_is_read(admin, claimer):
    """No code of the workflow is needed to read an event; an update of it times out."""

    @workflow(name="showing")
    async def sound(ctx: PyWorkflow) -> None:
        await ctx.set_event("link", "https://example.org")
        await ctx.receive(STOP)

    @workflow(name="showing")
    async def crashing(ctx: PyWorkflow) -> None:
        raise Killed

    handle = await admin.enqueue(sound)
    await claimer.park(sound)
    await handle.send(STOP, "")
    for _ in range(2):
        with pytest.raises(Killed):
            await claimer.run(crashing)
        assert await handle.event("link", timeout=30) == "https://example.org"
        with pytest.raises(UpdateTimeoutError):
            await handle.update(ADD, 5, timeout=0.05)
        await admin.resume_workflow(handle.id)
