"""The queries for the steps of a workflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Numeric,
    bindparam,
    case,
    cast,
    column,
    func,
    literal_column,
    select,
    true,
)

from pgqrs.codecs.records import StoredStep
from pgqrs.models import Step, Text, Workflow
from pgqrs.storage.records import (
    CompletedStep,
    FailedAttempts,
    History,
    StepTimes,
    StoredOutcome,
    from_row,
    stored_member,
)
from pgqrs.storage.sql.connection import Connection
from pgqrs.storage.sql.expressions import (
    ONE,
    ZERO,
    array_of,
    finite,
    pg,
    seconds_of,
    size_of,
    text_of,
    text_of_array,
    unnest,
)
from pgqrs.types import SagaState, StepStatus

HISTORY_BYTES = 4 * 1024 * 1024
"""Maximum bytes of the payloads of histories that one statement reads."""

LaterTexts: TypeAlias = list[tuple[str, int]]
"""The ids of steps of one workflow whose texts are to be read, each with the size of its payload in bytes."""


class StepRepository:
    """Queries for steps, in a transaction of the caller."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def histories(self, workflow_ids: Sequence[int]) -> dict[int, tuple[History, LaterTexts]]:
        """Return the records of earlier runs of workflows, without the steps that are to be executed again.

        Outcomes beyond `HISTORY_BYTES` come without their texts, and are listed beside the history.
        """
        values = {"workflow_ids": text_of_array(workflow_ids)}
        found: dict[int, tuple[History, LaterTexts]] = {each: (History({}, {}), []) for each in workflow_ids}
        rows: Any = await self._connection.execute(histories(), values)
        # By position: the names of a row take four times as long, and a history may have very many.
        for own, step_id, status, output, error, fingerprint, failures, address, wait, size, total in rows:
            history, later = found[own]
            if status == StepStatus.RUNNING:
                history.failed[step_id] = FailedAttempts(failures, max(0.0, wait or 0.0))
                continue
            history.outcomes[step_id] = StoredOutcome(output, error, fingerprint, address)
            if total > HISTORY_BYTES:
                later.append((step_id, size))
        rows = await self._connection.execute(deadlines_and_retries(), values)
        for row in rows:
            history, later = found[row.id]
            state = None if row.saga_state is None else SagaState(row.saga_state)
            history = history._replace(
                seconds_left=row.seconds_left,
                retries=row.retries,
                generation=row.generation or 0,
                saga_state=state,
            )
            found[row.id] = history, later
        return found

    async def completed(self, workflow_id: int) -> list[CompletedStep]:
        """Return the workflow's steps in the order in which their outcomes were recorded."""
        found: Any = await self._connection.execute(completed(), {"workflow_id": workflow_id})
        return [from_row(CompletedStep, row) for row in found.mappings()]

    async def texts(self, workflow_id: int, step_ids: Sequence[str]) -> dict[str, tuple[str | None, str | None]]:
        """Return the texts of the outputs and errors of the steps, by step id."""
        rows: Any = await self._connection.execute(
            texts(), {"workflow_id": workflow_id, "step_ids": list(step_ids)}
        )
        return {step_id: (output, error) for step_id, output, error in rows}

    async def times(self, workflow_id: int) -> list[StepTimes]:
        """Return the times of the workflow's steps."""
        query = select(
            Step.step_id,
            Step.epoch,
            finite(Step.started_at).label("started_at"),
            finite(Step.completed_at).label("completed_at"),
        ).where(Step.workflow_id == workflow_id)
        return [from_row(StepTimes, row) for row in (await self._connection.execute(query)).mappings()]

    async def locked_outcome(self, workflow_id: int, step_id: str) -> StoredOutcome | None:
        """Return the step's success or None, once every transaction that could record it has ended."""
        # Each such transaction holds a share lock of the workflow's row.
        held = select(Workflow.id).where(Workflow.id == workflow_id).with_for_update(key_share=True)
        await self._connection.execute(held)
        found = await self._connection.execute(
            select(*_payloads(), Step.fingerprint, Step.address).where(
                Step.workflow_id == workflow_id, Step.step_id == step_id, Step.status == StepStatus.SUCCESS
            )
        )
        row = found.mappings().one_or_none()
        return None if row is None else from_row(StoredOutcome, row)

    async def of_workflow(self, workflow_id: int) -> list[StoredStep]:
        """Return the workflow's steps in the order in which they were started."""
        query = (
            select(*_step_columns())
            .where(Step.workflow_id == workflow_id)
            .order_by(Step.started_at, Step.completed_at, Step.step_id)
        )
        return [_step(row) for row in (await self._connection.execute(query)).mappings()]


