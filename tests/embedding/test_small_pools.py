"""A pool of one connection suffices, even for a transactional step that calls pgqrs."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import create_async_engine

from pgqrs import Admin, DatabaseUnavailableError, Worker, step, workflow
from pgqrs.storage.connections import dedicated as aside
from tests.support.conversation import converse
from tests.support.shop import Payment, paid
from tests.support.waiting import no_hang, until
from tests.support.workflows import cancel_task

NAME = "pgqrs small pool"


@workflow
async def child(_ctx, number=0):
    return number


@pytest_asyncio.fixture
async def only(dsn, schema, sessions):
    """An `Admin` on an engine of the application's with a pool of one; its connections are called `NAME`."""
    settings = {"search_path": f'"{schema}"', "application_name": NAME + schema}
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: asyncpg.connect(dsn, server_settings=settings),
        pool_size=1,
        max_overflow=0,
    )
    async with Admin(engine, schema, timeout=5, outage_timeout=5) as admin:
        yield admin
    await engine.dispose()


@pytest.fixture
def backends(sql, schema):
    """Return the process ids of the connections whose last statement has something in it."""

    async def find(part):
        rows = await sql.fetch(
            "SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND query LIKE '%' || $2 || '%'",
            NAME + schema,
            part,
        )
        return {row["pid"] for row in rows}

    return find


async def _pay(ctx, order):
    ctx.session.add(Payment(order=order, amount=1))
    await ctx.session.flush()


async def _asks_the_time(_admin, ctx):
    return (await ctx.now()).tzinfo is not None


async def _sleeps(_admin, ctx):
    await ctx.sleep(0.01)


async def _enqueues(admin, _ctx):
    return [(await admin.enqueue(child, number)).id for number in range(5)]


async def _enqueues_with_keys(admin, _ctx):
    submit = admin.options(key="taken")
    return [(await submit.enqueue(child)).id, (await submit.enqueue(child)).id]


async def _creates(admin, _ctx):
    return [(await admin.create_workflow("child", number)).id() for number in range(5)]


async def _runs(admin, _ctx):
    return [await admin.run(child, number) for number in range(5)]


@pytest.mark.parametrize(
    "asks",
    [_asks_the_time, _sleeps, _enqueues, _enqueues_with_keys, _creates, _runs],
    ids=lambda asks: asks.__name__,
)
async def test_transactional_step_calls_pgqrs_on_a_pool_of_one(only, sessions, asks):
    @step(transactional=True)
    async def pay(ctx):
        await _pay(ctx, 1)
        return await asks(only, ctx)

    @workflow
    async def buy(ctx):
        return await pay(ctx)

    ctx = await only.create_workflow("buy")
    async with no_hang():
        await buy(ctx)
    async with sessions() as session:
        assert await paid(session) == [1]


async def test_concurrent_transactional_steps_share_a_pool_of_one(only, sessions):
    @step(transactional=True)
    async def pay(ctx, order):
        await _pay(ctx, order)
        await ctx.now()
        for key in (None, f"order {order // 2}"):
            await only.options(key=key, on_conflict="ignore").enqueue(child, order)
        await only.create_workflow("child", order)

    @workflow
    async def buy(ctx, order):
        await pay(ctx, order)
        return order

    async with no_hang(), Worker(only, [buy], concurrency=20):
        handles = await only.enqueue_many(buy, [(order,) for order in range(20)])
        assert [await handle.result() for handle in handles] == list(range(20))
    async with sessions() as session:
        assert sorted(await paid(session)) == list(range(20))
    written = await only.list_workflows(name="child", limit=1000)
    assert len(written) == 20 + 10 + 20


async def test_pool_of_one_carries_messages_events_and_children(only):
    await converse(only)
    await only.verify(deep=True)


