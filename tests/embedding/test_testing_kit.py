"""`pgqrs.testing`: a clock that is moved, crashes everywhere, and the queues without a worker."""

from __future__ import annotations

import asyncio
import enum
import re
import time
from collections import Counter
from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import text

from pgqrs import (
    Admin,
    ConfigurationError,
    NotInstalledError,
    PyWorkflow,
    RetryPolicy,
    SerializationError,
    TransientError,
    Worker,
    WorkflowNotFoundError,
    WorkflowTimeoutError,
    embedded,
    step,
    workflow,
)
from pgqrs.codecs import PydanticCodec
from pgqrs.testing import (
    TestClock,
    assert_enqueued,
    assert_not_enqueued,
    clock_of,
    crash_everywhere,
    run_enqueued,
    scratch_admin,
)
from pgqrs.testing import sql as testbed
from pgqrs.testing.schemas import SchemaPool
from tests.support.database import connected
from tests.support.waiting import no_hang, until

pytest_plugins = ("pytest_pgqrs",)

DAY = timedelta(days=1)


@pytest.fixture
async def raw(pgqrs_dsn, kit, clock):
    """A connection of an application's, which sees the time of the clock."""
    path = f'"{kit.schema}", {clock.search_path}'
    async with connected(pgqrs_dsn, search_path=path) as connection:
        yield connection


class Colour(enum.Enum):
    RED = "red"


calls = Counter()


@pytest.fixture(autouse=True)
def no_calls():
    calls.clear()


@step(key=str)
async def double(ctx: PyWorkflow, n: int) -> int:
    calls[ctx.id(), n] += 1
    return 2 * n


@workflow
async def month(ctx: PyWorkflow, n: int) -> int:
    doubled = await double(ctx, n)
    await ctx.sleep(30 * DAY)
    return await double(ctx, doubled)


@workflow
async def daily(ctx: PyWorkflow) -> int:
    total = 0
    for day in range(30):
        await ctx.sleep(DAY)
        total += await double(ctx, day)
    return total


@workflow
async def quick(ctx: PyWorkflow, n: int) -> int:
    return await double(ctx, n)


@step(retry=RetryPolicy(attempts=4, initial=3600))
async def third_time(ctx: PyWorkflow) -> str:
    calls[ctx.id()] += 1
    if calls[ctx.id()] < 3:
        raise TransientError("not yet")
    return "at last"


@workflow
async def patient(ctx: PyWorkflow) -> str:
    return await third_time(ctx)


# --- the clock ---


async def test_clock_skips_a_month_of_sleep(kit, clock):
    began = time.monotonic()
    async with clock.skipping():
        assert await kit.run(month, 1) == 4
    assert time.monotonic() - began < 5
    (record,) = await kit.list_workflows()
    assert record.completed_at - record.created_at >= 30 * DAY
    assert record.epoch == 1
    assert 29.9 * DAY < clock.ahead < 31 * DAY


async def test_clock_skips_parked_sleeps_under_a_worker(kit, clock):
    async with no_hang(), Worker(kit, [daily]), clock.skipping():
        handle = await kit.enqueue(daily)
        assert await handle.result() == 2 * sum(range(30))
    assert 29.9 * DAY < clock.ahead < 31 * DAY
    assert (await kit.list_workflows())[0].epoch > 15  # a sleep that is over before it has parked needs no claim


async def test_advance_wakes_only_due_sleeps(kit, clock):
    woken = asyncio.Event()

    @workflow
    async def sleeper(ctx: PyWorkflow) -> str:
        await ctx.sleep(10 * DAY)
        woken.set()
        return "awake"

    running = asyncio.create_task(kit.run(sleeper))
    await until(_is_recorded, kit, 1, "sleep:1")
    await clock.advance(days=9)
    await asyncio.sleep(0.1)
    assert not woken.is_set()
    await clock.advance(DAY)
    async with no_hang():
        assert await running == "awake"


async def test_advance_wakes_a_just_parked_workflow(kit, clock):
    async with no_hang(), Worker(kit, [month]):
        for _ in range(10):
            handle = await kit.enqueue(month, 1)
            await until(_is_recorded, kit, handle.id, "sleep:1")
            await clock.advance(days=30)
            assert await handle.result() == 4


async def test_delays_and_retries_follow_the_clock(kit, clock):
    handle = await kit.options(delay=7 * DAY).enqueue(patient)
    async with no_hang(), Worker(kit, [patient]):
        await clock.advance(days=6)
        assert await handle.status() == "PENDING"
        async with clock.skipping():
            assert await handle.result() == "at last"
    assert clock.ahead > 7 * DAY + timedelta(seconds=100)


