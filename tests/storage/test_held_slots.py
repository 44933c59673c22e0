"""Queues whose workflows hold their slots until their end."""

import asyncio
from collections import Counter

import pytest

from pgqrs import Admin, ConfigurationError, PyWorkflow, RetryPolicy, Topic, Worker, workflow
from tests.support.executors import planted_executor, watching
from tests.support.queues import QUEUE, claimed, ended, keys_of, parked, planted, woken
from tests.support.waiting import no_hang, until


async def test_parked_workflow_keeps_its_slot(admin, watch, sql):
    (first,), (urgent,) = await planted(sql, None), await planted(sql, None, priority=9)
    await admin.set_queue(QUEUE, concurrency=1, holds="until_end")
    assert await claimed(watch) == [urgent]
    await parked(sql, urgent)
    assert await claimed(watch) == []
    (more,) = await planted(sql, None, priority=99)
    await woken(sql, urgent)
    assert await claimed(watch) == [urgent]
    await ended(sql, urgent)
    assert await claimed(watch) == [more]
    await ended(sql, more)
    assert await claimed(watch) == [first]


async def test_partition_limit_is_a_mutex_of_each_key(admin, watch, sql):
    for key in ("a", "b"):
        await planted(sql, key, 3)
    free = await planted(sql, None, 2)
    await admin.set_queue(QUEUE, partition_concurrency=1, holds="until_end")
    found = await claimed(watch)
    assert Counter(await keys_of(sql, found)) == {"a": 1, "b": 1, None: 2}
    assert set(free) <= set(found)
    own = dict(zip(await keys_of(sql, found), found, strict=True))
    await parked(sql, *found)
    assert await claimed(watch) == []
    await woken(sql, own["b"])
    assert await claimed(watch) == [own["b"]]
    await ended(sql, own["a"])
    assert await keys_of(sql, await claimed(watch)) == ["a"]


async def test_holder_is_claimed_after_the_limit_was_lowered(admin, watch, sql):
    ids = await planted(sql, None, 5)
    await admin.set_queue(QUEUE, concurrency=3, holds="until_end")
    assert await claimed(watch) == ids[:3]
    await parked(sql, *ids[:3])
    await admin.set_queue(QUEUE, concurrency=1, holds="until_end")
    await woken(sql, *ids[:3])
    assert await claimed(watch, 2) == ids[:2]
    assert await claimed(watch) == ids[2:3]
    await ended(sql, *ids[:2])
    assert await claimed(watch) == []
    await admin.set_queue(QUEUE, concurrency=2, holds="until_end")
    assert await claimed(watch) == ids[3:4]


async def test_started_workflows_get_slots_when_their_queue_has_them(admin, watch, sql):
    ids = await planted(sql, "a", 4)
    await admin.set_queue(QUEUE, concurrency=3)
    assert await claimed(watch) == ids[:3]
    await parked(sql, ids[0])
    await woken(sql, ids[1])
    await admin.set_queue(QUEUE, concurrency=1, holds="until_end")
    await ended(sql, ids[2])
    assert await claimed(watch) == [ids[1]]
    await ended(sql, ids[1])
    assert await claimed(watch) == []
    await admin.set_queue(QUEUE, concurrency=1)
    assert await claimed(watch) == ids[3:]
    await admin.set_queue(QUEUE, concurrency=2, holds="until_end")
    await planted(sql, "a")
    assert await claimed(watch) == []


async def test_pause_keeps_a_holder_back(admin, watch, sql):
    ids = await planted(sql, "a", 2)
    await admin.set_queue(QUEUE, concurrency=1, holds="until_end")
    assert await claimed(watch) == ids[:1]
    await woken(sql, ids[0])
    await admin.pause_queue(QUEUE)
    assert await claimed(watch) == []
    await admin.resume_queue(QUEUE)
    assert await claimed(watch) == ids[:1]


async def test_resumed_workflow_takes_a_slot_like_a_new_one(admin: Admin, watch, sql):
    ids = await planted(sql, "a", 2)
    await admin.set_queue(QUEUE, concurrency=1, holds="until_end")
    assert await claimed(watch) == ids[:1]
    await sql.execute(
        "UPDATE pgqrs_workflows SET status = 'ERROR', error = '1', executor = NULL, completed_at = now() WHERE id = $1",
        ids[0],
    )
    assert await claimed(watch) == ids[1:]
    await admin.resume_workflow(ids[0])
    assert await claimed(watch) == []
    await ended(sql, ids[1])
    assert await claimed(watch) == ids[:1]


async def test_cancelled_holder_frees_its_slot(admin: Admin, watch, sql):
    ids = await planted(sql, "a", 2)
    await admin.set_queue(QUEUE, partition_concurrency=1, holds="until_end")
    assert await claimed(watch) == ids[:1]
    await parked(sql, ids[0])
    await admin.cancel_workflow(ids[0])
    assert await claimed(watch) == ids[1:]


