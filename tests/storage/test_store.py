"""The storage of workers: claims, maintenance, submissions, attempts and releases."""

import asyncio
import json
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
import pytest_asyncio

from pgqrs import (
    Admin,
    DatabaseUnavailableError,
    WorkflowCancelledError,
    WorkflowFencedError,
    WorkflowFinishedError,
    WorkflowStatus,
)
from pgqrs.codecs.failures import load_error
from pgqrs.errors import RowRefusedError, WorkflowLockedError, WorkflowNotFoundError, WorkflowTimeoutError
from pgqrs.storage.claim_connection import ClaimConnection
from pgqrs.storage.connections.database import Database, Limits
from pgqrs.storage.connections.engines import engine_source
from pgqrs.storage.queries import executors, invariants, maintenance
from pgqrs.storage.queries.executors import ABANDONED, SETTLING
from pgqrs.storage.queries.server import ServerRepository
from pgqrs.storage.records import Claim, ClaimedRun, FailedAttempts, StoredOutcome, WorkflowResult
from pgqrs.storage.sql.channels import mark_of
from pgqrs.storage.sql.tokens import new_token
from pgqrs.storage.writes.creation import NewRun, NewWorkflow, Submission
from pgqrs.storage.writes.runs import RunEnd, RunRelease
from pgqrs.storage.writes.steps import FailedAttempt, StepOutcome
from pgqrs.testing.sql import violations
from tests.support.database import connected
from tests.support.executors import planted_executor, watching
from tests.support.journal_records import end_run, enqueue, enqueue_many, fail_attempt, leave_run, offered, submit
from tests.support.recorded import row_of, tables
from tests.support.waiting import DEADLINE, until
from tests.support.wire import Fault, Wire

HOUR = 3600.0
NEVER = UUID(int=7)
"""An executor that was never registered."""


@pytest_asyncio.fixture
async def another(dsn, schema, admin):
    """The store of another executor on the same tables."""
    async with Admin(dsn, schema) as own:
        yield await own.store()


async def enqueued(store, count=1, name="w", *, queue="default", **options):
    return [await enqueue(store, name, "{}", queue=queue, **options) for _ in range(count)]


async def claimed_by(store, executor_id, *, limit=100):
    """Claim what is there for an executor that the test made up."""
    async with watching(store, executor_id) as watch:
        return await watch.claim(["w"], ["default"], limit)


async def running(store, sql, **life):
    """Return the id of a workflow that a made-up executor runs, and that executor; the server is not young then."""
    settled = f"SELECT pg_postmaster_start_time() < now() - interval '{SETTLING} s'"
    await until(lambda: sql.fetchval(settled))
    executor_id = await planted_executor(sql, **life)
    (workflow_id,) = await enqueued(store)
    assert [run.workflow_id for run in await claimed_by(store, executor_id)] == [workflow_id]
    return workflow_id, executor_id


def ids_of(runs):
    return [run.workflow_id for run in runs]


# Claims


async def test_claims_follow_priority_and_then_age(store, watch):
    ids = [(await enqueued(store, priority=priority))[0] for priority in (0, 5, -3, 0, 5, 2**62)]
    first = await watch.claim(["w"], ["default"], 2)
    assert ids_of(first) == [ids[5], ids[1]]
    assert ids_of(await watch.claim(["w"], ["default"], 100)) == [ids[4], ids[0], ids[3], ids[2]]
    assert await watch.claim(["w"], ["default"], 100) == []


async def test_claim_takes_only_the_given_queues_and_names(store, watch):
    ids = {}
    for n, (name, where) in enumerate((name, where) for name in "abc" for where in ("q", "r", "s")):
        (ids[name, where],) = await enqueued(store, name=name, queue=where, priority=n % 3)
    asked = [(name, where) for name in "ab" for where in ("q", "r")]
    runs = await watch.claim(["a", "b", "unknown"], ["q", "r", "empty"], 100)
    assert ids_of(runs) == [ids["a", "r"], ids["b", "r"], ids["a", "q"], ids["b", "q"]]
    assert {run.name for run in runs} == {"a", "b"}
    rest = await watch.claim(["a", "b", "c"], ["q", "r", "s"], 100)
    assert sorted(ids_of(rest)) == sorted(ids[each] for each in ids.keys() - set(asked))


async def test_claim_limit_applies_across_queues_and_names(store, watch, sql):
    ids = [(await enqueued(store, name=name, priority=priority))[0] for priority in (1, 2, 3) for name in "ab"]
    assert ids_of(await watch.claim(["a", "b"], ["default"], 3)) == [ids[4], ids[5], ids[2]]
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflows WHERE ready_at IS NOT NULL") == 3


async def test_claim_respects_its_limit_and_empty_arguments(store, watch):
    await enqueued(store, 5)
    assert await watch.claim(["w"], ["default"], 0) == []
    assert await watch.claim([], ["default"], 5) == []
    assert await watch.claim(["w"], [], 5) == []
    assert len(await watch.claim(["w"], ["default"], 3)) == 3
    assert len(await watch.claim(["w"], ["default"], 3)) == 2


async def test_claim_returns_the_run_and_records_its_executor(store, watch, sql):
    plain = await enqueue(store, "w", '{"args":[1.50],"kwargs":{}}', queue="default")
    timed = await enqueue(store, "w", "{}", queue="default", timeout=HOUR)
    runs = await watch.claim(["w"], ["default"], 2)
    row = await row_of(sql, plain)
    assert runs[0] == ClaimedRun(plain, "w", 1, '{"args":[1.50],"kwargs":{}}', 1, None, row["claim"], "default")
    assert runs[1][:5] == (timed, "w", 1, "{}", 1)
    assert HOUR - 60 < runs[1].seconds_left <= HOUR
    row = await row_of(sql, timed)
    assert (row["status"], row["executor"], row["ready_at"]) == ("RUNNING", store.executor_id, None)
    assert (row["deadline"] - row["started_at"]).total_seconds() == HOUR


async def test_locked_row_is_skipped_and_claimed_later(store, watch, sql):
    held, free = await enqueued(store, 2)
    async with sql.transaction():
        await sql.execute("SELECT FROM pgqrs_workflows WHERE id = $1 FOR UPDATE", held)
        assert ids_of(await watch.claim(["w"], ["default"], 10)) == [free]
        assert (await watch.run_maintenance(["w"], ["default"])).ready
    assert ids_of(await watch.claim(["w"], ["default"], 10)) == [held]


async def test_concurrent_claims_share_and_lose_no_workflow(store, another, sql):
    new = [Submission(0, name, "{}", where, n % 3, None, None, None)
           for n in range(250) for name in "ab" for where in ("q", "r")]  # fmt: skip
    ids = [each for name in "ab" for each in await enqueue_many(store, [one for one in new if one.name == name])]
    found: list[int] = []

    async def work(watch, limit):
        async with asyncio.timeout(DEADLINE):
            while len(found) < len(ids):
                found.extend(ids_of(await watch.claim(["a", "b"], ["q", "r"], limit)))

    async with (
        watching(store) as one,
        watching(store) as two,
        watching(another) as three,
        watching(another) as four,
    ):
        await asyncio.gather(work(one, 1), work(two, 7), work(three, 20), work(four, 3))
    assert sorted(found) == sorted(ids)
    assert await sql.fetch("SELECT DISTINCT status, epoch, attempts FROM pgqrs_workflows") == [("RUNNING", 1, 1)]


