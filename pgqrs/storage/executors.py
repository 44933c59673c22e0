"""The statements about executors: how one shows that it lives, and how others see that it does not.

An executor is one `Admin` in one process. It holds a session-level advisory lock, which PostgreSQL gives up the
moment the process ends and its connection is closed; where the lock cannot tell (a stopped process, a host that
vanished), its beat runs out.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    DateTime,
    Uuid,
    bindparam,
    cast,
    column,
    delete,
    exists,
    literal_column,
    null,
    select,
    table,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql import ColumnElement

from pgqrs.models import Executor, Text, Workflow
from pgqrs.storage.sql import DOUBLE, interval, pg

SUSPICION = 0.4
"""How long, in seconds, a lock must have been seen free before its executor counts as dead.

It spares those whose connection was lost with the server's restart, and who take the lock again at once.
"""

ABANDONED = UUID(int=0)
"""What stands for the executor of a run that its own process gave up: one that is always dead."""

_NOW: ColumnElement[Any] = pg.now(type_=DateTime(timezone=True))
"""The server's own time: a clock that a test moves (`pgqrs.testing.TestClock`) lets nobody die."""

_FORGOTTEN = 60.0
"""How long, in seconds, after its beat ran out an executor stays in the tables."""

_LOCKS = table(
    "pg_locks",
    column("locktype", Text()),
    column("database"),
    column("classid"),
    column("objid"),
    column("objsubid", BigInteger()),
    column("granted", Boolean()),
    schema="pg_catalog",
)
DATABASES = table("pg_database", column("oid"), column("datname", Text()), schema="pg_catalog")


def abandoned() -> ColumnElement[UUID]:
    """Return `ABANDONED` as a constant of a statement's text."""
    return literal_column(f"'{ABANDONED}'::uuid", Uuid())


def beat() -> Any:
    """Return the statement by which an executor says that it lives; it registers one that is not there.

    It answers with a row for each of its workflows to be cancelled: the id, and whether to interrupt.
    """
    expires_at: Any = _NOW + bindparam("expiry", type_=DOUBLE) * interval(1)
    sign = (
        insert(Executor)
        .values(
            id=bindparam("executor", type_=Uuid()),
            lock_key=bindparam("lock_key", type_=BigInteger()),
            host=bindparam("host", type_=Text()),
            pid=bindparam("pid", type_=BigInteger()),
            expires_at=expires_at,
        )
        .on_conflict_do_update(
            index_elements=[Executor.id],
            set_={"expires_at": expires_at, "suspected_at": null(), "stopped_at": null()},
        )
        .cte("sign")
    )
    return (
        select(Workflow.id, Workflow.cancel_interrupts)
        .where(Workflow.executor == bindparam("executor", type_=Uuid()), Workflow.cancel_interrupts.is_not(None))
        .add_cte(sign)
    )


def stop() -> Any:
    """Return the statement by which an executor says that it has stopped."""
    own = bindparam("executor", type_=Uuid())
    return update(Executor).where(Executor.id == own).values(stopped_at=_NOW)


def forget() -> Any:
    """Return the statement that removes an executor that has stopped, unless a workflow names it still."""
    own = bindparam("executor", type_=Uuid())
    return delete(Executor).where(Executor.id == own, ~_is_named())


def forget_the_dead() -> Any:
    """Return the statement that removes executors long dead that no workflow names."""
    return delete(Executor).where(Executor.expires_at < _NOW - interval(_FORGOTTEN), ~_is_named())


def take_lock() -> Any:
    """Return the statement that takes an executor's lock for the session, if it is free."""
    return select(pg.pg_try_advisory_lock(bindparam("lock_key", type_=BigInteger())))


def is_alive() -> Any:
    """Return the query that tells whether an executor lives, by what can be seen at once."""
    asked = bindparam("executor", type_=Uuid())
    here = Executor.stopped_at.is_(None) & (Executor.expires_at >= _NOW) & _is_locked()
    return select(exists().where(Executor.id == asked, here))


def suspect() -> Any:
    """Return the statement that begins to suspect executors whose locks are free; it answers with their ids."""
    unsuspected = (
        select(Executor.id)
        .where(Executor.suspected_at.is_(None), Executor.stopped_at.is_(None), ~_is_locked())
        .order_by(Executor.id)
        .with_for_update(skip_locked=True)
        .cte("unsuspected")
    )
    return update(Executor).where(Executor.id == unsuspected.c.id).values(suspected_at=_NOW).returning(Executor.id)


def is_suspected() -> ColumnElement[bool]:
    """Return the condition on `Executor` that it may soon count as dead."""
    return Executor.suspected_at > _NOW - interval(2 * SUSPICION)


def is_long_dead(seconds: float) -> ColumnElement[bool]:
    """Return the condition on `Executor` that it has been dead for so many seconds."""
    since = _NOW - interval(seconds)
    return (Executor.expires_at < since) | (Executor.stopped_at < since)


def is_dead() -> ColumnElement[bool]:
    """Return the condition on `Executor` that its runs are to be taken over."""
    long_suspected = Executor.suspected_at < _NOW - interval(SUSPICION)
    return Executor.stopped_at.is_not(None) | (Executor.expires_at < _NOW) | (long_suspected & ~_is_locked())


def _is_named() -> ColumnElement[bool]:
    return exists().where(Workflow.executor == Executor.id)


def _is_locked() -> ColumnElement[bool]:
    """Tell whether somebody holds the lock of the `Executor` of the query around; one without a lock counts."""
    # pg_locks shows a bigint key as its two halves.
    high, low = cast(_LOCKS.c.classid, BigInteger()), cast(_LOCKS.c.objid, BigInteger())
    key = high.op("<<")(literal_column("32")).op("|")(low)
    here = select(DATABASES.c.oid).where(DATABASES.c.datname == pg.current_database()).scalar_subquery()
    held = (
        exists()
        .where(_LOCKS.c.locktype == literal_column("'advisory'"), _LOCKS.c.granted, _LOCKS.c.database == here)
        .where(_LOCKS.c.objsubid == literal_column("1"), key == Executor.lock_key)
    )
    return Executor.lock_key.is_(None) | held
