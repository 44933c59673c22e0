"""The statements that read and write the rows of the queues with limits, also in a caller's session."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, and_, bindparam, case, delete, func, null, select, union_all, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql import ColumnElement

from pgqrs.models import Queue, Text, Workflow
from pgqrs.storage.sql.connection import Connection
from pgqrs.storage.sql.expressions import ONE, ZERO, finite, json_of, pg, seconds_of, text_of
from pgqrs.types import QueueRecord, Rate


class QueueLimits(NamedTuple):
    """The limits of a queue, None for no limit; `weights` has the weights of partition keys."""

    concurrency: int | None
    partition_concurrency: int | None
    rate: Rate | None
    partition_rate: Rate | None
    weights: Mapping[str, float] | None

    def values(self) -> dict[str, Any]:
        """Return the binds of the statement that writes the limits."""
        rates = {name: None if rate is None else asdict(rate) for name, rate in self._rates().items()}
        written = rates | {"weights": None if self.weights is None else dict(self.weights)}
        return self._asdict() | {
            name: None if each is None else json.dumps(each) for name, each in written.items()
        }

    def _rates(self) -> dict[str, Rate | None]:
        return {"rate": self.rate, "partition_rate": self.partition_rate}


class QueueRepository:
    """The limits of queues, in a transaction of the caller."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def set(self, name: str, limits: QueueLimits) -> None:
        """Replace the limits of a queue; a paused queue stays paused."""
        if any(each is not None for each in limits):
            await self._connection.execute(_SET, {"name": name} | limits.values())
        else:
            await self._connection.execute(_CLEAR, {"queue": name})
            await self._connection.execute(_DROP_WITHOUT_LIMITS, {"queue": name})

    async def pause(self, name: str) -> None:
        """Pause a queue, unless it is paused."""
        await self._connection.execute(_PAUSE, {"name": name})

    async def resume(self, name: str) -> None:
        """End the pause of a queue."""
        await self._connection.execute(_RESUME, {"queue": name})
        await self._connection.execute(_DROP_WITHOUT_LIMITS, {"queue": name})

    async def delete(self, name: str) -> None:
        """Delete the row of a queue, and so its limits and its pause."""
        await self._connection.execute(_DELETE, {"queue": name})

    async def list(self) -> list[QueueRecord]:
        """Return the queues that have limits, are paused, or have workflows that are ready or running."""
        rows = (await self._connection.execute(_LIST)).mappings()
        return [_record(row) for row in rows]


def _record(row: Mapping[Any, Any]) -> QueueRecord:
    values: dict[str, Any] = {**row, "weights": json.loads(row["weights"] or "{}")}
    for name in ("rate", "partition_rate"):
        values[name] = None if row[name] is None else Rate(**json.loads(row[name]))
    return QueueRecord(**values)


def _set() -> Any:
    given: dict[str, Any] = {
        "name": bindparam("name", type_=Text()),
        "concurrency": bindparam("concurrency", type_=BigInteger()),
        "partition_concurrency": bindparam("partition_concurrency", type_=BigInteger()),
        "rate": json_of(bindparam("rate", type_=Text())),
        "partition_rate": json_of(bindparam("partition_rate", type_=Text())),
        "weights": json_of(bindparam("weights", type_=Text())),
    }
    statement = insert(Queue).from_select(list(given), select(*given.values()), include_defaults=False)
    limits = {name: statement.excluded[name] for name in given if name != "name"}
    return statement.on_conflict_do_update(index_elements=[Queue.name], set_=limits)


def _pause() -> Any:
    given: dict[str, Any] = {"name": bindparam("name", type_=Text()), "paused_at": func.now()}
    statement = insert(Queue).from_select(list(given), select(*given.values()), include_defaults=False)
    paused = func.coalesce(Queue.paused_at, statement.excluded.paused_at)
    return statement.on_conflict_do_update(index_elements=[Queue.name], set_={"paused_at": paused})


def _list() -> Any:
    """Return the query for the records of the queues.

    `held_back` counts the ready workflows that could not start now, whatever number of workers there is.
    """
    lanes = _lanes()
    running, limit = func.coalesce(pg.sum(lanes.c.running), ZERO), Queue.concurrency
    ready = func.coalesce(pg.sum(lanes.c.ready), ZERO)
    is_free = Queue.partition_concurrency.is_(None) | lanes.c.partition_key.is_(None)
    of_lane = func.least(lanes.c.ready, _positive(Queue.partition_concurrency - lanes.c.running))
    of_lanes = func.coalesce(pg.sum(case((is_free, lanes.c.ready), else_=of_lane)), ZERO)
    startable = case(
        (Queue.paused_at.is_not(None), ZERO),
        (limit.is_(None), of_lanes),
        else_=func.least(of_lanes, _positive(limit - running)),
    )
    name = func.coalesce(Queue.name, lanes.c.queue)
    rates = (text_of(Queue.rate).label("rate"), text_of(Queue.partition_rate).label("partition_rate"))
    weights = text_of(Queue.weights)
    return (
        select(
            name.label("name"),
            limit,
            Queue.partition_concurrency,
            *rates,
            weights.label("weights"),
            finite(Queue.paused_at).label("paused_at"),
            _whole(ready).label("ready"),
            _whole(running).label("running"),
            _whole(ready - startable).label("held_back"),
            seconds_of(func.now() - finite(pg.min(lanes.c.ready_at))).label("oldest_age"),
        )
        .select_from(lanes.outerjoin(Queue, Queue.name == lanes.c.queue, full=True))
        .group_by(name, limit, Queue.partition_concurrency, *map(_unlabeled, rates), weights, Queue.paused_at)
        .order_by(name)
    )


def _lanes() -> Any:
    """Return the number of ready and of running workflows of each queue and partition key."""
    key = (Workflow.queue, Workflow.partition_key)
    is_queued = Workflow.queue.is_not(None)
    ready = select(*key, ONE.label("ready"), ZERO.label("running"), Workflow.ready_at)
    running = select(*key, ZERO, ONE, null())
    both = union_all(
        ready.where(is_queued, Workflow.ready_at.is_not(None)),
        running.where(and_(is_queued, Workflow.executor.is_not(None))),
    ).subquery("both")
    return (
        select(
            both.c.queue,
            both.c.partition_key,
            pg.sum(both.c.ready).label("ready"),
            pg.sum(both.c.running).label("running"),
            pg.min(both.c.ready_at).label("ready_at"),
        )
        .group_by(both.c.queue, both.c.partition_key)
        .subquery("lanes")
    )


def _unlabeled(label: Any) -> ColumnElement[Any]:
    return label.element  # type: ignore[no-any-return]


def _positive(number: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.greatest(number, ZERO)


def _whole(number: Any) -> ColumnElement[int]:
    return func.coalesce(number, ZERO).cast(BigInteger())


_OWN = Queue.name == bindparam("queue", type_=Text())

_SET = _set()
_PAUSE = _pause()
_LIST = _list()
_LIMITS = (Queue.concurrency, Queue.partition_concurrency, Queue.rate, Queue.partition_rate, Queue.weights)
_CLEAR = update(Queue).where(_OWN).values({each.key: null() for each in _LIMITS})
_RESUME = update(Queue).where(_OWN).values(paused_at=null())
_DELETE = delete(Queue).where(_OWN)
_DROP_WITHOUT_LIMITS = _DELETE.where(Queue.paused_at.is_(None), *(each.is_(None) for each in _LIMITS))
