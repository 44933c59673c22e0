"""The retention: which workflows a pass deletes, in which steps, and what keeps a workflow."""

import asyncio
from datetime import timedelta

import pytest

from pgqrs import ConfigurationError
from pgqrs.storage.retention import families, passes, purge
from tests.support.retention import aged, left, passed, retention_of, rows_of

DAY = timedelta(days=1)


async def test_pass_deletes_old_workflows_with_all_their_rows(admin, sql):
    old, young = await aged(sql, 31), await aged(sql, 29)
    failed, long_failed = await aged(sql, 89, "ERROR"), await aged(sql, 91, "ERROR")
    live = await sql.fetchval(
        "INSERT INTO pgqrs_workflows (name, input, created_at) VALUES ('w', '{}', now() - interval '1 y') RETURNING id"
    )
    await admin.set_retention()
    assert await passed(admin) == 2
    assert await left(sql) == [young, failed, live]
    for each in (old, long_failed):
        assert set((await rows_of(sql, each)).values()) == {0}
    assert sum((await rows_of(sql, young)).values()) == 5
    record = await admin.retention()
    assert (record.deleted, record.is_under_way, record.ended_at is not None) == (2, False, True)


async def test_times_of_names_and_none_are_followed(admin, sql):
    beat, beat_failed, kept = await aged(sql, 0.2, name="beat"), await aged(sql, 0.2, "ERROR", name="beat"), 0
    kept = await aged(sql, 4000, name="ledger")
    failed = await aged(sql, 4000, "ERROR")
    await admin.set_retention(days=30, failed=None, per={"beat": timedelta(hours=2), "ledger": None})
    assert await passed(admin) == 2
    assert await left(sql) == [kept, failed]
    assert {beat, beat_failed}.isdisjoint(await left(sql))
    assert (await admin.retention()).per == {"beat": timedelta(hours=2), "ledger": None}


async def test_nothing_is_deleted_in_the_grace_or_when_off(admin, sql):
    old = await aged(sql, 4000)
    async with retention_of(admin) as steps:
        found = await steps.look()
        assert found.is_default
        assert 6.9 * 86400 < found.starts_in <= found.due_in
        assert await steps.step(passes.WORKFLOWS) is None
        await admin.set_retention(days=None, failed=None)
        assert (await steps.look()).due_in is None
        assert await steps.step(passes.WORKFLOWS) is None
    assert await left(sql) == [old]
    assert (await admin.retention()).next_at is None


async def test_default_retention_begins_after_the_grace(admin, sql):
    await aged(sql, 31)
    async with retention_of(admin) as steps:
        await steps.look()
    await sql.execute("UPDATE pgqrs_retention SET starts_at = now(), next_at = now()")
    assert await passed(admin) == 1
    assert (await admin.retention()).is_default


async def test_new_times_begin_a_new_pass(admin, sql):
    await admin.set_retention()
    await sql.execute("UPDATE pgqrs_retention SET stage = 'messages', cursor = 1000")
    await aged(sql, 31)
    await admin.set_retention()
    assert await passed(admin) == 1


async def test_child_is_kept_with_its_parent_and_goes_with_it(admin, sql):
    parent = await aged(sql, 10, has_children=True)
    child = await aged(sql, 100, parent_id=parent, parent_step="start:1", place=0)
    grandchild = await aged(sql, 100, parent_id=child, parent_step="start:1", place=0)
    await admin.set_retention()
    assert await passed(admin) == 0
    await sql.execute("UPDATE pgqrs_workflows SET completed_at = now() - interval '31 d' WHERE id = $1", parent)
    await sql.execute("UPDATE pgqrs_workflows SET created_at = now() - interval '100 d'")
    await admin.set_retention()
    assert await passed(admin) == 3
    assert {parent, child, grandchild}.isdisjoint(await left(sql))


async def test_parent_of_a_live_child_is_kept(admin, sql):
    parent = await aged(sql, 100, has_children=True)
    child = await aged(sql, 100, parent_id=parent, parent_step="start:1", place=0)
    live = await sql.fetchval(
        "INSERT INTO pgqrs_workflows (name, input, parent_id, parent_step, place) VALUES ('w', '{}', $1, 's', 0)"
        " RETURNING id", parent,
    )  # fmt: skip
    await admin.set_retention()
    assert await passed(admin) == 0
    assert await left(sql) == [parent, child, live]


async def test_members_of_a_live_batch_and_throttles_are_kept(admin, sql):
    batch = await sql.fetchval("INSERT INTO pgqrs_workflows (name, input) VALUES ('w', '[2]') RETURNING id")
    await sql.execute("UPDATE pgqrs_workflows SET batch_id = id")
    member = await aged(sql, 100, "CANCELLED", batch_id=batch)
    last = await aged(sql, 100, unique_value="v", unique_until_start=True)
    await sql.execute(
        "INSERT INTO pgqrs_throttles VALUES ('w', 'v', $1, 1e8, now(), now() + interval '1 year')", last
    )
    other = await aged(sql, 100, unique_value="v", unique_until_start=True)
    await admin.set_retention()
    assert await passed(admin) == 1
    assert await left(sql) == [batch, member, last]
    assert other not in await left(sql)


