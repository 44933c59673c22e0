"""Children of workflows: what starts them, what awaits them, and what becomes of them when their parent ends."""

from __future__ import annotations

import asyncio
import base64
import json
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import pairwise

import pytest
from pydantic import BaseModel

from pgqrs import (
    Admin,
    ConfigurationError,
    DatabaseUnavailableError,
    InvalidNameError,
    PyWorkflow,
    Sleep,
    StepFailedError,
    Worker,
    WorkflowCancelledError,
    WorkflowFinishedError,
    WorkflowTimeoutError,
    step,
    workflow,
)
from pgqrs.codecs import FernetCodec, PydanticCodec
from pgqrs.storage.reader import StoreReader
from pgqrs.testing import crash_everywhere, run_enqueued
from pgqrs.workflow import children as awaiting
from tests.support.families import NegativeError, children_of, double, is_quiet, is_waiting, nap, statuses_of
from tests.support.recorded import is_replay, row_of
from tests.support.waiting import no_hang, until
from tests.support.workflows import Gate, note

pytest_plugins = ("pytest_pgqrs",)

KEY = base64.urlsafe_b64encode(b"k" * 32)
FAR = "a queue without a worker"


@pytest.fixture(params=["parked", "in memory"])
def result(request, admin):
    """Run a parent to its end, and return its result: a worker parks it, or it waits in the memory of the test."""

    async def of(parent, *args):
        async with no_hang(), Worker(admin, [parent, double, nap]):
            if request.param == "parked":
                return await (await admin.enqueue(parent, *args)).result()
            return await admin.run(parent, *args)

    return of


async def parent_of(sql):
    """Return the row of the oldest workflow, which is the parent in the tests below."""
    return await sql.fetchrow("SELECT * FROM pgqrs_workflows ORDER BY id LIMIT 1")


async def ended(handle):
    return await handle.status() in {"SUCCESS", "ERROR", "CANCELLED"}


# --- start, and await ---


@workflow
async def of_one(ctx: PyWorkflow, number: int) -> list:
    """Await one child twice."""
    child = await ctx.start(double, number)
    return [child.id, await child, await child]


async def test_child_is_awaited_twice(result, sql):
    child_id, *values = await result(of_one, 4)
    assert values == [8, 8]
    parent = await parent_of(sql)
    (child,) = await children_of(sql, parent["id"])
    assert (child["id"], child["parent_step"], child["place"]) == (child_id, "start/double:1", 0)
    assert (child["queue"], child["status"], child["epoch"]) == ("default", "SUCCESS", 1)


async def test_steps_of_a_parent_are_readable(admin):
    async with no_hang(), Worker(admin, [of_one, double]):
        handle = await admin.enqueue(of_one, 4)
        child_id, *_ = await handle.result()
    started, awaited = await handle.steps()
    assert (started.step_id, started.status, started.output[0]) == ("start/double:1", "SUCCESS", child_id)
    assert awaited.step_id == "result/start/double:1"
    assert awaited.output == {"id": child_id, "status": "SUCCESS", "value": 8}
    assert [each.parent_id for each in await admin.list_workflows()] == [handle.id, None]


async def test_large_results_of_many_are_read_in_pages(admin, sql):
    """Children with outputs of a megabyte do not fill the memory."""
    ctx = await admin.create_workflow("parent")
    await ctx.start()
    many = await ctx.options(queue=FAR).start_many(double, [(each,) for each in range(24)])
    await sql.execute("""
        UPDATE pgqrs_workflows SET status = 'SUCCESS', ready_at = NULL, completed_at = now(), output =
            to_json(place || (SELECT string_agg(md5(place || ' ' || n), '') FROM generate_series(1, 32768) AS n))
        WHERE parent_id IS NOT NULL
    """)
    places = []
    tracemalloc.start()
    try:
        async for text in many.results():
            assert len(str(text)) > 1_000_000
            places.append(str(text)[: -32 * 32768])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert places == [str(each) for each in range(24)]
    assert peak < 20_000_000


runs: list[list[int]] = []


@workflow
async def crashing(ctx: PyWorkflow) -> list:
    """Start children, and fail with an exit the first time, after the starts."""
    children = [await ctx.start(double, each) for each in range(3)]
    many = await ctx.start_many(double, [(each,) for each in range(3, 6)])
    runs.append([each.id for each in children])
    if len(runs) == 1:
        raise SystemExit(3)
    return await ctx.gather(*children, many)


@pytest.mark.without_replay("it counts the runs of the function")
async def test_run_after_a_crash_finds_the_children_again(admin, sql):
    runs.clear()
    async with no_hang(), Worker(admin, [crashing, double]):
        handle = await admin.enqueue(crashing)
        assert await handle.result() == [0, 2, 4, 6, 8, 10]
    assert len(runs) >= 2
    assert all(one == other for one, other in pairwise(runs))
    assert await statuses_of(sql, handle.id) == ["SUCCESS"] * 6


@workflow
async def branching(ctx: PyWorkflow, delays: list) -> list:
    """Start a child in each of several tasks, which come to it in another order at each run."""

    async def branch(number: int) -> int:
        if number == 0:
            await note(ctx, "a step before")
        return await (await ctx.options(id=f"branch {number}").start(double, number))

    return await asyncio.gather(*(branch(each) for each in delays))


async def test_children_of_concurrent_tasks_are_told_apart_by_ids(result, sql):
    assert await result(branching, [0, 1, 2]) == [0, 2, 4]
    parent = await parent_of(sql)
    found = {
        each["parent_step"]: json.loads(each["input"])["args"] for each in await children_of(sql, parent["id"])
    }
    assert found == {f"start/branch {each}": [each] for each in range(3)}


