"""The futures of records, and the wake-up of the tasks that await them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any, TypeAlias

Wakeup: TypeAlias = Callable[["WriteFuture"], object]

Waiting: TypeAlias = tuple[Context, Wakeup, "WriteFuture"]
"""The wake-up of a task whose future is resolved: `Wakeup` is called in `Context` with the future."""


class WriteFuture(asyncio.Future[Any]):
    """A future whose waiting task can be woken directly, without a callback of the event loop.

    A plain future schedules a callback of the loop to wake its waiter. The callback takes some hundredths of the
    time of a single record's commit, and the same share of a record's time in a large batch.
    """

    # Cleared as soon as it is unused: it refers to the task, and a failed task refers to the future.
    __slots__ = ("_waiter",)
    _waiter: tuple[Wakeup, Context] | None

    def add_done_callback(self, fn: Wakeup, /, *, context: Context | None = None) -> None:
        """Call `fn` once it is done; a callback with a `context` is a task's, and can be called directly."""
        if context is not None:
            self._waiter = fn, context
        super().add_done_callback(fn, context=context)

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel the future and forget its waiter."""
        self._waiter = None
        return super().cancel(msg)

    def resolve(self, result: Any) -> None:
        """Set the result, or raise it if it is an exception; the waiter continues in the next turn of the loop."""
        self._waiter = None
        resolve(self, result)

    def resolve_now(self, result: Any) -> Waiting | None:
        """Set the result and return the wake-up of the waiter; None if no task waits for it now."""
        waiter = getattr(self, "_waiter", None)
        if waiter is None:
            self.resolve(result)
            return None
        fn, context = waiter
        self._waiter = None
        self.remove_done_callback(fn)
        resolve(self, result)
        return context, fn, self


def resolve(waiter: asyncio.Future[Any], result: Any) -> None:
    """Set the result of a future, or raise the result there if it is an exception; do nothing if it is done."""
    if waiter.done():
        return
    if isinstance(result, BaseException):
        waiter.set_exception(result)
    else:
        waiter.set_result(result)


def discard_result(_result: object) -> None:
    """Discard the result of a record without a waiter; asyncio would report an error as never retrieved."""


class Waker:
    """Wakes the tasks that wait for records of an event loop's journal.

    The waiter of a single record is resumed inside the step of the flusher, which saves a turn of the loop. The
    waiters of a batch continue in the next turn of the loop, through one callback for the batch instead of one
    callback per waiter.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._wakes_directly = True
        self._single: list[Waiting] = []
        self._batched: deque[Waiting] = deque()
        self._is_scheduled = False
        self.alone = False
        """True while a single record is in flight: `resume_inline` resumes its waiter."""

    def expect(self, *, alone: bool) -> None:
        """Prepare for the waiters of the next batch; `alone` is True for a single record.

        Waiters are woken through the loop in two cases. `nest_asyncio` runs the loop inside a task, and a task
        that this inner loop waits for must not be below it on the stack. In debug mode the loop reports slow
        steps, and it cannot report a step that it does not run.
        """
        self._wakes_directly = not (hasattr(self._loop, "_nest_patched") or self._loop.get_debug())
        self.alone = alone
        if self._batched:
            # Usually their callback is still scheduled. But an interrupt can strike after the loop has removed the
            # callback and before the callback runs; without a new callback these waiters would wait forever.
            self._is_scheduled = False
            self._schedule_wakeup()

    def resolve(self, answer: WriteFuture, result: Any) -> None:
        """Resolve a future and wake its waiter, inline or with the batch."""
        if not self._wakes_directly:
            answer.resolve(result)
        elif (waiting := answer.resolve_now(result)) is None:
            return
        elif self.alone and not self._single:
            # Resumed inline: a turn of the loop would take some hundredths of the commit's time.
            self._single.append(waiting)
        else:
            # One callback for the whole batch: the loop then handles one callback instead of one per waiter.
            self._batched.append(waiting)
            self._schedule_wakeup()

    def resume_inline(self, task: asyncio.Task[Any]) -> None:
        """Resume the waiter of a single record inside the step of the running `task`."""
        self.alone = False
        if self._single:
            resume_inline(task, self._single)

    def _schedule_wakeup(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._wake_batched)

    def _wake_batched(self) -> None:
        # Reset before the first wake-up: a woken task may run the loop inside its step, and futures that are
        # resolved there need a callback of their own.
        self._is_scheduled = False
        try:
            while self._batched:
                _wake(self._batched.popleft)
        finally:
            if self._batched:  # an interrupt or an exit of a woken task ended the loop above
                self._schedule_wakeup()


def _wake(take: Callable[[], Waiting]) -> None:
    context, fn, answer = take()
    try:
        context.run(fn, answer)
    finally:
        # An exception raised by the task keeps this frame alive, and the frame must not keep the task alive.
        del context, fn, answer


def resume_inline(task: asyncio.Task[Any], waiting: list[Waiting]) -> None:
    """Run the step of another task, the last in `waiting`, inside the step of the running `task`.

    `_leave_task` and `_enter_task` are asyncio's hooks for implementers of tasks; see "Extending" in the Python
    manual.
    """
    loop = task.get_loop()
    asyncio._leave_task(loop, task)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    try:
        _wake(waiting.pop)
    finally:
        asyncio._enter_task(loop, task)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
