"""Enums, JSON aliases and the frozen records that cross layers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeAlias

Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"


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
