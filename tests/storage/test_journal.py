"""The journal writes each record independently of the fate of other records."""

import asyncio
import json
import random
import string
import time
from collections import deque
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial

import asyncpg
import pytest
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import create_async_engine

from pgqrs import (
    Admin,
    DatabaseError,
    DatabaseUnavailableError,
    PyWorkflow,
    WorkflowFencedError,
    step,
    workflow,
)
from pgqrs.errors import RowRefusedError
from pgqrs.storage.journal import backlog as backlog_module
from pgqrs.storage.records import Claim, StoredOutcome
from pgqrs.storage.sql.tokens import new_token
from pgqrs.storage.writes.creation import NewWorkflow
from pgqrs.storage.writes.runs import RunEnd, RunStart
from pgqrs.storage.writes.steps import StepOutcome
from tests.support.journal_records import claimed, offered, submit
from tests.support.waiting import DEADLINE, until
from tests.support.wire import Wire
from tests.support.workflows import cancel_task, numbered

TOLD: ContextVar[str | None] = ContextVar("told", default=None)


async def new_runs(admin, count):
    contexts = await asyncio.gather(*(admin.create_workflow("w") for _ in range(count)))
    await asyncio.gather(*(ctx.start() for ctx in contexts))
    return [ctx.id() for ctx in contexts]


def outcome(workflow_id, step_id="s", output="1", *, epoch=1, began=0.0, claim=0):
    return StepOutcome(workflow_id, epoch, step_id, output, None, began, claim=claim)


@asynccontextmanager
async def held(sql, workflow_id):
    """Hold a workflow's row in an open transaction."""
    async with sql.transaction():
        await sql.execute("SELECT FROM pgqrs_workflows WHERE id = $1 FOR UPDATE", workflow_id)
        yield


@asynccontextmanager
async def engine_admin(dsn, schema, server_settings=None, **arguments):
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=partial(asyncpg.connect, dsn, server_settings=server_settings),
        **arguments,
    )
    try:
        async with Admin(engine, schema) as admin:
            yield admin, engine
    finally:
        await engine.dispose()


@workflow
async def five_steps(ctx: PyWorkflow) -> int:
    return sum([await numbered(ctx, n) for n in range(5)])


LONG_KEY = "".join(random.Random(3).choices(string.printable[:90], k=9000))


async def test_records_behind_a_batch_keep_the_times_of_their_starts(admin, sql, schema):
    await sql.execute(f"""
        CREATE FUNCTION {schema}.wait() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_sleep(1); RETURN new; END';
        CREATE TRIGGER wait BEFORE INSERT ON {schema}.pgqrs_workflow_steps
            FOR EACH ROW WHEN (new.step_id = 'in flight') EXECUTE FUNCTION {schema}.wait()
    """)
    journal = (await admin.store()).journal
    (other,) = await new_runs(admin, 1)
    ctx = await admin.create_workflow("w")
    await ctx.start()
    began = {}

    @step(id="short")
    async def short(ctx: PyWorkflow) -> None:
        began["short"] = time.monotonic()

    @step(id="long")
    async def long(ctx: PyWorkflow) -> None:
        began["long"] = start = time.monotonic()
        await until(lambda: time.monotonic() > start + 0.3)

    in_flight = await submit(journal, outcome(other, "in flight"))
    await until(lambda: journal._in_flight)
    base, at_base = time.monotonic(), await sql.fetchval("SELECT clock_timestamp()")
    async with asyncio.timeout(DEADLINE):
        first = asyncio.create_task(short(ctx))
        await until(lambda: journal._backlog.queue and time.monotonic() > began["short"] + 0.1)
        await asyncio.gather(first, long(ctx), in_flight)
    records = await admin.list_steps(ctx.id())
    assert [each.step_id for each in records] == ["short", "long"]
    for each in records:
        assert abs((each.started_at - at_base).total_seconds() - (began[each.step_id] - base)) < 0.25
        assert (each.completed_at - at_base).total_seconds() > 0.5


