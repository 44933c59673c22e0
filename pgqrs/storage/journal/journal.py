"""Group commit of the writes of the hot path.

Every durable write of an event loop goes through one journal. One batch is in flight at a time, and the next batch
gathers meanwhile. An idle journal sends at once. So a single writer pays one round trip and one commit, and a
thousand writers share them. A record is acknowledged only after its commit.

The method is group commit: DeWitt et al., "Implementation techniques for main memory database systems" (1984).
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import Any

from pgqrs.observer import Observer
from pgqrs.storage.connections.database import Database
from pgqrs.storage.connections.watchdog import WatchedConnection
from pgqrs.storage.journal.backlog import MAX_BATCH_SIZE, Backlog, Entry, OnResult
from pgqrs.storage.journal.batches import BatchWriter, JournalOwner, OwnerReference
from pgqrs.storage.journal.futures import Waker, WriteFuture
from pgqrs.storage.writes.operation import Record
from pgqrs.storage.writes.registry import OPERATIONS, Operations


class Journal:
    """The batching writer of an event loop; `submit` takes a record, whose result is known after the commit."""

    def __init__(
        self,
        database: Database,
        owner: JournalOwner | None = None,
        *,
        beside: Journal | None = None,
        operations: Operations = OPERATIONS,
        observer: Observer | None = None,
    ) -> None:
        """Write to a database; the `owner` is called when a run is to be cancelled.

        It stays alive while records are pending. The journal `beside` has a connection of its own. It takes the
        records that may take long, so that no other record waits for them. `operations` are the operations of all
        records that the journals write.
        """
        self.beside = beside
        self._database = database
        self._loop = loop = asyncio.get_running_loop()
        self._operation_of = dict(operations)  # a dict: it is asked for each record
        self._owner = OwnerReference(owner)
        self._backlog = Backlog(loop, database.limits.max_batch, self._wake_if_idle)
        self._connection = WatchedConnection(database, lambda: self._flusher is not None)
        self._waker = Waker(loop)
        self._writer = BatchWriter(
            database,
            self._connection,
            self._backlog,
            operations=operations,
            waker=self._waker,
            owner=self._owner,
            observer=observer,
        )
        self._in_flight: list[Entry] = []
        self._written = asyncio.Event()
        self._flusher: asyncio.Task[None] | None = None
        self._stopping = False
        self._closers = 0

    @property
    def statements(self) -> int:
        """Number of statements sent; each is one round trip and one commit."""
        return self._connection.statements

    async def write(self, record: Record) -> Any:
        """Submit a record, wait until it is committed, and return its result.

        A caller that is cancelled while it waits for the commit only stops waiting: the record is still written.
        """
        if self.is_full:
            await self.wait_for_capacity()
        return await self.submit(record)

    def submit(self, record: Record, on_result: OnResult | None = None) -> WriteFuture:
        """Accept a record, and return the future of its result; the record is written even if no task awaits it.

        Await `wait_for_capacity` first. `on_result` is called once, before the waiter is woken and also if the
        waiter was cancelled, so that no outcome is lost. It takes the result, or the exception that explains its
        absence, and returns the result or exception for the waiter.
        """
        operation = self._operation_of[type(record)]
        size = operation.payload_size(record)
        if size > MAX_BATCH_SIZE and self.beside is not None:
            return self._pass_on(record, size, on_result, self.beside)
        future = WriteFuture(loop=self._loop)
        self._backlog.append(Entry(operation, record, size, future, on_result))
        if self._flusher is None:
            self._wake()
        return future

    def _pass_on(self, record: Record, size: int, on_result: OnResult | None, beside: Journal) -> WriteFuture:
        """Submit a large record to the journal beside; it counts towards the backlog here until it is written."""
        self._backlog.enter_beside(size)

        def on_written(result: Any) -> Any:
            self._backlog.leave_beside(size)
            return result if on_result is None else on_result(result)

        return beside.submit(record, on_written)

    async def wait_for_capacity(self) -> None:
        """Wait while the backlog is full; writers are admitted in the order in which they came."""
        if self.is_full:
            await self._backlog.wait_for_turn()

    @property
    def is_full(self) -> bool:
        """True if `wait_for_capacity` would wait: the backlog is full, or other writers wait already."""
        return self._backlog.is_full()

    # --- closing ---

    async def close(self) -> None:
        """Write the accepted records, within the `timeout` of the database, and close the connection.

        The journal can be used again afterwards.
        """
        if self.beside is not None:
            await self.beside.close()
        try:
            async with asyncio.timeout(self._database.limits.timeout):
                await self.drain()
        except TimeoutError as error:
            await self._stop(error)
        await self._until_unused()
        await self._connection.close_if_unused()

    async def _until_unused(self) -> None:
        """Wait for a flusher that is about to end because the queue is empty."""
        if self._flusher is None or self._in_flight or self._backlog.queue:
            return
        self._closers += 1
        try:
            await asyncio.wait([self._flusher])
            await asyncio.sleep(0)  # `_flushed` has its turn
        finally:
            self._closers -= 1

    async def _stop(self, error: Exception) -> None:
        """Stop writing and reject the pending records with `error`."""
        self._stopping = True
        try:
            while self._flusher is not None:
                self._flusher.cancel()
                await asyncio.wait([self._flusher])
                await asyncio.sleep(0)  # `_flushed` has its turn
        finally:
            self._stopping = False
        self._writer.reject(self._backlog.take_all(), error)

    async def drain(self) -> None:
        """Wait until the records accepted so far are written; live runs may add more."""
        if self.beside is not None:
            await self.beside.drain()
        accepted = self._pending()
        while not all(entry.resolved for entry in accepted):
            self._written.clear()
            await self._written.wait()

    @property
    def is_idle(self) -> bool:
        """True if every accepted record is written."""
        return not self._pending() and (self.beside is None or self.beside.is_idle)

    @property
    def is_ordered(self) -> bool:
        """True if every accepted record is written before a later record: the journal beside has none."""
        return self.beside is None or self.beside.is_idle

    @property
    def is_closed(self) -> bool:
        """True if there is no record to write and no connection."""
        closed = self.is_idle and self._flusher is None and self._connection.dedicated.driver is None
        return closed and (self.beside is None or self.beside.is_closed)

    @property
    def workflows(self) -> set[int]:
        """The ids of the workflows that have unwritten records."""
        unwritten = {entry.record.workflow_id for entry in self._pending() if not entry.resolved}
        return unwritten if self.beside is None else unwritten | self.beside.workflows

    def _pending(self) -> list[Entry]:
        return [*self._in_flight, *self._backlog.waiting()]

    # --- the flusher: the task that writes the batches while there are records ---

    def _wake_if_idle(self) -> None:
        if self._flusher is None:
            self._wake()

    def _wake(self) -> None:
        self._owner.hold()
        # An empty context: the flusher would keep the context of the first submitter alive as long as it has work.
        context = Context()
        self._flusher = self._loop.create_task(self._flush(), name="pgqrs-journal", context=context)
        self._flusher.add_done_callback(self._flushed, context=context)

    def _flushed(self, flusher: asyncio.Task[None]) -> None:
        """Start a new flusher if records are left: they came in just now, or the flusher was cancelled."""
        self._flusher = None
        self._waker.alone = False
        error = None if flusher.cancelled() else flusher.exception()
        if isinstance(error, Exception):  # otherwise an interrupt or exit of the resumed task
            self._loop.call_exception_handler({"message": "the journal failed", "exception": error})
        if self._backlog.queue and not self._stopping:
            self._wake()
        else:
            self._owner.release()
            self._connection.rest()

    async def _flush(self) -> None:
        flusher = asyncio.current_task()
        assert flusher is not None  # noqa: S101  # `_wake` made it
        backlog = self._backlog
        try:
            while backlog.queue or await self._has_more():
                self._in_flight = batch = backlog.next_batch()
                if batch:
                    self._waker.expect(alone=len(batch) == 1)
                    await self._writer.write(batch)
                    # The resumed task may raise through this frame, and a traceback keeps the frame's variables.
                    self._in_flight = batch = []
                    self._written.set()
                    self._waker.resume_inline(flusher)
        except asyncio.CancelledError:
            # The loop is ending. It is unknown if the batch arrived, so its unresolved records are sent again.
            unresolved = [entry for entry in self._in_flight if not entry.resolved]
            self._in_flight = []
            backlog.requeue(unresolved)
            raise

    async def _has_more(self) -> bool:
        """Return True if the tasks that were woken just now have submitted more records.

        The flusher then sends these records in the same turn of the loop. It stops while a caller closes the
        journal: that caller would otherwise wait for a workflow that never ends.
        """
        await asyncio.sleep(0)
        return bool(self._backlog.queue) and not self._closers
