"""Claims from ordered queues: the workflows of a partition key, one after the other, in the order of enqueueing."""

import asyncio
from collections import Counter, defaultdict

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from pgqrs import Admin, ConfigurationError, PyWorkflow, Rate, workflow
from tests.support.executors import planted_executor, watching
from tests.support.queues import QUEUE, claimed, ended, keys_of, parked, planted, woken
from tests.support.waiting import no_hang


async def failed(sql, *ids):
    await sql.execute(
        "UPDATE pgqrs_workflows SET status = 'ERROR', error = '1', completed_at = now(), executor = NULL"
        " WHERE id = ANY($1)", list(ids),
    )  # fmt: skip


async def test_key_runs_one_after_the_other_in_its_order(admin, watch, sql):
    first, urgent, last = [(await planted(sql, "a", priority=each))[0] for each in (0, 9, 5)]
    (other,) = await planted(sql, "b")
    await admin.set_queue(QUEUE, ordered=True)
    assert sorted(await claimed(watch)) == [first, other]
    assert await claimed(watch) == []
    await ended(sql, first)
    assert await claimed(watch) == [urgent]
    await failed(sql, urgent)
    assert await claimed(watch) == [last]


async def test_order_is_that_of_the_inserts_not_of_the_ids(admin, watch, sql):
    ids = [900, 100, 500]
    for each in ids:
        await sql.execute(
            "INSERT INTO pgqrs_workflows (id, name, input, queue, partition_key, ready_at, created_at)"
            " OVERRIDING SYSTEM VALUE VALUES ($1, 'w', '{}', $2, 'a', now(), '2000-01-01')",
            each, QUEUE,
        )  # fmt: skip
    await admin.set_queue(QUEUE, ordered=True)
    for each in ids:
        assert await claimed(watch) == [each]
        await ended(sql, each)


async def test_order_within_one_statement_is_that_of_the_inputs(admin: Admin, watch, sql, engine):
    @workflow
    async def w(ctx: PyWorkflow, number: int) -> None: ...

    await admin.set_queue(QUEUE, ordered=True)
    submit = admin.options(queue=QUEUE, partition_key="a")
    handles = await submit.enqueue_many(w, [(each,) for each in range(5)])
    handles += await asyncio.gather(*(submit.enqueue(w, each) for each in range(5)))
    async with AsyncSession(engine) as session:
        own = admin.options(queue=QUEUE, partition_key="a", session=session)
        handles += await own.enqueue_many(w, [(each,) for each in range(5)])
        await session.commit()
    for each in handles:
        assert await claimed(watch) == [each.id]
        await ended(sql, each.id)


async def test_waiting_head_blocks_its_key_alone(admin, watch, sql):
    ids, (other,) = await planted(sql, "a", 3), await planted(sql, "b")
    await admin.set_queue(QUEUE, ordered=True)
    assert await claimed(watch, 1) == ids[:1]
    await parked(sql, ids[0])
    assert await claimed(watch) == [other]
    assert await claimed(watch) == []
    await woken(sql, ids[0])
    assert await claimed(watch) == ids[:1]
    await ended(sql, ids[0])
    assert await claimed(watch) == ids[1:2]


async def test_delayed_head_blocks_its_key_until_it_is_due(admin: Admin, watch, sql):
    @workflow
    async def w(ctx: PyWorkflow) -> None: ...

    options = {"queue": QUEUE, "partition_key": "a"}
    late = await admin.options(**options, delay=3600).enqueue(w)
    early = await admin.options(**options).enqueue(w)
    await admin.set_queue(QUEUE, ordered=True)
    assert await claimed(watch) == []
    (queue,) = await admin.list_queues()
    assert (queue.ready, queue.held_back) == (1, 1)
    await woken(sql, late.id)
    assert [each.held_back for each in await admin.list_queues()] == [1]
    assert await claimed(watch) == [late.id]
    await ended(sql, late.id)
    assert await claimed(watch) == [early.id]


async def test_cancelled_head_lets_the_next_go(admin: Admin, watch, sql):
    ids = await planted(sql, "a", 4)
    await admin.set_queue(QUEUE, ordered=True)
    await admin.cancel_workflow(ids[0])
    assert await claimed(watch) == ids[1:2]
    await parked(sql, ids[1])
    await admin.cancel_workflow(ids[2])
    await admin.cancel_workflow(ids[1])
    assert await claimed(watch) == ids[3:]


