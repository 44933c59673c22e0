"""RUNNING marks: long steps show in the tables while they run, and short ones never cost that write."""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import takewhile
from time import monotonic
from typing import Protocol

from pgqrs.storage.journal.journal import Journal
from pgqrs.storage.records import StartedStep, StepOutcome

MARK_AFTER = 0.1
"""How long a step executes, in seconds, before it is worth a mark; the sweep comes round as often."""


class Executing(Protocol):
    """A step that is being executed."""

    began: float
    """When it began, by the monotonic clock."""

    @property
    def started(self) -> StartedStep:
        """Which step it is."""
        ...


class RunningMarks:
    """The steps that an event loop executes and has not marked yet.

    One sweep looks after all of them, however many there are: they stand in the order in which they began, so
    it stops at the first that is young.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._young: dict[Executing, None] = {}
        self._on_their_way: dict[StartedStep, asyncio.Future[None]] = {}
        self._sweep_due: asyncio.TimerHandle | None = None

    def began(self, step: Executing) -> None:
        """Look after a step from now on, which began just now."""
        self._young[step] = None
        if self._sweep_due is None:
            self._sweep_due = self._loop.call_later(MARK_AFTER, self._sweep)

    def ended(self, step: Executing) -> None:
        """Look after it no longer; nothing was written if it was quick."""
        self._young.pop(step, None)

    def left(self, step: Executing) -> None:
        """Mark a step at once, unless it is marked: it ends without an outcome, and nothing executes it again."""
        if step in self._young:
            del self._young[step]
            if not self._journal.is_full:
                self._mark(step.started, monotonic() - step.began)

    async def stopped(self, step: Executing) -> None:
        """Look after it no longer, and wait for the end of a write that is on its way."""
        self.ended(step)
        if (on_its_way := self._on_their_way.get(step.started)) is not None:
            await asyncio.wait([on_its_way])

    def _sweep(self) -> None:
        now = monotonic()
        for step in list(takewhile(lambda step: now - step.began >= MARK_AFTER, self._young)):
            if not self._journal.is_full:
                del self._young[step]
                self._mark(step.started, now - step.began)
        self._sweep_due = self._loop.call_later(MARK_AFTER, self._sweep) if self._young else None

    def _mark(self, step: StartedStep, elapsed: float) -> None:
        on_its_way = self._on_their_way[step] = self._loop.create_future()
        mark = StepOutcome(step.workflow_id, step.epoch, step.step_id, None, None, elapsed, None, step.claim)
        self._journal.submit(mark, partial(self._settled, step, on_its_way))

    def _settled(self, step: StartedStep, on_its_way: asyncio.Future[None], _verdict: object) -> None:
        on_its_way.set_result(None)
        # A step that was given up may have begun again, and have another mark by now.
        if self._on_their_way.get(step) is on_its_way:
            del self._on_their_way[step]
