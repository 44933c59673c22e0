"""The queries and the changes of schedules, in a transaction of the caller."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from pgqrs.errors import ScheduleNotFoundError
from pgqrs.storage.queries import schedules
from pgqrs.storage.queries.workflows import WorkflowRepository
from pgqrs.storage.records import WorkflowIdentity
from pgqrs.storage.schedules.stored import StartedRun, StoredSchedule, rule_columns, run_binds, stored
from pgqrs.storage.sql.connection import Connection


class StartedByHand(NamedTuple):
    """The workflows that a schedule has started by hand: their keys, their queue and the lowest id."""

    keys: frozenset[str]
    queue: str
    lowest: int


class ScheduleRepository:
    """Queries for schedules; each method of one schedule raises `ScheduleNotFoundError`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def put(self, new: StoredSchedule) -> None:
        """Make a schedule, or change the schedule of its name; its state and its pause stay."""
        values = new._asdict()
        table = values.pop("table")
        state = {"queued_for", "last_at", "paused_at", "created_at", "updated_at"}
        own = {name: each for name, each in values.items() if name not in state}
        await self._connection.execute(schedules.put(), own | rule_columns(table))

    async def all(self) -> list[StoredSchedule]:
        """Return all schedules, by name."""
        return [stored(row) for row in (await self._connection.execute(schedules.listed())).mappings()]

    async def get(self, name: str) -> StoredSchedule:
        """Return a schedule."""
        return stored(await self._row(schedules.of_name(), name))

    async def pause(self, name: str) -> None:
        """Pause a schedule, unless it is paused."""
        await self._row(schedules.pause(), name)

    async def resume(self, name: str) -> None:
        """Resume a schedule, from the first time after now on; do nothing unless it is paused."""
        row = await self._row(schedules.locked(), name)
        own, now = stored(row), row["now"]
        if own.paused_at is not None:
            passed = own.next_at is not None and own.next_at <= now
            after = own.table.next(now) if passed else own.next_at
            await self._row(schedules.unpause(), name, after=after)

    async def delete(self, name: str) -> bool:
        """Delete a schedule, and return whether it was there; its workflows stay."""
        return (await self._connection.execute(schedules.remove(), {"schedule": name})).first() is not None

    async def start(self, name: str, runs: Sequence[StartedRun]) -> StartedByHand:
        """Start workflows of a schedule, and return those that were not there."""
        own = await self.get(name)
        rows: Any = (await self._connection.execute(schedules.start_by_hand(), run_binds(runs))).all()
        lowest = min((row.id for row in rows), default=0)
        return StartedByHand(frozenset(row.key for row in rows), own.queue, lowest)

    async def run_of(self, name: str, run: StartedRun) -> WorkflowIdentity | None:
        """Return the workflow of a schedule and a time."""
        return await WorkflowRepository(self._connection).of_key((await self.get(name)).workflow, run.key)

    async def missing(self, name: str, runs: Sequence[StartedRun]) -> list[datetime]:
        """Return the times for which no workflow was started."""
        asked = {"name": (await self.get(name)).workflow, "keys": [each.key for each in runs]}
        taken = set(await self._connection.scalars(schedules.taken_keys(), asked))
        return [each.time for each in runs if each.key not in taken]

    async def _row(self, statement: Any, name: str, **values: Any) -> Any:
        found = await self._connection.execute(statement, {"schedule": name, **values})
        row = found.mappings().one_or_none()
        if row is None:
            raise ScheduleNotFoundError(name)
        return row