def _payloads() -> tuple[Any, Any]:
    return text_of(Step.output).label("output"), text_of(Step.error).label("error")


@cache
def _step_columns() -> Sequence[Any]:
    return (
        Step.workflow_id,
        Step.step_id,
        Step.status,
        *_payloads(),
        Step.epoch,
        Step.reopened,
        finite(Step.started_at).label("started_at"),
        finite(Step.completed_at).label("completed_at"),
        Step.failures,
        Step.address,
    )


def _given() -> Any:
    """Return the ids of `workflow_ids`, the text of an array, as rows."""
    ids = array_of(bindparam("workflow_ids", type_=Text()), BigInteger())
    return unnest(ids).table_valued(column("id", BigInteger())).render_derived(name="given")


@cache
def histories() -> Any:
    """Return the query for the steps of workflows, each with its size and the total size up to it."""
    given = _given()
    # The offset keeps the look-up by the key: a plan that was made on empty tables would join all steps.
    own: Any = (
        select(Step)
        .where(
            Step.workflow_id == given.c.id,
            Step.status.in_([StepStatus.SUCCESS, StepStatus.ERROR]) | Step.retry_at.is_not(None),
            ~Step.reopened,
        )
        .offset(ZERO)
        .lateral("own")
    )
    size = cast(func.coalesce(size_of(own.c.output), size_of(own.c.error), ZERO), BigInteger())
    total = cast(pg.sum(size, type_=Numeric()).over(order_by=(own.c.workflow_id, own.c.step_id)), BigInteger())
    steps = (
        select(*own.c, size.label("size"), total.label("total"))
        .select_from(given.join(own, true()))
        .subquery("steps")
    )
    is_now = steps.c.total <= literal_column(str(HISTORY_BYTES), BigInteger())
    return select(
        steps.c.workflow_id,
        steps.c.step_id,
        steps.c.status,
        case((is_now, text_of(steps.c.output))).label("output"),
        case((is_now, text_of(steps.c.error))).label("error"),
        steps.c.fingerprint,
        steps.c.failures,
        steps.c.address,
        seconds_of(steps.c.retry_at - func.now()).label("wait"),
        steps.c.size,
        steps.c.total,
    )


@cache
def deadlines_and_retries() -> Any:
    """Return the query for the workflows of the histories."""
    given = _given()
    own: Any = (
        select(
            Workflow.id,
            seconds_of(Workflow.deadline - func.now()).label("seconds_left"),
            Workflow.retries,
            Workflow.generation,
            Workflow.saga_state,
        )
        .where(Workflow.id == given.c.id)
        .limit(ONE)
        .lateral("own")
    )
    return select(*own.c).select_from(given.join(own, true()))


@cache
def texts() -> Any:
    """Return the query for the outputs and errors of the steps `step_ids` of a workflow."""
    return select(Step.step_id, *_payloads()).where(
        Step.workflow_id == bindparam("workflow_id"),
        Step.step_id == func.any(bindparam("step_ids", type_=ARRAY(Text()))),
    )


@cache
def completed() -> Any:
    """Return the query for the steps of a workflow, by their ends, with the seconds since."""
    return (
        select(Step.step_id, seconds_of(func.now() - Step.completed_at).label("age"))
        .where(Step.workflow_id == bindparam("workflow_id"))
        .order_by(Step.completed_at, Step.step_id)
    )


def _step(row: Mapping[Any, Any]) -> StoredStep:
    return from_row(StoredStep, {**row, "status": stored_member(StepStatus, row["status"])})
