"""The schedules of a chaos run, and the check of the workflows that they have started."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise, takewhile
from typing import NamedTuple

from chaos.tables import Written
from chaos.work import tick
from pgqrs import Admin, Every
from pgqrs.types import CatchUp, Overlap

BEGIN = timedelta(seconds=2.5)
"""Time until the schedules begin; no time of a schedule is at their beginning or at their end."""

TOLERANCE = 0.5
"""Seconds by which two workflows may seem to live at once: each time is that of the beginning of a transaction."""


class Plan(NamedTuple):
    """A schedule; its workflow sleeps for `pause` seconds."""

    every: float
    overlap: Overlap
    catchup: CatchUp
    queue: str
    pause: float


SCHEDULES = {
    "each time": Plan(1.0, "allow", "all", "default", 0.0),
    "each time, limited": Plan(2.0, "allow", "all", "narrow", 0.0),
    "one at a time": Plan(1.0, "skip", "last", "default", 1.5),
    "one at a time, and one more": Plan(1.0, "queue", "last", "halting", 1.5),
    "the newest": Plan(2.0, "cancel", "last", "default", 2.5),
}


@dataclass(frozen=True)
class Timetable:
    """The schedules; `times` has the times of each schedule from its beginning to its end."""

    admin: Admin
    times: dict[str, list[datetime]] = field(default_factory=dict[str, list[datetime]])

    async def begin(self, seconds: float) -> None:
        """Make the schedules, which begin soon, and end after some seconds."""
        start = datetime.now(UTC).replace(microsecond=0) + BEGIN
        end = start + timedelta(seconds=round(seconds))
        for name, plan in SCHEDULES.items():
            rule = Every(plan.every)
            await self.admin.options(queue=plan.queue).schedule(
                name, rule, tick, plan.pause, overlap=plan.overlap, catchup=plan.catchup, start=start, end=end
            )
            self.times[name] = list(takewhile(lambda time: time < end, rule.times(start)))

    def violations(self, workflows: Iterable[Written]) -> Iterator[str]:
        """Yield each violation, as a sentence."""
        found: dict[str, list[Written]] = defaultdict(list)
        for each in workflows:
            if each.schedule is not None:
                found[each.schedule].append(each)
        for name, times in self.times.items():
            yield from _wrong_times(name, times, found[name])
            if SCHEDULES[name].overlap in {"skip", "queue"}:
                yield from _together(name, found[name])


def _wrong_times(name: str, times: Sequence[datetime], started: Sequence[Written]) -> Iterator[str]:
    counts = Counter(each.scheduled_for for each in started)
    for time, count in counts.items():
        if count > 1 or time not in times:
            yield f"schedule {name!r} has started {count} workflows for the time {time}."
    if SCHEDULES[name].catchup == "all":
        for time in times:
            if time not in counts:
                yield f"schedule {name!r} has started no workflow for the time {time}."


def _together(name: str, started: Sequence[Written]) -> Iterator[str]:
    for one, other in pairwise(sorted(started, key=lambda each: each.id)):
        if one.completed_at is None or one.completed_at - other.created_at > timedelta(seconds=TOLERANCE):
            yield f"schedule {name!r} has started workflow {other.id} while workflow {one.id} was alive."
