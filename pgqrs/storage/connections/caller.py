"""Sessions and connections that the application lends us: our statements in its transaction.

Nothing here commits or rolls back what was lent, nor changes a setting of it.
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
from pgqrs.storage.queries.connection import Connection
from pgqrs.storage.queries.server import DatabaseIdentity, ServerRepository

SessionOrConnection: TypeAlias = AsyncSession | AsyncConnection
"""What an application can lend: its transaction decides what becomes of the writes."""

Callback: TypeAlias = Callable[[], object]

_IN_FAILED_TRANSACTION = "25P02"


class CallerConnection:
    """Runs statements on a lent connection, each with the names of our tables: its own options are left alone."""

    def __init__(self, connection: AsyncConnection, schema: str) -> None:
        self.connection = connection
        self._options = {"schema_translate_map": {SCHEMA: schema}}

    async def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[Any]:
        """Execute a statement and return its result."""
        with session_errors():
            return await self.connection.execute(statement, parameters, execution_options=self._options)

    async def scalar(self, statement: Executable, parameters: Any = None) -> Any:
        """Execute a statement and return the first value of its first row, None without one."""
        return (await self.execute(statement, parameters)).scalar()

    async def scalars(self, statement: Executable, parameters: Any = None) -> ScalarResult[Any]:
        """Execute a statement and return the first value of each row."""
        return (await self.execute(statement, parameters)).scalars()

    async def is_autocommit(self) -> bool:
        """Tell whether each statement is a transaction of its own."""
        raw = await self.connection.get_raw_connection()
        return self.connection.dialect.detect_autocommit_setting(cast(Any, raw.dbapi_connection))


@contextmanager
def session_errors() -> Generator[None]:
    """Raise `SessionError` where what is lent cannot be used; other errors are the application's to see."""
    try:
        yield
    except InvalidRequestError as error:
        raise SessionError(f"the session that was lent cannot be used as it stands: {error}") from error
    except DBAPIError as error:
        if sqlstate(error) != _IN_FAILED_TRANSACTION:
            raise
        raise SessionError("the transaction that was lent has failed before: roll it back first.") from error


class CallerSessions:
    """Takes what an application lends, once it is sure that it leads to the same database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: WeakSet[Pool] = WeakSet()
        self._acts: WeakKeyDictionary[SyncSession | SyncConnection, dict[str, Callback]] = WeakKeyDictionary()

    async def bind(self, lent: SessionOrConnection) -> CallerConnection:
        """Return the connection of what is lent, to run our statements on.

        Raises `SessionError` for what is not asynchronous, what is closed or has failed, and what leads to another
        database. SQLAlchemy's other errors pass as they are: the transaction is the application's.
        """
        with session_errors():
            connection = await _connection_of(lent)
        borrowed = CallerConnection(connection, self._database.schema)
        pool = _sync(connection).engine.pool
        if pool is not self._database.engine.sync_engine.pool and pool not in self._known:
            await self._check_same(borrowed)
            self._known.add(pool)
        return borrowed

    async def _check_same(self, borrowed: CallerConnection) -> None:
        theirs = await _server_of(borrowed)
        if await self._database.run_with_retries(_server_of) != theirs:
            raise SessionError(
                "the session that was lent leads to another database than the Admin's: make its engine with the "
                "same DSN, or give Admin the session's engine."
            )

    def after_commit(self, lent: SessionOrConnection, name: str, act: Callback) -> None:
        """Call `act` about when what is lent is committed, if it is; of one `name` only the first."""
        target = lent.sync_session if isinstance(lent, AsyncSession) else _sync(lent)
        acts = self._acts.get(target)
        if acts is None:
            acts = self._acts[target] = {}
            _listen(target, acts)
        acts.setdefault(name, act)


def _listen(target: SyncSession | SyncConnection, acts: dict[str, Callback]) -> None:
    """Have the acts called at each commit of `target`; SQLAlchemy cannot forget a listener while it is called."""

    def committed(source: SyncSession | SyncConnection) -> None:
        if not source.in_nested_transaction():
            for name in list(acts):
                acts.pop(name)()

    # A connection tells only the moment before; the act is a hint, and takes its own time.
    event.listen(target, "after_commit" if isinstance(target, SyncSession) else "commit", committed)


async def _connection_of(lent: SessionOrConnection) -> AsyncConnection:
    match cast(object, lent):
        case AsyncSession() as session:
            return await session.connection(bind_arguments={"mapper": Workflow.__mapper__})
        case AsyncConnection() as connection if connection.sync_connection is None:
            raise SessionError("the connection that was lent is not open: `async with engine.connect() as ...`.")
        case AsyncConnection() as connection:
            return connection
        case other:
            raise SessionError(
                f"pgqrs can be lent an AsyncSession or an AsyncConnection, not {type(other).__name__}: make the "
                "session with `async_sessionmaker`, on an engine of `create_async_engine`."
            )


def _sync(connection: AsyncConnection) -> SyncConnection:
    return cast(SyncConnection, connection.sync_connection)


async def _server_of(connection: Connection) -> DatabaseIdentity:
    return await ServerRepository(connection).identity()
