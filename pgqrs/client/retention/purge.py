"""The purge of chosen workflows."""

from __future__ import annotations

from functools import partial

from pgqrs.client.lists.bulk import BulkOperations
from pgqrs.client.loop_state import LoopStates
from pgqrs.storage.access.operations import Access
from pgqrs.storage.connections.caller import SessionOrConnection
from pgqrs.storage.retention.purge import Purge
from pgqrs.storage.selection.bulk import Progress
from pgqrs.storage.selection.selections import Selectable
from pgqrs.types import BulkReport

LONGEST = 600.0
"""Maximum seconds of one transaction of a purge: a workflow may have very many children and steps."""


async def purge(
    loops: LoopStates,
    which: Selectable,
    *,
    dry_run: bool,
    progress: Progress | None,
    session: SessionOrConnection | None,
) -> BulkReport:
    """Delete chosen workflows that have ended, then their messages; see `Admin.purge`."""
    bulk = BulkOperations(loops, which, dry_run=dry_run, progress=progress, session=session)
    store = await loops.store()
    made: list[Purge] = []

    def action_on(access: Access) -> Purge:
        run = access.run if session is not None else partial(store.database.run_with_retries, lasting=LONGEST)
        made.append(Purge(run))
        return made[0]

    if session is None:
        await store.tables.ensure()
    report = await bulk.execute(action_on)
    if not dry_run:
        await made[0].sweep()
    return report