async def test_workflow_retries_follow_the_clock(kit, clock):
    @workflow(retry=RetryPolicy(attempts=3, initial=86400, maximum=86400 * 5))
    async def failing(ctx: PyWorkflow) -> int:
        calls[ctx.id()] += 1
        if calls[ctx.id()] < 3:
            raise TransientError("not yet")
        return calls[ctx.id()]

    async with no_hang(), clock.skipping():
        assert await kit.run(failing) == 3
    assert clock.ahead > 2 * DAY


async def test_deadline_follows_the_clock(kit, clock):
    @step
    async def stuck(ctx: PyWorkflow) -> None:
        calls["stuck"] += 1
        await asyncio.Event().wait()

    @workflow(timeout=DAY)
    async def slow(ctx: PyWorkflow) -> None:
        await stuck(ctx)

    running = asyncio.create_task(kit.run(slow))
    await until(_was_called, "stuck")
    await clock.advance(hours=23)
    assert not running.done()
    await clock.advance(hours=1)
    async with no_hang():
        with pytest.raises(WorkflowTimeoutError):
            await running


async def test_skipping_stops_at_a_deadline(kit, clock):
    @workflow(timeout=60)
    async def late(ctx: PyWorkflow) -> None:
        await ctx.sleep(DAY)

    async with no_hang(), clock.skipping():
        for most in (120, 240):
            with pytest.raises(WorkflowTimeoutError):
                await kit.run(late)
            assert clock.ahead < timedelta(seconds=most)
            with pytest.raises(WorkflowTimeoutError):
                await asyncio.create_task(_run_parked(kit, late))
            assert clock.ahead < timedelta(seconds=most)


async def _run_parked(kit, workflow):
    async with Worker(kit, [workflow]):
        return await (await kit.enqueue(workflow)).result()


async def test_sleeps_end_in_the_order_of_their_times(kit, clock):
    woken = []

    @workflow
    async def sleepers(ctx: PyWorkflow) -> None:
        async def sleep(n: int) -> None:
            await ctx.sleep(60 * n, id=str(n))
            woken.append(n)

        await asyncio.gather(*map(sleep, reversed(range(1, 31))))

    running = asyncio.create_task(kit.run(sleepers))
    for n in range(1, 31):
        await until(_is_recorded, kit, 1, f"sleep/{n}")
    await clock.advance(days=1)
    async with no_hang():
        await running
    assert woken == sorted(woken)


async def test_clock_jump_does_not_expire_executors(kit, clock):
    go_on = asyncio.Event()

    @step
    async def long(ctx: PyWorkflow) -> str:
        calls["long"] += 1
        await go_on.wait()
        return "done"

    @workflow
    async def across(ctx: PyWorkflow) -> str:
        return await long(ctx)

    async with no_hang(), Worker(kit, [across]):
        handle = await kit.enqueue(across)
        await until(_was_called, "long")
        for _ in range(5):
            await clock.advance(days=30)
            await asyncio.sleep(0.05)  # time for a worker to look after the dead
        await kit.verify(deep=True)
        go_on.set()
        assert await handle.result() == "done"
    assert calls["long"] == 1
    assert (await kit.list_workflows())[0].epoch == 1


async def test_skipping_waits_for_an_executing_step(kit, clock):
    go_on = asyncio.Event()

    @step
    async def long(ctx: PyWorkflow) -> None:
        calls["long"] += 1
        await go_on.wait()

    @workflow
    async def both(ctx: PyWorkflow) -> None:
        await asyncio.gather(ctx.sleep(DAY), long(ctx))

    async with no_hang(), clock.skipping():
        running = asyncio.create_task(kit.run(both))
        await until(_was_called, "long")
        await asyncio.sleep(0.1)
        assert not clock.ahead
        go_on.set()
        await running
    assert clock.ahead > 0.9 * DAY


