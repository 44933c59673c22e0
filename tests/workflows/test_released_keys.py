"""Keys until the end of a workflow: one live workflow of a key at a time, found by the key, resumed with it."""

from __future__ import annotations

import asyncio
import logging

import pytest
from sqlalchemy.ext.asyncio import async_sessionmaker

from pgqrs import (
    Admin,
    ConfigurationError,
    InvalidNameError,
    KeyConflictError,
    KeyTakenError,
    PyWorkflow,
    TransientError,
    Worker,
    WorkflowCancelledError,
    WorkflowNotFoundError,
    WorkflowStatus,
    WorkflowTimeoutError,
    workflow,
)
from pgqrs.storage.queries import workflows
from tests.support.recorded import row_of
from tests.support.syncs import FAILING, patient, sync
from tests.support.waiting import no_hang, until
from tests.support.wire import Fault, Wire


@pytest.fixture(autouse=True)
def _no_failure():
    FAILING.clear()


@pytest.fixture
def other(dsn, schema, admin):
    """A second `Admin`, with connections of its own."""
    return Admin(dsn, schema)


@pytest.fixture
def sessions(engine):
    return async_sessionmaker(engine)


def until_end(admin, **options):
    return admin.options(key="k", until="end", **options)


async def live(sql):
    """Return the ids of the live workflows with the key."""
    rows = await sql.fetch("SELECT id FROM pgqrs_workflows WHERE key = 'k' AND completed_at IS NULL ORDER BY id")
    return [each["id"] for each in rows]


async def has_status(handle, status):
    return await handle.status() == status


async def is_blocked(sql):
    """Return whether a session waits for a transaction of another session."""
    query = """
        SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
        WHERE NOT l.granted AND l.locktype = 'transactionid' AND a.query LIKE '%' || current_schema || '%')
    """
    return await sql.fetchval(query)


# --- find ---


async def test_find_returns_the_workflow_of_a_name_and_key(admin):
    handle = await admin.options(key="k").enqueue(sync)
    await admin.options(key="other").enqueue(sync, "b")
    found = await admin.find(sync, key="k")
    assert found.id == handle.id
    async with no_hang(), Worker(admin, [sync]):
        assert await found.result() == "synced all"
        assert await (await admin.find(sync, key="k")).result() == "synced all"  # its end does not release the key


async def test_find_names_a_key_that_no_workflow_has(admin):
    await admin.options(key="k").enqueue(sync)
    with pytest.raises(WorkflowNotFoundError, match=r"'patient'.*'k'") as caught:
        await admin.find(patient, key="k")
    assert (caught.value.name, caught.value.key, caught.value.workflow_id) == ("patient", "k", 0)
    with pytest.raises(InvalidNameError):
        await admin.find(sync, key="")


async def test_find_reads_in_the_caller_session(admin, sessions):
    async with sessions() as session:
        mine = admin.options(session=session)
        handle = await admin.options(key="k", session=session).enqueue(sync)
        assert (await mine.find(sync, key="k")).id == handle.id
        with pytest.raises(WorkflowNotFoundError):
            await admin.find(sync, key="k")  # not committed
        with pytest.raises(WorkflowNotFoundError):
            await mine.find(sync, key="none")
        await session.commit()
    assert (await admin.find(sync, key="k")).id == handle.id


@pytest.mark.new_tables
@pytest.mark.plants_rows
@pytest.mark.parametrize("statement", [workflows.of_key(), workflows.of_keys()], ids=["one", "several"])
async def test_keys_are_found_by_their_index(admin, sql, statement):
    await sql.execute(
        "INSERT INTO pgqrs_workflows (name, input, key, releases_key, status, completed_at) "
        "SELECT 'sync', '{}', 'k' || n % 10, true, 'SUCCESS', now() FROM generate_series(1, 20000) AS n"
    )
    await sql.execute("ANALYZE pgqrs_workflows")
    text, binds = (await admin.store()).database.compile(lambda: statement)
    values = {"name": "sync", "key": "k1", "keys": ["k1", "k2"]}
    plan = await sql.fetch(f"EXPLAIN {text}", *(values[each] for each in binds))
    assert "ix_pgqrs_workflows_key" in "".join(line for (line,) in plan)


# --- until the end ---


async def test_key_until_end_is_of_one_live_workflow(admin, sql, caplog):
    first = await until_end(admin).enqueue(sync)
    assert (await until_end(admin).enqueue(sync)).id == first.id
    assert (await admin.options(key="k").enqueue(sync)).id == first.id  # the time of the first one counts
    with pytest.raises(KeyConflictError) as caught:
        await until_end(admin).enqueue(sync, "b")
    assert caught.value.workflow_id == first.id
    for how, warned in (("warn", 1), ("ignore", 0)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "pgqrs"):
            assert (await until_end(admin, on_conflict=how).enqueue(sync, "b")).id == first.id
        assert len(caplog.records) == warned
    assert await live(sql) == [first.id]


