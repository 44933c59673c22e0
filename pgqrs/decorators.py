"""`@workflow` and `@step`: they keep the function's signature and say how it is run; no SQL here."""

from __future__ import annotations

import asyncio
import builtins
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar, overload

from pgqrs.context import PyWorkflow
from pgqrs.failures import is_terminal
from pgqrs.names import check_name
from pgqrs.types import StepAction

P = ParamSpec("P")
R = TypeVar("R")

AsyncFunction: TypeAlias = Callable[Concatenate[PyWorkflow, P], Awaitable[R]]
Decorated: TypeAlias = Callable[Concatenate[PyWorkflow, P], Coroutine[Any, Any, R]]
Errors: TypeAlias = tuple[type[Exception], ...]

_NAME_ATTRIBUTE = "__pgqrs_workflow__"


@overload
def step(function: AsyncFunction[P, R], /) -> Decorated[P, R]: ...


@overload
def step(
    *,
    id: str | None = None,
    key: Callable[..., object] | None = None,
    terminal: Errors = (),
    transient: Errors = (),
) -> Callable[[AsyncFunction[P, R]], Decorated[P, R]]: ...


def step(
    function: AsyncFunction[P, R] | None = None,
    /,
    *,
    id: str | None = None,  # noqa: A002  # the word of the field
    key: Callable[..., object] | None = None,
    terminal: Errors = (),
    transient: Errors = (),
) -> Decorated[P, R] | Callable[[AsyncFunction[P, R]], Decorated[P, R]]:
    """Make an ``async def`` a durable step: its outcome is recorded, and a recorded one is not executed again.

    The first argument of the function is the `PyWorkflow`; what it returns must be strict JSON, and comes back
    in the form that a replay will see (a tuple as a list).

    `id` is the step's id in its workflow, the function's name by default. `key` makes it ``id:key`` for calls
    that differ: it is called with the step's arguments without the workflow. Without a key a second call in the
    same workflow returns the first one's outcome. `terminal` and `transient` are exception classes whose errors
    trying again cannot mend, or may mend, where that differs from the default: `ValueError`, `TypeError`,
    `LookupError`, `ArithmeticError`, `AssertionError`, `AttributeError`, `NameError` and `NotImplementedError`
    are terminal, the others transient.

    Raises `TypeError` for a function that is not ``async def``, or whose first argument is annotated as
    something else than `PyWorkflow`; the same at a call with something else.
    """

    def decorate(function: AsyncFunction[P, R]) -> Decorated[P, R]:
        _check_function(function, "step")
        step_id = _name_of(function) if id is None else id
        check_name("step id", step_id)

        @functools.wraps(function)
        async def wrapper(ctx: PyWorkflow, /, *args: P.args, **kwargs: P.kwargs) -> R:
            _check_context(ctx, function)
            own_id = step_id if key is None else f"{step_id}:{key(*args, **kwargs)}"
            acquired = await ctx.acquire_step(own_id)
            if acquired.status == StepAction.SKIPPED:
                return acquired.value  # type: ignore[no-any-return]
            guard = acquired.guard
            try:
                value = await function(ctx, *args, **kwargs)
            except Exception as error:
                await guard.fail(error, transient=not is_terminal(error, terminal=terminal, transient=transient))
                raise
            except BaseException as crash:
                guard.abandon(interrupted=isinstance(crash, asyncio.CancelledError))
                raise
            return await guard.success(value)  # type: ignore[no-any-return]

        return wrapper

    return decorate if function is None else decorate(function)


@overload
def workflow(function: AsyncFunction[P, R], /) -> Decorated[P, R]: ...


@overload
def workflow(*, name: str | None = None) -> Callable[[AsyncFunction[P, R]], Decorated[P, R]]: ...


def workflow(
    function: AsyncFunction[P, R] | None = None, /, *, name: str | None = None
) -> Decorated[P, R] | Callable[[AsyncFunction[P, R]], Decorated[P, R]]:
    """Make an ``async def`` a workflow: it is started, run, and its end recorded.

    The first argument of the function is the `PyWorkflow`; what it returns must be strict JSON. `name` is what
    `Admin.run` creates it under, the function's name by default.

    Called again after an error or a crash, it goes on from the steps that are recorded; called again after a
    success, it returns the recorded output and does not run. Raises `TypeError` as `step` does.
    """

    def decorate(function: AsyncFunction[P, R]) -> Decorated[P, R]:
        _check_function(function, "workflow")
        own_name = _name_of(function) if name is None else name
        check_name("workflow name", own_name)

        @functools.wraps(function)
        async def wrapper(ctx: PyWorkflow, /, *args: P.args, **kwargs: P.kwargs) -> R:
            _check_context(ctx, function)
            return await ctx.run_body(lambda: function(ctx, *args, **kwargs))

        setattr(wrapper, _NAME_ATTRIBUTE, own_name)
        return wrapper

    return decorate if function is None else decorate(function)


def workflow_name(function: Callable[..., object]) -> str:
    """Return the name of a function that `workflow` has decorated; raises `TypeError` for any other."""
    name: object = getattr(function, _NAME_ATTRIBUTE, None)
    if not isinstance(name, str):
        raise TypeError(f"{_shown(function)} is not a workflow: decorate it with @workflow.")
    return name


def _check_function(function: Callable[..., object], kind: str) -> None:
    if not inspect.iscoroutinefunction(function):
        raise TypeError(f"{_shown(function)} cannot be a {kind}: it must be an `async def` function.")
    first = next(iter(inspect.signature(function).parameters.values()), None)
    if first is None or first.kind in {first.KEYWORD_ONLY, first.VAR_KEYWORD}:
        raise TypeError(f"{_shown(function)} cannot be a {kind}: its first argument must be the PyWorkflow.")
    annotation = _annotation(function, first)
    if isinstance(annotation, type) and annotation is not Any and not issubclass(PyWorkflow, annotation):
        raise TypeError(
            f"{_shown(function)} cannot be a {kind}: its first argument, {first.name!r}, must be a PyWorkflow, "
            f"not {annotation.__name__}."
        )


def _annotation(function: Callable[..., object], parameter: inspect.Parameter) -> object:
    """Return what a parameter is annotated with; a name that cannot be looked up yet stays a string."""
    annotation: object = parameter.annotation
    if annotation is parameter.empty:
        return None
    if isinstance(annotation, str):
        names = getattr(inspect.unwrap(function), "__globals__", {})
        return getattr(builtins, annotation, names.get(annotation, annotation))
    return annotation


def _check_context(ctx: object, function: Callable[..., object]) -> None:
    if not isinstance(ctx, PyWorkflow):
        raise TypeError(
            f"the first argument of {_shown(function)} must be a PyWorkflow, not {type(ctx).__name__}."
        )


def _name_of(function: Callable[..., object]) -> str:
    return str(getattr(function, "__name__", ""))


def _shown(function: Callable[..., object]) -> str:
    return str(getattr(function, "__qualname__", repr(function)))
