"""Parents and children: the children that many tests start, and the rows of a parent's children."""

from __future__ import annotations

from pgqrs import PyWorkflow, step, workflow
from tests.support.recorded import row_of


class NegativeError(Exception):
    """The failure of a child that is given a negative number."""


@step
async def doubled(ctx: PyWorkflow, number: int) -> int:
    return 2 * number


@workflow
async def double(ctx: PyWorkflow, number: int) -> int:
    """Execute one step, or fail for a negative number."""
    if number < 0:
        raise NegativeError(f"{number} is negative")
    return await doubled(ctx, number)


@workflow
async def nap(ctx: PyWorkflow) -> str:
    """Wait for an hour."""
    await ctx.sleep(3600)
    return "slept"


async def children_of(sql, parent_id):
    """Return the rows of the children of a workflow, in the order of their ids."""
    return await sql.fetch("SELECT * FROM pgqrs_workflows WHERE parent_id = $1 ORDER BY id", parent_id)


async def statuses_of(sql, parent_id):
    """Return the statuses of the children of a workflow, in the order of their ids."""
    return [each["status"] for each in await children_of(sql, parent_id)]


async def is_waiting(sql, workflow_id, *, new=False):
    """Return whether a workflow is parked, and whether its waits were seen by a delivery unless `new` is true."""
    row = await row_of(sql, workflow_id)
    if row is None or row["status"] != "WAITING":
        return False
    left = await sql.fetchval("SELECT count(*) FROM pgqrs_waits WHERE workflow_id = $1 AND is_new", workflow_id)
    return new or not left


async def is_quiet(sql):
    """Return whether every message and wait was seen, so that a delivery has nothing to do."""
    return not await sql.fetchval(
        "SELECT (SELECT count(*) FROM pgqrs_messages WHERE is_new) + (SELECT count(*) FROM pgqrs_waits WHERE is_new)"
    )