async def test_resumed_workflow_is_the_next_of_its_key(admin: Admin, watch, sql):
    ids = await planted(sql, "a", 3)
    await admin.set_queue(QUEUE, ordered=True)
    assert await claimed(watch) == ids[:1]
    await failed(sql, ids[0])
    assert await claimed(watch) == ids[1:2]
    await admin.resume_workflow(ids[0])
    assert await claimed(watch) == []
    await woken(sql, ids[1])
    assert await claimed(watch) == ids[1:2]
    await ended(sql, ids[1])
    assert await claimed(watch) == ids[:1]
    await ended(sql, ids[0])
    assert await claimed(watch) == ids[2:]


async def test_earlier_position_that_is_committed_later_goes_next(admin, watch, sql, engine):
    @workflow
    async def w(ctx: PyWorkflow, number: int) -> None: ...

    await admin.set_queue(QUEUE, ordered=True)
    options = {"queue": QUEUE, "partition_key": "a"}
    async with AsyncSession(engine) as session:
        slow = await admin.options(**options, session=session).enqueue(w, 1)
        quick, last = [await admin.options(**options).enqueue(w, each) for each in (2, 3)]
        assert await claimed(watch) == [quick.id]
        await session.commit()
    assert await claimed(watch) == []
    await woken(sql, quick.id)
    assert await claimed(watch) == [quick.id]
    await ended(sql, quick.id)
    assert await claimed(watch) == [slow.id]
    await ended(sql, slow.id)
    assert await claimed(watch) == [last.id]


async def test_takeover_keeps_the_order(admin, store, watch, sql):
    ids = await planted(sql, "a", 2)
    await admin.set_queue(QUEUE, ordered=True)
    dead = await planted_executor(sql)
    async with watching(store, dead) as its:
        assert await claimed(its) == ids[:1]
    await sql.execute(
        "UPDATE pgqrs_executors SET expires_at = now() - interval '1 h', stopped_at = now() WHERE id = $1", dead
    )
    assert (await watch.run_maintenance(["w"], [QUEUE])).recovered == 1
    assert await claimed(watch) == ids[:1]
    await ended(sql, ids[0])
    assert await claimed(watch) == ids[1:]


async def test_run_by_hand_keeps_its_key_busy(admin: Admin, watch, sql):
    ids = await planted(sql, "a", 2)
    await admin.set_queue(QUEUE, ordered=True)
    ctx = await admin.get_workflow(ids[1])
    await ctx.start()
    assert await claimed(watch) == []
    await ctx.success()
    assert await claimed(watch) == ids[:1]


async def test_workflows_without_a_key_run_one_at_a_time(admin, watch, sql):
    ids = await planted(sql, None, 3)
    await planted(sql, "a")
    await admin.set_queue(QUEUE, ordered=True)
    found = await claimed(watch)
    assert sorted(await keys_of(sql, found), key=str) == [None, "a"]
    assert ids[0] in found
    await parked(sql, ids[0])
    assert await claimed(watch) == []
    await ended(sql, ids[0])
    assert await claimed(watch) == ids[1:2]
    assert [each.held_back for each in await admin.list_queues()] == [1]


async def test_order_begins_and_ends_with_the_setting(admin, watch, sql):
    ids = await planted(sql, "a", 6)
    await admin.set_queue(QUEUE, concurrency=3)
    assert await claimed(watch) == ids[:3]
    await parked(sql, ids[1])
    await woken(sql, ids[2])
    await admin.set_queue(QUEUE, ordered=True)
    assert await claimed(watch) == []
    await ended(sql, ids[0])
    assert await claimed(watch) == []
    await woken(sql, ids[1])
    assert await claimed(watch) == ids[1:2]
    await ended(sql, ids[1])
    assert await claimed(watch) == ids[2:3]
    await ended(sql, ids[2])
    assert await claimed(watch) == ids[3:4]
    await admin.set_queue(QUEUE, concurrency=2)
    assert await claimed(watch) == ids[4:5]
    await admin.set_queue(QUEUE, ordered=True)
    await admin.set_queue(QUEUE)
    assert await claimed(watch) == ids[5:]


