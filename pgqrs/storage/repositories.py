"""The statements off the hot path, over the models; they take and give records, never ORM instances."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Text, Update, cast, func, literal, null, select, true, update
from sqlalchemy.dialects.postgresql import REGCLASS
from sqlalchemy.ext.asyncio import AsyncConnection

from pgqrs.errors import WorkflowFinishedError, WorkflowNotFoundError
from pgqrs.models import Step, Workflow
from pgqrs.types import Outcome, StepRecord, StepStatus, WorkflowRecord, WorkflowStatus

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

    async def resume(self, workflow_id: int) -> str:
        """Make a workflow that has not succeeded runnable again, its failed steps too; return its name.

        Whatever run of it still goes on is fenced. Raises `WorkflowNotFoundError` and, for one that has
        succeeded, `WorkflowFinishedError`.
        """
        found = await self._connection.execute(
            select(Workflow.name, Workflow.status)
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

    async def outcomes(self, workflow_id: int) -> dict[str, Outcome]:
        """Return what is recorded of the workflow's finished steps, those to be executed again left out."""
        query = select(Step.step_id, cast(Step.output, Text()), cast(Step.error, Text())).where(
            Step.workflow_id == workflow_id,
            Step.status.in_([StepStatus.SUCCESS, StepStatus.ERROR]),
            ~Step.reopened,
        )
        rows = await self._connection.execute(query)
        return {step_id: Outcome(output, error) for step_id, output, error in rows}

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
)


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


def _made_pending(workflow_id: int) -> Update:
    return (
        update(Workflow)
        .where(Workflow.id == workflow_id)
        .values(
            status=WorkflowStatus.PENDING,
            epoch=Workflow.epoch + 1,
            claim=null(),
            error=null(),
            completed_at=null(),
            updated_at=func.now(),
        )
    )


def _all_reopened(workflow_id: int) -> Update:
    return (
        update(Step)
        .where(Step.workflow_id == workflow_id, Step.status == StepStatus.ERROR)
        .values(reopened=true())
    )