@pytest.mark.parametrize(
    ("bad", "sqlstate"),
    [
        ({"output": "{not json"}, "22P02"),
        ({"output": '"\0"'}, "22021"),
        ({"output": '"\ud800"'}, "22000"),
        ({"step_id": LONG_KEY}, "54000"),
        ({"began": -1e300}, "22008"),
        ({"claim": 2**70}, "22000"),
    ],
    ids=["no JSON", "NUL", "lone surrogate", "a key too long", "an interval too long", "not a bigint"],
)
async def test_bad_row_raises_only_in_its_caller(admin, sql, bad, sqlstate):
    journal = (await admin.store()).journal
    ids = await new_runs(admin, 30)
    records = [outcome(workflow_id, f"s{n}") for workflow_id in ids for n in range(2)]
    for place in (7, 8, 41):
        records[place] = outcome(records[place].workflow_id, **({"step_id": "bad"} | bad))
    results = await offered(journal, records)
    for place in (7, 8, 41):
        error = results.pop(7 if place == 7 else place - (1 if place == 8 else 2))
        assert isinstance(error, DatabaseError)
        assert not isinstance(error, DatabaseUnavailableError)
        assert error.sqlstate == sqlstate
    assert results == [StoredOutcome("1", None)] * 57
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflow_steps") == 57
    assert (await offered(journal, [outcome(ids[0], "after")])) == [StoredOutcome("1", None)]


async def test_bad_row_in_a_mixed_batch_fails_alone(admin, sql):
    store = await admin.store()
    started, created, ended, stepping = (
        (await new_runs(admin, 1))[0],
        (await admin.create_workflow("w")).id(),
        *(await new_runs(admin, 2)),
    )
    new = await store.ids.next()
    records = [
        NewWorkflow(new, "new", "{}"),
        RunStart(created, new_token(), store.executor_id),
        outcome(stepping, "good"),
        outcome(stepping, "bad", "]"),
        RunEnd(started, 1, "]", None),
        RunEnd(ended, 1, "5", None),
    ]
    results = await offered(store.journal, records)
    assert [type(result) for result in results] == [
        type(None), Claim, StoredOutcome, RowRefusedError, RowRefusedError, type(None),
    ]  # fmt: skip
    statuses = dict(await sql.fetch("SELECT id, status FROM pgqrs_workflows"))
    assert statuses == {
        new: "PENDING", created: "RUNNING", started: "RUNNING", ended: "SUCCESS", stepping: "RUNNING",
    }  # fmt: skip


async def test_whole_workflow_in_one_batch_is_sent_as_four_statements(admin, sql):
    store = await admin.store()
    new, other = await store.ids.next(), (await new_runs(admin, 1))[0]
    before = store.journal.statements
    start = RunStart(new, new_token(), store.executor_id)
    results = await offered(
        store.journal,
        [
            NewWorkflow(new, "w", "{}"),
            start,
            outcome(other, "x"),
            outcome(new, "a", "1"),
            outcome(new, "b", "2"),
            outcome(other, "y"),
            RunEnd(new, 1, "3", None),
        ],
    )
    assert results == [None, Claim(1, token=start.claim), *[StoredOutcome(n, None) for n in "1121"], None]
    assert store.journal.statements - before == 4
    assert await sql.fetchval("SELECT status FROM pgqrs_workflows WHERE id = $1", new) == "SUCCESS"
    steps = await sql.fetch("SELECT step_id FROM pgqrs_workflow_steps WHERE workflow_id = $1 ORDER BY 1", new)
    assert [each["step_id"] for each in steps] == ["a", "b"]


async def test_first_of_several_outcomes_is_returned_to_all_callers(admin):
    journal = (await admin.store()).journal
    (workflow_id,) = await new_runs(admin, 1)
    results = await offered(journal, [outcome(workflow_id, output=text) for text in ("1", "2", "3")])
    assert results == [StoredOutcome("1", None)] * 3


async def test_stale_epoch_in_a_batch_is_fenced_alone(admin, sql):
    journal = (await admin.store()).journal
    ids = await new_runs(admin, 40)
    stale = ids[17]
    await (await admin.get_workflow(stale)).start()
    results = await offered(
        journal, [*(outcome(each) for each in ids), *(RunEnd(each, 1, "1", None) for each in ids)]
    )
    fenced = {place for place, result in enumerate(results) if isinstance(result, WorkflowFencedError)}
    assert fenced == {17, 57}
    assert [result for result in results if isinstance(result, Exception)] == [results[17], results[57]]
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflow_steps WHERE workflow_id = $1", stale) == 0
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflows WHERE status = 'SUCCESS'") == 39


