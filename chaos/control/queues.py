"""The queues with limits: half of the workflows are in one of them, and their limits change during the run."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pgqrs import Admin, Rate

KEYS = 5
"""The number of partition keys of each queue."""

SHORTEST, LONGEST = 1.0, 6.0
"""Seconds for which the limits of a queue stay as they are."""


@dataclass(frozen=True)
class Limits:
    """The limits of a queue for a while, as the arguments of `set_queue`."""

    arguments: Mapping[str, Any]
    is_paused: bool = False


@dataclass(frozen=True)
class LimitedQueue:
    """A queue with limits; `turns` has the limits that follow each other.

    An exclusive queue has one workflow of a partition key at a time, from its first start until its end.
    """

    name: str
    turns: tuple[Limits, ...]
    is_exclusive: bool = False


QUEUES = (
    LimitedQueue(
        "narrow",
        (
            Limits({"concurrency": 4, "partition_concurrency": 2}),
            Limits({"concurrency": 2, "weights": {"key 1": 4}}),
            Limits({"concurrency": 6, "partition_concurrency": 1}),
        ),
    ),
    LimitedQueue("keyed", (Limits({"partition_concurrency": 1}), Limits({"partition_concurrency": 2}))),
    LimitedQueue(
        "paced",
        (
            Limits({"rate": Rate(5, burst=4)}),
            Limits({"rate": Rate(12, per=2, burst=2), "partition_rate": Rate(2, burst=3)}),
            Limits({"concurrency": 5, "rate": Rate(4)}),
        ),
    ),
    LimitedQueue(
        "ordered", (Limits({"ordered": True}), Limits({"ordered": True, "concurrency": 4})), is_exclusive=True
    ),
    LimitedQueue("halting", (Limits({"concurrency": 5}), Limits({"concurrency": 5}, is_paused=True))),
)


class Placement(NamedTuple):
    """The queue of a workflow, and its partition key."""

    queue: str
    partition_key: str | None


def placement(number: int) -> Placement:
    """Return the placement of the workflow of a number: each second one is in a queue with limits.

    The children of a workflow have the placement of the next number, so a workflow with limits has none that wait
    for a slot of its queue.
    """
    rest, is_limited = divmod(number, 2)
    if not is_limited:
        return Placement("default", None)
    rest, queue = divmod(rest, len(QUEUES))
    return Placement(QUEUES[queue].name, f"key {rest % KEYS}")


class Change(NamedTuple):
    """A change of limits, which was committed between the times `began` and `done`."""

    limits: Limits
    began: float
    done: float


@dataclass(frozen=True)
class Regulator:
    """Changes the limits of the queues; `changes` has the changes of each queue, in order."""

    admin: Admin
    chance: random.Random
    changes: dict[str, list[Change]] = field(default_factory=dict[str, list[Change]])

    async def begin(self) -> None:
        """Set the first limits of each queue."""
        for queue in QUEUES:
            await self._apply(queue, queue.turns[0])

    async def regulate(self, seconds: float) -> None:
        """Change the limits for some seconds, then set the first limits again."""
        await asyncio.gather(*(self._regulate(queue, time.monotonic() + seconds) for queue in QUEUES))

    async def _regulate(self, queue: LimitedQueue, end: float) -> None:
        turn = 0
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, self.chance.uniform(SHORTEST, LONGEST)))
            turn += 1
            await self._apply(queue, queue.turns[turn % len(queue.turns)])
        await self._apply(queue, queue.turns[0])

    async def _apply(self, queue: LimitedQueue, limits: Limits) -> None:
        began = time.time()
        await self.admin.set_queue(queue.name, **limits.arguments)
        await (self.admin.pause_queue if limits.is_paused else self.admin.resume_queue)(queue.name)
        self.changes.setdefault(queue.name, []).append(Change(limits, began, time.time()))


def in_force(changes: Sequence[Change], since: float, until: float) -> list[Limits]:
    """Return the limits that were in force at some moment between two times, as far as it can be known."""
    following = [*changes[1:], None]
    return [
        each.limits
        for each, after in zip(changes, following, strict=True)
        if each.began <= until and (after is None or after.done >= since)
    ]
