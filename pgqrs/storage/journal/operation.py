"""What a kind of record is to the journal: a data-modifying statement, and what its answers mean.

The statement is over `unnest(...)` arrays, one a column. A lone record's has plain values in their place, which
saves the arrays' encoding, and the server a join and two sorts. Every one may be sent twice.

The fence: a write joins its workflow rows through a sub-select that locks them, so that it sees the claim
that is current when it commits. A plain condition on the claim lets a stale row slip in beside an uncommitted
start. The claim is a random token and not the epoch: a server that lost its last moments gives an epoch twice.
Rows that another transaction has locked are skipped, so that one of them never holds up the batch; their records
go unanswered and are sent again.

The outcomes of a run whose workflow is to be cancelled go unanswered as well: so the run hears of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from operator import itemgetter
from types import SimpleNamespace
from typing import Any, ClassVar, Generic, NamedTuple, TypeAlias, TypeVar
from uuid import UUID

from sqlalchemy import ARRAY, Subquery, bindparam, cast, column, null, select, true
from sqlalchemy.sql import ColumnElement
from sqlalchemy.types import TypeEngine

from pgqrs.errors import PgqrsError, WorkflowCancelledError, WorkflowFencedError, WorkflowNotFoundError
from pgqrs.models import Text, Workflow
from pgqrs.storage.queries.expressions import array_of, text_literal, text_of_array, unnest
from pgqrs.storage.records import Claim, FailedAttempt, RunEnd, StepOutcome, StoredOutcome
from pgqrs.types import WorkflowStatus

Result: TypeAlias = Claim | StoredOutcome | PgqrsError | bool | None
Arrays: TypeAlias = dict[str, list[Any] | str | None]

R = TypeVar("R", bound=tuple[Any, ...])

EPOCH = -1
"""The place of the epoch in an answer. Of a lone record it is all that is answered."""

RETRY: Any = object()
"""The verdict of `Kind.judge` on a record that only a lock held up: send it again."""

ID_TAKEN: Any = object()
"""The verdict of `Kind.judge` on a new workflow whose id another workflow has: draw another id."""


class CancelRequested(NamedTuple):
    """The verdict of `Kind.judge` on a record of a run that is to be cancelled.

    `interrupts` tells whether the steps that execute are to be interrupted, and `instead` is the record to send.
    """

    interrupts: bool
    instead: Any


class CurrentState(NamedTuple):
    """The state of a record's workflow and step, read after the record's write went unanswered.

    `cancels` tells that the workflow is to be cancelled, and whether its steps are to be interrupted.
    """

    status: str | None
    epoch: int
    claim: int | None
    token: int | None
    cancels: bool | None
    executor: UUID | None
    output: str | None
    codec: str | None
    step_status: str | None
    step_epoch: int
    step_output: str | None
    step_error: str | None
    step_fingerprint: int | None
    step_failures: int


class LockedRows(NamedTuple):
    """Records whose workflows are locked: `source` is what to select them from.

    `c` has the records' columns, or the values of a lone one. `workflow_id` and `epoch` are columns of the source,
    and `is_current` is the condition that a record's claim is its workflow's.
    """

    source: Subquery
    c: Any
    workflow_id: ColumnElement[int]
    epoch: ColumnElement[int]
    is_current: ColumnElement[bool]


class RecordColumns(Generic[R]):
    """Records as the rows of an `unnest`, one array a column; a lone one as plain values."""

    name: ClassVar[str]
    columns: ClassVar[dict[str, TypeEngine[Any]]]
    fields: ClassVar[tuple[str, ...]]
    """The names of a record's fields, in order; those that are no columns are not for the statement."""

    @cached_property
    def places(self) -> dict[str, int]:
        """The place in a record of each bind."""
        return {f"{self.name}_{key}": self.fields.index(key) for key in self.columns}

    def arrays(self, records: Sequence[R]) -> Arrays:
        """Return the binds: an array a column, in which each record has its place."""
        fields = list(zip(*records, strict=True))
        return {bind: _array(fields[place]) for bind, place in self.places.items()}

    def values(self, record: R) -> dict[str, Any]:
        """Return the binds of a lone record."""
        return {bind: record[place] for bind, place in self.places.items()}

    def picker(self, binds: Sequence[str]) -> Callable[[R], Sequence[Any]]:
        """Return a function that takes the values of these binds, which are several, out of a lone record."""
        return itemgetter(*(self.places[bind] for bind in binds))

    def plain(self) -> Any:
        """Return a lone record's values, each as an attribute."""
        binds = {key: bindparam(f"{self.name}_{key}", type_=type_) for key, type_ in self.columns.items()}
        return SimpleNamespace(**binds)

    def rows(self) -> Any:
        """Return the records as something to select from."""
        binds = [self._array_bind(f"{self.name}_{key}", type_) for key, type_ in self.columns.items()]
        named = [column(key, type_) for key, type_ in self.columns.items()]
        return unnest(*binds).table_valued(*named).render_derived(name=f"{self.name}_rows")

    def _array_bind(self, name: str, type_: TypeEngine[Any]) -> ColumnElement[Any]:
        return bindparam(name, type_=ARRAY(type_))


