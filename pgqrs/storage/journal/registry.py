"""The statements of the hot path: one a kind of record, and one for a batch of several kinds."""

from __future__ import annotations

from typing import Any, ClassVar, TypeAlias

from sqlalchemy import BigInteger, select, union_all

from pgqrs.models import Step, Text, Workflow
from pgqrs.storage.journal.operation import Arrays, InLentSession, Kind, Rows
from pgqrs.storage.journal.steps import Fail, LastFail, LastStepWrite, StepWrite
from pgqrs.storage.journal.workflows import Begin, Create, End, Enqueue, Leave, Start
from pgqrs.storage.queries.expressions import text_of
from pgqrs.storage.records import (
    LastFailure,
    LastOutcome,
    NewRun,
    NewWorkflow,
    RunEnd,
    RunLeave,
    RunStart,
    StepFailure,
    StepOutcome,
    Submission,
)

Record: TypeAlias = NewWorkflow | NewRun | Submission | RunStart | StepOutcome | StepFailure | RunEnd | RunLeave


class Asked(Rows[tuple[int, str | None]]):
    """Ask how the workflows and steps of unanswered records stand."""

    name = "asked"
    columns: ClassVar = {"workflow_id": BigInteger(), "step_id": Text()}
    fields = ("workflow_id", "step_id")

    def statement(self) -> Any:
        """Return the query; each row is the ids of a record and then its `Standing`."""
        rows = self.rows()
        standing = (
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
            select(rows.c.workflow_id, rows.c.step_id, *standing)
            .select_from(rows)
            .outerjoin(Workflow, Workflow.id == rows.c.workflow_id)
            .outerjoin(Step, (Step.workflow_id == rows.c.workflow_id) & (Step.step_id == rows.c.step_id))
        )


class AskedInLentSession(InLentSession[tuple[int, str | None]], Asked):
    """Ask the same in a session that is not ours."""


class EnqueueInLentSession(InLentSession[Submission], Enqueue):
    """Insert workflows for workers to claim, in a session that is not ours."""


ASKED = Asked()

ASKED_IN_LENT_SESSION = AskedInLentSession()

ENQUEUE_IN_LENT_SESSION = EnqueueInLentSession()

LAST_OUTCOME = LastStepWrite()

KINDS: dict[type[Any], Kind[Any]] = {
    NewWorkflow: Create(),
    NewRun: Begin(),
    Submission: Enqueue(),
    RunStart: Start(),
    StepOutcome: StepWrite(),
    LastOutcome: LAST_OUTCOME,
    StepFailure: Fail(),
    LastFailure: LastFail(),
    RunEnd: End(),
    RunLeave: Leave(),
}
_REOPENING = {kind.reopening.name: (kind.name, kind.reopening) for kind in (End, Leave)}
_BY_NAME = {kind.name: kind for kind in KINDS.values()} | {ASKED.name: ASKED}


def batch_names(arrays: Arrays) -> tuple[str, ...]:
    """Return the names of the kinds whose binds these are, as `batch` takes them."""
    return tuple(sorted({bind.partition("_")[0] for bind in arrays}))


def batch(names: tuple[str, ...]) -> Any:
    """Return the one statement that writes a batch of these kinds.

    Two names re-open steps and go with another: ``"reopen"`` with ``"end"``, ``"retry"`` with ``"leave"``.
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
