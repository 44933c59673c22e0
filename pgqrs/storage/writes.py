"""The set-based statements of the hot path, and what their answers mean.

Each kind of record has one data-modifying statement over `unnest(...)` arrays. A batch of one kind is that
statement; a batch of several is one statement of CTEs; a lone record is the same statement over one row of plain
values, which saves the arrays' encoding and the server's walk over them. Every one of them may be sent twice.

The fence: a write joins its workflow rows through a sub-select that locks them, so that it sees the epoch
that is current when it commits. A plain condition on the epoch lets a stale row slip in beside an uncommitted
start. Rows that somebody else has locked are skipped, so that one of them never holds up the batch; their
records go unanswered and are sent again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeAlias, TypeVar
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Double,
    Interval,
    Subquery,
    Text,
    Uuid,
    bindparam,
    case,
    cast,
    column,
    func,
    literal_column,
    not_,
    null,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql import ColumnElement
from sqlalchemy.types import TypeEngine

from pgqrs.errors import (
    PgqrsError,
    WorkflowCancelledError,
    WorkflowFencedError,
    WorkflowFinishedError,
    WorkflowLockedError,
    WorkflowNotFoundError,
)
from pgqrs.models import Step, Workflow
from pgqrs.storage.executors import ABANDONED
from pgqrs.types import (
    Claim,
    NewRun,
    NewWorkflow,
    Outcome,
    RunEnd,
    RunLeave,
    RunStart,
    StepFailure,
    StepOutcome,
    StepStatus,
    Submission,
    WorkflowStatus,
)

Record: TypeAlias = NewWorkflow | NewRun | Submission | RunStart | StepOutcome | StepFailure | RunEnd | RunLeave
Result: TypeAlias = Claim | Outcome | bool | None
Arrays: TypeAlias = dict[str, list[Any]]

_WORKFLOWS: Any = Workflow.__table__
_STEPS: Any = Step.__table__


class Standing(NamedTuple):
    """How a record's workflow and step stand, read after the record's write went unanswered."""

    status: str | None
    epoch: int
    claim: UUID | None
    executor: UUID | None
    output: str | None
    step_status: str | None
    step_epoch: int
    step_output: str | None
    step_error: str | None
    step_fingerprint: int | None
    step_failures: int


_ONE: ColumnElement[int] = literal_column("1", BigInteger())

_SECOND: ColumnElement[Any] = literal_column("interval '1 second'", Interval())

DEFAULT_QUEUE = "default"
"""The queue of a workflow that was not given one."""

AGAIN: Any = object()
"""The verdict of `Kind.judge` on a record that only a lock held up: send it again."""

R = TypeVar("R", bound=tuple[Any, ...])


class Rows(Generic[R]):
    """Records as the rows of an `unnest`, one array a column; a lone one as a row of plain values."""

    name: ClassVar[str]
    columns: ClassVar[dict[str, TypeEngine[Any]]]

    def arrays(self, records: Sequence[R]) -> Arrays:
        """Return the binds: an array a column, in which each record has its place.

        The columns are the record's first fields; what follows them is not for these arrays.
        """
        keys = (f"{self.name}_{key}" for key in self.columns)
        return dict(zip(keys, map(list, zip(*records, strict=True)), strict=False))

    def values(self, record: R) -> dict[str, Any]:
        """Return the binds of a lone record."""
        keys = (f"{self.name}_{key}" for key in self.columns)
        return dict(zip(keys, record, strict=False))

    def _rows(self, *, lone: bool = False) -> Any:
        if lone:
            values = [
                bindparam(f"{self.name}_{key}", type_=type_).label(key) for key, type_ in self.columns.items()
            ]
            return select(*values).subquery(f"{self.name}_row")
        binds = [bindparam(f"{self.name}_{key}", type_=ARRAY(type_)) for key, type_ in self.columns.items()]
        named = [column(key, type_) for key, type_ in self.columns.items()]
        return func.unnest(*binds).table_valued(*named).render_derived(name=f"{self.name}_rows")


class Kind(Rows[R], ABC):
    """One kind of record: its statement, and the meaning of an answer or of none."""

    @abstractmethod
    def statement(self, *, lone: bool = False) -> Any:
        """Return the data-modifying statement, of many records or of a `lone` one; it answers what it wrote."""

    @abstractmethod
    def answered(self, record: R, epoch: int) -> Result:
        """Return the result of a record whose row came back with `epoch`."""

    @abstractmethod
    def judge(self, record: R, standing: Standing) -> Any:
        """Return what became of a record that went unanswered: a result, an error, or `AGAIN`."""

    def _held(self, *, to_update: bool, lone: bool) -> Subquery:
        """Return the rows with their workflows locked, in key order, and the epochs that are current.

        The lock is taken on the join itself: by the primary key, a look-up a row, whatever the batch's size.
        """
        rows = self._rows(lone=lone)
        locked = (
            select(*rows.c, Workflow.epoch.label("current_epoch"))
            .join_from(rows, Workflow, Workflow.id == rows.c.workflow_id)
            .order_by(Workflow.id)
            .with_for_update(read=not to_update, key_share=to_update, skip_locked=True, of=Workflow)
        )
        return locked.subquery(f"{self.name}_held")

    def _answer(self, workflow_id: Any, epoch: Any, step_id: Any = None) -> list[ColumnElement[Any]]:
        """Return the columns that every kind answers with, so that a mixed batch makes one list of them."""
        return [
            _literal(self.name).label("kind"),
            workflow_id.label("workflow_id"),
            (cast(null(), Text()) if step_id is None else step_id).label("step_id"),
            epoch.label("epoch"),
        ]


class Create(Kind[NewWorkflow]):
    """Insert workflows under ids that are reserved already; one that is there is left as it is."""

    name = "create"
    columns: ClassVar = {"workflow_id": BigInteger(), "name": Text(), "input": Text()}

    def statement(self, *, lone: bool = False) -> Any:
        """Return the insert."""
        rows = self._rows(lone=lone)
        new = select(rows.c.workflow_id, rows.c.name, _json(rows.c.input)).order_by(rows.c.workflow_id)
        return (
            insert(Workflow)
            .from_select(["id", "name", "input"], new, include_defaults=False)
            .on_conflict_do_nothing()
            .returning(*self._answer(Workflow.id, Workflow.epoch))
        )

    def answered(self, record: NewWorkflow, epoch: int) -> None:
        """Return nothing: there is nothing to tell."""

    def judge(self, record: NewWorkflow, standing: Standing) -> None:
        """Return None: the id was reserved for this record, so what is there is its first sending."""


class Begin(Kind[NewRun]):
    """Insert workflows that run already, under ids that are reserved; one that is there is left as it is."""

    name = "begin"
    columns: ClassVar = {
        "workflow_id": BigInteger(),
        "name": Text(),
        "input": Text(),
        "claim": Uuid(),
        "executor": Uuid(),
        "timeout": Double(),
    }
    written: ClassVar = [
        "id",
        "name",
        "input",
        "claim",
        "executor",
        "status",
        "epoch",
        "started_at",
        "timeout",
        "deadline",
    ]

    def statement(self, *, lone: bool = False) -> Any:
        """Return the insert."""
        rows = self._rows(lone=lone)
        new = select(
            rows.c.workflow_id,
            rows.c.name,
            _json(rows.c.input),
            rows.c.claim,
            rows.c.executor,
            _literal(WorkflowStatus.RUNNING),
            _ONE,
            func.now(),
            rows.c.timeout,
            _later(rows.c.timeout),
        ).order_by(rows.c.workflow_id)
        return (
            insert(Workflow)
            .from_select(self.written, new, include_defaults=False)
            .on_conflict_do_nothing()
            .returning(*self._answer(Workflow.id, Workflow.epoch))
        )

    def answered(self, record: NewRun, epoch: int) -> Claim:
        """Return the claim."""
        return Claim(epoch)

    def judge(self, record: NewRun, standing: Standing) -> Any:
        """Return the claim: the id was reserved for this record, so what is there is its first sending."""
        return Claim(1)


class Enqueue(Kind[Submission]):
    """Insert workflows for workers to claim, now or after a delay; of one key there is one."""

    name = "enqueue"
    columns: ClassVar = {
        "workflow_id": BigInteger(),
        "name": Text(),
        "input": Text(),
        "queue": Text(),
        "priority": BigInteger(),
        "delay": Double(),
        "timeout": Double(),
        "key": Text(),
    }
    written: ClassVar = ["id", "name", "input", "queue", "priority", "ready_at", "due_at", "timeout", "key"]

    def statement(self, *, lone: bool = False) -> Any:
        """Return the insert."""
        rows = self._rows(lone=lone)
        new = select(
            rows.c.workflow_id,
            rows.c.name,
            _json(rows.c.input),
            rows.c.queue,
            rows.c.priority,
            case((rows.c.delay.is_(None), func.now())),
            _later(rows.c.delay),
            rows.c.timeout,
            rows.c.key,
        ).order_by(rows.c.workflow_id)
        return (
            insert(Workflow)
            .from_select(self.written, new, include_defaults=False)
            .on_conflict_do_nothing()
            .returning(*self._answer(Workflow.id, Workflow.epoch))
        )

    def answered(self, record: Submission, epoch: int) -> bool:
        """Return True: this is the workflow of the key."""
        return True

    def judge(self, record: Submission, standing: Standing) -> bool:
        """Tell whether the record's own first sending is there; if not, its key belongs to another workflow."""
        return standing.status is not None


