"""Recovery of runs of killed and stopped processes, and none of busy processes."""

import asyncio
import logging
import os
import signal
import statistics
import time

import pytest

from pgqrs import Admin, PyWorkflow, Worker, step, workflow
from tests.support.recorded import row_of
from tests.support.waiting import DEADLINE, until
from tests.support.workflows import cancel_task

# What both the processes and the tests run. A step tells who executed it; each is a moment long, or blocks the loop.
JOBS = """
import asyncio, os, sys, time
from pgqrs import Admin, PyWorkflow, Worker, step, workflow


@step(key=lambda n: n)
async def tick(ctx: PyWorkflow, n: int) -> int:
    await asyncio.sleep(0.02)
    return os.getpid()


@step
async def crunch(ctx: PyWorkflow, seconds: float) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return os.getpid()


@workflow
async def job(ctx: PyWorkflow, steps: int) -> list[int]:
    return [await tick(ctx, n) for n in range(steps)]


@workflow
async def blocking(ctx: PyWorkflow, seconds: float) -> list[int]:
    return [await tick(ctx, 0), await crunch(ctx, seconds), await tick(ctx, 1)]


def own_admin(expiry):
    options = {"heartbeat_timeout": expiry} if expiry else {}
    return Admin(os.environ["PGQRS_DSN"], os.environ["PGQRS_SCHEMA"], **options)


async def main(what, expiry):
    async with own_admin(expiry) as admin:
        if what == "work":
            await Worker(admin, [job, blocking]).run()
        else:
            await admin.run(job, int(what))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
"""
jobs: dict[str, object] = {}
exec(compile(JOBS.replace('__name__ == "__main__"', "False"), "jobs", "exec"), jobs)
job, blocking, own_admin = jobs["job"], jobs["blocking"], jobs["own_admin"]


@pytest.fixture
def process(dsn, schema, tmp_path, children, forkery):
    """Start processes that work, or that run one job of so many steps; `expiry` is their heartbeat's, in seconds."""
    path = tmp_path / "jobs.py"
    path.write_text(JOBS)

    def start(what="work", expiry=0.0):
        told = {"PGQRS_DSN": dsn, "PGQRS_SCHEMA": schema}
        return children.adopt(forkery.start(path, str(what), str(expiry), **told))

    return start


async def _last_pid(sql, workflow_id, *, other_than=()):
    """Return who executed the newest step, if it was somebody else."""
    pid = await sql.fetchval(
        "SELECT output::text::bigint FROM pgqrs_workflow_steps "
        "WHERE workflow_id = $1 AND status = 'SUCCESS' ORDER BY completed_at DESC LIMIT 1",
        workflow_id,
    )
    return None if pid in other_than else pid


async def _executors(sql, count):
    return await sql.fetchval("SELECT count(*) FROM pgqrs_executors WHERE stopped_at IS NULL") >= count


async def test_run_of_a_killed_worker_is_recovered_within_seconds(admin, sql, process):
    workers = {each.pid: each for each in (process(), process())}
    handle = await admin.enqueue(job, 10_000)
    took = []
    for count in range(2, 5):
        await until(_executors, sql, count)
        holder = await until(_last_pid, sql, handle.id)
        spare = process()
        workers[spare.pid] = spare
        await until(_executors, sql, count + 1)
        workers[holder].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        await until(lambda holder=holder: _last_pid(sql, handle.id, other_than=(None, holder)))
        took.append(time.monotonic() - killed)
    # Up to a second until a worker looks, and 0.8 s of suspicion.
    assert statistics.median(took) < 2.5, took
    row = await row_of(sql, handle.id)
    # Each time one epoch fences the dead run and the next is the new one; each run recorded steps.
    assert (row["epoch"], row["status"], row["attempts"]) == (2 * len(took) + 1, "RUNNING", 1)
    await handle.cancel()
    await until(lambda: _is(handle, "CANCELLED"))


async def _is(handle, status):
    return await handle.status() == status


async def test_worker_recovers_the_run_of_a_killed_program(admin, sql, process):
    running = process(2_000)
    workflow_id = await until(lambda: sql.fetchval("SELECT id FROM pgqrs_workflows LIMIT 1"))
    await until(_last_pid, sql, workflow_id)
    async with asyncio.timeout(DEADLINE), Worker(admin, [job]):
        # The worker looks twice and leaves it alone while it lives.
        before = await sql.fetchval("SELECT count(*) FROM pgqrs_workflow_steps")
        await until(lambda: _more_steps(sql, before + 60))
        row = await row_of(sql, workflow_id)
        assert (row["epoch"], row["status"]) == (1, "RUNNING")
        running.send_signal(signal.SIGKILL)
        await until(lambda: _last_pid(sql, workflow_id, other_than=(None, running.pid)))
        assert await _last_pid(sql, workflow_id) == os.getpid()
        assert (await row_of(sql, workflow_id))["epoch"] == 3
        await admin.cancel_workflow(workflow_id)
        await until(lambda: _is(admin.handle(workflow_id), "CANCELLED"))


