"""`pgqrs.testing` with messages, events and children: the clock, the queues without a worker, and assertions."""

from __future__ import annotations

import asyncio
import base64
from datetime import timedelta
from decimal import Decimal

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from pgqrs import (
    Event,
    PyWorkflow,
    Receive,
    SerializationError,
    SessionError,
    Sleep,
    Topic,
    Worker,
    WorkflowTimeoutError,
    workflow,
)
from pgqrs.codecs import FernetCodec, JsonCodec, PydanticCodec
from pgqrs.testing import (
    assert_emitted,
    assert_not_emitted,
    assert_not_sent,
    assert_sent,
    crash_everywhere,
    run_enqueued,
)
from tests.support.database import connected, engine_on
from tests.support.waiting import no_hang, until

pytest_plugins = ("pytest_pgqrs",)

DAY = timedelta(days=1)
PAID = Topic("paid", Decimal)
PLAIN = Topic("50%\nplain", int, is_plain=True)
CODECS = [JsonCodec(), PydanticCodec(), FernetCodec([base64.urlsafe_b64encode(b"k" * 32)], PydanticCodec())]


@pytest.fixture
def codec():
    return PydanticCodec()


@pytest.fixture
def pgqrs_admin_options(codec):
    return {"codec": codec}


@pytest.fixture
async def engine_of_kit(dsn):
    engine = engine_on(dsn)
    yield engine
    await engine.dispose()


@pytest.fixture
async def sql_of_kit(dsn, kit):
    async with connected(dsn, kit.schema) as connection:
        yield connection


@workflow
async def buyer(ctx: PyWorkflow) -> Decimal | None:
    return await ctx.receive(PAID, timeout=30 * DAY, default=None)


@workflow
async def patient(ctx: PyWorkflow) -> Decimal:
    return await ctx.receive(PAID)


@workflow(timeout=60)
async def impatient(ctx: PyWorkflow) -> Decimal:
    return await ctx.receive(PAID)


@workflow
async def payer(ctx: PyWorkflow, receiver: int) -> None:
    await ctx.sleep(DAY)
    await ctx.send(receiver, PAID, Decimal("1.50"), key="bill 1")


@workflow
async def chooser(ctx: PyWorkflow) -> str:
    winner, _ = await ctx.select(paid=Receive(PAID), closed=Event("closed"), late=Sleep(3600))
    return winner


@workflow
async def slow_child(ctx: PyWorkflow, n: int) -> int:
    await ctx.sleep(DAY)
    return n


@workflow
async def parent(ctx: PyWorkflow) -> int:
    later = await ctx.options(delay=2 * DAY).start(slow_child, 1)
    many = await ctx.start_many(slow_child, [(2,), (3,)])
    return await later + sum(await ctx.gather(many))


@workflow
async def leaving(ctx: PyWorkflow) -> None:
    await ctx.start(slow_child, 1)


ALL = [buyer, patient, impatient, payer, chooser, slow_child, parent, leaving]


async def _waits(*handles):
    return [await each.status() for each in handles] == ["WAITING"] * len(handles)


# --- the clock ---


async def test_advance_ends_the_timeouts_of_waits(kit, clock):
    async with no_hang(), Worker(kit, ALL):
        buys, chooses = await kit.enqueue(buyer), await kit.enqueue(chooser)
        await until(_waits, buys, chooses)
        await clock.advance(minutes=59)
        assert await _waits(buys, chooses)
        await clock.advance(minutes=2)
        assert await chooses.result() == "late"
        await clock.advance(days=29)
        assert await buys.status() == "WAITING"
        await clock.advance(days=1)
        assert await buys.result() is None


async def test_skipping_ends_at_the_time_of_a_message(kit, clock):
    async with no_hang(), Worker(kit, ALL), clock.skipping():
        handle = await kit.enqueue(buyer)
        await kit.enqueue(payer, handle.id)
        assert await handle.result() == Decimal("1.5")
    assert 0.9 * DAY < clock.ahead < 1.1 * DAY


async def test_skipping_waits_for_the_receiver_in_this_process(kit, clock):
    """The message is there; until the search for messages finds it, the time must not go to the timeout."""
    store = await kit.store()
    search, found = store.arrivals._search, asyncio.Event()

    async def late_search():
        await found.wait()
        await search()

    ctx = await kit.create_workflow("buyer")
    store.arrivals._search = late_search
    running = asyncio.create_task(buyer(ctx))
    await until(lambda: store.arrivals._waiting)
    await kit.send(ctx.id(), PAID, Decimal(1))
    async with no_hang(), clock.skipping():
        await asyncio.sleep(0.3)  # many searches of the clock
        assert clock.ahead < DAY
        found.set()
        assert await running == Decimal(1)
    assert clock.ahead < DAY


