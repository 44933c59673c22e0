"""Operations on many workflows: they do as the single ones do, in chunks, beside workers, and safe to repeat."""

import asyncio
from contextlib import suppress

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, func, select, text, true
from sqlalchemy.orm import aliased

from pgqrs import (
    Admin,
    BulkReport,
    ConfigurationError,
    LeftWorkflows,
    PyWorkflow,
    SessionError,
    Topic,
    Worker,
    WorkflowCancelledError,
    WorkflowFilter,
    WorkflowFinishedError,
    step,
    workflow,
)
from pgqrs.codecs import PydanticCodec
from pgqrs.models import Message, Workflow
from pgqrs.storage.selection import bulk, selections
from pgqrs.testing import run_enqueued
from tests.support.shop import Payment
from tests.support.waiting import no_hang, until

GO = Topic("go", str)

ALIVE = "00000000-0000-4000-8000-00000000a11e"


@workflow
async def quick(ctx: PyWorkflow, number: int = 0) -> int:
    return number


@workflow
async def waits(ctx: PyWorkflow) -> str:
    return await ctx.receive(GO, timeout=1000)


@workflow
async def waits_for_ever(ctx: PyWorkflow) -> str:
    return await ctx.receive(GO)


@workflow
async def child(ctx: PyWorkflow) -> None:
    pass


@workflow
async def parent(ctx: PyWorkflow) -> str:
    await ctx.start(child)
    return await ctx.receive(GO)


@step
async def give_back(ctx: PyWorkflow, value: str) -> None:
    pass


@step(undo=give_back)
async def book(ctx: PyWorkflow) -> str:
    return "booked"


@workflow
async def trip(ctx: PyWorkflow) -> str:
    async with ctx.saga():
        await book(ctx)
        return await ctx.receive(GO)


@workflow
async def fails(ctx: PyWorkflow, *, healed: bool = False) -> None:
    raise ValueError("no")


DUMP = """
    SELECT count(*), name, status, ready_at IS NULL, due_at IS NULL, deadline IS NULL, executor IS NULL,
        completed_at IS NULL, cancel_interrupts, saga_state, claim IS NULL, epoch,
        (SELECT count(*) FROM pgqrs_waits WHERE workflow_id = w.id),
        (SELECT string_agg(step_id || status, ' ' ORDER BY step_id) FROM pgqrs_workflow_steps s WHERE workflow_id = w.id)
    FROM pgqrs_workflows w WHERE id = ANY($1) OR parent_id = ANY($1) GROUP BY 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14
    ORDER BY 2, 3, 12
"""


async def family(admin, claimer, sql):
    """Make a workflow in each state, and return their ids."""
    ids = []

    for each in (waits, waits_for_ever, parent, trip):
        ids.append(await claimer.submit(each))
        await claimer.park(each)
    for each in (quick, fails):
        ids.append(await claimer.submit(each))
        with suppress(ValueError):
            await claimer.run(each)
    delayed = await admin.options(delay=3600, queue="later", timeout=9999).enqueue(quick)
    pending, own, dead = [await admin.options(queue="later").enqueue(quick) for _ in range(3)]
    await sql.execute(
        "INSERT INTO pgqrs_executors (id, host, pid, expires_at) VALUES ($1, 'h', 1, now() + '1 h') ON CONFLICT DO NOTHING",
        ALIVE,
    )
    for handle, executor in ((own, ALIVE), (dead, "00000000-0000-4000-8000-00000000dead")):
        await sql.execute(
            "UPDATE pgqrs_workflows SET status = 'RUNNING', executor = $2, epoch = 1, claim = 5, ready_at = NULL "
            "WHERE id = $1", handle.id, executor,
        )  # fmt: skip
    cancelled = await admin.options(queue="later").enqueue(quick)
    await cancelled.cancel()
    return ids + [each.id for each in (delayed, pending, own, dead, cancelled)]


