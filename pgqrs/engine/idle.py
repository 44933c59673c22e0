"""A timer for moments in which a run executes no step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from pgqrs.engine.scope import StepExecution


class IdleTimer:
    """Calls a function once no step of a run has executed for some time.

    Args:
        loop: The event loop of the run.
        executions: The executing steps of the run, kept by its `StepRunner`.

    Attributes:
        executions: The executing steps of the run.
        resting: The number of executing steps that only wait for their next attempt.
        is_watched: True if the timer is in use; `restart` must then be called when a step ends or is replayed.
    """

    __slots__ = ("_action", "_delay", "_loop", "_timer", "executions", "is_watched", "resting")

    def __init__(self, loop: asyncio.AbstractEventLoop, executions: Mapping[str, StepExecution]) -> None:
        self._loop = loop
        self._action: Callable[[], None] | None = None
        self._delay = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.executions = executions
        self.resting = 0
        self.is_watched = False

    @property
    def is_idle(self) -> bool:
        """True if no step executes; a step that waits for its next attempt does not count as executing."""
        return len(self.executions) == self.resting

    def watch(self, delay: float, action: Callable[[], None]) -> None:
        """Call `action` after `delay` seconds without an executing step, in place of any earlier action."""
        self._delay, self._action = delay, action
        self.is_watched = True
        self.restart()

    def unwatch(self, action: Callable[[], None] | None = None) -> None:
        """Stop the timer; an `action` stops it only if it is the action to call."""
        if self._action is not None and (action is None or action == self._action):
            self._action = None
            self.is_watched = False
            self.restart()

    def restart(self) -> None:
        """Begin the delay anew if no step executes; stop the timer otherwise."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._action is not None and self.is_idle:
            self._timer = self._loop.call_later(self._delay, self._action)
