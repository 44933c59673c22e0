"""The statements of workers: claim what is ready, wake what is due, take over what the dead left.

Every look-up goes by a partial index that holds live workflows alone, so it costs the same however many have
ended. Rows that somebody else has locked are skipped: they are looked at again a moment later.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    DateTime,
    Uuid,
    bindparam,
    case,
    column,
    exists,
    func,
    literal_column,
    null,
    select,
    true,
    union,
    update,
)
from sqlalchemy.sql import ColumnElement

from pgqrs.models import Executor, Text, Workflow
from pgqrs.storage import executors
from pgqrs.storage.sql import (
    COUNT,
    ONE,
    ZERO,
    constant,
    has_progressed,
    interval,
    json_of,
    later,
    own_queue,
    pg,
    seconds_of,
    text_of,
    unnest,
)
from pgqrs.types import WorkflowStatus

MOST_AT_ONCE = 2000
"""The most workflows that one look wakes, takes over or ends; what is left is dealt with at the next."""

LATENESS = 1.0
"""How long, in seconds, after its deadline a running workflow is left to its executor, which is gentler."""


def claim() -> Any:
    """Return the statement that claims up to `limit` ready workflows for an executor, by priority, then by age.

    A look-up for each pair of a queue and a name, so workflows of other names in between cost nothing.
    """
    limit = bindparam("limit", type_=BigInteger())
    pairs = _pairs()
    ready = (
        select(Workflow.id, Workflow.priority)
        .where(*_is_for(pairs))
        .order_by(Workflow.priority.desc(), Workflow.id)
        .limit(limit)
        .with_for_update(key_share=True, skip_locked=True)
        .lateral("ready")
    )
    first: Any = (
        select(ready.c.id)
        .select_from(pairs.join(ready, true()))
        .order_by(ready.c.priority.desc(), ready.c.id)
        .limit(limit)
        .cte("first_ready")
        .prefix_with("MATERIALIZED")  # run once, or it would lock more than it returns
    )
    return (
        update(Workflow)
        .where(Workflow.id == first.c.id)
        .values(
            status=constant(WorkflowStatus.RUNNING),
            epoch=Workflow.epoch + ONE,
            claim=bindparam("token", type_=Uuid()),
            executor=bindparam("executor", type_=Uuid()),
            attempts=Workflow.attempts + ONE,
            ready_at=null(),
            error=null(),
            deadline=func.coalesce(Workflow.deadline, later(Workflow.timeout)),
            started_at=func.coalesce(Workflow.started_at, func.now()),
            completed_at=null(),
            updated_at=func.now(),
        )
        .returning(*_claimed())
    )


def claimed() -> Any:
    """Return the query for what a claim took whose answer was lost: the token tells."""
    own = Workflow.executor == bindparam("executor", type_=Uuid())
    taken = Workflow.claim == bindparam("token", type_=Uuid())
    running = Workflow.status == constant(WorkflowStatus.RUNNING)
    return select(*_claimed()).where(own, taken, running)


def tick() -> Any:
    """Return the statement that wakes what is due and takes over the runs of dead executors.

    It answers with one row: whether one of the queues has something ready, how many workflows were woken and
    taken over, the ids of those whose deadline has passed, how many executors are suspected, and the seconds
    until the next timer or deadline.
    """
    suspects = executors.suspect().cte("suspects")
    woken = _woken().cte("woken")
    recovered = _recovered().cte("recovered")
    suspected = select(COUNT).select_from(Executor).where(executors.is_suspected())
    return select(
        _is_ready().label("ready"),
        _count(woken).label("woken"),
        _count(recovered).label("recovered"),
        select(pg.array_agg(_expired().c.id)).scalar_subquery().label("expired"),
        (_count(suspects) + suspected.scalar_subquery()).label("suspects"),
        func.least(_until(Workflow.due_at), _until(Workflow.deadline)).label("next_due"),
    )


def time_out() -> Any:
    """Return the statement that ends workflows whose deadline has passed, each with an error of its own."""
    rows = (
        unnest(bindparam("ids", type_=ARRAY(BigInteger())), bindparam("errors", type_=ARRAY(Text())))
        .table_valued(column("id", BigInteger()), column("error", Text()))
        .render_derived(name="timed_out")
    )
    held = (
        select(Workflow.id, rows.c.error)
        .join_from(rows, Workflow, Workflow.id == rows.c.id)
        .where(Workflow.deadline < func.now())
        .order_by(Workflow.id)
        .with_for_update(key_share=True, skip_locked=True, of=Workflow)
        .cte("held")
    )
    return (
        update(Workflow)
        .where(Workflow.id == held.c.id)
        .values(
            status=constant(WorkflowStatus.ERROR),
            error=json_of(held.c.error),
            epoch=Workflow.epoch + ONE,
            **_unheld(),
            deadline=null(),
            cancel_interrupts=null(),
            completed_at=func.now(),
            updated_at=func.now(),
        )
        .returning(Workflow.id)
    )


def timeouts() -> Any:
    """Return the query for how long workflows were given, in seconds, as far as is known."""
    given = func.coalesce(Workflow.timeout, seconds_of(Workflow.deadline - Workflow.started_at))
    asked = bindparam("ids", type_=ARRAY(BigInteger()))
    return select(Workflow.id, given).where(Workflow.id == func.any(asked))


def _claimed() -> list[ColumnElement[Any]]:
    """Return the columns of `ClaimedRun`, and after them the priority and the server's time."""
    columns: Any = (
        Workflow.id,
        Workflow.name,
        Workflow.epoch,
        text_of(Workflow.input),
        Workflow.attempts,
        seconds_of(Workflow.deadline - func.now()),
        Workflow.priority,
        pg.clock_timestamp(type_=DateTime(timezone=True)).label("told"),
    )
    return list(columns)


