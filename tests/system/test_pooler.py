"""PgBouncer in transaction mode, and the kinds of engines that an application may have."""

import asyncio
import logging
import os
import subprocess
import sys
import time

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import NullPool, make_url
from sqlalchemy.ext.asyncio import create_async_engine

from pgqrs import (
    Admin,
    DatabaseError,
    InvalidDSNError,
    PyWorkflow,
    Worker,
    WorkflowCancelledError,
    WorkflowStatus,
    step,
    workflow,
)
from tests.support.conversation import converse
from tests.support.database import engine_on
from tests.support.pooler import bouncing
from tests.support.waiting import DEADLINE, until

WARNING = "there is a pooler between this process and PostgreSQL"
UNNAMED = {"statement_cache_size": 0, "prepared_statement_cache_size": 0, "prepared_statement_name_func": str}
"""What SQLAlchemy's manual tells an application behind PgBouncer to give its engine."""


@step(key=lambda n: n)
async def double(ctx: PyWorkflow, n: int) -> int:
    return 2 * n


@workflow
async def doubled(ctx: PyWorkflow, count: int) -> list[int]:
    return list(await asyncio.gather(*(double(ctx, n) for n in range(count))))


@step
async def long_step(ctx: PyWorkflow) -> None:
    await asyncio.Event().wait()


@workflow
async def endless(ctx: PyWorkflow) -> None:
    await long_step(ctx)


@pytest_asyncio.fixture
async def bouncer(dsn):
    async with bouncing(dsn) as bouncer:
        yield bouncer


def with_pooler_mode(dsn, mode="transaction"):
    return f"{dsn}&pgqrs_pooler={mode}"


async def run_many(admin, count=30):
    """Run workflows, of a worker and plain ones, more than there are connections."""
    async with asyncio.timeout(DEADLINE), Worker(admin, [doubled], concurrency=20):
        handles = await admin.enqueue_many(doubled, [(n % 7,) for n in range(count)])
        plain = await asyncio.gather(*(admin.run(doubled, n % 5) for n in range(count)))
        results = await asyncio.gather(*(handle.result() for handle in handles))
    assert results == [[2 * each for each in range(n % 7)] for n in range(count)]
    assert plain == [[2 * each for each in range(n % 5)] for n in range(count)]


