"""The declarative models of pgqrs's tables, for the application's own `select()` statements.

Applications only read these tables: the library fences its own writes, and a write by the application is not
fenced. `Workflow.steps` and `Step.workflow` relate the two models; load them with the query, as in
``selectinload(Workflow.steps)``. The models name the schema `pgqrs`; for another schema, execute the statement
with ``schema_translate_map={"pgqrs": "your_schema"}``.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from typing import Any, get_args
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    CheckConstraint,
    Date,
    DateTime,
    Double,
    Identity,
    Index,
    MetaData,
    Uuid,
    false,
    func,
    text,
    true,
    types,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from pgqrs.types import CatchUp, Holds, Overlap, WorkflowStatus

SCHEMA = "pgqrs"
"""The default schema of the tables."""

HEAD = "0022"
"""The newest revision in `migrations/versions`; a constant, so that a check of the revision needs no Alembic."""

OLDEST_SUPPORTED = "0021"
"""The oldest revision of the tables that this version of pgqrs works with; see `docs/upgrading.md`."""

_NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "pk": "pk_%(table_name)s",
}


def _one_of(values: Iterable[str], column: str) -> str:
    listed = ", ".join(f"'{each}'" for each in values)
    return f"{column} IN ({listed})"


HOLDS_VALUE = "unique_value IS NOT NULL AND completed_at IS NULL AND (epoch = 0 OR NOT unique_until_start)"
"""The condition that a workflow holds its unique value, as the index has it."""

# Explicit, because there is no foreign key from which SQLAlchemy could derive the join.
_STEP_OF_WORKFLOW = "Workflow.id == foreign(Step.workflow_id)"


class Text(types.Text):
    """The type TEXT, for bind parameters too: SQLAlchemy casts bind parameters of its own `Text` to VARCHAR.

    PostgreSQL has no operator ``text = varchar`` and converts the operands. A user-defined operator of this name
    and these types in another schema of the `search_path` would be called in place of PostgreSQL's.
    """

    cache_ok = True
    render_bind_cast = True

    def adapt(self, cls: type[Any], **_options: Any) -> Any:  # noqa: ARG002  # SQLAlchemy's signature
        """Return a copy of this type: the dialect's own string type casts to VARCHAR."""
        return type(self)(self.length, self.collation)


class Base(DeclarativeBase):
    """The declarative base of pgqrs's tables."""

    metadata = MetaData(schema=SCHEMA, naming_convention=_NAMING)
    type_annotation_map = {  # noqa: RUF012
        datetime: DateTime(timezone=True),
        date: Date(),
        str: Text(),
        int: BigInteger(),
    }


