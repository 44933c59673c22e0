"""Connection outside the engine's pool, for statements that must not wait for the pool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tenacity import retry_any, retry_if_exception

from pgqrs.storage.connections.database import CompiledStatement, Database
from pgqrs.storage.connections.errors import is_lock_timeout, translated
from pgqrs.storage.connections.pooler import Driver, close_driver

IDLE_TIMEOUT = 30.0
"""Seconds for which an unused connection is kept."""


class DedicatedConnection:
    """A connection that is opened on demand and runs one statement at a time.

    A caller may hold the pool's last connection, as a transactional step does, and would then wait for itself.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._compiled: dict[Callable[[], Any], CompiledStatement] = {}
        self._one_at_a_time = asyncio.Lock()
        self._connection: Driver | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None

    async def fetch(self, statement: Callable[[], Any], values: dict[str, Any]) -> list[Any]:
        """Run the statement that `statement` returns, retry it while the server is away, and return its rows.

        The statement must be safe to run twice. Raises `DatabaseUnavailableError` when `outage_timeout` ends.
        """
        retrying = self._database.retrying()
        # The connection has the journal's settings, with a short lock timeout.
        retrying = retrying.copy(retry=retry_any(retrying.retry, retry_if_exception(is_lock_timeout)))
        with translated(self._database.schema):
            return await retrying(self._fetch, statement, values)

    async def _fetch(self, statement: Callable[[], Any], values: dict[str, Any]) -> list[Any]:
        compiled = self._compiled.get(statement)
        if compiled is None:
            compiled = self._compiled[statement] = self._database.compile(statement())
        async with self._one_at_a_time:
            connection = await self._connected()
            try:
                return await connection.fetch(
                    compiled.text, *compiled.arguments(values), timeout=self._database.limits.timeout
                )
            except BaseException:
                connection.terminate()
                self._connection = None
                raise
            finally:
                self._start_idle_timer()

    async def _connected(self) -> Driver:
        if self._connection is None or self._connection.is_closed():
            self._connection = None
            self._connection = await self._database.open_driver()
        return self._connection

    def _start_idle_timer(self) -> None:
        """Close the connection after `IDLE_TIMEOUT`; the timer keeps it referenced until then."""
        self._stop_idle_timer()
        if self._connection is not None:
            self._lingering = asyncio.get_running_loop().call_later(IDLE_TIMEOUT, self._close_if_idle)

    def _stop_idle_timer(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None

    def _close_if_idle(self) -> None:
        self._lingering = None
        if not self._one_at_a_time.locked():
            self._closing = asyncio.get_running_loop().create_task(self.close(), name="pgqrs-aside-close")

    async def close(self) -> None:
        """Close the connection; a later `fetch` opens a new connection."""
        async with self._one_at_a_time:
            self._stop_idle_timer()
            connection, self._connection = self._connection, None
            if connection is not None:
                await close_driver(connection)
