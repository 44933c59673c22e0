"""Claims workflows for the free slots of a worker, as soon as workflows are ready."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import ClassVar, Protocol

from pgqrs.storage.queue_claims import Outlook
from pgqrs.storage.records import ClaimedRun
from pgqrs.worker.service import NEVER, PeriodicService

MIN_POLL_INTERVAL = 0.02
"""Seconds between a claim that found workflows and the next claim."""

BACKOFF = 1.5
"""Factor between two successive pauses while claims find no workflow."""

MAX_POLL_INTERVAL = 2.0
"""Maximum seconds between two claims."""

MAX_CLAIM = 500
"""Maximum workflows of one claim."""

MIN_HINT_PAUSE = 0.02
"""Seconds for which hints are deferred after a claim that was caused by a hint and found no workflow."""

MAX_HINT_PAUSE = 0.05
"""Maximum seconds for which hints are deferred while one hint after another leads to no workflow."""


class Slots(Protocol):
    """The receiver of claimed runs."""

    @property
    def free(self) -> int:
        """Number of runs that can start now."""
        ...

    @property
    def room(self) -> int:
        """Bytes of input that can be held in addition; the last workflow may exceed them."""
        ...

    def run(self, claimed: ClaimedRun) -> None:
        """Start a claimed run."""
        ...


class Claimer(PeriodicService):
    """Claims workflows for the free slots, and never more workflows than there are free slots.

    It polls in growing intervals while no workflow is ready, or after the time that `outlook` returns. A hint
    (`nudge`) causes a claim at once, unless the hints before it led to no workflow: every role of a database can
    send hints. While more workflows may be ready than the slots can take, each slot that becomes free is filled at
    once.
    """

    name: ClassVar[str] = "claiming"

    def __init__(
        self,
        claim: Callable[[int, int], Awaitable[Sequence[ClaimedRun]]],
        slots: Slots,
        outlook: Callable[[], Outlook] = Outlook,
    ) -> None:
        super().__init__()
        self._claim = claim
        self._slots = slots
        self._outlook = outlook
        self._rest_when_idle = MIN_POLL_INTERVAL
        self.may_be_more = True
        """True if workflows may be ready that the slots could not take, or that no claim has looked for."""
        self._is_unanswered = False
        self._is_hinted = False
        self._pause = 0.0
        self._paused_until = 0.0
        self._pause_timer: asyncio.TimerHandle | None = None

    def nudge(self) -> None:
        """Request a claim soon, because a workflow may be ready."""
        self._is_hinted = True
        if not self._is_unanswered:
            self._follow_hint()

    def slot_freed(self, *, is_limited: bool = False) -> None:
        """Claim again if more workflows may be ready: a slot has become free.

        A slot of a queue with limits is free for a workflow that no earlier claim could take. No role of the
        database can pretend it, so it is no hint that is deferred.
        """
        if self.may_be_more or is_limited:
            self.wake()

    async def stop(self) -> None:
        """Wait for the claim in progress, and start no other claim."""
        await super().stop()
        if self._pause_timer is not None:
            self._pause_timer.cancel()

    async def run_once(self) -> float:
        """Claim once for the free slots."""
        limit, room = min(self._slots.free, MAX_CLAIM), self._slots.room
        if limit <= 0 or room <= 0:
            return NEVER
        is_hinted, self._is_hinted = self._is_hinted, False
        self.may_be_more, self._is_unanswered = False, True
        try:
            claimed = await self._claim(limit, room)
        except BaseException:
            self.may_be_more = True
            raise
        self._is_unanswered = False
        for each in claimed:
            self._slots.run(each)
        self._pause_hints(is_hinted=is_hinted, found=len(claimed))
        return self._rest_after(len(claimed), limit)

    async def take_unanswered(self) -> None:
        """Run the workflows of the last claim if its answer was lost; call it after the claimer has stopped."""
        if self._is_unanswered:
            for each in await self._claim(0, 1):
                self._slots.run(each)
            self._is_unanswered = False

    def _pause_hints(self, *, is_hinted: bool, found: int) -> None:
        """Defer hints after a hint that led to no workflow, and act on a hint that arrived during the claim."""
        if found:
            self._pause = 0.0
        elif is_hinted:
            self._pause = min(max(MIN_HINT_PAUSE, 1.5 * self._pause), MAX_HINT_PAUSE)
            self._paused_until = monotonic() + self._pause
        if self._is_hinted:
            self._follow_hint()

    def _follow_hint(self) -> None:
        """Act on a hint, at once or when hints are no longer deferred."""
        wait = self._paused_until - monotonic() if self._pause else 0.0
        if wait <= 0:
            self.may_be_more = True
            self.wake()
        elif self._pause_timer is None:
            self._pause_timer = asyncio.get_running_loop().call_later(wait, self._end_pause)

    def _end_pause(self) -> None:
        self._pause_timer = None
        self._follow_hint()

    def _rest_after(self, found: int, limit: int) -> float:
        if found:
            self._rest_when_idle = MIN_POLL_INTERVAL
        if found >= limit or self._slots.room <= 0:
            self.may_be_more = True
        if self.may_be_more:
            return 0
        again, self.may_be_more = self._outlook()
        rest = self._rest_when_idle
        self._rest_when_idle = min(rest * BACKOFF, MAX_POLL_INTERVAL)
        return rest if again is None else min(rest, again)
