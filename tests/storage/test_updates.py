"""Updates below the `Admin`: their statements, their plan, how long they are kept, and crashes at each write."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from functools import partial
from itertools import count

import pytest
from sqlalchemy import event

from pgqrs import Admin, InvariantError, PyWorkflow, Update, UpdateRefusedError, UpdateTimeoutError, step, workflow
from pgqrs.storage.queries import delivery, updates
from pgqrs.storage.writes.outbox import SendingStep, SentReply
from pgqrs.testing import crash_everywhere
from tests.support.database import engine_on
from tests.support.waiting import no_hang, until
from tests.support.workflows import cancel_task

pytest_plugins = ("pytest_pgqrs",)

ADD = Update("add", int, int)
ROWS = 20_000


@workflow
async def doubling(ctx: PyWorkflow) -> int:
    """Reply to one request."""
    request = await ctx.receive(ADD)
    await request.reply(2 * request.value)
    return request.value


async def replies(sql):
    """Return the numbers of replies by workflow."""
    rows = await sql.fetch("SELECT workflow_id FROM pgqrs_messages WHERE address LIKE 'r/%'")
    return Counter(row["workflow_id"] for row in rows)


async def is_asked(sql, many=1):
    return await sql.fetchval("SELECT count(*) FROM pgqrs_messages WHERE address LIKE 'u/%'") >= many


# --- statements ---


async def test_request_is_one_statement_and_so_is_its_reply(admin, claimer, sql):
    journal = claimer.store.journal

    @workflow
    async def counted(ctx: PyWorkflow) -> int:
        request = await ctx.receive(ADD)
        before = journal.statements
        await request.reply(2 * request.value)
        return journal.statements - before

    await claimer.submit(counted)
    before = journal.statements
    caller = asyncio.create_task(admin.update(1, ADD, 5))
    await until(is_asked, sql)
    assert journal.statements - before == 1
    async with no_hang():
        assert await claimer.run(counted) == 1
        assert await caller == 10
    row = await sql.fetchrow(
        "SELECT m.xmin = s.xmin AS same, m.is_new, m.taken_at IS NOT NULL AS is_taken FROM pgqrs_messages m"
        " JOIN pgqrs_workflow_steps s ON s.step_id = 'receive/add:1/answer' WHERE m.address LIKE 'r/%'"
    )
    assert dict(row) == {"same": True, "is_new": False, "is_taken": True}


@pytest.mark.unfaulted("counts statements")
async def test_hundred_waiting_callers_read_together(dsn, schema, admin):
    engine = engine_on(dsn)
    read = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *told: read.append(told[2]))
    async with Admin(engine, schema) as own, no_hang():
        handle = await own.enqueue(doubling)
        answers = await asyncio.gather(
            *(handle.update(ADD, n, timeout=2) for n in range(100)), return_exceptions=True
        )
        assert all(type(each) is UpdateTimeoutError for each in answers)
    await engine.dispose()
    looks = [each for each in read if "asked_key" in each]
    # A look at the beginning, and at most ten a second later on.
    assert 2 <= len(looks) <= 60, len(looks)
    assert len(read) <= len(looks) + 10


async def test_reply_in_this_process_is_read_at_once(admin, claimer, sql):
    """The poller has long rested; the run that replies wakes it, and no other look comes first."""
    state = await admin.loop_state()
    await claimer.submit(doubling)
    caller = asyncio.create_task(admin.update(1, ADD, 5))
    await until(lambda: state.replies._waiting and state.replies._rest >= 0.1)
    state.replies._all_due = asyncio.get_running_loop().time() + 3600  # no look is due
    async with no_hang():
        await claimer.run(doubling)
        assert await caller == 10


# --- plans ---


def nodes(plan):
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


@pytest.mark.new_tables
@pytest.mark.plants_rows
@pytest.mark.timeout(300)
async def test_replies_are_looked_up_by_their_keys(store, schema, sql):
    """The statement is planned on empty tables, and its plan is kept."""
    compiled = store.database.compile(updates.replies)
    given = {
        "workflow_ids": "{5,6,70000}",
        "addresses": "{r/5/add,r/6/add,r/70000/add}",
        "keys": "{k,other,k}",
        "tokens": "{NULL,NULL,1}",
    }
    values = ", ".join(f"'{value}'" for value in compiled.arguments(given))
    driver = await store.database.open_driver(sorting=False)
    try:
        await driver.execute(f"SET search_path = {schema}")
        await driver.execute(f"SET plan_cache_mode = force_generic_plan; PREPARE look AS {compiled.text}")
        await driver.fetch(f"EXECUTE look({values})")
        await sql.execute(
            "INSERT INTO pgqrs_workflows (id, name, input)"
            " SELECT n, 'w', '{}' FROM generate_series(1, $1::int) AS n",
            ROWS,
        )
        await sql.execute(
            "INSERT INTO pgqrs_messages (workflow_id, address, key, payload, taken_at)"
            " SELECT n, 'r/' || n || '/add', 'k', '{}', now() FROM generate_series(1, $1::int) AS n",
            ROWS,
        )
        for state in ("stale statistics", "analyzed"):
            if state == "analyzed":
                await sql.execute("VACUUM ANALYZE pgqrs_workflows")
                await sql.execute("VACUUM ANALYZE pgqrs_messages")
            found = await driver.fetch(f"EXECUTE look({values})")
            assert {row["asked_workflow_id"] for row in found} == {5, 70000}  # 70000 has another token, too
            explained = await driver.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE look({values})")
            (top,) = json.loads(explained) if isinstance(explained, str) else explained
            assert [each for each in nodes(top["Plan"]) if each["Node Type"] == "Seq Scan"] == [], state
            assert top["Plan"]["Shared Hit Blocks"] + top["Plan"]["Shared Read Blocks"] < 60, state
    finally:
        await driver.close()


# --- how long they are kept ---


async def test_reply_is_kept_for_its_caller_and_for_its_key(admin, claimer, sql):
    """A request without a key, and its reply, are deleted an hour after the reply; those with a key stay."""

    @workflow
    async def two(ctx: PyWorkflow) -> None:
        for _ in range(2):
            request = await ctx.receive(ADD)
            await request.reply(2 * request.value)

    handle = await admin.options(key="t").enqueue(two)
    callers = [asyncio.create_task(handle.update(ADD, 5, key=key)) for key in ("k", None)]
    await until(is_asked, sql, 2)
    await admin.options(key="t").run(two)
    async with no_hang():
        assert await asyncio.gather(*callers) == [10, 10]
    statement = claimer.store.database.compile(delivery.delete_received).text
    for age, left in (("59 minutes", ["k", "k", None, None]), ("61 minutes", ["k", "k"])):
        await sql.execute(f"UPDATE pgqrs_messages SET taken_at = now() - interval '{age}'")
        await sql.execute(statement)
        rows = await sql.fetch("SELECT key, is_kept FROM pgqrs_messages ORDER BY is_kept DESC")
        assert [row["key"] if row["is_kept"] else None for row in rows] == left
    assert await handle.update(ADD, 7, key="k") == 10


@pytest.mark.plants_rows
async def test_reply_to_an_unread_request_is_a_violation(admin, sql):
    handle = await admin.enqueue(doubling)
    for kind in "ur":
        await sql.execute(
            "INSERT INTO pgqrs_messages (workflow_id, address, key, payload, taken_at)"
            " VALUES ($1::bigint, $2, 'k', '{}', now())",
            handle.id,
            f"{kind}/{handle.id}/add",
        )
    await admin.verify(deep=True)
    await sql.execute("UPDATE pgqrs_messages SET taken_at = NULL WHERE address LIKE 'u/%'")
    with pytest.raises(InvariantError, match="has answered the request 'k'"):
        await admin.verify(deep=True)


# --- records that are sent twice, and stale runs ---


async def started(store):
    identity = await store.operations.create("w", '{"args": [], "kwargs": {}}')
    return identity.workflow_id, await store.claim(identity.workflow_id)


def answered(workflow_id, claim, step_id, key, payload="1", *, stale=False):
    reply = SentReply(workflow_id, step_id, f"r/{workflow_id}/add", key, True, payload)
    token = claim.token + stale
    return SendingStep(workflow_id, claim.epoch, step_id, "null", None, 0.0, None, token, replies=(reply,))


async def test_reply_that_is_sent_twice_is_written_once(store, sql):
    workflow_id, claim = await started(store)
    for payload in ("1", "1", "2"):
        await store.journal.write(answered(workflow_id, claim, "s", "k", payload))
    assert await replies(sql) == {workflow_id: 1}
    await store.journal.write(answered(workflow_id, claim, "another step", "k", "3"))
    assert await sql.fetchval("SELECT payload FROM pgqrs_messages") == "1"


async def test_reply_of_a_stale_claim_is_not_written(store, sql):
    workflow_id, claim = await started(store)
    with pytest.raises(Exception, match="fenced"):
        await store.journal.write(answered(workflow_id, claim, "s", "k", stale=True))
    assert await replies(sql) == {}


async def test_replies_of_many_runs_share_a_batch(store, sql):
    runs = [await started(store) for _ in range(20)]
    before = store.journal.statements
    await asyncio.gather(*(store.journal.write(answered(own, claim, "s", "k")) for own, claim in runs))
    assert store.journal.statements - before <= 2
    assert await replies(sql) == {own: 1 for own, _ in runs}


# --- crashes ---


class Callers:
    """Callers of another process: they ask each workflow of a name twice, as soon as it is there."""

    def __init__(self, admin, name):
        self._admin = admin
        self._name = name
        self.answers = {}

    async def serve(self):
        while True:
            for each in await self._admin.list_workflows(name=self._name, limit=1000):
                if each.id not in self.answers:
                    self.answers[each.id] = asyncio.gather(*(self._ask(each.id, n) for n in (1, 2)))
            await asyncio.sleep(0.02)

    async def _ask(self, workflow_id, n):
        try:
            return await self._admin.update(workflow_id, ADD, n, key=f"{n}")
        except UpdateRefusedError as error:
            return error.reason


NUMBERS = count(1)


@step
async def draw(ctx: PyWorkflow) -> int:
    """Return another number in each execution."""
    return next(NUMBERS)


@workflow
async def answering(ctx: PyWorkflow) -> dict:
    """Reply to the first request with a number that no other execution draws, and refuse the second one."""
    answers = {}
    first, second = [await ctx.receive(ADD), await ctx.receive(ADD, timeout=3600)]
    answers[str(first.value)] = await draw(ctx)
    await first.reply(answers[str(first.value)])
    await second.refuse("one is enough")
    answers[str(second.value)] = "one is enough"
    return answers


@pytest.mark.timeout(300)
async def test_reply_comes_once_whatever_write_is_lost(kit):
    callers = Callers(kit, "answering")
    serving = asyncio.create_task(callers.serve())
    async with asyncio.timeout(240):
        await crash_everywhere(answering, admin=kit, compare=partial(sorted, key=str))
        found = await kit.list_workflows(name="answering", limit=1000)
        answers = {each: await callers.answers[each] for each in callers.answers}
    await cancel_task(serving)
    assert len(found) >= 2 * 6 + 1
    # The number that the last execution of the step drew is the number that the caller got.
    assert answers == {each.id: [each.output["1"], each.output["2"]] for each in found}
    assert len({str(each) for each in answers.values()}) == len(found)
