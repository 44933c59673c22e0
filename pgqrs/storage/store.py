"""The store of an event loop: all reads and writes of the database for runs, workers and admins."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import partial
from typing import Any, Protocol
from uuid import UUID
from weakref import WeakSet, WeakValueDictionary

from sqlalchemy.ext.asyncio import AsyncConnection

from pgqrs import gc_policy as collector
from pgqrs.clock import Clock, ClockReading, MonotonicClock
from pgqrs.errors import WorkflowLockedError
from pgqrs.storage import migrate
from pgqrs.storage.caller_transaction import CallerTransaction
from pgqrs.storage.claim_connection import ClaimConnection
from pgqrs.storage.connections.caller import CallerSessions, SessionOrConnection, session_errors
from pgqrs.storage.connections.database import Database, Limits
from pgqrs.storage.connections.dedicated import DedicatedConnection
from pgqrs.storage.connections.engines import EngineSource
from pgqrs.storage.connections.errors import translated
from pgqrs.storage.heartbeat import Heartbeat, HeldRun
from pgqrs.storage.id_allocator import IdAllocator, OnTaken, check_id, enqueue_with_ids, ignore_taken
from pgqrs.storage.inserts import enqueue_workflows
from pgqrs.storage.journal.creation import NewRun, NewWorkflow, Submission
from pgqrs.storage.journal.futures import WriteFuture
from pgqrs.storage.journal.journal import MIN_NETWORK_RATE, Journal
from pgqrs.storage.journal.operation import ID_TAKEN
from pgqrs.storage.journal.running_marks import RunningMarks
from pgqrs.storage.journal.runs import RunEnd, RunRelease, RunStart
from pgqrs.storage.journal.steps import FailedAttempt
from pgqrs.storage.queries.channels import executor_channel, payload_of, queue_channel
from pgqrs.storage.queries.executors import ABANDONED
from pgqrs.storage.queries.invariants import INVARIANTS, Invariant
from pgqrs.storage.queries.server import ExecutorState, ServerRepository, notify
from pgqrs.storage.queries.steps import HISTORY_BYTES, StepRepository
from pgqrs.storage.queries.tokens import new_token
from pgqrs.storage.queries.workflows import Decode, WorkflowRepository
from pgqrs.storage.records import Claim, History, KeyOwner, WorkflowResult
from pgqrs.storage.server_clock import ServerClock
from pgqrs.storage.step_transaction import SessionMaker, StepTransaction, StepTransactions
from pgqrs.types import StepRecord, WorkflowRecord, WorkflowStatus

DOUBT_INTERVAL = 0.2
"""Seconds between two checks of an executor that may be dead."""

_LAST_CLOSES = 3

_logger = logging.getLogger("pgqrs.storage")

LONGEST_SEARCH = 3600.0
"""Maximum seconds of the search for violations of one invariant."""


def _portions(steps: Sequence[tuple[str, int]]) -> Generator[list[tuple[str, int]]]:
    """Yield steps, each with the size of its payload in bytes, in portions that one statement reads."""
    portion: list[tuple[str, int]] = []
    for each in steps:
        if portion and sum(size for _, size in portion) + each[1] > HISTORY_BYTES:
            yield portion
            portion = []
        portion.append(each)
    if portion:
        yield portion


async def _texts(
    connection: AsyncConnection, *, workflow_id: int, step_ids: Sequence[str]
) -> dict[str, tuple[str | None, str | None]]:
    return await StepRepository(connection).texts(workflow_id, step_ids)


class RunControl(Protocol):
    """The controls of a run that is live in this event loop."""

    @property
    def busy_with(self) -> str | None:
        """The id of a step that the run is executing, None between steps."""
        ...

    @property
    def is_carried_out(self) -> bool:
        """True if a task executes the body and will end the run."""
        ...

    def cancel(self, *, interrupt: bool) -> None:
        """End the run as cancelled, after the executing steps, or by interrupting them."""
        ...


class _Starts:
    """Counts the runs that are being started; they keep the heartbeat even if the store is closed meanwhile."""

    def __init__(self) -> None:
        self.ever = 0
        self.under_way = 0

    def __enter__(self) -> None:
        self.ever += 1
        self.under_way += 1

    def __exit__(self, *_error: object) -> None:
        self.under_way -= 1


class _ChangingRuns:
    """Counts the workflows whose runs are being started or released, and so are not in `Store.runs`."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def __contains__(self, workflow_id: int) -> bool:
        return workflow_id in self._counts

    def add(self, workflow_id: int) -> None:
        self._counts[workflow_id] = self._counts.get(workflow_id, 0) + 1

    def discard(self, workflow_id: int) -> None:
        if (count := self._counts.pop(workflow_id, 0)) > 1:
            self._counts[workflow_id] = count - 1


