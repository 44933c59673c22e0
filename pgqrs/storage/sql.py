"""The words that the statements share: constants of their text, times from now, JSON out of text."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Double, Interval, Text, cast, extract, func, literal_column, select
from sqlalchemy.sql import ColumnElement
from sqlalchemy.types import TypeEngine

from pgqrs.models import Step, Workflow
from pgqrs.types import DEFAULT_QUEUE, StepStatus

DOUBLE: TypeEngine[Any] = Double()

ZERO: ColumnElement[int] = literal_column("0", BigInteger())

ONE: ColumnElement[int] = literal_column("1", BigInteger())

_SECOND: ColumnElement[Any] = literal_column("interval '1 second'", Interval())


def constant(value: str) -> ColumnElement[str]:
    """Return a constant of the statement's text: a bind would hide it from the planner."""
    return literal_column(f"'{value}'", Text())


def interval(seconds: float) -> ColumnElement[Any]:
    """Return a constant length of time."""
    return literal_column(f"interval '{seconds} second'", Interval())


def later(seconds: Any) -> ColumnElement[Any]:
    """Return the time so many seconds from now, NULL for NULL."""
    time: ColumnElement[Any] = func.now() + seconds * _SECOND
    return time


def earlier(seconds: Any) -> ColumnElement[Any]:
    """Return the time so many seconds ago, NULL for NULL."""
    time: ColumnElement[Any] = func.now() - seconds * _SECOND
    return time


def seconds_of(length: Any) -> ColumnElement[Any]:
    """Return an interval in seconds, NULL for NULL."""
    return cast(extract("epoch", length), DOUBLE)


def json_of(text: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a JSON text as a value of its column."""
    return cast(text, JSON())


def text_of(json: Any) -> ColumnElement[str]:
    """Return the text of a JSON column, as it was written."""
    return cast(json, Text())


def own_queue() -> ColumnElement[str]:
    """Return the queue that a workflow is claimed from, one that was never enqueued too."""
    return func.coalesce(Workflow.queue, constant(DEFAULT_QUEUE))


def has_progressed() -> ColumnElement[bool]:
    """Tell whether the workflow's newest run has recorded a step."""
    own = (Step.workflow_id == Workflow.id) & (Step.epoch == Workflow.epoch)
    recorded = select(ONE).where(own, Step.status != constant(StepStatus.RUNNING))
    # With a limit, or the planner would hash all steps: a plan made on empty tables is kept.
    return recorded.limit(ONE).correlate(Workflow).scalar_subquery().is_not(None)
