"""The writes and the outcome of a transactional step are committed together, once, or not at all."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import partial

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import event, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from pgqrs import (
    Admin,
    DatabaseUnavailableError,
    RetryPolicy,
    SerializationError,
    SessionError,
    StepFailedError,
    StepTimeoutError,
    TransientError,
    WorkflowFencedError,
    step,
    workflow,
)
from pgqrs.observer import Observer
from tests.support.database import engine_on
from tests.support.shop import Base, Payment, paid
from tests.support.waiting import no_hang, until
from tests.support.wire import Fault, Wire
from tests.support.workflows import Gate, cancel_once_begun

SOON = RetryPolicy(attempts=5, initial=0.01, jitter=0)


class OwnSession(AsyncSession):
    """The application's own class of sessions."""


@pytest_asyncio.fixture
async def shop(dsn, schema, app, sessions):
    """An `Admin` that makes the sessions of steps as the application does."""
    async with Admin(
        dsn, schema, sessionmaker=async_sessionmaker(app, class_=OwnSession, info={"of": "app"})
    ) as it:
        yield it


@step(transactional=True)
async def pay(ctx, order, amount=5):
    payment = Payment(order=order, amount=amount)
    ctx.session.add(payment)
    await ctx.session.flush()
    return {"payment": payment.id}


@workflow
async def buy(ctx, order):
    return await pay(ctx, order)


async def started(admin, name):
    """Return the context of a new workflow that runs."""
    ctx = await admin.create_workflow(name)
    await ctx.start()
    return ctx


async def payments(sessions):
    """Return the orders that are paid, as anybody sees them."""
    async with sessions() as session:
        return await paid(session)


async def _steps(admin, workflow_id):
    return {each.step_id: each.status for each in await admin.list_steps(workflow_id)}


async def test_writes_and_outcome_are_committed_together(shop, sessions):
    ctx = await shop.create_workflow("buy")
    assert await buy(ctx, 1) == {"payment": 1}
    again = await shop.get_workflow(ctx.id())
    assert await buy(again, 1) == {"payment": 1}
    assert await payments(sessions) == [1]
    (recorded,) = await shop.list_steps(ctx.id())
    assert (recorded.status, recorded.output) == ("SUCCESS", {"payment": 1})


async def test_step_times_are_the_times_of_its_call(shop, sql):
    @step(transactional=True)
    async def slow(ctx) -> None:
        await ctx.session.execute(text("SELECT pg_sleep(0.2)"))
        await asyncio.sleep(0.1)

    ctx = await started(shop, "wf")
    before = await sql.fetchval("SELECT clock_timestamp()")
    await slow(ctx)
    after = await sql.fetchval("SELECT clock_timestamp()")
    [recorded] = await shop.list_steps(ctx.id())
    assert before <= recorded.started_at <= recorded.completed_at <= after
    assert (recorded.completed_at - recorded.started_at).total_seconds() >= 0.29


async def test_outcome_is_the_last_statement_before_the_commit(shop, app, sessions):
    await shop.run(buy, 0)  # which looks at what database it is
    said = []
    event.listen(app.sync_engine, "before_cursor_execute", lambda *given: said.append(given[2]))
    event.listen(app.sync_engine, "commit", lambda _connection: said.append("COMMIT"))
    await shop.run(buy, 1)
    assert said[0].startswith("INSERT INTO payments")
    assert "pgqrs_workflow_steps" in said[1]
    assert said[2:] == ["COMMIT"]


async def test_session_comes_from_the_application_sessionmaker(shop):
    @step(transactional=True)
    async def look(ctx):
        assert type(ctx.session) is OwnSession
        return ctx.session.info["of"]

    ctx = await started(shop, "look")
    assert await look(ctx) == "app"


async def test_session_uses_the_admin_engine_without_a_sessionmaker(dsn, schema, sessions):
    engine = engine_on(dsn, schema)
    async with Admin(engine, schema) as admin:
        await admin.run(buy, 4)
    await engine.dispose()
    assert await payments(sessions) == [4]


