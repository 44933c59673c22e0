"""Workflows are enqueued, created, cancelled and resumed in the caller's session."""

from __future__ import annotations

import asyncio

import pytest
import pytest_asyncio
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool
from sqlalchemy.util import await_only

from pgqrs import (
    Admin,
    ConfigurationError,
    NotInstalledError,
    SessionError,
    Worker,
    WorkflowFinishedError,
    WorkflowNotFoundError,
    WorkflowStatus,
    step,
    workflow,
)
from tests.support.database import engine_on
from tests.support.shop import Payment, paid
from tests.support.waiting import no_hang, until


@workflow
async def ship(ctx, order):
    return await pack(ctx, order)


@step
async def pack(_ctx, order):
    return f"packed {order}"


async def test_session_commit_or_rollback_decides_an_enqueue(admin, sessions):
    async with sessions() as session:
        session.add(Payment(order=1, amount=5))
        gone = await admin.options(session=session).enqueue(ship, 1)
        await session.rollback()
    async with sessions() as session, session.begin():
        session.add(Payment(order=2, amount=5))
        kept = await admin.options(session=session).enqueue(ship, 2)
        assert await admin.list_workflows() == []  # not before the commit
    assert [each.id for each in await admin.list_workflows()] == [kept.id]
    assert await kept.status() == WorkflowStatus.PENDING
    with pytest.raises(WorkflowNotFoundError):
        await gone.result()
    async with sessions() as session:
        assert await paid(session) == [2]


async def test_workflow_enqueued_in_a_session_runs_after_the_commit(admin, sessions):
    async with Worker(admin, [ship]), no_hang():
        for order in range(3):
            async with sessions() as session, session.begin():
                handle = await admin.options(session=session, key=f"order {order}").enqueue(ship, order)
            assert await handle.result() == f"packed {order}"


@pytest.mark.parametrize("nested", [False, True], ids=["commit", "savepoint and commit"])
async def test_queue_is_notified_after_the_commit(admin, sessions, nested):
    rung = asyncio.Event()
    watch = await (await admin.store()).claim_connection(lambda _queue: rung.set())
    await watch.claim(["nothing"], ["default"], 1)  # it listens from here on
    try:
        async with sessions() as session:
            if nested:
                async with session.begin_nested():
                    await admin.options(session=session).enqueue(ship, 1)
            else:
                await admin.options(session=session).enqueue(ship, 1)
            await (await admin.loop_state()).notifier.close()  # what was to be rung has been
            assert not rung.is_set()
            await session.commit()
        async with no_hang():
            await rung.wait()
    finally:
        await watch.close()


async def test_connection_can_enqueue_a_workflow(admin, app, sessions):
    async with app.connect() as connection:
        gone = await admin.options(session=connection).enqueue(ship, 1)
        await connection.rollback()
        kept = await admin.options(session=connection).enqueue(ship, 2)
        await connection.commit()
    assert [each.id for each in await admin.list_workflows()] == [kept.id]
    assert kept.id != gone.id


async def test_connection_can_create_cancel_and_resume(admin, app, sessions):
    async with app.connect() as connection:
        gone = await admin.create_workflow("ship", 1, session=connection)
        await connection.rollback()
        kept = await admin.create_workflow("ship", 2, session=connection)
        handle = admin.handle(kept.id())
        assert await admin.list_workflows() == []
        await connection.commit()
        assert [each.id for each in await admin.list_workflows()] == [kept.id()]
        for change, before, after in (
            (admin.cancel_workflow, WorkflowStatus.PENDING, WorkflowStatus.CANCELLED),
            (admin.resume_workflow, WorkflowStatus.CANCELLED, WorkflowStatus.PENDING),
        ):
            await change(kept.id(), session=connection)
            await connection.rollback()
            assert await handle.status() == before
            await change(kept.id(), session=connection)
            assert await handle.status() == before
            await connection.commit()
            assert await handle.status() == after
    with pytest.raises(WorkflowNotFoundError):
        await ship(gone, 1)
    assert await ship(kept, 2) == "packed 2"


