"""Schedules: each time starts one workflow, whatever the number of workers, outages, pauses and overlaps."""

from __future__ import annotations

from datetime import datetime, timedelta

from pgqrs import Admin, Cron, PyWorkflow, Topic, Worker, WorkflowStatus, workflow
from pgqrs.testing import assert_enqueued, run_enqueued
from tests.support.waiting import no_hang, until
from tests.support.workflows import note

pytest_plugins = ("pytest_pgqrs",)

HOUR = timedelta(hours=1)
HOURLY = Cron("@hourly")
GO: Topic[None] = Topic("go")


@workflow
async def report(ctx: PyWorkflow, what: str) -> str:
    await note(ctx, what)
    return f"{what} for {ctx.scheduled_for}"


@workflow
async def waiting(ctx: PyWorkflow) -> str:
    await ctx.receive(GO)
    return str(ctx.scheduled_for)


async def times_of(admin: Admin, name: str = "s") -> list[datetime]:
    """Return the times for which a schedule has started workflows."""
    found = await admin.list_workflows(limit=10_000)
    return sorted(each.scheduled_for for each in found if each.schedule == name)


async def next_hours(handle, count):
    """Return the next times of an hourly schedule."""
    return await handle.next(count)


async def test_time_starts_a_workflow_with_its_options(kit, clock):
    handle = await kit.options(queue="reports", priority=-1).schedule("s", HOURLY, report, "sales")
    (first,) = await handle.next()
    await clock.advance_to(first)
    found = await assert_enqueued(kit, report, "sales", queue="reports")
    assert (found.priority, found.schedule, found.scheduled_for) == (-1, "s", first)
    assert found.key == f"s {first.isoformat()}"
    assert await run_enqueued(kit, [report]) == 1
    assert await kit.handle(found.id).result() == f"sales for {first}"


async def test_worker_starts_a_schedule_when_it_is_due(kit, clock):
    handle = await kit.schedule("s", HOURLY, report, "sales")
    hours = await handle.next(3)
    async with no_hang(), Worker(kit, [report]):
        for hour in hours:
            await clock.advance_to(hour)
            await until(lambda hour=hour: _succeeded(kit, hour))
    assert await times_of(kit) == hours


async def _succeeded(admin, hour):
    found = await admin.list_workflows(status=WorkflowStatus.SUCCESS)
    return hour in {each.scheduled_for for each in found}
