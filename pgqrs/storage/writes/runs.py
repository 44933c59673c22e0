"""The operations on the runs of workflows, with their records: start, end and release."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar
from uuid import UUID

from sqlalchemy import case, false, func, null, select, update
from sqlalchemy.sql import ColumnElement

from pgqrs.errors import (
    CodecMismatchError,
    PgqrsError,
    WorkflowCancelledError,
    WorkflowFinishedError,
    WorkflowLockedError,
    WorkflowNotFoundError,
)
from pgqrs.models import Workflow
from pgqrs.storage.queries.executors import ABANDONED, abandoned
from pgqrs.storage.records import Claim
from pgqrs.storage.sql.expressions import (
    ONE,
    ZERO,
    bounded,
    deadline_after,
    has_progressed,
    json_of,
    queue_or_default,
    seconds_from_now,
    text_literal,
)
from pgqrs.storage.sql.sagas import has_saga, is_undecided, unwinds
from pgqrs.storage.sql.waits import drop_waits
from pgqrs.storage.writes.columns import Arrays
from pgqrs.storage.writes.operation import (
    RETRY,
    Companion,
    CurrentState,
    Follower,
    LockedRows,
    Operation,
    fencing_error,
)
from pgqrs.storage.writes.steps import ReopenedStep, ReopenSteps
from pgqrs.storage.writes.waits import AWAIT_MESSAGES, PARK_STEPS, StepWait, wait_arrays
from pgqrs.types import SagaState, WorkflowStatus


class RunStart(NamedTuple):
    """A record to write: the start of a run by `executor`; the run writes with the token `claim` from then on.

    `timeout` is the seconds that the workflow may take from this start, unless it has a timeout or a deadline of
    its own already. `token` is the token of the workflow, None if it is unknown: a workflow with another token is
    not started.
    """

    workflow_id: int
    claim: int
    executor: UUID
    timeout: float | None = None
    codec: str | None = None
    token: int | None = None


class RunEnd(NamedTuple):
    """A record to write: the end of a run, and the failed steps that the next run is to execute again.

    `claim` is the token of the run: the record is written only while the workflow has this claim. `claim` has this
    meaning in `RunRelease` too.
    """

    workflow_id: int
    epoch: int
    output: str | None
    error: str | None
    reopen: tuple[str, ...] = ()
    claim: int = 0


class RunRelease(NamedTuple):
    """A record to write: the release of a run whose workflow has not ended, or the cancellation of a workflow.

    `status` has four values:

    * WAITING parks the workflow until `wait` seconds have passed or a message answers one of the `waits`; then it
      can be claimed again. `wait` is None for no limit.
    * PENDING hands the workflow to another worker at once.
    * CANCELLED records the cancellation.
    * RUNNING is for a run that its process has abandoned and any executor may take over.

    `retries` is the number of retries of the workflow so far, None to keep the stored number. `error` is JSON
    text. WAITING with an `error` and without `retries` is for a misfit: its run never began, and its attempts
    continue to count. A workflow that unwinds is never WAITING: it is PENDING in its place.
    """

    workflow_id: int
    epoch: int
    status: WorkflowStatus
    wait: float | None = None
    error: str | None = None
    retries: int | None = None
    reopen: tuple[str, ...] = ()
    claim: int = 0
    waits: tuple[StepWait, ...] = ()


class ClaimWorkflow(Operation[RunStart]):
    """Start the next epoch of workflows, which fences every older run."""

    name = "start"
    record = RunStart
    _is_fenced = False

    @property
    def followers(self) -> Mapping[str, Follower]:
        """The deletion of the waits: a workflow that is parked may be started by hand."""
        return {"waits": lambda written: drop_waits(written.c.workflow_id)}

    def statement(self, *, single: bool = False) -> Any:
        """Return the update; a workflow that had failed begins with a fresh count of retries."""
        held = self.lock_workflows(to_update=True, single=single)
        timeout = func.coalesce(bounded(Workflow.timeout), held.c.timeout)
        startable = (
            WorkflowStatus.PENDING,
            WorkflowStatus.RUNNING,
            WorkflowStatus.WAITING,
            WorkflowStatus.ERROR,
        )
        started = (
            update(Workflow)
            # A row with this claim was written by the first sending: a late copy must not undo later writes.
            .where(Workflow.id == held.workflow_id, Workflow.claim.is_distinct_from(held.c.claim))
            .where(Workflow.status.in_([text_literal(status) for status in startable]))
            .where(
                Workflow.executor.is_(None)
                | (Workflow.executor == held.c.executor)
                | (Workflow.executor == abandoned())
            )
            .where(Workflow.codec.is_not_distinct_from(held.c.codec))
            .where(Workflow.token.is_not_distinct_from(func.coalesce(held.c.token, Workflow.token)))
            .values(
                status=text_literal(WorkflowStatus.RUNNING),
                epoch=Workflow.epoch + ONE,
                claim=held.c.claim,
                executor=held.c.executor,
                ready_at=null(),
                due_at=null(),
                deadline=deadline_after(timeout),
                retries=case(
                    (Workflow.status == text_literal(WorkflowStatus.ERROR), ZERO), else_=Workflow.retries
                ),
                error=null(),
                started_at=func.coalesce(Workflow.started_at, func.now()),
                completed_at=null(),
                updated_at=func.now(),
            )
        )
        if not single:
            return started.returning(*self.returning(Workflow.id, Workflow.epoch))
        done = started.returning(Workflow.id, Workflow.epoch).cte(f"{self.name}_done")
        return select(done.c.epoch).add_cte(drop_waits(done.c.id).cte(f"{self.name}_waits"))

    def result_for(self, record: RunStart, epoch: int) -> Claim:
        """Return the claim."""
        return Claim(epoch, token=record.claim)

    def resolve_missing(self, record: RunStart, current: CurrentState) -> Any:
        """Return the claim or the output of a success, an error if the run cannot start, else `RETRY`."""
        if refusal := _claim_error(record, current):
            return refusal
        if current.status == WorkflowStatus.SUCCESS:
            return Claim(current.epoch, current.output, succeeded=True)
        if current.claim == record.claim:
            return Claim(current.epoch, token=record.claim)
        if current.executor is not None and current.executor not in {record.executor, ABANDONED}:
            return WorkflowLockedError(record.workflow_id, current.executor)
        return RETRY


def _claim_error(record: RunStart, current: CurrentState) -> PgqrsError | None:
    """Return the error of a workflow that no executor can start, or not with this codec, else None."""
    if current.status is None:
        return WorkflowNotFoundError(record.workflow_id)
    if record.token is not None and current.token != record.token:
        return WorkflowNotFoundError(record.workflow_id, is_replaced=True)
    if current.status == WorkflowStatus.CANCELLED:
        return WorkflowCancelledError(record.workflow_id)
    if current.codec != record.codec:
        return CodecMismatchError(record.workflow_id, current.codec, record.codec)
    return None


class SagaMark(NamedTuple):
    """A record to write: the state of the sagas of a workflow, None for no saga with steps to undo.

    Any state but OPEN says that the workflow unwinds: a cancellation that was requested is heard by that, and the
    deadline no longer counts. OPEN and None keep such a state.
    """

    workflow_id: int
    epoch: int
    state: str | None
    claim: int = 0


class MarkSaga(Operation[SagaMark]):
    """Write the state of the sagas of workflows, for current runs."""

    name = "saga"
    record = SagaMark
    unsent: ClassVar = frozenset({"epoch"})

    def statement(self, *, single: bool = False) -> Any:
        """Return the update; a workflow that unwinds goes on to unwind."""
        held = self.lock_workflows(to_update=True, single=single)
        ends = func.coalesce(held.c.state, text_literal(SagaState.OPEN)) != text_literal(SagaState.OPEN)
        return (
            update(Workflow)
            .where(Workflow.id == held.workflow_id, held.is_current)
            .where(Workflow.status == text_literal(WorkflowStatus.RUNNING))
            .values(
                saga_state=case(
                    (ends | ~func.coalesce(unwinds(), false()), held.c.state), else_=Workflow.saga_state
                ),
                cancel_interrupts=case((~ends, Workflow.cancel_interrupts)),
                deadline=case((~ends, Workflow.deadline)),
            )
            .returning(*self.returning(Workflow.id, Workflow.epoch.expression, single=single))
        )

    def result_for(self, record: SagaMark, epoch: int) -> None:
        """Return None: a mark has no result."""

    def resolve_missing(self, record: SagaMark, current: CurrentState) -> Any:
        """Return the error of a stale run, or the reason to send the record again."""
        if reason := fencing_error(record, current):
            return reason
        is_over = current.status != WorkflowStatus.RUNNING
        return WorkflowFinishedError(record.workflow_id, str(current.status)) if is_over else RETRY


End = TypeVar("End", bound=RunEnd | RunRelease)


class _ReleaseOperation(Operation[End]):
    """A write that ends or releases runs, and marks the failed steps that the next run is to execute again."""

    reopening: ClassVar[ReopenSteps]
    unsent: ClassVar = frozenset({"epoch", "reopen", "waits"})

    def arrays(self, records: Sequence[End]) -> Arrays:
        """Return the binds, with the binds of the reopened steps if there are such steps."""
        steps = [ReopenedStep(record.workflow_id, step_id) for record in records for step_id in record.reopen]
        return super().arrays(records) | (self.reopening.arrays(steps) if steps else {})

    @property
    def companions(self) -> Sequence[Companion[Any]]:
        """The write that marks the failed steps."""
        return (self.reopening,)

    def can_be_single(self, record: End) -> bool:
        """Return whether the record reopens no step."""
        return not record.reopen

    def statement(self, *, single: bool = False) -> Any:
        """Return the update of the workflows whose run is current and not yet ended or released."""
        held = self.lock_workflows(to_update=True, single=single)
        return (
            update(Workflow)
            .where(Workflow.id == held.workflow_id, held.is_current)
            .where(Workflow.status == text_literal(WorkflowStatus.RUNNING), *self._conditions())
            .values({"cancel_interrupts": null(), "updated_at": func.now()} | self._values(held))
            .returning(*self.returning(Workflow.id, self._epoch(), single=single))
        )

    @abstractmethod
    def _values(self, held: LockedRows) -> dict[str, ColumnElement[Any]]:
        """Return the new values of the workflows' columns."""

    def _conditions(self) -> list[ColumnElement[bool]]:
        """Return further conditions on the workflows."""
        return []

    def _epoch(self) -> ColumnElement[int]:
        """Return the epoch of the answer."""
        return Workflow.epoch.expression


