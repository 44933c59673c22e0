"""The parameters of a DSN, of libpq and of the server, and its password."""

import logging
import traceback

import asyncpg
import pytest
from sqlalchemy import make_url

from pgqrs import Admin, InvalidDSNError
from pgqrs.storage.connections.dsn import parameters_of
from pgqrs.storage.connections.engines import engine_source

HOSTED = (
    "sslmode=prefer&channel_binding=require&connect_timeout=10&gssencmode=prefer&keepalives=1&keepalives_idle=30"
    "&keepalives_interval=10&keepalives_count=3&tcp_user_timeout=9&application_name=shop&target_session_attrs=any"
    "&options=-c%20statement_timeout%3D60000&client_encoding=UTF8&sslsni=1&load_balance_hosts=disable"
    "&max_protocol_version=latest&sslcertmode=allow&replication=false&pgqrs_pooler=session"
)


def with_query(dsn: str, query: str) -> str:
    return f"{dsn}{'&' if '?' in dsn else '?'}{query}"


@pytest.mark.parametrize("given", [str, make_url], ids=["string", "URL"])
async def test_dsn_with_all_libpq_parameters_connects(dsn, given, caplog):
    async with Admin(given(with_query(dsn, HOSTED)), "a_dsn") as admin:
        driver = await (await admin.store()).database.open_driver()
        assert await driver.fetchval("SHOW application_name") == "shop"
        await driver.close()
        async with (await admin.store()).database.transaction() as connection:
            row = await connection.exec_driver_sql("SHOW statement_timeout")
            assert row.scalar() == "1min"
    warned = [record for record in caplog.records if "channel_binding" in record.getMessage()]
    assert [record.levelno for record in warned] == [logging.WARNING]


@pytest.mark.parametrize("given", [str, make_url], ids=["string", "URL"])
@pytest.mark.parametrize("query", ["aplication_name=shop", "jit=perhaps", "options=-c%20aplication_name%3Dshop"])
async def test_parameter_refused_by_the_server_is_named(dsn, given, query):
    async with Admin(given(with_query(dsn, query)), "a_dsn") as admin:
        with pytest.raises(InvalidDSNError, match=r"DSN has a parameter '(aplication_name|jit)'"):
            await admin.verify()


@pytest.mark.parametrize("given", [str, make_url], ids=["string", "URL"])
@pytest.mark.parametrize(
    "query",
    [
        "gssencmode=require",
        "hostaddr=127.0.0.1",
        "replication=database",
        "require_auth=scram-sha-256",
        "sslcrldir=/crl",
        "oauth_issuer=x",
        "client_encoding=latin1",
        "connect_timeout=soon",
    ],
)
def test_unsupported_parameter_is_refused_by_its_name(given, query):
    with pytest.raises(InvalidDSNError, match=query.partition("=")[0]):
        Admin(given(f"postgresql://user@host/name?{query}"))


@pytest.mark.parametrize(
    ("query", "passed", "pooler", "connect_timeout"),
    [
        ("", [], None, None),
        ("pgqrs_pooler=transaction", [], "transaction", None),
        ("a=%20b&pgqrs_pooler=session&c=d", ["a=%20b", "c=d"], "session", None),
        ("pgqrs_pooler=", [], "", None),
        ("pgbouncer=true", [], "transaction", None),
        ("pgbouncer=true&pgqrs_pooler=session", [], "session", None),
        ("pgbouncer=false&connect_timeout=5", [], None, 5.0),
        ("connect_timeout=0", [], None, None),
        ("fallback_application_name=a%20b", ["application_name=a%20b"], None, None),
        ("fallback_application_name=x&application_name=y", ["application_name=y"], None, None),
        ("requiressl=1", ["sslmode=require"], None, None),
        ("requiressl=1&sslmode=verify-full", ["sslmode=verify-full"], None, None),
        ("host=a&host=b&port=1", ["host=a", "host=b", "port=1"], None, None),
    ],
)
def test_parameters_are_passed_on_or_translated_for_asyncpg(query, passed, pooler, connect_timeout):
    assert parameters_of(each for each in query.split("&") if each) == (passed, pooler, connect_timeout)


def test_engine_arguments_in_a_url_are_unchanged():
    url = make_url("postgresql+asyncpg://user@host/name?prepared_statement_cache_size=7&sslmode=disable")
    assert engine_source(url, timeout=1).make().url.query == {"prepared_statement_cache_size": "7"}


# --- the password ---


def all_errors(error: BaseException | None) -> list[BaseException]:
    """Return an error and those behind it, those that a traceback hides too."""
    if error is None:
        return []
    return [error, *all_errors(error.__cause__), *all_errors(error.__context__)]


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://user:pa@s3cret@127.0.0.1/name",
        "postgresql://user:s3cret@127.0.0.1,x@127.0.0.1/name",
        "postgresql://user:s3cret/x@127.0.0.1/name",
        "postgresql://user:s3cret/x@127.0.0.1/name?host=a&host=b",
        "postgresql://user:p@127.0.0.1:s3cret/name",
        "embedded://user:s3cret@host",
        "embedded:///%ff/s3cret",
        "mysql://user:s3cret@host/name",
    ],
)
async def test_no_chained_error_contains_the_password(dsn):
    with pytest.raises(InvalidDSNError) as caught:
        async with Admin(dsn, timeout=2, outage_timeout=1) as admin:
            await admin.install()
    for error in all_errors(caught.value):
        assert "s3cret" not in "".join(traceback.format_exception_only(error)) + repr(vars(error)) + repr(
            error.args
        )


def test_repeated_at_sign_error_shows_the_escape():
    with pytest.raises(InvalidDSNError, match="%40"):
        Admin("postgresql://user:pa@ss@host/name")


async def test_cause_of_a_database_error_is_kept(dsn):
    async with Admin(dsn, "not_there") as admin:
        with pytest.raises(Exception, match="pgqrs") as caught:
            await (await admin.store()).history(1)
    assert isinstance(caught.value.__cause__, asyncpg.PostgresError)