async def test_skipping_reaches_the_deadline_of_a_wait(kit, clock):
    async with no_hang(), Worker(kit, ALL), clock.skipping():
        with pytest.raises(WorkflowTimeoutError):
            await (await kit.enqueue(impatient)).result()
    assert clock.ahead < timedelta(minutes=2)


async def test_skipping_passes_the_delays_of_children(kit, clock):
    async with no_hang(), Worker(kit, ALL), clock.skipping():
        assert await (await kit.enqueue(parent)).result() == 6
    assert 2.9 * DAY < clock.ahead < 3.1 * DAY


# --- the queues ---


async def test_run_enqueued_delivers_messages(kit):
    async with no_hang():
        handle = await kit.enqueue(buyer)
        await kit.enqueue(payer, handle.id)
        assert await run_enqueued(kit, ALL) == 2
        assert await handle.result() == Decimal("1.5")


async def test_run_enqueued_leaves_a_workflow_that_only_waits(kit):
    async with no_hang():
        handle = await kit.enqueue(patient)
        assert await run_enqueued(kit, ALL) == 1
        assert await handle.status() == "WAITING"
        await handle.send(PAID, Decimal(1))
        assert await run_enqueued(kit, ALL) == 1
        assert await handle.result() == Decimal(1)


async def test_run_enqueued_ends_waits_at_their_times(kit):
    async with no_hang():
        buys, chooses, fails = [await kit.enqueue(each) for each in (buyer, chooser, impatient)]
        assert await run_enqueued(kit, ALL) == 3
        assert (await buys.result(), await chooses.result()) == (None, "late")
        with pytest.raises(WorkflowTimeoutError):
            await fails.result()


async def test_run_enqueued_delivers_emitted_events(kit):
    handle = await kit.enqueue(chooser)
    await kit.emit("closed")
    await run_enqueued(kit, ALL)
    assert await handle.result() == "closed"


async def test_run_enqueued_runs_children_of_parents(kit):
    async with no_hang():
        handle = await kit.enqueue(parent)
        assert await run_enqueued(kit, ALL) == 4
        assert await handle.result() == 6


async def test_run_enqueued_cancels_children_of_ended_parents(kit):
    async with no_hang():
        await kit.enqueue(leaving)
        assert await run_enqueued(kit, ALL) == 1
    assert [each.status for each in await kit.list_workflows()] == ["CANCELLED", "SUCCESS"]
    await kit.verify(deep=True)


async def test_crash_everywhere_runs_the_children(kit):
    async with no_hang():
        assert await crash_everywhere(parent, admin=kit, workflows=[slow_child]) == 6
    parents = [each for each in await kit.list_workflows(limit=1000) if each.name == "parent"]
    children = [each for each in await kit.list_workflows(limit=1000) if each.name == "slow_child"]
    assert len(children) == 3 * len(parents) > 20


# --- assertions ---


@pytest.mark.parametrize("codec", CODECS, ids=lambda each: each.name)
async def test_assert_sent_finds_a_message_by_each_part(kit, codec):
    value = "1.50" if codec is CODECS[0] else Decimal("1.50")
    one, other = await kit.enqueue(patient), await kit.enqueue(patient)
    await one.send(PAID, value, key="bill 1")
    found = await assert_sent(kit, topic=PAID)
    assert (found.workflow_id, found.topic, found.value, found.key) == (one.id, "paid", value, "bill 1")
    assert not found.is_received
    for wanted in ((one,), (one.id, PAID), (None, PAID), (None, "paid"), (one, PAID, value)):
        assert await assert_sent(kit, *wanted, count=1) == await assert_sent(kit, *wanted, key="bill 1")
        with pytest.raises(AssertionError, match=r"^a message.* was sent; there are:\n    to workflow 1, topic"):
            await assert_not_sent(kit, *wanted)
    for unwanted in ((other,), (None, "payed"), (one, PAID, value * 2)):
        await assert_not_sent(kit, *unwanted)
        with pytest.raises(AssertionError, match=r"^a message.* was not sent; there are:\n    to workflow 1"):
            await assert_sent(kit, *unwanted)
    await assert_not_sent(kit, one, key="bill 2")


async def test_assert_sent_compares_values_by_their_type(kit):
    handle = await kit.enqueue(patient)
    await handle.send(PAID, Decimal("1.50"))
    assert (await assert_sent(kit, handle, PAID, Decimal("1.5"))).value == Decimal("1.5")
    await assert_sent(kit, handle, "paid", "1.50")
    await assert_not_sent(kit, handle, "paid", "1.5")
    with pytest.raises(SerializationError):
        await assert_sent(kit, handle, PAID, object())


