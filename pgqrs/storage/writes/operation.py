"""The operation of a record type: its data-modifying statement, and the meaning of the answers.

The statement of a batch selects from `unnest(...)` arrays, one array for each column. The statement of a single
record has plain values instead, which saves the encoding of arrays, and the server a join and two sorts. Every
statement may be sent twice.

The fence: a write joins its workflow rows through a sub-select that locks them, so that it sees the claim that is
current when it commits. A plain condition on the claim would let a stale row slip in next to an uncommitted start.
The fence compares the claim, a random token, and not the epoch: a server that lost its last transactions gives out
an epoch twice. The statement skips rows that another transaction has locked, so that one locked row never delays
the batch; the records of skipped rows stay unanswered and are sent again.

The outcomes of a run whose workflow is to be cancelled stay unanswered as well. The run learns of the cancellation
in this way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias
from uuid import UUID

from sqlalchemy import Subquery, cast, null, select, true
from sqlalchemy.sql import ColumnElement

from pgqrs.errors import PgqrsError, WorkflowCancelledError, WorkflowFencedError, WorkflowNotFoundError
from pgqrs.models import Text, Workflow
from pgqrs.storage.records import Claim, StoredOutcome
from pgqrs.storage.sql.expressions import text_literal
from pgqrs.storage.writes.columns import R, RecordColumns
from pgqrs.types import WorkflowStatus

Result: TypeAlias = Claim | StoredOutcome | PgqrsError | bool | None
EPOCH = -1
"""Index of the epoch in an answer; the answer of a single record has no other column."""

RETRY: Any = object()
"""Result of `Operation.resolve_missing` for a record that only a lock delayed: send the record again."""

ID_TAKEN: Any = object()
"""Result of `Operation.resolve_missing` for a new workflow whose id another workflow has: draw another id."""


NO_CONFLICT: Any = object()
"""Key of `Operation.conflict_key` for a record that shares batches with all records that have a key."""


class Record(Protocol):
    """A record that a journal writes."""

    @property
    def workflow_id(self) -> int:
        """The id of the workflow."""
        ...


class CancelRequested(NamedTuple):
    """Result of `Operation.resolve_missing` for a record of a run that is to be cancelled.

    `interrupts` is True if the executing steps are to be interrupted. `instead` is the record to send in place of
    the unanswered record; None to write nothing, with the result None.
    """

    interrupts: bool
    instead: Any


class CurrentState(NamedTuple):
    """The state of a record's workflow and step, read after the write of the record stayed unanswered.

    `cancels` is None unless the workflow is to be cancelled, and True if its steps are to be interrupted.
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
    step_address: str | None


class LockedRows(NamedTuple):
    """Records whose workflows are locked; `source` is the sub-select to select them from.

    `c` has the columns of the records, or the values of a single record. `workflow_id` and `epoch` are columns of
    the source. `is_current` is the condition that the claim of a record is the claim of its workflow.
    """

    source: Subquery
    c: Any
    workflow_id: ColumnElement[int]
    epoch: ColumnElement[int]
    is_current: ColumnElement[bool]


class Companion(RecordColumns[R], ABC):
    """A further write in the statement of an operation, with rows of its own."""

    @abstractmethod
    def statement_after(self, written: Any) -> Any:
        """Return the statement; `written` is the CTE of the operation's write."""


class Follower(Protocol):
    """A further write in every statement of an operation, without rows of its own."""

    def __call__(self, written: Any) -> Any:
        """Return the statement; `written` is the CTE of the operation's write."""
        ...