async def test_step_waiting_for_an_uncommitted_takeover_is_fenced(admin, sql):
    journal = (await admin.store()).journal
    (workflow_id,) = await new_runs(admin, 1)
    async with sql.transaction():
        await sql.execute("UPDATE pgqrs_workflows SET epoch = epoch + 1, claim = -1 WHERE id = $1", workflow_id)
        before = journal.statements
        future = await submit(journal, outcome(workflow_id))
        await until(lambda: journal.statements >= before + 4)  # sent, and sent again
        assert not future.done()
    with pytest.raises(WorkflowFencedError):
        await future
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflow_steps") == 0


async def test_locked_workflow_delays_only_its_own_writes(admin, sql):
    journal = (await admin.store()).journal
    locked, *others = await new_runs(admin, 10)
    async with held(sql, locked):
        stuck = [
            await submit(journal, outcome(locked, "a", "1")),
            await submit(journal, outcome(locked, "b", "2")),
        ]
        stuck.append(await submit(journal, RunEnd(locked, 1, "3", None)))
        for name in "abc":
            assert (
                await offered(journal, [outcome(each, name) for each in others]) == [StoredOutcome("1", None)] * 9
            )
        assert not any(future.done() for future in stuck)
    async with asyncio.timeout(DEADLINE):
        assert await asyncio.gather(*stuck) == [StoredOutcome("1", None), StoredOutcome("2", None), None]
    assert await sql.fetchval("SELECT status FROM pgqrs_workflows WHERE id = $1", locked) == "SUCCESS"


async def test_backlog_is_empty_after_records_waited_for_a_lock(admin, sql):
    journal = (await admin.store()).journal
    (workflow_id,) = await new_runs(admin, 1)
    async with held(sql, workflow_id):
        stuck = [await submit(journal, outcome(workflow_id, "first"))]
        await until(lambda: workflow_id in journal._backlog.blocked.by_key)
        stuck += [await submit(journal, outcome(workflow_id, f"s{n}", json.dumps("x" * 1000))) for n in range(20)]
        before = journal.statements
        await until(lambda: journal.statements >= before + 4)
    await asyncio.gather(*stuck)
    assert (len(journal._backlog.queue), journal._backlog.size) == (0, 0)
    assert (journal._backlog.blocked.by_key, journal._backlog.blocked.delays) == ({}, {})


async def test_fenced_waiting_run_leaves_no_journal_state(admin, sql):
    journal = (await admin.store()).journal
    (workflow_id,) = await new_runs(admin, 1)
    async with held(sql, workflow_id):
        stuck = await submit(journal, outcome(workflow_id))
        await until(lambda: workflow_id in journal._backlog.blocked.by_key)
        await sql.execute("UPDATE pgqrs_workflows SET epoch = 9, claim = -1 WHERE id = $1", workflow_id)
    with pytest.raises(WorkflowFencedError):
        await stuck
    blocked = journal._backlog.blocked
    assert (blocked.by_key, blocked.delays, journal._backlog.size) == ({}, {}, 0)


async def test_write_of_a_cancelled_task_is_recorded_and_replayed(admin, sql):
    calls = []

    @step
    async def counted(ctx: PyWorkflow) -> int:
        calls.append(1)
        return len(calls)

    ctx = await admin.create_workflow("w")
    await ctx.start()
    async with held(sql, ctx.id()):
        task = asyncio.create_task(counted(ctx))
        await until(lambda: calls)
        await asyncio.sleep(0)
        await cancel_task(task)
        again = asyncio.create_task(counted(ctx))
        await asyncio.sleep(0)
        assert not again.done()
    async with asyncio.timeout(DEADLINE):
        assert await again == 1
    assert await counted(ctx) == 1
    assert calls == [1]
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflow_steps") == 1


async def test_cancelled_flusher_does_not_stop_the_journal(admin):
    """As at the end of a loop, or by a program that cancels every task it finds."""
    journal = (await admin.store()).journal
    (workflow_id,) = await new_runs(admin, 1)
    future = await submit(journal, outcome(workflow_id))
    journal._flusher.cancel()
    async with asyncio.timeout(2):
        assert await future == StoredOutcome("1", None)
    async with asyncio.timeout(2):
        assert await numbered(await admin.create_workflow("w"), 1) == 1


async def test_close_returns_during_continuous_writes(admin):
    journal = (await admin.store()).journal
    (run,) = await claimed(journal._database, *map(outcome, await new_runs(admin, 1)))
    written = 0

    async def endless():
        nonlocal written
        while True:
            await journal.write(run._replace(step_id=f"s{written}"))
            written += 1

    writing = asyncio.create_task(endless())
    async with asyncio.timeout(DEADLINE):
        for turns in range(40):
            before = written
            await until(lambda before=before: written > before)
            for _ in range(turns % 4):  # at any moment of a write
                await asyncio.sleep(0)
            await journal.close()
    writing.cancel()
    await asyncio.wait([writing])


