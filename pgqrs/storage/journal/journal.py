"""Group commit of the hot path's writes.

Every durable write of an event loop goes through one journal. One batch is in flight at a time; while it is,
the next one gathers, and an idle journal sends at once: a lone writer pays one round trip and one commit, and a
thousand writers share them. Nothing is acknowledged before it is committed.

The idea is group commit: DeWitt et al., "Implementation techniques for main memory database systems" (1984).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import Context
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias
from weakref import ref

from pgqrs.errors import DatabaseError, PgqrsError, RowRefusedError
from pgqrs.storage.connections.database import LOCK_TIMEOUT, CompiledStatement, Database
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
from pgqrs.storage.connections.pooler import Driver, close_driver, is_bounded
from pgqrs.storage.connections.watchdog import Watchdog
from pgqrs.storage.journal import registry as writes
from pgqrs.storage.journal.futures import Waker, WriteFuture
from pgqrs.storage.journal.operation import EPOCH, RETRY, Arrays, CancelRequested, CurrentState, Operation
from pgqrs.storage.journal.registry import OPERATIONS, Record
from pgqrs.storage.records import RunEnd, RunRelease, Submission

MAX_BATCH_ROWS = 1000
"""The most records of one batch."""

MAX_BATCH_SIZE = 4 * 1024 * 1024
"""The size of the payloads, in characters, at which a batch is full; a single larger record goes alone."""

BACKLOG_ROWS = 20_000
"""The most records waiting for a batch; further writers wait for room."""

BACKLOG_SIZE = 64 * 1024 * 1024
"""The size of the payloads waiting for a batch, in characters, above which further writers wait for room."""

LOCKED_DELAY = 0.02
"""How long a record waits, in seconds, when somebody else's transaction holds its workflow's row; it doubles."""

MAX_LOCKED_DELAY = 1.0
"""The longest that it waits between two attempts, in seconds."""

MIN_NETWORK_RATE = 256 * 1024
"""The slowest network, in characters a second, on which a large record is waited for."""

LOCK_SHARE = 5
"""The share of a journal's time, as 1 to this, in which it waits for keys that other transactions hold."""

IDLE_TIMEOUT = 30.0
"""How long an idle journal keeps its connection, in seconds."""

BatchedSteps: TypeAlias = str | set[str | None] | None
"""What a batch has of a workflow: the id of a step, None for what is none of a step, or the set of several."""

