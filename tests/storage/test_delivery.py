"""The delivery of messages below the `Admin`: its plan, its cost, its crashes, and two deliveries at once."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

import pytest

from pgqrs import Admin, InvariantError, PyWorkflow, Receive, Sleep, Topic, workflow
from pgqrs.engine.lifecycle import Parked
from pgqrs.storage.queries import delivery, maintenance
from pgqrs.storage.writes.messages import ReceivedMessage, SentMessage
from pgqrs.storage.writes.steps import Began
from pgqrs.testing import crash_everywhere
from pgqrs.testing.sql import violations
from tests.support.database import connected, is_held_up
from tests.support.executors import watching
from tests.support.parked import SIZES, plant_waiting
from tests.support.waiting import no_hang, until
from tests.support.workflows import note

pytest_plugins = ("pytest_pgqrs",)

PAID = Topic("paid", int)


@workflow
async def collecting(ctx: PyWorkflow, count: int) -> list:
    """Receive messages one after the other."""
    return [await ctx.receive(PAID) for _ in range(count)]


async def waits(sql):
    return await sql.fetchval("SELECT count(*) FROM pgqrs_waits")


async def new(sql):
    """Return the number of new messages and of new waits."""
    return (
        await sql.fetchval("SELECT count(*) FROM pgqrs_messages WHERE is_new"),
        await sql.fetchval("SELECT count(*) FROM pgqrs_waits WHERE is_new"),
    )


async def taken(sql):
    """Return the payloads of the received messages, in the order of their sending."""
    rows = await sql.fetch("SELECT payload FROM pgqrs_messages WHERE taken_at IS NOT NULL ORDER BY id")
    return [json.loads(row["payload"]) for row in rows]


# --- plans ---


def nodes(plan):
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


class Explained:
    """The statements of a delivery and of the tick, prepared while the tables are empty, as by an early worker."""

    def __init__(self, store, driver):
        self._store = store
        self._driver = driver
        self._arguments = {}

    async def prepare(self):
        known = {
            "names": ["w"],
            "queues": ["default"],
            "codec": None,
            "floor": 0,
            "past": 3e9,
            "unknown_too": False,
            "settled": True,
        }
        for make in (delivery.deliver, delivery.delete_received, maintenance.maintain):
            compiled = self._store.database.compile(make)
            await self._driver.execute(f"PREPARE {make.__name__} AS {compiled.text}")
            values = ", ".join(literal(value) for value in compiled.arguments(known))
            self._arguments[make.__name__] = f"({values})" if compiled.binds else ""

    async def __call__(self, name):
        """Execute a statement, roll back, and return its plan and the pages that it touched."""
        transaction = self._driver.transaction()
        await transaction.start()
        try:
            text = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE {name}{self._arguments[name]}"
            explained = await self._driver.fetchval(text)
        finally:
            await transaction.rollback()
        (top,) = json.loads(explained) if isinstance(explained, str) else explained
        plan = top["Plan"]
        return plan, plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


def literal(value):
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return "'{" + ",".join(json.dumps(each) for each in value) + "}'"
    return str(value)


@asynccontextmanager
async def explaining(store, schema):
    driver = await store.database.open_driver(sorting=False)
    try:
        await driver.execute(f"SET search_path = {schema}")
        explained = Explained(store, driver)
        await explained.prepare()
        yield explained
    finally:
        await driver.close()


def scanned(plan, table):
    """Return the scans of a table in a plan that were executed."""
    return [
        node
        for node in nodes(plan)
        if node.get("Relation Name") == table and "Scan" in node["Node Type"] and node["Actual Loops"]
    ]


@pytest.mark.new_tables
@pytest.mark.plants_rows
@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", SIZES)
async def test_delivery_and_tick_touch_no_old_wait(store, schema, sql, count):
    async with explaining(store, schema) as explained:
        few = {}
        for size in (100, count):
            await plant_waiting(sql, size)
            for state in ("stale statistics", "analyzed") if size == count else ("stale statistics",):
                if state == "analyzed":
                    await sql.execute("VACUUM ANALYZE pgqrs_waits")
                    await sql.execute("VACUUM ANALYZE pgqrs_messages")
                    await sql.execute("VACUUM ANALYZE pgqrs_workflows")
                    await sql.execute("VACUUM ANALYZE pgqrs_workflow_steps")
                for name in ("deliver", "maintain", "delete_received"):
                    plan, pages = await explained(name)
                    few.setdefault(("idle", name), pages)
                    for table in ("pgqrs_waits", "pgqrs_messages", "pgqrs_workflow_steps"):
                        for node in scanned(plan, table):
                            assert node["Node Type"] != "Seq Scan", (state, name, node)
                            assert node["Actual Rows"] == 0, (state, name, node)
                    assert pages <= 3 * few["idle", name] + 60, (size, state, name, pages)


@pytest.mark.new_tables
@pytest.mark.plants_rows
@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", SIZES)
async def test_delivery_of_few_among_many_touches_few_pages(store, schema, sql, count):
    """Ten messages for ten of the workflows, and ten new waits: the others are not looked at."""
    async with explaining(store, schema) as explained:
        few = None
        for size in (100, count):
            await plant_waiting(sql, size)
            await sql.execute(
                "INSERT INTO pgqrs_messages (workflow_id, address, key, payload)"
                " SELECT id, 'm/' || id || '/t', 'k', '1' FROM pgqrs_workflows WHERE id % 10 = 0 AND id <= 100"
                " ON CONFLICT DO NOTHING"
            )
            await sql.execute(
                "UPDATE pgqrs_waits SET is_new = true WHERE workflow_id <= 95 AND workflow_id % 10 = 5"
            )
            for state in ("stale statistics", "analyzed"):
                if state == "analyzed":
                    for table in ("waits", "messages", "workflows", "workflow_steps"):
                        await sql.execute(f"VACUUM ANALYZE pgqrs_{table}")
                plan, pages = await explained("deliver")
                few = few or pages
                assert plan["Plans"], plan
                for node in nodes(plan):
                    assert node["Node Type"] != "Seq Scan" or size == 100, (state, node)
                # An index of very many is deeper, and a new version of a row goes into several of them.
                assert pages <= 4 * few + 200, (size, state, pages, few)


@pytest.mark.plants_rows
@pytest.mark.timeout(300)
async def test_event_for_very_many_is_delivered_in_portions(store, schema, sql, watch):
    await plant_waiting(sql, 5000)
    await sql.execute("SELECT emit('never', '7')")
    counts = []
    while not counts or counts[-1].again:
        counts.append(await watch.deliver())
    assert [each.woken for each in counts] == [2000, 2000, 1000]
    assert await waits(sql) == 0
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflow_steps WHERE status = 'SUCCESS'") == 5000


# --- cost ---


async def commits_of(claimer, action):
    """Return the number of the journal's statements for an action."""
    before = claimer.store.journal.statements
    await action
    await claimer.store.journal.drain()
    return claimer.store.journal.statements - before


