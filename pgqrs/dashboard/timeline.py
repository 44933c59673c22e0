"""The timeline of a workflow: the bars of its steps, on an axis in which long waits are folded."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime
from itertools import accumulate, pairwise
from typing import NamedTuple

from pgqrs.dashboard.values import length
from pgqrs.types import StepRecord

WIDTH = 1000
"""The width of the axis."""

MIN_BAR = 3
"""The least width of a bar."""

MIN_FOLD = 1.0
"""Seconds, the least length of a wait that is folded."""

FOLDED_FROM = 0.25
"""The share of the time of execution from which on a wait is folded."""

FOLDED_TO = 0.08
"""The share of the time of execution that a folded wait takes on the axis."""

_WAITS = re.compile(r"(?:.*/)?(?:sleep|receive|wait_event|wait_for|select|result|gather)(?:[:/]|$)")


class Bar(NamedTuple):
    """The bar of a step: its place on the axis, and its words."""

    x: float
    width: float
    is_wait: bool
    title: str


class Fold(NamedTuple):
    """A folded wait: its place on the axis, and its length."""

    x: float
    width: float
    length: str


class Timeline(NamedTuple):
    """The bars of the steps, in their order, and the waits that are folded."""

    bars: Sequence[Bar]
    folds: Sequence[Fold]
    length: str


def timeline(steps: Sequence[StepRecord], began: datetime, now: datetime) -> Timeline:
    """Return the timeline of the steps of a workflow that began at a time; open steps last until now."""
    spans = [(each.started_at, _end(each, now), is_wait(each)) for each in steps]
    points = sorted({began, *(at for span in spans for at in span[:2])})
    gaps = [(end - start).total_seconds() for start, end in pairwise(points)]
    executed = [any(start <= at < end and not waits for start, end, waits in spans) for at in points[:-1]]
    active = sum(gap for gap, is_executed in zip(gaps, executed, strict=True) if is_executed)
    is_folded = [
        not own and active > 0 and gap >= max(MIN_FOLD, FOLDED_FROM * active)
        for gap, own in zip(gaps, executed, strict=True)
    ]
    widths = [FOLDED_TO * active if own else gap for gap, own in zip(gaps, is_folded, strict=True)]
    total = sum(widths) or 1.0
    places = [WIDTH * each / total for each in accumulate(widths, initial=0.0)]

    def place(at: datetime) -> float:
        return places[max(0, bisect_right(points, at) - 1)]

    bars = [_bar(place(start), place(end), (end - start).total_seconds(), waits) for start, end, waits in spans]
    folds = [
        Fold(round(first, 2), round(last - first, 2), length(gap))
        for (first, last), gap, own in zip(pairwise(places), gaps, is_folded, strict=True)
        if own
    ]
    return Timeline(bars, folds, length(sum(gaps)))


def is_wait(step: StepRecord) -> bool:
    """Return whether a step waits, by its id."""
    return _WAITS.match(step.step_id) is not None


def _end(step: StepRecord, now: datetime) -> datetime:
    return max(step.started_at, step.completed_at or now)


def _bar(first: float, last: float, seconds: float, waits: bool) -> Bar:
    x = min(first, WIDTH - MIN_BAR)
    return Bar(round(x, 2), round(max(MIN_BAR, last - first), 2), waits, length(seconds))
