"""Engines made of what the caller gave: a DSN, a URL, or an engine of their own."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import quote

import asyncpg
from sqlalchemy import URL, Dialect, event
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from pgqrs.embedded import cluster as embedded
from pgqrs.errors import ConfigurationError, InvalidDSNError
from pgqrs.storage.connections.dsn import Parameters, parameters_of, refused_parameter
from pgqrs.storage.connections.hosts import TARGET, Host, Hosts, hosts_of, is_targeted
from pgqrs.storage.connections.pooler import OPTION, Pooler

Target: TypeAlias = str | URL | AsyncEngine
"""Where the tables are: a DSN string, an SQLAlchemy URL, or an engine of the caller's."""

Connect: TypeAlias = Callable[..., Awaitable[Any]]
"""How to open a driver connection, from the arguments of `asyncpg.connect`."""

_SCHEME = re.compile(r"(postgres(?:ql)?)(?:\+\w+)?://", re.IGNORECASE)
_EXAMPLE = "it looks like postgresql://user:password@host:5432/name, or embedded:// for a server of its own."


class EngineSource(NamedTuple):
    """How to come by an engine; `owned` tells whether it is ours to dispose, `pooler` what lies on the way."""

    make: Callable[[], AsyncEngine]
    owned: bool
    pooler: Pooler


def engine_source(target: object, *, timeout: float) -> EngineSource:
    """Check what the caller gave and tell how to make an engine of it, without connecting.

    `timeout` bounds the making of a connection, in seconds. Raises `InvalidDSNError` for what is no
    PostgreSQL DSN, `ConfigurationError` for an engine that is not asyncpg's, `TypeError` for anything else.
    """
    if isinstance(target, AsyncEngine):
        _check_driver(target)
        said = target.sync_engine.get_execution_options().get(OPTION)
        return EngineSource(lambda: target, owned=False, pooler=Pooler(said))
    if isinstance(target, URL):
        return _source_of_url(target, timeout)
    if isinstance(target, str):
        return _source_of_dsn(target, timeout)
    raise TypeError(
        f"pgqrs needs a DSN string, an SQLAlchemy URL or an AsyncEngine, not {type(target).__name__}; "
        "make an engine with sqlalchemy.ext.asyncio.create_async_engine."
    )


_ANY = URL.create("postgresql+asyncpg")


def _check_driver(engine: AsyncEngine) -> None:
    if engine.dialect.name != "postgresql" or engine.dialect.driver != "asyncpg":
        raise ConfigurationError(
            f"the engine speaks {engine.dialect.name}+{engine.dialect.driver}, and pgqrs needs postgresql+asyncpg."
        )


# What `create_connect_args` of SQLAlchemy and `asyncpg.connect` take by these names; the rest goes into a DSN.
_ARGUMENTS = frozenset(inspect.signature(asyncpg.connect).parameters) | {
    "async_fallback",
    "prepared_statement_cache_size",
    "prepared_statement_name_func",
}


def _source_of_url(target: URL, timeout: float) -> EngineSource:
    if target.get_backend_name() not in {"postgresql", "postgres"}:
        raise InvalidDSNError(f"a URL of {target.get_backend_name()!r} is not one of PostgreSQL; {_EXAMPLE}")
    others = target.normalized_query.keys() - _ARGUMENTS
    said = parameters_of(
        f"{quote(name, safe='')}={quote(value, safe='')}"
        for name in target.normalized_query
        if name in others
        for value in target.normalized_query[name]
    )
    url = target.set(drivername="postgresql+asyncpg").difference_update_query(others)
    arguments = _connect_args(url)
    hosts = Hosts(_several(arguments.get("host"), arguments.get("port")), is_targeted=TARGET in url.query)
    passed = {"dsn": f"postgresql://?{'&'.join(said.passed)}"} if said.passed else {}
    return _own_source(url, hosts.connect, Pooler(said.pooler), timeout=_bound(timeout, said), **passed)


def _connect_args(url: URL) -> dict[str, Any]:
    with suppress(ArgumentError):
        return dict(url.get_dialect()().create_connect_args(url)[1])
    raise InvalidDSNError(f"the URL cannot be read; {_EXAMPLE}")


def _bound(timeout: float, said: Parameters) -> float:
    return timeout if said.connect_timeout is None else min(timeout, said.connect_timeout)


