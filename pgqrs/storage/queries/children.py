"""The queries for the children of workflows: their ends, their results, and their cancellation."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    Integer,
    Numeric,
    and_,
    bindparam,
    case,
    cast,
    false,
    func,
    literal_column,
    null,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import aliased
from sqlalchemy.sql import ColumnElement

from pgqrs.codecs.messages import CHILDREN
from pgqrs.models import Message, Step, Text, Workflow
from pgqrs.storage.sql.expressions import (
    COUNT,
    ONE,
    ZERO,
    is_found,
    number_literal,
    pg,
    size_of,
    text_literal,
    text_of,
)
from pgqrs.storage.sql.sagas import handed_to_worker, has_saga, is_undecided
from pgqrs.storage.sql.waits import all_of, drop_waits
from pgqrs.types import SagaState, WorkflowStatus

ENDED_PARENT = "x/"
"""The beginning of the address of the message that a parent leaves at its end."""

AS_COMPLETED = "as_completed/:"
"""The part before the number in the id of a step of `as_completed`."""

MAX_CANCELLED = 2000
"""Maximum children that one statement cancels; the next statement handles the rest."""

MAX_PARENTS = 100
"""Maximum ended parents whose children one statement cancels."""

PAGE_BYTES = 4 * 1024 * 1024
"""Estimated bytes of results of children after which one statement reads no further result."""

_SLASH = text_literal("/")
_SECOND = literal_column("2", Integer())
_AFTER_PARENT = literal_column("4", Integer())
"""Characters up to the step in the address of children: two of the kind, one between, and counted from 1."""


def is_of_children(address: Any) -> ColumnElement[bool]:
    """Return the condition that an address is one of children."""
    return pg.starts_with(address, text_literal(CHILDREN), type_=Boolean())


def has_live_child(address: Any) -> ColumnElement[bool]:
    """Return the condition that one of the children of an address has not ended."""
    child = aliased(Workflow, name="live_child")
    return is_found(select(ONE).where(*_are_of(child, address), child.completed_at.is_(None)), child)


def live_children(address: Any) -> Any:
    """Return the query for the ids of the children of an address that have not ended."""
    child = aliased(Workflow, name="live_child")
    return select(child.id).where(*_are_of(child, address), child.completed_at.is_(None)).correlate_except(child)


def children_ended(address: Any) -> Any:
    """Return the query for the record of the ends of all children of an address; no row while one of them lives.

    For one child the record is ``{"id", "status", "value"}``, whose value is its output or its error. For several
    it is ``{"failed"}``, the places of the children that have not succeeded.
    """
    child = aliased(Workflow, name="child")
    value = func.coalesce(text_of(child.output), text_of(child.error), text_literal("null"))
    single = pg.concat(
        text_literal('{"id":'),
        pg.min(child.id),
        text_literal(',"status":"'),
        pg.min(child.status),
        text_literal('","value":'),
        # A filter: the values of several children are not read.
        pg.min(value).filter(child.place == ZERO),
        text_literal("}"),
        type_=Text(),
    )
    failed = pg.json_agg(aggregate_order_by(child.place, child.place), type_=Text()).filter(
        child.status != text_literal(WorkflowStatus.SUCCESS)
    )
    several = pg.concat(
        text_literal('{"failed":'),
        func.coalesce(failed, cast(text_literal("[]"), JSON())),
        text_literal("}"),
        type_=Text(),
    )
    record = case((COUNT == ONE, single), else_=several)
    return (
        select(cast(record, JSON()).label("payload"))
        .where(is_of_children(address), *_are_of(child, address), ~has_live_child(address))
        .having(number_literal(0) < COUNT)
    )


def is_failed_wait() -> ColumnElement[bool]:
    """Return the condition that the outcome of a step is the end of children of which one has not succeeded.

    The outcomes of `as_completed` do not count: they record the order of the ends, and the results are those of
    other steps.
    """
    status = pg.json_extract_path_text(Step.output, text_literal("status"), type_=Text())
    failed = pg.json_extract_path_text(Step.output, text_literal("failed"), type_=Text())
    has_failed = (status != text_literal(WorkflowStatus.SUCCESS)) | (failed != text_literal("[]"))
    is_order = pg.strpos(Step.step_id, text_literal(AS_COMPLETED), type_=Integer()) > literal_column(
        "0", Integer()
    )
    # CASE: other outcomes may be of any form.
    return case((is_of_children(Step.address) & ~is_order, has_failed), else_=false())


def _are_of(child: Any, address: Any) -> list[ColumnElement[bool]]:
    # CASE: the conversion to a number must not be tried for another address.
    parent = case(
        (is_of_children(address), cast(pg.split_part(address, _SLASH, _SECOND, type_=Text()), BigInteger()))
    )
    start = cast(pg.length(pg.split_part(address, _SLASH, _SECOND, type_=Text()), type_=Integer()), Integer())
    step = pg.substr(address, start + _AFTER_PARENT, type_=Text())
    named = pg.replace(
        pg.replace(step, text_literal("%0A"), text_literal("\n")),
        text_literal("%25"),
        text_literal("%"),
        type_=Text(),
    )
    return [child.parent_id == parent, child.parent_step == named]


def cancel_children() -> Any:
    """Return the statement that cancels the children of ended parents, and asks the executors of those that run.

    A child whose sagas are to be undone is handed to a worker.

    A parent that was resumed since its end keeps its children.
    It returns one row: `cancelled`, the number of children, and `left`, the number of parents that may have more.
    The arrays `names` and `queues` have an element for each child that has ended by it.
    """
    parents: Any = (
        select(Message.id, Message.workflow_id)
        .where(Message.is_new, pg.starts_with(Message.address, text_literal(ENDED_PARENT), type_=Boolean()))
        .order_by(Message.id)
        .limit(number_literal(MAX_PARENTS))
        .cte("parents")
        .prefix_with("MATERIALIZED")
    )
    child = aliased(Workflow, name="child")
    # A lateral look-up, without an order: a plan in the order of the ids would walk all workflows.
    found = (
        select(child.id, child.status, child.saga_state)
        .where(_is_to_end(child, parents.c.workflow_id))
        .limit(number_literal(MAX_CANCELLED))
        .with_for_update(key_share=True, skip_locked=True, of=child)
        .lateral("found")
    )
    held: Any = (
        select(found.c.id, found.c.status, found.c.saga_state)
        .join_from(parents, found, true())
        .limit(number_literal(MAX_CANCELLED))
        .cte("held")
        .prefix_with("MATERIALIZED")
    )
    handed, asked, cancelled = cancel_held(held)
    left = select(ONE).where(_is_to_end(child, Message.workflow_id))
    done = (
        update(Message)
        .where(Message.id == func.any(all_of(parents.c.id)))
        .where(~is_found(left, child))
        .values(is_new=false(), taken_at=func.now())
        .returning(Message.id)
        .cte("done")
    )
    return select(
        (_count(cancelled) + _count(asked) + _count(handed)).label("cancelled"),
        (_count(parents) - _count(done)).label("left"),
        _texts(cancelled.c.name).label("names"),
        _texts(cancelled.c.queue).label("queues"),
    ).add_cte(drop_waits(cancelled.c.id).cte("dropped"), drop_waits(handed.c.id).cte("also_dropped"))


def cancel_held(held: Any) -> tuple[Any, Any, Any]:
    """Return the CTEs that cancel workflows, ask their executors, and hand them to a worker that undoes sagas.

    `held` is the CTE of the locked workflows, with their ids, their statuses and the states of their sagas. The
    CTEs are those that are handed to a worker, the running ones, and those that are cancelled at once.
    """
    running: Any = select(held.c.id).where(held.c.status == text_literal(WorkflowStatus.RUNNING)).cte("running")
    is_queued = held.c.status != text_literal(WorkflowStatus.RUNNING)
    queued: Any = select(held.c.id).where(is_queued, ~has_saga(held.c)).cte("queued")
    unwinding: Any = select(held.c.id).where(is_queued, has_saga(held.c)).cte("unwinding")
    handed = (
        update(Workflow)
        .where(Workflow.id == func.any(all_of(unwinding.c.id)))
        .values(**handed_to_worker(SagaState.CANCELLED))
        .returning(Workflow.id)
        .cte("handed")
    )
    asked = (
        update(Workflow)
        .where(Workflow.id == func.any(all_of(running.c.id)))
        .values(cancel_interrupts=false())
        .returning(Workflow.id)
        .cte("asked")
    )
    cancelled = (
        update(Workflow)
        .where(Workflow.id == func.any(all_of(queued.c.id)))
        .values(
            status=text_literal(WorkflowStatus.CANCELLED),
            ready_at=null(),
            due_at=null(),
            deadline=null(),
            cancel_interrupts=null(),
            completed_at=func.now(),
            updated_at=func.now(),
        )
        .returning(Workflow.id, Workflow.name, Workflow.queue)
        .cte("cancelled")
    )
    return handed, asked, cancelled


def _texts(texts: Any) -> ColumnElement[Any]:
    """Return a column of a CTE as an array, NULL for no row."""
    return select(pg.array_agg(texts, type_=ARRAY(Text()))).scalar_subquery()


def _is_to_end(child: Any, parent_id: Any) -> ColumnElement[bool]:
    """Return the condition that a row is a child to cancel, or to ask, because its parent has ended."""
    parent = aliased(Workflow, name="parent")
    lives = select(ONE).where(parent.id == parent_id, parent.completed_at.is_(None))
    return and_(
        child.parent_id == parent_id,
        ~is_found(lives, parent),
        child.completed_at.is_(None),
        child.ends_with_parent,
        (child.status != text_literal(WorkflowStatus.RUNNING)) | child.cancel_interrupts.is_(None),
        ~has_saga(child) | is_undecided(child),
    )


@cache
def child_results() -> Any:
    """Return the query for the children that a step has started, from the place `first` on, by place.

    It ends after `PAGE_BYTES` of outputs and errors, and has one child at least.
    """
    size = cast(func.coalesce(size_of(Workflow.output), size_of(Workflow.error), ZERO), BigInteger())
    page = (
        select(Workflow.place, Workflow.id, Workflow.status, Workflow.output, Workflow.error, size.label("size"))
        .where(
            Workflow.parent_id == bindparam("parent", type_=BigInteger()),
            Workflow.parent_step == bindparam("step", type_=Text()),
            Workflow.place >= bindparam("first", type_=BigInteger()),
        )
        .order_by(Workflow.place)
        .limit(bindparam("count", type_=BigInteger()))
        .subquery("page")
    )
    total = cast(pg.sum(page.c.size, type_=Numeric()).over(order_by=page.c.place), BigInteger())
    sized = select(page, (total - page.c.size).label("before")).subquery("sized")
    # The texts are made of the rows of the page alone.
    texts = text_of(sized.c.output).label("output"), text_of(sized.c.error).label("error")
    return (
        select(sized.c.place, sized.c.id, sized.c.status, *texts)
        .where(sized.c.before < number_literal(PAGE_BYTES))
        .order_by(sized.c.place)
    )


def child_of() -> Any:
    """Return the query for the id and the token of the only child of a `step` of a `parent`."""
    return select(Workflow.id, Workflow.token).where(
        Workflow.parent_id == bindparam("parent", type_=BigInteger()),
        Workflow.parent_step == bindparam("step", type_=Text()),
        Workflow.place == ZERO,
    )


def _count(rows: Any) -> Any:
    return select(COUNT).select_from(rows).scalar_subquery()