class Workflow(Base):
    """One workflow: its input, its state and its outcome.

    At most one of `ready_at`, `due_at` and `executor` is set: a worker may claim the workflow, the workflow waits
    for a time, or an executor runs it. A workflow that only waits for messages has none of them, and has rows in
    `pgqrs_waits`. The partial indexes on these columns hold only such workflows, so they stay small however many
    workflows have ended.
    """

    __tablename__ = "pgqrs_workflows"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str]
    status: Mapped[str] = mapped_column(server_default=WorkflowStatus.PENDING.value)
    epoch: Mapped[int] = mapped_column(server_default=text("0"))
    # Random: after a failover that lost a run, another run may get the same epoch, but not the same claim.
    claim: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    # json, not jsonb: jsonb makes 1e300 an integer, drops -0.0 and reorders keys, so a replay would differ.
    input: Mapped[Any] = mapped_column(JSON())
    output: Mapped[Any | None] = mapped_column(JSON())
    error: Mapped[Any | None] = mapped_column(JSON())
    queue: Mapped[str | None]
    key: Mapped[str | None]
    priority: Mapped[int] = mapped_column(server_default=text("0"))
    ready_at: Mapped[datetime | None]
    due_at: Mapped[datetime | None]
    executor: Mapped[UUID | None] = mapped_column(Uuid())
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    retries: Mapped[int] = mapped_column(server_default=text("0"))
    timeout: Mapped[float | None] = mapped_column(Double())
    deadline: Mapped[datetime | None]
    # None: no cancellation; false: cancel after the steps that execute; true: interrupt these steps.
    cancel_interrupts: Mapped[bool | None]
    # None for strict JSON.
    codec: Mapped[str | None]
    # Random: after a failover that lost a workflow, another workflow may get the same id, but not the same token.
    token: Mapped[int | None]

    # The parent of a child, the step of the parent that has started it, and its number among the step's children.
    parent_id: Mapped[int | None]
    parent_step: Mapped[str | None]
    place: Mapped[int | None]
    # Whether the end of the parent cancels the workflow.
    ends_with_parent: Mapped[bool] = mapped_column(server_default=false())
    has_children: Mapped[bool] = mapped_column(server_default=false())

    # Whether the workflow has its key until its end only, or as long as the row is there.
    releases_key: Mapped[bool] = mapped_column(server_default=false())
    # None: no saga has steps to undo. While it is set, a cancellation and the deadline leave the workflow to a
    # worker, which undoes the steps and then ends it; any other state than OPEN says that it is to end.
    saga_state: Mapped[str | None]
    # The epoch in which the workflow last continued as new, and all of its steps are newer; None for never.
    generation: Mapped[int | None]
    # The schedule that has started the workflow, and the time for which it did so.
    schedule: Mapped[str | None]
    scheduled_for: Mapped[datetime | None]
    # The key within the queue, of a customer for instance, by which the limits of partitions count.
    partition_key: Mapped[str | None] = mapped_column(Text(collation="C"))
    # The value that one workflow of a name holds at a time, and whether the workflow holds it until its first
    # start only, and not until its end; both are None for a workflow that was submitted without one.
    unique_value: Mapped[str | None]
    unique_until_start: Mapped[bool | None]
    # The batch that runs the workflow and ends it. A batch has its own id here, and the ids of the workflows that
    # it runs as its input.
    batch_id: Mapped[int | None]
    # The order of the workflows with partition keys, by their inserts; a trigger takes it from a sequence.
    position: Mapped[int | None]
    # The partition key, empty without one, for which the workflow holds a slot of its queue until its end; None
    # for a workflow that holds a slot while it runs, or that has not started.
    slot: Mapped[str | None] = mapped_column(Text(collation="C"))
    # The trace context of the submission, by a tracer that was active: `traceparent`, and in a second line
    # `tracestate` if there is one.
    trace: Mapped[str | None]

    steps: Mapped[list[Step]] = relationship(
        primaryjoin=_STEP_OF_WORKFLOW,
        order_by="Step.started_at, Step.completed_at, Step.step_id",
        viewonly=True,
    )

    __table_args__ = (
        # No CHECK here and on the steps: the server parses it again in each statement that writes to the table.
        Index(
            "ix_pgqrs_workflows_ready",
            "queue",
            "name",
            priority.desc(),
            "id",
            postgresql_where=text("ready_at IS NOT NULL"),
        ),
        Index("ix_pgqrs_workflows_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
        # The runs of a queue are counted in this index: one more index would cost each claim of any queue more.
        Index("ix_pgqrs_workflows_executor", "executor", "queue", postgresql_where=text("executor IS NOT NULL")),
        Index("ix_pgqrs_workflows_deadline", "deadline", postgresql_where=text("deadline IS NOT NULL")),
        Index(
            "ix_pgqrs_workflows_key",
            "name",
            "key",
            unique=True,
            postgresql_where=text("key IS NOT NULL AND (completed_at IS NULL OR NOT releases_key)"),
        ),
        # Each start counts the epoch up, so a workflow gives its value up in the statement that starts it, and no
        # later run takes the value back.
        Index(
            "ix_pgqrs_workflows_unique",
            "name",
            "unique_value",
            unique=True,
            postgresql_where=text(HOLDS_VALUE),
        ),
        Index(
            "ix_pgqrs_workflows_place",
            "parent_id",
            "parent_step",
            "place",
            unique=True,
            postgresql_where=text("parent_id IS NOT NULL"),
        ),
        Index(
            "ix_pgqrs_workflows_parent",
            "parent_id",
            "parent_step",
            postgresql_where=text("parent_id IS NOT NULL AND completed_at IS NULL"),
        ),
        Index(
            "ix_pgqrs_workflows_schedule",
            "schedule",
            postgresql_where=text("schedule IS NOT NULL AND completed_at IS NULL"),
        ),
        Index(
            "ix_pgqrs_workflows_partition",
            "queue",
            "name",
            "partition_key",
            priority.desc(),
            "id",
            postgresql_where=text("ready_at IS NOT NULL AND partition_key IS NOT NULL"),
        ),
        Index(
            "ix_pgqrs_workflows_running",
            "queue",
            "partition_key",
            postgresql_where=text("executor IS NOT NULL AND partition_key IS NOT NULL"),
        ),
        Index(
            "ix_pgqrs_workflows_order",
            "queue",
            "partition_key",
            "position",
            postgresql_where=text("position IS NOT NULL AND completed_at IS NULL"),
        ),
        # No other index has its columns in this order: with an index of the ready workflows, the search for the
        # holders of slots could read all of these.
        Index(
            "ix_pgqrs_workflows_holders",
            "queue",
            "slot",
            "id",
            postgresql_where=text("slot IS NOT NULL AND completed_at IS NULL"),
        ),
        Index(
            "ix_pgqrs_workflows_ready_holders",
            "queue",
            "name",
            "ready_at",
            postgresql_where=text("slot IS NOT NULL AND ready_at IS NOT NULL"),
        ),
        # A workflow that succeeds has no entry.
        Index("ix_pgqrs_workflows_failed", "id", postgresql_where=text("status IN ('ERROR', 'CANCELLED')")),
    )


class Step(Base):
    """One step of a workflow and its recorded outcome.

    There is no foreign key to the workflow: it would not fence a stale run, and it would cost more than the fence.
    """

    __tablename__ = "pgqrs_workflow_steps"

    workflow_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    step_id: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str]
    epoch: Mapped[int]
    reopened: Mapped[bool] = mapped_column(server_default=false())
    started_at: Mapped[datetime]
    completed_at: Mapped[datetime | None]
    output: Mapped[Any | None] = mapped_column(JSON())
    error: Mapped[Any | None] = mapped_column(JSON())

    fingerprint: Mapped[int | None]
    failures: Mapped[int] = mapped_column(server_default=text("0"))
    # The time of the next attempt; for a wait, the time at which `output` or `error` becomes its outcome.
    retry_at: Mapped[datetime | None]
    # The address of the message that is the outcome of a wait; None for every other outcome.
    address: Mapped[str | None]

    workflow: Mapped[Workflow] = relationship(primaryjoin=_STEP_OF_WORKFLOW, viewonly=True)