async def test_savepoint_rollback_removes_the_workflow_and_its_key(admin, sessions):
    other = await admin.create_workflow("ship", 0)
    async with sessions() as session, session.begin():
        savepoint = await session.begin_nested()
        submit = admin.options(session=session, key="order 1")
        gone = await submit.enqueue(ship, 1)
        await admin.cancel_workflow(other.id(), session=session)
        await savepoint.rollback()
        kept = await submit.enqueue(ship, 1)
        assert kept.id != gone.id
    assert {each.id: each.status for each in await admin.list_workflows()} == {
        other.id(): WorkflowStatus.PENDING,
        kept.id: WorkflowStatus.PENDING,
    }


async def test_session_bound_to_a_connection_follows_its_transaction(admin, app, sessions):
    for ends, workflows in (("rollback", 0), ("commit", 1)):
        async with app.connect() as connection:
            transaction = await connection.begin()
            async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
                await admin.options(session=session).enqueue(ship, 1)
                await session.commit()
                assert await admin.list_workflows() == []
            await getattr(transaction, ends)()
        assert len(await admin.list_workflows()) == workflows


async def test_used_session_keeps_its_schema_translate_map(schema, admin, app, sessions):
    mapped = app.execution_options(schema_translate_map={None: schema, "pgqrs": "elsewhere"})
    async with AsyncSession(mapped) as session, session.begin():
        await session.execute(text("SELECT 1"))
        session.add(Payment(order=7, amount=1))
        await session.flush()
        await admin.options(session=session).enqueue(ship, 7)
        session.add(Payment(order=8, amount=1))
        connection = await session.connection()
        options = await connection.run_sync(lambda sync: sync.get_execution_options())
        assert options["schema_translate_map"].items() >= {(None, schema), ("pgqrs", "elsewhere")}
        created = await admin.create_workflow("ship", 8, session=session)
        await admin.cancel_workflow(created.id(), session=session)
        await admin.resume_workflow(created.id(), session=session)
        session.add(Payment(order=9, amount=1))
    assert {each.status for each in await admin.list_workflows()} == {WorkflowStatus.PENDING}
    assert len(await admin.list_workflows()) == 2
    async with sessions() as session:
        assert await paid(session) == [7, 8, 9]


async def test_key_in_a_session_returns_the_existing_workflow(admin, sessions):
    first = await admin.options(key="order 1").enqueue(ship, 1)
    async with sessions() as session, session.begin():
        assert (await admin.options(key="order 1", session=session).enqueue(ship, 1)).id == first.id
        new = await admin.options(key="order 2", session=session).enqueue(ship, 2)
        assert (await admin.options(key="order 2", session=session).enqueue(ship, 2)).id == new.id
    assert len(await admin.list_workflows()) == 2


async def test_enqueue_many_works_in_a_session(admin, sessions):
    async with sessions() as session, session.begin():
        many = admin.options(session=session)
        handles = await many.enqueue_many(ship, [(number % 40,) for number in range(50)], key=str)
        assert await many.enqueue_many(ship, []) == []
        assert await admin.list_workflows() == []
    assert len(await admin.list_workflows()) == len({handle.id for handle in handles}) == 40


async def test_workflow_created_in_a_session_runs_after_the_commit(admin, sessions):
    async with sessions() as session, session.begin():
        gone = await admin.create_workflow("ship", 1, session=session)
        await session.rollback()
    with pytest.raises(WorkflowNotFoundError):
        await ship(gone, 1)
    async with sessions() as session, session.begin():
        kept = await admin.create_workflow("ship", 2, session=session)
    assert await ship(kept, 2) == "packed 2"


async def test_cancel_and_resume_take_effect_at_the_commit(admin, sessions):
    handle = await admin.options(delay=60).enqueue(ship, 1)
    async with sessions() as session:
        await admin.cancel_workflow(handle.id, session=session)
        assert await handle.status() == WorkflowStatus.PENDING
        await session.rollback()
        assert await handle.status() == WorkflowStatus.PENDING
        await admin.cancel_workflow(handle.id, session=session)
        await session.commit()
    assert await handle.status() == WorkflowStatus.CANCELLED
    async with sessions() as session, session.begin():
        await admin.resume_workflow(handle.id, session=session)
        assert await handle.status() == WorkflowStatus.CANCELLED
    assert await handle.status() == WorkflowStatus.PENDING


