"""The statements of maintenance: due timers, expired deadlines, and the runs of dead executors."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    bindparam,
    case,
    column,
    exists,
    func,
    null,
    select,
    true,
    union,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql import ColumnElement

from pgqrs.models import Executor, Step, Text, Wait, Workflow
from pgqrs.storage.queries import executors
from pgqrs.storage.queries.claims import can_count, first_ready, queue_name_pairs
from pgqrs.storage.queries.delivery import has_new
from pgqrs.storage.queries.schedules import seconds_until_next
from pgqrs.storage.sql.expressions import (
    COUNT,
    DOUBLE,
    LAST_TIME,
    ONE,
    ZERO,
    bounded,
    finite,
    has_progressed,
    interval,
    json_of,
    number_literal,
    pg,
    queue_or_default,
    seconds_ago,
    seconds_of,
    text_literal,
    unnest,
)
from pgqrs.storage.sql.sagas import handed_to_worker, has_saga, is_undecided, unwinds
from pgqrs.storage.sql.waits import all_of, drop_waits
from pgqrs.types import SagaState, StepStatus, WorkflowStatus

MAX_ROWS = 2000
"""Maximum workflows that one statement wakes, recovers or ends; the next statement handles the rest."""

MAX_PRIORITIES = 16
"""Maximum priorities of ready workflows that are examined for the lowest id."""

MAX_READY = 100
"""Maximum ready workflows of a queue and a name that are examined for another codec."""

DEADLINE_GRACE = 1.0
"""Seconds after its deadline in which only the executor ends a running workflow, which is gentler."""


def maintain() -> Any:
    """Return the statement that wakes workflows whose timer is due and recovers the runs of dead executors.

    The statement considers ready workflows with ids above `floor`, and times that passed in the last `past`
    seconds. It returns one row:

    * `lowest`: the lowest ready id, unless `levels`, the examined priorities, has reached `MAX_PRIORITIES`;
    * `woken` and `recovered`: the number of workflows, and `lowest_again`, the lowest id among them;
    * `expired`: the ids of workflows whose deadline has passed;
    * `suspects`: the number of suspected executors;
    * `next_due`: the seconds until the next timer or deadline;
    * `next_schedule`: the seconds until the next time of a schedule, 0 or less if one is due;
    * `has_new`: true if there is a message or a wait that no delivery has considered;
    * `took`: the seconds that the statement took.
    """
    suspects = executors.suspect().cte("suspects")
    woken, timed_out, waits_dropped = _fire_timers()
    recovered = _recover_runs().cte("recovered")
    suspected = select(COUNT).select_from(Executor).where(executors.is_suspected())
    levels = _levels()
    return select(
        select(pg.min(levels.c.id)).scalar_subquery().label("lowest"),
        select(func.coalesce(pg.max(levels.c.depth), ZERO)).scalar_subquery().label("levels"),
        _count(woken).label("woken"),
        _count(recovered).label("recovered"),
        func.least(_lowest(woken), _lowest(recovered)).label("lowest_again"),
        select(pg.array_agg(_past_deadline().c.id)).scalar_subquery().label("expired"),
        (_count(suspects) + suspected.scalar_subquery()).label("suspects"),
        func.least(_until(Workflow.due_at), _until(Workflow.deadline)).label("next_due"),
        seconds_until_next().label("next_schedule"),
        has_new().label("has_new"),
        seconds_of(pg.clock_timestamp() - pg.statement_timestamp()).label("took"),
    ).add_cte(timed_out, waits_dropped)


def codecs_of_others() -> Any:
    """Return the query for the names and codecs of ready workflows that are written with another codec.

    It examines the first `MAX_READY` workflows of each pair of a queue and a name.
    """
    pairs = queue_name_pairs()
    first = (
        select(Workflow.codec)
        .where(Workflow.queue == pairs.c.queue, Workflow.name == pairs.c.name, Workflow.ready_at.is_not(None))
        .order_by(Workflow.priority.desc(), Workflow.id)
        .limit(number_literal(MAX_READY))
        .lateral("first")
    )
    other = first.c.codec.is_distinct_from(bindparam("codec", type_=Text()))
    return select(pairs.c.name, first.c.codec).select_from(pairs.join(first, true())).where(other).distinct()


def end_past_deadline() -> Any:
    """Return the statement that ends workflows whose deadline has passed, each with its own error.

    A workflow whose sagas are to be undone is handed to a worker instead.
    """
    rows = (
        unnest(bindparam("ids", type_=ARRAY(BigInteger())), bindparam("errors", type_=ARRAY(Text())))
        .table_valued(column("id", BigInteger()), column("error", Text()))
        .render_derived(name="timed_out")
    )
    held = (
        select(Workflow.id, rows.c.error, Workflow.saga_state)
        .join_from(rows, Workflow, Workflow.id == rows.c.id)
        .where(Workflow.deadline < func.now(), can_count(), _may_end())
        .with_for_update(key_share=True, skip_locked=True, of=Workflow)
        .cte("held")
    )
    ended = (
        update(Workflow)
        .where(Workflow.id == held.c.id, held.c.saga_state.is_(None))
        .values(
            status=text_literal(WorkflowStatus.ERROR),
            error=json_of(held.c.error),
            epoch=Workflow.epoch + ONE,
            claim=null(),
            **_unheld(),
            deadline=null(),
            cancel_interrupts=null(),
            completed_at=func.now(),
            updated_at=func.now(),
        )
        .returning(Workflow.id, Workflow.name, Workflow.queue)
    )
    handed = update(Workflow).where(Workflow.id == held.c.id, held.c.saga_state.is_not(None))
    handed_over = handed.values(**handed_to_worker(SagaState.TIMED_OUT)).cte("handed")
    dropped = drop_waits(held.c.id).cte("dropped")
    return ended.add_cte(handed_over, dropped)


def given_times() -> Any:
    """Return the query for the timeouts of workflows in seconds, as far as they are known."""
    since_start = seconds_of(finite(Workflow.deadline) - finite(Workflow.started_at))
    given = func.coalesce(bounded(Workflow.timeout), since_start)
    asked = bindparam("ids", type_=ARRAY(BigInteger()))
    return select(Workflow.id, given.label("timeout")).where(Workflow.id == func.any(asked))


def _levels() -> Any:
    """Return the lowest ready id of each priority of each pair, up to `MAX_PRIORITIES` priorities."""
    pairs = queue_name_pairs()
    top = first_ready(pairs).lateral("top")
    level = (
        select(pairs.c.queue, pairs.c.name, top.c.priority, top.c.id, ONE.label("depth"))
        .select_from(pairs.join(top, true()))
        .cte("levels", recursive=True)
    )
    lower = first_ready(level).where(Workflow.priority < level.c.priority).lateral("lower")
    next_level = (
        select(level.c.queue, level.c.name, lower.c.priority, lower.c.id, level.c.depth + ONE)
        .select_from(level.join(lower, true()))
        .where(level.c.depth < number_literal(MAX_PRIORITIES))
    )
    return level.union_all(next_level)


def _fire_timers() -> tuple[Any, Any, Any]:
    """Return three CTEs: due workflows become ready, their waits time out, and all their waits are dropped."""
    due: Any = (
        select(Workflow.id)
        .where(Workflow.due_at <= func.now(), Workflow.due_at >= _since())
        .order_by(Workflow.due_at)
        .limit(_most())
        .with_for_update(key_share=True, skip_locked=True)
        .cte("due")
    )
    woken = (
        update(Workflow)
        .where(Workflow.id == due.c.id)
        .values(
            status=text_literal(WorkflowStatus.PENDING),
            ready_at=Workflow.due_at,
            due_at=null(),
            updated_at=func.now(),
        )
        .returning(Workflow.id)
        .cte("woken")
    )
    return woken, _time_out_waits(due).cte("timed_out"), drop_waits(due.c.id).cte("waits_dropped")


def _time_out_waits(due: Any) -> Any:
    """Return the statement that gives steps whose timeout has passed the outcome that their row holds for it.

    An insert with a conflict always finds the row by its key; an update with a join may read the whole table.
    """
    values: dict[str, Any] = {
        "workflow_id": Wait.workflow_id,
        "step_id": Wait.step_id,
        "status": text_literal(StepStatus.RUNNING),
        "epoch": ZERO,
        "started_at": func.now(),
    }
    waits = select(*values.values()).distinct().where(Wait.workflow_id == func.any(all_of(due.c.id)))
    statement = insert(Step).from_select(list(values), waits, include_defaults=False)
    outcome = case((Step.error.is_(None), text_literal(StepStatus.SUCCESS)), else_=text_literal(StepStatus.ERROR))
    return statement.on_conflict_do_update(
        index_elements=[Step.workflow_id, Step.step_id],
        set_={"status": outcome, "retry_at": null(), "completed_at": func.now()},
        where=(Step.status == text_literal(StepStatus.RUNNING)) & (Step.retry_at <= func.now()),
    ).returning(Step.workflow_id)


def _recover_runs() -> Any:
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
        .where(can_count())
        .limit(_most())
        .with_for_update(key_share=True, skip_locked=True, of=Workflow)
        .cte("lost")
    )
    is_to_unwind = Workflow.cancel_interrupts.is_not(None) & is_undecided()
    cancelled = Workflow.cancel_interrupts.is_not(None) & ~has_saga()
    return (
        update(Workflow)
        .where(Workflow.id == lost.c.id)
        .values(
            epoch=Workflow.epoch + ONE,
            claim=null(),
            executor=null(),
            due_at=null(),
            queue=queue_or_default(),
            status=case(
                (cancelled, text_literal(WorkflowStatus.CANCELLED)), else_=text_literal(WorkflowStatus.PENDING)
            ),
            ready_at=case((~cancelled, func.now())),
            deadline=case((~cancelled, Workflow.deadline)),
            completed_at=case((cancelled, func.now())),
            cancel_interrupts=null(),
            saga_state=case((is_to_unwind, text_literal(SagaState.CANCELLED)), else_=Workflow.saga_state),
            attempts=case((has_progressed(), ZERO), else_=Workflow.attempts),
            updated_at=func.now(),
        )
        .returning(Workflow.id)
    )


def _past_deadline() -> Any:
    late = func.now() - interval(DEADLINE_GRACE)
    passed = case((Workflow.executor.is_(None), func.now()), else_=late)
    # The first condition makes the index usable.
    expired = select(Workflow.id).where(
        Workflow.deadline < func.now(), Workflow.deadline >= _since(), Workflow.deadline < passed, can_count()
    )
    expired = expired.where(_may_end())
    return expired.limit(_most()).subquery("expired")


def _may_end() -> ColumnElement[bool]:
    """Return the condition that maintenance may end a workflow: its executor lets it unwind, as a worker does."""
    return ~has_saga() | (Workflow.executor.is_(None) & ~unwinds())


def _since() -> ColumnElement[Any]:
    return seconds_ago(bindparam("past", type_=DOUBLE))


def _until(time: Any) -> ColumnElement[Any]:
    """Return the seconds until the earliest time after now and before `LAST_TIME`."""
    earliest = select(pg.min(time)).where(time > func.now(), time < LAST_TIME).scalar_subquery()
    return seconds_of(earliest - func.now())


def _lowest(cte: Any) -> Any:
    return select(pg.min(cte.c.id)).scalar_subquery()


def _unheld() -> dict[str, Any]:
    return {"ready_at": null(), "due_at": null(), "executor": null()}


def _count(cte: Any) -> Any:
    return select(COUNT).select_from(cte).scalar_subquery()


def _most() -> ColumnElement[int]:
    return number_literal(MAX_ROWS)
