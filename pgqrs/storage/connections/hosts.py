"""A connection to whichever of several hosts has the primary.

asyncpg tries them in turn, but gives all of its time to the first: a host that fell silent would hide the others.
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
"""The option that says which of several hosts will do."""


class Host(NamedTuple):
    """A host's name, address or socket folder, and its port if that is said; as `asyncpg.connect` calls them."""

    host: str
    port: int | None


_Query: TypeAlias = dict[str, list[str]]


def hosts_of(dsn: str) -> list[Host]:
    """Return the hosts that a DSN names, none where it cannot be read: asyncpg tells what is wrong with it.

    Several are written as ``one,two`` or, as SQLAlchemy has it, in a query with a `host` for each. Raises
    `InvalidDSNError` where such a query cannot be read: asyncpg would take the last of them.
    """
    query: _Query = {}
    # The error can quote the password, so that no other is to have it as its context.
    with suppress(ValueError):
        parts = urlsplit(dsn)
        query = parse_qs(parts.query, keep_blank_values=True)
        return _read(parts, query)
    if _repeats(query, "host") or _repeats(query, "port"):
        raise InvalidDSNError(
            "the hosts of the DSN cannot be read: where `host` or `port` is repeated in the query, none is "
            "empty, there are as many ports as hosts, or one, and no host is before the query; it looks like "
            "postgresql://user:password@/name?host=db1:5432&host=db2:5432."
        )
    return []


def _repeats(query: _Query, key: str) -> bool:
    return len(query.get(key, [])) > 1


def _read(parts: SplitResult, query: _Query) -> list[Host]:
    written = _written_hosts(parts, query)
    ports = _for_each(_listed(query, "port"), len(written))
    # asyncpg reads no port behind the folder of a socket; SQLAlchemy, whose form the repeated one is, does.
    folders = () if _repeats(query, "host") else ("/",)
    return [_host(each, port, folders) for each, port in zip(written, ports, strict=True)]


def _written_hosts(parts: SplitResult, query: _Query) -> list[str]:
    authority = parts.netloc.rpartition("@")[2]
    if not authority:
        return _listed(query, "host")
    if _repeats(query, "host"):
        raise ValueError("SQLAlchemy would take these hosts, and asyncpg those before the query")
    return [unquote(each) for each in authority.split(",")]


def _listed(query: _Query, key: str) -> list[str]:
    listed = [part for each in query.get(key, [""]) for part in each.split(",")]
    if _repeats(query, key) and "" in listed:
        raise ValueError("asyncpg leaves out what is empty")
    return listed


def _for_each(ports: list[str], count: int) -> list[str]:
    return ports * count if len(ports) == 1 else ports


def _host(written: str, port: str, portless: tuple[str, ...]) -> Host:
    name, colon, own = (written, "", "") if written.startswith(portless) else written.rpartition(":")
    if not colon or own.endswith("]"):
        name, own = written, ""
    return Host(name.strip("[]"), int(own or port) if own or port else None)


class Hosts:
    """The hosts of one target, tried in turn; the one that was right the last time comes first."""

    def __init__(self, hosts: Sequence[Host], *, is_targeted: bool) -> None:
        """Try `hosts`; `is_targeted` tells whether the target says itself which of them will do."""
        self._hosts = hosts
        self._first = 0
        self._is_targeted = is_targeted or "PGTARGETSESSIONATTRS" in os.environ

    async def connect(self, *, timeout: float, **arguments: Any) -> Any:
        """Connect to a host that can be written to, within `timeout` seconds; each host has its share of them."""
        if len(self._hosts) < 2:  # noqa: PLR2004  # one
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
        assert failure is not None  # noqa: S101  # each of them failed
        raise failure

    async def _connect_to(self, host: Host, timeout: float, arguments: dict[str, Any]) -> Any:
        its_own = arguments | host._asdict()
        return await asyncpg.connect(timeout=timeout / len(self._hosts), **its_own)

    def _turns(self) -> Iterator[int]:
        count = len(self._hosts)
        return iter([(self._first + each) % count for each in range(count)])


def is_targeted(dsn: str) -> bool:
    """Tell whether a DSN says which of its hosts will do."""
    return f"{TARGET}=" in dsn.partition("?")[2]
