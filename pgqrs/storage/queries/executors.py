"""The statements about executors: their heartbeats, and the conditions under which an executor counts as dead.

An executor is one `Admin` in one process. It holds a session-level advisory lock, which PostgreSQL releases as
soon as the process ends and its connection is closed. Where the lock shows no death (a stopped process, a pooler
in between), the heartbeat expires. A single sign is not enough, because the connection, the network or the server
may be at fault. The first sign starts a suspicion, each heartbeat ends it, and an executor is dead when

* it has reported that it stopped, or
* it has been suspected for `SUSPICION`, and its lock is free or it has no lock and its heartbeat has expired, or
* it has been suspected for `HUNG` times its expiry and its heartbeat has expired, although its lock is held.
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
from pgqrs.storage.sql.expressions import DOUBLE, interval, pg

SUSPICION = 0.8
"""Seconds between the first sight of a free lock and the death of its executor.

An executor that has lost only its connection takes its lock again within that time.
"""

SETTLING = 3.0
"""Seconds without any suspicion after the server has started, or after an observer has lost its connection.

All executors reconnect then, and connecting takes long on a server that many clients reach at once.
"""

HUNG = 3.0
"""Expiries for which an executor is suspected, while its lock is held, before it is dead.

C code that keeps Python's global interpreter lock stops the heartbeat too, although the process works.
"""

DEFAULT_EXPIRY = 15.0
"""Seconds until a heartbeat expires, for an executor whose row has no expiry."""

HELD_AT_ONCE = 2000
"""Maximum runs in the answer to one heartbeat."""

ABANDONED = UUID(int=0)
"""The executor of a run that its own process has abandoned; it always counts as dead."""

SERVER_NOW: ColumnElement[Any] = pg.now(type_=DateTime(timezone=True))
"""The server's own time: a clock that a test moves (`pgqrs.testing.TestClock`) makes no executor die."""

_FORGOTTEN = 60.0
"""Seconds for which an executor stays in the tables after its heartbeat has expired."""

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
    """Return the statement of a heartbeat; it registers an executor that has no row.

    The answer has at most `HELD_AT_ONCE` rows: first the executor's workflows that are to be cancelled, then the
    workflows with ids above `after` that it has held for `unattended` seconds, by id. Without such workflows there
    is one row with nulls for the workflow's columns. Each row begins with the server's time.
    """
    own = bindparam("executor", type_=Uuid())
    held = (
        select(Workflow.id, Workflow.epoch, Workflow.claim, Workflow.cancel_interrupts)
        .where(
            Workflow.executor == own,
            Workflow.cancel_interrupts.is_not(None)
            | (
                (Workflow.updated_at < SERVER_NOW - bindparam("unattended", type_=DOUBLE) * interval(1))
                & (Workflow.id > bindparam("after", type_=BigInteger()))
            ),
        )
        .order_by(Workflow.cancel_interrupts.is_(None), Workflow.id)
        .limit(literal_column(str(HELD_AT_ONCE), BigInteger()))
        .subquery("held_runs")
    )
    # The server's own time: a clock that a test moves must not be compared with this process's clock.
    told = select(pg.clock_timestamp(type_=DateTime(timezone=True)).label("now")).subquery("told")
    return select(told.c.now, *held.c).select_from(told.outerjoin(held, true())).add_cte(_sign().cte("sign"))


