"""The statements of schedules: those that are due, the start of their workflows, and their changes.

A statement that starts workflows names the next time that it has seen, and the row of a schedule is changed only
if it still has this time. The same statement inserts the workflow. So any number of workers start one workflow for
a time.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    DateTime,
    and_,
    bindparam,
    case,
    column,
    delete,
    exists,
    false,
    func,
    literal_column,
    null,
    select,
    text,
    true,
    union,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql import ColumnElement

from pgqrs.models import Schedule, Text, Workflow
from pgqrs.storage.queries.claims import queue_name_pairs
from pgqrs.storage.sql.expressions import (
    COUNT,
    DOUBLE,
    ONE,
    ZERO,
    array_of,
    is_found,
    json_of,
    number_literal,
    pg,
    seconds_until,
    text_literal,
    text_of,
    unnest,
)
from pgqrs.storage.sql.sagas import handed_to_worker, has_saga, is_undecided
from pgqrs.storage.sql.waits import all_of, drop_waits
from pgqrs.types import SagaState, WorkflowStatus

MAX_DUE = 500
"""Maximum schedules that one statement considers; the next statement handles the rest."""

_TIME = DateTime(timezone=True)

_WITH_KEY = text("key IS NOT NULL AND (completed_at IS NULL OR NOT releases_key)")
"""The condition of the index of the keys."""

_RULE = ("cron", "zone", "every", "anchor", "start_at", "end_at")
"""The columns that define the times of a schedule."""


def seconds_until_next() -> ColumnElement[Any]:
    """Return the seconds until the next time of a schedule that a worker serves; 0 or less if a time is due.

    It is NULL without a schedule. The worker serves the queues and the names of `claims.queue_name_pairs`.
    """
    pairs = queue_name_pairs()
    first = _timed(pairs, Schedule.next_at).order_by(Schedule.next_at).limit(ONE).lateral("first")
    earliest = select(pg.min(first.c.next_at)).select_from(pairs.join(first, true())).scalar_subquery()
    waiting = _queued(pairs).limit(ONE).lateral("waiting")
    is_waiting = exists().select_from(pairs.join(waiting, true()))
    return func.least(seconds_until(earliest), case((is_waiting, literal_column("0", DOUBLE))))


def due() -> Any:
    """Return the query for the schedules that are due and not in `avoid`, with the time of the database's clock.

    A schedule is due at its next time, and when a time has waited for the end of a workflow that has ended.
    """
    pairs = queue_name_pairs()
    wanted = Schedule.name != func.all(bindparam("avoid", type_=ARRAY(Text())))
    timed = _timed(pairs, Schedule.name).where(Schedule.next_at <= func.now(), wanted)
    timed = timed.order_by(Schedule.next_at).limit(number_literal(MAX_DUE)).lateral("timed")
    waiting = _queued(pairs).where(wanted).limit(number_literal(MAX_DUE)).lateral("waiting")
    found = union(
        select(timed.c.name).select_from(pairs.join(timed, true())),
        select(waiting.c.name).select_from(pairs.join(waiting, true())),
    ).subquery("found")
    columns = (Schedule.name, *(getattr(Schedule, each) for each in _RULE))
    state = (Schedule.overlap, Schedule.catchup, Schedule.within, Schedule.jitter)
    times = (Schedule.next_at, Schedule.queued_for)
    return (
        select(*columns, *state, *times, func.now().label("now"))
        .join_from(found, Schedule, Schedule.name == found.c.name)
        .limit(number_literal(MAX_DUE))
    )


def fire() -> Any:
    """Return the statement that sets the next times of schedules, and starts their workflows.

    The arrays `names`, `old_at`, `old_queued`, `next_at`, `latest` and `second` have an element for each schedule;
    `schedules`, `times`, `starts`, `keys` and `tokens` have one for each workflow. `latest` is the newest of the
    times. A schedule that queues a time while a workflow lives has one time, and `second` is the time after it.

    A schedule that was changed meanwhile is left out, and so is one whose live workflows cannot be cancelled now,
    because other transactions have locked them. The statement returns one row: `moved`, the number of schedules,
    and the arrays `ids`, `keys` and `queues`, which have an element for each workflow; they are NULL without one.
    """
    held = _held().cte("held").prefix_with("MATERIALIZED")
    live, locked = _live(held)
    unlocked = live.c.is_to_cancel & live.c.id.not_in(select(locked.c.id))
    ready: Any = (
        select(held, _is_held_back(held, live).label("is_held_back"))
        .where(~_is_among(held.c.name, select(live.c.schedule).where(unlocked)))
        .cte("ready")
        .prefix_with("MATERIALIZED")
    )
    moved = _move(ready).cte("moved")
    free = _is_among(Schedule.name, select(ready.c.name).where(~ready.c.is_held_back))
    started = _insert(free).cte("started")
    return select(
        _count(moved).label("moved"),
        pg.array_agg(started.c.id, type_=ARRAY(BigInteger())).label("ids"),
        pg.array_agg(started.c.key, type_=ARRAY(Text())).label("keys"),
        pg.array_agg(started.c.queue, type_=ARRAY(Text())).label("queues"),
    ).add_cte(*_cancel(locked, ready))


def _is_among(value: Any, values: Any) -> ColumnElement[bool]:
    """Return the condition that the rows of a query contain a value.

    As a part of another condition it is one look into a hash table; a join of two CTEs would compare all pairs.
    """
    among: ColumnElement[bool] = value.in_(values)
    return among.is_(true())


def _held() -> Any:
    """Return the query that locks the schedules that have not changed, with their new times.

    Each is a lateral look-up, or a plan that was made on an empty table would compare all pairs.
    """
    columns = ("old_at", "old_queued", "next_at", "latest", "second")
    given = _given(names=Text(), **dict.fromkeys(columns, _TIME))
    own = (
        select(Schedule.name, Schedule.overlap)
        .where(
            Schedule.name == given.c.names,
            Schedule.paused_at.is_(None),
            Schedule.next_at.is_not_distinct_from(given.c.old_at),
            Schedule.queued_for.is_not_distinct_from(given.c.old_queued),
        )
        .limit(ONE)
        .with_for_update(key_share=True, skip_locked=True)
        .lateral("own")
    )
    times = (given.c.next_at, given.c.latest, given.c.second)
    return select(own.c.name, own.c.overlap, *times).select_from(given.join(own, true()))


def _live(held: Any) -> tuple[Any, Any]:
    """Return the live workflows of schedules that do not allow an overlap, and those to cancel that are locked."""
    of_schedule: Any = (
        select(Workflow.id)
        .where(Workflow.schedule == held.c.name, Workflow.completed_at.is_(None))
        .offset(ZERO)
        .lateral("of_schedule")
    )
    live = (
        select(
            of_schedule.c.id,
            held.c.name.label("schedule"),
            (held.c.overlap == text_literal("cancel")).label("is_to_cancel"),
        )
        .select_from(held.join(of_schedule, true()))
        .where(held.c.overlap != text_literal("allow"), held.c.latest.is_not(None))
        .cte("live")
        .prefix_with("MATERIALIZED")
    )
    own: Any = (
        select(Workflow.id, Workflow.status, Workflow.saga_state)
        .where(Workflow.id == live.c.id, Workflow.completed_at.is_(None))
        .limit(ONE)
        .with_for_update(key_share=True, skip_locked=True)
        .lateral("own_run")
    )
    locked = (
        select(own.c.id, own.c.status, own.c.saga_state, live.c.schedule)
        .select_from(live.join(own, true()))
        .where(live.c.is_to_cancel)
        .cte("locked")
        .prefix_with("MATERIALIZED")
    )
    return live, locked


def _is_held_back(held: Any, live: Any) -> ColumnElement[bool]:
    """Return the condition that a live workflow keeps a schedule from starting another one."""
    waits = held.c.overlap.in_([text_literal("skip"), text_literal("queue")])
    return and_(waits, _is_among(held.c.name, select(live.c.schedule)))


def _move(ready: Any) -> Any:
    """Return the statement that sets the next times of the schedules."""
    queued = case((ready.c.is_held_back, ready.c.latest), else_=ready.c.second)
    started = case((~ready.c.is_held_back, ready.c.latest))
    return (
        update(Schedule)
        .where(Schedule.name == ready.c.name)
        .values(
            next_at=ready.c.next_at,
            queued_for=case((Schedule.overlap == text_literal("queue"), queued)),
            last_at=func.coalesce(started, Schedule.last_at),
        )
        .returning(Schedule.name)
    )


def _cancel(locked: Any, ready: Any) -> list[Any]:
    """Return the CTEs that cancel the locked workflows of the schedules, as `workflows.cancel` does."""

    def selected(*conditions: ColumnElement[bool]) -> Any:
        mine = _is_among(locked.c.schedule, select(ready.c.name))
        ids = select(locked.c.id).where(mine, *conditions).subquery()
        return update(Workflow).where(Workflow.id == func.any(all_of(ids.c.id)))

    is_running = locked.c.status == text_literal(WorkflowStatus.RUNNING)
    asks = selected(is_running, ~has_saga(locked.c) | is_undecided(locked.c))
    asked = asks.values(cancel_interrupts=func.coalesce(Workflow.cancel_interrupts, false())).cte("asked")
    ended = selected(~is_running, ~has_saga(locked.c)).values(
        status=text_literal(WorkflowStatus.CANCELLED),
        ready_at=null(),
        due_at=null(),
        deadline=null(),
        cancel_interrupts=null(),
        completed_at=func.now(),
        updated_at=func.now(),
    )
    cancelled = ended.returning(Workflow.id).cte("cancelled")
    hands = selected(~is_running, is_undecided(locked.c)).values(**handed_to_worker(SagaState.CANCELLED))
    handed = hands.returning(Workflow.id).cte("handed")
    return [asked, drop_waits(cancelled.c.id).cte("dropped"), drop_waits(handed.c.id).cte("also_dropped")]


def start_by_hand() -> Any:
    """Return the statement that starts workflows of one schedule, for a trigger or a backfill.

    The arrays are those of `fire`. A workflow whose key is taken is not started. Each row has an id and a key.
    """
    return _insert(true())


def _insert(condition: ColumnElement[bool]) -> Any:
    """Return the statement that inserts workflows of schedules that meet a condition, unless a key is taken.

    Another conflict is an error: a server that lost its last transactions gives out an id twice, and the workflow
    must not be lost with it.
    """
    given = _given(schedules=Text(), times=_TIME, starts=_TIME, keys=Text(), tokens=BigInteger())
    columns = ("workflow", "input", "codec", "queue", "partition_key", "priority", "timeout", "name")
    own: Any = (
        select(*(getattr(Schedule, each) for each in columns))
        .where(Schedule.name == given.c.schedules, condition)
        .limit(ONE)
        .lateral("own_schedule")
    )
    of = own.c
    values = {
        "name": of.workflow,
        "input": of.input,
        "codec": of.codec,
        "queue": of.queue,
        "partition_key": of.partition_key,
        "priority": of.priority,
        "timeout": of.timeout,
        "key": given.c["keys"],
        "token": given.c.tokens,
        "schedule": of.name,
        "scheduled_for": given.c.times,
        "ready_at": case((given.c.starts.is_(None), func.now())),
        "due_at": given.c.starts,
    }
    new = select(*values.values()).select_from(given.join(own, true()))
    return (
        insert(Workflow)
        .from_select(list(values), new, include_defaults=False)
        .on_conflict_do_nothing(index_elements=[Workflow.name, Workflow.key], index_where=_WITH_KEY)
        .returning(Workflow.id, Workflow.queue, Workflow.key)
    )


def put() -> Any:
    """Return the statement that makes a schedule, or changes the schedule of the name.

    A schedule keeps its state, and its next time unless the rule has changed.
    """
    values: dict[str, Any] = {
        each.name: bindparam(each.name, type_=each.type)
        for each in Schedule.__table__.columns
        if each.name not in {"queued_for", "last_at", "paused_at", "created_at", "updated_at"}
    }
    values["input"] = json_of(bindparam("input", type_=Text()))
    new = insert(Schedule).values(values)
    same = [getattr(Schedule, each).is_not_distinct_from(new.excluded[each]) for each in _RULE]
    changed = {each: new.excluded[each] for each in values if each not in {"name", "next_at"}}
    return new.on_conflict_do_update(
        index_elements=[Schedule.name],
        set_=changed
        | {
            "next_at": case((and_(*same), Schedule.next_at), else_=new.excluded.next_at),
            "queued_for": case((new.excluded.overlap == text_literal("queue"), Schedule.queued_for)),
            "updated_at": func.now(),
        },
    )


def listed() -> Any:
    """Return the query for all schedules, by name."""
    return select(*_COLUMNS).order_by(Schedule.name)


def of_name() -> Any:
    """Return the query for the schedule of a `name`."""
    return select(*_COLUMNS).where(_has_name())


def locked() -> Any:
    """Return the query for the schedule of a `name`, and the time of the database's clock, which locks the row."""
    return select(*_COLUMNS, func.now().label("now")).where(_has_name()).with_for_update(of=Schedule)