async def test_child_is_in_the_queue_of_its_parent(admin, sql):
    async with no_hang(), Worker(admin, [of_one, double], queues=["mail"]):
        handle = await admin.options(queue="mail").enqueue(of_one, 1)
        await handle.result()
    assert [each["queue"] for each in await children_of(sql, handle.id)] == ["mail"]


@workflow
async def with_options(ctx: PyWorkflow) -> None:
    await ctx.options(queue=FAR, priority=7, delay=1000, timeout=50).start(double, 1)
    await ctx.options(queue=FAR, on_end="abandon", id="mine").start_many(double, [(1,), (2,)])


@pytest.mark.without_replay("the replay of the body comes before the announcement")
async def test_children_are_announced_to_the_workers_of_their_queue(admin):
    @workflow
    async def parent(ctx: PyWorkflow) -> list[int]:
        keyed = await ctx.options(queue=FAR, on_end="abandon", key="k").start(double, 1)
        return [keyed.id, (await ctx.options(queue=FAR, on_end="abandon").start(double, 2)).id]

    heard = []
    (await admin.store()).arrivals.on_ready(lambda *told: heard.append(told))
    ids = await admin.run(parent)
    assert heard == [(FAR, each) for each in ids]


@pytest.mark.without_replay("the replay of the body comes before the announcement")
async def test_start_and_end_of_a_family_are_announced(admin):
    store, ready, sent = await admin.store(), [], []
    store.arrivals.on_ready(lambda *heard: ready.append(heard))
    store.arrivals.on_sent(lambda: sent.append(len(ready)))

    @workflow
    async def parent(ctx: PyWorkflow) -> int:
        return (await ctx.options(queue="kids", on_end="abandon").start(double, 1)).id

    child_id = await admin.run(parent)
    assert ready[0] == ("kids", child_id)
    assert sent == [len(ready)]


async def test_options_of_children_are_recorded(admin, sql):
    await admin.run(with_options)
    parent = await parent_of(sql)
    one, *others = await children_of(sql, parent["id"])
    assert (one["queue"], one["priority"], one["timeout"], one["ends_with_parent"]) == (FAR, 7, 50, True)
    assert 990 < (one["due_at"] - one["created_at"]).total_seconds() < 1001
    assert one["ready_at"] is None
    assert [(each["parent_step"], each["place"], each["ends_with_parent"]) for each in others] == [
        ("start/mine", 0, False),
        ("start/mine", 1, False),
    ]
    assert all(each["ready_at"] is not None for each in others)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"on_end": "keep"}, ConfigurationError),
        ({"priority": 2**63}, ConfigurationError),
        ({"delay": -1}, ConfigurationError),
        ({"timeout": 0}, ConfigurationError),
        ({"queue": ""}, InvalidNameError),
        ({"id": ""}, InvalidNameError),
    ],
)
async def test_bad_options_are_refused_before_a_child_starts(admin, sql, options, error):
    @workflow
    async def bad(ctx: PyWorkflow) -> None:
        await ctx.options(**options).start(double, 1)

    with pytest.raises(error):
        await admin.run(bad)
    assert await children_of(sql, (await parent_of(sql))["id"]) == []


async def test_arguments_are_checked_before_a_child_starts(admin, sql):
    async def plain(ctx: PyWorkflow) -> None: ...

    @workflow
    async def bad(ctx: PyWorkflow) -> None:
        for start in (ctx.start(double), ctx.start(double, 1, 2), ctx.start(plain), ctx.call(double, b=1)):
            with pytest.raises(TypeError):
                await start

    await admin.run(bad)
    assert await children_of(sql, (await parent_of(sql))["id"]) == []


# --- the error of a child ---


@workflow
async def uncaught(ctx: PyWorkflow) -> None:
    await (await ctx.start(double, -1))


@workflow
async def caught(ctx: PyWorkflow) -> str:
    child = await ctx.start(double, -1)
    for _ in range(2):
        with pytest.raises(NegativeError, match="-1 is negative") as raised:
            await child
        assert isinstance(raised.value, StepFailedError)
    return str(await child.status())


async def test_error_of_a_child_keeps_its_class_and_is_caught(result):
    assert await result(caught) == "ERROR"


async def test_uncaught_error_of_a_child_ends_the_parent(result, sql):
    with pytest.raises(NegativeError, match="-1 is negative") as raised:
        await result(uncaught)
    assert is_replay(raised.value, NegativeError)
    assert (await parent_of(sql))["status"] == "ERROR"


@workflow
async def of_cancelled(ctx: PyWorkflow) -> str:
    child = await ctx.start(nap)
    await child.cancel()
    await child.cancel()
    with pytest.raises(WorkflowCancelledError):
        await child
    return str(await child.status())


async def test_cancelled_child_raises_in_the_parent(result):
    assert await result(of_cancelled) == "CANCELLED"


@workflow
async def cancelling_late(ctx: PyWorkflow) -> str:
    child = await ctx.start(double, 1)
    await child
    with pytest.raises(WorkflowFinishedError):
        await child.cancel()
    return str(await child.status())


async def test_child_that_has_ended_is_not_cancelled(result):
    assert await result(cancelling_late) == "SUCCESS"


async def test_child_cancelled_by_hand_ends_its_parent(admin, sql):
    @workflow
    async def waiting(ctx: PyWorkflow) -> str:
        return await (await ctx.start(nap))

    async with no_hang(), Worker(admin, [waiting, nap]):
        handle = await admin.enqueue(waiting)
        await until(is_waiting, sql, handle.id)
        (child,) = await children_of(sql, handle.id)
        await admin.cancel_workflow(child["id"])
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
    # The error is the child's, so the parent has failed with it: it was not cancelled itself.
    assert await handle.status() == "ERROR"


# --- start_many, and gather ---


