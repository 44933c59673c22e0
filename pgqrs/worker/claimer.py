"""Claiming: as many workflows as can be run now, as soon as there are any."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import ClassVar, Protocol

from pgqrs.storage.records import ClaimedRun
from pgqrs.worker.service import NEVER, PeriodicService

MIN_POLL_INTERVAL = 0.02
"""The rest after a claim that found something, in seconds."""

BACKOFF = 1.5
"""By how much a rest is longer than the one before while nothing is found."""

MAX_POLL_INTERVAL = 2.0
"""The longest rest between two claims, in seconds."""

MAX_CLAIM = 500
"""The most workflows claimed at once."""

MIN_HINT_PAUSE = 0.02
"""How long, in seconds, hints are not acted upon after a claim that a hint asked for and that found nothing."""

MAX_HINT_PAUSE = 0.05
"""How long, in seconds, hints are not acted upon at most, where one after another is for nothing."""


class Slots(Protocol):
    """Where claimed runs go."""

    @property
    def free(self) -> int:
        """How many more may run now."""
        ...

    @property
    def room(self) -> int:
        """How many bytes of input more may be held now; the last workflow may exceed it."""
        ...

    def run(self, claimed: ClaimedRun) -> None:
        """Carry a claimed run out."""
        ...


class Claimer(PeriodicService):
    """Fills the free slots, and never claims more than there are.

    It polls ever less often while there is nothing; a hint (`nudge`) makes it look at once, unless those before it
    were for nothing: every role of a database can send some. While there may be more than the slots can take, each
    slot that becomes `free` is filled again.
    """

    name: ClassVar[str] = "claiming"

    def __init__(self, claim: Callable[[int, int], Awaitable[Sequence[ClaimedRun]]], slots: Slots) -> None:
        super().__init__()
        self._claim = claim
        self._slots = slots
        self._rest_when_idle = MIN_POLL_INTERVAL
        self._may_be_more = True
        self._is_unanswered = False
        self._is_hinted = False
        self._deaf = 0.0
        self._deaf_until = 0.0
        self._hearing: asyncio.TimerHandle | None = None

    def nudge(self) -> None:
        """Look soon: there may be something to claim."""
        self._is_hinted = True
        if not self._is_unanswered:
            self._heed()

    def slot_freed(self) -> None:
        """Note that a slot has become free."""
        if self._may_be_more:
            self.wake()

    async def stop(self) -> None:
        """Let the turn in progress end, and begin no other."""
        await super().stop()
        if self._hearing is not None:
            self._hearing.cancel()

    async def run_once(self) -> float:
        """Claim once for the slots that are free."""
        limit, room = min(self._slots.free, MAX_CLAIM), self._slots.room
        if limit <= 0 or room <= 0:
            return NEVER
        is_hinted, self._is_hinted = self._is_hinted, False
        self._may_be_more, self._is_unanswered = False, True
        try:
            claimed = await self._claim(limit, room)
        except BaseException:
            self._may_be_more = True
            raise
        self._is_unanswered = False
        for each in claimed:
            self._slots.run(each)
        self._listen(is_hinted=is_hinted, found=len(claimed))
        return self._rest_after(len(claimed), limit)

    async def take_unanswered(self) -> None:
        """Take what the last claim took, if its answer was lost; to be called when the claiming has stopped."""
        if self._is_unanswered:
            for each in await self._claim(0, 1):
                self._slots.run(each)
            self._is_unanswered = False

    def _listen(self, *, is_hinted: bool, found: int) -> None:
        """Be deaf for a while where a hint was for nothing, and take up the hint that came meanwhile."""
        if found:
            self._deaf = 0.0
        elif is_hinted:
            self._deaf = min(max(MIN_HINT_PAUSE, 1.5 * self._deaf), MAX_HINT_PAUSE)
            self._deaf_until = monotonic() + self._deaf
        if self._is_hinted:
            self._heed()

    def _heed(self) -> None:
        """Act upon a hint, at once or when this is not deaf any more."""
        wait = self._deaf_until - monotonic() if self._deaf else 0.0
        if wait <= 0:
            self._may_be_more = True
            self.wake()
        elif self._hearing is None:
            self._hearing = asyncio.get_running_loop().call_later(wait, self._hear_again)

    def _hear_again(self) -> None:
        self._hearing = None
        self._heed()

    def _rest_after(self, found: int, limit: int) -> float:
        if found:
            self._rest_when_idle = MIN_POLL_INTERVAL
        if found >= limit or self._slots.room <= 0:
            self._may_be_more = True
        if self._may_be_more:
            return 0
        rest = self._rest_when_idle
        self._rest_when_idle = min(rest * BACKOFF, MAX_POLL_INTERVAL)
        return rest
