"""Claiming: as many workflows as can be run now, as soon as there are any."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar, Protocol

from pgqrs.runtime.duty import NEVER, Duty
from pgqrs.types import ClaimedRun

SHORTEST = 0.02
"""The rest after a claim that found something, in seconds."""

FACTOR = 1.5
"""By how much a rest is longer than the one before while nothing is found."""

LONGEST = 2.0
"""The longest rest between two claims, in seconds."""

MOST = 500
"""The most workflows claimed at once."""


class Slots(Protocol):
    """Where claimed runs go."""

    @property
    def free(self) -> int:
        """How many more may run now."""
        ...

    def take(self, claimed: ClaimedRun) -> None:
        """Carry a claimed run out."""
        ...


class Claims(Duty):
    """Fills the free slots, and never claims more than there are.

    It polls ever less often while there is nothing; a hint (`nudge`) makes it look at once. While there may be
    more than the slots can take, each slot that becomes `free` is filled again.
    """

    name: ClassVar[str] = "claiming"

    def __init__(self, claim: Callable[[int], Awaitable[Sequence[ClaimedRun]]], slots: Slots) -> None:
        super().__init__()
        self._claim = claim
        self._slots = slots
        self._rest_when_idle = SHORTEST
        self._may_be_more = True
        self._is_unanswered = False

    def nudge(self) -> None:
        """Look at once: there may be something to claim."""
        self._may_be_more = True
        self.wake()

    def freed(self) -> None:
        """Note that a slot has become free."""
        if self._may_be_more:
            self.wake()

    async def turn(self) -> float:
        """Claim once for the slots that are free."""
        limit = min(self._slots.free, MOST)
        if limit <= 0:
            return NEVER
        self._may_be_more, self._is_unanswered = False, True
        try:
            claimed = await self._claim(limit)
        except BaseException:
            self._may_be_more = True
            raise
        self._is_unanswered = False
        for each in claimed:
            self._slots.take(each)
        return self._rest_after(len(claimed), limit)

    async def settle(self) -> None:
        """Take what the last claim took, if its answer was lost; to be called when the claiming has stopped."""
        if self._is_unanswered:
            for each in await self._claim(0):
                self._slots.take(each)
            self._is_unanswered = False

    def _rest_after(self, found: int, limit: int) -> float:
        if found:
            self._rest_when_idle = SHORTEST
        if found >= limit:
            self._may_be_more = True
        if self._may_be_more:
            return 0
        rest = self._rest_when_idle
        self._rest_when_idle = min(rest * FACTOR, LONGEST)
        return rest
