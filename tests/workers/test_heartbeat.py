"""The heartbeat of an executor: its row, its lock, cancellations, abandoned runs, and the clock."""

import asyncio
import gc
import threading
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from pgqrs import Admin, DatabaseUnavailableError, NotInstalledError, WorkflowStatus
from pgqrs.clock import ClockReading, MonotonicClock
from pgqrs.storage.queries import executors as executor_queries
from pgqrs.storage.queries.executors import ABANDONED
from pgqrs.storage.server_clock import ServerClock
from pgqrs.storage.writes.runs import RunEnd, RunRelease
from tests.support.admins import limit
from tests.support.database import connected
from tests.support.executors import watching
from tests.support.journal_records import end_run, enqueue, leave_run
from tests.support.recorded import row_of
from tests.support.waiting import until
from tests.support.wire import Wire
from tests.support.workflows import cancel_task

HOUR = 3600.0
OFTEN = 0.02


def beating(target, schema, beat, **options):
    """Return an `Admin` whose beat is as often as the test wants; a beat an hour leaves the work to what wakes it."""
    own = Admin(target, schema, **options)
    limit(own, heartbeat_interval=beat)
    return own


@asynccontextmanager
async def store_of(target, schema, beat=HOUR, **options):
    async with beating(target, schema, beat, **options) as own:
        yield await own.store()


async def executors(sql):
    return await sql.fetch("SELECT * FROM pgqrs_executors")


async def one_executor(sql):
    (row,) = await executors(sql)
    return row


async def lock_holder(sql):
    """Return the process that holds the lock of the one executor, if any does."""
    rows = await sql.fetch(
        "SELECT l.pid FROM pg_locks l JOIN pgqrs_executors e ON l.classid::bigint << 32 | l.objid::bigint = e.lock_key"
        " WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1"
    )
    return rows[0]["pid"] if rows else None


def heartbeat_threads():
    return [thread for thread in threading.enumerate() if thread.name == "pgqrs-heartbeat" and thread.is_alive()]


async def in_own_event_loop(coroutine):
    return await asyncio.to_thread(asyncio.run, coroutine)


# Registration

STRICT = """
    CREATE FUNCTION known() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.executor IS NOT NULL AND NOT EXISTS (SELECT FROM {schema}.pgqrs_executors WHERE id = NEW.executor)
        THEN RAISE 'nobody knows this executor'; END IF;
        RETURN NEW; END $$;
    CREATE TRIGGER known BEFORE INSERT OR UPDATE ON pgqrs_workflows FOR EACH ROW EXECUTE FUNCTION known()
"""


@pytest.mark.parametrize("way", ["begin", "claim", "watch"])
async def test_an_executor_is_registered_before_a_run_names_it(dsn, schema, admin, sql, way):
    await sql.execute(STRICT.format(schema=schema))
    queued = await enqueue(await admin.store(), "w", "{}", queue="default")
    async with store_of(dsn, schema) as store:
        assert await executors(sql) == []
        if way == "begin":
            queued, _ = await store.create_and_claim("w", "{}")
        elif way == "claim":
            await store.claim(queued)
        else:
            async with watching(store) as watch:
                assert [run.workflow_id for run in await watch.claim(["w"], ["default"], 1)] == [queued]
        row = await one_executor(sql)
        assert (row["id"], row["stopped_at"]) == (store.executor_id, None)
        assert (await row_of(sql, queued))["executor"] == store.executor_id
        await end_run(store, RunEnd(queued, 1, "1", None))


async def test_store_without_a_run_has_no_heartbeat(dsn, schema, admin, sql):
    async with store_of(dsn, schema) as store:
        workflow_id, _ = await store.operations.create("w", "{}")
        await enqueue(store, "w", "{}", queue="default")
        await store.reader.workflow(workflow_id)
        await store.operations.cancel(workflow_id, interrupt=False)
        assert heartbeat_threads() == []
    assert await executors(sql) == []


async def test_concurrent_runs_wait_for_one_registration(dsn, schema, admin, sql):
    await sql.execute(STRICT.format(schema=schema))
    async with store_of(dsn, schema) as store:
        begun = await asyncio.gather(*(store.create_and_claim("w", "{}") for _ in range(50)))
        assert len(await executors(sql)) == 1
        assert len(heartbeat_threads()) == 1
        for workflow_id, claim in begun:
            await end_run(store, RunEnd(workflow_id, claim.epoch, "1", None))


