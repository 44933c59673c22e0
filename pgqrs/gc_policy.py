"""Tunes Python's garbage collector while this process runs workflows.

A full collection visits every container of the process and blocks the event loops meanwhile: a quarter of a second
with 10,000 workflows at once. Python begins a full collection whenever the long-lived objects have grown by a
quarter, and a young collection at every 700 more objects (2,000 since 3.13). Both are frequent in a process with
many waiting workflows, and useless: reference counts free the runs. So this module raises the young threshold, and
delays full collections at first, and for a while after a long full collection.

A collector that the application has configured itself stays unchanged.
"""

from __future__ import annotations

import gc
import threading
from time import monotonic
from typing import Final

SHARE = 0.002
"""Fraction of the time that full collections may take."""

MAX_PAUSE = 120.0
"""Maximum seconds for which a full collection delays the next full collection, however long it took."""

AT_FIRST = 120.0
"""Seconds that full collections are delayed after a user begins, which may start many workflows at once."""

NOTICEABLE = 0.02
"""Seconds of a full collection that are too short to delay the next full collection."""

YOUNG_THRESHOLD = 20_000
"""Objects: the first of the collector's three thresholds while the collector is tuned."""

HELD = 2**30
"""Collections: the third of the collector's three thresholds while full collections are delayed."""

_DEFAULT_YOUNG: Final = frozenset({700, 2000})
_DEFAULT_SECOND: Final = 10
_DEFAULT_THIRD: Final = frozenset({10, 5, 0})
_OLDEST: Final = 2

_GUARD: Final = threading.Lock()
"""Guards the collector's settings, which belong to the process: users in all threads take turns."""


def start() -> None:
    """Count one more user, and tune the collector unless the application has configured it."""
    with _GUARD:
        tuning = _tuning()
        if tuning is None:
            tuning = _Tuning()
            gc.callbacks.append(tuning)
        tuning.begin()


def stop() -> None:
    """Count one user less; the last user restores the previous thresholds of the collector."""
    with _GUARD:
        tuning = _tuning()
        if tuning is not None and tuning.end():
            gc.callbacks.remove(tuning)


def _tuning() -> _Tuning | None:
    """Return the tuning of this process, which is kept in the collector's own list of callbacks."""
    return next((each for each in gc.callbacks if isinstance(each, _Tuning)), None)


def _is_as_python_sets_it() -> bool:
    first, second, third = gc.get_threshold()
    return gc.isenabled() and first in _DEFAULT_YOUNG and second == _DEFAULT_SECOND and third in _DEFAULT_THIRD


class _Tuning:
    """The previous and the tuned thresholds; the collector calls this object at each collection."""

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
        """Count one user less; return True if it was the last user."""
        self._users -= 1
        if self._users == 0:
            self._change(self._relaxed, self._before)
            self._change(self._held, self._before)
        return self._users == 0

    def __call__(self, phase: str, collection: dict[str, int]) -> None:
        """Handle the begin or the end of a collection, in any thread and at any point of that thread's code."""
        is_full = collection["generation"] == _OLDEST
        if phase == "start":
            self._began = monotonic() if is_full else self._began
        # Not blocking: the collection may have begun in the middle of `begin` or `end`, which hold the guard.
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
        """Set the thresholds, unless the application has set them in the meantime."""
        if gc.get_threshold() == before:
            gc.set_threshold(*after)
