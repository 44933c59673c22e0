"""Watchdog that terminates a connection whose statement takes too long."""

from __future__ import annotations

import asyncio
from time import monotonic

from pgqrs.storage.connections.pooler import Driver


class Watchdog:
    """Watches one statement at a time, with one timer for consecutive statements: a timer for each costs more.

    It terminates the connection and sends the server no cancellation. A cancelled commit would stop waiting for a
    standby, and the repeated statement would then find rows that the standby does not have.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: float) -> None:
        """Allow each statement `limit` seconds."""
        self._loop = loop
        self._limit = limit
        self._began = 0.0
        self._watched: Driver | None = None
        self._has_ended_it = False
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, connection: Driver, allowance: float = 0.0) -> None:
        """Start to watch a statement, which may take `allowance` seconds longer than the limit."""
        self._began = monotonic() + allowance
        self._watched = connection
        if self._timer is None:
            self._has_ended_it = False
            self._timer = self._loop.call_later(self._limit, self._look)

    def rest(self) -> None:
        """Stop watching: the statement is answered or has failed."""
        self._watched = None

    def check(self, error: Exception) -> None:
        """Raise `TimeoutError` from `error` if the statement failed because it took too long."""
        if self._has_ended_it:
            self._has_ended_it = False
            raise TimeoutError(f"no answer within {self._limit:g} s") from error

    def stop(self) -> None:
        """Cancel the timer until the next statement, unless a statement is being watched."""
        if self._timer is not None and self._watched is None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._watched is None:
            return
        left = self._began + self._limit - monotonic()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            # If the loop was blocked, an answer that has arrived meanwhile is processed by the next turn.
            self._timer = self._loop.call_later(0, self._end, self._began)

    def _end(self, began: float) -> None:
        self._timer = None
        if self._watched is not None and self._began == began:
            self._has_ended_it = True
            self._watched.terminate()
        else:
            self._look()
