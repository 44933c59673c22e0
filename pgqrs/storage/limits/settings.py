"""The statements that read and write the rows of the queues with limits, also in a caller's session.

They are made when they are sent, which is seldom: they would slow down each import.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Boolean,
    bindparam,
    case,
    delete,
    func,
    null,
    select,
    true,
    union,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql import ColumnElement

from pgqrs.models import Queue, Text, Wait, Workflow
from pgqrs.storage.limits.holders import RUNNING, UNTIL_END, slot_of
from pgqrs.storage.records import from_row
from pgqrs.storage.sql.connection import Connection
from pgqrs.storage.sql.expressions import (
    ONE,
    ZERO,
    finite,
    is_found,
    json_of,
    number_literal,
    pg,
    seconds_of,
    text_literal,
    text_of,
)
from pgqrs.types import Holds, QueueRecord, Rate


class QueueLimits(NamedTuple):
    """The limits of a queue, None for no limit; `weights` has the weights of partition keys.

    `holds` says how long a workflow counts for the limits of runs. `ordered` says that the workflows of a
    partition key run in their order; it needs one slot of each key, held until the end. `fair` says that the
    partition keys are served in turn.
    """

    concurrency: int | None
    partition_concurrency: int | None
    rate: Rate | None
    partition_rate: Rate | None
    weights: Mapping[str, float] | None
    holds: Holds = RUNNING
    ordered: bool = False
    fair: bool = True

    def values(self) -> dict[str, Any]:
        """Return the binds of the statement that writes the limits."""
        rates = {name: None if rate is None else asdict(rate) for name, rate in self._rates().items()}
        written = rates | {"weights": None if self.weights is None else dict(self.weights)}
        return self._asdict() | {
            name: None if each is None else json.dumps(each) for name, each in written.items()
        }

    def _rates(self) -> dict[str, Rate | None]:
        return {"rate": self.rate, "partition_rate": self.partition_rate}


SHOWN_PARTITIONS = 100
"""Maximum partition keys of a queue that a reader gets."""

NO_LIMITS = QueueLimits(None, None, None, None, None)


class Partition(NamedTuple):
    """The workflows of a queue with one partition key; `oldest_age` is the seconds since the oldest was ready."""

    partition_key: str
    ready: int
    running: int
    holding: int
    oldest_age: float | None


class QueueRepository:
    """The limits of queues, in a transaction of the caller."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def set(self, name: str, limits: QueueLimits) -> None:
        """Replace the limits of a queue; a paused queue stays paused."""
        if limits != NO_LIMITS:
            if limits.holds == UNTIL_END:
                await self._connection.execute(hold_slots(), {"own": name})
            await self._connection.execute(set_limits(), {"name": name} | limits.values())
        else:
            await self._connection.execute(clear_limits(), {"queue": name})
            await self._connection.execute(delete_without_limits(), {"queue": name})

    async def pause(self, name: str) -> None:
        """Pause a queue, unless it is paused."""
        await self._connection.execute(pause_queue(), {"name": name})

    async def resume(self, name: str) -> None:
        """End the pause of a queue."""
        await self._connection.execute(resume_queue(), {"queue": name})
        await self._connection.execute(delete_without_limits(), {"queue": name})

    async def delete(self, name: str) -> None:
        """Delete the row of a queue, and so its limits and its pause."""
        await self._connection.execute(delete_queue(), {"queue": name})

    async def list(self) -> list[QueueRecord]:
        """Return the queues that have limits, are paused, or have workflows that are ready or running."""
        rows = (await self._connection.execute(list_queues())).mappings()
        return [_record(row) for row in rows]

    async def partitions(self, name: str) -> Sequence[Partition]:
        """Return the partition keys of a queue with most workflows that are ready or running."""
        rows = (await self._connection.execute(partitions(), {"queue": name})).mappings()
        return [from_row(Partition, row) for row in rows]


def _record(row: Mapping[Any, Any]) -> QueueRecord:
    values: dict[str, Any] = {**row, "weights": json.loads(row["weights"] or "{}")}
    for name in ("rate", "partition_rate"):
        values[name] = None if row[name] is None else Rate(**json.loads(row[name]))
    return QueueRecord(**values)