async def left_behind(bouncer):
    """Return what the server's sessions hold that the next client would find there."""
    connections = [await asyncpg.connect(bouncer.dsn, statement_cache_size=0) for _ in range(3)]
    found = []
    for connection in connections:
        # All three at once in a transaction of their own, so that each is a session of its own.
        await connection.execute("BEGIN")
    for connection in connections:
        found += await connection.fetch(
            "SELECT name, setting FROM pg_settings WHERE source = 'session' AND setting <> reset_val"
        )
        found += await connection.fetch("SELECT * FROM pg_listening_channels()")
        found += await connection.fetch("SELECT name, statement FROM pg_prepared_statements WHERE name <> ''")
        found += await connection.fetch(
            "SELECT * FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        )
    for connection in connections:
        await connection.close()
    return found


def warnings_in(caplog):
    return [each for each in caplog.records if WARNING in each.getMessage()]


async def executor(sql):
    return await sql.fetchrow("SELECT * FROM pgqrs_executors")


@pytest.mark.parametrize("is_declared", [True, False], ids=["declared", "detected"])
@pytest.mark.parametrize("kind", ["dsn", "url", "engine"])
async def test_pooler_works_and_keeps_no_session_state(  # noqa: PLR0917
    bouncer, schema, sql, caplog, kind, is_declared
):
    target, engine = with_pooler_mode(bouncer.dsn) if is_declared else bouncer.dsn, None
    if kind != "dsn":
        target = make_url(target).set(drivername="postgresql+asyncpg")
    if kind == "engine":
        options = {"pgqrs_pooler": "transaction"} if is_declared else {}
        url = target.difference_update_query(["pgqrs_pooler"])
        target = engine = create_async_engine(url, connect_args=UNNAMED, execution_options=options)
    with caplog.at_level(logging.WARNING, "pgqrs"):
        async with Admin(target, schema) as admin:
            await admin.install()
            await run_many(admin)
            async with Worker(admin, [doubled]):
                assert (await executor(sql))["lock_key"] is None
            await admin.verify(deep=True)
    assert len(warnings_in(caplog)) == 1
    assert await left_behind(bouncer) == []
    if engine is not None:
        await engine.dispose()


async def test_pooler_carries_messages_events_and_children(bouncer, schema):
    async with Admin(with_pooler_mode(bouncer.dsn), schema) as admin:
        await admin.install()
        await converse(admin)
        await admin.verify(deep=True)
    assert await left_behind(bouncer) == []


async def test_session_mode_pooler_keeps_the_session_lock(dsn, schema, sql, caplog):
    async with (
        bouncing(dsn, "session") as bouncer,
        Admin(with_pooler_mode(bouncer.dsn, "session"), schema) as admin,
    ):
        await admin.install()
        await run_many(admin, 5)
        async with Worker(admin, [doubled]):
            locked = (await executor(sql))["lock_key"]
            assert await sql.fetchval("SELECT NOT pg_try_advisory_lock($1)", locked)
    assert warnings_in(caplog) == []


async def test_direct_connection_is_not_taken_for_a_pooler(admin, sql, caplog):
    await run_many(admin, 5)
    async with Worker(admin, [doubled]):
        assert (await executor(sql))["lock_key"] is not None
    assert warnings_in(caplog) == []


async def test_engine_with_named_statements_gets_a_helpful_error(bouncer, schema):
    """As with every engine behind an old PgBouncer, but the error says what to do."""
    engine = create_async_engine(make_url(bouncer.dsn).set(drivername="postgresql+asyncpg"))
    async with Admin(engine, schema) as admin:
        with pytest.raises(DatabaseError, match="prepared_statement_name_func"):
            await admin.install()
            while True:
                # Each call ends before the test does: its session would keep its locks on the tables.
                lists = (admin.list_workflows() for _ in range(5))
                for each in await asyncio.gather(*lists, return_exceptions=True):
                    if isinstance(each, BaseException):
                        raise each
    await engine.dispose()


@pytest.mark.parametrize(
    "target", ["postgresql:///x?pgqrs_pooler=", make_url("postgresql:///x?pgqrs_pooler=Session")]
)
async def test_unknown_pooler_mode_is_refused(target):
    with pytest.raises(InvalidDSNError, match="transaction or session"):
        Admin(target)


async def test_statements_have_only_the_settings_of_pgqrs(bouncer, schema):
    async with Admin(with_pooler_mode(bouncer.dsn), schema) as admin:
        database = (await admin.store()).database
        strangers = [await asyncpg.connect(bouncer.dsn, statement_cache_size=0) for _ in range(3)]
        for each in strangers:
            await each.execute("BEGIN")
        for each in strangers:
            await each.execute(
                "SET default_transaction_isolation = 'serializable'; SET lock_timeout = '1h'; COMMIT"
            )
        driver = await database.open_driver()
        for _ in range(6):
            ((isolation, lock_timeout, seqscan),) = await driver.fetch(
                "SELECT current_setting('transaction_isolation'), current_setting('lock_timeout'),"
                " current_setting('enable_seqscan')",
                timeout=5,
            )
            assert (isolation, lock_timeout, seqscan) == ("read committed", "100ms", "off")
        for each in strangers:
            assert await each.fetchval("SELECT current_setting('enable_seqscan')") == "on"
            await each.close()
        await driver.close(timeout=5)


async def test_failed_statement_leaves_the_connection_usable(bouncer, schema):
    async with Admin(with_pooler_mode(bouncer.dsn), schema) as admin:
        driver = await (await admin.store()).database.open_driver()
        with pytest.raises(asyncpg.DivisionByZeroError):
            await driver.fetch("SELECT 1 / $1::int", 0, timeout=5)
        with pytest.raises(asyncpg.DataError):
            await driver.fetch("SELECT 1 / $1::int", "none", timeout=5)
        assert not driver.is_closed()
        assert await driver.fetch("SELECT 1 / $1::int", 1, timeout=5) == [(1,)]
        with pytest.raises(asyncpg.PostgresConnectionError):
            await driver.fetch("SELECT pg_sleep(30)", timeout=0.2)
        assert driver.is_closed()


async def test_killed_pooler_is_waited_for(bouncer, schema):
    async with Admin(with_pooler_mode(bouncer.dsn), schema) as admin:
        await admin.install()
        async with asyncio.timeout(DEADLINE), Worker(admin, [doubled], concurrency=5):
            handles = await admin.enqueue_many(doubled, [(50,)] * 20)
            await until(lambda: is_over(handles[0]))
            await bouncer.kill()
            await bouncer.start()
            results = await asyncio.gather(*(handle.result() for handle in handles))
        assert results == [[2 * n for n in range(50)]] * 20


async def is_over(handle):
    return await handle.status() is WorkflowStatus.SUCCESS


async def test_heartbeat_delivers_a_cancellation(bouncer, schema, sql):
    async with (
        Admin(with_pooler_mode(bouncer.dsn), schema, heartbeat_timeout=1.5) as here,
        Admin(with_pooler_mode(bouncer.dsn), schema) as there,
    ):
        await here.install()
        async with asyncio.timeout(DEADLINE), Worker(here, [endless]):
            handle = await there.enqueue(endless)
            await until(lambda: sql.fetchval("SELECT status = 'RUNNING' FROM pgqrs_workflows"))
            await there.cancel_workflow(handle.id, interrupt=True)
            with pytest.raises(WorkflowCancelledError):
                await handle.result()


DYING = """
import asyncio, os, signal
from pgqrs import Admin, PyWorkflow, step, workflow

@step(key=lambda n: n)
async def double(ctx: PyWorkflow, n: int) -> int:
    if n == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * n

@workflow
async def doubled(ctx: PyWorkflow, count: int) -> list[int]:
    return [await double(ctx, n) for n in range(count)]

async def main():
    async with Admin(os.environ["PGQRS_DSN"], os.environ["PGQRS_SCHEMA"], heartbeat_timeout=2.0) as admin:
        await admin.run(doubled, 5)

asyncio.run(main())
"""


async def test_dead_executor_is_detected_by_its_heartbeat(bouncer, schema, sql):
    async with Admin(with_pooler_mode(bouncer.dsn), schema, heartbeat_timeout=2.0) as admin:
        await admin.install()
        environment = os.environ | {"PGQRS_DSN": with_pooler_mode(bouncer.dsn), "PGQRS_SCHEMA": schema}
        died = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", DYING], env=environment, check=False, capture_output=True
        )
        assert died.returncode == -9, died.stderr
        began = time.monotonic()
        async with asyncio.timeout(DEADLINE), Worker(admin, [doubled]):
            (left,) = await admin.list_workflows()
            assert await admin.handle(left.id).result() == [0, 2, 4, 6, 8]
        assert time.monotonic() - began < 20
        assert await sql.fetchval("SELECT count(*) FROM pgqrs_executors WHERE lock_key IS NOT NULL") == 0


