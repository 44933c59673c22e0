"""Enums, JSON aliases and the frozen records that cross layers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


class WorkflowStatus(StrEnum):
    """Where a workflow stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
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
class WorkflowRecord:
    """A workflow as it stands in the database.

    `input` is ``{"args": [...], "kwargs": {...}}``, `output` what the workflow returned, `error` the recorded
    error (see `docs/outcomes-and-replay.md` for its keys); each is None until there is one. `epoch` counts
    the starts. Times are aware and come from the database's clock.
    """

    id: int
    name: str
    status: WorkflowStatus
    input: Any
    output: Any
    error: dict[str, Any] | None
    epoch: int
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step's record as it stands in the database.

    `reopened` tells that the next run executes the step again although an error is recorded. `epoch` is the
    start of the workflow that wrote the record.
    """

    workflow_id: int
    step_id: str
    status: StepStatus
    output: Any
    error: dict[str, Any] | None
    epoch: int
    reopened: bool
    started_at: datetime
    completed_at: datetime | None


class NewWorkflow(NamedTuple):
    """To write: a workflow that is not there yet; `input` is JSON text."""

    workflow_id: int
    name: str
    input: str

    @property
    def size(self) -> int:
        """The length of the payload in characters."""
        return len(self.input)


class RunStart(NamedTuple):
    """To write: the start of a run; `claim` makes it safe to send twice."""

    workflow_id: int
    claim: UUID

    @property
    def size(self) -> int:
        """The length of the payload in characters: there is none."""
        return 0


class StepStarted(NamedTuple):
    """A step that a run has begun to execute."""

    workflow_id: int
    epoch: int
    step_id: str


class StepOutcome(NamedTuple):
    """To write: what came of a step.

    One of `output` and `error` is JSON text; while neither is, the step is still running. `elapsed` is how long
    it has executed, in seconds.
    """

    workflow_id: int
    epoch: int
    step_id: str
    output: str | None
    error: str | None
    elapsed: float

    @property
    def size(self) -> int:
        """The length of the payload in characters."""
        return len(self.output or self.error or "")


class RunEnd(NamedTuple):
    """To write: the end of a run, and the failed steps that the next run is to execute again."""

    workflow_id: int
    epoch: int
    output: str | None
    error: str | None
    reopen: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """The length of the payload in characters."""
        return len(self.output or self.error or "")


class Claim(NamedTuple):
    """What a start gave: the run's `epoch`, or the `output` (JSON text) of a workflow that has succeeded."""

    epoch: int
    output: str | None = None
    succeeded: bool = False


class Outcome(NamedTuple):
    """What is recorded of a finished step: the JSON text of its `output`, or of its `error`."""

    output: str | None
    error: str | None
