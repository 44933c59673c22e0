"""The runs that wait for the results of other workflows, whose places a worker gives to others meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from typing import TypeAlias

Listener: TypeAlias = Callable[[], object]


class ResultWaits:
    """Counts, for an event loop, the waits of each run for the results of other workflows."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._listeners: list[Listener] = []

    def __contains__(self, workflow_id: int) -> bool:
        return workflow_id in self._counts

    def __len__(self) -> int:
        """Return the number of runs that wait."""
        return len(self._counts)

    def listen(self, listener: Listener) -> None:
        """Call `listener` whenever a run begins to wait."""
        self._listeners.append(listener)

    def unlisten(self, listener: Listener) -> None:
        """Call `listener` no more."""
        with suppress(ValueError):
            self._listeners.remove(listener)

    @contextmanager
    def counted(self, workflow_ids: Iterable[int]) -> Generator[None]:
        """Count the runs of these workflows as waiting."""
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
