"""`Admin.purge` deletes chosen workflows that have ended, with their children, and keeps the others."""

import asyncio

import pytest
from sqlalchemy import select

from pgqrs import PyWorkflow, Update, Worker, WorkflowFilter, WorkflowHandle, WorkflowNotFoundError, step, workflow
from pgqrs.models import Workflow
from pgqrs.storage.records import WorkflowIdentity
from pgqrs.storage.retention import purge as purges
from tests.support.families import double
from tests.support.retention import TABLES, aged, left, rows_of
from tests.support.waiting import no_hang, until

ASK = Update("ask", str, str)


@workflow
async def agreeing(ctx: PyWorkflow) -> None:
    await (await ctx.receive(ASK)).reply("yes")


@workflow
async def family(ctx: PyWorkflow) -> int:
    return await ctx.call(double, 1) + await ctx.call(double, 2)


@step
async def ended(ctx: PyWorkflow) -> int:
    return 1


@workflow
async def brief(ctx: PyWorkflow) -> int:
    return await ended(ctx)


async def planted(sql, count, **columns):
    return [await aged(sql, 0.0, **columns) for _ in range(count)]


async def test_ended_workflows_go_with_all_their_rows(admin, sql):
    old, other = await planted(sql, 3), await planted(sql, 1, name="other")
    live = (await admin.options(queue="unserved").enqueue(brief)).id
    looked = await admin.purge([*old, live, 10**6], dry_run=True)
    assert (looked.found, looked.changed, looked.dry_run) == (5, 3, True)
    assert len(await left(sql)) == 5
    seen = []
    done = await admin.purge([*old, live, 10**6], progress=seen.append)
    assert (done.found, done.changed) == (5, 3)
    assert {each.reason: each.ids for each in done.left} == {"have not ended": (live,), "do not exist": (10**6,)}
    assert seen[-1] == done
    assert await left(sql) == [*other, live]
    for each in old:
        assert set((await rows_of(sql, each)).values()) == {0}
    assert (await admin.purge(old)).changed == 0  # safe to repeat


async def test_filter_and_select_choose_the_workflows(admin, sql, monkeypatch):
    monkeypatch.setattr(purges, "AT_ONCE", 3)
    await planted(sql, 10, name="a")
    kept = await planted(sql, 2, name="b")
    assert (await admin.purge(select(Workflow.id).where(Workflow.name == "a", Workflow.id < 8))).changed == 7
    assert (await admin.purge(WorkflowFilter(name="a"))).changed == 3
    assert await left(sql) == kept


async def test_children_go_with_their_parent_and_not_alone(admin, sql):
    async with no_hang(), Worker(admin, [family, double]):
        handle = await admin.enqueue(family)
        assert await handle.result() == 6
    children = [each for each in await left(sql) if each != handle.id]
    alone = await admin.purge(children)
    assert (alone.changed, alone.left[0].reason) == (0, "are children of a workflow that stays")
    looked = await admin.purge([handle.id, *children], dry_run=True)
    assert (looked.found, looked.changed) == (3, 3)
    assert (await admin.purge([handle.id])).changed == 1
    assert await left(sql) == []
    with pytest.raises(WorkflowNotFoundError):
        await admin.export_workflow(handle.id)
    await until(lambda: sql.fetchval("SELECT count(*) = 0 FROM pgqrs_messages"))


async def test_unread_reply_keeps_its_workflow(admin, sql):
    async with no_hang(), Worker(admin, [agreeing]):
        handle = await admin.enqueue(agreeing)
        assert await handle.update(ASK, "well?") == "yes"
        await handle.result()
    report = await admin.purge([handle.id])
    assert (report.changed, report.left[0].reason) == (0, "have replied within the last hour")
    await sql.execute("UPDATE pgqrs_messages SET taken_at = now() - interval '2 h'")
    assert (await admin.purge([handle.id])).changed == 1


async def test_purge_belongs_to_the_session_of_the_caller(admin, sessions, sql):
    old = await planted(sql, 2)
    async with sessions() as session:
        assert (await admin.purge(old, session=session)).changed == 2
        await session.rollback()
    assert await left(sql) == old
    async with sessions() as session, session.begin():
        await admin.purge(old, session=session)
    assert [await sql.fetchval(f"SELECT count(*) FROM {each}") for each in TABLES] == [0] * 6


async def test_resume_comes_before_or_after_and_never_between(admin, sql):
    for _ in range(10):
        (own,) = await planted(sql, 1, status="ERROR", error='{"type": "E", "message": "m"}')
        resumed, purged = await asyncio.gather(
            admin.resume_workflow(own), admin.purge([own]), return_exceptions=True
        )
        rows = await rows_of(sql, own)
        if isinstance(resumed, WorkflowNotFoundError):
            assert (purged.changed, rows["pgqrs_workflows"], rows["pgqrs_workflow_steps"]) == (1, 0, 0)
        else:
            assert (purged.changed, rows["pgqrs_workflows"], rows["pgqrs_workflow_steps"]) == (0, 1, 1)


async def test_two_purges_beside_workers_lose_nothing(admin, sql):
    old = await planted(sql, 60)
    async with no_hang(), Worker(admin, [brief]):
        handles = [await admin.enqueue(brief) for _ in range(60)]
        reports = await asyncio.gather(admin.purge(old), admin.purge(old), *(each.result() for each in handles))
    assert sum(each.changed for each in reports[:2]) == 60
    assert await left(sql) == [each.id for each in handles]


async def test_handles_and_late_messages_find_no_workflow(admin, sql):
    async with no_hang(), Worker(admin, [brief]):
        handle = await admin.enqueue(brief)
        await handle.result()
        token = await sql.fetchval("SELECT token FROM pgqrs_workflows")
        await admin.purge([handle.id])
        again = WorkflowHandle(admin._loops, WorkflowIdentity(handle.id, token), is_there=False)
        for call in (again.result(), again.status(), handle.send("t", 1), handle.steps(), handle.result()):
            with pytest.raises(WorkflowNotFoundError):
                await call
    await sql.execute(
        "INSERT INTO pgqrs_messages (workflow_id, address, key, payload) VALUES (1, 'm/1/t', 'k', '1')"
    )
    await admin.purge([handle.id])
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_messages") == 0