async def settled(admin, sql):
    """Have a worker undo the sagas and cancel the children of ended parents."""
    left = "SELECT count(*) FROM pgqrs_workflows WHERE completed_at IS NULL AND (saga_state IS NOT NULL OR parent_id IS NOT NULL)"
    async with Worker(admin, [trip]):
        await until(lambda: sql.fetchval(f"SELECT ({left}) = 0"))


async def one_by_one(act, ids):
    for each in ids:
        with suppress(WorkflowFinishedError):
            await act(each)


async def test_bulk_cancel_does_as_the_single_one_does(admin, claimer, sql):
    singly, at_once = await family(admin, claimer, sql), await family(admin, claimer, sql)
    assert await sql.fetch(DUMP, singly) == await sql.fetch(DUMP, at_once)
    looked = await admin.cancel_workflows(at_once, dry_run=True)
    assert await sql.fetch(DUMP, singly) == await sql.fetch(DUMP, at_once)
    await one_by_one(admin.cancel_workflow, singly)
    report = await admin.cancel_workflows(at_once)
    assert await sql.fetch(DUMP, singly) == await sql.fetch(DUMP, at_once)
    assert (report.found, report.changed, looked.changed) == (11, 8, 8)
    assert {each.reason: each.number for each in report.left} == {
        "have ended as SUCCESS": 1, "have ended as ERROR": 1, "have ended as CANCELLED": 1,
    }  # fmt: skip
    assert str(looked).startswith("found 11, would change 8; 1 have ended as")
    again = await admin.cancel_workflows(at_once, interrupt=True)
    assert {(each.reason, each.number) for each in again.left} >= {
        ("have ended as CANCELLED", 7), ("are to end already, once their sagas are undone", 1),
    }  # fmt: skip
    assert again.changed == 1  # the run, which is now to be interrupted
    await one_by_one(lambda each: admin.cancel_workflow(each, interrupt=True), singly)
    await settled(admin, sql)  # the saga is undone, and the child of the parent ends with it
    dump = await sql.fetch(DUMP, singly)
    assert dump == await sql.fetch(DUMP, at_once)
    assert {row["status"] for row in dump} == {"CANCELLED", "SUCCESS", "ERROR", "RUNNING"}


async def test_bulk_resume_does_as_the_single_one_does(admin, claimer, sql):
    singly, at_once = await family(admin, claimer, sql), await family(admin, claimer, sql)
    for ids in (singly, at_once):
        await admin.cancel_workflows(ids)
    await settled(admin, sql)
    ended = "SELECT id FROM pgqrs_workflows WHERE id = ANY($1) AND completed_at IS NOT NULL ORDER BY id"
    ends = [[row["id"] for row in await sql.fetch(ended, ids)] for ids in (singly, at_once)]
    await one_by_one(admin.resume_workflow, ends[0])
    report = await admin.resume_workflows(ends[1])
    assert await sql.fetch(DUMP, singly) == await sql.fetch(DUMP, at_once)
    assert (report.found, report.changed) == (10, 9)
    assert [(each.reason, each.number) for each in report.left] == [("have succeeded", 1)]
    again = await admin.resume_workflows(at_once)
    assert (again.changed, {each.reason: each.number for each in again.left}) == (
        0, {"have succeeded": 1, "have not ended": 10},
    )  # fmt: skip


async def test_bulk_resume_leaves_workflows_whose_key_is_taken(admin):
    held = admin.options(key="k", until="end")
    first = await held.enqueue(quick)
    await first.cancel()
    await held.enqueue(quick)
    free = await admin.options(key="free", until="end").enqueue(quick)
    await free.cancel()
    report = await admin.resume_workflows(WorkflowFilter(status="CANCELLED"))
    reason = "have released their key or unique value, which another workflow has"
    assert report == BulkReport(2, 1, (LeftWorkflows(reason, 1, (first.id,)),))
    assert await free.status() == "PENDING"


