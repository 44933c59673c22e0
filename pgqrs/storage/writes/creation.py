"""The operations that insert workflows, with their records."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias, TypeVar
from uuid import UUID

from sqlalchemy import case, func, select, true
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql import ColumnElement

from pgqrs.models import Workflow
from pgqrs.storage.records import Claim
from pgqrs.storage.sql.expressions import ONE, json_of, seconds_from_now, text_literal
from pgqrs.storage.writes.attributes import GivenAttributes, InsertAttributes, WrittenAttributes
from pgqrs.storage.writes.columns import Arrays
from pgqrs.storage.writes.operation import ID_TAKEN, RETRY, Companion, CurrentState, Operation
from pgqrs.types import WorkflowStatus


class NewWorkflow(NamedTuple):
    """A record to write: a new workflow; `input` is JSON text.

    `codec` is the name of the codec of the payloads, None for strict JSON; it has this meaning in all records.
    `token` distinguishes the workflow from another workflow of the same id; see `pgqrs.storage.sql.tokens`.
    """

    workflow_id: int
    name: str
    input: str
    codec: str | None = None
    token: int = 0


class NewRun(NamedTuple):
    """A record to write: a new workflow together with its first run; `input` is JSON text.

    `timeout` is the seconds that the workflow may take from now, None for no limit. `token` is also the claim of
    the run.
    """

    workflow_id: int
    name: str
    input: str
    executor: UUID
    timeout: float | None
    codec: str | None = None
    token: int = 0


class RepeatedNewRun(NewRun):
    """A record to write: a new workflow with its first run, which may be there already."""

    __slots__ = ()


class Submission(NamedTuple):
    """A record to write: a workflow for the workers of `queue`; `input` is JSON text.

    Workflows of higher `priority` are claimed first. `delay` is the seconds until the workflow may start, and
    `timeout` is the seconds that it may take from its first start. It is not written if another workflow of its
    name has the `key`. `attributes` are its attributes and tags, if it has any.
    """

    workflow_id: int
    name: str
    input: str
    queue: str
    priority: int
    delay: float | None
    timeout: float | None
    key: str | None
    codec: str | None = None
    token: int = 0
    attributes: GivenAttributes | None = None


class SubmissionUntilEnd(Submission):
    """A record to write: a workflow that releases its key at its end; the key is not None."""

    __slots__ = ()


class PartitionedSubmission(NamedTuple):
    """A record to write: a workflow with a key within its queue; the other fields are those of a `Submission`.

    `releases_key` says that the workflow has its key until its end only.
    """

    workflow_id: int
    name: str
    input: str
    queue: str
    priority: int
    delay: float | None
    timeout: float | None
    key: str | None
    codec: str | None
    token: int
    attributes: GivenAttributes | None
    partition_key: str
    releases_key: bool


def in_partition(submission: Submission, partition_key: str) -> PartitionedSubmission:
    """Return a submission with a key within its queue."""
    return PartitionedSubmission(*submission, partition_key, isinstance(submission, SubmissionUntilEnd))


class TracedSubmission(NamedTuple):
    """A record to write: a workflow with the trace context of its submission.

    The other fields are those of a `PartitionedSubmission`; `partition_key` is None for a workflow without one.
    """

    workflow_id: int
    name: str
    input: str
    queue: str
    priority: int
    delay: float | None
    timeout: float | None
    key: str | None
    codec: str | None
    token: int
    attributes: GivenAttributes | None
    partition_key: str | None
    releases_key: bool
    trace: str


AnySubmission: TypeAlias = Submission | PartitionedSubmission | TracedSubmission


def with_trace(submission: AnySubmission, trace: str) -> TracedSubmission:
    """Return a submission with a trace context."""
    if isinstance(submission, Submission):
        return TracedSubmission(*submission, None, isinstance(submission, SubmissionUntilEnd), trace)
    return TracedSubmission(*submission[:13], trace)


New = TypeVar("New", bound=NewWorkflow | NewRun | AnySubmission)


class _InsertOperation(Operation[New]):
    """Insert workflows under ids that are already reserved; an existing row stays unchanged.

    An existing row with the token of the record came with the first sending of the record. A row with another
    token is another workflow: a server that lost its last transactions gives out an id twice.
    """

    def statement(self, *, single: bool = False) -> Any:
        """Return the insert."""
        given = self.plain() if single else self.rows().c
        order = () if single else (given.workflow_id,)
        values = {
            "id": given.workflow_id,
            "name": given.name,
            "input": json_of(given.input),
            "token": given.token,
            **self._values(given),
        }
        new = select(*values.values()).order_by(*order)
        statement = insert(Workflow).from_select(list(values), new, include_defaults=False)
        if self.fallback_record is None:
            statement = statement.on_conflict_do_nothing()
        return statement.returning(*self.returning(Workflow.id, Workflow.epoch, single=single))

    def payload_size(self, record: New) -> int:
        """Return the length of the input."""
        return len(record.input)

    @abstractmethod
    def _values(self, given: Any) -> dict[str, ColumnElement[Any]]:
        """Return the values of the further columns for the record whose columns are `given`."""


class CreateWorkflow(_InsertOperation[NewWorkflow]):
    """Insert workflows that no executor runs yet."""

    name = "create"
    record = NewWorkflow

    def _values(self, given: Any) -> dict[str, ColumnElement[Any]]:
        return {"codec": given.codec}

    def result_for(self, record: NewWorkflow, epoch: int) -> None:
        """Return None: a new workflow has no result."""

    def resolve_missing(self, record: NewWorkflow, current: CurrentState) -> Any:
        """Return None if the first sending arrived, else `RETRY` or `ID_TAKEN`."""
        return _unless_id_taken(None, record, current)


class RepeatCreateAndStart(_InsertOperation[NewRun]):
    """Insert workflows together with their first run, unless they are there."""

    name = "beginagain"
    record: type[NewRun] = RepeatedNewRun

    def _values(self, given: Any) -> dict[str, ColumnElement[Any]]:
        return {
            "executor": given.executor,
            "status": text_literal(WorkflowStatus.RUNNING),
            "epoch": ONE,
            "claim": given.token,
            "started_at": func.now(),
            "timeout": given.timeout,
            "deadline": seconds_from_now(given.timeout),
            "codec": given.codec,
        }

    def result_for(self, record: NewRun, epoch: int) -> Claim:
        """Return the claim."""
        return Claim(epoch, token=record.token)

    def resolve_missing(self, record: NewRun, current: CurrentState) -> Any:
        """Return the claim if the first sending arrived, else `RETRY` or `ID_TAKEN`."""
        return _unless_id_taken(Claim(1, token=record.token), record, current)


class CreateAndStart(RepeatCreateAndStart):
    """Insert workflows together with their first run; a plain insert, as that of `RecordNewStep`."""

    name = "begin"
    record = NewRun
    fallback_record: ClassVar[type[Any] | None] = RepeatedNewRun


Enqueued = TypeVar("Enqueued", bound=AnySubmission)


class EnqueueOperation(_InsertOperation[Enqueued]):
    """Insert workflows for workers to claim, now or after a delay; a name and a key have one workflow."""

    requeues_last: ClassVar = True  # another transaction may hold its key for a long time
    unsent: ClassVar = frozenset({"attributes"})
    describes: ClassVar[InsertAttributes]

    @property
    def companions(self) -> Sequence[Companion[Any]]:
        """The write of the attributes."""
        return (self.describes,)

    def arrays(self, records: Sequence[Enqueued]) -> Arrays:
        """Return the binds, with the binds of the attributes if there are any."""
        given = [(each.workflow_id, each.attributes) for each in records if each.attributes is not None]
        rows = [WrittenAttributes(own, None, own, *attributes) for own, attributes in given]
        return super().arrays(records) | (self.describes.arrays(rows) if rows else {})

    def can_be_single(self, record: Enqueued) -> bool:
        """Return False for a workflow with attributes, which take a further write."""
        return record.attributes is None

    def with_attributes(self) -> Any:
        """Return the statement of several records that have attributes, some of them at least."""
        written = self.statement().cte(f"{self.name}_done")
        return select(written).add_cte(self.describes.statement_after(written).cte(f"{self.describes.name}_done"))

    def payload_size(self, record: Enqueued) -> int:
        """Return the length of the input and of the attributes."""
        return super().payload_size(record) + (len(record.attributes.attributes) if record.attributes else 0)

    def _values(self, given: Any) -> dict[str, ColumnElement[Any]]:
        return {
            "queue": given.queue,
            "priority": given.priority,
            "ready_at": case((given.delay.is_(None), func.now())),
            "due_at": seconds_from_now(given.delay),
            "timeout": given.timeout,
            "key": given.key,
            "codec": given.codec,
        }

    def result_for(self, record: Enqueued, epoch: int) -> bool:
        """Return True: the inserted workflow has the key."""
        return True

    def resolve_missing(self, record: Enqueued, current: CurrentState) -> Any:
        """Return True if the first sending arrived, False if another workflow has the key, else `ID_TAKEN`."""
        return False if current.status is None else _unless_id_taken(True, record, current)  # noqa: FBT003  # the result


class EnqueueWorkflow(EnqueueOperation[Submission]):
    """Insert workflows for workers to claim."""

    name = "enqueue"
    record = Submission
    describes: ClassVar = InsertAttributes("enqueueattributes")


class EnqueueUntilEnd(EnqueueWorkflow):
    """Insert workflows that release their keys at their ends."""

    name = "enqueueuntilend"
    record = SubmissionUntilEnd
    describes: ClassVar = InsertAttributes("enqueueuntilendattributes")

    def _values(self, given: Any) -> dict[str, ColumnElement[Any]]:
        return {**super()._values(given), "releases_key": true()}


class EnqueuePartitioned(EnqueueOperation[PartitionedSubmission]):
    """Insert workflows with a key within their queue."""

    name = "enqueuepartitioned"
    record = PartitionedSubmission
    describes: ClassVar = InsertAttributes("enqueuepartitionedattributes")

    def _values(self, given: Any) -> dict[str, ColumnElement[Any]]:
        own = {"partition_key": given.partition_key, "releases_key": given.releases_key}
        return {**super()._values(given), **own}


class EnqueueTraced(EnqueueOperation[TracedSubmission]):
    """Insert workflows with the trace contexts of their submissions."""

    name = "enqueuetraced"
    record = TracedSubmission
    describes: ClassVar = InsertAttributes("enqueuetracedattributes")

    def _values(self, given: Any) -> dict[str, ColumnElement[Any]]:
        own = {
            "partition_key": given.partition_key,
            "releases_key": given.releases_key,
            "trace": given.trace,
        }
        return {**super()._values(given), **own}


def _unless_id_taken(result: Any, record: NewWorkflow | NewRun | AnySubmission, current: CurrentState) -> Any:
    """Return the result if the id of a record has the record's own workflow, `ID_TAKEN` if it has another.

    Return `RETRY` if the id has no workflow: the workflow that prevented the insert was deleted since.
    """
    if current.status is None:
        return RETRY
    return result if current.token == record.token else ID_TAKEN
