"""Enums, the JSON type and the frozen records that cross layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal, NamedTuple, TypeAlias
from uuid import UUID

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

Until: TypeAlias = Literal["purge", "end"]
"""The time until which a workflow has its key: until its row is deleted, or until it ends."""

UniqueUntil: TypeAlias = Literal["start", "end"]
"""The time until which a workflow holds its unique value: until its first start, or until its end."""

Taken: TypeAlias = Literal["return", "raise", "replace", "cancel"]
"""The effect of a submission whose unique value another workflow holds; see `Admin.options`."""

Overlap: TypeAlias = Literal["skip", "queue", "allow", "cancel"]
"""The effect of a time of a schedule while a workflow of the schedule lives; see `Admin.schedule`."""

CatchUp: TypeAlias = Literal["last", "all", "none"]
"""The times of a schedule that are caught up after an outage; see `Admin.schedule`."""

Holds: TypeAlias = Literal["running", "until_end"]
"""The time for which a workflow counts for the limits of its queue; see `Admin.set_queue`."""

DEFAULT_QUEUE = "default"
"""The queue of a workflow whose submission names no queue."""


class WorkflowStatus(StrEnum):
    """The status of a workflow."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    WAITING = "WAITING"
    SUCCESS = "SUCCESS"
    ERROR = "ERROR"
    CANCELLED = "CANCELLED"


class SagaState(StrEnum):
    """The state of the sagas of a workflow: open, or to be undone because the workflow ends."""

    OPEN = "OPEN"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"


class StepStatus(StrEnum):
    """The status of a recorded step."""

    RUNNING = "RUNNING"
    SUCCESS = "SUCCESS"
    ERROR = "ERROR"


