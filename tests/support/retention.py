"""Rows of workflows that ended long ago, and passes of the retention without a worker."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from pgqrs.storage.retention.passes import RetentionPass

TABLES = (
    "pgqrs_workflows",
    "pgqrs_workflow_steps",
    "pgqrs_waits",
    "pgqrs_events",
    "pgqrs_messages",
    "pgqrs_attributes",
)
"""The tables that have rows of a workflow."""


async def aged(sql, days=31.0, status="SUCCESS", **columns):
    """Plant a workflow that ended some days ago, with a step, an event and a message; return its id."""
    values = {"name": "w", "input": '{"args": [], "kwargs": {}}', "epoch": 1, "status": status, **columns}
    if status == "SUCCESS":
        values.setdefault("output", '"done"')
    names = list(values)
    workflow_id = await sql.fetchval(
        f"INSERT INTO pgqrs_workflows ({', '.join(names)}, created_at, completed_at)"
        f" VALUES ({', '.join(f'${n}' for n in range(2, len(names) + 2))},"
        " now() - $1 * interval '1 day', now() - $1 * interval '1 day') RETURNING id",
        days, *values.values(),
    )  # fmt: skip
    await sql.execute(
        "INSERT INTO pgqrs_workflow_steps (workflow_id, step_id, status, epoch, started_at, completed_at, output)"
        " VALUES ($1, 's', 'SUCCESS', 1, now(), now(), '1')", workflow_id,
    )  # fmt: skip
    await sql.execute("INSERT INTO pgqrs_events VALUES ($1, 'e', '1', now())", workflow_id)
    await sql.execute("INSERT INTO pgqrs_attributes (workflow_id, tags) VALUES ($1, '{eu}')", workflow_id)
    await sql.execute(
        "INSERT INTO pgqrs_messages (workflow_id, address, key, payload, is_new)"
        " VALUES ($1, $2, 'k', '1', false)", workflow_id, f"m/{workflow_id}/t",
    )  # fmt: skip
    return workflow_id


async def left(sql):
    """Return the ids of the workflows that are there."""
    return [row["id"] for row in await sql.fetch("SELECT id FROM pgqrs_workflows ORDER BY id")]


async def rows_of(sql, workflow_id):
    """Return the number of rows of a workflow in each table."""
    own = {"pgqrs_workflows": "id"}
    return {
        each: await sql.fetchval(
            f"SELECT count(*) FROM {each} WHERE {own.get(each, 'workflow_id')} = $1", workflow_id
        )
        for each in TABLES
    }


@asynccontextmanager
async def retention_of(admin):
    """Yield the steps of the retention as a worker of an `Admin` takes them."""
    steps = RetentionPass((await admin.store()).database)
    try:
        yield steps
    finally:
        await steps.close()


async def passed(admin):
    """Run a pass, which must be due, to its end, and return the number of deleted workflows."""
    async with retention_of(admin) as steps:
        stage = (await steps.look()).stage
        while (done := await steps.step(stage)) is None or not done.is_over:
            stage = stage if done is None else done.stage
            await asyncio.sleep(0)
    return done.deleted
