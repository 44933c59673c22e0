"""Ids for new workflows, reserved in blocks: a write that names its rows can be sent twice."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from pgqrs.errors import WorkflowNotFoundError
from pgqrs.storage.connections.dedicated import DedicatedConnection
from pgqrs.storage.queries.workflows import drawn_ids, of_keys
from pgqrs.storage.records import KeyOwner, Submission

MAX_BLOCK = 1024
"""The most ids reserved at a time; the blocks grow up to it from one, so that the first id is 1."""

MAX_ID = 2**63 - 1

OnTaken: TypeAlias = Callable[[Submission, KeyOwner], object]
"""Called with a submission, and with the workflow that has its key."""


class IdAllocator:
    """The ids that an event loop has reserved and not used yet, and those that keys stand for."""

    def __init__(self, aside: DedicatedConnection, sequence: str) -> None:
        """Reserve ids of the `sequence`, whose name is qualified and quoted."""
        self._aside = aside
        self._sequence = sequence
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
                    self._block = min(2 * self._block, MAX_BLOCK)
        return self._ids.popleft()

    def forget(self) -> None:
        """Drop what is in stock: a server that lost its last moments may have given it to others."""
        self._ids.clear()

    def in_stock(self) -> int | None:
        """Return an id that is reserved already, None if there is none."""
        return self._ids.popleft() if self._ids else None

    async def block(self, count: int) -> list[int]:
        """Return `count` ids that nobody else gets, in order."""
        drawn = await self._aside.fetch(drawn_ids, {"sequence": self._sequence, "count": count})
        return [row[0] for row in drawn]

    async def of_key(self, name: str, key: str) -> KeyOwner | None:
        """Return the workflow of this name that has the key."""
        rows = await self._aside.fetch(of_keys, {"name": name, "keys": [key]})
        return KeyOwner(*rows[0][1:]) if rows else None


def ignore_taken(_submission: Submission, _taken: KeyOwner) -> None:
    """Let a submission stand for the workflow that has its key, whatever its arguments are."""


async def enqueue_with_ids(
    new: Sequence[Submission],
    submit: Callable[[Sequence[Submission]], Awaitable[dict[int, int | KeyOwner]]],
    draw: Callable[[int], Awaitable[Sequence[int]]],
    taken: OnTaken,
) -> list[int]:
    """Submit workflows under ids of their own, and return the ids of the workflows that they are, in order.

    `taken` is called in the end with each whose key another workflow has. `submit` returns ids by tokens, and
    leaves out the tokens whose id another workflow has: a server that lost its last moments gave it twice. `draw`
    reserves others then.
    """
    found: dict[int, int | KeyOwner] = {}
    left = list(new)
    while left:
        drawn = await draw(len(left))
        found |= await submit([each._replace(workflow_id=own) for each, own in zip(left, drawn, strict=True)])
        left = [each for each in left if each.token not in found]
    ids: list[int] = []
    for each in new:
        own = found[each.token]
        if isinstance(own, KeyOwner):
            taken(each, own)
            own = own.workflow_id
        ids.append(own)
    return ids


def check_is_int(name: str, value: object) -> None:
    """Refuse a value that is no int, or a bool; `name` names it in the message. Raises `TypeError`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is an int, not {type(value).__name__}.")


def check_id(workflow_id: int) -> None:
    """Refuse an id that no row can have; raises `TypeError`, and `WorkflowNotFoundError` for an int.

    The driver's own error would not say which argument is wrong.
    """
    check_is_int("a workflow id", workflow_id)
    if not 0 < workflow_id <= MAX_ID:
        raise WorkflowNotFoundError(workflow_id)
