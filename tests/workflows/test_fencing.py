"""Only the current run of a workflow can record, and the next run resumes from the recorded steps."""

from __future__ import annotations

import asyncio
import signal
from functools import partial

import pytest
import pytest_asyncio

from pgqrs import Admin, PyWorkflow, StepFailedError, WorkflowFencedError, WorkflowLockedError, step, workflow
from tests.support.database import connected
from tests.support.processes import line_of
from tests.support.recorded import status, steps
from tests.support.waiting import no_hang


@pytest_asyncio.fixture
async def other_admin(dsn, schema, admin):
    """Another executor: an `Admin` with connections of its own."""
    async with Admin(dsn, schema) as other:
        yield other


@pytest_asyncio.fixture
async def locker(dsn, schema):
    """A second raw connection, to hold locks on."""
    async with connected(dsn, schema) as connection:
        yield connection


@step(key=lambda name, *_: name)
async def note(ctx: PyWorkflow, name: str, value: object = None) -> object:
    return name if value is None else value


async def presumed_dead(sql):
    """Have the executors that are registered by now count as dead, for as long as none of them beats."""
    await sql.execute("UPDATE pgqrs_executors SET stopped_at = now()")


async def fence(admin, ctx, sql):
    await presumed_dead(sql)
    await (await admin.get_workflow(ctx.id())).start()


# --- a start in another executor ---


async def test_start_in_another_admin_fences_the_stale_run(admin, other_admin, sql):
    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        await note(ctx, "before")
        await fence(other_admin, ctx, sql)
        await note(ctx, "after")
        return "stale"

    ctx = await admin.create_workflow("wf")
    with pytest.raises(WorkflowFencedError, match=str(ctx.id())) as caught:
        await wf(ctx)
    assert (caught.value.workflow_id, caught.value.epoch) == (ctx.id(), 1)
    assert await steps(sql, ctx) == {"note:before": "SUCCESS"}
    [record] = await admin.list_workflows()
    assert (record.status, record.output, record.error, record.epoch) == ("RUNNING", None, None, 2)


@pytest.mark.parametrize("ending", ["success", "error"])
async def test_a_stale_run_cannot_end_its_workflow(admin, other_admin, sql, ending):
    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        await fence(other_admin, ctx, sql)
        if ending == "error":
            raise ValueError("stale")
        return "stale"

    ctx = await admin.create_workflow("wf")
    with pytest.raises(WorkflowFencedError):
        await wf(ctx)
    assert await status(sql, ctx) == "RUNNING"


async def test_stale_run_cannot_change_a_newer_outcome(admin, other_admin, sql):
    ctx = await admin.create_workflow("wf")
    await ctx.start()
    await presumed_dead(sql)
    newer = await other_admin.get_workflow(ctx.id())
    await newer.start()
    await note(newer, "a")
    await newer.success("of the newer")
    for write in (partial(note, ctx, "a"), partial(note, ctx, "b"), ctx.success, ctx.fail):
        with pytest.raises(WorkflowFencedError):
            await write("stale")
    [record] = await admin.list_workflows()
    assert (record.status, record.output) == ("SUCCESS", "of the newer")
    assert [(each.step_id, each.output) for each in await admin.list_steps(ctx.id())] == [("note:a", "a")]


async def test_start_in_another_process_fences_the_run(admin, sql, run_program):
    # The program has the other count as dead itself: on a busy machine its start takes longer than a beat.
    source = """
import asyncio, asyncpg, os
from pgqrs import Admin, WorkflowLockedError

async def main():
    async with Admin(os.environ["PGQRS_DSN"], os.environ["PGQRS_SCHEMA"]) as admin:
        ctx = await admin.get_workflow(1)
        await (await admin.store()).ensure_heartbeat()
        sql = await asyncpg.connect(os.environ["PGQRS_DSN"])
        executors = '"{}".pgqrs_executors'.format(os.environ["PGQRS_SCHEMA"])
        while True:  # a beat of the other in between revives it
            await sql.execute(f"UPDATE {executors} SET stopped_at = now()")
            try:
                await ctx.start()
                break
            except WorkflowLockedError:
                pass
        await sql.close()
        await (await ctx.acquire_step("theirs")).guard.success("theirs")

asyncio.run(main())
"""
    ctx = await admin.create_workflow("wf")
    await ctx.start()
    assert await asyncio.to_thread(run_program, source) == (0, "", "")
    with pytest.raises(WorkflowFencedError):
        await note(ctx, "ours")
    assert await steps(sql, ctx) == {"theirs": "SUCCESS"}