async def test_error_is_recorded_and_rolls_back_the_writes(shop, sessions):
    @step(transactional=True)
    async def refuse(ctx):
        await pay.__wrapped__(ctx, 1)
        raise ValueError("no money")

    ctx = await started(shop, "refuse")
    with pytest.raises(ValueError, match="no money"):
        await refuse(ctx)
    with pytest.raises(StepFailedError, match="no money"):
        await refuse(ctx)
    assert await payments(sessions) == []
    assert await _steps(shop, ctx.id()) == {"refuse": "ERROR"}


async def test_unserializable_value_rolls_back_the_writes(shop, sessions):
    @step(transactional=True)
    async def strange(ctx):
        await pay.__wrapped__(ctx, 1)
        return object()

    ctx = await started(shop, "strange")
    with pytest.raises(SerializationError) as refused:
        await strange(ctx)
    assert (refused.value.workflow_id, refused.value.step_id) == (ctx.id(), "strange")
    assert await payments(sessions) == []
    assert await _steps(shop, ctx.id()) == {"strange": "ERROR"}


async def test_failed_statement_is_the_step_error(shop, sessions):
    @step(transactional=True)
    async def twice(ctx):
        ctx.session.add_all([Payment(id=1, order=1, amount=1)])
        await ctx.session.flush()
        await ctx.session.execute(text("INSERT INTO payments VALUES (1, 1, 1)"))

    ctx = await started(shop, "twice")
    with pytest.raises(Exception, match="duplicate key"):
        await twice(ctx)
    assert await payments(sessions) == []
    assert await _steps(shop, ctx.id()) == {"twice": "ERROR"}


async def test_concurrent_calls_have_separate_sessions(shop, sessions):
    seen = []

    @step(key=lambda order: order, transactional=True)
    async def one(ctx, order):
        seen.append(ctx.session)
        ctx.session.add(Payment(order=order, amount=1))
        await ctx.session.flush()
        if order == 3:
            raise ValueError("not this one")
        return order

    @workflow
    async def all_at_once(ctx):
        return await asyncio.gather(*(one(ctx, order) for order in range(8)), return_exceptions=True)

    ctx = await shop.create_workflow("all")
    with pytest.raises(SerializationError):  # of the exception in the list
        await all_at_once(ctx)
    assert len(set(map(id, seen))) == 8
    async with sessions() as session:
        assert sorted(await paid(session)) == [0, 1, 2, 4, 5, 6, 7]


async def test_serializable_conflict_is_retried(dsn, schema, sessions):
    engine = engine_on(dsn, schema, isolation_level="SERIALIZABLE")
    barrier = asyncio.Barrier(2)
    calls = []

    @step(key=lambda order: order, transactional=True, retry=SOON)
    async def count(ctx, order):
        calls.append(order)
        number = await ctx.session.scalar(select(func.count()).select_from(Payment))
        if len(calls) <= 2:
            await barrier.wait()
        ctx.session.add(Payment(order=order, amount=number))
        return number

    @workflow
    async def both(ctx):
        return await asyncio.gather(count(ctx, 1), count(ctx, 2))

    async with Admin(dsn, schema, sessionmaker=async_sessionmaker(engine)) as admin, no_hang():
        assert sorted(await admin.run(both)) == [0, 1]  # as if one had come after the other
    assert len(calls) > 2
    await engine.dispose()


@pytest.mark.parametrize("retry", [None, SOON], ids=["without a policy", "with a policy"])
async def test_serialization_failure_is_recorded_without_a_policy(dsn, schema, sessions, retry):
    engine = engine_on(dsn, schema, isolation_level="REPEATABLE READ")
    async with sessions.begin() as session:
        session.add(Payment(order=1, amount=1))
    calls = []

    @step(transactional=True, retry=retry)
    async def raise_it(ctx):
        calls.append(await ctx.session.scalar(select(Payment.amount)))
        if len(calls) == 1:
            async with sessions.begin() as session:
                await session.execute(text("UPDATE payments SET amount = amount + 1"))
        await ctx.session.execute(text("UPDATE payments SET amount = amount + 1"))

    async with Admin(dsn, schema, sessionmaker=async_sessionmaker(engine)) as admin, no_hang():
        ctx = await started(admin, "raise")
        if retry is None:
            with pytest.raises(DBAPIError, match="could not serialize") as failed:
                await raise_it(ctx)
            assert failed.value.orig.sqlstate == "40001"
            with pytest.raises(StepFailedError, match="could not serialize"):
                await raise_it(ctx)
        else:
            await raise_it(ctx)
        assert calls == ([1] if retry is None else [1, 2])
        assert await _steps(admin, ctx.id()) == {"raise_it": "ERROR" if retry is None else "SUCCESS"}
    await engine.dispose()
    async with sessions() as session:
        assert await session.scalar(select(Payment.amount)) == (2 if retry is None else 3)