@pytest.mark.parametrize(
    "options",
    [{"poolclass": NullPool}, {"pool_size": 1, "max_overflow": 0}],
    ids=["NullPool", "pool of one connection"],
)
async def test_any_connection_pool_works(dsn, schema, options):
    engine = engine_on(dsn, **options)
    async with Admin(engine, schema) as admin:
        await admin.install()
        await run_many(admin, 60)
        await admin.verify(deep=True)
    await engine.dispose()


@pytest.mark.parametrize(
    "options",
    [{"poolclass": NullPool}, {"pool_size": 1, "max_overflow": 0}],
    ids=["NullPool", "pool of one connection"],
)
async def test_many_admins_share_an_engine(dsn, schema, options):
    engine = engine_on(dsn, **options)
    names = [f"{schema}_{n}" for n in range(4)]
    admins = [Admin(engine, name) for name in names]
    await asyncio.gather(*(admin.install() for admin in admins))
    await asyncio.gather(*(run_many(admin, 3 * (n + 1)) for n, admin in enumerate(admins)))
    for n, admin in enumerate(admins):
        assert len(await admin.list_workflows()) == 6 * (n + 1)
        await admin.verify(deep=True)
        await admin.close()
    async with engine.begin() as connection:
        for name in names:
            await connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")
    await engine.dispose()
