"""The statements off the hot path, over the models; they take and give records, never ORM instances."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Double,
    Text,
    Update,
    bindparam,
    case,
    cast,
    extract,
    false,
    func,
    literal,
    null,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import REGCLASS
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import ColumnElement
from sqlalchemy.types import TypeEngine

from pgqrs.errors import WorkflowFinishedError, WorkflowNotFoundError
from pgqrs.models import Step, Workflow
from pgqrs.storage import executors, invariants
from pgqrs.storage.writes import KINDS
from pgqrs.types import (
    Ended,
    FailedAttempts,
    History,
    Outcome,
    StepRecord,
    StepStatus,
    Submission,
    WorkflowRecord,
    WorkflowStatus,
)

Decode = Callable[[str], Any]


class WorkflowRepository:
    """The workflows, in a transaction of the caller's."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def reserve_ids(self, sequence: str, count: int) -> list[int]:
        """Take `count` ids from the `sequence`, whose name is qualified and quoted."""
        ids = func.nextval(cast(cast(literal(sequence), Text()), REGCLASS()))
        drawn = await self._connection.scalars(select(ids).select_from(func.generate_series(1, count)))
        return list(drawn)

    async def name(self, workflow_id: int) -> str:
        """Return the workflow's name; raises `WorkflowNotFoundError`."""
        name = await self._connection.scalar(select(Workflow.name).where(Workflow.id == workflow_id))
        if name is None:
            raise WorkflowNotFoundError(workflow_id)
        return name

    async def page(
        self,
        decode: Decode,
        *,
        status: WorkflowStatus | None,
        name: str | None,
        limit: int,
        before: int | None,
    ) -> list[WorkflowRecord]:
        """Return up to `limit` workflows, newest first, those with ids below `before` where it is given."""
        query = select(*_WORKFLOW_COLUMNS).order_by(Workflow.id.desc()).limit(limit)
        if status is not None:
            query = query.where(Workflow.status == status)
        if name is not None:
            query = query.where(Workflow.name == name)
        if before is not None:
            query = query.where(Workflow.id < before)
        return [_workflow(row, decode) for row in await self._connection.execute(query)]

    async def submit(self, submissions: Sequence[Submission]) -> None:
        """Insert workflows for workers to claim; those whose key is taken are left out."""
        statement = KINDS[Submission].statement()
        await self._connection.execute(statement, KINDS[Submission].arrays(submissions))

    async def ids_of_keys(self, name: str, keys: Sequence[str]) -> dict[str, int]:
        """Return the ids of the workflows of this name that have these keys."""
        query = select(Workflow.key, Workflow.id).where(
            Workflow.name == name, Workflow.key == func.any(_texts(keys))
        )
        return {key: workflow_id for key, workflow_id in await self._connection.execute(query) if key is not None}

    async def ended(self, ids: Collection[int]) -> dict[int, Ended]:
        """Return how those of these workflows ended that have."""
        query = select(Workflow.id, Workflow.status, cast(Workflow.output, Text()), cast(Workflow.error, Text()))
        over = Workflow.status.in_([WorkflowStatus.SUCCESS, WorkflowStatus.ERROR, WorkflowStatus.CANCELLED])
        rows = await self._connection.execute(query.where(Workflow.id == func.any(_bigints(ids)), over))
        return {row[0]: Ended(WorkflowStatus(row[1]), row[2], row[3]) for row in rows}

    async def get(self, decode: Decode, workflow_id: int) -> WorkflowRecord:
        """Return a workflow; raises `WorkflowNotFoundError`."""
        found = await self._connection.execute(select(*_WORKFLOW_COLUMNS).where(Workflow.id == workflow_id))
        row = found.one_or_none()
        if row is None:
            raise WorkflowNotFoundError(workflow_id)
        return _workflow(row, decode)

    async def cancel(self, workflow_id: int, *, interrupt: bool) -> UUID | None:
        """Cancel a workflow at once, or ask the executor that runs it, which is returned, to do so.

        Raises `WorkflowNotFoundError`, and `WorkflowFinishedError` for a workflow that has succeeded or failed.
        """
        found = await self._connection.execute(
            select(Workflow.status, Workflow.executor)
            .where(Workflow.id == workflow_id)
            .with_for_update(key_share=True)
        )
        row = found.one_or_none()
        if row is None:
            raise WorkflowNotFoundError(workflow_id)
        if row.status in {WorkflowStatus.SUCCESS, WorkflowStatus.ERROR}:
            raise WorkflowFinishedError(workflow_id, row.status)
        own = update(Workflow).where(Workflow.id == workflow_id)
        if row.status == WorkflowStatus.RUNNING:
            asked = func.coalesce(Workflow.cancel_interrupts, false()) | literal(interrupt)
            await self._connection.execute(own.values(cancel_interrupts=asked))
            executor: UUID | None = row.executor
            return executor
        if row.status != WorkflowStatus.CANCELLED:
            await self._connection.execute(own.values(**_CANCELLED))
        return None

    async def release(self, workflow_id: int, executor_id: UUID) -> bool:
        """Take a run from an executor that is dead, for another to start; tell whether it had it still."""
        released = await self._connection.execute(
            update(Workflow)
            .where(Workflow.id == workflow_id, Workflow.executor == executor_id)
            .values(executor=executors.ABANDONED, updated_at=func.now())
        )
        return bool(released.rowcount)

    async def cancel_released(self, workflow_id: int) -> None:
        """Cancel a workflow whose run was released, unless somebody has started it again."""
        await self._connection.execute(
            update(Workflow)
            .where(Workflow.id == workflow_id, Workflow.executor == executors.ABANDONED)
            .values(**_CANCELLED, executor=null(), epoch=Workflow.epoch + 1)
        )

    async def is_alive(self, executor_id: UUID) -> bool:
        """Tell whether an executor shows signs of life."""
        return bool(await self._connection.scalar(executors.is_alive(), {"executor": executor_id}))

    async def now(self) -> datetime:
        """Return the time by the database's clock."""
        now: datetime = (await self._connection.execute(select(func.clock_timestamp()))).scalar_one()
        return now

    async def ring(self, channel: str, payload: str) -> None:
        """Notify whoever listens on a channel, when the transaction commits."""
        await self._connection.execute(select(func.pg_notify(channel, payload)))

    async def violations(self) -> list[str]:
        """Return what the tables hold that they must never hold, a sentence each."""
        found: list[str] = []
        for sentence, query in invariants.INVARIANTS:
            rows = await self._connection.execute(query.limit(invariants.SHOWN))
            found += [sentence.format(*row) for row in rows]
        return found

    async def resume(self, workflow_id: int) -> str:
        """Make a workflow that has not succeeded runnable again, its failed steps too; return its name.

        Whatever run of it still goes on is fenced. Raises `WorkflowNotFoundError` and, for one that has
        succeeded, `WorkflowFinishedError`.
        """
        found = await self._connection.execute(
            select(Workflow.name, Workflow.status, Workflow.queue)
            .where(Workflow.id == workflow_id)
            .with_for_update(key_share=True)
        )
        row = found.one_or_none()
        if row is None:
            raise WorkflowNotFoundError(workflow_id)
        if row.status == WorkflowStatus.SUCCESS:
            raise WorkflowFinishedError(workflow_id, row.status)
        await self._connection.execute(_made_pending(workflow_id))
        await self._connection.execute(_all_reopened(workflow_id))
        name: str = row.name
        return name