async def test_recorded_times_follow_the_clock(kit, clock, raw):
    @step(retry=RetryPolicy(attempts=2, initial=5))
    async def failing(ctx: PyWorkflow) -> None:
        raise TransientError("again")

    @workflow(timeout=60)
    async def fails(ctx: PyWorkflow) -> None:
        await failing(ctx)

    await clock.advance(days=1000)
    await kit.create_workflow("untouched")
    await kit.enqueue(quick, 1)
    await kit.options(delay=5).enqueue(quick, 2)
    await kit.enqueue_many(quick, [(3,), (4,)])
    await kit.run(quick, 5)
    running = asyncio.create_task(kit.run(fails))
    await until(_is_recorded, kit, 6 + 1, "failing")
    times = ("created_at", "updated_at", "started_at", "completed_at", "due_at", "deadline", "ready_at")
    for column in times:
        found = await raw.fetch(f"SELECT {column} - now() FROM pgqrs_workflows WHERE {column} IS NOT NULL")
        assert found, column
        assert all(abs(each) < timedelta(minutes=5) for (each,) in found), column
    for column in ("started_at", "completed_at", "retry_at"):
        found = await raw.fetch(f"SELECT {column} - now() FROM pgqrs_workflow_steps WHERE {column} IS NOT NULL")
        assert found, column
        assert all(abs(each) < timedelta(minutes=5) for (each,) in found), column
    for function in ("now()", "transaction_timestamp()", "clock_timestamp()", "statement_timestamp()"):
        assert abs(await raw.fetchval(f"SELECT {function}") - await clock.now()) < timedelta(minutes=5), function
    assert await raw.fetchval("SELECT max(expires_at) - pg_catalog.now() FROM pgqrs_executors") < DAY
    async with clock.skipping():
        with pytest.raises(TransientError):
            await running


async def test_workflow_time_follows_the_clock(kit, clock):
    @workflow
    async def looks(ctx: PyWorkflow) -> float:
        before = await ctx.now()
        await ctx.sleep(DAY)
        return ((await ctx.now()) - before).total_seconds()

    async with no_hang(), clock.skipping():
        assert 86400 <= await kit.run(looks) < 86500


async def test_clock_advanced_during_a_start_matches_the_database(kit, clock, raw):
    for ctx in [await kit.create_workflow("month") for _ in range(5)]:
        running = asyncio.create_task(month(ctx, 1))
        await clock.advance(days=15)
        async with no_hang(), clock.skipping():
            assert await running == 4
        assert abs(await clock.now() - await raw.fetchval("SELECT clock_timestamp()")) < timedelta(minutes=1)


async def test_nested_skipping_advances_the_clock_once(kit, clock):
    handle = await kit.enqueue(month, 1)
    async with no_hang(), clock.skipping(), clock.skipping():
        assert await run_enqueued(kit, [month]) == 1
        assert await handle.result() == 4
    assert 29.9 * DAY < clock.ahead < 31 * DAY


async def test_invalid_clock_moves_are_refused(kit, clock, dsn):
    with pytest.raises(ConfigurationError, match="does not go back"):
        await clock.advance(seconds=-1)
    with pytest.raises(ConfigurationError, match="does not go back"):
        await clock.advance_to(await clock.now() - DAY)
    with pytest.raises(ConfigurationError, match="machine's clock"):
        clock_of(Admin(dsn))
    with pytest.raises(ConfigurationError, match="clock=clock"):
        clock.follow(Admin(dsn))
    with pytest.raises(ConfigurationError, match="no Admin"):
        await TestClock("somewhere").advance(days=1)


async def test_second_admin_can_share_the_clock(kit, clock, pgqrs_dsn):
    async with Admin(pgqrs_dsn, clock.schema, clock=clock) as other:
        clock.follow(other)
        async with no_hang(), clock.skipping():
            assert await other.run(month, 1) == 4


# --- crashes ---


async def test_a_plain_workflow_survives_every_crash(kit):
    @workflow
    async def plain(ctx: PyWorkflow, n: int) -> int:
        return await double(ctx, n) + await double(ctx, n + 1)

    assert await crash_everywhere(plain, 3, admin=kit) == 14
    ids = [record.id for record in await kit.list_workflows()]
    # One undisturbed, and two crashes for each of two steps and the end.
    assert len(ids) == 1 + 2 * 3
    assert all(calls[each, n] in {1, 2} for each in ids for n in (3, 4))
    assert (
        sum(calls.values()) == 2 * len(ids) + 2
    )  # those before whose write it was executed again, and only those


async def test_arrange_supplies_the_arguments_of_each_run(kit):
    arranged = []

    @workflow
    async def of_a_row(ctx: PyWorkflow, n: int, row: int) -> int:
        return await double(ctx, n)

    async def arrange() -> tuple[int, int]:
        arranged.append(len(arranged) + 1)
        return 3, arranged[-1]

    assert await crash_everywhere(of_a_row, arrange=arrange, admin=kit) == 6
    assert arranged == [1, 2, 3, 4, 5]  # undisturbed, and two crashes for the step and for the end
    inputs = [record.input["args"] for record in await kit.list_workflows()]
    assert sorted(inputs) == [[3, row] for row in arranged]


async def test_arrange_must_return_a_tuple_and_replaces_arguments(kit):
    @workflow
    async def one(ctx: PyWorkflow, n: int) -> int:
        return n

    async def arrange() -> int:
        return 1

    with pytest.raises(TypeError, match=r"in a tuple.* got int"):
        await crash_everywhere(one, arrange=arrange, admin=kit)
    with pytest.raises(TypeError, match="not both"):
        await crash_everywhere(one, 1, arrange=arrange, admin=kit)


