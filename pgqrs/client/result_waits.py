"""Counts the runs that wait for results of other workflows; a worker runs other workflows in their place."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from typing import TypeAlias

Listener: TypeAlias = Callable[[], object]


class ResultWaits:
    """The runs of one event loop that wait for results of other workflows, with the waits of each run counted."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._listeners: list[Listener] = []
        self._seen: set[tuple[str, str]] = set()

    def is_first(self, name: str, wait: str) -> bool:
        """Return whether no run of a workflow of this name has waited in this way before."""
        is_first = (name, wait) not in self._seen
        self._seen.add((name, wait))
        return is_first

    def __contains__(self, workflow_id: int) -> bool:
        return workflow_id in self._counts

    def __len__(self) -> int:
        """Return the number of waiting runs."""
        return len(self._counts)

    def listen(self, listener: Listener) -> None:
        """Call `listener` whenever a run begins to wait."""
        self._listeners.append(listener)

    def unlisten(self, listener: Listener) -> None:
        """Remove `listener`."""
        with suppress(ValueError):
            self._listeners.remove(listener)

    @contextmanager
    def counted(self, workflow_ids: Iterable[int]) -> Generator[None]:
        """Count the runs of these workflows as waiting within a ``with`` block."""
        waiting = list(workflow_ids)
        for each in waiting:
            self._counts[each] = self._counts.get(each, 0) + 1
        if waiting:
            for listener in tuple(self._listeners):
                listener()
        try:
            yield
        finally:
            for each in waiting:
                self._counts[each] -= 1
                if not self._counts[each]:
                    del self._counts[each]
