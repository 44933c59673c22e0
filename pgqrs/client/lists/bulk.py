"""Operations on many workflows: cancel, resume, rewind and send."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from pgqrs.client.loop_state import LoopState, LoopStates
from pgqrs.client.misuse import warn_in_body
from pgqrs.storage.access.bulk import BulkCancel, BulkResume, BulkRewind, BulkSend
from pgqrs.storage.access.operations import Access
from pgqrs.storage.connections.caller import SessionOrConnection
from pgqrs.storage.selection.bulk import BulkOperation, Outcomes, Progress
from pgqrs.storage.selection.selections import Selectable, Selection, selection_of
from pgqrs.types import BulkReport
from pgqrs.validation import check_name, validate_key
from pgqrs.workflow.messaging.messages import Topic, as_topic, message


class BulkAction(Protocol):
    """A change of the workflows of a chunk, and a look at its outcomes."""

    async def look(self, ids: Sequence[int]) -> Outcomes:
        """Return the outcomes that `change` would have now."""
        ...

    async def change(self, ids: Sequence[int]) -> Outcomes:
        """Change the workflows that are not locked, and return the outcomes."""
        ...


class BulkOperations:
    """The operations on the workflows that `which` names, in the transaction of a caller's session if given."""

    def __init__(
        self,
        loops: LoopStates,
        which: Selectable,
        *,
        dry_run: bool,
        progress: Progress | None,
        session: SessionOrConnection | None,
    ) -> None:
        self._loops = loops
        self._selection: Selection = selection_of(which)
        self._dry_run = dry_run
        self._progress = progress
        self._session = session

    async def cancel(self, *, interrupt: bool) -> BulkReport:
        """Cancel the workflows."""
        warn_in_body("cancel")
        return await self.execute(partial(BulkCancel, interrupt=interrupt))

    async def resume(self) -> BulkReport:
        """Make the workflows ready to run again."""
        return await self.execute(BulkResume)

    async def rewind(self, before: str) -> BulkReport:
        """Rewind the workflows to the time before a step."""
        check_name("step id", before)
        return await self.execute(partial(BulkRewind, before=before))

    async def send(self, topic: Topic[Any] | str, value: object, key: str) -> BulkReport:
        """Send a message to the workflows."""
        of, codec = as_topic(topic), self._loops.codec
        own = validate_key(key)
        message_for = partial(message, codec, topic=of, value=value, key=own)
        report = await self.execute(partial(BulkSend, message_for=message_for))
        if report.changed and not self._dry_run:
            await self._loops.announce_sent(self._session)
        return report

    async def execute(self, action_on: Callable[[Access], BulkAction]) -> BulkReport:
        """Do the action that a function makes for an access, for all chunks, and return the report."""
        state = await self._loops.loop_state()
        operations = await state.store.operations_for(self._session)
        action = action_on(operations.access)
        act = action.look if self._dry_run else partial(_change, action, state)
        bulk = BulkOperation(operations.run, act, self._progress, dry_run=self._dry_run)
        return await bulk.execute(self._selection)


async def _change(action: BulkAction, state: LoopState, ids: Sequence[int]) -> Outcomes:
    """Change the workflows of a chunk, and poll at once for the results of the ones that have ended by it."""
    outcomes = await action.change(ids)
    for each, reason in outcomes.items():
        if reason is None:
            state.notify_finished(each)
    return outcomes