@pytest.mark.parametrize("count", [300, pytest.param(100_000, marks=pytest.mark.slow)])
async def test_bulk_cancel_beside_workers_loses_none(admin, dsn, schema, sql, count):
    handles = await admin.enqueue_many(quick, [(number,) for number in range(count)])
    locked = [each.id for each in handles[:5]]
    async with Admin(dsn, schema) as other, Worker(other, [quick], concurrency=8):
        await until(sql.fetchval, "SELECT count(*) > 0 FROM pgqrs_workflows WHERE completed_at IS NOT NULL")
        transaction = sql.transaction()
        await transaction.start()
        await sql.fetch("SELECT FROM pgqrs_workflows WHERE id = ANY($1) FOR NO KEY UPDATE", locked)
        seen = []

        def progress(report):
            seen.append(report)
            if len(seen) * bulk.CHUNK >= count and not ended.done():
                ended.set_result(None)

        ended = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(admin.cancel_workflows(WorkflowFilter(name="quick"), progress=progress))
        await ended
        await transaction.rollback()
        async with no_hang():
            report = await task
        assert report.found == count
        assert report.changed + sum(each.number for each in report.left) == count
        assert seen[-1] == report
        left = "SELECT count(*) FROM pgqrs_workflows WHERE completed_at IS NULL"
        await until(lambda: sql.fetchval(f"SELECT ({left}) = 0"))
    ends = dict(await sql.fetch("SELECT status, count(*) FROM pgqrs_workflows GROUP BY 1"))
    assert sum(ends.values()) == count
    assert set(ends) <= {"SUCCESS", "CANCELLED"}
    assert ends["CANCELLED"] <= report.changed  # a run that was asked to stop may have ended before it heard of it


async def test_bulk_cancel_is_interrupted_and_repeated(admin, monkeypatch):
    monkeypatch.setattr(bulk, "CHUNK", 2)
    monkeypatch.setattr(selections, "MAX_PAGE", 3)
    handles = await admin.enqueue_many(quick, [(number,) for number in range(7)])

    def interrupt(report):
        if report.changed >= 3:
            raise KeyError(report.changed)

    with pytest.raises(KeyError, match="3"):
        await admin.cancel_workflows(WorkflowFilter(name="quick"), progress=interrupt)
    report = await admin.cancel_workflows([each.id for each in handles] + [999])
    assert (report.found, report.changed) == (8, 4)
    assert {each.reason: (each.number, each.ids) for each in report.left} == {
        "have ended as CANCELLED": (3, (1, 2, 3)), "do not exist": (1, (999,)),
    }  # fmt: skip
    with pytest.raises(WorkflowCancelledError):
        await handles[-1].result()


async def test_a_locked_workflow_is_left_in_the_end(admin, dsn, schema, sql, monkeypatch):
    monkeypatch.setattr(bulk, "PATIENCE", 0.0)
    first, second = await admin.enqueue_many(quick, [(1,), (2,)])
    async with sql.transaction():
        await sql.fetch("SELECT FROM pgqrs_workflows WHERE id = $1 FOR NO KEY UPDATE", first.id)
        report = await admin.cancel_workflows([first.id, second.id])
    assert report == BulkReport(2, 1, (LeftWorkflows("are locked by another transaction", 1, (first.id,)),))


async def test_a_select_may_join_tables_of_the_application(admin, sql, schema, sessions):
    orders = Table("payments", MetaData(schema=schema), Column("id", Integer), Column("order_number", Integer))
    handles = await admin.enqueue_many(quick, [(number,) for number in range(4)])
    await sql.executemany("INSERT INTO payments VALUES ($1, $2, 7)", [(each.id, each.id % 2) for each in handles])
    odd = select(Workflow.id).join(orders, orders.c.id == Workflow.id).where(orders.c.order_number == 1)
    assert (await admin.cancel_workflows(odd, dry_run=True)).changed == 2
    assert (await admin.cancel_workflows(odd)).changed == 2
    assert [await each.status() for each in handles] == ["CANCELLED", "PENDING", "CANCELLED", "PENDING"]
    async with sessions() as session:
        session.add(Payment(id=99, order=handles[1].id, amount=1))
        await session.flush()
        own = select(Workflow.id).join(Payment, Payment.order == Workflow.id).where(Payment.amount == 1)
        report = await admin.cancel_workflows(own, session=session)
        assert report.changed == 1
        assert await handles[1].status() == "PENDING"
        await session.rollback()
        assert await handles[1].status() == "PENDING"
        report = await admin.cancel_workflows([handles[1].id], session=session)
        await session.commit()
        assert await handles[1].status() == "CANCELLED"
        assert (await admin.resume_workflows([handles[1].id], session=session)).changed == 1
        await session.commit()
        assert await handles[1].status() == "PENDING"


