"""`@workflow` and `@step`: they keep the function's signature and say how it is run; no SQL here."""

from __future__ import annotations

import builtins
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from datetime import timedelta
from types import CodeType
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeAlias, TypeVar, cast, overload

from pgqrs.clock import parse_seconds
from pgqrs.codecs.annotations import ReturnType
from pgqrs.codecs.failures import is_terminal
from pgqrs.engine.attempts import AttemptRunner
from pgqrs.engine.fingerprint import fingerprint_of
from pgqrs.engine.offload import ExecutorOffload, ExecutorSource, ThreadOffload
from pgqrs.engine.run import RunOptions
from pgqrs.errors import ConfigurationError
from pgqrs.retry import RetryPolicy, policy_of
from pgqrs.types import StepAction
from pgqrs.validation import check_name, check_step_id, key_text
from pgqrs.workflow.context import PyWorkflow
from pgqrs.workflow.definition import Definition, qualified_name, register
from pgqrs.workflow.guard import StepGuard

P = ParamSpec("P")

R = TypeVar("R")

AsyncFunction: TypeAlias = Callable[Concatenate[PyWorkflow, P], Awaitable[R]]

PlainFunction: TypeAlias = Callable[Concatenate[PyWorkflow, P], R]

Decorated: TypeAlias = Callable[Concatenate[PyWorkflow, P], Coroutine[Any, Any, R]]

Errors: TypeAlias = tuple[type[Exception], ...]


class AnyFunction(Protocol):
    """A function of any signature: to mypy a list of several is one of what functions have in common."""

    @property
    def __name__(self) -> str:
        """The name that it was defined with."""
        ...

    @property
    def __code__(self) -> CodeType:
        """What it does."""
        ...


Key: TypeAlias = (
    Callable[[Any], object]
    | Callable[[Any, Any], object]
    | Callable[[Any, Any, Any], object]
    | Callable[[Any, Any, Any, Any], object]
)
"""What makes the key of a step: by the number of its parameters, or pyright knows no type of a lambda's."""


@overload
def step(function: AsyncFunction[P, R], /) -> Decorated[P, R]: ...


@overload
def step(
    *,
    id: str | None = None,
    key: Key,
    terminal: Errors = (),
    transient: Errors = (),
    retry: int | RetryPolicy | None = None,
    timeout: float | timedelta | None = None,
    transactional: bool = False,
) -> Callable[[AsyncFunction[P, R]], Decorated[P, R]]: ...


@overload
def step(
    *,
    id: str | None = None,
    key: Key,
    terminal: Errors = (),
    transient: Errors = (),
    retry: int | RetryPolicy | None = None,
    timeout: float | timedelta | None = None,
    thread: Literal[True],
) -> Callable[[PlainFunction[P, R]], Decorated[P, R]]: ...


@overload
def step(
    *,
    id: str | None = None,
    key: Key,
    terminal: Errors = (),
    transient: Errors = (),
    retry: int | RetryPolicy | None = None,
    timeout: float | timedelta | None = None,
    executor: ExecutorSource,
) -> Callable[[Callable[P, R]], Decorated[P, R]]: ...


@overload
def step(
    *,
    id: str | None = None,
    key: Callable[..., object] | None = None,
    terminal: Errors = (),
    transient: Errors = (),
    retry: int | RetryPolicy | None = None,
    timeout: float | timedelta | None = None,
    transactional: bool = False,
) -> Callable[[AsyncFunction[P, R]], Decorated[P, R]]: ...


@overload
def step(
    *,
    id: str | None = None,
    key: Callable[..., object] | None = None,
    terminal: Errors = (),
    transient: Errors = (),
    retry: int | RetryPolicy | None = None,
    timeout: float | timedelta | None = None,
    thread: Literal[True],
) -> Callable[[PlainFunction[P, R]], Decorated[P, R]]: ...