async def test_deadlock_is_retried(shop, sessions):
    async with sessions.begin() as session:
        session.add_all([Payment(id=1, order=1, amount=0), Payment(id=2, order=2, amount=0)])
    barrier = asyncio.Barrier(2)
    calls = []

    @step(key=lambda first, _second: first, transactional=True, retry=SOON)
    async def raise_both(ctx, first, second):
        calls.append(first)
        raise_one = text("UPDATE payments SET amount = amount + 1 WHERE id = :id")
        await ctx.session.execute(raise_one, {"id": first})
        if len(calls) <= 2:
            await barrier.wait()
        await ctx.session.execute(raise_one, {"id": second})

    @workflow
    async def crosswise(ctx):
        await asyncio.gather(raise_both(ctx, 1, 2), raise_both(ctx, 2, 1))

    async with no_hang():
        await shop.run(crosswise)
    assert len(calls) > 2
    async with sessions() as session:
        assert list(await session.scalars(select(Payment.amount))) == [2, 2]


async def test_failed_attempts_leave_no_writes(shop, sessions):
    calls = []

    @step(transactional=True, retry=SOON)
    async def third_time(ctx):
        calls.append(await paid(ctx.session))
        await pay.__wrapped__(ctx, len(calls))
        if len(calls) < 3:
            raise TransientError("not yet")
        return len(calls)

    ctx = await started(shop, "third")
    assert await third_time(ctx) == 3
    assert calls == [[], [], []]
    assert await payments(sessions) == [3]


@pytest.mark.parametrize("level", ["READ COMMITTED", "SERIALIZABLE"])
async def test_transaction_of_a_fenced_run_is_rolled_back(dsn, schema, sessions, level):
    engine = engine_on(dsn, schema, isolation_level=level)
    gate = Gate()

    @step(transactional=True)
    async def slow(ctx):
        await pay.__wrapped__(ctx, 1)
        await gate.stop()

    @workflow
    async def once(ctx):
        await slow(ctx)

    async with Admin(dsn, schema, sessionmaker=async_sessionmaker(engine)) as shop, no_hang():
        ctx = await shop.create_workflow("once")
        stale = asyncio.create_task(once(ctx))
        await gate.reached.wait()
        other = await shop.get_workflow(ctx.id())
        await other.start()
        gate.open()
        with pytest.raises(WorkflowFencedError):
            await stale
        assert await payments(sessions) == []
        assert "SUCCESS" not in (await _steps(shop, ctx.id())).values()
        await other.fail("the end")
    await engine.dispose()


async def test_cancelled_step_leaves_no_writes(shop, sessions):
    began = asyncio.Event()

    @step(transactional=True)
    async def hang(ctx):
        await pay.__wrapped__(ctx, 1)
        began.set()
        await asyncio.Event().wait()

    @workflow
    async def hanging(ctx):
        await hang(ctx)

    ctx = await shop.create_workflow("hanging")
    await cancel_once_begun(hanging(ctx), began)
    assert await payments(sessions) == []


async def test_timeout_rolls_back_unless_the_commit_has_begun(shop, sessions, monkeypatch):
    @step(transactional=True, timeout=0.2)
    async def late(ctx, hangs):
        await pay.__wrapped__(ctx, 1)
        if hangs:
            await asyncio.Event().wait()
        return "in time"

    ctx = await started(shop, "late")
    with pytest.raises(StepTimeoutError):
        await late(ctx, True)
    assert await payments(sessions) == []
    commit = OwnSession.commit

    async def slow_commit(self):
        await commit(self)
        await asyncio.sleep(0.5)

    monkeypatch.setattr(OwnSession, "commit", slow_commit)
    ctx = await started(shop, "late")
    assert await late(ctx, False) == "in time"
    assert await payments(sessions) == [1]
    assert await _steps(shop, ctx.id()) == {"late": "SUCCESS"}


