"""The doorbell: it tells workers that there is something to claim, so that they need not poll for it at once.

It is a hint and no more: polling finds everything that it does not tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from pgqrs.errors import PgqrsError

QUIET = 0.2
"""How long a queue's bell is not rung again after it was, in seconds; each ring is a statement of its own."""

Listener = Callable[[str], object]


class Doorbell:
    """Rings for an event loop's own workers at once, and for all others a few times a second at most.

    `ring` is how to reach the others; what goes wrong with it is nobody's concern.
    """

    def __init__(self, ring: Callable[[str], Awaitable[None]]) -> None:
        self._ring = ring
        self._listeners: list[Listener] = []
        self._quiet: dict[str, asyncio.TimerHandle] = {}
        self._again: set[str] = set()
        self._ringing: set[asyncio.Task[None]] = set()

    def listen(self, listener: Listener) -> None:
        """Call `listener` with the queue whenever this bell is rung."""
        self._listeners.append(listener)

    def ignore(self, listener: Listener) -> None:
        """Call `listener` no more."""
        with suppress(ValueError):
            self._listeners.remove(listener)

    def ring(self, queue: str) -> None:
        """Tell that there is something to claim in `queue`."""
        for listener in tuple(self._listeners):
            listener(queue)
        if queue in self._quiet:
            self._again.add(queue)
        else:
            self._send(queue)

    async def close(self) -> None:
        """Ring what is still to be rung."""
        for timer in self._quiet.values():
            timer.cancel()
        self._quiet.clear()
        for queue in self._again:
            self._start(queue)
        self._again.clear()
        if self._ringing:
            await asyncio.wait(self._ringing)

    def _send(self, queue: str) -> None:
        self._quiet[queue] = asyncio.get_running_loop().call_later(QUIET, self._quieted, queue)
        self._start(queue)

    def _quieted(self, queue: str) -> None:
        del self._quiet[queue]
        if queue in self._again:
            self._again.discard(queue)
            self._send(queue)

    def _start(self, queue: str) -> None:
        task = asyncio.get_running_loop().create_task(self._rung(queue), name="pgqrs-doorbell")
        self._ringing.add(task)
        task.add_done_callback(self._ringing.discard)

    async def _rung(self, queue: str) -> None:
        with suppress(PgqrsError):
            await self._ring(queue)