async def test_a_sleeping_workflow_survives_every_crash(kit, clock):
    async with no_hang():
        assert await crash_everywhere(month, 1, admin=kit) == 4
    assert clock.ahead > 200 * DAY


async def test_retries_survive_every_crash(kit):
    @workflow(retry=RetryPolicy(attempts=3, initial=60))
    async def twice(ctx: PyWorkflow) -> str:
        once = await third_time(ctx)
        calls[ctx.id(), "whole"] += 1
        if calls[ctx.id(), "whole"] == 1:
            raise TransientError("the whole again")
        return once

    async with no_hang():
        assert await crash_everywhere(twice, admin=kit) == "at last"


async def test_concurrent_and_nested_steps_survive_every_crash(kit):
    @step
    async def outer(ctx: PyWorkflow, n: int) -> int:
        return await double(ctx, n) + 1

    @workflow
    async def several(ctx: PyWorkflow) -> list[int]:
        together = await asyncio.gather(double(ctx, 1), double(ctx, 2), outer(ctx, 3), ctx.sleep(DAY))
        return [each for each in together if each is not None]

    async with no_hang():
        assert await crash_everywhere(several, admin=kit) == [2, 4, 7]


async def test_transactional_step_writes_once_after_every_crash(kit, raw):
    await raw.execute("CREATE TABLE effects (workflow_id bigint NOT NULL)")
    insert = text(f"INSERT INTO {kit.schema}.effects VALUES (:id)")

    @step(transactional=True)
    async def effect(ctx: PyWorkflow) -> int:
        calls[ctx.id()] += 1
        await ctx.session.execute(insert, {"id": ctx.id()})
        return 1

    @workflow
    async def transacts(ctx: PyWorkflow) -> int:
        return await effect(ctx) + await double(ctx, 1)

    async with no_hang():
        assert await crash_everywhere(transacts, admin=kit) == 3
    assert sorted(calls.values(), reverse=True)[:1] == [2]  # it was killed before its commit too
    ids = [record["workflow_id"] for record in await raw.fetch("SELECT workflow_id FROM effects ORDER BY 1")]
    assert ids == sorted(record.id for record in await kit.list_workflows())
    assert len(ids) == 1 + 2 * 3


async def test_workflow_error_is_equal_after_every_crash(kit):
    @workflow
    async def fails(ctx: PyWorkflow, n: int) -> None:
        await double(ctx, n)
        raise ValueError(f"no {n} here")

    with pytest.raises(ValueError, match="no 3 here"):
        await crash_everywhere(fails, 3, admin=kit)


@pytest.mark.parametrize(
    "told",
    [
        "workflow {id} is refused",
        "workflow {id}: 1 of 2 lines, in 3.5 s",  # whichever run has one of these for its id
        "order_{id}, v1",
    ],
)
async def test_error_may_contain_the_workflow_id(kit, told):
    @workflow
    async def refused(ctx: PyWorkflow) -> None:
        await double(ctx, 1)
        raise ValueError(told.format(id=ctx.id()))

    with pytest.raises(ValueError, match=re.escape(told.format(id=1))):
        await crash_everywhere(refused, admin=kit)


async def test_workflow_times_out_after_every_crash(kit):
    @workflow(timeout=60)
    async def late(ctx: PyWorkflow) -> None:
        await double(ctx, 1)
        await ctx.sleep(DAY)

    async with no_hang():
        with pytest.raises(WorkflowTimeoutError, match="workflow 1 was not finished"):
            await crash_everywhere(late, admin=kit)


@pytest.mark.parametrize("told", ["{id}.5 of them", "{id}0 of them", "{runs} runs"])
async def test_differing_error_numbers_are_reported(kit, told):
    @workflow
    async def counts(ctx: PyWorkflow) -> None:
        calls["runs"] += 1
        await double(ctx, 1)
        raise ValueError(told.format(id=ctx.id(), runs=calls["runs"]))

    with pytest.raises(AssertionError, match=r"it raised ValueError: .* without a crash it raised") as found:
        await crash_everywhere(counts, admin=kit)
    assert "Two runs without a crash differ as well: the steps and the error of a workflow" in str(found.value)
    assert "compare=" not in str(found.value)


