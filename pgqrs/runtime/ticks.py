"""The look after what no claim finds: timers that are due, deadlines that have passed, what the dead left."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import ClassVar

from pgqrs.runtime.duty import Duty
from pgqrs.storage.queue import MOST_AT_ONCE
from pgqrs.storage.watch import Tick

REGULAR = 1.0
"""The time between two looks, in seconds, where nothing calls for an earlier one."""

SUSPICIOUS = 0.4
"""The time until the next look, in seconds, while an executor may be dead."""

SHORTEST = 0.05
"""The shortest time between two looks, in seconds, however soon the next timer is due."""


class Ticks(Duty):
    """Looks about once a second, sooner where something is due, and tells when there is something to claim."""

    name: ClassVar[str] = "looking after timers and dead executors"

    def __init__(self, tick: Callable[[], Awaitable[Tick]], ready: Callable[[], object]) -> None:
        super().__init__()
        self._tick = tick
        self._ready = ready

    async def turn(self) -> float:
        """Look once."""
        found = await self._tick()
        if found.ready or found.woken or found.recovered:
            self._ready()
        if max(found.woken, found.recovered, found.timed_out) >= MOST_AT_ONCE:
            return 0  # there are more
        return _rest_after(found)


def _rest_after(found: Tick) -> float:
    rest = SUSPICIOUS if found.suspects else REGULAR * random.uniform(0.9, 1.1)  # noqa: S311  # out of step
    return rest if found.next_due is None else max(SHORTEST, min(rest, found.next_due))
