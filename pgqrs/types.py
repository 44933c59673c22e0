"""Enums, JSON aliases and the frozen records that cross layers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeAlias
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