async def test_violated_invariant_is_reported(kit, dsn):
    @step
    async def spoil(ctx: PyWorkflow) -> None:
        async with connected(dsn, kit.schema) as sql:
            await sql.execute(
                "INSERT INTO pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, output) "
                "VALUES (99, 's', 'SUCCESS', 0, now(), 'null') ON CONFLICT DO NOTHING"
            )

    @workflow
    async def spoils(ctx: PyWorkflow) -> None:
        await spoil(ctx)

    with pytest.raises(AssertionError, match=r"step 's' of workflow 99 has no workflow\."):
        await crash_everywhere(spoils, admin=kit)


async def test_error_of_another_class_is_a_difference(kit):
    @workflow
    async def either(ctx: PyWorkflow) -> None:
        await double(ctx, 1)
        raise ValueError("no") if ctx.id() == 1 else KeyError("no")

    with pytest.raises(
        AssertionError, match="it raised KeyError: 'no', and without a crash it raised ValueError: no"
    ):
        await crash_everywhere(either, admin=kit)


@pytest.mark.without_replay("the body is to run once without a crash")
async def test_nondeterministic_body_is_reported_with_its_crash(kit):
    @workflow
    async def forgetful(ctx: PyWorkflow) -> int:
        calls[ctx.id()] += 1  # what a process remembers, and the next one does not
        first = await double(ctx, 1)
        return first + calls[ctx.id()]

    with pytest.raises(AssertionError) as told:
        await crash_everywhere(forgetful, admin=kit)
    message = str(told.value)
    assert "After a crash before write 1 (the outcome of step 'double:1') the workflow 'forgetful'" in message
    assert "it returned 4, and without a crash it returned 3" in message
    assert "Two runs without a crash" not in message


@pytest.mark.without_replay("the body is to run once without a crash")
async def test_differing_steps_are_reported(kit):
    @workflow
    async def wanders(ctx: PyWorkflow) -> int:
        calls[ctx.id()] += 1
        await double(ctx, 1)
        await double(ctx, 10 * calls[ctx.id()])
        return 1

    with pytest.raises(AssertionError, match=r"(?s)before write 1.*no step 'double:10'.*a step 'double:20'"):
        await crash_everywhere(wanders, admin=kit)


async def test_compare_option_accepts_differing_results(kit):
    @workflow
    async def named(ctx: PyWorkflow) -> dict[str, int]:
        return {"id": ctx.id(), "value": await double(ctx, 1)}

    with pytest.raises(AssertionError, match="Two runs without a crash differ as well"):
        await crash_everywhere(named, admin=kit)
    result = await crash_everywhere(named, admin=kit, compare=lambda result: result["value"])
    assert result["value"] == 2


async def test_compare_is_not_suggested_for_differing_steps(kit):
    @workflow
    async def named(ctx: PyWorkflow) -> int:
        return await double(ctx, ctx.id())

    with pytest.raises(AssertionError, match="no step 'double:1'") as told:
        await crash_everywhere(named, admin=kit)
    assert "the steps and the error of a workflow" in str(told.value)
    assert "compare=" not in str(told.value)


@pytest.mark.without_replay("the body is to run once without a crash")
async def test_run_that_hangs_after_a_crash_times_out(kit):
    @workflow
    async def hangs(ctx: PyWorkflow) -> None:
        calls[ctx.id()] += 1
        await double(ctx, 1)
        if calls[ctx.id()] > 1:
            await asyncio.Event().wait()

    began = time.monotonic()
    with pytest.raises(AssertionError, match=r"After a crash before write 1 .* did not end within 4 s"):
        await crash_everywhere(hangs, admin=kit, timeout=4.0)
    assert time.monotonic() - began < 30


async def test_cleanup_after_a_crash_writes_nothing(kit):
    @workflow
    async def tidy(ctx: PyWorkflow) -> int:
        try:
            return await double(ctx, 1)
        except BaseException:
            await double(ctx, 99)
            raise

    assert await crash_everywhere(tidy, admin=kit) == 2
    for record in await kit.list_workflows():
        assert [each.step_id for each in await kit.list_steps(record.id)] == ["double:1"]


async def test_crash_everywhere_ignores_other_workflows(admin):
    waiting = await admin.enqueue(quick, 1)
    assert await crash_everywhere(quick, 7, admin=admin) == 14
    assert await waiting.status() == "PENDING"
    assert {each.status for each in await admin.list_workflows(name="quick")} == {"PENDING", "SUCCESS"}


