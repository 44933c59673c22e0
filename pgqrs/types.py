"""Enums, JSON aliases and the frozen records that cross layers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


DEFAULT_QUEUE = "default"
"""The queue of a workflow that was not given one."""


class WorkflowStatus(StrEnum):
    """Where a workflow stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    WAITING = "WAITING"
    SUCCESS = "SUCCESS"
    ERROR = "ERROR"
    CANCELLED = "CANCELLED"


class StepStatus(StrEnum):
    """What is recorded of a step."""

    RUNNING = "RUNNING"
    SUCCESS = "SUCCESS"
    ERROR = "ERROR"


class StepAction(StrEnum):
    """What the caller of `PyWorkflow.acquire_step` is to do; equal to the plain strings."""

    SKIPPED = "SKIPPED"
    EXECUTE = "EXECUTE"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A payload in a list that the `Admin` cannot read: of another codec, say, or changed by hand.

    `error` is the class and the message of the error that reading it raises, on one line and cut.
    """

    error: str


@dataclass(frozen=True, slots=True)
class WorkflowRecord:
    """A workflow as it stands in the database.

    `input` is ``{"args": [...], "kwargs": {...}}``, `output` what the workflow returned, `error` the recorded
    error (see `docs/outcomes-and-replay.md` for its keys); each is None until there is one. `epoch` counts
    the starts. Times are aware and come from the database's clock; one that Python does not have is the first or
    the last that it has. `codec` names what the payloads are written with, None for strict JSON; a payload that
    cannot be read is `Unreadable`.
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


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step's record as it stands in the database.

    `reopened` tells that the next run executes the step again although an error is recorded. `epoch` is the
    start of the workflow that wrote the record. An `output` or `error` that cannot be read is `Unreadable`.
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
        """Whether the step began and no outcome is recorded: what it does outside may have happened, or not.

        It is executing, is to be executed again, or, in a workflow that has ended, was left in the middle.
        """
        return self.status == StepStatus.RUNNING


class NewWorkflow(NamedTuple):
    """To write: a workflow that is not there yet; `input` is JSON text.

    `codec` is the name of the payloads' codec, None for strict JSON; so it is in the other records. `token` tells
    the workflow from another that was given the same id; see `pgqrs.storage.tokens`.
    """

    workflow_id: int
    name: str
    input: str
    codec: str | None = None
    token: int = 0

    @property
    def size(self) -> int:
        """The length of the payload in characters."""
        return len(self.input)


class NewRun(NamedTuple):
    """To write: a workflow that is not there yet, and with it its first run; `input` is JSON text.

    `timeout` is how long the workflow may take from now, in seconds. `token` is the claim of the run, too.
    """

    workflow_id: int
    name: str
    input: str
    executor: UUID
    timeout: float | None
    codec: str | None = None
    token: int = 0

    @property
    def size(self) -> int:
        """The length of the payload in characters."""
        return len(self.input)


