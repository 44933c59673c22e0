"""Rewinds a workflow, and reads its rewinds, in a transaction of the caller."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from pgqrs.codecs.records import StoredRewind, StoredStep
from pgqrs.errors import RewindRefusedError, StepNotFoundError, WorkflowNotFoundError
from pgqrs.storage.queries.executors import ABANDONED
from pgqrs.storage.queries.workflows import WorkflowRepository
from pgqrs.storage.records import SAGA, UNDO, from_row, stored_member
from pgqrs.storage.rewinds import statements
from pgqrs.storage.sql.connection import Connection
from pgqrs.types import StepStatus, WorkflowStatus

MAX_NEAR = 3
"""Maximum ids of steps that an error names because they are spelled like the given one."""

_OVER = {WorkflowStatus.SUCCESS, WorkflowStatus.ERROR, WorkflowStatus.CANCELLED}


class FoundRewind(NamedTuple):
    """A rewind with its token and the steps that it has set aside, and the codec and the queue of its workflow."""

    rewind: StoredRewind
    token: int
    steps: list[StoredStep]
    codec: str | None
    queue: str | None


class RewindRepository:
    """The rewinds of workflows, in a transaction of the caller."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def rewind(self, workflow_id: int, before: str, token: int) -> FoundRewind:
        """Set the steps aside that were not completed before a step began, and make the workflow ready to run.

        A second call with the same `token` changes nothing. Raises `WorkflowNotFoundError`, `StepNotFoundError`,
        `RewindRefusedError`, and the errors of `WorkflowRepository.run_again`; after each of these errors nothing
        was changed, and the transaction stays usable. Requires a transaction.
        """
        own = {"workflow": workflow_id, "before": before}
        row: Any = (await self._connection.execute(statements.lock_for_rewind(), own)).one_or_none()
        if row is None:
            raise WorkflowNotFoundError(workflow_id)
        if await self.is_done(workflow_id, token):
            found = await self._found(workflow_id, row.codec, row.queue)
            return next(each for each in found if each.token == token)
        _check_rests(workflow_id, before, row)
        await self.check_step(workflow_id, before)
        rewound = own | {"rewound": row.epoch + 1}
        may_lack_key = row.releases_key or row.unique_value is not None
        again = WorkflowRepository(self._connection)
        await again.run_again(statements.rewind(), own | {"own_token": token}, may_lack_key=may_lack_key)
        for each in (statements.forget_replies, statements.return_messages):
            await self._connection.execute(each(), own)
        written = await self._connection.scalars(statements.insert_messages(), rewound)
        for message_id in written.all():
            await self._connection.execute(statements.order_message(), {"written": message_id})
        await self._connection.execute(statements.cancel_left_children(), own)
        for each in (statements.leave_children, statements.drop_own_waits, statements.set_aside):
            await self._connection.execute(each(), rewound)
        return (await self._found(workflow_id, row.codec, row.queue))[-1]

    async def is_done(self, workflow_id: int, token: int) -> bool:
        """Return whether a rewind with a token is recorded."""
        return token in (await self._connection.scalars(statements.tokens(), {"workflow": workflow_id})).all()

    async def of_workflow(self, workflow_id: int) -> list[FoundRewind]:
        """Return the rewinds of a workflow, the first one first; raises `WorkflowNotFoundError`."""
        workflow = await WorkflowRepository(self._connection).get(workflow_id)
        return await self._found(workflow_id, workflow.codec, workflow.queue)

    async def check_step(self, workflow_id: int, before: str) -> None:
        """Raise unless a step of the workflow's function has the id, and no step before it was undone."""
        own = {"workflow": workflow_id, "before": before}
        ids = (await self._connection.scalars(statements.step_ids(), own)).all()
        if before not in ids:
            raise StepNotFoundError(workflow_id, before, get_close_matches(before, ids, MAX_NEAR))
        if before.startswith((*SAGA, UNDO)):
            reason = "it is a step of a saga, not of the function. Choose a step that the function calls."
            raise RewindRefusedError(workflow_id, before, reason)
        undone = await self._connection.scalar(statements.first_undone(), own)
        if undone is not None:
            reason = (
                f"the step {undone!r} would stay, although a saga has undone it. Rewind the workflow to the time "
                f"before {undone!r}, which is then executed again."
            )
            raise RewindRefusedError(workflow_id, before, reason, undone=undone)

    async def _found(self, workflow_id: int, codec: str | None, queue: str | None) -> list[FoundRewind]:
        own = {"workflow": workflow_id}
        rows = (await self._connection.execute(statements.rewinds(), own)).mappings().all()
        found = {row["epoch"]: FoundRewind(_rewind(row), row["token"], [], codec, queue) for row in rows}
        for row in (await self._connection.execute(statements.set_aside_steps(), own)).mappings():
            found[row["rewind"]].steps.append(_step(row))
        return list(found.values())


def _check_rests(workflow_id: int, before: str, row: Any) -> None:
    """Raise for a workflow that runs, and for a batch that has ended."""
    if row.status == WorkflowStatus.RUNNING and row.executor != ABANDONED:
        reason = f"the executor {row.executor} runs it. Cancel it, or wait for its end."
        raise RewindRefusedError(workflow_id, before, reason, executor_id=row.executor)
    if row.batch_id == workflow_id and row.status in _OVER:
        reason = "it is a batch, which has ended its submissions. Resume these: they will be in another batch."
        raise RewindRefusedError(workflow_id, before, reason)


def _rewind(row: Mapping[Any, Any]) -> StoredRewind:
    return from_row(StoredRewind, {**row, "status": stored_member(WorkflowStatus, row["status"])})


def _step(row: Mapping[Any, Any]) -> StoredStep:
    return from_row(StoredStep, {**row, "status": stored_member(StepStatus, row["status"])})
