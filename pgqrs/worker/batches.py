"""Makes batches of the submissions of a worker's workflows, when a batch is complete or its time has come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import ClassVar

from pgqrs.clock import Clock, Timer
from pgqrs.storage.batches.forming import BatchedWorkflow, FormedBatches
from pgqrs.worker.service import NEVER, PeriodicService
from pgqrs.workflow.definition import Definition

MIN_PAUSE = 0.01
"""Seconds between two searches for batches, at least; doubled while searches find only what others have locked."""

MAX_PAUSE = 0.5
"""Maximum seconds between two searches while submissions are locked that make a batch."""

SHARE = 4
"""Minimum ratio of the time between two searches to the time that a search takes, up to `MAX_REST`."""

MAX_REST = 2.0
"""Maximum seconds between two searches, because a search through an outage takes long."""


def batched_workflows(definitions: Iterable[Definition]) -> list[BatchedWorkflow]:
    """Return the workflows that run in batches, as the storage makes these."""
    plans = [(each.name, each.batch) for each in definitions]
    return [
        BatchedWorkflow(name, plan.name, plan.size, plan.within, plan.timeout)
        for name, plan in plans
        if plan is not None
    ]


class Batches(PeriodicService):
    """Calls `form` at each `wake`, when the next batch is due, and again while there is more to make.

    `made` is called with the batches of each search that has made some. The time of the next batch follows
    `clock`: a test that moves the clock starts the batch at once.
    """

    name: ClassVar[str] = "making of batches"

    def __init__(
        self,
        form: Callable[[], Awaitable[FormedBatches]],
        made: Callable[[FormedBatches], object],
        clock: Clock,
    ) -> None:
        super().__init__()
        self._form = form
        self._made = made
        self._clock = clock
        self._next: Timer | None = None
        self._pause = MIN_PAUSE

    async def run_once(self) -> float:
        """Search once, and pause, however often a search is asked for meanwhile."""
        self._cancel_next()
        began = asyncio.get_running_loop().time()
        formed = await self._form()
        if formed.made:
            self._made(formed)
            self._pause = MIN_PAUSE
            return 0.0
        took = asyncio.get_running_loop().time() - began
        seen_at = self._clock.time() - took
        await self.pause_round(min(max(self._pause, SHARE * took), MAX_REST))
        if formed.is_left:
            self._pause = min(2 * self._pause, MAX_PAUSE)
            return 0.0
        self._pause = MIN_PAUSE
        if formed.next_due is not None:
            self._next = self._clock.call_at(seen_at + formed.next_due, self.wake)
        return NEVER

    async def stop(self) -> None:
        """Wait for the search in progress, and start no other search."""
        await super().stop()
        self._cancel_next()

    def _cancel_next(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
