"""The expressions that the statements share: functions, types, literals, and times relative to now.

A statement also runs in a caller's session, whose `search_path` may name a schema in which some role may CREATE.
PostgreSQL prefers a function or an operator of exactly the given types, in any schema of the path, to its own one
that needs a conversion, and would run it with the rights of pgqrs's role. So these rules hold for every statement,
and for the SQL of `migrations/`:

* A function is called as `pg.name(...)`, which is ``pg_catalog.name(...)``. The exceptions are words of the
  grammar (`coalesce`, `least`, `greatest`, `any`, `all`), and `now()` and `clock_timestamp()`. The two functions
  take no arguments, so that no other match is better; `pgqrs.testing.TestClock` shadows them.
* PostgreSQL has an operator of its own for the exact types on both sides of an operator. A string is the `Text` of
  `pgqrs.models`, never SQLAlchemy's `String` or `Text`, whose binds are cast to VARCHAR. The result of a function
  has its `type_`. A literal is combined with a column, never with a literal.
* An array of anything but text is bound only in pgqrs's own sessions. In a caller's session it is passed as text,
  through `array_of`.

`tests/unit/test_qualified_sql.py` checks the text of the statements, and
`tests/storage/test_hostile_schema.py` runs them beside hostile functions and operators.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    DateTime,
    Double,
    Interval,
    case,
    cast,
    extract,
    func,
    literal_column,
    select,
)
from sqlalchemy.sql import ColumnElement
from sqlalchemy.types import TypeEngine

from pgqrs.clock import MAX_SECONDS
from pgqrs.models import Step, Text, Workflow
from pgqrs.types import DEFAULT_QUEUE, StepStatus

pg = func.pg_catalog
"""PostgreSQL's own functions, by qualified names."""

SCHEMA_PLACEHOLDER = "pgqrs_schema_placeholder"
"""The name of the schema in a compiled statement, before the statement is used for a schema."""

own: Any = getattr(func, SCHEMA_PLACEHOLDER)
"""The functions of the schema, for statements that a dedicated connection runs."""

SEARCH_PATH = "pg_catalog, pg_temp"
"""The `search_path` of pgqrs's own sessions. Unless it is named, `pg_temp`, which may hold types, comes first."""

DOUBLE: TypeEngine[Any] = Double()

ZERO: ColumnElement[int] = literal_column("0", BigInteger())

ONE: ColumnElement[int] = literal_column("1", BigInteger())

COUNT: ColumnElement[int] = pg.count(literal_column("*"), type_=BigInteger())
"""The number of rows."""

FIRST_TIME, LAST_TIME = (
    literal_column(f"timestamptz '{each}'", DateTime(timezone=True))
    for each in ("0001-01-02 00:00:00+00", "9999-12-30 23:59:59+00")
)
"""The first and the last time that Python has in every time zone; PostgreSQL has earlier and later times."""

_SECOND: ColumnElement[Any] = literal_column("interval '1 second'", Interval())


def text_literal(value: str) -> ColumnElement[str]:
    """Return a string as a literal in the statement's text: a bind would hide it from the planner."""
    return literal_column(f"'{value}'", Text())


def number_literal(value: int) -> ColumnElement[int]:
    """Return a whole number as a literal in the statement's text."""
    return literal_column(str(value), BigInteger())


def interval(seconds: float) -> ColumnElement[Any]:
    """Return `seconds` as an interval literal."""
    return literal_column(f"interval '{seconds} second'", Interval())


def seconds_from_now(seconds: Any) -> ColumnElement[Any]:
    """Return the time `seconds` after the start of the transaction, NULL for NULL."""
    return seconds_after(func.now(), seconds)


def seconds_after(time: Any, seconds: Any) -> ColumnElement[Any]:
    """Return the time `seconds` after a time, NULL for NULL."""
    later: ColumnElement[Any] = time + seconds * _SECOND
    return later


def seconds_ago(seconds: Any, now: ColumnElement[Any] | None = None) -> ColumnElement[Any]:
    """Return the time `seconds` before `now`, by default the start of the transaction; NULL for NULL."""
    time: ColumnElement[Any] = (func.now() if now is None else now) - seconds * _SECOND
    return time


def unnest(*arrays: ColumnElement[Any]) -> Any:
    """Return the function that turns arrays into rows, one array a column."""
    # If the name is unqualified, PostgreSQL's grammar turns several arrays into one call each of its own function.
    return pg.unnest(*arrays) if len(arrays) == 1 else func.unnest(*arrays)