async def test_failed_registration_raises_and_can_be_retried(dsn, schema, admin, sql):
    async with Wire(dsn, sql) as wire, store_of(wire.dsn, schema, outage_timeout=0.5) as store:
        await store.operations.create("w", "{}")
        await wire.cut()
        told = await asyncio.gather(*(store.create_and_claim("w", "{}") for _ in range(3)), return_exceptions=True)
        assert [type(each) for each in told] == [DatabaseUnavailableError] * 3
        await until(lambda: heartbeat_threads() == [])
        assert await executors(sql) == []
        await wire.restore()
        workflow_id, claim = await store.create_and_claim("w", "{}")
        assert (await one_executor(sql))["id"] == store.executor_id
        await end_run(store, RunEnd(workflow_id, claim.epoch, "1", None))


async def test_a_cancelled_start_leaves_no_heartbeat(dsn, schema, admin, sql):
    async with store_of(dsn, schema) as store:
        starting = asyncio.create_task(store.ensure_heartbeat())
        await until(heartbeat_threads)
        await cancel_task(starting)
    await until(lambda: heartbeat_threads() == [])


async def test_a_cancelled_close_ends_the_heartbeat(dsn, schema, admin, sql):
    for turns in (1, 2, 3, 5, 8, 13, 21):
        async with beating(dsn, schema, HOUR) as own:
            await (await own.store()).ensure_heartbeat()
            closing = asyncio.create_task(own.close())
            for _ in range(turns):
                await asyncio.sleep(0)
            await cancel_task(closing)
            await until(lambda: heartbeat_threads() == [])
    assert [row for row in await executors(sql) if row["stopped_at"] is None] == []


async def test_heartbeat_reports_missing_tables(dsn, schema):
    async with store_of(dsn, schema) as store:
        with pytest.raises(NotInstalledError):
            await store.ensure_heartbeat()
        with pytest.raises(NotInstalledError):
            await store.create_and_claim("w", "{}")
    await until(lambda: heartbeat_threads() == [])


# Signs of life


async def test_executor_holds_its_lock_until_it_closes(dsn, schema, admin, sql):
    async with store_of(dsn, schema) as store:
        await store.ensure_heartbeat()
        await until(lambda: lock_holder(sql))
        key = (await one_executor(sql))["lock_key"]
        assert not await sql.fetchval("SELECT pg_try_advisory_lock($1)", key)
    assert await sql.fetchval("SELECT pg_try_advisory_lock($1)", key)
    await sql.execute("SELECT pg_advisory_unlock($1)", key)


async def test_executor_lock_is_held_before_the_first_run(dsn, schema, admin, sql):
    for _ in range(10):
        async with store_of(dsn, schema) as store:
            await store.ensure_heartbeat()
            assert await lock_holder(sql) is not None


CHANGED = {
    "expires": "UPDATE pgqrs_executors SET expires_at = now() - interval '1 s'",
    "is suspected": "UPDATE pgqrs_executors SET suspected_at = now()",
    "is marked stopped": "UPDATE pgqrs_executors SET stopped_at = now()",
    "is deleted": "DELETE FROM pgqrs_executors",
}


@pytest.mark.parametrize("change", CHANGED)
async def test_heartbeat_repairs_the_executor_row(dsn, schema, admin, sql, change):
    alive = (
        "SELECT count(*) = 1 FROM pgqrs_executors"
        " WHERE expires_at > now() + interval '10 s' AND suspected_at IS NULL AND stopped_at IS NULL"
    )
    async with store_of(dsn, schema, OFTEN) as store:
        await store.ensure_heartbeat()
        assert await sql.fetchval(alive)
        await sql.execute(CHANGED[change])
        await until(lambda: sql.fetchval(alive))
        assert (await one_executor(sql))["id"] == store.executor_id


async def test_executor_lock_is_retaken_after_a_lost_connection(dsn, schema, admin, sql):
    async with store_of(dsn, schema) as store:
        await store.ensure_heartbeat()
        for _ in range(3):
            await until(lambda: lock_holder(sql))
            before = await lock_holder(sql)
            await sql.execute("SELECT pg_terminate_backend($1, 5000)", before)
            await until(lambda: lock_holder(sql))
            assert await lock_holder(sql) != before


