"""What a run announces to other workflows and to the workers: its end, and the start of its children."""

from __future__ import annotations

from pgqrs.storage.arrivals import Arrivals
from pgqrs.types import DEFAULT_QUEUE


class Announcements:
    """The announcements of one run.

    Args:
        arrivals: The waits for messages in the event loop of the run.
        queue: The queue of the workflow; None if it is unknown.
        has_parent: True if the workflow is known to be a child.

    Attributes:
        queue: The queue of the workflow, the default queue if it is unknown.
    """

    __slots__ = ("_arrivals", "_is_related", "queue")

    def __init__(self, arrivals: Arrivals, queue: str | None, *, has_parent: bool) -> None:
        self._arrivals = arrivals
        self._is_related = has_parent
        self.queue = queue or DEFAULT_QUEUE

    def continue_from(self, earlier: Announcements) -> None:
        """Adopt the state of an earlier run with the same claim."""
        self._is_related = earlier._is_related

    def children_started(self, queue: str, first: int, *, delayed: bool) -> None:
        """Announce children, with ids from `first` on, that were inserted into a queue."""
        self._is_related = True
        if not delayed:
            self._arrivals.ready(queue, first)

    def ready(self, workflow_id: int) -> None:
        """Announce that the workflow is ready for any worker."""
        self._arrivals.ready(self.queue, workflow_id)

    def ended(self) -> None:
        """Announce the end of the workflow to its parent, and to the workers that cancel its children."""
        if self._is_related:
            self._arrivals.sent()