async def test_resuming_fences_a_live_run(admin, other_admin, sql):
    ctx = await admin.create_workflow("wf")
    await ctx.start()
    resumed = await other_admin.resume_workflow(ctx.id())
    with pytest.raises(WorkflowFencedError):
        await note(ctx, "stale")
    assert await note(resumed, "resumed") == "resumed"
    assert await steps(sql, ctx) == {"note:resumed": "SUCCESS"}


async def test_concurrent_starts_leave_one_recording_run(admin, other_admin, sql):
    runs = []

    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        runs.append(1)
        mine = len(runs)
        return [await note(ctx, str(n), mine) for n in range(4)]

    async def contest():
        ctx = await admin.create_workflow("wf")
        rival = await other_admin.get_workflow(ctx.id())
        results = await asyncio.gather(wf(ctx), wf(rival), return_exceptions=True)
        won = [each for each in results if isinstance(each, list)]
        assert all(isinstance(each, (list, WorkflowLockedError)) for each in results), results
        assert won, results
        recorded = {each.output for each in await admin.list_steps(ctx.id())}
        assert all(set(each) == recorded for each in won)
        assert await status(sql, ctx) == "SUCCESS"

    async with no_hang():
        for _ in range(15):
            await contest()


# --- takeovers that are not committed yet ---


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_step_write_waits_for_an_uncommitted_takeover(admin, sql, locker, end):
    ctx = await admin.create_workflow("wf")
    await ctx.start()
    takeover = locker.transaction()
    await takeover.start()
    await locker.execute("UPDATE pgqrs_workflows SET epoch = epoch + 1, claim = -1 WHERE id = $1", ctx.id())
    writing = asyncio.create_task(note(ctx, "during"))
    # What is written by the same journal afterwards has passed the locked row.
    async with no_hang():
        await note(await admin.create_workflow("other"), "passes")
        assert not writing.done()
        assert await steps(sql, ctx) == {}
        if end == "commit":
            await takeover.commit()
            with pytest.raises(WorkflowFencedError):
                await writing
            assert await steps(sql, ctx) == {}
        else:
            await takeover.rollback()
            assert await writing == "during"
            assert await steps(sql, ctx) == {"note:during": "SUCCESS"}


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_workflow_end_waits_for_an_uncommitted_takeover(admin, sql, locker, end):
    ctx = await admin.create_workflow("wf")
    await ctx.start()
    takeover = locker.transaction()
    await takeover.start()
    await locker.execute("UPDATE pgqrs_workflows SET epoch = epoch + 1, claim = -1 WHERE id = $1", ctx.id())
    ending = asyncio.create_task(ctx.success("stale?"))
    # What is written by the same journal afterwards has passed the locked row.
    async with no_hang():
        await note(await admin.create_workflow("other"), "passes")
        assert not ending.done()
        await (takeover.commit() if end == "commit" else takeover.rollback())
        if end == "commit":
            with pytest.raises(WorkflowFencedError):
                await ending
        else:
            await ending
    assert await status(sql, ctx) == ("RUNNING" if end == "commit" else "SUCCESS")


async def test_start_waits_for_a_row_lock(admin, sql, locker):
    ctx = await admin.create_workflow("wf")
    async with no_hang():
        async with locker.transaction():
            await locker.execute("SELECT 1 FROM pgqrs_workflows WHERE id = $1 FOR UPDATE", ctx.id())
            starting = asyncio.create_task(ctx.start())
            await note(await admin.create_workflow("other"), "passes")
            assert not starting.done()
        await starting
    assert await status(sql, ctx) == "RUNNING"


