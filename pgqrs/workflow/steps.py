"""Calls of steps: each replays the recorded outcome of its step, or executes the step and records its outcome."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias, cast

from pgqrs.codecs.annotations import BodyType, ReturnType
from pgqrs.codecs.failures import is_terminal
from pgqrs.engine.calls.attempts import AttemptRunner
from pgqrs.engine.calls.offload import ThreadOffload
from pgqrs.engine.replay.fingerprint import captured_by, fingerprint_of
from pgqrs.retry import RetryPolicy, policy_of
from pgqrs.types import StepAction
from pgqrs.validation import check_step_id, key_text, validate_seconds
from pgqrs.workflow.guard import StepGuard

Errors: TypeAlias = tuple[type[Exception], ...]

StepCall: TypeAlias = Callable[..., Coroutine[Any, Any, Any]]
"""Calls a step: it takes the context and the arguments of the step."""

StepId: TypeAlias = str | Callable[..., str]
"""The id of a step, or a function that returns the id from the arguments of a call."""


class StepContext(Protocol):
    """The part of a context that the calls of steps use."""

    @property
    def is_typed(self) -> bool:
        """True for a typed codec."""
        ...

    async def acquire_call(
        self, step_id: str, fingerprint: int | None = None, returns: ReturnType | None = None
    ) -> Any:
        """Acquire a step."""
        ...

    def call_numbered(self, step_id: str, call: Callable[[str], StepCall]) -> StepCall:
        """Return the call for the next number of a step."""
        ...


class StepParts(NamedTuple):
    """The parts of a step that all its calls share.

    Attributes:
        acquire: Returns the function that acquires a step in a context, with the arguments of
            `PyWorkflow.acquire_call`.
        call: Calls the function of the step with the context and the arguments.
        attempts: The retry policy and the timeout; None for a plain call.
        names: The names of the parameters, for the fingerprint of the arguments.
        returns: The return type of the step.
        is_terminal: Returns whether an error of the step is terminal.
        transactional: True if the step is executed in a database transaction.
    """

    acquire: Callable[[Any], Callable[..., Any]]
    call: Callable[..., Awaitable[Any]]
    attempts: AttemptRunner | None
    names: tuple[str, ...]
    returns: ReturnType
    is_terminal: Callable[[BaseException], bool]
    transactional: bool = False


def attempts_of(
    retry: int | RetryPolicy | None,
    timeout: float | timedelta | None,
    judge: Callable[[BaseException], bool],
    *,
    queued: bool = False,
) -> AttemptRunner | None:
    """Check the retry policy and the timeout of a step, and return their runner; None for a plain call.

    Raises as `@step` does.
    """
    policy = policy_of(retry)
    limit = validate_seconds("timeout", timeout, positive=True)
    return None if policy is None and limit is None else AttemptRunner(policy, limit, judge, queued=queued)


def keyed(step_id: str, key: object) -> str:
    """Return the id of a step with a key."""
    return f"{step_id}:{key_text(key)}"


def step_call(parts: StepParts, ids: StepId) -> StepCall:
    """Return the function that calls a step of this id."""
    # Variables of the closure: attributes of the tuple would cost more at each call.
    acquire_of, call, _, names, returns, judge, transactional = parts
    step_id, named = (ids, None) if isinstance(ids, str) else ("", ids)
    execute = _attempted(parts) if parts.attempts is not None or transactional else None

    async def wrapper(ctx: Any, /, *args: Any, **kwargs: Any) -> Any:
        acquire = acquire_of(ctx)
        own_id = step_id if named is None else named(*args, **kwargs)
        fingerprint = fingerprint_of(args, kwargs, names, by_content=ctx.is_typed)
        acquired = await acquire(own_id, fingerprint, returns)
        if acquired.status == StepAction.SKIPPED:
            return acquired.value
        guard = acquired.guard
        try:
            if execute is None:
                value = await call(ctx, *args, **kwargs)
            else:
                value = await execute(guard, own_id, ctx, args, kwargs)
        except Exception as error:
            if transactional and guard.is_committed:  # the timeout fired after the commit
                return guard.committed_value()
            await guard.fail(error, transient=not judge(error))
            raise
        except BaseException as crash:
            guard.abandon(crash)
            raise
        return value if transactional else await guard.success(value)

    return wrapper


def _attempted(parts: StepParts) -> Callable[..., Awaitable[Any]]:
    """Return a callable that executes a step with retries, a timeout or a transaction."""
    _, call, attempts, _, _, _, transactional = parts

    def execute(
        guard: StepGuard, step_id: str, ctx: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Awaitable[Any]:
        attempt: Callable[..., Awaitable[Any]]
        if isinstance(call, ThreadOffload):
            attempt = partial(call.timed, ctx, args, kwargs)
        else:
            attempt = partial(call, ctx, *args, **kwargs)
        around = guard.transact if transactional else None
        if attempts is not None:
            return attempts.run(attempt, around, ctx, step_id, guard)
        return attempt() if around is None else around(attempt)

    return execute


def call_body(
    ctx: StepContext,
    name: str,
    body: Callable[[], Awaitable[Any]],
    *,
    key: object,
    numbered: bool,
    errors: tuple[Errors, Errors],
    retry: int | RetryPolicy | None,
    timeout: float | timedelta | None,
    returns: object,
) -> Coroutine[Any, Any, Any]:
    """Return the call of a step whose function is `body`; see `PyWorkflow.step`.

    `errors` are the exception classes that are terminal and transient for this step.
    """
    check_step_id(name, keyed=key is not None)
    own_id = name if key is None else keyed(name, key)
    _check_body(name, body)
    terminal, transient = errors
    judge = partial(is_terminal, terminal=terminal, transient=transient)
    parts = StepParts(
        _acquire_of,
        partial(_awaited, name, body),
        attempts_of(retry, timeout, judge),
        (),
        BodyType(body, returns, is_typed=ctx.is_typed),
        judge,
    )
    if numbered:
        called = ctx.call_numbered(own_id, lambda each: step_call(parts, each))(ctx)
    else:
        # The variables of the body are its arguments: a second call with other variables is noticed.
        called = step_call(parts, own_id)(ctx, *(captured_by(body) if key is None else ()))
    # The warning that a coroutine was never awaited names the step.
    cast(Any, called).__qualname__ = f"PyWorkflow.step({name!r})"
    return called


def _acquire_of(ctx: StepContext) -> Callable[..., Any]:
    return ctx.acquire_call


def _check_body(name: str, body: object) -> None:
    if callable(body):
        return
    if inspect.iscoroutine(body):
        body.close()
    raise TypeError(
        f"the body of step {name!r} must be a function without arguments, got {type(body).__name__}: a step that "
        f"has an outcome is not called. Write `ctx.step({name!r}, lambda: function(...))`."
    )


async def _awaited(name: str, body: Callable[[], Awaitable[Any]], _ctx: object, *_captured: object) -> Any:
    found = body()
    if not isinstance(cast(object, found), Awaitable):
        raise TypeError(
            f"the body of step {name!r} must return an awaitable, got {type(found).__name__}: pass an `async def`"
            ", or a lambda that calls one. For blocking code decorate a function with `@step(thread=True)`."
        )
    return await found
