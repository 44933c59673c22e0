"""A connection that the application has lent us, on which our statements find our tables."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

from sqlalchemy import CursorResult, Executable, ScalarResult
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncConnection

from pgqrs.errors import SessionError
from pgqrs.models import SCHEMA
from pgqrs.storage.connections.errors import sqlstate

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