async def _more_steps(sql, count):
    return await sql.fetchval("SELECT count(*) FROM pgqrs_workflow_steps") >= count


async def test_run_of_a_stopped_process_is_recovered_and_fenced(admin, dsn, schema, sql, process):
    stopped = process(expiry=1.0)
    handle = await admin.enqueue(job, 120)
    assert await until(_last_pid, sql, handle.id) == stopped.pid
    stopped.send_signal(signal.SIGSTOP)
    at = time.monotonic()
    async with Admin(dsn, schema) as own, Worker(own, [job]):
        await until(lambda: _last_pid(sql, handle.id, other_than=(None, stopped.pid)))
        # Its lock is held: four times the expiry, and up to a second twice until a worker looks.
        assert 3.5 < time.monotonic() - at < 10
        stopped.send_signal(signal.SIGCONT)
        results = await handle.result(timeout=DEADLINE)
        turn = results.index(os.getpid())
        assert set(results[:turn]) == {stopped.pid}
        assert set(results[turn:]) == {os.getpid()}
    row = await row_of(sql, handle.id)
    assert row["epoch"] == 3
    # The process that was stopped is none the worse for it.
    assert await (await admin.enqueue(job, 3)).result(timeout=DEADLINE) == [stopped.pid] * 3


@pytest.mark.parametrize(
    ("seconds", "expiry"),
    [(3.0, 1.0), pytest.param(60.0, 15.0, marks=pytest.mark.slow)],
    ids=["short", "a-minute"],
)
async def test_run_of_a_blocked_event_loop_is_not_recovered(admin, sql, process, seconds, expiry):
    """Another run waits in the blocked loop too; a live worker looks for something to take over all the while."""
    blocked = process(expiry=expiry)
    handle, beside = await admin.enqueue(blocking, seconds), await admin.enqueue(job, 200)
    for each in (handle, beside):
        assert await until(_last_pid, sql, each.id) == blocked.pid
    async with Worker(admin, [blocking, job]) as other:
        assert await handle.result(timeout=seconds + DEADLINE) == [blocked.pid] * 3
        assert await beside.result(timeout=DEADLINE) == [blocked.pid] * 200
        assert other._services._claim_connection._ticks > seconds / 2
    crunch = await sql.fetchrow("SELECT * FROM pgqrs_workflow_steps WHERE step_id = 'crunch'")
    assert (crunch["completed_at"] - crunch["started_at"]).total_seconds() > seconds
    for each in (handle, beside):
        row = await row_of(sql, each.id)
        assert (row["status"], row["epoch"], row["attempts"]) == ("SUCCESS", 1, 1)
    logging.getLogger("tests").info("blocked for %g s with an expiry of %g s: not taken over", seconds, expiry)


async def test_killed_connections_cause_no_recovery(admin, dsn, schema, sql):
    async with Admin(dsn, schema) as busy, Admin(dsn, schema) as idle:
        async with asyncio.timeout(DEADLINE), Worker(busy, [job]):
            handle = await admin.enqueue(job, 150)
            await until(_last_pid, sql, handle.id)
            async with Worker(idle, [job]) as other:
                for _ in range(3):
                    await _kill_heartbeat_connections(sql)
                    await until(_locks, sql, 2)
                    seen = other._services._claim_connection._ticks
                    await until(lambda seen=seen: _ticked(other, seen + 1))
                assert await handle.result() == [os.getpid()] * 150
        row = await row_of(sql, handle.id)
        assert (row["epoch"], row["executor"]) == (1, None)


async def _kill_heartbeat_connections(sql):
    """Kill the connections that hold the locks of the executors in the test's schema."""
    killed = await sql.fetch(
        "SELECT pg_terminate_backend(pg_locks.pid) FROM pg_locks JOIN pgqrs_executors "
        "ON (classid::bigint << 32 | objid::bigint) = lock_key WHERE locktype = 'advisory'"
    )
    assert killed


async def _locks(sql, count):
    """Tell whether so many executors hold their locks."""
    held = await sql.fetchval(
        "SELECT count(*) FROM pg_locks JOIN pgqrs_executors "
        "ON (classid::bigint << 32 | objid::bigint) = lock_key WHERE locktype = 'advisory'"
    )
    return held >= count


async def _ticked(worker, count):
    return worker._services._claim_connection._ticks >= count


async def test_run_of_a_closed_admin_is_recovered(admin, dsn, schema, sql):
    @step
    async def endless(ctx: PyWorkflow) -> None:
        began.set()
        await asyncio.Event().wait()

    @workflow(name="job")
    async def stuck(ctx: PyWorkflow, steps: int) -> None:
        await endless(ctx)

    began = asyncio.Event()
    own = Admin(dsn, schema)
    running = asyncio.create_task(own.run(stuck, 3))
    async with asyncio.timeout(DEADLINE):
        await began.wait()
        await own.close()
        [record] = await admin.list_workflows()
        async with Worker(admin, [job]):
            assert await admin.handle(record.id).result() == [os.getpid()] * 3
        await cancel_task(running)
    [record] = await admin.list_workflows()
    assert (record.status, record.epoch) == ("SUCCESS", 3)
