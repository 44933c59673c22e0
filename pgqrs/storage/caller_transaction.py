"""The operations of a store in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pgqrs.errors import SessionError
from pgqrs.storage.connections.caller import CallerConnection
from pgqrs.storage.id_allocator import IdAllocator, OnTaken, check_id, enqueue_with_ids, ignore_taken
from pgqrs.storage.inserts import enqueue_workflows, insert_workflow
from pgqrs.storage.journal.creation import NewWorkflow, Submission
from pgqrs.storage.queries.channels import executor_channel
from pgqrs.storage.queries.executors import ABANDONED
from pgqrs.storage.queries.server import ExecutorState, ServerRepository, notify
from pgqrs.storage.queries.tokens import new_token
from pgqrs.storage.queries.workflows import WorkflowRepository


class CallerTransaction:
    """Writes workflows in the caller's transaction, to be committed or rolled back by the caller.

    `ids` supplies reserved ids; the `sequence` supplies an id if no id is in stock. `codec` is the name of the
    payloads' codec.
    """

    def __init__(self, borrowed: CallerConnection, ids: IdAllocator, sequence: str, codec: str | None) -> None:
        self._borrowed = borrowed
        self._workflows = WorkflowRepository(borrowed)
        self._server = ServerRepository(borrowed)
        self._ids = ids
        self._sequence = sequence
        self._codec = codec

    async def create(self, name: str, input_text: str) -> int:
        """Write a new workflow and return its id."""
        while True:
            workflow_id = await self._next_id()
            new = NewWorkflow(workflow_id, name, input_text, self._codec, new_token())
            if await insert_workflow(self._borrowed, new):
                return workflow_id
            self._ids.forget()

    async def _next_id(self) -> int:
        # Not from a new block: that takes another connection, and the caller's connection may be the only one.
        in_stock = self._ids.in_stock()
        if in_stock is not None:
            return in_stock
        (drawn,) = await self._workflows.reserve_ids(self._sequence, 1)
        return drawn

    async def submit_many(self, submissions: Sequence[Submission], taken: OnTaken = ignore_taken) -> list[int]:
        """Write workflows of one name and return their ids in order; see `Store.submit_many`."""
        new = [each._replace(codec=self._codec, token=new_token()) for each in submissions]
        return await enqueue_with_ids(new, partial(enqueue_workflows, self._borrowed), self._draw, taken)

    async def _draw(self, count: int) -> Sequence[int]:
        if count == 1:
            return [await self._next_id()]
        return await self._workflows.reserve_ids(self._sequence, count)

    async def cancel(self, workflow_id: int, *, interrupt: bool) -> None:
        """Cancel a workflow, or request it from its executor, which is notified when the transaction commits."""
        check_id(workflow_id)
        executor_id = await self._workflows.cancel(workflow_id, interrupt=interrupt)
        if executor_id is None:
            return
        if executor_id != ABANDONED:
            # In doubt, the request stays: the executor is notified, or the worker that recovers the run reads it.
            if await self._server.life(executor_id) is not ExecutorState.DEAD:
                told = {"channel": executor_channel(executor_id), "payload": "cancel"}
                await self._borrowed.execute(notify(), told)
                return
            await self._workflows.release(workflow_id, executor_id)
        await self._workflows.cancel_released(workflow_id)

    async def resume(self, workflow_id: int) -> str:
        """Make a workflow and its failed steps runnable again, and return the workflow's name."""
        check_id(workflow_id)
        if await self._borrowed.is_autocommit():
            raise SessionError(
                "`session` must not be in AUTOCOMMIT, because resuming a workflow takes two statements in one "
                "transaction. Omit `session`: the workflow is then resumed at once, too."
            )
        return await self._workflows.resume(workflow_id)
