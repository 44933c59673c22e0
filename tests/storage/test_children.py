"""Children below the `Admin`: no wake-up is lost, whatever the order of the commits, and what the statements cost."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from pgqrs import PyWorkflow, WorkflowFencedError, workflow
from pgqrs.engine.lifecycle import Parked
from pgqrs.storage.queries import children as queries
from pgqrs.storage.queries import delivery
from pgqrs.storage.sql.tokens import new_token
from pgqrs.storage.writes.children import NewChild, StartedChildren
from tests.support.database import connected
from tests.support.families import children_of, double, is_quiet, nap, statuses_of
from tests.support.recorded import row_of
from tests.support.waiting import until

END = (
    "UPDATE pgqrs_workflows SET status = 'SUCCESS', output = '8', ready_at = NULL, due_at = NULL, executor = NULL, "
    "completed_at = now() WHERE id = $1"
)
RESUME = "UPDATE pgqrs_workflows SET status = 'PENDING', output = NULL, completed_at = NULL WHERE id = $1"


@workflow
async def gathering(ctx: PyWorkflow, count: int) -> int:
    """Wait for all children of one step."""
    return len(await ctx.gather(await ctx.start_many(double, [(each,) for each in range(count)])))


@workflow
async def choosing(ctx: PyWorkflow, count: int) -> int:
    """Wait for the first of several children."""
    children = [await ctx.start(double, each) for each in range(count)]
    async for each in ctx.as_completed(*children):
        return each.id
    return 0


async def parked(claimer, parent, count):
    """Run a new parent until it is parked; return its id and the ids of its children."""
    workflow_id = await claimer.submit(parent, count)
    await park(claimer, parent)
    found = await children_of(claimer.sql, workflow_id)
    return workflow_id, [each["id"] for each in found]


async def park(claimer, parent):
    with pytest.raises(Parked):
        await claimer.run(parent)


@pytest.fixture
def claimer(claimer, sql):
    claimer.sql = sql
    return claimer


@pytest_asyncio.fixture
async def other_sql(dsn, schema):
    """Another raw connection, for a transaction that stays open."""
    async with connected(dsn, schema) as connection:
        yield connection


@pytest_asyncio.fixture
async def third_sql(dsn, schema):
    """A third raw connection."""
    async with connected(dsn, schema) as connection:
        yield connection


async def woken(watch):
    return (await watch.deliver()).woken


# --- the ends of children ---


@pytest.mark.parametrize("delivered", [(), ("1",), ("2",), ("0", "1", "2")])
async def test_two_children_that_end_at_once_wake_the_parent(claimer, watch, other_sql, third_sql, delivered):
    parent_id, (one, two) = await parked(claimer, gathering, 2)
    ends = other_sql.transaction(), third_sql.transaction()
    for connection, end, child in zip((other_sql, third_sql), ends, (one, two), strict=True):
        await end.start()
        await connection.execute(END, child)
    for place, end in enumerate([None, *ends]):
        if end is not None:
            await end.commit()
        if str(place) in delivered:
            assert await woken(watch) == int(place == 2)
    if "2" not in delivered:
        assert await woken(watch) == 1
    assert (await row_of(other_sql, parent_id))["status"] == "PENDING"
    assert await claimer.run(gathering) == 2


@pytest.mark.parametrize("parent", [gathering, choosing])
async def test_end_committed_after_the_wait_was_seen_wakes(claimer, watch, sql, other_sql, parent):
    workflow_id = await claimer.submit(parent, 1)
    ctx, args = await claimer.adopt(parent)
    running = asyncio.ensure_future(parent(ctx, *args))
    (child,) = await until(children_of, sql, workflow_id)
    end = other_sql.transaction()
    await end.start()
    await other_sql.execute(END, child["id"])
    with pytest.raises(Parked):
        await running
    assert await woken(watch) == 0
    assert await is_quiet(sql)
    await end.commit()
    assert await woken(watch) == 1
    assert await claimer.run(parent) == (1 if parent is gathering else child["id"])


async def test_end_seen_before_the_parent_parks_wakes_it_later(claimer, watch, sql, monkeypatch):
    """The end is committed between the parent's last look and its parking, and a delivery sees the message alone."""
    workflow_id = await claimer.submit(gathering, 1)
    ctx, args = await claimer.adopt(gathering)
    write_end = claimer.store.write_end
    seen = []

    async def late(record):
        if not seen:
            (child,) = await children_of(sql, workflow_id)
            await sql.execute(END, child["id"])
            seen.append(await woken(watch))
            assert await is_quiet(sql)
        return await write_end(record)

    monkeypatch.setattr(claimer.store, "write_end", late)
    with pytest.raises(Parked):
        await gathering(ctx, *args)
    assert seen == [0]
    assert await woken(watch) == 1
    assert await claimer.run(gathering) == 1


