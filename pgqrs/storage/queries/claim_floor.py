"""Where a worker's looks at its queues begin, so that they do not walk through all that has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pgqrs.clock import MAX_SECONDS

MARGIN = 10_000
"""How far below the highest id that was claimed new workflows are looked for.

Each process takes its ids from blocks of its own, so what is enqueued now may have a lower id than what was
before.
"""

EVERY = 1.0
"""The time between two looks at everything, in seconds."""

SHARE = 50
"""The time between two looks at everything is at least so many times as long as one takes."""

LONGEST_WITHOUT = 5.0
"""The longest time between two looks at everything, in seconds, however long one takes."""

PAST = 60.0
"""How far back, in seconds, a bounded look goes for times that have passed since the last look at everything."""


class ClaimFloor:
    """The id below which, at the last look at everything, no workflow was ready for this worker.

    One that becomes ready below it later, because it was resumed or left by a dead executor, is found by a hint
    (`lower`) at once, and by the next look at everything without one. `time` is what is measured by.
    """

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self._of: object = None
        self._floor = 0
        self._top = 0
        self._looked_at: float | None = None
        self._next = 0.0
        self._hinted: int | None = None

    def of(self, asked: object) -> int:
        """Return the floor of a look for what is `asked`, 0 if the looks before were for something else."""
        if asked != self._of:
            self.forget()
            self._of = asked
        return self._floor

    def forget(self) -> None:
        """Begin anew, as after the loss of the connection: hints may have been missed, and ids drawn anew."""
        self._floor = self._top = 0
        self._looked_at = None

    @property
    def is_due(self) -> bool:
        """Whether it is time for a look at everything."""
        return self._looked_at is None or self._time() >= self._next

    @property
    def past(self) -> float:
        """How far back, in seconds, a look that is not at everything is to go for times that have passed."""
        return MAX_SECONDS if self._looked_at is None else min(MAX_SECONDS, PAST + self._time() - self._looked_at)

    def claimed(self, ids: Iterable[int]) -> None:
        """Take in the ids of what was claimed."""
        self._top = max(self._top, *ids, 0)

    def lower(self, first: int) -> None:
        """Take in that a workflow is ready whose id is `first`, or that no ready one is lower."""
        self._hinted = first if self._hinted is None else min(self._hinted, first)
        self._floor = max(0, min(self._floor, first - 1))

    def look(self) -> None:
        """Take in that a look at everything begins: what is hinted at from now on may be too late for it."""
        self._hinted = None

    def looked(self, lowest: int | None, took: float, *, again: bool) -> None:
        """Take in that a look at everything took so many seconds, and saw nothing ready below `lowest`.

        `again` tells that there was more to do than one look does: the next one is at everything too.
        """
        now = self._time()
        self._looked_at = now
        self._next = now if again else now + min(max(EVERY, SHARE * took), LONGEST_WITHOUT)
        highest = self._top - MARGIN
        self._floor = max(0, highest if lowest is None else min(highest, lowest - 1))
        if self._hinted is not None:
            self.lower(self._hinted)
