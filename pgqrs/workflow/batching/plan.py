"""The batches of a workflow: their size and their name, and the functions of a submission and of a batch."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from pgqrs.codecs.annotations import ReturnType, mark_batched
from pgqrs.engine.run import RunOptions
from pgqrs.errors import ConfigurationError, InvalidNameError
from pgqrs.types import Batch
from pgqrs.validation import check_name, validate_positive_int, validate_seconds
from pgqrs.workflow.context import PyWorkflow
from pgqrs.workflow.definition import BatchPlan, Definition, qualified_name

BATCH_SUFFIX = "/batch"
"""The end of the name of a batch, after the name of its workflow."""

MAX_BATCH = 10_000
"""Maximum submissions of a batch."""

_BY_POSITION = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}


def check_is_no_batch(name: str) -> None:
    """Raise `InvalidNameError` for the name of a workflow that is kept for batches."""
    if name.endswith(BATCH_SUFFIX):
        raise InvalidNameError(
            f"invalid workflow name {name!r}: names that end with {BATCH_SUFFIX!r} are those of batches. "
            "Choose another name: `@workflow(name=...)`."
        )


def batched(function: Callable[..., Awaitable[Any]], name: str, batch: object, options: RunOptions) -> Definition:
    """Return the definition of a workflow whose submissions run in batches.

    Its function raises `TypeError`: only a worker runs the submissions.
    """
    size, within = _checked(batch)
    _check_parameters(function)
    check_name("name of a batch", name + BATCH_SUFFIX)

    @functools.wraps(function)
    async def submission(_ctx: object, /, *_args: object, **_kwargs: object) -> Any:
        raise TypeError(f"workflow {name!r} runs in batches, which workers make of its submissions: {ADVICE}")

    mark_batched(submission)
    # Two objects, so that the run of a batch is not taken for the run of a submission.
    own_options = options._replace(returns=ReturnType(submission))

    async def run(ctx: PyWorkflow, items: list[Any]) -> Any:
        return await ctx.run_body(function, (items,), {}, own_options)

    plan = BatchPlan(name + BATCH_SUFFIX, size, within, options.timeout, run)
    called: Callable[..., Coroutine[Any, Any, Any]] = submission
    return Definition(name, called, ReturnType(submission), options.retry, strict=options.strict, batch=plan)


ADVICE = "submit it with `enqueue`, and wait for the `result()` of the handle; in a workflow, use `ctx.call`."
"""The end of a message that refuses to run a submission by hand."""


def refuse_by_hand(definition: Definition, method: str) -> None:
    """Raise `TypeError` if a method, which runs a workflow itself, was called for a workflow with batches."""
    if definition.batch is not None:
        raise TypeError(f"`{method}` cannot run the workflow {definition.name!r}, which runs in batches: {ADVICE}")


def _checked(batch: object) -> tuple[int, float]:
    if not isinstance(batch, Batch):
        raise TypeError(f"`batch` must be a Batch, as in `Batch(100, within=2.0)`, got {type(batch).__name__}.")
    size = validate_positive_int("size", batch.size)
    if size > MAX_BATCH:
        raise ConfigurationError(f"the `size` of a batch must be at most {MAX_BATCH}, got {size}.")
    within = validate_seconds("within", batch.within)
    if within is None:
        raise TypeError("the `within` of a batch must be a number of seconds, or a timedelta, got None.")
    return size, within


def _check_parameters(function: Callable[..., object]) -> None:
    """Raise `TypeError` unless a function has one argument besides the context."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    if (
        len(parameters) != 1
        or parameters[0].kind not in _BY_POSITION
        or parameters[0].default is not inspect.Parameter.empty
    ):
        raise TypeError(
            f"{qualified_name(function)} must have exactly one argument besides the PyWorkflow, the list of the "
            "submissions, to be a workflow with `batch`: `async def embed(ctx: PyWorkflow, texts: list[str])`."
        )
