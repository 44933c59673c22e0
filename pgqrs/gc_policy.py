"""Python's garbage collector, tuned while this process carries workflows.

A full collection visits every container of the process, and meanwhile the event loops stand still: a quarter of
a second with 10,000 workflows at once. Python begins one whenever the long-lived objects have grown by a quarter,
and a young one at every 700 more objects (2,000 since 3.13), which is often in a process that waits for much, and
for nothing: runs are freed by their reference counts. So the young threshold is raised, and full collections are
held back at first, and for a while after one that took long.

A collector that the application has set itself is left alone.
"""

from __future__ import annotations

import gc
import threading
from time import monotonic
from typing import Final

SHARE = 0.002
"""The share of the time that full collections may take."""

MAX_PAUSE = 120.0
"""The longest that they are held back, in seconds, whatever they take."""

AT_FIRST = 120.0
"""How long, in seconds, they are held back when a user begins, and may take on much at once."""

NOTICEABLE = 0.02
"""How long, in seconds, a full collection takes that is too short to be held back."""

YOUNG_THRESHOLD = 20_000
"""The first of the collector's thresholds while it is tuned."""

HELD = 2**30
"""The third of the collector's thresholds while full collections are held back."""

_DEFAULT_YOUNG: Final = frozenset({700, 2000})
_DEFAULT_SECOND: Final = 10
_DEFAULT_THIRD: Final = frozenset({10, 5, 0})
_OLDEST: Final = 2

_GUARD: Final = threading.Lock()
"""The collector is the process's, so its users in all threads take turns."""


def start() -> None:
    """Count one more user, and tune the collector unless the application has set it."""
    with _GUARD:
        tuning = _tuning()
        if tuning is None:
            tuning = _Tuning()
            gc.callbacks.append(tuning)
        tuning.begin()


def stop() -> None:
    """Count one user less; with the last one the collector is what it was."""
    with _GUARD:
        tuning = _tuning()
        if tuning is not None and tuning.end():
            gc.callbacks.remove(tuning)


def _tuning() -> _Tuning | None:
    """Return the process's tuning: the collector's own callbacks are where it is kept."""
    return next((each for each in gc.callbacks if isinstance(each, _Tuning)), None)


def _is_as_python_sets_it() -> bool:
    first, second, third = gc.get_threshold()
    return gc.isenabled() and first in _DEFAULT_YOUNG and second == _DEFAULT_SECOND and third in _DEFAULT_THIRD


class _Tuning:
    """The thresholds as they were, and as they are set; the collector calls it at each collection."""

    def __init__(self) -> None:
        self._users = 0
        self._began = 0.0
        self._relaxes_at = 0.0
        self._before = self._relaxed = self._held = gc.get_threshold()

    def begin(self) -> None:
        self._users += 1
        if _is_as_python_sets_it():
            self._before = _, second, third = gc.get_threshold()
            self._relaxed, self._held = (YOUNG_THRESHOLD, second, third), (YOUNG_THRESHOLD, second, HELD)
            gc.set_threshold(*self._relaxed)
        self._hold(AT_FIRST)

    def end(self) -> bool:
        """Return whether it was the last user."""
        self._users -= 1
        if self._users == 0:
            self._change(self._relaxed, self._before)
            self._change(self._held, self._before)
        return self._users == 0

    def __call__(self, phase: str, collection: dict[str, int]) -> None:
        """Take in that a collection begins or ends; in whatever thread, at whatever point of its code."""
        is_full = collection["generation"] == _OLDEST
        if phase == "start":
            self._began = monotonic() if is_full else self._began
        # The collection may have begun in the middle of `begin` or `end`.
        elif _GUARD.acquire(blocking=False):
            try:
                self._ended(is_full=is_full)
            finally:
                _GUARD.release()

    def _ended(self, *, is_full: bool) -> None:
        now = monotonic()
        if self._users == 0:
            return
        if is_full and (took := now - self._began) > NOTICEABLE:
            self._hold(min(took / SHARE, MAX_PAUSE))
        elif now >= self._relaxes_at:
            self._change(self._held, self._relaxed)

    def _hold(self, seconds: float) -> None:
        self._relaxes_at = monotonic() + seconds
        self._change(self._relaxed, self._held)

    @staticmethod
    def _change(before: tuple[int, int, int], after: tuple[int, int, int]) -> None:
        """Set the thresholds, unless the application has set them meanwhile."""
        if gc.get_threshold() == before:
            gc.set_threshold(*after)
