"""Follows the database's clock, the common clock of all machines, without a query each time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from pgqrs.clock import Clock, ClockReading, MonotonicClock
from pgqrs.storage.queries.server import time_of_day

Fetch: TypeAlias = Callable[[Callable[[], Any], dict[str, Any]], Awaitable[list[Any]]]
"""A function that runs the statement of its first argument, with the values of its binds, and returns the rows."""


class ServerClock:
    """The time of the database's clock: queried once, through `fetch`, and continued by `clock`.

    The machine's clock drifts, and stops while the machine is suspended; the server's clock may be set. So
    `correct` corrects the time by readings that other statements return.
    """

    def __init__(self, fetch: Fetch, clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._asking = asyncio.Lock()
        self._is_moved = not isinstance(clock, MonotonicClock)
        self._read: tuple[datetime, float] | None = None

    async def now(self) -> datetime:
        """Return the time as an aware datetime."""
        if self._read is None:
            async with self._asking:
                if self._read is None:
                    self._read = await self._ask()
        then, at = self._read
        return then + timedelta(seconds=self._clock.time() - at)

    def correct(self, reading: ClockReading) -> None:
        """Correct the time by a reading if it differs by more than the reading's error; any thread may call this.

        A clock that a test moves needs no correction.
        """
        if self._is_moved:
            return
        read = self._read
        if read is not None:
            then, at = read
            if abs((reading.now - then).total_seconds() - (reading.at - at)) <= reading.error:
                return
        self._read = reading.now, reading.at

    async def _ask(self) -> tuple[datetime, float]:
        """Return the time of the database's clock, and the time of the other clock at that moment."""
        await self._fetch(time_of_day, {})  # connects, so that the round trip below does not include it
        asked = self._clock.time()
        ((now,),) = await self._fetch(time_of_day, {})
        return now, (asked + self._clock.time()) / 2