@overload
def step(
    *,
    id: str | None = None,
    key: Callable[..., object] | None = None,
    terminal: Errors = (),
    transient: Errors = (),
    retry: int | RetryPolicy | None = None,
    timeout: float | timedelta | None = None,
    executor: ExecutorSource,
) -> Callable[[Callable[P, R]], Decorated[P, R]]: ...


def step(
    function: Callable[..., Any] | None = None,
    /,
    *,
    id: str | None = None,  # noqa: A002  # the word of the field
    key: Callable[..., object] | None = None,
    terminal: Errors = (),
    transient: Errors = (),
    retry: int | RetryPolicy | None = None,
    timeout: float | timedelta | None = None,
    thread: bool = False,
    executor: ExecutorSource | None = None,
    transactional: bool = False,
) -> Any:
    """Make a function a durable step: its outcome is recorded, and a recorded one is not executed again.

    It is an ``async def``, and its first argument is the `PyWorkflow`; what it returns must be strict JSON, and
    comes back in the form that a replay will see (a tuple as a list). A codec that goes by types, see
    `pgqrs.codecs.PydanticCodec`, carries and gives back what the function is annotated to return.

    `id` is the step's id in its workflow, the function's name by default; it holds neither ``:`` nor ``/``. `key`
    makes it ``id:key`` for calls that differ: it is called with the step's arguments without the workflow, and
    returns a str, int, bool, float, `Decimal`, `UUID`, date, time, datetime or `Enum` (which counts as its value),
    or a tuple of them; ``%``, ``:`` and ``/`` in a key are escaped. Without a key a second call in the same
    workflow returns the first one's outcome, and a warning is logged when its arguments differ.

    `terminal` and `transient` are exception classes whose errors trying again cannot mend, or may mend, where that
    differs from the default: `ValueError`, `TypeError`, `LookupError`, `ArithmeticError`, `AssertionError`,
    `AttributeError`, `NameError`, `NotImplementedError` and errors of a database with an SQLSTATE of class 22 or
    42 are terminal, the others transient.

    `retry` is a number of attempts, or a `RetryPolicy`: a transient error is then tried again, and only the
    last one is the step's outcome. The failed attempts are recorded, so they count across restarts. The error
    that is recorded of another step, called within this one, is not tried again. `timeout` bounds each attempt:
    `StepTimeoutError`, which is transient; also where the function catches the cancellation and returns late.

    Blocking code is a plain ``def``. With ``thread=True`` it is called in a thread of the library's. With
    `executor`, a `concurrent.futures.Executor` or a function without arguments that makes one when it is first
    needed, it is called there, and *without* the `PyWorkflow`, which stays here: the step is still called with
    it. For a pool of processes the function must be at the top level of a module, and its arguments and result
    must pickle. Neither can be stopped from here: what they return after a timeout or a cancellation is
    dropped.

    With ``transactional=True`` the function finds an `AsyncSession` at ``ctx.session``, one for each call. What it
    writes there and its outcome commit together, once; an error rolls the writes back. Serialization failures
    are tried again as `retry` says. It must not commit the session; `begin_nested` is for savepoints.

    Raises `TypeError` for a function that is not of the kind described, or whose first argument is annotated as
    something else than `PyWorkflow`, the same at a call with something else; `ConfigurationError` for a number
    that makes no sense; `InvalidNameError` for an id that cannot be one, and at a call for a key of another type.
    """
    if thread and executor is not None:
        raise TypeError("a step runs in a thread or in an executor, not in both.")
    if transactional and (thread or executor is not None):
        raise TypeError("a transactional step runs in the event loop, as its session does: an `async def`.")
    policy = policy_of(retry)
    limit = None if timeout is None else _positive_seconds("timeout", timeout)
    judge = functools.partial(is_terminal, terminal=terminal, transient=transient)
    attempts = None if policy is None and limit is None else AttemptRunner(policy, limit, judge, queued=thread)

    def decorate(function: Callable[..., Any]) -> Decorated[..., Any]:
        call = _async_call_of(function, thread=thread, executor=executor)
        carry_out = (
            _more_than_a_call(call, attempts, transactional=transactional) if attempts or transactional else None
        )
        step_id = _name_of(function) if id is None else id
        check_step_id(step_id, keyed=key is not None)
        names = _names_of(function, without_context=executor is None)
        returns = ReturnType(function)

        @functools.wraps(function)
        async def wrapper(ctx: PyWorkflow, /, *args: Any, **kwargs: Any) -> Any:
            _check_context(ctx, function)
            own_id = step_id if key is None else f"{step_id}:{key_text(key(*args, **kwargs))}"
            ctx.calls_with(fingerprint_of(args, kwargs, names, by_content=ctx.is_typed), returns)
            acquired = await ctx.acquire_step(own_id)
            if acquired.status == StepAction.SKIPPED:
                return acquired.value
            guard = acquired.guard
            try:
                if carry_out is None:
                    value = await call(ctx, *args, **kwargs)
                else:
                    value = await carry_out(guard, own_id, ctx, args, kwargs)
            except Exception as error:
                if transactional and guard.is_committed:  # the timeout came later than the commit
                    return await guard.success()
                await guard.fail(error, transient=not judge(error))
                raise
            except BaseException as crash:
                guard.abandon(crash)
                raise
            return await guard.success(value)

        return wrapper

    return decorate if function is None else decorate(function)


