"""The doorbell: it tells workers that there is something to claim, so that they need not poll for it at once.

It is a hint and no more: polling finds everything that it does not tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from pgqrs.errors import PgqrsError

MIN_INTERVAL = 0.005
"""How long a queue's bell is not rung again after it was, in seconds; each ring is a statement of its own."""

MAX_INTERVAL = 0.01
"""How long it is not rung again, in seconds, while it is rung again and again."""

Listener = Callable[[str, int], object]


class QueueNotifier:
    """Rings for an event loop's own workers at once, and for all others a hundred times a second at most.

    `ring` is how to reach the others, with a queue and the lowest id that is new in it; an error of it is dropped.
    """

    def __init__(self, ring: Callable[[str, int], Awaitable[None]]) -> None:
        self._ring = ring
        self._listeners: list[Listener] = []
        self._due: dict[str, int] = {}
        self._ringing: dict[str, asyncio.Task[None]] = {}
        self._closing = asyncio.Event()

    def listen(self, listener: Listener) -> None:
        """Call `listener` with the queue and the workflow's id whenever this bell is rung."""
        self._listeners.append(listener)

    def unlisten(self, listener: Listener) -> None:
        """Call `listener` no more."""
        with suppress(ValueError):
            self._listeners.remove(listener)

    def notify(self, queue: str, workflow_id: int) -> None:
        """Tell that there is a workflow to claim in `queue`; of several the lowest id is enough."""
        for listener in tuple(self._listeners):
            listener(queue, workflow_id)
        self._due[queue] = min(workflow_id, self._due.get(queue, workflow_id))
        if queue not in self._ringing:
            ringing = self._keep_ringing(queue)
            self._ringing[queue] = asyncio.get_running_loop().create_task(ringing, name="pgqrs-doorbell")

    async def close(self) -> None:
        """Ring what is still to be rung."""
        self._closing.set()
        if self._ringing:
            await asyncio.wait([*self._ringing.values()])
        self._closing.clear()

    async def _keep_ringing(self, queue: str) -> None:
        """Ring one queue's bell, with a rest after each time, until no other ring has come in the rest."""
        quiet = MIN_INTERVAL
        try:
            while (first := self._due.pop(queue, None)) is not None:
                with suppress(PgqrsError):
                    await self._ring(queue, first)
                await self._rest(quiet)
                quiet = min(2 * quiet, MAX_INTERVAL)
        finally:
            del self._ringing[queue]

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()
