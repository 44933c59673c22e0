"""Claims from queues with limits: exactness, the shares of partition keys, and pauses."""

import asyncio
from collections import Counter
from contextlib import suppress

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from pgqrs import (
    Admin,
    ConfigurationError,
    InvalidNameError,
    PyWorkflow,
    Rate,
    WorkflowFencedError,
    WorkflowStatus,
    workflow,
)
from pgqrs.storage import queue_claims
from pgqrs.storage.limits import claims as limits_module
from pgqrs.storage.queue_claims import lock_key
from pgqrs.storage.writes.runs import RunEnd, RunRelease
from tests.support.executors import planted_executor, watching
from tests.support.queues import QUEUE, claimed, ended, keys_of, planted
from tests.support.waiting import no_hang


async def test_claim_fills_a_limited_queue_and_no_more(admin, watch, sql):
    ids = await planted(sql, None, 5)
    await admin.set_queue(QUEUE, concurrency=2)
    assert await claimed(watch) == ids[:2]
    assert await claimed(watch) == []
    await ended(sql, ids[0])
    assert await claimed(watch) == ids[2:3]


async def test_partition_limit_counts_each_key_on_its_own(admin, watch, sql):
    await planted(sql, "a", 5)
    await planted(sql, "b", 1)
    free = await planted(sql, None, 3)
    await admin.set_queue(QUEUE, partition_concurrency=2)
    found = await claimed(watch)
    assert Counter(await keys_of(sql, found)) == {"a": 2, "b": 1, None: 3}
    assert set(free) <= set(found)
    assert await claimed(watch) == []
    await ended(sql, found[0])
    assert len(await claimed(watch)) == (1 if (await keys_of(sql, found))[0] == "a" else 0)


async def test_both_limits_hold_together(admin, watch, sql):
    for key in "abcd":
        await planted(sql, key, 5)
    await admin.set_queue(QUEUE, concurrency=5, partition_concurrency=2)
    found = Counter(await keys_of(sql, await claimed(watch)))
    assert found.total() == 5
    assert max(found.values()) == 2


async def test_limit_holds_for_a_worker_with_a_stale_view(admin, watch, sql):
    ids = await planted(sql, None, 6)
    assert await claimed(watch, 1) == ids[:1]
    await admin.set_queue(QUEUE, concurrency=3)
    assert await claimed(watch) == ids[1:3]
    await admin.set_queue(QUEUE, concurrency=2)
    await ended(sql, ids[0])
    assert await claimed(watch) == []
    await admin.delete_queue(QUEUE)
    assert await claimed(watch) == ids[3:]
    assert not watch.queues.is_limited(QUEUE)


async def test_other_queues_of_the_worker_have_no_limit(admin, watch, sql):
    await admin.set_queue(QUEUE, concurrency=1)
    limited, plain = await planted(sql, None, 3), await planted(sql, None, 3, queue="default")
    assert sorted(await claimed(watch, queues=(QUEUE, "default"))) == [limited[0], *plain]


async def test_paused_queue_is_not_claimed_from(admin, watch, sql):
    ids = await planted(sql, None, 2)
    await admin.pause_queue(QUEUE)
    assert await claimed(watch) == []
    await admin.resume_queue(QUEUE)
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_queues") == 0
    await admin.set_queue(QUEUE, concurrency=1)
    await admin.pause_queue(QUEUE)
    await admin.set_queue(QUEUE)
    assert [each.paused_at is None for each in await admin.list_queues()] == [False]
    assert await claimed(watch) == []
    await admin.delete_queue(QUEUE)
    assert await claimed(watch) == ids


async def test_locked_workflow_does_not_stop_its_queue(admin, watch, sql):
    ids = await planted(sql, "a", 3)
    await admin.set_queue(QUEUE, concurrency=1)
    async with sql.transaction():
        await sql.execute("SELECT FROM pgqrs_workflows WHERE id = $1 FOR UPDATE", ids[0])
        assert await claimed(watch) == ids[1:2]


async def test_limited_claim_locks_only_what_it_claims(admin, watch, sql):
    for key in ("a", "b", None):
        await planted(sql, key, 30)
    await admin.set_queue(QUEUE, concurrency=10)
    assert len(await claimed(watch)) == 10
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflows WHERE xmax <> 0 AND ready_at IS NOT NULL") == 0