def set_limits() -> Any:
    """Return the statement that replaces the limits of a queue."""
    given: dict[str, Any] = {
        "name": bindparam("name", type_=Text()),
        "concurrency": bindparam("concurrency", type_=BigInteger()),
        "partition_concurrency": bindparam("partition_concurrency", type_=BigInteger()),
        "rate": json_of(bindparam("rate", type_=Text())),
        "partition_rate": json_of(bindparam("partition_rate", type_=Text())),
        "weights": json_of(bindparam("weights", type_=Text())),
        "holds": bindparam("holds", type_=Text()),
        "fair": bindparam("fair", type_=Boolean()),
        "ordered_at": case((bindparam("ordered", type_=Boolean()), func.now())),
    }
    statement = insert(Queue).from_select(list(given), select(*given.values()), include_defaults=False)
    limits: dict[str, Any] = {name: statement.excluded[name] for name in given if name != "name"}
    began = func.coalesce(Queue.ordered_at, statement.excluded.ordered_at)
    limits["ordered_at"] = case((statement.excluded.ordered_at.is_not(None), began))
    return statement.on_conflict_do_update(index_elements=[Queue.name], set_=limits)


def hold_slots() -> Any:
    """Return the statement by which the live workflows of a queue that have started get slots until their end.

    It changes nothing if the queue has such slots already. The workflows are found by the indexes of live ones.
    """
    own = bindparam("own", type_=Text())  # not named like a column: SQLAlchemy would take it for a new value
    of_queue = select(Workflow.id).where(Workflow.queue == own)
    started = of_queue.where(Workflow.started_at.is_not(None))
    live = union(
        of_queue.where(Workflow.executor.is_not(None)),
        started.where(Workflow.ready_at.is_not(None)),
        started.where(Workflow.due_at.is_not(None)),
        of_queue.join(Wait, Wait.workflow_id == Workflow.id),
    ).subquery("live")
    has_slots = is_found(select(ONE).where(Queue.name == own, Queue.holds == text_literal(UNTIL_END)), Queue)
    return (
        update(Workflow)
        .where(Workflow.id.in_(select(live.c.id)), Workflow.slot.is_(None), Workflow.completed_at.is_(None))
        .where(~has_slots)
        .values(slot=slot_of())
    )


def pause_queue() -> Any:
    """Return the statement that pauses a queue."""
    given: dict[str, Any] = {"name": bindparam("name", type_=Text()), "paused_at": func.now()}
    statement = insert(Queue).from_select(list(given), select(*given.values()), include_defaults=False)
    paused = func.coalesce(Queue.paused_at, statement.excluded.paused_at)
    return statement.on_conflict_do_update(index_elements=[Queue.name], set_={"paused_at": paused})


def list_queues() -> Any:
    """Return the query for the records of the queues.

    `held_back` counts the ready workflows that could not start now, whatever number of workers there is.
    """
    lanes = _lanes()
    limit, holds = Queue.concurrency, func.coalesce(Queue.holds, text_literal(RUNNING))
    until_end = holds == text_literal(UNTIL_END)
    running, ready = _total(lanes.c.running), _total(lanes.c.ready)
    holders = case((until_end, lanes.c.ready_holders), else_=ZERO)
    holding = case((until_end, lanes.c.holding), else_=lanes.c.running)
    new = lanes.c.ready - holders
    is_ordered, is_keyed = Queue.ordered_at.is_not(None), lanes.c.partition_key.is_not(None)
    of_lane = func.least(new, _positive(Queue.partition_concurrency - holding))
    of_lanes = _total(
        case(
            (Queue.partition_concurrency.is_(None) | (~is_keyed & ~is_ordered), new),
            (is_ordered & is_keyed & ~_is_first_ready(lanes), ZERO),
            else_=of_lane,
        )
    )
    # A workflow that holds a slot needs no other one.
    startable = case(
        (Queue.paused_at.is_not(None), ZERO),
        (limit.is_(None), _total(holders) + of_lanes),
        else_=_total(holders) + func.least(of_lanes, _positive(limit - _total(holding))),
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
            holds.label("holds"),
            _whole(_total(holding)).label("holding"),
            Queue.ordered_at.is_not(None).label("ordered"),
            func.coalesce(Queue.fair, true()).label("fair"),
        )
        .select_from(lanes.outerjoin(Queue, Queue.name == lanes.c.queue, full=True))
        .group_by(name, limit, Queue.partition_concurrency, *map(_unlabeled, rates), weights)
        .group_by(Queue.paused_at, Queue.holds, Queue.ordered_at, Queue.fair)
        .order_by(name)
    )