async def test_locked_workflow_row_delays_only_its_workflow(admin, sql, locker):
    locked, free = await admin.create_workflow("wf"), await admin.create_workflow("wf")
    await locked.start()
    await free.start()
    async with no_hang():
        async with locker.transaction():
            await locker.execute("SELECT 1 FROM pgqrs_workflows WHERE id = $1 FOR UPDATE", locked.id())
            delayed = [asyncio.create_task(note(locked, str(n))) for n in range(3)]
            for n in range(10):
                assert await note(free, str(n)) == str(n)
            await free.success("done")
            assert await admin.create_workflow("new")
            assert not any(task.done() for task in delayed)
        assert await asyncio.gather(*delayed) == ["0", "1", "2"]
    assert await status(sql, free) == "SUCCESS"
    assert len(await steps(sql, locked)) == 3


async def test_locked_step_row_delays_only_its_workflow(admin, sql, locker):
    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        return await flaky(ctx)

    @step
    async def flaky(ctx: PyWorkflow) -> str:
        if failures:
            raise failures.pop()
        return "done"

    failures = [OSError("x")]
    locked, free = await admin.create_workflow("wf"), await admin.create_workflow("wf")
    with pytest.raises(OSError):
        await wf(locked)
    async with asyncio.timeout(4), locker.transaction():
        await locker.execute("SELECT 1 FROM pgqrs_workflow_steps WHERE workflow_id = $1 FOR UPDATE", locked.id())
        delayed = asyncio.create_task(wf(locked))
        for n in range(10):
            assert await note(free, str(n)) == str(n)
        assert not delayed.done()
    assert await delayed == "done"


# --- the stored outcome is the answer ---


async def put_row(sql, ctx, state, *, epoch):
    await sql.execute(
        "INSERT INTO pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, completed_at, output, error)"
        "VALUES ($1, 'note:a', $2, $3, now(), now(), $4, $5)",
        ctx.id(),
        state,
        epoch,
        '"stored"' if state == "SUCCESS" else None,
        '{"type": "ValueError", "message": "stored"}' if state == "ERROR" else None,
    )


@pytest.mark.parametrize("state", ["ERROR", "RUNNING"])
async def test_newer_run_replaces_a_step_without_success(admin, sql, state):
    ctx = await admin.create_workflow("wf")
    await ctx.start()
    await ctx.fail("x")
    await ctx.start()
    await put_row(sql, ctx, state, epoch=1)
    assert await note(ctx, "a") == "a"
    [record] = await admin.list_steps(ctx.id())
    assert (record.status, record.output, record.error, record.epoch) == ("SUCCESS", "a", None, 2)


async def test_newer_run_adopts_a_recorded_success(admin, sql):
    ctx = await admin.create_workflow("wf")
    await ctx.start()
    await ctx.fail("x")
    await ctx.start()
    await put_row(sql, ctx, "SUCCESS", epoch=1)
    assert await note(ctx, "a") == "stored"
    assert await note(ctx, "a") == "stored"
    [record] = await admin.list_steps(ctx.id())
    assert (record.output, record.epoch) == ("stored", 1)


async def test_recorded_success_wins_over_the_error_of_a_newer_run(admin, sql):
    @step(id="note", key=lambda: "a")
    async def fails(ctx: PyWorkflow) -> str:
        raise RuntimeError("this run's")

    ctx = await admin.create_workflow("wf")
    await ctx.start()
    await put_row(sql, ctx, "SUCCESS", epoch=0)
    with pytest.raises(RuntimeError):
        await fails(ctx)
    assert await fails(ctx) == "stored"
    assert await steps(sql, ctx) == {"note:a": "SUCCESS"}


async def test_running_step_row_of_a_crash_is_not_an_outcome(admin, sql):
    ctx = await admin.create_workflow("wf")
    await ctx.start()
    await put_row(sql, ctx, "RUNNING", epoch=1)
    assert await note(await admin.get_workflow(ctx.id()), "a") == "a"


async def test_manually_recorded_error_is_replayed(admin, sql):
    ctx = await admin.create_workflow("wf")
    await ctx.start()
    await put_row(sql, ctx, "ERROR", epoch=1)
    with pytest.raises(StepFailedError, match="stored"):
        await note(await admin.get_workflow(ctx.id()), "a")


# --- killed half-way ---

