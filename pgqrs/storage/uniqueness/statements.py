"""The statements of submissions with a unique value.

A workflow holds its value as the index of the values has it: until its end, or as long as its epoch is 0. So a
start and an end give the value up without a write of their own.

An insert that meets the holder of another transaction waits for the end of that transaction. If a claim has
started the holder meanwhile, the insert begins anew, finds no holder, and makes a new workflow. So a submission
becomes either a part of the holder before it starts, or a new workflow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from sqlalchemy import (
    ARRAY,
    BigInteger,
    and_,
    bindparam,
    case,
    delete,
    func,
    null,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased
from sqlalchemy.sql import ColumnElement

from pgqrs.models import HOLDS_VALUE, Text, Throttle, Workflow
from pgqrs.storage.queries.workflows import holds_value
from pgqrs.storage.sql.expressions import (
    DOUBLE,
    ONE,
    ZERO,
    ids_of,
    is_found,
    json_of,
    number_literal,
    seconds_after,
    seconds_ago,
    seconds_from_now,
    text_of,
    unnest,
)
from pgqrs.storage.uniqueness.records import UniqueSubmission
from pgqrs.storage.writes.attributes import WrittenAttributes, insert_values, replace_values
from pgqrs.storage.writes.columns import CallerColumns

MAX_FORGOTTEN = 2000
"""Maximum throttles that one statement deletes; the next statement handles the rest."""


class UniqueColumns(CallerColumns[UniqueSubmission]):
    """The submissions of one statement, which have different unique values."""

    name = "unique"
    record = UniqueSubmission
    unsent: ClassVar = frozenset({"attributes"})


class AttributesColumns(CallerColumns[WrittenAttributes]):
    """The attributes of the submissions of one statement."""

    name = "attributes"
    record = WrittenAttributes


SUBMISSIONS = UniqueColumns()

ATTRIBUTES = AttributesColumns()


def insert_attributes() -> Any:
    """Return the statement that inserts the attributes of new workflows."""
    return insert_values(ATTRIBUTES.rows().c).on_conflict_do_nothing()


def replace_attributes() -> Any:
    """Return the statement that sets the attributes of workflows whose submissions were replaced."""
    return replace_values(ATTRIBUTES.rows().c)


def submit() -> Any:
    """Return the statement that inserts workflows unless another workflow holds their values or has their keys."""
    statement = _insert(_times_of_delay)
    return _returning(statement.on_conflict_do_nothing())


def submit_traced() -> Any:
    """Return the statement of `submit` for workflows with the trace context `new_trace`: it needs no UPDATE."""
    return _returning(_insert(_times_of_delay, trace=_trace()).on_conflict_do_nothing())


def replace() -> Any:
    """Return the statement that inserts workflows, or replaces the submissions of holders that did not start."""
    statement = _insert(_times_of_delay, unless_started=True)
    new = statement.excluded
    return _returning(_changing(statement, {"ready_at": new.ready_at, "due_at": new.due_at}))


def debounce() -> Any:
    """Return the statement that inserts workflows, or replaces the submissions of holders that have not started.

    They are due `debounce` seconds from now, and at most `at_most` seconds after the first submission.
    """
    statement = _insert(lambda _given: _quiet_from(func.now()), unless_started=True)
    return _returning(_changing(statement, _quiet_from(Workflow.created_at)))


def throttle() -> Any:
    """Return the statement that inserts workflows, or replaces the submissions of holders that have not started.

    A new workflow is due when its throttle allows the next start; a holder keeps its time. Requires that
    `lock_throttles` has locked the throttles in the same transaction.
    """
    last = _last_runs().cte("last").prefix_with("MATERIALIZED")
    statement = _insert(lambda _given: _times_of(last.c.next_at), last, unless_started=True)
    made = _returning(_changing(statement, {})).cte("made")
    starts_at = func.coalesce(made.c.due_at, func.now())
    noted = (
        update(Throttle)
        .where(
            Throttle.name == made.c.name,
            Throttle.unique_value == made.c.unique_value,
            Throttle.workflow_id.is_distinct_from(made.c.id),
        )
        .values(workflow_id=made.c.id, starts_at=starts_at, free_at=seconds_after(starts_at, _seconds("throttle")))
        .cte("noted")
    )
    return select(made).add_cte(noted)


def lock_throttles() -> Any:
    """Return the statement that locks the throttles of a `name` and some `values`, and makes the missing ones."""
    values = unnest(bindparam("values", type_=ARRAY(Text()))).column_valued("value")
    columns = {
        "name": bindparam("name", type_=Text()),
        "unique_value": values,
        "period": _seconds("throttle"),
        "starts_at": func.now(),
        "free_at": func.now(),
    }
    new = select(*columns.values()).order_by(values)
    statement = insert(Throttle).from_select(list(columns), new, include_defaults=False)
    return statement.on_conflict_do_update(
        index_elements=[Throttle.name, Throttle.unique_value], set_={"period": statement.excluded.period}
    )


def holders() -> Any:
    """Return the query for the workflows of a `name` that hold one of the `values`."""
    asked = func.any(bindparam("values", type_=ARRAY(Text())))
    has_started = (Workflow.epoch != ZERO).label("has_started")
    columns = (Workflow.unique_value, Workflow.id, Workflow.token, has_started)
    return select(*columns).where(
        Workflow.name == bindparam("name", type_=Text()), Workflow.unique_value == asked, holds_value()
    )


def give_up() -> Any:
    """Return the statement that takes the unique `value` from a `workflow`."""
    return (
        update(Workflow)
        .where(
            Workflow.id == bindparam("workflow", type_=BigInteger()),
            Workflow.unique_value == bindparam("value", type_=Text()),
        )
        .values(unique_value=null(), unique_until_start=null(), updated_at=func.now())
    )


def set_trace() -> Any:
    """Return the statement that gives the workflows of `ids`, the text of an array, the trace context `new_trace`.

    The same transaction has made them.
    """
    ids = ids_of(bindparam("ids", type_=Text()))
    return update(Workflow).where(Workflow.id == func.any(ids)).values(trace=_trace())


def written_before() -> Any:
    """Return the query for the workflows that an earlier sending has named by `ids`, the text of an array."""
    ids = ids_of(bindparam("ids", type_=Text()))
    has_started = or_(Workflow.epoch != ZERO, Workflow.completed_at.is_not(None))
    return select(
        Workflow.id,
        Workflow.token,
        Workflow.codec,
        text_of(Workflow.input).label("input"),
        has_started.label("has_started"),
        Workflow.ready_at.is_not(None).label("is_ready"),
    ).where(Workflow.id == func.any(ids))


def forget_throttles() -> Any:
    """Return the statement that deletes throttles that have no meaning any more.

    It skips the throttles that a submission has locked, whose transaction may last.
    """
    last = aliased(Workflow, name="last_run")
    waits = and_(last.epoch == ZERO, last.completed_at.is_(None))
    counts = last.started_at > seconds_ago(Throttle.period)
    needed = is_found(select(ONE).where(last.id == Throttle.workflow_id, or_(waits, counts)), last)
    old = (
        select(Throttle.name, Throttle.unique_value)
        .where(Throttle.free_at < func.now(), ~needed)
        .limit(number_literal(MAX_FORGOTTEN))
        .with_for_update(skip_locked=True, of=Throttle)
        .cte("old")
        .prefix_with("MATERIALIZED")
    )
    return delete(Throttle).where(Throttle.name == old.c.name, Throttle.unique_value == old.c.unique_value)


def _trace() -> ColumnElement[str]:
    return bindparam("new_trace", type_=Text())


def _insert(
    times: Callable[[Any], dict[str, Any]],
    *sources: Any,
    unless_started: bool = False,
    **further: ColumnElement[Any],
) -> Any:
    """Return the insert of the submissions, with the times that a function of their columns returns.

    Of the further `sources` each has one row for a submission, with its value. An id that another workflow has is
    left out: a server that lost its last transactions gives out an id twice. With `unless_started` a submission is
    left out whose holder has started: the conflict would lock the holder, and hold up its run.
    """
    rows = SUBMISSIONS.rows()
    given = rows.c
    other = aliased(Workflow, name="other")
    conditions = [~is_found(select(ONE).where(other.id == given.workflow_id), other)]
    if unless_started:
        started = aliased(Workflow, name="started")
        own = (started.name == given.name) & (started.unique_value == given.unique_value)
        conditions.append(~is_found(select(ONE).where(own, holds_value(started), started.epoch != ZERO), started))
    values = {
        "id": given.workflow_id,
        "name": given.name,
        "input": json_of(given.input),
        "token": given.token,
        "queue": given.queue,
        "priority": given.priority,
        "timeout": given.timeout,
        "key": given.key,
        "codec": given.codec,
        "partition_key": given.partition_key,
        "unique_value": given.unique_value,
        "unique_until_start": given.until_start,
        **times(given),
        **further,
    }
    source = rows
    for each in sources:
        source = source.join(each, each.c.unique_value == given.unique_value)
    # In one order, so that two statements with several values do not wait for each other.
    new = select(*values.values()).select_from(source).where(*conditions).order_by(given.unique_value)
    return insert(Workflow).from_select(list(values), new, include_defaults=False)


def _changing(statement: Any, times: dict[str, Any]) -> Any:
    """Return an insert that replaces the submission of a holder that has not started, with these times."""
    kept = ("input", "codec", "queue", "partition_key", "priority", "timeout")
    return statement.on_conflict_do_update(
        index_elements=[Workflow.name, Workflow.unique_value],
        index_where=text(HOLDS_VALUE),
        set_={**{name: statement.excluded[name] for name in kept}, **times, "updated_at": func.now()},
        where=Workflow.epoch == ZERO,
    )


def _returning(statement: Any) -> Any:
    columns = (Workflow.id, Workflow.token, Workflow.name, Workflow.unique_value, Workflow.due_at)
    return statement.returning(*columns, Workflow.ready_at.is_not(None).label("is_ready"))


def _times_of_delay(given: Any) -> dict[str, Any]:
    return {
        "ready_at": case((given.delay.is_(None), func.now())),
        "due_at": seconds_from_now(given.delay),
    }


def _quiet_from(first: Any) -> dict[str, Any]:
    """Return the times of a workflow that is debounced; `first` is the time of its first submission."""
    quiet = func.least(seconds_from_now(_seconds("debounce")), seconds_after(first, _seconds("at_most")))
    return _times_of(quiet)


def _times_of(time: Any) -> dict[str, Any]:
    """Return the times of a workflow that may start at a time; it is ready if the time has passed."""
    return {"ready_at": case((time <= func.now(), func.now())), "due_at": case((time > func.now(), time))}


def _last_runs() -> Any:
    """Return the query for the next times that the throttles of the submissions allow, by value.

    It locks no workflow: the caller's transaction may last, and the last run may be under way. If the last run has
    not started, the time counts only if it starts before the statement looks for the holder, and so just now.
    """
    rows = SUBMISSIONS.rows()
    run = aliased(Workflow, name="run")
    # A workflow that has continued as new does not tell its first start any more.
    tells = run.started_at.is_not(None) & run.generation.is_(None)
    next_at = case(
        (run.id.is_(None), Throttle.free_at),
        ((run.epoch == ZERO) & run.completed_at.is_not(None), Throttle.starts_at),
        (run.epoch == ZERO, seconds_after(func.clock_timestamp(), _seconds("throttle"))),
        (tells, seconds_after(run.started_at, _seconds("throttle"))),
        else_=Throttle.free_at,
    )
    own = (Throttle.name == rows.c.name) & (Throttle.unique_value == rows.c.unique_value)
    return select(Throttle.unique_value, next_at.label("next_at")).select_from(
        rows.join(Throttle, own).outerjoin(run, run.id == Throttle.workflow_id)
    )


def _seconds(name: str) -> ColumnElement[Any]:
    return bindparam(name, type_=DOUBLE)
