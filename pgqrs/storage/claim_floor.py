"""The lowest id at which a worker's searches begin, so that they pass over the entries of finished workflows.

A full search considers all ids and all times. A bounded search considers ids above the floor and recent times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pgqrs.clock import MAX_SECONDS

MARGIN = 10_000
"""Ids below the highest claimed id at which a search for new workflows begins.

Each process takes its ids from blocks of its own, so a workflow that is enqueued now may have a lower id than a
workflow that was enqueued before.
"""

EVERY = 1.0
"""Minimum seconds between two full searches."""

SHARE = 50
"""Minimum ratio of the time between two full searches to the time that a full search takes."""

LONGEST_WITHOUT = 5.0
"""Maximum seconds between two full searches, however long a full search takes."""

PAST = 60.0
"""Seconds before the last full search from which a bounded search considers times that have passed."""


class ClaimFloor:
    """The id below which the last full search found no workflow that was ready for this worker.

    A workflow below the floor may become ready later, because it was resumed or because its executor died. A hint
    (`lower`) makes searches find it at once; without a hint the next full search finds it. `time` returns the
    current time in seconds.
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
        """Return the floor of a search for `asked`, 0 if the searches before had another target."""
        if asked != self._of:
            self.forget()
            self._of = asked
        return self._floor

    def forget(self) -> None:
        """Drop the floor, as after a lost connection: hints may have been lost, and ids may be given again."""
        self._floor = self._top = 0
        self._looked_at = None

    @property
    def is_due(self) -> bool:
        """True if a full search is due."""
        return self._looked_at is None or self._time() >= self._next

    @property
    def past(self) -> float:
        """Seconds back from now from which a bounded search considers times that have passed."""
        return MAX_SECONDS if self._looked_at is None else min(MAX_SECONDS, PAST + self._time() - self._looked_at)

    def claimed(self, ids: Iterable[int]) -> None:
        """Note the ids of claimed workflows."""
        self._top = max(self._top, *ids, 0)

    def lower(self, first: int) -> None:
        """Lower the floor below `first`, the lowest id of workflows that have become ready."""
        self._hinted = first if self._hinted is None else min(self._hinted, first)
        self._floor = max(0, min(self._floor, first - 1))

    def look(self) -> None:
        """Note that a full search begins: it may miss a workflow that a hint names from now on."""
        self._hinted = None

    def looked(self, lowest: int | None, took: float, *, again: bool) -> None:
        """Note that a full search took `took` seconds and found no ready workflow below `lowest`.

        `again` says that one search could not handle all rows, so that the next search is full as well.
        """
        now = self._time()
        self._looked_at = now
        self._next = now if again else now + min(max(EVERY, SHARE * took), LONGEST_WITHOUT)
        highest = self._top - MARGIN
        self._floor = max(0, highest if lowest is None else min(highest, lowest - 1))
        if self._hinted is not None:
            self.lower(self._hinted)
