"""Schemas for tests: each test has a schema, which is emptied and renamed for the next test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar
from uuid import uuid4

from pgqrs.storage.connections.database import Database, Limits
from pgqrs.storage.connections.engines import engine_source
from pgqrs.testing import sql as testbed

T = TypeVar("T")

TIMEOUT = 30.0
"""Maximum seconds to open a connection."""


class SchemaPool:
    """The schemas of one process on one server, created when no free schema is left.

    The schemas of processes that died are dropped by the next process that connects.
    """

    def __init__(self, dsn: str) -> None:
        self._source = engine_source(dsn, timeout=TIMEOUT)
        self._owner = f"{testbed.PREFIX}{uuid4().hex[:8]}"
        self._number = 0
        self._free: list[str] = []
        self._things: dict[str, int] = {}
        self._script: str | None = None
        self._driver: Any = None
        self._one_at_a_time = asyncio.Lock()

    async def lend(self) -> str:
        """Return a schema with empty tables, whose time is the machine's."""
        async with self._one_at_a_time:
            driver = await self._connected()
            while self._free:
                if (name := await self._recycled(driver, self._free.pop())) is not None:
                    return name
            return await self._made(driver)

    async def give_back(self, schema: str) -> None:
        """Take a schema back, for the next test."""
        self._free.append(schema)

    async def close(self) -> None:
        """Drop the schemas and disconnect."""
        async with self._one_at_a_time:
            if self._driver is None:
                return
            for schema in self._things:
                await testbed.drop(self._driver, schema)
            await self._driver.close(timeout=TIMEOUT)
            self._driver = None

    async def _recycled(self, driver: Any, schema: str) -> str | None:
        name, things = self._next_name(), self._things.pop(schema)
        if await testbed.recycle(driver, schema, name, things):
            self._things[name] = things
            return name
        if not await testbed.drop(driver, schema):
            self._things[schema] = things  # dropped again in `close`
        return None

    async def _made(self, driver: Any) -> str:
        if self._script is None:
            self._script = await asyncio.to_thread(testbed.script)
        name = self._next_name()
        self._things[name] = await testbed.create(driver, self._script, name)
        return name

    def _next_name(self) -> str:
        self._number += 1
        return f"{self._owner}_{self._number}"

    async def _connected(self) -> Any:
        if self._driver is None or self._driver.is_closed():
            database = Database(self._source, self._owner, Limits(TIMEOUT, TIMEOUT))
            self._driver = await database.open_driver()
            await testbed.own(self._driver, self._owner)
            await testbed.drop_left_over(self._driver)
        return self._driver


class BlockingSchemaPool:
    """A `SchemaPool` for synchronous code, which lives in the event loop of a thread of its own."""

    def __init__(self, dsn: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="pgqrs-test-schemas", daemon=True)
        self._thread.start()
        self._schemas = self._wait(_made(dsn))

    def lend(self) -> str:
        """Return a schema with empty tables; see `SchemaPool.lend`."""
        return self._wait(self._schemas.lend())

    def give_back(self, schema: str) -> None:
        """Take a schema back, for the next test."""
        self._wait(self._schemas.give_back(schema))

    def close(self) -> None:
        """Drop the schemas, and end the thread."""
        try:
            self._wait(self._schemas.close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result()


async def _made(dsn: str) -> SchemaPool:
    return SchemaPool(dsn)