async def test_committed_cancellation_stops_a_running_workflow(dsn, schema, sessions):
    began = asyncio.Event()

    @workflow
    async def sleeper(ctx):
        began.set()
        await ctx.sleep(60)

    async with Admin(dsn, schema, heartbeat_timeout=1.5) as admin, Worker(admin, [sleeper]), no_hang():
        handle = await admin.enqueue(sleeper)
        await began.wait()
        async with sessions() as session, session.begin():
            await admin.cancel_workflow(handle.id, session=session)
        await until(_is, handle, WorkflowStatus.CANCELLED)


async def _is(handle, status):
    return await handle.status() == status


async def test_failed_cancel_or_resume_leaves_the_session_usable(admin, sessions):
    ended = await admin.create_workflow("ship", 1)
    await ship(ended, 1)
    async with sessions() as session, session.begin():
        session.add(Payment(order=3, amount=1))
        with pytest.raises(WorkflowNotFoundError):
            await admin.cancel_workflow(2**40, session=session)
        with pytest.raises(WorkflowNotFoundError):
            await admin.resume_workflow(2**70, session=session)
        with pytest.raises(WorkflowFinishedError):
            await admin.cancel_workflow(ended.id(), session=session)
        with pytest.raises(WorkflowFinishedError):
            await admin.resume_workflow(ended.id(), session=session)
    async with sessions() as session:
        assert await paid(session) == [3]


@pytest.mark.parametrize("verified", [False, True], ids=["the first use", "used before"])
async def test_session_on_the_only_pool_connection_suffices(dsn, schema, admin, verified):
    engine = engine_on(dsn, pool_size=1, max_overflow=0)
    async with Admin(engine, schema, timeout=5) as single, no_hang():
        if verified:
            await single.verify()
        async with AsyncSession(engine) as session, session.begin():
            await session.execute(text("SELECT 1"))
            handle = await single.options(session=session, key="a").enqueue(ship, 1)
            await single.options(session=session).enqueue_many(ship, [(2,), (3,)])
            await single.create_workflow("ship", session=session)
            await single.cancel_workflow(handle.id, session=session)
            await single.resume_workflow(handle.id, session=session)
        assert len(await single.list_workflows()) == 4
    await engine.dispose()


# --- isolation levels ---


@pytest_asyncio.fixture
async def in_isolation(dsn, schema, sessions):
    """Makes engines of the application's that have an isolation level."""
    engines = []

    def make(level):
        engines.append(engine_on(dsn, schema, isolation_level=level))
        return engines[-1]

    yield make
    for engine in engines:
        await engine.dispose()


async def _is_blocked(sql):
    """Tell whether a statement on a workflow waits for the transaction of `sql`."""
    return await sql.fetchval(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid)))"
    )


@pytest.mark.parametrize("lend", ["session", "connection"])
async def test_autocommit_session_writes_at_once(admin, in_isolation, lend):
    engine = in_isolation("AUTOCOMMIT")
    async with AsyncSession(engine) if lend == "session" else engine.connect() as lent:
        created = await admin.create_workflow("ship", 1, session=lent)
        first = await admin.options(session=lent, key="order 1").enqueue(ship, 1)
        assert (await admin.options(session=lent, key="order 1").enqueue(ship, 1)).id == first.id
        await admin.options(session=lent).enqueue_many(ship, [(2,), (3,)])
        await admin.cancel_workflow(created.id(), session=lent)
        found = {each.id: each.status for each in await admin.list_workflows()}
        assert len(found) == 4
        assert found[created.id()] == WorkflowStatus.CANCELLED
        with pytest.raises(SessionError, match="AUTOCOMMIT"):
            await admin.resume_workflow(created.id(), session=lent)
        assert await admin.handle(created.id()).status() == WorkflowStatus.CANCELLED
    await admin.resume_workflow(created.id())


