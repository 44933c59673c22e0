"""RUNNING marks: long steps appear in the tables while they execute, and short steps never cost that write."""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import takewhile
from time import monotonic
from typing import Protocol

from pgqrs.storage.journal.futures import discard_result
from pgqrs.storage.journal.journal import Journal
from pgqrs.storage.records import StartedStep
from pgqrs.storage.writes.steps import StepOutcome

MARK_AFTER = 0.1
"""Seconds that a step executes before it is marked; also the seconds between two sweeps."""


class Executing(Protocol):
    """A step that is being executed."""

    began: float
    """Start of the execution, in seconds of the monotonic clock."""

    @property
    def started(self) -> StartedStep:
        """The identity of the step and the claim of its run."""
        ...


class RunningMarks:
    """The steps that an event loop executes and has not marked yet.

    One sweep serves all steps. They are kept in the order in which they began, so the sweep stops at the first
    step that is too young.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._young: dict[Executing, bool] = {}
        self._on_their_way: dict[StartedStep, asyncio.Future[None]] = {}
        self._sweep_due: asyncio.TimerHandle | None = None

    def began(self, step: Executing) -> None:
        """Start to track a step that began just now."""
        self._young[step] = True
        if self._sweep_due is None:
            self._sweep_due = self._loop.call_later(MARK_AFTER, self._sweep)

    def ended(self, step: Executing) -> bool:
        """Stop tracking a step; return True for a step that was tracked, and so has caused no write."""
        return self._young.pop(step, False)

    def left(self, step: Executing) -> None:
        """Mark a step that ends without an outcome and is not executed again, unless it is marked already."""
        if step in self._young:
            del self._young[step]
            if not self._journal.is_full:
                self._mark(step.started, step.began)

    async def stopped(self, step: Executing) -> None:
        """Stop tracking a step, and wait until a mark that is in flight is written."""
        self.ended(step)
        if (on_its_way := self._on_their_way.get(step.started)) is not None:
            await asyncio.wait([on_its_way])

    def _sweep(self) -> None:
        now = monotonic()
        for step in list(takewhile(lambda step: now - step.began >= MARK_AFTER, self._young)):
            if not self._journal.is_full:
                del self._young[step]
                self._mark(step.started, step.began)
        self._sweep_due = self._loop.call_later(MARK_AFTER, self._sweep) if self._young else None

    def _mark(self, step: StartedStep, began: float) -> None:
        mark = StepOutcome(step.workflow_id, step.epoch, step.step_id, None, None, began, None, step.claim)
        on_its_way = self._on_their_way[step] = self._journal.submit(mark, discard_result)
        on_its_way.add_done_callback(partial(self._on_written, step))

    def _on_written(self, step: StartedStep, on_its_way: asyncio.Future[None]) -> None:
        # An abandoned step may have begun again and may have a newer mark.
        if self._on_their_way.get(step) is on_its_way:
            del self._on_their_way[step]