@asynccontextmanager
async def wired_watch(dsn, schema, sql, executor_id, timeout=10.0):
    """A watch behind a wire; the connections of its pulse go straight to the server."""
    async with Wire(dsn, sql) as wire:
        limits = Limits(timeout, 60.0)
        database = Database(engine_source(wire.dsn, timeout=timeout), schema, limits)
        watch = ClaimConnection(database, executor_id, lambda queue: None)
        try:
            yield watch, wire
        finally:
            await watch.close()
            await database.dispose()


@pytest.mark.parametrize(
    "fault",
    [Fault.BEFORE, Fault.AFTER, Fault.HALF, Fault.SILENT_BEFORE, Fault.SILENT_AFTER, Fault.TERMINATED],
    ids=lambda fault: fault.name.lower(),
)
async def test_claim_with_a_lost_answer_is_found_again(dsn, schema, store, sql, fault):
    await store.ensure_heartbeat()
    ids = await enqueued(store, 8)
    async with wired_watch(dsn, schema, sql, store.executor_id, 0.5) as (watch, wire):
        assert ids_of(await watch.claim(["w"], ["default"], 1)) == ids[:1]  # the statement is prepared now
        wire.arm(1, fault)
        with pytest.raises(DatabaseUnavailableError):
            await watch.claim(["w"], ["default"], 3)
        assert wire.fired
        wire.disarm()
        arrived = fault in {Fault.AFTER, Fault.HALF, Fault.SILENT_AFTER}
        assert len(await sql.fetch("SELECT FROM pgqrs_workflows WHERE executor IS NOT NULL")) == 1 + 3 * arrived
        assert ids_of(await watch.claim(["w"], ["default"], 3)) == ids[1:4]
        assert ids_of(await watch.claim(["w"], ["default"], 100)) == ids[4:]
    assert await sql.fetch("SELECT DISTINCT epoch, attempts FROM pgqrs_workflows") == [(1, 1)]


async def test_lost_claim_does_not_return_recovered_workflows(dsn, schema, store, another, sql):
    await store.ensure_heartbeat()
    gone, there = await enqueued(store, 2)
    async with wired_watch(dsn, schema, sql, store.executor_id) as (watch, wire), watching(another) as rival:
        await watch.claim(["w"], ["default"], 0)
        wire.arm(1, Fault.AFTER)
        with pytest.raises(DatabaseUnavailableError):
            await watch.claim(["w"], ["default"], 2)
        wire.disarm()
        await sql.execute("UPDATE pgqrs_workflows SET executor = $1 WHERE id = $2", ABANDONED, gone)
        assert (await rival.run_maintenance(["w"], ["default"])).recovered == 1
        assert ids_of(await rival.claim(["w"], ["default"], 2)) == [gone]
        assert ids_of(await watch.claim(["w"], ["default"], 2)) == [there]
    assert (await row_of(sql, gone))["executor"] == another.executor_id


async def test_notifications_name_the_queue_and_survive_a_reconnection(store, sql, another):
    heard = []
    async with watching(store, on_notify=heard.append) as watch:
        await watch.run_maintenance(["w"], ["default"])
        await another.notify_queue("default", 1)
        await another.notify_queue("a queue, 'quoted'", 1)
        await until(lambda: len(heard) == 2)
        assert heard == [mark_of("default"), mark_of("a queue, 'quoted'")]
        await sql.execute("SELECT pg_terminate_backend($1, 5000)", watch._dedicated.driver.get_server_pid())
        await until(watch._dedicated.driver.is_closed)
        await watch.run_maintenance(["w"], ["default"])
        await another.notify_queue("again", 1)
        await until(lambda: heard[2:] == [mark_of("again")])


# Ticks


async def test_maintenance_wakes_due_workflows_and_reports_the_next(store, watch, sql):
    (later,) = await enqueued(store, delay=HOUR)
    (latest,) = await enqueued(store, delay=2 * HOUR)
    tick = await watch.run_maintenance(["w"], ["default"])
    assert tick[:5] == (False, 0, 0, 0, 0)
    assert HOUR - 60 < tick.next_due <= HOUR
    assert await watch.claim(["w"], ["default"], 10) == []
    await sql.execute("UPDATE pgqrs_workflows SET due_at = now() WHERE id = $1", later)
    tick = await watch.run_maintenance(["w"], ["default"])
    assert tick.woken == 1
    assert 2 * HOUR - 60 < tick.next_due <= 2 * HOUR
    assert (await watch.run_maintenance(["w"], ["default"]))[:2] == (True, 0)
    assert ids_of(await watch.claim(["w"], ["default"], 10)) == [later]
    assert (await watch.run_maintenance(["w"], ["default"])).ready is False
    assert (await row_of(sql, latest))["status"] == "PENDING"


async def test_only_known_names_and_queues_count_as_ready(store, watch):
    await enqueued(store, name="other")
    await enqueued(store, queue="elsewhere")
    assert not (await watch.run_maintenance(["w"], ["default"])).ready
    assert (await watch.run_maintenance(["w", "other"], ["default"])).ready
    assert (await watch.run_maintenance(["w"], ["elsewhere", "default"])).ready
    assert not (await watch.run_maintenance([], [])).ready


async def test_maintenance_bounds_the_rows_of_one_round(store, watch, sql):
    new = [Submission(0, "w", "{}", "default", 0, HOUR, None, None)] * (maintenance.MAX_ROWS + 1)
    await enqueue_many(store, new)
    await sql.execute("UPDATE pgqrs_workflows SET due_at = now() - interval '1 minute'")
    ticks = [await watch.run_maintenance(["w"], ["default"]) for _ in range(3)]
    assert [tick.woken for tick in ticks] == [maintenance.MAX_ROWS, 1, 0]


DEATHS = {
    "stopped": {"stopped": True, "lock_key": 1001, "held": True},
    "heartbeat expired without a lock": {"expires_in": -0.1, "suspected": 1.0},
    "heartbeat expired long ago": {
        "expires_in": -0.1,
        "suspected": 3.5,
        "expiry": 1.0,
        "lock_key": 1002,
        "held": True,
    },
    "lock free for a while": {"suspected": 1.0, "lock_key": 1003},
    "lock held by another session": {"suspected": 1.0, "lock_key": 1004, "held": True, "backend_pid": 1},
    "lock halves held as two keys": {"suspected": 1.0, "lock_key": 5 << 32 | 6, "halves": (5, 6)},
}
LIVES = {
    "lock held": {"lock_key": 2001, "held": True},
    "lock taken again": {"suspected": 60.0, "lock_key": 2002, "held": True},
    "no lock": {"suspected": 60.0},
    "no lock and a missed heartbeat": {"expires_in": -0.1, "suspected": 0.1},
    "lock held and missed heartbeats": {
        "expires_in": -25.0,
        "suspected": 25.0,
        "expiry": 15.0,
        "lock_key": 2003,
        "held": True,
    },
    "lock key of many bits": {"suspected": 60.0, "lock_key": 2**62 - 1, "held": True},
}


