"""Stop condition of retries, which does not count the time in which this event loop was blocked."""

from __future__ import annotations

import asyncio
from time import monotonic
from weakref import ReferenceType, ref

from tenacity import RetryCallState
from tenacity.stop import stop_base

LOOP_CHECK_INTERVAL = 0.1
"""Seconds between two checks that the event loop runs."""


class StopAfterLoopTime(stop_base):
    """Stops a retry after a number of seconds; after the first failure, a blocked loop's time does not count.

    An attempt that exceeds its time limit because the loop is blocked says nothing about the server.
    """

    def __init__(self, seconds: float, attempt: float) -> None:
        """Stop after `seconds`; the first attempt counts for at most `attempt` seconds, its time limit."""
        self._left = seconds
        self._attempt = attempt
        self._counted_until: float | None = None

    def __call__(self, retry_state: RetryCallState) -> bool:
        """Return whether to stop after a failed attempt."""
        if self._counted_until is None:
            self._left -= min(retry_state.seconds_since_start or 0.0, self._attempt)
            self._counted_until = monotonic()
            _beat_later(ref(self))
        else:
            self.count()
        return self._left <= 0

    def count(self) -> bool:
        """Count the time since the last call, up to one interval, and return whether time is left."""
        now = monotonic()
        since = now if self._counted_until is None else self._counted_until
        self._left -= min(now - since, LOOP_CHECK_INTERVAL)
        self._counted_until = now
        return self._left > 0


def _beat_later(patience: ReferenceType[StopAfterLoopTime]) -> None:
    asyncio.get_running_loop().call_later(LOOP_CHECK_INTERVAL, _beat, patience)


def _beat(patience: ReferenceType[StopAfterLoopTime]) -> None:
    alive = patience()
    if alive is not None and alive.count():
        _beat_later(patience)
