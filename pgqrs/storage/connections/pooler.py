"""What is left of a session behind a pooler in transaction mode, and how to make do with it.

Such a pooler (PgBouncer's `pool_mode = transaction`, and its like) gives a client some server's session for one
transaction at a time. So a lock, a LISTEN, a prepared statement or a SET of ours would be left with a stranger.
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
"""The option that says what is between us and PostgreSQL, in a DSN or an engine's execution options."""

_SHARES = {"transaction": True, "session": False}
_ENGINE_ARGUMENTS = {
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
    "prepared_statement_name_func": lambda: "",
}
_DIVISION_BY_ZERO = "22012"

_logger = logging.getLogger("pgqrs")


class Pooler:
    """What is known of a pooler on the way to PostgreSQL, for all connections of an `Admin` in all its threads."""

    def __init__(self, mode: object = None) -> None:
        """Take what the option says, None where it says nothing.

        Raises `InvalidDSNError` for a mode that there is not.
        """
        if mode is not None and mode not in _SHARES:
            raise InvalidDSNError(f"{OPTION} is {' or '.join(_SHARES)}, and not {mode!r}.")
        self._shares = None if mode is None else _SHARES[str(mode)]
        self._guard = threading.Lock()
        self._has_warned = False

    @property
    def shares_sessions(self) -> bool:
        """Whether a session may be somebody else's after each transaction, as far as is known."""
        return self._shares is True

    @property
    def engine_arguments(self) -> dict[str, Any]:
        """What SQLAlchemy and asyncpg are to be told of it when they connect: to name no prepared statement."""
        return _ENGINE_ARGUMENTS if self.shares_sessions else {}

    async def found_by(self, driver: asyncpg.Connection[Any]) -> bool:
        """Look for a pooler where nobody has said or seen what there is; tell whether one was found just now."""
        if self._shares is not None:
            return False
        self._shares = not await _is_direct(driver)
        return self._shares

    def warn(self, expiry: float, beat: float) -> None:
        """Log what does not work behind the pooler, once."""
        with self._guard:
            has_warned, self._has_warned = self._has_warned, True
        if not has_warned:
            _logger.warning(
                "pgqrs: there is a pooler between this process and PostgreSQL, so this does without session "
                "locks and LISTEN: a process that died is noticed after %g s and not at once, a cancellation "
                "after %g s, and workers find new work by polling. If the pooler keeps a session for each client, "
                "say %s=session in the DSN; %s=transaction says that it does not.",
                expiry, beat, OPTION, OPTION,
            )  # fmt: skip


class PooledConnection:
    """A connection to the pooler: each statement is a transaction of its own, settings included."""

    def __init__(self, driver: asyncpg.Connection[Any], settings: str) -> None:
        """Run statements with `settings`, a list of SET LOCAL."""
        self._driver = driver
        # Our isolation level is said here: a role's or a database's own default may be another.
        self._begin = f"BEGIN ISOLATION LEVEL READ COMMITTED; {settings}"

    async def fetch(self, text: str, *arguments: Any, timeout: float | None = None) -> list[Any]:
        """Run a statement and commit it, within `timeout` seconds if given, and return its rows."""
        # Not cancelled, which would end a commit's wait for a standby.
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
        # The unnamed statement: a name may be taken, in a session that is not ours, for another's statement.
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
        """Hear nothing: a LISTEN would be left with a stranger, and whoever listens polls as well."""

    def add_termination_listener(self, lost: Callable[..., Any]) -> None:
        """Call `lost` when the connection to the pooler ends."""
        self._driver.add_termination_listener(lost)

    def is_closed(self) -> bool:
        """Tell whether the connection has ended."""
        return self._driver.is_closed()

    def terminate(self) -> None:
        """End the connection at once."""
        self._driver.terminate()

    async def close(self, *, timeout: float) -> None:
        """End the connection, within `timeout` seconds."""
        await self._driver.close(timeout=timeout)


Driver: TypeAlias = "asyncpg.Connection[Any] | PooledConnection"
"""A connection that statements are run on through the driver."""


def is_bounded(connection: Driver) -> bool:
    """Tell whether the application bounds each statement of a connection; asyncpg knows and does not tell."""
    config = getattr(connection, "_config", None)
    return getattr(config, "command_timeout", None) is not None


async def _is_direct(driver: asyncpg.Connection[Any]) -> bool:
    """Tell whether the session is the one that the connection was opened to: a pooler makes up its own pid."""
    # In the simple protocol, which leaves no prepared statement behind; it returns no rows, so an error tells.
    question = f"SELECT 1 / (CASE WHEN pg_catalog.pg_backend_pid() = {driver.get_server_pid()} THEN 1 ELSE 0 END)"
    try:
        await driver.execute(question)
    except asyncpg.PostgresError as error:
        if sqlstate(error) != _DIVISION_BY_ZERO:
            raise
        return False
    return True


async def close_driver(connection: Driver) -> None:
    """Close a connection that may have fallen silent, within a second."""
    with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        try:
            await connection.close(timeout=1)
        finally:
            connection.terminate()
