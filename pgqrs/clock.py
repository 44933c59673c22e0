"""The clocks of waits and of the time of day."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from time import monotonic
from typing import NamedTuple, Protocol

MAX_SECONDS = 100 * 365 * 86400.0
"""Seconds, maximum duration: 100 years, which stays well within the range of PostgreSQL's timestamps."""


class TimeOfDay(Protocol):
    """The source of the time of day: the database, because all machines share it."""

    async def now(self) -> datetime:
        """Return the time of day, as an aware datetime."""
        ...


class Timer(Protocol):
    """A scheduled call, which can be cancelled."""

    def cancel(self) -> object:
        """Cancel the call; do nothing if the call has happened."""
        ...


class Clock(Protocol):
    """The clock that times sleeps, retry delays and deadlines; `MonotonicClock` is the default.

    Only a test replaces it, by a `pgqrs.testing.TestClock`, which also moves the database's clock. Heartbeats,
    polls and the time limits of statements do not use this clock.
    """

    @property
    def schema(self) -> str | None:
        """The schema of the functions, such as `now()`, that return its time; None for the server's functions."""
        ...

    def time(self) -> float:
        """Return the time, which never decreases.

        Returns:
            Seconds since an arbitrary moment.
        """
        ...

    def call_at(self, time: float, callback: Callable[..., object], *args: object) -> Timer:
        """Schedule a call in the running event loop.

        Args:
            time: The time of the call, in seconds of this clock. A past time means at once.
            callback: The function to call.
            *args: The arguments of the call.

        Returns:
            The timer, which can cancel the call.
        """
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for a duration of this clock.

        Args:
            seconds: The duration, in seconds.
        """
        ...


class MonotonicClock:
    """The monotonic clock of the machine."""

    __slots__ = ()

    schema = None

    def time(self) -> float:
        """Return the monotonic time, in seconds since an arbitrary moment."""
        return monotonic()

    def call_at(self, time: float, callback: Callable[..., object], *args: object) -> Timer:
        """Schedule a call in the running event loop; a past time means at once."""
        return asyncio.get_running_loop().call_later(max(0.0, time - monotonic()), callback, *args)

    async def sleep(self, seconds: float) -> None:
        """Wait for a duration, in seconds."""
        await asyncio.sleep(seconds)


class ClockReading(NamedTuple):
    """A reading of the database's clock: the time, the monotonic time of the reading, and its error in seconds."""

    now: datetime
    at: float
    error: float

    @classmethod
    def between(cls, now: datetime, asked: float) -> ClockReading:
        """Return the reading of a response that has just arrived; `asked` is the monotonic time of the request."""
        half = (monotonic() - asked) / 2
        return cls(now, asked + half, half)