def _negative_if_cancelled() -> ColumnElement[int]:
    """Return the epoch of a workflow, negative if the write has cancelled it."""
    cancelled = Workflow.status == text_literal(WorkflowStatus.CANCELLED)
    return case((cancelled, -Workflow.epoch), else_=Workflow.epoch)


class FinishWorkflow(_ReleaseOperation[RunEnd]):
    """Record the ends of runs."""

    name = "end"
    record = RunEnd
    reopening = ReopenSteps("reopen")

    def payload_size(self, record: RunEnd) -> int:
        """Return the length of the output or of the error."""
        return len(record.output or record.error or "")

    def _values(self, held: LockedRows) -> dict[str, ColumnElement[Any]]:
        # Undone sagas go with a cancellation, so one that comes after the last saga is too late.
        is_kept = Workflow.cancel_interrupts.is_(None) | func.coalesce(is_undecided(), false())
        return {
            "status": case(
                (~is_kept, text_literal(WorkflowStatus.CANCELLED)),
                (held.c.error.is_(None), text_literal(WorkflowStatus.SUCCESS)),
                else_=text_literal(WorkflowStatus.ERROR),
            ),
            "output": case((is_kept, json_of(held.c.output))),
            "error": case((is_kept, json_of(held.c.error))),
            "executor": null(),
            "deadline": null(),
            "completed_at": func.now(),
        }

    def _epoch(self) -> ColumnElement[int]:
        return _negative_if_cancelled()

    def result_for(self, record: RunEnd, epoch: int) -> WorkflowCancelledError | None:
        """Return None, or an error if the end became a cancellation, for which the epoch is negative."""
        return WorkflowCancelledError(record.workflow_id) if epoch < 0 else None

    def resolve_missing(self, record: RunEnd, current: CurrentState) -> Any:
        """Return None if the first sending arrived, an error if another end is recorded, else `RETRY`."""
        if reason := fencing_error(record, current):
            return reason
        if current.status == WorkflowStatus.RUNNING:
            return RETRY
        if current.status == WorkflowStatus.CANCELLED:
            return WorkflowCancelledError(record.workflow_id)
        sent_before = current.status == (WorkflowStatus.SUCCESS if record.error is None else WorkflowStatus.ERROR)
        return None if sent_before else WorkflowFinishedError(record.workflow_id, str(current.status))


