"""What a record's writer waits for, and how it goes on without the event loop's help."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any, TypeAlias

Wakeup: TypeAlias = Callable[["WriteFuture"], object]

Waiting: TypeAlias = tuple[Context, Wakeup, "WriteFuture"]
"""Whoever waits for an answer that is settled: the context that the wakeup is to be called in with the answer."""


class WriteFuture(asyncio.Future[Any]):
    """A future of one waiter, a task, which can be woken by hand.

    Any other future has the loop wake its waiter, which takes some hundredths of a lone commit, and as much of a
    record's time in a large batch.
    """

    # Let go of as soon as it is of no use: it holds the task, and a task that fails holds what it waited for.
    __slots__ = ("_waiter",)
    _waiter: tuple[Wakeup, Context] | None

    def add_done_callback(self, fn: Wakeup, /, *, context: Context | None = None) -> None:
        """Have `fn` called once there is a result; what a task adds, with its context, can be called by hand."""
        if context is not None:
            self._waiter = fn, context
        super().add_done_callback(fn, context=context)

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel it, as any other future."""
        self._waiter = None
        return super().cancel(msg)

    def resolve(self, verdict: Any) -> None:
        """Give the waiter the verdict, as `settle` does: it goes on in the loop's next turn."""
        self._waiter = None
        resolve(self, verdict)

    def resolve_now(self, verdict: Any) -> Waiting | None:
        """Settle it, and return who is to be woken; None where nobody waits yet, or any more."""
        waiter = getattr(self, "_waiter", None)
        if waiter is None:
            self.resolve(verdict)
            return None
        fn, context = waiter
        self._waiter = None
        self.remove_done_callback(fn)
        resolve(self, verdict)
        return context, fn, self


def resolve(waiter: asyncio.Future[Any], verdict: Any) -> None:
    """Give a waiter the verdict, an exception to be raised there, unless it has stopped waiting."""
    if waiter.done():
        return
    if isinstance(verdict, BaseException):
        waiter.set_exception(verdict)
    else:
        waiter.set_result(verdict)


class Waker:
    """Wakes those who wait for the answers of an event loop's journal.

    One whose record went alone is woken within the step of the task that wrote it. Those of a batch go on in the
    loop's next turn, as they would without it, but the loop has one thing to do instead of one for each.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._by_hand = True
        self._lone: list[Waiting] = []
        self._told: deque[Waiting] = deque()
        self._is_to_wake = False
        self.alone = False
        """Whether a record is under way that goes alone: who waits for it is woken by `step_aside`."""

    def expect(self, *, alone: bool) -> None:
        """See whether those who wait for a batch can be woken by hand; `alone` tells that it is a single record.

        `nest_asyncio` runs the loop within a task, and what that waits for must not be beneath it on the stack. In
        its debug mode the loop tells whose step was slow, and cannot of those that it does not see.
        """
        self._by_hand = not (hasattr(self._loop, "_nest_patched") or self._loop.get_debug())
        self.alone = alone
        if self._told:
            # Their callback is mostly due. But an interrupt can strike where the loop has let go of it and it has
            # not begun: then they would wait for ever.
            self._is_to_wake = False
            self._see_to_wake()

    def resolve(self, answer: WriteFuture, verdict: Any) -> None:
        """Settle what somebody waits for."""
        if not self._by_hand:
            answer.resolve(verdict)
        elif (waiting := answer.resolve_now(verdict)) is None:
            return
        elif self.alone and not self._lone:
            self._lone.append(waiting)
        else:
            self._told.append(waiting)
            self._see_to_wake()

    def resume_inline(self, task: asyncio.Task[Any]) -> None:
        """Let whoever waits for a record that went alone take its step, within that of the running `task`."""
        self.alone = False
        if self._lone:
            resume_inline(task, self._lone)

    def _see_to_wake(self) -> None:
        if not self._is_to_wake:
            self._is_to_wake = True
            self._loop.call_soon(self._wake_told)

    def _wake_told(self) -> None:
        # Before anybody is woken: where that runs the loop within its step, those who are told there need a turn.
        self._is_to_wake = False
        try:
            while self._told:
                _wake(self._told.popleft)
        finally:
            if self._told:  # an interrupt, or an exit, of a task came out here
                self._see_to_wake()


def _wake(next_one: Callable[[], Waiting]) -> None:
    context, fn, answer = next_one()
    try:
        context.run(fn, answer)
    finally:
        # An exception that is raised there may keep this frame for as long as somebody keeps it.
        del context, fn, answer


def resume_inline(task: asyncio.Task[Any], waiting: list[Waiting]) -> None:
    """Let another task, the last of those `waiting`, take its step within that of the running one.

    The two hooks are asyncio's, for whoever implements tasks: "Extending", in Python's manual.
    """
    loop = task.get_loop()
    asyncio._leave_task(loop, task)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    try:
        _wake(waiting.pop)
    finally:
        asyncio._enter_task(loop, task)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
