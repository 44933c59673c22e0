"""The writes of steps: what came of them, their failed attempts, and which are to be executed again."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from sqlalchemy import BigInteger, Double, case, func, literal_column, not_, null, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql import ColumnElement

from pgqrs.models import Step, Text, Workflow
from pgqrs.storage.journal.operation import (
    RETRY,
    CancelRequested,
    CurrentState,
    LockedRows,
    Operation,
    R,
    RecordColumns,
    fencing_error,
)
from pgqrs.storage.queries.expressions import ZERO, json_of, seconds_ago, seconds_from_now, text_literal
from pgqrs.storage.records import FailedAttempt, LastFailedAttempt, LastOutcome, StepOutcome, StoredOutcome
from pgqrs.types import StepStatus

_FALSE: ColumnElement[bool] = literal_column("false")


class _StepOperation(Operation[R]):
    """A write of steps' rows for runs whose epoch is current; it replaces those that give way to it."""

    insert_columns: ClassVar[list[str]]

    def statement(self, *, lone: bool = False) -> Any:
        """Return the insert, which replaces an older run's row unless that is a success."""
        held = self.lock_workflows(to_update=False, lone=lone)
        order = () if lone else (held.c.workflow_id, held.c.step_id)
        return self._insert(held, *order, lone=lone)

    def _insert(self, held: LockedRows, *order: ColumnElement[Any], lone: bool) -> Any:
        rows = select(*self._values(held)).select_from(held.source).where(held.is_current).order_by(*order)
        statement = insert(Step).from_select(self.insert_columns, rows, include_defaults=False)
        replaced = {key: statement.excluded[key] for key in self.insert_columns[2:]}
        return statement.on_conflict_do_update(
            index_elements=[Step.workflow_id, Step.step_id],
            set_=replaced | {"reopened": _FALSE} | self._reset_columns(),
            where=self._may_replace(statement.excluded),
        ).returning(*self.returning(Step.workflow_id, Step.epoch, Step.step_id, lone=lone))

    @abstractmethod
    def _values(self, held: LockedRows) -> list[ColumnElement[Any]]:
        """Return what is `written`, of the rows that are held."""

    def _reset_columns(self) -> dict[str, Any]:
        """Return what a row that is replaced loses beside what is `written`."""
        return {}

    def _may_replace(self, excluded: Any) -> Any:
        """Tell whether a step's row may be replaced: one of an older run, or one that is still running."""
        running = (Step.status == text_literal(StepStatus.RUNNING)) & (Step.epoch == excluded.epoch)
        return (Step.status != text_literal(StepStatus.SUCCESS)) & ((Step.epoch < excluded.epoch) | running)


class RecordStep(_StepOperation[StepOutcome]):
    """Record what came of steps, or that they are running, for runs whose epoch is current."""

    name: ClassVar[str] = "step"
    fields = StepOutcome._fields
    columns: ClassVar = {
        "workflow_id": BigInteger(),
        "claim": BigInteger(),
        "step_id": Text(),
        "output": Text(),
        "error": Text(),
        "elapsed": Double(),
        "fingerprint": BigInteger(),
    }
    insert_columns: ClassVar = [
        "workflow_id",
        "step_id",
        "status",
        "epoch",
        "started_at",
        "completed_at",
        "output",
        "error",
        "fingerprint",
    ]

    def _values(self, held: LockedRows) -> list[ColumnElement[Any]]:
        now = self._now()
        return [
            held.c.workflow_id,
            held.c.step_id,
            case(
                (held.c.output.is_not(None), text_literal(StepStatus.SUCCESS)),
                (held.c.error.is_not(None), text_literal(StepStatus.ERROR)),
                else_=text_literal(StepStatus.RUNNING),
            ),
            held.epoch,
            seconds_ago(held.c.elapsed, now),
            case((func.coalesce(held.c.output, held.c.error).is_not(None), now)),
            json_of(held.c.output),
            json_of(held.c.error),
            held.c.fingerprint,
        ]

    def _now(self) -> ColumnElement[Any]:
        return func.now()

    def result_for(self, record: StepOutcome, epoch: int) -> StoredOutcome:
        """Return the outcome as it was sent."""
        return StoredOutcome(record.output, record.error, record.fingerprint)

    def resolve_missing(self, record: StepOutcome, standing: CurrentState) -> Any:
        """Return the outcome that is stored, whichever run wrote it; a stale run is fenced."""
        if reason := fencing_error(record, standing):
            return reason
        written = standing.step_status in _of_this_run(record) and standing.step_epoch == standing.epoch
        if written or standing.step_status == StepStatus.SUCCESS:
            return StoredOutcome(standing.step_output, standing.step_error, standing.step_fingerprint)
        return self._blocked(record, standing)

    def _blocked(self, record: StepOutcome, standing: CurrentState) -> Any:
        """Return why an outcome that may be written was not."""
        return RETRY if standing.cancels is None else CancelRequested(standing.cancels, LastOutcome(*record))

    def _workflow_conditions(self) -> list[ColumnElement[bool]]:
        return [Workflow.cancel_interrupts.is_(None)]