def pause() -> Any:
    """Return the statement that pauses the schedule of a `name`, unless it is paused."""
    paused_at = func.coalesce(Schedule.paused_at, func.now())
    return update(Schedule).where(_has_name()).values(paused_at=paused_at).returning(Schedule.name)


def unpause() -> Any:
    """Return the statement that resumes the schedule of a `name`, and sets its next time."""
    after = bindparam("after", type_=_TIME)
    return update(Schedule).where(_has_name()).values(paused_at=null(), next_at=after).returning(Schedule.name)


def remove() -> Any:
    """Return the statement that deletes the schedule of a `name`."""
    return delete(Schedule).where(_has_name()).returning(Schedule.name)


def taken_keys() -> Any:
    """Return the query for the keys, among `keys`, that workflows of a `name` have."""
    asked = func.any(bindparam("keys", type_=ARRAY(Text())))
    return select(Workflow.key).where(Workflow.name == bindparam("name", type_=Text()), Workflow.key == asked)


_COLUMNS: Any = (
    *(each for each in Schedule.__table__.columns if each.name != "input"),
    text_of(Schedule.input).label("input"),
)


def _has_name() -> ColumnElement[bool]:
    return Schedule.name == bindparam("schedule", type_=Text())


def _timed(pairs: Any, *columns: Any) -> Any:
    """Return the query for the schedules of a pair that have a next time."""
    return select(*columns).where(
        Schedule.queue == pairs.c.queue,
        Schedule.workflow == pairs.c.name,
        Schedule.paused_at.is_(None),
        Schedule.next_at.is_not(None),
    )


def _queued(pairs: Any) -> Any:
    """Return the query for the names of the schedules of a pair whose queued time may start a workflow."""
    lives = select(ONE).where(Workflow.schedule == Schedule.name, Workflow.completed_at.is_(None))
    return select(Schedule.name).where(
        Schedule.queue == pairs.c.queue,
        Schedule.workflow == pairs.c.name,
        Schedule.paused_at.is_(None),
        Schedule.queued_for.is_not(None),
        ~is_found(lives, Workflow),
    )


def _given(**columns: Any) -> Any:
    """Return the rows of arrays, one column each; arrays of other types than text are given as text."""
    binds: dict[str, ColumnElement[Any]] = {name: bindparam(name, type_=ARRAY(Text())) for name in columns}
    for name, kind in columns.items():
        if not isinstance(kind, Text):
            binds[name] = array_of(bindparam(name, type_=Text()), kind)
    named = [column(name, type_) for name, type_ in columns.items()]
    return unnest(*binds.values()).table_valued(*named).render_derived(name="given_" + next(iter(columns)))


def _count(rows: Any) -> Any:
    return select(COUNT).select_from(rows).scalar_subquery()
