"""The workflows that hold a slot of their queue from their first start until their end.

The claim of a queue whose `holds` is UNTIL_END writes the slot of each workflow. A workflow that is ready and has
a slot is claimed before the others, and needs no room: it counts already.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ARRAY, BigInteger, bindparam, case, false, func, select, true
from sqlalchemy.sql import ColumnElement

from pgqrs.models import Text, Workflow
from pgqrs.storage.limits.order import is_ordered, next_in
from pgqrs.storage.queries.claims import is_ready, served_names
from pgqrs.storage.sql.expressions import number_literal, own, pg, size_of, text_literal
from pgqrs.types import Holds

RUNNING: Holds = "running"

UNTIL_END: Holds = "until_end"

SLACK = 16
"""Workflows that a claim considers in addition, because another transaction may have locked some."""


def holds_until_end(queue: Any) -> ColumnElement[bool]:
    """Return the condition that the workflows of a queue, whose settings these are, hold slots until their end."""
    condition: ColumnElement[bool] = queue.c.holds == text_literal(UNTIL_END)
    return condition


def slot_of() -> ColumnElement[str]:
    """Return the slot of a workflow: its partition key, empty without one."""
    slot: ColumnElement[str] = func.coalesce(Workflow.partition_key, text_literal(""))
    return slot


def slot_after(locked: Any) -> ColumnElement[Any]:
    """Return the slot of a claimed workflow, whose row in `locked` says whether it holds one."""
    return case((locked.c.holds, slot_of()), else_=Workflow.slot)


def in_use(queue: Any, *key: ColumnElement[Any]) -> ColumnElement[int]:
    """Return the number of workflows of a queue that count for its limits, or for those of a partition key.

    They are counted once the queue is locked; `queue` has the settings of the queue.
    """
    given = bindparam("queue", type_=Text()), *key
    until_end = own.pgqrs_holding(*given, type_=BigInteger())
    return case((holds_until_end(queue), until_end), else_=own.pgqrs_running(*given, type_=BigInteger()))


def is_no_holder(queue: Any) -> ColumnElement[bool]:
    """Return the condition that a workflow needs a slot to start."""
    return ~holds_until_end(queue) | Workflow.slot.is_(None)


def locked_holders(held: Any) -> Any:
    """Return the query that locks the ready holders of the queue, with their sizes, the first ready one first.

    `held` has the row of the queue once the queue is locked. The inputs before the last holder have less than
    `budget` bytes together.
    """
    limit = bindparam("limit", type_=BigInteger())
    first = _ready_holders(held, limit + number_literal(SLACK))
    order = (first.c.ready_at, first.c.id)
    before = pg.sum(first.c.size).over(order_by=order, rows=(None, 0)) - first.c.size
    counted = select(first.c.id, first.c.slot, first.c.ready_at, first.c.size, before.label("before"))
    affordable = counted.select_from(held.join(first, true())).subquery("affordable")
    workflow: Any = Workflow.__table__.alias("holder")
    # The condition is on the row's own column, which PostgreSQL checks again once the row is locked.
    return (
        select(
            workflow.c.id,
            affordable.c.slot.label("lane"),
            false().label("is_counted"),
            true().label("holds"),
            affordable.c.size,
        )
        .select_from(affordable.join(workflow, workflow.c.id == affordable.c.id))
        .where(affordable.c.before < bindparam("budget", type_=BigInteger()), workflow.c.ready_at.is_not(None))
        .order_by(affordable.c.ready_at, affordable.c.id)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True, of=workflow)
    )


def _ready_holders(held: Any, most: Any) -> Any:
    """Return the ready workflows that hold slots, with a look-up for each name."""
    names = served_names()
    of_name = (
        select(Workflow.id, Workflow.slot, Workflow.ready_at, size_of(Workflow.input).label("size"))
        .where(Workflow.queue == bindparam("queue", type_=Text()), Workflow.name == names.c.name, *is_ready())
        .where(Workflow.id != func.all(bindparam("avoid", type_=ARRAY(BigInteger()))))
        .where(Workflow.slot.is_not(None), holds_until_end(held))
        .where(~is_ordered(held) | (Workflow.id == next_in(Workflow.slot.expression)))
        .order_by(Workflow.ready_at)
        .limit(most)
        .correlate_except(Workflow)
        .lateral("holders_of_name")
    )
    return (
        select(of_name.c.id, of_name.c.slot, of_name.c.ready_at, of_name.c.size)
        .select_from(names.join(of_name, true()))
        .order_by(of_name.c.ready_at, of_name.c.id)
        .limit(most)
        .lateral("first_holders")
    )