async def test_heartbeat_resumes_after_an_outage(dsn, schema, admin, sql):
    async with Wire(dsn, sql) as wire, store_of(wire.dsn, schema, OFTEN) as store:
        await store.ensure_heartbeat()
        await wire.cut()
        await until(lambda: _lock_is_free(sql))
        await sql.execute("UPDATE pgqrs_executors SET expires_at = now()")
        await wire.restore()
        await until(lambda: lock_holder(sql))
        await until(lambda: sql.fetchval("SELECT expires_at > now() FROM pgqrs_executors"))


async def _lock_is_free(sql):
    return await lock_holder(sql) is None


async def test_heartbeat_reconnects_after_a_silent_server(dsn, schema, admin, sql):
    async with Wire(dsn, sql) as wire, store_of(wire.dsn, schema, OFTEN, timeout=0.2) as store:
        await store.ensure_heartbeat()
        before = await lock_holder(sql)
        wire.mute()
        await until(lambda: _lock_is_free(sql))
        wire._muted = False
        await until(lambda: lock_holder(sql))
        assert await lock_holder(sql) != before


async def test_heartbeat_continues_while_the_event_loop_is_blocked(dsn, schema, admin, sql):
    """A computation in a step blocks the loop; the thread of the pulse is another."""
    began, go_on = threading.Event(), threading.Event()

    async def blocking():
        async with store_of(dsn, schema, OFTEN) as store:
            await store.ensure_heartbeat()
            began.set()
            go_on.wait(20)

    task = asyncio.create_task(in_own_event_loop(blocking()))
    try:
        await until(began.is_set)
        await sql.execute("UPDATE pgqrs_executors SET expires_at = now()")
        await until(lambda: sql.fetchval("SELECT expires_at > now() FROM pgqrs_executors"))
    finally:
        go_on.set()
        await task


async def test_idle_session_timeout_does_not_lose_the_executor_lock(dsn, schema, admin, sql):
    async def connect():
        return await asyncpg.connect(dsn, server_settings={"idle_session_timeout": "100ms"})

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect)
    async with store_of(engine, schema) as store:
        await store.ensure_heartbeat()
        await sql.execute("SELECT pg_sleep(0.3)")
        await until(lambda: lock_holder(sql))
        assert (await one_executor(sql))["stopped_at"] is None
    await engine.dispose()


# The end


async def test_closed_executor_leaves_no_row(dsn, schema, admin, sql):
    async with store_of(dsn, schema) as store:
        workflow_id, claim = await store.create_and_claim("w", "{}")
        await end_run(store, RunEnd(workflow_id, claim.epoch, "1", None))
    assert await executors(sql) == []


@pytest.mark.parametrize("beat", [OFTEN, HOUR])
async def test_executor_with_a_live_run_is_marked_stopped(dsn, schema, admin, sql, beat):
    async with store_of(dsn, schema, beat) as store:
        workflow_id, _ = await store.create_and_claim("w", "{}")
    row = await one_executor(sql)
    assert row["stopped_at"] is not None
    assert await lock_holder(sql) is None
    async with watching(await admin.store()) as watch:
        assert (await watch.run_maintenance(["w"], ["default"])).recovered == 1
        (run,) = await watch.claim(["w"], ["default"], 1)
        assert (run.workflow_id, run.epoch) == (workflow_id, 3)


async def test_close_leaves_no_thread_and_no_connection(dsn, schema, admin, sql):
    async with Wire(dsn, sql) as wire:
        for beat in (OFTEN, HOUR):
            async with store_of(wire.dsn, schema, beat) as store, watching(store):
                assert len(heartbeat_threads()) == 1
                assert wire.connections >= 1
            await wire.quiet()
            await until(lambda: heartbeat_threads() == [])


async def test_close_during_an_outage_returns_and_leaves_no_thread(dsn, schema, admin, sql):
    async with Wire(dsn, sql) as wire:
        own = beating(wire.dsn, schema, OFTEN, timeout=0.3)
        await (await own.store()).ensure_heartbeat()
        wire.mute()
        async with asyncio.timeout(5):
            await own.close()
        await until(lambda: heartbeat_threads() == [])
    await until(lambda: _lock_is_free(sql))