@workflow
async def of_many(ctx: PyWorkflow, count: int) -> list:
    many = await ctx.start_many(double, ((each,) for each in range(count)))
    assert len(many) == count
    return await ctx.gather(many)


@pytest.mark.parametrize("count", [0, 1, 2500])
async def test_start_many_starts_one_child_for_each_input(admin, sql, count):
    async with no_hang(), Worker(admin, [of_many, double], concurrency=200):
        handle = await admin.enqueue(of_many, count)
        assert await handle.result() == [2 * each for each in range(count)]
    rows = await children_of(sql, handle.id)
    assert sorted(each["place"] for each in rows) == list(range(count))
    assert all(json.loads(each["input"])["args"] == [each["place"]] for each in rows)
    assert [each.step_id for each in await handle.steps()] == [
        "start_many/double:1",
        *(["result/start_many/double:1"] if count else []),
    ]


@pytest.mark.parametrize("bad", [5, [5], (5, 6), ()])
async def test_bad_input_in_the_middle_is_refused_and_repaired(admin, sql, bad):
    inputs = [(each,) for each in range(1500)]

    @workflow
    async def repaired(ctx: PyWorkflow) -> int:
        return len(await ctx.options(queue=FAR, on_end="abandon").start_many(double, inputs))

    inputs[1200] = bad
    handle = await admin.enqueue(repaired)
    async with no_hang(), Worker(admin, [repaired]):
        with pytest.raises(TypeError):
            await handle.result()
        before = await children_of(sql, handle.id)
        inputs[1200] = (1200,)
        await admin.resume_workflow(handle.id)
        assert await handle.result() == 1500
    rows = await children_of(sql, handle.id)
    # The children that were there are the same ones, and each input has one.
    assert len(before) == 1100
    assert [each["id"] for each in rows][:1100] == [each["id"] for each in before]
    assert sorted(json.loads(each["input"])["args"][0] for each in rows) == list(range(1500))


@workflow
async def gathering(ctx: PyWorkflow, numbers: list, return_exceptions: bool) -> list:
    children = [await ctx.start(double, each) for each in numbers]
    many = await ctx.start_many(double, [(each,) for each in numbers])
    results = await ctx.gather(*children, many, return_exceptions=return_exceptions)
    return [str(each) if isinstance(each, NegativeError) else each for each in results]


async def test_gather_returns_results_and_errors_by_position(result):
    expected = [2, "-1 is negative", 4, "-2 is negative"]
    assert await result(gathering, [1, -1, 2, -2], True) == 2 * expected


@pytest.mark.parametrize(("numbers", "first"), [([1, -2, -1], -2), ([-1, 1, -2], -1)])
async def test_gather_raises_the_first_error_by_position(admin, sql, numbers, first):
    async with no_hang(), Worker(admin, [gathering, double]):
        handle = await admin.enqueue(gathering, numbers, False)
        with pytest.raises(NegativeError, match=f"{first} is negative"):
            await handle.result()
    # It has waited for all, and cancelled none.
    assert sorted(await statuses_of(sql, handle.id)) == ["ERROR"] * 4 + ["SUCCESS"] * 2


async def test_gather_returns_the_timeout_of_a_child(result):
    @workflow
    async def impatient(ctx: PyWorkflow) -> str:
        child = await ctx.options(timeout=0.2).start(nap)
        (error,) = await ctx.gather(child, return_exceptions=True)
        assert isinstance(error, WorkflowTimeoutError)
        return str(await child.status())

    assert await result(impatient) == "ERROR"


@pytest.mark.parametrize("way", ["gather", "group"])
async def test_error_of_the_parents_run_is_not_its_childs(admin, sql, monkeypatch, way):
    """A parent that has lost its connection has learned nothing of its child, and neither returns nor ends it."""

    async def lost(*_: object) -> None:
        raise DatabaseUnavailableError("the connection is lost")

    @workflow
    async def parent(ctx: PyWorkflow) -> object:
        if way == "gather":
            child = await ctx.start(nap)
            monkeypatch.setattr(awaiting, "wait_for_children", lost)
            return await ctx.gather(child, return_exceptions=True)
        async with ctx.children(on_end="abandon") as group:
            await group.start(nap)
            monkeypatch.setattr(awaiting, "as_completed", completed_and_lost)
        return None

    async def completed_and_lost(_: object, children: list) -> AsyncIterator:
        monkeypatch.setattr(awaiting, "wait_for_children", lost)
        for each in children:
            yield each

    with pytest.raises(DatabaseUnavailableError, match="the connection is lost"):
        await admin.run(parent)
    assert await statuses_of(sql, (await parent_of(sql))["id"]) == ["PENDING"]


async def test_results_of_many_come_one_by_one(result):
    @workflow
    async def paged(ctx: PyWorkflow) -> list:
        many = await ctx.start_many(double, [(1,), (-1,), (2,)])
        return [str(each) async for each in many.results()]

    assert await result(paged) == ["2", "-1 is negative", "4"]


async def test_results_left_early_leave_no_read_behind(result, monkeypatch):
    monkeypatch.setattr(awaiting, "MAX_READ", 1)

    @workflow
    async def impatient(ctx: PyWorkflow) -> list:
        many = await ctx.start_many(double, [(each,) for each in range(5)])
        tasks = asyncio.all_tasks()
        async with aclosing(many.results()) as results:
            first = [await anext(results), await anext(results)]
        return [*first, len(asyncio.all_tasks() - tasks)]

    assert await result(impatient) == [0, 2, 0]


@pytest.mark.without_replay("it counts the runs of the parent")
async def test_parent_of_5000_wakes_twice_and_has_few_steps(admin, sql):
    @workflow
    async def large(ctx: PyWorkflow) -> int:
        return sum(await ctx.gather(await ctx.start_many(double, ((each,) for each in range(5000)))))

    async with no_hang(), Worker(admin, [large, double], concurrency=500):
        handle = await admin.enqueue(large)
        assert await handle.result() == 5000 * 4999
    assert (await row_of(sql, handle.id))["epoch"] <= 3
    assert len(await handle.steps()) < 10


