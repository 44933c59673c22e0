"""Deletes old workflows, in the small steps of a pass that all workers share."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import ClassVar

from pgqrs.codecs.failures import shown_error
from pgqrs.errors import PgqrsError
from pgqrs.storage.retention.passes import Outlook, RetentionPass, StepResult
from pgqrs.worker.service import PeriodicService

FIRST_LOOK = 10.0
"""Seconds between the start of a worker and its first look: a short-lived worker sends nothing."""

LOOK_INTERVAL = 3600.0
"""Maximum seconds between two looks at the time of the next pass."""

OTHERS_TURN = 60.0
"""Seconds until the next look while another worker takes the steps, or after an error."""

_DAY = 86400.0

_logger = logging.getLogger("pgqrs.worker")


class RetentionService(PeriodicService):
    """Takes the steps of the retention that are due, and looks about once an hour whether one is due."""

    name: ClassVar[str] = "retention"

    def __init__(self, steps: RetentionPass) -> None:
        super().__init__()
        self._pass = steps
        self._began = False
        self._stage: str | None = None
        self._has_told = False

    async def run_once(self) -> float:
        """Take one step, or look for one, and return the seconds until the next."""
        if not self._began:
            self._began = True
            return _about(FIRST_LOOK)
        try:
            rest = await (self._look() if self._stage is None else self._step(self._stage))
        except PgqrsError as error:
            _logger.warning(
                "pgqrs: the retention is interrupted, and continues in a minute: %s",
                shown_error(error),
                extra={"service": self.name},
            )
            self._stage, rest = None, _about(OTHERS_TURN)
        if self._stage is None:
            await self._pass.close()
        return rest

    async def stop(self) -> None:
        """Interrupt the step in progress, of which nothing is left, and take no other step."""
        self._stopping.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        await self._pass.close()

    async def _look(self) -> float:
        found = await self._pass.look()
        self._tell(found)
        if found.has_old_month:
            await self._pass.drop_months()
        if found.due_in is None:
            return _about(LOOK_INTERVAL)
        if found.due_in <= 0:
            self._stage = found.stage
            return 0
        return min(found.due_in + random.uniform(0, 1), _about(LOOK_INTERVAL))  # noqa: S311  # workers stay out of step

    async def _step(self, stage: str) -> float:
        done = await self._pass.step(stage)
        if done is None:
            self._stage = None
            return _about(OTHERS_TURN)
        if done.is_over:
            self._stage = None
            self._report(done)
            return min(done.rest, _about(LOOK_INTERVAL))
        self._stage = done.stage
        return 0 if done.missing else max(0.0, done.rest)

    def _tell(self, found: Outlook) -> None:
        """Say once that workflows are deleted by default."""
        if found.is_default and not self._has_told:
            self._has_told = True
            _logger.info(
                "pgqrs: workflows are deleted 30 days after their end, and failed ones after 90 days%s. "
                "`await admin.set_retention(...)` changes the times, and `set_retention(days=None, failed=None)` "
                "keeps all workflows.",
                f"; the first deletion is in {found.starts_in / _DAY:.1f} days" if found.starts_in > 0 else "",
            )

    def _report(self, done: StepResult) -> None:
        if done.deleted:
            _logger.info(
                "pgqrs: the retention has deleted %d workflows", done.deleted, extra={"service": self.name}
            )


def _about(seconds: float) -> float:
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311  # so that workers do not look in step