async def test_crash_everywhere_works_without_an_admin(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    try:
        assert await crash_everywhere(month, 1) == 4
    finally:
        embedded.stop("embedded://")


# --- the queues ---


async def test_assert_enqueued_finds_workflows_and_lists_the_queue(kit):
    await assert_not_enqueued(kit, quick)
    await kit.options(key="k", queue="mail").enqueue(quick, 1)
    await kit.options(delay=DAY).enqueue(month, n=2)
    record = await assert_enqueued(kit, quick, 1, key="k", queue="mail")
    assert (record.id, record.key) == (1, "k")
    await assert_enqueued(kit, quick)
    await assert_enqueued(kit, quick, n=1)
    await assert_enqueued(kit, month, 2)
    await assert_not_enqueued(kit, quick, 2)
    with pytest.raises(AssertionError) as told:
        await assert_enqueued(kit, quick, 1, key="other", queue="mail")
    assert str(told.value) == (
        "quick(1) of the key 'other' in the queue 'mail' is not enqueued; there are:\n"
        "    2: month(n=2), queue 'default', PENDING\n"
        "    1: quick(1), queue 'mail', key 'k', PENDING"
    )
    with pytest.raises(AssertionError, match=re.escape("quick(...) is enqueued; there are:\n    1: quick(1)")):
        await assert_not_enqueued(kit, quick)


async def test_assert_enqueued_fills_in_default_arguments(kit):
    @workflow
    async def cuts(
        ctx: PyWorkflow, n: int, pair: tuple[int, int] = (1, 2), colour: Colour = Colour.RED
    ) -> None: ...

    await kit.enqueue(cuts, 1)
    await kit.enqueue(cuts, 2, (1, 2))
    for given in [(1,), (1, (1, 2)), (1, [1, 2]), (2,), (2, (1, 2))]:
        await assert_enqueued(kit, cuts, *given)
        with pytest.raises(AssertionError, match="is enqueued"):
            await assert_not_enqueued(kit, cuts, *given)
    await assert_not_enqueued(kit, cuts, 1, (2, 1))
    await assert_not_enqueued(kit, cuts, 1, colour="red")  # strict JSON cannot carry what it is by default
    with pytest.raises(SerializationError):
        await assert_enqueued(kit, cuts, 1, colour=Colour.RED)


async def test_assert_enqueued_compares_arguments_by_parameter(kit):
    @workflow
    async def every(ctx: PyWorkflow, a: int = 1, /, b: int = 2, *rest: int, c: int = 3, **more: int) -> None: ...

    await kit.enqueue(every)
    for args, kwargs in [((1,), {}), ((), {"b": 2}), ((1, 2), {"c": 3})]:
        await assert_enqueued(kit, every, *args, **kwargs)
    for args, kwargs in [((2,), {}), ((1, 2, 3), {}), ((), {"d": 4})]:
        await assert_not_enqueued(kit, every, *args, **kwargs)
    await kit.enqueue(every, 1, 2, 3, d=4)
    await assert_enqueued(kit, every, 1, 2, 3, d=4, c=3)
    await assert_not_enqueued(kit, every, 1, 2, 4, d=4)


async def test_assert_enqueued_refuses_misfitting_arguments(kit):
    for check in (assert_enqueued, assert_not_enqueued):
        with pytest.raises(TypeError, match=r"'quick' does not accept these arguments: .*'n'"):
            await check(kit, quick, m=1)
        with pytest.raises(TypeError, match="'quick' does not accept these arguments: too many"):
            await check(kit, quick, 1, 2)


async def test_assert_enqueued_handles_an_older_signature(kit):
    @workflow(name="quick")
    async def quick_before(ctx: PyWorkflow, n: int, m: int) -> None: ...

    await kit.enqueue(quick_before, 1, 2)
    await assert_enqueued(kit, quick)
    await assert_not_enqueued(kit, quick, 1)


async def test_finished_workflow_is_not_enqueued(kit):
    with pytest.raises(AssertionError, match="no workflow is enqueued"):
        await assert_enqueued(kit, quick)
    await kit.enqueue(quick, 1)
    assert await run_enqueued(kit, [quick]) == 1
    await assert_not_enqueued(kit, quick)
    with pytest.raises(TypeError, match="not a workflow"):
        await assert_enqueued(kit, len)


async def test_run_enqueued_skips_sleeps_and_retry_delays(kit, clock):
    first = await kit.enqueue(month, 1)
    second = await kit.enqueue(patient)
    third = await kit.options(delay=7 * DAY, queue="other").enqueue(quick, 4)
    async with no_hang():
        assert await run_enqueued(kit, [month, patient, quick]) == 3
    assert (await first.result(), await second.result(), await third.result()) == (4, "at last", 8)
    assert 29.9 * DAY < clock.ahead < 31 * DAY
    assert await run_enqueued(kit, [month, patient, quick]) == 0


async def test_run_enqueued_runs_children_and_skips_other_workflows(kit):
    @step
    async def hand_on(ctx: PyWorkflow, n: int) -> int:
        return (await kit.enqueue(quick, n)).id

    @workflow
    async def parent(ctx: PyWorkflow, n: int) -> int:
        return await hand_on(ctx, n)

    await kit.enqueue(month, 1)
    handle = await kit.enqueue(parent, 3)
    async with no_hang():
        assert await run_enqueued(kit, [parent, quick]) == 2
        assert await kit.handle(await handle.result()).result() == 6
    await assert_enqueued(kit, month)
    await kit.options(queue="a").enqueue(quick, 1)
    await kit.options(queue="b").enqueue(quick, 2)
    assert await run_enqueued(kit, [quick], queues=["a"]) == 1
    await assert_enqueued(kit, quick, 2, queue="b")


async def test_run_enqueued_leaves_errors_to_the_handle(kit):
    @workflow
    async def fails(ctx: PyWorkflow) -> None:
        raise ValueError("no")

    handle = await kit.enqueue(fails)
    assert await run_enqueued(kit, [fails]) == 1
    with pytest.raises(ValueError, match="no"):
        await handle.result()


async def test_run_enqueued_skips_delayed_workflows_without_a_clock(admin):
    await admin.options(delay=DAY).enqueue(quick, 1)
    await admin.enqueue(quick, 2)
    assert await run_enqueued(admin, [quick]) == 1
    await assert_enqueued(admin, quick, 1)


async def test_run_enqueued_skips_workflows_of_another_codec(kit, clock, pgqrs_dsn):
    foreign = await kit.enqueue(quick, 1)
    later = await kit.options(delay=DAY, queue="other").enqueue(quick, 1)
    async with Admin(pgqrs_dsn, clock.schema, codec=PydanticCodec(), clock=clock) as other, no_hang():
        clock.follow(other)
        assert await run_enqueued(other, [quick]) == 0
        own = await other.enqueue(quick, 2)
        assert await run_enqueued(other, [quick]) == 1
        assert await own.result() == 4
        assert (await foreign.status(), await later.status()) == ("PENDING", "PENDING")
        await other.enqueue(quick, 3)
        assert await run_enqueued(kit, [quick]) == 2
        assert await run_enqueued(other, [quick]) == 1
        clock.leave(other)


async def test_run_enqueued_does_not_wait_for_a_cancelled_workflow(kit, raw):
    await kit.options(delay=DAY).enqueue(quick, 1)
    await raw.execute("UPDATE pgqrs_workflows SET status = 'CANCELLED'")
    async with no_hang():
        assert await run_enqueued(kit, [quick]) == 0


# --- schemas ---


async def test_scratch_admin_drops_its_schema(dsn):
    async with scratch_admin(dsn, heartbeat_timeout=9.0) as admin:
        assert await admin.run(quick, 1) == 2
        schema = admin.schema
        await admin.verify(deep=True)
    async with Admin(dsn, schema) as left:
        with pytest.raises(NotInstalledError):
            await left.verify()


async def test_reused_schema_is_isolated_from_the_previous_test(dsn):
    schemas = SchemaPool(dsn)
    try:
        first = await schemas.lend()
        left_over = Admin(dsn, first)
        async with left_over:
            assert (await left_over.enqueue(quick, 1)).id == 1
            await schemas.give_back(first)
            second = await schemas.lend()
            assert second != first
            with pytest.raises(NotInstalledError):
                await left_over.enqueue(quick, 2)
        async with Admin(dsn, second) as fresh:
            assert await fresh.list_workflows() == []
            assert (await fresh.enqueue(quick, 1)).id == 1
    finally:
        await schemas.close()


@pytest.mark.parametrize(
    "left", ["CREATE TABLE {}.mine (id int)", "DROP TABLE {}.pgqrs_version", "DROP SCHEMA {} CASCADE"]
)
async def test_changed_schema_is_not_reused(dsn, left):
    schemas = SchemaPool(dsn)
    connection = await asyncpg.connect(dsn)
    try:
        schema = await schemas.lend()
        await connection.execute(left.format(schema))
        await schemas.give_back(schema)
        async with Admin(dsn, await schemas.lend()) as admin:
            await admin.verify(deep=True)
    finally:
        await connection.close()
        await schemas.close()


async def test_locked_schema_is_not_reused(dsn):
    schemas = SchemaPool(dsn)
    connection = await asyncpg.connect(dsn)
    try:
        schema = await schemas.lend()
        await schemas.give_back(schema)
        async with connection.transaction():
            await connection.execute(f"SELECT 1 FROM {schema}.pgqrs_workflows")
            async with no_hang(), Admin(dsn, await schemas.lend()) as admin:
                await admin.verify(deep=True)
    finally:
        await connection.close()
        await schemas.close()


async def test_schemas_of_a_dead_process_are_dropped(dsn):
    connection = await asyncpg.connect(dsn)
    dead = f"{testbed.PREFIX}deadbeef_1"
    await connection.execute(f"DROP SCHEMA IF EXISTS {dead} CASCADE")
    await testbed.create(connection, testbed.script(), dead)
    living, schemas = SchemaPool(dsn), SchemaPool(dsn)
    try:
        kept = await living.lend()
        await schemas.lend()
        found = await _schemas(connection)
        assert dead not in found
        assert kept in found
    finally:
        await living.close()
        await schemas.close()
        await connection.close()


@pytest.fixture
async def intruder(own_database):
    """A role that may create schemas in a database of the test's own: (its name, the superuser's DSN)."""
    async with connected(own_database) as connection:
        role = f"intruder_{uuid4().hex[:8]}"
        await connection.execute(
            f"CREATE ROLE {role}; GRANT CREATE ON DATABASE {await _database(connection)} TO {role}"
        )
        yield role, own_database
        await connection.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


async def test_schema_name_is_never_executed_as_sql(intruder):
    role, dsn = intruder
    hostile = f"pgqrs_test_;ALTER ROLE {role} SUPERUSER;--_1"
    connection = await asyncpg.connect(dsn)
    await connection.execute(f'SET ROLE {role}; CREATE SCHEMA "{hostile}"; RESET ROLE')
    try:
        async with scratch_admin(dsn) as admin:
            assert await admin.run(quick, 1) == 2
        assert hostile in await _schemas(connection)
        assert not await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = $1", role)
    finally:
        await connection.close()


async def test_schemas_not_created_by_the_kit_are_not_dropped(intruder):
    role, dsn = intruder
    connection = await asyncpg.connect(dsn)
    named_alike, unmarked = "pgqrs_test_staging", "pgqrs_test_0123abcd_1"
    of_another_role, marked_by_hand = "pgqrs_test_0123abcd_2", 'pgqrs_test_"x_3'
    others = [named_alike, unmarked, of_another_role, marked_by_hand]
    for each in others:
        await connection.execute(f"CREATE SCHEMA {testbed._quoted(each)}")
    await connection.execute(f"CREATE TABLE {named_alike}.customers AS SELECT 1 AS x")
    for each in (of_another_role, marked_by_hand, named_alike):
        await connection.execute(f"COMMENT ON SCHEMA {testbed._quoted(each)} IS '{testbed._MARK}'")
    await connection.execute(f"ALTER SCHEMA {of_another_role} OWNER TO {role}")
    try:
        async with scratch_admin(dsn):
            pass
        assert set(others) <= await _schemas(connection)
        assert await connection.fetchval(f"SELECT x FROM {named_alike}.customers") == 1
    finally:
        await connection.close()


async def test_pool_keeps_a_schema_recreated_by_another_role(intruder):
    role, dsn = intruder
    connection = await asyncpg.connect(dsn)
    schemas = SchemaPool(dsn)
    try:
        schema = await schemas.lend()
        await connection.execute(f"DROP SCHEMA {schema} CASCADE; CREATE SCHEMA {schema} AUTHORIZATION {role}")
        await schemas.give_back(schema)
        assert await schemas.lend() != schema
        assert schema in await _schemas(connection)
    finally:
        await schemas.close()
        await connection.close()


def test_clock_search_path_quotes_its_schema():
    assert TestClock('x", mine; --').search_path == '"$user", public, "x"", mine; --", pg_catalog'


async def _schemas(connection):
    return {row[0] for row in await connection.fetch("SELECT nspname FROM pg_namespace")}


async def _database(connection):
    return await connection.fetchval("SELECT quote_ident(current_database())")


async def _is_recorded(admin, workflow_id, step_id):
    try:
        return any(each.step_id == step_id for each in await admin.list_steps(workflow_id))
    except WorkflowNotFoundError:
        return False


async def _was_called(name):
    return calls[name]


async def test_functions_of_a_recycled_schema_use_its_new_name(dsn):
    pool = SchemaPool(dsn)
    try:
        old = await pool.lend()
        await pool.give_back(old)
        new = await pool.lend()
        assert new != old
        async with connected(dsn) as sql:
            bodies = await sql.fetch(
                "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = $1::text::regnamespace AND prosrc <> ''",
                new,
            )
            assert {"send", "emit", "pgqrs_workflow_ended"} <= {each["proname"] for each in bodies}
            assert [each["proname"] for each in bodies if old in each["prosrc"]] == []
            assert await sql.fetchval(f"SELECT {new}.emit('closed', '1')") is True
    finally:
        await pool.close()