class Operation(RecordColumns[R], ABC):
    """The statement of one record type, and the meaning of its answer or of a missing answer."""

    fallback_record: ClassVar[type[Any] | None] = None
    """The type of record to write instead if a row exists, for an operation that only inserts, and fails then."""

    requeues_last: ClassVar[bool] = False
    """True to send a delayed record after all records that wait, False to send it before them."""

    @property
    def followers(self) -> Mapping[str, Follower]:
        """The further writes of every statement, by name."""
        return {}

    @property
    def companions(self) -> Sequence[Companion[Any]]:
        """The further writes whose binds `arrays` may add to its own."""
        return ()

    def answers(self, written: Any) -> Any:
        """Return the answers as a query; `written` is the CTE of the operation's write in a batch."""
        return select(written)

    def payload_size(self, record: R) -> int:
        """Return the length of the payload in characters."""
        return 0

    def conflict_key(self, record: R) -> str | None:
        """Return the key by which a record conflicts with other records of its workflow in one batch.

        One statement sees one snapshot, so records that depend on each other go in different batches. Records with
        the same key conflict. A record with the key None conflicts with every record of its workflow. Records with
        the key `NO_CONFLICT` conflict only with these.
        """
        return None

    def order_key(self, record: Any) -> int | str:
        """Return the key of the records that are delayed behind this record while it waits for a lock.

        They are the records of its workflow by default, for these depend on each other.
        """
        of_workflow: Any = record
        workflow_id: int = of_workflow.workflow_id
        return workflow_id

    def answer_key(self, record: R) -> str | None:
        """Return the `key` of the record's answer, which distinguishes it from other answers for its workflow."""
        return None

    def can_be_single(self, record: R) -> bool:
        """Return whether the statement of a `single` record writes the whole record."""
        return True

    @abstractmethod
    def statement(self, *, single: bool = False) -> Any:
        """Return the statement that writes many records or a `single` record; its answer has the written rows."""

    @abstractmethod
    def result_for(self, record: R, epoch: int) -> Result:
        """Return the result of a record whose row came back with `epoch`."""

    @abstractmethod
    def resolve_missing(self, record: R, current: CurrentState) -> Any:
        """Return the result of an unanswered record: a value, an error, or an instruction such as `RETRY`."""

    def lock_workflows(self, *, to_update: bool, single: bool = False, waiting: bool = False) -> LockedRows:
        """Return the records with their workflows locked, in key order.

        The lock is taken on the join itself: one look-up by primary key for each row, at every size of the batch.
        With `waiting` the statement waits for locked rows instead of skipping them.
        """
        records = self.plain() if single else self.rows()
        found = self._found(records) if single else self._joined(records)
        held = found.with_for_update(
            read=not to_update, key_share=to_update, skip_locked=not waiting, of=Workflow
        ).subquery(f"{self.name}_held")
        if single:
            return LockedRows(held, records, held.c.id, held.c.current_epoch, true())
        is_current = held.c.current_claim == held.c.claim if self._is_fenced else true()
        return LockedRows(held, held.c, held.c.workflow_id, held.c.current_epoch, is_current)

    # False for a start, which sets a new claim; every other write needs the claim of its run.
    _is_fenced: ClassVar[bool] = True

    def _joined(self, rows: Any) -> Any:
        joined = select(*rows.c, Workflow.epoch.label("current_epoch"), Workflow.claim.label("current_claim"))
        found = joined.join_from(rows, Workflow, Workflow.id == rows.c.workflow_id)
        return found.where(*self._workflow_conditions()).order_by(Workflow.id)

    def _found(self, record: Any) -> Any:
        # The server evaluates the conditions again once it has the lock.
        current = [Workflow.claim == record.claim] if self._is_fenced else []
        found = select(Workflow.id, Workflow.epoch.label("current_epoch"))
        return found.where(Workflow.id == record.workflow_id, *current, *self._workflow_conditions())

    def _workflow_conditions(self) -> list[ColumnElement[bool]]:
        """Return the further conditions on the workflow of a record."""
        return []

    def returning(
        self, workflow_id: Any, epoch: Any, key: Any = None, *, single: bool = False
    ) -> list[ColumnElement[Any]]:
        """Return the columns that every operation answers with, so that a mixed batch can unite the answers."""
        if single:
            return [epoch.label("epoch")]
        return [
            text_literal(self.name).label("kind"),
            workflow_id.label("workflow_id"),
            (cast(null(), Text()) if key is None else key).label("key"),
            epoch.label("epoch"),
        ]


class RunRecord(Record, Protocol):
    """A record that the run with its claim writes."""

    @property
    def epoch(self) -> int:
        """The epoch of the run."""
        ...

    @property
    def claim(self) -> int:
        """The claim of the run."""
        ...


def fencing_error(record: RunRecord, current: CurrentState) -> PgqrsError | None:
    """Return the error of a run that may write no more, None for the current run."""
    if current.status is None:
        return WorkflowNotFoundError(record.workflow_id)
    if current.claim != record.claim:
        if current.status == WorkflowStatus.CANCELLED:
            return WorkflowCancelledError(record.workflow_id)
        return WorkflowFencedError(record.workflow_id, record.epoch)
    return None
