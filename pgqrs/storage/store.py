"""The one door of an event loop to the database: what a run, and an administrator, can ask of it."""

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
from pgqrs.storage.journal.futures import WriteFuture
from pgqrs.storage.journal.journal import MIN_NETWORK_RATE, Journal
from pgqrs.storage.journal.operation import ID_TAKEN
from pgqrs.storage.journal.running_marks import RunningMarks
from pgqrs.storage.queries.channels import executor_channel, payload_of, queue_channel
from pgqrs.storage.queries.executors import ABANDONED
from pgqrs.storage.queries.invariants import INVARIANTS, Invariant
from pgqrs.storage.queries.server import ExecutorState, ServerRepository, notify
from pgqrs.storage.queries.steps import HISTORY_BYTES, StepRepository
from pgqrs.storage.queries.tokens import new_token
from pgqrs.storage.queries.workflows import Decode, WorkflowRepository
from pgqrs.storage.records import (
    Claim,
    FailedAttempt,
    History,
    KeyOwner,
    NewRun,
    NewWorkflow,
    RunEnd,
    RunRelease,
    RunStart,
    Submission,
    WorkflowResult,
)
from pgqrs.storage.server_clock import ServerClock
from pgqrs.storage.step_transaction import SessionMaker, StepTransaction, StepTransactions
from pgqrs.types import StepRecord, WorkflowRecord, WorkflowStatus

DOUBT_INTERVAL = 0.2
"""Seconds between two looks at an executor that may be dead."""

_LAST_CLOSES = 3

_logger = logging.getLogger("pgqrs")

LONGEST_SEARCH = 3600.0
"""How long the search for one kind of what the tables must never hold may take, in seconds."""


def _portions(steps: Sequence[tuple[str, int]]) -> Generator[list[tuple[str, int]]]:
    """Yield steps, with the sizes of their payloads in bytes, in portions that one statement reads."""
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
    """What can be asked of a run that is live in this event loop."""

    @property
    def busy_with(self) -> str | None:
        """The id of a step that it executes, None between steps."""
        ...

    @property
    def is_carried_out(self) -> bool:
        """Whether a task carries the body out, which will end the run."""
        ...

    def cancel(self, *, interrupt: bool) -> None:
        """End the run as cancelled, after the steps that execute, or interrupting them."""
        ...


class _Starts:
    """Counts the runs that are being started: they keep the pulse, though the store be closed meanwhile."""

    def __init__(self) -> None:
        self.ever = 0
        self.under_way = 0

    def __enter__(self) -> None:
        self.ever += 1
        self.under_way += 1

    def __exit__(self, *_error: object) -> None:
        self.under_way -= 1


