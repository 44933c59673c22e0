"""The loop that every background duty is: a turn, a rest, the next turn, and no error that ends it."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import ClassVar

from pgqrs.codecs.failures import shown_error
from pgqrs.errors import PgqrsError

NEVER = float("inf")
"""What a turn answers when only `Duty.wake` brings the next one."""

FIRST_DELAY = 0.1
"""How long after a failure the next turn is, in seconds; it doubles from failure to failure."""

MAX_DELAY = 2.0
"""The longest time between two turns that fail, in seconds."""

_logger = logging.getLogger("pgqrs")


class PeriodicService:
    """Something done again and again until `stop`, whatever goes wrong in between.

    A subclass says in `turn` what is done, and how long to rest afterwards. A failure is logged once, however
    often it repeats, and the first turn after it that succeeds is logged too.
    """

    name: ClassVar[str]

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._stopping = False
        self._failures = 0

    async def run_once(self) -> float:
        """Do the duty once, and return for how many seconds to rest unless `wake` is called."""
        raise NotImplementedError

    def start(self) -> None:
        """Begin; a duty that has begun goes on."""
        if self._task is None:
            self._stopping = False
            self._task = asyncio.get_running_loop().create_task(self._loop(), name=f"pgqrs-{self.name}")

    async def stop(self) -> None:
        """Let the turn in progress end, and begin no other."""
        self._stopping = True
        self.wake()
        if self._task is not None:
            await asyncio.wait([self._task])
            self._task = None

    def wake(self) -> None:
        """Cut the rest short; in a turn, go without the next rest."""
        self._woken.set()

    async def _loop(self) -> None:
        while not self._stopping:
            await self._rest(await self._attempt())

    async def _attempt(self) -> float:
        self._woken.clear()
        try:
            seconds = await self.run_once()
        except Exception as error:  # noqa: BLE001  # a duty that ends in silence is worse than any error
            # Whoever wakes a duty knows nothing of its failures.
            self._woken.clear()
            return self._failed(error)
        if self._failures:
            _logger.info("pgqrs: %s goes on after %d failures", self.name, self._failures)
            self._failures = 0
        return seconds

    def _failed(self, error: Exception) -> float:
        if self._failures == 0:
            # Of the database's errors the text tells all; of any other nobody knows where it comes from.
            unexpected = None if isinstance(error, PgqrsError) else error
            _logger.warning(
                "pgqrs: %s failed and is tried again: %s", self.name, shown_error(error), exc_info=unexpected
            )
        self._failures += 1
        delay = min(FIRST_DELAY * 2.0 ** min(self._failures - 1, 10), MAX_DELAY)
        return delay * random.uniform(0.5, 1.0)  # noqa: S311  # so that workers do not come back in step

    async def _rest(self, seconds: float) -> None:
        if self._stopping or self._woken.is_set() or seconds <= 0:
            await asyncio.sleep(0)
        elif seconds == NEVER:
            await self._woken.wait()
        else:
            timer = asyncio.get_running_loop().call_later(seconds, self._woken.set)
            try:
                await self._woken.wait()
            finally:
                timer.cancel()
