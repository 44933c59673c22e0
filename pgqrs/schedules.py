"""The rules of schedules: `Cron` and `Every`, and the times at which a schedule starts workflows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice, takewhile
from random import Random
from typing import Any, Final, NamedTuple, TypeAlias, cast
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from pgqrs.errors import ConfigurationError
from pgqrs.types import CatchUp, Overlap
from pgqrs.validation import check_aware, parse_seconds

MIN_LENGTH = 1.0
"""Seconds, minimum length of `Every`."""

ON_TIME = 60.0
"""Seconds after a time of a schedule in which it is no missed time: each `catchup` and `within` starts it."""

MAX_TIMES = 1000
"""Maximum times of one schedule for which one statement starts workflows; the next statement handles the rest."""

FIRST_WINDOW = 64.0
"""Seconds before now in which the newest missed time is searched first; then in eight times as many."""

_ALIASES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_MOMENT = timedelta(microseconds=1)

_FIRST: Final = datetime(1, 1, 3, tzinfo=UTC)
"""The first time that has a neighbour in every time zone."""


@dataclass(frozen=True, slots=True)
class Cron:
    """The times of a cron expression in a time zone: ``Cron("0 3 * * *", "Europe/Berlin")``.

    A fixed time that a change of the clock skips is moved to the end of the gap. A fixed time that the clock shows
    twice counts once, the first time. An expression whose minute or hour begins with ``*``, or that has seconds,
    follows the hours that pass.

    Args:
        expression: Five fields (minute, hour, day of the month, month, day of the week), six fields with the
            seconds before them, or ``@yearly``, ``@annually``, ``@monthly``, ``@weekly``, ``@daily``,
            ``@midnight`` or ``@hourly``.
        zone: The name of a time zone of IANA; UTC by default.

    Raises:
        ConfigurationError: The expression is invalid or has no time, or the time zone is unknown.
        TypeError: An argument is not a string.
    """

    expression: str
    zone: str = "UTC"

    def __post_init__(self) -> None:
        for name in ("expression", "zone"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"the {name} of Cron must be a string, got {type(getattr(self, name)).__name__}.")
        if next(self.times(_EPOCH), None) is None:
            raise self._invalid("it has no time within 50 years")

    def __str__(self) -> str:
        return f"{self.expression} ({self.zone})"

    def times(self, after: datetime) -> Iterator[datetime]:
        """Yield the times after a time, in UTC.

        Args:
            after: An aware datetime.

        Yields:
            The times, in order.

        Raises:
            ConfigurationError: This machine does not know the time zone.
        """
        expression = _ALIASES.get(self.expression.strip().lower(), self.expression)
        zone, latest = self._zone(), after
        try:
            for each in CronSim(expression, after.astimezone(zone)):
                time = each.astimezone(UTC)
                if time > latest:  # where the clock shows an hour twice, the library may begin an hour too early
                    yield time
                    latest = time
        except (CronSimError, ValueError) as error:
            raise self._invalid(str(error)) from error
        except OverflowError:  # beyond the last year
            return

    def _zone(self) -> ZoneInfo:
        try:
            return ZoneInfo(self.zone)
        except (LookupError, OSError, ValueError) as error:
            raise ConfigurationError(
                f"unknown time zone {self.zone!r}: pass a name such as 'Europe/Berlin', and install the package "
                "`tzdata` if the system has no time zones."
            ) from error

    def _invalid(self, reason: str) -> ConfigurationError:
        return ConfigurationError(f"invalid cron expression {self.expression!r}: {reason}.")


@dataclass(frozen=True, slots=True)
class Every:
    """The times at equal distances: ``Every(timedelta(minutes=5))``.

    The times are counted from `anchor`, so that they never drift, whatever the time of a deploy or of a start.

    Args:
        length: Seconds, or a `timedelta`, between two times; at least a second.
        anchor: An aware datetime that is one of the times. By default the beginning of 1970 in UTC, so that the
            times of ``Every(timedelta(hours=1))`` are the full hours.

    Raises:
        ConfigurationError: The length is less than a second or more than 100 years, or the anchor is naive.
        TypeError: The length is not a number or a `timedelta`.
    """

    length: float | timedelta
    anchor: datetime = _EPOCH

    def __post_init__(self) -> None:
        seconds = parse_seconds("length", self.length)
        if seconds < MIN_LENGTH:
            raise ConfigurationError(f"the length of Every must be at least {MIN_LENGTH:g} s, got {seconds:g} s.")
        check_aware("anchor", self.anchor)
        object.__setattr__(self, "length", timedelta(seconds=seconds))

    def __str__(self) -> str:
        return f"every {self.length}"

    def times(self, after: datetime) -> Iterator[datetime]:
        """Yield the times after a time, in UTC.

        Args:
            after: An aware datetime.

        Yields:
            The times, in order.
        """
        length, anchor = cast(timedelta, self.length), self.anchor.astimezone(UTC)
        try:
            time = anchor + ((after - anchor) // length + 1) * length
            while True:
                yield time
                time += length
        except OverflowError:  # beyond the last year
            return


Rule: TypeAlias = Cron | Every
"""The rule of a schedule's times."""


def in_words(rule: Rule) -> str:
    """Return a rule in English words, as in "At 03:00 every day (Europe/Berlin)"."""
    if isinstance(rule, Every):
        return f"Every {_length_in_words(cast(timedelta, rule.length))}"
    expression = _ALIASES.get(rule.expression.strip().lower(), rule.expression)
    try:
        return f"{CronSim(expression, _EPOCH).explain()} ({rule.zone})"
    except CronSimError:  # a row that another program wrote
        return str(rule)