async def test_autocommit_cancellation_is_one_statement(admin, in_isolation):
    handle = await admin.enqueue(ship, 1)
    ctx = await admin.get_workflow(handle.id)
    engine, seen = in_isolation("AUTOCOMMIT"), []

    def claim_before_the_second(*told):
        seen.extend([told[2]] if "pgqrs_workflows" in told[2] else [])
        if len(seen) == 2:
            await_only(ctx.start())

    async with engine.connect() as connection:
        event.listen(engine.sync_engine, "before_cursor_execute", claim_before_the_second)
        await admin.cancel_workflow(handle.id, session=connection)
    assert len(seen) == 1
    assert await handle.status() == WorkflowStatus.CANCELLED


@pytest.mark.parametrize("level", ["READ COMMITTED", "AUTOCOMMIT"])
async def test_cancellation_after_a_concurrent_claim_requests_a_stop(admin, sql, in_isolation, level):
    handle = await admin.enqueue(ship, 1)
    store = await admin.store()
    await store.ensure_heartbeat()
    async with AsyncSession(in_isolation(level)) as session, no_hang():
        async with sql.transaction():
            await sql.execute(
                "UPDATE pgqrs_workflows SET status = 'RUNNING', epoch = 1, executor = $1, ready_at = NULL",
                store.executor_id,
            )
            cancelling = asyncio.create_task(admin.cancel_workflow(handle.id, interrupt=True, session=session))
            await until(_is_blocked, sql)
        await cancelling
        await session.commit()
    row = await sql.fetchrow("SELECT status, executor, cancel_interrupts FROM pgqrs_workflows")
    assert tuple(row) == ("RUNNING", store.executor_id, True)


async def test_resume_reopens_a_concurrently_recorded_step_error(admin, sql, sessions):
    ctx = await admin.create_workflow("ship", 1)
    await ctx.start()
    async with sessions() as session, no_hang():
        async with sql.transaction():
            await sql.execute("SELECT FROM pgqrs_workflows FOR SHARE")
            await sql.execute(
                "INSERT INTO pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, error) "
                "VALUES ($1, 'pack', 'ERROR', 1, now(), '{}')",
                ctx.id(),
            )
            resuming = asyncio.create_task(admin.resume_workflow(ctx.id(), session=session))
            await until(_is_blocked, sql)
        resumed = await resuming
        await session.commit()
    assert await ship(resumed, 1) == "packed 1"


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_strict_isolation_writes_at_the_commit(admin, in_isolation, level):
    existing = await admin.create_workflow("ship", 0)
    async with AsyncSession(in_isolation(level)) as session, session.begin():
        await session.execute(text("SELECT 1"))
        created = await admin.create_workflow("ship", 1, session=session)
        await admin.options(session=session, key="order 2").enqueue(ship, 2)
        await admin.options(session=session).enqueue_many(ship, [(3,), (4,)])
        await admin.cancel_workflow(existing.id(), session=session)
        await admin.cancel_workflow(created.id(), session=session)
        await admin.resume_workflow(created.id(), session=session)
        assert len(await admin.list_workflows()) == 1
    found = {each.id: each.status for each in await admin.list_workflows()}
    assert len(found) == 5
    assert found[existing.id()] == WorkflowStatus.CANCELLED
    assert found[created.id()] == WorkflowStatus.PENDING


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_stale_snapshot_fails_and_the_next_transaction_works(admin, in_isolation, level):
    existing = await admin.create_workflow("ship", 0)
    new = []

    async def change():
        await (await admin.get_workflow(existing.id())).start()
        await admin.options(key="order 1").enqueue(ship, 1)
        new.append(await admin.create_workflow("ship", 2))

    async with AsyncSession(in_isolation(level)) as session:
        for use, error, match in (
            (lambda: admin.options(key="order 1", session=session).enqueue(ship, 1), DBAPIError, "serialize"),
            (lambda: admin.cancel_workflow(existing.id(), session=session), DBAPIError, "serialize"),
            (lambda: admin.resume_workflow(existing.id(), session=session), DBAPIError, "serialize"),
            (lambda: admin.cancel_workflow(new[-1].id(), session=session), WorkflowNotFoundError, "no workflow"),
            (lambda: admin.resume_workflow(new[-1].id(), session=session), WorkflowNotFoundError, "no workflow"),
        ):
            await session.execute(text("SELECT FROM pg_class LIMIT 1"))  # takes the snapshot
            await change()
            with pytest.raises(error, match=match):
                await use()
            await session.rollback()
            await use()
            await session.rollback()