@asynccontextmanager
async def lock_of(dsn, life):
    """Hold the lock as the case says, and return the rest of it."""
    rest = dict(life)
    held, halves = rest.pop("held", False), rest.pop("halves", None)
    async with connected(dsn) as connection:
        if held:
            await connection.execute("SELECT pg_advisory_lock($1)", life["lock_key"])
        if halves:
            await connection.execute("SELECT pg_advisory_lock($1::int, $2::int)", *halves)
        yield rest


@pytest.mark.parametrize("death", DEATHS)
async def test_runs_of_a_dead_executor_are_recovered_and_fenced(dsn, store, watch, sql, death):
    async with lock_of(dsn, DEATHS[death]) as life:
        workflow_id, _ = await running(store, sql, **life)
        assert (await watch.run_maintenance(["w"], ["default"])).recovered == 1
    row = await row_of(sql, workflow_id)
    assert (row["status"], row["epoch"], row["executor"], row["attempts"]) == ("PENDING", 2, None, 1)
    (error,) = await offered(store.journal, [StepOutcome(workflow_id, 1, "s", "1", None, 0.0)])
    assert isinstance(error, WorkflowFencedError)
    (run,) = await watch.claim(["w"], ["default"], 10)
    assert run[:6] == (workflow_id, "w", 3, "{}", 2, None)


@pytest.mark.parametrize("life", LIVES)
async def test_runs_of_a_live_executor_are_not_recovered(dsn, store, watch, sql, life):
    async with lock_of(dsn, LIVES[life]) as planted:
        workflow_id, executor_id = await running(store, sql, **planted)
        ticks = [await watch.run_maintenance(["w"], ["default"]) for _ in range(3)]
        assert [tick.recovered for tick in ticks] == [0, 0, 0]
    row = await row_of(sql, workflow_id)
    assert (row["status"], row["epoch"], row["executor"]) == ("RUNNING", 1, executor_id)


async def test_executor_with_a_free_lock_is_first_suspected(store, watch, sql):
    workflow_id, executor_id = await running(store, sql, lock_key=3001)
    tick = await watch.run_maintenance(["w"], ["default"])
    assert (tick.recovered, tick.suspects > 0) == (0, True)
    assert (await watch.run_maintenance(["w"], ["default"])).suspects > 0
    await sql.execute(
        "UPDATE pgqrs_executors SET suspected_at = suspected_at - interval '0.8 s' WHERE id = $1", executor_id
    )
    assert (await watch.run_maintenance(["w"], ["default"])).recovered == 1
    assert (await row_of(sql, workflow_id))["status"] == "PENDING"


SUSPECTED = {"lock_key": 3002, "suspected": 60.0}


async def test_reconnected_worker_delays_recovery(store, watch, sql, set_in_statements):
    """What cut its own connection may have cut those of executors that live and are connecting again."""
    set_in_statements(executors, "SETTLING", 0.2)
    await watch.run_maintenance([], [])  # connects
    await running(store, sql, **SUSPECTED)
    await planted_executor(sql, lock_key=3003)
    watch._dedicated.driver.terminate()
    tick = await watch.run_maintenance(["w"], ["default"])
    assert (tick.recovered, tick.suspects) == (0, 0)
    await until(lambda: _recovered(watch))


async def _recovered(watch):
    return (await watch.run_maintenance(["w"], ["default"])).recovered


async def test_executors_are_not_suspected_after_a_server_start(store, watch, sql, set_in_statements):
    set_in_statements(executors, "SETTLING", 1e9)
    _, executor_id = await running(store, sql, **SUSPECTED)
    unseen = await planted_executor(sql, lock_key=3003, expires_in=-60.0)
    tick = await watch.run_maintenance(["w"], ["default"])
    assert (tick.recovered, tick.suspects) == (0, 0)
    assert await sql.fetchval("SELECT suspected_at FROM pgqrs_executors WHERE id = $1", unseen) is None
    await sql.execute("UPDATE pgqrs_executors SET stopped_at = now() WHERE id = $1", executor_id)
    assert (
        await watch.run_maintenance(["w"], ["default"])
    ).recovered == 1  # what it said itself needs no suspicion


async def test_first_maintenance_recovers_runs_of_unknown_executors(store, watch, sql):
    (workflow_id,) = await enqueued(store)
    await claimed_by(store, NEVER)
    assert (await watch.run_maintenance(["w"], ["default"])).recovered == 1
    await claimed_by(store, NEVER)
    assert (await watch.run_maintenance(["w"], ["default"])).recovered == 0  # a search now and then is enough
    async with watching(store) as fresh:
        assert (await fresh.run_maintenance(["w"], ["default"])).recovered == 1
    assert (await row_of(sql, workflow_id))["epoch"] == 4


async def test_abandoned_run_is_recovered_at_once(store, watch, sql):
    (workflow_id,) = await enqueued(store)
    (run,) = await watch.claim(["w"], ["default"], 1)
    store.abandon(workflow_id, run.epoch, run.claim)
    await until(lambda: _is_abandoned(sql, workflow_id))
    assert (await watch.run_maintenance(["w"], ["default"])).recovered == 1
    (again,) = await watch.claim(["w"], ["default"], 1)
    assert (again.workflow_id, again.epoch, again.attempts) == (workflow_id, 3, 2)


async def _is_abandoned(sql, workflow_id):
    return (await row_of(sql, workflow_id))["executor"] == ABANDONED


async def test_manual_run_is_recovered_into_the_default_queue(store, watch, sql):
    workflow_id, claim = await store.create_and_claim("w", "{}")
    assert claim == Claim(1, token=(await row_of(sql, workflow_id))["claim"])
    executor_id = await planted_executor(sql, stopped=True)
    await sql.execute("UPDATE pgqrs_workflows SET executor = $1", executor_id)
    assert (await watch.run_maintenance(["w"], ["default"])).recovered == 1
    assert ids_of(await watch.claim(["w"], ["default"], 1)) == [workflow_id]


PROGRESS = {
    "none": (None, 2),
    "a step": (StepOutcome(0, 2, "new", "1", None, 0.0), 1),
    "a failed step": (StepOutcome(0, 2, "new", None, "{}", 0.0), 1),
    "a step that runs": (StepOutcome(0, 2, "new", None, None, 0.0), 2),
    "a failed attempt": (FailedAttempt(0, 2, "new", "{}", 0.0, None, 1, HOUR), 2),
}


@pytest.mark.parametrize("progress", PROGRESS)
async def test_only_a_step_recorded_by_the_run_resets_its_attempts(store, watch, sql, progress):
    record, attempts = PROGRESS[progress]
    workflow_id, executor_id = await running(store, sql)
    await offered(store.journal, [StepOutcome(workflow_id, 1, "old", "1", None, 0.0)])
    await offered(store.journal, [RunRelease(workflow_id, 1, WorkflowStatus.PENDING)])
    (run,) = await claimed_by(store, executor_id)
    assert (run.epoch, run.attempts) == (2, 1)
    if record is not None:
        (told,) = await offered(store.journal, [record._replace(workflow_id=workflow_id)])
        assert not isinstance(told, Exception)
    await sql.execute("UPDATE pgqrs_executors SET stopped_at = now() WHERE id = $1", executor_id)
    assert (await watch.run_maintenance(["w"], ["default"])).recovered == 1
    (run,) = await watch.claim(["w"], ["default"], 1)
    assert run.attempts == attempts


