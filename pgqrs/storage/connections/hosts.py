"""Connects to the primary among several hosts.

asyncpg tries the hosts in turn, but gives all of its time to the first host. So a host that does not answer would
keep it from the other hosts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import asyncpg

from pgqrs.errors import InvalidDSNError
from pgqrs.storage.connections.errors import is_transient

TARGET = "target_session_attrs"
"""Option of a DSN that says which kind of server to accept among several hosts."""


class Host(NamedTuple):
    """A host's name, address or socket folder, and its port if known, as arguments of `asyncpg.connect`."""

    host: str
    port: int | None


_Query: TypeAlias = dict[str, list[str]]


def hosts_of(dsn: str) -> list[Host]:
    """Return the hosts that a DSN names, or an empty list for a malformed DSN, which asyncpg will report.

    Several hosts are written as ``one,two`` or, in SQLAlchemy's form, as a query with one `host` for each. Raises
    `InvalidDSNError` for a malformed query of SQLAlchemy's form, because asyncpg would take its last host.
    """
    query: _Query = {}
    # The suppressed error can quote the password, so it must not become the context of the error below.
    with suppress(ValueError):
        parts = urlsplit(dsn)
        query = parse_qs(parts.query, keep_blank_values=True)
        return _read(parts, query)
    if _repeats(query, "host") or _repeats(query, "port"):
        raise InvalidDSNError(
            "the DSN's hosts cannot be parsed: a query that repeats `host` or `port` must have no empty value, "
            "one port or as many ports as hosts, and no host before the query. Write it as "
            "postgresql://user:password@/name?host=db1:5432&host=db2:5432."
        )
    return []


def _repeats(query: _Query, key: str) -> bool:
    return len(query.get(key, [])) > 1


def _read(parts: SplitResult, query: _Query) -> list[Host]:
    written = _written_hosts(parts, query)
    ports = _for_each(_listed(query, "port"), len(written))
    # asyncpg reads no port after a socket folder. SQLAlchemy does, and a repeated `host` is SQLAlchemy's form.
    folders = () if _repeats(query, "host") else ("/",)
    return [_host(each, port, folders) for each, port in zip(written, ports, strict=True)]


def _written_hosts(parts: SplitResult, query: _Query) -> list[str]:
    authority = parts.netloc.rpartition("@")[2]
    if not authority:
        return _listed(query, "host")
    if _repeats(query, "host"):
        raise ValueError("SQLAlchemy would take the hosts in the query, and asyncpg the hosts before it")
    return [unquote(each) for each in authority.split(",")]


def _listed(query: _Query, key: str) -> list[str]:
    listed = [part for each in query.get(key, [""]) for part in each.split(",")]
    if _repeats(query, key) and "" in listed:
        raise ValueError("asyncpg ignores empty values")
    return listed


def _for_each(ports: list[str], count: int) -> list[str]:
    return ports * count if len(ports) == 1 else ports


def _host(written: str, port: str, portless: tuple[str, ...]) -> Host:
    name, colon, own = (written, "", "") if written.startswith(portless) else written.rpartition(":")
    if not colon or own.endswith("]"):
        name, own = written, ""
    return Host(name.strip("[]"), int(own or port) if own or port else None)


class Hosts:
    """The hosts of one DSN or URL, tried in turn; the host of the last successful attempt comes first."""

    def __init__(self, hosts: Sequence[Host], *, is_targeted: bool) -> None:
        """Try `hosts`; `is_targeted` is true if the DSN or URL sets `target_session_attrs` itself."""
        self._hosts = hosts
        self._first = 0
        self._is_targeted = is_targeted or "PGTARGETSESSIONATTRS" in os.environ

    async def connect(self, *, timeout: float, **arguments: Any) -> Any:
        """Connect to a host that accepts writes, or that the `target_session_attrs` of the DSN or URL accepts.

        The hosts share the `timeout` equally, which is in seconds.
        """
        if len(self._hosts) < 2:  # noqa: PLR2004  # at most one host
            return await asyncpg.connect(timeout=timeout, **arguments)
        if not self._is_targeted:
            arguments[TARGET] = "read-write"
        failure: Exception | None = None
        for index in self._turns():
            try:
                connection: Any = await self._connect_to(self._hosts[index], timeout, arguments)
            except Exception as error:
                if not is_transient(error):
                    raise
                failure = error
            else:
                self._first = index
                return connection
        assert failure is not None  # noqa: S101  # each host failed
        raise failure

    async def _connect_to(self, host: Host, timeout: float, arguments: dict[str, Any]) -> Any:
        its_own = arguments | host._asdict()
        return await asyncpg.connect(timeout=timeout / len(self._hosts), **its_own)

    def _turns(self) -> Iterator[int]:
        count = len(self._hosts)
        return iter([(self._first + each) % count for each in range(count)])


def is_targeted(dsn: str) -> bool:
    """Return whether a DSN sets `target_session_attrs`."""
    return f"{TARGET}=" in dsn.partition("?")[2]
