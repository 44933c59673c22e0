"""Children with keys: found by their key, started once, and refused if another workflow has the key."""

from __future__ import annotations

import asyncio
import base64

import pytest
from sqlalchemy.ext.asyncio import async_sessionmaker

from pgqrs import (
    Admin,
    ConfigurationError,
    KeyTakenError,
    PyWorkflow,
    Worker,
    WorkflowStatus,
    workflow,
)
from pgqrs.codecs import FernetCodec, PydanticCodec
from pgqrs.testing import crash_everywhere
from pgqrs.workflow import children as starting
from tests.support.database import is_held_up
from tests.support.families import children_of, double, nap
from tests.support.recorded import row_of
from tests.support.waiting import no_hang, until
from tests.support.workflows import note

pytest_plugins = ("pytest_pgqrs",)

KEY = base64.urlsafe_b64encode(b"k" * 32)
FAR = "a queue without a worker"


@workflow
async def of_one(ctx: PyWorkflow, key: str = "k") -> int:
    """Await a child with a key."""
    child = await ctx.options(key=key, priority=3).start(double, 4)
    return await child


@workflow
async def of_own(ctx: PyWorkflow) -> int:
    """Start two children with keys that have the id of the workflow."""
    first = await ctx.options(key=f"{ctx.id()} a", queue="kids").start(double, 1)
    second = await ctx.options(key=f"{ctx.id()} b", queue="kids", until="end").start(double, 2)
    return await first + await second


@workflow
async def calling(ctx: PyWorkflow) -> int:
    return await ctx.options(key="called").call(double, 3)


@workflow
async def careful(ctx: PyWorkflow) -> str:
    """Go on without a child whose key another workflow has."""
    try:
        await ctx.options(key="k").start(double, 4)
    except KeyTakenError as taken:
        return f"{taken.name} {taken.key} {taken.holder_id}"
    return "started"


@workflow
async def twice(ctx: PyWorkflow) -> None:
    await ctx.options(key="k", queue=FAR, on_end="abandon").start(nap)
    await ctx.options(key="k", queue=FAR, on_end="abandon").start(nap)


@workflow
async def late(ctx: PyWorkflow) -> None:
    await ctx.options(key="k", queue=FAR).start(nap)
    await ctx.sleep(3600)


async def has_status(handle, status):
    return await handle.status() == status


async def test_child_is_found_by_its_key(admin, sql):
    async with no_hang(), Worker(admin, [of_one, double]):
        parent = await admin.enqueue(of_one)
        assert await parent.result() == 8
        found = await admin.find(double, key="k")
        assert await found.result() == 8
    (child,) = await children_of(sql, parent.id)
    assert (child["id"], child["key"], child["priority"], child["place"]) == (found.id, "k", 3, 0)
    assert (child["parent_step"], child["ends_with_parent"]) == ("start/double:1", True)
    assert (await row_of(sql, parent.id))["has_children"]


async def test_keyed_children_start_once_through_any_crash(pgqrs_admin):
    async with Worker(pgqrs_admin, [double], queues=["kids"]):
        assert await crash_everywhere(of_own, admin=pgqrs_admin) == 6


@pytest.mark.parametrize("codec", [PydanticCodec(), FernetCodec([KEY])], ids=["pydantic", "fernet"])
async def test_keyed_children_have_any_codec(dsn, installed, codec):
    async with (
        no_hang(),
        Admin(dsn, installed, codec=codec) as own,
        Worker(own, [of_own, double, careful, calling], queues=["default", "kids"]),
    ):
        assert await (await own.enqueue(of_own)).result() == 6
        assert await (await own.enqueue(calling)).result() == 6
        assert await (await own.find(double, key="called")).result() == 6
        holder = await own.options(key="k", queue=FAR).enqueue(double, 1)
        assert await (await own.enqueue(careful)).result() == f"double k {holder.id}"


async def test_crash_before_the_step_is_recorded_finds_the_child(admin, sql, monkeypatch):
    """The process dies between the child and the record of its step."""
    record, deaths = starting._record, []

    async def dies_first(*args):
        if not deaths:
            deaths.append(1)
            raise SystemExit(3)
        return await record(*args)

    monkeypatch.setattr(starting, "_record", dies_first)
    async with no_hang():
        parent = await admin.enqueue(of_one)
        with pytest.raises(SystemExit):
            await of_one(await admin.get_workflow(parent.id))
        (child,) = await children_of(sql, parent.id)
        async with Worker(admin, [of_one, double]):
            assert await parent.result() == 8
    assert [each["id"] for each in await children_of(sql, parent.id)] == [child["id"]]
    assert (await row_of(sql, parent.id))["has_children"]


async def test_key_of_another_workflow_is_a_recorded_error(admin, sql):
    holder = await admin.options(key="k", queue=FAR).enqueue(double, 1)
    async with no_hang(), Worker(admin, [of_one, careful]):
        assert await (await admin.enqueue(careful)).result() == f"double k {holder.id}"
        parent = await admin.enqueue(of_one)
        with pytest.raises(KeyTakenError, match=f"workflow {holder.id} has the key 'k'"):
            await parent.result()
        (step,) = await parent.steps()
        assert (step.step_id, step.status) == ("start/double:1", "ERROR")
        with pytest.raises(KeyTakenError):
            await of_one(await admin.get_workflow(parent.id))  # a replay raises the recorded error
    assert await children_of(sql, parent.id) == []
    assert await holder.status() == WorkflowStatus.PENDING