class Start(Kind[RunStart]):
    """Take workflows over: the next epoch, and every older run is fenced."""

    name = "start"
    columns: ClassVar = {"workflow_id": BigInteger(), "claim": Uuid(), "executor": Uuid(), "timeout": Double()}

    def statement(self, *, lone: bool = False) -> Any:
        """Return the update."""
        held = self._held(to_update=True, lone=lone)
        startable = (
            WorkflowStatus.PENDING,
            WorkflowStatus.RUNNING,
            WorkflowStatus.WAITING,
            WorkflowStatus.ERROR,
        )
        return (
            update(Workflow)
            # A claim that is there already came with the first sending: a late copy must not undo what followed.
            .where(Workflow.id == held.c.workflow_id, Workflow.claim.is_distinct_from(held.c.claim))
            .where(Workflow.status.in_([_literal(status) for status in startable]))
            .where(
                Workflow.executor.is_(None)
                | (Workflow.executor == held.c.executor)
                | (Workflow.executor == literal_column(f"'{ABANDONED}'::uuid", Uuid()))
            )
            .values(
                status=_literal(WorkflowStatus.RUNNING),
                epoch=Workflow.epoch + _ONE,
                claim=held.c.claim,
                executor=held.c.executor,
                ready_at=null(),
                due_at=null(),
                deadline=func.coalesce(Workflow.deadline, _later(func.coalesce(Workflow.timeout, held.c.timeout))),
                error=null(),
                started_at=func.coalesce(Workflow.started_at, func.now()),
                completed_at=null(),
                updated_at=func.now(),
            )
            .returning(*self._answer(Workflow.id, Workflow.epoch))
        )

    def answered(self, record: RunStart, epoch: int) -> Claim:
        """Return the claim."""
        return Claim(epoch)

    def judge(self, record: RunStart, standing: Standing) -> Any:
        """Return the output of a success, an error where there is nothing to run, else `AGAIN`."""
        match standing.status:
            case None:
                return WorkflowNotFoundError(record.workflow_id)
            case WorkflowStatus.SUCCESS:
                return Claim(standing.epoch, standing.output, succeeded=True)
            case WorkflowStatus.CANCELLED:
                return WorkflowCancelledError(record.workflow_id)
            case _ if standing.claim == record.claim:
                return Claim(standing.epoch)
            case _ if standing.executor is not None and standing.executor not in {record.executor, ABANDONED}:
                return WorkflowLockedError(record.workflow_id, standing.executor)
            case _:
                return AGAIN


