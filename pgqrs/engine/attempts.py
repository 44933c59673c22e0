"""The attempts of a step: its calls, their retries and their time limits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar

from pgqrs.errors import StepTimeoutError
from pgqrs.retry import RetryPolicy

R = TypeVar("R")

Call: TypeAlias = Callable[..., Awaitable[R]]

Around: TypeAlias = Callable[[Call[R]], Awaitable[Any]]

_logger = logging.getLogger("pgqrs")


class Guard(Protocol):
    """The guard of the step, as far as its attempts need it."""

    async def wait_for_retry(self) -> None:
        """Wait until the next attempt is due."""
        ...

    async def retry(self, error: Exception, policy: RetryPolicy, /) -> bool:
        """Record a failed attempt, wait for the next, and return whether there is one."""
        ...


class AttemptRunner:
    """How often, and how long, a step's function is called; `timeout` bounds each call, in seconds.

    With `queued` a call has to wait for a thread first: it takes a function, `begun`, that tells when it begins.
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
        """Return what the first call returns that succeeds; raise the error of the last one.

        `around` carries a call out, in a transaction.
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
            # A guard that a test has mocked answers with a mock, and that is true: it would go on for ever.
            if (await guard.retry(failed, self._policy)) is not True:
                raise failed

    async def _called(self, call: Call[R], around: Around[R] | None, ctx: Any, step_id: str) -> Any:
        if self._timeout is None:
            return await (call() if around is None else around(call))
        bound = asyncio.timeout(None if self._queued else self._timeout)
        timed = partial(call, begun=partial(_begin, bound, self._timeout)) if self._queued else call

        async def in_time() -> R:
            value = await timed()
            if bound.expired():  # the function has caught the cancellation, and returned late
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
    """Begin to count the time of a call that has waited for a thread; it may be over already."""
    with suppress(RuntimeError):
        bound.reschedule(asyncio.get_running_loop().time() + seconds)