async def test_journal_does_not_inherit_the_context_of_its_callers(dsn, schema, admin):
    """Else the driver's timers keep alive what a caller's context variables hold, a run of ours among it."""
    seen = []

    async def connect():
        seen.append(TOLD.get())
        return await asyncpg.connect(dsn)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect)
    async with Admin(engine, schema) as own:
        ctx = await own.create_workflow("w")
        await ctx.start()
        journal = (await own.store()).journal
        await until(lambda: journal._flusher is None)
        journal._connection.dedicated.driver.terminate()
        TOLD.set("a request's secret")
        seen.clear()
        assert await numbered(ctx, 1) == 1
    await engine.dispose()
    assert seen == [None]


class WatchedQueue(deque):
    """Tells how long it ever was, and in which order the records of a workflow came."""

    def __init__(self):
        super().__init__()
        self.longest = 0
        self.order = {}

    def append(self, entry):
        super().append(entry)
        self.longest = max(self.longest, len(self))
        self.order.setdefault(entry.record.workflow_id, []).append(int(entry.record.step_id))


async def test_many_concurrent_records_stay_bounded_and_ordered(admin, sql):
    store = await admin.store()
    # No task executes these runs: a heartbeat would abandon them where the test takes long.
    heartbeat = store.liveness.heartbeat
    heartbeat._limits = heartbeat._limits._replace(unattended=3600.0)
    journal = store.journal
    runs = await claimed(journal._database, *map(outcome, await new_runs(admin, 200)))
    journal._backlog.queue = queue = WatchedQueue()

    async def write(record):
        return await (await submit(journal, record))

    async with asyncio.timeout(45):
        results = await asyncio.gather(
            *(write(each._replace(step_id=str(n))) for n in range(200) for each in runs)
        )
    assert results == [StoredOutcome("1", None)] * 40_000
    assert queue.longest == backlog_module.BACKLOG_ROWS
    assert all(order == list(range(200)) for order in queue.order.values())
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflow_steps") == 40_000
    assert (len(journal._backlog.queue), journal._backlog.size) == (0, 0)


async def test_large_payloads_are_split_into_bounded_batches(admin, monkeypatch, sql):
    monkeypatch.setattr(backlog_module, "MAX_BATCH_SIZE", 100_000)
    monkeypatch.setattr(backlog_module, "BACKLOG_SIZE", 300_000)
    journal = (await admin.store()).journal
    (workflow_id,) = await new_runs(admin, 1)
    text = json.dumps("x" * 30_000)
    sizes = []

    async def write(n):
        future = await submit(journal, outcome(workflow_id, f"s{n}", text))
        sizes.append(journal._backlog.size)
        return await future

    before = journal.statements
    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(*(write(n) for n in range(60)))
    assert max(sizes) < 300_000 + len(text) + 10
    assert 15 <= journal.statements - before <= 25
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflow_steps") == 60


async def test_admitted_writer_is_not_overtaken_and_holds_up_no_other(admin):
    backlog = (await admin.store()).journal._backlog
    first, second = (asyncio.create_task(backlog.wait_for_turn()) for _ in range(2))
    await until(lambda: len(backlog._turns) == 2)
    backlog._admit(1)
    assert backlog.is_full()
    async with asyncio.timeout(DEADLINE):
        await first  # it submits nothing, so no batch leaves and admits the second
        await second
    assert not backlog.is_full()


async def test_locked_workflow_does_not_fill_the_backlog(admin, monkeypatch, sql):
    monkeypatch.setattr(backlog_module, "BACKLOG_SIZE", 20_000)
    journal = (await admin.store()).journal
    locked, other = await new_runs(admin, 2)
    text = json.dumps("x" * 1000)
    async with held(sql, locked):
        stuck = [await submit(journal, outcome(locked, "first"))]
        await until(lambda: locked in journal._backlog.blocked.by_key)
        stuck += [await submit(journal, outcome(locked, f"s{n}", text)) for n in range(15)]
        async with asyncio.timeout(DEADLINE):
            for n in range(30):
                await (await submit(journal, outcome(other, f"s{n}", text)))
    await asyncio.gather(*stuck)


