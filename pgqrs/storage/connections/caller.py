"""Runs statements of pgqrs on the caller's session or connection, in the caller's transaction.

This module neither commits nor rolls back the caller's transaction, and changes none of its settings.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeAlias, cast
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import Connection as SyncConnection
from sqlalchemy import CursorResult, Executable, Pool, ScalarResult, event
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session as SyncSession

from pgqrs.errors import SessionError
from pgqrs.models import SCHEMA, Workflow
from pgqrs.storage.connections.database import Database
from pgqrs.storage.connections.errors import sqlstate
from pgqrs.storage.queries.server import DatabaseIdentity, ServerRepository
from pgqrs.storage.sql.connection import Connection

SessionOrConnection: TypeAlias = AsyncSession | AsyncConnection
"""A session or connection of the caller; its transaction decides whether the writes are committed."""

Callback: TypeAlias = Callable[[], object]

_IN_FAILED_TRANSACTION = "25P02"


class CallerConnection:
    """Runs statements on the caller's connection, with the tables of `schema`; its own options stay unchanged."""

    def __init__(self, connection: AsyncConnection, schema: str) -> None:
        self.connection = connection
        self._options = {"schema_translate_map": {SCHEMA: schema}}

    async def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[Any]:
        """Execute a statement and return its result."""
        with session_errors():
            return await self.connection.execute(statement, parameters, execution_options=self._options)

    async def scalar(self, statement: Executable, parameters: Any = None) -> Any:
        """Execute a statement and return the first value of its first row, or None without a row."""
        return (await self.execute(statement, parameters)).scalar()

    async def scalars(self, statement: Executable, parameters: Any = None) -> ScalarResult[Any]:
        """Execute a statement and return the first value of each row."""
        return (await self.execute(statement, parameters)).scalars()

    async def is_autocommit(self) -> bool:
        """Return whether the connection is in AUTOCOMMIT, where each statement is its own transaction."""
        raw = await self.connection.get_raw_connection()
        return self.connection.dialect.detect_autocommit_setting(cast(Any, raw.dbapi_connection))


@contextmanager
def session_errors() -> Generator[None]:
    """Raise `SessionError` if the session cannot be used; other errors pass unchanged to the application."""
    try:
        yield
    except InvalidRequestError as error:
        raise SessionError(f"the session cannot be used in its present state: {error}") from error
    except DBAPIError as error:
        if sqlstate(error) != _IN_FAILED_TRANSACTION:
            raise
        raise SessionError("the session's transaction has failed already: roll it back first.") from error


class CallerSessions:
    """Gives access to the caller's sessions, after a check that they lead to the `Admin`'s database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: WeakSet[Pool] = WeakSet()
        self._acts: WeakKeyDictionary[SyncSession | SyncConnection, dict[str, Callback]] = WeakKeyDictionary()

    async def bind(self, session: SessionOrConnection) -> CallerConnection:
        """Return the connection of the caller's session, to run statements of pgqrs on.

        Raises `SessionError` for a session that is not asynchronous, is closed, has failed, or leads to another
        database. SQLAlchemy's other errors pass unchanged: the transaction is the caller's.
        """
        with session_errors():
            own = await _connection_of(session)
        connection = CallerConnection(own, self._database.schema)
        pool = _sync(own).engine.pool
        if pool is not self._database.engine.sync_engine.pool and pool not in self._known:
            await self._check_same(connection)
            self._known.add(pool)
        return connection

    async def _check_same(self, connection: CallerConnection) -> None:
        theirs = await _server_of(connection)
        if await self._database.run_with_retries(_server_of) != theirs:
            raise SessionError(
                "the session leads to another database than the Admin. Make its engine with the same DSN, or give "
                "Admin the session's engine."
            )

    def after_commit(self, session: SessionOrConnection, name: str, act: Callback) -> None:
        """Call `act` about when the caller's transaction commits; of several with one `name`, only the first."""
        target = session.sync_session if isinstance(session, AsyncSession) else _sync(session)
        acts = self._acts.get(target)
        if acts is None:
            acts = self._acts[target] = {}
            _listen(target, acts)
        acts.setdefault(name, act)


def _listen(target: SyncSession | SyncConnection, acts: dict[str, Callback]) -> None:
    """Call the acts at each commit of `target`; SQLAlchemy cannot remove a listener while it runs."""

    def committed(source: SyncSession | SyncConnection) -> None:
        if not source.in_nested_transaction():
            for name in list(acts):
                acts.pop(name)()

    # A connection has an event before its commit, and none after it. The act is only a hint, and takes some time.
    event.listen(target, "after_commit" if isinstance(target, SyncSession) else "commit", committed)


async def _connection_of(session: SessionOrConnection) -> AsyncConnection:
    match cast(object, session):
        case AsyncSession() as own:
            return await own.connection(bind_arguments={"mapper": Workflow.__mapper__})
        case AsyncConnection() as connection if connection.sync_connection is None:
            raise SessionError("the connection is not open: open it by `async with engine.connect() as ...`.")
        case AsyncConnection() as connection:
            return connection
        case other:
            raise SessionError(
                f"`session` must be an AsyncSession or an AsyncConnection, got {type(other).__name__}. Make the "
                "session with `async_sessionmaker`, on an engine of `create_async_engine`."
            )


def _sync(connection: AsyncConnection) -> SyncConnection:
    return cast(SyncConnection, connection.sync_connection)


async def _server_of(connection: Connection) -> DatabaseIdentity:
    return await ServerRepository(connection).identity()
