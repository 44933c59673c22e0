"""The statement that puts ready submissions into batches.

A submission is a workflow of a name that no claim takes. A batch is a workflow of another name, which is claimed
as any other workflow. Its submissions are of one queue and one partition key, and have its codec.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    bindparam,
    case,
    cast,
    column,
    func,
    literal_column,
    null,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import REGCLASS, aggregate_order_by, insert
from sqlalchemy.sql import ColumnElement

from pgqrs.models import Queue, Text, Workflow
from pgqrs.storage.queries.claims import can_count
from pgqrs.storage.sql.expressions import (
    COUNT,
    DOUBLE,
    ONE,
    bounded,
    deadline_after,
    finite,
    interval,
    is_found,
    number_literal,
    pg,
    seconds_of,
    unnest,
)

MIN_SEEN = 2000
"""Ready submissions of a queue and a name that one statement considers; twice the size of a batch if that is more.

If there are more of them, in many partition keys, a complete batch may have to wait for the time of these.
"""

_COLUMNS = (
    "queue", "name", "run", "size", "within", "timeout", "id", "partition_key", "priority", "position", "due_at",
)  # fmt: skip
"""The columns of a submission that a statement has seen, with those of its workflow."""

_TWO = literal_column("2", BigInteger())


def form() -> Any:
    """Return the statement that makes batches of the ready submissions of `queues`.

    The arrays `names`, `runs`, `sizes`, `withins` and `timeouts` have an element for each workflow: its name, the
    name of its batches, their size, the seconds in which they fill, and their timeout. A batch gets the first
    submissions by priority and age, if they are as many as its size, or if the oldest of them has been ready for
    its seconds. A submission that another transaction has locked is left out, and so is a paused queue.

    `written_with` is the codec of the submissions and of the batches, and `new_token` the token of the batches.

    The statement returns one row: `made`, the number of batches, `lowest`, the lowest id among them, and `queues`,
    their queues; `next_due`, the seconds until a batch starts that is not complete yet, None without one; and
    `is_left`, which is true if submissions are left out that make a batch.
    """
    seen = _materialized(_seen(_served()), "seen")
    locked = _materialized(_locked(_candidates(seen)), "locked")
    groups = _materialized(_groups(locked), "groups")
    made: Any = _insert(groups).cte("made")
    left = _left(seen, _join(groups).cte("joined"))
    is_left = (left.c.due_at <= func.now()) | (left.c.count >= left.c.size)
    until_due = seconds_of(pg.min(case((~is_left, left.c.due_at))) - func.now())
    return select(
        select(COUNT).select_from(made).scalar_subquery().label("made"),
        select(pg.min(made.c.id)).scalar_subquery().label("lowest"),
        select(pg.array_agg(made.c.queue.distinct(), type_=ARRAY(Text()))).scalar_subquery().label("queues"),
        select(until_due).scalar_subquery().label("next_due"),
        select(func.coalesce(pg.bool_or(is_left, type_=Boolean()), literal_column("false", Boolean())))
        .scalar_subquery()
        .label("is_left"),
    )


def _served() -> Any:
    """Return the pairs of a queue that is not paused and a workflow with batches."""
    arrays: dict[str, Any] = {
        "names": Text(),
        "runs": Text(),
        "sizes": BigInteger(),
        "withins": DOUBLE,
        "timeouts": DOUBLE,
    }
    given = unnest(*(bindparam(name, type_=ARRAY(type_)) for name, type_ in arrays.items()))
    columns: list[Any] = [column(name.removesuffix("s"), type_) for name, type_ in arrays.items()]
    workflows = given.table_valued(*columns).render_derived(name="given")
    queues = unnest(bindparam("queues", type_=ARRAY(Text()))).table_valued(column("queue", Text()))
    queue = queues.render_derived(name="queues")
    paused = select(ONE).where(Queue.name == queue.c.queue, Queue.paused_at.is_not(None))
    pairs = select(queue.c.queue, *workflows.c).select_from(queue.join(workflows, true()))
    return pairs.where(~is_found(paused, Queue)).subquery("served")


def _seen(served: Any) -> Any:
    """Return the first ready submissions of each pair, and locks none."""
    ready = (
        select(
            Workflow.id,
            Workflow.partition_key,
            Workflow.priority,
            Workflow.position,
            finite(Workflow.ready_at).label("ready_at"),
        )
        .where(
            Workflow.queue == served.c.queue,
            Workflow.name == served.c.name,
            Workflow.ready_at.is_not(None),
            Workflow.codec.is_not_distinct_from(bindparam("written_with", type_=Text())),
            can_count(),
        )
        .order_by(Workflow.priority.desc(), Workflow.id)
        .limit(func.greatest(number_literal(MIN_SEEN), served.c.size * _TWO))
        .lateral("ready")
    )
    due_at = (ready.c.ready_at + served.c.within * interval(1)).label("due_at")
    columns = (ready.c.id, ready.c.partition_key, ready.c.priority, ready.c.position, due_at)
    return select(*served.c, *columns).select_from(served.join(ready, true()))


def _candidates(seen: Any) -> Any:
    """Return the submissions that make batches, as far as no other transaction has them."""
    lane: dict[str, Any] = {"partition_by": _lane(seen)}
    place = pg.row_number(type_=BigInteger()).over(**lane, order_by=_order(seen))
    count = pg.count(seen.c.id, type_=BigInteger()).over(**lane)
    first_due = pg.min(seen.c.due_at).over(**lane)
    placed = select(
        *seen.c, place.label("place"), count.label("count"), (first_due <= func.now()).label("is_due")
    ).subquery("placed")
    in_complete = placed.c.place <= placed.c.count - placed.c.count % placed.c.size
    return (
        select(*(placed.c[each] for each in _COLUMNS)).where(placed.c.is_due | in_complete).subquery("candidates")
    )


def _locked(candidates: Any) -> Any:
    """Return the candidates that are still ready, with their rows locked; a locked row is skipped."""
    # The condition is on the row's own column, which PostgreSQL checks again once the row is locked.
    own: Any = (
        select(Workflow.id)
        .where(Workflow.id == candidates.c.id, Workflow.ready_at.is_not(None))
        .limit(ONE)
        .with_for_update(key_share=True, skip_locked=True, of=Workflow)
        .lateral("own")
    )
    return select(*candidates.c).select_from(candidates.join(own, true()))


def _groups(locked: Any) -> Any:
    """Return the batches to make: those that are complete or due, with the ids of their submissions in order."""
    place = pg.row_number(type_=BigInteger()).over(partition_by=_lane(locked), order_by=_order(locked))
    numbered: Any = select(*locked.c, ((place - ONE) // locked.c.size).label("number")).subquery("numbered")
    own = numbered.c
    sequence = cast(bindparam("sequence", type_=Text()), REGCLASS())
    members = pg.array_agg(aggregate_order_by(own.id, *_order(numbered)), type_=ARRAY(BigInteger()))
    return (
        select(
            own.queue,
            own.run,
            own.timeout,
            own.partition_key,
            pg.max(own.priority, type_=BigInteger()).label("priority"),
            pg.min(own.position, type_=BigInteger()).label("position"),
            members.label("members"),
            pg.nextval(sequence, type_=BigInteger()).label("id"),
        )
        .group_by(own.queue, own.name, own.run, own.timeout, own.size, own.partition_key, own.number)
        .having((own.size <= COUNT) | (pg.min(own.due_at) <= func.now()))
    )


def _insert(groups: Any) -> Any:
    own = groups.c
    values: dict[str, Any] = {
        "id": own.id,
        "name": own.run,
        "input": pg.array_to_json(own.members),
        "queue": own.queue,
        "priority": own.priority,
        "partition_key": own.partition_key,
        # In an ordered queue the batch has the place of its first submission.
        "position": own.position,
        "timeout": own.timeout,
        "ready_at": func.now(),
        "codec": bindparam("written_with", type_=Text()),
        "token": bindparam("new_token", type_=BigInteger()),
        "batch_id": own.id,
    }
    new = insert(Workflow).from_select(list(values), select(*values.values()), include_defaults=False)
    return new.returning(Workflow.id, Workflow.queue)


def _join(groups: Any) -> Any:
    """Return the statement that puts the submissions into their batches."""
    return (
        update(Workflow)
        .where(Workflow.id == func.any(groups.c.members))
        .values(
            batch_id=groups.c.id,
            # Started, so that no later submission of a unique value changes its input.
            epoch=Workflow.epoch + ONE,
            ready_at=null(),
            started_at=func.coalesce(Workflow.started_at, func.now()),
            deadline=deadline_after(bounded(Workflow.timeout)),
            updated_at=func.now(),
        )
        .returning(Workflow.id)
    )


def _left(seen: Any, joined: Any) -> Any:
    """Return the submissions that are in no batch, by the batch that they will make."""
    is_joined = seen.c.id.in_(select(joined.c.id)).is_(True)
    return (
        select(seen.c.size, COUNT.label("count"), pg.min(seen.c.due_at).label("due_at"))
        .where(~is_joined)
        .group_by(*_lane(seen), seen.c.size)
        .subquery("left_out")
    )


def _lane(rows: Any) -> tuple[ColumnElement[Any], ...]:
    return rows.c.queue, rows.c.name, rows.c.partition_key


def _order(rows: Any) -> tuple[ColumnElement[Any], ...]:
    return rows.c.priority.desc(), rows.c.position, rows.c.id


def _materialized(query: Any, name: str) -> Any:
    """Return the CTE of a query, evaluated once: it locks rows, or draws ids."""
    return query.cte(name).prefix_with("MATERIALIZED")