@pytest.mark.parametrize(
    "pool", [{"pool_size": 1, "max_overflow": 0, "pool_timeout": 10}, {"poolclass": NullPool}]
)
async def test_journal_works_with_a_small_pool_or_none(dsn, schema, admin, pool):
    async with engine_admin(dsn, schema, **pool) as (own, engine):
        async with asyncio.timeout(DEADLINE):
            assert await asyncio.gather(*(own.run(five_steps) for _ in range(40))) == [10] * 40
            failed = [await own.create_workflow("w") for _ in range(10)]
            await asyncio.gather(*(ctx.start() for ctx in failed))
            again = [await own.get_workflow(ctx.id()) for ctx in failed]
            assert await asyncio.gather(*(five_steps(ctx) for ctx in again)) == [10] * 10
    if "pool_size" in pool:
        assert engine.pool.checkedout() == 0


async def test_outage_beyond_its_timeout_leaves_runs_resumable(dsn, schema, admin, sql):
    gate = asyncio.Event()
    at_the_gate = []

    @workflow
    async def gated(ctx: PyWorkflow) -> int:
        first = await numbered(ctx, 1)
        at_the_gate.append(ctx.id())
        await gate.wait()
        second = await numbered(ctx, 2)
        return first + second

    async with Wire(dsn, sql) as wire, Admin(wire.dsn, schema, timeout=5, outage_timeout=0.5) as own:
        contexts = [await own.create_workflow("gated") for _ in range(10)]
        runs = [asyncio.create_task(gated(ctx)) for ctx in contexts]
        await until(lambda: len(at_the_gate) == 10)
        await wire.cut()
        gate.set()
        started = asyncio.get_running_loop().time()
        async with asyncio.timeout(DEADLINE):
            results = await asyncio.gather(*runs, return_exceptions=True)
        assert asyncio.get_running_loop().time() - started < 5
        assert [type(result) for result in results] == [DatabaseUnavailableError] * 10
        assert len({id(result) for result in results}) == 10
        for ctx in contexts:
            with pytest.raises(DatabaseUnavailableError):
                await numbered(ctx, 3)
        await wire.restore()
        async with asyncio.timeout(DEADLINE):
            assert await gated(contexts[0]) == 3
            again = [await own.get_workflow(ctx.id()) for ctx in contexts[1:]]
            assert await asyncio.gather(*(gated(ctx) for ctx in again)) == [3] * 9
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflow_steps") == 20


async def test_outage_within_its_timeout_is_waited_for(dsn, schema, admin, sql):
    async with Wire(dsn, sql) as wire, Admin(wire.dsn, schema, outage_timeout=30) as own:
        await own.run(five_steps)
        await wire.cut()
        running = [asyncio.create_task(own.run(five_steps)) for _ in range(10)]
        _, pending = await asyncio.wait(running, timeout=0.3)
        assert len(pending) == 10
        await wire.restore()
        async with asyncio.timeout(DEADLINE):
            assert await asyncio.gather(*running) == [10] * 10


async def test_idle_connection_closed_by_the_server_is_replaced(admin, sql):
    await admin.run(five_steps)
    journal = (await admin.store()).journal
    pid = journal._connection.dedicated.driver.get_server_pid()
    await sql.execute("SELECT pg_terminate_backend($1, 5000)", pid)
    assert await admin.run(five_steps) == 10


async def test_batch_is_sent_again_after_a_deadlock(admin, sql):
    journal = (await admin.store()).journal
    (workflow_id,) = await new_runs(admin, 1)
    await sql.execute("SET deadlock_timeout = '60s'")
    transaction = sql.transaction()
    await transaction.start()
    await sql.execute(
        "INSERT INTO pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, reopened)"
        " VALUES ($1, 's', 'SUCCESS', 1, now(), false)", workflow_id,
    )  # fmt: skip
    before = journal.statements
    future = await submit(journal, outcome(workflow_id))  # locks the workflow, waits for the step
    await until(lambda: journal.statements > before)
    async with asyncio.timeout(DEADLINE):  # waits for the workflow, and the journal is the victim
        await sql.execute("SELECT FROM pgqrs_workflows WHERE id = $1 FOR UPDATE", workflow_id)
        assert not future.done()
        await transaction.rollback()
        assert await future == StoredOutcome("1", None)