def _async_call_of(
    function: Callable[..., Any], *, thread: bool, executor: ExecutorSource | None
) -> Callable[..., Awaitable[Any]]:
    """Return what calls a step's function, with the context and its arguments, and is awaited."""
    if executor is not None:
        _check_executor(executor)
        _check_plain(function)
        return functools.partial(ExecutorOffload(executor).run, function)
    if thread:
        _check_plain(function)
        _check_first_argument(function, "step")
        return ThreadOffload(function)
    _check_function(function, "step")
    return function


def _more_than_a_call(
    call: Callable[..., Awaitable[Any]], attempts: AttemptRunner | None, *, transactional: bool
) -> Callable[..., Awaitable[Any]]:
    """Return what carries a step out that has attempts or a transaction."""

    def carry_out(
        guard: StepGuard, step_id: str, ctx: PyWorkflow, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Awaitable[Any]:
        attempt: Callable[..., Awaitable[Any]]
        if isinstance(call, ThreadOffload):
            attempt = functools.partial(call.timed, ctx, args, kwargs)
        else:
            attempt = functools.partial(call, ctx, *args, **kwargs)
        around = guard.transact if transactional else None
        if attempts is not None:
            return attempts.run(attempt, around, ctx, step_id, guard)
        return attempt() if around is None else around(attempt)

    return carry_out


@overload
def workflow(function: AsyncFunction[P, R], /) -> Decorated[P, R]: ...


@overload
def workflow(
    *,
    name: str | None = None,
    retry: int | RetryPolicy | None = None,
    timeout: float | timedelta | None = None,
    max_attempts: int = 20,
    strict: bool = False,
) -> Callable[[AsyncFunction[P, R]], Decorated[P, R]]: ...


def workflow(
    function: AsyncFunction[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    retry: int | RetryPolicy | None = None,
    timeout: float | timedelta | None = None,
    max_attempts: int = 20,
    strict: bool = False,
) -> Decorated[P, R] | Callable[[AsyncFunction[P, R]], Decorated[P, R]]:
    """Make an ``async def`` a workflow: it is started, run, and its end recorded.

    The first argument of the function is the `PyWorkflow`; what it returns must be strict JSON. `name` is what
    `Admin.run` and `Admin.enqueue` create it under, the function's name by default.

    Called again after an error or a crash, it goes on from the steps that are recorded; called again after a
    success, it returns the recorded output and does not run.

    `retry` is a number of attempts, or a `RetryPolicy`: a transient error that leaves the function has it
    called again, with the steps executed again that brought it down; the others keep their outcomes. `timeout`
    is how long it may take from its first start, across restarts: then it ends with `WorkflowTimeoutError`,
    whatever it is doing. A worker that claims it `max_attempts` times in a row without its recording one more
    step ends it in ERROR. `strict` makes an error, `StepMismatchError`, of a recorded step that is called with
    other arguments than before.

    Raises `TypeError` and `ConfigurationError` as `step` does.
    """
    policy = policy_of(retry)
    limit = None if timeout is None else _positive_seconds("timeout", timeout)
    most = _checked_attempts(max_attempts)
    options = RunOptions(policy, limit, strict)

    def decorate(function: AsyncFunction[P, R]) -> Decorated[P, R]:
        _check_function(function, "workflow")
        own_name = _name_of(function) if name is None else name
        check_name("workflow name", own_name)
        returns = ReturnType(function)
        own_options = options._replace(returns=returns)

        @functools.wraps(function)
        async def wrapper(ctx: PyWorkflow, /, *args: P.args, **kwargs: P.kwargs) -> R:
            _check_context(ctx, function)
            return await ctx.run_body(lambda: function(ctx, *args, **kwargs), own_options)

        register(Definition(own_name, wrapper, returns, policy, limit, most, strict))
        return wrapper

    return decorate if function is None else decorate(function)


def _check_function(function: Callable[..., object], kind: str) -> None:
    if not inspect.iscoroutinefunction(function):
        hint = ", or `@step(thread=True)` for blocking code" if kind == "step" else ""
        raise TypeError(
            f"{qualified_name(function)} cannot be a {kind}: it must be an `async def` function{hint}."
        )
    _check_first_argument(function, kind)


def _check_plain(function: Callable[..., object]) -> None:
    if not callable(cast(object, function)) or inspect.iscoroutinefunction(function):
        raise TypeError(
            f"{qualified_name(function)} cannot be a step in a thread or an executor: it must be a plain `def` "
            "function."
        )


def _check_executor(executor: object) -> None:
    if not isinstance(executor, Executor) and not callable(executor):
        raise TypeError(
            "executor is a concurrent.futures.Executor, or a function that makes one, "
            f"not {type(executor).__name__}."
        )


def _positive_seconds(what: str, given: object) -> float:
    seconds = parse_seconds(what, given)
    if seconds <= 0:
        raise ConfigurationError(f"a {what} is more than 0, not {given} s.")
    return seconds


def _checked_attempts(given: object) -> int:
    if isinstance(given, bool) or not isinstance(given, int):
        raise TypeError(f"max_attempts is an int, not {type(given).__name__}.")
    if given < 1:
        raise ConfigurationError(f"max_attempts is at least 1, not {given}.")
    return given


def _names_of(function: Callable[..., object], *, without_context: bool) -> tuple[str, ...]:
    """Return the names of the parameters that can be given by position and by name, in order."""
    try:
        parameters = list(inspect.signature(function).parameters.values())[1 if without_context else 0 :]
    except ValueError:  # a function written in C that does not tell
        return ()
    return tuple(each.name for each in parameters if each.kind == each.POSITIONAL_OR_KEYWORD)


def _check_first_argument(function: Callable[..., object], kind: str) -> None:
    first = next(iter(inspect.signature(function).parameters.values()), None)
    if first is None or first.kind in {first.KEYWORD_ONLY, first.VAR_KEYWORD}:
        raise TypeError(
            f"{qualified_name(function)} cannot be a {kind}: its first argument must be the PyWorkflow."
        )
    annotation = _annotation(function, first)
    if isinstance(annotation, type) and annotation is not Any and not issubclass(PyWorkflow, annotation):
        raise TypeError(
            f"{qualified_name(function)} cannot be a {kind}: its first argument, {first.name!r}, must be a "
            f"PyWorkflow, not {annotation.__name__}."
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
            f"the first argument of {qualified_name(function)} must be a PyWorkflow, not {type(ctx).__name__}."
        )


def _name_of(function: Callable[..., object]) -> str:
    return str(getattr(function, "__name__", ""))