async def test_reused_admin_starts_a_new_heartbeat(dsn, schema, admin, sql):
    own = beating(dsn, schema, HOUR)
    for _ in range(3):
        await (await own.store()).ensure_heartbeat()
        assert (await one_executor(sql))["stopped_at"] is None
        assert await lock_holder(sql) is not None
        await own.close()
        assert await executors(sql) == []


async def test_concurrent_close_and_start_leave_a_live_executor(dsn, schema, admin, sql):
    """The end of the old pulse must not take away what the new one has written."""
    async with beating(dsn, schema, HOUR) as own:
        store = await own.store()
        for _ in range(20):
            await store.ensure_heartbeat()
            closing = asyncio.create_task(store.close())
            await asyncio.sleep(0)
            workflow_id, claim = await store.create_and_claim("w", "{}")
            await closing
            assert await sql.fetchval("SELECT count(*) FROM pgqrs_executors WHERE stopped_at IS NULL") == 1
            await until(lambda: lock_holder(sql))
            await end_run(store, RunEnd(workflow_id, claim.epoch, "1", None))


async def test_dropped_admin_stops_its_heartbeat_with_the_loop(dsn, schema, admin, sql):
    async def drop():
        await (await Admin(dsn, schema).store()).ensure_heartbeat()
        gc.collect()

    await in_own_event_loop(drop())
    await until(lambda: heartbeat_threads() == [])
    assert await executors(sql) == []


# Several loops


async def test_event_loops_share_a_heartbeat_until_the_last_close(dsn, schema, admin, sql):
    own = beating(dsn, schema, OFTEN)
    joined, go_on = threading.Event(), threading.Event()

    async def other():
        await (await own.store()).ensure_heartbeat()
        joined.set()
        await asyncio.to_thread(go_on.wait, 20)
        await own.close()

    store = await own.store()
    await store.ensure_heartbeat()
    task = asyncio.create_task(in_own_event_loop(other()))
    await until(joined.is_set)
    assert len(heartbeat_threads()) == 1
    assert (await one_executor(sql))["id"] == store.executor_id
    await own.close()
    await sql.execute("UPDATE pgqrs_executors SET expires_at = now()")
    await until(lambda: sql.fetchval("SELECT expires_at > now() FROM pgqrs_executors"))
    go_on.set()
    await task
    await until(lambda: heartbeat_threads() == [])
    assert await executors(sql) == []


async def test_two_admins_are_two_executors(dsn, schema, admin, sql):
    async with store_of(dsn, schema) as one, store_of(dsn, schema) as other:
        await asyncio.gather(one.ensure_heartbeat(), other.ensure_heartbeat())
        assert {row["id"] for row in await executors(sql)} == {one.executor_id, other.executor_id}
        assert len(heartbeat_threads()) == 2


async def test_successive_event_loops_have_heartbeats(dsn, schema, admin, sql):
    own = beating(dsn, schema, HOUR)

    async def one():
        workflow_id, claim = await (await own.store()).create_and_claim("w", "{}")
        await end_run(await own.store(), RunEnd(workflow_id, claim.epoch, "1", None))

    for _ in range(3):
        await in_own_event_loop(one())
        assert await executors(sql) == []
        await until(lambda: heartbeat_threads() == [])


# Cancellations


class Live:
    """A run that notes what is asked of it."""

    def __init__(self):
        self.asked = []
        self.threads = set()

    @property
    def busy_with(self):
        return None

    def cancel(self, *, interrupt):
        self.asked.append(interrupt)
        self.threads.add(threading.current_thread())


async def live_run(store):
    workflow_id, claim = await store.create_and_claim("w", "{}")
    store.runs[workflow_id] = live = Live()
    return workflow_id, claim.epoch, live


@pytest.mark.parametrize("interrupt", [False, True])
async def test_cancellation_by_another_admin_arrives_at_once(dsn, schema, admin, sql, interrupt):
    async with store_of(dsn, schema) as store:
        workflow_id, epoch, live = await live_run(store)
        _, other_epoch, other = await live_run(store)
        await (await admin.store()).operations.cancel(workflow_id, interrupt=interrupt)
        await until(lambda: live.asked)
        assert set(live.asked) == {interrupt}
        assert live.threads == {threading.current_thread()}
        assert other.asked == []
        await leave_run(store, RunRelease(workflow_id, epoch, WorkflowStatus.CANCELLED))
        await end_run(store, RunEnd(max(store.runs), other_epoch, "1", None))


