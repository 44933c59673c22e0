"""What is recorded of workflows and their steps, and the shape that a recorded error is raised in again."""

from __future__ import annotations

from pgqrs import StepFailedError


def is_replay(error, original):
    """Tell whether `error` is a recorded error of the class `original`, raised again."""
    return isinstance(error, StepFailedError) and isinstance(error, original)


async def status(sql, ctx):
    return await sql.fetchval("SELECT status FROM pgqrs_workflows WHERE id = $1", ctx.id())


async def steps(sql, ctx):
    """Return the recorded steps of a workflow as {step id: status}."""
    rows = await sql.fetch("SELECT step_id, status FROM pgqrs_workflow_steps WHERE workflow_id = $1", ctx.id())
    return {row["step_id"]: row["status"] for row in rows}


async def row_of(sql, workflow_id):
    return await sql.fetchrow("SELECT * FROM pgqrs_workflows WHERE id = $1", workflow_id)


async def tables(sql):
    """Return everything that is recorded, as text."""
    workflows = await sql.fetch("SELECT w::text FROM pgqrs_workflows w ORDER BY id")
    return workflows, await sql.fetch("SELECT s::text FROM pgqrs_workflow_steps s ORDER BY workflow_id, step_id")