class RecordLastStep(RecordStep):
    """Record the outcomes of steps for runs that have heard, or will be told, that they are to be cancelled."""

    name = "last"

    def _now(self) -> ColumnElement[Any]:
        # It may be the last statement of a transaction that began when the step did.
        return func.clock_timestamp()

    def in_transaction(self) -> Any:
        """Return the insert of a lone outcome as the last statement of a longer transaction.

        No other record waits for that, so it waits for a lock on the workflow's row instead of going unanswered.
        It answers with the epoch, and with whether the workflow is to be cancelled.
        """
        own = Workflow.id == self.plain().workflow_id
        cancels = select(Workflow.cancel_interrupts).where(own).scalar_subquery()
        inserted = self._insert(self.lock_workflows(to_update=False, lone=True, waiting=True), lone=True)
        return inserted.returning(cancels.label("cancels"))

    def _blocked(self, record: StepOutcome, standing: CurrentState) -> Any:
        return RETRY

    def _workflow_conditions(self) -> list[ColumnElement[bool]]:
        return []


def _of_this_run(record: StepOutcome) -> tuple[StepStatus, ...]:
    """Return the statuses that, written by the run itself, leave a record nothing to write."""
    is_mark = record.output is None and record.error is None
    return (StepStatus.ERROR, StepStatus.RUNNING) if is_mark else (StepStatus.ERROR,)


class RecordFailedAttempt(_StepOperation[FailedAttempt]):
    """Record attempts of steps that failed and are to be tried again, for runs whose epoch is current."""

    name: ClassVar[str] = "failure"
    fields = FailedAttempt._fields
    columns: ClassVar = {
        "workflow_id": BigInteger(),
        "claim": BigInteger(),
        "step_id": Text(),
        "error": Text(),
        "elapsed": Double(),
        "fingerprint": BigInteger(),
        "failures": BigInteger(),
        "delay": Double(),
    }
    insert_columns: ClassVar = [
        "workflow_id",
        "step_id",
        "status",
        "epoch",
        "started_at",
        "error",
        "fingerprint",
        "failures",
        "retry_at",
    ]

    def _values(self, held: LockedRows) -> list[ColumnElement[Any]]:
        return [
            held.c.workflow_id,
            held.c.step_id,
            text_literal(StepStatus.RUNNING),
            held.epoch,
            seconds_ago(held.c.elapsed),
            json_of(held.c.error),
            held.c.fingerprint,
            held.c.failures,
            seconds_from_now(held.c.delay),
        ]

    def _reset_columns(self) -> dict[str, Any]:
        return {"completed_at": null(), "output": null()}

    def _may_replace(self, excluded: Any) -> Any:
        again = (Step.epoch == excluded.epoch) & (Step.failures >= excluded.failures)
        return super()._may_replace(excluded) & not_(again)

    def result_for(self, record: FailedAttempt, epoch: int) -> None:
        """Return nothing: there is nothing to tell."""

    def resolve_missing(self, record: FailedAttempt, standing: CurrentState) -> Any:
        """Return None where the first sending arrived or the step has an outcome; a stale run is fenced."""
        if reason := fencing_error(record, standing):
            return reason
        if standing.step_status is None:
            return self._blocked(record, standing)
        if standing.step_status != StepStatus.SUCCESS and standing.step_epoch < standing.epoch:
            return self._blocked(record, standing)
        written = standing.step_status != StepStatus.RUNNING or standing.step_failures >= record.failures
        return None if written else self._blocked(record, standing)

    def _blocked(self, record: FailedAttempt, standing: CurrentState) -> Any:
        """Return why a failed attempt that may be written was not."""
        return RETRY if standing.cancels is None else CancelRequested(standing.cancels, LastFailedAttempt(*record))

    def _workflow_conditions(self) -> list[ColumnElement[bool]]:
        return [Workflow.cancel_interrupts.is_(None)]


class RecordLastFailedAttempt(RecordFailedAttempt):
    """Record failed attempts for runs that have heard that they are to be cancelled."""

    name = "lastfailure"

    def _blocked(self, record: FailedAttempt, standing: CurrentState) -> Any:
        return RETRY

    def _workflow_conditions(self) -> list[ColumnElement[bool]]:
        return []


class ReopenSteps(RecordColumns[tuple[int, str]]):
    """Mark steps to be executed again, in those workflows whose end the same statement records."""

    columns: ClassVar = {"workflow_id": BigInteger(), "step_id": Text()}
    fields = ("workflow_id", "step_id")

    def __init__(self, name: str) -> None:
        self.name = name  # type: ignore[misc]  # one for each kind that re-opens steps

    def statement_after(self, ended: Any) -> Any:
        """Return the update; `ended` is the CTE of the recorded ends."""
        rows = self.rows()
        return (
            update(Step)
            .where(Step.workflow_id == rows.c.workflow_id, Step.step_id == rows.c.step_id)
            .where(ended.c.workflow_id == rows.c.workflow_id, Step.status == text_literal(StepStatus.ERROR))
            .values(reopened=literal_column("true"), failures=ZERO)
        )