async def test_limits_of_an_ordered_queue_hold_together(admin, watch, sql):
    for key in "abc":
        await planted(sql, key, 2)
    await admin.set_queue(QUEUE, ordered=True, concurrency=2)
    found = await claimed(watch)
    assert len(found) == len(set(await keys_of(sql, found))) == 2
    await parked(sql, *found)
    assert await claimed(watch) == []
    await admin.set_queue(QUEUE, ordered=True, concurrency=3)
    found += await claimed(watch)
    assert len(set(await keys_of(sql, found))) == 3
    await admin.pause_queue(QUEUE)
    await ended(sql, *found)
    assert await claimed(watch) == []
    await admin.resume_queue(QUEUE)
    assert len(await claimed(watch)) == 3


async def test_rates_of_an_ordered_queue_count_first_starts(admin, watch, sql):
    for key in "abc":
        await planted(sql, key, 2)
    await admin.set_queue(QUEUE, ordered=True, rate=Rate(1, per=60, burst=2))
    found = await claimed(watch)
    assert len(set(await keys_of(sql, found))) == 2
    await woken(sql, *found)
    assert sorted(await claimed(watch)) == sorted(found)
    await ended(sql, *found)
    assert await claimed(watch) == []
    await sql.execute("DELETE FROM pgqrs_rates")
    assert len(set(await keys_of(sql, await claimed(watch)))) == 2


async def test_other_worker_s_head_is_not_passed(admin, watch, sql):
    (foreign,) = await planted(sql, "a", name="v")
    own = await planted(sql, "a")
    await admin.set_queue(QUEUE, ordered=True)
    assert await claimed(watch) == []
    assert await claimed(watch, names=("v",)) == [foreign]
    await ended(sql, foreign)
    assert await claimed(watch) == own


async def test_concurrent_claims_keep_the_order_of_each_key(admin, store, sql):
    for _ in range(8):
        for key in "abc":
            await planted(sql, key)
    await admin.set_queue(QUEUE, ordered=True)
    one_at_a_time, begun, done = asyncio.Lock(), defaultdict(list), set()
    live = "SELECT partition_key FROM pgqrs_workflows WHERE started_at IS NOT NULL AND completed_at IS NULL"

    async def take(watch):
        while len(done) < 24:
            found = await claimed(watch, 2)
            async with one_at_a_time:
                assert max(Counter(row[0] for row in await sql.fetch(live)).values(), default=0) <= 1
                for workflow_id, key in zip(found, await keys_of(sql, found), strict=True):
                    if workflow_id in begun[key]:
                        done.add(workflow_id)
                        await ended(sql, workflow_id)
                    else:
                        begun[key].append(workflow_id)
                        await woken(sql, workflow_id)

    async with no_hang(), watching(store) as one, watching(store) as two, watching(store) as three:
        await asyncio.gather(*map(take, (one, two, three)))
    assert all(each == sorted(each) and len(each) == 8 for each in begun.values())


async def test_other_partition_limit_of_an_ordered_queue_is_refused(admin):
    with pytest.raises(ConfigurationError, match="partition_concurrency"):
        await admin.set_queue(QUEUE, ordered=True, partition_concurrency=2)
    await admin.set_queue(QUEUE, ordered=True, partition_concurrency=1)
    (queue,) = await admin.list_queues()
    assert (queue.ordered, queue.holds, queue.partition_concurrency) == (True, "until_end", 1)


async def test_admin_that_has_set_the_order_refuses_to_submit_keyless(admin: Admin, engine):
    @workflow
    async def w(ctx: PyWorkflow) -> None: ...

    submit = admin.options(queue=QUEUE)
    async with AsyncSession(engine) as session:
        await admin.set_queue(QUEUE, ordered=True, session=session)
        await session.rollback()
        await submit.enqueue(w)
        await admin.set_queue(QUEUE, ordered=True, session=session)
        await session.commit()
    with pytest.raises(ConfigurationError, match="partition_key"):
        await submit.enqueue(w)
    with pytest.raises(ConfigurationError, match="partition_key"):
        await submit.enqueue_many(w, [()])
    await admin.options(queue=QUEUE, partition_key="a").enqueue(w)
    await admin.delete_queue(QUEUE)
    await submit.enqueue(w)