class Message(Base):
    """One message, from its sending until it was received and a retry of its sending is no longer possible.

    `address` names the receiver: a topic or an update of a workflow, or an event of the schema; see
    `pgqrs.storage.sql.addresses`. There is one message of an address and a `key`. A key of the sender is kept,
    which `is_kept` says; pgqrs makes a key for any other message. A message is received once: `taken_at` is then
    set. An event is never taken. The reply to a request is a row, too, with the key of the request; it counts as
    taken, because no workflow receives it. `is_new` is true until a search has seen the message beside the waits
    that were there before it.
    """

    __tablename__ = "pgqrs_messages"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    # The receiver; None for an event.
    workflow_id: Mapped[int | None]
    address: Mapped[str]
    key: Mapped[str]
    is_kept: Mapped[bool] = mapped_column(server_default=false())
    payload: Mapped[Any] = mapped_column(JSON())
    sent_at: Mapped[datetime] = mapped_column(server_default=func.now())
    is_new: Mapped[bool] = mapped_column(server_default=true())
    taken_at: Mapped[datetime | None]

    __table_args__ = (
        Index("ix_pgqrs_messages_unread", "address", "id", postgresql_where=text("taken_at IS NULL")),
        Index("ix_pgqrs_messages_key", "address", "key", unique=True),
        Index("ix_pgqrs_messages_new", "id", postgresql_where=text("is_new")),
        Index(
            "ix_pgqrs_messages_taken", "taken_at", postgresql_where=text("taken_at IS NOT NULL AND NOT is_kept")
        ),
    )


class Event(Base):
    """The newest value of an event that a workflow has set."""

    __tablename__ = "pgqrs_events"

    workflow_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[Any] = mapped_column(JSON())
    set_at: Mapped[datetime]