class StepAction(StrEnum):
    """The answer of `PyWorkflow.acquire_step`: skip the step, or execute it; members equal plain strings."""

    SKIPPED = "SKIPPED"
    EXECUTE = "EXECUTE"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A payload that the `Admin` cannot read, as in a list: written with another codec, or edited by hand.

    Attributes:
        error: The class and the message of the error that reading the payload raises, on one line, shortened.
    """

    error: str


@dataclass(frozen=True, slots=True)
class WorkflowRecord:
    """A snapshot of one workflow in the database.

    All times are timezone-aware and come from the database's clock. A time outside the range of Python's
    `datetime` is the earliest or the latest `datetime`. A payload that cannot be read is `Unreadable`.

    Attributes:
        id: The id of the workflow.
        name: The name of the workflow.
        status: The status of the workflow. Until a submission in a batch ends, it has that of the batch.
        input: The arguments of the workflow, ``{"args": [...], "kwargs": {...}}``; those with which it has
            continued as new, if it has.
        output: The return value of the workflow; None without a recorded output.
        error: The recorded error, with the keys in `docs/outcomes-and-replay.md`; None without a recorded error.
        epoch: The number of runs so far.
        created_at: The time at which the workflow was created.
        started_at: The start of the first run, or of the first run since the workflow has continued as new; None
            before it.
        completed_at: The time at which the workflow ended; None for a workflow that has not ended.
        updated_at: The time of the last change of the workflow's row.
        queue: The queue of the workflow; None for a workflow in no queue.
        key: The idempotency key of the workflow, if any.
        priority: The priority of the workflow in its queue; workers claim higher numbers first.
        due_at: The time until which the workflow waits; None for a workflow that waits for no time.
        deadline: The time at which the workflow times out; None without a timeout.
        executor_id: The id of the executor that runs the workflow; None for a workflow that is not running.
        attempts: The number of claims by workers in a row without a further recorded step.
        codec: The name of the codec that wrote the payloads; None for strict JSON.
        schedule: The name of the schedule that has started the workflow; None for a workflow of no schedule.
        scheduled_for: The time for which the schedule has started the workflow.
        partition_key: The key of the workflow within its queue; None without one.
        unique: The unique value with which the workflow was submitted; None without one.
        batch_id: The id of the batch that runs a submission of a workflow with `batch`; None before it is in a
            batch, and for any other workflow. A batch has its own id here, and the ids of its submissions as its
            `input`.
        parent_id: The id of the workflow that has started this one as a child; None for any other workflow.
        attributes: The attributes of the workflow by name, as `jsonb` has them: a number may have another form.
        tags: The tags of the workflow.
    """

    id: int
    name: str
    status: WorkflowStatus
    input: Any
    output: Any
    error: dict[str, Any] | Unreadable | None
    epoch: int
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    updated_at: datetime
    queue: str | None = None
    key: str | None = None
    priority: int = 0
    due_at: datetime | None = None
    deadline: datetime | None = None
    executor_id: UUID | None = None
    attempts: int = 0
    codec: str | None = None
    schedule: str | None = None
    scheduled_for: datetime | None = None
    partition_key: str | None = None
    unique: str | None = None
    batch_id: int | None = None
    parent_id: int | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tags: tuple[str, ...] = ()


class WorkflowPage(list[WorkflowRecord]):
    """One page of a list of workflows, newest first: the list of their records.

    Attributes:
        next: The cursor of the page after this one, for `after`; None after the last page. A page with fewer
            workflows than asked for, even with none, may have pages after it: see `Admin.list_workflows`.
    """

    def __init__(self, records: Iterable[WorkflowRecord], next: int | None) -> None:  # noqa: A002
        super().__init__(records)
        self.next = next


class WorkflowCount(NamedTuple):
    """The number of the workflows of a name and a status.

    Attributes:
        name: The name of the workflows.
        status: The status of the workflows.
        number: Their number.
    """

    name: str
    status: WorkflowStatus
    number: int


class LeftWorkflows(NamedTuple):
    """The workflows that a bulk operation has left unchanged, for one reason.

    Attributes:
        reason: The reason, which completes the sentence "the workflows ...".
        number: The number of the workflows.
        ids: The first of their ids, at most ten.
    """

    reason: str
    number: int
    ids: tuple[int, ...]


class BulkReport(NamedTuple):
    """The result of an operation on many workflows; `str()` of it is one line.

    Attributes:
        found: The number of the workflows that were selected.
        changed: The number of the workflows that were changed, or would be.
        left: The workflows that were left unchanged, by the reason.
        dry_run: True if nothing was written.
    """

    found: int
    changed: int
    left: tuple[LeftWorkflows, ...] = ()
    dry_run: bool = False

    def __str__(self) -> str:
        left = [f"{each.number} {each.reason} ({_listed(each)})" for each in self.left]
        verb = "would change" if self.dry_run else "changed"
        return "; ".join([f"found {self.found}, {verb} {self.changed}", *left])


def _listed(left: LeftWorkflows) -> str:
    shown = ", ".join(map(str, left.ids))
    return f"{shown}, ..." if left.number > len(left.ids) else shown


@dataclass(frozen=True, slots=True)
class Rate:
    """A number of starts in a time, as in ``Rate(100, per=60, burst=20)``.

    Attributes:
        limit: The number of starts in `per` seconds, at a steady pace.
        per: The seconds.
        burst: The number of starts that may follow each other at once, after a time without starts; 1 by default.
    """

    limit: int
    per: float = 1.0
    burst: int = 1


@dataclass(frozen=True, slots=True)
class Batch:
    """The size of the batches of a workflow, and the time in which they fill, as in ``Batch(100, within=2.0)``.

    Attributes:
        size: The maximum number of submissions of a batch; a batch of this size starts at once.
        within: Seconds, or a `timedelta`, after which a smaller batch starts, counted from the time at which its
            oldest submission became ready; 0 for no wait.
    """

    size: int
    within: float | timedelta


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """The health of a worker at one moment.

    Attributes:
        state: The place of the worker in its life.
        is_alive: False if a service of the worker has ended by itself: the process should be restarted.
        is_ready: True while the worker claims workflows: it has started, does not drain, and no service fails.
        running: The number of workflows that it runs.
        failing: The names of the services whose last round has failed, as without a connection, in order.
    """

    state: Literal["new", "working", "draining", "stopped"]
    is_alive: bool
    is_ready: bool
    running: int
    failing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QueueRecord:
    """A snapshot of one queue in the database.

    Attributes:
        name: The name of the queue.
        concurrency: The maximum number of its runs; None for no limit.
        partition_concurrency: The maximum number of the runs of each partition key; None for no limit.
        rate: The maximum rate of its starts; None for no limit.
        partition_rate: The maximum rate of the starts of each partition key; None for no limit.
        weights: The weights of partition keys; a key that is missing has the weight 1.
        paused_at: The time at which the queue was paused; None for a queue that is not paused.
        ready: The number of workflows that are ready to be claimed.
        running: The number of workflows that an executor runs.
        held_back: The number of ready workflows that wait for a limit of runs, or for the end of the pause.
        oldest_age: The seconds since the oldest ready workflow became ready; None without one.
        holds: The time for which a workflow counts for the limits of runs.
        holding: The number of workflows that count for the limits of runs.
        ordered: True if the workflows of each partition key run one after the other, in their order.
        fair: True if the partition keys are served in turn, False if all workflows have one order.
    """

    name: str
    concurrency: int | None
    partition_concurrency: int | None
    rate: Rate | None
    partition_rate: Rate | None
    weights: Mapping[str, float]
    paused_at: datetime | None
    ready: int
    running: int
    held_back: int
    oldest_age: float | None
    holds: Holds = "running"
    holding: int = 0
    ordered: bool = False
    fair: bool = True


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A snapshot of one recorded step in the database.

    An `output` or `error` that cannot be read is `Unreadable`.

    Attributes:
        workflow_id: The id of the step's workflow.
        step_id: The id of the step.
        status: The status of the step.
        output: The recorded output of the step; None without a recorded output.
        error: The recorded error of the step; None without a recorded error.
        epoch: The epoch of the run that wrote the record.
        reopened: True if the next run executes the step again although its error is recorded.
        started_at: The time at which the step began.
        completed_at: The time of the recorded outcome; None without an outcome.
        failures: The number of failed attempts so far.
    """

    workflow_id: int
    step_id: str
    status: StepStatus
    output: Any
    error: dict[str, Any] | Unreadable | None
    epoch: int
    reopened: bool
    started_at: datetime
    completed_at: datetime | None
    failures: int = 0

    @property
    def outcome_unknown(self) -> bool:
        """True if the step began but has no recorded outcome, so its external effects may have happened or not.

        The step is executing or will be executed again; in a workflow that has ended, it was interrupted.
        """
        return self.status == StepStatus.RUNNING


