"""The operation by which a workflow continues as new, with its record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from sqlalchemy import case, delete, func, null, select, update
from sqlalchemy.orm import aliased
from sqlalchemy.sql import ColumnElement

from pgqrs.errors import PgqrsError, WorkflowCancelledError, WorkflowFencedError, WorkflowNotFoundError
from pgqrs.models import Step, Workflow
from pgqrs.storage.queries.executors import ABANDONED, abandoned
from pgqrs.storage.sql.expressions import (
    ONE,
    ZERO,
    bounded,
    json_of,
    queue_or_default,
    seconds_from_now,
    text_literal,
)
from pgqrs.storage.sql.waits import all_of
from pgqrs.storage.writes.operation import RETRY, CurrentState, Follower, LockedRows, Operation
from pgqrs.types import WorkflowStatus


class RunContinuation(NamedTuple):
    """A record to write: a workflow begins anew, with another input and without its steps; `input` is JSON text.

    The run with the token `claim` ends. The next run, in the same process, writes with the token `next_claim`;
    None makes the workflow ready for any worker. `timeout` is the seconds that the next run may take, unless the
    workflow has a timeout of its own.
    """

    workflow_id: int
    epoch: int
    input: str
    timeout: float | None
    next_claim: int | None
    claim: int = 0


class ContinueWorkflow(Operation[RunContinuation]):
    """Replace the input and the steps of workflows, for current runs; a cancellation that was requested wins.

    The run must have no other record that may be written at the same time: its step would be written after the
    steps are read that this statement deletes.
    """

    name = "continue"
    record = RunContinuation
    unsent: ClassVar = frozenset({"epoch"})

    def payload_size(self, record: RunContinuation) -> int:
        """Return the length of the input."""
        return len(record.input)

    def can_be_single(self, record: RunContinuation) -> bool:
        """Return False: the statement has a further write."""
        return False

    @property
    def followers(self) -> Mapping[str, Follower]:
        """The deletion of the steps."""
        return {"steps": _delete_steps}

    def statement(self, *, single: bool = False) -> Any:
        """Return the update; the epoch of its answer is negative if it has cancelled the workflow."""
        held = self.lock_workflows(to_update=True, single=single)
        cancelled = Workflow.status == text_literal(WorkflowStatus.CANCELLED)
        epoch = case((cancelled, -Workflow.epoch), else_=Workflow.epoch)
        return (
            update(Workflow)
            .where(Workflow.id == held.workflow_id, held.is_current)
            .where(
                Workflow.status == text_literal(WorkflowStatus.RUNNING),
                Workflow.executor.is_distinct_from(abandoned()),
            )
            .values(**_values(held), cancel_interrupts=null(), updated_at=func.now())
            .returning(*self.returning(Workflow.id, epoch, single=single))
        )

    def result_for(self, record: RunContinuation, epoch: int) -> PgqrsError | None:
        """Return None, or an error if the workflow was cancelled, for which the epoch is negative."""
        return WorkflowCancelledError(record.workflow_id) if epoch < 0 else None

    def resolve_missing(self, record: RunContinuation, current: CurrentState) -> Any:
        """Return None if the first sending arrived, an error for a stale run, else `RETRY`."""
        if current.status is None:
            return WorkflowNotFoundError(record.workflow_id)
        if current.status == WorkflowStatus.CANCELLED:
            return WorkflowCancelledError(record.workflow_id)
        running = current.status == WorkflowStatus.RUNNING and current.executor != ABANDONED
        if current.claim == record.claim and running:
            return RETRY
        # A workflow without a claim was released by this record, or by another executor, which has the workflow.
        if record.next_claim in {None, current.claim}:
            return None
        return WorkflowFencedError(record.workflow_id, record.epoch)


def _values(held: LockedRows) -> dict[str, ColumnElement[Any]]:
    given = held.c
    cancelled = Workflow.cancel_interrupts.is_not(None)
    stays = given.next_claim.is_not(None)
    parent = aliased(Workflow, name="parent")
    # The deadline of a parent that lives holds for its child. Without `started_at` the claim adds the timeout.
    latest = select(parent.deadline).where(parent.id == Workflow.parent_id).scalar_subquery()
    own = seconds_from_now(func.coalesce(bounded(Workflow.timeout), given.timeout))
    return {
        "status": case(
            (cancelled, text_literal(WorkflowStatus.CANCELLED)),
            (stays, text_literal(WorkflowStatus.RUNNING)),
            else_=text_literal(WorkflowStatus.PENDING),
        ),
        "input": case((cancelled, Workflow.input), else_=json_of(given.input)),
        "generation": case((cancelled, Workflow.generation), else_=Workflow.epoch),
        "epoch": case((cancelled, Workflow.epoch), (stays, Workflow.epoch + ONE), else_=Workflow.epoch),
        "claim": case((cancelled, Workflow.claim), else_=given.next_claim),
        "executor": case((cancelled, null()), (stays, Workflow.executor)),
        "queue": case((stays, Workflow.queue), else_=queue_or_default()),
        "ready_at": case((cancelled, null()), (stays, null()), else_=func.now()),
        "started_at": case((cancelled, Workflow.started_at), (stays, func.now())),
        "deadline": case((cancelled, null()), (stays, func.least(latest, own)), else_=latest),
        "attempts": ZERO,
        "retries": ZERO,
        "error": null(),
        "saga_state": null(),
        "completed_at": case((cancelled, func.now())),
    }


def _delete_steps(written: Any) -> Any:
    continued = select(written.c.workflow_id).where(written.c.epoch > ZERO).subquery("continued")
    return delete(Step).where(Step.workflow_id == func.any(all_of(continued.c.workflow_id)))