class Attributes(Base):
    """The attributes and the tags of one workflow that has any: plain JSON, whatever the codec of the workflow.

    They are not columns of the workflow, because each claim would then write the entries of their indexes anew.
    """

    __tablename__ = "pgqrs_attributes"

    workflow_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text()), server_default=text("'{}'"))
    attributes: Mapped[Any] = mapped_column(JSONB(), server_default=text("'{}'"))

    __table_args__ = (
        Index("ix_pgqrs_attributes_tags", "tags", postgresql_using="gin"),
        Index(
            "ix_pgqrs_attributes_attributes",
            "attributes",
            postgresql_using="gin",
            postgresql_ops={"attributes": "jsonb_path_ops"},
        ),
    )


class State(Base):
    """One value of the state of a partition key, which its workflows of one name share and which outlives them."""

    __tablename__ = "pgqrs_states"

    workflow: Mapped[str] = mapped_column(primary_key=True)
    partition_key: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[Any] = mapped_column(JSON())
    # None for strict JSON.
    codec: Mapped[str | None]
    set_at: Mapped[datetime]


class Wait(Base):
    """One address for which a step of a parked workflow waits, with the claim of the run that has parked.

    `is_new` is true until a search has seen the wait beside the messages that were there before it.
    """

    __tablename__ = "pgqrs_waits"

    workflow_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    step_id: Mapped[str] = mapped_column(primary_key=True)
    address: Mapped[str] = mapped_column(primary_key=True)
    claim: Mapped[int]
    is_new: Mapped[bool] = mapped_column(server_default=true())

    __table_args__ = (
        Index("ix_pgqrs_waits_address", "address"),
        Index("ix_pgqrs_waits_new", "workflow_id", postgresql_where=text("is_new")),
    )


class Schedule(Base):
    """One schedule: the workflow that it starts, the rule of the times, and the next time.

    The rule is an expression (`cron` and `zone`), or a length (`every`, in seconds, counted from `anchor`).
    `next_at` is the next time, None after the last one. A worker that starts a workflow sets the time after it in
    the same statement, on the condition that `next_at` is unchanged; so each time starts one workflow.
    """

    __tablename__ = "pgqrs_schedules"

    name: Mapped[str] = mapped_column(primary_key=True)
    workflow: Mapped[str]
    input: Mapped[Any] = mapped_column(JSON())
    codec: Mapped[str | None]
    queue: Mapped[str]
    priority: Mapped[int]
    timeout: Mapped[float | None] = mapped_column(Double())

    cron: Mapped[str | None]
    zone: Mapped[str | None]
    every: Mapped[float | None] = mapped_column(Double())
    anchor: Mapped[datetime | None]
    start_at: Mapped[datetime | None]
    end_at: Mapped[datetime | None]

    overlap: Mapped[str]
    catchup: Mapped[str]
    # Seconds: the age at which a missed time is dropped, and the maximum delay of a start.
    within: Mapped[float] = mapped_column(Double())
    jitter: Mapped[float] = mapped_column(Double())

    next_at: Mapped[datetime | None]
    # The time that waits for the end of the workflow that lives, if `overlap` is "queue".
    queued_for: Mapped[datetime | None]
    # The newest time for which a workflow was started.
    last_at: Mapped[datetime | None]
    paused_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    # Of the workflows that it starts.
    partition_key: Mapped[str | None]

    __table_args__ = (
        CheckConstraint(_one_of(get_args(Overlap), "overlap"), name="overlap"),
        CheckConstraint(_one_of(get_args(CatchUp), "catchup"), name="catchup"),
        CheckConstraint("(cron IS NULL) <> (every IS NULL)", name="rule"),
        Index(
            "ix_pgqrs_schedules_next",
            "queue",
            "workflow",
            "next_at",
            postgresql_where=text("paused_at IS NULL AND next_at IS NOT NULL"),
        ),
        Index(
            "ix_pgqrs_schedules_queued",
            "queue",
            "workflow",
            postgresql_where=text("paused_at IS NULL AND queued_for IS NOT NULL"),
        ),
    )