async def test_heartbeat_delivers_a_cancellation_without_notification(dsn, schema, admin, sql):
    async with store_of(dsn, schema, OFTEN) as store:
        workflow_id, epoch, live = await live_run(store)
        await sql.execute("UPDATE pgqrs_workflows SET cancel_interrupts = true")
        await until(lambda: live.asked)
        assert set(live.asked) == {True}
        await leave_run(store, RunRelease(workflow_id, epoch, WorkflowStatus.CANCELLED))


async def test_cancellation_arrives_after_a_lost_connection(dsn, schema, admin, sql):
    async with store_of(dsn, schema) as store:
        workflow_id, epoch, live = await live_run(store)
        before = await lock_holder(sql)
        await sql.execute("UPDATE pgqrs_workflows SET cancel_interrupts = false")  # its notification is lost
        await sql.execute("SELECT pg_terminate_backend($1, 5000)", before)
        await until(lambda: live.asked)
        assert set(live.asked) == {False}
        await leave_run(store, RunRelease(workflow_id, epoch, WorkflowStatus.CANCELLED))


async def test_cancellation_in_the_same_store_needs_no_connection(dsn, schema, admin, sql):
    async with store_of(dsn, schema) as store:
        workflow_id, epoch, live = await live_run(store)
        await sql.execute("SELECT pg_terminate_backend($1, 5000)", await lock_holder(sql))
        await store.operations.cancel(workflow_id, interrupt=True)
        await until(lambda: live.asked)
        await leave_run(store, RunRelease(workflow_id, epoch, WorkflowStatus.CANCELLED))


async def test_cancellation_reaches_the_event_loop_of_the_run(dsn, schema, admin, sql):
    own = beating(dsn, schema, HOUR)
    lives, go_on, begun = [], threading.Event(), threading.Event()

    async def other():
        store = await own.store()
        workflow_id, epoch, live = await live_run(store)
        lives.append((workflow_id, live))
        begun.set()
        await until(lambda: live.asked)
        await leave_run(store, RunRelease(workflow_id, epoch, WorkflowStatus.CANCELLED))
        await asyncio.to_thread(go_on.wait, 20)
        await own.close()

    task = asyncio.create_task(in_own_event_loop(other()))
    await until(begun.is_set)
    await (await own.store()).ensure_heartbeat()
    ((workflow_id, live),) = lives
    await (await admin.store()).operations.cancel(workflow_id, interrupt=False)
    await until(lambda: live.asked)
    go_on.set()
    await task
    await own.close()
    assert (await row_of(sql, workflow_id))["status"] == "CANCELLED"


# Runs that nothing carries out


def watchful(target, schema, **options):
    """Return an `Admin` that looks often after the runs that it holds."""
    own = beating(target, schema, OFTEN, **options)
    limit(own, unattended=0.1)
    return own


async def _is_abandoned(sql, workflow_id):
    return (await row_of(sql, workflow_id))["executor"] == ABANDONED


async def _beats(sql, count=3):
    """Wait until the one executor has beaten some times."""
    for _ in range(count):
        before = (await one_executor(sql))["expires_at"]
        await until(lambda before=before: _has_beaten(sql, before))


async def _has_beaten(sql, before):
    return (await one_executor(sql))["expires_at"] > before


async def _grow_old(sql):
    await sql.execute("UPDATE pgqrs_workflows SET updated_at = now() - interval '1 min'")


async def test_heartbeat_abandons_an_unattended_run(dsn, schema, admin, sql, caplog):
    async with watchful(dsn, schema) as own:
        store = await own.store()
        lost, _ = await store.create_and_claim("w", "{}")
        kept, epoch, _live = await live_run(store)
        await until(lambda: _is_abandoned(sql, lost))
        await _beats(sql)
        assert (await row_of(sql, kept))["executor"] == store.executor_id
        await end_run(store, RunEnd(kept, epoch, "1", None))
    assert f"workflow {lost} is abandoned" in caplog.text


