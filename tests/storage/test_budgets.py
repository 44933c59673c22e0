"""Limits of the hot path: statements of the journal and of the engine, and round trips."""

import asyncio
import selectors
from contextlib import contextmanager

import pytest
import pytest_asyncio
from sqlalchemy import event

from pgqrs import Admin, PyWorkflow, Worker, workflow
from pgqrs.testing import run_enqueued
from tests.support.admins import limit
from tests.support.database import engine_on
from tests.support.waiting import until
from tests.support.wire import Wire
from tests.support.workflows import Killed, numbered


@workflow
async def counting(ctx: PyWorkflow, steps: int) -> int:
    return sum([await numbered(ctx, n) for n in range(steps)])


@pytest_asyncio.fixture
async def own_engine(dsn, schema, admin):
    engine = engine_on(dsn)
    yield engine
    await engine.dispose()


@contextmanager
def statements_of(engine):
    """Collect what is executed through an engine."""
    seen = []

    def note(*told):
        seen.append(told[2])

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", note)


async def _ids_in_stock(admin):
    """Use the admin until it has ids reserved, so that the next workflow needs none."""
    store = await admin.store()
    while len(store.ids) < 2:
        await admin.create_workflow("w")
    return store.journal


async def test_sequential_step_sends_one_statement_and_no_read(own_engine, schema):
    async with Admin(own_engine, schema) as admin:
        journal = await _ids_in_stock(admin)
        ctx = await admin.create_workflow("w")
        await ctx.start()
        with statements_of(own_engine) as read:
            for n in range(10):
                before = journal.statements
                assert await numbered(ctx, n) == n
                assert journal.statements - before == 1
            await numbered(ctx, 3)
            assert journal.statements - before == 1
        assert read == []


@pytest.mark.parametrize("steps", [0, 1, 7])
async def test_workflow_sends_two_statements_beside_its_steps(own_engine, schema, steps):
    async with Admin(own_engine, schema) as admin:
        journal = await _ids_in_stock(admin)
        before = journal.statements
        with statements_of(own_engine) as read:
            await admin.run(counting, steps)
        assert journal.statements - before == steps + 2  # the start, which creates it, and the end
        assert read == []


class _Turns(selectors.DefaultSelector):
    """Counts the turns of an event loop: it looks for events once in each."""

    count = 0

    def select(self, timeout=None):
        self.count += 1
        return super().select(timeout)


def test_sequential_step_takes_two_turns_of_the_event_loop(dsn, schema, admin):
    turns = _Turns()

    async def take(steps):
        async with Admin(dsn, schema) as own:
            await own.run(counting, 3)  # the connection knows the statements now
            ctx = await own.create_workflow("w")
            await ctx.start()
            before = turns.count
            for n in range(steps):
                await numbered(ctx, n)
            return turns.count - before

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(turns)) as runner:
        took = runner.run(take(200))
    assert 2 * 200 <= took < 2.2 * 200  # now and then a timer has a turn of its own


async def test_each_statement_takes_one_round_trip(dsn, schema, admin, sql):
    async with Wire(dsn, sql) as wire, Admin(wire.dsn, schema) as own:
        limit(own, heartbeat_interval=3600.0)  # or the beats would count
        await own.run(counting, 3)  # the connection knows the statements now
        await _ids_in_stock(own)
        for steps in (1, 5, 20):
            await _ids_in_stock(own)
            before = wire.exchanges
            await own.run(counting, steps)
            assert wire.exchanges - before == steps + 2


async def test_gathered_steps_send_at_most_two_statements(admin):
    journal = await _ids_in_stock(admin)
    ctx = await admin.create_workflow("w")
    await ctx.start()
    before = journal.statements
    assert await asyncio.gather(*(numbered(ctx, n) for n in range(100))) == list(range(100))
    assert journal.statements - before <= 2


async def test_second_run_reads_its_history_once_and_writes_no_step(own_engine, schema):
    @workflow
    async def killed(ctx: PyWorkflow) -> None:
        for n in range(20):
            await numbered(ctx, n)
        raise Killed

    async with Admin(own_engine, schema) as admin:
        journal = await _ids_in_stock(admin)
        ctx = await admin.create_workflow("counting")
        with pytest.raises(Killed):
            await killed(ctx)
        before = journal.statements
        with statements_of(own_engine) as read:
            assert await counting(ctx, 20) == 190
        assert journal.statements - before == 3  # the crashed run is given up; the start and the end
        assert len(read) == 2
        assert "pgqrs_workflow_steps" in read[0]
        assert "pgqrs_workflows" in read[1]  # its deadline and retries, on the same connection
        with statements_of(own_engine) as read:
            assert await counting(ctx, 20) == 190  # the recorded output
        assert read == []
        assert journal.statements - before <= 5


