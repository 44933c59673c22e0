"""The statements about executors: how one shows that it lives, and how others see that it does not.

An executor is one `Admin` in one process. It holds a session-level advisory lock, which PostgreSQL releases the
moment the process ends and its connection is closed; where the lock cannot tell (a stopped process, a pooler in
between), its beat runs out. Neither sign is believed at once, for the connection, the network or the server may be
at fault: the first look begins a suspicion, each beat ends it, and an executor is dead when

* it said that it stopped, or
* it is under suspicion for `SUSPICION` and its lock is free, or it has no lock and its beat has run out, or
* it is under suspicion for `HUNG` times its expiry and its beat has run out, although its lock is held.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    DateTime,
    Uuid,
    and_,
    bindparam,
    case,
    cast,
    column,
    delete,
    exists,
    func,
    literal_column,
    null,
    select,
    table,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql import ColumnElement

from pgqrs.models import Executor, Text, Workflow
from pgqrs.storage.queries.expressions import DOUBLE, interval, pg

SUSPICION = 0.8
"""Seconds between the first sight of a free lock and the death of its executor.

An executor whose connection alone was lost takes its lock again within that time.
"""

SETTLING = 3.0
"""Seconds after the start of the server, or after an observer has lost its connection, without any suspicion.

All executors connect again then, and connecting takes long on a server that many clients reach at once.
"""

HUNG = 3.0
"""Expiries that an executor stays under suspicion, its lock held, before it is dead.

C code that keeps Python's global lock stops the pulse as well, and the process works all the same.
"""

DEFAULT_EXPIRY = 15.0
"""Seconds for which a beat counts, where an executor did not write its own."""

HELD_AT_ONCE = 2000
"""Maximum runs that one beat answers with."""

ABANDONED = UUID(int=0)
"""What stands for the executor of a run that its own process gave up: one that is always dead."""

_NOW: ColumnElement[Any] = pg.now(type_=DateTime(timezone=True))
"""The server's own time: a clock that a test moves (`pgqrs.testing.TestClock`) lets nobody die."""

_FORGOTTEN = 60.0
"""How long, in seconds, after its beat ran out an executor stays in the tables."""