async def test_unattended_run_among_many_live_runs_is_abandoned(dsn, schema, admin, sql, set_in_statements):
    set_in_statements(executor_queries, "HELD_AT_ONCE", 2)
    async with watchful(dsn, schema) as own:
        store = await own.store()
        runs = [await live_run(store) for _ in range(5)]
        lost, _ = await store.create_and_claim("w", "{}")
        await until(lambda: _is_abandoned(sql, lost))
        for workflow_id, epoch, _live in runs:
            assert (await row_of(sql, workflow_id))["executor"] == store.executor_id
            await end_run(store, RunEnd(workflow_id, epoch, "1", None))


@pytest.mark.parametrize("output", ["1", f'"{"x" * 5 * 2**20}"'], ids=["small", "large"])
async def test_starting_or_ending_run_is_not_abandoned(dsn, schema, admin, sql, output):
    """The end waits in the journal, behind a lock, and longer than a run may go unattended."""
    async with watchful(dsn, schema) as own:
        store = await own.store()
        workflow_id, claim = await store.create_and_claim("w", "{}")
        store.changing.add(workflow_id)
        await _grow_old(sql)
        await _beats(sql)
        assert (await row_of(sql, workflow_id))["executor"] == store.executor_id
        async with sql.transaction():
            await sql.execute("SELECT FROM pgqrs_workflows FOR UPDATE")
            ending = asyncio.create_task(
                store.write_end(RunEnd(workflow_id, claim.epoch, output, None, claim=claim.token))
            )
            await until(lambda: workflow_id in store.journal.workflows)
            store.changing.discard(workflow_id)
            await _beats(sql)
        await ending
    assert (await row_of(sql, workflow_id))["status"] == "SUCCESS"


async def test_claim_with_a_pending_answer_is_not_abandoned(dsn, schema, admin, sql):
    async with watchful(dsn, schema) as own:
        store = await own.store()
        workflow_id = await enqueue(store, "w", "{}", queue="default")
        async with watching(store) as watch:
            (run,) = await watch.claim(["w"], ["default"], 1)
            watch._unanswered = [(await row_of(sql, workflow_id))["claim"]]
            await _grow_old(sql)
            await _beats(sql)
            assert (await row_of(sql, workflow_id))["executor"] == store.executor_id
            await end_run(store, RunEnd(workflow_id, run.epoch, "1", None))


async def test_run_of_a_blocked_event_loop_is_not_abandoned(dsn, schema, admin, sql):
    """The loop cannot say what it carries out: the inquiry waits for it, and gives nothing up meanwhile."""
    own = watchful(dsn, schema)
    begun, go_on, runs = threading.Event(), threading.Event(), []

    async def other():
        store = await own.store()
        runs.append(await live_run(store))
        begun.set()
        go_on.wait(20)
        workflow_id, epoch, _live = runs[0]
        await end_run(store, RunEnd(workflow_id, epoch, "1", None))
        await own.close()

    task = asyncio.create_task(in_own_event_loop(other()))
    await until(begun.is_set)
    store = await own.store()
    lost, _ = await store.create_and_claim("w", "{}")
    await _grow_old(sql)
    await _beats(sql)
    assert (await row_of(sql, runs[0][0]))["executor"] == store.executor_id
    go_on.set()
    await task
    await until(lambda: _is_abandoned(sql, lost))
    assert (await row_of(sql, runs[0][0]))["status"] == "SUCCESS"
    await own.close()


async def test_dropped_abandonment_is_repeated_by_the_heartbeat(dsn, schema, admin, sql, monkeypatch):
    async with watchful(dsn, schema) as own:
        store = await own.store()
        workflow_id, claim = await store.create_and_claim("w", "{}")
        monkeypatch.setattr(store.journal._backlog, "is_full", lambda: True)
        store.abandon(workflow_id, claim.epoch, claim.token)
        monkeypatch.undo()
        await until(lambda: _is_abandoned(sql, workflow_id))


# Callers that are cancelled while a run is being started


async def _is_cancelled_behind_a_lock(dsn, schema, starting, table="pgqrs_workflows"):
    async with connected(dsn) as locker, locker.transaction():
        await locker.execute(f"LOCK TABLE {schema}.{table} IN ACCESS EXCLUSIVE MODE")
        waiting = asyncio.create_task(starting)
        await until(lambda: _lock_is_awaited(locker))
        await cancel_task(waiting)


