"""Classifies the errors of the driver, and translates them into errors of pgqrs.

asyncpg raises its own errors, SQLAlchemy wraps some of them, and the network raises `OSError`. Only this module
handles all three kinds. The codes are SQLSTATE codes (appendix A of PostgreSQL's manual).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import asyncpg
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from pgqrs.errors import (
    DatabaseError,
    DatabaseUnavailableError,
    InvalidDSNError,
    NotInstalledError,
    PgqrsError,
)

_UNREACHABLE_CLASSES = ("08", "28", "3D", "53", "58")
_PASSING_CLASSES = ("08", "53", "58")
_PASSING_CODES = frozenset(
    {
        "25006",  # read-only: a standby, until the failover is over
        "40001",  # serialization failure
        "40P01",  # deadlock
        "57P01",  # the administrator closed the connection
        "57P02",  # the server crashed
        "57P03",  # the server is starting up
        "57P05",  # the session was idle for too long
    }
)
_QUOTA = "53400"
_CANCELLED = "57014"
_TAKEN = "23505"
_NO_RIGHT = "42501"
_BAD_ROW_CLASSES = ("22", "23", "44", "54", "P0")
_NO_TABLES = frozenset({"3F000", "42P01"})
_NO_PREPARED_STATEMENT = frozenset({"26000", "42P05"})


def driver_error(error: BaseException) -> BaseException:
    """Return the driver's own error, unwrapped from SQLAlchemy's error."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    # A connection that was opened outside the engine raises the error of SQLAlchemy's adapter directly.
    if isinstance(error, AsyncAdapt_asyncpg_dbapi.Error) and error.__cause__ is not None:
        error = error.__cause__
    return error


def sqlstate(error: BaseException) -> str | None:
    """Return the five-character code of an error of the server, or None for any other error."""
    code: object = getattr(driver_error(error), "sqlstate", None)
    return code if isinstance(code, str) else None


def is_transient(error: BaseException) -> bool:
    """Return whether the same statement may succeed when it is sent again."""
    code = sqlstate(error)
    if code is not None:
        return code in _PASSING_CODES or (code.startswith(_PASSING_CLASSES) and code != _QUOTA)
    return isinstance(error, DatabaseUnavailableError) or _is_lost(driver_error(error))


def is_read_only(error: BaseException) -> bool:
    """Return whether the server accepts no writes, as a standby does: a new connection may reach the primary."""
    return sqlstate(error) == "25006"


def is_lock_timeout(error: BaseException) -> bool:
    """Return whether the statement waited too long for a lock of another session."""
    return sqlstate(error) == "55P03"


def is_lock_conflict(error: BaseException) -> bool:
    """Return whether a lock of another session stood in the way: too long, or in a deadlock."""
    return sqlstate(error) in {"55P03", "40P01"}


def is_cancelled(error: BaseException) -> bool:
    """Return whether a statement was cancelled, by an administrator or by a time limit of the role."""
    return sqlstate(error) == _CANCELLED


def is_about_tables(error: BaseException) -> bool:
    """Return whether the server refused access to the tables, which says nothing about the rows of the statement.

    The tables are missing, or the role has no right to them, possibly for a moment only. A policy that refuses
    a row raises the code of a missing right, too; such an error is about the row.
    """
    code = sqlstate(error)
    return code in _NO_TABLES or (code == _NO_RIGHT and not _is_of_policy(error))


def _is_of_policy(error: BaseException) -> bool:
    # The server function is compared, because the text of the message is in the server's language.
    return getattr(driver_error(error), "server_source_function", None) != "aclcheck_error"


def is_taken(error: BaseException) -> bool:
    """Return whether a row with the same key exists."""
    return sqlstate(error) == _TAKEN


def is_data_error(error: BaseException) -> bool:
    """Return whether one row is refused: for its values, by a trigger, a policy or a quota, or by the driver."""
    code = sqlstate(error)
    if code is not None:
        return code.startswith(_BAD_ROW_CLASSES) or code == _QUOTA or (code == _NO_RIGHT and _is_of_policy(error))
    return isinstance(driver_error(error), asyncpg.DataError)


def _is_lost(error: BaseException) -> bool:
    if isinstance(error, (asyncpg.DataError, asyncpg.ClientConfigurationError)):
        return False
    return isinstance(error, (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError))


def translate(error: BaseException, schema: str) -> PgqrsError | None:
    """Return the error of pgqrs for `error`, or None if `error` does not come from the database."""
    driver = driver_error(error)
    code = sqlstate(driver)
    if code is not None:
        return _of_server(driver, code, schema)
    if isinstance(driver, asyncpg.ClientConfigurationError):
        return InvalidDSNError("the DSN cannot be parsed: write it as postgresql://user:password@host:5432/name.")
    if isinstance(driver, PoolTimeoutError):
        return DatabaseUnavailableError(f"the engine's pool had no free connection: {driver}")
    if _is_lost(driver):
        return DatabaseUnavailableError(f"PostgreSQL could not be reached: {_told(driver)}")
    if isinstance(driver, (asyncpg.InterfaceError, SQLAlchemyError)):
        return DatabaseError(f"the driver refused a statement: {_told(driver)}")
    return None


def _of_server(error: BaseException, code: str, schema: str) -> PgqrsError:
    if code in _NO_TABLES:
        return NotInstalledError(schema)
    if (code.startswith(_UNREACHABLE_CLASSES) and code != _QUOTA) or code in _PASSING_CODES:
        return DatabaseUnavailableError(f"PostgreSQL is unavailable: {_told(error)}", sqlstate=code)
    if code in _NO_PREPARED_STATEMENT:
        return DatabaseError(
            f"a prepared statement is missing or exists twice ({code}: {_told(error)}), as behind a pooler in "
            "transaction mode. Set statement_cache_size=0, prepared_statement_cache_size=0 and "
            "prepared_statement_name_func=lambda: '' in the engine's connect_args, or give Admin the DSN.",
            sqlstate=code,
        )
    return DatabaseError(f"PostgreSQL refused a statement ({code}): {_told(error)}", sqlstate=code)


def _told(error: BaseException) -> str:
    return str(error) or type(error).__name__


@contextmanager
def translated(schema: str) -> Generator[None]:
    """Raise the driver's errors within the block as errors of pgqrs, with the driver's error as the cause."""
    try:
        yield
    except PgqrsError:
        raise
    except Exception as error:
        told = translate(error, schema)
        if told is None:
            raise
        if not isinstance(told, InvalidDSNError):
            raise told from driver_error(error)
        # Without cause and context: the driver's error about an invalid DSN can quote the password.
        try:
            raise told from None
        finally:
            told.__context__ = None
