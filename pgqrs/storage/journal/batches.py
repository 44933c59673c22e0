"""The writer of batches: sends them, finds the records that fail them, and resolves their futures."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import monotonic
from typing import Any, Protocol
from weakref import ref

from pgqrs.errors import DatabaseError, PgqrsError, RowRefusedError
from pgqrs.observer import Observer
from pgqrs.storage.connections.database import LOCK_TIMEOUT, Database
from pgqrs.storage.connections.errors import (
    is_about_tables,
    is_cancelled,
    is_data_error,
    is_lock_timeout,
    is_taken,
    is_transient,
    sqlstate,
    translate,
)
from pgqrs.storage.connections.watchdog import MIN_NETWORK_RATE, WatchedConnection
from pgqrs.storage.journal.backlog import Backlog, Entry
from pgqrs.storage.journal.futures import Waker
from pgqrs.storage.records import from_row
from pgqrs.storage.writes.operation import EPOCH, RETRY, CancelRequested, CurrentState, Operation
from pgqrs.storage.writes.registry import CURRENT_STATE, AskedRecord, Operations, Statements

LOCK_SHARE = 5
"""Multiple of `LOCK_TIMEOUT` by which a record pauses after a lock timeout.

It bounds the share of its time in which a journal waits for keys that other transactions hold.
"""


class JournalOwner(Protocol):
    """The owner of a journal, which closes it."""

    def cancel_asked(self, workflow_id: int, interrupt: bool) -> None:
        """Cancel the run of a workflow if it is live in this event loop."""
        ...


class OwnerReference:
    """A weak reference to the owner of a journal, which is strong while records are pending.

    If the owner were collected in the last moments of the loop, it would start to close resources that no task
    awaits any more.
    """

    def __init__(self, owner: JournalOwner | None) -> None:
        self._weak = None if owner is None else ref(owner)
        self._held: JournalOwner | None = None

    def hold(self) -> None:
        """Keep the owner alive."""
        self._held = None if self._weak is None else self._weak()

    def release(self) -> None:
        """Keep the owner alive no longer."""
        self._held = None

    def cancel_asked(self, workflow_id: int, *, interrupt: bool) -> None:
        """Cancel a run, while the owner is held."""
        if self._held is not None:
            self._held.cancel_asked(workflow_id, interrupt)


class BatchWriter:
    """Sends batches until each of their records is resolved, or is back in the backlog.

    Args:
        database: The database; its `outage_timeout` limits the retries.
        connection: The connection of the journal.
        backlog: The records that wait.
        operations: The operations of all records.
        waker: Wakes the waiters of the records.
        owner: The owner of the journal.
        observer: The observer of the writes, None for none.
    """

    def __init__(
        self,
        database: Database,
        connection: WatchedConnection,
        backlog: Backlog,
        *,
        operations: Operations,
        waker: Waker,
        owner: OwnerReference,
        observer: Observer | None,
    ) -> None:
        self._database = database
        self._connection = connection
        self._backlog = backlog
        self._delays = backlog.blocked.delays
        self._operations = operations
        self.statements = Statements(database, operations)
        """The compiled statements."""
        self._waker = waker
        self._owner = owner
        self._observer = observer

    async def write(self, batch: Sequence[Entry]) -> None:
        """Send a batch until each of its records is resolved or blocked; an invalid row fails alone."""
        try:
            if self._observer is None:
                rows = await self._with_retries(self._send, batch)
            else:
                rows = await self._send_observed(batch, self._observer)
            if len(rows) == len(batch):
                self._resolve_all(batch, rows)
            else:
                await self._resolve_answered(batch, rows)
        except Exception as error:  # noqa: BLE001  # any error resolves or delays its records
            if is_taken(error) and self._fall_back(batch):
                await self.write(batch)
            else:
                await self._bisect(batch, error)

    def _fall_back(self, batch: Sequence[Entry]) -> bool:
        """Exchange the records that are only inserted for such that may have a row; return False without any."""
        found = False
        for each in batch:
            if (fallback := each.operation.fallback_record) is not None:
                self._exchange(each, fallback(*each.record))
                found = True
        return found

    def _exchange(self, entry: Entry, record: Any) -> None:
        entry.record = record
        entry.operation = self._operations[type(record)]

    async def _send_observed(self, batch: Sequence[Entry], observer: Observer) -> Any:
        await observer.writing([each.record for each in batch])
        began = monotonic()
        rows = await self._with_retries(self._send, batch)
        observer.rows_committed(len(batch), monotonic() - began)
        await observer.written([each.record for each in batch])
        return rows

    async def _bisect(self, batch: Sequence[Entry], error: Exception) -> None:
        """Find by halving the record that failed a batch; reject it, or block it while its key is locked."""
        blocked = self._backlog.blocked
        if len(batch) > 1 and not _concerns_all(error):
            middle = len(batch) // 2
            await self.write(batch[:middle])
            await self.write(batch[middle:])
        elif is_lock_timeout(error):
            batch[0].single = True
            blocked.add(batch[0], LOCK_SHARE * LOCK_TIMEOUT * (len(blocked.by_key) + 1))
        elif is_transient(error) and (sqlstate(error) is not None or not await self._is_answered()):
            self.reject([*batch, *self._backlog.take_all()], error)
        else:
            self.reject(batch, error)

    # --- sending ---

    async def _is_answered(self) -> bool:
        """Return True if the server answers: then the batch itself was too slow."""
        try:
            await self._connection.fetch("SELECT 1", ())
        except Exception:  # noqa: BLE001  # any error means that it does not answer
            return False
        return True

    async def _with_retries(
        self, send: Callable[[Sequence[Entry]], Awaitable[Any]], batch: Sequence[Entry]
    ) -> Any:
        try:
            return await send(batch)
        except Exception as error:
            if not _concerns_all(error):
                raise

        async def send_again() -> Any:
            return await send(batch)

        return await self._database.retrying(also=is_about_tables)(send_again)

    async def _connect_and_send(self, batch: Sequence[Entry]) -> list[Any]:
        await self._connection.connect()
        return await self._send(batch)

    def _send(self, batch: Sequence[Entry]) -> Awaitable[list[Any]]:
        if self._connection.dedicated.driver is None:
            # Connecting takes long, and the times of steps are counted back from the encoding.
            return self._connect_and_send(batch)
        if len(batch) == 1 and (first := batch[0]).operation.can_be_single(first.record):
            # Plain values: no arrays to encode, and no join and two sorts for the server.
            text, values_of = self.statements.single(first.operation)
            return self._connection.fetch(text, values_of(first.record), first.size / MIN_NETWORK_RATE)
        grouped: dict[Operation[Any], list[Any]] = {}
        size = 0
        for entry in batch:
            size += entry.size
            grouped.setdefault(entry.operation, []).append(entry.record)
        text, arguments = self.statements.encode(grouped)
        return self._connection.fetch(text, arguments, size / MIN_NETWORK_RATE)

    async def _ask(self, entries: Sequence[Entry]) -> dict[AskedRecord, CurrentState]:
        statement = self.statements.of((CURRENT_STATE.name,))
        arrays = CURRENT_STATE.arrays([_asked(entry) for entry in entries])
        rows = await self._connection.fetch(statement.text, statement.arguments(arrays))
        return {from_row(AskedRecord, row): from_row(CurrentState, row) for row in rows}

    # --- resolving ---

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
                self._backlog.blocked.add(entry)
            elif isinstance(result, CancelRequested):
                self._cancel_run(entry, result)
            else:
                self._resolve(entry, result)

    def _cancel_run(self, entry: Entry, request: CancelRequested) -> None:
        """Cancel a run before its record is written and its code continues."""
        self._owner.cancel_asked(entry.record.workflow_id, interrupt=request.interrupts)
        if request.instead is None:
            self._resolve(entry, None)
            return
        self._exchange(entry, request.instead)
        self._backlog.requeue([entry])

    def _resolve(self, entry: Entry, result: Any) -> None:
        if self._delays:
            self._delays.pop(entry.order_key, None)
        if entry.resolved:
            return
        entry.resolved = True
        if entry.on_result is not None:
            result = entry.on_result(result)
        self._waker.resolve(entry.future, result)

    def reject(self, entries: Iterable[Entry], error: Exception) -> None:
        """Resolve records that cannot be written with an `error`."""
        for entry in entries:
            reported = translate(error, self._database.schema) or error
            if isinstance(reported, DatabaseError) and is_data_error(error):
                reported = RowRefusedError(str(reported), sqlstate=reported.sqlstate)
            if isinstance(reported, PgqrsError) and reported is not error:
                reported.__cause__ = error
            self._resolve(entry, reported)


def _concerns_all(error: Exception) -> bool:
    """Return True if the cause of an error is none of the records of the batch."""
    return is_transient(error) or is_cancelled(error) or is_about_tables(error)


def _asked(entry: Entry) -> AskedRecord:
    return AskedRecord(entry.record.workflow_id, entry.operation.answer_key(entry.record))
