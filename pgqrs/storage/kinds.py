"""What a kind of record is to the journal: a data-modifying statement, and what its answers mean.

The statement is over `unnest(...)` arrays, one a column. A lone record's has plain values in their place, which
saves the arrays' encoding, and the server a join and two sorts. Every one may be sent twice.

The fence: a write joins its workflow rows through a sub-select that locks them, so that it sees the epoch
that is current when it commits. A plain condition on the epoch lets a stale row slip in beside an uncommitted
start. Rows that somebody else has locked are skipped, so that one of them never holds up the batch; their
records go unanswered and are sent again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from operator import itemgetter
from types import SimpleNamespace
from typing import Any, ClassVar, Generic, NamedTuple, TypeAlias, TypeVar
from uuid import UUID

from sqlalchemy import ARRAY, Subquery, bindparam, cast, column, null, select, true
from sqlalchemy.sql import ColumnElement
from sqlalchemy.types import TypeEngine

from pgqrs.errors import PgqrsError, WorkflowCancelledError, WorkflowFencedError, WorkflowNotFoundError
from pgqrs.models import Text, Workflow
from pgqrs.storage.sql import array_of, constant, text_of_array, unnest
from pgqrs.types import Claim, Outcome, RunEnd, StepFailure, StepOutcome, WorkflowStatus

Result: TypeAlias = Claim | Outcome | bool | None
Arrays: TypeAlias = dict[str, list[Any] | str | None]

R = TypeVar("R", bound=tuple[Any, ...])

EPOCH = -1
"""The place of the epoch in an answer. Of a lone record it is all that is answered."""

AGAIN: Any = object()
"""The verdict of `Kind.judge` on a record that only a lock held up: send it again."""


class Standing(NamedTuple):
    """How a record's workflow and step stand, read after the record's write went unanswered."""

    status: str | None
    epoch: int
    claim: UUID | None
    executor: UUID | None
    output: str | None
    codec: str | None
    step_status: str | None
    step_epoch: int
    step_output: str | None
    step_error: str | None
    step_fingerprint: int | None
    step_failures: int


class Held(NamedTuple):
    """Records whose workflows are locked: `source` is what to select them from.

    `c` has the records' columns, or the values of a lone one. `workflow_id` is the column of the source, and
    `is_current` the condition that a record's epoch is its workflow's.
    """

    source: Subquery
    c: Any
    workflow_id: ColumnElement[int]
    is_current: ColumnElement[bool]


class Rows(Generic[R]):
    """Records as the rows of an `unnest`, one array a column; a lone one as plain values."""

    name: ClassVar[str]
    columns: ClassVar[dict[str, TypeEngine[Any]]]

    def arrays(self, records: Sequence[R]) -> Arrays:
        """Return the binds: an array a column, in which each record has its place.

        The columns are the record's first fields; what follows them is not for these arrays.
        """
        keys = (f"{self.name}_{key}" for key in self.columns)
        return dict(zip(keys, map(_array, zip(*records, strict=True)), strict=False))

    def values(self, record: R) -> dict[str, Any]:
        """Return the binds of a lone record."""
        keys = (f"{self.name}_{key}" for key in self.columns)
        return dict(zip(keys, record, strict=False))

    def picker(self, binds: Sequence[str]) -> Callable[[R], Sequence[Any]]:
        """Return what takes the values of these binds, which are several, out of a lone record."""
        places = {f"{self.name}_{key}": place for place, key in enumerate(self.columns)}
        return itemgetter(*(places[bind] for bind in binds))

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


class InLentSession(Rows[R]):
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

    def held(self, *, to_update: bool, lone: bool = False, waiting: bool = False) -> Held:
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
            return Held(held, records, held.c.id, true())
        is_current = held.c.current_epoch == held.c.epoch if "epoch" in self.columns else true()
        return Held(held, held.c, held.c.workflow_id, is_current)

    def _joined(self, rows: Any) -> Any:
        joined = select(*rows.c, Workflow.epoch.label("current_epoch"))
        return joined.join_from(rows, Workflow, Workflow.id == rows.c.workflow_id).order_by(Workflow.id)

    def _found(self, record: Any) -> Any:
        # The condition on the epoch is looked at again once the lock is there.
        current = [Workflow.epoch == record.epoch] if "epoch" in self.columns else []
        return select(Workflow.id).where(Workflow.id == record.workflow_id, *current)

    def answer(
        self, workflow_id: Any, epoch: Any, step_id: Any = None, *, lone: bool = False
    ) -> list[ColumnElement[Any]]:
        """Return the columns that every kind answers with, so that a mixed batch makes one list of them."""
        if lone:
            return [epoch.label("epoch")]
        return [
            constant(self.name).label("kind"),
            workflow_id.label("workflow_id"),
            (cast(null(), Text()) if step_id is None else step_id).label("step_id"),
            epoch.label("epoch"),
        ]


def lost(record: StepOutcome | StepFailure | RunEnd, standing: Standing) -> PgqrsError | None:
    """Tell why a run can write no more, if it cannot."""
    if standing.status is None:
        return WorkflowNotFoundError(record.workflow_id)
    if standing.epoch != record.epoch:
        if standing.status == WorkflowStatus.CANCELLED:
            return WorkflowCancelledError(record.workflow_id)
        return WorkflowFencedError(record.workflow_id, record.epoch)
    return None
