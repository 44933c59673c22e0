"""Pages and counts of workflows."""

from __future__ import annotations

from dataclasses import replace

from pgqrs.client.loop_state import LoopStates
from pgqrs.codecs.records import decode_listed_workflow
from pgqrs.errors import ConfigurationError
from pgqrs.storage.access.id_allocator import MAX_ID
from pgqrs.storage.selection.filters import FilterConditions, WorkflowFilter, filter_of
from pgqrs.types import WorkflowCount, WorkflowPage
from pgqrs.validation import check_is_int


async def list_workflows(
    loops: LoopStates,
    matching: WorkflowFilter | None,
    conditions: FilterConditions,
    *,
    after: int | None,
    limit: int,
    payloads: bool,
) -> WorkflowPage:
    """Return a page of the workflows that a filter selects; see `Admin.list_workflows`."""
    check_is_int("`limit`", limit)
    if limit < 0:
        raise ConfigurationError(f"`limit` must be at least 0, got {limit}.")
    if after is not None:
        check_is_int("`after`", after)
        after = min(after, MAX_ID)
    given = filter_of(matching, conditions)
    rows, following = await (await loops.store()).reader.workflows(
        given, limit=limit, after=after, payloads=payloads
    )
    records = [decode_listed_workflow(loops.codec, each) for each in rows]
    return WorkflowPage(records if payloads else [replace(each, input=None) for each in records], following)


async def count_workflows(
    loops: LoopStates, matching: WorkflowFilter | None, conditions: FilterConditions
) -> list[WorkflowCount]:
    """Return the numbers of the workflows that a filter selects; see `Admin.count_workflows`."""
    given = filter_of(matching, conditions)
    return await (await loops.store()).reader.counts(given)