async def test_recovery_cancels_a_run_with_a_requested_cancellation(store, watch, sql):
    workflow_id, executor_id = await running(store, sql)
    await store.operations.cancel(workflow_id, interrupt=True)
    assert (await row_of(sql, workflow_id))["cancel_interrupts"] is True
    await sql.execute("UPDATE pgqrs_executors SET stopped_at = now() WHERE id = $1", executor_id)
    assert (await watch.run_maintenance(["w"], ["default"])).recovered == 1
    row = await row_of(sql, workflow_id)
    assert (row["status"], row["executor"], row["ready_at"], row["cancel_interrupts"]) == (
        "CANCELLED",
        *[None] * 3,
    )
    assert row["completed_at"] is not None
    assert await watch.claim(["w"], ["default"], 1) == []


async def test_concurrent_maintenance_recovers_each_run_once(store, another, sql):
    executor_id = await planted_executor(sql)
    await enqueue_many(store, [Submission(0, "w", "{}", "default", 0, None, None, None)] * 400)
    assert len(await claimed_by(store, executor_id, limit=400)) == 400
    await sql.execute("UPDATE pgqrs_executors SET stopped_at = now() WHERE id = $1", executor_id)
    async with watching(store) as one, watching(store) as two, watching(another) as three:
        ticks = await asyncio.gather(*(each.run_maintenance(["w"], ["default"]) for each in (one, two, three)))
        again = await one.run_maintenance(["w"], ["default"])
    assert sum(tick.recovered for tick in ticks) + again.recovered == 400
    assert await sql.fetch("SELECT DISTINCT status, epoch FROM pgqrs_workflows") == [("PENDING", 2)]


async def test_unreferenced_dead_executors_are_deleted(store, watch, sql):
    _, named = await running(store, sql)
    gone = await planted_executor(sql, expires_in=-120.0, stopped=True)
    silent = await planted_executor(sql, expires_in=-120.0)
    fresh = await planted_executor(sql, expires_in=-30.0)
    await sql.execute(
        "UPDATE pgqrs_executors SET expires_at = now() - interval '1 h', suspected_at = now() - interval '1 h'"
        " WHERE id = $1",
        named,
    )
    async with sql.transaction():
        await sql.execute("SELECT FROM pgqrs_workflows FOR UPDATE")  # nobody can take it over
        await watch.run_maintenance(["w"], ["default"])
    left = {row["id"] for row in await sql.fetch("SELECT id FROM pgqrs_executors")}
    assert left == {named, fresh, store.executor_id}
    assert not left & {gone, silent}
    assert (await watch.run_maintenance(["w"], ["default"])).recovered == 1


# Deadlines


async def timed_out(sql, workflow_id):
    row = await row_of(sql, workflow_id)
    assert (row["status"], row["deadline"], row["executor"], row["ready_at"], row["due_at"]) == (
        "ERROR",
        *[None] * 4,
    )
    error = load_error(row["error"], workflow_id=workflow_id, step_id="")
    assert isinstance(error, WorkflowTimeoutError)
    return error.timeout


@pytest.mark.parametrize("state", ["ready", "waiting", "claimed by a dead executor"])
async def test_passed_deadline_ends_a_workflow_without_a_live_run(store, watch, sql, state):
    executor_id = await planted_executor(sql)
    (workflow_id,) = await enqueued(store, timeout=HOUR)
    await claimed_by(store, executor_id)
    leave = RunRelease(workflow_id, 1, WorkflowStatus.WAITING, HOUR)
    if state == "ready":
        leave = RunRelease(workflow_id, 1, WorkflowStatus.PENDING)
    if state.startswith("claimed"):
        await sql.execute("UPDATE pgqrs_executors SET stopped_at = now() WHERE id = $1", executor_id)
        await sql.execute("UPDATE pgqrs_workflows SET deadline = now() - interval '2 s'")
    else:
        await offered(store.journal, [leave])
        await sql.execute("UPDATE pgqrs_workflows SET deadline = now() - interval '1 ms'")
    tick = await watch.run_maintenance(["w"], ["default"])
    assert tick.timed_out == 1
    assert await timed_out(sql, workflow_id) == HOUR
    assert (await watch.run_maintenance(["w"], ["default"]))[:4] == (False, 0, 0, 0)
    (error,) = await offered(store.journal, [StepOutcome(workflow_id, 1, "s", "1", None, 0.0)])
    assert isinstance(error, WorkflowFencedError)


async def test_live_executor_has_a_second_to_end_a_timed_out_run(store, watch, sql):
    workflow_id, _ = await running(store, sql)
    await sql.execute("UPDATE pgqrs_workflows SET deadline = now()")
    assert (await watch.run_maintenance(["w"], ["default"])).timed_out == 0
    assert (await row_of(sql, workflow_id))["status"] == "RUNNING"
    await sql.execute("UPDATE pgqrs_workflows SET deadline = now() - interval '1 s'")
    assert (await watch.run_maintenance(["w"], ["default"])).timed_out == 1
    await timed_out(sql, workflow_id)


async def test_deadline_is_set_once_by_the_first_claim(store, watch, sql):
    (workflow_id,) = await enqueued(store, timeout=HOUR)
    assert (await row_of(sql, workflow_id))["deadline"] is None
    await watch.claim(["w"], ["default"], 1)
    deadline = (await row_of(sql, workflow_id))["deadline"]
    await offered(store.journal, [RunRelease(workflow_id, 1, WorkflowStatus.PENDING)])
    (run,) = await watch.claim(["w"], ["default"], 1)
    assert (await row_of(sql, workflow_id))["deadline"] == deadline
    assert run.seconds_left <= HOUR
    tick = await watch.run_maintenance(["w"], ["default"])
    assert HOUR - 60 < tick.next_due <= HOUR


async def test_concurrently_extended_deadline_ends_nothing(store, watch, sql):
    ids = await enqueued(store, 2, timeout=HOUR)
    await watch.claim(["w"], ["default"], 2)
    for workflow_id in ids:
        await offered(store.journal, [RunRelease(workflow_id, 1, WorkflowStatus.WAITING, HOUR)])
    await sql.execute("UPDATE pgqrs_workflows SET deadline = now() - interval '1 s' WHERE id = $1", ids[1])
    assert await watch._time_out(ids) == 1
    assert (await row_of(sql, ids[0]))["status"] == "WAITING"


# Submissions


async def test_concurrent_submissions_of_a_key_create_one_workflow(store, another, sql):
    async def once(own, key):
        return await enqueue(own, "w", "{}", queue="default", key=key)

    for key in map(str, range(20)):
        ids = await asyncio.gather(*(once(own, key) for own in (store, another) for _ in range(5)))
        assert len(set(ids)) == 1
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflows") == 20


