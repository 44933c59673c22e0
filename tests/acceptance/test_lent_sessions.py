"""The application's own session carries what is enqueued, created, cancelled and resumed."""

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


async def test_what_is_enqueued_in_a_session_is_there_when_it_commits_and_gone_when_it_rolls_back(admin, sessions):
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


async def test_a_workflow_enqueued_in_a_session_is_worked_off_soon_after_the_commit(admin, sessions):
    async with Worker(admin, [ship]), no_hang():
        for order in range(3):
            async with sessions() as session, session.begin():
                handle = await admin.options(session=session, key=f"order {order}").enqueue(ship, order)
            assert await handle.result() == f"packed {order}"


@pytest.mark.parametrize("nested", [False, True], ids=["commit", "savepoint and commit"])
async def test_the_doorbell_is_rung_after_the_commit_and_not_before(admin, sessions, nested):
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


async def test_a_connection_carries_it_too(admin, app, sessions):
    async with app.connect() as connection:
        gone = await admin.options(session=connection).enqueue(ship, 1)
        await connection.rollback()
        kept = await admin.options(session=connection).enqueue(ship, 2)
        await connection.commit()
    assert [each.id for each in await admin.list_workflows()] == [kept.id]
    assert kept.id != gone.id


async def test_a_connection_carries_what_is_created_cancelled_and_resumed(admin, app, sessions):
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


async def test_what_was_enqueued_in_a_savepoint_that_is_rolled_back_is_gone_and_its_key_is_free(admin, sessions):
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


async def test_a_session_that_is_bound_to_a_connection_follows_its_transaction(admin, app, sessions):
    for ends, workflows in (("rollback", 0), ("commit", 1)):
        async with app.connect() as connection:
            transaction = await connection.begin()
            async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
                await admin.options(session=session).enqueue(ship, 1)
                await session.commit()
                assert await admin.list_workflows() == []
            await getattr(transaction, ends)()
        assert len(await admin.list_workflows()) == workflows


async def test_it_goes_into_a_session_that_has_run_sql_and_leaves_its_own_schema_map_alone(
    schema, admin, app, sessions
):
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


async def test_a_key_in_a_session_gives_the_workflow_that_is_there(admin, sessions):
    first = await admin.options(key="order 1").enqueue(ship, 1)
    async with sessions() as session, session.begin():
        assert (await admin.options(key="order 1", session=session).enqueue(ship, 1)).id == first.id
        new = await admin.options(key="order 2", session=session).enqueue(ship, 2)
        assert (await admin.options(key="order 2", session=session).enqueue(ship, 2)).id == new.id
    assert len(await admin.list_workflows()) == 2


async def test_many_are_enqueued_in_one_session(admin, sessions):
    async with sessions() as session, session.begin():
        many = admin.options(session=session)
        handles = await many.enqueue_many(ship, [(number % 40,) for number in range(50)], key=str)
        assert await many.enqueue_many(ship, []) == []
        assert await admin.list_workflows() == []
    assert len(await admin.list_workflows()) == len({handle.id for handle in handles}) == 40


async def test_a_workflow_created_in_a_session_can_be_run_once_that_is_committed(admin, sessions):
    async with sessions() as session, session.begin():
        gone = await admin.create_workflow("ship", 1, session=session)
        await session.rollback()
    with pytest.raises(WorkflowNotFoundError):
        await ship(gone, 1)
    async with sessions() as session, session.begin():
        kept = await admin.create_workflow("ship", 2, session=session)
    assert await ship(kept, 2) == "packed 2"


async def test_a_cancellation_counts_once_it_is_committed(admin, sessions):
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


async def test_a_running_workflow_hears_of_a_cancellation_that_was_committed(dsn, schema, sessions):
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


async def test_what_cannot_be_cancelled_or_is_not_there_leaves_the_session_usable(admin, sessions):
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
async def test_the_only_connection_of_a_pool_is_enough(dsn, schema, admin, verified):
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
async def test_in_autocommit_each_write_is_there_at_once(admin, in_isolation, lend):
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


async def test_in_autocommit_nobody_claims_a_workflow_in_the_middle_of_its_cancellation(admin, in_isolation):
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
async def test_a_cancellation_that_waits_for_a_claim_asks_the_one_who_claimed(admin, sql, in_isolation, level):
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


async def test_a_resumption_that_waits_for_a_step_s_error_has_that_step_executed_again(admin, sql, sessions):
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
async def test_in_a_stricter_isolation_they_are_there_when_it_commits(admin, in_isolation, level):
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
async def test_what_the_snapshot_does_not_show_is_told_and_goes_through_in_the_next_transaction(
    admin, in_isolation, level
):
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


async def test_what_is_not_asynchronous_is_refused(admin, app, sessions):
    synchronous = create_engine("postgresql+asyncpg://")
    with Session(synchronous) as session:
        await _refuses(admin, session, "got Session")
    await _refuses(admin, sessions, "got async_sessionmaker")
    await _refuses(admin, app, "got AsyncEngine")
    await _refuses(admin, app.connect(), "not open")


async def test_a_failed_transaction_is_refused_and_can_be_rolled_back(admin, app, sessions):
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


async def test_what_is_run_at_once_is_no_part_of_a_transaction(admin, sessions):
    async with sessions() as session:
        with pytest.raises(ConfigurationError, match="use `enqueue` instead"):
            await admin.options(session=session).run(ship, 1)


@pytest.mark.parametrize("lend", ["session", "connection"])
async def test_where_nothing_is_installed_that_is_told_and_the_transaction_goes_on(dsn, app, sessions, lend):
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
