"""Runs the periodic maintenance of a worker: due timers, passed deadlines and the runs of dead executors."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import ClassVar

from pgqrs.clock import Clock, Timer
from pgqrs.storage.claim_connection import MaintenanceResult
from pgqrs.storage.queries.maintenance import MAX_ROWS
from pgqrs.worker.service import NEVER, PeriodicService

REGULAR_INTERVAL = 1.0
"""Seconds between two rounds of maintenance, unless a timer is due earlier."""

SUSPICION_INTERVAL = 0.4
"""Seconds until the next round while an executor may be dead."""

MIN_INTERVAL = 0.05
"""Minimum seconds between two rounds, however soon the next timer is due."""


class Maintenance(PeriodicService):
    """Runs maintenance about once a second, earlier for due timers, and calls `ready` when workflows are ready.

    The pause between two rounds follows `clock`: a test that moves the clock starts the next round at once.
    """

    name: ClassVar[str] = "maintenance"

    def __init__(
        self, tick: Callable[[], Awaitable[MaintenanceResult]], ready: Callable[[], object], clock: Clock
    ) -> None:
        super().__init__()
        self._tick = tick
        self._ready = ready
        self._clock = clock
        self._next: Timer | None = None

    async def run_once(self) -> float:
        """Run one round of maintenance."""
        self._cancel_next()
        found = await self._tick()
        if found.ready or found.woken or found.recovered:
            self._ready()
        if max(found.woken, found.recovered, found.timed_out) >= MAX_ROWS:
            return 0  # the statement reached its limit, so more rows may be left
        if found.fired:
            return 0  # more schedules may be due, and the next times of these are not known
        self._next = self._clock.call_at(self._clock.time() + _rest_after(found), self.wake)
        return NEVER

    async def stop(self) -> None:
        """Wait for the round in progress, and start no other round."""
        await super().stop()
        self._cancel_next()

    def _cancel_next(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None


def _rest_after(found: MaintenanceResult) -> float:
    rest = SUSPICION_INTERVAL if found.suspects else REGULAR_INTERVAL * random.uniform(0.9, 1.1)  # noqa: S311  # workers stay out of step
    return rest if found.next_due is None else max(MIN_INTERVAL, min(rest, found.next_due))
