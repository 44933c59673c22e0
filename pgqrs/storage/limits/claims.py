"""The statement that claims workflows of a queue with limits.

It takes an advisory lock on the queue, and then counts the runs of the queue with a function whose snapshot is
newer than the lock. So it counts the runs of each claim before it. A run counts while its workflow has an
executor: each statement that ends, parks or releases a run frees its slot, and no counter could differ from it. In
a queue whose workflows hold their slots until their end, a workflow counts from its first claim on; see `holders`.

Each partition key is a lane; the workflows without a key are one lane more. A claim looks at some lanes from a
cursor on, with one look-up for each, so a lane with many ready workflows costs as much as a lane with one.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    DateTime,
    bindparam,
    case,
    cast,
    delete,
    exists,
    false,
    func,
    literal_column,
    null,
    or_,
    select,
    true,
    union,
    union_all,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.orm import aliased
from sqlalchemy.sql import ColumnElement

from pgqrs.models import Queue, StartRate, Text, Workflow
from pgqrs.storage.limits.holders import (
    SLACK,
    holds_until_end,
    in_use,
    is_no_holder,
    locked_holders,
    slot_after,
)
from pgqrs.storage.limits.order import is_ordered, next_if_ordered, ready_by_id
from pgqrs.storage.queries.claims import is_ready, served_names, start_runs
from pgqrs.storage.sql.expressions import (
    COUNT,
    DOUBLE,
    ONE,
    ZERO,
    interval,
    number_literal,
    own,
    pg,
    seconds_of,
    size_of,
    text_literal,
    text_of,
)

MAX_LANES = 64
"""Maximum lanes that one claim looks at."""

MAX_EXAMINED = 500
"""Maximum ready workflows of a name that are examined for those without a partition key, or for their keys."""

STARTS_KEPT = 3600.0
"""Seconds for which a row of a rate is kept that has no meaning any more."""

_NO_KEY = text_literal("")
"""The lane of the workflows without a partition key: no key is empty."""


def claim_limited() -> Any:
    """Return the statement that claims up to `limit` ready workflows of a queue with limits, for an executor.

    Each row has the columns of a claim, the partition key of the workflow, and these columns:

    * `is_limited`: false if the queue has no row, and so no limits;
    * `is_locked`: false if another claim has the lock of the queue, null if the queue is paused;
    * `weights`: the weights of the partition keys, as JSON text;
    * `lanes`: the number of lanes that the statement has looked at;
    * `next_start`: the seconds until the rate of the queue, or of a lane, allows a further start;
    * `cursor`: the lane after which the next claim begins.

    A statement that claims no workflow returns one row, with nulls for the workflow.
    """
    return _claim_limited(observed=False)


def claim_limited_observed() -> Any:
    """Return the statement of `claim_limited` with the fields of a `RunOrigin` beside the others."""
    return _claim_limited(observed=True)


def _claim_limited(*, observed: bool) -> Any:
    settings = _materialized(
        select(
            Queue.concurrency,
            Queue.partition_concurrency,
            Queue.rate,
            Queue.partition_rate,
            Queue.weights,
            Queue.paused_at,
            Queue.holds,
            Queue.ordered_at,
            Queue.fair,
        ).where(Queue.name == _queue()),
        "settings",
    )
    locks = pg.pg_try_advisory_xact_lock(bindparam("lock", type_=BigInteger()), type_=Boolean())
    is_paused = settings.c.paused_at.is_not(None)
    held = _materialized(select(settings).where(case((is_paused, false()), else_=locks)), "held")
    holders = _materialized(locked_holders(held), "holders")
    room = _materialized(
        select(
            _room(held, holders).label("room"),
            _debt(held.c.rate, _NO_KEY).label("debt"),
            select(func.coalesce(pg.sum(holders.c.size), ZERO)).scalar_subquery().label("size"),
            held.c.partition_concurrency,
            held.c.rate,
            held.c.partition_rate,
            cast(held.c.weights, JSONB()).label("weights"),
            # The value of one key of a jsonb is found by a binary search; a join would compare each pair.
            cast(bindparam("ahead", type_=Text()), JSONB()).label("ahead"),
            held.c.holds,
            held.c.ordered_at,
            held.c.fair,
        ),
        "room",
    )
    lanes = _lanes(room)
    rooms = _materialized(_rooms(lanes, room), "rooms")
    chosen = _materialized(_chosen(rooms, room), "chosen")
    holding = select(holders.c.id, holders.c.lane, holders.c.is_counted, holders.c.holds)
    locked = _materialized(union_all(_locked(chosen, room), holding), "locked")
    spent = _spend(locked, room).cte("spent")
    slot = slot_after(locked)
    taken = start_runs(locked, Workflow.partition_key.expression, observed=observed, slot=slot)
    served = select(chosen.c.lane).select_from(chosen.join(room, true())).where(room.c.fair)
    last = served.order_by(chosen.c.turn.desc()).limit(ONE).scalar_subquery()
    last_seen = select(lanes.c.lane).order_by(lanes.c.turn.desc()).limit(ONE).scalar_subquery()
    summary = select(
        (_count(settings) > ZERO).label("is_limited"),
        select(case((is_paused, null()), else_=_count(held) > ZERO)).scalar_subquery().label("is_locked"),
        select(text_of(settings.c.weights)).scalar_subquery().label("weights"),
        _count(lanes).label("lanes"),
        func.coalesce(last, last_seen).label("cursor"),
        _next_start(rooms, room).label("next_start"),
    ).subquery("summary")
    return select(*taken.c, *summary.c).select_from(summary.outerjoin(taken, true())).add_cte(spent)


def forget_starts() -> Any:
    """Return the statement that deletes the rows of rates that have had no meaning for `STARTS_KEPT` seconds."""
    return delete(StartRate).where(StartRate.free_at < func.now() - interval(STARTS_KEPT))


def _room(held: Any, holders: Any) -> ColumnElement[int]:
    """Return the number of workflows without a slot that the claim may take.

    The runs are counted once the queue is locked.
    """
    wanted = _limit() - _count(holders)
    limited = func.greatest(func.least(wanted, held.c.concurrency - in_use(held)), ZERO)
    return case((held.c.concurrency.is_(None), wanted), else_=limited)


def _lanes(room: Any) -> Any:
    """Return the lanes that have ready workflows: those after the cursor, that without a key, those before.

    In a queue that is not fair, the lanes of the first ready workflows are looked at, too.
    """
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
    in_turn = union(select(after.c.lane), select(before.c.lane)).subquery("in_turn")
    first = _lanes_of_first(room)
    is_in_turn = exists(select(ONE).where(in_turn.c.lane == first.c.lane))
    turns.append(select(first.c.lane, ZERO).where(~is_in_turn))
    return _materialized(union_all(*turns), "lanes")


def _lanes_of_first(room: Any) -> Any:
    """Return the partition keys of the first ready workflows of each name, for a queue that is not fair."""
    names = served_names()
    of_name = (
        select(Workflow.partition_key)
        .where(Workflow.queue == _queue(), Workflow.name == names.c.name, *is_ready())
        .where(~room.c.fair, room.c.room > ZERO)
        .order_by(Workflow.priority.desc(), Workflow.id)
        .limit(number_literal(MAX_EXAMINED))
        .correlate_except(Workflow)
        .lateral("first_of_name")
    )
    lanes = select(of_name.c.partition_key.label("lane")).distinct()
    sources = room.join(names, true()).join(of_name, true())
    return lanes.select_from(sources).where(of_name.c.partition_key.is_not(None)).subquery("lanes_of_first")


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
    running = in_use(room, lanes.c.lane)
    # An ordered queue runs one workflow without a key at a time, too.
    is_unkeyed = (lanes.c.lane == _NO_KEY) & ~is_ordered(room)
    is_free = room.c.partition_concurrency.is_(None) | is_unkeyed
    left = func.greatest(func.least(room.c.room, room.c.partition_concurrency - running), ZERO)
    head = next_if_ordered(room, lanes.c.lane, lanes.c.lane != _NO_KEY)

    def of_lane(numbers: Any, default: ColumnElement[int]) -> ColumnElement[Any]:
        own_number = pg.jsonb_extract_path_text(numbers, lanes.c.lane, type_=Text())
        return func.coalesce(cast(own_number, DOUBLE), cast(default, DOUBLE))

    return select(
        lanes.c.lane,
        lanes.c.turn,
        head.label("head"),
        case((is_free, room.c.room), else_=left).label("room"),
        case((lanes.c.lane != _NO_KEY, _debt(room.c.partition_rate, lanes.c.lane))).label("debt"),
        of_lane(room.c.ahead, ZERO).label("ahead"),
        of_lane(room.c.weights, ONE).label("weight"),
    ).select_from(lanes.join(room, true()))


def _chosen(rooms: Any, room: Any) -> Any:
    """Return the lanes of which the claim takes workflows, with the number of workflows of each.

    `is_counted` tells the workflows that count for a rate. The inputs before the last one have less than `budget`
    bytes together.
    """
    candidates: list[Any] = []
    needs_slot = is_no_holder(room)
    for is_of_kind, found in (
        (_is_keyed(rooms), _candidates(rooms.c.lane, rooms.c.room, needs_slot)),
        (_is_unkeyed(rooms), _candidates(None, rooms.c.room, needs_slot)),
        (rooms.c.head.is_not(None), ready_by_id(rooms.c.head, needs_slot)),
    ):
        first = found.lateral("first")
        in_lane: dict[str, Any] = {
            "partition_by": rooms.c.lane,
            "order_by": (first.c.priority.desc(), first.c.id),
            "rows": (None, 0),
        }
        counts = first.c.is_new & _is_rated(room)
        candidates.append(
            select(
                rooms.c.lane,
                rooms.c.turn,
                rooms.c.head,
                rooms.c.ahead,
                rooms.c.weight,
                _tokens(room.c.partition_rate, rooms.c.debt).label("tokens"),
                pg.count(first.c.id, type_=BigInteger()).over(**in_lane).label("place"),
                pg.count(case((counts, first.c.id)), type_=BigInteger()).over(**in_lane).label("starts"),
                counts.label("is_counted"),
                first.c.size,
                case((~room.c.fair, first.c.priority)).label("rank"),
                case((~room.c.fair, first.c.id)).label("age"),
            )
            .select_from(rooms.join(room, true()).join(first, true()))
            .where(is_of_kind, rooms.c.room > ZERO)
        )
    each = union_all(*candidates).subquery("candidates")
    order = _order(each)
    all_starts = pg.count(case((each.c.is_counted, ONE)), type_=BigInteger()).over(order_by=order, rows=(None, 0))
    allowed = (
        select(*each.c, all_starts.label("all_starts"))
        .where(~each.c.is_counted | each.c.tokens.is_(None) | (each.c.starts <= each.c.tokens))
        .subquery("allowed")
    )
    own: Any = allowed.c
    order = _order(allowed)
    tokens = select(_tokens(room.c.rate, room.c.debt)).scalar_subquery()
    before = pg.sum(own.size).over(order_by=order, rows=(None, 0)) - own.size
    ordered = (
        select(own.lane, own.turn, own.head, own.is_counted, before.label("before"))
        .where(~own.is_counted | tokens.is_(None) | (own.all_starts <= tokens))
        .order_by(*order)
        .limit(select(room.c.room).scalar_subquery())
        .subquery("ordered")
    )
    size_of_holders = select(room.c.size).scalar_subquery()
    affordable = ordered.c.before + size_of_holders < bindparam("budget", type_=BigInteger())
    key = (ordered.c.lane, ordered.c.turn, ordered.c.head, ordered.c.is_counted)
    return select(*key, COUNT.label("wanted")).where(affordable).group_by(*key)


def _order(each: Any) -> tuple[ColumnElement[Any], ...]:
    """Return the order in which the claim takes workflows: that of their turns, unless they have ranks."""
    turn = each.c.ahead + cast(each.c.place - ONE, DOUBLE) / each.c.weight
    return each.c.rank.desc(), each.c.age, turn, each.c.turn


def _candidates(lane: Any, most: Any, *conditions: Any) -> Any:
    """Return the query for the first ready workflows of a lane; None is the lane of those without a key."""
    names = served_names()
    is_new = Workflow.started_at.is_(None).label("is_new")
    size = size_of(Workflow.input).label("size")
    columns = (Workflow.id, Workflow.priority, size, is_new, Workflow.partition_key)
    ready = (
        select(*columns)
        .where(Workflow.queue == _queue(), Workflow.name == names.c.name, *is_ready())
        .where(Workflow.id != func.all(bindparam("avoid", type_=ARRAY(BigInteger()))), *conditions)
    )
    order = (Workflow.priority.desc(), Workflow.id)
    if lane is None:
        # The limit of the examined workflows is inside, and that of the found ones outside, which ends the search.
        examined = ready.order_by(*order).limit(number_literal(MAX_EXAMINED)).correlate_except(Workflow)
        first = examined.lateral("examined")
        ready = select(*first.c).where(first.c.partition_key.is_(None))
        ready = ready.order_by(first.c.priority.desc(), first.c.id).limit(most)
    else:
        # A range, and an order by the key, which only the index of the keys has: with an equality PostgreSQL may
        # read the index of all ready workflows, and pass over those of a key that has nearly all of them.
        ready = ready.where(Workflow.partition_key.between(lane, lane))
        ready = ready.order_by(Workflow.partition_key, *order).limit(most).correlate_except(Workflow)
    of_name = ready.lateral("of_name")
    found = select(of_name.c.id, of_name.c.priority, of_name.c.size, of_name.c.is_new)
    found = found.select_from(names.join(of_name, true()))
    return found.order_by(of_name.c.priority.desc(), of_name.c.id).limit(most)


def _is_rated(room: Any) -> ColumnElement[bool]:
    """Return the condition that the queue, or its partition keys, have a rate."""
    return or_(room.c.rate.is_not(None), room.c.partition_rate.is_not(None))


def _locked(chosen: Any, room: Any) -> Any:
    """Return the query that locks the first workflows of the chosen lanes; it skips those that are locked."""
    found: list[Any] = []
    is_right = ~_is_rated(room) | (Workflow.started_at.is_(None) == chosen.c.is_counted), is_no_holder(room)
    most = chosen.c.wanted + number_literal(SLACK)
    holds = holds_until_end(room).label("holds")
    for is_of_kind, ready in (
        (_is_keyed(chosen), _candidates(chosen.c.lane, most, *is_right)),
        (_is_unkeyed(chosen), _candidates(None, most, *is_right)),
        (chosen.c.head.is_not(None), ready_by_id(chosen.c.head, *is_right)),
    ):
        first = ready.lateral("first")
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
        source = chosen.join(room, true()).join(free, true())
        own_columns = (free.c.id, chosen.c.lane, chosen.c.is_counted, holds)
        found.append(select(*own_columns).select_from(source).where(is_of_kind))
    return union_all(*found)


def _is_keyed(lanes: Any) -> ColumnElement[bool]:
    """Return the condition that a lane has a partition key, and its workflows no order."""
    condition: ColumnElement[bool] = (lanes.c.lane != _NO_KEY) & lanes.c.head.is_(None)
    return condition


def _is_unkeyed(lanes: Any) -> ColumnElement[bool]:
    """Return the condition that a lane is that of the workflows without a partition key."""
    condition: ColumnElement[bool] = lanes.c.lane == _NO_KEY
    return condition


def _number(rate: Any, field: str) -> ColumnElement[Any]:
    """Return a field of a rate, NULL for no rate."""
    return cast(pg.json_extract_path_text(rate, text_literal(field), type_=Text()), DOUBLE)


def _pace(rate: Any) -> ColumnElement[Any]:
    """Return the seconds between two starts at a rate."""
    return _number(rate, "per") / _number(rate, "limit")


def _debt(rate: Any, lane: Any) -> ColumnElement[Any]:
    """Return the seconds by which the starts of a lane are ahead of the steady pace of a rate, NULL for no rate.

    They are read once the queue is locked, so the starts of each claim before it are among them.
    """
    ahead = seconds_of(own.pgqrs_free_at(_queue(), lane, type_=DateTime(timezone=True)) - func.now())
    return case((rate.is_not(None), func.greatest(func.coalesce(ahead, cast(ZERO, DOUBLE)), cast(ZERO, DOUBLE))))


def _tokens(rate: Any, debt: Any) -> ColumnElement[int]:
    """Return the number of starts that a rate allows now, NULL for no rate."""
    # The margin is for the rounding of times to microseconds.
    left = _number(rate, "burst") - debt / _pace(rate) + literal_column("1e-3", DOUBLE)
    tokens = cast(pg.floor(func.greatest(left, cast(ZERO, DOUBLE)), type_=DOUBLE), BigInteger())
    return case((debt.is_not(None), tokens))


def _next_start(rooms: Any, room: Any) -> Any:
    """Return the seconds until a rate that allows no start now allows one; NULL if there is none."""

    def wait(rate: Any, debt: Any) -> Any:
        until = debt - (_number(rate, "burst") - cast(ONE, DOUBLE)) * _pace(rate)
        return case((_tokens(rate, debt) == ZERO, func.greatest(until, cast(ZERO, DOUBLE))))

    is_ready = _count(rooms) > ZERO
    of_queue = select(case((is_ready, wait(room.c.rate, room.c.debt)))).scalar_subquery()
    of_lane = pg.min(wait(room.c.partition_rate, rooms.c.debt), type_=DOUBLE)
    return func.least(of_queue, select(of_lane).select_from(rooms.join(room, true())).scalar_subquery())


def _spend(locked: Any, room: Any) -> Any:
    """Return the statement that counts the first starts of the locked workflows for the rates."""
    is_counted = locked.c.is_counted
    of_lanes = select(locked.c.lane, COUNT.label("starts")).where(is_counted, locked.c.lane != _NO_KEY)
    each = union_all(
        select(_NO_KEY.label("lane"), COUNT.label("starts")).select_from(locked).where(is_counted),
        of_lanes.group_by(locked.c.lane),
    ).subquery("starts")
    rate = case((each.c.lane == _NO_KEY, room.c.rate), else_=room.c.partition_rate)
    free_at = own.pgqrs_free_at(_queue(), each.c.lane, type_=DateTime(timezone=True))
    since = func.greatest(func.now(), func.coalesce(free_at, func.now()))
    values: dict[str, Any] = {
        "queue": _queue(),
        "partition_key": each.c.lane,
        "free_at": since + cast(each.c.starts, DOUBLE) * _pace(rate) * interval(1),
    }
    new = (
        select(*values.values())
        .select_from(each.join(room, true()))
        .where(rate.is_not(None), each.c.starts > ZERO)
    )
    statement = insert(StartRate).from_select(list(values), new, include_defaults=False)
    return statement.on_conflict_do_update(
        index_elements=[StartRate.queue, StartRate.partition_key], set_={"free_at": statement.excluded.free_at}
    )


def _queue() -> ColumnElement[str]:
    return bindparam("queue", type_=Text())


def _limit() -> ColumnElement[int]:
    return bindparam("limit", type_=BigInteger())


def _count(rows: Any) -> Any:
    return select(COUNT).select_from(rows).scalar_subquery()


def _materialized(query: Any, name: str) -> Any:
    """Return the CTE of a query, evaluated once and as a whole before the queries that read it."""
    return query.cte(name).prefix_with("MATERIALIZED")
