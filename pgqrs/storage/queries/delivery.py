"""The delivery of messages to parked workflows.

A message is an insert, and takes no lock on its receiver. A workflow that parks leaves its waits. Each of the two
is `is_new` until a search has seen it and no partner in one snapshot. So of a message and a wait, the one that is
committed last is still new for a search whose snapshot has the other, and no message is overlooked.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ARRAY,
    Boolean,
    and_,
    bindparam,
    case,
    column,
    delete,
    exists,
    func,
    literal_column,
    not_,
    null,
    outerjoin,
    select,
    true,
    union,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased
from sqlalchemy.sql import ColumnElement

from pgqrs.codecs.messages import EVENT
from pgqrs.models import Message, Step, Text, Wait, Workflow
from pgqrs.storage.queries.children import ENDED_PARENT, children_ended, has_live_child, is_of_children
from pgqrs.storage.sql.expressions import COUNT, ONE, interval, is_found, number_literal, pg, text_literal, unnest
from pgqrs.storage.sql.waits import all_of, drop_waits
from pgqrs.types import StepStatus, WorkflowStatus

MAX_SEEN = 2000
"""Maximum new messages, and new waits, that one search considers; the next search handles the rest."""

RECEIVED_KEPT = 3600.0
"""Seconds for which a received message is kept: a sender that lost its answer may send the message again."""

MAX_DELETED = 10_000
"""Maximum received messages that one statement deletes."""

_FALSE: ColumnElement[bool] = literal_column("false")


def deliver() -> Any:
    """Return the statement that gives parked workflows the messages for which they wait.

    The oldest message becomes the outcome of the step that waits for it, and its workflow is ready. One row is
    returned:

    * `woken`: the number of workflows, `lowest`, the lowest id among them, and `queues`, their queues;
    * `seen`: the number of new messages or of new waits that were considered, the greater one;
    * `has_ended_parents`: true if `children.cancel_children` has something to do.
    """
    is_of_parent = pg.starts_with(Message.address, text_literal(ENDED_PARENT), type_=Boolean())
    messages: Any = (
        select(Message.id, Message.address)
        .where(Message.is_new, not_(is_of_parent))
        .order_by(Message.id)
        .limit(_most())
        .cte("messages")
        .prefix_with("MATERIALIZED")
    )
    waits: Any = select(Wait.workflow_id, Wait.step_id, Wait.address).where(Wait.is_new).limit(_most())
    waits = waits.cte("waits").prefix_with("MATERIALIZED")
    pairs = _pairs(messages, waits)
    held: Any = _locked(
        pairs,
        select(Workflow.epoch).where(
            Workflow.id == pairs.c.workflow_id,
            Workflow.status == text_literal(WorkflowStatus.WAITING),
            Workflow.claim == pairs.c.claim,
        ),
        Workflow,
        "epoch",
    ).cte("held")
    recorded = _record_answers(held).cte("recorded")
    answered: Any = (
        select(held.c.workflow_id.label("id"), held.c.message, held.c.address)
        .join_from(held, recorded, recorded.c.workflow_id == held.c.workflow_id)
        .cte("answered")
    )
    woken: Any = (
        update(Workflow)
        .where(Workflow.id == answered.c.id)
        .values(
            status=text_literal(WorkflowStatus.PENDING),
            ready_at=func.now(),
            due_at=null(),
            updated_at=func.now(),
        )
        .returning(Workflow.id, Workflow.queue)
        .cte("woken")
    )
    further = [
        drop_waits(answered.c.id).cte("dropped"),
        take(answered.c.message).cte("taken"),
        delete_of_children(answered.c.address).cte("deleted"),
        *_mark_messages_seen(messages),
        _mark_waits_seen(waits, pairs).cte("seen_waits"),
    ]
    seen = func.greatest(_count(messages), _count(waits))
    return select(
        _count(woken).label("woken"),
        select(pg.min(woken.c.id)).scalar_subquery().label("lowest"),
        select(pg.array_agg(woken.c.queue.distinct(), type_=ARRAY(Text()))).scalar_subquery().label("queues"),
        seen.label("seen"),
        exists().where(Message.is_new, is_of_parent).label("has_ended_parents"),
    ).add_cte(*further)


def _record_answers(held: Any) -> Any:
    """Return the statement that makes messages the outcomes of the steps that wait.

    An insert with a conflict always finds the row by its key; an update with a join may read the whole table.
    """
    values: dict[str, Any] = {
        "workflow_id": held.c.workflow_id,
        "step_id": held.c.step_id,
        "status": text_literal(StepStatus.SUCCESS),
        "epoch": held.c.epoch,
        "started_at": func.now(),
        "completed_at": func.now(),
        "output": held.c.payload,
        "address": held.c.address,
    }
    statement = insert(Step).from_select(list(values), select(*values.values()), include_defaults=False)
    replaced = {key: statement.excluded[key] for key in ("status", "completed_at", "output", "address")}
    return statement.on_conflict_do_update(
        index_elements=[Step.workflow_id, Step.step_id],
        set_=replaced | {"error": null(), "retry_at": null()},
        where=Step.status == text_literal(StepStatus.RUNNING),
    ).returning(Step.workflow_id)


def _pairs(messages: Any, waits: Any) -> Any:
    """Return the oldest answer for each workflow that waits for a new message, or has a new wait."""
    # Of a new wait only its own workflow: any number of workflows may wait for the same event.
    addressed = select(Wait.workflow_id).join_from(messages, Wait, Wait.address == messages.c.address)
    candidates = union(addressed.limit(_most()).subquery("addressed").select(), select(waits.c.workflow_id))
    workflows = candidates.limit(_most()).subquery("workflows")
    wait = aliased(Wait, name="wait")
    oldest, ended, payload = answers(wait.address)
    first = (
        select(wait.step_id, wait.address, wait.claim, oldest.c.id.label("message"), payload.label("payload"))
        .select_from(outerjoin(outerjoin(wait, oldest, true()), ended, true()))
        .where(wait.workflow_id == workflows.c.workflow_id, payload.is_not(None))
        .order_by(oldest.c.id, wait.step_id)
        .limit(ONE)
        .lateral("first")
    )
    found = select(workflows.c.workflow_id, *first.c).join_from(workflows, first, true())
    return found.cte("pairs").prefix_with("MATERIALIZED")


def answers(address: Any) -> tuple[Any, Any, ColumnElement[Any]]:
    """Return the two sources that may answer an address, to join laterally, and the payload of the one that does.

    They are the oldest message that was not taken, and for an address of children the record of their ends.
    """
    oldest = (
        select(Message.id, Message.payload)
        .where(Message.address == address, Message.taken_at.is_(None), not_(is_of_children(address)))
        .order_by(Message.id)
        .limit(ONE)
        .lateral("oldest")
    )
    ended = children_ended(address).lateral("ended")
    return oldest, ended, func.coalesce(oldest.c.payload, ended.c.payload)


def _is_answered(address: Any) -> ColumnElement[bool]:
    """Return the condition that one of the sources of `answers` answers an address."""
    message = aliased(Message, name="unread")
    unread = is_found(select(ONE).where(message.address == address, message.taken_at.is_(None)), message)
    return case((is_of_children(address), not_(has_live_child(address))), else_=unread)


def delete_of_children(address: Any) -> Any:
    """Return the statement that deletes the messages of children whose ends were recorded."""
    return delete(Message).where(Message.address == address, is_of_children(address))


def take(message_ids: Any) -> Any:
    """Return the statement that marks messages as taken, unless they are events."""
    return (
        update(Message)
        .where(Message.id == message_ids, not_(_is_event(Message.address)))
        .values(taken_at=func.now(), is_new=_FALSE)
    )


def _is_event(address: Any) -> ColumnElement[bool]:
    return pg.starts_with(address, text_literal(EVENT), type_=Boolean())


def unread() -> Any:
    """Return the query for the addresses, among `addresses`, that have a message, or whose children have ended."""
    asked = unnest(bindparam("addresses", type_=ARRAY(Text()))).table_valued(column("address", Text()))
    given = asked.render_derived(name="given")
    return select(given.c.address).where(_is_answered(given.c.address))


def has_new() -> ColumnElement[bool]:
    """Return the condition that a message or a wait is new."""
    return exists().where(Message.is_new) | exists().where(Wait.is_new)


def delete_received() -> Any:
    """Return the statement that deletes messages which were received `RECEIVED_KEPT` seconds ago."""
    old = (
        select(Message.id)
        .where(Message.taken_at < func.now() - interval(RECEIVED_KEPT), not_(Message.is_kept))
        .order_by(Message.taken_at)
        .limit(number_literal(MAX_DELETED))
        .with_for_update(skip_locked=True)
        .cte("old")
    )
    return delete(Message).where(Message.id == old.c.id).returning(Message.id)


def _mark_messages_seen(messages: Any) -> tuple[Any, Any]:
    """Return the update of the new messages for which no workflow waits, and the deletion of those of children.

    The message of a child that has siblings is seen, too: the last one to end leaves a new message. Nothing reads
    it later, because a parent reads the rows of its children.
    """
    of_children = is_of_children(Message.address)
    # Each address is looked at once: the index may still have its children that ended just now, perhaps thousands.
    addresses = select(messages.c.address).where(is_of_children(messages.c.address)).distinct().subquery()
    live: Any = select(addresses.c.address).where(has_live_child(addresses.c.address)).cte("live")
    live = live.prefix_with("MATERIALIZED")
    wait = aliased(Wait, name="wait")
    has_wait = is_found(select(ONE).where(wait.address == Message.address), wait)
    is_seen = ~has_wait | Message.address.in_(select(live.c.address))
    own = select(Message.id).where(Message.id == messages.c.id, Message.is_new, is_seen)
    unclaimed = _locked(messages, own, Message).cte("without_wait")
    # An array: as a join, a plan of an empty table would scan all messages for each of these.
    found = Message.id == func.any(all_of(unclaimed.c.id))
    seen = update(Message).where(found, not_(of_children)).values(is_new=_FALSE)
    deleted = delete(Message).where(found, of_children)
    return seen.cte("seen_messages"), deleted.cte("seen_children")


def _mark_waits_seen(waits: Any, pairs: Any) -> Any:
    """Return the update of the new waits without a message, of workflows that no message may wake now."""
    key = (Wait.workflow_id, Wait.step_id, Wait.address)
    own = [each == waits.c[each.key] for each in key]
    is_paired = exists().where(pairs.c.workflow_id == Wait.workflow_id)
    left = _locked(
        waits, select(*key).where(and_(*own), Wait.is_new, not_(_is_answered(Wait.address)), ~is_paired), Wait
    )
    left = left.cte("without_message")
    return update(Wait).where(*(each == left.c[each.key] for each in key)).values(is_new=_FALSE)


def _locked(rows: Any, found: Any, table: Any, *columns: str) -> Any:
    """Return the query for the rows whose row of a table is `found`, and is locked unless another session has it.

    The query has the `columns` of that row, too.

    The lateral look-up keeps the planner from a scan of the whole table, whatever it held at the planning.
    """
    own = found.with_for_update(key_share=table is Workflow, skip_locked=True, of=table).lateral("found")
    return select(*rows.c, *(own.c[each] for each in columns)).join_from(rows, own, true())


def _most() -> ColumnElement[int]:
    return number_literal(MAX_SEEN)


def _count(rows: Any) -> Any:
    return select(COUNT).select_from(rows).scalar_subquery()