@workflow
async def receiving(ctx: PyWorkflow) -> int:
    return await ctx.receive(PAID)


@workflow
async def receiving_in_time(ctx: PyWorkflow) -> int:
    return await ctx.receive(PAID, timeout=timedelta(days=3))


@workflow
async def selecting(ctx: PyWorkflow) -> list:
    return [*await ctx.select(paid=Receive(PAID), late=Sleep(3600))]


@workflow
async def sleeping(ctx: PyWorkflow) -> int:
    await ctx.sleep(3600)
    return 7


@pytest.mark.parametrize("function", [receiving, receiving_in_time, selecting, sleeping])
async def test_wait_that_parks_is_one_commit(claimer, sql, function):
    """The statement that parks the run records the wait; before it, a receive looks for its message, and writes nothing."""
    await claimer.submit(function)
    ctx, args = await claimer.adopt(function)
    statements = await commits_of(claimer, park(function, ctx, args))
    assert statements == (1 if function is sleeping else 2)
    row = await sql.fetchrow(
        "SELECT w.xmin = s.xmin AS same, w.status, s.status AS step"
        " FROM pgqrs_workflows w JOIN pgqrs_workflow_steps s ON s.workflow_id = w.id"
    )
    assert row["same"]
    assert row["status"] == "WAITING"
    assert row["step"] == ("SUCCESS" if function is sleeping else "RUNNING")
    assert await sql.fetchval(
        "SELECT bool_and(t.xmin = w.xmin) IS NOT false FROM pgqrs_waits t JOIN pgqrs_workflows w ON w.id = t.workflow_id"
    )


async def park(function, ctx, args):
    with pytest.raises(Parked):
        await function(ctx, *args)


async def test_wake_by_a_message_costs_one_delivery(admin, claimer, sql):
    handle = await admin.enqueue(receiving)
    await claimer.park(receiving)
    await claimer.deliver()
    await handle.send(PAID, 7)
    before = claimer._watch.statements
    found = await claimer.deliver()
    assert claimer._watch.statements - before == 1
    assert (found.woken, found.lowest, found.queues, found.again) == (1, handle.id, ("default",), False)
    xmins = "SELECT w.xmin = s.xmin AND w.xmin = m.xmin FROM pgqrs_workflows w, pgqrs_workflow_steps s, pgqrs_messages m"
    assert await sql.fetchval(xmins)
    statements = claimer.store.journal.statements
    assert await claimer.run(receiving) == 7
    assert claimer.store.journal.statements - statements == 1  # the end; the answer came with the history