class ReleaseWorkflow(_ReleaseOperation[RunRelease]):
    """Release workflows for a later claim, or record that their runs were cancelled."""

    name = "leave"
    record = RunRelease
    reopening = ReopenSteps("retry")

    def payload_size(self, record: RunRelease) -> int:
        """Return the length of the error."""
        return len(record.error or "")

    def arrays(self, records: Sequence[RunRelease]) -> Arrays:
        """Return the binds, with the binds of the reopened steps and of the waits if there are any."""
        return super().arrays(records) | wait_arrays([each for record in records for each in record.waits])

    @property
    def companions(self) -> Sequence[Companion[Any]]:
        """The writes that mark the failed steps and record the waits."""
        return (self.reopening, PARK_STEPS, AWAIT_MESSAGES)

    def can_be_single(self, record: RunRelease) -> bool:
        """Return whether the record neither reopens a step nor has waits."""
        return not (record.reopen or record.waits)

    def _epoch(self) -> ColumnElement[int]:
        """Return the epoch of a workflow, negative if the write has not parked it."""
        parked = Workflow.status == text_literal(WorkflowStatus.WAITING)
        return case((parked, Workflow.epoch), else_=-Workflow.epoch)

    def result_for(self, record: RunRelease, epoch: int) -> bool | None:
        """Return True for a workflow that was to be parked and is cancelled, or unwinds; else None."""
        return True if record.status is WorkflowStatus.WAITING and epoch < 0 else None

    def _conditions(self) -> list[ColumnElement[bool]]:
        return [Workflow.executor.is_distinct_from(abandoned())]

    def _values(self, held: LockedRows) -> dict[str, ColumnElement[Any]]:
        cancelled = text_literal(WorkflowStatus.CANCELLED)
        parks = held.c.status == text_literal(WorkflowStatus.WAITING)
        # Its run never began, so its attempts continue to count, and it keeps its delay also if it unwinds.
        is_misfit = parks & held.c.error.is_not(None) & held.c.retries.is_(None)
        # A workflow that is to be cancelled is not released for another claim, unless the claim is to unwind it.
        unwinds_next = case((parks, text_literal(WorkflowStatus.PENDING)), else_=held.c.status)
        is_to_end = Workflow.cancel_interrupts.is_not(None)
        instead = case((has_saga(), unwinds_next), else_=cancelled)
        status = case((is_to_end, instead), (unwinds(), unwinds_next), else_=held.c.status)
        waiting = status == text_literal(WorkflowStatus.WAITING)
        pending = status == text_literal(WorkflowStatus.PENDING)
        return {
            "status": status,
            "saga_state": case(
                (is_to_end & is_undecided(), text_literal(SagaState.CANCELLED)), else_=Workflow.saga_state
            ),
            "executor": case((status == text_literal(WorkflowStatus.RUNNING), abandoned())),
            "queue": queue_or_default(),
            "ready_at": case((pending & ~is_misfit, func.now())),
            "due_at": case((waiting | (pending & is_misfit), seconds_from_now(held.c.wait))),
            "attempts": case(
                (is_misfit, Workflow.attempts),
                (waiting | (pending & has_progressed()), ZERO),
                (pending, func.greatest(Workflow.attempts - ONE, ZERO)),
                else_=Workflow.attempts,
            ),
            "retries": func.coalesce(held.c.retries, Workflow.retries),
            "error": json_of(held.c.error),
            "deadline": case((status != cancelled, Workflow.deadline)),
            "completed_at": case((status == cancelled, func.now())),
        }

    def resolve_missing(self, record: RunRelease, current: CurrentState) -> Any:
        """Return None if the first sending arrived or a later run has the workflow, else `RETRY`."""
        if current.status is None:
            return WorkflowNotFoundError(record.workflow_id)
        running = current.status == WorkflowStatus.RUNNING and current.executor != ABANDONED
        is_released = current.claim != record.claim or not running
        return None if is_released else RETRY