def array_of(text: ColumnElement[Any], type_: TypeEngine[Any]) -> ColumnElement[Any]:
    """Return the array that is written in `text`, as `text_of_array` writes it.

    When a session first binds an array of anything but text, asyncpg looks up its type with statements that call
    functions by unqualified names. So only pgqrs's own sessions bind such an array.
    """
    return cast(text, ARRAY(type_))


def ids_of(text: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the array of ids that is written in `text`, for a condition on a column.

    The sub-select is evaluated once, and the planner does not know its length, so it uses the index. With the cast
    alone it scans tables that have no statistics yet, and a scan casts the text for each row.
    """
    ids = select(array_of(text, BigInteger())).scalar_subquery()
    return func.coalesce(ids, literal_column("'{}'", ARRAY(BigInteger())))


def text_of_array(values: Iterable[Any]) -> str:
    """Return numbers or UUIDs, with None for NULL, as the text of an array."""
    return f"{{{','.join('NULL' if each is None else str(each) for each in values)}}}"


def bounded(seconds: Any) -> ColumnElement[Any]:
    """Return a column's seconds, limited to a length that can be added to a time; NULL for NULL.

    A row that was written by hand may hold a NaN, or a length beyond the last year.
    """
    longest = literal_column(str(MAX_SECONDS), DOUBLE)
    # NaN counts as larger than all numbers. LEAST and GREATEST ignore NULL, so that CASE has to keep it.
    return case((seconds.is_not(None), func.least(func.greatest(seconds, ZERO), longest)))


def finite(time: Any) -> ColumnElement[Any]:
    """Return a column's time, limited to times that Python has and that can be subtracted; NULL for NULL."""
    return case((time.is_not(None), func.least(func.greatest(time, FIRST_TIME), LAST_TIME)))


def seconds_until(time: Any) -> ColumnElement[Any]:
    """Return the seconds until a time, NULL for NULL."""
    return seconds_of(finite(time) - func.now())


def seconds_of(length: Any) -> ColumnElement[Any]:
    """Return an interval in seconds, NULL for NULL."""
    return cast(extract("epoch", length), DOUBLE)


def json_of(text: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a JSON text as a value for a JSON column."""
    return cast(text, JSON())


def text_of(json: Any) -> ColumnElement[str]:
    """Return the text of a JSON column, as it was written."""
    return cast(json, Text())


def deadline_after(timeout: Any) -> ColumnElement[Any]:
    """Return the deadline of a workflow that starts now with a timeout in seconds, NULL for NULL.

    A child that was not started before may have the deadline of its parent, and has the earlier of the two.
    """
    own = seconds_from_now(timeout)
    return case(
        (Workflow.started_at.is_(None), func.least(Workflow.deadline, own)),
        else_=func.coalesce(Workflow.deadline, own),
    )


def queue_or_default() -> ColumnElement[str]:
    """Return a workflow's queue, or the default queue for a workflow that was never enqueued."""
    return func.coalesce(Workflow.queue, text_literal(DEFAULT_QUEUE))


def has_progressed() -> ColumnElement[bool]:
    """Return the condition that the workflow's newest run has recorded a step."""
    own = (Step.workflow_id == Workflow.id) & (Step.epoch == Workflow.epoch)
    recorded = select(ONE).where(own, Step.status != text_literal(StepStatus.RUNNING))
    # Without the limit the planner would hash all steps, because a plan that was made on empty tables is kept.
    return recorded.limit(ONE).correlate(Workflow).scalar_subquery().is_not(None)


def is_found(query: Any, table: Any) -> ColumnElement[bool]:
    """Return the condition that a query of a table, correlated to the statement around it, has a row.

    With a limit the planner looks each row up by its index. It may build a hash table of all rows for an EXISTS,
    because a plan that was made on empty tables is kept.
    """
    found: ColumnElement[bool] = query.limit(ONE).correlate_except(table).scalar_subquery().is_not(None)
    return found


_LARGE = literal_column("8192", BigInteger())
_COMPRESSION = literal_column("4", BigInteger())
_MOST_COMPRESSION = literal_column("90", BigInteger())


def size_of(payload: Any) -> ColumnElement[int]:
    """Return the estimated size of a payload in bytes, NULL for NULL.

    A compressed payload counts as several times its stored size, because only its expansion would show the size.
    """
    size = pg.pg_column_size(payload, type_=BigInteger())
    return case(
        (pg.pg_column_compression(payload, type_=Text()).is_(None), size),
        (size < _LARGE, size * _COMPRESSION),
        else_=size * _MOST_COMPRESSION,
    )
