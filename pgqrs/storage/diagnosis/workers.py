"""The rows of workers: written when a worker starts, read by operators and by the search for reasons.

A worker writes its row again once a minute, because an executor that was silent for long is forgotten with its
workers. The heartbeat does not know these rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Uuid,
    and_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql import ColumnElement

from pgqrs.models import Executor, ServingWorker, Text, Workflow
from pgqrs.storage.queries.executors import DEFAULT_EXPIRY, SERVER_NOW, held_locks
from pgqrs.storage.sql.expressions import COUNT, DOUBLE, ONE, finite, pg, seconds_ago


class Registration(NamedTuple):
    """A worker as it registers itself: the names, the queues and the codec of the workflows that it claims.

    `batched` has the names of the submissions that it puts into batches. `shares` has the maximum runs of each of
    the `queues`, in their order; None for no maximum.
    """

    worker: int
    names: Sequence[str]
    batched: Sequence[str]
    queues: Sequence[str]
    shares: Sequence[int] | None
    concurrency: int

    def values(self) -> dict[str, Any]:
        """Return the binds of `register`."""
        given = self._asdict()
        lists = {key: list(given[key]) for key in ("names", "batched", "queues")}
        shares = None if self.shares is None else list(self.shares)
        return given | lists | {"shares": shares, "names_key": self._names_key()}

    def _names_key(self) -> int:
        text = json.dumps([sorted(self.names), sorted(self.batched)])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], signed=True)


class StoredWorker(NamedTuple):
    """An executor that has not stopped, with one of its workers; the fields of the worker are None without one.

    `running` counts the runs of the executor, of all its workers.
    """

    executor_id: UUID
    host: str
    pid: int
    started_at: datetime
    heartbeat_at: datetime
    expires_at: datetime
    is_suspected: bool
    running: int
    worker: int | None
    names: list[str] | None
    batched: list[str] | None
    queues: list[str] | None
    shares: list[int] | None
    concurrency: int | None
    codec: str | None


def register() -> Any:
    """Return the statement that writes the row of a worker, and deletes the rows whose executors are gone."""
    texts = ARRAY(Text())
    given: dict[str, Any] = {
        "executor": bindparam("executor", type_=Uuid()),
        "id": bindparam("worker", type_=BigInteger()),
        **{name: bindparam(name, type_=texts) for name in ("names", "batched", "queues")},
        "names_key": bindparam("names_key", type_=BigInteger()),
        "shares": bindparam("shares", type_=ARRAY(BigInteger())),
        "concurrency": bindparam("concurrency", type_=BigInteger()),
        "codec": bindparam("codec", type_=Text()),
    }
    is_gone = ~exists().where(Executor.id == ServingWorker.executor)
    is_other = ServingWorker.executor != bindparam("executor", type_=Uuid())
    gone = delete(ServingWorker).where(is_gone, is_other).cte("gone")
    return insert(ServingWorker).values(**given).on_conflict_do_nothing().add_cte(gone)


def unregister() -> Any:
    """Return the statement that deletes the row of a worker that stops."""
    own = ServingWorker.id == bindparam("worker", type_=BigInteger())
    return delete(ServingWorker).where(ServingWorker.executor == bindparam("executor", type_=Uuid()), own)


def workers() -> Any:
    """Return the query for the executors that have not stopped, each with its workers, by their starts."""
    lives = live_executors(all_of_them=True)
    runs = (
        select(COUNT.label("running"))
        .where(Workflow.executor == lives.c.id)
        .correlate_except(Workflow)
        .lateral("runs")
    )
    worker = ServingWorker
    return (
        select(
            lives.c.id.label("executor_id"),
            lives.c.host,
            lives.c.pid,
            finite(lives.c.started_at).label("started_at"),
            finite(lives.c.heartbeat_at).label("heartbeat_at"),
            finite(lives.c.expires_at).label("expires_at"),
            (~lives.c.is_alive).label("is_suspected"),
            runs.c.running,
            worker.id.label("worker"),
            worker.names,
            worker.batched,
            worker.queues,
            worker.shares,
            worker.concurrency,
            worker.codec,
        )
        .select_from(lives.outerjoin(worker, worker.executor == lives.c.id).join(runs, true()))
        .order_by(lives.c.started_at, lives.c.id, worker.started_at, worker.id)
    )


def live_executors(*, all_of_them: bool = False) -> Any:
    """Return the CTE of the executors that are alive by all signs; or of all that have not stopped.

    The locks of the server are read once, however many executors there are.
    """
    locks = held_locks().cte("locks").prefix_with("MATERIALIZED")
    is_own = and_(locks.c.key == Executor.lock_key, locks.c.pid == Executor.backend_pid)
    is_alive = is_alive_by(locks.c.key)
    expiry = func.coalesce(Executor.expiry, literal_column(str(DEFAULT_EXPIRY), DOUBLE))
    found = select(
        Executor.id,
        Executor.host,
        Executor.pid,
        Executor.started_at,
        Executor.expires_at,
        seconds_ago(expiry, Executor.expires_at.expression).label("heartbeat_at"),
        is_alive.label("is_alive"),
    ).select_from(Executor)
    found = found.outerjoin(locks, is_own).where(Executor.stopped_at.is_(None))
    if not all_of_them:
        found = found.where(is_alive)
    return found.cte("live").prefix_with("MATERIALIZED")


def is_alive_by(lock: Any) -> ColumnElement[bool]:
    """Return the condition that an `Executor` gives no sign of death; `lock` is the key of its lock, if held."""
    is_locked = or_(Executor.lock_key.is_(None), Executor.backend_pid.is_(None), lock.is_not(None))
    no_sign = Executor.suspected_at.is_(None), Executor.stopped_at.is_(None), Executor.expires_at > SERVER_NOW
    return and_(*no_sign, is_locked)


def workers_that_know(name: Any, live: Any) -> Any:
    """Return the workers of live executors that know a name, and whether they put its submissions into batches.

    Hundreds of workers may have the same thousand names, which are read once.
    """
    place = pg.row_number(type_=BigInteger()).over(partition_by=ServingWorker.names_key)
    ids = select(ServingWorker.names_key, ServingWorker.executor, ServingWorker.id, place.label("place"))
    each: Any = ids.join(live, live.c.id == ServingWorker.executor).cte("each_worker")
    is_first = and_(ServingWorker.executor == each.c.executor, ServingWorker.id == each.c.id, each.c.place == ONE)
    is_batched = name == func.any(ServingWorker.batched)
    knowing = (
        select(each.c.names_key, is_batched.label("is_batched"))
        .join_from(each, ServingWorker, is_first)
        .where(or_(name == func.any(ServingWorker.names), is_batched))
        .subquery("knowing")
    )
    return select(each.c.executor, each.c.id, knowing.c.is_batched).join(
        knowing, knowing.c.names_key == each.c.names_key
    )


def share_of(queue: Any, worker: Any) -> ColumnElement[Any]:
    """Return the maximum runs of a queue in a worker; NULL for no maximum."""
    place = pg.array_position(worker.queues, queue, type_=BigInteger())
    share: ColumnElement[Any] = case((worker.shares.is_not(None), worker.shares[cast(place, BigInteger())]))
    return share