async def test_parent_that_is_locked_is_woken_by_a_later_delivery(claimer, watch, sql, other_sql):
    parent_id, (child,) = await parked(claimer, gathering, 1)
    assert await woken(watch) == 0
    async with other_sql.transaction():
        await other_sql.execute("SELECT FROM pgqrs_workflows WHERE id = $1 FOR UPDATE", parent_id)
        await sql.execute(END, child)
        assert [await woken(watch) for _ in range(2)] == [0, 0]
        # The tick of a worker finds that a message is new, and calls the delivery again.
        assert (await watch.run_maintenance(["gathering"], ["default"])).has_new
    assert await woken(watch) == 1
    assert await claimer.run(gathering) == 1


async def test_parent_of_many_is_woken_once(claimer, watch, sql):
    _, ids = await parked(claimer, gathering, 5)
    counts = []
    for child in ids:
        await sql.execute(END, child)
        counts.append(await woken(watch))
    assert counts == [0, 0, 0, 0, 1]
    assert await woken(watch) == 0
    assert await claimer.run(gathering) == 5
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_messages WHERE address LIKE 'c/%'") == 0


@pytest.mark.parametrize("is_seen", [True, False])
async def test_child_resumed_before_its_siblings_end_counts_once(claimer, watch, sql, is_seen):
    """The first child ends, is resumed, and ends again last: its second end is the one that wakes the parent."""
    parent_id, (one, two) = await parked(claimer, gathering, 2)
    await sql.execute(END, one)
    if is_seen:
        assert await woken(watch) == 0
    await sql.execute(RESUME, one)
    await sql.execute(END, two)
    assert await woken(watch) == 0
    assert (await row_of(sql, parent_id))["status"] == "WAITING"
    await sql.execute(END, one)
    assert await woken(watch) == 1
    assert await claimer.run(gathering) == 2


async def test_child_resumed_after_the_parent_took_its_end_is_silent(claimer, watch, sql):
    parent_id, (one, _) = await parked(claimer, choosing, 2)
    await sql.execute(END, one)
    assert await woken(watch) == 1
    assert await claimer.run(choosing) == one
    await sql.execute(RESUME, one)
    await sql.execute(END, one)
    assert await woken(watch) == 0
    row = await row_of(sql, parent_id)
    assert (row["status"], row["output"]) == ("SUCCESS", str(one))


async def test_two_deliveries_at_once_wake_a_parent_once(claimer, store, watch, sql):
    _, ids = await parked(claimer, gathering, 4)
    other = await store.claim_connection(lambda _queue: None)
    try:
        total = 0
        for child in ids:
            await sql.execute(END, child)
            total += sum(await asyncio.gather(woken(watch), woken(other)))
        while not await is_quiet(sql):
            total += await woken(watch)
    finally:
        await other.close()
    assert total == 1
    assert await claimer.run(gathering) == 4


# --- the end of a parent ---


@workflow
async def leaving(ctx: PyWorkflow, count: int) -> None:
    """Start children that live longer."""
    await ctx.start_many(nap, [()] * count)


async def cancelled(watch):
    """Cancel children until a pass has nothing more to do at once; return the number of passes."""
    passes = 1
    while await watch.cancel_children():
        passes += 1
    return passes


