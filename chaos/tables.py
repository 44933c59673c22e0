"""Queries that are repeated while connections are cut and the server crashes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Double, Select, cast, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from chaos.control.slots import TRIGGER, Slot, Taken
from chaos.work import Base, Entry, engine_for
from pgqrs.models import Executor, Message, Schedule, Step, Workflow

PATIENCE = 60.0
OVER = ("SUCCESS", "ERROR", "CANCELLED")

_BACKENDS = text(
    """
    SELECT pid, EXISTS (
        SELECT FROM pg_locks WHERE pg_locks.pid = pg_stat_activity.pid AND locktype = 'advisory'
    ) AS is_pulse
    FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
    """
)

_TERMINATE = text("SELECT pg_terminate_backend(pid) FROM unnest(CAST(:pids AS int[])) AS pid")


def is_away(error: BaseException) -> bool:
    """Return whether an error means that the server or the connection is gone, rather than a wrong query."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, OSError)
    state = getattr(error.orig, "sqlstate", None)
    return state is None or str(state).startswith(("08", "57", "53"))


class Written(NamedTuple):
    """The columns of a workflow that are compared with the ledger."""

    id: int
    name: str
    key: str | None
    status: str
    output: Any
    error: Any
    epoch: int
    parent_id: int | None
    input: Any = None
    batch_id: int | None = None
    schedule: str | None = None
    scheduled_for: datetime | None = None
    created_at: datetime = datetime.max.replace(tzinfo=UTC)
    completed_at: datetime | None = None
    queue: str | None = None
    saga_state: str | None = None
    partition_key: str | None = None

    @property
    def is_batch(self) -> bool:
        """True for a batch, which has the ids of its submissions as its input."""
        return self.batch_id == self.id

    @property
    def has_ended(self) -> bool:
        """True for a workflow that has ended in any way."""
        return self.status in OVER


class Ended(NamedTuple):
    """The numbers of ended workflows: the enqueued, and all with batches, children and those of schedules."""

    enqueued: int
    total: int


class Recorded(NamedTuple):
    """The record of a step; times are in seconds since the Unix epoch."""

    workflow_id: int
    step_id: str
    status: str
    output: Any
    epoch: int
    failures: int
    started_at: float
    completed_at: float | None


class Entered(NamedTuple):
    """A row of the ledger."""

    id: UUID
    workflow_id: int
    step_id: str
    epoch: int
    pid: int
    began_at: float
    undoes: str | None = None
    entered_at: float = 0.0


class Tables:
    """The tables of pgqrs and the ledger; each query opens a new connection."""

    def __init__(self, dsn: str) -> None:
        self._engine = engine_for(dsn, poolclass=NullPool)

    async def make(self) -> None:
        """Create the ledgers, and the trigger that writes one of them."""
        async with self._engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
            for statement in TRIGGER:
                await connection.execute(statement)

    async def close(self) -> None:
        """Close the engine."""
        await self._engine.dispose()

    async def _rows(
        self, query: Any, values: dict[str, Any] | None = None, patience: float = PATIENCE
    ) -> list[Any]:
        deadline = time.monotonic() + patience
        while True:
            try:
                async with asyncio.timeout(10), self._engine.begin() as connection:
                    return list(await connection.execute(query, values))
            except (DBAPIError, OSError) as error:  # a TimeoutError is an OSError
                if not is_away(error) or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)

    async def ended(self) -> Ended:
        """Return the numbers of ended workflows."""
        is_enqueued = (
            Workflow.parent_id.is_(None)
            & Workflow.schedule.is_(None)
            & Workflow.batch_id.is_distinct_from(Workflow.id)
        )
        ended = select(func.count().filter(is_enqueued), func.count()).where(Workflow.status.in_(OVER))
        return Ended(*(await self._rows(ended))[0])

    async def scheduled(self) -> bool:
        """Return whether a schedule has a further time, or a workflow of a schedule lives."""
        times = select(Schedule.name).where(Schedule.next_at.is_not(None) | Schedule.queued_for.is_not(None))
        alive = select(Workflow.schedule).where(Workflow.schedule.is_not(None), Workflow.completed_at.is_(None))
        return bool(await self._rows(times.union_all(alive)))

    async def unread(self) -> list[str]:
        """Return the addresses of the messages and requests to workflows that no workflow has received."""
        is_sent = Message.address.like("m/%") | Message.address.like("u/%")
        unread = select(Message.address).where(Message.taken_at.is_(None), is_sent)
        return [address for (address,) in await self._rows(unread)]

    async def held_by(self, pid: int) -> list[tuple[int, int]]:
        """Return the ids and epochs of the runs of a process from queues without limits, without retries."""
        query = (
            select(Workflow.id, Workflow.epoch)
            .join(Executor, Executor.id == Workflow.executor)
            .where(Executor.pid == pid, Workflow.queue == "default")
        )
        return [(row[0], row[1]) for row in await self._rows(query, patience=0)]

    async def backends(self) -> list[tuple[int, bool]]:
        """Return the pids of the connections, and whether each belongs to a heartbeat."""
        return [(row[0], row[1]) for row in await self._rows(_BACKENDS, patience=0)]

    async def terminate(self, pids: Iterable[int]) -> None:
        """Terminate backends."""
        await self._rows(_TERMINATE, {"pids": list(pids)}, patience=0)

    async def workflows(self) -> list[Written]:
        """Return all workflows."""
        return [Written(*row) for row in await self._rows(_columns(Workflow, Written))]

    async def steps(self) -> list[Recorded]:
        """Return all recorded steps."""
        query = select(
            Step.workflow_id,
            Step.step_id,
            Step.status,
            Step.output,
            Step.epoch,
            Step.failures,
            cast(func.extract("epoch", Step.started_at), Double()),
            cast(func.extract("epoch", Step.completed_at), Double()),
        )
        rows: Sequence[Any] = await self._rows(query)
        return [Recorded(*row) for row in rows]

    async def entries(self) -> list[Entered]:
        """Return the ledger of the executions."""
        return [Entered(*row) for row in await self._rows(_columns(Entry, Entered))]

    async def slots(self) -> list[Taken]:
        """Return the ledger of the slots."""
        return [Taken(*row) for row in await self._rows(_columns(Slot, Taken))]


def _columns(model: Any, record: Any) -> Select[Any]:
    return select(*(getattr(model, name) for name in record._fields))
