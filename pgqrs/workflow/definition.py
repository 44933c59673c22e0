"""The definition of a workflow: its function, its name and its options."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, cast

from pgqrs.codecs.annotations import ReturnType
from pgqrs.retry import RetryPolicy

_DEFINITION = "__pgqrs_workflow__"


@dataclass(frozen=True, slots=True)
class Definition:
    """What `@workflow` knows of a function: its name and its options; `function` is the decorated callable.

    Times are in seconds. `returns` is what the function is annotated to return.
    """

    name: str
    function: Callable[..., Coroutine[Any, Any, Any]]
    returns: ReturnType
    retry: RetryPolicy | None = None
    timeout: float | None = None
    max_attempts: int = 20
    strict: bool = False


def definition_of(function: object) -> Definition:
    """Return what `workflow` knows of a function that it has decorated; raises `TypeError` for any other.

    A function that a decorator put around it with `functools.wraps` is the one that is called: `admin.run` calls
    it, and so do workers.
    """
    definition: object = getattr(function, _DEFINITION, None)
    if not isinstance(definition, Definition):
        raise TypeError(f"{qualified_name(cast(Any, function))} is not a workflow: decorate it with @workflow.")
    around = cast("Callable[..., Coroutine[Any, Any, Any]]", function)
    return definition if definition.function is around else replace(definition, function=around)


def register(definition: Definition) -> None:
    """Attach a definition to its function, for `definition_of` to find."""
    setattr(definition.function, _DEFINITION, definition)


def qualified_name(function: Callable[..., object]) -> str:
    """Return the name of a function with that of its class or function around it, for messages."""
    return str(getattr(function, "__qualname__", repr(function)))
