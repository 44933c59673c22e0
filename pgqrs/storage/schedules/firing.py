"""Starts the workflows of the schedules that are due."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from time import monotonic
from typing import Any, NamedTuple, TypeAlias

from pgqrs.observer import Observer
from pgqrs.schedules import due_times, jittered
from pgqrs.storage.queries import schedules
from pgqrs.storage.schedules.stored import DueSchedule, StartedRun, due, new_run, run_binds, times_text

UNREADABLE = 60.0
"""Seconds after which a schedule that could not be read is looked at again."""

_logger = logging.getLogger("pgqrs.storage")

Fetch: TypeAlias = Callable[[Callable[[], Any], dict[str, Any]], Awaitable[Sequence[Mapping[Any, Any]]]]
"""A function that runs the statement of its first argument, with the values of its binds, and returns the rows."""


class FiredRun(NamedTuple):
    """A workflow that a schedule has started for a time, `lateness` seconds after it."""

    workflow_id: int
    queue: str
    schedule: str
    time: datetime
    lateness: float


class Fired(NamedTuple):
    """The result of a start of schedules: the number of those that moved to their next time, and the workflows."""

    moved: int = 0
    runs: tuple[FiredRun, ...] = ()

    @property
    def lowest(self) -> int:
        """The lowest id of the workflows, 0 without one."""
        return min((each.workflow_id for each in self.runs), default=0)

    @property
    def queues(self) -> set[str]:
        """The queues of the workflows."""
        return {each.queue for each in self.runs}

    def announce(self, observer: Observer | None) -> None:
        """Log the start of each workflow, and tell the observer; call it after the commit."""
        for workflow_id, _, schedule, time, lateness in self.runs:
            extra = {"schedule": schedule, "workflow_id": workflow_id, "scheduled_for": time.isoformat()}
            _logger.info(
                "pgqrs: the schedule %r has started workflow %d for %s, %.1f s late",
                schedule,
                workflow_id,
                time.isoformat(),
                lateness,
                extra=extra | {"lateness": lateness},
            )
            if observer is not None:
                observer.schedule_fired(schedule, workflow_id, time, lateness)


class _Move(NamedTuple):
    """The next time of a schedule, and the workflows to start; see `queries.schedules.fire`."""

    due: DueSchedule
    next_at: datetime | None
    latest: datetime | None
    second: datetime | None
    runs: Sequence[StartedRun]


class ScheduleFiring:
    """Starts workflows of schedules, through any connection; one that it cannot read is left alone for a while."""

    def __init__(self) -> None:
        self._unreadable: dict[str, float] = {}

    async def fire(self, fetch: Fetch, names: Sequence[str], queues: Sequence[str]) -> Fired:
        """Start the workflows of up to `MAX_DUE` schedules of these workflow names and queues that are due.

        A schedule whose rule cannot be read, as of a time zone that this machine lacks, is left to other workers.
        It is looked at again after `UNREADABLE` seconds, because it may have been changed.
        """
        now = monotonic()
        self._unreadable = {name: since for name, since in self._unreadable.items() if now - since < UNREADABLE}
        asked = {"names": list(names), "queues": list(queues), "avoid": list(self._unreadable)}
        rows = await fetch(schedules.due, asked)
        moves = [move for row in rows if (move := self._planned(row)) is not None]
        if not moves:
            return Fired()
        (found,) = await fetch(schedules.fire, _binds(moves))
        return Fired(found["moved"], tuple(_fired(found, moves)))

    def _planned(self, row: Mapping[Any, Any]) -> _Move | None:
        try:
            return _planned(due(row))
        except Exception as error:  # noqa: BLE001  # the other schedules do not wait for this one
            name = row["name"]
            _logger.warning("pgqrs: this process cannot start the schedule %r: %s", name, error)
            self._unreadable[name] = monotonic()
            return None


def _planned(own: DueSchedule) -> _Move:
    """Return what a schedule that is due does at the time of the database's clock."""
    times: tuple[datetime, ...] = ()
    next_at = own.next_at
    if next_at is not None and next_at <= own.now:
        times, next_at = due_times(own.table, own.catchup, own.within, next_at, own.now)
    second = None
    if own.queued_for is not None and own.overlap == "queue":
        times, second = (own.queued_for,), times[-1] if times else None
    delays = [jittered(own.name, each, own.jitter) if own.jitter else each for each in times]
    starts = [each if each > own.now else None for each in delays]
    runs = [new_run(own.name, time, start) for time, start in zip(times, starts, strict=True)]
    return _Move(own, next_at, times[-1] if times else None, second, runs)


def _fired(found: Mapping[Any, Any], moves: Sequence[_Move]) -> Iterator[FiredRun]:
    if found["ids"] is not None:
        planned = {run.key: (run, move.due.now) for move in moves for run in move.runs}
        for workflow_id, key, queue in zip(found["ids"], found["keys"], found["queues"], strict=True):
            run, now = planned[key]
            yield FiredRun(workflow_id, queue, run.schedule, run.time, (now - run.time).total_seconds())


def _binds(moves: Sequence[_Move]) -> dict[str, Any]:
    return {
        "names": [each.due.name for each in moves],
        "old_at": times_text([each.due.next_at for each in moves]),
        "old_queued": times_text([each.due.queued_for for each in moves]),
        "next_at": times_text([each.next_at for each in moves]),
        "latest": times_text([each.latest for each in moves]),
        "second": times_text([each.second for each in moves]),
        **run_binds(list(chain.from_iterable(each.runs for each in moves))),
    }
