"""Time: what waits are measured by, where the time of day comes from, and lengths of time as they are given."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from time import monotonic
from typing import NamedTuple, Protocol

from pgqrs.errors import ConfigurationError

MAX_SECONDS = 100 * 365 * 86400.0
"""The longest time that can be given, in seconds: a century, well before the timestamps of PostgreSQL end."""


class TimeOfDay(Protocol):
    """Where the time of day comes from: the database, which is one for all machines."""

    async def now(self) -> datetime:
        """Return the time, aware."""
        ...


class Timer(Protocol):
    """Something that is to happen at a time."""

    def cancel(self) -> object:
        """Let it not happen; nothing is done where it has happened."""
        ...


class Clock(Protocol):
    """What sleeps, the delays of retries and deadlines are waited for by; `MonotonicClock` is the default.

    Only a test moves it otherwise than time goes (`pgqrs.testing.TestClock`), and the database's with it. What
    keeps the library itself going is not measured by it: heartbeats, polls, the time limits of statements.
    """

    @property
    def schema(self) -> str | None:
        """The schema whose functions `now()` and the like tell its time, None for the server's own."""
        ...

    def time(self) -> float:
        """Return the time in seconds from some moment on; it never goes back."""
        ...

    def call_at(self, time: float, callback: Callable[..., object], *args: object) -> Timer:
        """Have the running event loop call `callback` with `args` when it is `time`, or has been."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait so many seconds."""
        ...


class MonotonicClock:
    """The clock of the machine, which goes as time does."""

    __slots__ = ()

    schema = None

    def time(self) -> float:
        """Return the time in seconds from some moment on."""
        return monotonic()

    def call_at(self, time: float, callback: Callable[..., object], *args: object) -> Timer:
        """Have the running event loop call `callback` with `args` when it is `time`, or has been."""
        return asyncio.get_running_loop().call_later(max(0.0, time - monotonic()), callback, *args)

    async def sleep(self, seconds: float) -> None:
        """Wait so many seconds."""
        await asyncio.sleep(seconds)


class ClockReading(NamedTuple):
    """The time by the database's clock, and the monotonic time when it was read, `error` seconds more or less."""

    now: datetime
    at: float
    error: float

    @classmethod
    def between(cls, now: datetime, asked: float) -> ClockReading:
        """Take an answer that has just arrived to a question of the monotonic time `asked`."""
        half = (monotonic() - asked) / 2
        return cls(now, asked + half, half)


def parse_seconds(what: str, given: object) -> float:
    """Return a length of time in seconds that was given as a number or a `timedelta`; `what` names it.

    Raises `ConfigurationError` (a `ValueError`) for one that is not finite or longer than a century, and
    `TypeError` for what is none.
    """
    seconds = given.total_seconds() if isinstance(given, timedelta) else given
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"a {what} is a number of seconds or a timedelta, not {type(given).__name__}.")
    if not -MAX_SECONDS <= seconds <= MAX_SECONDS:  # a NaN is not within either
        raise ConfigurationError(f"a {what} is at most a hundred years, not {given} s.")
    return float(seconds)