# --- as_completed, select, map ---


@workflow
async def ordered(ctx: PyWorkflow, numbers: list) -> list:
    order = []
    children = [await ctx.options(queue=FAR).start(double, each) for each in numbers]
    async for child in ctx.as_completed(*children):
        order.append([child.id, await child])
        await note(ctx, f"step {len(order)}")
    orders.append(order)
    await ctx.receive("go on")
    return order


orders: list[list] = []


async def test_order_of_as_completed_is_recorded(admin, sql):
    orders.clear()
    handle = await admin.enqueue(ordered, [1, 2, 3])
    async with no_hang(), Worker(admin, [ordered]):
        await until(is_waiting, sql, handle.id)
        for place, number in enumerate(
            (3, 1, 2), 1
        ):  # each ends when the parent waits, in an order that no run would choose
            (child,) = [
                each for each in await children_of(sql, handle.id) if json.loads(each["input"])["args"] == [number]
            ]
            await sql.execute("UPDATE pgqrs_workflows SET queue = $1 WHERE id = $2", f"q{number}", child["id"])
            async with Worker(admin, [double], queues=[f"q{number}"]):
                await until(_has_step, sql, handle.id, f"as_completed/:{place}")
        await until(lambda: orders)
        await handle.send("go on", None)
        order = await handle.result()
    assert [value for _, value in order] == [6, 2, 4]
    assert all(each == order for each in orders)
    assert len(orders) > 1


async def _has_step(sql, workflow_id, step_id):
    return await sql.fetchval(
        "SELECT count(*) FROM pgqrs_workflow_steps WHERE workflow_id = $1 AND step_id = $2 AND status = 'SUCCESS'",
        workflow_id,
        step_id,
    )


async def test_as_completed_yields_each_child_once(result):
    @workflow
    async def all_of(ctx: PyWorkflow) -> list:
        children = [await ctx.start(double, each) for each in (1, -1, 2)]
        seen = []
        async for child in ctx.as_completed(*children, children[0]):
            try:
                seen.append(await child)
            except NegativeError:
                seen.append(-1)
        assert [each async for each in ctx.as_completed()] == []
        return sorted(seen)

    assert await result(all_of) == [-1, 2, 4]


@workflow
async def selecting(ctx: PyWorkflow, number: int | None, delay: float) -> list:
    child = await (ctx.start(nap) if number is None else ctx.start(double, number))
    return list(await ctx.select(done=child, late=Sleep(delay)))


@pytest.mark.parametrize(
    ("number", "delay", "expected"),
    [(3, 1000, ["done", 6]), (None, 0.3, ["late", None]), (None, 1.2, ["late", None])],
)
async def test_select_waits_for_a_child_or_a_time(result, number, delay, expected):
    assert await result(selecting, number, delay) == expected


async def test_select_raises_the_error_of_the_child_that_won(result):
    with pytest.raises(NegativeError):
        await result(selecting, -1, 1000)


@workflow
async def mapping(ctx: PyWorkflow, count: int, at_once: int) -> list:
    return await ctx.map(double, ((each,) for each in range(count)), at_once=at_once)


async def test_map_reads_each_result_once_whatever_it_replays(result, monkeypatch):
    reads = []
    read = StoreReader.child_results

    async def counted(reader, *args, **kwargs):
        reads.append(args)
        return await read(reader, *args, **kwargs)

    monkeypatch.setattr(StoreReader, "child_results", counted)
    assert await result(mapping, 8, 1) == [2 * each for each in range(8)]
    assert len(reads) == 8


async def test_as_completed_forms_few_addresses_of_each_child(result, monkeypatch):
    """A look at all children for each that ends makes a replay of many very long."""
    formed = []
    address = awaiting.children_address

    def counted(*args):
        formed.append(args)
        return address(*args)

    monkeypatch.setattr(awaiting, "children_address", counted)

    @workflow
    async def parent(ctx: PyWorkflow) -> int:
        children = [await ctx.start(double, each) for each in range(40)]
        formed.clear()  # of the last run
        return sum([await child async for child in ctx.as_completed(*children)])

    assert await result(parent) == sum(range(0, 80, 2))
    assert len(formed) <= 3 * 40


@pytest.mark.parametrize(("count", "at_once"), [(0, 3), (3, 3), (7, 3), (3, 100)])
async def test_map_returns_the_results_in_order(admin, sql, count, at_once):
    async with no_hang(), Worker(admin, [mapping, double]):
        handle = await admin.enqueue(mapping, count, at_once)
        assert await handle.result() == [2 * each for each in range(count)]
    portions = [each["place"] for each in await children_of(sql, handle.id)]
    assert max(portions, default=0) == max(0, min(count, at_once) - 1)


async def test_map_refuses_to_run_none_at_once(admin):
    with pytest.raises(ConfigurationError):
        await admin.run(mapping, 3, 0)


# --- groups ---


@workflow
async def grouping(ctx: PyWorkflow, numbers: list, *, is_broken: bool = False) -> list:
    try:
        async with ctx.children() as group:
            for each in numbers:
                await (group.start(nap) if each is None else group.start(double, each))
            if is_broken:
                raise LookupError("the block is broken")
    except ExceptionGroup as failed:
        return [f"{type(each).__mro__[1].__name__}: {each}" for each in failed.exceptions]
    return group.results


