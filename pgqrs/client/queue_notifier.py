"""Notifies workers of new workflows in a queue, so that idle workers claim them before their next poll.

A notification is a hint: polling finds every workflow without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from pgqrs.errors import PgqrsError

MIN_INTERVAL = 0.005
"""Seconds between two notifications of one queue, at least; each notification is one statement."""

MAX_INTERVAL = 0.01
"""Seconds between two notifications of one queue during a burst."""

Listener = Callable[[str, int], object]


class QueueNotifier:
    """Notifies the workers of its own event loop at once, and all other workers at most 100 times a second.

    `send` notifies the other workers. It takes a queue and the lowest id of the new workflows in the queue. The
    notifier ignores the errors of `send`.
    """

    def __init__(self, send: Callable[[str, int], Awaitable[None]]) -> None:
        self._send = send
        self._listeners: list[Listener] = []
        self._due: dict[str, int] = {}
        self._senders: dict[str, asyncio.Task[None]] = {}
        self._closing = asyncio.Event()

    def listen(self, listener: Listener) -> None:
        """Call `listener` with the queue and the workflow's id at every notification."""
        self._listeners.append(listener)

    def unlisten(self, listener: Listener) -> None:
        """Remove `listener`."""
        with suppress(ValueError):
            self._listeners.remove(listener)

    def notify(self, queue: str, workflow_id: int) -> None:
        """Notify the workers of a new workflow in `queue`; for several workflows pass the lowest id."""
        for listener in tuple(self._listeners):
            listener(queue, workflow_id)
        self._due[queue] = min(workflow_id, self._due.get(queue, workflow_id))
        if queue not in self._senders:
            sender = self._keep_sending(queue)
            self._senders[queue] = asyncio.get_running_loop().create_task(sender, name="pgqrs-notifier")

    async def close(self) -> None:
        """Send the pending notifications."""
        self._closing.set()
        if self._senders:
            await asyncio.wait([*self._senders.values()])
        self._closing.clear()

    async def _keep_sending(self, queue: str) -> None:
        """Notify the workers of one queue, and pause after each notification, until a pause passes quietly."""
        quiet = MIN_INTERVAL
        try:
            while (first := self._due.pop(queue, None)) is not None:
                with suppress(PgqrsError):
                    await self._send(queue, first)
                await self._rest(quiet)
                quiet = min(2 * quiet, MAX_INTERVAL)
        finally:
            del self._senders[queue]

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()
