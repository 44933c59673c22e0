"""Workers: claims, slots, misfits, poisoned workflows, and arguments of `Worker`."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter

import pytest

from pgqrs import (
    Admin,
    ConfigurationError,
    InvalidNameError,
    InvariantError,
    PoisonedWorkflowError,
    PyWorkflow,
    Worker,
    WorkflowLockedError,
    step,
    workflow,
)
from tests.support.recorded import is_replay
from tests.support.waiting import DEADLINE, no_hang, until


@step
async def doubled(ctx: PyWorkflow, number: int) -> int:
    return 2 * number


@workflow
async def double(ctx: PyWorkflow, number: int, *, plus: int = 0) -> int:
    return await doubled(ctx, number) + plus


@workflow
async def failing(ctx: PyWorkflow, text: str) -> None:
    raise LookupError(text)


async def test_worker_runs_enqueued_workflows(admin):
    before = await admin.enqueue(double, 1)
    async with no_hang(), Worker(admin, [double]):
        after = await admin.enqueue(double, 2, plus=1)
        assert (await before.result(), await after.result()) == (2, 5)
    records = await admin.list_workflows()
    assert [(each.status, each.attempts, each.epoch, each.executor_id) for each in records] == [
        ("SUCCESS", 1, 1, None)
    ] * 2


async def test_worker_of_another_admin_runs_the_workflow(admin, dsn, schema):
    handle = await admin.enqueue(double, 21)
    async with no_hang(), Admin(dsn, schema) as other, Worker(other, [double]):
        assert await handle.result() == 42


@workflow
async def exiting(ctx: PyWorkflow) -> None:
    if not exits:
        exits.append(1)
        raise SystemExit(3)


@workflow
async def cancelling_itself(ctx: PyWorkflow) -> None:
    if not exits:
        exits.append(1)
        raise asyncio.CancelledError


exits: list[int] = []


@pytest.mark.parametrize("crashing", [exiting, cancelling_itself])
async def test_worker_survives_failures_and_runs_a_crash_again(admin, crashing):
    exits.clear()
    async with no_hang(), Worker(admin, [failing, double, crashing], concurrency=1):
        failed, crashed = await admin.enqueue(failing, "x"), await admin.enqueue(crashing)
        fine = await admin.enqueue(double, 4)
        with pytest.raises(LookupError, match="x") as caught:
            await failed.result()
        assert is_replay(caught.value, LookupError)
        assert await fine.result() == 8
        assert await crashed.result() is None
    assert exits == [1]


async def test_worker_ignores_unknown_names_and_other_queues(admin):
    unknown = await admin.enqueue(failing, "x")
    elsewhere = await admin.options(queue="elsewhere").enqueue(double, 1)
    async with no_hang(), Worker(admin, [double]):
        assert await (await admin.enqueue(double, 1)).result() == 2
    for handle in (unknown, elsewhere):
        [record] = await admin.list_workflows(after=handle.id + 1, limit=1)
        assert (record.status, record.attempts, record.epoch) == ("PENDING", 0, 0)
    async with no_hang(), Worker(admin, [double], queues=["default", "elsewhere"]):
        assert await elsewhere.result() == 2


async def twice(ctx: PyWorkflow, number: int) -> int:
    return 2 * number


async def test_misfit_waits_for_a_newer_worker(admin, dsn, schema, caplog):
    async def thrice(ctx: PyWorkflow, number: int, unit: str) -> str:
        return f"{3 * number} {unit}"

    old, new = workflow(name="grown")(twice), workflow(name="grown")(thrice)
    async with no_hang(), Admin(dsn, schema) as newer, Worker(admin, [old]):
        handle = await newer.enqueue(new, 2, "EUR")
        await until(_has_status, handle, "WAITING")
        assert (await admin.list_workflows())[0].attempts == 1
        async with Worker(newer, [new]):
            assert await handle.result() == "6 EUR"
    assert "newer worker" in caplog.text


async def _has_status(handle, status):
    return await handle.status() == status


async def test_misfit_ends_in_an_error_after_its_attempts(admin, sql):
    double = workflow(name="double", max_attempts=2)(twice)
    handle = await admin.enqueue(double, 1)
    other = await admin.enqueue(double, 1)
    await sql.execute(
        """UPDATE pgqrs_workflows SET input = '{"args": [], "kwargs": {"n": 1}}' WHERE id = $1""", handle.id
    )
    await sql.execute("UPDATE pgqrs_workflows SET input = '[]' WHERE id = $1", other.id)
    async with no_hang(), Worker(admin, [double]):
        with pytest.raises(
            TypeError, match="'double' does not accept these arguments: missing a required argument: 'number'"
        ):
            await handle.result()
        with pytest.raises(TypeError):
            await other.result()
        assert await (await admin.enqueue(double, 2)).result() == 4


@workflow(max_attempts=3)
async def fragile(ctx: PyWorkflow) -> str:
    return "ran"


async def test_workflow_out_of_attempts_ends_in_error_without_a_run(admin, sql):
    poisoned, tough = await admin.enqueue(fragile), await admin.enqueue(fragile)
    await sql.execute("UPDATE pgqrs_workflows SET attempts = 3 WHERE id = $1", poisoned.id)
    await sql.execute("UPDATE pgqrs_workflows SET attempts = 2 WHERE id = $1", tough.id)
    async with no_hang(), Worker(admin, [fragile]):
        with pytest.raises(PoisonedWorkflowError, match="3 times"):
            await poisoned.result()
        assert await tough.result() == "ran"


@workflow(max_attempts=2)
async def deadly(ctx: PyWorkflow) -> None:
    exits.append(1)
    raise SystemExit(3)


async def test_repeatedly_crashing_workflow_is_poisoned(admin):
    exits.clear()
    async with no_hang(), Worker(admin, [deadly]):
        with pytest.raises(PoisonedWorkflowError, match="2 times"):
            await (await admin.enqueue(deadly)).result()
    assert len(exits) == 2


@workflow
async def noted(ctx: PyWorkflow, number: int) -> None:
    order.append(number)


order: list[int] = []


async def test_workflows_run_by_priority_and_then_by_age(admin):
    order.clear()
    handles = [await admin.options(priority=p).enqueue(noted, n) for n, p in enumerate([0, 5, -1, 5, 0])]
    async with no_hang(), Worker(admin, [noted], concurrency=1):
        await asyncio.gather(*(each.result() for each in handles))
    assert order == [1, 3, 0, 4, 2]


@step
async def gated(ctx: PyWorkflow) -> None:
    inside.append(ctx.id())
    await gate.wait()


@workflow
async def waiting(ctx: PyWorkflow) -> None:
    await gated(ctx)


inside: list[int] = []
gate = asyncio.Event()


@pytest.fixture
def closed_gate():
    global gate  # noqa: PLW0603  # an event belongs to the loop of a test
    inside.clear()
    gate = asyncio.Event()
    return gate


async def _inside(count):
    return len(inside) >= count


async def test_worker_claims_no_more_than_its_slots(admin, closed_gate):
    handles = [await admin.enqueue(waiting) for _ in range(10)]
    async with no_hang(), Worker(admin, [waiting], concurrency=3) as _worker:
        await until(_inside, 3)
        await (await admin.loop_state()).store.notify_queue("default", 1)
        assert len(await admin.list_workflows(status="RUNNING")) == 3
        assert len(await admin.list_workflows(status="PENDING")) == 7
        closed_gate.set()
        await asyncio.gather(*(each.result() for each in handles))
    assert sorted(inside) == sorted(each.id for each in handles)


async def test_live_run_is_locked_against_another_admin(admin, dsn, schema, closed_gate):
    handle = await admin.enqueue(waiting)
    async with no_hang(), Worker(admin, [waiting]):
        await until(_inside, 1)
        async with Admin(dsn, schema) as other:
            with pytest.raises(WorkflowLockedError) as caught:
                await waiting(await other.get_workflow(handle.id))
        assert caught.value.executor_id == (await admin.store()).executor_id
        closed_gate.set()
        await handle.result()


@workflow
async def counted(ctx: PyWorkflow, number: int) -> int:
    return number


async def test_two_workers_share_thousands_of_jobs_and_run_each_once(admin, dsn, schema, sql):
    total = 4_000
    async with asyncio.timeout(60), Admin(dsn, schema) as first, Admin(dsn, schema) as second:
        shares: Counter[str] = Counter()

        def counting(which):
            @workflow(name="counted")
            async def own(ctx: PyWorkflow, number: int) -> int:
                shares[which] += 1
                return number

            return own

        handles = await admin.enqueue_many(counted, [(n,) for n in range(total)])
        began = time.monotonic()
        async with Worker(first, [counting("first")]), Worker(second, [counting("second")]):
            results = await asyncio.gather(*(each.result() for each in handles))
        elapsed = time.monotonic() - began
    assert results == list(range(total))
    assert sum(shares.values()) == total
    assert min(shares.values()) > total / 5, shares
    assert await sql.fetchval("SELECT max(attempts) FROM pgqrs_workflows") == 1
    logging.getLogger("tests").info("%d jobs in %.1f s: %s", total, elapsed, dict(shares))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"workflows": []}, ConfigurationError, "at least one workflow"),
        ({"workflows": [print]}, TypeError, "not a workflow"),
        ({"queues": "default"}, TypeError, "iterable of names"),
        ({"queues": []}, ConfigurationError, "at least one queue"),
        ({"queues": [""]}, InvalidNameError, "empty"),
        ({"concurrency": 0}, ConfigurationError, "at least 1"),
        ({"concurrency": True}, TypeError, "int"),
        ({"concurrency": 1.5}, TypeError, "int"),
        ({"grace": -1}, ConfigurationError, "grace"),
        ({"grace": float("nan")}, ConfigurationError, "grace"),
    ],
)
async def test_invalid_worker_arguments_are_refused(admin, arguments, error, message):
    with pytest.raises(error, match=message):
        Worker(admin, **({"workflows": [double]} | arguments))


async def test_two_functions_of_one_name_are_refused(admin):
    @workflow(name="double")
    async def impostor(ctx: PyWorkflow) -> None: ...

    with pytest.raises(ConfigurationError, match=r"two workflows are named 'double': .*double and .*impostor"):
        Worker(admin, [double, impostor])
    Worker(admin, [double, double])


async def test_worker_cannot_be_started_twice(admin):
    worker = Worker(admin, [double])
    async with worker:
        pass
    with pytest.raises(ConfigurationError, match="runs once"):
        await worker.start()
    await worker.drain()


def test_worker_runs_in_a_thread_without_signal_handlers(dsn, schema):
    async def main():
        async with no_hang(), Admin(dsn, schema) as own:
            await own.install()
            worker = Worker(own, [double])
            running = asyncio.create_task(worker.run())
            result = await (await own.enqueue(double, 2)).result()
            await worker.drain()
            await running
            return result

    results = []
    thread = threading.Thread(target=lambda: results.append(asyncio.run(main())))
    thread.start()
    thread.join(DEADLINE)
    assert results == [4]


async def test_deep_verification_reports_tampered_tables(admin, sql):
    handle = await admin.enqueue(double, 1)
    await sql.execute("UPDATE pgqrs_workflows SET status = 'RUNNING', ready_at = NULL WHERE id = $1", handle.id)
    with pytest.raises(
        InvariantError, match=f"workflow {handle.id} is RUNNING and no executor holds it"
    ) as caught:
        await admin.verify(deep=True)
    assert len(caught.value.violations) == 1
    await admin.verify()
    await sql.execute("DELETE FROM pgqrs_workflows")


async def test_deep_verification_outlasts_the_timeouts(admin, sql, dsn, schema):
    waiting = "SELECT pid FROM pg_locks WHERE NOT granted AND relation = 'pgqrs_workflow_steps'::regclass"
    async with no_hang(), Admin(dsn, schema, timeout=0.3, outage_timeout=0.3) as hasty:
        await hasty.verify()
        async with sql.transaction():
            await sql.execute("LOCK TABLE pgqrs_workflow_steps")
            checking = asyncio.create_task(hasty.verify(deep=True))
            while (waiter := await sql.fetchval(waiting)) is None:  # noqa: ASYNC110  # the server is asked
                await asyncio.sleep(0.01)
            await asyncio.wait([checking], timeout=1.2)
            assert await sql.fetchval(waiting) == waiter
        await checking


async def test_step_that_blocks_the_loop_is_logged(admin, caplog):
    @step
    async def crunch(ctx: PyWorkflow) -> None:
        end = time.monotonic() + 1.8
        while time.monotonic() < end:
            pass

    @workflow
    async def heavy(ctx: PyWorkflow) -> None:
        await crunch(ctx)

    async with no_hang(), Worker(admin, [heavy]):
        handle = await admin.enqueue(heavy)
        await handle.result()
    [warning] = [
        each.getMessage() for each in caplog.records if "event loop has been blocked" in each.getMessage()
    ]
    assert f"step 'crunch' of workflow {handle.id} ('heavy')" in warning
    assert "in test_step_that_blocks_the_loop_is_logged.<locals>.crunch" in warning
