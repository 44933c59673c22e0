"""Group commit of the writes of the hot path.

Every durable write of an event loop goes through one journal. One batch is in flight at a time, and the next batch
gathers meanwhile. An idle journal sends at once. So a single writer pays one round trip and one commit, and a
thousand writers share them. A record is acknowledged only after its commit.

The method is group commit: DeWitt et al., "Implementation techniques for main memory database systems" (1984).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import Context
from typing import Any, NamedTuple, Protocol, TypeAlias
from weakref import ref

from pgqrs.errors import DatabaseError, PgqrsError, RowRefusedError
from pgqrs.observer import Observer
from pgqrs.storage.connections.database import LOCK_TIMEOUT, CompiledStatement, Database
from pgqrs.storage.connections.dedicated import DedicatedConnection, IdleTimer
from pgqrs.storage.connections.errors import (
    is_about_tables,
    is_cancelled,
    is_data_error,
    is_lock_timeout,
    is_read_only,
    is_transient,
    sqlstate,
    translate,
)
from pgqrs.storage.connections.pooler import Driver, is_bounded
from pgqrs.storage.connections.watchdog import Watchdog
from pgqrs.storage.journal.columns import Arrays
from pgqrs.storage.journal.futures import Waker, WriteFuture
from pgqrs.storage.journal.operation import (
    EPOCH,
    NO_CONFLICT,
    RETRY,
    CancelRequested,
    CurrentState,
    Operation,
    Record,
)
from pgqrs.storage.journal.registry import CURRENT_STATE, OPERATIONS, AskedRecord, Operations, operation_names
from pgqrs.storage.records import from_row

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

MIN_NETWORK_RATE = 256 * 1024
"""Characters per second of the slowest supported network; a large record gets extra time by this rate."""

LOCK_SHARE = 5
"""Multiple of `LOCK_TIMEOUT` by which a record pauses after a lock timeout.

It bounds the share of its time in which a journal waits for keys that other transactions hold.
"""

OnResult: TypeAlias = Callable[[Any], Any]
"""The hook of a record; see `Journal.submit`."""

BatchedKeys: TypeAlias = str | set[str | None] | None
"""The conflict keys of one workflow's records in a batch: the key of a single record, or the set of several."""


class SingleStatement(NamedTuple):
    """The statement of a single record: its text, and the function that takes its arguments out of the record."""

    text: str
    arguments: Callable[[Any], Sequence[Any]]


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


class JournalOwner(Protocol):
    """The owner of a journal, which closes it."""

    def cancel_asked(self, workflow_id: int, interrupt: bool) -> None:
        """Cancel the run of a workflow if it is live in this event loop."""
        ...


