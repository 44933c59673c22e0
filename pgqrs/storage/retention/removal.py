"""The part of the statements that deletes workflows with all their rows, and the reasons to keep a workflow.

One statement locks the workflows, without the ones that another transaction has locked, and deletes them. A
resume locks the row too: it comes before the statement, which then keeps the workflow, or after it, and finds no
workflow. Steps of a stale run are refused by the missing row.

A child is deleted with its parent or after it, never before: a parent that is resumed reads the results of its
children again. So a child whose parent is there is kept, and a parent is kept while a child lives.

Messages have no index by their workflow; `sweep` deletes the messages of deleted workflows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from sqlalchemy import BigInteger, Boolean, and_, bindparam, case, delete, func, select, true
from sqlalchemy.orm import aliased
from sqlalchemy.sql import ColumnElement

from pgqrs.codecs.updates import REPLY, REQUEST
from pgqrs.models import Attributes, Event, Message, Rewind, SetAsideStep, Step, Text, Throttle, Wait, Workflow
from pgqrs.storage.queries.delivery import RECEIVED_KEPT
from pgqrs.storage.sql.expressions import ONE, interval, is_found, number_literal, pg, text_literal
from pgqrs.storage.sql.waits import all_of

Reasons: TypeAlias = Mapping[str, ColumnElement[bool]]
"""The conditions that keep a workflow, by the name of the reason."""

LIVE_CHILD = "have a child that has not ended"

LIVE_BATCH = "are submissions in a batch that has not ended"

THROTTLE = "are counted by the throttle of their unique value"

MAX_SWEPT = 5000
"""Messages that one statement of `sweep` considers."""

OF_WORKFLOW: tuple[tuple[Any, str], ...] = (
    (Step, "steps"),
    (Wait, "waits"),
    (Event, "events"),
    (Attributes, "attributes"),
    (Rewind, "rewinds"),
    (SetAsideStep, "set_aside_steps"),
)
"""The tables with rows of workflows that are deleted with them, by the id of the workflow."""


def reasons_to_keep(workflow: Any) -> Reasons:
    """Return the conditions that keep an ended workflow, apart from its parent."""
    child, batch = aliased(Workflow, name="live_child"), aliased(Workflow, name="live_batch")
    is_of_batch = and_(batch.id == workflow.batch_id, batch.id != workflow.id, batch.completed_at.is_(None))
    is_of_throttle = and_(
        Throttle.name == workflow.name,
        Throttle.unique_value == workflow.unique_value,
        Throttle.workflow_id == workflow.id,
    )
    return {
        LIVE_CHILD: is_found(
            select(ONE).where(child.parent_id == workflow.id, child.completed_at.is_(None)), child
        ),
        LIVE_BATCH: is_found(select(ONE).where(is_of_batch), batch),
        THROTTLE: is_found(select(ONE).where(is_of_throttle), Throttle),
    }


def has_unread_reply(workflow: Any) -> ColumnElement[bool]:
    """Return the condition that a workflow has sent a reply that its caller may not have read yet.

    The request of a reply is the outcome of a step.
    """
    request, reply = aliased(Step, name="request"), aliased(Message, name="reply")
    rest = pg.substr(request.address, number_literal(len(REQUEST) + 1), type_=Text())
    address = pg.concat(text_literal(REPLY), rest, type_=Text())
    is_young = select(ONE).where(reply.address == address, reply.taken_at > func.now() - interval(RECEIVED_KEPT))
    is_request = pg.starts_with(request.address, text_literal(REQUEST), type_=Boolean())
    answered = select(ONE).where(request.workflow_id == workflow.id, is_request, is_found(is_young, reply))
    return is_found(answered, request)


def without_parent(held: Any) -> Any:
    """Return the CTE of the rows of `held` whose parent is not there, or is among the returned rows."""
    parent = aliased(Workflow, name="parent")
    has_parent = is_found(select(ONE).where(parent.id == held.c.parent_id), parent)
    gone = select(held.c.id).where(held.c.parent_id.is_(None) | ~has_parent).cte("gone", recursive=True)
    further = select(held.c.id).join_from(held, gone, held.c.parent_id == gone.c.id)
    return gone.union(further)


def removal_of(gone: Any) -> tuple[Any, list[Any]]:
    """Return the CTE that deletes the workflows of the CTE `gone`, and those that delete their rows elsewhere."""
    ids = func.any(all_of(gone.c.id))
    deleted = delete(Workflow).where(Workflow.id == ids).returning(Workflow.id).cte("deleted")
    others = [
        delete(table).where(table.workflow_id == ids).returning(table.workflow_id).cte(f"deleted_{name}")
        for table, name in OF_WORKFLOW
    ]
    return deleted, others


def sweep() -> Any:
    """Return the statement that deletes messages of deleted workflows among the next messages `after` an id.

    It returns one row: `last`, the highest id that was considered, None at the end, and `deleted`.
    """
    begin = select(bindparam("after", type_=BigInteger()).label("cursor")).subquery("begin")
    seen = seen_messages(begin, number_literal(MAX_SWEPT))
    swept = delete_locked(seen, seen.c.is_lost)
    return select(
        select(pg.max(seen.c.id, type_=BigInteger())).scalar_subquery().label("last"),
        select(pg.count(swept.c.id, type_=BigInteger())).scalar_subquery().label("deleted"),
    )


def seen_messages(begin: Any, most: Any) -> Any:
    """Return the CTE of the first `most` messages behind the cursor of `begin`.

    `is_lost` says that the workflow of a message was deleted; it is null for an event of the schema.
    """
    owner = aliased(Workflow, name="owner")
    first = (
        select(Message.id, Message.workflow_id, Message.sent_at)
        .where(Message.id > begin.c.cursor)
        .order_by(Message.id)
        .limit(most)
        .correlate_except(Message)
        .lateral("first_messages")
    )
    is_lost = case(
        (first.c.workflow_id.is_not(None), ~is_found(select(ONE).where(owner.id == first.c.workflow_id), owner))
    )
    seen = select(first.c.id, first.c.sent_at, is_lost.label("is_lost")).select_from(begin.join(first, true()))
    return seen.cte("seen").prefix_with("MATERIALIZED")


def delete_locked(seen: Any, condition: ColumnElement[bool]) -> Any:
    """Return the CTE that deletes the messages of `seen` for which a condition is true, unless they are locked."""
    wanted = select(seen.c.id).where(condition).cte("wanted").prefix_with("MATERIALIZED")
    own = (
        select(Message.id)
        .where(Message.id == func.any(all_of(wanted.c.id)))
        .with_for_update(skip_locked=True)
        .cte("locked_messages")
        .prefix_with("MATERIALIZED")
    )
    return delete(Message).where(Message.id == func.any(all_of(own.c.id))).returning(Message.id).cte("swept")
