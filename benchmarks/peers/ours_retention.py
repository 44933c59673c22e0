"""pgqrs, this checkout: the time of a step beside the pass that deletes old workflows (R1)."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import asyncpg
from common import Arguments, percentiles, report, small_dict, timed

from pgqrs import Admin, PyWorkflow, step, workflow
from pgqrs.storage.retention.passes import RetentionPass

OLD = int(os.environ.get("PGQRS_BENCH_OLD", "200000"))
QUICK_OLD = 2_000
QUICK = 200
WORKFLOWS = """
    INSERT INTO pgqrs.pgqrs_workflows (name, status, input, output, epoch, created_at, completed_at)
    SELECT 'old', 'SUCCESS', '{"args": [], "kwargs": {}}', '1', 1, now() - interval '40 d', now() - interval '40 d'
    FROM generate_series(1, $1::int)
"""
STEPS = """
    INSERT INTO pgqrs.pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, completed_at, output)
    SELECT w.id, 'step' || n, 'SUCCESS', 1, now(), now(), '{"ok": true}'
    FROM pgqrs.pgqrs_workflows w, generate_series(1, 5) n WHERE w.name = 'old'
"""


@step(key=lambda number: number)
async def tiny(_ctx: PyWorkflow, number: int) -> dict[str, Any]:
    """Return the small dict."""
    return small_dict(number)


async def beside(asked: Arguments) -> None:
    """Measure the steps of workflows while a pass deletes old workflows, or without one (R1FREE)."""
    took: list[float] = []

    @workflow
    async def bench(ctx: PyWorkflow, number: int) -> None:
        for each in range(asked.steps):
            began = time.perf_counter()
            await tiny(ctx, number + each)
            took.append(time.perf_counter() - began)

    async with Admin(asked.dsn) as admin:
        await admin.install()
        connection = await asyncpg.connect(asked.dsn)
        for statement, values in ((WORKFLOWS, [QUICK_OLD if asked.workflows <= QUICK else OLD]), (STEPS, [])):
            await connection.execute(statement, *values)
        await connection.execute("VACUUM ANALYZE")
        await connection.close()
        if asked.work == "r1":
            await admin.set_retention()
        passing = asyncio.create_task(_pass(admin))

        async def run(number: int) -> None:
            await admin.run(bench, number)

        async def warm() -> None:
            took.clear()

        seconds = await timed(run, asked.workflows, asked.concurrency, warm=warm)
        passing.cancel()
        with suppress(asyncio.CancelledError):
            await passing
        deleted = (await admin.retention()).deleted
    report(
        "pgqrs",
        **percentiles(took) | {"seconds": seconds},
        workflows=asked.workflows,
        steps=asked.workflows * asked.steps,
        deleted=deleted,
    )


async def _pass(admin: Admin) -> None:
    """Take the steps of the retention, as a worker does."""
    steps = RetentionPass((await admin.store()).database)
    try:
        stage = (await steps.look()).stage
        while True:
            done = await steps.step(stage)
            stage = stage if done is None else done.stage
            await asyncio.sleep(0.05 if done is None else max(0.0, min(done.rest, 1.0)))
    finally:
        await steps.close()


WORKS: dict[str, Callable[[Arguments], Coroutine[Any, Any, None]]] = {"r1free": beside, "r1": beside}
