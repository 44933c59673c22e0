"""The decorators `@workflow` and `@step`, which keep the signature of the decorated function."""

from __future__ import annotations

import builtins
import functools
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from datetime import timedelta
from types import CodeType
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeAlias, TypeVar, cast, overload

from pgqrs.codecs.annotations import ReturnType
from pgqrs.codecs.failures import is_terminal
from pgqrs.engine.calls.offload import ExecutorOffload, ExecutorSource, ThreadOffload
from pgqrs.engine.run import RunOptions
from pgqrs.retry import RetryPolicy, policy_of
from pgqrs.types import Batch
from pgqrs.validation import check_name, check_step_id, validate_positive_int, validate_seconds
from pgqrs.workflow.batching.plan import batched, check_is_no_batch
from pgqrs.workflow.compensation import STEP, Undo, UndoWhen, register_step, undoable
from pgqrs.workflow.context import PyWorkflow
from pgqrs.workflow.definition import Definition, qualified_name, register
from pgqrs.workflow.steps import Errors, StepCall, StepId, StepParts, attempts_of, keyed, step_call

P = ParamSpec("P")

R = TypeVar("R")

AsyncFunction: TypeAlias = Callable[Concatenate[PyWorkflow, P], Awaitable[R]]

PlainFunction: TypeAlias = Callable[Concatenate[PyWorkflow, P], R]

Decorated: TypeAlias = Callable[Concatenate[PyWorkflow, P], Coroutine[Any, Any, R]]

T = TypeVar("T")

BatchFunction: TypeAlias = Callable[[PyWorkflow, list[T]], Awaitable[R]]


class BatchDecorator(Protocol):
    """Makes a function of a list a workflow of one element of the list."""

    @overload
    def __call__(self, function: BatchFunction[T, None], /) -> Decorated[[T], None]: ...

    @overload
    def __call__(self, function: BatchFunction[T, Sequence[R]], /) -> Decorated[[T], R]: ...


class AnyFunction(Protocol):
    """A function of any signature.

    mypy infers only the common attributes of functions for a list of functions with different signatures.
    """

    @property
    def __name__(self) -> str:
        """The name of the function."""
        ...

    @property
    def __code__(self) -> CodeType:
        """The compiled body of the function."""
        ...


Key: TypeAlias = (
    Callable[[Any], object]
    | Callable[[Any, Any], object]
    | Callable[[Any, Any, Any], object]
    | Callable[[Any, Any, Any, Any], object]
)
"""The function that returns the key of a step.

There is one type for each number of parameters, because pyright otherwise infers no parameter types of a lambda.
"""


@overload
def step(function: AsyncFunction[P, R], /) -> Decorated[P, R]: ...


@overload
def step(
    *,
    id: str | None = None,
    key: Key,
    numbered: bool = False,
    terminal: Errors = (),
    transient: Errors = (),
    retry: int | RetryPolicy | None = None,
    timeout: float | timedelta | None = None,
    undo: Undo | None = None,
    undo_when: UndoWhen = "recorded",
    transactional: bool = False,
) -> Callable[[AsyncFunction[P, R]], Decorated[P, R]]: ...


@overload
def step(
    *,
    id: str | None = None,
    key: Key,
    numbered: bool = False,
    terminal: Errors = (),
    transient: Errors = (),
    retry: int | RetryPolicy | None = None,
    timeout: float | timedelta | None = None,
    undo: Undo | None = None,
    undo_when: UndoWhen = "recorded",
    thread: Literal[True],
) -> Callable[[PlainFunction[P, R]], Decorated[P, R]]: ...


@overload
def step(
    *,
    id: str | None = None,
    key: Key,
    numbered: bool = False,
    terminal: Errors = (),
    transient: Errors = (),
    retry: int | RetryPolicy | None = None,
    timeout: float | timedelta | None = None,
    undo: Undo | None = None,
    undo_when: UndoWhen = "recorded",
    executor: ExecutorSource,
) -> Callable[[Callable[P, R]], Decorated[P, R]]: ...


