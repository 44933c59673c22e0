"""What ends a connection on which a statement has taken too long."""

from __future__ import annotations

import asyncio
from time import monotonic

from pgqrs.storage.connections.pooler import Driver


class Watchdog:
    """Watches one statement at a time, with one timer for all that follow each other: a timer each costs more.

    It ends the connection and asks the server to cancel nothing: a commit that waits for a standby would end its
    wait then, and what the standby does not have would be there when it is sent again.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: float) -> None:
        """Allow a statement `limit` seconds."""
        self._loop = loop
        self._limit = limit
        self._began = 0.0
        self._watched: Driver | None = None
        self._has_ended_it = False
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, connection: Driver, allowance: float = 0.0) -> None:
        """Begin to watch: a statement is sent, which has `allowance` seconds more than others."""
        self._began = monotonic() + allowance
        self._watched = connection
        if self._timer is None:
            self._has_ended_it = False
            self._timer = self._loop.call_later(self._limit, self._look)

    def rest(self) -> None:
        """Watch no longer: the statement is answered, or has failed."""
        self._watched = None

    def check(self, error: Exception) -> None:
        """Raise `TimeoutError` where the statement failed because it took too long."""
        if self._has_ended_it:
            self._has_ended_it = False
            raise TimeoutError(f"no answer within {self._limit:g} s") from error

    def stop(self) -> None:
        """Give the timer up until the next statement, unless there is one under way."""
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
            # An answer that came while somebody blocked the loop is there by the next turn.
            self._timer = self._loop.call_later(0, self._end, self._began)

    def _end(self, began: float) -> None:
        self._timer = None
        if self._watched is not None and self._began == began:
            self._has_ended_it = True
            self._watched.terminate()
        else:
            self._look()