class Journal:
    """The batching writer of an event loop; `write` takes a record and returns its result after the commit."""

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

        It stays alive while records are pending. If it were collected in the last moments of the loop, it
        would start to close resources that no task awaits any more. The journal `beside` has a connection of its
        own. It takes the records that may take long, so that no other record waits for them. `operations` are the
        operations of all records that the journals write.
        """
        self._operations = operations
        self._operation_of = dict(operations)  # a dict: it is asked for each record
        self.beside = beside
        self._beside_size = 0
        self.observer = observer
        self._database = database
        self._owner = None if owner is None else ref(owner)
        self._held_owner: JournalOwner | None = None
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Entry] = deque()
        self._queued_size = 0
        self._waiting_for_capacity: deque[asyncio.Future[None]] = deque()
        self._blocked: dict[int, deque[Entry]] = {}
        self._delays: dict[int, float] = {}
        self._in_flight: list[Entry] = []
        self._written = asyncio.Event()
        self._flusher: asyncio.Task[None] | None = None
        self._dedicated = DedicatedConnection(database)
        self._bound: float | None = None
        self._closing: asyncio.Task[None] | None = None
        self._stopping = False
        self._closers = 0
        self._idle_timer = IdleTimer(self._close_if_idle)
        self._compiled: dict[tuple[str, ...], CompiledStatement] = {}
        self._single_statements: dict[Operation[Any], SingleStatement] = {}
        self._waker = Waker(self._loop)
        # One timer for all statements: a timer for each statement costs more.
        self._watchdog = Watchdog(self._loop, database.limits.timeout)
        self.statements = 0
        """Number of statements sent; each is one round trip and one commit."""

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
        self._queue.append(Entry(operation, record, size, future, on_result))
        self._queued_size += size
        if self._flusher is None:
            self._wake()
        return future

    def _pass_on(self, record: Record, size: int, on_result: OnResult | None, beside: Journal) -> WriteFuture:
        """Submit a large record to the journal beside; it counts towards the backlog here until it is written."""
        self._beside_size += size

        def on_written(result: Any) -> Any:
            self._beside_size -= size
            self._admit_waiting(1)
            return result if on_result is None else on_result(result)

        return beside.submit(record, on_written)

    async def wait_for_capacity(self) -> None:
        """Wait while the backlog is full; writers are admitted in the order in which they came."""
        if not self.is_full:
            return
        turn: asyncio.Future[None] = self._loop.create_future()
        self._waiting_for_capacity.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._admit_waiting(1)
            raise

    @property
    def is_full(self) -> bool:
        """True if `wait_for_capacity` would wait: the backlog is full, or other writers wait already."""
        return bool(self._waiting_for_capacity) or self._is_crowded()

    def _is_crowded(self) -> bool:
        return len(self._queue) >= BACKLOG_ROWS or self._queued_size + self._beside_size >= BACKLOG_SIZE

    def _admit_waiting(self, turns: int) -> None:
        while turns > 0 and self._waiting_for_capacity and not self._is_crowded():
            turn = self._waiting_for_capacity.popleft()
            if not turn.done():
                turn.set_result(None)
                turns -= 1

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
        self._idle_timer.stop()
        await self._until_unused()
        self._watchdog.stop()
        if self._flusher is None:
            self._drop_connection()
        if self._closing is not None:
            await asyncio.wait([self._closing])
        await asyncio.sleep(0)  # a transport that was aborted is closed in the loop's next turn

    async def _until_unused(self) -> None:
        """Wait for a flusher that is about to end because the queue is empty."""
        if self._flusher is None or self._in_flight or self._queue:
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
        self._reject(self._abandon(), error)

    @property
    def is_idle(self) -> bool:
        """True if every accepted record is written."""
        idle = not (self._queue or self._in_flight or self._blocked)
        return idle and (self.beside is None or self.beside.is_idle)

    @property
    def is_closed(self) -> bool:
        """True if there is no record to write and no connection."""
        closed = self.is_idle and self._flusher is None and self._dedicated.driver is None
        return closed and (self.beside is None or self.beside.is_closed)

    @property
    def workflows(self) -> set[int]:
        """The ids of the workflows that have unwritten records."""
        unwritten = {
            entry.record.workflow_id
            for entry in (*self._in_flight, *self._waiting_entries())
            if not entry.resolved
        }
        return unwritten if self.beside is None else unwritten | self.beside.workflows

    async def drain(self) -> None:
        """Wait until the records accepted so far are written; live runs may add more."""
        if self.beside is not None:
            await self.beside.drain()
        accepted = [*self._in_flight, *self._waiting_entries()]
        while not all(entry.resolved for entry in accepted):
            self._written.clear()
            await self._written.wait()

    def _waiting_entries(self) -> list[Entry]:
        return [*self._queue, *(entry for entries in self._blocked.values() for entry in entries)]

    def _wake(self) -> None:
        self._held_owner = None if self._owner is None else self._owner()
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
        if self._queue and not self._stopping:
            self._wake()
        else:
            self._held_owner = None
            self._idle_timer.start()

    async def _flush(self) -> None:
        flusher = asyncio.current_task()
        assert flusher is not None  # noqa: S101  # `_wake` made it
        try:
            while self._queue or await self._has_more():
                self._in_flight = batch = self._next_batch()
                if batch:
                    self._waker.expect(alone=len(batch) == 1)
                    await self._write(batch)
                    # The resumed task may raise through this frame, and a traceback keeps the frame's variables.
                    self._in_flight = batch = []
                    self._written.set()
                    self._waker.resume_inline(flusher)
        except asyncio.CancelledError:
            # The loop is ending. It is unknown if the batch arrived, so its unresolved records are sent again.
            unresolved = [entry for entry in self._in_flight if not entry.resolved]
            self._in_flight = []
            self._requeue(unresolved)
            raise

    async def _has_more(self) -> bool:
        """Return True if the tasks that were woken just now have submitted more records.

        The flusher then sends these records in the same turn of the loop. It stops while a caller closes the
        journal: that caller would otherwise wait for a workflow that never ends.
        """
        await asyncio.sleep(0)
        return bool(self._queue) and not self._closers

    def _next_batch(self) -> list[Entry]:
        """Take the next batch from the queue: in order, bounded, and only records that fit one statement."""
        queue = self._queue
        if len(queue) == 1 and not (self._blocked or self._waiting_for_capacity):
            self._queued_size = 0
            return [queue.popleft()]
        batch: list[Entry] = []
        size = 0
        taken: dict[int, BatchedKeys] = {}
        while queue and len(batch) < self._database.limits.max_batch and size < MAX_BATCH_SIZE:
            entry = queue[0]
            if self._blocked and (stalled := self._blocked.get(entry.record.workflow_id)):
                stalled.append(queue.popleft())
                self._queued_size -= entry.size
                continue
            if not _fits_batch(entry, taken) or (entry.single and batch):
                break
            batch.append(queue.popleft())
            size += entry.size
            if entry.single:
                break
        self._queued_size -= size
        self._admit_waiting(len(batch))
        return batch

    async def _write(self, batch: Sequence[Entry]) -> None:
        """Send a batch until each of its records is resolved or blocked; an invalid row fails alone."""
        try:
            if self.observer is not None:
                await self.observer.writing([each.record for each in batch])
            rows = await self._with_retries(self._send, batch)
            if self.observer is not None:
                await self.observer.written([each.record for each in batch])
            if len(rows) == len(batch):
                self._resolve_all(batch, rows)
            else:
                await self._resolve_answered(batch, rows)
        except Exception as error:  # noqa: BLE001  # any error resolves or delays its records
            await self._bisect(batch, error)

    async def _bisect(self, batch: Sequence[Entry], error: Exception) -> None:
        """Find by halving the record that failed a batch; reject it, or block it while its key is locked."""
        if len(batch) > 1 and not _concerns_all(error):
            middle = len(batch) // 2
            await self._write(batch[:middle])
            await self._write(batch[middle:])
        elif is_lock_timeout(error):
            batch[0].single = True
            self._block(batch[0], LOCK_SHARE * LOCK_TIMEOUT * (len(self._blocked) + 1))
        elif is_transient(error) and (sqlstate(error) is not None or not await self._is_answered()):
            self._reject([*batch, *self._abandon()], error)
        else:
            self._reject(batch, error)

    async def _is_answered(self) -> bool:
        """Return True if the server answers: then the batch itself was too slow."""
        try:
            await self._fetch("SELECT 1", ())
        except Exception:  # noqa: BLE001  # any error means that it does not answer
            return False
        return True

    async def _with_retries(
        self, send: Callable[[Sequence[Entry]], Awaitable[Any]], batch: Sequence[Entry]
    ) -> Any:
        try:
            return await send(batch)
        except Exception as error:
            if not (is_transient(error) or is_cancelled(error) or is_about_tables(error)):
                raise

        async def send_again() -> Any:
            return await send(batch)

        return await self._database.retrying(also=is_about_tables)(send_again)

    async def _connect_and_send(self, batch: Sequence[Entry]) -> list[Any]:
        await self._connect()
        return await self._send(batch)

    def _send(self, batch: Sequence[Entry]) -> Awaitable[list[Any]]:
        if self._dedicated.driver is None:
            # Connecting takes long, and the times of steps are counted back from the encoding.
            return self._connect_and_send(batch)
        if len(batch) == 1 and (first := batch[0]).operation.can_be_single(first.record):
            # Plain values: no arrays to encode, and no join and two sorts for the server.
            text, values_of = self._single_statement(first.operation)
            return self._fetch(text, values_of(first.record), first.size / MIN_NETWORK_RATE)
        grouped: dict[Operation[Any], list[Any]] = {}
        size = 0
        for entry in batch:
            size += entry.size
            grouped.setdefault(entry.operation, []).append(entry.record)
        arrays = _encoded(grouped)
        names = operation_names(arrays)
        if names not in self._compiled:
            # Compiling takes long, too.
            self._statement(names)
            arrays = _encoded(grouped)
        statement = self._compiled[names]
        return self._fetch(statement.text, statement.arguments(arrays), size / MIN_NETWORK_RATE)

    def _statement(self, names: tuple[str, ...]) -> CompiledStatement:
        compiled = self._compiled.get(names)
        if compiled is None:
            compiled = self._compiled[names] = self._database.compile(self._operations.combine(names))
        return compiled

    def _single_statement(self, operation: Operation[Any]) -> SingleStatement:
        statement = self._single_statements.get(operation)
        if statement is None:
            compiled = self._database.compile(operation.statement(single=True))
            statement = SingleStatement(compiled.text, operation.picker(compiled.binds))
            self._single_statements[operation] = statement
        return statement

    def _resolve_all(self, batch: Sequence[Entry], rows: list[Any]) -> None:
        """Resolve a batch that was answered in full, by workflow id: a workflow has only one current epoch."""
        if len(batch) == 1:
            (entry,) = batch
            self._resolve(entry, entry.operation.result_for(entry.record, rows[0][EPOCH]))
            return
        epochs = {row[1]: row[EPOCH] for row in rows}
        resolve = self._resolve
        for entry in batch:
            record = entry.record
            resolve(entry, entry.operation.result_for(record, epochs[record.workflow_id]))

    async def _resolve_answered(self, batch: Sequence[Entry], rows: list[Any]) -> None:
        answers = {(row["kind"], row["workflow_id"], row["key"]): row["epoch"] for row in rows}
        unanswered: list[Entry] = []
        for entry in batch:
            record = entry.record
            operation = entry.operation
            epoch = answers.get((operation.name, record.workflow_id, operation.answer_key(record)))
            if epoch is None:
                unanswered.append(entry)
            else:
                self._resolve(entry, operation.result_for(record, epoch))
        if unanswered:
            await self._resolve_missing(unanswered)

    async def _resolve_missing(self, unanswered: Sequence[Entry]) -> None:
        """Find the reason that records were not written: a fenced run, an earlier sending, or a locked row."""
        states = await self._with_retries(self._ask, unanswered)
        for entry in unanswered:
            result = entry.operation.resolve_missing(entry.record, states[_asked(entry)])
            if result is RETRY:
                self._block(entry)
            elif isinstance(result, CancelRequested):
                self._cancel_run(entry, result)
            else:
                self._resolve(entry, result)

    def _cancel_run(self, entry: Entry, request: CancelRequested) -> None:
        """Cancel a run before its record is written and its code continues."""
        if self._held_owner is not None:
            self._held_owner.cancel_asked(entry.record.workflow_id, request.interrupts)
        entry.record = request.instead
        entry.operation = self._operation_of[type(request.instead)]
        self._requeue([entry])

    def _resolve(self, entry: Entry, result: Any) -> None:
        if self._delays:
            self._delays.pop(entry.record.workflow_id, None)
        if entry.resolved:
            return
        entry.resolved = True
        if entry.on_result is not None:
            result = entry.on_result(result)
        self._waker.resolve(entry.future, result)

    async def _ask(self, entries: Sequence[Entry]) -> dict[AskedRecord, CurrentState]:
        statement = self._statement((CURRENT_STATE.name,))
        arrays = CURRENT_STATE.arrays([_asked(entry) for entry in entries])
        rows = await self._fetch(statement.text, statement.arguments(arrays))
        return {from_row(AskedRecord, row): from_row(CurrentState, row) for row in rows}

    def _block(self, entry: Entry, at_least: float = 0.0) -> None:
        """Delay a record, and with it all later records of its workflow; `at_least` is in seconds."""
        workflow_id = entry.record.workflow_id
        if workflow_id in self._blocked:
            self._blocked[workflow_id].append(entry)
            return
        self._blocked[workflow_id] = deque([entry])
        delay = self._delays.get(workflow_id, LOCKED_DELAY)
        self._delays[workflow_id] = min(2 * delay, MAX_LOCKED_DELAY)
        self._loop.call_later(max(delay, at_least), self._unblock, workflow_id)

    def _unblock(self, workflow_id: int) -> None:
        if entries := self._blocked.pop(workflow_id, None):
            if entries[0].operation.requeues_last:
                self._queue.extend(entries)
                self._queued_size += sum(entry.size for entry in entries)
            else:
                self._requeue(entries)
            if self._flusher is None:
                self._wake()

    def _requeue(self, entries: Iterable[Entry]) -> None:
        first = list(entries)
        self._queue.extendleft(reversed(first))
        self._queued_size += sum(entry.size for entry in first)

    def _abandon(self) -> list[Entry]:
        """Empty the journal and return its pending entries."""
        abandoned = self._waiting_entries()
        self._queue.clear()
        self._blocked.clear()
        self._queued_size = 0
        self._admit_waiting(BACKLOG_ROWS)
        return abandoned

    def _reject(self, entries: Iterable[Entry], error: Exception) -> None:
        for entry in entries:
            reported = translate(error, self._database.schema) or error
            if isinstance(reported, DatabaseError) and is_data_error(error):
                reported = RowRefusedError(str(reported), sqlstate=reported.sqlstate)
            if isinstance(reported, PgqrsError) and reported is not error:
                reported.__cause__ = error
            self._resolve(entry, reported)

    async def _fetch(self, text: str, arguments: Sequence[Any], allowance: float = 0.0) -> list[Any]:
        # Not `DedicatedConnection.fetch`: that is one more coroutine for each statement.
        connection = self._dedicated.driver
        if connection is None or connection.is_closed():
            connection = await self._connect()
        self.statements += 1
        self._watchdog.watch(connection, allowance)
        try:
            bound = None if self._bound is None else self._bound + allowance
            return await connection.fetch(text, *arguments, timeout=bound)
        except BaseException as error:
            unsure = sqlstate(error) is None and not is_data_error(error)
            if unsure or is_read_only(error) or connection.is_closed():
                self._dedicated.terminate()
            if isinstance(error, Exception):
                self._watchdog.check(error)
            raise
        finally:
            self._watchdog.rest()

    async def _connect(self) -> Driver:
        connection = await self._dedicated.open()
        # The bound overrides the application's own time-out; it is doubled so that the watchdog acts first.
        self._bound = 2 * self._database.limits.timeout if is_bounded(connection) else None
        return connection

    def _close_if_idle(self) -> None:
        if self._flusher is None:
            self._drop_connection()

    def _drop_connection(self) -> None:
        if self._dedicated.driver is not None:
            self._closing = self._loop.create_task(self._dedicated.close(), name="pgqrs-journal-close")


def _concerns_all(error: Exception) -> bool:
    """Return True if the cause of an error is none of the records of the batch."""
    return is_transient(error) or is_cancelled(error) or is_about_tables(error)


def _encoded(grouped: dict[Operation[Any], list[Any]]) -> Arrays:
    arrays: Arrays = {}
    for operation, records in grouped.items():
        arrays |= operation.arrays(records)
    return arrays


def _asked(entry: Entry) -> AskedRecord:
    return AskedRecord(entry.record.workflow_id, entry.operation.answer_key(entry.record))


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