# --- bad input ---


async def _refuses(admin, lent, match):
    for use in (
        lambda: admin.options(session=lent).enqueue(ship, 1),
        lambda: admin.options(session=lent).enqueue_many(ship, [(1,)]),
        lambda: admin.create_workflow("ship", session=lent),
        lambda: admin.cancel_workflow(1, session=lent),
        lambda: admin.resume_workflow(1, session=lent),
    ):
        with pytest.raises(SessionError, match=match):
            await use()
    assert await admin.list_workflows() == []


async def test_unsupported_session_types_are_refused(admin, app, sessions):
    synchronous = create_engine("postgresql+asyncpg://")
    with Session(synchronous) as session:
        await _refuses(admin, session, "got Session")
    await _refuses(admin, sessions, "got async_sessionmaker")
    await _refuses(admin, app, "got AsyncEngine")
    await _refuses(admin, app.connect(), "not open")


async def test_failed_transaction_is_refused_until_rolled_back(admin, app, sessions):
    async with sessions() as session:
        with pytest.raises(Exception, match="nowhere"):
            await session.execute(text("SELECT * FROM nowhere"))
        await _refuses(admin, session, "failed already: roll it back")
        await session.rollback()
        await admin.options(session=session).enqueue(ship, 1)
    async with app.connect() as connection:
        with pytest.raises(Exception, match="nowhere"):
            await connection.execute(text("SELECT * FROM nowhere"))
        await _refuses(admin, connection, "failed already")


async def test_a_closed_transaction_is_refused(admin, app, sessions):
    async with app.connect() as connection:
        pass
    await _refuses(admin, connection, "cannot be used in its present state")
    async with sessions() as session, session.begin():
        await session.commit()
        await _refuses(admin, session, "cannot be used in its present state")


async def test_a_session_of_another_database_is_refused(admin, own_database):
    engine = engine_on(own_database, poolclass=NullPool)
    async with Admin(engine, admin.schema) as there:
        await there.install()
        async with AsyncSession(engine) as session:
            await _refuses(admin, session, "another database")
            assert await session.scalar(text("SELECT 1")) == 1
        async with engine.connect() as connection:
            await _refuses(admin, connection, "another database")
            assert await connection.scalar(text("SELECT 1")) == 1
        assert await there.list_workflows() == []


async def test_run_in_a_session_is_refused(admin, sessions):
    async with sessions() as session:
        with pytest.raises(ConfigurationError, match="use `enqueue` instead"):
            await admin.options(session=session).run(ship, 1)


@pytest.mark.parametrize("lend", ["session", "connection"])
async def test_missing_tables_leave_the_caller_transaction_usable(dsn, app, sessions, lend):
    async with Admin(dsn, "test_nothing_is_here") as nowhere, sessions() as session:
        lent = session if lend == "session" else await session.connection()
        session.add(Payment(order=1, amount=1))
        await session.flush()
        for use in (
            lambda: nowhere.options(session=lent).enqueue(ship, 1),
            lambda: nowhere.create_workflow("ship", session=lent),
            lambda: nowhere.cancel_workflow(1, session=lent),
            lambda: nowhere.resume_workflow(1, session=lent),
        ):
            with pytest.raises(NotInstalledError):
                await use()
        session.add(Payment(order=2, amount=1))
        await session.commit()
    async with sessions() as session:
        assert await paid(session) == [1, 2]
