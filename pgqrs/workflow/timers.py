"""Records the times of `PyWorkflow.now` and `PyWorkflow.sleep`, so that a replay uses the same times."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from pgqrs.engine.run import Run
from pgqrs.engine.scope import StepExecution
from pgqrs.errors import StepMismatchError


async def now(run: Run, step_id: str | None) -> datetime:
    """Return the recorded time of this step, or record the current time; without an id the step gets a number."""
    return await _recorded_time(run, step_id or run.steps.next_id(run.place, "now"), None, lambda now: now)


async def sleep(
    run: Run, step_id: str | None, fingerprint: int | None, wake_up: Callable[[datetime], datetime]
) -> None:
    """Wait until the recorded wake-up time of this step.

    The first call records the wake-up time, which `wake_up` computes from the current time.
    """
    due = await _recorded_time(run, step_id or run.steps.next_id(run.place, "sleep"), fingerprint, wake_up)
    left = (due - await run.clock.now()).total_seconds()
    await run.parking.wait_until(run.lifecycle.clock.time() + left)


async def _recorded_time(
    run: Run, step_id: str, fingerprint: int | None, time: Callable[[datetime], datetime]
) -> datetime:
    steps = run.steps
    codec, fingerprint = steps.history.codec_and_fingerprint(step_id, None, fingerprint)
    found = await steps.acquire(run.place, step_id, fingerprint)
    if isinstance(found, StepExecution):
        try:
            encoded = codec.encode(time(await run.clock.now()).isoformat())
        except BaseException:
            steps.abandon(found)
            raise
        found = await steps.record(found, encoded.text)
    recorded = steps.value_of(step_id, found, codec)
    try:
        return datetime.fromisoformat(recorded)
    except (ValueError, TypeError) as error:
        raise StepMismatchError(run.workflow_id, step_id) from error
