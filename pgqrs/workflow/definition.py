"""The definition of a workflow: its function, its name and its options."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, cast

from pgqrs.codecs.annotations import ReturnType
from pgqrs.retry import RetryPolicy

_DEFINITION = "__pgqrs_workflow__"


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """The batches of a workflow: their name, their size, the seconds in which they fill, and their timeout.

    `function` runs a batch; it takes the context of the batch and the list of its submissions.
    """

    name: str
    size: int
    within: float
    timeout: float | None
    function: Callable[..., Coroutine[Any, Any, Any]]


@dataclass(frozen=True, slots=True)
class Definition:
    """The name and the options of a function decorated with `@workflow`.

    `function` is the decorated callable, and `returns` its return annotation. Times are in seconds. `batch` is
    None unless the submissions of the workflow run in batches; a submission then has no timeout by default.
    """

    name: str
    function: Callable[..., Coroutine[Any, Any, Any]]
    returns: ReturnType
    retry: RetryPolicy | None = None
    timeout: float | None = None
    max_attempts: int = 20
    strict: bool = False
    batch: BatchPlan | None = None

    @property
    def claimed_name(self) -> str:
        """The name of the workflows that a worker claims: for a workflow with batches, that of its batches."""
        return self.name if self.batch is None else self.batch.name


def definition_of(function: object) -> Definition:
    """Return the definition of a function decorated with `@workflow`; raises `TypeError` for any other function.

    If another decorator wraps that function with `functools.wraps`, the definition contains the wrapper: workers
    and `Admin.run` call the wrapper.
    """
    definition: object = getattr(function, _DEFINITION, None)
    if not isinstance(definition, Definition):
        raise TypeError(f"{qualified_name(cast(Any, function))} is not a workflow: decorate it with @workflow.")
    around = cast("Callable[..., Coroutine[Any, Any, Any]]", function)
    return definition if definition.function is around else replace(definition, function=around)


def register(definition: Definition) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Attach a definition to its function, where `definition_of` looks it up, and return the function."""
    setattr(definition.function, _DEFINITION, definition)
    return definition.function


def qualified_name(function: Callable[..., object]) -> str:
    """Return the qualified name of a function, for messages."""
    return str(getattr(function, "__qualname__", repr(function)))