async def test_end_releases_the_key_for_a_new_workflow(admin, sql):
    first = await until_end(admin).enqueue(sync)
    async with no_hang(), Worker(admin, [sync]):
        await first.result()
    with pytest.raises(WorkflowNotFoundError, match="until='end'"):
        await admin.find(sync, key="k")
    second = await until_end(admin).enqueue(sync, "b")  # other arguments are no conflict
    assert second.id != first.id
    assert (await admin.find(sync, key="k")).id == second.id
    assert await first.result() == "synced all"
    assert await live(sql) == [second.id]


async def test_each_kind_of_end_releases_the_key(admin):
    FAILING.add("fails")
    handles = [await until_end(admin).enqueue(sync, "cancelled")]
    await handles[0].cancel()
    async with no_hang(), Worker(admin, [sync]):
        handles.append(await until_end(admin).enqueue(sync, "fails"))
        with pytest.raises(TransientError):
            await handles[-1].result()
        handles.append(await until_end(admin, timeout=0.01).enqueue(late))
        async with Worker(admin, [late]):
            with pytest.raises(WorkflowTimeoutError):
                await handles[-1].result()
        handles.append(await until_end(admin).enqueue(late))
    assert len({each.id for each in handles}) == 4


@workflow
async def late(ctx: PyWorkflow) -> None:
    await ctx.sleep(3600)


async def test_workflow_that_waits_for_a_retry_keeps_its_key(admin, sql):
    async with no_hang(), Worker(admin, [patient]):
        first = await until_end(admin).enqueue(patient)
        await until(has_status, first, WorkflowStatus.WAITING)
        assert (await until_end(admin).enqueue(patient)).id == first.id


async def test_enqueue_many_makes_one_live_workflow_of_each_key(admin):
    submitter = admin.options(until="end")
    first = await submitter.enqueue_many(sync, [("a",), ("b",), ("a",)], key=lambda what: what)
    assert [each.id for each in first] == [first[0].id, first[1].id, first[0].id]
    await first[0].cancel()
    second = await submitter.enqueue_many(sync, [("a",), ("b",)], key=lambda what: what)
    assert second[0].id not in {each.id for each in first}
    assert second[1].id == first[1].id


async def test_key_until_purge_follows_a_released_one(admin):
    first = await until_end(admin).enqueue(sync)
    await first.cancel()
    kept = await admin.options(key="k").enqueue(sync)
    await kept.cancel()
    assert (await until_end(admin).enqueue(sync)).id == kept.id != first.id


async def test_until_needs_a_key_and_a_known_time(admin):
    with pytest.raises(ConfigurationError, match="a key"):
        await admin.options(until="end").enqueue(sync)
    with pytest.raises(ConfigurationError, match="`until`"):
        admin.options(key="k", until="start")
    with pytest.raises(ConfigurationError, match="a key"):
        await admin.options(until="end").enqueue_many(sync, [("a",)])
    assert await admin.list_workflows() == []


async def test_runs_of_a_key_until_end_share_one_run(admin):
    results = await asyncio.gather(*(until_end(admin).run(sync) for _ in range(5)))
    assert results == ["synced all"] * 5
    before = len(await admin.list_workflows())
    assert await until_end(admin).run(sync) == "synced all"
    assert len(await admin.list_workflows()) == before + 1


# --- resume ---


@pytest.fixture
async def pair(admin):
    """A failed workflow, and the live one that has its key."""
    FAILING.add("all")
    failed = await until_end(admin).enqueue(sync)
    async with no_hang(), Worker(admin, [sync]):
        with pytest.raises(TransientError):
            await failed.result()
    FAILING.clear()
    return failed, await until_end(admin).enqueue(sync)


@pytest.mark.parametrize("how", ["resume", "resume in a session", "run"])
async def test_key_of_another_workflow_refuses_a_new_run(admin, sql, engine, pair, how):
    failed, holder = pair
    before = dict(await row_of(sql, failed.id))
    with pytest.raises(KeyTakenError, match=f"workflow {holder.id} has the key") as caught:
        if how == "run":
            await sync(await admin.get_workflow(failed.id))
        elif how == "resume":
            await admin.resume_workflow(failed.id)
        else:
            async with async_sessionmaker(engine).begin() as session:
                try:
                    await admin.resume_workflow(failed.id, session=session)
                finally:  # the transaction goes on
                    assert (await admin.options(session=session).find(sync, key="k")).id == holder.id
    error = caught.value
    assert (error.workflow_id, error.holder_id, error.name, error.key) == (failed.id, holder.id, "sync", "k")
    assert dict(await row_of(sql, failed.id)) == before
    assert await live(sql) == [holder.id]


