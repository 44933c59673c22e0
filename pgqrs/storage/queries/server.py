"""The queries about the server as a whole: its executors, its clock, its channels and the tables."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    DateTime,
    bindparam,
    cast,
    func,
    select,
    true,
    union_all,
)

from pgqrs.models import Executor, Text, Wait, Workflow
from pgqrs.storage.queries import executors, invariants
from pgqrs.storage.records import from_row, stored_member
from pgqrs.storage.sql.connection import Connection
from pgqrs.storage.sql.expressions import (
    COUNT,
    finite,
    pg,
    text_literal,
)
from pgqrs.types import WorkflowStatus


class DatabaseIdentity(NamedTuple):
    """The identity of a database and its server, equal for two connections to the same database."""

    started_at: datetime
    database: int


class ExecutorState(Enum):
    """The state of an executor, as far as it is known."""

    ALIVE = "alive"
    IN_DOUBT = "in doubt"
    DEAD = "dead"


class LiveWorkflows(NamedTuple):
    """The workflows of a queue, a name and a status that have not ended.

    `oldest_ready_at` is the time since which the oldest ready one of them can be claimed, None for none.
    """

    queue: str
    name: str
    status: WorkflowStatus
    number: int
    oldest_ready_at: datetime | None


class Gauges(NamedTuple):
    """The live workflows of all queues, and the number of executors that have not stopped."""

    workflows: tuple[LiveWorkflows, ...]
    executors: int


class ServerRepository:
    """Queries about executors, the database and the tables as a whole, in a transaction of the caller."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def life(self, executor_id: UUID) -> ExecutorState:
        """Return the state of an executor, as it is known now; an unknown executor is dead."""
        asked = {"executor": executor_id, "settled": True}
        found: Any = (await self._connection.execute(executors.verdict(), asked)).one_or_none()
        if found is None or found.is_dead:
            return ExecutorState.DEAD
        return ExecutorState.IN_DOUBT if found.is_in_doubt else ExecutorState.ALIVE

    async def gauges(self) -> Gauges:
        """Return the numbers of the workflows that have not ended, and of the executors."""
        rows = (await self._connection.execute(gauges(), {})).mappings().all()
        found = [from_row(LiveWorkflows, row) for row in rows if row["name"] is not None]
        return Gauges(
            tuple(each._replace(status=stored_member(WorkflowStatus, each.status)) for each in found),
            rows[0]["executors"],
        )

    async def suspect(self) -> None:
        """Start to suspect the executors without a sign of life; only a later query can find them dead."""
        await self._connection.execute(executors.suspect(), {"settled": True})

    async def identity(self) -> DatabaseIdentity:
        """Return the identity of the connection's database."""
        own = (
            select(executors.DATABASES.c.oid)
            .where(executors.DATABASES.c.datname == pg.current_database())
            .scalar_subquery()
        )
        started_at = pg.pg_postmaster_start_time().label("started_at")
        query = select(started_at, cast(own, BigInteger()).label("database"))
        return from_row(DatabaseIdentity, (await self._connection.execute(query)).mappings().one())

    async def transaction_time(self) -> datetime:
        """Return the time of the transaction, from which the delays of its statements are counted."""
        time: datetime = await self._connection.scalar(select(func.now()))
        return time

    async def violations(self, invariant: invariants.Invariant, limit: float) -> list[str]:
        """Return a sentence for each violation of an invariant; requires a transaction.

        The server ends the search after `limit` seconds, even if the client has disconnected.
        """
        sentence, query = invariant
        allowed = {"milliseconds": str(round(1000 * limit))}
        await self._connection.execute(_ALLOW, allowed)
        return [sentence.format(*row) for row in await self._connection.execute(query.limit(invariants.SHOWN))]


_ALLOW: Any = select(
    pg.set_config(text_literal("statement_timeout"), bindparam("milliseconds", type_=Text()), true())
)


def notify() -> Any:
    """Return the statement that notifies the listeners of a `channel`."""
    return select(pg.pg_notify(bindparam("channel", type_=Text()), bindparam("payload", type_=Text())))


def time_of_day() -> Any:
    """Return the query for the time by the database's clock."""
    return select(func.clock_timestamp())


def gauges() -> Any:
    """Return the query for the fields of `LiveWorkflows`, with `executors` in each row; one row at least.

    The indexes of the ready, the due, the running and the waiting workflows lead to the live ones, so those that
    have ended cost nothing. Submissions that run in a batch are not counted, but the batch.
    """
    columns: Any = (Workflow.queue, Workflow.name, Workflow.status, Workflow.ready_at)
    waits: Any = select(Wait.workflow_id).distinct().subquery("waits")
    waiting = select(*columns).join_from(waits, Workflow, Workflow.id == waits.c.workflow_id)
    only_waits = (Workflow.due_at.is_(None), Workflow.ready_at.is_(None), Workflow.executor.is_(None))
    live: Any = union_all(
        select(*columns).where(Workflow.ready_at.is_not(None)),
        select(*columns).where(Workflow.due_at.is_not(None)),
        select(*columns).where(Workflow.executor.is_not(None)),
        waiting.where(*only_waits, Workflow.completed_at.is_(None)),
    ).subquery("live")
    queue = func.coalesce(live.c.queue, text_literal("")).label("queue")
    counted = (
        select(
            queue,
            live.c.name,
            live.c.status,
            COUNT.label("number"),
            pg.min(finite(live.c.ready_at)).label("oldest_ready_at"),
        )
        .group_by(queue, live.c.name, live.c.status)
        .subquery("counted")
    )
    alive = select(COUNT).where(
        Executor.stopped_at.is_(None), Executor.expires_at > pg.now(type_=DateTime(timezone=True))
    )
    own = select(alive.scalar_subquery().label("executors")).subquery("own")
    return select(*counted.c, own.c.executors).select_from(own.outerjoin(counted, true()))
