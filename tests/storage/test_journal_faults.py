"""Every scenario goes through whatever single fault of the wire, at whatever round trip it happens."""

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple

import pytest

from pgqrs import Admin, DatabaseUnavailableError, PyWorkflow, StepFailedError, step, workflow
from tests.support.admins import limit
from tests.support.database import connected
from tests.support.waiting import until
from tests.support.wire import Fault, Wire
from tests.support.workflows import Killed


class Expected(NamedTuple):
    """What must stand in the tables of one workflow, and how often each step function must have run.

    `failed` are the steps whose recorded outcome is an error.
    """

    workflow_id: int
    output: Any
    steps: dict[str, Any]
    calls: dict[str, int] | None = None
    failed: frozenset[str] = frozenset()


Scenario = Callable[[Admin, Counter[str]], Awaitable[list[Expected]]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


@step(key=lambda calls, n: n)
async def squared(ctx: PyWorkflow, calls: Counter[str], n: int) -> dict[str, int]:
    calls[f"{ctx.id()} squared:{n}"] += 1
    return {"n": n, "square": n * n}


@step(key=lambda calls, n: n)
async def outer(ctx: PyWorkflow, calls: Counter[str], n: int) -> list[int]:
    calls[f"{ctx.id()} outer:{n}"] += 1
    inner = await squared(ctx, calls, n)
    return [inner["square"]]


@step
async def flaky(ctx: PyWorkflow, calls: Counter[str]) -> str:
    calls[f"{ctx.id()} flaky"] += 1
    if calls[f"{ctx.id()} flaky"] == 1:
        raise OSError("not yet")
    return "at last"


@step
async def refused(ctx: PyWorkflow, calls: Counter[str]) -> str:
    calls[f"{ctx.id()} refused"] += 1
    if calls[f"{ctx.id()} refused"] == 1:
        raise ValueError("never")
    return "mended"


def _squares(numbers: range) -> dict[str, Any]:
    return {f"squared:{n}": {"n": n, "square": n * n} for n in numbers}


@workflow
async def in_sequence(ctx: PyWorkflow, calls: Counter[str]) -> int:
    return sum([(await squared(ctx, calls, n))["square"] for n in range(3)])


@scenario
async def three_steps_in_sequence(admin, calls):
    ctx = await admin.create_workflow("in_sequence")
    assert await in_sequence(ctx, calls) == 5
    return [Expected(ctx.id(), 5, _squares(range(3)))]


@workflow
async def gathered(ctx: PyWorkflow, calls: Counter[str]) -> int:
    return sum(each["square"] for each in await asyncio.gather(*(squared(ctx, calls, n) for n in range(10))))


@scenario
async def ten_steps_gathered(admin, calls):
    ctx = await admin.create_workflow("gathered")
    assert await gathered(ctx, calls) == 285
    return [Expected(ctx.id(), 285, _squares(range(10)))]


@workflow
async def with_a_flaky_step(ctx: PyWorkflow, calls: Counter[str]) -> str:
    await squared(ctx, calls, 1)
    return await flaky(ctx, calls)


@scenario
async def a_failing_step_and_a_second_run(admin, calls):
    ctx = await admin.create_workflow("with_a_flaky_step")
    with pytest.raises(OSError, match="not yet"):
        await with_a_flaky_step(ctx, calls)
    assert await with_a_flaky_step(await admin.get_workflow(ctx.id()), calls) == "at last"
    steps = _squares(range(1, 2)) | {"flaky": "at last"}
    return [Expected(ctx.id(), "at last", steps, {"squared:1": 1, "flaky": 2})]


@workflow
async def nesting(ctx: PyWorkflow, calls: Counter[str]) -> list[int]:
    return [*await outer(ctx, calls, 3), *await outer(ctx, calls, 4)]


@scenario
async def nested_steps(admin, calls):
    ctx = await admin.create_workflow("nesting")
    assert await nesting(ctx, calls) == [9, 16]
    return [Expected(ctx.id(), [9, 16], _squares(range(3, 5)) | {"outer:3": [9], "outer:4": [16]})]


@workflow
async def short(ctx: PyWorkflow, calls: Counter[str], n: int) -> int:
    first = await squared(ctx, calls, n)
    return (await squared(ctx, calls, n + 1))["square"] + first["square"]


@scenario
async def eight_workflows_at_once(admin, calls):
    async def one(n):
        ctx = await admin.create_workflow("short")
        output = await short(ctx, calls, n)
        assert output == n * n + (n + 1) ** 2
        return Expected(ctx.id(), output, _squares(range(n, n + 2)))

    return await asyncio.gather(*(one(n) for n in range(8)))


@workflow
async def with_a_refused_step(ctx: PyWorkflow, calls: Counter[str]) -> str:
    await squared(ctx, calls, 2)
    return await refused(ctx, calls)


@scenario
async def a_resume_after_a_terminal_error(admin, calls):
    ctx = await admin.create_workflow("with_a_refused_step")
    with pytest.raises(ValueError, match="never"):
        await with_a_refused_step(ctx, calls)
    with pytest.raises(StepFailedError, match="never"):
        await with_a_refused_step(ctx, calls)
    assert await with_a_refused_step(await admin.resume_workflow(ctx.id()), calls) == "mended"
    steps = _squares(range(2, 3)) | {"refused": "mended"}
    return [Expected(ctx.id(), "mended", steps, {"squared:2": 1, "refused": 2})]


@step
async def slow(ctx: PyWorkflow, calls: Counter[str]) -> str:
    calls[f"{ctx.id()} slow"] += 1
    await asyncio.sleep(0.25)
    return "long enough to be marked as RUNNING"


@workflow
async def with_a_slow_step(ctx: PyWorkflow, calls: Counter[str]) -> list[object]:
    return await asyncio.gather(slow(ctx, calls), squared(ctx, calls, 7))


@scenario
async def a_step_that_is_marked_as_running(admin, calls):
    ctx = await admin.create_workflow("with_a_slow_step")
    marked = "long enough to be marked as RUNNING"
    steps = _squares(range(7, 8)) | {"slow": marked}
    assert await with_a_slow_step(ctx, calls) == [marked, steps["squared:7"]]
    return [Expected(ctx.id(), [marked, steps["squared:7"]], steps)]


@workflow
async def killed_once(ctx: PyWorkflow, calls: Counter[str]) -> int:
    first = await squared(ctx, calls, 1)
    if not calls[f"{ctx.id()} killed"]:
        calls[f"{ctx.id()} killed"] += 1
        raise Killed
    return (await squared(ctx, calls, 2))["square"] + first["square"]


@scenario
async def a_crash_and_another_run(admin, calls):
    ctx = await admin.create_workflow("killed_once")
    with pytest.raises(Killed):
        await killed_once(ctx, calls)
    assert await killed_once(await admin.get_workflow(ctx.id()), calls) == 5
    return [Expected(ctx.id(), 5, _squares(range(1, 3)), {"squared:1": 1, "squared:2": 1, "killed": 1})]


@scenario
async def a_manual_workflow(admin, calls):
    """A run that is started, failed and ended by hand, and its steps acquired and recorded by hand."""
    ctx = await admin.create_workflow("by hand", {"n": 1})
    await ctx.start()
    falsy = {"null": None, "zero": 0, "text": "", "list": []}
    for step_id, value in falsy.items():
        acquired = await ctx.acquire_step(step_id)
        assert (acquired.status, await acquired.guard.success(value)) == ("EXECUTE", value)
        calls[f"{ctx.id()} {step_id}"] += 1
    acquired = await ctx.acquire_step("failing")
    await acquired.guard.fail("not yet", transient=True)
    await ctx.fail("given up")
    again = await admin.get_workflow(ctx.id())
    await again.start()
    for step_id, value in falsy.items():
        acquired = await again.acquire_step(step_id)
        assert (acquired.status, acquired.value) == ("SKIPPED", value)
    await (await again.acquire_step("failing")).guard.success("at last")
    calls[f"{ctx.id()} failing"] += 1
    await again.success(falsy)
    return [Expected(ctx.id(), falsy, falsy | {"failing": "at last"})]


@workflow
async def grouped(ctx: PyWorkflow, calls: Counter[str]) -> list[object]:
    found: list[object] = []
    try:
        async with asyncio.TaskGroup() as group:
            for n in range(3):
                group.create_task(squared(ctx, calls, n))
            group.create_task(refused_after(ctx, calls, 2))
    except* ValueError as errors:
        found.append(len(errors.exceptions))
    if not calls[f"{ctx.id()} raised"]:
        calls[f"{ctx.id()} raised"] += 1
        raise ConnectionError("the body's own")
    return [*found, (await outer(ctx, calls, 5))[0]]


@step
async def refused_after(ctx: PyWorkflow, calls: Counter[str], count: int) -> str:
    calls[f"{ctx.id()} refused_after"] += 1
    await asyncio.gather(*(squared(ctx, calls, n) for n in range(count + 1)))
    raise ValueError("never")


@scenario
async def a_caught_error_of_a_group_and_an_error_of_the_body(admin, calls):
    ctx = await admin.create_workflow("grouped")
    with pytest.raises(ConnectionError, match="the body's own"):
        await grouped(ctx, calls)
    assert await grouped(await admin.get_workflow(ctx.id()), calls) == [1, 25]
    steps = _squares(range(3)) | _squares(range(5, 6)) | {"outer:5": [25], "refused_after": None}
    once = dict.fromkeys(steps, 1)
    return [Expected(ctx.id(), [1, 25], steps, once | {"raised": 1}, failed=frozenset({"refused_after"}))]


@workflow
async def connecting(ctx: PyWorkflow) -> None:
    """Write once, so that all connections are open when a scenario begins."""
    await ctx.now()


async def _reaches_the_server(admin):
    """Return whether a first contact succeeds, which raises at once when a busy machine makes it late."""
    with suppress(DatabaseUnavailableError):
        await admin.list_workflows(limit=0)
        return True
    return False


async def _check(sql, schema, calls, expected):
    for each in expected:
        row = await sql.fetchrow(f"SELECT * FROM {schema}.pgqrs_workflows WHERE id = $1", each.workflow_id)
        assert (row["status"], json.loads(row["output"]), row["error"]) == ("SUCCESS", each.output, None)
        rows = await sql.fetch(
            f"SELECT * FROM {schema}.pgqrs_workflow_steps WHERE workflow_id = $1", each.workflow_id
        )
        assert {row["step_id"]: json.loads(row["output"] or "null") for row in rows} == each.steps
        assert {row["step_id"] for row in rows if row["error"] is not None} == each.failed
        statuses = {row["step_id"]: ("SUCCESS", False) for row in rows} | dict.fromkeys(
            each.failed, ("ERROR", False)
        )
        assert {row["step_id"]: (row["status"], row["reopened"]) for row in rows} == statuses
        own = {key.partition(" ")[2]: n for key, n in calls.items() if key.startswith(f"{each.workflow_id} ")}
        assert own == (each.calls or dict.fromkeys(each.steps, 1))


def _unhurried(own):
    """Keep the beats out of the round trips that are counted; the one that registers is among them."""
    limit(own, heartbeat_interval=3600.0, heartbeat_timeout=7200.0)
    return own


SLOW = {Fault.SILENT_AFTER, Fault.LATE}
"""The faults that a client finds out about by its timeout; the scenarios run side by side then."""


def _timeout(fault):
    """Return the timeout of an `Admin`: short for the faults that take as long, or else as it is by default.

    The first contact of an `Admin` fails at once, so it must not run into the timeout on a busy machine.
    """
    return 1.5 if fault in SLOW else 10.0


def _lanes(fault):
    return 10 if fault in SLOW else 4


async def _lane(round_trips, scenario, fault, dsn, schema):
    """Run the scenario with the fault at one round trip after another, until there are no more; lanes share them."""
    found: list[str] = []
    async with (
        connected(dsn) as sql,
        Wire(dsn, sql) as wire,
        _unhurried(Admin(wire.dsn, schema, timeout=_timeout(fault), outage_timeout=30)) as admin,
    ):
        journal = (await admin.store()).journal
        wire.hook = lambda: journal._flusher and journal._flusher.cancel()
        for n in round_trips:
            await until(_reaches_the_server, admin)
            await connecting(await admin.create_workflow("connecting"))
            calls: Counter[str] = Counter()
            wire.arm(n, fault)
            try:
                async with asyncio.timeout(30):
                    expected = await SCENARIOS[scenario](admin, calls)
            except Exception as error:
                found.append(f"{error!r} at round trip {n}, {wire.texts[n - 1 : n]}")
            else:
                if not wire.fired:
                    return found, len(wire.texts)
                await _check(sql, schema, calls, expected)
            finally:
                wire.disarm()
    raise AssertionError("the round trips are counted without end")


# A statement that arrives late is one that did not arrive, and more.
FAULTS = [each for each in Fault if each is not Fault.SILENT_BEFORE]
# A write that a fault keeps from the server, and one whose answer it loses: each scenario goes through both. The other
# faults differ in how the journal hears of them, so they go with the scenarios that send batches and each kind of record
# alone, and a late write with a second run, which it could disturb. The slow tests go through all pairs.
ESSENTIAL = {Fault.BEFORE, Fault.AFTER}
WITH_EACH_FAULT = {"ten_steps_gathered", "a_manual_workflow"}
WITH_A_LATE_WRITE = "a_failing_step_and_a_second_run"
# An attempt that is refused, and one whose session ends.
OF_ATTEMPTS = {Fault.BEFORE, Fault.TERMINATED}


def _case(fault, *scenario, is_short):
    """Return a case of a test, which is slow unless it belongs to the short form."""
    marks = [] if is_short else [pytest.mark.slow]
    return pytest.param(*scenario, fault, id="-".join([*scenario, fault.name.lower()]), marks=marks)


def _is_short(scenario, fault):
    return (
        fault in ESSENTIAL
        or scenario in WITH_EACH_FAULT
        or (fault is Fault.LATE and scenario == WITH_A_LATE_WRITE)
    )


CASES = [
    _case(fault, name, is_short=_is_short(name, fault))
    for name in SCENARIOS
    # Steps in sequence send what nested steps send, so this scenario serves the connection attempts alone.
    if name != "three_steps_in_sequence"
    for fault in FAULTS
]


@pytest.mark.parametrize(("scenario", "fault"), CASES)
async def test_faults_lose_and_repeat_nothing_and_raise_no_error(scenario, fault, dsn, schema, admin):
    round_trips = itertools.count(1)
    lanes = (_lane(round_trips, scenario, fault, dsn, schema) for _ in range(_lanes(fault)))
    outcomes = await asyncio.gather(*lanes)
    assert [each for found, _ in outcomes for each in found] == []
    assert min(total for _, total in outcomes) > 3


@pytest.mark.parametrize("fault", [_case(each, is_short=each in OF_ATTEMPTS) for each in FAULTS])
async def test_failed_connection_attempts_lose_nothing(fault, dsn, schema, admin, sql):
    scenario = SCENARIOS["three_steps_in_sequence"]

    few = asyncio.Semaphore(16 if fault in SLOW else 10)  # each has three connections, and the server not as many

    async def one(n):
        calls: Counter[str] = Counter()
        async with (
            few,
            Wire(dsn, sql) as wire,
            _unhurried(Admin(wire.dsn, schema, timeout=_timeout(fault), outage_timeout=30)) as own,
        ):
            journal = (await own.store()).journal
            wire.hook = lambda: journal._flusher and journal._flusher.cancel()
            await until(_reaches_the_server, own)
            wire.arm(n, fault)
            async with asyncio.timeout(30):
                expected = await scenario(own, calls)
            assert n > len(wire.texts) or wire.fired
            wire.disarm()
        return calls, expected, len(wire.texts)

    _, _, round_trips = await one(1000)
    assert round_trips > 10
    outcomes = await asyncio.gather(*(one(n) for n in range(3, round_trips + 1)), return_exceptions=True)
    assert [each for each in outcomes if isinstance(each, BaseException)] == []
    for calls, expected, _ in outcomes:
        await _check(sql, schema, calls, expected)
