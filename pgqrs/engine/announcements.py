"""What a run announces to other workflows and to the workers: its end, and the start of its children."""

from __future__ import annotations

from collections.abc import Sequence

from pgqrs.observer import Observer
from pgqrs.storage.arrivals import Arrivals
from pgqrs.types import DEFAULT_QUEUE


class Announcements:
    """The announcements of one run.

    Args:
        arrivals: The waits for messages in the event loop of the run.
        queue: The queue of the workflow; None if it is unknown.
        has_parent: True if the workflow is known to be a child.
        observer: The observer of the event loop; None for none.

    Attributes:
        queue: The queue of the workflow, the default queue if it is unknown.
    """

    __slots__ = ("_arrivals", "_is_related", "_observer", "queue")

    def __init__(
        self, arrivals: Arrivals, queue: str | None, *, has_parent: bool, observer: Observer | None = None
    ) -> None:
        self._observer = observer
        self._arrivals = arrivals
        self._is_related = has_parent
        self.queue = queue or DEFAULT_QUEUE

    def continue_from(self, earlier: Announcements) -> None:
        """Adopt the state of an earlier run with the same claim."""
        self._is_related = earlier._is_related

    def children_started(self, name: str, queue: str, ids: Sequence[int], *, delayed: bool) -> None:
        """Announce children of a name that were inserted into a queue."""
        self._is_related = True
        if not delayed:
            self._arrivals.ready(queue, min(ids))
        if self._observer is not None:
            self._observer.workflows_enqueued(name, queue, len(ids))

    def trace(self) -> str | None:
        """Return the trace context of the calling task, for the children that it starts."""
        return None if self._observer is None else self._observer.trace()

    def message_sent(self) -> None:
        """Tell the observer about a message of the workflow."""
        if self._observer is not None:
            self._observer.message_sent()

    def ready(self, workflow_id: int) -> None:
        """Announce that the workflow is ready for any worker."""
        self._arrivals.ready(self.queue, workflow_id)

    def ended(self) -> None:
        """Announce the end of the workflow to its parent, and to the workers that cancel its children."""
        if self._is_related:
            self._arrivals.sent()
