"""Steps whose functions run in threads, processes or other executors."""

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

from pgqrs.engine.thread_pool import MAX_ABANDONED, step_threads
from pgqrs.errors import TransientError

R = TypeVar("R")

ExecutorSource: TypeAlias = Executor | Callable[[], Executor]

_logger = logging.getLogger("pgqrs")


class ThreadOffload:
    """Calls a step's plain function in a thread of the library's, with the caller's context variables.

    Nothing can stop the thread: where the waiting ends before it does, what the function returns is dropped.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, ctx: Any, /, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Call the function, and return what it returns."""
        return self.timed(ctx, args, kwargs)

    async def timed(
        self,
        ctx: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        begun: Callable[[], object] | None = None,
    ) -> Any:
        """Call the function, and return what it returns; `begun` is called when a thread begins with it."""
        threads = step_threads(os.getpid())  # a forked child has none of its parent's
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
            "%s of workflow %s still executes in its thread after its timeout or cancellation, as %d calls do "
            "now. Nothing can stop a thread: give the function a time limit of its own.%s",
            getattr(self._function, "__qualname__", self._function),
            ctx.id(),
            left,
            " With so many, each keeps a thread from other steps." if left > MAX_ABANDONED else "",
        )


def _notify(loop: asyncio.AbstractEventLoop, begun: Callable[[], object]) -> None:
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(begun)


class ExecutorOffload:
    """Calls a step's plain function in an executor of the application's.

    One that is made by a callable is made at the first call, and again when it broke.
    """

    def __init__(self, source: ExecutorSource) -> None:
        self._source = source
        self._made: Executor | None = source if isinstance(source, Executor) else None

    async def run(self, function: Callable[..., R], _ctx: Any, /, *args: Any, **kwargs: Any) -> R:
        """Call the function there, without the context, and return what it returns."""
        executor = self._executor()
        shipped = function if isinstance(executor, ThreadPoolExecutor) else FunctionReference(function, executor)
        try:
            # As a tuple and a dict, so that no executor takes an argument of the function's for one of its own.
            return await _result_of(executor.submit(call_function, shipped, args, kwargs))
        except BrokenExecutor:
            if self._made is not self._source:
                self._made = None
            raise

    def _executor(self) -> Executor:
        if self._made is None:
            assert not isinstance(self._source, Executor)  # noqa: S101  # that was made from the start
            made = self._source()
            if not isinstance(cast(object, made), Executor):
                raise TypeError(f"the executor of a step must be an Executor, not {type(made).__name__}.")
            self._made = made
        return self._made


class FunctionReference:
    """A step's plain function on its way to another process.

    It goes by its name, under which the other process finds what `@step` made of it; pickle would refuse it,
    because that is not the function itself. What a process of its own kind only could find goes as it is, for
    those executors that can pickle any function.
    """

    def __init__(self, function: Callable[..., Any], executor: Executor) -> None:
        self._function = function
        self.__name__ = str(getattr(function, "__name__", "step"))  # executors show it
        self.__dask_tokenize__ = os.urandom(16).hex  # Dask takes calls of one token for one, a retry too
        main_is_there = isinstance(executor, ProcessPoolExecutor)
        self._by_name = _is_found(function) and (main_is_there or function.__module__ != "__main__")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self._function(*args, **kwargs)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Return the function's name, or the function."""
        if self._by_name:
            return find_function, (self._function.__module__, self._function.__qualname__)
        return _identity, (self._function,)


def find_function(module: str, qualname: str) -> Callable[..., Any]:
    """Return the plain function behind the step of this name; imports the module."""
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
    """Call a function; a future cannot hold a `StopIteration`, which becomes what a coroutine makes of it."""
    try:
        return function(*args, **kwargs)
    except StopIteration as error:
        raise RuntimeError("the step raised StopIteration") from error


async def _result_of(future: Future[R]) -> R:
    task = asyncio.current_task()
    before = 0 if task is None else task.cancelling()
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        if future.cancelled() and task is not None and task.cancelling() == before:
            raise TransientError("the executor of the step has given it up.") from None
        raise
