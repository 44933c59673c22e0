"""Calls the function of a step, with its retries and its timeout."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar

from pgqrs.errors import StepTimeoutError
from pgqrs.retry import RetryPolicy

R = TypeVar("R")

Call: TypeAlias = Callable[..., Awaitable[R]]

Around: TypeAlias = Callable[[Call[R]], Awaitable[Any]]


class Guard(Protocol):
    """The part of a step's guard that the attempts use."""

    async def wait_for_retry(self) -> None:
        """Wait until the next attempt is due."""
        ...

    async def retry(self, error: Exception, policy: RetryPolicy, /) -> bool:
        """Record a failed attempt and wait until the next is due; return False if the step is not retried."""
        ...


class AttemptRunner:
    """The retry policy and the timeout of a step, applied to the calls of its function.

    Args:
        policy: The retry policy; None for a single attempt.
        timeout: Maximum seconds of each call; None for no limit.
        is_terminal: Returns whether an error must not be retried.
        queued: True if a call first waits for a thread. The call then takes an argument `begun`, a function that
            it calls when the thread begins, and the timeout counts from there.
    """

    __slots__ = ("_is_terminal", "_policy", "_queued", "_timeout")

    def __init__(
        self,
        policy: RetryPolicy | None,
        timeout: float | None,
        is_terminal: Callable[[BaseException], bool],
        *,
        queued: bool = False,
    ) -> None:
        self._policy = policy
        self._timeout = timeout
        self._queued = queued
        self._is_terminal = is_terminal

    async def run(self, call: Call[R], around: Around[R] | None, ctx: Any, step_id: str, guard: Guard) -> Any:
        """Return the value of the first successful call, or raise the error of the last call.

        `around` executes a call within a transaction; None calls directly.
        """
        if self._policy is None:
            return await self._called(call, around, ctx, step_id)
        await guard.wait_for_retry()
        while True:
            try:
                return await self._called(call, around, ctx, step_id)
            except Exception as error:
                if self._is_terminal(error):
                    raise
                failed = error
            # Compare with True: the mocked guard of a test returns a mock, which is truthy, and the loop would
            # never end.
            if (await guard.retry(failed, self._policy)) is not True:
                raise failed

    async def _called(self, call: Call[R], around: Around[R] | None, ctx: Any, step_id: str) -> Any:
        if self._timeout is None:
            return await (call() if around is None else around(call))
        bound = asyncio.timeout(None if self._queued else self._timeout)
        timed = partial(call, begun=partial(_begin, bound, self._timeout)) if self._queued else call

        async def in_time() -> R:
            value = await timed()
            if bound.expired():  # the function caught the cancellation and returned late
                raise TimeoutError
            return value

        try:
            async with bound:
                return await (in_time() if around is None else around(in_time))
        except TimeoutError as error:
            if not bound.expired():
                raise
            raise StepTimeoutError(ctx.id(), step_id, self._timeout) from error


def _begin(bound: asyncio.Timeout, seconds: float) -> None:
    """Start the timeout of a call whose thread has begun; ignore a call that is already over."""
    with suppress(RuntimeError):
        bound.reschedule(asyncio.get_running_loop().time() + seconds)