@pytest.mark.parametrize(
    "settings",
    [
        {"default_transaction_isolation": "serializable"},
        {"default_transaction_isolation": "repeatable read", "default_transaction_deferrable": "on"},
        {"plan_cache_mode": "force_custom_plan", "jit": "on", "jit_above_cost": "0"},
        {"DateStyle": "German, DMY", "IntervalStyle": "sql_standard", "TimeZone": "Pacific/Chatham"},
        {"search_path": "", "standard_conforming_strings": "off", "client_min_messages": "debug5"},
        {"row_security": "off", "default_tablespace": "", "synchronize_seqscans": "off"},
    ],
    ids=", ".join,
)
async def test_journal_works_with_default_settings_of_a_role(dsn, schema, admin, settings):
    async with engine_admin(dsn, schema, settings) as (own, _), asyncio.timeout(DEADLINE):
        contexts = [await own.create_workflow("five_steps") for _ in range(20)]
        rivals = [await own.get_workflow(ctx.id()) for ctx in contexts]
        await asyncio.gather(*(ctx.start() for ctx in [*contexts, *rivals]))
        again = [await own.get_workflow(ctx.id()) for ctx in contexts]
        assert await asyncio.gather(*(five_steps(ctx) for ctx in again)) == [10] * 20


@pytest.mark.parametrize(
    "setting", ["statement_timeout", "lock_timeout", "transaction_timeout", "idle_session_timeout"]
)
async def test_short_timeouts_of_a_role_do_not_break_a_waiting_write(dsn, schema, admin, sql, setting):
    if not await sql.fetchval("SELECT count(*) FROM pg_settings WHERE name = $1", setting):
        pytest.skip(f"this server has no {setting}")
    (workflow_id,) = await new_runs(admin, 1)
    async with engine_admin(dsn, schema, {setting: "300ms"}, poolclass=NullPool) as (own, _):
        journal = (await own.store()).journal
        async with asyncio.timeout(DEADLINE):
            async with sql.transaction():
                await sql.execute(
                    "INSERT INTO pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, reopened)"
                    " VALUES ($1, 's', 'RUNNING', 1, now(), false)", workflow_id,
                )  # fmt: skip
                future = await submit(journal, outcome(workflow_id))
                done, _ = await asyncio.wait([future], timeout=0.8)
                assert not done
            assert await future == StoredOutcome("1", None)
            await asyncio.sleep(0.5)  # longer than a session may be idle
            assert await offered(journal, [outcome(workflow_id, "after")]) == [StoredOutcome("1", None)]


async def test_late_copy_of_a_start_does_not_undo_the_end_of_its_run(admin, sql):
    """A network that heals delivers what the client gave up long ago; see what the sending then finds."""
    store = await admin.store()
    journal = store.journal
    ctx = await admin.create_workflow("w")
    start = RunStart(ctx.id(), new_token(), store.executor_id)
    assert await offered(journal, [start]) == [Claim(1, token=start.claim)]
    assert await offered(journal, [RunEnd(ctx.id(), 1, None, '{"message": "no"}')]) == [None]
    late = await submit(journal, start)
    await asyncio.wait([late], timeout=1)
    row = await sql.fetchrow("SELECT status, error FROM pgqrs_workflows WHERE id = $1", ctx.id())
    assert tuple(row) == ("ERROR", '{"message": "no"}')


@pytest.mark.plants_rows
async def test_late_copies_of_other_records_change_nothing(admin, sql):
    journal = (await admin.store()).journal
    store = await admin.store()
    new = await store.ids.next()
    create, end = NewWorkflow(new, "w", "{}"), RunEnd(new, 1, None, '{"message": "no"}', ("s",))
    failed = StepOutcome(new, 1, "s", None, "{}", 0.0)
    start = RunStart(new, new_token(), store.executor_id)
    assert await offered(journal, [create, start, failed, end]) == [
        None, Claim(1, token=start.claim), StoredOutcome(None, "{}"), None,
    ]  # fmt: skip
    everything = "SELECT w::text, s::text FROM pgqrs_workflows w JOIN pgqrs_workflow_steps s ON workflow_id = w.id"
    before = await sql.fetch(everything)
    assert await offered(journal, [create, failed, end]) == [None, StoredOutcome(None, "{}"), None]
    assert await sql.fetch(everything) == before
    again = start._replace(claim=new_token())
    assert await offered(journal, [again]) == [Claim(2, token=again.claim)]
    before = await sql.fetch(everything)
    results = await offered(journal, [create, failed, end])
    assert [type(result) for result in results] == [type(None), WorkflowFencedError, WorkflowFencedError]
    assert await sql.fetch(everything) == before