KILLED = """
import asyncio, os, sys
import asyncpg
from pgqrs import Admin, PyWorkflow, step, workflow

hang_at = sys.argv[1]

@step(key=lambda k: k)
async def part(ctx: PyWorkflow, k: int) -> int:
    await connection.execute("INSERT INTO executions VALUES ($1, $2)", k, os.getpid())
    if str(k) == hang_at:
        print("hanging", flush=True)
        await asyncio.Event().wait()
    return k * 10

@workflow
async def parts(ctx: PyWorkflow) -> list:
    return [await part(ctx, k) for k in range(6)]

async def main():
    global connection
    settings = {"search_path": os.environ["PGQRS_SCHEMA"]}
    connection = await asyncpg.connect(os.environ["PGQRS_DSN"], server_settings=settings)
    admin = Admin(os.environ["PGQRS_DSN"], os.environ["PGQRS_SCHEMA"])
    print(await parts(await admin.get_workflow(1)), flush=True)
    await connection.close()

asyncio.run(main())
"""


async def test_workflow_of_a_killed_process_resumes_at_its_step(admin, sql, program):
    await sql.execute("CREATE TABLE executions (k int, pid int)")
    ctx = await admin.create_workflow("parts")
    victim = program(KILLED, "3")
    assert await line_of(victim.stdout) == "hanging\n"
    victim.send_signal(signal.SIGKILL)
    await asyncio.to_thread(victim.wait)
    assert await status(sql, ctx) == "RUNNING"
    assert [each for each, state in (await steps(sql, ctx)).items() if state == "SUCCESS"] == [
        "part:0",
        "part:1",
        "part:2",
    ]
    successor = program(KILLED, "never")
    out, err = await asyncio.to_thread(successor.communicate)
    assert (successor.returncode, out, err) == (0, "[0, 10, 20, 30, 40, 50]\n", "")
    counted = await sql.fetch("SELECT k, count(*), count(DISTINCT pid) FROM executions GROUP BY k ORDER BY k")
    assert [tuple(row) for row in counted] == [(0, 1, 1), (1, 1, 1), (2, 1, 1), (3, 2, 2), (4, 1, 1), (5, 1, 1)]
    assert await status(sql, ctx) == "SUCCESS"
    assert set((await steps(sql, ctx)).values()) == {"SUCCESS"}


async def test_process_resumed_after_a_takeover_records_nothing(admin, sql, program):
    """SIGSTOP in a step, a takeover that finishes, SIGCONT: the classic stale worker."""
    source = """
import asyncio, os, sys
from pgqrs import Admin, PyWorkflow, WorkflowFencedError, step, workflow

@step
async def slow(ctx: PyWorkflow) -> str:
    print("in the step", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    return "of the stale process"

@workflow
async def wf(ctx: PyWorkflow) -> str:
    return await slow(ctx)

async def main():
    async with Admin(os.environ["PGQRS_DSN"], os.environ["PGQRS_SCHEMA"]) as admin:
        try:
            await wf(await admin.get_workflow(1))
        except WorkflowFencedError as error:
            print("fenced", error.workflow_id, error.epoch)

asyncio.run(main())
"""

    @step
    async def slow(ctx: PyWorkflow) -> str:
        return "of the newer process"

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        return await slow(ctx)

    ctx = await admin.create_workflow("wf")
    stale = program(source)
    assert await line_of(stale.stdout) == "in the step\n"
    stale.send_signal(signal.SIGSTOP)
    with pytest.raises(WorkflowLockedError):
        await wf(await admin.get_workflow(ctx.id()))
    # As a minute without a beat would.
    await sql.execute(
        "UPDATE pgqrs_executors SET expires_at = now(), suspected_at = now() - interval '50 s' WHERE pid = $1",
        stale.pid,
    )
    assert await wf(await admin.get_workflow(ctx.id())) == "of the newer process"
    stale.send_signal(signal.SIGCONT)
    out, err = await asyncio.to_thread(stale.communicate, "\n")
    assert (stale.returncode, out, err) == (0, "fenced 1 1\n", "")
    [record] = await admin.list_steps(ctx.id())
    assert (record.output, record.epoch) == ("of the newer process", 2)
