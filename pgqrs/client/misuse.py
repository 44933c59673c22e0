"""Warnings of calls in a workflow that belong to applications: the workflow's context has a better one."""

from __future__ import annotations

import logging
from typing import Literal, TypeAlias

from pgqrs.client.loop_state import LoopState
from pgqrs.engine.run import Run
from pgqrs.engine.scope import calling_body, calling_runs
from pgqrs.errors import WorkflowInProgressError

Effect: TypeAlias = Literal["enqueue", "enqueue_many", "run", "create_workflow", "send", "cancel"]
"""A call that writes something anew if it is repeated."""

_EFFECTS: dict[Effect, tuple[str, str]] = {
    "enqueue": (
        "submits {!r} in its body without a key",
        "Start it as a child: `await ctx.start(...)`; or submit it with a key: `admin.options(key=...)`.",
    ),
    "enqueue_many": (
        "submits {!r} in its body without a key",
        "Start them as children: `await ctx.start_many(...)`; or submit them with a `key` function.",
    ),
    "run": (
        "submits {!r} in its body without a key",
        "Run it as a child: `await ctx.call(...)`; or run it with a key: `admin.options(key=...)`.",
    ),
    "create_workflow": ("submits {!r} in its body without a key", "Create it in a step."),
    "send": (
        "sends to the topic {!r} in its body without a key",
        "Use `await ctx.send(...)`, or send the message with a key.",
    ),
    "cancel": (
        "cancels another workflow in its body",
        "Cancel it in a step: a replay raises WorkflowFinishedError if that workflow has ended since.",
    ),
}

Wait: TypeAlias = Literal["result", "event"]
"""A call of a handle that waits for another workflow."""

_WAITS: dict[Wait, tuple[str, str]] = {
    "result": (
        "the result of workflow {} through its handle",
        "`child = await ctx.start(...)` with `await child`, or `await ctx.call(...)`, parks it meanwhile.",
    ),
    "event": (
        "an event of workflow {} through its handle",
        "Let that workflow send a message: `await ctx.receive(...)` parks it meanwhile.",
    ),
}

_logger = logging.getLogger("pgqrs.client")


def warn_in_body(effect: Effect, name: str = "", *, key: object = None) -> None:
    """Log a warning if a workflow's body makes this call, outside a step and without a key: replays repeat it."""
    body = calling_body() if key is None else None
    if body is not None:
        action, advice = _EFFECTS[effect]
        body.steps.history.warn_of_repetition(action.format(name), advice)


def check_wait(state: LoopState, workflow_id: int, wait: Wait) -> None:
    """Log a warning if a workflow of a worker waits for another workflow; once for each name of a workflow.

    Raises `WorkflowInProgressError` if a workflow waits for its own result, which would never come.
    """
    runs = state.store.runs
    waiting = calling_runs(runs)
    if wait == "result" and workflow_id in waiting:
        raise WorkflowInProgressError(workflow_id, waits=True)
    for each in waiting:
        run = runs[each]
        if isinstance(run, Run) and run.parking.worker is not None and state.waits.is_first(run.name, wait):
            subject, advice = _WAITS[wait]
            _logger.warning(
                "workflow %s (%r) waits for %s, and stays in the memory of its worker. %s",
                each,
                run.name,
                subject.format(workflow_id),
                advice,
                extra={"workflow_id": each, "workflow_name": run.name},
            )
