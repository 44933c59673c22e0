"""The database's clock, which is one for all machines, without asking for it each time."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from pgqrs.clock import Clock
from pgqrs.storage.database import Database
from pgqrs.storage.repositories import ServerRepository


class ServerClock:
    """The time by the database's clock: asked once, and carried on by `clock`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._asking = asyncio.Lock()
        self._read: tuple[datetime, float] | None = None

    async def now(self) -> datetime:
        """Return the time, aware."""
        if self._read is None:
            async with self._asking:
                if self._read is None:
                    self._read = await self._database.patiently(self._ask)
        then, at = self._read
        return then + timedelta(seconds=self._clock.time() - at)

    async def _ask(self, connection: AsyncConnection) -> tuple[datetime, float]:
        """Return the time by the database's clock, and what it was then by the other."""
        server = ServerRepository(connection)
        await server.now()  # what the first statement of a connection takes is not part of the way there and back
        asked = self._clock.time()
        now = await server.now()
        return now, (asked + self._clock.time()) / 2