async def test_step_swallowing_its_timeout_is_rolled_back(shop, sessions):
    @step(transactional=True, timeout=0.1)
    async def late(ctx):
        await pay.__wrapped__(ctx, 1)
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "late"

    ctx = await started(shop, "late")
    async with no_hang():
        with pytest.raises(StepTimeoutError):
            await late(ctx)
    assert await payments(sessions) == []
    assert await _steps(shop, ctx.id()) == {"late": "ERROR"}


@pytest.mark.parametrize("arrives", [True, False], ids=["after the commit", "before the commit"])
async def test_connection_lost_at_the_commit_writes_once(shop, app, sessions, arrives):
    lost = []

    def lose(connection):
        if not lost:
            lost.append(connection)
            driver = connection.connection.dbapi_connection
            if arrives:
                driver.run_async(lambda raw: raw.execute("COMMIT"))
            driver.driver_connection.terminate()

    event.listen(app.sync_engine, "commit", lose)

    @step(transactional=True, retry=SOON)
    async def once(ctx):
        return await pay.__wrapped__(ctx, 1)

    ctx = await shop.create_workflow("once")
    async with no_hang():
        await ctx.start()
        value = await once(ctx)
    assert lost
    async with sessions() as session:
        assert await paid(session) == [1]
        assert value == {"payment": await session.scalar(select(Payment.id))}


@pytest.mark.parametrize("fault", [Fault.SILENT_BEFORE, Fault.SILENT_AFTER])
async def test_silent_server_at_the_commit_writes_once(dsn, schema, sessions, sql, *, fault):
    async with Wire(dsn, sql) as wire, no_hang():
        engine = engine_on(wire.dsn, schema)
        event.listen(engine.sync_engine, "commit", lambda _connection: wire.arm(1, fault), once=True)
        async with Admin(dsn, schema, timeout=0.5, sessionmaker=async_sessionmaker(engine)) as admin:
            assert await admin.run(buy_patiently) == "paid"
        assert wire.fired
        await engine.dispose()
    assert await payments(sessions) == [1]


@step(transactional=True, retry=SOON)
async def pay_patiently(ctx):
    await pay.__wrapped__(ctx, 1)
    return "paid"


@workflow
async def buy_patiently(ctx):
    return await pay_patiently(ctx)


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_unanswered_commit_ends_the_run_within_the_timeout(dsn, schema, sessions, sql, *, is_cancelled):
    @step(transactional=True)
    async def held(ctx):
        await pay.__wrapped__(ctx, 1)
        # From now on nobody can tell whether the transaction goes on.
        await sql.execute("SELECT FROM pgqrs_workflows WHERE id = $1 FOR SHARE", ctx.id())

    @workflow
    async def holding(ctx):
        await held(ctx)

    began = asyncio.Event()

    def commits(_connection):
        wire.arm(1, Fault.SILENT_AFTER)
        began.set()

    async with Wire(dsn, sql) as wire, no_hang():
        engine = engine_on(wire.dsn, schema)
        event.listen(engine.sync_engine, "commit", commits, once=True)
        async with Admin(
            dsn, schema, timeout=0.5, outage_timeout=0.5, sessionmaker=async_sessionmaker(engine)
        ) as admin:
            ctx = await admin.create_workflow("holding")
            transaction = sql.transaction()
            await transaction.start()
            run = asyncio.create_task(holding(ctx))
            await began.wait()
            if is_cancelled:
                await _cancelled_twice(run)
            with pytest.raises(asyncio.CancelledError if is_cancelled else DatabaseUnavailableError):
                await run
            await transaction.rollback()
            await holding(await admin.get_workflow(ctx.id()))
        await engine.dispose()
    assert await payments(sessions) == [1]


async def _cancelled_twice(task):
    """Cancel a task, and once more when it has heard of that; it goes on all the same."""
    for _ in range(2):
        task.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
    assert not task.done()