async def test_children_of_an_ended_parent_are_cancelled_in_portions(claimer, watch, sql, set_in_statements):
    parent_id = await claimer.submit(leaving, 25)
    await claimer.run(leaving)
    set_in_statements(queries, "MAX_CANCELLED", 10)
    assert (await watch.deliver()).has_ended_parents
    assert await cancelled(watch) == 4
    assert await statuses_of(sql, parent_id) == ["CANCELLED"] * 25
    while (found := await watch.deliver()).has_ended_parents or found.again:
        await cancelled(watch)
    # The ends of children of an ended parent leave nothing to clean up.
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_messages WHERE taken_at IS NULL") == 0


async def test_child_that_is_locked_is_cancelled_by_a_later_pass(claimer, watch, sql, other_sql):
    parent_id = await claimer.submit(leaving, 3)
    await claimer.run(leaving)
    (child, *_) = await children_of(sql, parent_id)
    async with other_sql.transaction():
        await other_sql.execute("SELECT FROM pgqrs_workflows WHERE id = $1 FOR UPDATE", child["id"])
        await cancelled(watch)
        assert await statuses_of(sql, parent_id) == ["PENDING", "CANCELLED", "CANCELLED"]
        assert (await watch.run_maintenance(["leaving"], ["default"])).has_new
    assert (await watch.deliver()).has_ended_parents
    await cancelled(watch)
    assert await statuses_of(sql, parent_id) == ["CANCELLED"] * 3


async def test_grandchildren_are_cancelled(claimer, watch, sql):
    @workflow
    async def middle(ctx: PyWorkflow) -> None:
        await ctx.start(nap)
        await ctx.receive("never")

    @workflow
    async def top(ctx: PyWorkflow) -> None:
        await ctx.start(middle)

    parent_id = await claimer.submit(top)
    await claimer.run(top)
    await park(claimer, middle)
    (child,) = await children_of(sql, parent_id)
    while (found := await watch.deliver()).has_ended_parents or found.again:
        await cancelled(watch)
    assert await statuses_of(sql, parent_id) == ["CANCELLED"]
    assert await statuses_of(sql, child["id"]) == ["CANCELLED"]
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_waits") == 0


@pytest.mark.parametrize("is_again", [False, True])
async def test_parent_that_was_resumed_keeps_its_new_children(claimer, watch, sql, is_again):
    """Nothing cancels children between the end of a parent and its resumption: its message is stale."""
    fails = [True]

    @workflow
    async def failing(ctx: PyWorkflow) -> None:
        if fails:
            raise LookupError("the first time")
        await ctx.start(nap)
        await ctx.receive("the end")

    # It has a child from the beginning: an ended parent without children leaves no message.
    @workflow
    async def parent(ctx: PyWorkflow) -> None:
        await ctx.start(nap)
        await failing.__wrapped__(ctx)

    parent_id = await claimer.submit(parent)
    with pytest.raises(LookupError):
        await claimer.run(parent)
    fails.clear()
    await claimer.store.operations.resume(parent_id)
    await park(claimer, parent)
    await cancelled(watch)
    assert await statuses_of(sql, parent_id) == ["PENDING", "PENDING"]
    if is_again:
        await claimer.store.operations.cancel(parent_id, interrupt=False)
        await cancelled(watch)
        assert await statuses_of(sql, parent_id) == ["CANCELLED", "CANCELLED"]


async def test_child_resumed_after_its_parent_ended_is_left_alone(claimer, watch, sql):
    parent_id = await claimer.submit(leaving, 1)
    await claimer.run(leaving)
    await cancelled(watch)
    (child,) = await children_of(sql, parent_id)
    await claimer.store.operations.resume(child["id"])
    await watch.deliver()
    await cancelled(watch)
    assert await statuses_of(sql, parent_id) == ["PENDING"]
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_messages WHERE is_new") == 0


# --- the insert ---


