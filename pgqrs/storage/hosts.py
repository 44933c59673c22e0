"""A connection to whichever of several hosts has the primary.

asyncpg tries them in turn, but gives all of its time to the first: a host that fell silent would hide the others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import asyncpg

from pgqrs.storage.faults import is_passing

TARGET = "target_session_attrs"
"""The option that says which of several hosts will do."""


class Host(NamedTuple):
    """A host's name, address or socket folder, and its port if that is said; as `asyncpg.connect` calls them."""

    host: str
    port: int | None


def hosts_of(dsn: str) -> list[Host]:
    """Return the hosts that a DSN names, none where it cannot be read: asyncpg tells what is wrong with it."""
    try:
        parts = urlsplit(dsn)
        query = parse_qs(parts.query)
        written = _written_hosts(parts, query)
        ports = _for_each(query.get("port", [""])[-1].split(","), len(written))
        return [_host(each, port) for each, port in zip(written, ports, strict=True)]
    except ValueError:
        return []


def _written_hosts(parts: SplitResult, query: dict[str, list[str]]) -> list[str]:
    authority = parts.netloc.rpartition("@")[2]
    if authority:
        return [unquote(each) for each in authority.split(",")]
    return query.get("host", [""])[-1].split(",")


def _for_each(ports: list[str], count: int) -> list[str]:
    return ports * count if len(ports) == 1 else ports


def _host(written: str, port: str) -> Host:
    name, colon, own = (written, "", "") if written.startswith("/") else written.rpartition(":")
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
                if not is_passing(error):
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
