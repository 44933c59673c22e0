"""The writes of workflows: created, begun, enqueued; started, ended and left."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from sqlalchemy import BigInteger, Double, Uuid, case, func, null, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql import ColumnElement

from pgqrs.errors import (
    CodecMismatchError,
    PgqrsError,
    WorkflowCancelledError,
    WorkflowFinishedError,
    WorkflowLockedError,
    WorkflowNotFoundError,
)
from pgqrs.models import Text, Workflow
from pgqrs.storage.journal.operation import (
    ID_TAKEN,
    RETRY,
    Arrays,
    CurrentState,
    LockedRows,
    Operation,
    R,
    fencing_error,
)
from pgqrs.storage.journal.steps import ReopenSteps
from pgqrs.storage.queries.executors import ABANDONED, abandoned
from pgqrs.storage.queries.expressions import (
    ONE,
    ZERO,
    bounded,
    has_progressed,
    json_of,
    queue_or_default,
    seconds_from_now,
    text_literal,
)
from pgqrs.storage.records import Claim, NewRun, NewWorkflow, RunEnd, RunRelease, RunStart, Submission
from pgqrs.types import WorkflowStatus


class _InsertOperation(Operation[R]):
    """Insert workflows under ids that are reserved already; one that is there is left as it is.

    One that is there came with the record's first sending if it has the record's token. A server that lost its
    last moments gives an id twice: then it is another workflow.
    """

    insert_columns: ClassVar[list[str]]

    def statement(self, *, lone: bool = False) -> Any:
        """Return the insert."""
        given = self.plain() if lone else self.rows().c
        order = () if lone else (given.workflow_id,)
        columns = given.workflow_id, given.name, json_of(given.input), given.token
        new = select(*columns, *self._values(given)).order_by(*order)
        return (
            insert(Workflow)
            .from_select(["id", "name", "input", "token", *self.insert_columns], new, include_defaults=False)
            .on_conflict_do_nothing()
            .returning(*self.returning(Workflow.id, Workflow.epoch, lone=lone))
        )

    @abstractmethod
    def _values(self, given: Any) -> list[ColumnElement[Any]]:
        """Return what is `written` of a record, whose columns these are, after its id, its name and its input."""


class CreateWorkflow(_InsertOperation[NewWorkflow]):
    """Insert workflows that nobody runs yet."""

    name = "create"
    fields = NewWorkflow._fields
    columns: ClassVar = {
        "workflow_id": BigInteger(),
        "name": Text(),
        "input": Text(),
        "codec": Text(),
        "token": BigInteger(),
    }
    insert_columns: ClassVar = ["codec"]

    def _values(self, given: Any) -> list[ColumnElement[Any]]:
        return [given.codec]

    def result_for(self, record: NewWorkflow, epoch: int) -> None:
        """Return nothing: there is nothing to tell."""

    def resolve_missing(self, record: NewWorkflow, standing: CurrentState) -> Any:
        """Return None where the first sending is there."""
        return _unless_id_taken(None, record, standing)


class CreateAndStart(_InsertOperation[NewRun]):
    """Insert workflows that run already."""

    name = "begin"
    fields = NewRun._fields
    columns: ClassVar = {
        "workflow_id": BigInteger(),
        "name": Text(),
        "input": Text(),
        "executor": Uuid(),
        "timeout": Double(),
        "codec": Text(),
        "token": BigInteger(),
    }
    insert_columns: ClassVar = [
        "executor",
        "status",
        "epoch",
        "claim",
        "started_at",
        "timeout",
        "deadline",
        "codec",
    ]

    def _values(self, given: Any) -> list[ColumnElement[Any]]:
        return [
            given.executor,
            text_literal(WorkflowStatus.RUNNING),
            ONE,
            given.token,
            func.now(),
            given.timeout,
            seconds_from_now(given.timeout),
            given.codec,
        ]

    def result_for(self, record: NewRun, epoch: int) -> Claim:
        """Return the claim."""
        return Claim(epoch, token=record.token)

    def resolve_missing(self, record: NewRun, standing: CurrentState) -> Any:
        """Return the claim where the first sending is there."""
        return _unless_id_taken(Claim(1, token=record.token), record, standing)


class EnqueueWorkflow(_InsertOperation[Submission]):
    """Insert workflows for workers to claim, now or after a delay; of one key there is one."""

    name = "enqueue"
    fields = Submission._fields
    columns: ClassVar = {
        "workflow_id": BigInteger(),
        "name": Text(),
        "input": Text(),
        "queue": Text(),
        "priority": BigInteger(),
        "delay": Double(),
        "timeout": Double(),
        "key": Text(),
        "codec": Text(),
        "token": BigInteger(),
    }
    insert_columns: ClassVar = ["queue", "priority", "ready_at", "due_at", "timeout", "key", "codec"]

    def _values(self, given: Any) -> list[ColumnElement[Any]]:
        return [
            given.queue,
            given.priority,
            case((given.delay.is_(None), func.now())),
            seconds_from_now(given.delay),
            given.timeout,
            given.key,
            given.codec,
        ]

    def result_for(self, record: Submission, epoch: int) -> bool:
        """Return True: this is the workflow of the key."""
        return True

    def resolve_missing(self, record: Submission, standing: CurrentState) -> Any:
        """Tell whether the record's own first sending is there; if not, its key belongs to another workflow."""
        return False if standing.status is None else _unless_id_taken(True, record, standing)  # noqa: FBT003  # the result