async def _commits_slowly(sessions, sql):
    """Let each commit of a payment wait for a lock, take that, and return what tells whether one waits."""
    key = await sql.fetchval("SELECT abs(hashtext(current_schema())::bigint)")
    function = f"""
        CREATE FUNCTION wait_for_lock() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_advisory_xact_lock_shared({key}); RETURN NULL; END $$"""
    trigger = """
        CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON payments DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION wait_for_lock()"""
    async with sessions.begin() as session:
        await session.execute(text(function))
        await session.execute(text(trigger))
    await sql.execute(f"SELECT pg_advisory_lock({key})")

    async def one_waits():
        return await sql.fetchval(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = $1::bigint::oid",
            key,
        )

    return one_waits


async def test_cancellation_waits_for_the_end_of_a_commit(shop, sessions, sql):
    one_waits = await _commits_slowly(sessions, sql)
    ctx = await shop.create_workflow("buy")
    async with no_hang():
        run = asyncio.create_task(buy(ctx, 1))
        await until(one_waits)
        await _cancelled_twice(run)
        await sql.execute("SELECT pg_advisory_unlock_all()")
        with pytest.raises(asyncio.CancelledError):
            await run
        assert await payments(sessions) == [1]
        assert await _steps(shop, ctx.id()) == {"pay": "SUCCESS"}
        assert (await shop.list_workflows())[0].status == "RUNNING"
        assert await buy(await shop.get_workflow(ctx.id()), 1) == {"payment": 1}
    assert await payments(sessions) == [1]


async def test_slow_commit_method_does_not_break_another_connection(dsn, schema, app, sessions):
    """The connection may be somebody else's by then."""
    engine = engine_on(dsn, schema, pool_size=1, max_overflow=0)
    limit = 1.0
    served = []

    class Tardy(AsyncSession):
        async def commit(self):
            await super().commit()
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
                await asyncio.sleep(1.5 * limit)
                served.append(await connection.scalar(text("SELECT 2")))

    async with Admin(dsn, schema, timeout=limit, sessionmaker=async_sessionmaker(engine, class_=Tardy)) as admin:
        assert await admin.run(buy, 1) == {"payment": 1}
    await engine.dispose()
    assert served == [2]
    assert await payments(sessions) == [1]


async def test_step_may_use_savepoints_and_rollback(shop, sessions):
    @step(transactional=True)
    async def partly(ctx):
        await pay.__wrapped__(ctx, 1)
        await ctx.session.rollback()
        await pay.__wrapped__(ctx, 2)
        async with ctx.session.begin_nested():
            await pay.__wrapped__(ctx, 3)
        try:
            async with ctx.session.begin_nested():
                await pay.__wrapped__(ctx, 4)
                raise LookupError
        except LookupError:
            pass

    ctx = await started(shop, "partly")
    await partly(ctx)
    assert await payments(sessions) == [2, 3]


@pytest.mark.without_replay("the body waits until its step is seen to be running")
async def test_long_transaction_is_listed_and_blocks_no_other_step(shop, sessions):
    gate = Gate()

    @step(transactional=True)
    async def slow(ctx):
        await pay.__wrapped__(ctx, 1)
        await gate.stop()

    @step(key=lambda number: number)
    async def quick(_ctx, number):
        return number

    @workflow
    async def both(ctx):
        task = asyncio.create_task(slow(ctx))
        await gate.reached.wait()
        began = time.monotonic()
        for number in range(20):
            await quick(ctx, number)
        took = time.monotonic() - began
        await until(_is_running, ctx.id())
        gate.open()
        await task
        return took

    async def _is_running(workflow_id):
        return (await _steps(shop, workflow_id)).get("slow") == "RUNNING"

    async with no_hang():
        assert await shop.run(both) < 5


def _engine_of_level(dsn, schema, level, where):
    """Make an engine whose transactions have the level: by its own options, or by the server's default."""
    if where == "engine":
        return engine_on(dsn, schema, isolation_level=level)
    settings = {"search_path": f'"{schema}"', "default_transaction_isolation": level.lower()}
    return create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(dsn, server_settings=settings)
    )


