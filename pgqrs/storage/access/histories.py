"""Reads the histories of workflows; one transaction serves all runs of an event loop that begin at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Generator, Sequence
from contextvars import Context
from functools import partial
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from pgqrs.storage.connections.database import Database
from pgqrs.storage.connections.watchdog import MIN_NETWORK_RATE
from pgqrs.storage.queries.steps import HISTORY_BYTES, LaterTexts, StepRepository
from pgqrs.storage.records import History

MAX_HISTORIES = 100
"""Maximum workflows of one transaction: long histories have many rows beside their payloads."""


class _Asked(NamedTuple):
    workflow_id: int
    future: asyncio.Future[tuple[History, LaterTexts]]


class Histories:
    """The histories that the runs of an event loop ask for.

    A lone request is read at once. The requests of the same turn of the loop, as after a claim of several
    workflows, share a transaction, and so do the requests that come while it is read.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._asked: deque[_Asked] = deque()
        self._task: asyncio.Task[None] | None = None

    async def of(self, workflow_id: int) -> History:
        """Return the record of a workflow's steps, without the steps that are to be executed again.

        The record is read in portions. Each portion has the database's `timeout`, and more time by its size, so a
        large record may take long.
        """
        loop = asyncio.get_running_loop()
        asked = _Asked(workflow_id, loop.create_future())
        self._asked.append(asked)
        if self._task is None:
            # An empty context: the task would keep the context of the first caller alive.
            self._task = loop.create_task(self._serve(), name="pgqrs-histories", context=Context())
        history, later = await asked.future
        for portion in _portions(later):
            step_ids = [step_id for step_id, _ in portion]
            allowance = sum(size for _, size in portion) / MIN_NETWORK_RATE
            texts = await self._database.run_with_retries(
                partial(_texts, workflow_id=workflow_id, step_ids=step_ids),
                lasting=self._database.limits.timeout + allowance,
            )
            for step_id, (output, error) in texts.items():
                history.outcomes[step_id] = history.outcomes[step_id]._replace(output=output, error=error)
        return history

    async def _serve(self) -> None:
        try:
            while batch := self._next():
                if not await self._read(batch) and len(batch) > 1:
                    # One of them may be the reason, as by its size.
                    await asyncio.gather(*(self._read([each]) for each in batch))
        finally:
            self._task = None

    def _next(self) -> list[_Asked]:
        """Take the requests for the next transaction, of different workflows: each run changes its own history."""
        batch: dict[int, _Asked] = {}
        while self._asked and len(batch) < MAX_HISTORIES and self._asked[0].workflow_id not in batch:
            asked = self._asked.popleft()
            if not asked.future.done():  # its caller still waits
                batch[asked.workflow_id] = asked
        return list(batch.values())

    async def _read(self, batch: Sequence[_Asked]) -> bool:
        """Answer requests; if that fails, return False, and answer a lone request with the error."""
        ids = [each.workflow_id for each in batch]
        try:
            found = await self._database.run_with_retries(partial(_histories, workflow_ids=ids))
        except Exception as error:  # noqa: BLE001  # the caller raises it
            if len(batch) == 1 and not batch[0].future.done():
                batch[0].future.set_exception(error)
            return False
        for each in batch:
            if not each.future.done():
                each.future.set_result(found[each.workflow_id])
        return True


def _portions(steps: LaterTexts) -> Generator[LaterTexts]:
    """Yield steps, each with the size of its payload in bytes, in portions that one statement reads."""
    portion: LaterTexts = []
    total = 0
    for step_id, size in steps:
        if portion and total + size > HISTORY_BYTES:
            yield portion
            portion, total = [], 0
        portion.append((step_id, size))
        total += size
    if portion:
        yield portion


async def _histories(
    connection: AsyncConnection, *, workflow_ids: Sequence[int]
) -> dict[int, tuple[History, LaterTexts]]:
    return await StepRepository(connection).histories(workflow_ids)


async def _texts(
    connection: AsyncConnection, *, workflow_id: int, step_ids: Sequence[str]
) -> dict[str, tuple[str | None, str | None]]:
    return await StepRepository(connection).texts(workflow_id, step_ids)
