"""A connection whose statements are watched: the watchdog terminates it if a statement takes too long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from pgqrs.storage.connections.database import Database
from pgqrs.storage.connections.dedicated import MAX_LENGTH, DedicatedConnection, IdleTimer
from pgqrs.storage.connections.errors import is_data_error, is_read_only, sqlstate
from pgqrs.storage.connections.pooler import Driver, is_bounded

MIN_NETWORK_RATE = 256 * 1024
"""Characters per second of the slowest supported network; a large record gets extra time by this rate."""


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


class WatchedConnection:
    """A dedicated connection with a watchdog, which is closed when it is idle.

    Each statement may take the database's `timeout`. `is_used` returns whether a task still uses the connection.
    """

    def __init__(self, database: Database, is_used: Callable[[], bool]) -> None:
        self.dedicated = DedicatedConnection(database)
        """The connection itself."""
        self.statements = 0
        """Number of statements sent."""
        self._loop = asyncio.get_running_loop()
        self._limit = database.limits.timeout
        self._bound: float | None = None
        # One timer for all statements: a timer for each statement costs more.
        self._watchdog = Watchdog(self._loop, self._limit)
        self._is_used = is_used
        self._idle_timer = IdleTimer(self._close_if_unused)
        self._closing: asyncio.Task[None] | None = None

    async def connect(self) -> Driver:
        """Return the connection; open another one if it is lost."""
        connection = await self.dedicated.open()
        # The bound overrides the application's own time-out; it is doubled so that the watchdog acts first.
        self._bound = 2 * self._limit if is_bounded(connection) else None
        return connection

    async def fetch(self, text: str, arguments: Sequence[Any], allowance: float = 0.0) -> list[Any]:
        """Run a statement once, which may take `allowance` seconds longer than the limit, and return its rows."""
        # Not `DedicatedConnection.fetch`: that is one more coroutine for each statement.
        connection = self.dedicated.driver
        if connection is None or connection.is_closed():
            connection = await self.connect()
        self.statements += 1
        self._watchdog.watch(connection, allowance)
        try:
            bound = None if self._bound is None else self._bound + allowance
            if len(text) > MAX_LENGTH:
                return await self.dedicated.fetch_long(connection, text, arguments, bound)
            return await connection.fetch(text, *arguments, timeout=bound)
        except BaseException as error:
            unsure = sqlstate(error) is None and not is_data_error(error)
            if unsure or is_read_only(error) or connection.is_closed():
                self.dedicated.terminate()
            if isinstance(error, Exception):
                self._watchdog.check(error)
            raise
        finally:
            self._watchdog.rest()

    def rest(self) -> None:
        """Count the idle time from now on."""
        self._idle_timer.start()

    async def close_if_unused(self) -> None:
        """Close the connection unless a task uses it; it can be opened again."""
        self._idle_timer.stop()
        self._watchdog.stop()
        self._close_if_unused()
        if self._closing is not None:
            await asyncio.wait([self._closing])
        await asyncio.sleep(0)  # a transport that was aborted is closed in the loop's next turn

    def _close_if_unused(self) -> None:
        if self.dedicated.driver is not None and not self._is_used():
            self._closing = self._loop.create_task(self.dedicated.close(), name="pgqrs-journal-close")