async def test_concurrent_submissions_with_reversed_keys_agree(store, another, sql):
    keys = [str(n) for n in range(600)]

    async def all_of(own, keys):
        return dict(
            zip(
                keys,
                await asyncio.gather(*(enqueue(own, "w", "{}", queue="q", key=key) for key in keys)),
                strict=True,
            )
        )

    async with asyncio.timeout(DEADLINE):
        one, other = await asyncio.gather(all_of(store, keys), all_of(another, keys[::-1]))
    assert one == other
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflows") == 600


async def test_concurrent_submit_many_with_reversed_keys_agree(store, another, sql):
    new = [Submission(0, "w", "{}", "q", 0, None, None, str(n)) for n in range(3000)]
    async with asyncio.timeout(DEADLINE):
        one, other = await asyncio.gather(enqueue_many(store, new), enqueue_many(another, new[::-1]))
    assert one == other[::-1]
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflows") == 3000


async def test_repeated_key_in_a_batch_keeps_the_first_workflow(store, sql):
    first = await enqueue(store, "w", '{"n": 0}', queue="default", key="there")
    new = [
        Submission(0, "w", f'{{"n": {n}}}', "default", 0, None, None, key)
        for n, key in enumerate(["a", None, "b", "a", "there", None, "a"], 1)
    ]
    ids = await enqueue_many(store, new)
    assert ids[0] == ids[3] == ids[6]
    assert ids[4] == first
    assert len(set(ids)) == 5
    assert json.loads((await row_of(sql, ids[0]))["input"]) == {"n": 1}
    assert json.loads((await row_of(sql, first))["input"]) == {"n": 0}
    assert await enqueue(store, "w", "{}", queue="elsewhere", key="a") == ids[0]


async def test_keys_are_separate_for_each_workflow_name(store):
    ids = [await enqueue(store, name, "{}", queue="default", key="k") for name in ("a", "b", "a")]
    assert ids[0] == ids[2] != ids[1]


async def test_key_stays_taken_after_the_end_of_its_workflow(store, watch, sql):
    (workflow_id,) = await enqueued(store, key="k")
    await watch.claim(["w"], ["default"], 1)
    await end_run(store, RunEnd(workflow_id, 1, "5", None))
    assert await enqueue(store, "w", "{}", queue="default", key="k") == workflow_id
    assert await store.reader.results([workflow_id, 999]) == {
        workflow_id: WorkflowResult(
            WorkflowStatus.SUCCESS, "5", None, token=(await row_of(sql, workflow_id))["token"]
        )
    }


async def test_submit_many_uses_one_transaction_and_keeps_order(store, watch, sql):
    new = [Submission(0, "w", f'{{"n":{n}}}', "default", n % 2, None, HOUR, None) for n in range(1001)]
    ids = await enqueue_many(store, new)
    assert ids == sorted(set(ids))
    rows = await sql.fetch("SELECT id, input, xmin::text FROM pgqrs_workflows ORDER BY id")
    assert [(row["id"], row["input"]) for row in rows] == [
        (own, each.input) for own, each in zip(ids, new, strict=True)
    ]
    assert len({row["xmin"] for row in rows}) == 1
    assert ids_of(await watch.claim(["w"], ["default"], 1)) == [ids[1]]
    assert await enqueue_many(store, []) == []


# The records of runs


async def begun(store):
    workflow_id = await store.ids.next()
    await store.ensure_heartbeat()
    return NewRun(workflow_id, "w", "{}", store.executor_id, HOUR, token=new_token())


async def test_records_sent_twice_change_nothing(store, sql):
    run = await begun(store)
    new = Submission(await store.ids.next(), "w", "{}", "default", 3, HOUR, HOUR, "key")
    taken = new._replace(workflow_id=await store.ids.next())
    failure = FailedAttempt(run.workflow_id, 1, "s", '{"n":1}', 0.5, 77, 1, HOUR)
    failed = StepOutcome(run.workflow_id, 1, "failed", None, "{}", 0.0)
    left = RunRelease(run.workflow_id, 1, WorkflowStatus.WAITING, HOUR, '{"why":1}', 2, ("failed",))
    expected = [
        (run, Claim(1, token=run.token)),
        (new, True),
        (taken, False),
        (failure, None),
        (failed, StoredOutcome(None, "{}")),
        (left, None),
    ]
    for record, told in expected:
        assert await offered(store.journal, [record]) == [told]
        before = await tables(sql)
        assert await offered(store.journal, [record]) == [told]
        assert await offered(store.journal, [record, record]) == [told] * 2
        assert await tables(sql) == before
    late = [told if record is not left else None for record, told in expected]
    assert await offered(store.journal, [record for record, _ in expected]) == late
    assert await tables(sql) == before


@pytest.mark.parametrize("status", ["WAITING", "PENDING", "CANCELLED", "RUNNING"])
async def test_release_sent_twice_changes_nothing(store, watch, sql, status):
    run = await begun(store)
    await offered(store.journal, [run])
    leave = RunRelease(run.workflow_id, 1, WorkflowStatus(status), HOUR if status == "WAITING" else None, "{}")
    assert await offered(store.journal, [leave]) == [None]
    before = await tables(sql)
    assert await offered(store.journal, [leave]) == [None]
    assert await tables(sql) == before
    row = await row_of(sql, run.workflow_id)
    assert row["status"] == status
    assert (row["due_at"] is not None, row["ready_at"] is not None, row["completed_at"] is not None) == (
        status == "WAITING", status == "PENDING", status == "CANCELLED",
    )  # fmt: skip
    assert row["executor"] == (ABANDONED if status == "RUNNING" else None)
    assert (row["queue"], row["error"]) == ("default", "{}")
    if status == "RUNNING":
        assert (await watch.run_maintenance(["w"], ["default"])).recovered == 1


async def test_late_copy_of_a_release_does_not_affect_the_next_run(store, watch, sql):
    (workflow_id,) = await enqueued(store)
    await watch.claim(["w"], ["default"], 1)
    leave = RunRelease(workflow_id, 1, WorkflowStatus.PENDING)
    failure = FailedAttempt(workflow_id, 1, "s", "{}", 0.0, None, 1, HOUR)
    await offered(store.journal, [failure])
    await offered(store.journal, [leave])
    await watch.claim(["w"], ["default"], 1)
    before = await tables(sql)
    assert await offered(store.journal, [leave]) == [None]
    (error,) = await offered(store.journal, [failure])
    assert isinstance(error, WorkflowFencedError)
    assert await tables(sql) == before


async def test_uncommitted_takeover_fences_attempts_and_releases(store, watch, sql):
    (workflow_id,) = await enqueued(store)
    await watch.claim(["w"], ["default"], 1)
    failure = FailedAttempt(workflow_id, 1, "s", "{}", 0.0, None, 1, HOUR)
    async with sql.transaction():
        await sql.execute("UPDATE pgqrs_workflows SET epoch = epoch + 1, claim = -1 WHERE id = $1", workflow_id)
        before = store.journal.statements
        futures = [
            await submit(store.journal, each)
            for each in (failure, RunRelease(workflow_id, 1, WorkflowStatus.PENDING))
        ]
        await until(lambda: store.journal.statements >= before + 4)
        assert not any(future.done() for future in futures)
    with pytest.raises(WorkflowFencedError):
        await futures[0]
    assert await futures[1] is None
    row = await row_of(sql, workflow_id)
    assert (row["status"], row["executor"], row["epoch"]) == ("RUNNING", store.executor_id, 2)
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflow_steps") == 0


