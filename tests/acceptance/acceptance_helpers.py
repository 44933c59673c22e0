"""Waiting on conditions, never on time; and the shape that a recorded error is raised in again."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager

from pgqrs import StepFailedError

DEADLINE = 45


async def until(condition, *arguments):
    """Wait until `condition`, an async function, answers with something true; return that."""
    deadline = time.monotonic() + DEADLINE
    while not (answer := await condition(*arguments)):
        assert time.monotonic() < deadline, f"{condition} did not come true in time"
        await asyncio.sleep(0.01)
    return answer


@asynccontextmanager
async def no_hang():
    """Fail, and do not hang, when what is within does not end."""
    async with asyncio.timeout(DEADLINE):
        yield


def limit(admin, **limits):
    """Change limits of an admin that has not been used yet."""
    loops = admin._loops
    loops.settings = loops.settings._replace(limits=loops.settings.limits._replace(**limits))


def is_replay(error, original):
    """Tell whether `error` is a recorded error of the class `original`, raised again."""
    return isinstance(error, StepFailedError) and isinstance(error, original)


async def status(sql, ctx):
    return await sql.fetchval("SELECT status FROM pgqrs_workflows WHERE id = $1", ctx.id())


async def steps(sql, ctx):
    """Return the recorded steps of a workflow as {step id: status}."""
    rows = await sql.fetch("SELECT step_id, status FROM pgqrs_workflow_steps WHERE workflow_id = $1", ctx.id())
    return {row["step_id"]: row["status"] for row in rows}
