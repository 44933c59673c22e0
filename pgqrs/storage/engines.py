"""Engines made of what the caller gave: a DSN, a URL, or an engine of their own."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeAlias

import asyncpg
from sqlalchemy import URL
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from pgqrs import embedded
from pgqrs.errors import ConfigurationError, InvalidDSNError

Target: TypeAlias = str | URL | AsyncEngine
"""Where the tables are: a DSN string, an SQLAlchemy URL, or an engine of the caller's."""

_SCHEME = re.compile(r"(postgres(?:ql)?)(?:\+\w+)?://", re.IGNORECASE)
_EXAMPLE = "it looks like postgresql://user:password@host:5432/name, or embedded:// for a server of its own."


class EngineSource(NamedTuple):
    """How to come by an engine; `owned` tells whether it is ours to dispose."""

    make: Callable[[], AsyncEngine]
    owned: bool


def engine_source(target: object, *, timeout: float) -> EngineSource:
    """Check what the caller gave and tell how to make an engine of it, without connecting.

    `timeout` bounds the making of a connection, in seconds. Raises `InvalidDSNError` for what is no
    PostgreSQL DSN, `ConfigurationError` for an engine that is not asyncpg's, `TypeError` for anything else.
    """
    if isinstance(target, AsyncEngine):
        _check_driver(target)
        return EngineSource(lambda: target, owned=False)
    if isinstance(target, URL):
        url = _asyncpg_url(target)
        arguments = {"timeout": timeout, "async_creator_fn": _connect}
        return EngineSource(lambda: create_async_engine(url, connect_args=arguments), owned=True)
    if isinstance(target, str):
        connect = _connector(target, timeout)
        return EngineSource(lambda: create_async_engine(_ANY, async_creator=connect), owned=True)
    raise TypeError(
        f"pgqrs needs a DSN string, an SQLAlchemy URL or an AsyncEngine, not {type(target).__name__}; "
        "make an engine with sqlalchemy.ext.asyncio.create_async_engine."
    )


_ANY = "postgresql+asyncpg://"


def _check_driver(engine: AsyncEngine) -> None:
    if engine.dialect.name != "postgresql" or engine.dialect.driver != "asyncpg":
        raise ConfigurationError(
            f"the engine speaks {engine.dialect.name}+{engine.dialect.driver}, and pgqrs needs postgresql+asyncpg."
        )


def _asyncpg_url(url: URL) -> URL:
    if url.get_backend_name() not in {"postgresql", "postgres"}:
        raise InvalidDSNError(f"a URL of {url.get_backend_name()!r} is not one of PostgreSQL; {_EXAMPLE}")
    url = url.set(drivername="postgresql+asyncpg")
    mode = url.query.get(
        "sslmode"
    )  # libpq's word; SQLAlchemy passes the driver's own, `ssl`, which takes the same
    if mode is not None:
        url = url.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
    try:
        url.get_dialect()().create_connect_args(url)
    except ArgumentError:
        raise InvalidDSNError(f"the URL cannot be read; {_EXAMPLE}") from None
    return url


def _connector(dsn: str, timeout: float) -> Callable[[], Awaitable[Any]]:
    if embedded.is_embedded(dsn):
        embedded.data_folder(dsn)  # a malformed one is told here and not at the first statement

        async def connect_embedded() -> Any:
            return await _connect(await asyncio.to_thread(embedded.start, dsn), timeout=timeout)

        return connect_embedded
    plain = _plain_dsn(dsn)
    return lambda: _connect(plain, timeout=timeout)


async def _connect(*args: Any, **kwargs: Any) -> Any:
    try:
        return await asyncpg.connect(*args, **kwargs)
    except (OverflowError, TypeError, ValueError):
        # What is wrong with a DSN can quote the password in it, so the cause is not kept.
        raise InvalidDSNError(f"the DSN cannot be read; {_EXAMPLE}") from None


def _plain_dsn(dsn: str) -> str:
    """Return the DSN as asyncpg reads it, without the driver that SQLAlchemy and others put in its scheme."""
    found = _SCHEME.match(dsn)
    if found is None:
        raise InvalidDSNError(f"this is not the DSN of a PostgreSQL server; {_EXAMPLE}")
    return f"postgresql://{dsn[found.end() :]}"
