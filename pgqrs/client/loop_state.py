"""The state of an `Admin` in one event loop: the store, the queue notifier and the result poller."""

from __future__ import annotations

from pgqrs.client.queue_notifier import QueueNotifier
from pgqrs.client.result_poller import ResultPoller
from pgqrs.client.result_waits import ResultWaits
from pgqrs.storage.store import Store


class LoopState:
    """The store of one event loop, with the notifier and the poller that use it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.notifier = QueueNotifier(store.ring)
        self.results = ResultPoller(store.results, store.existing)
        self.waits = ResultWaits()
        self.running: set[int] = set()
        """Ids of the workflows that `Submitter.run` is running.

        A second call of `Submitter.run` with the same key waits for their results.
        """

    async def close(self) -> None:
        """Fail the callers that wait for results, and send the pending notifications."""
        await self.results.close()
        await self.notifier.close()
