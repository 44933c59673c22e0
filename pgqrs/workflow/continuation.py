"""Begins a workflow anew with other arguments, for `PyWorkflow.continue_as_new`."""

from __future__ import annotations

from typing import Any, NoReturn

from pgqrs.engine.run import Arguments, Run
from pgqrs.engine.scope import StepExecution
from pgqrs.errors import ContinuationError
from pgqrs.workflow.arguments import check_arguments, encode_input
from pgqrs.workflow.definition import Definition


def continue_as_new(run: Run, definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn:
    """Check and encode the arguments, and stop the run for them."""
    run.check()
    _check_place(run, definition)
    check_arguments(definition, args, kwargs)
    encoded = encode_input(run.codec, definition, args, kwargs)
    run.continue_as_new(Arguments(encoded.text, tuple(encoded.value["args"]), encoded.value["kwargs"]))


def _check_place(run: Run, definition: Definition) -> None:
    place = run.place
    if run.lifecycle.body.task is None:
        raise ContinuationError(
            run.workflow_id, "its function does not run: call `continue_as_new` in the function"
        )
    if not run.is_of(definition.returns):
        raise ContinuationError(
            run.workflow_id, f"its function is not {definition.name!r}: pass the workflow's own function"
        )
    if isinstance(place, StepExecution):
        raise ContinuationError(
            run.workflow_id,
            f"the call is in the step {place.step_id!r}: return from the step, and call `continue_as_new` in the "
            "workflow's function",
        )
    if run.sagas is not None and (run.sagas.entered or run.lifecycle.has_shelter):
        raise ContinuationError(
            run.workflow_id,
            "a saga is open, or a task undoes one or cleans up, which would not end any more: call it afterwards",
        )
    if run.busy_with is not None:
        raise ContinuationError(
            run.workflow_id,
            f"the step {run.busy_with!r} has no outcome yet, and it may still record one: await it first, or the "
            "task that awaits it",
        )
