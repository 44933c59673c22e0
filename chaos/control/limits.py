"""The comparison of the slots with the limits of their queues, and with the executions.

A run holds a slot from its claim until the statement that ends, parks, releases or recovers it: the time in which
its writes are valid. A process that is stopped so long that its runs are recovered elsewhere goes on with them
when it wakes, until it hears of it. These executions have no slot, and nothing that they write is recorded; each
other execution must be within the slot of its run.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from chaos.control.queues import Change, in_force
from chaos.control.slots import Taken
from chaos.tables import Entered
from pgqrs import Rate

TOLERANCE = 0.05
"""Seconds between the clock of an execution, or of a claim, and that of its commit."""


@dataclass(frozen=True)
class Slots:
    """All slots in the order in which they were taken, and the changes of the limits of each queue."""

    taken: Sequence[Taken]
    changes: Mapping[str, Sequence[Change]]
    exclusive: Collection[str]

    @classmethod
    def of(
        cls, taken: Iterable[Taken], changes: Mapping[str, Sequence[Change]], exclusive: Collection[str]
    ) -> Slots:
        """Return the slots of the rows; `exclusive` has the names of exclusive queues."""
        return cls(sorted(taken, key=lambda each: each.taken_at), changes, exclusive)

    @property
    def most(self) -> dict[str, int]:
        """The maximum number of slots in use at once, of each queue with limits."""
        return {queue: max(_in_use(self._of(queue)), default=0) for queue in self.changes}

    def violations(self, entries: Iterable[Entered]) -> Iterator[str]:
        """Yield each violation, as a sentence."""
        for queue, changes in self.changes.items():
            own = self._of(queue)
            holds = queue in self.exclusive
            yield from _too_many(f"queue {queue!r}", own, changes, "concurrency", holds=holds)
            yield from _too_early(f"queue {queue!r}", own, changes, "rate")
            for key, of_key in _by_key(own).items():
                about = f"key {key!r} of queue {queue!r}"
                yield from _too_many(about, of_key, changes, "partition_concurrency", holds=holds)
                yield from _too_early(about, of_key, changes, "partition_rate")
                if holds:
                    yield from _interrupted(about, of_key)
            yield from _in_a_pause(queue, own, changes)
        yield from _outside(self.taken, entries)

    def _of(self, queue: str) -> list[Taken]:
        return [each for each in self.taken if each.queue == queue]


def _by_key(taken: Iterable[Taken]) -> dict[str, list[Taken]]:
    found: dict[str, list[Taken]] = defaultdict(list)
    for each in taken:
        if each.key is not None:
            found[each.key].append(each)
    return found


def _in_use(taken: Sequence[Taken]) -> list[int]:
    """Return the number of slots in use when each slot had been taken."""
    left = sorted(each.left_at for each in taken if each.left_at is not None)
    return [number - bisect_right(left, each.taken_at) for number, each in enumerate(taken, 1)]


def _too_many(
    about: str, taken: Sequence[Taken], changes: Sequence[Change], limit: str, *, holds: bool
) -> Iterator[str]:
    """Compare the slots in use after each claim with the limit that the claim may have seen.

    The slots may be more than a limit that was lowered, but then no claim takes another one. If the queue `holds`
    a slot for a workflow until its end, a later claim of that workflow takes none.
    """
    for each, in_use in zip(taken, _in_use(taken), strict=True):
        if holds and not each.is_start:
            continue
        in_force_then = in_force(changes, each.asked_at, each.taken_at)
        limits: list[int | None] = [own.arguments.get(limit) for own in in_force_then]
        most = max((own for own in limits if own is not None), default=0)
        if None not in limits and in_use > most:
            yield f"{about} had {in_use} runs when workflow {each.workflow_id} was claimed, and {limit} {most}."


def _too_early(about: str, taken: Sequence[Taken], changes: Sequence[Change], name: str) -> Iterator[str]:
    """Check that each span of time in which a rate was in force has no more starts than the rate and the burst."""
    starts = sorted((each for each in taken if each.is_start), key=lambda each: each.asked_at)
    for number, change in enumerate(changes):
        rate: Rate | None = change.limits.arguments.get(name)
        until = changes[number + 1].began if number + 1 < len(changes) else float("inf")
        if rate is not None:
            within = [each for each in starts if change.done <= each.asked_at and each.taken_at <= until]
            yield from _faster(about, within, rate)


def _faster(about: str, starts: Sequence[Taken], rate: Rate) -> Iterator[str]:
    pace = rate.limit / rate.per
    level, before = 0.0, 0.0
    for each in starts:
        level = max(0.0, level - (each.asked_at - before) * pace) + 1
        before = each.asked_at
        if level > rate.burst + TOLERANCE * pace:
            ahead = level - rate.burst
            yield f"{about} has started workflow {each.workflow_id} {ahead:.2f} starts ahead of {rate}."


def _interrupted(about: str, taken: Sequence[Taken]) -> Iterator[str]:
    """Check that no other workflow has a slot between the first and the last slot of a workflow."""
    last = {each.workflow_id: number for number, each in enumerate(taken)}
    first = {each.workflow_id: len(taken) - number for number, each in enumerate(reversed(taken), 1)}
    for number, each in enumerate(taken):
        if number and first[each.workflow_id] == number and last[taken[number - 1].workflow_id] > number:
            yield f"{about} has started workflow {each.workflow_id} before the end of the one before."


def _in_a_pause(queue: str, taken: Sequence[Taken], changes: Sequence[Change]) -> Iterator[str]:
    for each in taken:
        if all(own.is_paused for own in in_force(changes, each.asked_at, each.taken_at)):
            yield f"queue {queue!r} was paused, and workflow {each.workflow_id} was claimed from it."


def _outside(taken: Sequence[Taken], entries: Iterable[Entered]) -> Iterator[str]:
    """Check that each execution was within the slot of its run, unless the slot was taken from its process."""
    slots = {(each.workflow_id, each.epoch): each for each in taken}
    for entry in entries:
        about = f"step {entry.step_id!r} of workflow {entry.workflow_id} was executed by epoch {entry.epoch}"
        slot = slots.get((entry.workflow_id, entry.epoch))
        if slot is None:
            yield f"{about}, which no claim has begun."
        elif entry.began_at < slot.taken_at - TOLERANCE:
            yield f"{about} before its claim."
        elif slot.left_at is not None and not slot.is_lost and entry.entered_at > slot.left_at:
            late = entry.entered_at - slot.left_at
            yield f"{about} and ended {late:.3f} s after the run had left its slot."