class StepRepository:
    """The steps, in a transaction of the caller's."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def history(self, workflow_id: int) -> History:
        """Return what earlier runs left, those steps left out that are to be executed again."""
        rows: Any = await self._connection.execute(_HISTORY, {"workflow_id": workflow_id})
        history = History({}, {})
        for step_id, status, output, error, fingerprint, failures, wait in rows:
            if status == StepStatus.RUNNING:
                history.failed[step_id] = FailedAttempts(failures, max(0.0, wait or 0.0))
            else:
                history.outcomes[step_id] = Outcome(output, error, fingerprint)
        found = await self._connection.execute(_STANDING, {"workflow_id": workflow_id})
        row: Any = found.one_or_none()
        return history if row is None else history._replace(left=row[0], retries=row[1])

    async def of_workflow(self, workflow_id: int, decode: Decode) -> list[StepRecord]:
        """Return the workflow's steps in the order in which they were started."""
        query = (
            select(*_STEP_COLUMNS)
            .where(Step.workflow_id == workflow_id)
            .order_by(Step.started_at, Step.completed_at, Step.step_id)
        )
        return [_step(row, decode) for row in await self._connection.execute(query)]


_WORKFLOW_COLUMNS: Sequence[Any] = (
    Workflow.id,
    Workflow.name,
    Workflow.status,
    cast(Workflow.input, Text()),
    cast(Workflow.output, Text()),
    cast(Workflow.error, Text()),
    Workflow.epoch,
    Workflow.created_at,
    Workflow.started_at,
    Workflow.completed_at,
    Workflow.updated_at,
    Workflow.queue,
    Workflow.key,
    Workflow.priority,
    Workflow.due_at,
    Workflow.deadline,
    Workflow.executor,
    Workflow.attempts,
)