async def test_a_select_of_anything_but_ids_of_workflows_is_refused(admin):
    alias = aliased(Workflow)
    refused = [
        (select(Workflow), "alone, and it returns pgqrs_workflows.id, pgqrs_workflows.name"),
        (select(Workflow.id, Workflow.name), "returns pgqrs_workflows.id, pgqrs_workflows.name"),
        (select(Message.id), "returns pgqrs_messages.id"),
        (select(Workflow.epoch), "returns pgqrs_workflows.epoch"),
        (select(func.max(Workflow.id)), "returns max"),
        (select(Workflow.id).union(select(Message.id)), "returns pgqrs_messages.id"),
        (text("SELECT 1").columns(Workflow.id), "returns a text"),
        (WorkflowFilter(), "the filter has no condition"),
        (WorkflowFilter(tags=()), "the filter has no condition"),
    ]
    for which, said in refused:
        with pytest.raises(ConfigurationError, match=said.replace("pgqrs_", r".*pgqrs_")):
            await admin.cancel_workflows(which)
    for which in ("17", 17, ["17"], Workflow):
        with pytest.raises(TypeError):
            await admin.resume_workflows(which)
    await admin.enqueue(quick)
    for which in (
        select(alias.id), select(Workflow.id).union_all(select(alias.id)), select(select(Workflow.id).subquery().c.id),
        select(Workflow.id).order_by(Workflow.priority).limit(5), WorkflowFilter(where=true()), iter([1]),
    ):  # fmt: skip
        assert (await admin.cancel_workflows(which, dry_run=True)).found == 1


async def test_send_many_sends_each_workflow_one_message(admin, dsn, schema, sessions):
    handles = await admin.enqueue_many(waits, [(), ()])
    ended = await admin.enqueue(quick)
    await ended.cancel()
    async with Admin(dsn, schema, codec=PydanticCodec()) as typed:
        foreign = await typed.enqueue(waits)
    every = WorkflowFilter(where=Workflow.id > 0)
    assert (await admin.send_many(every, GO, "a", key="k1", dry_run=True)).changed == 3
    async with sessions() as session:
        assert (await admin.send_many(every, GO, "never", key="k1", session=session)).changed == 3
        await session.rollback()
    report = await admin.send_many(every, GO, "a", key="k1")
    assert report == BulkReport(4, 3, (LeftWorkflows("have ended as CANCELLED", 1, (ended.id,)),))
    again = await admin.send_many(every, GO, "b", key="k1")
    assert (again.changed, {each.reason: each.number for each in again.left}) == (
        0, {"have a message with this key already": 3, "have ended as CANCELLED": 1},
    )  # fmt: skip
    await run_enqueued(admin, [waits])
    assert [await each.result() for each in handles] == ["a", "a"]
    async with Admin(dsn, schema, codec=PydanticCodec()) as typed:
        report = await typed.send_many([foreign.id, ended.id], Topic("other"), "a", key="k")
        assert report.changed == 1
        waiting = await admin.enqueue(waits)
        report = await typed.send_many([waiting.id], GO, "a", key="k")
        assert [each.reason for each in report.left] == ["are written with another codec than the message"]


async def test_resume_in_autocommit_is_refused(admin, app):
    async with app.connect() as connection:
        own = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await admin.enqueue(quick)
        with pytest.raises(SessionError, match="AUTOCOMMIT"):
            await admin.resume_workflows([1], session=own)
        assert (await admin.cancel_workflows([1], session=own)).changed == 1
