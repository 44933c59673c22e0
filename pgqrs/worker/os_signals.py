"""The signals that end a worker, caught for as long as it runs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

_CAUGHT = (signal.SIGTERM, signal.SIGINT)


class _Signals:
    """The handlers of one event loop, which has one for each signal: it passes the signal to all reactions."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.reactions: list[Callable[[], object]] = []
        self._loop = loop
        self._before: dict[signal.Signals, Any] = {}

    def catch(self) -> None:
        try:
            for each in _CAUGHT:
                handler = signal.getsignal(each)
                self._loop.add_signal_handler(each, self._react)
                self._before[each] = handler
        except (NotImplementedError, RuntimeError, ValueError):
            pass

    def restore(self) -> None:
        for each, handler in self._before.items():
            self._loop.remove_signal_handler(each)
            if handler is not None:  # None: it was not set by Python, and cannot be
                signal.signal(each, handler)
        self._before.clear()

    def _react(self) -> None:
        for react in list(self.reactions):
            react()


# Handlers are the process's, and asyncio does not tell which one an event loop has.
_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Signals] = WeakKeyDictionary()


@contextmanager
def caught_signals(react: Callable[[], object]) -> Generator[None]:
    """Call `react` in the event loop at each SIGTERM and SIGINT; afterwards the handlers are as they were.

    Where several catch signals in one event loop, each reacts, and the last to end restores the handlers. Where an
    event loop cannot handle signals, outside the main thread or on Windows, none is caught.
    """
    loop = asyncio.get_running_loop()
    signals = _of_loops.get(loop)
    if signals is None:
        signals = _of_loops[loop] = _Signals(loop)
    if not signals.reactions:
        signals.catch()
    signals.reactions.append(react)
    try:
        yield
    finally:
        signals.reactions.remove(react)
        if not signals.reactions:
            signals.restore()
            del _of_loops[loop]
