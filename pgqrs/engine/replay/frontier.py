"""The frontier of a run: the place in the code up to which earlier runs of the workflow have recorded steps."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable
from datetime import datetime
from itertools import accumulate

from pgqrs.storage.records import SAGA, StepTimes


class Frontier:
    """The recorded steps of earlier runs, and the calls of this run that they have answered so far.

    Args:
        recorded: The ids of the steps that have an outcome, or failed attempts and no outcome yet.

    Attributes:
        unasked: The recorded steps that this run has not asked for.
        asked: The recorded steps that this run has asked for.
        asked_by_body: Those among them that the task of the body has asked for.
    """

    __slots__ = ("asked", "asked_by_body", "unasked")

    def __init__(self, recorded: Iterable[str]) -> None:
        self.unasked = set(recorded)
        self.asked: set[str] = set()
        self.asked_by_body: set[str] = set()

    def ask(self, step_id: str, *, by_body: bool) -> None:
        """Note a call of a step, which counts if the step is recorded and was not asked for before."""
        if step_id in self.unasked:
            self.unasked.remove(step_id)
            self.asked.add(step_id)
            if by_body:
                self.asked_by_body.add(step_id)


NOTHING_RECORDED = Frontier(())
"""The frontier of all first runs, which never changes: three new sets take a twentieth of a run without steps."""


class Spans:
    """The times in which some steps executed: from their starts to their ends, which may overlap."""

    def __init__(self, spans: Iterable[tuple[datetime, datetime]]) -> None:
        ordered = sorted(spans)
        self._starts = [start for start, _ in ordered]
        # The latest end of a span and all spans that began before it: one search by the start answers `cover`.
        self._ends = list(accumulate((end for _, end in ordered), max))

    def cover(self, start: datetime, end: datetime) -> bool:
        """Return whether one of the spans contains the time from `start` to `end`."""
        before = bisect_right(self._starts, start)
        return before > 0 and end <= self._ends[before - 1]


class Reached:
    """What the task of the body has passed: the times of the steps that the run had asked for at a moment.

    A recorded step that the run did not ask for is behind this place if the same run has recorded it before a
    step that the body has asked for: it is nested in such a step, or the code has it no longer. A step of a later
    run says nothing, because newer code may have added it. A recorded step is also behind this place if it was
    recorded while a step executed that another task has asked for, as one that is nested in a gathered step.

    Args:
        times: The times of the recorded steps of the workflow.
        asked: The steps that the run had asked for.
        by_body: Those among them that the task of the body had asked for.
    """

    def __init__(self, times: Iterable[StepTimes], asked: Collection[str], by_body: Collection[str]) -> None:
        self._times = {each.step_id: each for each in times}
        spans: list[tuple[datetime, datetime]] = []
        self._last: dict[int, datetime] = {}
        """The time of the last step that the body had asked for, by the epoch of the run that has recorded it."""
        for each in asked:
            step = self._times.get(each)
            # A resume of the workflow renews the times of its sagas, which then say nothing.
            if step is not None and step.completed_at is not None and not each.startswith(SAGA):
                spans.append((step.started_at, step.completed_at))
                if each in by_body:
                    latest = self._last.get(step.epoch, step.completed_at)
                    self._last[step.epoch] = max(latest, step.completed_at)
        self._spans = Spans(spans)

    def is_behind(self, step_id: str) -> bool:
        """Return whether a recorded step was recorded before the body came to this place."""
        step = self._times.get(step_id)
        if step is None:
            return False
        recorded = step.completed_at or step.started_at
        latest = self._last.get(step.epoch)
        if latest is not None and recorded <= latest:
            return True
        return self._spans.cover(step.started_at, recorded)