async def test_queue_that_another_claim_has_locked_is_tried_again(admin, watch, store, sql):
    (own,) = await planted(sql, None)
    await admin.set_queue(QUEUE, concurrency=1)
    assert await claimed(watch, 0) == []
    async with sql.transaction():
        await sql.execute("SELECT pg_advisory_xact_lock($1)", lock_key(store.database.schema, QUEUE))
        assert await claimed(watch) == []
        assert 0 < watch.queues.outlook.again < 0.01
    assert await claimed(watch) == [own]
    assert watch.queues.outlook.again is None


async def test_concurrent_claims_never_exceed_the_limits(admin, store, sql):
    for key in "abc":
        await planted(sql, key, 40)
    await admin.set_queue(QUEUE, concurrency=5, partition_concurrency=2)
    one_at_a_time, most, done = asyncio.Lock(), Counter(), []

    async def take(watch):
        while len(done) < 120:
            found = await claimed(watch, 3)
            async with one_at_a_time:
                running = await sql.fetch("SELECT partition_key FROM pgqrs_workflows WHERE executor IS NOT NULL")
                most["queue"] = max(most["queue"], len(running))
                most["key"] = max(most["key"], *Counter(row[0] for row in running).values(), 0)
                done.extend(found)
                await ended(sql, *found)

    async with no_hang(), watching(store) as one, watching(store) as two, watching(store) as three:
        await asyncio.gather(*map(take, (one, two, three)))
    assert (most["queue"], most["key"]) == (5, 2)
    assert len(set(done)) == 120


async def test_lost_answer_of_a_limited_claim_is_found_again(admin, watch, sql, monkeypatch):
    ids = await planted(sql, "a", 3)
    await admin.set_queue(QUEUE, concurrency=2)
    assert await claimed(watch, 0) == []
    fetch = watch._fetch

    async def losing(statement, values):
        await fetch(statement, values)
        raise TimeoutError

    monkeypatch.setattr(watch, "_fetch", losing)
    with pytest.raises(TimeoutError):
        await claimed(watch)
    monkeypatch.setattr(watch, "_fetch", fetch)
    assert await claimed(watch) == ids[:2]
    assert await claimed(watch) == []


async def test_dead_executor_gives_its_slot_to_another(admin, store, watch, sql):
    ids = await planted(sql, "a", 2)
    await admin.set_queue(QUEUE, partition_concurrency=1)
    dead = await planted_executor(sql)
    async with watching(store, dead) as its:
        (run,) = await its.claim(["w"], [QUEUE], 9)
    assert await claimed(watch) == []
    await sql.execute(
        "UPDATE pgqrs_executors SET expires_at = now() - interval '1 h', stopped_at = now() WHERE id = $1", dead
    )
    assert (await watch.run_maintenance(["w"], [QUEUE])).recovered == 1
    assert await claimed(watch) == ids[:1]
    with pytest.raises(WorkflowFencedError):
        await store.write_end(RunEnd(run.workflow_id, run.epoch, "1", None, claim=run.claim))
    assert await claimed(watch) == []


@pytest.mark.parametrize(
    "status", [None, WorkflowStatus.WAITING, WorkflowStatus.PENDING, WorkflowStatus.CANCELLED]
)
async def test_stale_holder_frees_no_slot(admin, store, watch, sql, status):
    """Its run was recovered, and is claimed again, when it wakes and ends or leaves the run."""
    ids = await planted(sql, None, 2)
    await admin.set_queue(QUEUE, concurrency=1)
    stopped = await planted_executor(sql)
    async with watching(store, stopped) as its:
        (run,) = await its.claim(["w"], [QUEUE], 9)
    await sql.execute("UPDATE pgqrs_executors SET stopped_at = now() WHERE id = $1", stopped)
    await watch.run_maintenance(["w"], [QUEUE])
    assert await claimed(watch) == ids[:1]
    leave = RunEnd(run.workflow_id, run.epoch, "1", None, claim=run.claim)
    if status is not None:
        leave = RunRelease(run.workflow_id, run.epoch, status, wait=0.0, claim=run.claim)
    with suppress(WorkflowFencedError):
        await store.write_end(leave)
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflows WHERE executor IS NOT NULL") == 1
    assert await claimed(watch) == []


# The shares of partition keys


@pytest.mark.parametrize("count", [300, pytest.param(100_000, marks=pytest.mark.slow)])
async def test_key_with_many_workflows_does_not_delay_another(admin, watch, sql, count):
    await planted(sql, "large", count)
    await admin.set_queue(QUEUE, concurrency=1)
    (first,) = await claimed(watch)
    (small,) = await planted(sql, "small")
    found = []
    for _ in range(2):
        await ended(sql, *([first] if not found else found[-1]))
        found.append(await claimed(watch))
    assert [small] in found


