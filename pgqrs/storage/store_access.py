"""The access of workflow operations to the database through the connections of a store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from pgqrs.storage.access.id_allocator import IdAllocator
from pgqrs.storage.access.inserts import enqueue_workflows
from pgqrs.storage.connections.database import Database
from pgqrs.storage.connections.dedicated import RetryingConnection
from pgqrs.storage.heartbeat import Heartbeat
from pgqrs.storage.journal.journal import Journal
from pgqrs.storage.queries.server import ExecutorState, ServerRepository, notify
from pgqrs.storage.queries.workflows import WorkflowRepository
from pgqrs.storage.records import KeyOwner
from pgqrs.storage.schema.tables import InstalledTables
from pgqrs.storage.sql.channels import executor_channel
from pgqrs.storage.sql.connection import Connection
from pgqrs.storage.writes.creation import AnySubmission, NewWorkflow
from pgqrs.storage.writes.messages import SentMessage
from pgqrs.storage.writes.operation import ID_TAKEN
from pgqrs.storage.writes.outbox import EmittedEvent

T = TypeVar("T")

DOUBT_INTERVAL = 0.2
"""Seconds between two checks of an executor that may be dead."""


class StoreAccess:
    """Writes single workflows through the journal, and all else in transactions that are retried."""

    def __init__(
        self,
        database: Database,
        tables: InstalledTables,
        journal: Journal,
        *,
        dedicated: RetryingConnection,
        ids: IdAllocator,
        heartbeat: Heartbeat,
    ) -> None:
        self._database = database
        self.tables = tables
        self._journal = journal
        self._dedicated = dedicated
        self.ids = ids
        self._heartbeat = heartbeat

    async def draw(self, count: int) -> Sequence[int]:
        """Return an id in stock, or reserve a block of ids."""
        await self.tables.ensure()
        return [await self.ids.next()] if count == 1 else await self.ids.block(count)

    async def insert(self, new: NewWorkflow) -> bool:
        """Write a workflow that no executor runs yet, and return whether its id was free."""
        return await self._journal.write(new) is not ID_TAKEN

    async def enqueue(self, new: Sequence[AnySubmission]) -> dict[int, int | KeyOwner]:
        """Write workflows of one name for workers to claim; see `enqueue_workflows`."""
        if len(new) > 1:
            return await self._database.run_with_retries(lambda connection: enqueue_workflows(connection, new))
        (single,) = new
        # A key may wait for another transaction, and the steps of this process must not wait with it.
        beside = self._journal.beside
        written = await (self._journal if single.key is None or beside is None else beside).write(single)
        if written is ID_TAKEN:
            return {}
        if written or single.key is None:
            return {single.token: single.workflow_id}
        owner = await self.ids.of_key(single.name, single.key)
        return {} if owner is None else {single.token: owner}

    async def send(self, message: SentMessage) -> None:
        """Write a message to a workflow that has not ended."""
        await self.tables.ensure()
        await self._journal.write(message)

    async def emit(self, event: EmittedEvent) -> bool:
        """Write an event of the schema, and return whether it has this value now."""
        await self.tables.ensure()
        # Its name may wait for another transaction, and the steps of this process must not wait with it.
        is_set: bool = await (self._journal.beside or self._journal).write(event)
        return is_set

    async def run(
        self,
        work: Callable[[Connection], Awaitable[T]],
        *,
        atomic: bool = False,  # noqa: ARG002  # it is always one transaction
        lasting: float | None = None,
    ) -> T:
        """Do `work` in a transaction, and retry it while the server is away."""
        await self.tables.ensure()
        return await self._database.run_with_retries(work, lasting=lasting)

    async def release_if_dead(self, workflow_ids: Sequence[int], executor_id: UUID) -> bool:
        """Take runs from their executor if the executor is dead, and return whether it is.

        While that is in doubt, as after a recent loss of the executor's connection, the method waits.
        """

        async def release(connection: AsyncConnection) -> ExecutorState:
            server = ServerRepository(connection)
            await server.suspect()
            life = await server.life(executor_id)
            if life is ExecutorState.DEAD:
                await WorkflowRepository(connection).release(workflow_ids, executor_id)
            return life

        while True:
            life = await self._database.run_with_retries(release)
            if life is not ExecutorState.IN_DOUBT:
                return life is ExecutorState.DEAD
            await asyncio.sleep(DOUBT_INTERVAL)

    async def request_cancel(self, workflow_ids: Sequence[int], executor_id: UUID, *, interrupt: bool) -> None:
        """Cancel runs in this process, or notify their executor."""
        if executor_id == self._heartbeat.executor_id:
            for each in workflow_ids:
                self._heartbeat.cancel(each, interrupt=interrupt)
        else:
            await self.notify(executor_channel(executor_id), "cancel")

    async def notify(self, channel: str, payload: str) -> None:
        """Notify the listeners of a channel."""
        await self._dedicated.fetch(notify, {"channel": channel, "payload": payload})

    async def close(self) -> None:
        """Close the connection outside of the pool; it is opened again on demand."""
        await self._dedicated.close()
