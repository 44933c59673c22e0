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
    Subquery,
    Text,
    Uuid,
    bindparam,
    case,
    cast,
    column,
    func,
    literal_column,
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
    WorkflowNotFoundError,
)
from pgqrs.models import Step, Workflow
from pgqrs.types import Claim, NewWorkflow, Outcome, RunEnd, RunStart, StepOutcome, StepStatus, WorkflowStatus

Record: TypeAlias = NewWorkflow | RunStart | StepOutcome | RunEnd
Result: TypeAlias = Claim | Outcome | None
Arrays: TypeAlias = dict[str, list[Any]]

_WORKFLOWS: Any = Workflow.__table__
_STEPS: Any = Step.__table__


class Standing(NamedTuple):
    """How a record's workflow and step stand, read after the record's write went unanswered."""

    status: str | None
    epoch: int
    claim: UUID | None
    output: str | None
    step_status: str | None
    step_epoch: int
    step_output: str | None
    step_error: str | None


_ONE: ColumnElement[int] = literal_column("1", BigInteger())

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


class Start(Kind[RunStart]):
    """Take workflows over: the next epoch, and every older run is fenced."""

    name = "start"
    columns: ClassVar = {"workflow_id": BigInteger(), "claim": Uuid()}

    def statement(self, *, lone: bool = False) -> Any:
        """Return the update."""
        held = self._held(to_update=True, lone=lone)
        startable = (WorkflowStatus.PENDING, WorkflowStatus.RUNNING, WorkflowStatus.ERROR)
        return (
            update(Workflow)
            # A claim that is there already came with the first sending: a late copy must not undo what followed.
            .where(Workflow.id == held.c.workflow_id, Workflow.claim.is_distinct_from(held.c.claim))
            .where(Workflow.status.in_([_literal(status) for status in startable]))
            .values(
                status=_literal(WorkflowStatus.RUNNING),
                epoch=Workflow.epoch + _ONE,
                claim=held.c.claim,
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
            case _:
                return Claim(standing.epoch) if standing.claim == record.claim else AGAIN


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
                func.now() - held.c.elapsed * literal_column("interval '1 second'"),
                case((func.coalesce(held.c.output, held.c.error).is_not(None), func.now())),
                _json(held.c.output),
                _json(held.c.error),
            )
            .where(held.c.current_epoch == held.c.epoch)
            .order_by(held.c.workflow_id, held.c.step_id)
        )

    def answered(self, record: StepOutcome, epoch: int) -> Outcome:
        """Return the outcome as it was sent."""
        return Outcome(record.output, record.error)

    def judge(self, record: StepOutcome, standing: Standing) -> Any:
        """Return the outcome that is stored, whoever wrote it; a stale run is fenced."""
        if lost := _lost(record, standing):
            return lost
        written = standing.step_status in _of_this_run(record) and standing.step_epoch == record.epoch
        if written or standing.step_status == StepStatus.SUCCESS:
            return Outcome(standing.step_output, standing.step_error)
        return AGAIN


def _of_this_run(record: StepOutcome) -> tuple[StepStatus, ...]:
    """Return the statuses that, written by the run itself, leave a record nothing to write."""
    is_mark = record.output is None and record.error is None
    return (StepStatus.ERROR, StepStatus.RUNNING) if is_mark else (StepStatus.ERROR,)


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
        ends = super().arrays(records)
        steps = [(record.workflow_id, step_id) for record in records for step_id in record.reopen]
        return ends | _REOPEN.arrays(steps) if steps else ends

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


class Reopen(Rows[tuple[int, str]]):
    """Mark steps to be executed again, in those workflows whose end the same statement records."""

    name = "reopen"
    columns: ClassVar = {"workflow_id": BigInteger(), "step_id": Text()}

    def statement_after(self, ended: Any) -> Any:
        """Return the update; `ended` is the CTE of the recorded ends."""
        rows = self._rows()
        return (
            update(Step)
            .where(Step.workflow_id == rows.c.workflow_id, Step.step_id == rows.c.step_id)
            .where(ended.c.workflow_id == rows.c.workflow_id, Step.status == _literal(StepStatus.ERROR))
            .values(reopened=literal_column("true"))
        )


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
            cast(Workflow.output, Text()),
            Step.status,
            Step.epoch,
            cast(Step.output, Text()),
            cast(Step.error, Text()),
        )
        return (
            select(rows.c.workflow_id, rows.c.step_id, *standing)
            .select_from(rows)
            .outerjoin(Workflow, Workflow.id == rows.c.workflow_id)
            .outerjoin(Step, (Step.workflow_id == rows.c.workflow_id) & (Step.step_id == rows.c.step_id))
        )


KINDS: dict[type[Any], Kind[Any]] = {
    NewWorkflow: Create(),
    RunStart: Start(),
    StepOutcome: StepWrite(),
    RunEnd: End(),
}
_REOPEN = Reopen()
ASKED = Asked()
_BY_NAME = {kind.name: kind for kind in KINDS.values()} | {ASKED.name: ASKED}


def batch_names(arrays: Arrays) -> tuple[str, ...]:
    """Return the names of the kinds whose binds these are, as `batch` takes them."""
    return tuple(sorted({bind.partition("_")[0] for bind in arrays}))


def batch(names: tuple[str, ...]) -> Any:
    """Return the one statement that writes a batch of these kinds; ``"reopen"`` goes with ``"end"``."""
    if len(names) == 1:
        return _BY_NAME[names[0]].statement()
    ctes = {name: _BY_NAME[name].statement().cte(f"{name}_done") for name in names if name != _REOPEN.name}
    answers = union_all(*(select(cte) for cte in ctes.values()))
    if _REOPEN.name not in names:
        return answers
    return answers.add_cte(_REOPEN.statement_after(ctes[End.name]).cte("reopen_done"))


def _literal(value: str) -> ColumnElement[str]:
    """Return a constant of the statement's text: a bind would hide it from the planner."""
    return literal_column(f"'{value}'", Text())


def _json(text: ColumnElement[Any]) -> ColumnElement[Any]:
    return cast(text, JSON())


def _gives_way(epoch: ColumnElement[int]) -> ColumnElement[bool]:
    """Tell whether a step's row may be replaced: one of an older run, or one that is still running."""
    running = (Step.status == _literal(StepStatus.RUNNING)) & (Step.epoch == epoch)
    return (Step.status != _literal(StepStatus.SUCCESS)) & ((Step.epoch < epoch) | running)


def _lost(record: StepOutcome | RunEnd, standing: Standing) -> PgqrsError | None:
    """Tell why a run can write no more, if it cannot."""
    if standing.status is None:
        return WorkflowNotFoundError(record.workflow_id)
    if standing.epoch != record.epoch:
        return WorkflowFencedError(record.workflow_id, record.epoch)
    return None
