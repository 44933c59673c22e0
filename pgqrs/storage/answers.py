"""What a record's writer waits for, and how it goes on without a turn of the event loop in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any, TypeAlias

Wakeup: TypeAlias = Callable[["Answer"], object]


class Answer(asyncio.Future[Any]):
    """A future of one waiter, a task, which can be woken by hand.

    Any other future wakes its waiter in the loop's next turn, which takes some hundredths of a lone commit.
    """

    _waiter: tuple[Wakeup, Context] | None = None

    def add_done_callback(self, fn: Wakeup, /, *, context: Context | None = None) -> None:
        """Have `fn` called once there is a result; what a task adds, with its context, can be called by hand."""
        if context is not None:
            self._waiter = fn, context
        super().add_done_callback(fn, context=context)

    def settle_by_hand(self, verdict: Any) -> Callable[[], object] | None:
        """Settle it, and return what wakes the waiter; None where nobody waits yet, or any more."""
        if self.done() or self._waiter is None:
            settle(self, verdict)
            return None
        fn, context = self._waiter
        self.remove_done_callback(fn)
        settle(self, verdict)
        return lambda: context.run(fn, self)


def settle(waiter: asyncio.Future[Any], verdict: Any) -> None:
    """Give a waiter the verdict, an exception to be raised there, unless it has stopped waiting."""
    if waiter.done():
        return
    if isinstance(verdict, Exception):
        waiter.set_exception(verdict)
    else:
        waiter.set_result(verdict)


def step_aside(task: asyncio.Task[Any], wake: Callable[[], object]) -> None:
    """Let another task take its step within that of the running one.

    The two hooks are asyncio's, for whoever implements tasks: "Extending", in Python's manual.
    """
    loop = task.get_loop()
    asyncio._leave_task(loop, task)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    try:
        wake()
    finally:
        asyncio._enter_task(loop, task)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
