"""The answers of `PyWorkflow.patched`, by which the code of workflows can change while they run."""

from __future__ import annotations

import asyncio

from pgqrs.codecs.base import codec_at
from pgqrs.engine.replay.frontier import Reached
from pgqrs.engine.run import Run
from pgqrs.engine.scope import StepExecution
from pgqrs.errors import StepMismatchError
from pgqrs.validation import check_name, escaped

KIND = "patch/"
"""The beginning of the ids of the steps that record the answers."""

SETTLING = 0.02
"""Seconds without a call of a recorded step after which the other tasks of a run count as at their frontiers."""


async def patched(run: Run, name: str) -> bool:
    """Return the recorded answer of a workflow, or decide and record it."""
    step_id = f"{KIND}{escaped(name)}"
    check_name("step id", step_id)
    found = await run.steps.acquire(run.place, step_id)
    codec = codec_at(run.codec, "output", run.workflow_id, step_id)
    if isinstance(found, StepExecution):
        try:
            text = codec.encode(await _is_new(run, found)).text
        except BaseException:
            run.steps.abandon(found)
            raise
        # The journal may write a later record first, if another transaction has the workflow's row for a moment.
        found = await run.steps.record(found, text)
    answer = run.steps.value_of(step_id, found, codec)
    if not isinstance(answer, bool):
        raise StepMismatchError(run.workflow_id, step_id)
    return answer


async def _is_new(run: Run, execution: StepExecution) -> bool:
    """Return whether no earlier run of the workflow has come past the place of a call."""
    frontier = run.steps.history.frontier
    asked, by_body = set(frontier.asked), set(frontier.asked_by_body)
    left = await _unasked(run)
    # Another task that waits for the answer may be at a place that an earlier run has passed.
    if not left or execution.is_awaited or asyncio.current_task() is not run.lifecycle.body.task:
        return not left
    reached = Reached(await run.reader.step_times(run.workflow_id), asked, by_body)
    return all(map(reached.is_behind, left))


async def _unasked(run: Run) -> set[str]:
    """Return the recorded steps for which the run has not asked, once its other tasks have replayed theirs."""
    frontier = run.steps.history.frontier
    while left := {each for each in frontier.unasked if not each.startswith(KIND)}:
        before = len(frontier.unasked)
        await asyncio.sleep(SETTLING)
        if len(frontier.unasked) == before:
            return left
    return left
