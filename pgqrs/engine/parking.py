"""Waits of a run for conditions, and the release of a run that only waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Protocol

from pgqrs.clock import Clock
from pgqrs.engine.lifecycle import IDLE_BEFORE_PARK, RunLifecycle, RunState, StopReason
from pgqrs.storage.journal.futures import resolve

MIN_PARK = 1.0
"""Minimum seconds of a wait for which a run parks; shorter waits stay in memory."""


class Condition(Protocol):
    """A condition for which a run waits."""

    @property
    def due(self) -> float:
        """The time by the clock of the run at which the condition is met at the latest; infinite if no time is."""
        ...

    def subscribe(self, on_met: Callable[[], None]) -> Callable[[], object]:
        """Call `on_met` once the condition is met; return a function that ends the subscription."""
        ...


class TimeReached:
    """The condition that a time by a clock has come."""

    __slots__ = ("_clock", "due")

    def __init__(self, clock: Clock, due: float) -> None:
        self._clock = clock
        self.due = due

    def subscribe(self, on_met: Callable[[], None]) -> Callable[[], object]:
        """Call `on_met` at the time; return a function that cancels the call."""
        return self._clock.call_at(self.due, on_met).cancel


# The lifecycle does not refer to this object: a cycle would leave ended runs to the garbage collector.
class Parking:
    """The waits of a run; a run of a worker is parked while it only waits.

    Args:
        lifecycle: The lifecycle of the run.
        can_park: True if a worker claimed the run; a worker will then claim it again when a condition is met.
    """

    __slots__ = ("_due", "_waits", "can_park", "lifecycle")

    def __init__(self, lifecycle: RunLifecycle, *, can_park: bool) -> None:
        self.lifecycle = lifecycle
        self._waits: dict[asyncio.Future[None], float] = {}
        self._due = inf
        self.can_park = can_park

    @property
    def idle_until(self) -> float | None:
        """The time, by the clock, until which the run only waits; None if a step executes or nothing waits."""
        only_waits = self._waits and self.lifecycle.state is RunState.OPEN and self.lifecycle.idle.is_idle
        return min(self._waits.values()) if only_waits else None

    def until_due(self) -> float | None:
        """Return the seconds until a parked run must be claimed again; None if no time is set."""
        return None if self._due == inf else max(0.0, self._due - self.lifecycle.clock.time())

    async def wait_until(self, due: float, *, resting: bool = False) -> None:
        """Wait until `due` by the clock, as `wait` does; return at once if that time has come."""
        self.lifecycle.raise_if_stopped()
        clock = self.lifecycle.clock
        if due > clock.time():
            await self.wait(TimeReached(clock, due), resting=resting)

    async def wait(self, *conditions: Condition, resting: bool = False) -> None:
        """Wait until one of the conditions is met, or park the run; raise the stop of the run once it stops.

        `resting` is True for a step that waits for its next attempt.
        """
        lifecycle = self.lifecycle
        lifecycle.raise_if_stopped()
        waiter: asyncio.Future[None] = lifecycle.loop.create_future()
        ends = [each.subscribe(lambda: resolve(waiter, None)) for each in conditions]
        self._waits[waiter] = min(each.due for each in conditions)
        lifecycle.waiters.add(waiter)
        lifecycle.idle.resting += resting
        try:
            await self._park_at_once()
            if self._is_allowed():
                lifecycle.idle.watch(IDLE_BEFORE_PARK, self._park_if_idle)
            await waiter
        finally:
            for end in ends:
                end()
            del self._waits[waiter]
            lifecycle.waiters.discard(waiter)
            lifecycle.idle.resting -= resting
            if not self._waits:
                lifecycle.idle.unwatch(self._park_if_idle)
            lifecycle.idle.restart()
        lifecycle.raise_if_stopped()

    def _is_allowed(self) -> bool:
        return self.can_park and self.lifecycle.state is RunState.OPEN and self.lifecycle.body.task is not None

    async def _park_at_once(self) -> None:
        idle, body = self.lifecycle.idle, self.lifecycle.body
        if self._is_allowed() and idle.is_idle and asyncio.current_task() is body.task:
            await asyncio.sleep(0)  # lets tasks that the body just created begin their steps
            self._park_if_idle()

    def _park_if_idle(self) -> None:
        if not (self._waits and self._is_allowed() and self.lifecycle.idle.is_idle):
            return
        self._due = min(self._waits.values())
        if self._due - self.lifecycle.clock.time() > MIN_PARK:
            self.lifecycle.unwind_for(StopReason.PARKED)
