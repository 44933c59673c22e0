"""The records that the storage returns."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

from pgqrs.observer import RunOrigin
from pgqrs.types import SagaState, WorkflowStatus

T = TypeVar("T", bound=tuple[Any, ...])
E = TypeVar("E", bound=StrEnum)

SAGA = ("saga:", "saga/")
"""The beginnings of the ids of the steps that record that a saga is undone."""

UNDO = "undo/"
"""The beginning of the id of a step that undoes another step."""


def from_row(record: type[T], row: Mapping[Any, Any]) -> T:
    """Return a record, a `NamedTuple`, from a row that has a column with the name of each field."""
    cls: Any = record
    made: T = cls(**{name: row[name] for name in cls._fields})
    return made


def stored_member(kind: type[E], text: str) -> E:
    """Return a member for a stored text; a text of another program that is none is shown as it is."""
    try:
        return kind(text)
    except ValueError:
        member = str.__new__(kind, text)
        member._name_ = member._value_ = text
        return member


class WorkflowIdentity(NamedTuple):
    """The id and the token of a workflow; the token is None for a row that another program wrote."""

    workflow_id: int
    token: int | None


class EndedWorkflow(NamedTuple):
    """The end of a workflow that was not running: its name, its queue and its status."""

    name: str
    queue: str | None
    status: WorkflowStatus


class WorkflowName(NamedTuple):
    """The name and the token of a workflow, and the time for which a schedule has started it."""

    name: str
    token: int | None
    scheduled_for: datetime | None


class KeyOwner(NamedTuple):
    """The workflow that has the key of a submission: its id, recorded `input` (JSON text), codec and token.

    The input is None if the workflow has continued with other arguments than those of its submission.
    """

    workflow_id: int
    input: str | None
    codec: str | None
    token: int | None


class StartedStep(NamedTuple):
    """A step that a run has begun to execute; `claim` is the token of the run."""

    workflow_id: int
    epoch: int
    step_id: str
    claim: int


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
    run. `parent_id` is the id of the parent of a child. `scheduled_for` is the time for which a schedule has
    started the workflow. `origin` is None without an observer.
    """

    workflow_id: int
    name: str
    epoch: int
    input: str
    attempts: int
    seconds_left: float | None
    claim: int = 0
    queue: str | None = None
    parent_id: int | None = None
    scheduled_for: datetime | None = None
    origin: RunOrigin | None = None


class StoredOutcome(NamedTuple):
    """The recorded outcome of a finished step: the JSON text of its `output` or of its `error`.

    `fingerprint` is the fingerprint of the arguments of the call, None if it is unknown. `address` is the address
    of the message that is the output; None for any other output.
    """

    output: str | None
    error: str | None
    fingerprint: int | None = None
    address: str | None = None


class FailedAttempts(NamedTuple):
    """The recorded state of a step that is being retried: its failures, and the seconds until the next attempt.

    A wait with a timeout has no failures, and `wait` is the seconds until the timeout.
    """

    failures: int
    wait: float


class History(NamedTuple):
    """The steps recorded by earlier runs: finished steps in `outcomes`, steps that are being retried in `failed`.

    Steps that are to be executed again are in neither. `seconds_left` is the time until the deadline of the
    workflow, None without a deadline. `retries` is the number of retries of the workflow itself. `generation` is
    the epoch in which the workflow last continued as new, 0 for never. `saga_state` is the state of its sagas.
    """

    outcomes: dict[str, StoredOutcome]
    failed: dict[str, FailedAttempts]
    seconds_left: float | None = None
    retries: int = 0
    generation: int = 0
    saga_state: SagaState | None = None


class StepTimes(NamedTuple):
    """The times of a step: its start, and the record of its outcome, None for a step without an outcome.

    `epoch` is the epoch of the run that has recorded it.
    """

    step_id: str
    epoch: int
    started_at: datetime
    completed_at: datetime | None


class CompletedStep(NamedTuple):
    """A step, and the seconds since its outcome was recorded; None for a step without an outcome."""

    step_id: str
    age: float | None


class ChildResult(NamedTuple):
    """The end of a child: its place among the children of a step, and the JSON text of its output or error."""

    place: int
    id: int
    status: WorkflowStatus
    output: str | None
    error: str | None


class Receiver(NamedTuple):
    """A workflow that is to get a message: its status and codec, and whether it has a message with the key."""

    status: WorkflowStatus
    codec: str | None
    has_message: bool


class EventState(NamedTuple):
    """The value of an event of a workflow, JSON text, None for no value; and the workflow's status and token.

    `codec` is the codec of the workflow.
    """

    value: str | None
    status: WorkflowStatus
    codec: str | None
    token: int | None


class AskedReply(NamedTuple):
    """The reply to a request that a caller waits for: the address of the reply, and the key of the request.

    `token` is the token of the workflow; None stands for any token.
    """

    workflow_id: int
    address: str
    key: str
    token: int | None


class ReplyState(NamedTuple):
    """A reply, JSON text, None for a request without a reply; and the workflow's status, token and codec.

    `status` is None for a deleted workflow.
    """

    payload: str | None
    status: WorkflowStatus | None
    codec: str | None
    token: int | None


class WorkflowResult(NamedTuple):
    """The end of a workflow: its `status`, the JSON text of its output or error, their codec, and its token."""

    status: WorkflowStatus
    output: str | None
    error: str | None
    codec: str | None = None
    token: int | None = None