def _children(ctx, step_id, places, token):
    return tuple(
        NewChild(ctx.id(), step_id, place, 1000 + place, "double", '{"args": [1], "kwargs": {}}', "default", 0,
                 None, None, None, token, True)
        for place in places
    )  # fmt: skip


async def test_children_are_inserted_once_at_their_places(claimer, sql):
    parent_id = await claimer.submit(leaving, 0)
    ctx, _ = await claimer.adopt(leaving)
    claim = (await row_of(sql, parent_id))["claim"]
    record = StartedChildren(parent_id, 1, "s", claim, _children(ctx, "s", range(3), 1))
    assert await claimer.store.journal.write(record) is True
    again = record._replace(
        children=tuple(
            each._replace(child_id=each.child_id + 10, token=2) for each in _children(ctx, "s", range(5), 2)
        )
    )
    assert await claimer.store.journal.write(again) is True
    rows = await children_of(sql, parent_id)
    assert [(each["id"], each["place"], each["token"]) for each in rows] == [
        (1000, 0, 1), (1001, 1, 1), (1002, 2, 1), (1013, 3, 2), (1014, 4, 2),
    ]  # fmt: skip
    assert (await row_of(sql, parent_id))["has_children"]


async def test_fenced_run_starts_no_children(claimer, sql):
    parent_id = await claimer.submit(leaving, 0)
    ctx, _ = await claimer.adopt(leaving)
    record = StartedChildren(parent_id, 1, "s", new_token(), _children(ctx, "s", range(3), 1))
    with pytest.raises(WorkflowFencedError):
        await claimer.store.journal.write(record)
    assert await children_of(sql, parent_id) == []
    assert not (await row_of(sql, parent_id))["has_children"]


# --- what the statements cost ---

MANY = 12_000


class Explained:
    """Statements that are prepared while the tables are empty, as by an early worker."""

    def __init__(self, database, driver):
        self._database = database
        self._driver = driver
        self._arguments = {}

    async def prepare(self, **values):
        for make in (delivery.unread, queries.cancel_children, queries.child_results):
            compiled = self._database.compile(make)
            await self._driver.execute(f"PREPARE {make.__name__} AS {compiled.text}")
            arguments = ", ".join(f"'{each}'" for each in compiled.arguments(values))
            self._arguments[make.__name__] = f"({arguments})" if compiled.binds else ""

    async def pages(self, name):
        """Execute a statement, roll back, and return the pages that it touched and the tables that it scanned."""
        async with rolled_back(self._driver):
            text = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE {name}{self._arguments[name]}"
            explained = await self._driver.fetchval(text)
        (top,) = json.loads(explained) if isinstance(explained, str) else explained
        plan = top["Plan"]
        scanned = [each["Relation Name"] for each in nodes(plan) if each["Node Type"] == "Seq Scan"]
        return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], scanned


@asynccontextmanager
async def rolled_back(driver):
    transaction = driver.transaction()
    await transaction.start()
    try:
        yield
    finally:
        await transaction.rollback()


def nodes(plan):
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


async def plant_children(sql, first, count, *, ended):
    """Insert `count` children of one step of the workflow 1."""
    await sql.execute(
        "INSERT INTO pgqrs_workflows (id, name, status, epoch, input, output, queue, ready_at, completed_at, "
        "parent_id, parent_step, place, ends_with_parent) "
        "SELECT n, 'w', $3, 1, '{}', CASE WHEN $4 THEN json '1' END, 'default', CASE WHEN NOT $4 THEN now() END, "
        "CASE WHEN $4 THEN now() END, 1, 's', n, true FROM generate_series($1::bigint, $1::bigint + $2::bigint - 1) n",
        first, count, "SUCCESS" if ended else "PENDING", ended,
    )  # fmt: skip


