"""The operation of each record type, and the statement of a batch of several record types."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import select, union_all

from pgqrs.models import Step, Workflow
from pgqrs.storage.journal.columns import Arrays, CallerColumns, RecordColumns
from pgqrs.storage.journal.creation import (
    CreateAndStart,
    CreateWorkflow,
    EnqueueWorkflow,
    NewRun,
    NewWorkflow,
    Submission,
)
from pgqrs.storage.journal.operation import Operation
from pgqrs.storage.journal.runs import ClaimWorkflow, FinishWorkflow, ReleaseWorkflow, RunEnd, RunRelease, RunStart
from pgqrs.storage.journal.steps import (
    FailedAttempt,
    LastFailedAttempt,
    LastOutcome,
    RecordFailedAttempt,
    RecordLastFailedAttempt,
    RecordLastStep,
    RecordStep,
    StepOutcome,
)
from pgqrs.storage.queries.expressions import text_of

Record: TypeAlias = (
    NewWorkflow | NewRun | Submission | RunStart | StepOutcome | FailedAttempt | RunEnd | RunRelease
)


class AskedRecord(NamedTuple):
    """The ids of a record that stayed unanswered; `step_id` is None for a record of no step."""

    workflow_id: int
    step_id: str | None


class CurrentStateQuery(RecordColumns[AskedRecord]):
    """Query the state of the workflows and steps of unanswered records."""

    name = "asked"
    record = AskedRecord

    def statement(self) -> Any:
        """Return the query; each row has the ids of a record, followed by the fields of its `CurrentState`."""
        rows = self.rows()
        current = (
            Workflow.status,
            Workflow.epoch,
            Workflow.claim,
            Workflow.token,
            Workflow.cancel_interrupts,
            Workflow.executor,
            text_of(Workflow.output),
            Workflow.codec,
            Step.status,
            Step.epoch,
            text_of(Step.output),
            text_of(Step.error),
            Step.fingerprint,
            Step.failures,
        )
        return (
            select(rows.c.workflow_id, rows.c.step_id, *current)
            .select_from(rows)
            .outerjoin(Workflow, Workflow.id == rows.c.workflow_id)
            .outerjoin(Step, (Step.workflow_id == rows.c.workflow_id) & (Step.step_id == rows.c.step_id))
        )


class CallerCurrentStateQuery(CallerColumns[AskedRecord], CurrentStateQuery):
    """The query of `CurrentStateQuery` for the caller's session."""


class CallerEnqueueWorkflow(CallerColumns[Submission], EnqueueWorkflow):
    """Insert workflows for workers to claim, in the caller's session."""


CURRENT_STATE = CurrentStateQuery()

CALLER_CURRENT_STATE = CallerCurrentStateQuery()

CALLER_ENQUEUE = CallerEnqueueWorkflow()

RECORD_LAST_STEP = RecordLastStep()

OPERATIONS: dict[type[Any], Operation[Any]] = {
    NewWorkflow: CreateWorkflow(),
    NewRun: CreateAndStart(),
    Submission: EnqueueWorkflow(),
    RunStart: ClaimWorkflow(),
    StepOutcome: RecordStep(),
    LastOutcome: RECORD_LAST_STEP,
    FailedAttempt: RecordFailedAttempt(),
    LastFailedAttempt: RecordLastFailedAttempt(),
    RunEnd: FinishWorkflow(),
    RunRelease: ReleaseWorkflow(),
}
_REOPENING = {
    operation.reopening.name: (operation.name, operation.reopening)
    for operation in (FinishWorkflow, ReleaseWorkflow)
}
_BY_NAME = {operation.name: operation for operation in OPERATIONS.values()} | {CURRENT_STATE.name: CURRENT_STATE}


def operation_names(arrays: Arrays) -> tuple[str, ...]:
    """Return the names of the operations that have these binds, as `combine` takes them."""
    return tuple(sorted({bind.partition("_")[0] for bind in arrays}))


def combine(names: tuple[str, ...]) -> Any:
    """Return the statement that writes a batch of these operations.

    Two names reopen steps and need another name: ``"reopen"`` needs ``"end"``, ``"retry"`` needs ``"leave"``.
    """
    if len(names) == 1:
        return _BY_NAME[names[0]].statement()
    ctes = {name: _BY_NAME[name].statement().cte(f"{name}_done") for name in names if name in _BY_NAME}
    answers = union_all(*(select(cte) for cte in ctes.values()))
    for name in names:
        if name in _REOPENING:
            after, reopening = _REOPENING[name]
            answers = answers.add_cte(reopening.statement_after(ctes[after]).cte(f"{name}_done"))
    return answers