def _unless_id_taken(result: Any, record: NewWorkflow | NewRun | Submission, standing: CurrentState) -> Any:
    """Return the result where the workflow of a record's id is the record's own, else `TAKEN`.

    One that is not there at all has gone since its id kept the record from being written.
    """
    if standing.status is None:
        return RETRY
    return result if standing.token == record.token else ID_TAKEN


class ClaimWorkflow(Operation[RunStart]):
    """Take workflows over: the next epoch, and every older run is fenced."""

    name = "start"
    fields = RunStart._fields
    _is_fenced = False
    columns: ClassVar = {
        "workflow_id": BigInteger(),
        "claim": BigInteger(),
        "executor": Uuid(),
        "timeout": Double(),
        "codec": Text(),
    }

    def statement(self, *, lone: bool = False) -> Any:
        """Return the update; a workflow that had failed may be retried as often as a new one."""
        held = self.lock_workflows(to_update=True, lone=lone)
        timeout = func.coalesce(bounded(Workflow.timeout), held.c.timeout)
        startable = (
            WorkflowStatus.PENDING,
            WorkflowStatus.RUNNING,
            WorkflowStatus.WAITING,
            WorkflowStatus.ERROR,
        )
        return (
            update(Workflow)
            # A claim that is there already came with the first sending: a late copy must not undo what followed.
            .where(Workflow.id == held.workflow_id, Workflow.claim.is_distinct_from(held.c.claim))
            .where(Workflow.status.in_([text_literal(status) for status in startable]))
            .where(
                Workflow.executor.is_(None)
                | (Workflow.executor == held.c.executor)
                | (Workflow.executor == abandoned())
            )
            .where(Workflow.codec.is_not_distinct_from(held.c.codec))
            .values(
                status=text_literal(WorkflowStatus.RUNNING),
                epoch=Workflow.epoch + ONE,
                claim=held.c.claim,
                executor=held.c.executor,
                ready_at=null(),
                due_at=null(),
                deadline=func.coalesce(Workflow.deadline, seconds_from_now(timeout)),
                retries=case(
                    (Workflow.status == text_literal(WorkflowStatus.ERROR), ZERO), else_=Workflow.retries
                ),
                error=null(),
                started_at=func.coalesce(Workflow.started_at, func.now()),
                completed_at=null(),
                updated_at=func.now(),
            )
            .returning(*self.returning(Workflow.id, Workflow.epoch, lone=lone))
        )

    def result_for(self, record: RunStart, epoch: int) -> Claim:
        """Return the claim."""
        return Claim(epoch, token=record.claim)

    def resolve_missing(self, record: RunStart, standing: CurrentState) -> Any:
        """Return the output of a success, an error where there is nothing to run, else `AGAIN`."""
        if refusal := _claim_error(record, standing):
            return refusal
        if standing.status == WorkflowStatus.SUCCESS:
            return Claim(standing.epoch, standing.output, succeeded=True)
        if standing.claim == record.claim:
            return Claim(standing.epoch, token=record.claim)
        if standing.executor is not None and standing.executor not in {record.executor, ABANDONED}:
            return WorkflowLockedError(record.workflow_id, standing.executor)
        return RETRY


def _claim_error(record: RunStart, standing: CurrentState) -> PgqrsError | None:
    """Tell why a workflow cannot be started by anybody, or not with this codec, if so."""
    if standing.status is None:
        return WorkflowNotFoundError(record.workflow_id)
    if standing.status == WorkflowStatus.CANCELLED:
        return WorkflowCancelledError(record.workflow_id)
    if standing.codec != record.codec:
        return CodecMismatchError(record.workflow_id, standing.codec, record.codec)
    return None


class _ReleaseOperation(Operation[R]):
    """A write that ends runs, and marks the failed steps that the next run is to execute again."""

    reopening: ClassVar[ReopenSteps]

    def arrays(self, records: Sequence[R]) -> Arrays:
        """Return the binds, those of the re-opened steps only where there are any."""
        steps = [(record.workflow_id, step_id) for record in _ends(records) for step_id in record.reopen]
        return super().arrays(records) | (self.reopening.arrays(steps) if steps else {})

    def statement(self, *, lone: bool = False) -> Any:
        """Return the update of the workflows whose run is the current one, and goes on."""
        held = self.lock_workflows(to_update=True, lone=lone)
        return (
            update(Workflow)
            .where(Workflow.id == held.workflow_id, held.is_current)
            .where(Workflow.status == text_literal(WorkflowStatus.RUNNING), *self._conditions())
            .values(**self._values(held), cancel_interrupts=null(), updated_at=func.now())
            .returning(*self.returning(Workflow.id, self._epoch(), lone=lone))
        )

    @abstractmethod
    def _values(self, held: LockedRows) -> dict[str, ColumnElement[Any]]:
        """Return what the workflows become."""

    def _conditions(self) -> list[ColumnElement[bool]]:
        """Return what else must hold of them."""
        return []

    def _epoch(self) -> ColumnElement[int]:
        """Return the epoch that is answered."""
        return Workflow.epoch.expression


