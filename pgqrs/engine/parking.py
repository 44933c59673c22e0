"""Waits of a run for conditions, and the release of a run that only waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from math import inf
from typing import NamedTuple, Protocol, TypeAlias

from pgqrs.clock import Clock
from pgqrs.engine.lifecycle import IDLE_BEFORE_PARK, RunLifecycle, RunState, StopReason
from pgqrs.storage.arrivals import Arrivals
from pgqrs.storage.journal.futures import resolve
from pgqrs.storage.writes.waits import StepWait

MIN_PARK = 1.0
"""Minimum seconds of a wait for which a run parks; shorter waits stay in memory."""


MAX_LINGER = 0.1
"""Maximum seconds for which a run that has sent a message waits in memory for the answer, before it parks.

An answer that comes at once takes a few round trips, and tens of milliseconds in a busy worker. A run that parks
costs its release, a delivery, a claim and a replay instead. It lingers only while its worker has free slots and
knows of no ready workflow, so no other workflow waits for its slot.
"""


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


class MessageArrived:
    """The condition that a message has arrived at one of several addresses."""

    __slots__ = ("_addresses", "_arrivals", "due")

    def __init__(self, arrivals: Arrivals, addresses: Sequence[str]) -> None:
        self._arrivals = arrivals
        self._addresses = addresses
        self.due = inf

    def subscribe(self, on_met: Callable[[], None]) -> Callable[[], object]:
        """Call `on_met` once there is a message; return a function that ends the subscription."""
        return self._arrivals.subscribe(self._addresses, on_met)


class RunWorker(NamedTuple):
    """The worker that has claimed a run, and claims it again when a condition of its wait is met.

    `served` has the names of the workflows that it claims in the queue of the run. `has_room` returns whether no
    other workflow waits for the slot of the run.
    """

    served: Collection[str] = ()
    has_room: Callable[[], bool] = bool


Describe: TypeAlias = Callable[[], StepWait]
"""A function that describes a wait of a step at the moment in which its run parks."""


class _Wait(NamedTuple):
    """A wait until the time `due` at the latest.

    `describe` describes the step that waits; None for a step with an outcome. `is_new` is True while the run may
    still park, or lingers: the step may have no record yet.
    """

    due: float
    describe: Describe | None
    is_new: bool


# The lifecycle does not refer to this object: a cycle would leave ended runs to the garbage collector.
class Parking:
    """The waits of a run; a run of a worker is parked while it only waits.

    Args:
        lifecycle: The lifecycle of the run.
        worker: The worker that has claimed the run; without one the run does not park.

    Attributes:
        parked: The waits of the steps without an outcome, at the moment in which the run parked.
        expects_answer: True if the run has sent a message or a reply, and has not lingered since.
    """

    __slots__ = ("_due", "_waits", "expects_answer", "lifecycle", "parked", "worker")

    def __init__(self, lifecycle: RunLifecycle, worker: RunWorker | None) -> None:
        self.lifecycle = lifecycle
        self._waits: dict[asyncio.Future[None], _Wait] = {}
        self._due = inf
        self.parked: tuple[StepWait, ...] = ()
        self.worker = worker
        self.expects_answer = False

    @property
    def idle_until(self) -> float | None:
        """The time, by the clock, until which the run only waits, its deadline at the latest.

        None if a step executes, nothing waits, or a wait has only begun.
        """
        lifecycle, waits = self.lifecycle, self._waits.values()
        if not waits or lifecycle.state is not RunState.OPEN or not lifecycle.idle.is_idle:
            return None
        if any(each.is_new for each in waits):
            return None
        deadline = inf if lifecycle.deadline is None else lifecycle.deadline
        return min(deadline, *(each.due for each in waits))

    def until_due(self) -> float | None:
        """Return the seconds until a parked run must be claimed again; None if no time is set."""
        return None if self._due == inf else max(0.0, self._due - self.lifecycle.clock.time())

    async def wait_until(self, due: float, *, resting: bool = False) -> None:
        """Wait until `due` by the clock, as `wait` does; return at once if that time has come."""
        self.lifecycle.raise_if_stopped()
        clock = self.lifecycle.clock
        if due > clock.time():
            await self.wait(TimeReached(clock, due), resting=resting)

    async def wait(self, *conditions: Condition, resting: bool = False, describe: Describe | None = None) -> None:
        """Wait until one of the conditions is met, or park the run; raise the stop of the run once it stops.

        `resting` is True for a step that executes and waits, `describe` describes the wait of such a step to the
        statement that parks the run.
        """
        lifecycle = self.lifecycle
        lifecycle.raise_if_stopped()
        lifecycle.check_may_begin()
        due = min(each.due for each in conditions)
        met: list[bool] = []

        def on_met() -> None:
            met.append(True)
            resolve(waiter, None)

        with self._waiting(due, describe, resting=resting) as waiter:
            ends = [each.subscribe(on_met) for each in conditions]
            try:
                await self._park_if_only_body_waits()
                if self._is_allowed():
                    lifecycle.idle.watch(IDLE_BEFORE_PARK, self._park_if_idle)
                await waiter
            finally:
                for end in ends:
                    end()
        lifecycle.raise_if_stopped()
        if not met:  # a stop has woken a wait in a shelter
            await self.wait(*conditions, resting=resting, describe=describe)

    async def linger(self, due: float, condition: Condition, describe: Describe) -> bool:
        """Wait in memory for an answer, at most `MAX_LINGER` seconds, if the run has sent a message.

        Returns whether the condition was met. `due` and `describe` are as for `park_at_once`, to be called next if
        the condition was not met. Raises the stop of the run once it stops.
        """
        expects_answer, self.expects_answer = self.expects_answer, False
        if self.worker is None or not (expects_answer and self.worker.has_room()):
            return False
        lifecycle = self.lifecycle
        lifecycle.raise_if_stopped()
        met: list[bool] = []

        def on_met() -> None:
            met.append(True)
            resolve(waiter, None)

        with self._waiting(due, describe, resting=True, is_new=True) as waiter:
            if not self._does_only_body_wait():
                return False
            end = condition.subscribe(on_met)
            longest = max(0.0, min(MAX_LINGER, due - lifecycle.clock.time()))
            timer = lifecycle.loop.call_later(longest, resolve, waiter, None)
            try:
                await waiter
            finally:
                timer.cancel()
                end()
        lifecycle.raise_if_stopped()
        return bool(met)

    async def park_at_once(self, due: float, describe: Describe) -> None:
        """Park the run if only the step waits that `describe` describes; the step then needs no other record.

        `due` is the latest time of the wait. Raises the stop of the run if it has stopped, as by the park.
        """
        self.lifecycle.raise_if_stopped()
        self.lifecycle.check_may_begin()
        with self._waiting(due, describe, resting=True, is_new=True):
            await self._park_if_only_body_waits()
        self.lifecycle.raise_if_stopped()

    @contextmanager
    def _waiting(
        self, due: float, describe: Describe | None, *, resting: bool, is_new: bool = False
    ) -> Generator[asyncio.Future[None]]:
        lifecycle = self.lifecycle
        waiter: asyncio.Future[None] = lifecycle.loop.create_future()
        self._waits[waiter] = _Wait(due, describe, is_new)
        lifecycle.waiters.add(waiter)
        lifecycle.idle.resting += resting
        try:
            yield waiter
        finally:
            del self._waits[waiter]
            lifecycle.waiters.discard(waiter)
            lifecycle.idle.resting -= resting
            if not self._waits:
                lifecycle.idle.unwatch(self._park_if_idle)
            lifecycle.idle.restart()

    def _is_allowed(self) -> bool:
        lifecycle = self.lifecycle
        can_park = self.worker is not None and lifecycle.replays_for is None
        return can_park and lifecycle.state is RunState.OPEN and lifecycle.body.task is not None

    def _does_only_body_wait(self) -> bool:
        idle, body = self.lifecycle.idle, self.lifecycle.body
        return self._is_allowed() and idle.is_idle and asyncio.current_task() is body.task

    async def _park_if_only_body_waits(self) -> None:
        if self._does_only_body_wait():
            await asyncio.sleep(0)  # lets tasks that the body just created begin their steps
            self._park_if_idle()

    def _park_if_idle(self) -> None:
        if not (self._waits and self._is_allowed() and self.lifecycle.idle.is_idle):
            return
        self._due = min(each.due for each in self._waits.values())
        if self._due - self.lifecycle.clock.time() > MIN_PARK:
            self.parked = tuple(each.describe() for each in self._waits.values() if each.describe is not None)
            self.lifecycle.unwind_for(StopReason.PARKED)
