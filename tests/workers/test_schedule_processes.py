"""Schedules in processes that are killed: each time starts one workflow, and none is lost."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import takewhile

import pytest

from pgqrs import Every, PyWorkflow, workflow
from tests.support.processes import line_of
from tests.support.waiting import DEADLINE, until

WORKER = """
import asyncio, os
from pgqrs import Admin, PyWorkflow, Worker, workflow


@workflow
async def tick(ctx: PyWorkflow) -> str:
    return str(ctx.scheduled_for)


async def main():
    async with Admin(os.environ["PGQRS_DSN"], os.environ["PGQRS_SCHEMA"], heartbeat_timeout=1.0) as admin:
        async with Worker(admin, [tick]):
            print("works", flush=True)
            await asyncio.Event().wait()


asyncio.run(main())
"""

SMALL, LARGE = (2, 4, 2), (8, 25, 40)
"""Processes, schedules and seconds."""


@workflow
async def tick(ctx: PyWorkflow) -> str:
    return str(ctx.scheduled_for)


@pytest.mark.parametrize("size", [SMALL, pytest.param(LARGE, marks=[pytest.mark.slow, pytest.mark.timeout(300)])])
async def test_killed_processes_start_each_time_of_a_schedule_once(admin, sql, program, size):
    processes, schedules, seconds = size
    crew = [program(WORKER) for _ in range(processes)]
    for each in crew:
        await line_of(each.stdout, "works")
    start = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1.5)
    end = start + timedelta(seconds=seconds)
    rule = Every(1)
    for number in range(schedules):
        await admin.schedule(f"s{number}", rule, tick, start=start, end=end, overlap="allow", catchup="all")
    chance, struck = random.Random(seconds), start
    while await sql.fetchval("SELECT count(*) FROM pgqrs_schedules WHERE next_at IS NOT NULL"):
        struck += timedelta(seconds=1)
        await until(_is_past, sql, struck)
        victim = chance.randrange(processes)
        crew[victim].kill()
        crew[victim].wait()
        crew[victim] = program(WORKER)
    await until(_have_ended, sql, seconds=2 * DEADLINE)
    times = list(takewhile(lambda time: time < end, rule.times(start)))
    expected = [(f"s{number}", time) for number in range(schedules) for time in times]
    found = await sql.fetch(
        "SELECT schedule, scheduled_for, status, output #>> '{}' AS output FROM pgqrs_workflows"
    )
    assert sorted((row["schedule"], row["scheduled_for"]) for row in found) == sorted(expected)
    assert all((row["status"], row["output"]) == ("SUCCESS", str(row["scheduled_for"])) for row in found)


async def _is_past(sql, time):
    return await sql.fetchval("SELECT now() > $1", time)


async def _have_ended(sql):
    return not await sql.fetchval("SELECT count(*) FROM pgqrs_workflows WHERE completed_at IS NULL")
