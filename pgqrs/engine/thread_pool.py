"""The threads in which the functions of ``@step(thread=True)`` are called."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from typing import Any, Final

MAX_ABANDONED: Final = 128
"""Maximum number of calls that hang whose places are given to other calls."""


class Call:
    """A function on its way to a thread; `begun` is called there first, and `future` gets what it returns."""

    __slots__ = ("_begun", "_function", "future", "left")

    def __init__(self, function: Callable[[], object], begun: Callable[[], object] | None) -> None:
        self._function = function
        self._begun = begun
        self.future: Future[Any] = Future()
        self.left = False

    def run(self) -> None:
        """Call the function, unless its caller has given it up."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            if self._begun is not None:
                self._begun()
            result = self._function()
        except BaseException as error:  # noqa: BLE001  # it is the caller's
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class StepThreads:
    """At most `most` threads that call functions, and further ones in place of those whose calls hang.

    An executor of the standard library's has its threads joined when the process ends, and one that hangs would
    keep it from ending: these are daemon threads.
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
        """Have a thread call a function, as soon as there is one; `begun` is called in it right before."""
        call = Call(function, begun)
        with self._changed:
            if len(self._calls) >= self._idle and self._threads < self._most:
                self._start()
            self._calls.append(call)
            self._changed.notify()
        return call

    def leave(self, call: Call) -> int | None:
        """Give the place of a call that nothing waits for any more to another one, if it still executes.

        Returns how many such calls there are, None where it has ended or not begun. Of more than `MOST_LEFT` a
        call keeps its place.
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
                if call.left:  # another thread has the place
                    self._left -= 1
                    return
            del call


@cache
def step_threads(_pid: int) -> StepThreads:
    """Return a process's threads for steps: the event loop's own belong to the application."""
    return StepThreads(min(32, (os.cpu_count() or 1) + 4))