async def test_refused_workflow_runs_once_the_key_is_free(admin, sql, pair):
    failed, holder = pair
    with pytest.raises(KeyTakenError):
        await admin.resume_workflow(failed.id)
    await holder.cancel()
    await admin.resume_workflow(failed.id)
    assert await live(sql) == [failed.id]
    assert (await until_end(admin).enqueue(sync)).id == failed.id  # it has the key again
    with pytest.raises(KeyTakenError):
        await admin.resume_workflow(holder.id)
    async with no_hang(), Worker(admin, [sync]):
        assert await failed.result() == "synced all"


@pytest.mark.parametrize("is_committed", [True, False], ids=["committed", "rolled back"])
async def test_resume_waits_for_a_submission_of_its_key(admin, other, sql, sessions, is_committed):
    first = await until_end(admin).enqueue(sync)
    await first.cancel()
    async with no_hang(), other, sessions() as session:
        second = await until_end(admin, session=session).enqueue(sync)
        resumed = asyncio.create_task(other.resume_workflow(first.id))
        await until(is_blocked, sql)
        await (session.commit() if is_committed else session.rollback())
        if is_committed:
            with pytest.raises(KeyTakenError) as caught:
                await resumed
            assert caught.value.holder_id == second.id
        else:
            await resumed
    assert await live(sql) == [second.id if is_committed else first.id]


# --- two submitters at the moment of an end ---


@pytest.mark.parametrize("is_committed", [True, False], ids=["committed", "rolled back"])
async def test_submission_waits_for_an_end_that_is_not_committed(admin, other, sql, sessions, is_committed):
    first = await until_end(admin).enqueue(sync)
    async with no_hang(), other, sessions() as session:
        await admin.cancel_workflow(first.id, session=session)
        submitted = asyncio.create_task(until_end(other).enqueue(sync))
        await until(is_blocked, sql)
        await (session.commit() if is_committed else session.rollback())
        second = await submitted
    assert (second.id == first.id) is not is_committed
    assert await live(sql) == [second.id]


@pytest.mark.parametrize("is_committed", [True, False], ids=["committed", "rolled back"])
async def test_second_submitter_waits_for_the_first_one(admin, other, sql, sessions, is_committed):
    first = await until_end(admin).enqueue(sync)
    await first.cancel()
    async with no_hang(), other, sessions() as session:
        mine = await until_end(admin, session=session).enqueue(sync)
        submitted = asyncio.create_task(until_end(other).enqueue(sync))
        await until(is_blocked, sql)
        await (session.commit() if is_committed else session.rollback())
        theirs = await submitted
    assert (theirs.id == mine.id) is is_committed
    assert await live(sql) == [theirs.id]


async def test_submission_before_the_end_gets_the_live_workflow(admin, other, sql, sessions):
    first = await until_end(admin).enqueue(sync)
    async with other, sessions() as session:
        mine = await until_end(admin, session=session).enqueue(sync)
        theirs = await until_end(other).enqueue(sync)
        await first.cancel()  # neither of them holds it up
        await session.commit()
    assert first.id == mine.id == theirs.id
    assert await live(sql) == []


async def test_submitters_in_the_moment_of_the_end_share_one(admin, other, sql):
    """The ends and the submissions of two processes meet in any order."""
    async with no_hang(), other:
        for _ in range(25):
            old = await until_end(admin).enqueue(sync)
            end, *new = await asyncio.gather(
                admin.cancel_workflow(old.id),
                *(until_end(each).enqueue(sync) for each in (admin, other, admin, other)),
            )
            assert end is None
            made = {each.id for each in new} - {old.id}
            assert await live(sql) == sorted(made)
            assert len(made) <= 1
            for each in made:
                await admin.cancel_workflow(each)
    lives = await sql.fetch("SELECT created_at, completed_at FROM pgqrs_workflows WHERE key = 'k' ORDER BY id")
    assert len(lives) >= 25


@pytest.mark.unfaulted("the test has a fault of its own")
async def test_lost_answer_of_a_submission_makes_no_second_workflow(admin, dsn, schema, sql):
    async with no_hang(), Wire(dsn, sql) as wire, Admin(wire.dsn, schema) as far:
        await (await until_end(far).enqueue(sync)).cancel()

        async def submitted():
            wire.arm(1, Fault.AFTER)
            return await until_end(far).enqueue(sync)

        handle = await submitted()
        assert wire.fired
        assert await live(sql) == [handle.id]
        assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflows") == 2


async def test_cancelled_holder_of_a_key_is_not_joined_by_run(admin):
    first = await until_end(admin).enqueue(sync)
    joined = asyncio.create_task(until_end(admin).run(sync))
    assert await joined == "synced all"
    assert await first.status() == WorkflowStatus.SUCCESS
    second = await until_end(admin).enqueue(sync)
    await second.cancel()
    with pytest.raises(WorkflowCancelledError):
        await second.result()
    assert await until_end(admin).run(sync) == "synced all"