_LOCKS = table(
    "pg_locks",
    column("pid", BigInteger()),
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
    """Return the statement by which an executor says that it lives; it registers an executor that is not there.

    It answers with one row or more, the server's time first in each: with a row for each of the executor's
    workflows to be cancelled, and for those that it has held for `unattended` seconds, by id from `after` on,
    `HELD_AT_ONCE` at most. The columns of a row without a workflow are null.
    """
    own = bindparam("executor", type_=Uuid())
    held = (
        select(Workflow.id, Workflow.epoch, Workflow.claim, Workflow.cancel_interrupts)
        .where(
            Workflow.executor == own,
            Workflow.cancel_interrupts.is_not(None)
            | (
                (Workflow.updated_at < _NOW - bindparam("unattended", type_=DOUBLE) * interval(1))
                & (Workflow.id > bindparam("after", type_=BigInteger()))
            ),
        )
        .order_by(Workflow.cancel_interrupts.is_(None), Workflow.id)
        .limit(literal_column(str(HELD_AT_ONCE), BigInteger()))
        .subquery("held_runs")
    )
    # The server's own: a clock that a test moves is not compared with this process's.
    told = select(pg.clock_timestamp(type_=DateTime(timezone=True)).label("now")).subquery("told")
    return select(told.c.now, *held.c).select_from(told.outerjoin(held, true())).add_cte(_sign().cte("sign"))


def _sign() -> Any:
    lock_key = bindparam("lock_key", type_=BigInteger())
    signs: dict[str, Any] = {
        "lock_key": lock_key,
        "backend_pid": case((lock_key.is_not(None), pg.pg_backend_pid(type_=BigInteger()))),
        "expires_at": _NOW + bindparam("expiry", type_=DOUBLE) * interval(1),
        "expiry": bindparam("expiry", type_=DOUBLE),
    }
    new = insert(Executor).values(
        id=bindparam("executor", type_=Uuid()),
        host=bindparam("host", type_=Text()),
        pid=bindparam("pid", type_=BigInteger()),
        **signs,
    )
    return new.on_conflict_do_update(
        index_elements=[Executor.id], set_={**signs, "suspected_at": null(), "stopped_at": null()}
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


def verdict() -> Any:
    """Return the query for whether an executor is dead, and whether it may soon be; no row for an unknown one."""
    asked = bindparam("executor", type_=Uuid())
    doubtful = Executor.stopped_at.is_(None) & (~_is_locked() | _is_silent_without_lock())
    return select(is_dead(), doubtful).where(Executor.id == asked)


def suspect() -> Any:
    """Return the statement that begins to suspect executors that show no life; it answers with their ids.

    `settled` tells, as in all of these, that the observer's connection has been there for `SETTLING`.
    """
    unsuspected = (
        select(Executor.id)
        .where(Executor.suspected_at.is_(None), Executor.stopped_at.is_(None), _is_settled())
        .where(~_is_locked() | (Executor.expires_at < _NOW))
        .order_by(Executor.id)
        .with_for_update(skip_locked=True)
        .cte("unsuspected")
    )
    return update(Executor).where(Executor.id == unsuspected.c.id).values(suspected_at=_NOW).returning(Executor.id)


def is_suspected() -> ColumnElement[bool]:
    """Return the condition on `Executor` that it may soon count as dead."""
    return Executor.suspected_at > _NOW - interval(2 * SUSPICION)


def is_long_dead(seconds: float) -> ColumnElement[bool]:
    """Return the condition on `Executor` that it has been dead for so many seconds, suspected or not."""
    since = _NOW - interval(seconds)
    hung = Executor.expires_at < since - _expiries(HUNG)
    unlocked = Executor.lock_key.is_(None) | ~_is_locked()
    return (Executor.stopped_at < since) | ((Executor.expires_at < since) & unlocked) | hung


def is_dead() -> ColumnElement[bool]:
    """Return the condition on `Executor` that its runs are to be taken over."""
    long_suspected = Executor.suspected_at < _NOW - interval(SUSPICION)
    hung = (Executor.suspected_at < _NOW - _expiries(HUNG)) & (Executor.expires_at < _NOW)
    seen_dead: ColumnElement[bool] = (long_suspected & (~_is_locked() | _is_silent_without_lock())) | hung
    return Executor.stopped_at.is_not(None) | (_is_settled() & seen_dead)


def _is_settled() -> ColumnElement[bool]:
    """Tell whether the observer and the server have been there for long enough to believe what they show."""
    started: Any = pg.pg_postmaster_start_time(type_=DateTime(timezone=True))
    settled: ColumnElement[bool] = bindparam("settled", type_=Boolean()) & (started < _NOW - interval(SETTLING))
    return settled


def _is_silent_without_lock() -> ColumnElement[bool]:
    return Executor.lock_key.is_(None) & (Executor.expires_at < _NOW)


def _expiries(times: float) -> ColumnElement[Any]:
    """Return so many times the time for which a beat of the `Executor` of the query around counts."""
    expiry: ColumnElement[Any] = func.coalesce(Executor.expiry, literal_column(str(DEFAULT_EXPIRY), DOUBLE))
    return expiry * interval(times)


def _is_named() -> ColumnElement[bool]:
    return exists().where(Workflow.executor == Executor.id)


def _is_locked() -> ColumnElement[bool]:
    """Tell whether the session of the `Executor` of the query around holds its lock; one without a lock counts.

    The keys are no secret, so a session of any role can hold a lock that a dead executor has left.
    """
    own = Executor.backend_pid.is_(None) | (_LOCKS.c.pid == Executor.backend_pid)
    return Executor.lock_key.is_(None) | exists().where(_is_of(Executor.lock_key), own)


def lock_holder(key: ColumnElement[int]) -> Any:
    """Return the query for the pid of the session that holds the advisory lock of a key."""
    return select(_LOCKS.c.pid).where(_is_of(key))


def _is_of(lock_key: Any) -> ColumnElement[bool]:
    """Return the condition on `_LOCKS` that it is an advisory lock of this key, and held."""
    # pg_locks shows a bigint key as its two halves.
    high, low = cast(_LOCKS.c.classid, BigInteger()), cast(_LOCKS.c.objid, BigInteger())
    key: ColumnElement[int] = high.op("<<")(literal_column("32")).op("|")(low)
    here = select(DATABASES.c.oid).where(DATABASES.c.datname == pg.current_database()).scalar_subquery()
    return and_(
        _LOCKS.c.locktype == literal_column("'advisory'"),
        _LOCKS.c.granted,
        _LOCKS.c.database == here,
        _LOCKS.c.objsubid == literal_column("1"),
        key == lock_key,
    )