def _length_in_words(length: timedelta) -> str:
    seconds = length.total_seconds()
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        number, rest = divmod(seconds, size)
        if number and not rest:
            return unit if number == 1 else f"{number:g} {unit}s"
    return "second" if seconds == 1 else f"{seconds:g} seconds"


class Timetable(NamedTuple):
    """The times of a rule from `start` on and before `end`."""

    rule: Rule
    start: datetime | None = None
    end: datetime | None = None

    def times(self, after: datetime) -> Iterator[datetime]:
        """Yield the times after a time, in order."""
        first = after if self.start is None or self.start <= after else self.start - _MOMENT
        times = self.rule.times(first)
        return times if self.end is None else takewhile(self.end.__gt__, times)

    def next(self, after: datetime) -> datetime | None:
        """Return the first time after a time, None without one."""
        return next(self.times(after), None)

    def between(self, since: datetime, until: datetime) -> Iterator[datetime]:
        """Yield the times from `since` on and before `until`."""
        return takewhile(until.__gt__, self.times(max(since, _FIRST) - _MOMENT))

    def last(self, since: datetime, until: datetime) -> datetime | None:
        """Return the last time from `since` up to `until`, None without one."""
        window = timedelta(seconds=FIRST_WINDOW)
        while True:
            first = max(since, until - window)
            newest = deque(self.between(first, until + _MOMENT), maxlen=1)
            found = newest[0] if newest else None
            if found is not None or first == since:
                return found
            window *= 8


@dataclass(frozen=True, slots=True)
class ScheduleRecord:
    """A snapshot of one schedule in the database.

    Attributes:
        name: The name of the schedule.
        workflow: The name of the workflow that it starts.
        rule: The rule of its times.
        input: The arguments of the workflow, ``{"args": [...], "kwargs": {...}}``; `Unreadable` if this `Admin`
            cannot read them.
        queue: The queue of the workflows.
        priority: The priority of the workflows.
        timeout: Seconds from the first start of a workflow to its deadline; None without one.
        overlap: The effect of a time while a workflow of the schedule lives.
        catchup: The times that are caught up after an outage.
        within: The age at which a missed time is dropped.
        jitter: The maximum delay of a start.
        start: The first time that counts; None without one.
        end: The time from which on no time counts; None without one.
        next_at: The next time; None after the last time. In a paused schedule it may have passed.
        queued_for: The time that waits for the end of the workflow that lives; None without one.
        last_at: The newest time for which a workflow was started; None without one.
        paused_at: The time at which the schedule was paused; None for a schedule that is not paused.
        created_at: The time at which the schedule was made.
        updated_at: The time at which the application last changed the schedule.
        codec: The name of the codec of the arguments; None for strict JSON.
        partition_key: The partition key of the workflows; None without one.
    """

    name: str
    workflow: str
    rule: Rule
    input: Any
    queue: str
    priority: int
    timeout: float | None
    overlap: Overlap
    catchup: CatchUp
    within: timedelta
    jitter: timedelta
    start: datetime | None
    end: datetime | None
    next_at: datetime | None
    queued_for: datetime | None
    last_at: datetime | None
    paused_at: datetime | None
    created_at: datetime
    updated_at: datetime
    codec: str | None = None
    partition_key: str | None = None

    @property
    def is_paused(self) -> bool:
        """True if the schedule is paused."""
        return self.paused_at is not None


def recorded_rule(cron: str | None, zone: str | None, every: float | None, anchor: datetime | None) -> Rule:
    """Return the rule of a schedule from its columns, without a check: this machine may lack the time zone."""
    rule: Rule
    if every is None:
        rule = object.__new__(Cron)
        columns: dict[str, Any] = {"expression": cron, "zone": zone}
    else:
        rule = object.__new__(Every)
        columns = {"length": timedelta(seconds=every), "anchor": anchor or _EPOCH}
    for name, value in columns.items():
        object.__setattr__(rule, name, value)
    return rule


@lru_cache(maxsize=64)  # thousands of schedules may share a rule and its times
def due_times(
    table: Timetable, catchup: CatchUp, within: float, next_at: datetime, now: datetime
) -> tuple[tuple[datetime, ...], datetime | None]:
    """Return the times for which a schedule starts workflows now, and the next time after them.

    `next_at` is the first time that was not handled, and has passed.
    """
    following = table.next(next_at)
    allowed = ON_TIME if catchup == "none" else max(within, ON_TIME)
    first = max(next_at, now - timedelta(seconds=allowed))
    if following is None or following > now:
        return (next_at,) if first == next_at else (), following
    if catchup == "all":
        times = tuple(islice(table.between(first, now + _MOMENT), MAX_TIMES + 1))
        if len(times) > MAX_TIMES:
            return times[:-1], times[-1]
    else:
        last = table.last(first, now)
        times = () if last is None else (last,)
    return times, table.next(now)


def jittered(name: str, time: datetime, jitter: float) -> datetime:
    """Return the time at which a workflow of a schedule starts: up to `jitter` later, the same in each call."""
    random = Random(f"{name} {time.timestamp()}")  # noqa: S311  # to spread the starts
    return time + timedelta(seconds=random.uniform(0.0, jitter))


def key_of(name: str, time: datetime) -> str:
    """Return the key of the workflow that a schedule starts for a time."""
    return f"{name} {time.astimezone(UTC).isoformat()}"
