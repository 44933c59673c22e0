"""Waits of a run for messages: a step whose outcome is a message, or the end of a timeout."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isinf
from typing import NamedTuple

from pgqrs.engine.parking import MessageArrived, TimeReached
from pgqrs.engine.run import Run
from pgqrs.engine.scope import Retry, StepExecution
from pgqrs.storage.records import StoredOutcome
from pgqrs.storage.sql.addresses import SEPARATOR
from pgqrs.storage.writes.messages import ReceivedMessage
from pgqrs.storage.writes.steps import StartedWait
from pgqrs.storage.writes.waits import StepWait, WaitingStep


class MessageWait(NamedTuple):
    """The wait of a step for the oldest message of several addresses.

    Attributes:
        step_id: The id of the step.
        addresses: The addresses.
        fingerprint: The fingerprint of the call; None if it is not recorded.
        timeout: Seconds after which the wait ends without a message; None for no limit.
        outcome: Returns the JSON text of the value, or of the error, that is the outcome at the timeout.
    """

    step_id: str
    addresses: tuple[str, ...]
    fingerprint: int | None
    timeout: float | None
    outcome: Callable[[], tuple[str | None, str | None]]


async def wait_for_message(run: Run, wait: MessageWait) -> StoredOutcome:
    """Return the outcome of a wait: the recorded one, or a message or the timeout once it comes.

    Raises the stop of the run, as when a worker parks it.
    """
    found = await run.steps.acquire(run.place, wait.step_id, wait.fingerprint)
    if isinstance(found, StepExecution):
        try:
            outcome = await _Waiter(run, found, wait).outcome()
        except BaseException:
            run.steps.abandon(found)
            raise
    else:
        outcome = found
    run.steps.history.waited()
    return outcome


class _Waiter:
    """One step that waits for a message."""

    def __init__(self, run: Run, execution: StepExecution, wait: MessageWait) -> None:
        self._run = run
        self._execution = execution
        self._wait = wait
        self._clock = run.lifecycle.clock
        # An earlier run, or an earlier call in this run, may have recorded when the wait ends.
        self._is_recorded = execution.retry.due > 0
        timeout = inf if wait.timeout is None else wait.timeout
        self._due = execution.retry.due if self._is_recorded else self._clock.time() + timeout

    async def outcome(self) -> StoredOutcome:
        """Take a message, or wait until there is one."""
        parking = self._run.parking
        arrived = MessageArrived(self._run.arrivals, self._wait.addresses)
        while (outcome := await self._take()) is None:
            if await parking.linger(self._due, arrived, self._describe):
                continue
            await parking.park_at_once(self._due, self._describe)
            if isinf(self._due):
                await parking.wait(arrived, resting=True, describe=self._describe)
            else:
                await self._record()
                timer = TimeReached(self._clock, self._due)
                await parking.wait(arrived, timer, resting=True, describe=self._describe)
        return outcome

    async def _take(self) -> StoredOutcome | None:
        is_over = self._clock.time() >= self._due
        output, error = self._wait.outcome() if is_over else (None, None)
        workflow_id, epoch, step_id, claim = self._execution.started
        record = ReceivedMessage(
            workflow_id,
            epoch,
            step_id,
            SEPARATOR.join(self._wait.addresses),
            output,
            error,
            self._execution.began,
            self._wait.fingerprint,
            claim,
        )
        return await self._run.steps.take(self._execution, record)

    def _describe(self) -> StepWait:
        execution = self._execution
        is_limited = not isinf(self._due)
        output, error = self._wait.outcome() if is_limited else (None, None)
        step = WaitingStep(
            execution.run.workflow_id,
            execution.step_id,
            output,
            error,
            execution.began,
            self._wait.fingerprint,
            max(0.0, self._due - self._clock.time()) if is_limited else None,
            claim=execution.run.claim,
        )
        return StepWait(step, self._wait.addresses)

    async def _record(self) -> None:
        """Record when the wait ends: a later run continues to wait for the rest of the time."""
        if self._is_recorded:
            return
        workflow_id, epoch, step_id, claim = self._execution.started
        output, error = self._wait.outcome()
        began, fingerprint = self._execution.began, self._wait.fingerprint
        left = max(0.0, self._due - self._clock.time())
        record = StartedWait(workflow_id, epoch, step_id, output, error, began, fingerprint, left, claim)
        await self._run.steps.write(self._execution, record)
        self._run.steps.history.failed[step_id] = Retry(0, self._due)
        self._is_recorded = True