async def test_message_that_is_there_is_received_by_one_commit(admin, claimer, sql):
    """One statement writes the outcome and takes the message, and another one reads the outcome."""
    ctx = await admin.create_workflow("receiving")
    await admin.send(ctx.id(), PAID, 7)
    await ctx.start()
    journal = claimer.store.journal
    before = journal.statements
    assert await ctx.receive(PAID) == 7
    assert journal.statements - before == 2
    assert await sql.fetchval("SELECT s.xmin = m.xmin FROM pgqrs_workflow_steps s, pgqrs_messages m")


async def test_send_is_one_statement(admin, claimer):
    handle = await admin.enqueue(receiving)
    journal = claimer.store.journal
    before = journal.statements
    await handle.send(PAID, 7)
    assert journal.statements - before == 1


# --- what a delivery sees ---


async def test_searched_rows_are_not_new_any_more(admin, claimer, sql):
    handle = await admin.enqueue(receiving)
    await claimer.park(receiving)
    await handle.send("nobody waits for it", 1)
    assert await new(sql) == (1, 1)
    assert (await claimer.deliver()).woken == 0
    assert await new(sql) == (0, 0)
    await handle.send(PAID, 7)
    assert await new(sql) == (1, 0)
    assert (await claimer.deliver()).woken == 1
    assert await new(sql) == (0, 0)


@pytest.mark.parametrize("is_searched", [False, True], ids=["new wait", "searched wait"])
async def test_message_beside_a_locked_workflow_is_delivered_later(admin, claimer, sql, dsn, is_searched):
    handle = await admin.enqueue(receiving)
    await claimer.park(receiving)
    if is_searched:
        await claimer.deliver()
    await handle.send(PAID, 7)
    async with connected(dsn, admin.schema) as other, other.transaction():
        await other.execute("SELECT FROM pgqrs_workflows FOR UPDATE")
        for _ in range(3):
            assert (await claimer.deliver()).woken == 0
        assert await new(sql) == (1, 0 if is_searched else 1)
    assert (await claimer.deliver()).woken == 1
    assert await claimer.run(receiving) == 7


async def test_message_that_commits_late_is_found(admin, claimer, sql, dsn):
    """Its id is lower than that of a message which was searched before."""
    handle = await admin.enqueue(collecting, 2)
    async with connected(dsn, admin.schema) as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("SELECT send($1, 'paid', '1')", handle.id)
        await handle.send(PAID, 2)
        await claimer.park(collecting)
        assert (await claimer.deliver()).woken == 0
        await transaction.commit()
    assert await claimer.run(collecting) == [2, 1]


async def test_two_deliveries_at_once_deliver_each_message_once(admin, claimer, sql, store):
    handles = [await admin.enqueue(collecting, 3) for _ in range(20)]
    async with watching(store) as other:
        for n in range(3):
            for _ in handles:
                await claimer.park(collecting)
            for handle in handles:
                await handle.send(PAID, 10 * n)
            found = [await asyncio.gather(claimer.deliver(), other.deliver()) for _ in range(3)]
            assert sum(each.woken for pair in found for each in pair) == len(handles)
            assert await taken(sql) == [10 * each for each in range(n + 1) for _ in handles]
        for _ in handles:
            assert await claimer.run(collecting) == [0, 10, 20]


async def test_delivery_beside_a_run_by_hand_takes_one_message(admin, claimer, sql):
    """A workflow is started by hand, and its message delivered, at once: it has one outcome."""
    for n in range(10):
        handle = await admin.enqueue(receiving)
        await claimer.park(receiving)
        ctx = await admin.get_workflow(handle.id)
        await handle.send(PAID, n)
        await asyncio.gather(ctx.start(), claimer.deliver())
        async with no_hang():
            assert await receiving(ctx) == n
        assert (await taken(sql))[-1] == n
    assert await waits(sql) == 0


async def test_delivery_skips_a_wait_of_an_earlier_run(admin, claimer, sql):
    handle = await admin.enqueue(collecting, 2)
    await claimer.park(collecting)
    claim = await sql.fetchval("SELECT claim FROM pgqrs_workflows")
    await handle.send(PAID, 1)
    await claimer.park(collecting)
    assert await sql.fetchval("SELECT claim FROM pgqrs_waits") != claim
    await handle.send(PAID, 2)
    assert await claimer.run(collecting) == [1, 2]