async def test_outcome_replaces_failed_attempts_for_good(store, watch, sql):
    (workflow_id,) = await enqueued(store)
    await watch.claim(["w"], ["default"], 1)
    attempt = FailedAttempt(workflow_id, 1, "s", '{"n":1}', 0.5, 77, 1, HOUR)
    await fail_attempt(store, attempt)
    await fail_attempt(store, attempt._replace(failures=2, error='{"n":2}', delay=2 * HOUR))
    before = await tables(sql)
    await fail_attempt(store, attempt)
    assert await tables(sql) == before
    history = await store.history(workflow_id)
    assert history.outcomes == {}
    assert history.failed.keys() == {"s"}
    assert history.failed["s"].failures == 2
    assert 2 * HOUR - 60 < history.failed["s"].wait <= 2 * HOUR
    assert await offered(store.journal, [StepOutcome(workflow_id, 1, "s", "5", None, 0.0, 77)]) == [
        StoredOutcome("5", None, 77)
    ]
    before = await tables(sql)
    await fail_attempt(store, attempt._replace(failures=3))
    assert await tables(sql) == before
    assert (await store.history(workflow_id))[:2] == ({"s": StoredOutcome("5", None, 77)}, {})


async def test_failed_attempts_count_in_the_next_run(store, watch, sql):
    (workflow_id,) = await enqueued(store)
    await watch.claim(["w"], ["default"], 1)
    await fail_attempt(store, FailedAttempt(workflow_id, 1, "s", "{}", 0.0, None, 1, HOUR))
    await leave_run(store, RunRelease(workflow_id, 1, WorkflowStatus.WAITING, HOUR, retries=4))
    await sql.execute("UPDATE pgqrs_workflows SET due_at = now()")
    await sql.execute("UPDATE pgqrs_workflow_steps SET retry_at = now() - interval '1 s'")
    await watch.run_maintenance(["w"], ["default"])
    (run,) = await watch.claim(["w"], ["default"], 1)
    assert (run.epoch, run.attempts) == (2, 1)
    assert await store.history(workflow_id) == ({}, {"s": FailedAttempts(1, 0.0)}, None, 4, 0, None)
    await fail_attempt(store, FailedAttempt(workflow_id, 2, "s", "{}", 0.0, None, 2, HOUR))
    assert (await store.history(workflow_id)).failed["s"].failures == 2


async def test_parking_resets_and_requeueing_decrements_the_attempts(store, watch, sql):
    (workflow_id,) = await enqueued(store)
    for epoch in (1, 2, 3):
        (run,) = await watch.claim(["w"], ["default"], 1)
        assert (run.epoch, run.attempts) == (epoch, 1)
        await leave_run(store, RunRelease(workflow_id, epoch, WorkflowStatus.PENDING))
    await sql.execute("UPDATE pgqrs_workflows SET attempts = 7")
    await watch.claim(["w"], ["default"], 1)
    await leave_run(store, RunRelease(workflow_id, 4, WorkflowStatus.WAITING, 0.0))
    assert (await row_of(sql, workflow_id))["attempts"] == 0
    assert (await watch.run_maintenance(["w"], ["default"])).woken == 1


@pytest.mark.parametrize("status", ["WAITING", "PENDING", "RUNNING"])
async def test_release_of_a_run_to_cancel_cancels_the_workflow(store, watch, sql, status):
    (workflow_id,) = await enqueued(store, timeout=HOUR)
    await watch.claim(["w"], ["default"], 1)
    await store.operations.cancel(workflow_id, interrupt=False)
    await leave_run(store, RunRelease(workflow_id, 1, WorkflowStatus(status), HOUR))
    row = await row_of(sql, workflow_id)
    assert (row["status"], row["due_at"], row["ready_at"], row["executor"]) == ("CANCELLED", None, None, None)
    (error,) = await offered(store.journal, [RunEnd(workflow_id, 1, "1", None)])
    assert isinstance(error, WorkflowCancelledError)


async def test_bad_row_among_queue_records_fails_alone(store, watch, sql):
    ids = await enqueued(store, 4)
    await watch.claim(["w"], ["default"], 4)
    good, bad = await begun(store), await begun(store)
    new = Submission(await store.ids.next(), "w", "{}", "default", 0, None, None, None)
    records = [
        good,
        bad._replace(input="]"),
        new,
        new._replace(workflow_id=await store.ids.next(), input="]"),
        FailedAttempt(ids[0], 1, "s", "{}", 0.0, None, 1, 1.0),
        FailedAttempt(ids[1], 1, "s", "]", 0.0, None, 1, 1.0),
        RunRelease(ids[2], 1, WorkflowStatus.WAITING, 1.0, "{}"),
        RunRelease(ids[3], 1, WorkflowStatus.WAITING, 1.0, "]"),
    ]
    results = await offered(store.journal, records)
    assert [type(result) for result in results] == [
        Claim, RowRefusedError, bool, RowRefusedError, type(None), RowRefusedError, type(None), RowRefusedError,
    ]  # fmt: skip


async def test_mixed_batch_is_sent_as_one_statement(store, watch, sql):
    ids = await enqueued(store, 6)
    await watch.claim(["w"], ["default"], 5)
    run, new = await begun(store), await store.ids.next()
    failed = StepOutcome(ids[3], 1, "failed", None, "{}", 0.0)
    await offered(store.journal, [failed, failed._replace(workflow_id=ids[4])])
    before = store.journal.statements
    results = await offered(
        store.journal,
        [
            NewWorkflow(new, "w", "{}"),
            run,
            Submission(await store.ids.next(), "w", "{}", "default", 0, None, None, None),
            StepOutcome(ids[0], 1, "s", "1", None, 0.0, -5),
            FailedAttempt(ids[1], 1, "s", "{}", 0.0, None, 1, 1.0),
            RunRelease(ids[3], 1, WorkflowStatus.PENDING, reopen=("failed",)),
            RunEnd(ids[4], 1, None, "{}", ("failed",)),
        ],
    )
    assert results == [None, Claim(1, token=run.token), True, StoredOutcome("1", None, -5), None, None, None]
    assert store.journal.statements == before + 1
    steps = await sql.fetch("SELECT workflow_id, step_id, reopened FROM pgqrs_workflow_steps ORDER BY 1")
    assert steps == [
        (ids[0], "s", False),
        (ids[1], "s", False),
        (ids[3], "failed", True),
        (ids[4], "failed", True),
    ]


# Starts, cancellations


