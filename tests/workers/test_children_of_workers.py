"""Children across workers and processes: a process that dies leaves neither a child nor a parent behind."""

from __future__ import annotations

import signal
import tracemalloc
from contextlib import AsyncExitStack

import pytest

from pgqrs import Admin, PyWorkflow, Worker, workflow
from tests.support.families import children_of, double, is_quiet, nap, statuses_of
from tests.support.processes import line_of
from tests.support.recorded import row_of
from tests.support.waiting import no_hang, until

# What both the processes and the tests run. A step tells which process executes it.
FAMILY = """
import asyncio, os, sys
from pgqrs import Admin, PyWorkflow, Worker, step, workflow


@step(key=lambda name, path: name)
async def work(ctx: PyWorkflow, name: str, path: str) -> int:
    # The process waits here until the test lets it go on, or kills it.
    print(name, os.getpid(), flush=True)
    while not os.path.exists(path):
        await asyncio.sleep(0.01)
    return os.getpid()


@workflow
async def child(ctx: PyWorkflow, path: str) -> int:
    return await work(ctx, "child", path)


@workflow
async def caller(ctx: PyWorkflow, path: str) -> list[int]:
    return [await ctx.call(child, path), await work(ctx, "caller", path)]


@workflow
async def starter(ctx: PyWorkflow, path: str) -> list[int]:
    started = await ctx.start(child, path)
    return [await work(ctx, "starter", path), await started]


@workflow
async def leaf(ctx: PyWorkflow, number: int) -> int:
    return number


@workflow
async def starting_many(ctx: PyWorkflow, count: int) -> int:
    def inputs():
        for number in range(count):
            if number % 1000 == 999:
                print("starting", number, flush=True)
            yield (number,)

    return sum(await ctx.gather(await ctx.start_many(leaf, inputs())))


async def main(names):
    async with Admin(os.environ["PGQRS_DSN"], os.environ["PGQRS_SCHEMA"]) as admin:
        await Worker(admin, [globals()[each] for each in names], queues=["default"]).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
"""
family: dict[str, object] = {}
exec(compile(FAMILY.replace('__name__ == "__main__"', "False"), "family", "exec"), family)
child, caller, starter = family["child"], family["caller"], family["starter"]
leaf, starting_many = family["leaf"], family["starting_many"]


def killed(process):
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("function", [caller, starter], ids=["called", "started"])
async def test_another_process_finishes_child_and_parent(admin, sql, program, tmp_path, function):
    path = str(tmp_path / "go on")
    name = function.__name__
    first = program(FAMILY, name, "child")
    handle = await admin.enqueue(function, path)
    assert await line_of(first.stdout, "child")
    if function is starter:
        assert (await row_of(sql, handle.id))["status"] == "RUNNING"
    second = program(FAMILY, name, "child")
    await until(_executors, sql, 2)
    killed(first)
    assert await line_of(second.stdout, "child")
    (tmp_path / "go on").touch()
    async with no_hang():
        assert set(await handle.result()) == {second.pid}
    (row,) = await children_of(sql, handle.id)
    assert (row["status"], row["output"]) == ("SUCCESS", str(second.pid))


async def _executors(sql, count):
    return await sql.fetchval("SELECT count(*) FROM pgqrs_executors WHERE stopped_at IS NULL") >= count


async def test_killed_child_process_costs_the_parent_nothing(admin, sql, program, tmp_path):
    """The parent waits elsewhere, and is not run again before its child has ended."""
    path = str(tmp_path / "go on")

    @workflow
    async def parent(ctx: PyWorkflow) -> int:
        return await (await ctx.start(child, path))

    async with no_hang(), Worker(admin, [parent]):
        first = program(FAMILY, "child")
        handle = await admin.enqueue(parent)
        assert await line_of(first.stdout, "child")
        before = await row_of(sql, handle.id)
        assert before["status"] == "WAITING"
        killed(first)
        second = program(FAMILY, "child")
        assert await line_of(second.stdout, "child")
        assert await row_of(sql, handle.id) == before
        (tmp_path / "go on").touch()
        assert await handle.result() == second.pid
        assert (await row_of(sql, handle.id))["epoch"] == before["epoch"] + 1


@pytest.mark.parametrize("at", [999, 1999, 2999])
async def test_start_of_many_survives_a_kill_in_each_portion(admin, sql, program, at):
    first = program(FAMILY, "starting_many")
    handle = await admin.enqueue(starting_many, 3500)
    assert await line_of(first.stdout, f"starting {at}")
    killed(first)
    before = await children_of(sql, handle.id)
    async with no_hang(), Worker(admin, [starting_many, leaf], concurrency=300):
        assert await handle.result() == sum(range(3500))
    rows = await children_of(sql, handle.id)
    assert sorted(each["place"] for each in rows) == list(range(3500))
    assert {each["id"] for each in before} <= {each["id"] for each in rows}