@pytest.mark.parametrize(
    ("numbers", "statuses"),
    [([], []), ([1, 2, 3], ["SUCCESS"] * 3)],
)
async def test_group_has_the_results_in_order(result, sql, numbers, statuses):
    assert await result(grouping, numbers) == [2 * each for each in numbers]
    assert await statuses_of(sql, (await parent_of(sql))["id"]) == statuses


async def test_failure_cancels_the_rest_of_a_group(result, sql):
    (error,) = await result(grouping, [None, -1, None])
    assert error.endswith("-1 is negative")
    assert await statuses_of(sql, (await parent_of(sql))["id"]) == ["CANCELLED", "ERROR", "CANCELLED"]


async def test_child_cancelled_by_hand_fails_its_group_at_the_end(admin, sql):
    async with no_hang(), Worker(admin, [grouping, nap]), Worker(admin, [double], queues=["late"]):
        handle = await admin.enqueue(grouping, [None, 1])
        await until(is_waiting, sql, handle.id)
        first, second = await children_of(sql, handle.id)
        await admin.cancel_workflow(first["id"])
        await until(is_waiting, sql, handle.id)
        await sql.execute("UPDATE pgqrs_workflows SET queue = 'late' WHERE id = $1", second["id"])
        assert await handle.result() == [f"WorkflowError: {WorkflowCancelledError(first['id'])}"]
    assert await statuses_of(sql, handle.id) == ["CANCELLED", "SUCCESS"]


async def test_failure_after_a_cancelled_child_cancels_the_group(admin, sql):
    async with no_hang(), Worker(admin, [grouping, nap]), Worker(admin, [double], queues=["late"]):
        handle = await admin.enqueue(grouping, [None, -1, None])
        await until(is_waiting, sql, handle.id)
        first, second, _ = await children_of(sql, handle.id)
        await admin.cancel_workflow(first["id"])
        await until(_has_step, sql, handle.id, "as_completed/:1")
        await sql.execute("UPDATE pgqrs_workflows SET queue = 'late' WHERE id = $1", second["id"])
        (error,) = await handle.result()
    assert error.endswith("-1 is negative")
    assert await statuses_of(sql, handle.id) == ["CANCELLED", "ERROR", "CANCELLED"]


async def test_failure_by_a_cancelled_grandchild_cancels_the_group(admin, sql):
    """The child has failed with the error of its own child, so it was not cancelled itself."""

    @workflow
    async def family_of_two(ctx: PyWorkflow) -> str:
        try:
            async with ctx.children() as group:
                await group.start(nap)
                await group.start(of_a_cancelled_child)
        except ExceptionGroup as failed:
            return str(len(failed.exceptions))
        return "no failure"

    async with no_hang(), Worker(admin, [family_of_two, of_a_cancelled_child, nap]):
        handle = await admin.enqueue(family_of_two)
        assert await handle.result() == "1"
    assert await statuses_of(sql, handle.id) == ["CANCELLED", "ERROR"]


@workflow
async def of_a_cancelled_child(ctx: PyWorkflow) -> None:
    child = await ctx.start(nap)
    await child.cancel()
    await child


async def test_group_raises_the_errors_of_all_children(result):
    first, second = sorted(await result(grouping, [-2, -1]))
    assert (first[-14:], second[-14:]) == ("-1 is negative", "-2 is negative")


@pytest.mark.parametrize("numbers", [[], [None], [None, None]])
async def test_broken_block_ends_its_children(admin, sql, numbers):
    @workflow
    async def broken(ctx: PyWorkflow) -> list:
        return await grouping.__wrapped__(ctx, numbers, is_broken=True)

    async with no_hang(), Worker(admin, [broken, nap]):
        handle = await admin.enqueue(broken)
        (error,) = await handle.result()
    assert error.endswith("the block is broken")
    assert await statuses_of(sql, handle.id) == ["CANCELLED"] * len(numbers)


# --- the end of the parent ---

gates: dict[str, Gate] = {}


@workflow
async def held(ctx: PyWorkflow) -> str:
    """Wait in a step until the test lets it go on, and execute another step."""
    await gates["child"].step("hold")(ctx)
    return await note(ctx, "after the gate")


@workflow
async def family(ctx: PyWorkflow, way: str) -> None:
    """Start children that wait, that run and that are queued, two of each kind; then end in a way."""
    for on_end in ("cancel", "abandon"):
        options = ctx.options(on_end=on_end)
        await options.start(nap)
        await options.start(held)
        await ctx.options(on_end=on_end, queue=FAR).start(double, 1)
    await gates["parent"].step("gate")(ctx)
    if way == "error":
        raise LookupError("it has failed")
    if way in {"cancelled while waiting", "deadline while parked"}:
        await ctx.receive("never")
    if way in {"cancelled while running", "timeout while running"}:
        await gates["end"].step("end")(ctx)
        await note(ctx, "after the end")


WAYS = {
    "success": "SUCCESS",
    "error": "ERROR",
    "cancelled while running": "CANCELLED",
    "cancelled while waiting": "CANCELLED",
    "timeout while running": "ERROR",
    "deadline while parked": "ERROR",
}