class ReasonKind(StrEnum):
    """The kind of a `Reason` why a workflow is not running, or is not coming forward."""

    ENDED = "ended"
    """It has ended."""
    RUNNING = "running"
    """A live executor runs it."""
    STEP = "step"
    """A step has begun, and has no outcome."""
    EXECUTOR_SUSPECTED = "executor_suspected"
    """Its executor gives no sign of life, and other workers will recover the run."""
    ABANDONED = "abandoned"
    """Its process has abandoned the run, and another worker will recover it."""
    CANCEL_REQUESTED = "cancel_requested"
    """Its run is to end, because its cancellation was requested."""
    UNWINDS = "unwinds"
    """It is to end, and a worker undoes its sagas before."""
    DEADLINE_PASSED = "deadline_passed"
    """Its deadline has passed, and it has not ended yet."""
    LOCKED = "locked"
    """Another session has locked its row."""

    MESSAGE = "message"
    """It waits for a message of a topic."""
    UPDATE = "update"
    """It waits for a request of an update."""
    EVENT = "event"
    """It waits for an event of the schema."""
    CHILDREN = "children"
    """It waits for the end of children."""
    SLEEP = "sleep"
    """It sleeps."""
    STEP_RETRY = "step_retry"
    """A step has failed, and waits for its next attempt."""
    WORKFLOW_RETRY = "workflow_retry"
    """It has failed, and waits for its next attempt."""
    MISFIT = "misfit"
    """Its arguments did not fit the function of a worker, and it waits for another worker."""
    OVERDUE = "overdue"
    """Its time has come, and no worker has made it ready yet."""

    DELAYED = "delayed"
    """It was enqueued for a later time."""
    DEBOUNCED = "debounced"
    """It was enqueued with a unique value for a later time, to which each further submission may move it."""
    THROTTLED = "throttled"
    """It waits for the next start that the throttle of its unique value allows."""
    IN_BATCH = "in_batch"
    """It is a submission, and its batch has not ended."""
    BATCH_FILLS = "batch_fills"
    """It is a submission that waits for its batch to fill."""
    NOT_ENQUEUED = "not_enqueued"
    """It is in no queue, so only a call of the application runs it."""

    QUEUE_PAUSED = "queue_paused"
    """Its queue is paused."""
    QUEUE_FULL = "queue_full"
    """Its queue has as many workflows as its limit allows."""
    PARTITION_FULL = "partition_full"
    """Its partition key has as many workflows as the limit of the queue allows."""
    QUEUE_RATE = "queue_rate"
    """The rate of its queue allows no start yet."""
    PARTITION_RATE = "partition_rate"
    """The rate of its partition key allows no start yet."""
    BEHIND = "behind"
    """Its queue is ordered, and it is behind another workflow of its partition key."""

    NO_WORKER = "no_worker"
    """No worker is alive."""
    UNKNOWN_NAME = "unknown_name"
    """No live worker knows its name."""
    QUEUE_NOT_SERVED = "queue_not_served"
    """No live worker that knows its name serves its queue."""
    OTHER_CODEC = "other_codec"
    """No live worker that knows its name and serves its queue has its codec."""
    WORKERS_UNKNOWN = "workers_unknown"
    """No worker is known to claim it, but live processes do not tell which workflows they claim."""
    WORKERS_FULL = "workers_full"
    """Each live worker that can claim it has as many runs as it may have."""
    READY = "ready"
    """It is ready, and a live worker can claim it."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason why a workflow is not running, or is not coming forward; see `Admin.why`.

    Attributes:
        kind: The kind of the reason.
        text: The reason in one sentence.
        until: The time until which the reason holds at the latest; None if no time is known.
        since: The time since which it has held; None if it is not known.
        workflow_ids: The ids of other workflows, up to 10: the children, the batch, the workflow before it, or the
            workflows that fill a limit.
        step_id: The id of the step that waits, is executed or is to be retried.
        name: The name of the topic, the update, the event or the queue; or the codec of the workflow.
        executor_id: The id of the executor that runs the workflow.
        backend_pid: The process id of the session that has locked the row, in the server.
    """

    kind: ReasonKind
    text: str
    until: datetime | None = None
    since: datetime | None = None
    workflow_ids: tuple[int, ...] = ()
    step_id: str | None = None
    name: str | None = None
    executor_id: UUID | None = None
    backend_pid: int | None = None


