"""The store of an event loop: all reads and writes of the database for runs, workers and admins."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, NamedTuple, Protocol
from uuid import UUID
from weakref import WeakSet, WeakValueDictionary

from pgqrs.clock import Clock, ClockReading
from pgqrs.codecs.base import Codec, stored_name
from pgqrs.errors import RowRefusedError, WorkflowLockedError
from pgqrs.observer import Observer
from pgqrs.storage.access.caller_transaction import CallerTransaction
from pgqrs.storage.access.histories import Histories
from pgqrs.storage.access.id_allocator import IdAllocator
from pgqrs.storage.access.operations import WorkflowOperations
from pgqrs.storage.arrivals import Arrivals
from pgqrs.storage.claim_connection import ClaimConnection
from pgqrs.storage.connections.caller import CallerSessions, SessionOrConnection
from pgqrs.storage.connections.database import Database, Limits
from pgqrs.storage.connections.dedicated import RetryingConnection
from pgqrs.storage.connections.engines import EngineSource
from pgqrs.storage.connections.errors import translated
from pgqrs.storage.diagnosis.repository import Diagnosis
from pgqrs.storage.heartbeat import Heartbeat, HeldRun
from pgqrs.storage.journal.backlog import MAX_BATCH_SIZE
from pgqrs.storage.journal.futures import WriteFuture, discard_result
from pgqrs.storage.journal.journal import Journal
from pgqrs.storage.journal.running_marks import RunningMarks
from pgqrs.storage.liveness import StoreLiveness
from pgqrs.storage.queries import delivery
from pgqrs.storage.queries.steps import StepRepository
from pgqrs.storage.reader import StoreReader
from pgqrs.storage.records import Claim, CompletedStep, History
from pgqrs.storage.result_listener import ResultListener
from pgqrs.storage.schema.tables import InstalledTables
from pgqrs.storage.server_clock import ServerClock
from pgqrs.storage.sql.channels import ids_payload, payload_of, queue_channel, result_channel
from pgqrs.storage.sql.tokens import new_token
from pgqrs.storage.step_transaction import SessionMaker, StepTransactions
from pgqrs.storage.store_access import StoreAccess
from pgqrs.storage.writes.continuations import RunContinuation
from pgqrs.storage.writes.creation import NewRun
from pgqrs.storage.writes.operation import ID_TAKEN
from pgqrs.storage.writes.runs import RunEnd, RunRelease, RunStart
from pgqrs.types import WorkflowStatus

_LAST_CLOSES = 3

_logger = logging.getLogger("pgqrs.storage")


async def _unread(connection: RetryingConnection, addresses: Sequence[str]) -> list[str]:
    return [row["address"] for row in await connection.fetch(delivery.unread, {"addresses": addresses})]


class RunControl(Protocol):
    """The controls of a run that is live in this event loop."""

    @property
    def busy_with(self) -> str | None:
        """The id of a step that the run is executing, None between steps."""
        ...

    @property
    def executes_body(self) -> bool:
        """True if a task executes the body and will end the run."""
        ...

    def cancel(self, *, interrupt: bool) -> None:
        """End the run as cancelled, after the executing steps, or by interrupting them."""
        ...


class Sessions(NamedTuple):
    """The sessions that the application and pgqrs share: of callers, and of transactional steps."""

    callers: CallerSessions
    steps: StepTransactions


class _ChangingRuns:
    """Counts the workflows whose runs are being started or released, and so are not in `Store.runs`."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.claim_connections: WeakSet[ClaimConnection] = WeakSet()
        """The connections of workers, whose unanswered claims may have started runs."""

    def __contains__(self, workflow_id: int) -> bool:
        return workflow_id in self._counts

    def add(self, workflow_id: int) -> None:
        self._counts[workflow_id] = self._counts.get(workflow_id, 0) + 1

    def discard(self, workflow_id: int) -> None:
        if (count := self._counts.pop(workflow_id, 0)) > 1:
            self._counts[workflow_id] = count - 1