async def test_transactional_step_sends_on_a_pool_of_one(only, sessions):
    """A message, an event and children of a step's transaction, while the step has the only connection."""

    @step(transactional=True)
    async def pay(ctx, receiver):
        await _pay(ctx, 1)
        submit = only.options(session=ctx.session)
        await submit.send(receiver, "paid", 1)
        await submit.emit("paid", 2)
        await only.send(receiver, "paid", 3)

    @workflow
    async def buy(ctx, receiver):
        await pay(ctx, receiver)

    @workflow
    async def receiving(ctx):
        return [await ctx.receive("paid"), await ctx.receive("paid"), await ctx.wait_event("paid")]

    async with no_hang(), Worker(only, [buy, receiving]):
        handle = await only.enqueue(receiving)
        await (await only.enqueue(buy, handle.id)).result()
        assert sorted(await handle.result()) == [1, 2, 3]


async def test_caller_of_the_only_connection_can_enqueue(only):
    store = await only.store()
    await only.list_workflows()  # which looks at the tables, once
    async with no_hang(), store.database.engine.connect():
        await only.enqueue(child)
        await store.reader.now()


# --- the connection beside the pool ---


async def test_connection_outside_the_pool_is_closed_when_idle(only, backends, monkeypatch):
    store = await only.store()
    assert await store.ids.block(2) == [1, 2]
    (first,) = await backends("nextval")
    await asyncio.gather(*(store.ids.block(1) for _ in range(5)))
    assert await backends("nextval") == {first}
    monkeypatch.setattr(aside, "IDLE_TIMEOUT", 0.01)
    await store.ids.block(1)

    async def is_gone():
        return not await backends("nextval")

    await until(is_gone)
    monkeypatch.undo()
    assert await store.ids.block(1) == [9]
    (second,) = await backends("nextval")
    assert second != first
    await only.close()
    await until(is_gone)


async def test_lost_connection_outside_the_pool_is_replaced(only, sql, backends):
    store = await only.store()
    await store.ids.block(1)
    (lost,) = await backends("nextval")
    await sql.fetchval("SELECT pg_terminate_backend($1, 5000)", lost)
    await store.ids.block(1)
    assert lost not in await backends("nextval")
    asking = asyncio.create_task(store.ids.of_key("child", "a"))
    await asyncio.sleep(0)  # it has been begun
    await cancel_task(asking)
    assert await store.ids.of_key("child", "a") is None


async def test_key_lookup_outlasts_the_lock_timeout(only, sql, backends):
    store = await only.store()
    handle = await only.options(key="taken").enqueue(child)
    seen = set()

    async def has_tried_twice():
        seen.update(
            row["pid"]
            for row in await sql.fetch("SELECT pid FROM pg_locks WHERE NOT granted AND mode LIKE 'Acc%'")
        )
        return len(seen) >= 2

    async with no_hang():
        async with sql.transaction():
            await sql.execute("LOCK TABLE pgqrs_workflows")
            asking = asyncio.create_task(store.ids.of_key("child", "taken"))
            await until(has_tried_twice)
        assert (await asking).workflow_id == handle.id


async def test_absent_server_is_reported_within_the_outage_timeout(dsn, schema, admin):
    async def connect():
        raise ConnectionRefusedError

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect)
    async with Admin(engine, schema, timeout=1, outage_timeout=0.2) as away:
        with pytest.raises(DatabaseUnavailableError):
            await (await away.store()).ids.block(1)


async def test_transactional_step_reads_and_changes_the_state(only):
    @step(transactional=True)
    async def paying(ctx):
        await _pay(ctx, 1)
        paid_before = await ctx.state.get("paid", 0)
        await ctx.state.set("paid", paid_before + 1)
        return await ctx.state.get("paid")

    @workflow
    async def order(ctx):
        return [await paying(ctx), await ctx.state.get("paid")]

    async with no_hang(), Worker(only, [order]):
        handle = await only.options(partition_key="ada").enqueue(order)
        assert await handle.result() == [1, 1]