@pytest.mark.plants_rows
async def test_wait_without_a_parked_workflow_is_found(admin, claimer, schema, sql):
    """`verify` finds what must never be: a wait of a workflow that is not parked, or of a step that has an outcome."""
    handle = await admin.enqueue(receiving)
    await claimer.park(receiving)
    await admin.verify(deep=True)
    for change, told in (
        ("UPDATE pgqrs_waits SET claim = claim + 1", "not parked by the run of this wait"),
        ("UPDATE pgqrs_workflow_steps SET status = 'SUCCESS', completed_at = now()", "is not RUNNING"),
        ("UPDATE pgqrs_workflows SET status = 'PENDING', ready_at = now()", "not parked by the run of this wait"),
        ("DELETE FROM pgqrs_waits", "without a due time and without a message"),
    ):
        transaction = sql.transaction()
        await transaction.start()
        await sql.execute(change)
        found = [row["sentence"] for row in await sql.fetch(violations(schema))]
        await transaction.rollback()
        assert any(told in each for each in found), (change, found)
    await sql.execute("DELETE FROM pgqrs_waits")
    with pytest.raises(InvariantError, match=f"workflow {handle.id} is WAITING without a due time"):
        await admin.verify(deep=True)


# --- the statements of a run that waits in place ---


def received(workflow_id, step_id, claim, *, error=None):
    address = f"m/{workflow_id}/paid"
    return ReceivedMessage(workflow_id, 1, step_id, address, None, error, Began(0.0), None, claim)


async def test_second_sending_of_a_receive_takes_no_message(admin, store, sql):
    """The answer of the first sending was lost: the second one finds the outcome, and the next message stays."""
    ctx = await admin.create_workflow("receiving")
    for n in (1, 2):
        await admin.send(ctx.id(), PAID, n)
    await ctx.start()
    claim = await sql.fetchval("SELECT claim FROM pgqrs_workflows")
    for _ in range(3):
        outcome = await store.journal.write(received(ctx.id(), "s", claim))
        assert json.loads(outcome.output) == 1
    assert await taken(sql) == [1]


async def test_receive_without_a_message_writes_nothing(admin, store, sql):
    ctx = await admin.create_workflow("receiving")
    await ctx.start()
    claim = await sql.fetchval("SELECT claim FROM pgqrs_workflows")
    assert await store.journal.write(received(ctx.id(), "s", claim)) is None
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflow_steps") == 0
    outcome = await store.journal.write(received(ctx.id(), "s", claim, error='{"type": "x"}'))
    assert json.loads(outcome.error) == {"type": "x"}
    await admin.send(ctx.id(), PAID, 1)
    again = await store.journal.write(received(ctx.id(), "s", claim))
    assert json.loads(again.error) == {"type": "x"}
    assert await taken(sql) == []


async def test_second_sending_of_a_message_sends_it_once(admin, store, sql):
    handle = await admin.enqueue(receiving)
    sent = SentMessage(handle.id, f"m/{handle.id}/paid", "~1", False, "7", None, None)
    await asyncio.gather(*(store.journal.write(sent) for _ in range(5)))
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_messages") == 1


async def test_cancellation_at_the_moment_of_a_park_leaves_no_wait(dsn, admin, sql):
    """It waits for the row of the workflow, whose waits are not in its snapshot."""
    handle = await admin.enqueue(receiving)
    async with no_hang(), connected(dsn, admin.schema) as parking:
        async with parking.transaction():
            await parking.execute("UPDATE pgqrs_workflows SET status = 'WAITING', ready_at = NULL, claim = 1")
            await parking.execute(
                "INSERT INTO pgqrs_waits (workflow_id, step_id, address, claim) VALUES ($1, 's', 'm/1/paid', 1)",
                handle.id,
            )
            cancelling = asyncio.create_task(handle.cancel())
            await until(is_held_up, sql, admin.schema)
        await cancelling
    assert await handle.status() == "CANCELLED"
    assert await waits(sql) == 0


# --- received messages are deleted ---


