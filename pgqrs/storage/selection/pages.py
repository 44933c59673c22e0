"""The pages of a list of workflows, newest first, and the counts of workflows.

Each page has a bound, however many workflows there are. Without conditions, and for workflows that have failed or
were cancelled, a page is the next rows of an index. Attributes, parents and runs have indexes, whose matches are
then looked up one by one, newest first, until the page is full. The other conditions have no index, for which
each workflow would have to pay: a page searches the newest `SEARCHED` workflows below its cursor, and the page
after it goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, cast, null, select, true

from pgqrs.codecs.records import StoredWorkflow
from pgqrs.models import Attributes, Text, Workflow
from pgqrs.storage.queries.workflows import holds_key, shown_status, stored_workflow, workflow_columns
from pgqrs.storage.records import stored_member
from pgqrs.storage.selection.filters import (
    FAILED,
    WorkflowFilter,
    conditions_of,
    conditions_on_attributes,
    conditions_on_row,
)
from pgqrs.storage.sql.connection import Connection
from pgqrs.storage.sql.expressions import COUNT, number_literal, pg, text_literal
from pgqrs.types import WorkflowCount, WorkflowStatus

SEARCHED = 100_000
"""Maximum workflows that one page examines in the order of an index."""

LOOKED_UP = 25_000
"""Maximum workflows that one page looks up one by one, which takes four times as long for each."""


class StoredPage(NamedTuple):
    """A page of workflows, and the id below which the next page begins; None after the last page."""

    rows: Sequence[StoredWorkflow]
    next: int | None


class WorkflowLists:
    """Lists and counts workflows, in a transaction of the caller."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def page(
        self, given: WorkflowFilter, *, limit: int, after: int | None, payloads: bool = True
    ) -> StoredPage:
        """Return up to `limit` workflows, newest first; with `after`, only workflows with lower ids.

        Without `payloads` inputs and outputs are not read.
        """
        columns = _columns(payloads=payloads)
        holder = await self._holder_of_key(given)
        candidates = None if holder is not None else _candidates(given)
        if candidates is not None:
            examined = _newest_first(candidates.c.id, after)
            rows = await self._rows(_looked_up(given, examined.limit(number_literal(LOOKED_UP)), columns), limit)
            floor = None if len(rows) == limit else await self._floor(examined, LOOKED_UP)
        else:
            statuses = given.statuses() or frozenset()
            is_failed = bool(statuses) and statuses.issubset(FAILED)
            examined = _newest_first(Workflow.id, after)
            if is_failed:
                examined = examined.where(*conditions_on_row(WorkflowFilter(status=given.status)))
            is_searched = holder is None and bool(given.conditions() - ({"status"} if is_failed else set()))
            floor = await self._floor(examined, SEARCHED) if is_searched else None
            own = [] if holder is None else [Workflow.id == holder]
            rows = await self._rows(_in_order(given, after, floor, columns).where(*own), limit)
        if rows and len(rows) == limit:
            return StoredPage(rows, rows[-1].id)
        return StoredPage(rows, None if floor is None else floor + 1)  # the floor was not examined

    async def _rows(self, query: Any, limit: int) -> list[StoredWorkflow]:
        found = await self._connection.execute(query.limit(number_literal(limit)))
        return [stored_workflow(row) for row in found.mappings()]

    async def count(self, given: WorkflowFilter) -> list[WorkflowCount]:
        """Return the numbers of workflows by name and status; it reads all of them."""
        status: Any = shown_status().label("status")
        query = select(Workflow.name, status, COUNT.label("count")).where(*conditions_of(given))
        grouped = query.group_by(Workflow.name, status).order_by(Workflow.name, status)
        rows: Any = await self._connection.execute(grouped)
        return [WorkflowCount(name, stored_member(WorkflowStatus, status), count) for name, status, count in rows]

    async def _floor(self, examined: Any, most: int) -> int | None:
        """Return the first id that a page of `most` candidates does not examine, None if it examines all."""
        rest = examined.offset(number_literal(most)).limit(number_literal(1))
        found: int | None = await self._connection.scalar(rest)
        return found

    async def _holder_of_key(self, given: WorkflowFilter) -> int | None:
        """Return the only workflow with the name and the key of a filter; None if there may be several.

        A key that is released at the end of its workflow may have been the key of earlier workflows.
        """
        if given.key is None or not isinstance(given.name, str):
            return None
        own = (Workflow.name == given.name, Workflow.key == given.key, holds_key(), ~Workflow.releases_key)
        found: int | None = await self._connection.scalar(select(Workflow.id).where(*own))
        return found


def _columns(*, payloads: bool) -> Sequence[Any]:
    """Return the columns of a `StoredWorkflow`, with null in place of its input and output without `payloads`."""
    if payloads:
        return workflow_columns()
    unread = {"input": text_literal("null").label("input"), "output": cast(null(), Text()).label("output")}
    return [unread.get(each.name, each) for each in workflow_columns()]


def _newest_first(own: Any, after: int | None) -> Any:
    """Return the query for the ids of a column, newest first, below `after`."""
    below = [] if after is None else [own < after]
    return select(own.label("id")).where(*below).order_by(own.desc())


def _in_order(given: WorkflowFilter, after: int | None, floor: int | None, columns: Sequence[Any]) -> Any:
    """Return the query for the workflows above the floor, in the order of an index."""
    query = select(*columns).where(*conditions_of(given)).order_by(Workflow.id.desc())
    below = [] if after is None else [Workflow.id < after]
    return query.where(*below, *([] if floor is None else [Workflow.id > floor]))


def _candidates(given: WorkflowFilter) -> Any:
    """Return the source of the ids that an index finds; None if no condition has an index."""
    if described := conditions_on_attributes(given):
        return select(Attributes.workflow_id.label("id")).where(*described).subquery("described")
    if given.parent is not None:
        return select(Workflow.id).where(Workflow.parent_id == given.parent).subquery("children")
    if given.statuses() == frozenset({WorkflowStatus.RUNNING}):
        runs = select(Workflow.id).where(Workflow.executor.is_not(None))
        # The submissions of a batch have its status.
        member = cast(pg.json_array_elements_text(Workflow.input), BigInteger())
        in_batches = select(member).where(Workflow.executor.is_not(None), Workflow.batch_id == Workflow.id)
        return runs.union_all(in_batches).subquery("running")
    return None


def _looked_up(given: WorkflowFilter, examined: Any, shown: Sequence[Any]) -> Any:
    """Return the query for the candidates that satisfy all conditions.

    With its limit the inner query is done for each candidate in turn, so that the outer one ends with the page. A
    join may read all workflows.
    """
    own = examined.subquery("candidates")
    columns = select(*shown).where(Workflow.id == own.c.id, *conditions_on_row(given))
    found = columns.limit(number_literal(1)).lateral("found")
    return select(*found.c).select_from(own.join(found, true())).order_by(own.c.id.desc())
