"""Rewinds workflows, and lists their rewinds."""

from __future__ import annotations

from pgqrs.client.loop_state import LoopStates
from pgqrs.codecs.records import decode_rewind
from pgqrs.storage.connections.caller import SessionOrConnection
from pgqrs.storage.rewinds.repository import FoundRewind
from pgqrs.types import RewindRecord


class Rewinds:
    """The rewinds of the workflows of a schema, in the transaction of a caller's `session` if there is one."""

    def __init__(self, loops: LoopStates, session: SessionOrConnection | None = None) -> None:
        self._loops = loops
        self._session = session

    async def rewind(self, workflow_id: int, before: str) -> RewindRecord:
        """Rewind a workflow, and notify the workers of its queue once that is committed."""
        if not isinstance(before, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # of untyped callers
            raise TypeError(f"`before` must be the id of a step, got {type(before).__name__}.")
        state = await self._loops.loop_state()
        operations = await state.store.operations_for(self._session)
        found = await operations.rewind(workflow_id, before)
        queue = found.queue

        def committed() -> None:
            if queue is not None:
                state.notifier.notify(queue, workflow_id)

        if self._session is None:
            committed()
        else:
            state.store.sessions.callers.after_commit(self._session, f"rewind of {workflow_id}", committed)
        return self._record(found)

    async def list(self, workflow_id: int) -> list[RewindRecord]:
        """Return the rewinds of a workflow, the first one first."""
        operations = await (await self._loops.store()).operations_for(self._session)
        return [self._record(each) for each in await operations.rewinds(workflow_id)]

    def _record(self, found: FoundRewind) -> RewindRecord:
        return decode_rewind(self._loops.codec, found.rewind, found.steps, found.codec)