class Queue(Base):
    """The limits of one queue; a queue without limits that is not paused has no row.

    A run counts while its workflow has an executor, so a limit has no counter that could differ from the runs.
    `concurrency` limits the runs of the queue, and `partition_concurrency` those of each partition key. `holds`
    says how long a workflow counts for them: while it runs, or from its first start until its end. `ordered_at` is
    the time since which the workflows of a partition key run in their order, None if they have none. `fair` says
    that the partition keys are served in turn. `rate` and
    `partition_rate` have the fields of a `Rate`. `weights` has the weight of partition keys; the other keys have
    the weight 1.
    """

    __tablename__ = "pgqrs_queues"

    name: Mapped[str] = mapped_column(primary_key=True)
    concurrency: Mapped[int | None]
    partition_concurrency: Mapped[int | None]
    rate: Mapped[Any | None] = mapped_column(JSON())
    partition_rate: Mapped[Any | None] = mapped_column(JSON())
    weights: Mapped[Any | None] = mapped_column(JSON())
    paused_at: Mapped[datetime | None]
    holds: Mapped[str] = mapped_column(server_default="running")
    ordered_at: Mapped[datetime | None]
    fair: Mapped[bool] = mapped_column(server_default=true())

    __table_args__ = (CheckConstraint(_one_of(get_args(Holds), "holds"), name="holds"),)


class StartRate(Base):
    """The starts of a queue with a rate, or of one of its partition keys; the empty key is for the whole queue.

    Each start moves `free_at` on by the time between two starts at the rate. A row whose `free_at` has passed has
    the same meaning as no row.
    """

    __tablename__ = "pgqrs_rates"

    queue: Mapped[str] = mapped_column(primary_key=True)
    partition_key: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    free_at: Mapped[datetime]

    __table_args__ = (Index("ix_pgqrs_rates_free_at", "free_at"),)


class Throttle(Base):
    """The last run of a workflow name and a unique value whose starts are throttled.

    `starts_at` is the time from which on the workflow `workflow_id` may start, and `free_at` is `period` seconds
    later. The next run may start `period` seconds after the first start of this workflow, as far as its row tells;
    otherwise at `free_at`, or at `starts_at` if the workflow has ended without a start. A row for which this time
    has passed has the same meaning as no row.
    """

    __tablename__ = "pgqrs_throttles"

    name: Mapped[str] = mapped_column(primary_key=True)
    unique_value: Mapped[str] = mapped_column(primary_key=True)
    workflow_id: Mapped[int | None]
    period: Mapped[float] = mapped_column(Double())
    starts_at: Mapped[datetime]
    free_at: Mapped[datetime]

    __table_args__ = (Index("ix_pgqrs_throttles_free_at", "free_at"),)


class Executor(Base):
    """One executor: an `Admin` in one process, with a session lock and a heartbeat as the signs of its life.

    `lock_key` is the advisory lock that the heartbeat holds in the database session `backend_pid`; it is None
    behind a pooler, where only the heartbeat counts. Once `expires_at` has passed or the lock is free, workers
    suspect the executor and set `suspected_at`; the next heartbeat clears it. `pgqrs.storage.queries.executors`
    has the rules by which an executor counts as dead.
    """

    __tablename__ = "pgqrs_executors"

    id: Mapped[UUID] = mapped_column(Uuid(), primary_key=True)
    lock_key: Mapped[int | None]
    host: Mapped[str]
    pid: Mapped[int]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]
    suspected_at: Mapped[datetime | None]
    stopped_at: Mapped[datetime | None]
    backend_pid: Mapped[int | None]
    # Seconds for which a heartbeat counts; None in a row of an older version of pgqrs.
    expiry: Mapped[float | None] = mapped_column(Double())


