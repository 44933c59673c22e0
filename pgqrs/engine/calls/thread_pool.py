"""The threads that call the functions of ``@step(thread=True)``."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from typing import Any, Final

MAX_ABANDONED: Final = 128
"""Maximum number of abandoned, still running calls whose places other calls may take."""


class Call:
    """A queued call of a function: the thread calls `begun`, then the function, and resolves `future`."""

    __slots__ = ("_begun", "_function", "future", "left")

    def __init__(self, function: Callable[[], object], begun: Callable[[], object] | None) -> None:
        self._function = function
        self._begun = begun
        self.future: Future[Any] = Future()
        self.left = False

    def run(self) -> None:
        """Call the function, unless its caller has cancelled `future`."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            if self._begun is not None:
                self._begun()
            result = self._function()
        except BaseException as error:  # noqa: BLE001  # the caller raises it
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class StepThreads:
    """A pool of at most `most` threads, plus one replacement for each thread with an abandoned call.

    The threads are daemons. The standard library joins the threads of its executors when the process ends, so a
    call that hangs would keep the process from ending.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._calls: deque[Call] = deque()
        self._changed = threading.Condition()
        self._threads = 0
        self._idle = 0
        self._left = 0
        self._started = 0

    def submit(self, function: Callable[[], object], begun: Callable[[], object] | None = None) -> Call:
        """Queue a function for the next free thread; the thread calls `begun` right before the function."""
        call = Call(function, begun)
        with self._changed:
            if len(self._calls) >= self._idle and self._threads < self._most:
                self._start()
            self._calls.append(call)
            self._changed.notify()
        return call

    def leave(self, call: Call) -> int | None:
        """Abandon a call: if it still executes, release its place in the pool to other calls.

        Beyond `MAX_ABANDONED` such calls, a call keeps its place.

        Returns:
            The number of abandoned calls that still execute; None if the call has ended or has not begun.
        """
        with self._changed:
            if call.left or not call.future.running():
                return None
            if self._left == MAX_ABANDONED:
                return self._left + 1
            call.left = True
            self._left += 1
            self._threads -= 1
            if len(self._calls) > self._idle:
                self._start()
            return self._left

    def _start(self) -> None:
        self._started += 1
        threading.Thread(target=self._work, name=f"pgqrs-step-{self._started}", daemon=True).start()
        self._threads += 1

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: self._calls)
                self._idle -= 1
                call = self._calls.popleft()
            call.run()
            with self._changed:
                if call.left:  # a replacement thread has its place
                    self._left -= 1
                    return
            del call


@cache
def step_threads(_pid: int) -> StepThreads:
    """Return the thread pool of a process; the default executor of the event loop belongs to the application."""
    return StepThreads(min(32, (os.cpu_count() or 1) + 4))
