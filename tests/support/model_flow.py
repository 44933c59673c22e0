"""The model of queues with limits and of schedules, on top of the conversations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tests.support.model_messages import Conversation
from tests.support.model_reference import Workflow


@dataclass
class Limits:
    """The limits of a queue; a rate is of one start a unit, with a burst."""

    concurrency: int | None = None
    partition_concurrency: int | None = None
    burst: int | None = None
    paused: bool = False

    @property
    def is_there(self) -> bool:
        """Tell whether the queue has a row."""
        return self.paused or {self.concurrency, self.partition_concurrency, self.burst} != {None}


class Listed(NamedTuple):
    """A queue as the list of the queues has it."""

    limits: tuple[int | None, int | None, int | None, bool]
    ready: int
    running: int
    held_back: int


@dataclass
class Schedule:
    """A schedule of a time in each unit; `queued` is the time that waits for the end of a workflow."""

    workflow: str
    queue: str
    overlap: str
    catchup: str
    next: int
    queued: int | None = None
    paused: bool = False


class Flow(Conversation):
    """Workflows of queues with limits, and of schedules."""

    def __init__(self, executors: int) -> None:
        super().__init__(executors)
        self.limits: dict[str, Limits] = {}
        self.free: dict[str, int] = {}
        self.schedules: dict[str, Schedule] = {}

    # Queues

    def set_queue(self, queue: str, limits: Limits) -> None:
        """Replace the limits of a queue; a paused queue stays paused."""
        limits.paused = queue in self.limits and self.limits[queue].paused
        self._put(queue, limits)

    def pause_queue(self, queue: str, *, paused: bool) -> None:
        """Pause a queue, or end its pause."""
        limits = self.limits.get(queue, Limits())
        limits.paused = paused
        self._put(queue, limits)

    def _put(self, queue: str, limits: Limits) -> None:
        self.limits.pop(queue, None)
        if limits.is_there:
            self.limits[queue] = limits

    def lanes_of(self, queue: str, numbers: Collection[int]) -> dict[str | None, list[int]]:
        """Return those of some workflows that are in a queue, by their partition keys."""
        found: dict[str | None, list[int]] = {}
        for number in numbers:
            workflow = self.workflows[number]
            if workflow.queue == queue:
                found.setdefault(workflow.partition_key, []).append(number)
        return found

    def _running(self, queue: str) -> Counter[str | None]:
        return Counter(
            each.partition_key for each in self.workflows if each.queue == queue and each.executor is not None
        )

    def _startable(self, queue: str, ready: Collection[int], *, rated: bool = True) -> int:
        """Return how many of the ready workflows of a queue may start now."""
        lanes, limits = self.lanes_of(queue, ready), self.limits.get(queue, Limits())
        if limits.paused:
            return 0
        running, found = self._running(queue), 0
        for key, numbers in lanes.items():
            is_free = key is None or limits.partition_concurrency is None
            room = len(numbers) if is_free else max(0, (limits.partition_concurrency or 0) - running[key])
            found += min(len(numbers), room)
        if limits.concurrency is not None:
            found = min(found, max(0, limits.concurrency - running.total()))
        if rated and limits.burst is not None:
            new = sum(not self.workflows[each].started for own in lanes.values() for each in own)
            found = min(found, sum(map(len, lanes.values())) - new + min(new, self._tokens(queue, limits.burst)))
        return found

    def _tokens(self, queue: str, burst: int) -> int:
        return max(0, burst - max(0, self.free.get(queue, self.now) - self.now))

    def bounds(self, names: Collection[str], queues: Collection[str], limit: int) -> tuple[int, int]:
        """Return how many workflows a claim takes at least and at most.

        A workflow that waits for a rate may keep those of its lane back that have started before.
        """
        ready = self.claimable(names, queues)
        each = {queue: self._startable(queue, ready) for queue in {*queues}}
        is_rated = {queue: queue in self.limits and self.limits[queue].burst is not None for queue in each}
        least = sum(count for queue, count in each.items() if not is_rated[queue])
        return min(limit, least), min(limit, sum(each.values()))

    def check_rooms(self, taken: Collection[int]) -> None:
        """Check that workflows which were claimed were startable together."""
        for queue, limits in self.limits.items():
            lanes = self.lanes_of(queue, taken)
            assert sum(map(len, lanes.values())) <= self._startable(queue, taken), (queue, limits)

    def check_order(self, names: Collection[str], queues: Collection[str], taken: Collection[int]) -> None:
        """Check that of each lane, and of the queues without limits, the first workflows were claimed."""
        ready = self.claimable(names, queues)
        plain = [each for each in ready if (self.workflows[each].queue or "") not in self.limits]
        groups = [plain]
        for queue, limits in self.limits.items():
            if limits.burst is None:
                groups += self.lanes_of(queue, ready).values()
        for group in groups:
            own = [each for each in group if each in taken]
            assert own == group[: len(own)], (own, group)

    def spend(self, taken: Collection[int]) -> None:
        """Count the first starts of workflows for the rates of their queues."""
        for queue, limits in self.limits.items():
            starts = sum(
                self.workflows[each].queue == queue and not self.workflows[each].started for each in taken
            )
            if limits.burst is not None and starts:
                self.free[queue] = max(self.now, self.free.get(queue, self.now)) + starts

    def listed(self) -> dict[str, Listed]:
        """Return the list of the queues."""
        ready = [number for number, each in enumerate(self.workflows) if each.ready]
        held = [number for number, each in enumerate(self.workflows) if each.executor is not None]
        found: dict[str, Listed] = {}
        for queue in {*self.limits, *(self.workflows[each].queue for each in (*ready, *held))} - {None}:
            assert queue is not None
            own = sum(map(len, self.lanes_of(queue, ready).values()))
            limits = self.limits.get(queue, Limits())
            found[queue] = Listed(
                (limits.concurrency, limits.partition_concurrency, limits.burst, limits.paused),
                own,
                self._running(queue).total(),
                own - self._startable(queue, ready, rated=False),
            )
        return found

    # Schedules

    def schedule(self, name: str, new: Schedule, *, is_new_rule: bool) -> None:
        """Make or change a schedule; it keeps its state, and its next time unless the rule is another one."""
        old = self.schedules.get(name)
        if old is not None:
            new.paused = old.paused
            new.queued = old.queued if new.overlap == "queue" else None
            new.next = new.next if is_new_rule else old.next
        self.schedules[name] = new

    def resume_schedule(self, name: str) -> None:
        """End the pause of a schedule; what passed meanwhile is dropped."""
        own = self.schedules[name]
        if own.paused:
            own.paused, own.next = False, max(own.next, self.now + 1)

    def start_of(self, name: str) -> int:
        """Start a workflow of a schedule."""
        own = self.schedules[name]
        self.workflows.append(Workflow(own.workflow, 0, own.queue, ready=True, schedule=name))
        return len(self.workflows) - 1

    def live_of(self, name: str) -> list[Workflow]:
        """Return the live workflows of a schedule."""
        return [each for each in self.workflows if each.schedule == name and each.lives]

    def due(self, names: Collection[str], queues: Collection[str]) -> list[str]:
        """Return the names of the schedules that a worker of these names and queues starts."""
        return [
            name
            for name, each in sorted(self.schedules.items())
            if not each.paused and each.workflow in names and each.queue in queues
            if each.next <= self.now or (each.queued is not None and not self.live_of(name))
        ]

    def next_times(self, names: Collection[str], queues: Collection[str]) -> list[int]:
        """Return the units until the schedules of these names and queues, unless one is due."""
        own = [each for each in self.schedules.values() if each.workflow in names and each.queue in queues]
        return [] if self.due(names, queues) else [each.next - self.now for each in own if not each.paused]

    def fire(self, names: Sequence[str], queues: Sequence[str]) -> tuple[int, int]:
        """Start the workflows of the schedules that are due; return the numbers of schedules and workflows."""
        due, started = self.due(names, queues), 0
        held_back = {
            name for name in due if self.schedules[name].overlap in {"skip", "queue"} and self.live_of(name)
        }
        for name in due:
            started += self._fire(name, self.schedules[name], is_held_back=name in held_back)
        return len(due), started

    def _fire(self, name: str, own: Schedule, *, is_held_back: bool) -> int:
        times = list(range(own.next, self.now + 1))
        times = times if own.catchup == "all" else times[-1:]
        own.next = max(own.next, self.now + 1)
        second = None
        if own.queued is not None:
            times, second = [own.queued], times[-1] if times else None
        if own.overlap == "cancel":
            for each in self.live_of(name):
                self._cancel_live(each)
        if own.overlap == "queue":
            own.queued = times[-1] if is_held_back else second
        if is_held_back:
            return 0
        for _ in times:
            self.start_of(name)
        return len(times)

    @staticmethod
    def _cancel_live(workflow: Workflow) -> None:
        if workflow.status == "RUNNING":
            if not workflow.unwinds:
                workflow.cancel = bool(workflow.cancel)
        elif workflow.saga is None:
            workflow.over("CANCELLED")
        elif not workflow.unwinds:
            workflow.hand_over("CANCELLED")