class ServingWorker(Base):
    """One worker of an executor, and the workflows that it claims; written when the worker starts.

    A worker of an older version of pgqrs has no row, and neither has an executor without a worker. The row of a
    worker that has died is there until a worker finds that its executor is gone.
    """

    __tablename__ = "pgqrs_workers"

    executor: Mapped[UUID] = mapped_column(Uuid(), primary_key=True)
    # Random: an executor may have several workers.
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    # The names of the workflows that it claims, and of the submissions that it puts into batches.
    names: Mapped[list[str]] = mapped_column(ARRAY(Text()))
    batched: Mapped[list[str]] = mapped_column(ARRAY(Text()))
    # A hash of the names: a search for a name looks into the names of one of the workers that have the same.
    names_key: Mapped[int]
    queues: Mapped[list[str]] = mapped_column(ARRAY(Text()))
    # The maximum runs of each of the queues in this worker, in their order; None for no maximum.
    shares: Mapped[list[int] | None] = mapped_column(ARRAY(BigInteger()))
    concurrency: Mapped[int]
    # None for strict JSON.
    codec: Mapped[str | None]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Retention(Base):
    """The times for which ended workflows are kept, and the state of the pass that deletes them; it has one row.

    `kept` and `failed` are seconds after the end, None for ever; `per_name` has the seconds of names of workflows,
    negative for ever, and `shortest` is the shortest of all. `set_at` is None for the default times. Nothing is
    deleted before `starts_at`.

    A pass walks the ids of a stage, the workflows or the messages, from `cursor` on; between two passes there is
    no stage. `next_at` is the time of its next step, or of the next pass. `deleted` counts the workflows of the
    pass, or of the last one.
    """

    __tablename__ = "pgqrs_retention"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kept: Mapped[float | None] = mapped_column(Double())
    failed: Mapped[float | None] = mapped_column(Double())
    per_name: Mapped[Any] = mapped_column(JSON())
    shortest: Mapped[float | None] = mapped_column(Double())
    archives: Mapped[bool] = mapped_column(server_default=false())
    archive_kept: Mapped[float | None] = mapped_column(Double())
    set_at: Mapped[datetime | None]
    starts_at: Mapped[datetime]

    stage: Mapped[str | None]
    cursor: Mapped[int] = mapped_column(server_default=text("0"))
    next_at: Mapped[datetime]
    began_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    deleted: Mapped[int] = mapped_column(server_default=text("0"))

    __table_args__ = (
        CheckConstraint("id = 1", name="single"),
        CheckConstraint("stage IN ('workflows', 'messages')", name="stage"),
    )


class ArchivedWorkflow(Base):
    """A workflow that was deleted and archived, as the document that `Admin.export_workflow` returns.

    The table is partitioned by month; `pgqrs_archive_months` has the months.
    """

    __tablename__ = "pgqrs_archive"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    ended_at: Mapped[datetime] = mapped_column(primary_key=True)
    name: Mapped[str]
    document: Mapped[Any] = mapped_column(JSONB())

    __table_args__ = ({"postgresql_partition_by": "RANGE (ended_at)"},)


class ArchiveMonth(Base):
    """A month of the archive, by its first day; a trigger creates its partition, and drops it with the row."""

    __tablename__ = "pgqrs_archive_months"

    month: Mapped[date] = mapped_column(primary_key=True)

    __table_args__ = (CheckConstraint("EXTRACT(day FROM month) = 1", name="first_day"),)


class Rewind(Base):
    """One rewind of a workflow to the time before a step, with the end that it took away, if the workflow had one.

    `epoch` is the epoch of the workflow since the rewind.
    """

    __tablename__ = "pgqrs_rewinds"

    workflow_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    epoch: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    before_step: Mapped[str]
    # Random: tells a rewind whose answer was lost from another one.
    token: Mapped[int]
    rewound_at: Mapped[datetime] = mapped_column(server_default=func.now())
    status: Mapped[str]
    output: Mapped[Any | None] = mapped_column(JSON())
    error: Mapped[Any | None] = mapped_column(JSON())
    completed_at: Mapped[datetime | None]


class SetAsideStep(Base):
    """One step as it was recorded, until a rewind, which `rewind` names by its epoch, set it aside."""

    __tablename__ = "pgqrs_set_aside_steps"

    workflow_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    rewind: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    step_id: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str]
    epoch: Mapped[int]
    reopened: Mapped[bool]
    started_at: Mapped[datetime]
    completed_at: Mapped[datetime | None]
    output: Mapped[Any | None] = mapped_column(JSON())
    error: Mapped[Any | None] = mapped_column(JSON())
    fingerprint: Mapped[int | None]
    failures: Mapped[int]
    address: Mapped[str | None]