async def test_cancelled_parent_of_a_killed_start_has_no_more_children(admin, sql, program):
    """The children that were born are cancelled, and the others are never born."""
    first = program(FAMILY, "starting_many")
    handle = await admin.enqueue(starting_many, 100_000)
    assert await line_of(first.stdout, "starting 2999")
    killed(first)
    async with no_hang(), Worker(admin, [nap]):
        await handle.cancel()
        await until(lambda: _is(handle, "CANCELLED"))
        await until(lambda: _all_ended(sql, handle.id))
        count = len(await children_of(sql, handle.id))
        assert 1000 <= count < 100_000
        await until(is_quiet, sql)
        assert set(await statuses_of(sql, handle.id)) == {"CANCELLED"}
        assert len(await children_of(sql, handle.id)) == count


async def _is(handle, status):
    return await handle.status() == status


async def _all_ended(sql, parent_id):
    return not await sql.fetchval(
        "SELECT count(*) FROM pgqrs_workflows WHERE parent_id = $1 AND completed_at IS NULL", parent_id
    )


@workflow
async def gathering(ctx: PyWorkflow, count: int) -> int:
    return sum(await ctx.gather(await ctx.start_many(double, ((each,) for each in range(count)))))


@workflow
async def completing(ctx: PyWorkflow, count: int) -> int:
    children = [await ctx.start(double, each) for each in range(count)]
    return sum([await each async for each in ctx.as_completed(*children)])


async def test_several_workers_wake_each_parent(dsn, schema, admin, sql):
    """Children of many parents end in the workers of several executors at once; no end is missed."""
    async with no_hang(), AsyncExitStack() as stack:
        for _ in range(3):
            own = await stack.enter_async_context(Admin(dsn, schema))
            await stack.enter_async_context(Worker(own, [gathering, completing, double], concurrency=20))
        handles = [await admin.enqueue(gathering, each) for each in range(1, 30)]
        others = [await admin.enqueue(completing, each) for each in range(1, 8)]
        for count, handle in [*enumerate(handles, 1), *enumerate(others, 1)]:
            assert await handle.result() == count * (count - 1)
        await until(is_quiet, sql)
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_waits") == 0
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_messages WHERE address LIKE 'c/%'") == 0


async def test_parent_and_child_may_have_workers_of_their_own(dsn, schema, admin):
    """The worker of the children wakes the parent, whose queue and function it does not have."""

    @workflow
    async def parent(ctx: PyWorkflow) -> int:
        return await (await ctx.options(queue="kids").start(double, 4))

    kids = Admin(dsn, schema)
    async with no_hang(), kids, Worker(admin, [parent]), Worker(kids, [double], queues=["kids"]):
        assert await (await admin.enqueue(parent)).result() == 8


async def test_running_children_elsewhere_are_cancelled(admin, sql, program, tmp_path):
    @workflow
    async def parent(ctx: PyWorkflow) -> None:
        await ctx.start(child, str(tmp_path / "go on"))
        await ctx.receive("never")

    process = program(FAMILY, "child")
    async with no_hang(), Worker(admin, [parent]):
        handle = await admin.enqueue(parent)
        assert await line_of(process.stdout, "child")
        await handle.cancel()
        # Its step goes on; then the run ends.
        await until(lambda: _asked(sql, handle.id))
        (tmp_path / "go on").touch()
        await until(lambda: _all_ended(sql, handle.id))
    assert await statuses_of(sql, handle.id) == ["CANCELLED"]


async def _asked(sql, parent_id):
    return [each["cancel_interrupts"] for each in await children_of(sql, parent_id)] == [False]


@pytest.mark.slow
@pytest.mark.without_replay("it counts the runs of the parent")
async def test_parent_of_100000_wakes_twice_in_flat_memory(admin, sql):
    sizes = []

    @workflow
    async def large(ctx: PyWorkflow, count: int) -> int:
        tracemalloc.start()
        try:
            many = await ctx.start_many(double, ((each,) for each in range(count)))
            sizes.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        total = 0
        async for each in many.results():
            total += each
        return total

    async with Worker(admin, [large, double], concurrency=500):
        for count in (1000, 100_000):
            handle = await admin.enqueue(large, count)
            assert await handle.result(timeout=1200) == count * (count - 1)
            assert (await row_of(sql, handle.id))["epoch"] <= 3
            assert len(await handle.steps()) < 10
    small, big = sizes[0], max(sizes[1:])
    assert big < 20 * small, sizes
