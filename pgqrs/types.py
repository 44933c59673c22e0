"""Enums, the JSON type and the frozen records that cross layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal, TypeAlias
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


@dataclass(frozen=True, slots=True)
class WorkflowCount:
    """The number of the workflows of a name and a status.

    Attributes:
        name: The name of the workflows.
        status: The status of the workflows.
        count: Their number.
    """

    name: str
    status: WorkflowStatus
    count: int


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
