"""How long an operation goes on trying: time in which our own event loop stood still is not the server's."""

from __future__ import annotations

import asyncio
from time import monotonic
from weakref import ReferenceType, ref

from tenacity import RetryCallState
from tenacity.stop import stop_base

LOOP_CHECK_INTERVAL = 0.1
"""How often it is looked whether the event loop goes on, in seconds."""


class StopAfterLoopTime(stop_base):
    """Stops a retry after so many seconds; after the first failure, those of a blocked loop do not count.

    An attempt that a blocked loop lets run into its time limit tells nothing of the server.
    """

    def __init__(self, seconds: float, attempt: float) -> None:
        """Stop after `seconds`; the first attempt counts for `attempt` seconds at most, its time limit."""
        self._left = seconds
        self._attempt = attempt
        self._counted_until: float | None = None

    def __call__(self, retry_state: RetryCallState) -> bool:
        """Tell whether to stop, after an attempt that failed."""
        if self._counted_until is None:
            self._left -= min(retry_state.seconds_since_start or 0.0, self._attempt)
            self._counted_until = monotonic()
            _beat_later(ref(self))
        else:
            self.count()
        return self._left <= 0

    def count(self) -> bool:
        """Take in that the loop goes on, and tell whether something is left."""
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