@overload
def step(
    *,
    id: str | None = None,
    key: Callable[..., object] | None = None,
    numbered: bool = False,
    terminal: Errors = (),
    transient: Errors = (),
    retry: int | RetryPolicy | None = None,
    timeout: float | timedelta | None = None,
    undo: Undo | None = None,
    undo_when: UndoWhen = "recorded",
    transactional: bool = False,
) -> Callable[[AsyncFunction[P, R]], Decorated[P, R]]: ...


@overload
def step(
    *,
    id: str | None = None,
    key: Callable[..., object] | None = None,
    numbered: bool = False,
    terminal: Errors = (),
    transient: Errors = (),
    retry: int | RetryPolicy | None = None,
    timeout: float | timedelta | None = None,
    undo: Undo | None = None,
    undo_when: UndoWhen = "recorded",
    thread: Literal[True],
) -> Callable[[PlainFunction[P, R]], Decorated[P, R]]: ...


@overload
def step(
    *,
    id: str | None = None,
    key: Callable[..., object] | None = None,
    numbered: bool = False,
    terminal: Errors = (),
    transient: Errors = (),
    retry: int | RetryPolicy | None = None,
    timeout: float | timedelta | None = None,
    undo: Undo | None = None,
    undo_when: UndoWhen = "recorded",
    executor: ExecutorSource,
) -> Callable[[Callable[P, R]], Decorated[P, R]]: ...