def _pairs() -> Any:
    queues = unnest(bindparam("queues", type_=ARRAY(Text()))).table_valued(column("queue", Text()))
    names = unnest(bindparam("names", type_=ARRAY(Text()))).table_valued(column("name", Text()))
    queue, name = queues.render_derived(name="queues"), names.render_derived(name="names")
    return select(queue.c.queue, name.c.name).select_from(queue.join(name, true())).subquery("pairs")


def _is_for(pairs: Any) -> list[ColumnElement[bool]]:
    """Return the conditions on a workflow that is ready for a worker: its queue, its name, and its codec."""
    return [
        Workflow.queue == pairs.c.queue,
        Workflow.name == pairs.c.name,
        Workflow.ready_at.is_not(None),
        Workflow.codec.is_not_distinct_from(bindparam("codec", type_=Text())),
    ]


def _is_ready() -> ColumnElement[bool]:
    pairs = _pairs()
    one = select(ONE.label("one")).where(*_is_for(pairs)).limit(ONE).lateral("one_ready")
    return exists(select(ONE).select_from(pairs.join(one, true())))


def _woken() -> Any:
    due = (
        select(Workflow.id)
        .where(Workflow.due_at <= func.now())
        .order_by(Workflow.due_at)
        .limit(_most())
        .with_for_update(key_share=True, skip_locked=True)
        .cte("due")
    )
    return (
        update(Workflow)
        .where(Workflow.id == due.c.id)
        .values(
            status=constant(WorkflowStatus.PENDING), ready_at=Workflow.due_at, due_at=null(), updated_at=func.now()
        )
        .returning(Workflow.id)
    )


def _recovered() -> Any:
    unknown = (
        select(Workflow.executor)
        .where(bindparam("unknown_too", type_=Boolean()), Workflow.executor.is_not(None))
        .where(~exists().where(Executor.id == Workflow.executor))
    )
    dead = union(
        select(Executor.id.label("id")).where(executors.is_dead()),
        select(executors.abandoned().label("id")),
        unknown,
    ).subquery("dead")
    lost = (
        select(Workflow.id)
        .join_from(dead, Workflow, Workflow.executor == dead.c.id)
        .limit(_most())
        .with_for_update(key_share=True, skip_locked=True, of=Workflow)
        .cte("lost")
    )
    cancelled = Workflow.cancel_interrupts.is_not(None)
    return (
        update(Workflow)
        .where(Workflow.id == lost.c.id)
        .values(
            epoch=Workflow.epoch + ONE,
            executor=null(),
            due_at=null(),
            queue=own_queue(),
            status=case((cancelled, constant(WorkflowStatus.CANCELLED)), else_=constant(WorkflowStatus.PENDING)),
            ready_at=case((~cancelled, func.now())),
            deadline=case((~cancelled, Workflow.deadline)),
            completed_at=case((cancelled, func.now())),
            cancel_interrupts=null(),
            attempts=case((has_progressed(), ZERO), else_=Workflow.attempts),
            updated_at=func.now(),
        )
        .returning(Workflow.id)
    )


def _expired() -> Any:
    late = func.now() - interval(LATENESS)
    passed = case((Workflow.executor.is_(None), func.now()), else_=late)
    # The first condition is for the index.
    expired = select(Workflow.id).where(Workflow.deadline < func.now(), Workflow.deadline < passed)
    return expired.limit(_most()).subquery("expired")


def _until(time: Any) -> ColumnElement[Any]:
    """Return the seconds until the earliest of the times that have not passed."""
    earliest = select(pg.min(time)).where(time > func.now()).scalar_subquery()
    return seconds_of(earliest - func.now())


def _unheld() -> dict[str, Any]:
    return {"ready_at": null(), "due_at": null(), "executor": null()}


def _count(cte: Any) -> Any:
    return select(COUNT).select_from(cte).scalar_subquery()


def _most() -> ColumnElement[int]:
    return literal_column(str(MOST_AT_ONCE), BigInteger())