class _ChangingRuns:
    """Counts the workflows whose runs are being started or left: `Store.runs` does not have them meanwhile."""

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
    """A database, its journal, and the ids reserved for new workflows; `codec` is what those are written with."""

    def __init__(
        self,
        source: EngineSource,
        schema: str,
        limits: Limits,
        pulse: Heartbeat,
        *,
        codec: str | None = None,
        clock: Clock | None = None,
        sessionmaker: SessionMaker | None = None,
        tunes_gc: bool = True,
    ) -> None:
        self.clock: Clock = MonotonicClock() if clock is None else clock
        """What the runs wait by."""
        self.database = Database(source, schema, limits, self.clock.schema)
        self.runs: WeakValueDictionary[int, RunControl] = WeakValueDictionary()
        """The runs that are live in this event loop, by their workflows' ids."""
        self.changing = _ChangingRuns()
        """The workflows whose runs are live although they are not among `runs`, or not yet."""
        self._watches: WeakSet[ClaimConnection] = WeakSet()
        self._pulse = pulse
        self._is_beating = False
        self._tunes_gc = tunes_gc
        self._starts = _Starts()
        self._codec = codec
        self._aside = DedicatedConnection(self.database)
        self._time_of_day = ServerClock(self._aside.fetch, self.clock)
        self.journal = Journal(self.database, keeper=self, beside=Journal(self.database, keeper=self))
        self.marks = RunningMarks(self.journal)
        self.ids = IdAllocator(self._aside, self.database.workflow_ids)
        self._lending = CallerSessions(self.database)
        self._step_sessions = StepTransactions(self.database, self._lending, sessionmaker)
        self._closing = asyncio.Lock()
        self._verified = False
        self._until_loop_ends: AsyncGenerator[None, None] | None = None

    async def open(self) -> None:
        """Arrange to be closed when the event loop ends, whether or not somebody calls `close` before."""
        self._until_loop_ends = self._closed_with_the_loop()
        await anext(self._until_loop_ends)

    async def _closed_with_the_loop(self) -> AsyncGenerator[None, None]:
        # asyncio closes the generators that it has seen start, `asyncio.run` as well as a hand-made loop that
        # calls shutdown_asyncgens; there is no other hook at a loop's end.
        try:
            yield
        finally:
            try:
                await self.close(for_good=True)
            except (asyncio.CancelledError, GeneratorExit):
                # The end of the loop cancels every task, once; where `aclose` had not begun, Python 3.11 throws a
                # GeneratorExit in here as well. What is not closed now never will be.
                await self.close(for_good=True)
                raise

    async def close(self, *, for_good: bool = False) -> None:
        """Write what the journal has accepted and close what is ours; it can be used, and closed, again.

        The pulse goes on for a run that was started meanwhile, unless the loop ends and it is `for_good`.
        """
        if self._pulse.pid != os.getpid():  # the connections are those of the process that forked this one
            return
        async with self._closing:
            before = self._starts.ever
            await self.journal.close()
            in_use = self._starts.under_way or self._starts.ever != before
            if self._is_beating and (for_good or not in_use):
                self._is_beating = False
                if self._tunes_gc:
                    collector.stop()
                await self._pulse.leave()
            if for_good:
                await self._close_journal_for_good()
            await self._aside.close()
            await self.database.dispose()

    async def _close_journal_for_good(self) -> None:
        # A run that was being started when its task was cancelled is given up once its start is written, and so is
        # one that the last beat found: these records come after the journal was closed.
        for _ in range(_LAST_CLOSES):
            if self.journal.is_closed:
                return
            await self.journal.close()

    @property
    def executor_id(self) -> UUID:
        """The executor that the runs of this process belong to."""
        return self._pulse.executor_id

    async def ensure_heartbeat(self) -> None:
        """Show signs of life from now on: no run is started before its executor is registered."""
        if not self._is_beating:
            with translated(self.database.schema):
                await self._pulse.join(self)
            if not self._is_beating:  # another start may have come first
                self._is_beating = True
                if self._tunes_gc:
                    collector.start()

    # --- a `Keeper`, of the pulse and of the journal ---

    def cancel_asked(self, workflow_id: int, interrupt: bool) -> None:
        """Cancel a run that is live in this event loop."""
        if run := self.runs.get(workflow_id):
            run.cancel(interrupt=interrupt)

    def on_time(self, reading: ClockReading) -> None:
        """Take in the time by the database's clock."""
        self._time_of_day.told(reading)

    def without_task(self, held: Sequence[HeldRun]) -> list[HeldRun]:
        """Return those of the runs that nothing in this event loop starts, carries out or leaves."""
        left = [each for each in held if each.workflow_id not in self.runs]
        if not left:
            return left
        written = self.journal.workflows
        claimed = {token for watch in self._watches for token in watch.unanswered}
        return [
            each
            for each in left
            if each.workflow_id not in self.changing
            and each.workflow_id not in written
            and (each.claim is None or each.claim not in claimed)
        ]

    def give_up(self, held: Sequence[HeldRun]) -> None:
        """Give runs up that nothing in this process carries out."""
        for each in held:
            _logger.warning(
                "workflow %s is given up: this process holds run %s of it and does not carry it out",
                each.workflow_id, each.epoch,
            )  # fmt: skip
            self.abandon(each.workflow_id, each.epoch, each.claim or 0)

    # ---

    async def claim_connection(self, rung: Callable[[str], object]) -> ClaimConnection:
        """Return a worker's connection; `rung` is called with the mark of a queue whose doorbell was rung."""
        await self.ensure_installed()
        await self.ensure_heartbeat()
        watch = ClaimConnection(
            self.database, self.executor_id, rung, self._codec, told=self.on_time, clock=self.clock
        )
        self._watches.add(watch)
        return watch

    async def install(self) -> None:
        """Bring the tables to this version; see `pgqrs.storage.migrate`."""
        with translated(self.database.schema), await self.database.using():
            await migrate.install(self.database.engine, self.database.schema, self.database.limits.outage_timeout)
        self._verified = True

    async def verify(self) -> None:
        """Check that the tables are there, at this version; patiently where they have been seen before."""
        if self._verified:
            await self.database.run_with_retries(self._check_tables)
        else:
            async with self.database.transaction() as connection:
                await self._check_tables(connection)

    async def _check_tables(self, connection: AsyncConnection) -> None:
        await migrate.verify(connection, self.database.schema)

    async def ensure_installed(self) -> None:
        """Check the tables before the first use, once."""
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
        """Write a new workflow and tell whether it has its id, which a server may have given twice."""
        if await self.journal.write(new) is not ID_TAKEN:
            return True
        self.ids.forget()
        return False

    async def create_and_claim(
        self, name: str, input_text: str, timeout: float | None = None
    ) -> tuple[int, Claim]:
        """Write a new workflow that this executor runs already, and return its id and the claim.

        Where the caller is cancelled meanwhile, the run is given up once it is written.
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
        """Start a run of the workflow, fencing every earlier one, or return the output of its success.

        Raises `WorkflowLockedError` where another executor that lives holds a run of it; what a dead one held is
        taken over. Where the caller is cancelled meanwhile, the run is given up once it is started.
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
        """Write the start of a run; the answer is its claim, or `TAKEN` where another workflow has the id.

        Where the caller does not wait for the claim any more, the run is given up.
        """
        answer = WriteFuture(loop=asyncio.get_running_loop())

        def tell(verdict: Any) -> None:
            if answer.cancelled() and isinstance(verdict, Claim) and not verdict.succeeded:
                self.abandon(record.workflow_id, verdict.epoch, verdict.token)
            else:
                self.journal.resolve(answer, verdict)

        self.journal.submit(record, tell)
        return answer

    async def _release(self, workflow_id: int, executor_id: UUID) -> bool:
        """Take the run from its executor if that is dead, and tell whether it is.

        Where that is in doubt, as when its connection was lost a moment ago, this waits until it is not.
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
        """Return the record of the workflow's steps, without those that are to be executed again.

        It is read in portions, each of which has the database's `timeout`: a large one takes as long as it takes.
        No other run changes it meanwhile, for this one has the claim.
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
        """Write a workflow for workers to claim and return its id; where the key is taken, that workflow's.

        `taken` is called with the workflow that has the key.
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
        # A key may wait for another transaction, which must not keep the steps of this process waiting.
        beside = self.journal.beside
        return await (self.journal if new.key is None or beside is None else beside).write(new)

    async def submit_many(self, submissions: Sequence[Submission], taken: OnTaken = ignore_taken) -> list[int]:
        """Write workflows of one name in one transaction, and return their ids in order.

        Their `workflow_id` is not looked at. Of the submissions that share a key the first is written; the others,
        and those whose key was taken before, get that workflow's id, and `taken` is called with them.
        """
        await self.ensure_installed()

        async def submit(new: Sequence[Submission]) -> dict[int, int | KeyOwner]:
            return await self.database.run_with_retries(lambda connection: enqueue_workflows(connection, new))

        new = [each._replace(codec=self._codec, token=new_token()) for each in submissions]
        return await enqueue_with_ids(new, submit, self.ids.block, taken)

    async def in_transaction(self, lent: SessionOrConnection) -> CallerTransaction:
        """Return what can be done in a transaction of the application's; raises `SessionError` where it cannot be.

        The tables are checked through what is lent: it may hold the only connection that the pool has.
        """
        borrowed = await self._lending.bind(lent)
        if not self._verified:
            with session_errors():
                await self._check_tables(borrowed.connection)
            self._verified = True
        return CallerTransaction(borrowed, self.ids, self.database.workflow_ids, self._codec)

    def step_transaction(self, *, nested: bool) -> AbstractAsyncContextManager[StepTransaction]:
        """Open the session of a transactional step; `nested` tells that a step around it has one."""
        return self._step_sessions.open(nested=nested)

    def after_commit(self, lent: SessionOrConnection, name: str, act: Callable[[], object]) -> None:
        """Call `act` about when what is lent is committed, if it is; of one `name` only the first."""
        self._lending.after_commit(lent, name, act)

    async def results(self, ids: Collection[int]) -> dict[int, WorkflowResult]:
        """Return how those of these workflows ended that have."""
        await self.ensure_installed()
        return await self.database.run_with_retries(lambda connection: WorkflowRepository(connection).results(ids))

    async def existing(self, ids: Collection[int]) -> set[int]:
        """Return those of these ids of which there is a workflow."""
        return await self.database.run_with_retries(
            lambda connection: WorkflowRepository(connection).existing(ids)
        )

    async def workflow(self, workflow_id: int, decode: Decode) -> WorkflowRecord:
        """Return a workflow as it stands."""
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
            self._pulse.cancel(workflow_id, interrupt=interrupt)
        else:
            await self._notify(executor_channel(executor_id), "cancel")

    async def ring(self, queue: str, first: int) -> None:
        """Ring a queue's doorbell: a hint to the workers that listen; `first` is the lowest id that is new."""
        await self._notify(queue_channel(self.database.schema), payload_of(queue, first))

    async def _notify(self, channel: str, payload: str) -> None:
        await self._aside.fetch(notify, {"channel": channel, "payload": payload})

    async def now(self) -> datetime:
        """Return the time by the database's clock."""
        return await self._time_of_day.now()

    async def violations(self) -> list[str]:
        """Return what the tables hold that they must never hold, a sentence each."""
        await self.ensure_installed()
        found: list[str] = []
        for each in INVARIANTS:

            async def search(connection: AsyncConnection, each: Invariant = each) -> list[str]:
                return await ServerRepository(connection).violations(each, LONGEST_SEARCH)

            found += await self.database.run_with_retries(search, lasting=LONGEST_SEARCH)
        return found

    async def record_failure(self, failure: FailedAttempt) -> None:
        """Record an attempt of a step that failed and is to be tried again."""
        await self.journal.write(failure)

    async def write_end(self, record: RunEnd | RunRelease) -> None:
        """Record how a run ended, or that it was left for a later claim or cancelled."""
        if self.journal.is_full:
            # Neither the run nor the journal has the workflow meanwhile.
            self.changing.add(record.workflow_id)
            try:
                await self.journal.wait_for_capacity()
            finally:
                self.changing.discard(record.workflow_id)
        await self.journal.send(record)

    def abandon(self, workflow_id: int, epoch: int, claim: int) -> None:
        """Give a run up without waiting: it stays RUNNING, for a worker to take over as after a crash.

        A run that a crowded journal does not take on, or cannot write in time, a later beat gives up again.
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
        """Make a workflow runnable again, its failed steps too, and return its name."""
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