def step(
    function: Callable[..., Any] | None = None,
    /,
    *,
    id: str | None = None,  # noqa: A002  # the usual word for a step's id
    key: Callable[..., object] | None = None,
    numbered: bool = False,
    terminal: Errors = (),
    transient: Errors = (),
    retry: int | RetryPolicy | None = None,
    timeout: float | timedelta | None = None,
    undo: Undo | None = None,
    undo_when: UndoWhen = "recorded",
    thread: bool = False,
    executor: ExecutorSource | None = None,
    transactional: bool = False,
) -> Any:
    """Make a function a durable step: its outcome is recorded, and a replay returns the outcome without a call.

    The function is an ``async def``, and its first argument is the `PyWorkflow`. The codec must be able to encode
    the return value. A call of the step returns the value in its recorded form: with strict JSON a tuple becomes a
    list. A typed codec, such as `pgqrs.codecs.PydanticCodec`, encodes and decodes values of the annotated return
    type.

    Without a key and `numbered`, a second call in the same workflow replays the outcome of the first call. If its
    arguments differ, a warning is logged, or `StepMismatchError` is raised in a strict workflow.

    A method cannot be a step, because a replay in another process has no such object: `PyWorkflow.step` calls a
    method as a step.

    Blocking code is a plain ``def`` with `thread` or `executor`. A timeout or a cancellation cannot stop such a
    call: its later result is dropped.

    Args:
        function: The function, if the decorator is used without parentheses.
        id: The id of the step in its workflow, without ``:`` and ``/``. By default the name of the function.
        key: A function that distinguishes calls of the step: the step id becomes ``id:key``. It receives the
            arguments of the step without the context. It returns a str, int, bool, float, `Decimal`, `UUID`, date,
            time, datetime or `Enum` (which counts as its value), or a tuple of these types. ``%``, ``:`` and ``/``
            in a key are escaped.
        numbered: Whether each call is a step of its own, for calls in a loop: the step ids become ``/id:1``,
            ``/id:2``, ... in the order of the calls, and within a step ``STEP//id:1``. The number counts from the
            call, not from its ``await``, so calls that are gathered may end in any order. With a key, the calls of
            each key have numbers of their own: ``/id:key:1``. Tasks that make such calls concurrently need a key,
            because the order of their calls may differ in a replay. False by default.
        terminal: Exception classes that are terminal for this step, contrary to the default. By default
            `ValueError`, `TypeError`, `LookupError`, `ArithmeticError`, `AssertionError`, `AttributeError`,
            `NameError`, `NotImplementedError`, and database errors with an SQLSTATE of class 22 or 42 are
            terminal. All other errors are transient.
        transient: Exception classes that are transient for this step, contrary to the default.
        retry: A number of attempts, or a `RetryPolicy`. Transient errors are retried, and only the error of the
            last attempt becomes the outcome. Failed attempts are recorded, so they count across restarts. The
            recorded error of another step that this step calls is not retried. No retries by default.
        timeout: Seconds, or a `timedelta`, that bound each attempt. A late attempt fails with `StepTimeoutError`,
            which is transient, even if the function catches the cancellation and returns. No timeout by default.
        thread: Whether to call the function, a plain ``def``, in a thread of the library. False by default.
        executor: A `concurrent.futures.Executor`, or a function without arguments that returns one at the first
            use. The function, a plain ``def``, is called there *without* the `PyWorkflow`; callers still pass the
            `PyWorkflow` to the step. For a pool of processes the function must be at the top level of a module,
            and its arguments and result must be picklable.
        transactional: Whether the function runs in a database transaction. ``ctx.session`` is then an
            `AsyncSession`, one for each attempt. Its writes and the outcome commit together, once; an error rolls
            the writes back. `retry` also applies to serialization failures. The function must not commit the
            session; `begin_nested` creates savepoints. False by default.
        undo: The function that undoes the step when a saga (`PyWorkflow.saga`) around the call fails: an
            ``async def``, or a step, with its retries and its timeout. It receives the `PyWorkflow`, the value of
            the step, and the arguments of the step: by position, with the defaults; the keyword-only ones by
            name. None by default.
        undo_when: ``"recorded"``, the default, to undo the step if its value is recorded. ``"began"`` to undo it
            also if it began and has no value: it failed, was interrupted, or its process died. The undo then gets
            None as the value. Such a step has one more write, before it begins.

    Returns:
        The step, an ``async def`` with the arguments of the function after the `PyWorkflow`; or a decorator.

    Raises:
        TypeError: The function is not of the required kind, its first argument is annotated with another type than
            `PyWorkflow`, or the options exclude each other. A call of the step with another first argument raises
            it too.
        ConfigurationError: A number is out of range.
        InvalidNameError: The id is invalid. A call of the step raises it for a key of another type.
    """
    _check_place(thread=thread, executor=executor, transactional=transactional)
    undo_step = _as_step(undo)
    judge = functools.partial(is_terminal, terminal=terminal, transient=transient)
    attempts = attempts_of(retry, timeout, judge, queued=thread)

    def decorate(function: Callable[..., Any], named: Callable[..., str] | None = None) -> Decorated[..., Any]:
        """Return the step of a function; `named` returns the id of each call in place of the step's own id."""
        _check_is_no_method(function, "step")
        call = _async_call_of(function, thread=thread, executor=executor)
        step_id = _name_of(function) if id is None else id
        check_step_id(step_id, keyed=key is not None)
        acquire = functools.partial(_acquire_of, function)
        names = _names_of(function, without_context=executor is None)
        parts = StepParts(acquire, call, attempts, names, ReturnType(function), judge, transactional)
        ids: StepId = named or (step_id if key is None else functools.partial(_keyed, step_id, key))
        calls: Callable[[StepId], StepCall] = functools.partial(step_call, parts)
        if undo_step is not None and named is None:
            calls = undoable(calls, undo_step, undo_when, function=function, takes_context=executor is None)
        made = functools.wraps(function)(_numbered(calls, ids) if numbered and named is None else calls(ids))
        register_step(made, functools.partial(decorate, function))
        return cast("Decorated[..., Any]", made)

    return decorate if function is None else decorate(function)


def _as_step(undo: Undo | None) -> Undo | None:
    """Return the step that undoes another one: `undo` itself if it is a step."""
    return undo if undo is None or hasattr(undo, STEP) else step(undo)


def _check_place(*, thread: bool, executor: ExecutorSource | None, transactional: bool) -> None:
    if thread and executor is not None:
        raise TypeError("`thread` and `executor` exclude each other: pass only one of them.")
    if transactional and (thread or executor is not None):
        raise TypeError(
            "a transactional step must be an `async def` in the event loop, where its session runs: pass neither "
            "`thread` nor `executor`."
        )