class Store:
    """All storage of one event loop: a database, its journal, and reserved ids.

    `codec` is the name of the codec with which new workflows are written.
    """

    def __init__(
        self,
        source: EngineSource,
        schema: str,
        limits: Limits,
        heartbeat: Heartbeat,
        *,
        codec: str | None = None,
        clock: Clock | None = None,
        sessionmaker: SessionMaker | None = None,
        tunes_gc: bool = True,
    ) -> None:
        self.clock: Clock = MonotonicClock() if clock is None else clock
        """The clock by which the runs wait."""
        self.database = Database(source, schema, limits, self.clock.schema)
        self.runs: WeakValueDictionary[int, RunControl] = WeakValueDictionary()
        """The live runs of this event loop, by workflow id."""
        self.changing = _ChangingRuns()
        """The workflows that have a live run that is not in `runs`, or not yet."""
        self._claim_connections: WeakSet[ClaimConnection] = WeakSet()
        self._heartbeat = heartbeat
        self._is_beating = False
        self._tunes_gc = tunes_gc
        self._starts = _Starts()
        self._codec = codec
        self._dedicated = DedicatedConnection(self.database)
        self._time_of_day = ServerClock(self._dedicated.fetch, self.clock)
        self.journal = Journal(self.database, keeper=self, beside=Journal(self.database, keeper=self))
        self.marks = RunningMarks(self.journal)
        self.ids = IdAllocator(self._dedicated, self.database.workflow_ids)
        self._caller_sessions = CallerSessions(self.database)
        self._step_sessions = StepTransactions(self.database, self._caller_sessions, sessionmaker)
        self._closing = asyncio.Lock()
        self._verified = False
        self._until_loop_ends: AsyncGenerator[None, None] | None = None

    async def open(self) -> None:
        """Arrange for the store to be closed when the event loop ends, even without a call of `close`."""
        self._until_loop_ends = self._closed_with_the_loop()
        await anext(self._until_loop_ends)

    async def _closed_with_the_loop(self) -> AsyncGenerator[None, None]:
        # asyncio closes the generators that it has seen start, in `asyncio.run` and in a custom loop that calls
        # shutdown_asyncgens; there is no other hook at a loop's end.
        try:
            yield
        finally:
            try:
                await self.close(for_good=True)
            except (asyncio.CancelledError, GeneratorExit):
                # The end of the loop cancels every task once. Where `aclose` had not begun, Python 3.11 throws a
                # GeneratorExit in here as well. This is the last chance to close the store.
                await self.close(for_good=True)
                raise

    async def close(self, *, for_good: bool = False) -> None:
        """Write the records that the journal has accepted and close the store's connections.

        The store can be used, and closed, again. The heartbeat continues for a run that was started meanwhile,
        unless the loop ends, which `for_good` says.
        """
        if self._heartbeat.pid != os.getpid():  # the connections belong to the process that forked this one
            return
        async with self._closing:
            before = self._starts.ever
            await self.journal.close()
            in_use = self._starts.under_way or self._starts.ever != before
            if self._is_beating and (for_good or not in_use):
                self._is_beating = False
                if self._tunes_gc:
                    collector.stop()
                await self._heartbeat.leave()
            if for_good:
                await self._close_journal_for_good()
            await self._dedicated.close()
            await self.database.dispose()

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
        return self._heartbeat.executor_id

    async def ensure_heartbeat(self) -> None:
        """Start the heartbeat if it does not beat: no run may start before its executor is registered."""
        if not self._is_beating:
            with translated(self.database.schema):
                await self._heartbeat.join(self)
            if not self._is_beating:  # another start may have come first
                self._is_beating = True
                if self._tunes_gc:
                    collector.start()

    # --- the methods of `RunOwner`, for the heartbeat, and of `JournalOwner`, for the journal ---

    def cancel_asked(self, workflow_id: int, interrupt: bool) -> None:
        """Cancel a run that is live in this event loop."""
        if run := self.runs.get(workflow_id):
            run.cancel(interrupt=interrupt)

    def on_time(self, reading: ClockReading) -> None:
        """Correct the store's time by a reading of the database's clock."""
        self._time_of_day.told(reading)

    def without_task(self, held: Sequence[HeldRun]) -> list[HeldRun]:
        """Return the runs that no task in this event loop starts, executes or releases."""
        left = [each for each in held if each.workflow_id not in self.runs]
        if not left:
            return left
        written = self.journal.workflows
        claimed = {token for connection in self._claim_connections for token in connection.unanswered}
        return [
            each
            for each in left
            if each.workflow_id not in self.changing
            and each.workflow_id not in written
            and (each.claim is None or each.claim not in claimed)
        ]

    def give_up(self, held: Sequence[HeldRun]) -> None:
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
        await self.ensure_installed()
        await self.ensure_heartbeat()
        connection = ClaimConnection(
            self.database, self.executor_id, on_notify, self._codec, on_time=self.on_time, clock=self.clock
        )
        self._claim_connections.add(connection)
        return connection

    async def install(self) -> None:
        """Create the tables or migrate them to this version; see `pgqrs.storage.migrate`."""
        with translated(self.database.schema), await self.database.using():
            await migrate.install(self.database.engine, self.database.schema, self.database.limits.outage_timeout)
        self._verified = True

    async def verify(self) -> None:
        """Check that the tables exist at this version; retry if an earlier check has found them."""
        if self._verified:
            await self.database.run_with_retries(self._check_tables)
        else:
            async with self.database.transaction() as connection:
                await self._check_tables(connection)

    async def _check_tables(self, connection: AsyncConnection) -> None:
        await migrate.verify(connection, self.database.schema)

    async def ensure_installed(self) -> None:
        """Check the tables once, before their first use."""
        if not self._verified:
            await self.verify()
            self._verified = True

    async def create(self, name: str, input_text: str) -> int:
        """Write a new workflow and return its id."""
        await self.ensure_installed()
        while True:
            workflow_id = await self.ids.next()
            new = NewWorkflow(workflow_id, name, input_text, self._codec, new_token())
            if await self._is_own(new):
                return workflow_id

    async def _is_own(self, new: NewWorkflow | NewRun | Submission) -> bool:
        """Write a new workflow and return True, or False if another workflow has its id, which was given twice."""
        if await self.journal.write(new) is not ID_TAKEN:
            return True
        self.ids.forget()
        return False

    async def create_and_claim(
        self, name: str, input_text: str, timeout: float | None = None
    ) -> tuple[int, Claim]:
        """Write a new workflow together with its first run by this executor, and return its id and the claim.

        If the caller is cancelled meanwhile, the run is abandoned once it is written.
        """
        await self.ensure_installed()
        with self._starts:
            await self.ensure_heartbeat()
            while True:
                workflow_id = await self.ids.next()
                record = NewRun(workflow_id, name, input_text, self.executor_id, timeout, self._codec, new_token())
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

    async def claim(self, workflow_id: int, timeout: float | None = None) -> Claim:
        """Start a run of the workflow and fence every earlier run, or return the output of its success.

        A run of a dead executor is recovered. Raises `WorkflowLockedError` if another executor, which is alive,
        holds a run of the workflow. If the caller is cancelled meanwhile, the run is abandoned once it is started.
        """
        await self.ensure_installed()
        with self._starts:
            self.changing.add(workflow_id)
            try:
                return await self._claim(workflow_id, timeout)
            finally:
                self.changing.discard(workflow_id)

    async def _claim(self, workflow_id: int, timeout: float | None) -> Claim:
        await self.ensure_heartbeat()
        while True:
            record = RunStart(workflow_id, new_token(), self.executor_id, timeout, self._codec)
            if self.journal.is_full:
                await self.journal.wait_for_capacity()
            try:
                claim: Claim = await self._starting(record)
            except WorkflowLockedError as locked:
                if not await self._release(workflow_id, locked.executor_id):
                    raise
            else:
                return claim

    def _starting(self, record: NewRun | RunStart) -> WriteFuture:
        """Write the start of a run; the result is its claim, or `ID_TAKEN` if another workflow has the id.

        If the caller no longer waits for the claim, the run is abandoned.
        """
        answer = WriteFuture(loop=asyncio.get_running_loop())

        def resolve(verdict: Any) -> None:
            if answer.cancelled() and isinstance(verdict, Claim) and not verdict.succeeded:
                self.abandon(record.workflow_id, verdict.epoch, verdict.token)
            else:
                self.journal.resolve(answer, verdict)

        self.journal.submit(record, resolve)
        return answer

    async def _release(self, workflow_id: int, executor_id: UUID) -> bool:
        """Take the run from its executor if the executor is dead, and return whether it is.

        While that is in doubt, as after a recent loss of the executor's connection, the method waits.
        """

        async def release(connection: AsyncConnection) -> ExecutorState:
            server = ServerRepository(connection)
            await server.suspect()
            life = await server.life(executor_id)
            if life is ExecutorState.DEAD:
                await WorkflowRepository(connection).release(workflow_id, executor_id)
            return life

        while True:
            life = await self.database.run_with_retries(release)
            if life is not ExecutorState.IN_DOUBT:
                return life is ExecutorState.DEAD
            await asyncio.sleep(DOUBT_INTERVAL)

    async def history(self, workflow_id: int) -> History:
        """Return the record of the workflow's steps, without the steps that are to be executed again.

        The record is read in portions. Each portion has the database's `timeout`, and more time by its size, so a
        large record may take long. No other run changes the record meanwhile, because this run has the claim.
        """
        later: list[tuple[str, int]] = []

        async def first(connection: AsyncConnection) -> History:
            later.clear()
            return await StepRepository(connection).history(workflow_id, later)

        history = await self.database.run_with_retries(first)
        for portion in _portions(later):
            step_ids = [step_id for step_id, _ in portion]
            allowance = sum(size for _, size in portion) / MIN_NETWORK_RATE
            texts = await self.database.run_with_retries(
                partial(_texts, workflow_id=workflow_id, step_ids=step_ids),
                lasting=self.database.limits.timeout + allowance,
            )
            for step_id, (output, error) in texts.items():
                history.outcomes[step_id] = history.outcomes[step_id]._replace(output=output, error=error)
        return history

    async def submit(
        self,
        name: str,
        input_text: str,
        *,
        queue: str,
        priority: int = 0,
        delay: float | None = None,
        timeout: float | None = None,
        key: str | None = None,
        taken: OnTaken = ignore_taken,
    ) -> int:
        """Write a workflow for workers to claim and return its id, or the id of the workflow that has the key.

        In the second case `taken` is called with the submission and with that workflow.
        """
        await self.ensure_installed()
        while True:
            workflow_id = await self.ids.next()
            new = Submission(
                workflow_id, name, input_text, queue, priority, delay, timeout, key, self._codec, new_token()
            )
            written = await self._write_new(new)
            if written is ID_TAKEN:
                self.ids.forget()
            elif written or key is None:
                return workflow_id
            elif (there := await self.ids.of_key(name, key)) is not None:
                taken(new, there)
                return there.workflow_id

    async def _write_new(self, new: Submission) -> Any:
        # A key may wait for another transaction, and the steps of this process must not wait with it.
        beside = self.journal.beside
        return await (self.journal if new.key is None or beside is None else beside).write(new)

    async def submit_many(self, submissions: Sequence[Submission], taken: OnTaken = ignore_taken) -> list[int]:
        """Write workflows of one name in one transaction, and return their ids in order.

        The `workflow_id` of a submission is ignored. Of several submissions with one key the first is written. The
        other ones, and every submission whose key was taken before, get the id of the workflow that has the key,
        and `taken` is called with them.
        """
        await self.ensure_installed()

        async def submit(new: Sequence[Submission]) -> dict[int, int | KeyOwner]:
            return await self.database.run_with_retries(lambda connection: enqueue_workflows(connection, new))

        new = [each._replace(codec=self._codec, token=new_token()) for each in submissions]
        return await enqueue_with_ids(new, submit, self.ids.block, taken)

    async def in_transaction(self, session: SessionOrConnection) -> CallerTransaction:
        """Return the operations on the transaction of a caller's session; raises `SessionError` if it is unusable.

        The tables are checked through the session, because it may hold the only connection of the pool.
        """
        connection = await self._caller_sessions.bind(session)
        if not self._verified:
            with session_errors():
                await self._check_tables(connection.connection)
            self._verified = True
        return CallerTransaction(connection, self.ids, self.database.workflow_ids, self._codec)

    def step_transaction(self, *, nested: bool) -> AbstractAsyncContextManager[StepTransaction]:
        """Open the session of a transactional step; `nested` says that an enclosing step has one."""
        return self._step_sessions.open(nested=nested)

    def after_commit(self, session: SessionOrConnection, name: str, act: Callable[[], object]) -> None:
        """Call `act` at about the commit of a caller's session; of several with one `name`, only the first."""
        self._caller_sessions.after_commit(session, name, act)

    async def results(self, ids: Collection[int]) -> dict[int, WorkflowResult]:
        """Return the results of the workflows that have ended, by id."""
        await self.ensure_installed()
        return await self.database.run_with_retries(lambda connection: WorkflowRepository(connection).results(ids))

    async def existing(self, ids: Collection[int]) -> set[int]:
        """Return the ids for which there is a workflow."""
        return await self.database.run_with_retries(
            lambda connection: WorkflowRepository(connection).existing(ids)
        )

    async def workflow(self, workflow_id: int, decode: Decode) -> WorkflowRecord:
        """Return the current record of a workflow."""
        check_id(workflow_id)
        await self.ensure_installed()
        return await self.database.run_with_retries(
            lambda connection: WorkflowRepository(connection).get(decode, workflow_id)
        )

    async def cancel(self, workflow_id: int, *, interrupt: bool) -> None:
        """Cancel a workflow, at once or through the executor that runs it."""
        check_id(workflow_id)
        await self.ensure_installed()
        executor_id = await self.database.run_with_retries(
            lambda connection: WorkflowRepository(connection).cancel(workflow_id, interrupt=interrupt)
        )
        if executor_id is None:
            return
        if executor_id == ABANDONED or await self._release(workflow_id, executor_id):
            await self.database.run_with_retries(
                lambda connection: WorkflowRepository(connection).cancel_released(workflow_id)
            )
        elif executor_id == self.executor_id:
            self._heartbeat.cancel(workflow_id, interrupt=interrupt)
        else:
            await self._notify(executor_channel(executor_id), "cancel")

    async def ring(self, queue: str, first: int) -> None:
        """Notify the workers of a queue, as a hint; `first` is the lowest id of the workflows that are ready."""
        await self._notify(queue_channel(self.database.schema), payload_of(queue, first))

    async def _notify(self, channel: str, payload: str) -> None:
        await self._dedicated.fetch(notify, {"channel": channel, "payload": payload})

    async def now(self) -> datetime:
        """Return the time by the database's clock."""
        return await self._time_of_day.now()

    async def violations(self) -> list[str]:
        """Return a sentence for each violation of the tables' invariants."""
        await self.ensure_installed()
        found: list[str] = []
        for each in INVARIANTS:

            async def search(connection: AsyncConnection, each: Invariant = each) -> list[str]:
                return await ServerRepository(connection).violations(each, LONGEST_SEARCH)

            found += await self.database.run_with_retries(search, lasting=LONGEST_SEARCH)
        return found

    async def record_failure(self, failure: FailedAttempt) -> None:
        """Record a failed attempt of a step that is to be retried."""
        await self.journal.write(failure)

    async def write_end(self, record: RunEnd | RunRelease) -> None:
        """Record the end of a run, its release for a later claim, or its cancellation."""
        if self.journal.is_full:
            # Meanwhile neither `runs` nor the journal has the workflow.
            self.changing.add(record.workflow_id)
            try:
                await self.journal.wait_for_capacity()
            finally:
                self.changing.discard(record.workflow_id)
        await self.journal.send(record)

    def abandon(self, workflow_id: int, epoch: int, claim: int) -> None:
        """Abandon a run without waiting: it stays RUNNING until a worker recovers it, as after a crash.

        If the journal is too full for the record, or cannot write it in time, a later heartbeat abandons the run
        again.
        """
        self.journal.try_submit(RunRelease(workflow_id, epoch, WorkflowStatus.RUNNING, claim=claim))

    async def name_of(self, workflow_id: int) -> str:
        """Return the name of a workflow."""
        check_id(workflow_id)
        await self.ensure_installed()
        return await self.database.run_with_retries(
            lambda connection: WorkflowRepository(connection).name(workflow_id)
        )

    async def resume(self, workflow_id: int) -> str:
        """Make a workflow runnable again, have its failed steps executed again, and return its name."""
        check_id(workflow_id)
        await self.ensure_installed()
        return await self.database.run_with_retries(
            lambda connection: WorkflowRepository(connection).resume(workflow_id)
        )

    async def workflows(
        self,
        decode: Decode,
        *,
        status: WorkflowStatus | None,
        name: str | None,
        limit: int,
        before: int | None,
    ) -> list[WorkflowRecord]:
        """Return a page of workflows, newest first."""
        await self.ensure_installed()
        return await self.database.run_with_retries(
            lambda connection: WorkflowRepository(connection).page(
                decode, status=status, name=name, limit=limit, before=before
            )
        )

    async def steps(self, workflow_id: int, decode: Decode) -> list[StepRecord]:
        """Return a workflow's steps in the order in which they were started."""
        await self.name_of(workflow_id)
        return await self.database.run_with_retries(
            lambda connection: StepRepository(connection).of_workflow(workflow_id, decode)
        )
