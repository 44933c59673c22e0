"""What a record's writer waits for, and how it goes on without a turn of the event loop in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import Any, TypeAlias

Wakeup: TypeAlias = Callable[["Answer"], object]


class Answer(asyncio.Future[Any]):
    """A future of one waiter, a task, which can be woken by hand.

    Any other future wakes its waiter in the loop's next turn, which takes some hundredths of a lone commit.
    """

    # Let go of as soon as it is of no use: it holds the task, and a task that fails holds what it waited for.
    _waiter: tuple[Wakeup, Context] | None = None

    def add_done_callback(self, fn: Wakeup, /, *, context: Context | None = None) -> None:
        """Have `fn` called once there is a result; what a task adds, with its context, can be called by hand."""
        if context is not None:
            self._waiter = fn, context
        super().add_done_callback(fn, context=context)

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel it, as any other future."""
        self._waiter = None
        return super().cancel(msg)

    def settle(self, verdict: Any) -> None:
        """Give the waiter the verdict, as `settle` does: it goes on in the loop's next turn."""
        self._waiter = None
        settle(self, verdict)

    def settle_by_hand(self, verdict: Any) -> Callable[[], object] | None:
        """Settle it, and return what wakes the waiter; None where nobody waits yet, or any more."""
        if self._waiter is None:
            self.settle(verdict)
            return None
        fn, context = self._waiter
        self.remove_done_callback(fn)
        self.settle(verdict)
        run: Callable[..., object] = context.run
        return partial(run, fn, self)


def settle(waiter: asyncio.Future[Any], verdict: Any) -> None:
    """Give a waiter the verdict, an exception to be raised there, unless it has stopped waiting."""
    if waiter.done():
        return
    if isinstance(verdict, Exception):
        waiter.set_exception(verdict)
    else:
        waiter.set_result(verdict)


def step_aside(task: asyncio.Task[Any], wakes: list[Callable[[], object]]) -> None:
    """Let another task, the last of `wakes`, take its step within that of the running one.

    The two hooks are asyncio's, for whoever implements tasks: "Extending", in Python's manual.
    """
    loop = task.get_loop()
    asyncio._leave_task(loop, task)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    try:
        # In no variable: an exception that is raised there may keep this frame for as long as somebody keeps it.
        wakes.pop()()
    finally:
        asyncio._enter_task(loop, task)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