async def test_resumed_parent_tries_the_start_again(admin, sql):
    holder = await admin.options(key="k", until="end", queue=FAR).enqueue(double, 1)
    async with no_hang(), Worker(admin, [of_one, double]):
        parent = await admin.enqueue(of_one)
        with pytest.raises(KeyTakenError):
            await parent.result()
        await holder.cancel()
        await admin.resume_workflow(parent.id)
        assert await parent.result() == 8
    assert (await admin.find(double, key="k")).id == (await children_of(sql, parent.id))[0]["id"]


async def test_second_child_with_a_key_is_refused(admin, sql):
    async with no_hang():
        with pytest.raises(KeyTakenError) as caught:
            await admin.run(twice)
    holder = await admin.find(nap, key="k")
    assert caught.value.holder_id == holder.id
    assert [each["id"] for each in await children_of(sql, caught.value.workflow_id)] == [holder.id]


async def test_end_of_a_parent_cancels_a_keyed_child(admin):
    async with no_hang(), Worker(admin, [late]):
        parent = await admin.enqueue(late)
        await until(has_status, parent, "WAITING")
        child = await admin.find(nap, key="k")
        await parent.cancel()
        await until(has_status, child, "CANCELLED")


@pytest.mark.parametrize("is_committed", [True, False], ids=["committed", "rolled back"])
async def test_start_waits_for_a_submission_of_its_key(admin, sql, engine, is_committed):
    async with no_hang(), async_sessionmaker(engine)() as session, Worker(admin, [careful]):
        holder = await admin.options(key="k", session=session, queue=FAR).enqueue(double, 1)
        parent = await admin.enqueue(careful)
        await until(has_status, parent, "RUNNING")
        await asyncio.sleep(0)
        await (session.commit() if is_committed else session.rollback())
        assert await parent.result() == (f"double k {holder.id}" if is_committed else "started")


async def test_start_that_waits_for_its_key_delays_no_step(admin, engine, sql):
    ctx = await admin.create_workflow("w")
    await ctx.start()
    async with no_hang(), async_sessionmaker(engine)() as session:
        await admin.options(key="k", session=session, queue=FAR).enqueue(double, 1)
        start = asyncio.create_task(ctx.options(key="k").start(double, 4))
        await until(is_held_up, sql, admin.schema)
        assert await note(ctx, "beside") == "beside"
        assert not start.done()
        await session.rollback()
        await start


async def test_stale_run_starts_no_keyed_child(admin, sql):
    ctx = await admin.create_workflow("w")
    await ctx.start()
    await (await admin.get_workflow(ctx.id())).start()  # fences the first run
    with pytest.raises(BaseException, match="fenced"):
        await ctx.options(key="k").start(double, 1)
    assert await children_of(sql, ctx.id()) == []


async def test_keyed_start_is_held_up_by_a_lock_on_its_parent(admin, sql, engine):
    ctx = await admin.create_workflow("w")
    await ctx.start()
    async with no_hang(), engine.connect() as other:
        await other.exec_driver_sql(
            f"SELECT id FROM {admin.schema}.pgqrs_workflows WHERE id = {ctx.id()} FOR UPDATE"
        )
        start = asyncio.create_task(ctx.options(key="k").start(double, 1))
        done, _ = await asyncio.wait([start], timeout=0.3)
        assert not done
        await other.rollback()
        child = await start
    assert (await admin.find(double, key="k")).id == child.id


@pytest.mark.parametrize("how", ["with a key", "without", "many"])
async def test_child_whose_id_is_taken_gets_another(admin, sql, how):
    """A server that has lost its last moments gives out an id twice."""
    ctx = await admin.create_workflow("w")
    await ctx.start()
    sequence = (await admin.store()).database.workflow_ids
    await sql.execute(f"ALTER SEQUENCE {sequence} RESTART WITH {ctx.id()}")
    async with asyncio.timeout(10):
        if how == "many":
            await ctx.start_many(double, [(1,), (2,)])
            assert [each["place"] for each in await children_of(sql, ctx.id())] == [0, 1]
        else:
            child = await ctx.options(key="k" if how == "with a key" else None).start(double, 1)
            assert [each["id"] for each in await children_of(sql, ctx.id())] == [child.id]


async def test_start_many_and_a_bad_time_are_refused(admin):
    ctx = await admin.create_workflow("w")
    await ctx.start()
    with pytest.raises(ConfigurationError, match="one child"):
        await ctx.options(key="k").start_many(double, [(1,)])
    with pytest.raises(ConfigurationError, match="a key"):
        ctx.options(until="end")
    with pytest.raises(ConfigurationError, match="`until`"):
        ctx.options(key="k", until="start")