def _several(names: list[str] | str | None, ports: Any) -> list[Host]:
    """Return the hosts that SQLAlchemy lists, none where there is one."""
    return [Host(*each) for each in zip(names, ports, strict=True)] if isinstance(names, list) else []


def _source_of_dsn(dsn: str, timeout: float) -> EngineSource:
    if embedded.is_embedded(dsn):
        embedded.data_folder(dsn)  # a malformed one is told here and not at the first statement

        async def connect_embedded(**arguments: Any) -> Any:
            return await asyncpg.connect(await asyncio.to_thread(embedded.start, dsn), **arguments)

        return _own_source(_ANY, connect_embedded, Pooler("session"), timeout=timeout)
    start, _, query = _plain_dsn(dsn).partition("?")
    said = parameters_of(each for each in query.split("&") if each)
    plain = f"{start}?{'&'.join(said.passed)}" if said.passed else start
    hosts = Hosts(hosts_of(plain), is_targeted=is_targeted(plain))
    return _own_source(_ANY, hosts.connect, Pooler(said.pooler), dsn=plain, timeout=_bound(timeout, said))


def _own_source(url: URL, connect: Connect, pooler: Pooler, **arguments: Any) -> EngineSource:
    """Tell how to make an engine of ours, which looks for a pooler when it first connects."""

    async def connect_and_look(*positional: Any, **named: Any) -> Any:
        driver = await _told(connect(*positional, **named))
        if await _is_useless(driver, pooler):
            raise _PoolerFoundError
        if not pooler.shares_sessions:
            await _have_lost_clients_noticed(driver)
        return driver

    def make_connection(dialect: Dialect, _record: object, positional: list[Any], named: dict[str, Any]) -> Any:
        try:
            return dialect.connect(*positional, **(named | pooler.engine_arguments))
        except _PoolerFoundError:
            return dialect.connect(*positional, **(named | pooler.engine_arguments))

    def make() -> AsyncEngine:
        engine = create_async_engine(url, connect_args={"async_creator_fn": connect_and_look, **arguments})
        event.listen(engine.sync_engine, "do_connect", make_connection)
        return engine

    return EngineSource(make, owned=True, pooler=pooler)


async def _is_useless(driver: asyncpg.Connection[Any], pooler: Pooler) -> bool:
    """Tell whether a connection must be made anew for a pooler found just now; this one is closed then."""
    useless = True
    try:
        useless = await pooler.found_by(driver)
    finally:
        if useless:
            driver.terminate()
    return useless


async def _have_lost_clients_noticed(driver: asyncpg.Connection[Any]) -> None:
    """Have the server end a statement whose client has ended the connection, one that waits for a lock too.

    Some operating systems cannot tell, and the server refuses the setting there.
    """
    try:
        with suppress(asyncpg.InvalidParameterValueError):
            await driver.execute("SET client_connection_check_interval = '1s'")
    except BaseException:
        driver.terminate()
        raise


class _PoolerFoundError(Exception):
    """A connection was made as if there were no pooler, and there is one."""


async def _told(connecting: Awaitable[Any]) -> Any:
    try:
        return await connecting
    except (OverflowError, TypeError, ValueError):
        reason = f"the DSN cannot be read; {_EXAMPLE}"
    except asyncpg.PostgresError as error:
        parameter = refused_parameter(error)
        if parameter is None:
            raise
        reason = (
            f"the DSN has a parameter {parameter!r} that the server refuses, or whose value it refuses: libpq has "
            "none of this name, so it was taken for a setting of the server."
        )
    # Not within `except`: what is wrong with a DSN can quote the password in it, so the cause is not kept.
    raise InvalidDSNError(reason)


def _plain_dsn(dsn: str) -> str:
    """Return the DSN as asyncpg reads it, without the driver that SQLAlchemy and others put in its scheme."""
    found = _SCHEME.match(dsn)
    if found is None:
        raise InvalidDSNError(f"this is not the DSN of a PostgreSQL server; {_EXAMPLE}")
    rest = dsn[found.end() :]
    if re.split("[/?#]", rest, maxsplit=1)[0].count("@") > 1:
        raise InvalidDSNError("the DSN has more than one @ before its host: write one in a password as %40.")
    return f"postgresql://{rest}"
