"""The statements of workers: claim what is ready, wake what is due, take over what the dead left.

Every look-up goes by a partial index that holds live workflows alone, so it costs the same however many have
ended. Rows that somebody else has locked are skipped: they are looked at again a moment later.

While an old transaction keeps what has ended from being cleaned up, the entries of it stay in the indexes, and a
look-up walks through them. So looks are bounded, by a `floor` of the ids and by how long ago a time has passed;
`tick` without bounds finds what these have hidden.
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
    DOUBLE,
    LAST_TIME,
    ONE,
    ZERO,
    bounded,
    constant,
    constant_number,
    earlier,
    finite,
    has_progressed,
    interval,
    json_of,
    later,
    own_queue,
    pg,
    seconds_of,
    seconds_until,
    size_of,
    text_of,
    unnest,
)
from pgqrs.types import WorkflowStatus

MOST_AT_ONCE = 2000
"""The most workflows that one look wakes, takes over or ends; what is left is dealt with at the next."""

LEVELS = 16
"""How many different priorities of what is ready are looked at in search of the lowest id."""

MOST_LOOKED_AT = 100
"""How many ready workflows of a queue and a name are looked at in search of another codec."""

LATENESS = 1.0
"""How long, in seconds, after its deadline a running workflow is left to its executor, which is gentler."""

_LAST_COUNT = literal_column(str(2**63 - 1), BigInteger())


def claim() -> Any:
    """Return the statement that claims up to `limit` ready workflows for an executor, by priority, then by age.

    It looks at the first `window` of them with ids above `floor` and not in `avoid`, and takes the first of these
    that no other claim has locked: as many as have inputs of `budget` bytes, and one more. Each row answers with
    the columns of `ClaimedRun`, its priority, and `seen`, how many there were in the window; there is a row of
    nulls where none was claimed.
    """
    ready = _window().cte("ready").prefix_with("MATERIALIZED")
    first = _affordable(ready)
    # By the row's own columns, which are looked at again once it is locked.
    locked: Any = (
        select(Workflow.id)
        .select_from(first.join(Workflow, Workflow.id == first.c.id))
        .where(Workflow.ready_at.is_not(None))
        .order_by(first.c.priority.desc(), first.c.id)
        .limit(bindparam("limit", type_=BigInteger()))
        .with_for_update(key_share=True, skip_locked=True, of=Workflow)
        .cte("locked")
        .prefix_with("MATERIALIZED")  # run once, or it would lock more than it returns
    )
    taken = (
        update(Workflow)
        .where(Workflow.id == locked.c.id)
        .values(
            status=constant(WorkflowStatus.RUNNING),
            epoch=Workflow.epoch + ONE,
            claim=bindparam("token", type_=BigInteger()),
            executor=bindparam("executor", type_=Uuid()),
            attempts=Workflow.attempts + ONE,
            ready_at=null(),
            error=null(),
            deadline=func.coalesce(Workflow.deadline, later(bounded(Workflow.timeout))),
            started_at=func.coalesce(Workflow.started_at, func.now()),
            completed_at=null(),
            updated_at=func.now(),
        )
        .returning(*_claimed())
        .cte("taken")
    )
    seen = select(COUNT.label("seen")).select_from(ready).subquery("seen")
    return select(*taken.c, seen.c.seen).select_from(seen.outerjoin(taken, true()))


def _window() -> Any:
    """Return the query for the first ready workflows of all pairs: nothing is locked by it.

    A look-up for each pair of a queue and a name, so workflows of other names in between cost nothing.
    """
    window = bindparam("window", type_=BigInteger())
    pairs = _pairs()
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
    """Return those of the ready workflows whose predecessors leave something of the `budget`."""
    order = (ready.c.priority.desc(), ready.c.id)
    before = pg.sum(ready.c.size).over(order_by=order, rows=(None, 0)) - ready.c.size
    counted = select(ready.c.id, ready.c.priority, before.label("before")).subquery("counted")
    affordable = counted.c.before < bindparam("budget", type_=BigInteger())
    return select(counted.c.id, counted.c.priority).where(affordable).subquery("first_ready")


def claimed() -> Any:
    """Return the query for what claims took whose answers were lost: the tokens tell."""
    own = Workflow.executor == bindparam("executor", type_=Uuid())
    taken = Workflow.claim == func.any(bindparam("tokens", type_=ARRAY(BigInteger())))
    running = Workflow.status == constant(WorkflowStatus.RUNNING)
    return select(*_claimed()).where(own, taken, running)


def tick() -> Any:
    """Return the statement that wakes what is due and takes over the runs of dead executors.

    It looks at ready workflows with ids above `floor`, and at times that passed in the last `past` seconds. It
    answers with one row: the lowest id of what is ready, if the priorities are few enough to tell, and how many
    priorities were looked at; how many workflows were woken and taken over, and the lowest id of these; the ids of
    those whose deadline has passed, how many executors are suspected, the seconds until the next timer or
    deadline, and the seconds that all this took.
    """
    suspects = executors.suspect().cte("suspects")
    woken = _woken().cte("woken")
    recovered = _recovered().cte("recovered")
    suspected = select(COUNT).select_from(Executor).where(executors.is_suspected())
    levels = _levels()
    return select(
        select(pg.min(levels.c.id)).scalar_subquery().label("lowest"),
        select(func.coalesce(pg.max(levels.c.depth), ZERO)).scalar_subquery().label("levels"),
        _count(woken).label("woken"),
        _count(recovered).label("recovered"),
        func.least(_lowest(woken), _lowest(recovered)).label("lowest_again"),
        select(pg.array_agg(_expired().c.id)).scalar_subquery().label("expired"),
        (_count(suspects) + suspected.scalar_subquery()).label("suspects"),
        func.least(_until(Workflow.due_at), _until(Workflow.deadline)).label("next_due"),
        seconds_of(pg.clock_timestamp() - pg.statement_timestamp()).label("took"),
    )


def codecs_of_others() -> Any:
    """Return the query for names of ready workflows that are written with another codec, and for that codec.

    Of each pair of a queue and a name only the first are looked at.
    """
    pairs = _pairs()
    first = (
        select(Workflow.codec)
        .where(Workflow.queue == pairs.c.queue, Workflow.name == pairs.c.name, Workflow.ready_at.is_not(None))
        .order_by(Workflow.priority.desc(), Workflow.id)
        .limit(constant_number(MOST_LOOKED_AT))
        .lateral("first")
    )
    other = first.c.codec.is_distinct_from(bindparam("codec", type_=Text()))
    return select(pairs.c.name, first.c.codec).select_from(pairs.join(first, true())).where(other).distinct()


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
        .where(Workflow.deadline < func.now(), _can_count())
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
            claim=null(),
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
    since_start = seconds_of(finite(Workflow.deadline) - finite(Workflow.started_at))
    given = func.coalesce(bounded(Workflow.timeout), since_start)
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
        seconds_until(Workflow.deadline),
        Workflow.claim,
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
    """Return the conditions on a workflow that is ready for a worker: its queue, its name, and its codec.

    One whose counters are at their end, which only a row written by hand can be, is left out: counting on would
    fail, and with it the claim of everything else.
    """
    return [
        Workflow.queue == pairs.c.queue,
        Workflow.name == pairs.c.name,
        Workflow.ready_at.is_not(None),
        Workflow.id > bindparam("floor", type_=BigInteger()),
        Workflow.codec.is_not_distinct_from(bindparam("codec", type_=Text())),
        Workflow.attempts < _LAST_COUNT,
        _can_count(),
    ]


def _can_count() -> ColumnElement[bool]:
    return Workflow.epoch < _LAST_COUNT


def _levels() -> Any:
    """Return the lowest ready id of each priority of each pair, up to `LEVELS` priorities."""
    pairs = _pairs()
    top = _first_ready(pairs).lateral("top")
    level = (
        select(pairs.c.queue, pairs.c.name, top.c.priority, top.c.id, ONE.label("depth"))
        .select_from(pairs.join(top, true()))
        .cte("levels", recursive=True)
    )
    lower = _first_ready(level).where(Workflow.priority < level.c.priority).lateral("lower")
    next_level = (
        select(level.c.queue, level.c.name, lower.c.priority, lower.c.id, level.c.depth + ONE)
        .select_from(level.join(lower, true()))
        .where(level.c.depth < constant_number(LEVELS))
    )
    return level.union_all(next_level)


def _first_ready(pairs: Any) -> Any:
    first = select(Workflow.priority, Workflow.id).where(*_is_for(pairs))
    return first.order_by(Workflow.priority.desc(), Workflow.id).limit(ONE)


def _woken() -> Any:
    due = (
        select(Workflow.id)
        .where(Workflow.due_at <= func.now(), Workflow.due_at >= _since())
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
        .where(_can_count())
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
            claim=null(),
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
    expired = select(Workflow.id).where(
        Workflow.deadline < func.now(), Workflow.deadline >= _since(), Workflow.deadline < passed, _can_count()
    )
    return expired.limit(_most()).subquery("expired")


def _since() -> ColumnElement[Any]:
    return earlier(bindparam("past", type_=DOUBLE))


def _until(time: Any) -> ColumnElement[Any]:
    """Return the seconds until the earliest of the times that have not passed, and that will."""
    earliest = select(pg.min(time)).where(time > func.now(), time < LAST_TIME).scalar_subquery()
    return seconds_of(earliest - func.now())


def _lowest(cte: Any) -> Any:
    return select(pg.min(cte.c.id)).scalar_subquery()


def _unheld() -> dict[str, Any]:
    return {"ready_at": null(), "due_at": null(), "executor": null()}


def _count(cte: Any) -> Any:
    return select(COUNT).select_from(cte).scalar_subquery()


def _most() -> ColumnElement[int]:
    return constant_number(MOST_AT_ONCE)