def _sign() -> Any:
    lock_key = bindparam("lock_key", type_=BigInteger())
    signs: dict[str, Any] = {
        "lock_key": lock_key,
        "backend_pid": case((lock_key.is_not(None), pg.pg_backend_pid(type_=BigInteger()))),
        "expires_at": SERVER_NOW + bindparam("expiry", type_=DOUBLE) * interval(1),
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
    """Return the statement with which an executor reports that it has stopped."""
    own = bindparam("executor", type_=Uuid())
    return update(Executor).where(Executor.id == own).values(stopped_at=SERVER_NOW)


def forget() -> Any:
    """Return the statement that removes a stopped executor, unless a workflow still names it."""
    own = bindparam("executor", type_=Uuid())
    return delete(Executor).where(Executor.id == own, ~_is_named())


def forget_the_dead() -> Any:
    """Return the statement that removes executors that have long been dead and that no workflow names."""
    return delete(Executor).where(Executor.expires_at < SERVER_NOW - interval(_FORGOTTEN), ~_is_named())


def take_lock() -> Any:
    """Return the statement that takes an executor's lock for the session, if the lock is free."""
    return select(pg.pg_try_advisory_lock(bindparam("lock_key", type_=BigInteger())))


def verdict() -> Any:
    """Return the query for two conditions: an executor is dead, or it may soon be; no row for an unknown id."""
    asked = bindparam("executor", type_=Uuid())
    doubtful = Executor.stopped_at.is_(None) & (~_is_locked() | _is_silent_without_lock())
    return select(is_dead().label("is_dead"), doubtful.label("is_in_doubt")).where(Executor.id == asked)


def suspect() -> Any:
    """Return the statement that starts to suspect executors without a sign of life, and returns their ids.

    `settled` says, as in the other statements here, that the observer has been connected for `SETTLING`.
    """
    unsuspected = (
        select(Executor.id)
        .where(Executor.suspected_at.is_(None), Executor.stopped_at.is_(None), _is_settled())
        .where(~_is_locked() | (Executor.expires_at < SERVER_NOW))
        .order_by(Executor.id)
        .with_for_update(skip_locked=True)
        .cte("unsuspected")
    )
    return (
        update(Executor)
        .where(Executor.id == unsuspected.c.id)
        .values(suspected_at=SERVER_NOW)
        .returning(Executor.id)
    )


def is_suspected() -> ColumnElement[bool]:
    """Return the condition that an `Executor` may soon count as dead."""
    return Executor.suspected_at > SERVER_NOW - interval(2 * SUSPICION)


def is_long_dead(seconds: float) -> ColumnElement[bool]:
    """Return the condition that an `Executor` has been dead for `seconds`, suspected or not."""
    since = SERVER_NOW - interval(seconds)
    hung = Executor.expires_at < since - _expiries(HUNG)
    unlocked = Executor.lock_key.is_(None) | ~_is_locked()
    return (Executor.stopped_at < since) | ((Executor.expires_at < since) & unlocked) | hung


def is_dead() -> ColumnElement[bool]:
    """Return the condition that an `Executor` is dead, so that its runs are to be recovered."""
    long_suspected = Executor.suspected_at < SERVER_NOW - interval(SUSPICION)
    hung = (Executor.suspected_at < SERVER_NOW - _expiries(HUNG)) & (Executor.expires_at < SERVER_NOW)
    seen_dead: ColumnElement[bool] = (long_suspected & (~_is_locked() | _is_silent_without_lock())) | hung
    return Executor.stopped_at.is_not(None) | (_is_settled() & seen_dead)


def _is_settled() -> ColumnElement[bool]:
    """Return the condition that the observer and the server have been up long enough to trust signs of death."""
    started: Any = pg.pg_postmaster_start_time(type_=DateTime(timezone=True))
    settled: ColumnElement[bool] = bindparam("settled", type_=Boolean()) & (
        started < SERVER_NOW - interval(SETTLING)
    )
    return settled


def _is_silent_without_lock() -> ColumnElement[bool]:
    return Executor.lock_key.is_(None) & (Executor.expires_at < SERVER_NOW)


def _expiries(times: float) -> ColumnElement[Any]:
    """Return `times` the expiry of the enclosing query's `Executor`, as an interval."""
    expiry: ColumnElement[Any] = func.coalesce(Executor.expiry, literal_column(str(DEFAULT_EXPIRY), DOUBLE))
    return expiry * interval(times)


def _is_named() -> ColumnElement[bool]:
    return exists().where(Workflow.executor == Executor.id)


def _is_locked() -> ColumnElement[bool]:
    """Return the condition that the enclosing query's `Executor` holds its lock in its session, or has no lock.

    The keys are not secret, so a session of any role can take the lock that a dead executor has released.
    """
    own = Executor.backend_pid.is_(None) | (_LOCKS.c.pid == Executor.backend_pid)
    return Executor.lock_key.is_(None) | exists().where(_is_of(Executor.lock_key), own)


def lock_holder(key: ColumnElement[int]) -> Any:
    """Return the query for the pid of the session that holds the advisory lock `key`."""
    return select(_LOCKS.c.pid).where(_is_of(key))


def held_locks() -> Any:
    """Return the query for the keys of all advisory locks of this database, each with the pid of its session."""
    return select(_key_of_lock().label("key"), _LOCKS.c.pid).where(*_is_advisory())


def _is_of(lock_key: Any) -> ColumnElement[bool]:
    """Return the condition that a row of `_LOCKS` is an advisory lock of this key, and granted."""
    return and_(*_is_advisory(), _key_of_lock() == lock_key)


def _key_of_lock() -> ColumnElement[int]:
    # pg_locks shows a bigint key as its two halves.
    high, low = cast(_LOCKS.c.classid, BigInteger()), cast(_LOCKS.c.objid, BigInteger())
    key: ColumnElement[int] = high.op("<<")(literal_column("32")).op("|")(low)
    return key


def _is_advisory() -> tuple[ColumnElement[bool], ...]:
    here = select(DATABASES.c.oid).where(DATABASES.c.datname == pg.current_database()).scalar_subquery()
    return (
        _LOCKS.c.locktype == literal_column("'advisory'"),
        _LOCKS.c.granted,
        _LOCKS.c.database == here,
        _LOCKS.c.objsubid == literal_column("1"),
    )
