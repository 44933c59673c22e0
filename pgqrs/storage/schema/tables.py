"""The tables of a schema: installed on request, and checked before their first use."""

from __future__ import annotations

import logging

from sqlalchemy.ext.asyncio import AsyncConnection

from pgqrs.models import HEAD
from pgqrs.storage.connections.caller import CallerConnection, session_errors
from pgqrs.storage.connections.database import Database
from pgqrs.storage.connections.errors import translated
from pgqrs.storage.schema import migrate

_logger = logging.getLogger("pgqrs.storage")


class InstalledTables:
    """The tables of a database's schema, which are checked once in an event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._are_verified = False

    async def install(self) -> None:
        """Create the tables or migrate them to this version; see `pgqrs.storage.schema.migrate`."""
        database = self._database
        with translated(database.schema), await database.using():
            await migrate.install(database.engine, database.schema, database.limits.outage_timeout)
        self._are_verified = True

    async def verify(self) -> str:
        """Check that this version works with the tables, and return their revision.

        Retry if an earlier check has found them.
        """
        if self._are_verified:
            return await self._database.run_with_retries(self._check)
        async with self._database.transaction() as connection:
            return await self._check(connection)

    async def ensure(self) -> None:
        """Check the tables unless an earlier check has found them."""
        if not self._are_verified:
            self._found(await self.verify())

    async def ensure_through(self, caller: CallerConnection) -> None:
        """Check the tables as `ensure` does, through the caller's connection, which may be the pool's only one."""
        if not self._are_verified:
            with session_errors():
                self._found(await self._check(caller.connection))

    def _found(self, revision: str) -> None:
        self._are_verified = True
        if revision < HEAD:
            _logger.warning(
                "the schema %r is at revision %s, which this version of pgqrs supports; its own is %s: call "
                "`install`, or run `pgqrs install`, before the next upgrade of pgqrs",
                self._database.schema,
                revision,
                HEAD,
            )

    async def _check(self, connection: AsyncConnection) -> str:
        return await migrate.verify(connection, self._database.schema)
