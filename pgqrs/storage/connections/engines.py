"""Makes engines from a DSN or a URL, or takes the application's own engine."""

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

from pgqrs import embedded
from pgqrs.errors import ConfigurationError, InvalidDSNError
from pgqrs.storage.connections.dsn import Parameters, parameters_of, refused_parameter
from pgqrs.storage.connections.hosts import TARGET, Host, Hosts, hosts_of, is_targeted
from pgqrs.storage.connections.pooler import OPTION, Pooler

Target: TypeAlias = str | URL | AsyncEngine
"""Location of the tables: a DSN string, an SQLAlchemy URL, or an engine of the application."""

Connect: TypeAlias = Callable[..., Awaitable[Any]]
"""A function that opens a driver connection, with the arguments of `asyncpg.connect`."""

_SCHEME = re.compile(r"(postgres(?:ql)?)(?:\+\w+)?://", re.IGNORECASE)
_EXAMPLE = "write it as postgresql://user:password@host:5432/name, or as embedded:// for the embedded server."


class EngineSource(NamedTuple):
    """A function that makes an engine; `owned` is true if pgqrs disposes the engine, `pooler` is its pooler."""

    make: Callable[[], AsyncEngine]
    owned: bool
    pooler: Pooler


def engine_source(target: object, *, timeout: float) -> EngineSource:
    """Check the target and return the source of its engine, without connecting.

    `timeout` limits a connection attempt, in seconds. Raises `InvalidDSNError` for an invalid DSN or URL,
    `ConfigurationError` for an engine without the asyncpg driver, and `TypeError` for any other object.
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
        f"`dsn` must be a DSN string, an SQLAlchemy URL or an AsyncEngine, got {type(target).__name__}. "
        "Make an engine with sqlalchemy.ext.asyncio.create_async_engine."
    )


_ANY = URL.create("postgresql+asyncpg")


def _check_driver(engine: AsyncEngine) -> None:
    if engine.dialect.name != "postgresql" or engine.dialect.driver != "asyncpg":
        raise ConfigurationError(
            f"the engine must be of postgresql+asyncpg, got {engine.dialect.name}+{engine.dialect.driver}. "
            "Make it with create_async_engine and a URL of postgresql+asyncpg."
        )


# Arguments of SQLAlchemy's `create_connect_args` and of `asyncpg.connect`; other parameters go into a DSN.
_ARGUMENTS = frozenset(inspect.signature(asyncpg.connect).parameters) | {
    "async_fallback",
    "prepared_statement_cache_size",
    "prepared_statement_name_func",
}


def _source_of_url(target: URL, timeout: float) -> EngineSource:
    if target.get_backend_name() not in {"postgresql", "postgres"}:
        raise InvalidDSNError(f"the URL must be of postgresql, got {target.get_backend_name()!r}: {_EXAMPLE}")
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
    raise InvalidDSNError(f"the URL cannot be parsed: {_EXAMPLE}")


def _bound(timeout: float, said: Parameters) -> float:
    return timeout if said.connect_timeout is None else min(timeout, said.connect_timeout)


def _several(names: list[str] | str | None, ports: Any) -> list[Host]:
    """Return the hosts of SQLAlchemy's list, or an empty list for a single host."""
    return [Host(*each) for each in zip(names, ports, strict=True)] if isinstance(names, list) else []


def _source_of_dsn(dsn: str, timeout: float) -> EngineSource:
    if embedded.is_embedded(dsn):
        embedded.data_folder(dsn)  # a malformed DSN fails here, and not at the first statement

        async def connect_embedded(**arguments: Any) -> Any:
            return await asyncpg.connect(await asyncio.to_thread(embedded.start, dsn), **arguments)

        return _own_source(_ANY, connect_embedded, Pooler("session"), timeout=timeout)
    start, _, query = _plain_dsn(dsn).partition("?")
    said = parameters_of(each for each in query.split("&") if each)
    plain = f"{start}?{'&'.join(said.passed)}" if said.passed else start
    hosts = Hosts(hosts_of(plain), is_targeted=is_targeted(plain))
    return _own_source(_ANY, hosts.connect, Pooler(said.pooler), dsn=plain, timeout=_bound(timeout, said))


def _own_source(url: URL, connect: Connect, pooler: Pooler, **arguments: Any) -> EngineSource:
    """Return the source of an engine of pgqrs, which looks for a pooler at its first connection."""

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
    """Return whether the connection has found a pooler, and must be replaced; it is terminated then."""
    useless = True
    try:
        useless = await pooler.found_by(driver)
    finally:
        if useless:
            driver.terminate()
    return useless


async def _have_lost_clients_noticed(driver: asyncpg.Connection[Any]) -> None:
    """Make the server end a statement, even one that waits for a lock, when its client has closed the connection.

    The server refuses the setting on operating systems that cannot detect a closed connection.
    """
    try:
        with suppress(asyncpg.InvalidParameterValueError):
            await driver.execute("SET client_connection_check_interval = '1s'")
    except BaseException:
        driver.terminate()
        raise


class _PoolerFoundError(Exception):
    """A connection was opened without the arguments for a pooler, and a pooler was found."""


async def _told(connecting: Awaitable[Any]) -> Any:
    try:
        return await connecting
    except (OverflowError, TypeError, ValueError):
        reason = f"the DSN cannot be parsed: {_EXAMPLE}"
    except asyncpg.PostgresError as error:
        parameter = refused_parameter(error)
        if parameter is None:
            raise
        reason = (
            f"the DSN has a parameter {parameter!r} whose name or value the server refuses. libpq has no "
            "parameter of this name, so it was sent as a setting of the server: correct or remove it."
        )
    # Not within `except`, so that the error has no cause: an error about a DSN can quote its password.
    raise InvalidDSNError(reason)


def _plain_dsn(dsn: str) -> str:
    """Return the DSN in asyncpg's form, without the driver that SQLAlchemy's form has in the scheme."""
    found = _SCHEME.match(dsn)
    if found is None:
        raise InvalidDSNError(f"the DSN must be of a PostgreSQL server: {_EXAMPLE}")
    rest = dsn[found.end() :]
    if re.split("[/?#]", rest, maxsplit=1)[0].count("@") > 1:
        raise InvalidDSNError("the DSN has more than one @ before its host: write an @ in a password as %40.")
    return f"postgresql://{rest}"