@pytest.mark.parametrize("way", WAYS)
async def test_end_of_a_parent_ends_its_children(admin, sql, way):
    gates.update(parent=Gate(), child=Gate(), end=Gate())
    if way == "timeout while running":
        gates["parent"].open()
    # The children have the deadline of their parent: a parent in time must not have one that is too early for them.
    timeout = 3600 if way.startswith(("timeout", "deadline")) else None
    async with no_hang(), Worker(admin, [family, nap, held]):
        handle = await admin.options(timeout=timeout).enqueue(family, way)
        both = [["WAITING", "RUNNING", "PENDING"]] * 2
        await until(lambda: _are(sql, handle.id, *both))
        gates["parent"].open()
        if way == "cancelled while running":
            await gates["end"].reached.wait()
            await handle.cancel(interrupt=True)
        elif way == "cancelled while waiting":
            await until(is_waiting, sql, handle.id)
            await handle.cancel()
        elif way == "timeout while running":
            await gates["end"].reached.wait()
            await sql.execute("UPDATE pgqrs_workflows SET deadline = now() WHERE id = $1", handle.id)
        elif way == "deadline while parked":
            await until(is_waiting, sql, handle.id)
            await sql.execute("UPDATE pgqrs_workflows SET deadline = now() WHERE id = $1", handle.id)
        assert await until(lambda: _end_of(handle)) == WAYS[way]
        await until(lambda: _are(sql, handle.id, ["CANCELLED", "RUNNING", "CANCELLED"], both[0]))
        await until(is_quiet, sql)
        # The one that runs is asked to stop, as by `cancel`: its step goes on to its outcome.
        running = [each for each in await children_of(sql, handle.id) if each["status"] == "RUNNING"]
        assert [each["cancel_interrupts"] for each in running] == [False, None]
        gates["child"].open()
        gates["end"].open()  # the worker would wait for the step of the run that has timed out
        await until(lambda: _are(sql, handle.id, ["CANCELLED"] * 3, ["WAITING", "SUCCESS", "PENDING"]))


async def _are(sql, parent_id, *statuses):
    return await statuses_of(sql, parent_id) == [each for some in statuses for each in some]


async def _end_of(handle):
    return str(await handle.status()) if await ended(handle) else None


async def test_children_of_a_parent_in_memory_end_with_it(admin, sql):
    gates.update(parent=Gate(), child=Gate())
    gates["parent"].open()
    async with no_hang(), Worker(admin, [nap, held]):
        await admin.run(family, "success")
        parent = await parent_of(sql)
        gates["child"].open()
        await until(lambda: _has_no_live(sql, parent["id"]))


async def _has_no_live(sql, parent_id):
    rows = await children_of(sql, parent_id)
    return all(each["completed_at"] for each in rows if each["ends_with_parent"])


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_resumed_parent_has_its_children_again(admin, sql, is_cancelled):
    """A parent that is resumed finds its children: the cancelled ones, and the results that it has recorded."""
    fails = [True]

    @workflow
    async def parent(ctx: PyWorkflow) -> list:
        done = await ctx.start(double, 1)
        value = await done
        child = await ctx.options(on_end="cancel" if is_cancelled else "abandon").start(nap)
        if fails:
            raise LookupError("the first time")
        try:
            return [value, await ctx.select(done=child, late=Sleep(0.2))]
        except WorkflowCancelledError:
            return [value, "cancelled"]

    async with no_hang(), Worker(admin, [parent, double, nap]):
        handle = await admin.enqueue(parent)
        with pytest.raises(LookupError):
            await handle.result()
        await until(lambda: _are(sql, handle.id, ["SUCCESS", "CANCELLED" if is_cancelled else "WAITING"]))
        fails.clear()
        await admin.resume_workflow(handle.id)
        assert await handle.result() == [2, "cancelled" if is_cancelled else ["late", None]]
    assert len(await children_of(sql, handle.id)) == 2


async def test_resumed_child_ends_again_and_the_parent_stays_ended(admin, sql):
    async with no_hang(), Worker(admin, [caught, double]):
        handle = await admin.enqueue(caught)
        assert await handle.result() == "ERROR"
        (child,) = await children_of(sql, handle.id)
        epoch = (await row_of(sql, handle.id))["epoch"]
        await admin.resume_workflow(child["id"])
        with pytest.raises(NegativeError):
            await admin.handle(child["id"], double).result()
        await until(is_quiet, sql)
    row = await row_of(sql, handle.id)
    assert (row["status"], row["epoch"]) == ("SUCCESS", epoch)


async def test_resumed_grandparent_is_the_end_of_no_descendant(admin, sql):
    """The grandchildren end with their parent alone."""

    @workflow
    async def middle(ctx: PyWorkflow) -> None:
        await ctx.start(nap)
        await ctx.receive("never")

    @workflow
    async def top(ctx: PyWorkflow) -> None:
        await ctx.options(on_end="abandon").start(middle)

    async with no_hang(), Worker(admin, [top, middle, nap]):
        handle = await admin.enqueue(top)
        await handle.result()
        (child,) = await until(children_of, sql, handle.id)
        await until(lambda: _are(sql, handle.id, ["WAITING"]))
        await until(lambda: _are(sql, child["id"], ["WAITING"]))
        await until(is_quiet, sql)
        assert await statuses_of(sql, handle.id) == ["WAITING"]
        await admin.cancel_workflow(child["id"])
        await until(lambda: _are(sql, child["id"], ["CANCELLED"]))


# --- deadlines ---


@workflow
async def nested(ctx: PyWorkflow, depth: int) -> int:
    if depth == 0:
        await ctx.receive("never")
    return 1 + await (await ctx.start(nested, depth - 1))


@workflow(timeout=1000)
async def limited(ctx: PyWorkflow) -> None:
    await ctx.receive("never")


@workflow
async def limiting(ctx: PyWorkflow, timeout: float | None) -> None:
    await (await ctx.options(timeout=timeout).start(limited))


async def test_deadline_of_the_grandparent_holds_for_all(admin, sql):
    async with no_hang(), Worker(admin, [nested]):
        handle = await admin.options(timeout=1.5).enqueue(nested, 2)
        with pytest.raises(WorkflowTimeoutError):
            await handle.result()
        await until(lambda: _ended_count(sql, 3))
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_workflows WHERE deadline IS NOT NULL") == 0


async def _ended_count(sql, count):
    return await sql.fetchval("SELECT count(*) FROM pgqrs_workflows WHERE completed_at IS NOT NULL") == count


