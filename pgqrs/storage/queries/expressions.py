"""The words that the statements share: functions, types, constants of their text, times from now.

A statement runs in sessions whose `search_path` is not ours, and some role may have CREATE in a schema of it.
PostgreSQL prefers a function or an operator that takes exactly the types given, in whichever of those schemas, to
its own that takes them by conversion, and would run it with the rights of our role. So in every statement, and in
the SQL of `migrations/`:

* A function is called as `pg.name(...)`, which is ``pg_catalog.name(...)``. The exceptions are words of the
  grammar (`coalesce`, `least`, `greatest`, `any`, `all`), and `now()` and `clock_timestamp()`, which take
  nothing, so that no other match is better; `pgqrs.testing.TestClock` shadows them.
* The types on both sides of an operator are ones that PostgreSQL has an operator for. A string is the `Text` of
  `pgqrs.models`, never SQLAlchemy's `String` or `Text`, whose binds are cast to VARCHAR; the result of a function
  has its `type_`; a literal stands beside a column, never beside a literal.

* An array of anything but text is a bind in the sessions of our own alone; elsewhere it is given as text, by
  `array_of`.

`tests/unit/test_qualified_sql.py` looks at the text of the statements, and
`tests/integration/test_hostile_schema.py` runs them where such functions and operators lie in wait.
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
"""PostgreSQL's own functions, by their whole names."""

SEARCH_PATH = "pg_catalog, pg_temp"
"""The `search_path` of our own sessions; the second, which would be the first otherwise, may hold types."""

DOUBLE: TypeEngine[Any] = Double()

ZERO: ColumnElement[int] = literal_column("0", BigInteger())

ONE: ColumnElement[int] = literal_column("1", BigInteger())

COUNT: ColumnElement[int] = pg.count(literal_column("*"), type_=BigInteger())
"""How many rows there are."""

FIRST_TIME, LAST_TIME = (
    literal_column(f"timestamptz '{each}'", DateTime(timezone=True))
    for each in ("0001-01-02 00:00:00+00", "9999-12-30 23:59:59+00")
)
"""The first and the last time that Python has in every time zone; PostgreSQL has earlier and later ones."""

_SECOND: ColumnElement[Any] = literal_column("interval '1 second'", Interval())


def text_literal(value: str) -> ColumnElement[str]:
    """Return a constant of the statement's text: a bind would hide it from the planner."""
    return literal_column(f"'{value}'", Text())


def number_literal(value: int) -> ColumnElement[int]:
    """Return a whole number as a constant of the statement's text."""
    return literal_column(str(value), BigInteger())


def interval(seconds: float) -> ColumnElement[Any]:
    """Return a constant length of time."""
    return literal_column(f"interval '{seconds} second'", Interval())


def seconds_from_now(seconds: Any) -> ColumnElement[Any]:
    """Return the time so many seconds from now, NULL for NULL."""
    time: ColumnElement[Any] = func.now() + seconds * _SECOND
    return time


def seconds_ago(seconds: Any, now: ColumnElement[Any] | None = None) -> ColumnElement[Any]:
    """Return the time so many seconds before `now`, which is that of the transaction's begin; NULL for NULL."""
    time: ColumnElement[Any] = (func.now() if now is None else now) - seconds * _SECOND
    return time


def unnest(*arrays: ColumnElement[Any]) -> Any:
    """Return the function that makes rows of arrays, one a column."""
    # Of several, PostgreSQL's grammar makes one call for each, of its own function, if the name is not qualified.
    return pg.unnest(*arrays) if len(arrays) == 1 else func.unnest(*arrays)


def array_of(text: ColumnElement[Any], type_: TypeEngine[Any]) -> ColumnElement[Any]:
    """Return an array that is given as `text`, as `text_of_array` writes it.

    asyncpg looks up the type of an array of anything but text when a session first has one, by statements that
    call functions by half their names. So only a session of our own is given such an array.
    """
    return cast(text, ARRAY(type_))


def text_of_array(values: Iterable[Any]) -> str:
    """Return numbers or UUIDs, some of them None, as the text of an array."""
    return f"{{{','.join('NULL' if each is None else str(each) for each in values)}}}"


def bounded(seconds: Any) -> ColumnElement[Any]:
    """Return a length of time out of a column as one that can be added to a time, NULL for NULL.

    What a row written by hand may hold is neither: a NaN, or more than there are years.
    """
    longest = literal_column(str(MAX_SECONDS), DOUBLE)
    # NaN counts as larger than all numbers. LEAST and GREATEST pass over NULL.
    return case((seconds.is_not(None), func.least(func.greatest(seconds, ZERO), longest)))


def finite(time: Any) -> ColumnElement[Any]:
    """Return a time out of a column as one that Python has too and that can be subtracted, NULL for NULL."""
    return case((time.is_not(None), func.least(func.greatest(time, FIRST_TIME), LAST_TIME)))


def seconds_until(time: Any) -> ColumnElement[Any]:
    """Return the seconds until a time, NULL for NULL."""
    return seconds_of(finite(time) - func.now())


def seconds_of(length: Any) -> ColumnElement[Any]:
    """Return an interval in seconds, NULL for NULL."""
    return cast(extract("epoch", length), DOUBLE)


def json_of(text: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a JSON text as a value of its column."""
    return cast(text, JSON())


def text_of(json: Any) -> ColumnElement[str]:
    """Return the text of a JSON column, as it was written."""
    return cast(json, Text())


def queue_or_default() -> ColumnElement[str]:
    """Return the queue that a workflow is claimed from, one that was never enqueued too."""
    return func.coalesce(Workflow.queue, text_literal(DEFAULT_QUEUE))


def has_progressed() -> ColumnElement[bool]:
    """Tell whether the workflow's newest run has recorded a step."""
    own = (Step.workflow_id == Workflow.id) & (Step.epoch == Workflow.epoch)
    recorded = select(ONE).where(own, Step.status != text_literal(StepStatus.RUNNING))
    # With a limit, or the planner would hash all steps: a plan made on empty tables is kept.
    return recorded.limit(ONE).correlate(Workflow).scalar_subquery().is_not(None)


_LARGE = literal_column("8192", BigInteger())
_COMPRESSION = literal_column("4", BigInteger())
_MOST_COMPRESSION = literal_column("90", BigInteger())


def size_of(payload: Any) -> ColumnElement[int]:
    """Return the estimated size of a payload, in bytes, NULL for NULL.

    A compressed one is taken for several times its stored size: only expanding it would tell its own size.
    """
    size = pg.pg_column_size(payload, type_=BigInteger())
    return case(
        (pg.pg_column_compression(payload, type_=Text()).is_(None), size),
        (size < _LARGE, size * _COMPRESSION),
        else_=size * _MOST_COMPRESSION,
    )
