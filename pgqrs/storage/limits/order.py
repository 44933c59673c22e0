"""The workflow of a partition key that is next in an ordered queue, and the claim of that workflow.

A function of the schema finds it once the queue is locked, by one look-up in an index that has the live workflows
in their order, so neither a workflow that another claim has taken nor the length of the queue matters.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ARRAY, BigInteger, bindparam, case, func, select
from sqlalchemy.sql import ColumnElement

from pgqrs.models import Text, Workflow
from pgqrs.storage.queries.claims import is_ready
from pgqrs.storage.sql.expressions import ONE, ZERO, own, size_of


def is_ordered(queue: Any) -> ColumnElement[bool]:
    """Return the condition that a queue, whose settings these are, keeps the order of each partition key."""
    condition: ColumnElement[bool] = queue.c.ordered_at.is_not(None)
    return condition


def next_in(key: Any) -> ColumnElement[int]:
    """Return the id of the only workflow of a partition key that may run, NULL if there is none."""
    following: ColumnElement[int] = own.pgqrs_next(bindparam("queue", type_=Text()), key, type_=BigInteger())
    return following


def next_if_ordered(queue: Any, key: Any, is_key: ColumnElement[bool]) -> ColumnElement[Any]:
    """Return the id of the next workflow of a partition key, 0 without one; NULL in a queue without an order."""
    return case((is_ordered(queue) & is_key, func.coalesce(next_in(key), ZERO)))


def ready_by_id(workflow_id: ColumnElement[int], *conditions: ColumnElement[bool]) -> Any:
    """Return the query for one workflow, unless it is not ready; its priority counts for nothing."""
    # No condition on the queue: an index of the ready workflows could then be read as a whole.
    return (
        select(
            Workflow.id,
            ZERO.label("priority"),
            size_of(Workflow.input).label("size"),
            Workflow.started_at.is_(None).label("is_new"),
        )
        .where(Workflow.id == workflow_id, Workflow.name == func.any(bindparam("names", type_=ARRAY(Text()))))
        .where(Workflow.id != func.all(bindparam("avoid", type_=ARRAY(BigInteger()))), *is_ready(), *conditions)
        .limit(ONE)
        .correlate_except(Workflow)
    )