@pytest.mark.parametrize(
    ("of_parent", "of_child", "expected"),
    [(None, None, 1000), (None, 50, 50), (30, None, 30), (30, 50, 30), (300, 50, 50)],
)
async def test_child_has_the_earlier_deadline(admin, sql, of_parent, of_child, expected):
    async with no_hang(), Worker(admin, [limiting, limited]):
        handle = await admin.options(timeout=of_parent).enqueue(limiting, of_child)
        await until(lambda: _are(sql, handle.id, ["WAITING"]))
        (child,) = await children_of(sql, handle.id)
        assert abs((child["deadline"] - child["created_at"]).total_seconds() - expected) < 20
        await handle.cancel()


# --- concurrency ---


@workflow
async def deep(ctx: PyWorkflow, depth: int) -> int:
    return 0 if depth == 0 else 1 + await (await ctx.start(deep, depth - 1))


@workflow
async def deep_call(ctx: PyWorkflow, depth: int) -> int:
    return 0 if depth == 0 else 1 + await ctx.call(deep_call, depth - 1)


@pytest.mark.parametrize("function", [deep, deep_call])
async def test_one_slot_is_enough_for_five_generations(admin, function):
    async with no_hang(), Worker(admin, [function], concurrency=1):
        assert await (await admin.enqueue(function, 5)).result() == 5


# --- call ---


@workflow
async def calling(ctx: PyWorkflow, number: int) -> list:
    return [await ctx.call(double, number), await ctx.call(double, number + 1)]


async def test_call_runs_the_child_in_this_process(admin, sql):
    """No worker has the child's function."""
    async with no_hang(), Worker(admin, [calling]):
        handle = await admin.enqueue(calling, 1)
        assert await handle.result() == [2, 4]
    rows = await children_of(sql, handle.id)
    assert [(each["status"], each["epoch"]) for each in rows] == [("SUCCESS", 1)] * 2


async def test_call_needs_no_worker(admin, sql):
    assert await admin.run(calling, 1) == [2, 4]


async def test_error_of_a_called_child_is_raised_as_recorded(admin):
    @workflow
    async def parent(ctx: PyWorkflow) -> str:
        with pytest.raises(NegativeError) as raised:
            await ctx.call(double, -1)
        assert isinstance(raised.value, StepFailedError)
        return str(raised.value)

    async with no_hang(), Worker(admin, [parent]):
        assert "-1 is negative" in await (await admin.enqueue(parent)).result()


@pytest.mark.parametrize("is_cancelled", ["child", "parent"])
@pytest.mark.parametrize("is_parked", [True, False])
async def test_cancellation_stops_a_called_child(admin, sql, is_cancelled, is_parked):
    gates.update(child=Gate())
    child_function = nap if is_parked else held

    @workflow
    async def parent(ctx: PyWorkflow) -> str:
        try:
            return await ctx.call(child_function)
        except WorkflowCancelledError:
            return "the child is cancelled"

    async with no_hang(), Worker(admin, [parent]):
        handle = await admin.enqueue(parent)
        (child,) = await until(children_of, sql, handle.id)
        await until(lambda: _are(sql, handle.id, ["RUNNING"]))
        if not is_parked:
            await gates["child"].reached.wait()
        if is_cancelled == "parent":
            await handle.cancel()
        else:
            await admin.cancel_workflow(child["id"])
            gates["child"].open()
        end = await until(lambda: _end_of(handle))
        assert end == ("CANCELLED" if is_cancelled == "parent" else "SUCCESS")
        await until(lambda: _are(sql, handle.id, ["CANCELLED"]))


@workflow
async def reader(ctx: PyWorkflow, number: int) -> int:
    return number * await ctx.receive("factor")


@workflow
async def asking(ctx: PyWorkflow, numbers: list[int]) -> list[int]:
    """Call children beside each other, each of which calls another one."""
    return await asyncio.gather(*(ctx.call(reader_behind, each) for each in numbers))


@workflow
async def reader_behind(ctx: PyWorkflow, number: int) -> int:
    return await ctx.call(reader, number) + 1


async def test_called_child_that_waits_frees_the_place(admin, sql):
    async with no_hang(), Worker(admin, [asking, reader, reader_behind, double], concurrency=1):
        handle = await admin.enqueue(asking, [1, 2])
        await until(lambda: _all_wait(sql, 5))
        assert await (await admin.enqueue(double, 4)).result() == 8
        for each in await admin.list_workflows(name="reader"):
            await admin.send(each.id, "factor", 10)
        assert await handle.result() == [11, 21]


async def _all_wait(sql, number):
    found = await sql.fetch("SELECT status FROM pgqrs_workflows")
    return len(found) == number and {status for (status,) in found} == {"WAITING"}


async def test_called_child_that_no_worker_claims_waits_in_place(admin, sql):
    async with no_hang(), Worker(admin, [asking, reader_behind]):
        handle = await admin.enqueue(asking, [1])
        (child,) = await until(lambda: sql.fetch("SELECT id FROM pgqrs_workflows WHERE name = 'reader'"))
        await admin.send(child["id"], "factor", 10)
        assert await handle.result() == [11]
    assert await sql.fetchval("SELECT max(epoch) FROM pgqrs_workflows") == 1


async def test_kit_leaves_a_called_child_waiting(kit, clock):
    handle = await kit.enqueue(asking, [1])
    async with no_hang():
        assert await run_enqueued(kit, [asking, reader, reader_behind]) == 1
        assert await handle.status() == "WAITING"
        (child,) = await kit.list_workflows(name="reader")
        await kit.send(child.id, "factor", 10)
        await run_enqueued(kit, [asking, reader, reader_behind])
        assert await handle.result() == [11]