async def _runs_long(admin, ctx):
    """Wait until a step that begins now is marked, and with it those that began before."""
    seen = asyncio.Event()

    @step
    async def beside(_ctx):
        await seen.wait()

    async def is_marked():
        return (await _steps(admin, ctx.id())).get("beside") == "RUNNING"

    task = asyncio.create_task(beside(ctx))
    await until(is_marked)
    seen.set()
    await task


@pytest.mark.without_replay("the body waits until its steps are seen to be running")
@pytest.mark.parametrize("where", ["engine", "server"])
@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
async def test_long_step_succeeds_at_every_isolation_level(dsn, schema, sessions, *, level, where):
    engine = _engine_of_level(dsn, schema, level, where)
    gate = Gate()

    @step(transactional=True)
    async def slow(ctx):
        await pay.__wrapped__(ctx, 1)
        await gate.stop()
        return await ctx.session.scalar(text("SHOW transaction_isolation"))

    @workflow
    async def both(ctx):
        task = asyncio.create_task(slow(ctx))
        await gate.reached.wait()
        await _runs_long(admin, ctx)
        shown = (await _steps(admin, ctx.id())).get("slow")
        gate.open()
        return [shown, await task]

    async with Admin(dsn, schema, sessionmaker=async_sessionmaker(engine)) as admin, no_hang():
        shown = "RUNNING" if level == "READ COMMITTED" else None
        assert await admin.run(both) == [shown, level.lower()]
    await engine.dispose()
    assert await payments(sessions) == [1]


@pytest.mark.without_replay("the body waits until its step is seen to be running")
@pytest.mark.parametrize("mark", ["written", "on its way"])
async def test_step_with_a_late_first_statement_succeeds(dsn, schema, sessions, mark):
    engine = engine_on(dsn, schema, isolation_level="SERIALIZABLE")
    on_its_way, lets_through = asyncio.Event(), asyncio.Event()

    class HoldsMarkUp(Observer):
        async def writing(self, records):
            if any(getattr(each, "output", "") is None and each.error is None for each in records):
                on_its_way.set()
                await lets_through.wait()

    @step(transactional=True)
    async def late(ctx):
        async def is_marked():
            return (await _steps(admin, ctx.id())).get("late") == "RUNNING"

        await on_its_way.wait()
        if mark == "written":
            lets_through.set()
            await until(is_marked)
        first = asyncio.create_task(pay.__wrapped__(ctx, 1))
        await asyncio.wait([first], timeout=0.2)  # which it waits in vain, for the statement waits for the mark
        lets_through.set()
        await until(is_marked)
        return await first

    @workflow
    async def buy_late(ctx):
        return await late(ctx)

    made = Admin(dsn, schema, sessionmaker=async_sessionmaker(engine))
    async with made.twin(observer=HoldsMarkUp()) as admin, no_hang():
        assert await admin.run(buy_late) == {"payment": 1}
    await engine.dispose()
    assert await payments(sessions) == [1]


async def test_workflow_enqueued_in_its_session_rolls_back_with_it(shop, sessions):
    calls = []

    @step(transactional=True, retry=SOON)
    async def order(ctx):
        calls.append(1)
        await shop.options(session=ctx.session).enqueue(buy, 9)
        if len(calls) == 1:
            raise TransientError("again")

    ctx = await started(shop, "order")
    await order(ctx)
    assert len(await shop.list_workflows(name="buy")) == 1


# --- bad input ---


@pytest.mark.parametrize("swallows", [False, True], ids=["raised", "swallowed"])
@pytest.mark.parametrize("how", ["commit", "begin"])
async def test_commit_inside_a_step_is_an_error_and_unrecorded(shop, sessions, how, swallows):
    @step(transactional=True)
    async def hasty(ctx):
        try:
            if how == "begin":
                async with ctx.session.begin():
                    ctx.session.add(Payment(order=1, amount=1))
            else:
                await pay.__wrapped__(ctx, 1)
                await ctx.session.commit()
        except SessionError:
            if not swallows:
                raise

    @workflow
    async def hurry(ctx):
        await hasty(ctx)

    ctx = await shop.create_workflow("hurry")
    with pytest.raises(SessionError, match="must not commit"):
        await hurry(ctx)
    assert await payments(sessions) == []
    assert await _steps(shop, ctx.id()) == {}