class StoreSettings(NamedTuple):
    """The settings of the stores of an `Admin`; see there for their meaning."""

    source: EngineSource
    schema: str
    limits: Limits
    codec: Codec
    clock: Clock
    sessionmaker: SessionMaker | None
    tunes_gc: bool
    observer: Observer | None = None


class Store:
    """All storage of one event loop: a database, its journal, and reserved ids."""

    def __init__(self, settings: StoreSettings, heartbeat: Heartbeat) -> None:
        self.clock = settings.clock
        """The clock by which the runs wait."""
        self.database = Database(settings.source, settings.schema, settings.limits, self.clock.schema)
        self.runs: WeakValueDictionary[int, RunControl] = WeakValueDictionary()
        """The live runs of this event loop, by workflow id."""
        self.changing = _ChangingRuns()
        """The workflows that have a live run that is not in `runs`, or not yet."""
        self.observer: Observer | None = settings.observer
        """The observer of this process; None for none."""
        beside = Journal(self.database, self, observer=self.observer)
        self.journal = Journal(self.database, self, beside=beside, observer=self.observer)
        self.marks = RunningMarks(self.journal)
        dedicated = RetryingConnection(self.database)
        tables = InstalledTables(self.database)
        self._histories = Histories(self.database)
        self.reader = StoreReader(
            self.database, tables, ServerClock(dedicated.fetch, self.clock), Diagnosis(dedicated.fetch)
        )
        callers = CallerSessions(self.database)
        self.sessions = Sessions(callers, StepTransactions(self.database, callers, settings.sessionmaker))
        self.liveness = StoreLiveness(heartbeat, tunes_gc=settings.tunes_gc)
        self.arrivals = Arrivals(partial(_unread, dedicated))
        self.results = ResultListener(self.database)
        """The waits of the live runs of this event loop for messages."""
        self._access = StoreAccess(
            self.database,
            tables,
            self.journal,
            dedicated=dedicated,
            ids=IdAllocator(dedicated, self.database.workflow_ids),
            heartbeat=heartbeat,
        )
        self.operations = WorkflowOperations(self._access, self.ids, stored_name(settings.codec))
        """The operations outside of a caller's transaction."""

    @property
    def ids(self) -> IdAllocator:
        """The reserved ids of this event loop."""
        return self._access.ids

    @property
    def tables(self) -> InstalledTables:
        """The tables of the schema."""
        return self._access.tables

    async def open(self) -> None:
        """Arrange for the store to be closed when the event loop ends, even without a call of `close`."""
        await self.liveness.close_with_loop(partial(self.close, for_good=True))

    async def close(self, *, for_good: bool = False) -> None:
        """Write the records that the journal has accepted and close the store's connections.

        The store can be used, and closed, again. The heartbeat continues for a run that was started meanwhile,
        unless the loop ends, which `for_good` says.
        """
        if self.liveness.is_inherited:
            return
        async with self.liveness.closing, AsyncExitStack() as last:
            # A caller that is cancelled in one part has the other parts closed all the same: a heartbeat that
            # continued would keep the runs of this executor from recovery.
            last.push_async_callback(self.database.dispose)
            last.push_async_callback(self._access.close)
            last.push_async_callback(self.arrivals.close)
            last.push_async_callback(self.results.close)
            if for_good:
                last.push_async_callback(self._close_journal_for_good)
            last.push_async_callback(self._stop_heartbeat, None if for_good else self.liveness.starts.ever)
            await self.journal.close()

    async def _stop_heartbeat(self, starts: int | None) -> None:
        if starts is None or not self.liveness.starts.since(starts):
            await self.liveness.stop()

    async def _close_journal_for_good(self) -> None:
        # A run whose task was cancelled during its start is abandoned once the start is written, and so is a run
        # that the last heartbeat found: these records come after the journal was closed.
        for _ in range(_LAST_CLOSES):
            if self.journal.is_closed:
                return
            await self.journal.close()

    @property
    def executor_id(self) -> UUID:
        """The executor of the runs of this process."""
        return self.liveness.heartbeat.executor_id

    async def ensure_heartbeat(self) -> None:
        """Start the heartbeat if it does not beat: no run may start before its executor is registered."""
        if not self.liveness.is_beating:
            with translated(self.database.schema):
                await self.liveness.start(self)

    # --- the methods of `RunOwner`, for the heartbeat, and of `JournalOwner`, for the journal ---

    def cancel_asked(self, workflow_id: int, interrupt: bool) -> None:
        """Cancel a run that is live in this event loop."""
        if run := self.runs.get(workflow_id):
            run.cancel(interrupt=interrupt)

    def on_time(self, reading: ClockReading) -> None:
        """Correct the store's time by a reading of the database's clock."""
        self.reader.server_clock.correct(reading)

    def without_task(self, held: Sequence[HeldRun]) -> list[HeldRun]:
        """Return the runs that no task in this event loop starts, executes or releases."""
        left = [each for each in held if each.workflow_id not in self.runs]
        if not left:
            return left
        written = self.journal.workflows
        claimed = {token for connection in self.changing.claim_connections for token in connection.unanswered}
        return [
            each
            for each in left
            if each.workflow_id not in self.changing
            and each.workflow_id not in written
            and (each.claim is None or each.claim not in claimed)
        ]

    def abandon_runs(self, held: Sequence[HeldRun]) -> None:
        """Abandon runs that no task in this process executes."""
        for each in held:
            _logger.warning(
                "workflow %s is abandoned: this process holds its run %s, but no task executes the run",
                each.workflow_id, each.epoch,
                extra={"workflow_id": each.workflow_id, "epoch": each.epoch},
            )  # fmt: skip
            self.abandon(each.workflow_id, each.epoch, each.claim or 0)

    # ---

    async def claim_connection(self, on_notify: Callable[[str], object]) -> ClaimConnection:
        """Return a worker's connection; `on_notify` is called with the mark of the queue of each notification."""
        await self.tables.ensure()
        with self.liveness.starts:
            await self.ensure_heartbeat()
        connection = ClaimConnection(
            self.database,
            self.executor_id,
            on_notify,
            self.operations.codec,
            on_time=self.on_time,
            clock=self.clock,
            observer=self.observer,
        )
        self.changing.claim_connections.add(connection)
        return connection

    async def create_and_claim(
        self, name: str, input_text: str, timeout: float | None = None
    ) -> tuple[int, Claim]:
        """Write a new workflow together with its first run by this executor, and return its id and the claim.

        If the caller is cancelled meanwhile, the run is abandoned once it is written.
        """
        await self.tables.ensure()
        with self.liveness.starts:
            await self.ensure_heartbeat()
            while True:
                workflow_id = await self.ids.next()
                record = NewRun(
                    workflow_id, name, input_text, self.executor_id, timeout, self.operations.codec, new_token()
                )
                self.changing.add(workflow_id)
                try:
                    if self.journal.is_full:
                        await self.journal.wait_for_capacity()
                    claim = await self._starting(record)
                finally:
                    self.changing.discard(workflow_id)
                if claim is not ID_TAKEN:
                    return workflow_id, claim
                self.ids.forget()

    async def claim(self, workflow_id: int, timeout: float | None = None, *, token: int | None = None) -> Claim:
        """Start a run of the workflow and fence every earlier run, or return the output of its success.

        A run of a dead executor is recovered. Raises `WorkflowLockedError` if another executor, which is alive,
        holds a run of the workflow, and `WorkflowNotFoundError` if the workflow of the id has another token than
        `token`. If the caller is cancelled meanwhile, the run is abandoned once it is started.
        """
        await self.tables.ensure()
        with self.liveness.starts:
            self.changing.add(workflow_id)
            try:
                return await self._claim(workflow_id, timeout, token)
            finally:
                self.changing.discard(workflow_id)

    async def _claim(self, workflow_id: int, timeout: float | None, token: int | None) -> Claim:
        await self.ensure_heartbeat()
        while True:
            record = RunStart(workflow_id, new_token(), self.executor_id, timeout, self.operations.codec, token)
            if self.journal.is_full:
                await self.journal.wait_for_capacity()
            try:
                claim: Claim = await self._starting(record)
            except WorkflowLockedError as locked:
                if not await self._access.release_if_dead([workflow_id], locked.executor_id):
                    raise
            except RowRefusedError as refused:
                # The start of a workflow that has ended takes its key back.
                raise await self.reader.key_taken(workflow_id) or refused from refused
            else:
                return claim

    def _starting(self, record: NewRun | RunStart) -> WriteFuture:
        """Write the start of a run; the result is its claim, or `ID_TAKEN` if another workflow has the id.

        If the caller no longer waits for the claim, the run is abandoned.
        """

        def on_result(result: Any) -> Any:
            if started.cancelled() and isinstance(result, Claim) and not result.succeeded:
                self.abandon(record.workflow_id, result.epoch, result.token)
            return result

        started = self.journal.submit(record, on_result)
        return started

    async def history(self, workflow_id: int) -> History:
        """Return the record of the workflow's steps, without the steps that are to be executed again.

        No other run changes the record meanwhile, because this run has the claim.
        """
        return await self._histories.of(workflow_id)

    async def completed_steps(self, workflow_id: int) -> list[CompletedStep]:
        """Return the steps of a workflow in the order in which their outcomes were recorded."""
        return await self.database.run_with_retries(
            lambda connection: StepRepository(connection).completed(workflow_id)
        )

    async def operations_for(self, session: SessionOrConnection | None) -> WorkflowOperations:
        """Return the operations in the transaction of a caller's session, or the store's own operations for None.

        Raises `SessionError` if the session is unusable. The tables are checked through the session, because it
        may hold the only connection of the pool.
        """
        if session is None:
            return self.operations
        connection = await self.sessions.callers.bind(session)
        await self.tables.ensure_through(connection)
        transaction = CallerTransaction(connection, self.ids, self.database.workflow_ids)
        return WorkflowOperations(transaction, self.ids, self.operations.codec)

    async def notify_queue(self, queue: str, first: int) -> None:
        """Notify the workers of a queue, as a hint; `first` is the lowest id of the workflows that are ready."""
        await self._access.notify(queue_channel(self.database.schema), payload_of(queue, first))

    async def notify_results(self, ended: Sequence[int]) -> None:
        """Notify the processes that wait for results of the ids of ended workflows, at most `MAX_IDS`."""
        await self._access.notify(result_channel(self.database.schema), ids_payload(ended))

    async def write_end(self, record: RunEnd | RunRelease) -> bool | None:
        """Record the end of a run, its release for a later claim, or its cancellation.

        Returns True for a run that was to be parked, and whose workflow is cancelled, or unwinds.
        """
        if self.journal.is_full:
            # Meanwhile neither `runs` nor the journal has the workflow.
            self.changing.add(record.workflow_id)
            try:
                await self.journal.wait_for_capacity()
            finally:
                self.changing.discard(record.workflow_id)
        result: bool | None = await self.journal.submit(record)
        return result

    async def write_continuation(self, record: RunContinuation) -> None:
        """Begin a workflow anew, once no earlier record of its run can be written at the same time."""
        # The journal beside takes the large records, in no order with the others.
        if len(record.input) > MAX_BATCH_SIZE or not self.journal.is_ordered:
            await self.journal.drain()
        await self.journal.write(record)

    def abandon(self, workflow_id: int, epoch: int, claim: int) -> None:
        """Abandon a run without waiting: it stays RUNNING until a worker recovers it, as after a crash.

        If the journal is too full for the record, or cannot write it in time, a later heartbeat abandons the run
        again.
        """
        if not self.journal.is_full:
            release = RunRelease(workflow_id, epoch, WorkflowStatus.RUNNING, claim=claim)
            self.journal.submit(release, discard_result)
