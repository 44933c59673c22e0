"""Handles SIGTERM and SIGINT while a worker runs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

_CAUGHT = (signal.SIGTERM, signal.SIGINT)


class _Signals:
    """The signal handlers of one event loop: one handler for each signal, which calls all reactions."""

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
            if handler is not None:  # None: the handler was not set by Python, which cannot restore it
                signal.signal(each, handler)
        self._before.clear()

    def _react(self) -> None:
        for react in list(self.reactions):
            react()


# Handlers belong to the process, and asyncio does not report the handlers of an event loop.
_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Signals] = WeakKeyDictionary()


@contextmanager
def caught_signals(react: Callable[[], object]) -> Generator[None]:
    """Call `react` in the event loop at each SIGTERM and SIGINT; restore the previous handlers at the end.

    Where several callers catch signals in one event loop, each caller reacts, and the last to end restores the
    handlers. Where an event loop cannot handle signals, outside the main thread or on Windows, no signal is
    caught.
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