def _ends(records: Sequence[Any]) -> Sequence[RunEnd | RunRelease]:
    return records


class FinishWorkflow(_ReleaseOperation[RunEnd]):
    """Record how runs ended."""

    name = "end"
    fields = RunEnd._fields
    columns: ClassVar = {"workflow_id": BigInteger(), "claim": BigInteger(), "output": Text(), "error": Text()}
    reopening = ReopenSteps("reopen")

    def _values(self, held: LockedRows) -> dict[str, ColumnElement[Any]]:
        goes_on = Workflow.cancel_interrupts.is_(None)
        return {
            "status": case(
                (~goes_on, text_literal(WorkflowStatus.CANCELLED)),
                (held.c.error.is_(None), text_literal(WorkflowStatus.SUCCESS)),
                else_=text_literal(WorkflowStatus.ERROR),
            ),
            "output": case((goes_on, json_of(held.c.output))),
            "error": case((goes_on, json_of(held.c.error))),
            "executor": null(),
            "deadline": null(),
            "completed_at": func.now(),
        }

    def _epoch(self) -> ColumnElement[int]:
        cancelled = Workflow.status == text_literal(WorkflowStatus.CANCELLED)
        return case((cancelled, -Workflow.epoch), else_=Workflow.epoch)

    def result_for(self, record: RunEnd, epoch: int) -> WorkflowCancelledError | None:
        """Return None, or an error where the workflow was to be cancelled, and is: the epoch is negative then."""
        return WorkflowCancelledError(record.workflow_id) if epoch < 0 else None

    def resolve_missing(self, record: RunEnd, standing: CurrentState) -> Any:
        """Return None where the first sending arrived, an error where another end is recorded."""
        if reason := fencing_error(record, standing):
            return reason
        if standing.status == WorkflowStatus.RUNNING:
            return RETRY
        if standing.status == WorkflowStatus.CANCELLED:
            return WorkflowCancelledError(record.workflow_id)
        sent_before = standing.status == (WorkflowStatus.SUCCESS if record.error is None else WorkflowStatus.ERROR)
        return None if sent_before else WorkflowFinishedError(record.workflow_id, str(standing.status))


class ReleaseWorkflow(_ReleaseOperation[RunRelease]):
    """Record that runs left their workflows for a later claim, or ended because they were cancelled."""

    name = "leave"
    fields = RunRelease._fields
    columns: ClassVar = {
        "workflow_id": BigInteger(),
        "claim": BigInteger(),
        "status": Text(),
        "wait": Double(),
        "error": Text(),
        "retries": BigInteger(),
    }
    reopening = ReopenSteps("retry")

    def result_for(self, record: RunRelease, epoch: int) -> None:
        """Return nothing: there is nothing to tell."""

    def _conditions(self) -> list[ColumnElement[bool]]:
        return [Workflow.executor.is_distinct_from(abandoned())]

    def _values(self, held: LockedRows) -> dict[str, ColumnElement[Any]]:
        cancelled = text_literal(WorkflowStatus.CANCELLED)
        # A workflow that somebody wants cancelled is not left for another claim.
        status = case((Workflow.cancel_interrupts.is_not(None), cancelled), else_=held.c.status)
        waiting = status == text_literal(WorkflowStatus.WAITING)
        pending = status == text_literal(WorkflowStatus.PENDING)
        return {
            "status": status,
            "executor": case((status == text_literal(WorkflowStatus.RUNNING), abandoned())),
            "queue": queue_or_default(),
            "ready_at": case((pending, func.now())),
            "due_at": case((waiting, seconds_from_now(held.c.wait))),
            "attempts": case(
                # Of a run that was never begun: what was claimed fits no function there.
                (waiting & held.c.error.is_not(None) & held.c.retries.is_(None), Workflow.attempts),
                (waiting | (pending & has_progressed()), ZERO),
                (pending, func.greatest(Workflow.attempts - ONE, ZERO)),
                else_=Workflow.attempts,
            ),
            "retries": func.coalesce(held.c.retries, Workflow.retries),
            "error": json_of(held.c.error),
            "deadline": case((status != cancelled, Workflow.deadline)),
            "completed_at": case((status == cancelled, func.now())),
        }

    def resolve_missing(self, record: RunRelease, standing: CurrentState) -> Any:
        """Return None where the run is left, by this record's first sending or because another took it over."""
        if standing.status is None:
            return WorkflowNotFoundError(record.workflow_id)
        running = standing.status == WorkflowStatus.RUNNING and standing.executor != ABANDONED
        left = standing.claim != record.claim or not running
        return None if left else RETRY