async def _lock_is_awaited(locker):
    return await locker.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'relation'")


@pytest.mark.parametrize("way", ["begin", "claim", "history"])
async def test_cancelled_start_is_abandoned_at_once(dsn, schema, admin, sql, way):
    """Its beat is an hour away: the start itself cleans up."""
    async with beating(dsn, schema, HOUR) as own:
        store = await own.store()
        await store.ensure_heartbeat()
        table = "pgqrs_workflows"
        if way == "begin":
            workflow_id = await store.ids.next() + 1
            starting = store.create_and_claim("w", "{}")
        else:
            workflow_id, _ = await store.operations.create("w", "{}")
            context = await own.get_workflow(workflow_id)
            starting = context.start()
        if way == "history":
            table = "pgqrs_workflow_steps"
            await sql.execute("UPDATE pgqrs_workflows SET epoch = 3")
        await _is_cancelled_behind_a_lock(dsn, schema, starting, table)
        await until(lambda: sql.fetchval("SELECT count(*) FROM pgqrs_workflows"))
        await until(lambda: _is_abandoned(sql, workflow_id))


# The time


async def test_heartbeat_corrects_the_clock(dsn, schema, admin, sql):
    """A machine that was suspended, or a server whose clock was set: the reading is an hour behind."""
    async with store_of(dsn, schema, OFTEN) as store:
        await store.ensure_heartbeat()
        now = await store.reader.now()
        clock = store.reader.server_clock
        clock._read = now - timedelta(hours=1), clock._read[1]
        await until(lambda: _is_right(store, sql))


async def _is_right(store, sql):
    return abs(await store.reader.now() - await sql.fetchval("SELECT clock_timestamp()")) < timedelta(seconds=5)


async def test_claim_corrects_the_clock(dsn, schema, admin, sql):
    async with store_of(dsn, schema) as store, watching(store) as watch:
        now = await store.reader.now()
        store.reader.server_clock._read = now - timedelta(hours=1), store.reader.server_clock._read[1]
        workflow_id = await enqueue(store, "w", "{}", queue="default")
        (run,) = await watch.claim(["w"], ["default"], 1)
        assert await _is_right(store, sql)
        await end_run(store, RunEnd(workflow_id, run.epoch, "1", None))


def test_clock_reading_within_its_error_is_ignored():
    clock = ServerClock(None, MonotonicClock())
    now = datetime.now(UTC)
    clock.correct(ClockReading(now, 10.0, 0.001))
    clock.correct(ClockReading(now + timedelta(seconds=1.04), 11.0, 0.05))
    assert clock._read == (now, 10.0)
    clock.correct(ClockReading(now + timedelta(seconds=1.06), 11.0, 0.05))
    assert clock._read == (now + timedelta(seconds=1.06), 11.0)


# The lock


async def test_executor_takes_another_lock_if_its_lock_was_taken(dsn, schema, admin, sql):
    """The keys stand in `pg_locks` for all roles; a lock counts only in the session that the executor wrote."""
    squatter = await asyncpg.connect(dsn)
    own = beating(dsn, schema, HOUR)
    try:
        store = await own.store()
        await store.ensure_heartbeat()
        row = await one_executor(sql)
        assert row["backend_pid"] == await lock_holder(sql)
        queued = asyncio.create_task(squatter.execute("SELECT pg_advisory_lock($1)", row["lock_key"]))
        await until(lambda: _queues_for_a_lock(sql))
        await sql.execute("SELECT pg_terminate_backend($1, 5000)", row["backend_pid"])
        await queued
        # It took another key in its new session, so the squatter does not keep it from living on either.
        await until(lambda: _holds_another(sql, row["lock_key"]))
    finally:
        await own.close()
        await squatter.close()


async def _queues_for_a_lock(sql):
    return await sql.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'")


async def _holds_another(sql, key):
    row = await one_executor(sql)
    return row["lock_key"] != key and row["backend_pid"] == await lock_holder(sql)


async def test_abandoned_run_has_no_executor(dsn, schema, admin, sql):
    async with store_of(dsn, schema) as store:
        workflow_id, claim = await store.create_and_claim("w", "{}")
        store.abandon(workflow_id, claim.epoch, claim.token)
    assert (await row_of(sql, workflow_id))["executor"] == ABANDONED
    assert await executors(sql) == []
