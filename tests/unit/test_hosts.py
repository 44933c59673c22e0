"""The hosts that a DSN names, and our own option in it."""

import pytest

from pgqrs.storage.engines import _without_option
from pgqrs.storage.hosts import Hosts, hosts_of, is_targeted


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
    ],
)
def test_the_hosts_are_those_that_asyncpg_reads(dsn, expected):
    assert hosts_of(dsn) == expected


@pytest.mark.parametrize(
    "dsn", ["postgresql://one:x,two:y/name", "postgresql:///n?host=a,b&port=1,2,3", "postgresql://[::1,two/name"]
)
def test_what_cannot_be_read_is_left_for_asyncpg_to_refuse(dsn):
    assert hosts_of(dsn) == []


def test_the_host_that_was_right_comes_first():
    hosts = Hosts(hosts_of("postgresql://a,b,c/name"), is_targeted=False)
    assert list(hosts._turns()) == [0, 1, 2]
    hosts._first = 1
    assert list(hosts._turns()) == [1, 2, 0]


def test_whether_the_dsn_says_which_host_will_do():
    assert is_targeted("postgresql://a,b/name?x=y&target_session_attrs=primary")
    assert not is_targeted("postgresql://target_session_attrs=x@a,b/name")


@pytest.mark.parametrize(
    ("dsn", "plain", "mode"),
    [
        ("postgresql://h/n", "postgresql://h/n", None),
        ("postgresql://h/n?pgqrs_pooler=transaction", "postgresql://h/n", "transaction"),
        ("postgresql://h/n?a=%20b&pgqrs_pooler=session&c=d", "postgresql://h/n?a=%20b&c=d", "session"),
        ("postgresql://h/n?pgqrs_pooler=", "postgresql://h/n", ""),
    ],
)
def test_our_option_is_taken_out_and_the_rest_is_left_as_it_is(dsn, plain, mode):
    assert _without_option(dsn) == (plain, mode)
