"""The records that the storage writes and returns."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from pgqrs.types import WorkflowStatus


class NewWorkflow(NamedTuple):
    """To write: a workflow that is not there yet; `input` is JSON text.

    `codec` is the name of the payloads' codec, None for strict JSON; so it is in the other records. `token` tells
    the workflow from another that was given the same id; see `pgqrs.storage.queries.tokens`.
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


class KeyOwner(NamedTuple):
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


class StartedStep(NamedTuple):
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


class FailedAttempt(NamedTuple):
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


class LastFailedAttempt(FailedAttempt):
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


class RunRelease(NamedTuple):
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
    seconds_left: float | None
    claim: int = 0


class StoredOutcome(NamedTuple):
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

    outcomes: dict[str, StoredOutcome]
    failed: dict[str, FailedAttempts]
    seconds_left: float | None = None
    retries: int = 0


class WorkflowResult(NamedTuple):
    """How a workflow ended: its `status`, the JSON text of its output or error, and the codec of these."""

    status: WorkflowStatus
    output: str | None
    error: str | None
    codec: str | None = None
