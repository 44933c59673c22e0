"""Classification of driver errors: transient, data error, and translation to errors of pgqrs."""

import asyncio
import socket

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from pgqrs import DatabaseError, DatabaseUnavailableError, InvalidDSNError, NotInstalledError, PgqrsError
from pgqrs.storage.connections.errors import (
    is_data_error,
    is_lock_timeout,
    is_transient,
    sqlstate,
    translate,
    translated,
)
from tests.support.database import connected, engine_on


def server_error(code):
    return asyncpg.PostgresError.new({"C": code, "M": "told by a test", "S": "ERROR"})


PASSING = [
    "08000",
    "08003",
    "08006",
    "25006",
    "40001",
    "40P01",
    "53100",
    "53200",
    "53300",
    "57P01",
    "57P02",
    "57P03",
    "57P05",
    "58030",
]
BAD_ROWS = [
    "22P02",
    "22021",
    "22P05",
    "22003",
    "22008",
    "23502",
    "23505",
    "23514",
    "42501",  # of a policy: the test's errors come from no function of the server's
    "44000",
    "53400",
    "54000",
    "54001",
    "P0001",
]
NEITHER = [
    "42601",
    "42P01",
    "3F000",
    "28P01",
    "28000",
    "3D000",
    "55P03",
    "57014",
    "0A000",
    "XX000",
    "25P02",
]


@pytest.mark.parametrize("code", PASSING)
def test_transient_code_becomes_database_unavailable(code):
    error = server_error(code)
    assert (sqlstate(error), is_transient(error), is_data_error(error)) == (code, True, False)
    told = translate(error, "s")
    assert type(told) is DatabaseUnavailableError
    assert told.sqlstate == code


@pytest.mark.parametrize("code", BAD_ROWS)
def test_data_error_code_is_not_transient(code):
    error = server_error(code)
    assert (is_transient(error), is_data_error(error)) == (False, True)
    told = translate(error, "s")
    assert type(told) is DatabaseError
    assert told.sqlstate == code


@pytest.mark.parametrize("code", NEITHER)
def test_other_code_is_neither_transient_nor_a_data_error(code):
    error = server_error(code)
    assert (is_transient(error), is_data_error(error)) == (False, False)


def test_lock_timeout_is_recognised():
    assert is_lock_timeout(server_error("55P03"))
    assert not is_lock_timeout(server_error("40P01"))
    assert not is_lock_timeout(TimeoutError())


@pytest.mark.parametrize("code", ["28P01", "28000", "3D000", "53100", "53200"])
def test_refused_login_or_resource_is_unavailable(code):
    assert type(translate(server_error(code), "s")) is DatabaseUnavailableError


@pytest.mark.parametrize("code", ["42P01", "3F000"])
def test_missing_tables_are_not_installed(code):
    told = translate(server_error(code), "my schema")
    assert type(told) is NotInstalledError
    assert told.schema == "my schema"


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(111, "refused"),
        ConnectionResetError(),
        BrokenPipeError(),
        socket.gaierror(-3, "try again"),
        TimeoutError(),
        asyncpg.ConnectionDoesNotExistError("closed in the middle"),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InternalClientError("got result for unknown protocol state"),
        asyncpg.CannotConnectNowError("starting up"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_lost_connection_is_transient_and_unavailable(error):
    assert (is_transient(error), is_data_error(error)) == (True, False)
    told = translate(error, "s")
    assert type(told) is DatabaseUnavailableError
    assert type(error).__name__ in str(told) or str(error) in str(told)


def test_value_refused_by_the_driver_is_a_data_error():
    error = asyncpg.DataError("invalid input for query argument $1")
    assert (is_transient(error), is_data_error(error)) == (False, True)
    assert type(translate(error, "s")) is DatabaseError


def test_dsn_refused_by_the_driver_is_invalid_and_not_quoted():
    error = asyncpg.ClientConfigurationError("could not read postgresql://me:hunter2@host")
    assert not is_transient(error)
    assert isinstance(told := translate(error, "s"), InvalidDSNError)
    assert "hunter2" not in str(told)
    with pytest.raises(InvalidDSNError) as caught, translated("s"):
        raise error
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), RuntimeError("x"), asyncio.CancelledError()])
def test_errors_of_other_origin_are_not_translated(error):
    assert (is_transient(error), is_data_error(error), translate(error, "s")) == (False, False, None)
    with pytest.raises(type(error)) as caught, translated("s"):
        raise error
    assert caught.value is error