def _keyed(step_id: str, key: Callable[..., object], /, *args: Any, **kwargs: Any) -> str:
    """Return the id of a call of a step with a key."""
    return keyed(step_id, key(*args, **kwargs))


def _async_call_of(
    function: Callable[..., Any], *, thread: bool, executor: ExecutorSource | None
) -> Callable[..., Awaitable[Any]]:
    """Return an async callable that calls a step's function with the context and the arguments of the step."""
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


def _numbered(calls: Callable[[StepId], StepCall], ids: StepId) -> StepCall:
    """Return the function that calls a numbered step; it is a plain function, which numbers the call at once."""

    def numbered(ctx: Any, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        own_id = ids if isinstance(ids, str) else ids(*args, **kwargs)
        if not issubclass(type(ctx), PyWorkflow):  # raises, or is a mock of a context, which numbers no calls
            return calls(own_id)(ctx, *args, **kwargs)
        context: PyWorkflow = ctx
        return context.call_numbered(own_id, calls)(ctx, *args, **kwargs)

    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(numbered)
    return numbered


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
    batch: Batch,
) -> BatchDecorator: ...


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
    batch: Batch | None = None,
) -> Any:
    """Make an ``async def`` a durable workflow: a call starts a run, runs the function and records its end.

    The first argument of the function is the `PyWorkflow`. The codec must be able to encode the return value.

    A call after an error or a crash replays the recorded steps and continues after them. A call after a success
    returns the recorded output, and the function does not run.

    Args:
        function: The function, if the decorator is used without parentheses.
        name: The name of the workflow in `Admin.run` and `Admin.enqueue`, at most 512 bytes of UTF-8. By default
            the name of the function.
        retry: A number of attempts, or a `RetryPolicy`. A transient error of the function is retried: the next
            attempt executes again the steps that caused the error, and replays all other steps. No retries by
            default.
        timeout: Seconds, or a `timedelta`, from the first start to the deadline, across restarts. At the deadline
            the run is interrupted and the workflow ends with `WorkflowTimeoutError`. The time begins anew when the
            workflow continues as new. No timeout by default.
        max_attempts: Maximum claims in a row without a newly recorded step; 20 by default. A worker ends a
            workflow beyond this number as ERROR.
        strict: Whether a recorded step that is called with other arguments than before raises
            `StepMismatchError`. By default such a call logs a warning.
        batch: A `Batch`, as in ``batch=Batch(100, within=2.0)``: one run executes up to 100 submissions. The
            function has one argument besides the context, the list of the submissions, and returns a list with one
            element for each of them, or None. An application submits single elements, each of which is a workflow
            with a result of its own. No batches by default.

    Returns:
        The workflow, an ``async def`` with the arguments of the function; or a decorator.

    Raises:
        TypeError: The function is not an ``async def``, or its first argument is annotated with another type than
            `PyWorkflow`. A call of the workflow with another first argument raises it too. With `batch`, the
            function has not exactly one argument besides the context, or a submission is called by hand.
        ConfigurationError: A number is out of range.
        InvalidNameError: The name cannot be stored, or ends with ``"/batch"``.
    """
    policy = policy_of(retry)
    limit = validate_seconds("timeout", timeout, positive=True)
    most = validate_positive_int("max_attempts", max_attempts)
    options = RunOptions(policy, limit, strict)

    def decorate(function: AsyncFunction[P, R]) -> Callable[..., Any]:
        _check_is_no_method(function, "workflow")
        _check_function(function, "workflow")
        own_name = _name_of(function) if name is None else name
        check_name("workflow name", own_name)
        check_is_no_batch(own_name)
        if batch is not None:
            return register(replace(batched(function, own_name, batch, options), max_attempts=most))
        returns = ReturnType(function)
        own_options = options._replace(returns=returns)

        @functools.wraps(function)
        async def wrapper(ctx: PyWorkflow, /, *args: P.args, **kwargs: P.kwargs) -> R:
            _check_context(ctx, function)
            return await ctx.run_body(function, args, kwargs, own_options)

        return register(Definition(own_name, wrapper, returns, policy, limit, most, strict))

    return decorate if function is None else decorate(function)


