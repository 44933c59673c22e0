"""The look after what no claim finds: timers that are due, deadlines that have passed, what the dead left."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import ClassVar

from pgqrs.clock import Clock, Timer
from pgqrs.storage.claim_connection import MaintenanceResult
from pgqrs.storage.queries.maintenance import MAX_ROWS
from pgqrs.worker.service import NEVER, PeriodicService

REGULAR_INTERVAL = 1.0
"""The time between two looks, in seconds, where nothing calls for an earlier one."""

SUSPICION_INTERVAL = 0.4
"""The time until the next look, in seconds, while an executor may be dead."""

MIN_INTERVAL = 0.05
"""The shortest time between two looks, in seconds, however soon the next timer is due."""


class Maintenance(PeriodicService):
    """Looks about once a second, sooner where something is due, and tells when there is something to claim.

    It rests by `clock`, so that it looks at once where that is moved.
    """

    name: ClassVar[str] = "looking after timers and dead executors"

    def __init__(
        self, tick: Callable[[], Awaitable[MaintenanceResult]], ready: Callable[[], object], clock: Clock
    ) -> None:
        super().__init__()
        self._tick = tick
        self._ready = ready
        self._clock = clock
        self._next: Timer | None = None

    async def run_once(self) -> float:
        """Look once."""
        self._cancel_next()
        found = await self._tick()
        if found.ready or found.woken or found.recovered:
            self._ready()
        if max(found.woken, found.recovered, found.timed_out) >= MAX_ROWS:
            return 0  # there are more
        self._next = self._clock.call_at(self._clock.time() + _rest_after(found), self.wake)
        return NEVER

    async def stop(self) -> None:
        """Let the look in progress end, and take no other."""
        await super().stop()
        self._cancel_next()

    def _cancel_next(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None


def _rest_after(found: MaintenanceResult) -> float:
    rest = SUSPICION_INTERVAL if found.suspects else REGULAR_INTERVAL * random.uniform(0.9, 1.1)  # noqa: S311  # out of step
    return rest if found.next_due is None else max(MIN_INTERVAL, min(rest, found.next_due))
