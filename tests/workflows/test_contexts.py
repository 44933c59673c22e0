"""Contexts of workflows: start, adoption and end of a run, its leftover tasks, and lists of records."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from pgqrs import (
    PyWorkflow,
    RunEndedError,
    RunStopped,
    Unreadable,
    WorkflowError,
    WorkflowFinishedError,
    WorkflowInProgressError,
    WorkflowNotFoundError,
    step,
    workflow,
)
from tests.support.recorded import status, steps
from tests.support.waiting import no_hang
from tests.support.workflows import note


async def epoch(sql, ctx):
    return await sql.fetchval("SELECT epoch FROM pgqrs_workflows WHERE id = $1", ctx.id())


async def test_start_on_a_live_run_does_nothing(admin, sql):
    ctx = await admin.create_workflow("wf")
    await ctx.start()
    await note(ctx, "a")
    await ctx.start()
    await asyncio.gather(ctx.start(), ctx.start())
    assert await epoch(sql, ctx) == 1
    assert await note(ctx, "b") == "b"


async def test_concurrent_starts_claim_one_run(admin, sql):
    ctx = await admin.create_workflow("wf")
    await asyncio.gather(*(ctx.start() for _ in range(5)))
    assert await epoch(sql, ctx) == 1


async def test_workflow_call_adopts_a_manually_started_run(admin, sql):
    @workflow
    async def wf(ctx: PyWorkflow) -> list:
        return [await note(ctx, "before"), await note(ctx, "within")]

    ctx = await admin.create_workflow("wf")
    await ctx.start()
    await note(ctx, "before")
    assert await wf(ctx) == ["before", "within"]
    assert await epoch(sql, ctx) == 1
    assert await status(sql, ctx) == "SUCCESS"


async def test_workflow_call_claims_a_new_run_after_an_error_or_crash(admin, sql):
    endings = [RuntimeError("end"), KeyboardInterrupt(), None]

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        ending = endings.pop(0)
        if ending:
            raise ending
        return "done"

    ctx = await admin.create_workflow("wf")
    with pytest.raises(RuntimeError):
        await wf(ctx)
    assert await epoch(sql, ctx) == 1
    with pytest.raises(KeyboardInterrupt):
        await wf(ctx)
    assert await epoch(sql, ctx) == 2
    assert await wf(ctx) == "done"
    assert await epoch(sql, ctx) == 3


async def test_calling_a_workflow_in_its_own_run_is_an_error(admin, sql):
    @workflow
    async def inner(ctx: PyWorkflow) -> str:
        return "inner"

    @workflow
    async def outer(ctx: PyWorkflow) -> str:
        with pytest.raises(WorkflowInProgressError, match=str(ctx.id())) as caught:
            await inner(ctx)
        assert "await ctx.call(...)" in str(caught.value)
        assert "create_workflow" not in str(caught.value)  # a replay would not know that one
        return await note(ctx, "went on")

    ctx = await admin.create_workflow("outer")
    assert await outer(ctx) == "went on"
    assert await status(sql, ctx) == "SUCCESS"


async def test_second_concurrent_call_of_a_workflow_is_an_error(admin):
    release = asyncio.Event()

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        await release.wait()
        return "done"

    ctx = await admin.create_workflow("wf")
    first, second = asyncio.create_task(wf(ctx)), asyncio.create_task(wf(ctx))
    async with no_hang():
        with pytest.raises(WorkflowInProgressError):
            await second
        release.set()
        assert await first == "done"


# --- tasks left over ---


async def test_leftover_task_of_an_ended_run_executes_no_step(admin, sql):
    release = asyncio.Event()
    executed = []

    @step
    async def late(ctx: PyWorkflow) -> None:
        executed.append("late")

    async def background(ctx):
        await release.wait()
        await late(ctx)

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        tasks.append(asyncio.create_task(background(ctx)))
        return "done"

    tasks = []
    ctx = await admin.create_workflow("wf")
    assert await wf(ctx) == "done"
    release.set()
    async with no_hang():
        with pytest.raises(RunStopped) as caught:
            await tasks[0]
    assert isinstance(caught.value.error, WorkflowFinishedError)
    assert executed == []
    assert await steps(sql, ctx) == {}


@pytest.mark.parametrize("ending", [RuntimeError("end"), asyncio.CancelledError()], ids=["end", "crash"])
async def test_leftover_task_does_not_join_the_next_run(admin, sql, ending):
    release, second_goes = asyncio.Event(), asyncio.Event()
    executed = []

    @step
    async def late(ctx: PyWorkflow) -> str:
        executed.append("late")
        return "late"

    async def background(ctx):
        await release.wait()
        return await late(ctx)

    @workflow
    async def wf(ctx: PyWorkflow) -> str:
        if not tasks:
            tasks.append(asyncio.create_task(background(ctx)))
            raise ending
        release.set()
        await second_goes.wait()
        return "second"

    tasks = []
    ctx = await admin.create_workflow("wf")
    async with no_hang():
        with pytest.raises(type(ending)):
            await wf(ctx)
        second = asyncio.create_task(wf(ctx))
        with pytest.raises(RunStopped) as caught:
            await tasks[0]
        assert isinstance(caught.value.error, (WorkflowFinishedError, RunEndedError))
        second_goes.set()
        assert await second == "second"
    assert executed == []
    assert await steps(sql, ctx) == {}


async def test_step_of_an_ended_run_does_not_write_into_the_next_run(admin, sql):
    """The next run has fenced it: the value of the straggler is not recorded."""
    release, started = asyncio.Event(), asyncio.Event()

    @step
    async def slow(ctx: PyWorkflow, value: str) -> str:
        started.set()
        await release.wait()
        return value

    @workflow
    async def wf(ctx: PyWorkflow, value: str) -> str:
        if value == "first":
            tasks.append(asyncio.create_task(slow(ctx, value)))
            await started.wait()
            raise RuntimeError("end")
        return await slow(ctx, value)

    tasks = []
    ctx = await admin.create_workflow("wf")
    async with no_hang():
        with pytest.raises(RuntimeError):
            await wf(ctx, "first")
        await ctx.start()
        release.set()
        with pytest.raises(RunStopped) as caught:
            await tasks[0]
        assert isinstance(caught.value.error, WorkflowError)
        assert await wf(ctx, "second") == "second"


async def test_context_of_an_ended_run_needs_a_new_start(admin, sql):
    @workflow
    async def wf(ctx: PyWorkflow) -> None:
        raise RuntimeError("end")

    ctx = await admin.create_workflow("wf")
    with pytest.raises(RuntimeError):
        await wf(ctx)
    with pytest.raises(WorkflowFinishedError, match="ERROR"):
        await note(ctx, "a")
    await ctx.start()
    assert await note(ctx, "a") == "a"


# --- existing and missing workflows ---


@pytest.mark.parametrize("missing", [99, 0, -1, 2**63 - 1, 2**63, 2**200])
async def test_unknown_workflow_id_is_reported(admin, missing):
    for ask in (admin.get_workflow, admin.resume_workflow, admin.list_steps):
        with pytest.raises(WorkflowNotFoundError, match=str(missing)) as caught:
            await ask(missing)
        assert caught.value.workflow_id == missing


async def test_start_of_a_deleted_workflow_raises_not_found(admin, sql):
    ctx = await admin.create_workflow("wf")
    await sql.execute("DELETE FROM pgqrs_workflows")
    with pytest.raises(WorkflowNotFoundError):
        await ctx.start()


async def test_step_of_a_deleted_workflow_raises_not_found(admin, sql):
    ctx = await admin.create_workflow("wf")
    await ctx.start()
    await sql.execute("DELETE FROM pgqrs_workflows")
    async with no_hang():
        with pytest.raises(WorkflowNotFoundError):
            await note(ctx, "a")


async def test_context_fetched_by_id_has_its_id_and_name(admin):
    made = await admin.create_workflow("some name")
    fetched = await admin.get_workflow(made.id())
    assert (fetched.id(), fetched.name) == (made.id(), "some name")


async def test_workflow_lists_support_filters_and_pages(admin):
    @workflow
    async def fails(ctx: PyWorkflow) -> None:
        raise RuntimeError("x")

    for _ in range(3):
        with pytest.raises(RuntimeError):
            await admin.run(fails)
    for _ in range(3):
        await admin.create_workflow("waits")
    assert [each.id for each in await admin.list_workflows()] == [6, 5, 4, 3, 2, 1]
    assert [each.id for each in await admin.list_workflows(limit=2)] == [6, 5]
    assert [each.id for each in await admin.list_workflows(limit=2, after=5)] == [4, 3]
    assert [each.id for each in await admin.list_workflows(status="ERROR")] == [3, 2, 1]
    assert [each.id for each in await admin.list_workflows(name="waits", after=6)] == [5, 4]
    assert await admin.list_workflows(status="SUCCESS") == []
    with pytest.raises(ValueError):
        await admin.list_workflows(status="WRONG")
    with pytest.raises(ValueError):
        await admin.list_workflows(limit=-1)


async def test_records_are_frozen_and_times_are_aware(admin):
    ctx = await admin.create_workflow("wf", {"n": 1})
    await note(ctx, "a")
    [record], [recorded] = await admin.list_workflows(), await admin.list_steps(ctx.id())
    for each in (record, recorded):
        with pytest.raises(AttributeError):
            each.status = "OTHER"
    assert record.created_at.tzinfo is not None
    assert record.created_at <= record.started_at <= record.updated_at
    assert recorded.started_at <= recorded.completed_at
    assert record.completed_at is None


async def test_steps_are_listed_in_start_order(admin):
    ctx = await admin.create_workflow("wf")
    for name in ("c", "a", "b"):
        await note(ctx, name)
    assert [each.step_id for each in await admin.list_steps(ctx.id())] == ["note:c", "note:a", "note:b"]


DEEP = "[" * 5_000 + "9" * 5_000 + "]" * 5_000
"""JSON that no Python reads: the lists are too deep until 3.12, the number has too many digits from 3.11 on."""


@pytest.mark.plants_rows
async def test_list_includes_rows_with_unreadable_payloads(admin, sql):
    fine, broken = await admin.create_workflow("fine", 1), await admin.create_workflow("broken", 2)
    await sql.execute(
        "UPDATE pgqrs_workflows SET input = $2, output = $2, error = $2 WHERE id = $1", broken.id(), DEEP
    )
    await sql.execute(
        "INSERT INTO pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, completed_at, error)"
        " VALUES ($1, 'far', 'ERROR', 0, '-infinity', 'infinity', $2), ($1, 'near', 'ERROR', 0, now(), now(), $3)",
        broken.id(), DEEP, '{"type": "ValueError"}',
    )  # fmt: skip
    second, first = await admin.list_workflows()
    assert (first.id, first.input) == (fine.id(), {"args": [1], "kwargs": {}})
    assert second.status == "PENDING"
    for payload in (second.input, second.output, second.error):
        assert isinstance(payload, Unreadable)
        assert "Error" in payload.error
    far, near = await admin.list_steps(broken.id())
    assert isinstance(far.error, Unreadable)
    assert (far.started_at.year, far.completed_at.year, near.error) == (1, 9999, {"type": "ValueError"})
    assert await admin.handle(broken.id()).status() == "PENDING"


@pytest.mark.plants_rows
async def test_list_includes_rows_with_out_of_range_times(admin, sql):
    fine, late = await admin.create_workflow("fine", 1), await admin.create_workflow("late", 2)
    await sql.execute(
        "UPDATE pgqrs_workflows SET status = 'WAITING', due_at = timestamptz '33715-01-01', deadline = 'infinity',"
        " started_at = timestamptz '4000-01-01 BC' WHERE id = $1",
        late.id(),
    )
    second, first = await admin.list_workflows()
    assert (first.id, first.due_at) == (fine.id(), None)
    assert second.due_at == second.deadline == datetime(9999, 12, 30, 23, 59, 59, tzinfo=UTC)
    assert second.started_at == datetime(1, 1, 2, tzinfo=UTC)
    assert await admin.handle(late.id()).status() == "WAITING"
