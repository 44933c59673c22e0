"""What an `Admin` has in one event loop beside its store: the doorbell, and the waiter for results."""

from __future__ import annotations

from pgqrs.client.queue_notifier import QueueNotifier
from pgqrs.client.result_poller import ResultPoller
from pgqrs.client.result_waits import ResultWaits
from pgqrs.storage.store import Store


class LoopState:
    """The store of an event loop, and what rings and waits through it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.notifier = QueueNotifier(store.ring)
        self.results = ResultPoller(store.results, store.existing)
        self.waits = ResultWaits()
        self.running: set[int] = set()
        """The ids of the workflows that `Submitter.run` carries out: another call of a key waits for their end."""

    async def close(self) -> None:
        """Ring what is still to be rung, and tell those who wait for results that it is over."""
        await self.results.close()
        await self.notifier.close()
