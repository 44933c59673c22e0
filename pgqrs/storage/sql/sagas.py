"""Conditions on workflows with sagas, and the values by which a worker unwinds one and then ends it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import and_, func, null
from sqlalchemy.sql import ColumnElement

from pgqrs.models import Workflow
from pgqrs.storage.sql.expressions import queue_or_default, text_literal
from pgqrs.types import SagaState, WorkflowStatus


def has_saga(of: Any = Workflow) -> ColumnElement[bool]:
    """Return the condition that a worker is to undo the steps of a workflow before the workflow ends."""
    condition: ColumnElement[bool] = of.saga_state.is_not(None)
    return condition


def is_undecided(of: Any = Workflow) -> ColumnElement[bool]:
    """Return the condition that the workflow with a saga is not about to end already."""
    condition: ColumnElement[bool] = of.saga_state == text_literal(SagaState.OPEN)
    return condition


def unwinds(of: Any = Workflow) -> ColumnElement[bool]:
    """Return the condition that the workflow is to end, and that its sagas are undone before."""
    return and_(has_saga(of), ~is_undecided(of))


def handed_to_worker(state: SagaState) -> dict[str, Any]:
    """Return the values of a workflow without a run whose sagas a worker is to undo."""
    return {
        "saga_state": text_literal(state),
        "status": text_literal(WorkflowStatus.PENDING),
        "queue": queue_or_default(),
        "ready_at": func.coalesce(Workflow.ready_at, func.now()),
        "due_at": null(),
        "deadline": null(),
        "cancel_interrupts": null(),
        "updated_at": func.now(),
    }
