"""Ids for new workflows, reserved in blocks: a write that names its rows can be sent twice."""

from __future__ import annotations

import asyncio
from collections import deque

from pgqrs.errors import WorkflowNotFoundError
from pgqrs.storage.database import Database
from pgqrs.storage.repositories import WorkflowRepository

LARGEST_BLOCK = 1024
"""The most ids reserved at a time; the blocks grow up to it from one, so that the first id is 1."""


_LARGEST = 2**63 - 1


class Ids:
    """The ids that an event loop has reserved and not used yet."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ids: deque[int] = deque()
        self._block = 1
        self._reserving = asyncio.Lock()

    def __len__(self) -> int:
        """Return how many are in stock."""
        return len(self._ids)

    async def next(self) -> int:
        """Return an id that nobody else gets."""
        while not self._ids:
            async with self._reserving:
                if not self._ids:
                    self._ids.extend(await self.block(self._block))
                    self._block = min(2 * self._block, LARGEST_BLOCK)
        return self._ids.popleft()

    def in_stock(self) -> int | None:
        """Return an id that is reserved already, None if there is none."""
        return self._ids.popleft() if self._ids else None

    async def block(self, count: int) -> list[int]:
        """Return `count` ids that nobody else gets, in order."""
        sequence = self._database.workflow_ids
        return await self._database.patiently(
            lambda connection: WorkflowRepository(connection).reserve_ids(sequence, count)
        )


def check_id(workflow_id: object) -> None:
    """Refuse an id that no row can have, before the driver does in words of its own."""
    if not isinstance(workflow_id, int):
        raise TypeError(f"a workflow id is an int, not {type(workflow_id).__name__}.")
    if not 0 < workflow_id <= _LARGEST:
        raise WorkflowNotFoundError(workflow_id)