class CallerColumns(RecordColumns[R]):
    """Rows for a session that is not ours: arrays of anything but text are given as text; see `array_of`."""

    def arrays(self, records: Sequence[R]) -> Arrays:
        """Return the binds: an array a column, or the text of one."""
        types = list(self.columns.values())
        arrays = zip(super().arrays(records).items(), types, strict=True)
        return {bind: each if isinstance(type_, Text) else _as_text(each) for (bind, each), type_ in arrays}

    def _array_bind(self, name: str, type_: TypeEngine[Any]) -> ColumnElement[Any]:
        if isinstance(type_, Text):
            return super()._array_bind(name, type_)
        return array_of(bindparam(name, type_=Text()), type_)


def _as_text(array: Any) -> Any:
    return None if array is None else text_of_array(array)


def _array(column: tuple[Any, ...]) -> list[Any] | None:
    """Return a column as an array; `unnest` fills up what is NULL, which the driver need not look through."""
    return None if column[0] is None and column.count(None) == len(column) else list(column)


class Operation(RecordColumns[R], ABC):
    """One kind of record: its statement, and the meaning of an answer or of none."""

    @abstractmethod
    def statement(self, *, lone: bool = False) -> Any:
        """Return the data-modifying statement, of many records or of a `lone` one; it answers what it wrote."""

    @abstractmethod
    def result_for(self, record: R, epoch: int) -> Result:
        """Return the result of a record whose row came back with `epoch`."""

    @abstractmethod
    def resolve_missing(self, record: R, standing: CurrentState) -> Any:
        """Return what became of a record that went unanswered: a result, an error, or `AGAIN`."""

    def lock_workflows(self, *, to_update: bool, lone: bool = False, waiting: bool = False) -> LockedRows:
        """Return the records with their workflows locked, in key order.

        The lock is taken on the join itself: by the primary key, a look-up a row, whatever the batch's size.
        `waiting` waits for rows that are locked instead of leaving them out.
        """
        records = self.plain() if lone else self.rows()
        found = self._found(records) if lone else self._joined(records)
        held = found.with_for_update(
            read=not to_update, key_share=to_update, skip_locked=not waiting, of=Workflow
        ).subquery(f"{self.name}_held")
        if lone:
            return LockedRows(held, records, held.c.id, held.c.current_epoch, true())
        is_current = held.c.current_claim == held.c.claim if self._is_fenced else true()
        return LockedRows(held, held.c, held.c.workflow_id, held.c.current_epoch, is_current)

    # A start brings a claim of its own; every other write is by the claim that its run has.
    _is_fenced: ClassVar[bool] = True

    def _joined(self, rows: Any) -> Any:
        joined = select(*rows.c, Workflow.epoch.label("current_epoch"), Workflow.claim.label("current_claim"))
        found = joined.join_from(rows, Workflow, Workflow.id == rows.c.workflow_id)
        return found.where(*self._workflow_conditions()).order_by(Workflow.id)

    def _found(self, record: Any) -> Any:
        # The conditions are looked at again once the lock is there.
        current = [Workflow.claim == record.claim] if self._is_fenced else []
        found = select(Workflow.id, Workflow.epoch.label("current_epoch"))
        return found.where(Workflow.id == record.workflow_id, *current, *self._workflow_conditions())

    def _workflow_conditions(self) -> list[ColumnElement[bool]]:
        """Return the further conditions on the workflow that a record is written for."""
        return []

    def returning(
        self, workflow_id: Any, epoch: Any, step_id: Any = None, *, lone: bool = False
    ) -> list[ColumnElement[Any]]:
        """Return the columns that every kind answers with, so that a mixed batch makes one list of them."""
        if lone:
            return [epoch.label("epoch")]
        return [
            text_literal(self.name).label("kind"),
            workflow_id.label("workflow_id"),
            (cast(null(), Text()) if step_id is None else step_id).label("step_id"),
            epoch.label("epoch"),
        ]


def fencing_error(record: StepOutcome | FailedAttempt | RunEnd, standing: CurrentState) -> PgqrsError | None:
    """Tell why a run can write no more, if it cannot."""
    if standing.status is None:
        return WorkflowNotFoundError(record.workflow_id)
    if standing.claim != record.claim:
        if standing.status == WorkflowStatus.CANCELLED:
            return WorkflowCancelledError(record.workflow_id)
        return WorkflowFencedError(record.workflow_id, record.epoch)
    return None
