"""The queries that concern no single workflow: the server, its executors, its clock and its channels."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    bindparam,
    cast,
    func,
    select,
    true,
)

from pgqrs.models import Text
from pgqrs.storage.queries import executors, invariants
from pgqrs.storage.queries.connection import Connection
from pgqrs.storage.queries.expressions import (
    pg,
    text_literal,
)


class DatabaseIdentity(NamedTuple):
    """Which database of which server: what tells two connections to one apart from those to two."""

    started_at: datetime
    database: int


class ExecutorState(Enum):
    """What can be said of an executor's life."""

    ALIVE = "alive"
    IN_DOUBT = "in doubt"
    DEAD = "dead"


class ServerRepository:
    """What concerns no one workflow: the server's clock and channels, executors, and the tables as a whole."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def life(self, executor_id: UUID) -> ExecutorState:
        """Return whether an executor lives, by what is known of it now; an unknown executor is dead."""
        asked = {"executor": executor_id, "settled": True}
        found: Any = (await self._connection.execute(executors.verdict(), asked)).one_or_none()
        if found is None or found[0]:
            return ExecutorState.DEAD
        return ExecutorState.IN_DOUBT if found[1] else ExecutorState.ALIVE

    async def suspect(self) -> None:
        """Begin to suspect the executors that show no life; only a later look can find them dead."""
        await self._connection.execute(executors.suspect(), {"settled": True})

    async def identity(self) -> DatabaseIdentity:
        """Return which database of which server this is."""
        own = (
            select(executors.DATABASES.c.oid)
            .where(executors.DATABASES.c.datname == pg.current_database())
            .scalar_subquery()
        )
        query = select(pg.pg_postmaster_start_time(), cast(own, BigInteger()))
        row: Any = (await self._connection.execute(query)).one()
        return DatabaseIdentity(*row)

    async def violations(self, invariant: invariants.Invariant, limit: float) -> list[str]:
        """Return where the tables do not keep to an invariant, a sentence each; it takes a transaction.

        The server ends the search by itself after `limit` seconds, though its client be gone.
        """
        sentence, query = invariant
        allowed = {"milliseconds": str(round(1000 * limit))}
        await self._connection.execute(_ALLOW, allowed)
        return [sentence.format(*row) for row in await self._connection.execute(query.limit(invariants.SHOWN))]


_ALLOW: Any = select(
    pg.set_config(text_literal("statement_timeout"), bindparam("milliseconds", type_=Text()), true())
)


def notify() -> Any:
    """Return the statement that notifies those who listen on a `channel`."""
    return select(pg.pg_notify(bindparam("channel", type_=Text()), bindparam("payload", type_=Text())))


def time_of_day() -> Any:
    """Return the query for the time by the database's clock."""
    return select(func.clock_timestamp())
