"""The records that wait in a journal, and the batches that they form."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from pgqrs.storage.journal.futures import WriteFuture
from pgqrs.storage.writes.operation import NO_CONFLICT, Operation

MAX_BATCH_SIZE = 4 * 1024 * 1024
"""Characters of payload at which a batch is full; a larger record goes to the journal beside."""

BACKLOG_ROWS = 20_000
"""Maximum records that wait for a batch; further writers wait for capacity."""

BACKLOG_SIZE = 64 * 1024 * 1024
"""Characters of payload waiting for a batch at which further writers wait for capacity."""

LOCKED_DELAY = 0.02
"""Seconds until a record whose row is locked by another transaction is sent again; doubled at each attempt."""

MAX_LOCKED_DELAY = 1.0
"""Maximum seconds between two attempts to write a record whose row is locked."""

OnResult: TypeAlias = Callable[[Any], Any]
"""The hook of a record; see `Journal.submit`."""

BatchedKeys: TypeAlias = str | set[str | None] | None
"""The conflict keys of one workflow's records in a batch: the key of a single record, or the set of several."""


class Entry:
    """A record in the journal, with the future of its result.

    A record that had to wait for a lock is `single` from then on: it is sent alone, so that no other record waits
    with it.
    """

    __slots__ = ("future", "on_result", "operation", "record", "resolved", "single", "size")

    def __init__(
        self, operation: Operation[Any], record: Any, size: int, future: WriteFuture, on_result: OnResult | None
    ) -> None:
        self.operation = operation
        self.record = record
        self.size = size
        self.future = future
        self.on_result = on_result
        # Not `future.done()`: the future of a cancelled waiter is done while the record is still to be written.
        self.resolved = False
        self.single = False

    @property
    def order_key(self) -> int | str:
        """The key of the records that are delayed behind this record; see `Operation.order_key`."""
        return self.operation.order_key(self.record)