async def test_start_claims_runs_of_dead_executors_and_its_own(store, sql):
    workflow_id, executor_id = await running(store, sql)
    with pytest.raises(WorkflowLockedError) as told:
        await store.claim(workflow_id)
    assert (told.value.workflow_id, told.value.executor_id) == (workflow_id, executor_id)
    await sql.execute("UPDATE pgqrs_executors SET expires_at = now() - interval '1 s' WHERE id = $1", executor_id)
    claim = await store.claim(workflow_id)
    assert claim.epoch > 1
    assert (await row_of(sql, workflow_id))["executor"] == store.executor_id
    assert (await store.claim(workflow_id)).epoch == claim.epoch + 1


async def test_workflow_without_a_run_is_cancelled_at_once(store, watch, sql):
    ready, waiting, delayed = [(await enqueued(store))[0] for _ in range(2)] + await enqueued(store, delay=HOUR)
    await watch.claim(["w"], ["default"], 2)
    await leave_run(store, RunRelease(ready, 1, WorkflowStatus.PENDING))
    await leave_run(store, RunRelease(waiting, 1, WorkflowStatus.WAITING, HOUR))
    for workflow_id in (ready, waiting, delayed):
        for _ in range(2):
            await store.operations.cancel(workflow_id, interrupt=False)
        assert (await row_of(sql, workflow_id))["status"] == "CANCELLED"
    assert await watch.claim(["w"], ["default"], 10) == []
    with pytest.raises(WorkflowNotFoundError):
        await store.operations.cancel(999, interrupt=False)


@pytest.mark.parametrize("executor", ["dead", "abandoned"])
async def test_run_without_a_live_executor_is_cancelled_at_once(store, sql, executor):
    workflow_id, executor_id = await running(store, sql)
    if executor == "dead":
        await sql.execute("UPDATE pgqrs_executors SET stopped_at = now() WHERE id = $1", executor_id)
    else:
        await sql.execute("UPDATE pgqrs_workflows SET executor = $1", ABANDONED)
    await store.operations.cancel(workflow_id, interrupt=False)
    assert (await row_of(sql, workflow_id))["status"] == "CANCELLED"
    (error,) = await offered(store.journal, [RunEnd(workflow_id, 1, "1", None)])
    assert isinstance(error, (WorkflowCancelledError, WorkflowFencedError))


async def test_requested_interruption_cannot_be_withdrawn(store, watch, sql):
    workflow_id, _ = await running(store, sql)
    for interrupt in (False, True, False):
        await store.operations.cancel(workflow_id, interrupt=interrupt)
    assert (await row_of(sql, workflow_id))["cancel_interrupts"] is True
    with pytest.raises(WorkflowCancelledError):
        await end_run(store, RunEnd(workflow_id, 1, "1", None))
    row = await row_of(sql, workflow_id)
    assert (row["status"], row["output"], row["cancel_interrupts"]) == ("CANCELLED", None, None)
    await store.operations.cancel(workflow_id, interrupt=False)
    (other,) = await enqueued(store)
    await watch.claim(["w"], ["default"], 1)
    await end_run(store, RunEnd(other, 1, "1", None))
    with pytest.raises(WorkflowFinishedError):
        await store.operations.cancel(other, interrupt=False)


async def test_resume_queues_only_enqueued_workflows(store, watch, sql):
    (queued,) = await enqueued(store)
    await watch.claim(["w"], ["default"], 1)
    plain, _ = await store.create_and_claim("w", "{}")
    for workflow_id in (queued, plain):
        await end_run(store, RunEnd(workflow_id, 1, None, "{}"))
        await store.operations.resume(workflow_id)
    assert ids_of(await watch.claim(["w"], ["default"], 10)) == [queued]
    assert (await row_of(sql, plain))["status"] == "PENDING"


async def test_store_time_follows_the_database_clock(store, sql):
    before = await sql.fetchval("SELECT clock_timestamp()")
    asked = [await store.reader.now() for _ in range(3)]
    after = await sql.fetchval("SELECT clock_timestamp()")
    assert asked == sorted(asked)
    least, most = (after - before) * -1, 2 * (after - before)
    assert all(least <= each - before <= most for each in asked)


# The invariants

WORKFLOW = "UPDATE pgqrs_workflows SET "
STEP = "INSERT INTO pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, output, error, reopened) VALUES "
MESSAGE = "INSERT INTO pgqrs_messages (workflow_id, address, key, payload) VALUES "
WAIT = "INSERT INTO pgqrs_waits (workflow_id, step_id, address, claim) VALUES "
BY_IT = f"{WORKFLOW} status = 'RUNNING', executor = (SELECT min(id::text)::uuid FROM pgqrs_executors)"
CHILD = f"{WORKFLOW} parent_id = 99, parent_step = 's', place = 0"
ENDED_PARENT = (
    "INSERT INTO pgqrs_workflows (id, name, status, epoch, input, output, completed_at, has_children) "
    "VALUES (99, 'w', 'SUCCESS', 1, '{}', '1', now() - interval '31 s', true)"
)
BATCH = (
    "INSERT INTO pgqrs_workflows (id, name, status, epoch, input, output, completed_at, batch_id) "
    "VALUES (98, 'w/batch', 'SUCCESS', 1, '[1]', 'null', now(), 98)"
)
SECOND = (
    "INSERT INTO pgqrs_workflows (name, input, schedule, scheduled_for) "
    "SELECT name, input, schedule, scheduled_for FROM pgqrs_workflows"
)
SCHEDULE = (
    "INSERT INTO pgqrs_schedules "
    "(name, workflow, input, queue, priority, every, overlap, catchup, within, jitter, queued_for) "
    "VALUES ('s', 'w', '{}', 'default', 0, 60, 'skip', 'last', 60, 0, now())"
)
ORDERED_QUEUE = (
    "INSERT INTO pgqrs_queues (name, partition_concurrency, ordered_at) VALUES ('q', 1, now() - interval '1 h')"
)
HOLDER = (
    "INSERT INTO pgqrs_workflows (name, input, queue, partition_key, slot, started_at)"
    " VALUES ('w', '{}', 'q', 'a', 'a', now())"
)
SET_ASIDE = "INSERT INTO pgqrs_set_aside_steps (workflow_id, rewind, step_id, status, epoch, reopened, started_at, failures) VALUES"