async def test_concurrent_workflows_share_statements(admin):
    journal = await _ids_in_stock(admin)
    await asyncio.gather(*(admin.run(counting, 5) for _ in range(50)))
    before = journal.statements
    assert await asyncio.gather(*(admin.run(counting, 5) for _ in range(50))) == [10] * 50
    assert journal.statements - before <= 40  # 400 records


async def test_created_workflows_reserve_their_ids_in_blocks(own_engine, schema):
    async with Admin(own_engine, schema) as admin:
        with statements_of(own_engine) as read:
            contexts = await asyncio.gather(*(admin.create_workflow("w") for _ in range(1000)))
        assert sorted(ctx.id() for ctx in contexts) == list(range(1, 1001))
        assert len([each for each in read if "nextval" in each]) <= 11


async def test_new_journal_connection_takes_few_round_trips(dsn, schema, admin, sql):
    async with Wire(dsn, sql) as wire, Admin(wire.dsn, schema) as own:
        store = await own.store()
        await own.list_workflows(limit=0)
        before = wire.exchanges
        driver = await store.database.open_driver()
        assert wire.exchanges - before <= 8
        await driver.close()


async def test_heartbeat_takes_one_round_trip_for_each_beat(dsn, schema, admin, sql):
    async with Wire(dsn, sql) as wire, Admin(wire.dsn, schema) as own:
        limit(own, heartbeat_interval=3600.0)
        store = await own.store()
        await store.tables.ensure()
        before, connections = wire.exchanges, wire.connections
        await store.ensure_heartbeat()
        assert (
            wire.exchanges - before <= 25
        )  # most of them are SQLAlchemy's, for the first connection of an engine
        assert wire.connections - connections == 1
        beating = own._loops.heartbeat._beating
        before = wire.exchanges
        beating._loop.call_soon_threadsafe(beating._wake)
        await until(lambda: wire.exchanges > before)
        assert wire.exchanges - before == 1


async def test_separately_created_workflow_sends_one_more_statement(admin):
    journal = await _ids_in_stock(admin)
    before = journal.statements
    assert await counting(await admin.create_workflow("counting"), 5) == 10
    assert journal.statements - before == 5 + 3


async def test_enqueue_sends_one_statement_and_enqueue_many_few(own_engine, schema):
    async with Admin(own_engine, schema) as admin:
        journal = await _ids_in_stock(admin)
        before = journal.statements
        await admin.enqueue(counting, 5)
        assert journal.statements - before == 1
        with statements_of(own_engine) as seen:
            await admin.enqueue_many(counting, [(5,)] * 10_000)
        assert journal.statements - before == 1
        assert len([each for each in seen if "INSERT" in each or "nextval" in each]) <= 6


async def test_worker_reads_no_history_for_a_first_run(own_engine, schema):
    async with Admin(own_engine, schema) as admin:
        journal = await _ids_in_stock(admin)
        handles = await admin.enqueue_many(counting, [(5,)] * 50)
        before = journal.statements
        with statements_of(own_engine) as seen:
            async with asyncio.timeout(20), Worker(admin, [counting]):
                assert [await handle.result() for handle in handles] == [10] * 50
        assert journal.statements - before <= 50  # 300 records
        assert [each for each in seen if "pgqrs_workflow_steps" in each] == []


@workflow
async def plain(ctx: PyWorkflow, number: int = 0) -> int:
    return number


@workflow
async def without(ctx: PyWorkflow) -> int:
    await ctx.set_event("e", 1)
    await (await ctx.start(plain, 3))
    await (await ctx.options(key="own").start(plain, 4))
    return 9


async def test_a_workflow_without_attributes_costs_nothing(admin, sql):
    handle, named = await admin.enqueue(plain), await admin.options(key="k", partition_key="p").enqueue(plain)
    # Any statement that names the table, or writes an entry of its indexes, would fail.
    await sql.execute("ALTER TABLE pgqrs_attributes RENAME TO pgqrs_hidden")
    parent = await admin.enqueue(without)
    await admin.options(unique="u").enqueue(plain)
    await admin.options(unique="u", taken="replace").enqueue(plain, 1)
    await run_enqueued(admin, [plain, without])
    assert [await each.result() for each in (handle, named, parent)] == [0, 0, 9]
    journal = (await admin.store()).journal
    before = journal.statements
    await admin.enqueue(plain)
    assert journal.statements == before + 1
    await sql.execute("ALTER TABLE pgqrs_hidden RENAME TO pgqrs_attributes")
    before = journal.statements
    await admin.options(attributes={"a": 1}).enqueue(plain)
    assert journal.statements == before + 1  # and attributes take no statement of their own
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_attributes") == 1
    # A workflow that succeeds has no entry in the index of the failed ones.
    await sql.execute("VACUUM pgqrs_workflows")
    entries = "SELECT reltuples FROM pg_class WHERE oid = 'ix_pgqrs_workflows_failed'::regclass"
    assert await sql.fetchval(entries) == 0