@dataclass(frozen=True, slots=True)
class Why:
    """The reasons why a workflow is not running, at one moment; `Admin.why` returns it.

    ``print(why)`` shows it in lines.

    Attributes:
        workflow_id: The id of the workflow.
        name: The name of the workflow.
        status: The status of the workflow; see `WorkflowRecord`.
        at: The time of the answer, by the database's clock.
        reasons: The reasons; at least one.
    """

    workflow_id: int
    name: str
    status: WorkflowStatus
    at: datetime
    reasons: tuple[Reason, ...]

    @property
    def kinds(self) -> frozenset[ReasonKind]:
        """The kinds of the reasons."""
        return frozenset(each.kind for each in self.reasons)

    def __str__(self) -> str:
        lines = (f"  {each.kind}: {each.text}" for each in self.reasons)
        return "\n".join((f"workflow {self.workflow_id} ({self.name}) is {self.status}:", *lines))


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A snapshot of one live worker, or of a live executor whose workers are not known.

    Attributes:
        executor_id: The id of the executor; the workers of one `Admin` in one process share it.
        host: The name of the host.
        pid: The process id.
        started_at: The start of the executor.
        heartbeat_at: The time of its last heartbeat.
        expires_at: The time at which this heartbeat expires.
        suspected: True if the executor gives a sign of death: other workers may recover its runs soon.
        running: The number of runs of the executor, of all its workers.
        names: The names of the workflows that the worker claims, and of those that it runs in batches. None for an
            executor that does not tell: its workers are of an older version, or it has no worker.
        queues: The queues of the worker, each with the maximum number of its runs there; None for no maximum.
        concurrency: The maximum number of runs of the worker; None if it is not known.
        codec: The name of the codec of the worker; None if it is not known.
    """

    executor_id: UUID
    host: str
    pid: int
    started_at: datetime
    heartbeat_at: datetime
    expires_at: datetime
    suspected: bool
    running: int
    names: tuple[str, ...] | None
    queues: Mapping[str, int | None]
    concurrency: int | None
    codec: str | None


@dataclass(frozen=True, slots=True)
class RewindRecord:
    """A snapshot of one rewind of a workflow; see `Admin.rewind`.

    Attributes:
        workflow_id: The id of the workflow.
        before: The id of the step to whose beginning the workflow went back.
        epoch: The epoch of the workflow since the rewind.
        rewound_at: The time of the rewind.
        status: The status of the workflow before the rewind.
        output: The recorded output before the rewind; None without one.
        error: The recorded error before the rewind; None without one.
        completed_at: The time at which the workflow had ended; None if it had not.
        steps: The steps that the rewind has set aside, as they were recorded, in the order in which they began.
    """

    workflow_id: int
    before: str
    epoch: int
    rewound_at: datetime
    status: WorkflowStatus
    output: Any
    error: dict[str, Any] | Unreadable | None
    completed_at: datetime | None
    steps: tuple[StepRecord, ...]


def names_of_fields(record: object) -> Sequence[str]:
    """Return the names of the fields of a data class or of a named tuple; none for another object."""
    if is_dataclass(record):
        return [each.name for each in fields(record)]
    names: Sequence[str] = getattr(record, "_fields", ())
    return names
