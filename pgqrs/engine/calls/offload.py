"""Calls the functions of steps in threads, processes or `concurrent.futures` executors of the application."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, TypeAlias, TypeVar, cast

from pgqrs.engine.calls.thread_pool import MAX_ABANDONED, step_threads
from pgqrs.errors import TransientError

R = TypeVar("R")

ExecutorSource: TypeAlias = Executor | Callable[[], Executor]

_logger = logging.getLogger("pgqrs.engine")


class ThreadOffload:
    """Calls a step's plain function in a thread of pgqrs, with the caller's context variables.

    A thread cannot be stopped. If the caller stops waiting first, the result of the function is discarded.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, ctx: Any, /, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Return an awaitable that calls the function and returns its value."""
        return self.timed(ctx, args, kwargs)

    async def timed(
        self,
        ctx: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        begun: Callable[[], object] | None = None,
    ) -> Any:
        """Call the function and return its value; `begun` is called in the event loop when a thread begins."""
        threads = step_threads(os.getpid())  # by process: a forked child has no threads of its parent
        run = copy_context().run
        function = self._function
        call = threads.submit(
            lambda: run(call_function, function, (ctx, *args), kwargs),
            begun and partial(_notify, asyncio.get_running_loop(), begun),
        )
        try:
            return await _result_of(call.future)
        except asyncio.CancelledError:
            if (left := threads.leave(call)) is not None:
                self._warn(ctx, left)
            raise

    def _warn(self, ctx: Any, left: int) -> None:
        _logger.warning(
            "%s of workflow %s still executes in its thread after its timeout or cancellation (%d such calls in "
            "this process). A thread cannot be stopped: give the function a time limit of its own.%s",
            getattr(self._function, "__qualname__", self._function),
            ctx.id(),
            left,
            " Each further such call blocks a thread that other steps need." if left > MAX_ABANDONED else "",
            extra={"workflow_id": ctx.id()},
        )


def _notify(loop: asyncio.AbstractEventLoop, begun: Callable[[], object]) -> None:
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(begun)


class ExecutorOffload:
    """Calls a step's plain function in a `concurrent.futures` executor of the application.

    A callable as the source creates the executor at the first call, and creates another one after a
    `BrokenExecutor` error.
    """

    def __init__(self, source: ExecutorSource) -> None:
        self._source = source
        self._made: Executor | None = source if isinstance(source, Executor) else None

    async def run(self, function: Callable[..., R], _ctx: Any, /, *args: Any, **kwargs: Any) -> R:
        """Call the function in the executor, without the context, and return its value."""
        executor = self._executor()
        shipped = function if isinstance(executor, ThreadPoolExecutor) else FunctionReference(function, executor)
        try:
            # A tuple and a dict: an executor could take a keyword argument of the function for its own option.
            return await _result_of(executor.submit(call_function, shipped, args, kwargs))
        except BrokenExecutor:
            if self._made is not self._source:
                self._made = None
            raise

    def _executor(self) -> Executor:
        if self._made is None:
            assert not isinstance(self._source, Executor)  # noqa: S101  # `_made` holds it from the start
            made = self._source()
            if not isinstance(cast(object, made), Executor):
                raise TypeError(
                    f"`executor` must be a concurrent.futures.Executor or return one, got {type(made).__name__}. "
                    "Return an executor from the function that `@step(executor=...)` names."
                )
            self._made = made
        return self._made


class FunctionReference:
    """A picklable reference to a step's plain function, for another process.

    Where possible the reference is pickled as a name. The other process looks up the name, finds the decorated
    step and unwraps it. Pickling the plain function directly fails, because its name refers to the decorated step.
    A function that the other process cannot look up is pickled itself, because some executors can pickle any
    function: a local function, or a function of `__main__` outside a `ProcessPoolExecutor`.
    """

    def __init__(self, function: Callable[..., Any], executor: Executor) -> None:
        self._function = function
        self.__name__ = str(getattr(function, "__name__", "step"))  # executors display it
        self.__dask_tokenize__ = os.urandom(16).hex  # Dask merges calls with equal tokens, even a retry
        main_is_there = isinstance(executor, ProcessPoolExecutor)
        self._by_name = _is_found(function) and (main_is_there or function.__module__ != "__main__")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function and return its value."""
        return self._function(*args, **kwargs)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Return the pickled form: the name of the function, or the function itself."""
        if self._by_name:
            return find_function, (self._function.__module__, self._function.__qualname__)
        return _identity, (self._function,)


def find_function(module: str, qualname: str) -> Callable[..., Any]:
    """Import the module and return the plain function of the step with this name."""
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found.__wrapped__  # type: ignore[no-any-return]


def _is_found(function: Callable[..., Any]) -> bool:
    try:
        return find_function(function.__module__, function.__qualname__) is function
    except (AttributeError, ImportError):
        return False


def _identity(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def call_function(function: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
    """Call a function; raise `RuntimeError` for a `StopIteration`, which a future cannot hold."""
    try:
        return function(*args, **kwargs)
    except StopIteration as error:
        raise RuntimeError(
            "the step raised StopIteration, which cannot be recorded; raise another exception"
        ) from error


async def _result_of(future: Future[R]) -> R:
    task = asyncio.current_task()
    before = 0 if task is None else task.cancelling()
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        if future.cancelled() and task is not None and task.cancelling() == before:
            raise TransientError("the executor of the step cancelled its call; a retry calls it again.") from None
        raise
