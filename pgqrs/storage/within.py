"""What can be asked of a store within a transaction that the application has lent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pgqrs.errors import SessionError
from pgqrs.storage.borrowed import Borrowed
from pgqrs.storage.executors import ABANDONED
from pgqrs.storage.ids import check_id
from pgqrs.storage.repositories import Life, ServerRepository, WorkflowRepository
from pgqrs.types import NewWorkflow, Submission


class Within:
    """Writes that are there once the application commits, and gone when it rolls back.

    `ids` returns an id that is reserved already, None where there is none in stock; `sequence` is where another
    one comes from then, `codec` what the payloads are written with.
    """

    def __init__(
        self, borrowed: Borrowed, ids: Callable[[], int | None], sequence: str, codec: str | None
    ) -> None:
        self._borrowed = borrowed
        self._workflows = WorkflowRepository(borrowed)
        self._server = ServerRepository(borrowed)
        self._ids = ids
        self._sequence = sequence
        self._codec = codec

    async def create(self, name: str, input_text: str) -> int:
        """Write a new workflow and return its id."""
        workflow_id = await self._next_id()
        await self._workflows.create(NewWorkflow(workflow_id, name, input_text, self._codec))
        return workflow_id

    async def _next_id(self) -> int:
        # Not from a block of our own: that takes a connection, and the one that we were lent may be the only one.
        in_stock = self._ids()
        if in_stock is not None:
            return in_stock
        (drawn,) = await self._workflows.reserve_ids(self._sequence, 1)
        return drawn

    async def submit(self, submission: Submission) -> int:
        """Write a workflow for workers to claim and return its id; where the key is taken, that workflow's."""
        own = await self._next_id()
        (workflow_id,) = await self._workflows.submit_with_ids([submission], [own], self._codec)
        return workflow_id

    async def submit_many(self, submissions: Sequence[Submission]) -> list[int]:
        """Write workflows of one name and return their ids in order; see `Store.submit_many`."""
        drawn = await self._workflows.reserve_ids(self._sequence, len(submissions))
        return await self._workflows.submit_with_ids(submissions, drawn, self._codec)

    async def cancel(self, workflow_id: int, *, interrupt: bool) -> None:
        """Cancel a workflow, or ask its executor to, which hears of it at its next beat."""
        check_id(workflow_id)
        executor_id = await self._workflows.cancel(workflow_id, interrupt=interrupt)
        if executor_id is None:
            return
        if executor_id != ABANDONED:
            # In doubt it is left as asked: the executor hears of it, or the worker that takes the run over does.
            if await self._server.life(executor_id) is not Life.DEAD:
                return
            await self._workflows.release(workflow_id, executor_id)
        await self._workflows.cancel_released(workflow_id)

    async def resume(self, workflow_id: int) -> str:
        """Make a workflow runnable again, its failed steps too, and return its name."""
        check_id(workflow_id)
        if await self._borrowed.is_autocommit():
            raise SessionError(
                "resuming a workflow takes two statements in one transaction, and what was lent is in AUTOCOMMIT: "
                "leave the session out, which has it resumed at once as well."
            )
        return await self._workflows.resume(workflow_id)