async def test_drain_hands_over_a_parent_and_its_called_child(admin, dsn, schema, sql):
    gates.update(child=Gate())

    @workflow
    async def parent(ctx: PyWorkflow) -> str:
        return await ctx.call(held)

    async with no_hang(), Admin(dsn, schema) as other:
        async with Worker(other, [parent, held], grace=0.1):
            handle = await admin.enqueue(parent)
            await gates["child"].reached.wait()
        gates["child"].open()
        async with Worker(admin, [parent, held]):
            assert await handle.result() == "after the gate"
    assert await statuses_of(sql, handle.id) == ["SUCCESS"]


# --- codecs, and the test kit ---


class Bill(BaseModel):
    number: int
    notes: tuple[str, ...] = ()


@step
async def billed(ctx: PyWorkflow, bill: Bill) -> Bill:
    return Bill(number=bill.number + 1, notes=(*bill.notes, "billed"))


@workflow
async def bill_one(ctx: PyWorkflow, bill: Bill) -> Bill:
    if bill.number < 0:
        raise NegativeError(f"{bill.number} is negative")
    return await billed(ctx, bill)


@workflow
async def bill_all(ctx: PyWorkflow, bills: list[Bill]) -> list[Bill]:
    """Await children in each way, and a failure."""
    one = await ctx.start(bill_one, bills[0])
    found = [await one, await ctx.call(bill_one, bills[0])]
    found += await ctx.gather(await ctx.start_many(bill_one, [(each,) for each in bills]))
    found += await ctx.gather(await ctx.start_many(bill_one, [(bills[0],)]))
    found.append((await ctx.select(done=await ctx.start(bill_one, bills[0]), late=Sleep(1000)))[1])
    async for each in ctx.as_completed(await ctx.start(bill_one, bills[1])):
        found.append(await each)
    with pytest.raises(NegativeError, match="-5 is negative"):
        await (await ctx.start(bill_one, Bill(number=-5)))
    assert all(isinstance(each, Bill) for each in found)
    return found


@pytest.mark.parametrize("codec", [PydanticCodec(), FernetCodec([KEY], PydanticCodec())], ids=["typed", "sealed"])
async def test_children_have_typed_values_under_any_codec(dsn, installed, sql, codec):
    first, second = Bill(number=1, notes=('",value":',)), Bill(number=2)
    async with no_hang(), Admin(dsn, installed, codec=codec) as own, Worker(own, [bill_all, bill_one]):
        handle = await own.enqueue(bill_all, [first, second])
        results = await handle.result()
        records = {each.step_id: each.output for each in await handle.steps()}
    one, two = Bill(number=2, notes=('",value":', "billed")), Bill(number=3, notes=("billed",))
    assert results == [one, one, one, two, one, one, two]
    assert records["start_many/bill_one:1"] == 2
    assert records["result/start_many/bill_one:1"] == {"failed": []}
    rows = await children_of(sql, handle.id)
    assert {each["codec"] for each in rows} == {codec.name}
    if isinstance(codec, FernetCodec):
        stored = [
            str(each) for each in (*rows, *await sql.fetch("SELECT output, error FROM pgqrs_workflow_steps"))
        ]
        assert not any('billed"' in each or "negative" in each for each in stored)


@workflow
async def crash_proof(ctx: PyWorkflow) -> list:
    """Start and await children in each way; they are in a queue with a worker."""
    options = ctx.options(queue="kids")
    one = await options.start(double, 1)
    many = await options.start_many(double, [(2,), (3,)])
    found = [await one, *await ctx.gather(many)]
    found += [await each async for each in ctx.as_completed(await options.start(double, 4))]
    try:
        await (await options.start(double, -1))
    except NegativeError:
        found.append("failed")
    return found


swept = pytest.mark.without_replay("each run after a crash is a replay")


@swept
async def test_parent_survives_a_crash_at_each_write(pgqrs_admin):
    async with Worker(pgqrs_admin, [double], queues=["kids"]):
        found = await crash_everywhere(crash_proof, admin=pgqrs_admin)
        records = await pgqrs_admin.list_workflows(name="double", limit=1000)
        parents = await pgqrs_admin.list_workflows(name="crash_proof", limit=1000)
    assert found == [2, 4, 6, 8, "failed"]
    # Each parent has five children, whatever crashed.
    assert len(records) == 5 * len(parents)
    await pgqrs_admin.verify(deep=True)


@workflow
async def starting_many(ctx: PyWorkflow, count: int) -> int:
    options = ctx.options(queue=FAR, on_end="abandon")
    return len(await options.start_many(double, [(each,) for each in range(count)]))


@swept
async def test_start_of_many_survives_a_crash_at_each_write(pgqrs_admin, monkeypatch):
    monkeypatch.setattr(awaiting, "MAX_STARTED", 30)
    monkeypatch.setattr(awaiting, "_FIRST_STARTED", 10)
    assert await crash_everywhere(starting_many, 45, admin=pgqrs_admin) == 45
    store = await pgqrs_admin.store()
    parents = await pgqrs_admin.list_workflows(name="starting_many", limit=1000)
    assert len(parents) > 10
    for parent in parents:
        found = []
        while page := await store.reader.child_results(parent.id, "start_many/double:1", len(found), 1000):
            found += [each.place for each in page]
        assert found == list(range(45))


@workflow
async def leaving(ctx: PyWorkflow) -> str:
    """Start a child that lives longer, and sleep."""
    await ctx.start(nap)
    await ctx.sleep(3600)
    return "done"


@swept
async def test_test_kit_ends_the_children_of_its_parents(pgqrs_admin):
    """There is no worker, and the clock skips an hour in each run: no child outlives its parent for so long."""
    assert await crash_everywhere(leaving, admin=pgqrs_admin) == "done"
    children = await pgqrs_admin.list_workflows(name="nap", limit=1000)
    assert {str(each.status) for each in children} == {"CANCELLED"}
