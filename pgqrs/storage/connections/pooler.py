"""Detects a pooler in transaction mode, and runs statements behind such a pooler.

A pooler in transaction mode (PgBouncer's `pool_mode = transaction`, for example) gives a client a session of the
server for one transaction at a time. So a lock, a LISTEN, a prepared statement or a SET of pgqrs would remain in a
session that the pooler then gives to another client.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

import asyncpg

from pgqrs.errors import InvalidDSNError
from pgqrs.storage.connections.errors import is_data_error, sqlstate

OPTION = "pgqrs_pooler"
"""Option, in a DSN or an engine's execution options, that names the mode of a pooler."""

_SHARES = {"transaction": True, "session": False}
_ENGINE_ARGUMENTS = {
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
    "prepared_statement_name_func": lambda: "",
}
_DIVISION_BY_ZERO = "22012"

_logger = logging.getLogger("pgqrs.storage")


class Pooler:
    """The mode of the pooler between an `Admin` and PostgreSQL, for all its connections in all threads."""

    def __init__(self, mode: object = None) -> None:
        """Take the value of the option, or None to detect the mode.

        Raises `InvalidDSNError` for an unknown mode.
        """
        if mode is not None and mode not in _SHARES:
            raise InvalidDSNError(f"{OPTION} must be {' or '.join(_SHARES)}, got {mode!r}: correct or remove it.")
        self._shares = None if mode is None else _SHARES[str(mode)]
        self._guard = threading.Lock()
        self._has_warned = False

    @property
    def shares_sessions(self) -> bool:
        """True if the session may be another client's after each transaction; False until a pooler is found."""
        return self._shares is True

    @property
    def engine_arguments(self) -> dict[str, Any]:
        """Arguments that keep SQLAlchemy and asyncpg from naming prepared statements behind a pooler."""
        return _ENGINE_ARGUMENTS if self.shares_sessions else {}

    async def found_by(self, driver: asyncpg.Connection[Any]) -> bool:
        """Look for a pooler unless the mode is known, and return whether this call has found a pooler."""
        if self._shares is not None:
            return False
        self._shares = not await _is_direct(driver)
        return self._shares

    def warn(self, expiry: float, beat: float) -> None:
        """Log once how pgqrs is limited behind the pooler; `expiry` and `beat` are in seconds."""
        with self._guard:
            has_warned, self._has_warned = self._has_warned, True
        if not has_warned:
            _logger.warning(
                "pgqrs: there is a pooler between this process and PostgreSQL, so pgqrs uses no session locks and "
                "no LISTEN: a dead process is noticed after %g s instead of at once, a cancellation after %g s, "
                "and workers find new workflows by polling. Set %s=session in the DSN if the pooler keeps a "
                "session for each client, or %s=transaction if it does not.",
                expiry, beat, OPTION, OPTION,
            )  # fmt: skip


class PooledConnection:
    """A connection to the pooler; each statement runs in its own transaction, with the settings of pgqrs."""

    def __init__(self, driver: asyncpg.Connection[Any], settings: str) -> None:
        """Run statements with `settings`, SET LOCAL statements separated by semicolons."""
        self._driver = driver
        # The isolation level is explicit, because the default of a role or a database may differ.
        self._begin = f"BEGIN ISOLATION LEVEL READ COMMITTED; {settings}"

    async def fetch(self, text: str, *arguments: Any, timeout: float | None = None) -> list[Any]:
        """Run a statement, commit it and return its rows, within `timeout` seconds if given."""
        # Terminated and not cancelled: a cancellation would end a commit's wait for a standby.
        loop = asyncio.get_running_loop()
        late = None if timeout is None else loop.call_later(timeout, self._driver.terminate)
        try:
            return await self._transact(text, arguments)
        except BaseException as error:
            if sqlstate(error) is None and not is_data_error(error):
                self._driver.terminate()
            else:
                await self._roll_back(timeout)
            raise
        finally:
            if late is not None:
                late.cancel()

    async def _transact(self, text: str, arguments: tuple[Any, ...]) -> list[Any]:
        await self._driver.execute(self._begin)
        # The unnamed statement: in a shared session, another client's statement may have the name.
        statement = await self._driver.prepare(text, name="")
        rows = await statement.fetch(*arguments)
        await self._driver.execute("COMMIT")
        return rows

    async def _roll_back(self, timeout: float | None) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._driver.execute("ROLLBACK")
        except BaseException as error:
            self._driver.terminate()
            if not isinstance(error, Exception):
                raise

    async def add_listener(self, _channel: str, _heard: Callable[..., Any]) -> None:
        """Do nothing: a LISTEN would remain in another client's session, and every listener polls as well."""

    def add_termination_listener(self, lost: Callable[..., Any]) -> None:
        """Call `lost` when the connection to the pooler ends."""
        self._driver.add_termination_listener(lost)

    def is_closed(self) -> bool:
        """Return whether the connection has ended."""
        return self._driver.is_closed()

    def terminate(self) -> None:
        """End the connection at once."""
        self._driver.terminate()

    async def close(self, *, timeout: float) -> None:
        """End the connection, within `timeout` seconds."""
        await self._driver.close(timeout=timeout)


Driver: TypeAlias = "asyncpg.Connection[Any] | PooledConnection"
"""A connection that runs statements through the driver."""


def is_bounded(connection: Driver) -> bool:
    """Return whether the application limits the time of each statement; asyncpg has no public attribute for it."""
    config = getattr(connection, "_config", None)
    return getattr(config, "command_timeout", None) is not None


async def _is_direct(driver: asyncpg.Connection[Any]) -> bool:
    """Return whether the connection leads directly to its session: a pooler reports an invented pid."""
    # The simple protocol leaves no prepared statement behind. It returns no rows, so an error is the answer.
    question = f"SELECT 1 / (CASE WHEN pg_catalog.pg_backend_pid() = {driver.get_server_pid()} THEN 1 ELSE 0 END)"
    try:
        await driver.execute(question)
    except asyncpg.PostgresError as error:
        if sqlstate(error) != _DIVISION_BY_ZERO:
            raise
        return False
    return True


async def close_driver(connection: Driver) -> None:
    """Close a connection within one second, even if the server does not answer."""
    with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        try:
            await connection.close(timeout=1)
        finally:
            connection.terminate()
