"""The connection of a worker: it hears the doorbell, claims, and looks after what is due or left by the dead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from pgqrs.clock import Reading
from pgqrs.errors import WorkflowTimeoutError
from pgqrs.failures import dump_error
from pgqrs.storage import executors, queue
from pgqrs.storage.channels import queue_channel
from pgqrs.storage.database import CompiledStatement, Database
from pgqrs.storage.faults import translated
from pgqrs.storage.poolers import Driver, close_driver
from pgqrs.types import ClaimedRun

_UNKNOWN_EVERY = 60
"""How many ticks go by between two searches for runs of executors that are not in the tables, and for old rows."""


class Tick(NamedTuple):
    """What a look at the queues found and did.

    `ready`: one of the queues has a workflow to claim. `woken`, `recovered` and `timed_out` count workflows whose
    time had come, that a dead executor held, and that were ended at their deadline. `suspects` counts executors
    that may be dead. `next_due` is the time until the next timer or deadline in seconds, None without one.
    """

    ready: bool
    woken: int
    recovered: int
    timed_out: int
    suspects: int
    next_due: float | None


class Watch:
    """One worker's connection outside the pool, made anew when it is lost; it claims what `codec` can read.

    `rung` is called in the event loop with the name of a queue whose doorbell was rung, and `told` with the
    server's time where a claim brings it. The methods raise
    `DatabaseUnavailableError` while the server is away; call them again later.
    """

    def __init__(
        self,
        database: Database,
        executor_id: UUID,
        rung: Callable[[str], None],
        codec: str | None = None,
        told: Callable[[Reading], None] | None = None,
    ) -> None:
        self._database = database
        self._executor_id = executor_id
        self._codec = codec
        self._rung = rung
        self._told = told
        self._connection: Driver | None = None
        self._one_at_a_time = asyncio.Lock()
        self._compiled: dict[Callable[[], Any], CompiledStatement] = {}
        self._unanswered: UUID | None = None
        self._settled_at = 0.0
        self._ticks = 0
        self.statements = 0
        """How many statements were sent."""

    async def claim(self, names: Sequence[str], queues: Sequence[str], limit: int) -> list[ClaimedRun]:
        """Claim up to `limit` workflows of these names and queues, by priority, then by age.

        What an earlier call claimed without hearing the answer comes first.
        """
        names, queues = list(dict.fromkeys(names)), list(dict.fromkeys(queues))
        values = {
            "names": names,
            "queues": queues,
            "codec": self._codec,
            "limit": limit,
            "executor": self._executor_id,
        }
        async with self._one_at_a_time:
            if self._unanswered is not None:
                rows = await self._claimed(queue.claimed, values | {"token": self._unanswered})
                if rows:
                    return _in_order(rows)
            self._unanswered = uuid4()
            return _in_order(await self._claimed(queue.claim, values | {"token": self._unanswered}))

    async def _claimed(self, statement: Callable[[], Any], values: dict[str, Any]) -> list[Any]:
        asked = monotonic()
        rows = await self._fetch(statement, values)
        self._unanswered = None
        if rows and self._told is not None:
            self._told(Reading.between(rows[0]["told"], asked))
        return rows

    @property
    def unanswered(self) -> UUID | None:
        """The token of a claim whose answer is not there yet, or was lost; None where there is none."""
        return self._unanswered

    async def tick(self, names: Sequence[str], queues: Sequence[str]) -> Tick:
        """Wake what is due, take over what the dead left, end what is too late, and tell what is to be done."""
        async with self._one_at_a_time:
            unknown_too = self._ticks % _UNKNOWN_EVERY == 0
            values = {
                "names": list(names),
                "queues": list(queues),
                "codec": self._codec,
                "unknown_too": unknown_too,
            }
            ((ready, woken, recovered, expired, suspects, next_due),) = await self._fetch(queue.tick, values)
            self._ticks += 1
            timed_out = await self._time_out(expired) if expired else 0
            if unknown_too:
                await self._fetch(executors.forget_the_dead, {})
        return Tick(ready, woken, recovered, timed_out, suspects, next_due)

    async def _time_out(self, ids: list[int]) -> int:
        given = await self._fetch(queue.timeouts, {"ids": ids})
        errors = [
            dump_error(WorkflowTimeoutError(workflow_id, timeout), terminal=True) for workflow_id, timeout in given
        ]
        return len(await self._fetch(queue.time_out, {"ids": [row[0] for row in given], "errors": errors}))

    async def close(self) -> None:
        """Close the connection."""
        async with self._one_at_a_time:
            connection, self._connection = self._connection, None
        if connection is not None:
            await close_driver(connection)

    async def _fetch(self, statement: Callable[[], Any], values: dict[str, Any]) -> list[Any]:
        with translated(self._database.schema):
            connection = await self._connected()
            compiled = self._compiled.get(statement)
            if compiled is None:
                compiled = self._compiled[statement] = self._database.compile(statement())
            self.statements += 1
            settled = asyncio.get_running_loop().time() >= self._settled_at
            arguments = compiled.arguments(values | {"settled": settled})
            try:
                return await connection.fetch(compiled.text, *arguments, timeout=self._database.limits.timeout)
            except BaseException:
                # Whatever it was, a connection that may have fallen silent hears no doorbell.
                connection.terminate()
                self._connection = None
                self._unsettle()
                raise

    async def _connected(self) -> Driver:
        if self._connection is None or self._connection.is_closed():
            lost, self._connection = self._connection, None
            try:
                connection = await self._database.open_driver()
                try:
                    async with asyncio.timeout(self._database.limits.timeout):
                        await connection.add_listener(queue_channel(self._database.schema), self._heard)
                except BaseException:
                    connection.terminate()
                    raise
            except BaseException:
                self._unsettle()
                raise
            self._connection = connection
            if lost is not None or self._settled_at > 0:
                self._unsettle()
        return self._connection

    def _unsettle(self) -> None:
        """Believe in no death for a while: what cut this connection may have cut those of living executors."""
        self._settled_at = asyncio.get_running_loop().time() + executors.SETTLING

    def _heard(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self._rung(str(payload))


def _in_order(rows: list[Any]) -> list[ClaimedRun]:
    first = sorted(rows, key=lambda row: (-row["priority"], row["id"]))
    return [ClaimedRun(*row[: len(ClaimedRun._fields)]) for row in first]
