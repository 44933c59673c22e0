"""Connections outside the engine's pool, for statements that must not wait for the pool."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import asyncpg
from asyncpg import InvalidCachedStatementError
from tenacity import retry_any, retry_if_exception

from pgqrs.storage.connections.database import CompiledStatement, Database
from pgqrs.storage.connections.errors import is_lock_timeout, translated
from pgqrs.storage.connections.pooler import Driver, PooledConnection, close_driver

if TYPE_CHECKING:
    from asyncpg.prepared_stmt import PreparedStatement

IDLE_TIMEOUT = 30.0
"""Seconds for which an unused connection is kept."""

MAX_LENGTH = 15 * 1024
"""Maximum characters of a statement that asyncpg keeps prepared; the server plans a longer one at each use."""

MAX_LONG_STATEMENTS = 16
"""Maximum longer statements that a connection keeps prepared; each takes about a megabyte of the server."""


class LongStatements:
    """The prepared statements of one connection that are too long for asyncpg's own cache."""

    def __init__(self) -> None:
        self._prepared: dict[str, PreparedStatement[Any]] = {}

    async def fetch(self, driver: Driver, text: str, arguments: Sequence[Any], timeout: float | None) -> list[Any]:
        """Run a statement once and return its rows; it may take `timeout` seconds."""
        if isinstance(driver, PooledConnection):
            return await driver.fetch(text, *arguments, timeout=timeout)
        try:
            return await self._fetch(driver, text, arguments, timeout)
        except InvalidCachedStatementError:
            # The tables have changed since the statement was prepared, and it has done nothing.
            return await self._fetch(driver, text, arguments, timeout)

    async def _fetch(
        self, driver: asyncpg.Connection[Any], text: str, arguments: Sequence[Any], timeout: float | None
    ) -> list[Any]:
        statement = self._prepared.pop(text, None)
        if statement is None:
            if len(self._prepared) >= MAX_LONG_STATEMENTS:
                del self._prepared[next(iter(self._prepared))]
            statement = await driver.prepare(text, timeout=timeout)
        rows = await statement.fetch(*arguments, timeout=timeout)
        # The last in the dictionary is the last that was used. A statement that has failed is not kept.
        self._prepared[text] = statement
        return rows


class DedicatedConnection:
    """A connection that is opened on demand and replaced when it is lost, with its compiled statements.

    `prepare` is called with each new connection before its first use, within the database's `timeout`. For
    `sorting` see `Database.open_driver`.
    """

    def __init__(
        self,
        database: Database,
        prepare: Callable[[Driver], Awaitable[object]] | None = None,
        *,
        sorting: bool = True,
    ) -> None:
        self.driver: Driver | None = None
        """The connection, which may be lost; None before `open` and after an error."""
        self._database = database
        self._prepare = prepare
        self._sorting = sorting
        self._compiled: dict[Callable[[], Any], CompiledStatement] = {}
        self._long_statements = LongStatements()

    @property
    def is_open(self) -> bool:
        """True if there is a connection that is not lost."""
        return self.driver is not None and not self.driver.is_closed()

    async def open(self) -> Driver:
        """Return the connection; open another one if it is lost."""
        driver = self.driver
        if driver is None or driver.is_closed():
            self.driver = None
            driver = await self._database.open_driver(sorting=self._sorting)
            try:
                if self._prepare is not None:
                    async with asyncio.timeout(self._database.limits.timeout):
                        await self._prepare(driver)
            except BaseException:
                driver.terminate()
                raise
            self.driver, self._long_statements = driver, LongStatements()
        return driver

    async def fetch(
        self,
        statement: Callable[[], Any],
        values: dict[str, Any],
        *,
        through: Driver | None = None,
        timeout: float | None = None,
    ) -> list[Any]:
        """Run the statement that `statement` returns, once, and return its rows.

        `through` is a connection that is being prepared, None for the open one. The `timeout` is the database's by
        default. After any error the connection is terminated, because it may be dead.
        """
        driver = await self.open() if through is None else through
        compiled = self._compiled.get(statement)
        if compiled is None:
            compiled = self._compiled[statement] = self._database.compile(statement)
        limit = self._database.limits.timeout if timeout is None else timeout
        try:
            arguments = compiled.arguments(values)
            if len(compiled.text) > MAX_LENGTH:
                return await self.fetch_long(driver, compiled.text, arguments, limit)
            return await driver.fetch(compiled.text, *arguments, timeout=limit)
        except BaseException:
            driver.terminate()
            if self.driver is driver:
                self.driver = None
            raise

    async def fetch_long(
        self, driver: Driver, text: str, arguments: Sequence[Any], timeout: float | None
    ) -> list[Any]:
        """Run a statement of more than `MAX_LENGTH` characters through the open connection; return its rows."""
        return await self._long_statements.fetch(driver, text, arguments, timeout)

    def terminate(self) -> None:
        """End the connection at once."""
        if self.driver is not None:
            self.driver.terminate()
            self.driver = None

    async def close(self) -> None:
        """Close the connection; it can be opened again."""
        driver, self.driver = self.driver, None
        if driver is not None:
            await close_driver(driver)


class IdleTimer:
    """Calls `on_idle` when `IDLE_TIMEOUT` has passed since the last `start`.

    It has one timer for consecutive uses, because a timer for each use costs more.
    """

    def __init__(self, on_idle: Callable[[], object]) -> None:
        self._on_idle = on_idle
        self._loop = asyncio.get_running_loop()
        self._last_used = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Count the time from now on."""
        self._last_used = self._loop.time()
        if self._timer is None and not self._loop.is_closed():
            self._timer = self._loop.call_later(IDLE_TIMEOUT, self._look)

    def stop(self) -> None:
        """Do not call `on_idle` until the next `start`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._loop.time() - self._last_used >= IDLE_TIMEOUT:
            self._on_idle()
        else:
            self._timer = self._loop.call_at(self._last_used + IDLE_TIMEOUT, self._look)


class RetryingConnection:
    """A dedicated connection that retries its statements, runs one at a time, and is closed when it is idle.

    A caller may hold the pool's last connection, as a transactional step does, and would then wait for itself.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._dedicated = DedicatedConnection(database)
        self._one_at_a_time = asyncio.Lock()
        self._idle_timer = IdleTimer(self._close_if_idle)
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
        async with self._one_at_a_time:
            self._idle_timer.stop()
            try:
                return await self._dedicated.fetch(statement, values)
            finally:
                if self._dedicated.driver is not None:
                    self._idle_timer.start()

    def _close_if_idle(self) -> None:
        if not self._one_at_a_time.locked():
            self._closing = asyncio.get_running_loop().create_task(self.close(), name="pgqrs-dedicated-close")

    async def close(self) -> None:
        """Close the connection; a later `fetch` opens another one."""
        async with self._one_at_a_time:
            self._idle_timer.stop()
            await self._dedicated.close()