class BlockedRecords:
    """The records whose rows are locked by other transactions, with all later records of their `order_key`.

    `on_due` is called with the records of a key when they are to be sent again.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_due: Callable[[deque[Entry]], object]) -> None:
        self._loop = loop
        self._on_due = on_due
        self.by_key: dict[int | str, deque[Entry]] = {}
        """The records in order, by their `order_key`, which is mostly the id of their workflow."""
        self.delays: dict[int | str, float] = {}
        """Seconds until the next attempt, by the `order_key` of a record that is not written yet."""

    def add(self, entry: Entry, at_least: float = 0.0) -> None:
        """Delay a record, and with it all later records of its `order_key`; `at_least` is in seconds."""
        key = entry.order_key
        if key in self.by_key:
            self.by_key[key].append(entry)
            return
        self.by_key[key] = deque([entry])
        delay = self.delays.get(key, LOCKED_DELAY)
        self.delays[key] = min(2 * delay, MAX_LOCKED_DELAY)
        self._loop.call_later(max(delay, at_least), self._release, key)

    def _release(self, key: int | str) -> None:
        if entries := self.by_key.pop(key, None):
            self._on_due(entries)


class Backlog:
    """The records that wait for a batch: in the queue, or blocked by a locked row.

    The queue is bounded: writers wait for their turn while it is full. A batch has at most `max_batch` records.
    `on_unblocked` is called when records have come back into the queue.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, max_batch: int, on_unblocked: Callable[[], object]
    ) -> None:
        self._loop = loop
        self._max_batch = max_batch
        self._on_unblocked = on_unblocked
        self.queue: deque[Entry] = deque()
        self.size = 0
        """Characters of payload in the queue."""
        self.blocked = BlockedRecords(loop, self._unblock)
        self._beside_size = 0
        self._turns: deque[asyncio.Future[None]] = deque()
        self._admitted = 0
        """Writers whose turn has come, and whose records are not in the queue yet."""

    def append(self, entry: Entry) -> None:
        """Add a new record to the queue."""
        self.queue.append(entry)
        self.size += entry.size

    def requeue(self, entries: Iterable[Entry]) -> None:
        """Put records before all records of the queue."""
        first = list(entries)
        self.queue.extendleft(reversed(first))
        self.size += sum(entry.size for entry in first)

    def waiting(self) -> list[Entry]:
        """Return all records: of the queue, and blocked."""
        return [*self.queue, *(entry for entries in self.blocked.by_key.values() for entry in entries)]

    def take_all(self) -> list[Entry]:
        """Empty the backlog and return all records."""
        taken = self.waiting()
        self.queue.clear()
        self.blocked.by_key.clear()
        self.size = 0
        self._admit(BACKLOG_ROWS)
        return taken

    def next_batch(self) -> list[Entry]:
        """Take the next batch from the queue: in order, bounded, and only records that fit one statement."""
        queue = self.queue
        if len(queue) == 1 and not (self.blocked.by_key or self._turns):
            self.size = 0
            return [queue.popleft()]
        batch: list[Entry] = []
        size = 0
        taken: dict[int, BatchedKeys] = {}
        while queue and len(batch) < self._max_batch and size < MAX_BATCH_SIZE:
            entry = queue[0]
            if (blocked := self.blocked.by_key) and (stalled := blocked.get(entry.order_key)):
                stalled.append(queue.popleft())
                self.size -= entry.size
                continue
            if not _fits_batch(entry, taken) or (entry.single and batch):
                break
            batch.append(queue.popleft())
            size += entry.size
            if entry.single:
                break
        self.size -= size
        self._admit(len(batch))
        return batch

    def _unblock(self, entries: deque[Entry]) -> None:
        if entries[0].operation.requeues_last:
            self.queue.extend(entries)
            self.size += sum(entry.size for entry in entries)
        else:
            self.requeue(entries)
        self._on_unblocked()

    # --- capacity ---

    def is_full(self) -> bool:
        """Return True if a writer has to wait: the queue is full, or other writers wait already."""
        # Not by `_is_crowded`: this is asked for each record.
        return (
            bool(self._turns or self._admitted)
            or len(self.queue) >= BACKLOG_ROWS
            or self.size + self._beside_size >= BACKLOG_SIZE
        )

    async def wait_for_turn(self) -> None:
        """Wait for the turn of a writer; writers are admitted in the order in which they came."""
        turn: asyncio.Future[None] = self._loop.create_future()
        self._turns.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._admitted -= 1
                self._admit(1)
            raise
        self._admitted -= 1
        if self._turns and not self._admitted:
            # After the record of this writer is in the queue, or if the writer has none after all.
            self._loop.call_soon(self._admit, 1)

    def enter_beside(self, size: int) -> None:
        """Count the payload of a record that the journal beside writes."""
        self._beside_size += size

    def leave_beside(self, size: int) -> None:
        """Count the payload of such a record no longer."""
        self._beside_size -= size
        self._admit(1)

    def _is_crowded(self) -> bool:
        return len(self.queue) >= BACKLOG_ROWS or self.size + self._beside_size >= BACKLOG_SIZE

    def _admit(self, turns: int) -> None:
        while turns > 0 and self._turns and not self._is_crowded():
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(None)
                self._admitted += 1
                turns -= 1


def _fits_batch(entry: Entry, taken: dict[int, BatchedKeys]) -> bool:
    """Return True if a record may go into the batch that `taken` describes, and add the record to `taken` then.

    See `Operation.conflict_key` for the rule.
    """
    workflow_id: int = entry.record.workflow_id
    key = entry.operation.conflict_key(entry.record)
    if workflow_id not in taken:
        taken[workflow_id] = key
        return True
    keys = taken[workflow_id]
    if not isinstance(keys, set):
        keys = taken[workflow_id] = {keys}
    if None in keys or key is None or (key in keys and key is not NO_CONFLICT):
        return False
    keys.add(key)
    return True
