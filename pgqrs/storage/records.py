"""The records that the storage writes and returns."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from pgqrs.types import WorkflowStatus


class NewWorkflow(NamedTuple):
    """A record to write: a new workflow; `input` is JSON text.

    `codec` is the name of the codec of the payloads, None for strict JSON; it has this meaning in all records.
    `token` distinguishes the workflow from another workflow of the same id; see `pgqrs.storage.queries.tokens`.
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

    @property
    def size(self) -> int:
        """The length of the payload in characters."""
        return len(self.input)


class Submission(NamedTuple):
    """A record to write: a workflow for the workers of `queue`; `input` is JSON text.

    Workflows of higher `priority` are claimed first. `delay` is the seconds until the workflow may start, and
    `timeout` is the seconds that it may take from its first start. Of the workflows of one name and `key` only the
    first is written.
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


class WorkflowIdentity(NamedTuple):
    """The id and the token of a workflow; the token is None for a row that another program wrote."""

    workflow_id: int
    token: int | None


class KeyOwner(NamedTuple):
    """The workflow that has the key of a submission: its id, recorded `input` (JSON text), codec and token."""

    workflow_id: int
    input: str
    codec: str | None
    token: int | None


class RunStart(NamedTuple):
    """A record to write: the start of a run by `executor`; the run writes with the token `claim` from then on.

    `timeout` is the seconds that the workflow may take from this start, unless it has a timeout or a deadline of
    its own already.
    """

    workflow_id: int
    claim: int
    executor: UUID
    timeout: float | None = None
    codec: str | None = None

    @property
    def size(self) -> int:
        """Zero: a start has no payload."""
        return 0


class StartedStep(NamedTuple):
    """A step that a run has begun to execute; `claim` is the token of the run."""

    workflow_id: int
    epoch: int
    step_id: str
    claim: int


class StepOutcome(NamedTuple):
    """A record to write: the outcome of a step, or the mark that the step is running.

    One of `output` and `error` is JSON text; both are None for a mark. `elapsed` is the seconds that the step has
    executed. `fingerprint` is the fingerprint of its arguments. `claim` is the token of the run: the record is
    written only while the workflow has this claim. `claim` has this meaning in the records below too.
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
    """A record to write: the outcome of a step, in a run that knows that its workflow is to be cancelled."""

    __slots__ = ()


class FailedAttempt(NamedTuple):
    """A record to write: a failed attempt of a step that is to be retried.

    `failures` counts the failed attempts, this attempt included. `delay` is the seconds until the next attempt.
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
    """A record to write: a failed attempt in a run that knows that its workflow is to be cancelled."""

    __slots__ = ()


class RunEnd(NamedTuple):
    """A record to write: the end of a run, and the failed steps that the next run is to execute again."""

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
    """A record to write: the release of a run whose workflow has not ended, or the cancellation of a workflow.

    `status` has four values:

    * WAITING parks the workflow for `wait` seconds; then it can be claimed again.
    * PENDING hands the workflow to another worker at once.
    * CANCELLED records the cancellation.
    * RUNNING is for a run that its process has abandoned and any executor may take over.

    `retries` is the number of retries of the workflow so far, None to keep the stored number. `error` is JSON
    text. WAITING with an `error` and without `retries` is for a misfit: its run never began, and its attempts
    continue to count.
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
    """The result of a start: the `epoch` of the run, or the `output` (JSON text) of a workflow that has succeeded.

    `token` is the claim with which the run writes.
    """

    epoch: int
    output: str | None = None
    succeeded: bool = False
    token: int = 0


class ClaimedRun(NamedTuple):
    """A run that a worker has claimed.

    `input` is JSON text. `attempts` counts the claims since the workflow last recorded a step, this claim
    included. `seconds_left` is the time until the deadline, None without a deadline. `claim` is the token of the
    run.
    """

    workflow_id: int
    name: str
    epoch: int
    input: str
    attempts: int
    seconds_left: float | None
    claim: int = 0


class StoredOutcome(NamedTuple):
    """The recorded outcome of a finished step: the JSON text of its `output` or of its `error`.

    `fingerprint` is the fingerprint of the arguments of the call, None if it is unknown.
    """

    output: str | None
    error: str | None
    fingerprint: int | None = None


class FailedAttempts(NamedTuple):
    """The recorded state of a step that is being retried: its failures, and the seconds until the next attempt."""

    failures: int
    wait: float


class History(NamedTuple):
    """The steps recorded by earlier runs: finished steps in `outcomes`, steps that are being retried in `failed`.

    Steps that are to be executed again are in neither. `seconds_left` is the time until the deadline of the
    workflow, None without a deadline. `retries` is the number of retries of the workflow itself.
    """

    outcomes: dict[str, StoredOutcome]
    failed: dict[str, FailedAttempts]
    seconds_left: float | None = None
    retries: int = 0


class WorkflowResult(NamedTuple):
    """The end of a workflow: its `status`, the JSON text of its output or error, their codec, and its token."""

    status: WorkflowStatus
    output: str | None
    error: str | None
    codec: str | None = None
    token: int | None = None
