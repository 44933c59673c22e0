"""The access of workflow operations to the caller's transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar
from uuid import UUID

from pgqrs.errors import SessionError
from pgqrs.storage.access.id_allocator import IdAllocator
from pgqrs.storage.access.inserts import enqueue_workflows, insert_event, insert_message, insert_workflow
from pgqrs.storage.connections.caller import CallerConnection
from pgqrs.storage.queries.server import ExecutorState, ServerRepository, notify
from pgqrs.storage.queries.workflows import WorkflowRepository
from pgqrs.storage.records import KeyOwner
from pgqrs.storage.sql.channels import executor_channel
from pgqrs.storage.sql.connection import Connection
from pgqrs.storage.writes.creation import AnySubmission, NewWorkflow
from pgqrs.storage.writes.messages import SentMessage
from pgqrs.storage.writes.outbox import EmittedEvent

T = TypeVar("T")


class CallerTransaction:
    """Writes in the caller's transaction, to be committed or rolled back by the caller.

    `ids` supplies reserved ids; the `sequence` supplies an id if no id is in stock.
    """

    def __init__(self, connection: CallerConnection, ids: IdAllocator, sequence: str) -> None:
        self._connection = connection
        self._ids = ids
        self._sequence = sequence

    async def draw(self, count: int) -> Sequence[int]:
        """Return an id in stock, or reserve ids through the caller's connection."""
        # Not from a new block: that takes another connection, and the caller's connection may be the only one.
        if count == 1 and (in_stock := self._ids.in_stock()) is not None:
            return [in_stock]
        return await WorkflowRepository(self._connection).reserve_ids(self._sequence, count)

    async def insert(self, new: NewWorkflow) -> bool:
        """Insert a workflow that no executor runs yet, and return whether its id was free."""
        return await insert_workflow(self._connection, new)

    async def enqueue(self, new: Sequence[AnySubmission]) -> dict[int, int | KeyOwner]:
        """Insert workflows of one name for workers to claim; see `enqueue_workflows`."""
        return await enqueue_workflows(self._connection, new)

    async def send(self, message: SentMessage) -> None:
        """Insert a message to a workflow that has not ended."""
        await insert_message(self._connection, message)

    async def emit(self, event: EmittedEvent) -> bool:
        """Insert an event of the schema, and return whether it has this value now."""
        return await insert_event(self._connection, event)

    async def run(
        self,
        work: Callable[[Connection], Awaitable[T]],
        *,
        atomic: bool = False,
        lasting: float | None = None,  # noqa: ARG002  # the caller limits the transaction
    ) -> T:
        """Do `work` in the caller's transaction; raises `SessionError` for atomic work in AUTOCOMMIT."""
        if atomic and await self._connection.is_autocommit():
            raise SessionError(
                "`session` must not be in AUTOCOMMIT, because this call takes several statements in one "
                "transaction. Omit `session`: the call then takes effect at once, too."
            )
        return await work(self._connection)

    async def release_if_dead(self, workflow_ids: Sequence[int], executor_id: UUID) -> bool:
        """Take runs from their executor if the executor is known to be dead, and return whether it is.

        In doubt, the request stays: the executor is notified, or the worker that recovers the run reads it.
        """
        if await ServerRepository(self._connection).life(executor_id) is not ExecutorState.DEAD:
            return False
        await WorkflowRepository(self._connection).release(workflow_ids, executor_id)
        return True

    async def request_cancel(self, workflow_ids: Sequence[int], executor_id: UUID, *, interrupt: bool) -> None:  # noqa: ARG002
        """Notify the executor of runs when the transaction commits; it reads the requests from the rows."""
        message = {"channel": executor_channel(executor_id), "payload": "cancel"}
        await self._connection.execute(notify(), message)