async def test_slot_of_a_dead_executor_goes_to_the_next_run(admin, store, watch, sql):
    ids = await planted(sql, "a", 2)
    await admin.set_queue(QUEUE, concurrency=1, holds="until_end")
    dead = await planted_executor(sql)
    async with watching(store, dead) as its:
        assert await claimed(its) == ids[:1]
    assert await claimed(watch) == []
    await sql.execute(
        "UPDATE pgqrs_executors SET expires_at = now() - interval '1 h', stopped_at = now() WHERE id = $1", dead
    )
    assert (await watch.run_maintenance(["w"], [QUEUE])).recovered == 1
    assert await claimed(watch) == ids[:1]
    assert await claimed(watch) == []


async def test_concurrent_claims_never_exceed_the_slots(admin, store, sql):
    for key in "abc":
        await planted(sql, key, 12)
    await admin.set_queue(QUEUE, concurrency=4, partition_concurrency=2, holds="until_end")
    one_at_a_time, most, seen, done = asyncio.Lock(), Counter(), set(), []
    live = "SELECT partition_key FROM pgqrs_workflows WHERE started_at IS NOT NULL AND completed_at IS NULL"

    async def take(watch):
        while len(done) < 36:
            found = await claimed(watch, 3)
            async with one_at_a_time:
                counts = Counter(row[0] for row in await sql.fetch(live))
                most["queue"] = max(most["queue"], counts.total())
                most["key"] = max(most["key"], *counts.values(), 0)
                again = [each for each in found if each in seen]
                seen.update(found)
                done.extend(again)
                await ended(sql, *again)
                await woken(sql, *set(found).difference(again))

    async with no_hang(), watching(store) as one, watching(store) as two, watching(store) as three:
        await asyncio.gather(*map(take, (one, two, three)))
    assert (most["queue"], most["key"]) == (4, 2)
    assert len(set(done)) == len(done) == 36


async def test_inputs_of_holders_count_for_the_budget_of_a_claim(admin, watch, sql):
    ids = await planted(sql, "a", 4)
    await sql.execute("UPDATE pgqrs_workflows SET input = to_json(repeat('x', 1000))")
    await admin.set_queue(QUEUE, concurrency=4, holds="until_end")
    assert await claimed(watch, 2) == ids[:2]
    await woken(sql, *ids[:2])
    found = await watch.claim(["w"], [QUEUE], 9, 2500)
    assert [run.workflow_id for run in found] == ids[:3]


async def test_list_counts_the_holders(admin, watch, sql):
    ids = await planted(sql, "a", 4)
    await admin.set_queue(QUEUE, concurrency=3, holds="until_end")
    assert await claimed(watch, 2) == ids[:2]
    await parked(sql, ids[0])
    await woken(sql, ids[1])
    (queue,) = await admin.list_queues()
    assert (queue.holds, queue.ready, queue.running, queue.holding, queue.held_back) == ("until_end", 3, 0, 2, 1)
    await admin.set_queue(QUEUE, partition_concurrency=2, holds="until_end")
    (queue,) = await admin.list_queues()
    assert (queue.holding, queue.held_back) == (2, 2)


@pytest.mark.parametrize("wrong", [{"holds": "until_end"}, {"holds": "long", "concurrency": 1}])
async def test_wrong_time_of_slots_is_refused(admin, wrong):
    with pytest.raises(ConfigurationError, match="holds"):
        await admin.set_queue(QUEUE, **wrong)


LEDGER = """
CREATE TABLE ledger (
    key text NOT NULL, workflow bigint NOT NULL, left_at timestamptz,
    EXCLUDE USING btree (key WITH =) WHERE (left_at IS NULL)
);
"""


async def test_mutex_holds_over_waits_and_retries(admin: Admin, sql):
    """The ledger refuses a second workflow of a key from the first line of the first to its last line."""
    go, failed = Topic("go", int), set()

    @workflow(retry=RetryPolicy(2, initial=0.01))
    async def exclusive(ctx: PyWorkflow, key: str) -> int:
        async def enter() -> None:
            async with lock:
                await sql.execute("INSERT INTO ledger VALUES ($1, $2)", key, ctx.id())

        await ctx.step("enter", enter)
        value = await ctx.receive(go)
        if ctx.id() not in failed:
            failed.add(ctx.id())
            raise OSError
        async with lock:
            await sql.execute("UPDATE ledger SET left_at = now() WHERE workflow = $1", ctx.id())
        return value

    lock = asyncio.Lock()
    await sql.execute(LEDGER)
    await admin.set_queue(QUEUE, partition_concurrency=1, holds="until_end")
    handles = [await admin.options(queue=QUEUE, partition_key="a").enqueue(exclusive, "a") for _ in range(2)]
    async with no_hang(), Worker(admin, [exclusive], [QUEUE]), Worker(admin, [exclusive], [QUEUE]):
        for number, each in enumerate(handles):
            await until(lambda: _is_open(sql, lock))
            await each.send(go, number)
            assert await each.result() == number
    assert await sql.fetchval("SELECT count(*) FROM ledger") == 2


async def _is_open(sql, lock):
    async with lock:
        return await sql.fetchval("SELECT count(*) FROM ledger WHERE left_at IS NULL") == 1