async def test_priorities_order_within_a_key(admin, watch, sql):
    low, high = await planted(sql, "a"), await planted(sql, "a", priority=9)
    other = await planted(sql, "b", priority=1)
    await admin.set_queue(QUEUE, partition_concurrency=1)
    assert sorted(await claimed(watch)) == sorted(high + other)
    await ended(sql, *high)
    assert await claimed(watch) == low


@pytest.mark.parametrize("at_once", [1, 10])
async def test_weights_set_the_shares_of_keys(admin, watch, sql, at_once):
    for key in ("gold", "iron"):
        await planted(sql, key, 100)
    await admin.set_queue(QUEUE, concurrency=at_once, weights={"gold": 4})
    counts = Counter()
    for _ in range(50 // at_once):
        found = await claimed(watch)
        counts.update(await keys_of(sql, found))
        await ended(sql, *found)
    assert counts["gold"] == pytest.approx(40, abs=1)


async def test_weights_set_the_shares_of_keys_for_several_workers(admin, store, sql):
    for key in ("gold", "iron"):
        await planted(sql, key, 100)
    await admin.set_queue(QUEUE, concurrency=1, weights={"gold": 4})
    counts = Counter()
    async with watching(store) as one, watching(store) as two, watching(store) as three:
        for number in range(100):
            found = await claimed((one, two, three)[number * 7 % 3])
            counts.update(await keys_of(sql, found))
            await ended(sql, *found)
    assert counts["gold"] == pytest.approx(80, rel=0.1)


async def test_lanes_beyond_those_of_one_claim_have_their_turn(admin, watch, sql):
    for number in range(7):
        await planted(sql, f"{number}", 3)
    await admin.set_queue(QUEUE, concurrency=1)
    found = []
    for _ in range(14):
        ids = await claimed(watch)
        found += await keys_of(sql, ids)
        await ended(sql, *ids)
    assert found == [*"0123456"] * 2


async def test_full_lanes_do_not_hide_a_free_lane(admin, watch, sql, set_in_statements):
    set_in_statements(limits_module, "MAX_LANES", 3)
    set_in_statements(queue_claims, "MAX_LANES", 3)
    for number in range(10):
        await planted(sql, f"{number}", 2)
    await admin.set_queue(QUEUE, partition_concurrency=1)
    found = []
    for _ in range(12):
        found += await claimed(watch)
    assert sorted(await keys_of(sql, found)) == [*"0123456789"]
    seven = found[(await keys_of(sql, found)).index("7")]
    await ended(sql, seven)
    last = []
    for _ in range(10):
        last += await claimed(watch)
        if watch.queues.outlook.again is None:
            break
    assert await keys_of(sql, last) == ["7"]


async def test_queue_that_is_not_fair_has_one_order(admin, watch, sql):
    ids = [(await planted(sql, key))[0] for key in ("b", None, "a", "b")]
    urgent = await planted(sql, "c", priority=1)
    await admin.set_queue(QUEUE, concurrency=1, fair=False)
    for each in (*urgent, *ids):
        assert await claimed(watch) == [each]
        await ended(sql, each)


async def test_limits_of_keys_hold_in_a_queue_that_is_not_fair(admin, watch, sql):
    large, (small,) = await planted(sql, "large", 9), await planted(sql, "small")
    await admin.set_queue(QUEUE, partition_concurrency=2, fair=False)
    assert sorted(await claimed(watch)) == [*large[:2], small]
    await ended(sql, large[1])
    assert await claimed(watch) == large[2:3]


async def test_full_key_does_not_hide_the_next_in_the_order(admin, watch, sql, set_in_statements):
    set_in_statements(limits_module, "MAX_LANES", 2)
    set_in_statements(queue_claims, "MAX_LANES", 2)
    set_in_statements(limits_module, "MAX_EXAMINED", 3)
    full = await planted(sql, "z", 9)
    others = [(await planted(sql, key))[0] for key in "dcba"]
    await admin.set_queue(QUEUE, partition_concurrency=1, fair=False)
    found = []
    for _ in range(8):
        found += await claimed(watch)
    assert found[0] == full[0]
    assert sorted(found[1:]) == others


async def test_shares_of_keys_without_turns_are_refused(admin):
    with pytest.raises(ConfigurationError, match="fair"):
        await admin.set_queue(QUEUE, weights={"a": 2}, fair=False)
    await admin.set_queue(QUEUE, fair=False)
    assert [each.fair for each in await admin.list_queues()] == [False]
    await admin.set_queue(QUEUE)
    assert await admin.list_queues() == []


# Rates


async def moved(sql, seconds):
    """Let time pass for the rates."""
    await sql.execute("UPDATE pgqrs_rates SET free_at = free_at - $1 * interval '1 second'", seconds)


async def test_rate_limits_the_starts_after_a_burst(admin, watch, sql):
    ids = await planted(sql, "a", 12)
    await admin.set_queue(QUEUE, rate=Rate(10, per=10, burst=3))
    assert await claimed(watch) == ids[:3]
    assert await claimed(watch) == []
    assert 0.5 < watch.queues.outlook.again <= 1
    await moved(sql, 1)
    assert await claimed(watch) == ids[3:4]
    await moved(sql, 100)
    assert await claimed(watch) == ids[4:7]


async def test_partition_rate_limits_each_key(admin, watch, sql):
    for key in ("a", "b", None):
        await planted(sql, key, 3)
    await admin.set_queue(QUEUE, partition_rate=Rate(1, per=60))
    assert Counter(await keys_of(sql, await claimed(watch))) == {"a": 1, "b": 1, None: 3}
    assert await claimed(watch) == []
    assert 50 < watch.queues.outlook.again <= 60
    await sql.execute("DELETE FROM pgqrs_rates WHERE partition_key = 'b'")
    assert await keys_of(sql, await claimed(watch)) == ["b"]


async def test_only_the_first_start_counts_for_a_rate(admin, watch, sql):
    ids = await planted(sql, "a", 4)
    await admin.set_queue(QUEUE, rate=Rate(1, per=60, burst=2))
    assert await claimed(watch) == ids[:2]
    await sql.execute(
        "UPDATE pgqrs_workflows SET status = 'PENDING', executor = NULL, ready_at = now() WHERE id = $1", ids[0]
    )
    assert await claimed(watch) == ids[:1]
    assert await claimed(watch) == []


async def test_claim_without_a_slot_takes_no_start_of_a_rate(admin, watch, sql):
    ids = await planted(sql, "a", 4)
    await admin.set_queue(
        QUEUE, concurrency=1, rate=Rate(1, per=60, burst=2), partition_rate=Rate(1, per=60, burst=3)
    )
    assert await claimed(watch) == ids[:1]
    assert await claimed(watch) == []
    await ended(sql, ids[0])
    assert await claimed(watch) == ids[1:2]
    await ended(sql, ids[1])
    assert await claimed(watch) == []


async def test_concurrent_claims_never_exceed_a_rate(admin, store, sql):
    await planted(sql, "a", 40)
    await admin.set_queue(QUEUE, rate=Rate(1, per=3600, burst=17))
    found = []

    async def take(watch):
        for _ in range(10):
            found.extend(await claimed(watch, 3))

    async with no_hang(), watching(store) as one, watching(store) as two, watching(store) as three:
        await asyncio.gather(*map(take, (one, two, three)))
        while ids := await claimed(one):
            found.extend(ids)
    assert len(set(found)) == len(found) == 17


async def test_rate_holds_over_a_restart_of_the_worker(admin, watch, sql, dsn, schema):
    ids = await planted(sql, "a", 4)
    await admin.set_queue(QUEUE, rate=Rate(1, per=60, burst=2), partition_rate=Rate(1, per=60, burst=3))
    assert await claimed(watch) == ids[:2]
    async with Admin(dsn, schema) as fresh, watching(await fresh.store()) as its:
        assert await claimed(its, 0) == await claimed(its) == []
        assert 50 < its.queues.outlook.again <= 60
        await moved(sql, 60)
        assert await claimed(its) == ids[2:3]


async def test_rows_of_rates_without_meaning_are_deleted(admin, watch, sql):
    await planted(sql, "a", 2)
    await admin.set_queue(QUEUE, rate=Rate(1, per=60), partition_rate=Rate(1, per=60))
    assert len(await claimed(watch)) == 1
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_rates") == 2
    await moved(sql, 2 * 3600)
    await watch.run_maintenance(["w"], [QUEUE])
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_rates") == 0


# The limits in the caller's session, and the list


async def test_limits_take_effect_with_the_caller_s_commit(admin, watch, sql, engine):
    ids = await planted(sql, None, 4)
    async with AsyncSession(engine) as session:
        await admin.set_queue(QUEUE, concurrency=1, session=session)
        assert [each.concurrency for each in await admin.list_queues(session=session)] == [1]
        assert await claimed(watch, 2) == ids[:2]
        await session.rollback()
        await admin.pause_queue(QUEUE, session=session)
        await session.commit()
        assert await claimed(watch) == []
        await admin.resume_queue(QUEUE, session=session)
        await session.commit()
    assert await claimed(watch) == ids[2:]


async def test_list_counts_what_waits_for_a_limit(admin, watch, sql):
    await planted(sql, "a", 3)
    await planted(sql, "b", 1)
    await planted(sql, None, 2, queue="other")
    await admin.set_queue(
        QUEUE, concurrency=10, partition_concurrency=1, rate=Rate(9, per=2, burst=5), weights={"a": 2}
    )
    assert len(await claimed(watch, 1)) == 1
    await admin.pause_queue("empty")
    empty, mail, other = await admin.list_queues()
    assert (empty.name, empty.paused_at is None, empty.ready, empty.oldest_age) == ("empty", False, 0, None)
    assert (mail.name, mail.ready, mail.running, mail.held_back) == (QUEUE, 3, 1, 2)
    assert (mail.concurrency, mail.partition_concurrency, mail.weights) == (10, 1, {"a": 2.0})
    assert (mail.rate, mail.partition_rate) == (Rate(9, 2.0, 5), None)
    assert 0 <= mail.oldest_age < 60
    assert (other.name, other.ready, other.running, other.held_back, other.weights) == ("other", 2, 0, 0, {})


async def test_submissions_keep_their_partition_key(admin: Admin, sql, engine):
    @workflow
    async def one(ctx: PyWorkflow, number: int) -> int:
        return number

    submit = admin.options(queue=QUEUE, partition_key="ada", key="k", until="end")
    handles = [await submit.enqueue(one, 1), await submit.enqueue(one, 1)]
    assert handles[0].id == handles[1].id
    async with AsyncSession(engine) as session:
        own = admin.options(queue=QUEUE, partition_key="bob", session=session)
        await own.enqueue(one, 2)
        await own.enqueue_many(one, [(3,), (4,)])
        await session.commit()
    await admin.options(queue=QUEUE, partition_key="eve").enqueue_many(one, [(5,), (6,)])
    found = await sql.fetch("SELECT partition_key AS key, releases_key FROM pgqrs_workflows ORDER BY id")
    assert [tuple(row) for row in found] == [("ada", True), *[("bob", False)] * 3, *[("eve", False)] * 2]
    (newest,) = await admin.list_workflows(limit=1)
    assert newest.partition_key == "eve"


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"concurrency": 0}, ConfigurationError),
        ({"partition_concurrency": True}, TypeError),
        ({"weights": {"a": 0}}, ConfigurationError),
        ({"weights": {"a": "2"}}, TypeError),
        ({"weights": {"": 1}}, InvalidNameError),
        ({"rate": 5}, TypeError),
        ({"rate": Rate(0)}, ConfigurationError),
        ({"partition_rate": Rate(1, per=0)}, ConfigurationError),
        ({"rate": Rate(1, burst=0)}, ConfigurationError),
        ({"concurrency": 2**63}, ConfigurationError),
        ({"weights": {"a": 1e-7}}, ConfigurationError),
        ({"weights": {"a": float("nan")}}, ConfigurationError),
        ({"rate": Rate(10**10, per=10**6)}, ConfigurationError),
        ({"rate": Rate(2, per=1e-6)}, ConfigurationError),
        ({"partition_rate": Rate(1, burst=10**10)}, ConfigurationError),
    ],
)
async def test_wrong_limits_are_refused(admin, wrong, error):
    with pytest.raises(error):
        await admin.set_queue(QUEUE, **wrong)


@pytest.mark.parametrize(
    "limits",
    [
        {"concurrency": 10**9, "weights": {"a": 1e-6, "b": 1e6}},
        {
            "rate": Rate(10**9, per=1000, burst=10**9),
            "partition_rate": Rate(1, per=100 * 365 * 86400, burst=10**9),
        },
    ],
    ids=["weights", "rates"],
)
async def test_greatest_and_least_limits_can_be_claimed(admin, watch, sql, limits):
    """A number that overflows in the statement would stop the queue."""
    await admin.set_queue(QUEUE, **limits)
    ids = [*await planted(sql, "a", 5), *await planted(sql, "b", 5)]
    found = []
    for _ in range(6):
        found += await claimed(watch, 2)
    assert sorted(found) == ids


async def test_wrong_names_are_refused(admin):
    with pytest.raises(InvalidNameError):
        await admin.pause_queue("")
    with pytest.raises(InvalidNameError):
        admin.options(partition_key="")
