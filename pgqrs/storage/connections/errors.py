"""What a failure of the driver means, and which of our errors says so.

asyncpg raises its own errors, SQLAlchemy wraps some of them, and the network raises `OSError`. They meet here
and nowhere else. The codes are those of PostgreSQL's manual, appendix A.
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
_NO_RIGHT = "42501"
_BAD_ROW_CLASSES = ("22", "23", "44", "54", "P0")
_NO_TABLES = frozenset({"3F000", "42P01"})
_NO_PREPARED_STATEMENT = frozenset({"26000", "42P05"})


def driver_error(error: BaseException) -> BaseException:
    """Return the driver's own error, out of SQLAlchemy's wrapping."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    # A connection opened outside the engine gives SQLAlchemy's adapter's error as it is.
    if isinstance(error, AsyncAdapt_asyncpg_dbapi.Error) and error.__cause__ is not None:
        error = error.__cause__
    return error


def sqlstate(error: BaseException) -> str | None:
    """Return the five-character code that the server gave, if it was the server that failed."""
    code: object = getattr(driver_error(error), "sqlstate", None)
    return code if isinstance(code, str) else None


def is_transient(error: BaseException) -> bool:
    """Tell whether the same statement may go through when it is sent again."""
    code = sqlstate(error)
    if code is not None:
        return code in _PASSING_CODES or (code.startswith(_PASSING_CLASSES) and code != _QUOTA)
    return isinstance(error, DatabaseUnavailableError) or _is_lost(driver_error(error))


def is_read_only(error: BaseException) -> bool:
    """Tell whether the server takes no writes, as a standby does: another connection may find the primary."""
    return sqlstate(error) == "25006"


def is_lock_timeout(error: BaseException) -> bool:
    """Tell whether a lock that somebody else holds is what the statement waited for too long."""
    return sqlstate(error) == "55P03"


def is_cancelled(error: BaseException) -> bool:
    """Tell whether a statement was cancelled: by an administrator, or by a time limit of the role."""
    return sqlstate(error) == _CANCELLED


def is_about_tables(error: BaseException) -> bool:
    """Tell whether the server refused the tables as such, which says nothing of the rows that were to be written.

    They are not there, or the role has no right to them, perhaps for a moment only. A policy that refuses a row
    gives the code of a missing right, too.
    """
    code = sqlstate(error)
    return code in _NO_TABLES or (code == _NO_RIGHT and not _is_of_policy(error))


def _is_of_policy(error: BaseException) -> bool:
    # The text of the message is in the server's language.
    return getattr(driver_error(error), "server_source_function", None) != "aclcheck_error"


def is_data_error(error: BaseException) -> bool:
    """Tell whether one row is refused: its values, by a trigger, a policy or a quota, or by the driver."""
    code = sqlstate(error)
    if code is not None:
        return code.startswith(_BAD_ROW_CLASSES) or code == _QUOTA or (code == _NO_RIGHT and _is_of_policy(error))
    return isinstance(driver_error(error), asyncpg.DataError)


def _is_lost(error: BaseException) -> bool:
    if isinstance(error, (asyncpg.DataError, asyncpg.ClientConfigurationError)):
        return False
    return isinstance(error, (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError))


def translate(error: BaseException, schema: str) -> PgqrsError | None:
    """Return the error of ours that says what `error` means, or None when it is not the database's."""
    driver = driver_error(error)
    code = sqlstate(driver)
    if code is not None:
        return _of_server(driver, code, schema)
    if isinstance(driver, asyncpg.ClientConfigurationError):
        return InvalidDSNError("the DSN cannot be read; it looks like postgresql://user:password@host:5432/name.")
    if isinstance(driver, PoolTimeoutError):
        return DatabaseUnavailableError(f"no connection of the engine's pool came free: {driver}")
    if _is_lost(driver):
        return DatabaseUnavailableError(f"PostgreSQL could not be reached: {_told(driver)}")
    if isinstance(driver, (asyncpg.InterfaceError, SQLAlchemyError)):
        return DatabaseError(f"the driver refused a statement: {_told(driver)}")
    return None


def _of_server(error: BaseException, code: str, schema: str) -> PgqrsError:
    if code in _NO_TABLES:
        return NotInstalledError(schema)
    if (code.startswith(_UNREACHABLE_CLASSES) and code != _QUOTA) or code in _PASSING_CODES:
        return DatabaseUnavailableError(f"PostgreSQL is not to be had: {_told(error)}", sqlstate=code)
    if code in _NO_PREPARED_STATEMENT:
        return DatabaseError(
            f"a prepared statement was lost on the way ({code}: {_told(error)}), as behind a pooler in "
            "transaction mode: give the engine's connect_args statement_cache_size=0, "
            "prepared_statement_cache_size=0 and prepared_statement_name_func=lambda: '', or give Admin the DSN.",
            sqlstate=code,
        )
    return DatabaseError(f"PostgreSQL refused a statement ({code}): {_told(error)}", sqlstate=code)


def _told(error: BaseException) -> str:
    return str(error) or type(error).__name__


@contextmanager
def translated(schema: str) -> Generator[None]:
    """Raise the driver's errors as ours within, the driver's kept as the cause."""
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
        # What was wrong with a DSN can quote the password in it.
        try:
            raise told from None
        finally:
            told.__context__ = None
