"""The statement that claims workflows of a queue with limits.

It takes an advisory lock on the queue, and then counts the runs of the queue with a function whose snapshot is
newer than the lock. So it counts the runs of each claim before it. A run counts while its workflow has an
executor: each statement that ends, parks or releases a run frees its slot, and no counter could differ from it.

Each partition key is a lane; the workflows without a key are one lane more. A claim looks at some lanes from a
cursor on, with one look-up for each, so a lane with many ready workflows costs as much as a lane with one.
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
    false,
    func,
    null,
    select,
    true,
    union_all,
)
from sqlalchemy.orm import aliased
from sqlalchemy.sql import ColumnElement

from pgqrs.models import Queue, Text, Workflow
from pgqrs.storage.queries.claims import is_ready, served_names, start_runs
from pgqrs.storage.sql.expressions import (
    COUNT,
    DOUBLE,
    ONE,
    ZERO,
    number_literal,
    own,
    pg,
    size_of,
    text_literal,
    text_of,
    unnest,
)

MAX_LANES = 64
"""Maximum lanes that one claim looks at."""

MAX_UNKEYED = 500
"""Maximum ready workflows of a name that are examined for workflows without a partition key."""

_SLACK = 16
"""Workflows of a lane that a claim considers in addition, because another transaction may have locked some."""

_NO_KEY = text_literal("")
"""The lane of the workflows without a partition key: no key is empty."""


def claim_limited() -> Any:
    """Return the statement that claims up to `limit` ready workflows of a queue with limits, for an executor.

    Each row has the columns of a claim, the partition key of the workflow, and these columns:

    * `is_limited`: false if the queue has no row, and so no limits;
    * `is_locked`: false if another claim has the lock of the queue, null if the queue is paused;
    * `weights`: the weights of the partition keys, as JSON text;
    * `lanes`: the number of lanes that the statement has looked at;
    * `cursor`: the lane after which the next claim begins.

    A statement that claims no workflow returns one row, with nulls for the workflow.
    """
    settings = _materialized(
        select(Queue.concurrency, Queue.partition_concurrency, Queue.weights, Queue.paused_at).where(
            Queue.name == _queue()
        ),
        "settings",
    )
    locks = pg.pg_try_advisory_xact_lock(bindparam("lock", type_=BigInteger()), type_=Boolean())
    is_paused = settings.c.paused_at.is_not(None)
    held = _materialized(select(settings).where(case((is_paused, false()), else_=locks)), "held")
    room = _materialized(select(_room(held).label("room"), held.c.partition_concurrency, held.c.weights), "room")
    lanes = _lanes(room)
    rooms = _materialized(_rooms(lanes, room), "rooms")
    chosen = _materialized(_chosen(rooms, room), "chosen")
    locked = _materialized(_locked(chosen), "locked")
    taken = start_runs(locked, Workflow.partition_key.expression)
    last = select(chosen.c.lane).order_by(chosen.c.turn.desc()).limit(ONE).scalar_subquery()
    last_seen = select(lanes.c.lane).order_by(lanes.c.turn.desc()).limit(ONE).scalar_subquery()
    summary = select(
        (_count(settings) > ZERO).label("is_limited"),
        select(case((is_paused, null()), else_=_count(held) > ZERO)).scalar_subquery().label("is_locked"),
        select(text_of(settings.c.weights)).scalar_subquery().label("weights"),
        _count(lanes).label("lanes"),
        func.coalesce(last, last_seen).label("cursor"),
    ).subquery("summary")
    return select(*taken.c, *summary.c).select_from(summary.outerjoin(taken, true()))


def _room(held: Any) -> ColumnElement[int]:
    """Return the number of workflows that the claim may take; the runs are counted once the queue is locked."""
    left = held.c.concurrency - own.pgqrs_running(_queue(), type_=BigInteger())
    limited = func.greatest(func.least(_limit(), left), ZERO)
    return case((held.c.concurrency.is_(None), _limit()), else_=limited)


def _lanes(room: Any) -> Any:
    """Return the lanes that have ready workflows: those after the cursor, that without a key, those before."""
    after = _keys("after", room, bindparam("cursor", type_=Text()), number_literal(MAX_LANES))
    left = number_literal(MAX_LANES) - _count(after)
    before = _keys("before", room, _NO_KEY, left, last=bindparam("cursor", type_=Text()))
    turns = [
        select(after.c.lane, after.c.turn).where(after.c.turn > ZERO),
        select(_NO_KEY.label("lane"), number_literal(MAX_LANES + 1).label("turn"))
        .select_from(room)
        .where(room.c.room > ZERO, left >= ZERO),
        select(before.c.lane, before.c.turn + number_literal(MAX_LANES + 1)).where(before.c.turn > ZERO),
    ]
    return _materialized(union_all(*turns), "lanes")


def _keys(name: str, room: Any, first: Any, most: Any, *, last: Any = None) -> Any:
    """Return the CTE of the keys with ready workflows above `first`, with their number; the row 0 is no key."""
    start = select(cast(first, Text()).collate("C").label("lane"), ZERO.label("turn"))
    keys = start.select_from(room).where(room.c.room > ZERO).cte(name, recursive=True)
    names = served_names()
    above = (
        select(Workflow.partition_key)
        .where(Workflow.queue == _queue(), Workflow.name == names.c.name, *is_ready())
        .where(Workflow.partition_key > keys.c.lane)
        .order_by(Workflow.partition_key)
        .limit(ONE)
        .correlate_except(Workflow)
        .lateral("above")
    )
    following = (
        select(above.c.partition_key.label("lane"))
        .select_from(names.join(above, true()))
        .order_by(above.c.partition_key)
        .limit(ONE)
        .lateral("following")
    )
    further = (
        select(following.c.lane, keys.c.turn + ONE)
        .select_from(keys.join(following, true()))
        .where(keys.c.turn < most)
    )
    return keys.union_all(further if last is None else further.where(following.c.lane <= last))


def _rooms(lanes: Any, room: Any) -> Any:
    """Return the lanes with the number of workflows that the claim may take of each, and their order.

    `ahead` is how far a lane is before the others, in workflows divided by the weight of the lane.
    """
    running = own.pgqrs_running(_queue(), lanes.c.lane, type_=BigInteger())
    is_free = room.c.partition_concurrency.is_(None) | (lanes.c.lane == _NO_KEY)
    left = func.greatest(func.least(room.c.room, room.c.partition_concurrency - running), ZERO)
    keys: Any = bindparam("ahead_keys", type_=ARRAY(Text())), bindparam("ahead_by", type_=ARRAY(DOUBLE))
    served = unnest(*keys).table_valued(column("lane", Text()), column("ahead", DOUBLE))
    ahead = served.render_derived(name="served")
    weight: Any = cast(pg.json_extract_path_text(room.c.weights, lanes.c.lane, type_=Text()), DOUBLE)
    return select(
        lanes.c.lane,
        lanes.c.turn,
        case((is_free, room.c.room), else_=left).label("room"),
        func.coalesce(ahead.c.ahead, cast(ZERO, DOUBLE)).label("ahead"),
        func.coalesce(weight, cast(ONE, DOUBLE)).label("weight"),
    ).select_from(lanes.join(room, true()).outerjoin(ahead, ahead.c.lane == lanes.c.lane))


def _chosen(rooms: Any, room: Any) -> Any:
    """Return the lanes of which the claim takes workflows, with the number of workflows of each.

    The inputs before the last one have less than `budget` bytes together.
    """
    candidates: list[Any] = []
    for is_keyed in (True, False):
        first = _candidates(rooms.c.lane if is_keyed else None, rooms.c.room).lateral("first")
        place = pg.row_number(type_=BigInteger()).over(
            partition_by=rooms.c.lane, order_by=(first.c.priority.desc(), first.c.id)
        )
        candidates.append(
            select(rooms.c.lane, rooms.c.turn, rooms.c.ahead, rooms.c.weight, place.label("place"), first.c.size)
            .select_from(rooms.join(first, true()))
            .where((rooms.c.lane != _NO_KEY) if is_keyed else (rooms.c.lane == _NO_KEY), rooms.c.room > ZERO)
        )
    each = union_all(*candidates).subquery("candidates")
    order = (each.c.ahead + cast(each.c.place - ONE, DOUBLE) / each.c.weight, each.c.turn)
    before = pg.sum(each.c.size).over(order_by=order, rows=(None, 0)) - each.c.size
    ordered = (
        select(each.c.lane, each.c.turn, before.label("before"))
        .order_by(*order)
        .limit(select(room.c.room).scalar_subquery())
        .subquery("ordered")
    )
    affordable = ordered.c.before < bindparam("budget", type_=BigInteger())
    return (
        select(ordered.c.lane, ordered.c.turn, COUNT.label("wanted"))
        .where(affordable)
        .group_by(ordered.c.lane, ordered.c.turn)
    )


def _candidates(lane: Any, most: Any) -> Any:
    """Return the query for the first ready workflows of a lane; None is the lane of those without a key."""
    names = served_names()
    columns = (Workflow.id, Workflow.priority, size_of(Workflow.input).label("size"), Workflow.partition_key)
    ready = (
        select(*columns)
        .where(Workflow.queue == _queue(), Workflow.name == names.c.name, *is_ready())
        .where(Workflow.id != func.all(bindparam("avoid", type_=ARRAY(BigInteger()))))
        .order_by(Workflow.priority.desc(), Workflow.id)
    )
    ready = ready.limit(number_literal(MAX_UNKEYED)) if lane is None else ready.limit(most)
    if lane is not None:
        ready = ready.where(Workflow.partition_key == lane)
    of_name = ready.correlate_except(Workflow).lateral("of_name")
    found = select(of_name.c.id, of_name.c.priority, of_name.c.size).select_from(names.join(of_name, true()))
    if lane is None:
        found = found.where(of_name.c.partition_key.is_(None))
    return found.order_by(of_name.c.priority.desc(), of_name.c.id).limit(most)


def _locked(chosen: Any) -> Any:
    """Return the query that locks the first workflows of the chosen lanes; it skips those that are locked."""
    found: list[Any] = []
    for is_keyed in (True, False):
        lane = chosen.c.lane if is_keyed else None
        first = _candidates(lane, chosen.c.wanted + number_literal(_SLACK)).subquery("first")
        workflow = aliased(Workflow, name="workflow")
        # The condition is on the row's own column, which PostgreSQL checks again once the row is locked.
        free = (
            select(workflow.id)
            .select_from(first.join(workflow, workflow.id == first.c.id))
            .where(workflow.ready_at.is_not(None))
            .order_by(first.c.priority.desc(), first.c.id)
            .limit(chosen.c.wanted)
            .with_for_update(key_share=True, skip_locked=True, of=workflow)
            .lateral("free")
        )
        is_own = (chosen.c.lane != _NO_KEY) if is_keyed else (chosen.c.lane == _NO_KEY)
        found.append(select(free.c.id).select_from(chosen.join(free, true())).where(is_own))
    return union_all(*found)


def _queue() -> ColumnElement[str]:
    return bindparam("queue", type_=Text())


def _limit() -> ColumnElement[int]:
    return bindparam("limit", type_=BigInteger())


def _count(rows: Any) -> Any:
    return select(COUNT).select_from(rows).scalar_subquery()


def _materialized(query: Any, name: str) -> Any:
    """Return the CTE of a query, evaluated once and as a whole before the queries that read it."""
    return query.cte(name).prefix_with("MATERIALIZED")
