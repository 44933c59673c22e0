"""Records the times of `PyWorkflow.now` and `PyWorkflow.sleep`, so that a replay uses the same times."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial

from pgqrs.engine.run import Run
from pgqrs.engine.scope import StepExecution
from pgqrs.errors import StepMismatchError
from pgqrs.storage.writes.waits import StepWait, WaitingStep


async def now(run: Run, step_id: str | None) -> datetime:
    """Return the recorded time of this step, or record the current time; without an id the step gets a number."""
    return await _recorded_time(run, step_id or run.steps.next_id(run.place, "now"), None, lambda now: now)


async def sleep(
    run: Run, step_id: str | None, fingerprint: int | None, wake_up: Callable[[datetime], datetime]
) -> None:
    """Wait until the recorded wake-up time of this step.

    The first call records the wake-up time, which `wake_up` computes from the current time. If the run parks at
    once, the statement that parks it records the time.
    """
    own_id = step_id or run.steps.next_id(run.place, "sleep")
    due = await _recorded_time(run, own_id, fingerprint, wake_up, parks=True)
    left = (due - await run.reading(run.clock.now())).total_seconds()
    await run.parking.wait_until(run.lifecycle.clock.time() + left)
    run.steps.history.waited()


async def _recorded_time(
    run: Run,
    step_id: str,
    fingerprint: int | None,
    time: Callable[[datetime], datetime],
    *,
    parks: bool = False,
) -> datetime:
    steps = run.steps
    codec, fingerprint = steps.history.codec_and_fingerprint(step_id, None, fingerprint)
    found = await steps.acquire(run.place, step_id, fingerprint)
    if isinstance(found, StepExecution):
        try:
            now = await run.clock.now()
            due = time(now)
            encoded = codec.encode(due.isoformat())
            if parks:
                left = (due - now).total_seconds()
                describe = partial(_parked_sleep, found, encoded.text)
                await run.parking.park_at_once(run.lifecycle.clock.time() + left, describe)
        except BaseException:
            steps.abandon(found)
            raise
        found = await steps.record(found, encoded.text)
    recorded = steps.value_of(step_id, found, codec)
    try:
        return datetime.fromisoformat(recorded)
    except (ValueError, TypeError) as error:
        raise StepMismatchError(run.workflow_id, step_id) from error


def _parked_sleep(execution: StepExecution, output: str) -> StepWait:
    """Describe a sleep to the statement that parks its run: its wake-up time is its outcome."""
    run = execution.run
    step = WaitingStep(
        run.workflow_id,
        execution.step_id,
        output,
        None,
        execution.began,
        execution.fingerprint,
        None,
        is_over=True,
        claim=run.claim,
    )
    return StepWait(step, ())