@pytest.mark.new_tables
@pytest.mark.plants_rows
@pytest.mark.timeout(300)
async def test_children_that_have_ended_cost_no_later_statement(store, schema, sql):
    """One child of very many ends, and ten are cancelled: the others are not looked at one by one."""
    driver = await store.database.open_driver(sorting=False)
    try:
        await driver.execute(f"SET search_path = {schema}")
        explained = Explained(store.database, driver)
        await explained.prepare(addresses='{"c/1/s"}', parent=1, step="s", first=100, count=10)
        await sql.execute(
            "INSERT INTO pgqrs_workflows (id, name, status, epoch, claim, input, has_children) "
            "VALUES (1, 'w', 'WAITING', 1, 1, '{}', true)"
        )
        await sql.execute(
            "INSERT INTO pgqrs_waits (workflow_id, step_id, address, claim) VALUES (1, 'r', 'c/1/s', 1)"
        )
        await sql.execute(
            "INSERT INTO pgqrs_messages (workflow_id, address, key, payload) "
            "SELECT 1, 'c/1/s', n, 'null' FROM generate_series(1, 5) n"
        )
        await plant_children(sql, 1000, 200, ended=True)
        await plant_children(sql, 1500, 10, ended=False)
        few = {}
        for size in (0, MANY):
            await plant_children(sql, 10_000, size, ended=True)
            for state in ("stale statistics", "analyzed"):
                if state == "analyzed":
                    await sql.execute("VACUUM ANALYZE pgqrs_workflows")
                    await sql.execute("VACUUM ANALYZE pgqrs_messages")
                    await sql.execute("VACUUM ANALYZE pgqrs_waits")
                for name in ("unread", "cancel_children", "child_results"):
                    pages, scanned = await explained.pages(name)
                    few.setdefault((state, name), pages)
                    assert size == 0 or "pgqrs_workflows" not in scanned, (state, name)
                    assert pages <= 3 * few[state, name] + 60, (size, state, name, pages)
    finally:
        await driver.close()


@pytest.mark.plants_rows
@pytest.mark.timeout(300)
@pytest.mark.parametrize("statement", ["deliver", "cancel_children"])
async def test_many_ends_at_once_are_handled_in_short_portions(sql, watch, other_sql, statement):
    """Each portion is of 2,000 children among very many; an old transaction keeps the index from being cleaned."""
    calls = {"deliver": watch.deliver, "cancel_children": watch.cancel_children}
    await sql.execute(
        "INSERT INTO pgqrs_workflows (id, name, status, epoch, claim, input, has_children) "
        "VALUES (1, 'w', 'WAITING', 1, 1, '{}', true)"
    )
    await sql.execute("INSERT INTO pgqrs_waits (workflow_id, step_id, address, claim) VALUES (1, 'r', 'c/1/s', 1)")
    await plant_children(sql, 10, MANY, ended=False)
    for call in calls.values():
        await call()  # the statements are planned early
    async with rolled_back(other_sql):
        await other_sql.execute("DECLARE old CURSOR FOR SELECT 1")
        if statement == "deliver":  # all but one end
            await sql.execute(
                "UPDATE pgqrs_workflows SET status = 'SUCCESS', output = '1', ready_at = NULL, completed_at = now() "
                "WHERE parent_id = 1 AND place <> $1", MANY + 9,
            )  # fmt: skip
        else:
            await sql.execute(
                "UPDATE pgqrs_workflows SET status = 'SUCCESS', output = '1', completed_at = now() WHERE id = 1"
            )
        took = []
        for _ in range(5):
            began = time.monotonic()
            assert await calls[statement]()
            took.append(time.monotonic() - began)
    assert min(took) < 1, took


async def test_end_of_many_reads_none_of_their_outputs(claimer, watch, sql):
    """The parent's record of many ends has no outputs, whatever they weigh: reading these would take seconds."""
    _, ids = await parked(claimer, gathering, 40)
    await sql.execute(
        "UPDATE pgqrs_workflows SET status = 'SUCCESS', ready_at = NULL, completed_at = now(), "
        "output = to_json(repeat('x', 20000000)) WHERE id = ANY($1)", ids,
    )  # fmt: skip
    began = time.monotonic()
    assert await woken(watch) == 1
    assert time.monotonic() - began < 1
