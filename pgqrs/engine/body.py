"""The body of a run: the task that executes the workflow's function, and the interrupts of that task."""

from __future__ import annotations

import asyncio
from typing import Any

from pgqrs.storage.journal.futures import resolve


class Body:
    """The task that executes the workflow's function in a run.

    Attributes:
        task: The task while the workflow's function executes; None before and afterwards.
        interrupted: The tasks of steps that the run has interrupted.
        timeout: The timeout of the workflow in seconds; None for no timeout.
        is_entered: True from the start of the body until its run has ended or was released.
    """

    __slots__ = ("_cancelling", "_interrupts", "_left", "_loop", "interrupted", "is_entered", "task", "timeout")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._cancelling = 0
        self._interrupts = 0
        self._left: asyncio.Future[None] | None = None
        self.task: asyncio.Task[Any] | None = None
        self.interrupted: set[asyncio.Task[Any]] = set()
        self.timeout: float | None = None
        self.is_entered = False

    def enter(self, timeout: float | None) -> None:
        """Register the calling task as the task of the body."""
        self.is_entered = True
        self.timeout = timeout
        self.task = asyncio.current_task(self._loop)
        self._cancelling = 0 if self.task is None else self.task.cancelling()

    @property
    def is_cancelled_outside(self) -> bool:
        """True if code outside the run has cancelled the task, as when a process ends."""
        return self.task is not None and self.task.cancelling() > self._cancelling + self._interrupts

    def interrupt(self) -> None:
        """Cancel the task, unless the task itself makes this call."""
        if self.task is not None and self.task is not asyncio.current_task():
            self._interrupts += 1
            self.task.cancel()

    def leave(self) -> bool:
        """Detach the task, which now executes only pgqrs's code, and withdraw the interrupts.

        Returns:
            True if the task was also cancelled by code outside the run. Later calls return False.
        """
        task, self.task = self.task, None
        interrupts, self._interrupts = self._interrupts, 0
        if task is None:
            return False
        for _ in range(interrupts):
            task.uncancel()
        return task.cancelling() > self._cancelling

    def exit(self) -> None:
        """Wake the waiters of `wait`: the run has ended or was released."""
        self.is_entered = False
        if self._left is not None:
            resolve(self._left, None)

    async def wait(self, timeout: float) -> bool:
        """Wait for `exit`, at most `timeout` seconds; return whether it came."""
        if self._left is None:
            self._left = self._loop.create_future()
        await asyncio.wait([self._left], timeout=timeout)
        return self._left.done()
