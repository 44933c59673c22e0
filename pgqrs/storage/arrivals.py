"""Tells the waits of an event loop that a message has arrived; one statement serves all of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from typing import TypeAlias

MIN_POLL_INTERVAL = 0.05
"""Seconds between the begin of a wait and the first search for its message."""

MAX_POLL_INTERVAL = 1.0
"""Maximum seconds between two searches; a notification starts a search at once."""

BACKOFF = 1.5
"""Factor between the pauses before two searches."""

_logger = logging.getLogger("pgqrs.storage")

Unread: TypeAlias = Callable[[Sequence[str]], Awaitable[Collection[str]]]
"""A function that returns the addresses, among the given, that have a message which was not received."""


class Arrivals:
    """The waits for messages of the live runs of an event loop.

    `unread` is called soon after a wait begins, and less often later. A search that fails is repeated.
    """

    def __init__(self, unread: Unread) -> None:
        self._unread = unread
        self._waiting: dict[str, set[Callable[[], None]]] = {}
        self._listeners: list[Callable[[], object]] = []
        self._on_sent: list[Callable[[], object]] = []
        self._on_ready: list[Callable[[str, int], object]] = []
        self._on_reply: list[Callable[[int], object]] = []
        self._woken = asyncio.Event()
        self._pause = MIN_POLL_INTERVAL
        self._task: asyncio.Task[None] | None = None
        self._has_failed = False

    def listen(self, listener: Callable[[], object]) -> None:
        """Call `listener` whenever this event loop has sent a message, or a run has parked to wait for one."""
        self._listeners.append(listener)

    def on_sent(self, listener: Callable[[], object]) -> None:
        """Call `listener` whenever this event loop has sent a message, for the life of this object."""
        self._on_sent.append(listener)

    def unlisten(self, listener: Callable[[], object]) -> None:
        """Remove `listener`."""
        with suppress(ValueError):
            self._listeners.remove(listener)

    def on_ready(self, listener: Callable[[str, int], object]) -> None:
        """Call `listener` with a queue and the lowest id whenever a run has started children that are ready."""
        self._on_ready.append(listener)

    def ready(self, queue: str, first: int) -> None:
        """Note that a run has started children that are ready in a queue, with ids from `first` on."""
        for listener in self._on_ready:
            listener(queue, first)

    def on_reply(self, listener: Callable[[int], object]) -> None:
        """Call `listener` with the id of a workflow whenever its run has replied to a request."""
        self._on_reply.append(listener)

    def replied(self, workflow_id: int) -> None:
        """Note that a run of a workflow has replied to a request."""
        for listener in self._on_reply:
            listener(workflow_id)

    def sent(self) -> None:
        """Note that this event loop has sent a message or an event: call the listeners, and search at once."""
        for listener in self._on_sent:
            listener()
        self.parked()
        self.search()

    def sent_to(self, address: str) -> None:
        """Note that this event loop has sent a message: wake its waits for the address, or else do as `sent`.

        A run that is woken takes the message, or parks and so has it delivered.
        """
        waits = self._waiting.get(address)
        if not waits:
            self.sent()
            return
        for on_arrival in tuple(waits):
            on_arrival()

    def parked(self) -> None:
        """Note that a run has parked to wait for a message: call the listeners."""
        for listener in tuple(self._listeners):
            listener()

    def search(self) -> None:
        """Search at once."""
        self._pause = MIN_POLL_INTERVAL
        self._woken.set()

    async def has_unread(self) -> bool:
        """Return whether a message has arrived for one of the waits, which may not know it yet."""
        return bool(self._waiting) and bool(await self._unread(list(self._waiting)))

    def subscribe(self, addresses: Sequence[str], on_arrival: Callable[[], None]) -> Callable[[], object]:
        """Call `on_arrival` once one of the addresses has a message; return a function that ends the wait."""
        for address in addresses:
            self._waiting.setdefault(address, set()).add(on_arrival)
        self._pause = MIN_POLL_INTERVAL
        if self._task is None:
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._serve(), name="pgqrs-arrivals")

        def end() -> None:
            for address in addresses:
                waits = self._waiting.get(address, set())
                waits.discard(on_arrival)
                if not waits:
                    self._waiting.pop(address, None)
            if not self._waiting:
                self._woken.set()

        return end

    async def close(self) -> None:
        """Stop the searches; a later wait starts them again."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _serve(self) -> None:
        try:
            while self._waiting:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._pause):
                        await self._woken.wait()
                self._woken.clear()
                self._pause = min(BACKOFF * self._pause, MAX_POLL_INTERVAL)
                if self._waiting:
                    await self._search()
        finally:
            self._task = None

    async def _search(self) -> None:
        try:
            found = await self._unread(list(self._waiting))
        except Exception as error:  # noqa: BLE001  # the waits of all runs depend on the next search
            if not self._has_failed:
                _logger.warning("pgqrs: the search for messages failed and will be retried: %s", error)
            self._has_failed = True
            return
        self._has_failed = False
        for address in found:
            for on_arrival in tuple(self._waiting.get(address, ())):
                on_arrival()