async def test_assert_sent_counts_messages(kit):
    handle = await kit.enqueue(patient)
    for cents in (1, 2, 2):
        await handle.send(PAID, Decimal(cents))
    await assert_sent(kit, handle, PAID, count=3)
    await assert_sent(kit, handle, PAID, Decimal(2), count=2)
    with pytest.raises(AssertionError) as raised:
        await assert_sent(kit, handle, PAID, Decimal(1), count=2)
    assert str(raised.value) == (
        "a message of the topic 'paid' to workflow 1 with the value Decimal('1') was sent once, not 2 times; there "
        "are:\n"
        "    to workflow 1, topic 'paid': Decimal('2')\n"
        "    to workflow 1, topic 'paid': Decimal('2')\n"
        "    to workflow 1, topic 'paid': Decimal('1')"
    )
    with pytest.raises(ValueError, match="assert_not_sent"):
        await assert_sent(kit, count=0)


async def test_assert_sent_knows_received_and_deleted_messages(kit, clock, sql_of_kit):
    """The messages that were received an hour ago are deleted, unless they have a key."""
    async with no_hang():
        for key in (None, "k"):
            handle = await kit.enqueue(patient)
            await handle.send(PAID, Decimal(7), key=key)
        await run_enqueued(kit, [patient])
        await clock.advance(days=2)
        await kit.enqueue(payer, (await kit.enqueue(patient)).id)
        await run_enqueued(kit, ALL)
    left = await sql_of_kit.fetch("SELECT workflow_id FROM pgqrs_messages ORDER BY id")
    assert [each["workflow_id"] for each in left] == [2, 3]
    assert (await assert_sent(kit, 1, PAID, Decimal(7), count=1)).is_received
    await assert_sent(kit, 2, PAID, Decimal(7), key="k", count=1)
    await assert_sent(kit, 3, PAID, Decimal("1.5"), key="bill 1", count=1)
    await assert_sent(kit, topic=PAID, count=3)


async def test_assert_sent_reads_in_the_transaction_of_a_caller(kit, engine_of_kit):
    handle = await kit.enqueue(patient)
    async with AsyncSession(engine_of_kit) as session:
        await kit.options(session=session).send(handle.id, PAID, Decimal(1))
        await kit.options(session=session).emit("closed", "today")
        await assert_sent(kit, handle, PAID, Decimal(1), session=session)
        await assert_emitted(kit, "closed", "today", session=session)
        await assert_not_sent(kit)
        await assert_not_emitted(kit, "closed")
        await session.rollback()
        await assert_not_sent(kit, session=session)
    with pytest.raises(AssertionError, match=r"^a message was not sent; there is no message\.$"):
        await assert_sent(kit)
    with pytest.raises(SessionError):
        await assert_sent(kit, session=object())


@pytest.mark.parametrize("codec", CODECS, ids=lambda each: each.name)
async def test_assert_emitted_compares_the_value_of_an_event(kit, codec):
    with pytest.raises(AssertionError, match=r"^the event 'closed' was not emitted; there is no event\.$"):
        await assert_emitted(kit, "closed")
    await assert_not_emitted(kit, "closed")
    await kit.emit("closed", [1, 2])
    await kit.emit("50%\nopen")
    assert await assert_emitted(kit, "closed") == [1, 2]
    assert await assert_emitted(kit, "closed", [1, 2]) == [1, 2]
    assert await assert_emitted(kit, "50%\nopen", None) is None
    with pytest.raises(AssertionError, match=r"'closed' was emitted with the value \[1, 2\], not \[2\]\."):
        await assert_emitted(kit, "closed", [2])
    with pytest.raises(
        AssertionError, match=r"'open' was not emitted; there are:\n    '50%\\nopen': None\n    'cl"
    ):
        await assert_emitted(kit, "open")
    with pytest.raises(AssertionError, match=r"'closed' was emitted with the value \[1, 2\]\."):
        await assert_not_emitted(kit, "closed")


@pytest.mark.parametrize("codec", CODECS[2:], ids=lambda each: each.name)
async def test_assert_sent_shows_what_it_cannot_read(kit, codec):
    """Without the topic, nothing tells that a message is plain."""
    handle = await kit.enqueue(patient)
    await handle.send(PLAIN, 3)
    assert (await assert_sent(kit, handle, PLAIN, 3)).value == 3
    await assert_not_sent(kit, handle, PLAIN, 4)
    await assert_not_sent(kit, handle, PLAIN.name, 3)
    with pytest.raises(AssertionError, match=r"topic '50%\\nplain': Unreadable\("):
        await assert_sent(kit, handle, PAID)
