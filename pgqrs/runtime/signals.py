"""The signals that end a worker, caught for as long as it runs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

_CAUGHT = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def caught_signals(react: Callable[[], object]) -> Generator[None]:
    """Call `react` in the event loop at each SIGTERM and SIGINT; afterwards the handlers are as they were.

    Where an event loop cannot handle signals, outside the main thread or on Windows, none is caught.
    """
    loop = asyncio.get_running_loop()
    before: dict[signal.Signals, Any] = {}
    try:
        for each in _CAUGHT:
            handler = signal.getsignal(each)
            loop.add_signal_handler(each, react)
            before[each] = handler
    except (NotImplementedError, RuntimeError, ValueError):
        pass
    try:
        yield
    finally:
        for each, handler in before.items():
            loop.remove_signal_handler(each)
            if handler is not None:  # None: it was not set by Python, and cannot be
                signal.signal(each, handler)