_STEP_COLUMNS: Sequence[Any] = (
    Step.workflow_id,
    Step.step_id,
    Step.status,
    cast(Step.output, Text()),
    cast(Step.error, Text()),
    Step.epoch,
    Step.reopened,
    Step.started_at,
    Step.completed_at,
    Step.failures,
)


def _seconds(interval: Any) -> Any:
    double: TypeEngine[Any] = Double()
    return cast(extract("epoch", interval), double)


_HISTORY: Any = select(
    Step.step_id,
    Step.status,
    cast(Step.output, Text()),
    cast(Step.error, Text()),
    Step.fingerprint,
    Step.failures,
    _seconds(Step.retry_at - func.now()),
).where(
    Step.workflow_id == bindparam("workflow_id"),
    Step.status.in_([StepStatus.SUCCESS, StepStatus.ERROR]) | (Step.failures > 0),
    ~Step.reopened,
)

_STANDING: Any = select(_seconds(Workflow.deadline - func.now()), Workflow.retries).where(
    Workflow.id == bindparam("workflow_id")
)

_CANCELLED: dict[str, Any] = {
    "status": WorkflowStatus.CANCELLED,
    "ready_at": null(),
    "due_at": null(),
    "deadline": null(),
    "cancel_interrupts": null(),
    "completed_at": func.now(),
    "updated_at": func.now(),
}


def _workflow(row: Sequence[Any], decode: Decode) -> WorkflowRecord:
    identity, name, status, input_, output, error, *rest = row
    return WorkflowRecord(
        identity,
        name,
        WorkflowStatus(status),
        _decoded(input_, decode),
        _decoded(output, decode),
        _decoded(error, json.loads),
        *rest,
    )


def _step(row: Sequence[Any], decode: Decode) -> StepRecord:
    workflow_id, step_id, status, output, error, *rest = row
    return StepRecord(
        workflow_id, step_id, StepStatus(status), _decoded(output, decode), _decoded(error, json.loads), *rest
    )


def _decoded(text: str | None, decode: Decode) -> Any:
    return None if text is None else decode(text)


def _texts(values: Collection[str]) -> ColumnElement[Any]:
    return literal(list(values), ARRAY(Text()))


def _bigints(values: Collection[int]) -> ColumnElement[Any]:
    return literal(list(values), ARRAY(BigInteger()))


def _made_pending(workflow_id: int) -> Update:
    return (
        update(Workflow)
        .where(Workflow.id == workflow_id)
        .values(
            status=WorkflowStatus.PENDING,
            epoch=Workflow.epoch + 1,
            claim=null(),
            executor=null(),
            due_at=null(),
            ready_at=case((Workflow.queue.is_not(None), func.now())),
            attempts=0,
            retries=0,
            deadline=null(),
            cancel_interrupts=null(),
            error=null(),
            completed_at=null(),
            updated_at=func.now(),
        )
    )


def _all_reopened(workflow_id: int) -> Update:
    return (
        update(Step)
        .where(Step.workflow_id == workflow_id, Step.status == StepStatus.ERROR)
        .values(reopened=true(), failures=0)
    )
