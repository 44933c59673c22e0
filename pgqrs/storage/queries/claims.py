"""The statements that claim ready workflows for a worker.

These and the statements of `maintenance` look rows up by partial indexes that hold only live workflows, so their
cost does not grow with the number of finished workflows. They skip rows that another transaction has locked; the
next search considers the skipped rows again.

An old transaction keeps the entries of finished workflows in the indexes, and a look-up walks through them. So
most searches are bounded, by a `floor` of the ids and by how long ago a time has passed. `maintenance.maintain`
without bounds finds the workflows that the bounds have hidden.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    DateTime,
    Uuid,
    bindparam,
    case,
    column,
    func,
    literal_column,
    null,
    select,
    true,
    update,
)
from sqlalchemy.orm import aliased
from sqlalchemy.sql import ColumnElement

from pgqrs.models import Queue, Text, Workflow
from pgqrs.storage.sql.expressions import (
    COUNT,
    ONE,
    bounded,
    deadline_after,
    finite,
    is_found,
    pg,
    seconds_of,
    seconds_until,
    size_of,
    text_literal,
    text_of,
    unnest,
)
from pgqrs.types import WorkflowStatus

_LAST_COUNT = literal_column(str(2**63 - 1), BigInteger())


def claim() -> Any:
    """Return the statement that claims up to `limit` ready workflows for an executor, by priority, then by age.

    The statement considers the first `window` workflows with ids above `floor` and not in `avoid`, and claims the
    first of them that no other claim has locked. The inputs before the last claimed workflow have less than
    `budget` bytes together. Each row has the columns of `ClaimedRun`, the priority, the server's time, `seen`, the
    number of workflows in the window, and `limited`, the queues that have a row of limits: the statement claims no
    workflow of these. A statement that claims no workflow returns one row, with nulls beside `seen` and `limited`.
    """
    return _claim(observed=False)


def claim_observed() -> Any:
    """Return the statement of `claim` with the fields of a `RunOrigin` beside the others."""
    return _claim(observed=True)


def _claim(*, observed: bool) -> Any:
    ready = _window().cte("ready").prefix_with("MATERIALIZED")
    first = _affordable(ready)
    # The condition is on the row's own column, which PostgreSQL checks again once the row is locked.
    locked: Any = (
        select(Workflow.id)
        .select_from(first.join(Workflow, Workflow.id == first.c.id))
        .where(Workflow.ready_at.is_not(None))
        .order_by(first.c.priority.desc(), first.c.id)
        .limit(bindparam("limit", type_=BigInteger()))
        .with_for_update(key_share=True, skip_locked=True, of=Workflow)
        .cte("locked")
        .prefix_with("MATERIALIZED")  # evaluated once, or it would lock more rows than it returns
    )
    taken = start_runs(locked, observed=observed)
    seen = select(COUNT.label("seen"), _limited().label("limited")).select_from(ready).subquery("seen")
    return select(*taken.c, seen.c.seen, seen.c.limited).select_from(seen.outerjoin(taken, true()))


def start_runs(
    locked: Any, *columns: ColumnElement[Any], observed: bool = False, **values: ColumnElement[Any]
) -> Any:
    """Return the CTE that starts a run of each locked workflow, and has the columns of a claim and `columns`.

    With `observed` it also has the fields of a `RunOrigin`. `values` are written with the start.
    """
    before = aliased(Workflow, name="before")
    # The row as it was: the start sets `ready_at` to null.
    own = [before.id == locked.c.id] if observed else []
    # A release keeps the claim of the run; a recovery and a resumption take it, and count the epoch up.
    previous = case((before.claim.is_not(None), before.epoch), (before.epoch > ONE, before.epoch - ONE))
    origin = _origin(previous, seconds_of(func.now() - finite(before.ready_at))) if observed else []
    return (
        update(Workflow)
        .where(Workflow.id == locked.c.id, *own)
        .values(
            status=text_literal(WorkflowStatus.RUNNING),
            epoch=Workflow.epoch + ONE,
            claim=bindparam("token", type_=BigInteger()),
            executor=bindparam("executor", type_=Uuid()),
            attempts=Workflow.attempts + ONE,
            ready_at=null(),
            error=null(),
            deadline=deadline_after(bounded(Workflow.timeout)),
            started_at=func.coalesce(Workflow.started_at, func.now()),
            completed_at=null(),
            updated_at=func.now(),
            **values,
        )
        .returning(*_claimed(), *columns, *origin)
        .cte("taken")
    )


def _window() -> Any:
    """Return the query for the first ready workflows of all pairs; it locks no rows.

    Each pair of a queue and a name has a look-up of its own, so workflows of other names in between cost nothing.
    """
    window = bindparam("window", type_=BigInteger())
    pairs = queue_name_pairs(unlimited=True)
    ready = (
        select(Workflow.id, Workflow.priority, size_of(Workflow.input).label("size"))
        .where(*_is_for(pairs), Workflow.id != func.all(bindparam("avoid", type_=ARRAY(BigInteger()))))
        .order_by(Workflow.priority.desc(), Workflow.id)
        .limit(window)
        .lateral("of_pair")
    )
    return (
        select(ready.c.id, ready.c.priority, ready.c.size)
        .select_from(pairs.join(ready, true()))
        .order_by(ready.c.priority.desc(), ready.c.id)
        .limit(window)
    )


def _affordable(ready: Any) -> Any:
    """Return the ready workflows whose predecessors have inputs of less than `budget` bytes together."""
    order = (ready.c.priority.desc(), ready.c.id)
    before = pg.sum(ready.c.size).over(order_by=order, rows=(None, 0)) - ready.c.size
    counted = select(ready.c.id, ready.c.priority, before.label("before")).subquery("counted")
    affordable = counted.c.before < bindparam("budget", type_=BigInteger())
    return select(counted.c.id, counted.c.priority).where(affordable).subquery("first_ready")


def claimed_by_tokens() -> Any:
    """Return the query for the runs that were claimed with `tokens`, for claims whose answers were lost."""
    return _claimed_by_tokens(*_claimed())


def claimed_by_tokens_observed() -> Any:
    """Return the query of `claimed_by_tokens` with the fields of a `RunOrigin` beside the others."""
    return _claimed_by_tokens(*_claimed(), *_origin(null(), null()))


def _claimed_by_tokens(*columns: ColumnElement[Any]) -> Any:
    own = Workflow.executor == bindparam("executor", type_=Uuid())
    taken = Workflow.claim == func.any(bindparam("tokens", type_=ARRAY(BigInteger())))
    running = Workflow.status == text_literal(WorkflowStatus.RUNNING)
    return select(*columns).where(own, taken, running)


def _claimed() -> list[ColumnElement[Any]]:
    """Return the columns of `ClaimedRun`, followed by the priority and the server's time."""
    columns: Any = (
        Workflow.id.label("workflow_id"),
        Workflow.name,
        Workflow.epoch,
        text_of(Workflow.input).label("input"),
        Workflow.attempts,
        seconds_until(Workflow.deadline).label("seconds_left"),
        Workflow.claim,
        Workflow.queue,
        Workflow.parent_id,
        Workflow.scheduled_for,
        Workflow.priority,
        pg.clock_timestamp(type_=DateTime(timezone=True)).label("told"),
    )
    return list(columns)