class Submission(NamedTuple):
    """To write: a workflow for the workers of `queue`; `input` is JSON text.

    `priority` is higher for what goes first. `delay` is how long it is not to be started, and `timeout` how long
    it may take from its first start, both in seconds. Of the workflows of one name and `key` only the first is
    written.
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

    @property
    def size(self) -> int:
        """The length of the payload in characters."""
        return len(self.input)


class Taken(NamedTuple):
    """The workflow that has the key of a submission: its id, its recorded `input` (JSON text), and the codec."""

    workflow_id: int
    input: str
    codec: str | None


class RunStart(NamedTuple):
    """To write: the start of a run by `executor`; `claim` is the token by which the run writes from then on.

    `timeout` is how long the workflow may take from its first start, in seconds, unless it has a deadline.
    """

    workflow_id: int
    claim: int
    executor: UUID
    timeout: float | None = None
    codec: str | None = None

    @property
    def size(self) -> int:
        """The length of the payload in characters: there is none."""
        return 0


class StepStarted(NamedTuple):
    """A step that a run has begun to execute; `claim` is the token of the run."""

    workflow_id: int
    epoch: int
    step_id: str
    claim: int


class StepOutcome(NamedTuple):
    """To write: what came of a step.

    One of `output` and `error` is JSON text; while neither is, the step is still running. `elapsed` is how long
    it has executed, in seconds. `fingerprint` is that of its arguments. `claim` is the token of the run: the
    record is written only while the workflow has that claim. So it is in the records below.
    """

    workflow_id: int
    epoch: int
    step_id: str
    output: str | None
    error: str | None
    elapsed: float
    fingerprint: int | None = None
    claim: int = 0

    @property
    def size(self) -> int:
        """The length of the payload in characters."""
        return len(self.output or self.error or "")


class LastOutcome(StepOutcome):
    """To write: the outcome of a step of a run that has heard that its workflow is to be cancelled."""

    __slots__ = ()


class StepFailure(NamedTuple):
    """To write: an attempt of a step that failed and is to be tried again.

    `failures` counts the failed attempts with this one, and `delay` is the time until the next one, in seconds.
    """

    workflow_id: int
    epoch: int
    step_id: str
    error: str
    elapsed: float
    fingerprint: int | None
    failures: int
    delay: float
    claim: int = 0

    @property
    def size(self) -> int:
        """The length of the payload in characters."""
        return len(self.error)


class LastFailure(StepFailure):
    """To write: a failed attempt in a run that has heard that its workflow is to be cancelled."""

    __slots__ = ()


class RunEnd(NamedTuple):
    """To write: the end of a run, and the failed steps that the next run is to execute again."""

    workflow_id: int
    epoch: int
    output: str | None
    error: str | None
    reopen: tuple[str, ...] = ()
    claim: int = 0

    @property
    def size(self) -> int:
        """The length of the payload in characters."""
        return len(self.output or self.error or "")


class RunLeave(NamedTuple):
    """To write: a run left without an end of its workflow, or by a cancellation.

    `status` is WAITING with `wait`, the seconds until the workflow is to be claimed again; PENDING, to hand it to
    another worker at once; CANCELLED; or RUNNING, for a run that its process
    gave up and anybody may take over. `retries` is how often the workflow was tried again so far, None to
    leave that as it is; `error` is JSON text. WAITING with an `error` and without `retries` is for a run that was
    never begun, and goes on counting the attempts.
    """

    workflow_id: int
    epoch: int
    status: WorkflowStatus
    wait: float | None = None
    error: str | None = None
    retries: int | None = None
    reopen: tuple[str, ...] = ()
    claim: int = 0

    @property
    def size(self) -> int:
        """The length of the payload in characters."""
        return len(self.error or "")


class Claim(NamedTuple):
    """The answer to a start: the run's `epoch`, or the `output` (JSON text) of a workflow that has succeeded.

    `token` is the claim by which the run writes.
    """

    epoch: int
    output: str | None = None
    succeeded: bool = False
    token: int = 0


class ClaimedRun(NamedTuple):
    """A run that a worker has claimed.

    `input` is JSON text. `attempts` counts the claims since the workflow last recorded a step, this one included.
    `left` is the time until its deadline in seconds, None without one. `claim` is the token of the run.
    """

    workflow_id: int
    name: str
    epoch: int
    input: str
    attempts: int
    left: float | None
    claim: int = 0


class Outcome(NamedTuple):
    """What is recorded of a finished step: the JSON text of its `output`, or of its `error`.

    `fingerprint` is that of the arguments that it was called with, None where they are not known.
    """

    output: str | None
    error: str | None
    fingerprint: int | None = None


class FailedAttempts(NamedTuple):
    """What is recorded of a step that is being retried: how often it failed, and the seconds until it is due."""

    failures: int
    wait: float


class History(NamedTuple):
    """What an earlier run left: the finished steps, those to execute again left out, and those being retried.

    `left` is the time until the workflow's deadline in seconds, None without one; `retries` is how often the
    workflow itself was tried again.
    """

    outcomes: dict[str, Outcome]
    failed: dict[str, FailedAttempts]
    left: float | None = None
    retries: int = 0


class Ended(NamedTuple):
    """How a workflow ended: its `status`, the JSON text of its output or error, and the codec of these."""

    status: WorkflowStatus
    output: str | None
    error: str | None
    codec: str | None = None
