"""Listens for the ends of workflows in other processes, while callers of this process wait for their results.

A notification is a hint: polling finds every result without it, as behind a pooler, where no session listens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from pgqrs.errors import PgqrsError
from pgqrs.storage.access.id_allocator import MAX_ID
from pgqrs.storage.connections.database import Database
from pgqrs.storage.connections.dedicated import DedicatedConnection, IdleTimer
from pgqrs.storage.connections.errors import translated
from pgqrs.storage.connections.pooler import Driver
from pgqrs.storage.queries.server import notify
from pgqrs.storage.sql.channels import RESULTS, parse_ids, payload_of, queue_channel, result_channel

RENEWAL = 5.0
"""Seconds between two notifications of the workers that this process listens."""

INTEREST = 15.0
"""Seconds for which a worker notifies this process after such a notification."""


class ResultListener:
    """The listening connection of one event loop; it is opened on demand, and closed when it is idle."""

    def __init__(self, database: Database) -> None:
        self._schema = database.schema
        self._connection = DedicatedConnection(database, self._listen)
        self._idle_timer = IdleTimer(self._close_if_idle)
        self._loop = asyncio.get_running_loop()
        self._on_ended: Callable[[Sequence[int]], object] | None = None
        self._due = 0.0
        self._task: asyncio.Task[None] | None = None

    def on_ended(self, listener: Callable[[Sequence[int]], object]) -> None:
        """Call `listener` with the ids of workflows that have ended in other processes."""
        self._on_ended = listener

    def keep_listening(self) -> None:
        """Listen for a while; an error is ignored, and the next attempt comes after `RENEWAL`."""
        now = self._loop.time()
        if now >= self._due and self._task is None:
            self._due = now + RENEWAL
            self._idle_timer.start()
            self._task = self._loop.create_task(self._renew(), name="pgqrs-results-listener")

    async def close(self) -> None:
        """Close the connection; `keep_listening` opens another one."""
        self._idle_timer.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._connection.close()
        self._due = 0.0

    async def _renew(self) -> None:
        try:
            with suppress(PgqrsError), translated(self._schema):
                announced = {"channel": queue_channel(self._schema), "payload": payload_of(RESULTS, MAX_ID)}
                await self._connection.fetch(notify, announced)
        finally:
            self._task = None

    async def _listen(self, driver: Driver) -> None:
        await driver.add_listener(result_channel(self._schema), self._on_notification)

    def _on_notification(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        if self._on_ended is not None:
            self._on_ended(parse_ids(str(payload)))

    def _close_if_idle(self) -> None:
        if self._task is not None:
            self._idle_timer.start()
        else:
            self._task = self._loop.create_task(self._close_idle(), name="pgqrs-results-listener")

    async def _close_idle(self) -> None:
        try:
            await self._connection.close()
        finally:
            self._task = None