Interceptor: TypeAlias = Callable[[Sequence[Record], Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""Called with the records of a durable write and with what carries it out, whose answer it returns."""


class SingleStatement(NamedTuple):
    """The statement of a record that goes alone: its text, and what takes its arguments out of the record."""

    text: str
    arguments: Callable[[Any], Sequence[Any]]


class Entry:
    """A record on its way, and whom to tell what became of it: a result, or an exception that was not raised.

    One that had to wait for a lock goes `alone` from then on, so that no other waits with it.
    """

    __slots__ = ("on_result", "record", "resolved", "single", "size")

    def __init__(self, record: Any, tell: Callable[[Any], None]) -> None:
        self.record = record
        self.on_result = tell
        self.size: int = record.size
        self.resolved = False
        self.single = False

    def resolve(self, verdict: Any) -> None:
        """Tell the verdict, once."""
        if not self.resolved:
            self.resolved = True
            self.on_result(verdict)


class Controls:
    """The switches of a journal and of the one beside it, for tests of crashes.

    `gate` stands before each durable write, and lets one through or not. `most` is the most records of one batch.
    """

    def __init__(self) -> None:
        self.interceptor: Interceptor | None = None
        self.max_batch = MAX_BATCH_ROWS


class JournalOwner(Protocol):
    """The owner of a journal, which closes it."""

    def cancel_asked(self, workflow_id: int, interrupt: bool) -> None:
        """Cancel the run of a workflow, if it is live here."""
        ...


class Journal:
    """The one writer of an event loop: `write` a record and await what became of it."""

    def __init__(
        self, database: Database, keeper: JournalOwner | None = None, *, beside: Journal | None = None
    ) -> None:
        """Write to a database; the `keeper` hears which runs are to be cancelled.

        The keeper lives as long as there is something to write: collected in the loop's last moments, it would
        begin to close what no task waits for any more. The journal `beside` this one has a connection of its own:
        it takes the records that may take long, so that no other waits for them.
        """
        self.beside = beside
        self._beside_size = 0
        self.controls: Controls = Controls() if beside is None else beside.controls
        self._database = database
        self._owner = None if keeper is None else ref(keeper)
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
        self._connection: Driver | None = None
        self._bound: float | None = None
        self._closing: asyncio.Task[None] | None = None
        self._stopping = False
        self._closers = 0
        self._idle_timer: asyncio.TimerHandle | None = None
        self._last_used = 0.0
        self._compiled: dict[tuple[str, ...], CompiledStatement] = {}
        self._single_statements: dict[Operation[Any], SingleStatement] = {}
        self._waker = Waker(self._loop)
        self.resolve = self._waker.resolve
        """Settles an `Answer`, in a `tell`."""
        self._watchdog = Watchdog(self._loop, database.limits.timeout)
        self.statements = 0
        """How many statements were sent; each is one round trip and one commit."""

    async def write(self, record: Record) -> Any:
        """Accept a record, wait until it is committed, and return what became of it.

        A caller that is cancelled while the record waits to be committed only stops waiting.
        """
        if self.is_full:
            await self.wait_for_capacity()
        return await self.send(record)

    def send(self, record: Record) -> WriteFuture:
        """Accept a record and return the answer that tells what became of it. Await `room` before."""
        answer = WriteFuture(loop=self._loop)
        self.submit(record, partial(self.resolve, answer))
        return answer

    def intercepted(self, record: Record, write: Callable[[], Awaitable[Any]]) -> Awaitable[Any]:
        """Carry out a durable write of somebody else's, a transaction's, as the gate lets it through."""
        gate = self.controls.interceptor
        return write() if gate is None else gate([record], write)

    def submit(self, record: Record, on_result: Callable[[Any], None]) -> None:
        """Take a record on: it is written whether or not anybody waits for it.

        `tell` is called once, with the result or with the exception that says why there is none. Await `room`
        before.
        """
        entry = Entry(record, on_result)
        if entry.size > MAX_BATCH_SIZE and self.beside is not None:
            self._pass_on(entry, self.beside)
            return
        self._queue.append(entry)
        self._queued_size += entry.size
        if self._flusher is None:
            self._wake()

    def _pass_on(self, entry: Entry, beside: Journal) -> None:
        """Have a large record written beside the others, which takes up room here until it is."""
        self._beside_size += entry.size

        def tell(verdict: Any) -> None:
            self._beside_size -= entry.size
            self._admit_waiting(1)
            entry.on_result(verdict)

        beside.submit(entry.record, tell)

    def try_submit(self, record: Record) -> bool:
        """Take on a record that nobody waits for, if there is room, and tell whether there was."""
        if self._is_crowded():
            return False
        self.submit(record, _ignore)
        return True

    async def wait_for_capacity(self) -> None:
        """Wait while too much is waiting to be written; those who came first go first."""
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
        """Whether `room` must be awaited before `accept`: too much is waiting, or others came first."""
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
        """Write what was accepted, bounded by the database's `timeout`, and give the connection up.

        The journal can be used again afterwards.
        """
        if self.beside is not None:
            await self.beside.close()
        try:
            async with asyncio.timeout(self._database.limits.timeout):
                await self.drain()
        except TimeoutError as error:
            await self._stop(error)
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        await self._until_unused()
        self._watchdog.stop()
        if self._flusher is None:
            self._drop_connection()
        if self._closing is not None:
            await asyncio.wait([self._closing])
        await asyncio.sleep(0)  # a transport that was aborted is closed in the loop's next turn

    async def _until_unused(self) -> None:
        """Let a flusher end that is about to see that there is nothing left."""
        if self._flusher is None or self._in_flight or self._queue:
            return
        self._closers += 1
        try:
            await asyncio.wait([self._flusher])
            await asyncio.sleep(0)  # `_flushed` has its turn
        finally:
            self._closers -= 1

    async def _stop(self, error: Exception) -> None:
        """Stop writing, and tell those who still wait why."""
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
        """Whether all that was accepted is written."""
        idle = not (self._queue or self._in_flight or self._blocked)
        return idle and (self.beside is None or self.beside.is_idle)

    @property
    def is_closed(self) -> bool:
        """Whether there is nothing to write, and no connection."""
        closed = self.is_idle and self._flusher is None and self._connection is None
        return closed and (self.beside is None or self.beside.is_closed)

    @property
    def workflows(self) -> set[int]:
        """The ids of the workflows that have records on their way."""
        on_their_way = [*self._in_flight, *self._waiting_entries()]
        return {entry.record.workflow_id for entry in on_their_way if not entry.resolved}

    async def drain(self) -> None:
        """Wait until what is accepted by now is written; runs that go on may add more."""
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
        # In a context of its own: that of whoever came first would live as long as there is work.
        context = Context()
        self._flusher = self._loop.create_task(self._flush(), name="pgqrs-journal", context=context)
        self._flusher.add_done_callback(self._flushed, context=context)

    def _flushed(self, flusher: asyncio.Task[None]) -> None:
        """Begin again if there is more: it came in just now, or the flusher was cancelled."""
        self._flusher = None
        self._waker.alone = False
        error = None if flusher.cancelled() else flusher.exception()
        if isinstance(error, Exception):  # else an interrupt, or an exit, of the task that was let go on
            self._loop.call_exception_handler({"message": "the journal failed", "exception": error})
        if self._queue and not self._stopping:
            self._wake()
        else:
            self._held_owner = None
            self._start_idle_timer()

    async def _flush(self) -> None:
        itself = asyncio.current_task()
        assert itself is not None  # noqa: S101  # `_wake` made it
        try:
            while self._queue or await self._is_followed():
                self._in_flight = batch = self._next_batch()
                if batch:
                    self._waker.expect(alone=len(batch) == 1)
                    await self._write(batch)
                    # Not in this frame either: see `step_aside`.
                    self._in_flight = batch = []
                    self._written.set()
                    self._waker.resume_inline(itself)
        except asyncio.CancelledError:
            # The loop is ending. Whether the batch arrived is unknown, so what is unsettled is sent again.
            unsettled = [entry for entry in self._in_flight if not entry.resolved]
            self._in_flight = []
            self._requeue(unsettled)
            raise

    async def _is_followed(self) -> bool:
        """Tell whether those who were told just now write more: it goes out in the turn in which they hear.

        Not while somebody closes the journal, who would otherwise wait for a workflow that never ends.
        """
        await asyncio.sleep(0)
        return bool(self._queue) and not self._closers

    def _next_batch(self) -> list[Entry]:
        """Take the next batch off the queue: in order, bounded, and cut where one statement could not hold it."""
        queue = self._queue
        if len(queue) == 1 and not (self._blocked or self._waiting_for_capacity):
            self._queued_size = 0
            return [queue.popleft()]
        batch: list[Entry] = []
        size = 0
        taken: dict[int, BatchedSteps] = {}
        while queue and len(batch) < self.controls.max_batch and size < MAX_BATCH_SIZE:
            entry = queue[0]
            if self._blocked and (stalled := self._blocked.get(entry.record.workflow_id)):
                stalled.append(queue.popleft())
                self._queued_size -= entry.size
                continue
            if not _fits_batch(entry.record, taken) or (entry.single and batch):
                break
            batch.append(queue.popleft())
            size += entry.size
            if entry.single:
                break
        self._queued_size -= size
        self._admit_waiting(len(batch))
        return batch

    async def _write(self, batch: Sequence[Entry]) -> None:
        """Send a batch until each of its records is settled or put by; a bad row fails alone."""
        try:
            gate = self.controls.interceptor
            if gate is None:
                rows = await self._patiently(self._send, batch)
            else:
                send = partial(self._patiently, self._send, batch)
                rows = await gate([each.record for each in batch], send)
            if len(rows) == len(batch):
                self._resolve_all(batch, rows)
            else:
                await self._resolve_answered(batch, rows)
        except Exception as error:  # noqa: BLE001  # whatever it is, somebody waits for it
            await self._bisect(batch, error)

    async def _bisect(self, batch: Sequence[Entry], error: Exception) -> None:
        """Find the record that a batch failed for, by halves; reject it, or put it by while it is locked."""
        if len(batch) > 1 and not _is_of_all(error):
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
        """Tell whether the server answers: then what was too slow was the batch."""
        try:
            await self._fetch("SELECT 1", ())
        except Exception:  # noqa: BLE001  # it does not, whatever it is
            return False
        return True

    async def _patiently(self, send: Callable[[Sequence[Entry]], Awaitable[Any]], batch: Sequence[Entry]) -> Any:
        try:
            return await send(batch)
        except Exception as error:
            if not (is_transient(error) or is_cancelled(error) or is_about_tables(error)):
                raise

        async def again() -> Any:
            return await send(batch)

        return await self._database.retrying(also=is_about_tables)(again)

    def _send(self, batch: Sequence[Entry]) -> Awaitable[list[Any]]:
        if len(batch) == 1 and not _reopens(lone := batch[0].record):
            text, values_of = self._single_statement(OPERATIONS[type(lone)])
            return self._fetch(text, values_of(lone), batch[0].size / MIN_NETWORK_RATE)
        grouped: dict[Operation[Any], list[Any]] = {}
        size = 0
        for entry in batch:
            size += entry.size
            grouped.setdefault(OPERATIONS[type(entry.record)], []).append(entry.record)
        arrays: Arrays = {}
        for kind, records in grouped.items():
            arrays |= kind.arrays(records)
        statement = self._statement(writes.operation_names(arrays))
        return self._fetch(statement.text, statement.arguments(arrays), size / MIN_NETWORK_RATE)

    def _statement(self, names: tuple[str, ...]) -> CompiledStatement:
        compiled = self._compiled.get(names)
        if compiled is None:
            compiled = self._compiled[names] = self._database.compile(writes.combine(names))
        return compiled

    def _single_statement(self, kind: Operation[Any]) -> SingleStatement:
        lone = self._single_statements.get(kind)
        if lone is None:
            compiled = self._database.compile(kind.statement(lone=True))
            lone = self._single_statements[kind] = SingleStatement(compiled.text, kind.picker(compiled.binds))
        return lone

    def _resolve_all(self, batch: Sequence[Entry], rows: list[Any]) -> None:
        """Settle a batch that was answered in full: a workflow has but one current epoch."""
        tell = self._resolve if self._delays else Entry.resolve
        if len(batch) == 1:
            (entry,) = batch
            tell(entry, OPERATIONS[type(entry.record)].result_for(entry.record, rows[0][EPOCH]))
            return
        epochs = {row[1]: row[EPOCH] for row in rows}
        for entry in batch:
            record = entry.record
            tell(entry, OPERATIONS[type(record)].result_for(record, epochs[record.workflow_id]))

    async def _resolve_answered(self, batch: Sequence[Entry], rows: list[Any]) -> None:
        answers = {(row[0], row[1], row[2]): row[EPOCH] for row in rows}
        unanswered: list[Entry] = []
        for entry in batch:
            record = entry.record
            kind = OPERATIONS[type(record)]
            epoch = answers.get((kind.name, record.workflow_id, _step_id(record)))
            if epoch is None:
                unanswered.append(entry)
            else:
                self._resolve(entry, kind.result_for(record, epoch))
        if unanswered:
            await self._resolve_missing(unanswered)

    async def _resolve_missing(self, unanswered: Sequence[Entry]) -> None:
        """Find out why records were not written: stale, answered before, or only held up by a lock."""
        standings = await self._patiently(self._ask, unanswered)
        for entry in unanswered:
            record = entry.record
            verdict = OPERATIONS[type(record)].resolve_missing(
                record, standings[record.workflow_id, _step_id(record)]
            )
            if verdict is RETRY:
                self._block(entry)
            elif isinstance(verdict, CancelRequested):
                self._cancel_run(entry, verdict)
            else:
                self._resolve(entry, verdict)

    def _cancel_run(self, entry: Entry, heard: CancelRequested) -> None:
        """Tell a run that it is to be cancelled, before its record is written and its code goes on."""
        if self._held_owner is not None:
            self._held_owner.cancel_asked(entry.record.workflow_id, heard.interrupts)
        entry.record = heard.instead
        self._requeue([entry])

    def _resolve(self, entry: Entry, verdict: Any) -> None:
        if self._delays:
            self._delays.pop(entry.record.workflow_id, None)
        entry.resolve(verdict)

    async def _ask(self, entries: Sequence[Entry]) -> dict[tuple[int, str | None], CurrentState]:
        asked = [(entry.record.workflow_id, _step_id(entry.record)) for entry in entries]
        statement = self._statement((writes.CURRENT_STATE.name,))
        rows = await self._fetch(statement.text, statement.arguments(writes.CURRENT_STATE.arrays(asked)))
        return {(row[0], row[1]): CurrentState(*row[2:]) for row in rows}

    def _block(self, entry: Entry, at_least: float = 0.0) -> None:
        """Put a record by for a moment, and behind it all that its workflow writes."""
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
            if isinstance(entries[0].record, Submission):
                # Behind those that came since: its key may be held for long.
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
        """Empty the journal and return what was in it."""
        left = self._waiting_entries()
        self._queue.clear()
        self._blocked.clear()
        self._queued_size = 0
        self._admit_waiting(BACKLOG_ROWS)
        return left

    def _reject(self, entries: Iterable[Entry], error: Exception) -> None:
        for entry in entries:
            told = translate(error, self._database.schema) or error
            if isinstance(told, DatabaseError) and is_data_error(error):
                told = RowRefusedError(str(told), sqlstate=told.sqlstate)
            if isinstance(told, PgqrsError) and told is not error:
                told.__cause__ = error
            self._resolve(entry, told)

    async def _fetch(self, text: str, arguments: Sequence[Any], allowance: float = 0.0) -> list[Any]:
        connection = self._connection
        if connection is None or connection.is_closed():
            connection = self._connection = await self._database.open_driver()
            # The watchdog is the first to lose patience; this keeps the application's own time-out from it.
            self._bound = 2 * self._database.limits.timeout if is_bounded(connection) else None
        self.statements += 1
        self._watchdog.watch(connection, allowance)
        try:
            bound = None if self._bound is None else self._bound + allowance
            return await connection.fetch(text, *arguments, timeout=bound)
        except BaseException as error:
            unsure = sqlstate(error) is None and not is_data_error(error)
            if unsure or is_read_only(error) or connection.is_closed():
                connection.terminate()
                self._connection = None
            if isinstance(error, Exception):
                self._watchdog.check(error)
            raise
        finally:
            self._watchdog.rest()

    def _start_idle_timer(self) -> None:
        self._last_used = self._loop.time()
        if self._idle_timer is None and not self._loop.is_closed():
            self._idle_timer = self._loop.call_later(IDLE_TIMEOUT, self._close_if_idle)

    def _close_if_idle(self) -> None:
        self._idle_timer = None
        if self._flusher is None and self._loop.time() - self._last_used >= IDLE_TIMEOUT:
            self._drop_connection()
        elif self._connection is not None:
            self._idle_timer = self._loop.call_at(self._last_used + IDLE_TIMEOUT, self._close_if_idle)

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._closing = self._loop.create_task(close_driver(self._connection), name="pgqrs-journal-close")
            self._connection = None


# As tuples: `isinstance` takes twice as long with a union.
_ENDINGS = (RunEnd, RunRelease)


def _is_of_all(error: Exception) -> bool:
    """Tell whether a batch failed for what none of its records can help."""
    return is_transient(error) or is_cancelled(error) or is_about_tables(error)


def _ignore(_verdict: Any) -> None:
    """Let nobody know."""


def _step_id(record: Any) -> str | None:
    return getattr(record, "step_id", None)


def _reopens(record: Any) -> bool:
    return isinstance(record, _ENDINGS) and bool(record.reopen)


def _fits_batch(record: Any, taken: dict[int, BatchedSteps]) -> bool:
    """Tell whether a record may go into the batch that `taken` describes, and note it there.

    One statement sees one snapshot, so a workflow may have several records in it only when they are distinct
    steps.
    """
    workflow_id: int = record.workflow_id
    step_id: str | None = getattr(record, "step_id", None)
    if workflow_id not in taken:
        taken[workflow_id] = step_id
        return True
    steps = taken[workflow_id]
    if not isinstance(steps, set):
        steps = taken[workflow_id] = {steps}
    if None in steps or step_id is None or step_id in steps:
        return False
    steps.add(step_id)
    return True