async def test_session_outside_a_transactional_step_is_an_error(shop):
    kept = []

    @step(transactional=True)
    async def keep(ctx):
        kept.append(ctx)

    @step
    async def plain(ctx):
        return ctx.session

    @step(transactional=True)
    async def around(ctx):
        return await plain(ctx)

    @workflow
    async def wrong(ctx, call):
        await call(ctx)

    with pytest.raises(SessionError, match="transactional=True"):
        _ = (await shop.create_workflow("w")).session
    for call in (plain, around):
        ctx = await shop.create_workflow("wrong")
        with pytest.raises(SessionError, match="transactional=True"):
            await wrong(ctx, call)
        assert await _steps(shop, ctx.id()) == {}
    ctx = await started(shop, "keep")
    await keep(ctx)
    with pytest.raises(SessionError, match="transactional=True"):
        _ = kept[0].session


async def test_offloaded_step_cannot_be_transactional():
    for options in ({"thread": True}, {"executor": lambda: None}):
        with pytest.raises(TypeError, match="event loop"):
            step(transactional=True, **options)
    with pytest.raises(TypeError, match="async def"):
        step(transactional=True)(lambda ctx: None)


@step(transactional=True)
async def inner(ctx):
    await pay.__wrapped__(ctx, 2)
    return "inner"


@step(transactional=True)
async def outer(ctx):
    await pay.__wrapped__(ctx, 1)
    return await inner(ctx)


@workflow
async def nesting(ctx):
    return await outer(ctx)


async def test_nested_transactional_steps_have_separate_transactions(shop, sessions):
    assert await shop.run(nesting) == "inner"
    async with sessions() as session:
        assert sorted(await paid(session)) == [1, 2]


async def test_nested_transactional_steps_need_two_connections(dsn, schema, sessions):
    engine = engine_on(dsn, schema, pool_size=1, max_overflow=0)
    async with Admin(engine, schema, timeout=1) as admin, no_hang():
        ctx = await admin.create_workflow("nesting")
        with pytest.raises(SessionError, match="no connection came free within 1 s"):
            await nesting(ctx)
        assert set((await _steps(admin, ctx.id())).values()) <= {"RUNNING"}  # for they took long: no outcome
    await engine.dispose()
    assert await payments(sessions) == []


async def test_autocommit_engine_is_refused(dsn, schema, sessions):
    engine = engine_on(dsn, schema, isolation_level="AUTOCOMMIT")
    async with Admin(dsn, schema, sessionmaker=async_sessionmaker(engine)) as admin:
        with pytest.raises(SessionError, match="AUTOCOMMIT"):
            await admin.run(buy, 1)
    await engine.dispose()


async def test_sessions_of_another_database_are_refused(dsn, schema, admin, own_database):
    engine = engine_on(own_database, "public")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with Admin(dsn, schema, sessionmaker=async_sessionmaker(engine)) as wrong:
        with pytest.raises(SessionError, match="another database"):
            await wrong.run(buy, 1)
    async with async_sessionmaker(engine)() as session:
        assert await paid(session) == []
    await engine.dispose()


async def test_sessionmaker_of_another_type_is_refused(dsn, schema, admin):
    async with Admin(dsn, schema, sessionmaker=partial(dict)) as wrong:
        with pytest.raises(SessionError, match="must make an AsyncSession, got dict"):
            await wrong.run(buy, 1)


@pytest.mark.parametrize("moment", ["commit", "after_commit"])
async def test_error_of_an_application_commit_hook_does_not_hang(shop, app, sessions, moment):
    def refuse(*_):
        raise RuntimeError("the hook fails")

    target = app.sync_engine if moment == "commit" else OwnSession.sync_session_class
    event.listen(target, moment, refuse)
    try:
        ctx = await shop.create_workflow("buy")
        async with no_hang():
            if moment == "commit":
                with pytest.raises(RuntimeError, match="the hook fails"):
                    await buy(ctx, 1)
            else:
                assert await buy(ctx, 1) == {"payment": 1}
    finally:
        event.remove(target, moment, refuse)
    assert await payments(sessions) == ([] if moment == "commit" else [1])
