"""Full collections of Python's garbage collector, kept to a small share of the time."""

from __future__ import annotations

import gc
from time import monotonic
from typing import ClassVar

from pgqrs.runtime.duty import Duty

SHARE = 0.002
"""The share of the time that full collections may take."""

LONGEST = 120.0
"""The longest that they are held back, in seconds, whatever they take."""

AT_FIRST = 120.0
"""How long, in seconds, they are held back when a worker starts, and may take on much at once."""

NOTICEABLE = 0.02
"""How long, in seconds, a full collection takes that is too short to be held back."""

HELD = 2**30
"""The third of the collector's thresholds while full collections are held back."""

_LOOK_EVERY = 1.0


class Garbage(Duty):
    """Holds full collections back at first, and for a while after one that took long.

    A full collection visits every container of the process, and meanwhile the event loop stands still: a quarter
    of a second with 10,000 workflows at once. Python begins one whenever the long-lived objects have grown by a
    quarter, which is often in a process that waits for much, and for nothing: runs are freed by their reference
    counts. The younger generations are collected as ever. Of several workers in a process one holds back.
    """

    name: ClassVar[str] = "holding full collections back"

    def __init__(self) -> None:
        super().__init__()
        self._began = 0.0
        self._released_at: float | None = None
        self._third = 0

    def start(self) -> None:
        """Begin to hold back."""
        self._hold(AT_FIRST)
        gc.callbacks.append(self._note)
        super().start()

    async def stop(self) -> None:
        """Leave the collector as it was."""
        gc.callbacks.remove(self._note)
        await super().stop()
        self._release()

    async def turn(self) -> float:
        """Let full collections happen again, where it is time."""
        if self._released_at is not None and monotonic() >= self._released_at:
            self._release()
        return _LOOK_EVERY

    def _note(self, phase: str, collection: dict[str, int]) -> None:
        """Take in that a collection begins or ends; in whatever thread, at whatever point of its code."""
        if collection["generation"] < 2:  # noqa: PLR2004  # the oldest
            return
        if phase == "start":
            self._began = monotonic()
        elif (took := monotonic() - self._began) > NOTICEABLE:
            self._hold(min(took / SHARE, LONGEST))

    def _hold(self, seconds: float) -> None:
        first, second, third = gc.get_threshold()
        if third != HELD:
            self._third, self._released_at = third, monotonic() + seconds
            gc.set_threshold(first, second, HELD)

    def _release(self) -> None:
        first, second, third = gc.get_threshold()
        if self._released_at is not None and third == HELD:
            gc.set_threshold(first, second, self._third)
        self._released_at = None