def partitions() -> Any:
    """Return the query for the `Partition`s of a queue with most workflows that are ready or running."""
    lanes = _lanes()
    age = seconds_of(func.now() - finite(lanes.c.ready_at))
    numbers = [_whole(lanes.c[name]).label(name) for name in ("ready", "running", "holding")]
    return (
        select(lanes.c.partition_key, *numbers, age.label("oldest_age"))
        .where(lanes.c.queue == bindparam("queue", type_=Text()), lanes.c.partition_key.is_not(None))
        .order_by((lanes.c.ready + lanes.c.running).desc(), lanes.c.partition_key)
        .limit(number_literal(SHOWN_PARTITIONS))
    )


def _lanes() -> Any:
    """Return the numbers of the ready, running and holding workflows of each queue and partition key.

    A workflow is holding if it runs, or holds a slot until its end.
    """
    key, holds = (Workflow.queue, Workflow.partition_key), case((Workflow.slot.is_not(None), ONE), else_=ZERO)
    columns: dict[str, Any] = {"ready": ONE, "ready_holders": holds, "running": ZERO, "holding": holds}
    is_queued, is_idle = Workflow.queue.is_not(None), Workflow.executor.is_(None)
    named = [value.label(name) for name, value in columns.items()]
    waiting = Workflow.slot.is_not(None), Workflow.completed_at.is_(None), Workflow.ready_at.is_(None)
    both = union_all(
        select(*key, *named, Workflow.ready_at).where(is_queued, Workflow.ready_at.is_not(None)),
        select(*key, ZERO, ZERO, ONE, ONE, null()).where(is_queued, Workflow.executor.is_not(None)),
        select(*key, ZERO, ZERO, ZERO, ONE, null()).where(is_queued, is_idle, *waiting),
    ).subquery("both")
    return (
        select(
            both.c.queue,
            both.c.partition_key,
            *(pg.sum(both.c[name]).label(name) for name in columns),
            pg.min(both.c.ready_at).label("ready_at"),
        )
        .group_by(both.c.queue, both.c.partition_key)
        .subquery("lanes")
    )


def _is_first_ready(lanes: Any) -> ColumnElement[bool]:
    """Return the condition that the first workflow in the order of a partition key is ready."""
    first = (
        select(Workflow.ready_at)
        .where(Workflow.queue == lanes.c.queue, Workflow.partition_key == lanes.c.partition_key)
        .where(Workflow.position.is_not(None), Workflow.completed_at.is_(None))
        .order_by(Workflow.position)
        .limit(ONE)
        .correlate_except(Workflow)
    )
    return first.scalar_subquery().is_not(None)


def _total(numbers: Any) -> ColumnElement[Any]:
    return func.coalesce(pg.sum(numbers), ZERO)


def _unlabeled(label: Any) -> ColumnElement[Any]:
    return label.element  # type: ignore[no-any-return]


def _positive(number: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.greatest(number, ZERO)


def _whole(number: Any) -> ColumnElement[int]:
    return func.coalesce(number, ZERO).cast(BigInteger())


def clear_limits() -> Any:
    """Return the statement that takes the limits of a queue away."""
    none = {each.key: null() for each in (*_limits(), Queue.ordered_at)}
    return update(Queue).where(_is_own()).values(**none, holds=text_literal(RUNNING), fair=true())


def resume_queue() -> Any:
    """Return the statement that ends the pause of a queue."""
    return update(Queue).where(_is_own()).values(paused_at=null())


def delete_queue() -> Any:
    """Return the statement that deletes the row of a queue."""
    return delete(Queue).where(_is_own())


def delete_without_limits() -> Any:
    """Return the statement that deletes the row of a queue which has no limits and is not paused."""
    none = (each.is_(None) for each in (*_limits(), Queue.paused_at))
    return delete_queue().where(Queue.fair, *none)


def _limits() -> tuple[Any, ...]:
    return (Queue.concurrency, Queue.partition_concurrency, Queue.rate, Queue.partition_rate, Queue.weights)


def _is_own() -> ColumnElement[bool]:
    return Queue.name == bindparam("queue", type_=Text())
