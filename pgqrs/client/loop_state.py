"""What an `Admin` has in one event loop beside its store: the doorbell, and the waiter for results."""

from __future__ import annotations

from pgqrs.client.queue_notifier import Doorbell
from pgqrs.client.result_poller import Results
from pgqrs.client.result_waits import Waits
from pgqrs.storage.store import Store


class Here:
    """The store of an event loop, and what rings and waits through it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.doorbell = Doorbell(store.ring)
        self.results = Results(store.ended, store.there)
        self.waits = Waits()
        self.running: set[int] = set()
        """The ids of the workflows that `Submitter.run` carries out: another call of a key waits for their end."""

    async def close(self) -> None:
        """Ring what is still to be rung, and tell those who wait for results that it is over."""
        await self.results.close()
        await self.doorbell.close()