class StepWrite(Kind[StepOutcome]):
    """Record what came of steps, or that they are running, for runs whose epoch is current."""

    name = "step"
    columns: ClassVar = {
        "workflow_id": BigInteger(),
        "epoch": BigInteger(),
        "step_id": Text(),
        "output": Text(),
        "error": Text(),
        "elapsed": Double(),
        "fingerprint": BigInteger(),
    }
    written: ClassVar = [
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

    def statement(self, *, lone: bool = False) -> Any:
        """Return the insert, which replaces an older run's row unless that is a success."""
        statement = insert(Step).from_select(self.written, self._outcomes(lone=lone), include_defaults=False)
        replaced = {key: statement.excluded[key] for key in self.written[2:]}
        return statement.on_conflict_do_update(
            index_elements=[Step.workflow_id, Step.step_id],
            set_=replaced | {"reopened": literal_column("false")},
            where=_gives_way(statement.excluded.epoch),
        ).returning(*self._answer(Step.workflow_id, Step.epoch, Step.step_id))

    def _outcomes(self, *, lone: bool) -> Any:
        held = self._held(to_update=False, lone=lone)
        return (
            select(
                held.c.workflow_id,
                held.c.step_id,
                case(
                    (held.c.output.is_not(None), _literal(StepStatus.SUCCESS)),
                    (held.c.error.is_not(None), _literal(StepStatus.ERROR)),
                    else_=_literal(StepStatus.RUNNING),
                ),
                held.c.epoch,
                _earlier(held.c.elapsed),
                case((func.coalesce(held.c.output, held.c.error).is_not(None), func.now())),
                _json(held.c.output),
                _json(held.c.error),
                held.c.fingerprint,
            )
            .where(held.c.current_epoch == held.c.epoch)
            .order_by(held.c.workflow_id, held.c.step_id)
        )

    def answered(self, record: StepOutcome, epoch: int) -> Outcome:
        """Return the outcome as it was sent."""
        return Outcome(record.output, record.error, record.fingerprint)

    def judge(self, record: StepOutcome, standing: Standing) -> Any:
        """Return the outcome that is stored, whoever wrote it; a stale run is fenced."""
        if lost := _lost(record, standing):
            return lost
        written = standing.step_status in _of_this_run(record) and standing.step_epoch == record.epoch
        if written or standing.step_status == StepStatus.SUCCESS:
            return Outcome(standing.step_output, standing.step_error, standing.step_fingerprint)
        return AGAIN


def _of_this_run(record: StepOutcome) -> tuple[StepStatus, ...]:
    """Return the statuses that, written by the run itself, leave a record nothing to write."""
    is_mark = record.output is None and record.error is None
    return (StepStatus.ERROR, StepStatus.RUNNING) if is_mark else (StepStatus.ERROR,)


class Fail(Kind[StepFailure]):
    """Record attempts of steps that failed and are to be tried again, for runs whose epoch is current."""

    name = "failure"
    columns: ClassVar = {
        "workflow_id": BigInteger(),
        "epoch": BigInteger(),
        "step_id": Text(),
        "error": Text(),
        "elapsed": Double(),
        "fingerprint": BigInteger(),
        "failures": BigInteger(),
        "delay": Double(),
    }
    written: ClassVar = [
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

    def statement(self, *, lone: bool = False) -> Any:
        """Return the insert, which replaces the attempts before."""
        statement = insert(Step).from_select(self.written, self._failed(lone=lone), include_defaults=False)
        replaced = {key: statement.excluded[key] for key in self.written[2:]}
        again = (Step.epoch == statement.excluded.epoch) & (Step.failures >= statement.excluded.failures)
        return statement.on_conflict_do_update(
            index_elements=[Step.workflow_id, Step.step_id],
            set_=replaced | {"reopened": literal_column("false"), "completed_at": null(), "output": null()},
            where=_gives_way(statement.excluded.epoch) & not_(again),
        ).returning(*self._answer(Step.workflow_id, Step.epoch, Step.step_id))

    def _failed(self, *, lone: bool) -> Any:
        held = self._held(to_update=False, lone=lone)
        return (
            select(
                held.c.workflow_id,
                held.c.step_id,
                _literal(StepStatus.RUNNING),
                held.c.epoch,
                _earlier(held.c.elapsed),
                _json(held.c.error),
                held.c.fingerprint,
                held.c.failures,
                _later(held.c.delay),
            )
            .where(held.c.current_epoch == held.c.epoch)
            .order_by(held.c.workflow_id, held.c.step_id)
        )

    def answered(self, record: StepFailure, epoch: int) -> None:
        """Return nothing: there is nothing to tell."""

    def judge(self, record: StepFailure, standing: Standing) -> Any:
        """Return None where the first sending arrived or the step has an outcome; a stale run is fenced."""
        if lost := _lost(record, standing):
            return lost
        if standing.step_status is None:
            return AGAIN
        if standing.step_status != StepStatus.SUCCESS and standing.step_epoch < record.epoch:
            return AGAIN
        written = standing.step_status != StepStatus.RUNNING or standing.step_failures >= record.failures
        return None if written else AGAIN


class End(Kind[RunEnd]):
    """Record how runs ended, and mark the failed steps that their next run is to execute again."""

    name = "end"
    columns: ClassVar = {
        "workflow_id": BigInteger(),
        "epoch": BigInteger(),
        "output": Text(),
        "error": Text(),
    }

    def arrays(self, records: Sequence[RunEnd]) -> Arrays:
        """Return the binds, those of the re-opened steps only where there are any."""
        return super().arrays(records) | _reopened(_REOPENED_AT[self.name], records)

    def statement(self, *, lone: bool = False) -> Any:
        """Return the update."""
        held = self._held(to_update=True, lone=lone)
        return (
            update(Workflow)
            .where(Workflow.id == held.c.workflow_id, held.c.current_epoch == held.c.epoch)
            .where(Workflow.status == _literal(WorkflowStatus.RUNNING))
            .values(
                status=case(
                    (held.c.error.is_(None), _literal(WorkflowStatus.SUCCESS)),
                    else_=_literal(WorkflowStatus.ERROR),
                ),
                output=_json(held.c.output),
                error=_json(held.c.error),
                executor=null(),
                deadline=null(),
                cancel_interrupts=null(),
                completed_at=func.now(),
                updated_at=func.now(),
            )
            .returning(*self._answer(Workflow.id, Workflow.epoch))
        )

    def answered(self, record: RunEnd, epoch: int) -> None:
        """Return nothing: there is nothing to tell."""

    def judge(self, record: RunEnd, standing: Standing) -> Any:
        """Return None where the first sending arrived, an error where another end is recorded."""
        if lost := _lost(record, standing):
            return lost
        if standing.status == WorkflowStatus.RUNNING:
            return AGAIN
        if standing.status == WorkflowStatus.CANCELLED:
            return WorkflowCancelledError(record.workflow_id)
        sent_before = standing.status == (WorkflowStatus.SUCCESS if record.error is None else WorkflowStatus.ERROR)
        return None if sent_before else WorkflowFinishedError(record.workflow_id, str(standing.status))


class Leave(Kind[RunLeave]):
    """Record that runs left their workflows for a later claim, or ended because they were cancelled."""

    name = "leave"
    columns: ClassVar = {
        "workflow_id": BigInteger(),
        "epoch": BigInteger(),
        "status": Text(),
        "wait": Double(),
        "error": Text(),
        "retries": BigInteger(),
    }

    def arrays(self, records: Sequence[RunLeave]) -> Arrays:
        """Return the binds, those of the re-opened steps only where there are any."""
        return super().arrays(records) | _reopened(_REOPENED_AT[self.name], records)

    def statement(self, *, lone: bool = False) -> Any:
        """Return the update; a workflow that somebody wants cancelled is not left for another claim."""
        held = self._held(to_update=True, lone=lone)
        cancelled = _literal(WorkflowStatus.CANCELLED)
        status = case((Workflow.cancel_interrupts.is_not(None), cancelled), else_=held.c.status)
        waiting, pending = _literal(WorkflowStatus.WAITING), _literal(WorkflowStatus.PENDING)
        abandoned = literal_column(f"'{ABANDONED}'::uuid", Uuid())
        one_less = func.greatest(Workflow.attempts - _ONE, literal_column("0", BigInteger()))
        return (
            update(Workflow)
            .where(Workflow.id == held.c.workflow_id, held.c.current_epoch == held.c.epoch)
            .where(
                Workflow.status == _literal(WorkflowStatus.RUNNING), Workflow.executor.is_distinct_from(abandoned)
            )
            .values(
                status=status,
                executor=case((status == _literal(WorkflowStatus.RUNNING), abandoned)),
                queue=func.coalesce(Workflow.queue, _literal(DEFAULT_QUEUE)),
                ready_at=case((status == pending, func.now())),
                due_at=case((status == waiting, _later(held.c.wait))),
                attempts=case(
                    (status == waiting, literal_column("0", BigInteger())),
                    ((status == pending) & has_progressed(), literal_column("0", BigInteger())),
                    (status == pending, one_less),
                    else_=Workflow.attempts,
                ),
                retries=func.coalesce(held.c.retries, Workflow.retries),
                error=_json(held.c.error),
                deadline=case((status != cancelled, Workflow.deadline)),
                cancel_interrupts=null(),
                completed_at=case((status == cancelled, func.now())),
                updated_at=func.now(),
            )
            .returning(*self._answer(Workflow.id, Workflow.epoch))
        )

    def answered(self, record: RunLeave, epoch: int) -> None:
        """Return nothing: there is nothing to tell."""

    def judge(self, record: RunLeave, standing: Standing) -> Any:
        """Return None where the run is left, by this record's first sending or because another took it over."""
        if standing.status is None:
            return WorkflowNotFoundError(record.workflow_id)
        running = standing.status == WorkflowStatus.RUNNING and standing.executor != ABANDONED
        left = standing.epoch != record.epoch or not running
        return None if left else AGAIN


class Reopen(Rows[tuple[int, str]]):
    """Mark steps to be executed again, in those workflows whose end the same statement records."""

    columns: ClassVar = {"workflow_id": BigInteger(), "step_id": Text()}

    def __init__(self, name: str) -> None:
        self.name = name  # type: ignore[misc]  # one for each kind that re-opens steps

    def statement_after(self, ended: Any) -> Any:
        """Return the update; `ended` is the CTE of the recorded ends."""
        rows = self._rows()
        return (
            update(Step)
            .where(Step.workflow_id == rows.c.workflow_id, Step.step_id == rows.c.step_id)
            .where(ended.c.workflow_id == rows.c.workflow_id, Step.status == _literal(StepStatus.ERROR))
            .values(reopened=literal_column("true"), failures=literal_column("0", BigInteger()))
        )


def _reopened(reopen: Reopen, records: Sequence[RunEnd | RunLeave]) -> Arrays:
    steps = [(record.workflow_id, step_id) for record in records for step_id in record.reopen]
    return reopen.arrays(steps) if steps else {}


class Asked(Rows[tuple[int, str | None]]):
    """Ask how the workflows and steps of unanswered records stand."""

    name = "asked"
    columns: ClassVar = {"workflow_id": BigInteger(), "step_id": Text()}

    def statement(self) -> Any:
        """Return the query; each row is the ids of a record and then its `Standing`."""
        rows = self._rows()
        standing = (
            Workflow.status,
            Workflow.epoch,
            Workflow.claim,
            Workflow.executor,
            cast(Workflow.output, Text()),
            Step.status,
            Step.epoch,
            cast(Step.output, Text()),
            cast(Step.error, Text()),
            Step.fingerprint,
            Step.failures,
        )
        return (
            select(rows.c.workflow_id, rows.c.step_id, *standing)
            .select_from(rows)
            .outerjoin(Workflow, Workflow.id == rows.c.workflow_id)
            .outerjoin(Step, (Step.workflow_id == rows.c.workflow_id) & (Step.step_id == rows.c.step_id))
        )


KINDS: dict[type[Any], Kind[Any]] = {
    NewWorkflow: Create(),
    NewRun: Begin(),
    Submission: Enqueue(),
    RunStart: Start(),
    StepOutcome: StepWrite(),
    StepFailure: Fail(),
    RunEnd: End(),
    RunLeave: Leave(),
}
_REOPENED_AT = {End.name: Reopen("reopen"), Leave.name: Reopen("retry")}
_REOPENING = {reopen.name: (after, reopen) for after, reopen in _REOPENED_AT.items()}
ASKED = Asked()
_BY_NAME = {kind.name: kind for kind in KINDS.values()} | {ASKED.name: ASKED}


def batch_names(arrays: Arrays) -> tuple[str, ...]:
    """Return the names of the kinds whose binds these are, as `batch` takes them."""
    return tuple(sorted({bind.partition("_")[0] for bind in arrays}))


def batch(names: tuple[str, ...]) -> Any:
    """Return the one statement that writes a batch of these kinds; ``"reopen"`` goes with ``"end"``."""
    if len(names) == 1:
        return _BY_NAME[names[0]].statement()
    ctes = {name: _BY_NAME[name].statement().cte(f"{name}_done") for name in names if name in _BY_NAME}
    answers = union_all(*(select(cte) for cte in ctes.values()))
    for name in names:
        if name in _REOPENING:
            after, reopen = _REOPENING[name]
            answers = answers.add_cte(reopen.statement_after(ctes[after]).cte(f"{name}_done"))
    return answers


def has_progressed() -> ColumnElement[bool]:
    """Tell whether the workflow's newest run has recorded a step."""
    own = (Step.workflow_id == Workflow.id) & (Step.epoch == Workflow.epoch)
    recorded = select(_ONE).where(own, Step.status != _literal(StepStatus.RUNNING))
    # With a limit, or the planner would hash all steps: a plan made on empty tables is kept.
    return recorded.limit(_ONE).correlate(Workflow).scalar_subquery().is_not(None)


def _literal(value: str) -> ColumnElement[str]:
    """Return a constant of the statement's text: a bind would hide it from the planner."""
    return literal_column(f"'{value}'", Text())


def _later(seconds: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the time so many seconds from now, NULL for NULL."""
    return func.now() + seconds * _SECOND


def _earlier(seconds: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.now() - seconds * _SECOND


def _json(text: ColumnElement[Any]) -> ColumnElement[Any]:
    return cast(text, JSON())


def _gives_way(epoch: ColumnElement[int]) -> ColumnElement[bool]:
    """Tell whether a step's row may be replaced: one of an older run, or one that is still running."""
    running = (Step.status == _literal(StepStatus.RUNNING)) & (Step.epoch == epoch)
    return (Step.status != _literal(StepStatus.SUCCESS)) & ((Step.epoch < epoch) | running)


def _lost(record: StepOutcome | StepFailure | RunEnd, standing: Standing) -> PgqrsError | None:
    """Tell why a run can write no more, if it cannot."""
    if standing.status is None:
        return WorkflowNotFoundError(record.workflow_id)
    if standing.epoch != record.epoch:
        if standing.status == WorkflowStatus.CANCELLED:
            return WorkflowCancelledError(record.workflow_id)
        return WorkflowFencedError(record.workflow_id, record.epoch)
    return None