async def test_locked_and_resumed_workflows_are_kept(admin, sql, dsn, schema):
    old = [await aged(sql, 100, "ERROR") for _ in range(3)]
    await admin.set_retention()
    await admin.resume_workflow(old[0])
    async with sql.transaction():
        await sql.execute("SELECT FROM pgqrs_workflows WHERE id = $1 FOR NO KEY UPDATE", old[1])
        assert await passed(admin) == 1
    assert await left(sql) == old[:2]


async def test_old_events_and_orphaned_messages_are_swept(admin, sql):
    gone = await aged(sql, 100)
    await admin.emit("old")
    await admin.emit("new")
    await sql.execute("UPDATE pgqrs_messages SET sent_at = now() - interval '31 d' WHERE address = 'e/old'")
    await admin.set_retention()
    assert await passed(admin) == 1
    found = [row["address"] for row in await sql.fetch("SELECT address FROM pgqrs_messages")]
    assert found == ["e/new"]
    assert gone not in await left(sql)


async def test_steps_are_small_rest_and_end_at_young_workflows(admin, sql, monkeypatch):
    monkeypatch.setattr(passes, "MAX_WINDOW", 4)
    monkeypatch.setattr(passes, "LONG", 60.0)
    for _ in range(10):
        await aged(sql, 31)
    for _ in range(8):
        await aged(sql, 1)
    await admin.set_retention()
    async with retention_of(admin) as steps:
        first = await steps.step(passes.WORKFLOWS)
        assert (first.deleted, first.stage, first.is_over) == (4, passes.WORKFLOWS, False)
        assert first.rest > 0
        assert await sql.fetchval("SELECT next_at > now() - interval '1 s' FROM pgqrs_retention")
        await sql.execute("UPDATE pgqrs_retention SET next_at = now()")
        await steps.step(passes.WORKFLOWS)
        await sql.execute("UPDATE pgqrs_retention SET next_at = now()")
        assert (await steps.step(passes.WORKFLOWS)).deleted == 10
        await sql.execute("UPDATE pgqrs_retention SET next_at = now()")
        last = await steps.step(passes.WORKFLOWS)  # four young ones: the other four are not looked at
        assert last.stage == passes.MESSAGES
        assert steps.statements == 4
    assert len(await left(sql)) == 8


async def test_one_worker_at_a_time_takes_the_steps(admin, sql):
    for _ in range(40):
        await aged(sql, 31)
    await admin.set_retention()
    async with retention_of(admin) as steps, sql.transaction():
        await sql.execute("SELECT FROM pgqrs_retention FOR UPDATE")
        assert await steps.step(passes.WORKFLOWS) is None
    async with retention_of(admin) as one, retention_of(admin) as other:
        done = await asyncio.gather(one.step(passes.WORKFLOWS), other.step(passes.WORKFLOWS))
    assert [each.deleted for each in done if each is not None] in ([40], [40, 40])
    assert await left(sql) == []


@pytest.mark.new_tables
async def test_purge_reads_rows_by_their_keys_only(admin, sql):
    await sql.execute(
        "INSERT INTO pgqrs_workflows (name, status, input, output, epoch, completed_at)"
        " SELECT 'w', 'SUCCESS', '{}', '1', 1, now() FROM generate_series(1, 20000)"
    )
    database = (await admin.store()).database
    ids = "{" + ",".join(map(str, range(1, 501))) + "}"
    for build in (purge.purge, purge.assess, families.children):
        plan = await sql.fetch(f"EXPLAIN {database.compile(build).text}", ids)
        read = [row[0] for row in plan if "Seq Scan on pgqrs_workflow" in row[0]]
        assert read == [], build.__name__


async def test_interrupted_pass_leaves_nothing_half(admin, sql):
    for _ in range(30):
        await aged(sql, 31)
    await admin.set_retention()
    for pause in (0.0, 0.002, 0.004, 0.006, 0.01):
        under_way = asyncio.ensure_future(passed(admin))
        await asyncio.wait([under_way], timeout=pause)
        under_way.cancel()
        await asyncio.wait([under_way])
        found = await sql.fetchrow(
            "SELECT (SELECT count(*) FROM pgqrs_workflows) AS workflows, count(*) AS steps FROM pgqrs_workflow_steps"
        )
        assert found["workflows"] == found["steps"]
    await admin.set_retention()
    await passed(admin)
    assert await left(sql) == []


@pytest.mark.parametrize(
    "given", [{"days": 0.01}, {"failed": timedelta(days=40000)}, {"per": {"w": float("nan")}}]
)
async def test_unusable_times_are_refused(admin, given):
    with pytest.raises(ConfigurationError, match="at least an hour"):
        await admin.set_retention(**given)