def test_pgqrs_errors_pass_unchanged():
    ours = NotInstalledError("s")
    with pytest.raises(NotInstalledError) as caught, translated("another"):
        raise ours
    assert caught.value is ours
    assert not is_transient(ours)
    assert not is_transient(DatabaseError("refused", sqlstate="22P02"))
    assert is_transient(DatabaseUnavailableError("away"))


def test_sqlalchemy_misuse_becomes_a_database_error():
    assert type(translate(ArgumentError("no"), "s")) is DatabaseError


def test_cause_is_the_error_of_the_driver():
    original = server_error("22P02")
    wrapped = DBAPIError("SELECT", {}, original)
    assert (sqlstate(wrapped), is_data_error(wrapped)) == ("22P02", True)
    with pytest.raises(DatabaseError) as caught, translated("s"):
        raise wrapped
    assert caught.value.__cause__ is original


@pytest.mark.parametrize(
    ("statement", "code", "verdict", "kind"),
    [
        ("SELECT '{'::json", "22P02", (False, True), DatabaseError),
        ("SELECT 1 / 0", "22012", (False, True), DatabaseError),
        ("SELECT * FROM nowhere.nothing", "42P01", (False, False), NotInstalledError),
        ("SELEC 1", "42601", (False, False), DatabaseError),
        (
            "SET TRANSACTION READ ONLY; CREATE TEMP TABLE t (); DROP TABLE t",
            "42601",
            (False, False),
            DatabaseError,
        ),
        ("DO $$ BEGIN RAISE serialization_failure; END $$", "40001", (True, False), DatabaseUnavailableError),
        ("DO $$ BEGIN RAISE deadlock_detected; END $$", "40P01", (True, False), DatabaseUnavailableError),
        ("SELECT pg_terminate_backend(pg_backend_pid())", "08003", (True, False), DatabaseUnavailableError),
    ],
)
async def test_real_server_errors_are_classified(dsn, statement, code, verdict, kind):
    engine = engine_on(dsn)
    plain = await asyncpg.connect(dsn)
    found = []
    try:
        with pytest.raises(Exception, check=lambda error: isinstance(error, asyncpg.PostgresError)) as caught:
            await plain.fetch(statement)
        found.append(caught.value)
        with pytest.raises(DBAPIError) as caught:
            async with engine.connect() as connection:
                await connection.execute(text(statement.replace(":", r"\:")))
        found.append(caught.value)
    finally:
        await plain.close()
        await engine.dispose()
    for error in found:
        assert (sqlstate(error), is_transient(error), is_data_error(error)) == (code, *verdict), error
        assert type(translate(error, "s")) is kind


async def test_real_connection_failures_are_classified(dsn):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(OSError) as caught:
            await asyncpg.connect(f"postgresql://u@127.0.0.1:{unused.getsockname()[1]}/d?sslmode=disable")
        assert is_transient(caught.value)
    async with connected(dsn) as plain:
        pass
    with pytest.raises(asyncpg.InterfaceError) as caught:
        await plain.fetch("SELECT 1")
    assert is_transient(caught.value)
    with pytest.raises(asyncpg.InvalidCatalogNameError) as caught:
        await asyncpg.connect(dsn, database="nowhere")
    assert not is_transient(caught.value)
    assert type(translate(caught.value, "s")) is DatabaseUnavailableError


async def test_closed_pool_connection_is_transient(dsn):
    engine = engine_on(dsn)
    try:
        async with engine.connect() as connection:
            pid = await connection.scalar(text("SELECT pg_backend_pid()"))
        async with connected(dsn) as other:
            await other.execute("SELECT pg_terminate_backend($1, 5000)", pid)
        with pytest.raises((DBAPIError, InterfaceError)) as caught:
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
        assert is_transient(caught.value)
        assert type(translate(caught.value, "s")) is DatabaseUnavailableError
    finally:
        await engine.dispose()


async def test_exhausted_pool_is_unavailable(dsn):
    engine = engine_on(
        dsn,
        pool_size=1,
        max_overflow=0,
        pool_timeout=0.05,
    )
    try:
        async with engine.connect():
            with pytest.raises(PoolTimeoutError) as caught:
                await engine.connect()
        assert not is_data_error(caught.value)
        assert isinstance(translate(caught.value, "s"), DatabaseUnavailableError)
        assert isinstance(translate(caught.value, "s"), PgqrsError)
    finally:
        await engine.dispose()
