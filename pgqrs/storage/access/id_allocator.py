"""Reserves ids for new workflows, in blocks: a write that names its rows can be sent twice."""

from __future__ import annotations

import asyncio
from collections import deque

from pgqrs.errors import WorkflowNotFoundError
from pgqrs.storage.connections.dedicated import RetryingConnection
from pgqrs.storage.queries.workflows import drawn_ids, of_keys
from pgqrs.storage.records import KeyOwner, from_row
from pgqrs.validation import check_is_int

MAX_BLOCK = 1024
"""Maximum ids of one block; the blocks double from one id, so that the first id is 1."""

MAX_ID = 2**63 - 1
"""Maximum id of a workflow, the largest bigint of PostgreSQL."""


class IdAllocator:
    """Reserves the workflow ids of one event loop, and finds workflows by key."""

    def __init__(self, dedicated: RetryingConnection, sequence: str) -> None:
        """Reserve ids of the `sequence`, whose name is qualified and quoted."""
        self._dedicated = dedicated
        self._sequence = sequence
        self._ids: deque[int] = deque()
        self._block = 1
        self._reserving = asyncio.Lock()

    def __len__(self) -> int:
        """Return the number of ids in stock, which are reserved and not used yet."""
        return len(self._ids)

    async def next(self) -> int:
        """Return an id that no other caller receives."""
        while not self._ids:
            async with self._reserving:
                if not self._ids:
                    self._ids.extend(await self.block(self._block))
                    self._block = min(2 * self._block, MAX_BLOCK)
        return self._ids.popleft()

    def forget(self) -> None:
        """Drop the ids in stock: a server that lost its last writes may reserve them for other processes again."""
        self._ids.clear()

    def in_stock(self) -> int | None:
        """Return an id from the stock, or None if the stock is empty."""
        return self._ids.popleft() if self._ids else None

    async def block(self, count: int) -> list[int]:
        """Reserve `count` ids, which no other caller receives, and return them in order."""
        drawn = await self._dedicated.fetch(drawn_ids, {"sequence": self._sequence, "count": count})
        return [row[0] for row in drawn]

    async def of_key(self, name: str, key: str) -> KeyOwner | None:
        """Return the workflow of this name that has the key, or None."""
        rows = await self._dedicated.fetch(of_keys, {"name": name, "keys": [key]})
        return from_row(KeyOwner, rows[0]) if rows else None


def check_id(workflow_id: int) -> None:
    """Raise `TypeError` for an id other than an int, and `WorkflowNotFoundError` for an int out of range.

    The driver's own error would not name the invalid argument.
    """
    check_is_int("a workflow id", workflow_id)
    if not 0 < workflow_id <= MAX_ID:
        raise WorkflowNotFoundError(workflow_id)