def _origin(previous: ColumnElement[Any], waited: ColumnElement[Any]) -> list[ColumnElement[Any]]:
    """Return the columns of `RunOrigin`."""
    columns: Any = (Workflow.trace, Workflow.token, Workflow.created_at, Workflow.schedule)
    return [*columns, previous.label("previous"), waited.label("waited")]


def queue_name_pairs(*, unlimited: bool = False) -> Any:
    """Return the pairs of a queue and a workflow name that a worker serves.

    With `unlimited`, they are those of queues without a row of limits. The row is looked up in the statement that
    claims, so no worker overlooks it from its commit on.
    """
    queues = unnest(bindparam("queues", type_=ARRAY(Text()))).table_valued(column("queue", Text()))
    queue, name = queues.render_derived(name="queues"), served_names()
    if unlimited:
        has_row = is_found(select(ONE).where(Queue.name == queue.c.queue), Queue)
        queue = select(queue.c.queue).where(~has_row).subquery("unlimited")
    return select(queue.c.queue, name.c.name).select_from(queue.join(name, true())).subquery("pairs")


def served_names() -> Any:
    """Return the names of the workflows that a worker serves, as a source to select from."""
    names = unnest(bindparam("names", type_=ARRAY(Text()))).table_valued(column("name", Text()))
    return names.render_derived(name="names")


def _limited() -> Any:
    """Return the queues of a worker that have a row of limits, as an array."""
    asked = Queue.name == func.any(bindparam("queues", type_=ARRAY(Text())))
    return select(pg.array_agg(Queue.name, type_=ARRAY(Text()))).where(asked).scalar_subquery()


def _is_for(pairs: Any) -> list[ColumnElement[bool]]:
    """Return the conditions on a workflow that is ready for a worker: its queue, its name, and its codec."""
    return [Workflow.queue == pairs.c.queue, Workflow.name == pairs.c.name, *is_ready()]


def is_ready() -> list[ColumnElement[bool]]:
    """Return the conditions on a workflow that a worker can claim, whatever its queue and its name.

    A workflow whose counters are at their maximum is excluded: an increment would fail, and the claim of all other
    workflows with it. Only a row that was written by hand has such counters.
    """
    return [
        Workflow.ready_at.is_not(None),
        Workflow.id > bindparam("floor", type_=BigInteger()),
        Workflow.codec.is_not_distinct_from(bindparam("codec", type_=Text())),
        Workflow.attempts < _LAST_COUNT,
        can_count(),
    ]


def can_count() -> ColumnElement[bool]:
    """Return the condition that a workflow's epoch can be incremented."""
    return Workflow.epoch < _LAST_COUNT


def first_ready(pairs: Any) -> Any:
    """Return the query for the ready workflow of a pair that the next claim takes."""
    first = select(Workflow.priority, Workflow.id).where(*_is_for(pairs))
    return first.order_by(Workflow.priority.desc(), Workflow.id).limit(ONE)
