"""A record that the server refuses, or that takes long, is the concern of its own workflow alone."""

import asyncio

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import async_sessionmaker

from pgqrs import Admin, DatabaseUnavailableError, PyWorkflow, WorkflowStatus, step, workflow
from pgqrs.errors import RowRefusedError
from pgqrs.storage.connections.errors import is_about_tables, is_data_error
from tests.support.waiting import DEADLINE, until
from tests.support.workflows import Gate, numbered

pytestmark = pytest.mark.unfaulted("the server refuses what it is told to, and nothing else is to be refused")


@step
async def part(ctx: PyWorkflow, value: str) -> str:
    await asyncio.sleep(0.02)
    return value


@workflow
async def one_part(ctx: PyWorkflow, value: str) -> str:
    return await part(ctx, value)


@workflow
async def many_steps(ctx: PyWorkflow, count: int) -> int:
    return sum([await numbered(ctx, n) for n in range(count)])


async def on_write(sql, body):
    """Have the server carry out a PL/pgSQL body for each row of a step that is written."""
    await sql.execute(f"""
        CREATE FUNCTION on_write() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$;
        CREATE TRIGGER on_write BEFORE INSERT OR UPDATE ON pgqrs_workflow_steps
            FOR EACH ROW EXECUTE FUNCTION on_write()""")


@pytest.mark.parametrize("code", ["P0001", "42501", "53400", "XX001"])
async def test_refused_row_fails_only_its_workflow(admin, sql, code):
    await on_write(
        sql,
        f"""
        IF NEW.output::text LIKE '%forbidden%' THEN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END IF;""",
    )
    values = ["forbidden" if n == 17 else f"fine {n}" for n in range(60)]
    results = await asyncio.gather(*(admin.run(one_part, value) for value in values), return_exceptions=True)
    refused = results.pop(17)
    assert refused.sqlstate == code
    assert results == [value for value in values if value != "forbidden"]
    (record,) = [each for each in await admin.list_workflows(limit=100) if each.status != WorkflowStatus.SUCCESS]
    # An error of the server that says nothing of the row loses the run, which can be carried on later.
    assert isinstance(refused, RowRefusedError) == (code != "XX001")
    assert record.status == (WorkflowStatus.RUNNING if code == "XX001" else WorkflowStatus.ERROR)


async def test_row_policy_violation_differs_from_a_missing_privilege(admin, sql):
    with pytest.raises(asyncpg.InsufficientPrivilegeError) as missing:
        async with sql.transaction():
            await sql.execute("CREATE ROLE nothing; SET LOCAL ROLE nothing; SELECT FROM pg_authid")
    await sql.execute("CREATE TABLE guarded (n int); ALTER TABLE guarded ENABLE ROW LEVEL SECURITY")
    with pytest.raises(asyncpg.InsufficientPrivilegeError) as policy:
        async with sql.transaction():
            schema = await sql.fetchval("SELECT current_schema")
            await sql.execute(f"""
                CREATE ROLE writer; GRANT USAGE ON SCHEMA {schema} TO writer; GRANT INSERT ON guarded TO writer;
                SET LOCAL ROLE writer; INSERT INTO guarded VALUES (1)""")
    assert (is_about_tables(missing.value), is_data_error(missing.value)) == (True, False)
    assert (is_about_tables(policy.value), is_data_error(policy.value)) == (False, True)


async def test_cancelled_statement_is_sent_again(admin, sql):
    await on_write(sql, "PERFORM pg_sleep(0.3);")
    running = asyncio.create_task(admin.run(one_part, "fine"))
    query = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE $1"
    await until(lambda: sql.fetchval(query, f"%{admin.schema}%"))
    assert await running == "fine"


async def test_temporarily_missing_tables_are_waited_for(admin, sql, schema):
    gate = Gate()
    waiting = gate.step("waiting", "fine")

    @workflow
    async def one(ctx: PyWorkflow) -> str:
        return await waiting(ctx)

    running = asyncio.create_task(admin.run(one))
    await gate.reached.wait()
    await sql.execute(f"ALTER SCHEMA {schema} RENAME TO {schema}_moved")
    try:
        journal = (await admin.store()).journal
        before = journal.statements
        gate.open()
        await until(lambda: journal.statements > before + 1)
    finally:
        await sql.execute(f"ALTER SCHEMA {schema}_moved RENAME TO {schema}")
    assert await running == "fine"


async def test_large_record_has_more_time_and_delays_no_other_record(dsn, schema, admin, sql):
    await on_write(sql, "IF length(NEW.output::text) > 4000000 THEN PERFORM pg_sleep(1.5); END IF;")
    async with Admin(dsn, schema, timeout=0.7) as own:
        large = asyncio.create_task(own.run(one_part, "x" * 5_000_000))
        sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE $1"
        await until(lambda: sql.fetchval(sleeping, f"%{schema}%"))
        assert await own.run(many_steps, 30) == 435
        assert not large.done()
        assert len(await large) == 5_000_000


async def test_unanswered_batch_does_not_affect_other_records(dsn, schema, admin, sql):
    await on_write(sql, "IF NEW.output::text LIKE '%endless%' THEN PERFORM pg_sleep(60); END IF;")
    async with Admin(dsn, schema, timeout=0.3, outage_timeout=1.0) as own:
        stuck = asyncio.create_task(own.run(one_part, "endless"))
        sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE $1"
        await until(lambda: sql.fetchval(sleeping, f"%{schema}%"))
        others = [asyncio.create_task(own.run(one_part, f"fine {n}")) for n in range(10)]
        async with asyncio.timeout(DEADLINE):
            assert await asyncio.gather(*others) == [f"fine {n}" for n in range(10)]
            with pytest.raises(DatabaseUnavailableError):
                await stuck


async def test_keys_locked_by_a_transaction_delay_no_step(dsn, schema, admin, app_sessions):
    keys = [f"key {n}" for n in range(20)]
    async with app_sessions() as session:
        for key in keys:
            await admin.options(key=key, session=session).enqueue(many_steps, 1)
        waiting = [asyncio.create_task(admin.options(key=key).enqueue(many_steps, 1)) for key in keys]
        beside = (await admin.store()).journal.beside
        await until(lambda: len(beside._backlog.blocked.by_key) == 20)
        async with asyncio.timeout(5):
            assert await admin.run(many_steps, 50) == 1225
            handle = await admin.options(key="free").enqueue(many_steps, 1)
        assert not any(task.done() for task in waiting)
        await session.commit()
    async with asyncio.timeout(DEADLINE):
        handles = await asyncio.gather(*waiting)
    assert len({each.id for each in (*handles, handle)}) == 21


async def test_keys_locked_by_steps_of_a_process_do_not_deadlock(admin, app_sessions):
    """The steps that hold the keys wait for the journal, which must not wait for the keys."""

    @step(transactional=True)
    async def submitting(ctx: PyWorkflow, key: str) -> int:
        handle = await admin.options(key=key, session=ctx.session).enqueue(many_steps, 1)
        await numbered(ctx, 1)
        return handle.id

    @workflow
    async def parent(ctx: PyWorkflow, key: str) -> int:
        return await submitting(ctx, key)

    keys = [f"key {n}" for n in range(4)]
    async with asyncio.timeout(DEADLINE):
        parents = asyncio.gather(*(admin.run(parent, key) for key in keys))
        handles = await asyncio.gather(*(admin.options(key=key).enqueue(many_steps, 1) for key in keys))
        assert await parents == [each.id for each in handles]


@pytest.fixture
def app_sessions(engine):
    """Sessions of the application's own engine."""
    return async_sessionmaker(engine)
