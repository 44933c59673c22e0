"""How the steps tell whoever listens how far they are."""

from __future__ import annotations

from collections.abc import Callable

Listener = Callable[[str, int, int], None]

_listeners: list[Listener] = []


def listen(listener: Listener) -> None:
    """Call `listener(step_id, done, total)` whenever a step has come further."""
    _listeners.append(listener)


def report(step_id: str, done: int, total: int) -> None:
    """Tell the listeners that `done` of the `total` rows of a step are stored."""
    for listener in _listeners:
        listener(step_id, done, total)
