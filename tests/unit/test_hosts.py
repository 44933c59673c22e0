"""The hosts that a DSN names."""

import asyncio
from contextlib import AsyncExitStack

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError

from pgqrs import InvalidDSNError
from pgqrs.storage.connections.engines import engine_source
from pgqrs.storage.connections.hosts import Hosts, hosts_of, is_targeted


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("postgresql://host/name", [("host", None)]),
        ("postgresql://user:p%40ss@one:1,two:2/name?sslmode=disable", [("one", 1), ("two", 2)]),
        ("postgresql://user@one,two:2/name", [("one", None), ("two", 2)]),
        ("postgresql://user@one,two/name?port=7", [("one", 7), ("two", 7)]),
        ("postgresql://[::1]:1,[fe80::2]/name", [("::1", 1), ("fe80::2", None)]),
        ("postgresql://%2Frun%2Fa,%2Frun%2Fb/name", [("/run/a", None), ("/run/b", None)]),
        ("postgresql:///name?host=%2Frun%2Fa,two&port=1,2", [("/run/a", 1), ("two", 2)]),
        ("postgresql:///name?host=one:1,two:2", [("one", 1), ("two", 2)]),
        ("postgresql://user@/name?host=one:1&host=two:2", [("one", 1), ("two", 2)]),
        ("postgresql://user@/name?host=one&host=two&port=1&port=2", [("one", 1), ("two", 2)]),
        ("postgresql:///name?host=one&host=two&port=1,2", [("one", 1), ("two", 2)]),
        ("postgresql:///name?host=one&host=two&port=7", [("one", 7), ("two", 7)]),
        ("postgresql:///name?host=one&a=b&host=two,three:3", [("one", None), ("two", None), ("three", 3)]),
        ("postgresql:///name?host=%2Frun%2Fa&host=[::1]:2", [("/run/a", None), ("::1", 2)]),
        ("postgresql:///name?host=/run/a:1&host=/run/b:2", [("/run/a", 1), ("/run/b", 2)]),
        ("postgresql:///name?host=/run/a:1,/run/b:2", [("/run/a:1", None), ("/run/b:2", None)]),
        ("postgresql://one,two/name?port=1&port=2", [("one", 1), ("two", 2)]),
    ],
)
def test_hosts_are_read_as_by_asyncpg(dsn, expected):
    assert hosts_of(dsn) == expected


@pytest.mark.parametrize(
    "dsn", ["postgresql://one:x,two:y/name", "postgresql:///n?host=a,b&port=1,2,3", "postgresql://[::1,two/name"]
)
def test_unreadable_hosts_are_left_to_asyncpg(dsn):
    assert hosts_of(dsn) == []


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql+asyncpg://user:tiger@one/name?host=two&host=three",
        "postgresql:///name?host=one&host=two&port=1&port=2&port=3",
        "postgresql:///name?host=one&port=1&port=2",
        "postgresql:///name?host=one&host=two:x",
        "postgresql:///name?host=one&host=two&port=1&port=x",
        "postgresql:///name?host=one&host=two&port=&port=2",
        "postgresql:///name?host=&host=two",
    ],
)
def test_ambiguous_repeated_hosts_are_refused(dsn):
    with pytest.raises(InvalidDSNError, match="host=db1:5432&host=db2:5432") as caught:
        engine_source(dsn, timeout=1)
    assert "tiger" not in str(caught.value)


@pytest.mark.parametrize(
    "query", ["host=127.0.0.1:{}&host=127.0.0.1:{}", "host=127.0.0.1&host=127.0.0.1&port={}&port={}"]
)
async def test_each_repeated_host_of_a_query_is_tried(query):
    tried = []

    async def refuse(_reader, writer):
        tried.append(writer.get_extra_info("sockname")[1])
        writer.close()

    async with AsyncExitStack() as stack:
        servers = [await asyncio.start_server(refuse, "127.0.0.1", 0) for _ in range(2)]
        for server in servers:
            await stack.enter_async_context(server)
        ports = [server.sockets[0].getsockname()[1] for server in servers]
        dsn = f"postgresql+asyncpg://user@/name?{query.format(*ports)}&sslmode=disable"
        engine = engine_source(dsn, timeout=5).make()
        with pytest.raises((DBAPIError, asyncpg.PostgresConnectionError)):
            await engine.connect()
        await engine.dispose()
    assert tried == ports


def test_last_successful_host_is_tried_first():
    hosts = Hosts(hosts_of("postgresql://a,b,c/name"), is_targeted=False)
    assert list(hosts._turns()) == [0, 1, 2]
    hosts._first = 1
    assert list(hosts._turns()) == [1, 2, 0]


def test_target_session_attrs_of_a_dsn_is_detected():
    assert is_targeted("postgresql://a,b/name?x=y&target_session_attrs=primary")
    assert not is_targeted("postgresql://target_session_attrs=x@a,b/name")