def _check_is_no_method(function: Callable[..., object], kind: str) -> None:
    try:
        first = next(iter(inspect.signature(function).parameters.values()), None)
    except (TypeError, ValueError):  # no function, or one written in C without a signature
        return
    if first is None or first.name not in {"self", "cls"} or _annotation(function, first) is PyWorkflow:
        return
    advice = (
        f"call the method by `ctx.step`, as in `await ctx.step({_name_of(function)!r}, lambda: self.call())`"
        if kind == "step"
        else "a worker finds it by its name alone, and has no object"
    )
    raise TypeError(
        f"{qualified_name(function)} is a method, which cannot be a {kind}: write a function whose first argument "
        f"is the PyWorkflow, and pass it the data of the object; {advice}."
    )


def _check_function(function: Callable[..., object], kind: str) -> None:
    if not inspect.iscoroutinefunction(function):
        hint = "; use `@step(thread=True)` for blocking code" if kind == "step" else ""
        raise TypeError(f"{qualified_name(function)} must be an `async def` function to be a {kind}{hint}.")
    _check_first_argument(function, kind)


def _check_plain(function: Callable[..., object]) -> None:
    if not callable(cast(object, function)) or inspect.iscoroutinefunction(function):
        raise TypeError(
            f"{qualified_name(function)} must be a plain `def` function to be a step in a thread or an executor."
        )


def _check_executor(executor: object) -> None:
    if not isinstance(executor, Executor) and not callable(executor):
        raise TypeError(
            "`executor` must be a concurrent.futures.Executor, or a function that returns one, got "
            f"{type(executor).__name__}."
        )


def _names_of(function: Callable[..., object], *, without_context: bool) -> tuple[str, ...]:
    """Return the names of the parameters that accept an argument by position and by name, in order."""
    try:
        parameters = list(inspect.signature(function).parameters.values())[1 if without_context else 0 :]
    except ValueError:  # a function written in C without a signature
        return ()
    return tuple(each.name for each in parameters if each.kind == each.POSITIONAL_OR_KEYWORD)


def _check_first_argument(function: Callable[..., object], kind: str) -> None:
    first = next(iter(inspect.signature(function).parameters.values()), None)
    if first is None or first.kind in {first.KEYWORD_ONLY, first.VAR_KEYWORD}:
        raise TypeError(
            f"{qualified_name(function)} must take the PyWorkflow as its first argument to be a {kind}."
        )
    annotation = _annotation(function, first)
    if isinstance(annotation, type) and annotation is not Any and not issubclass(PyWorkflow, annotation):
        raise TypeError(
            f"the first argument of the {kind} {qualified_name(function)}, {first.name!r}, must be annotated as "
            f"PyWorkflow, got {annotation.__name__}."
        )


def _annotation(function: Callable[..., object], parameter: inspect.Parameter) -> object:
    """Return the annotation of a parameter; a name that is not defined yet stays a string."""
    annotation: object = parameter.annotation
    if annotation is parameter.empty:
        return None
    if isinstance(annotation, str):
        names = getattr(inspect.unwrap(function), "__globals__", {})
        return getattr(builtins, annotation, names.get(annotation, annotation))
    return annotation


def _acquire_of(function: Callable[..., object], ctx: Any) -> Callable[..., Any]:
    """Return the function that acquires a step in a context, with the arguments of `PyWorkflow.acquire_call`."""
    if issubclass(type(ctx), PyWorkflow):
        return cast("Callable[..., Any]", ctx.acquire_call)
    _check_context(ctx, function)

    def acquire(step_id: str, *_call: object) -> Any:
        # A mock of a context, as in the unit tests of a workflow's steps, knows the public call only.
        return ctx.acquire_step(step_id)

    return acquire


def _check_context(ctx: object, function: Callable[..., object]) -> None:
    if not isinstance(ctx, PyWorkflow):
        raise TypeError(
            f"the first argument of {qualified_name(function)} must be a PyWorkflow, got {type(ctx).__name__}."
        )


def _name_of(function: Callable[..., object]) -> str:
    return str(getattr(function, "__name__", ""))