PLANTED = {
    "an unknown status": (f"{WORKFLOW} status = 'STOPPED'", "has a status or a state of its sagas that does not exist: "),
    "an unknown state of sagas": (f"{WORKFLOW} saga_state = 'STOPPED'", "that does not exist: 'PENDING', 'STOPPED'"),
    "an unknown status of a step": (f"{STEP} (1, 's', 'STOPPED', 0, now(), '1', NULL, false)", "has a status that does not exist: "),
    "ended and ready": (f"{WORKFLOW} status = 'SUCCESS', output = '1', ready_at = now()", "but still has an executor"),
    "ended with a deadline": (f"{WORKFLOW} status = 'CANCELLED', deadline = now()", "but still has an executor"),
    "due and ready": (f"{WORKFLOW} due_at = now(), ready_at = now()", "more than one"),
    "RUNNING without an executor": (f"{WORKFLOW} status = 'RUNNING'", "no executor holds it"),
    "PENDING with an executor": (f"{WORKFLOW} executor = (SELECT min(id::text)::uuid FROM pgqrs_executors)", "is PENDING and"),
    "WAITING without a due time": (f"{WORKFLOW} status = 'WAITING'", "WAITING without a due time"),
    "RUNNING with a dead executor": (
        f"UPDATE pgqrs_executors SET expires_at = now() - interval '31 s'; {BY_IT}", "has long been dead",
    ),
    "RUNNING with a stopped executor": (
        f"UPDATE pgqrs_executors SET stopped_at = now() - interval '31 s'; {BY_IT}", "has long been dead",
    ),
    "RUNNING with an unknown executor": (f"{WORKFLOW} status = 'RUNNING', executor = '{NEVER}'", "is not registered"),
    "a wait of a workflow that is not parked": (
        f"{WAIT} (1, 's', 'm/1/paid', 1)", "is not parked by the run of this wait",
    ),
    "a wait of an earlier run": (
        f"{WORKFLOW} status = 'WAITING', claim = 2; {WAIT} (1, 's', 'm/1/paid', 1)", "is not parked by the run of this wait",
    ),
    "a wait of a step with an outcome": (
        f"{STEP} (1, 's', 'SUCCESS', 0, now(), '1', NULL, false); {WAIT} (1, 's', 'm/1/paid', 1)", "and is not RUNNING",
    ),
    "a reply to a request that was not received": (
        f"{MESSAGE} (1, 'u/1/ask', 'k', 'null'), (1, 'r/1/ask', 'k', 'null')", "has answered the request",
    ),
    "a child without a parent": (CHILD, "which does not exist"),
    "a child of a parent that has long ended": (
        f"{ENDED_PARENT}; {CHILD}, ends_with_parent = true, updated_at = now() - interval '32 s' WHERE id <> 99",
        "was to end with its parent",
    ),
    "a cancellation that no executor hears": (f"{WORKFLOW} cancel_interrupts = false", "still to be cancelled"),
    "WAITING while it is to unwind": (
        f"{WORKFLOW} status = 'WAITING', due_at = now(), saga_state = 'CANCELLED'", "its sagas are to be undone",
    ),
    "a step of a later run": (f"{STEP} (1, 's', 'SUCCESS', 3, now(), '1', NULL, false)", "has the epoch 3"),
    "a step of an earlier generation": (
        f"{WORKFLOW} epoch = 2, generation = 1; {STEP} (1, 's', 'SUCCESS', 1, now(), '1', NULL, false)",
        "has continued as new in the epoch 1",
    ),
    "a partition key without a position": (
        f"{WORKFLOW} partition_key = 'a'", "and no position",
    ),
    "two holders of a key in an ordered queue": (
        f"{ORDERED_QUEUE}; {HOLDER}; {HOLDER}", "was one started by hand",
    ),
    "a slot of another partition key": (f"{WORKFLOW} slot = 'a'", "of its queue, and has the partition key"),
    "attributes without a workflow": ("INSERT INTO pgqrs_attributes (workflow_id) VALUES (99)", "has attributes and"),
    "a generation of a later run": (f"{WORKFLOW} generation = 3", "and has the epoch 0"),
    "a step without a workflow": (f"{STEP} (99, 's', 'SUCCESS', 0, now(), '1', NULL, false)", "has no workflow"),
    "a success without a value": (f"{STEP} (1, 's', 'SUCCESS', 0, now(), NULL, NULL, false)", "without its output or error"),
    "a step in ERROR without an error": (f"{STEP} (1, 's', 'ERROR', 0, now(), '1', NULL, false)", "without its output or error"),
    "SUCCESS without an output": (f"{WORKFLOW} status = 'SUCCESS'", "without an output"),
    "a success marked to be executed again": (f"{STEP} (1, 's', 'SUCCESS', 0, now(), '1', NULL, true)", "to be executed again"),
    "a schedule without a time": (f"{WORKFLOW} schedule = 's'", "it needs both, or none of them"),
    "two workflows of one time": (f"{WORKFLOW} schedule = 's', scheduled_for = now(); {SECOND}", "for the time"),
    "a set-aside step without a rewind": (f"{SET_ASIDE} (1, 2, 's', 'RUNNING', 1, false, now(), 0)", "was set aside by a rewind"),
    "a queued time of a schedule that queues none": (SCHEDULE, "has queued the time"),
    "a unique value without its end": (f"{WORKFLOW} unique_value = 'v'", "it needs both, or none."),
    "a throttle of another workflow": (
        "INSERT INTO pgqrs_throttles VALUES ('other', 'v', 1, 60, now(), now())", "the throttle of",
    ),
    "a submission of a batch that has ended": (f"{BATCH}; {WORKFLOW} batch_id = 98 WHERE id = 1", "and its batch"),
    "a submission in a batch that is ready": (f"{WORKFLOW} batch_id = 98, ready_at = now()", "and is also ready"),
    "a submission of another queue": (f"{BATCH}; {WORKFLOW} batch_id = 98, queue = 'q' WHERE id = 1", "which has not its queue"),
    "a queue without a limit": ("INSERT INTO pgqrs_queues (name) VALUES ('q')", "without limits and without a pause"),
    "a limit of no run": ("INSERT INTO pgqrs_queues (name, concurrency) VALUES ('q', 0)", "has a limit below 1"),
    "a rate without a burst": (
        """INSERT INTO pgqrs_queues (name, rate) VALUES ('q', '{"limit": 5, "per": 1}')""", "nothing of it can start",
    ),
    "a claim without a time": (f"{WORKFLOW} attempts = 1", "has no time of its start"),
    "an empty partition key": (f"{WORKFLOW} partition_key = '', queue = 'q'", "has an empty partition key"),
}  # fmt: skip


@pytest.mark.plants_rows
@pytest.mark.parametrize("planted", PLANTED)
async def test_planted_violation_is_found(admin, sql, schema, planted):
    statements, said = PLANTED[planted]
    store = await admin.store()
    await store.operations.create("w", "{}")
    await planted_executor(sql)
    assert await sql.fetch(violations(schema)) == []
    await sql.execute(statements)
    violated = {row["sentence"] for row in await sql.fetch(violations(schema))}
    found = []
    async with store.database.transaction() as connection:
        for each in invariants.invariants():
            if each[0] in violated:
                found += await ServerRepository(connection).violations(each, 60.0)
    assert any(said in each for each in found), found


@pytest.mark.plants_rows
async def test_all_violations_are_reported_together(admin, sql):
    store = await admin.store()
    await store.operations.create("w", "{}")
    assert await store.reader.violations() == []
    for planted in ("RUNNING without an executor", "a step without a workflow"):
        await sql.execute(PLANTED[planted][0])
    assert sorted(await store.reader.violations()) == [
        "step 's' of workflow 99 has no workflow.",
        "workflow 1 is RUNNING and no executor holds it.",
    ]


def test_every_invariant_has_a_planted_violation():
    said = [text for _, text in PLANTED.values()]
    for sentence, _ in invariants.invariants():
        shape = sentence.format(*["PENDING", "PENDING", "3"] if "{1} and executor" in sentence else ["3"] * 4)
        assert any(each in shape for each in said), sentence
