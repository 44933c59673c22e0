"""`ScheduleHandle`, by which an application controls a schedule."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from itertools import islice
from typing import Any, Generic, TypeVar

from pgqrs.client.handle import WorkflowHandle
from pgqrs.client.loop_state import LoopStates
from pgqrs.client.scheduling.records import schedule_record
from pgqrs.codecs.annotations import ReturnType
from pgqrs.errors import ConfigurationError, WorkflowNotFoundError
from pgqrs.schedules import ScheduleRecord
from pgqrs.storage.schedules.repository import ScheduleRepository, StartedByHand
from pgqrs.storage.schedules.stored import StartedRun, new_run
from pgqrs.validation import check_aware, check_name, validate_positive_int

R = TypeVar("R")
T = TypeVar("T")

MAX_BACKFILL = 10_000
"""Maximum times of one call of `ScheduleHandle.backfill`."""

PORTION = 1000
"""Maximum workflows that one statement of a backfill starts."""


class ScheduleHandle(Generic[R]):
    """A schedule: a rule of times, at each of which it starts a workflow.

    `Admin.schedule` and `Admin.find_schedule` return handles. Each method is a transaction of its own, and raises
    `ScheduleNotFoundError` if there is no schedule of the name.
    """

    __slots__ = ("_loops", "_name", "_returns")

    def __init__(self, loops: LoopStates, name: str, returns: ReturnType | None = None) -> None:
        self._loops = loops
        self._name = name
        self._returns = returns

    @property
    def name(self) -> str:
        """The name of the schedule."""
        return self._name

    def __repr__(self) -> str:
        return f"<ScheduleHandle {self._name!r}>"

    async def record(self) -> ScheduleRecord:
        """Return the present state of the schedule.

        Returns:
            The record.

        Raises:
            ScheduleNotFoundError: No schedule has the name.
            DatabaseUnavailableError: The database is unavailable.
        """
        stored = await self._run(lambda schedules: schedules.get(self._name))
        return schedule_record(self._loops.codec, stored)

    async def pause(self) -> None:
        """Start no more workflows until `resume`; a paused schedule stays paused.

        Workflows that were started stay as they are.

        Raises:
            ScheduleNotFoundError: No schedule has the name.
            DatabaseUnavailableError: The database is unavailable.
        """
        await self._run(lambda schedules: schedules.pause(self._name))

    async def resume(self) -> None:
        """Go on with the first time after now; the times that passed during the pause are not caught up.

        Raises:
            ScheduleNotFoundError: No schedule has the name.
            ConfigurationError: This machine does not know the time zone of the schedule.
            DatabaseUnavailableError: The database is unavailable.
        """
        await self._run(lambda schedules: schedules.resume(self._name))

    async def trigger(self) -> WorkflowHandle[R]:
        """Start a workflow now, also if the schedule is paused, and whatever `overlap` says.

        The next time of the schedule stays. `PyWorkflow.scheduled_for` is the time of the call.

        Returns:
            A handle on the workflow.

        Raises:
            ScheduleNotFoundError: No schedule has the name.
            DatabaseUnavailableError: The database is unavailable.
        """
        state = await self._loops.loop_state()
        run = new_run(self._name, await state.store.reader.now())
        await self._start([run])
        identity = await self._run(lambda schedules: schedules.run_of(self._name, run))
        if identity is None:  # purged since
            raise WorkflowNotFoundError(0, name=self._name, key=run.key)
        return WorkflowHandle(self._loops, identity, is_there=True, returns=self._returns)

    async def backfill(self, since: datetime, until: datetime, *, dry_run: bool = False) -> list[datetime]:
        """Start a workflow for each time in a period that has none, by the present rule of the schedule.

        All of them are started at once, whatever `overlap` says. A second call starts nothing a second time.

        Args:
            since: The beginning of the period, an aware datetime; it is part of the period.
            until: The end of the period, not later than now; it is no part of the period.
            dry_run: Whether to return the times only, and to start nothing. False by default.

        Returns:
            The times for which workflows were started, or would be, in UTC.

        Raises:
            ScheduleNotFoundError: No schedule has the name.
            ConfigurationError: A datetime is naive, the end is later than now or before the beginning, the period
                has more than 10,000 times, or this machine does not know the time zone of the schedule.
            TypeError: An argument is not a datetime.
            DatabaseUnavailableError: The database is unavailable.
        """
        runs = [new_run(self._name, each) for each in await self._period(since, until)]
        found: list[datetime] = []
        for first in range(0, len(runs), PORTION):
            portion = runs[first : first + PORTION]
            if dry_run:
                found += await self._missing(portion)
            else:
                keys = (await self._start(portion)).keys
                found += [each.time for each in portion if each.key in keys]
        return found

    async def next(self, count: int = 1) -> list[datetime]:
        """Return the next times of the schedule, also if it is paused.

        Args:
            count: The number of times; 1 by default.

        Returns:
            The times in UTC; fewer if the schedule ends before.

        Raises:
            ScheduleNotFoundError: No schedule has the name.
            ConfigurationError: The number is less than 1, or this machine does not know the time zone.
            TypeError: The number is not an int.
            DatabaseUnavailableError: The database is unavailable.
        """
        validate_positive_int("count", count)
        stored = await self._run(lambda schedules: schedules.get(self._name))
        now = await (await self._loops.store()).reader.now()
        return list(islice(stored.table.times(now), count))

    async def delete(self) -> bool:
        """Delete the schedule; the workflows that it has started stay.

        Returns:
            True if the schedule was there.

        Raises:
            DatabaseUnavailableError: The database is unavailable.
        """
        return await self._run(lambda schedules: schedules.delete(self._name))

    async def _period(self, since: datetime, until: datetime) -> list[datetime]:
        """Return the times of a period, after a check."""
        check_aware("since", since)
        check_aware("until", until)
        if until < since:
            raise ConfigurationError(f"`until` must not be before `since`, got {until} and {since}.")
        if until > await (await self._loops.store()).reader.now():
            raise ConfigurationError(
                f"`until` must not be later than now, got {until}: the schedule itself goes on."
            )
        table = (await self._run(lambda schedules: schedules.get(self._name))).table
        times = list(islice(table.between(since, until), MAX_BACKFILL + 1))
        if len(times) > MAX_BACKFILL:
            raise ConfigurationError(
                f"a backfill has at most {MAX_BACKFILL:,} times, and {times[-1]} is one too many: backfill a "
                "shorter period, and then the next one."
            )
        return times

    async def _start(self, runs: list[StartedRun]) -> StartedByHand:
        started = await self._run(lambda schedules: schedules.start(self._name, runs))
        if started.lowest:
            (await self._loops.loop_state()).notifier.notify(started.queue, started.lowest)
        return started

    async def _missing(self, runs: list[StartedRun]) -> list[datetime]:
        return await self._run(lambda schedules: schedules.missing(self._name, runs))

    async def _run(self, work: Callable[[ScheduleRepository], Awaitable[T]]) -> T:
        operations = (await self._loops.store()).operations
        return await operations.run(lambda connection: work(ScheduleRepository(connection)))


async def find_schedule(loops: LoopStates, name: str) -> ScheduleHandle[Any]:
    """Return the handle of a schedule; raises `ScheduleNotFoundError`, or `InvalidNameError` for a wrong name."""
    check_name("schedule name", name)
    handle: ScheduleHandle[Any] = ScheduleHandle(loops, name)
    await handle.record()
    return handle


async def list_schedules(loops: LoopStates) -> list[ScheduleRecord]:
    """Return the records of all schedules, by name."""
    operations = (await loops.store()).operations
    found = await operations.run(lambda connection: ScheduleRepository(connection).all())
    return [schedule_record(loops.codec, each) for each in found]
