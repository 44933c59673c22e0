"""Repeats a background service: a round, a pause, the next round, and a retry after each error."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress
from typing import ClassVar

from pgqrs.codecs.failures import shown_error
from pgqrs.errors import PgqrsError

NEVER = float("inf")
"""Seconds that `run_once` returns where only `PeriodicService.wake` starts the next round."""

FIRST_DELAY = 0.1
"""Seconds between a failure and the retry; the delay doubles with each failure."""

MAX_DELAY = 2.0
"""Maximum seconds between two failing rounds."""

_logger = logging.getLogger("pgqrs.worker")


class PeriodicService:
    """Repeats `run_once` until `stop`, whatever errors it raises.

    A subclass implements `run_once`. A failure is logged once, however often it repeats, and the first success
    after it is logged too.
    """

    name: ClassVar[str]

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._stopping = asyncio.Event()
        self._failures = 0

    async def run_once(self) -> float:
        """Run one round, and return the seconds to pause, unless `wake` is called."""
        raise NotImplementedError

    def start(self) -> None:
        """Start the service, unless it runs already."""
        if self._task is None:
            self._stopping.clear()
            self._task = asyncio.get_running_loop().create_task(self._loop(), name=f"pgqrs-{self.name}")

    async def stop(self) -> None:
        """Wait for the round in progress, and start no other round."""
        self._stopping.set()
        self.wake()
        if self._task is not None:
            await asyncio.wait([self._task])
            self._task = None

    @property
    def is_failing(self) -> bool:
        """True if the last round has failed."""
        return self._failures > 0

    @property
    def has_died(self) -> bool:
        """True if the task of the service has ended, and no call of `stop` has asked for it."""
        return self._task is not None and self._task.done() and not self._stopping.is_set()

    def wake(self) -> None:
        """End the pause now; during a round, skip the next pause."""
        self._woken.set()

    async def pause_round(self, seconds: float) -> None:
        """Pause within a round; only `stop` ends the pause, and no call of `wake`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _loop(self) -> None:
        while not self._stopping.is_set():
            await self._rest(await self._attempt())

    async def _attempt(self) -> float:
        self._woken.clear()
        try:
            seconds = await self.run_once()
        except Exception as error:  # noqa: BLE001  # a service that ends silently is worse than any error
            # The caller of `wake` does not know of the failure: it must not cut the delay short.
            self._woken.clear()
            return self._failed(error)
        if self._failures:
            _logger.info(
                "pgqrs: %s works again after %d failures", self.name, self._failures, extra={"service": self.name}
            )
            self._failures = 0
        return seconds

    def _failed(self, error: Exception) -> float:
        if self._failures == 0:
            # The text of a pgqrs error explains it; the origin of any other error needs a traceback.
            unexpected = None if isinstance(error, PgqrsError) else error
            _logger.warning(
                "pgqrs: %s failed and will be retried: %s",
                self.name,
                shown_error(error),
                exc_info=unexpected,
                extra={"service": self.name},
            )
        self._failures += 1
        delay = min(FIRST_DELAY * 2.0 ** min(self._failures - 1, 10), MAX_DELAY)
        return delay * random.uniform(0.5, 1.0)  # noqa: S311  # so that workers do not retry in step

    async def _rest(self, seconds: float) -> None:
        if self._stopping.is_set() or self._woken.is_set() or seconds <= 0:
            await asyncio.sleep(0)
        elif seconds == NEVER:
            await self._woken.wait()
        else:
            timer = asyncio.get_running_loop().call_later(seconds, self._woken.set)
            try:
                await self._woken.wait()
            finally:
                timer.cancel()
