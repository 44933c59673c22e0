"""The deletion of chosen workflows, each with its children and their children."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from sqlalchemy import case, func, select, true
from sqlalchemy.orm import aliased

from pgqrs.models import Workflow
from pgqrs.storage.retention.families import family_of, given_ids
from pgqrs.storage.retention.removal import has_unread_reply, reasons_to_keep, removal_of, sweep, without_parent
from pgqrs.storage.selection.bulk import Outcomes, Run
from pgqrs.storage.sql.connection import Connection
from pgqrs.storage.sql.expressions import ONE, text_literal, text_of_array

AT_ONCE = 500
"""Maximum workflows, and their children, that one statement deletes."""

LIVE = "have not ended"

HAVE_PARENT = "are children of a workflow that stays"

UNREAD_REPLY = "have replied within the last hour"


class Purge:
    """Deletes workflows by their ids, or looks which of them it would delete.

    The outcome of a workflow is None if it was deleted, else the reason to keep it. A workflow that another
    transaction has locked has none.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._gone: set[int] = set()
        """The workflows that were deleted, or would be: a later call may name a child of an earlier one."""

    async def look(self, ids: Sequence[int]) -> Outcomes:
        """Return the outcomes that `change` would have now."""
        outcomes: dict[int, str | None] = {}
        for some in _parts(ids):
            outcomes |= await self._run(partial(_assess, ids=some))
        return self._of(ids, outcomes)

    async def change(self, ids: Sequence[int]) -> Outcomes:
        """Delete the workflows that have ended and are not to be kept, with their children."""
        outcomes: dict[int, str | None] = {}
        for some in _parts(ids):
            outcomes |= await self._run(partial(_purge, ids=some))
        return self._of(ids, outcomes)

    def _of(self, ids: Sequence[int], outcomes: Outcomes) -> Outcomes:
        self._gone.update(each for each, reason in outcomes.items() if reason is None)
        found = {each: outcomes[each] for each in ids if each in outcomes}
        return found | {each: None for each in ids if each in self._gone}

    async def sweep(self) -> int:
        """Delete the messages of deleted workflows, and return their number."""
        last: int | None = 0
        total = 0
        while last is not None:
            last, deleted = await self._run(partial(_sweep, after=last))
            total += deleted
        return total


def _parts(ids: Sequence[int]) -> list[Sequence[int]]:
    return [ids[first : first + AT_ONCE] for first in range(0, len(ids), AT_ONCE)]


async def _purge(connection: Connection, *, ids: Sequence[int]) -> dict[int, str | None]:
    """Delete workflows; a second statement finds the reasons of the others, of which the locked ones have none."""
    family = {"ids": text_of_array(await family_of(connection, ids))}
    deleted: list[int] = list(await connection.scalars(purge(), family))
    outcomes: dict[int, str | None] = dict.fromkeys(deleted)
    if set(ids).difference(outcomes):
        left: Any = await connection.execute(assess(), family)
        outcomes |= {row.id: row.reason for row in left if row.reason is not None}
    return outcomes


async def _assess(connection: Connection, *, ids: Sequence[int]) -> dict[int, str | None]:
    family = {"ids": text_of_array(await family_of(connection, ids))}
    rows: Any = await connection.execute(assess(), family)
    return {row.id: row.reason for row in rows}


async def _sweep(connection: Connection, *, after: int) -> tuple[int | None, int]:
    row: Any = (await connection.execute(sweep(), {"after": after})).one()
    return row.last, row.deleted


def purge() -> Any:
    """Return the statement that deletes the workflows of some `ids`, the text of an array.

    It returns the ids of the workflows that were deleted.
    """
    given, own = given_ids(), aliased(Workflow, name="own")
    locked = (
        select(own.id, own.parent_id)
        .where(own.id == given.c.id, own.completed_at.is_not(None))
        .where(*(~each for each in reasons_to_keep(own).values()), ~has_unread_reply(own))
        .with_for_update(skip_locked=True, of=own)
        .correlate_except(own)
        .lateral("locked")
    )
    held = select(locked.c.id, locked.c.parent_id).select_from(given.join(locked, true())).cte("held")
    gone = without_parent(held.prefix_with("MATERIALIZED"))
    deleted, others = removal_of(gone)
    return select(deleted.c.id).add_cte(*others)


def assess() -> Any:
    """Return the query for the workflows of some `ids`, the text of an array, each with the reason to keep it.

    The reason is null for the workflows that a purge deletes.
    """
    given, own = given_ids(), aliased(Workflow, name="own")
    reasons = {LIVE: own.completed_at.is_(None), **reasons_to_keep(own), UNREAD_REPLY: has_unread_reply(own)}
    reason = case(*((condition, text_literal(name)) for name, condition in reasons.items()))
    looked_up = (
        select(own.id, own.parent_id, reason.label("reason"))
        .where(own.id == given.c.id)
        .limit(ONE)
        .correlate_except(own)
        .lateral("looked_up")
    )
    judged = select(*looked_up.c).select_from(given.join(looked_up, true())).cte("judged")
    judged = judged.prefix_with("MATERIALIZED")
    free = select(judged.c.id, judged.c.parent_id).where(judged.c.reason.is_(None)).cte("free")
    gone = without_parent(free)
    is_kept = gone.c.id.is_(None)
    shown = case((is_kept, func.coalesce(judged.c.reason, text_literal(HAVE_PARENT))))
    return select(judged.c.id, shown.label("reason")).join_from(
        judged, gone, gone.c.id == judged.c.id, isouter=True
    )