async def test_received_messages_are_deleted_after_a_while(admin, sql, store):
    handle = await admin.options(key="c").enqueue(collecting, 3)
    await handle.send(PAID, 1)
    await handle.send(PAID, 2, key="kept")
    await handle.send(PAID, 3)
    await handle.send(PAID, 4)
    await admin.emit("closed")
    await admin.options(key="c").run(collecting, 3)
    old = f"now() - interval '{delivery.RECEIVED_KEPT + 1} seconds'"
    await sql.execute(f"UPDATE pgqrs_messages SET taken_at = {old} WHERE payload::text IN ('1', '2')")
    async with watching(store) as watch:  # a new worker's first tick deletes
        await watch.run_maintenance(["collecting"], ["default"])
    rows = await sql.fetch("SELECT payload FROM pgqrs_messages WHERE workflow_id IS NOT NULL ORDER BY id")
    assert [json.loads(row["payload"]) for row in rows] == [2, 3, 4]
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_messages WHERE workflow_id IS NULL") == 1


# --- crashes ---


async def new_receiver(kit, counts):
    """Return the id of a receiver; the messages that it gets are counted in the end."""
    ctx = await kit.create_workflow("receiving")
    counts.append(ctx.id())
    return (ctx.id(),)


@workflow
async def sending_three(ctx: PyWorkflow, receiver: int) -> str:
    for n in range(3):
        await ctx.send(receiver, PAID, n)
    await ctx.set_event("sent", 3)
    return await note(ctx, "sent")


async def test_crashed_sender_sends_each_message_once(kit):
    receivers = []
    assert (
        await crash_everywhere(sending_three, arrange=partial(new_receiver, kit, receivers), admin=kit) == "sent"
    )
    assert len(receivers) >= 2 * 6
    for receiver in receivers:
        ctx = await kit.get_workflow(receiver)
        assert [await ctx.receive(PAID, timeout=0, default=None) for _ in range(4)] == [0, 1, 2, None]


@workflow
async def taking_three(ctx: PyWorkflow, sender: int) -> list:
    """Receive in each way what another workflow, or this one itself, sends."""
    first = await note(ctx, "first")
    await ctx.send(ctx.id(), PAID, 1)
    await ctx.send(ctx.id(), PAID, 2)
    got = [await ctx.receive(PAID)]
    name, value = await ctx.select(paid=Receive(PAID), late=Sleep(3600))
    return [first, *got, name, value, await ctx.receive(PAID, timeout=3600, default="late")]


async def test_crashed_receiver_receives_each_message_once(kit):
    result = await crash_everywhere(taking_three, 1, admin=kit)
    assert result == ["first", 1, "paid", 2, "late"]


@workflow
async def asking(ctx: PyWorkflow, answerer: int) -> list:
    """Ask another workflow twice, and wait for its answers."""
    got = []
    for n in (1, 2):
        await ctx.send(answerer, "question", n)
        got.append(await ctx.receive("answer"))
    return got


async def test_crashed_asker_gets_each_answer_once(kit):
    """The answerer lives in another process; whatever the asker's crash lost, its question is asked once."""
    tasks = []

    async def arrange():
        answerer = await kit.create_workflow("answering")
        asked = asyncio.get_running_loop().create_task(_answer(kit, answerer))
        tasks.append(asked)
        return (answerer.id(),)

    async with no_hang():
        assert await crash_everywhere(asking, arrange=arrange, admin=kit) == [10, 20]
        await asyncio.gather(*tasks)


async def _answer(kit, ctx):
    """Answer the questions of the next asker by hand."""

    @workflow(name="answering")
    async def by_hand(ctx: PyWorkflow) -> None:
        for _ in range(2):
            n = await ctx.receive("question")
            (asker,) = [each.id for each in await kit.list_workflows(name="asking") if each.completed_at is None]
            await ctx.send(asker, "answer", 10 * n)

    await by_hand(ctx)


async def test_messages_of_many_to_many_arrive_once(dsn, admin, store, sql):
    """Five senders and five receivers, in a hurry, on connections of three Admins."""
    handles = [await admin.options(key=f"{n}").enqueue(collecting, 50) for n in range(5)]

    async def send_all(own, sender):
        for n in range(50):
            await own.send(handles[(sender + n) % 5].id, PAID, 100 * sender + n)

    async with no_hang(), Admin(dsn, admin.schema) as one, Admin(dsn, admin.schema) as two:
        runs = [asyncio.create_task((one, two)[n % 2].options(key=f"{n}").run(collecting, 50)) for n in range(5)]
        await asyncio.gather(*(send_all((admin, one, two)[n % 3], n) for n in range(5)))
        got = await asyncio.gather(*runs)
    counts = Counter(value for each in got for value in each)
    assert counts == Counter(100 * sender + n for sender in range(5) for n in range(50))
    for each in got:
        for sender in range(5):
            own = [value for value in each if value // 100 == sender]
            assert own == sorted(own)
    assert store.arrivals._waiting == {}
