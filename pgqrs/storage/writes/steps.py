"""The operations on steps, with their records: outcomes, RUNNING marks, failed attempts, and reopened steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from typing import Annotated, Any, ClassVar, NamedTuple, TypeAlias, TypeVar

from sqlalchemy import case, func, literal_column, not_, null, select, update
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.sql import ColumnElement

from pgqrs.models import Step, Workflow
from pgqrs.storage.records import StoredOutcome
from pgqrs.storage.sql.expressions import ZERO, json_of, seconds_ago, seconds_from_now, text_literal
from pgqrs.storage.writes.columns import SecondsSince
from pgqrs.storage.writes.operation import (
    RETRY,
    CancelRequested,
    Companion,
    CurrentState,
    LockedRows,
    Operation,
    fencing_error,
)
from pgqrs.types import StepStatus

_FALSE: ColumnElement[bool] = literal_column("false")


Began: TypeAlias = Annotated[float, SecondsSince("elapsed")]
"""The monotonic time at which a step began."""


class StepOutcome(NamedTuple):
    """A record to write: the outcome of a step, or the mark that the step is running.

    One of `output` and `error` is JSON text; both are None for a mark. `fingerprint` is the fingerprint of the
    step's arguments. `claim` is the token of the run: the record is written only while the workflow has this
    claim. `claim` has this meaning in `FailedAttempt` too.
    """

    workflow_id: int
    epoch: int
    step_id: str
    output: str | None
    error: str | None
    began: Began
    fingerprint: int | None = None
    claim: int = 0


class NewOutcome(StepOutcome):
    """A record to write: the outcome of a step that has no row yet, as far as the run knows."""

    __slots__ = ()


class LastOutcome(StepOutcome):
    """A record to write: the outcome of a step, in a run that knows that its workflow is to be cancelled."""

    __slots__ = ()


class FailedAttempt(NamedTuple):
    """A record to write: a failed attempt of a step that is to be retried.

    `failures` counts the failed attempts, this attempt included. `delay` is the seconds until the next attempt.
    """

    workflow_id: int
    epoch: int
    step_id: str
    error: str
    began: Began
    fingerprint: int | None
    failures: int
    delay: float
    claim: int = 0


class LastFailedAttempt(FailedAttempt):
    """A record to write: a failed attempt in a run that knows that its workflow is to be cancelled."""

    __slots__ = ()


class StartedWait(NamedTuple):
    """A record to write: the timeout of a step that waits in a run that goes on.

    One of `output` and `error`, JSON text, becomes the outcome after `seconds`.
    """

    workflow_id: int
    epoch: int
    step_id: str
    output: str | None
    error: str | None
    began: Began
    fingerprint: int | None
    seconds: float
    claim: int = 0


OfStep = TypeVar("OfStep", bound=StepOutcome | FailedAttempt | StartedWait)


class StepOperation(Operation[OfStep]):
    """A write of step rows for current runs; it replaces older rows of the steps unless they are successes."""

    unsent: ClassVar = frozenset({"epoch"})  # the row has the epoch of the workflow
    last_record: ClassVar[type[Any] | None] = None
    """The type of record that is written in place of this one once the run knows that it is to be cancelled.

    None for the operation of that type itself, which writes whether or not a cancellation is requested.
    """

    def conflict_key(self, record: OfStep) -> str:
        """Return the id of the step."""
        return record.step_id

    def answer_key(self, record: OfStep) -> str:
        """Return the id of the step."""
        return record.step_id

    def statement(self, *, single: bool = False) -> Any:
        """Return the insert, which replaces the row of an older run unless that row is a success."""
        held = self.lock_workflows(to_update=False, single=single)
        order = () if single else (held.c.workflow_id, held.c.step_id)
        return self._insert(held, *order, single=single)

    def _insert(self, held: LockedRows, *order: ColumnElement[Any], single: bool) -> Any:
        values = self._values(held)
        columns = ["workflow_id", "step_id", *values]
        rows = select(held.c.workflow_id, held.c.step_id, *values.values()).select_from(held.source)
        ordered = rows.where(held.is_current).order_by(*order)
        statement = insert(Step).from_select(columns, ordered, include_defaults=False)
        if self.fallback_record is None:
            statement = self._replacing(statement, values)
        return statement.returning(*self.returning(Step.workflow_id, Step.epoch, Step.step_id, single=single))

    def _replacing(self, statement: Insert, values: Collection[str]) -> Insert:
        """Return an insert that replaces the columns `values` of the rows that exist."""
        replaced = {key: statement.excluded[key] for key in values}
        return statement.on_conflict_do_update(
            index_elements=[Step.workflow_id, Step.step_id],
            set_=replaced | {"reopened": _FALSE} | self._reset_columns(),
            where=self._may_replace(statement.excluded),
        )

    @abstractmethod
    def _values(self, held: LockedRows) -> dict[str, ColumnElement[Any]]:
        """Return the values of the columns beside the ids, taken from the locked rows."""

    def _workflow_conditions(self) -> list[ColumnElement[bool]]:
        return [] if self.last_record is None else [Workflow.cancel_interrupts.is_(None)]

    def _blocked(self, record: OfStep, current: CurrentState) -> Any:
        """Return the reason that a permitted record was not written: a lock, or a requested cancellation."""
        if self.last_record is None or current.cancels is None:
            return RETRY
        return CancelRequested(current.cancels, self.last_record(*record))

    def _reset_columns(self) -> dict[str, Any]:
        """Return the columns outside `_values` that a replaced row loses, with their new values."""
        return {}

    def _may_replace(self, excluded: Any) -> Any:
        """Return the condition to replace a row."""
        return may_replace(excluded)


def may_replace(excluded: Any) -> Any:
    """Return the condition to replace a row: no success, and of an older run or RUNNING in this run."""
    running = (Step.status == text_literal(StepStatus.RUNNING)) & (Step.epoch == excluded.epoch)
    return (Step.status != text_literal(StepStatus.SUCCESS)) & ((Step.epoch < excluded.epoch) | running)


class RecordStep(StepOperation[StepOutcome]):
    """Record the outcomes or the RUNNING marks of steps, for current runs."""

    name = "step"
    record = StepOutcome
    last_record: ClassVar[type[Any] | None] = LastOutcome

    def _values(self, held: LockedRows) -> dict[str, ColumnElement[Any]]:
        now = self._now()
        return {
            "status": case(
                (held.c.output.is_not(None), text_literal(StepStatus.SUCCESS)),
                (held.c.error.is_not(None), text_literal(StepStatus.ERROR)),
                else_=text_literal(StepStatus.RUNNING),
            ),
            "epoch": held.epoch,
            "started_at": seconds_ago(held.c.elapsed, now),
            "completed_at": case((func.coalesce(held.c.output, held.c.error).is_not(None), now)),
            "output": json_of(held.c.output),
            "error": json_of(held.c.error),
            "fingerprint": held.c.fingerprint,
        }

    def _now(self) -> ColumnElement[Any]:
        return func.now()

    def payload_size(self, record: StepOutcome) -> int:
        """Return the length of the output or of the error."""
        return len(record.output or record.error or "")

    def result_for(self, record: StepOutcome, epoch: int) -> StoredOutcome:
        """Return the outcome as it was sent."""
        return StoredOutcome(record.output, record.error, record.fingerprint)

    def resolve_missing(self, record: StepOutcome, current: CurrentState) -> Any:
        """Return the stored outcome, of any run; a stale run gets its error."""
        if reason := fencing_error(record, current):
            return reason
        written = current.step_status in _of_this_run(record) and current.step_epoch == current.epoch
        if written or current.step_status == StepStatus.SUCCESS:
            return StoredOutcome(current.step_output, current.step_error, current.step_fingerprint)
        return self._blocked(record, current)


class RecordNewStep(RecordStep):
    """Record the outcomes of steps that have no rows yet.

    A plain insert costs the server less than one that may replace rows: less time, and no record in the WAL that
    confirms the row. It fails where a row exists, as after an earlier sending of the same statement.
    """

    name = "new"
    record = NewOutcome
    fallback_record: ClassVar[type[Any] | None] = StepOutcome


class RecordLastStep(RecordStep):
    """Record the outcomes of steps for runs that know, or learn by the answer, that they are to be cancelled."""

    name = "last"
    record = LastOutcome
    last_record = None

    def _now(self) -> ColumnElement[Any]:
        # `now()` is the start of the transaction: a transactional step's transaction begins with the step, and
        # this is its last statement.
        return func.clock_timestamp()

    def in_transaction(self) -> Any:
        """Return the insert of a single outcome as the last statement of a transactional step.

        No other record waits for this statement. So it waits for a lock on the workflow's row instead of staying
        unanswered. It answers with the epoch and with `cancels`, as in `CurrentState`.
        """
        own = Workflow.id == self.plain().workflow_id
        cancels = select(Workflow.cancel_interrupts).where(own).scalar_subquery()
        inserted = self._insert(self.lock_workflows(to_update=False, single=True, waiting=True), single=True)
        return inserted.returning(cancels.label("cancels"))


def _of_this_run(record: StepOutcome) -> tuple[StepStatus, ...]:
    """Return the statuses, written by the run itself, that make a record superfluous."""
    is_mark = record.output is None and record.error is None
    return (StepStatus.ERROR, StepStatus.RUNNING) if is_mark else (StepStatus.ERROR,)


class RecordFailedAttempt(StepOperation[FailedAttempt]):
    """Record failed attempts of steps that are to be retried, for current runs."""

    name = "failure"
    last_record: ClassVar[type[Any] | None] = LastFailedAttempt
    record = FailedAttempt

    def _values(self, held: LockedRows) -> dict[str, ColumnElement[Any]]:
        return {
            "status": text_literal(StepStatus.RUNNING),
            "epoch": held.epoch,
            "started_at": seconds_ago(held.c.elapsed),
            "error": json_of(held.c.error),
            "fingerprint": held.c.fingerprint,
            "failures": held.c.failures,
            "retry_at": seconds_from_now(held.c.delay),
        }

    def _reset_columns(self) -> dict[str, Any]:
        return {"completed_at": null(), "output": null()}

    def _may_replace(self, excluded: Any) -> Any:
        again = (Step.epoch == excluded.epoch) & (Step.failures >= excluded.failures)
        return super()._may_replace(excluded) & not_(again)

    def payload_size(self, record: FailedAttempt) -> int:
        """Return the length of the error."""
        return len(record.error)

    def result_for(self, record: FailedAttempt, epoch: int) -> None:
        """Return None: a failed attempt has no result."""

    def resolve_missing(self, record: FailedAttempt, current: CurrentState) -> Any:
        """Return None if the first sending arrived or the step has an outcome; a stale run gets its error."""
        if reason := fencing_error(record, current):
            return reason
        if current.step_status is None:
            return self._blocked(record, current)
        if current.step_status != StepStatus.SUCCESS and current.step_epoch < current.epoch:
            return self._blocked(record, current)
        written = current.step_status != StepStatus.RUNNING or current.step_failures >= record.failures
        return None if written else self._blocked(record, current)


class RecordLastFailedAttempt(RecordFailedAttempt):
    """Record failed attempts for runs that know that they are to be cancelled."""

    name = "lastfailure"
    record = LastFailedAttempt
    last_record = None


class RecordWait(StepOperation[StartedWait]):
    """Record the timeouts of steps that wait, for current runs."""

    name = "wait"
    record = StartedWait

    def _workflow_conditions(self) -> list[ColumnElement[bool]]:
        return [Workflow.cancel_interrupts.is_(None)]

    def _blocked(self, record: StartedWait, current: CurrentState) -> Any:
        return RETRY if current.cancels is None else CancelRequested(current.cancels, None)

    def _values(self, held: Any) -> dict[str, ColumnElement[Any]]:
        return {
            "status": text_literal(StepStatus.RUNNING),
            "epoch": held.epoch,
            "started_at": seconds_ago(held.c.elapsed),
            "output": json_of(held.c.output),
            "error": json_of(held.c.error),
            "fingerprint": held.c.fingerprint,
            "retry_at": seconds_from_now(held.c.seconds),
        }

    def _reset_columns(self) -> dict[str, Any]:
        return {"completed_at": null(), "failures": ZERO}

    def result_for(self, record: StartedWait, epoch: int) -> bool:
        """Return True: a cancellation leaves the record unwritten, and its result is None then."""
        return True

    def resolve_missing(self, record: StartedWait, current: CurrentState) -> Any:
        """Return True if the step has a row of this run or an outcome; a stale run gets its error."""
        if reason := fencing_error(record, current):
            return reason
        is_written = current.step_status is not None and current.step_epoch == current.epoch
        if is_written or current.step_status == StepStatus.SUCCESS:
            return True
        return self._blocked(record, current)


class ReopenedStep(NamedTuple):
    """A failed step that is to be executed again."""

    workflow_id: int
    step_id: str


class ReopenSteps(Companion[ReopenedStep]):
    """Mark failed steps to be executed again, in the workflows whose runs the same statement ends or releases."""

    record = ReopenedStep

    def __init__(self, name: str) -> None:
        self.name = name

    def statement_after(self, written: Any) -> Any:
        """Return the update; `written` is the CTE of the ended or released runs."""
        rows = self.rows()
        return (
            update(Step)
            .where(Step.workflow_id == rows.c.workflow_id, Step.step_id == rows.c.step_id)
            .where(written.c.workflow_id == rows.c.workflow_id, Step.status == text_literal(StepStatus.ERROR))
            .values(reopened=literal_column("true"), failures=ZERO, retry_at=null())
        )
