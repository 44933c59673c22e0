"""The liveness of a store: its heartbeat, the starts that need the heartbeat, and its end with the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable

from pgqrs import gc_policy as collector
from pgqrs.storage.heartbeat import Heartbeat, RunOwner


class RunStarts:
    """Counts the runs that are being started; they keep the heartbeat even if the store is closed meanwhile."""

    def __init__(self) -> None:
        self.ever = 0
        self._under_way = 0

    def __enter__(self) -> None:
        self.ever += 1
        self._under_way += 1

    def __exit__(self, *_error: object) -> None:
        self._under_way -= 1

    def since(self, ever: int) -> bool:
        """Return whether a start is under way, or has begun since `ever` was read."""
        return self._under_way > 0 or self.ever != ever


class StoreLiveness:
    """Keeps the executor of a store alive while the store has runs."""

    def __init__(self, heartbeat: Heartbeat, *, tunes_gc: bool) -> None:
        self.heartbeat = heartbeat
        self.is_beating = False
        self.starts = RunStarts()
        self.closing = asyncio.Lock()
        """Held by the caller that closes the store."""
        self._tunes_gc = tunes_gc
        self._until_loop_ends: AsyncGenerator[None, None] | None = None

    @property
    def is_inherited(self) -> bool:
        """True if the heartbeat and the connections belong to the process that forked this one."""
        return self.heartbeat.pid != os.getpid()

    async def start(self, owner: RunOwner) -> None:
        """Start the heartbeat of the running event loop, whose store is `owner`."""
        await self.heartbeat.join(owner)
        if not self.is_beating:  # another start may have come first
            self.is_beating = True
            if self._tunes_gc:
                collector.start()

    async def stop(self) -> None:
        """Stop the heartbeat of the running event loop, if it beats or a cancelled caller of `start` left it."""
        if self.is_beating:
            self.is_beating = False
            if self._tunes_gc:
                collector.stop()
        await self.heartbeat.leave()

    async def close_with_loop(self, close: Callable[[], Awaitable[None]]) -> None:
        """Call `close` when the event loop ends."""
        self._until_loop_ends = _closed_with_the_loop(close)
        await anext(self._until_loop_ends)


async def _closed_with_the_loop(close: Callable[[], Awaitable[None]]) -> AsyncGenerator[None, None]:
    # asyncio closes the generators that it has seen start, in `asyncio.run` and in a custom loop that calls
    # shutdown_asyncgens; there is no other hook at a loop's end.
    try:
        yield
    finally:
        try:
            await close()
        except (asyncio.CancelledError, GeneratorExit):
            # The end of the loop cancels every task once. Where `aclose` had not begun, Python 3.11 throws a
            # GeneratorExit in here as well. This is the last chance to close the store.
            await close()
            raise
