"""Manages one run of a workflow from its claim to its end: its body, its outcome and its release."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, NoReturn, TypeVar

from pgqrs.clock import TimeOfDay
from pgqrs.codecs.annotations import ReturnType
from pgqrs.codecs.base import Codec, as_serialization_error, codec_at, is_sealing
from pgqrs.codecs.failures import dump_error, is_terminal, plain_error, shown_error
from pgqrs.engine.announcements import Announcements
from pgqrs.engine.lifecycle import Parked, RunLifecycle, RunState, StopReason, is_stop, raise_instead
from pgqrs.engine.outcomes import Outcomes
from pgqrs.engine.parking import Parking, RunWorker
from pgqrs.engine.replay.failure_trace import is_of_undone_saga
from pgqrs.engine.replay.history import StepHistory
from pgqrs.engine.sagas import Sagas
from pgqrs.engine.scope import Scope, StepExecution, ancestors, current_scope, scope_of
from pgqrs.engine.step_runner import StepRunner, log_unexpected
from pgqrs.errors import (
    PgqrsError,
    RowRefusedError,
    SagaError,
    WorkflowCancelledError,
    WorkflowFinishedError,
)
from pgqrs.observer import RunFacts, RunOrigin
from pgqrs.retry import RetryPolicy
from pgqrs.storage.access.operations import WorkflowOperations
from pgqrs.storage.arrivals import Arrivals
from pgqrs.storage.reader import StoreReader
from pgqrs.storage.records import History
from pgqrs.storage.sql.connection import Connection
from pgqrs.storage.sql.tokens import new_token
from pgqrs.storage.store import Store
from pgqrs.storage.writes.continuations import RunContinuation
from pgqrs.storage.writes.runs import RunEnd, RunRelease
from pgqrs.storage.writes.waits import StepWait
from pgqrs.types import SagaState, WorkflowStatus

T = TypeVar("T")

REPLAY_HEAD_START = 10.0
"""Seconds after its due time during which no worker claims a workflow that its own process retries."""

UNASKED_TIMEOUT = 5.0
"""Maximum seconds of the query for unused recorded steps at the end of a run, which only serves a warning."""

_logger = logging.getLogger("pgqrs.engine")


class RunOptions(NamedTuple):
    """The options of a workflow, as `pgqrs.workflow` documents them.

    Attributes:
        retry: The retry policy of the workflow; None for no retries.
        timeout: The timeout of the workflow in seconds; None for no timeout.
        strict: True to raise an error when a recorded outcome answers a call with different arguments.
        returns: The annotated return type of the workflow's function; None if it is unknown.
    """

    retry: RetryPolicy | None = None
    timeout: float | None = None
    strict: bool = False
    returns: ReturnType | None = None

    def codec(self, codec: Codec, workflow_id: int) -> Codec:
        """Return the codec for the return value of the workflow."""
        return codec_at(self.value_codec(codec), "output", workflow_id)

    def value_codec(self, codec: Codec) -> Codec:
        """Return the codec for values of the return type."""
        return codec if self.returns is None else self.returns.codec(codec)


class NextAttempt(NamedTuple):
    """The next execution of a body: after `delay` seconds, in `run`, or in a new run if `run` is None.

    `arguments` are the new arguments of a workflow that continues as new, None for the same as before.
    """

    delay: float
    run: Run | None = None
    arguments: Arguments | None = None


class Arguments(NamedTuple):
    """The arguments of a workflow in their recorded form: as the JSON text of an input, and as values."""

    text: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Run:
    """One claim of a workflow by an executor: the `steps` of the run, its `lifecycle`, its `parking` and its end.

    A run is also the outermost `Scope` within itself. When the body of a stopped run ends, the run ends or is
    released according to its `StopReason`.

    Args:
        owner: The object that identifies the context of the run.
        store: The store of the event loop.
        codec: The codec of the workflow's payloads.
        workflow_id: The id of the workflow.
        name: The name of the workflow.
        epoch: The epoch of the run.
        claim: The token of the claim.
        history: The recorded outcomes and failed attempts of earlier runs.
        worker: The worker that has claimed the run; without one the run does not park.
        queue: The queue of the workflow; the default queue if it is unknown.
        parent_id: The id of the parent of a child; None if it is unknown.
        members: The ids of the submissions of a batch; none for any other workflow.
        origin: The past of the workflow, for the observer; None if it is unknown.

    """

    def __init__(
        self,
        owner: object,
        store: Store,
        codec: Codec,
        *,
        workflow_id: int,
        name: str,
        epoch: int,
        claim: int,
        history: History,
        worker: RunWorker | None = None,
        queue: str | None = None,
        parent_id: int | None = None,
        members: Sequence[int] = (),
        origin: RunOrigin | None = None,
    ) -> None:
        self.context_key = owner
        self.workflow_id = workflow_id
        self.epoch = epoch
        self.claim = claim
        self.reads = 0
        """The number of reads of the database that tasks of the run wait for."""
        self.previous: Scope | None = None
        executions: dict[str, StepExecution] = {}
        deadline = None if history.seconds_left is None else store.clock.time() + history.seconds_left
        self.lifecycle = RunLifecycle(owner, workflow_id, executions, deadline, store.clock)
        self.parking = Parking(self.lifecycle, worker)
        steps = StepHistory(workflow_id, name, codec, history, store.clock)
        self.steps = StepRunner(owner, store, steps, self.parking, executions)
        self._store = store
        has_parent = parent_id is not None or bool(members)
        self.announcements = Announcements(store.arrivals, queue, has_parent=has_parent, observer=store.observer)
        self._next: tuple[Arguments, Run | None] | None = None
        self._options = RunOptions()
        self.outcomes = Outcomes(codec, workflow_id, members)
        self._release_task: asyncio.Task[None] | None = None
        self.sagas: Sagas | None = None
        if history.saga_state is not None:
            self.open_sagas(history.saga_state)
        store.runs[workflow_id] = self
        if store.observer is not None:
            attempt = history.retries + 1
            facts = (workflow_id, name, epoch, claim, attempt, queue, parent_id, len(members), origin)
            store.observer.run_began(RunFacts(*facts))

    def open_sagas(self, state: SagaState | None = None) -> Sagas:
        """Return the sagas of the run; the first call creates them, in the state that the workflow has."""
        if self.sagas is None:
            self.sagas = Sagas(self, self._store, self.lifecycle, state)
        return self.sagas

    @property
    def run(self) -> Run:
        """The run itself, as a `Scope` requires."""
        return self

    @property
    def name(self) -> str:
        """The name of the workflow."""
        return self.steps.history.name

    @property
    def attempt(self) -> int:
        """The number of the attempt of the workflow, from 1, by its retry policy."""
        return self.steps.history.retries + 1

    @property
    def codec(self) -> Codec:
        """The codec of the workflow's payloads."""
        return self.steps.history.codec

    @property
    def clock(self) -> TimeOfDay:
        """The clock of the database."""
        return self._store.reader

    async def next_id(self) -> int:
        """Return an id for a new workflow."""
        return await self._store.ids.next()

    async def forget_ids_if_taken(self, new: Mapping[int, int]) -> bool:
        """Return whether another workflow has an id of `new`, the tokens of new workflows by their ids.

        A server that has lost its last writes reserves ids twice, so the ids in stock are dropped then.
        """
        found = await self.reader.tokens(new)
        is_taken = any(token != new[workflow_id] for workflow_id, token in found.items())
        if is_taken:
            self._store.ids.forget()
        return is_taken

    async def next_ids(self, count: int) -> list[int]:
        """Return ids for new workflows."""
        return await self._store.ids.block(count)

    @property
    def operations(self) -> WorkflowOperations:
        """The operations on workflows, outside of a caller's transaction."""
        return self._store.operations

    @property
    def reader(self) -> StoreReader:
        """The reads of the event loop of the run."""
        return self._store.reader

    async def reading(self, read: Awaitable[T]) -> T:
        """Wait for a read that a replay makes, too: the replay of the run is not over meanwhile."""
        self.reads += 1
        try:
            return await read
        finally:
            self.reads -= 1

    async def read_here(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Read within the transaction of the transactional step that calls, else outside of any transaction.

        The session of the step may hold the only connection of the pool.
        """
        session = next((each.session for each in ancestors(self.place) if each.session is not None), None)
        operations = await self._store.operations_for(session)
        return await self.reading(operations.run(work))

    @property
    def arrivals(self) -> Arrivals:
        """The waits for messages in the event loop of the run."""
        return self._store.arrivals

    def is_of(self, returns: ReturnType) -> bool:
        """Return whether the run executes the function with this return type."""
        return self._options.returns is returns

    @property
    def place(self) -> Scope:
        """The scope of the calling task in the run."""
        return scope_of(self.context_key) or self

    @property
    def may_write(self) -> bool:
        """True while the run has neither ended nor been lost."""
        return self.lifecycle.may_write

    @property
    def live(self) -> bool:
        """True while the run has neither ended nor been lost nor been stopped."""
        return self.lifecycle.state is RunState.OPEN

    @property
    def has_ended(self) -> bool:
        """True once the run has ended or was released."""
        return self.lifecycle.state is RunState.ENDED

    @property
    def in_body(self) -> bool:
        """True while a task executes the body or records the end of the body."""
        return self.lifecycle.body.is_entered

    @property
    def executes_body(self) -> bool:
        """True while a task executes the body and will end the run."""
        return self.in_body and not self.has_ended

    @property
    def busy_with(self) -> str | None:
        """The id of the most recently begun step that still executes; None between steps."""
        return self.steps.busy_with

    def check(self) -> None:
        """Raise the stop of the run if it has ended, was lost or was stopped."""
        self.lifecycle.raise_if_stopped()

    # --- the body ---

    def enter_body(self, options: RunOptions) -> None:
        """Enter the run's scope with the calling task, which executes the body; child tasks inherit the scope."""
        self.previous = current_scope.get()
        current_scope.set(self)
        self._options = options
        self.steps.history.strict = options.strict
        self.lifecycle.enter_body(options.timeout)
        if self._store.observer is not None:
            self._store.observer.body_entered(self.workflow_id)

    def exit_body(self) -> None:
        """Return the calling task to its previous scope after the body.

        A run that has neither ended nor been lost at this point met an error in pgqrs itself, and is abandoned.
        """
        self.abandon_unfinished()
        self.lifecycle.leave_body()
        if self.sagas is not None:  # they refer to the run: a cycle would leave it to the garbage collector
            self.sagas = self.lifecycle.unwinding = None
        current_scope.set(self.previous)
        if self._store.observer is not None:
            self._store.observer.body_left(self.workflow_id)
        self.lifecycle.body.exit()

    def output_codec(self) -> Codec:
        """Return the codec of the return value; raise `ConfigurationError` for an unsupported annotation."""
        return self.outcomes.value_codec(self._options.value_codec(self.codec))

    async def on_return(self, value: object) -> object:
        """End the run after its body returned `value`, and return the value as it is stored.

        Raises `Parked`, `WorkflowCancelledError` or `WorkflowTimeoutError` if the run was stopped.
        """
        self.lifecycle.leave_body()
        failed = None if self.sagas is None else await self._settle(self.sagas)
        if self.lifecycle.stop_decides():
            await self._finish_stopped()
            raise self._stop_error()
        if failed is not None:
            raise failed
        return await self.succeed(value)

    async def on_error(self, error: BaseException) -> NextAttempt | None:
        """End or release the run after its body raised `error`.

        Raises the error of the stop if the run was stopped.

        Returns:
            The next attempt, for the caller to make; None if the caller must raise `error`.
        """
        cancelled_from_outside = self.lifecycle.leave_body()
        # Tuples, here and below: `A | B` would build a union object at each call, which is slower.
        crashed = isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit))
        if isinstance(error, asyncio.CancelledError) and cancelled_from_outside:
            crashed = True
        failed = None if self.sagas is None or crashed else await self._settle(self.sagas)
        if self.lifecycle.stop_decides() and not crashed:
            await self._finish_stopped()
            if self.lifecycle.stop_reason is StopReason.REPLAY:
                return NextAttempt(0.0, self._successor())
            if self._next is not None and self._next[1] is not None:
                return NextAttempt(0.0, self._next[1], self._next[0])
            raise self._stop_error()
        if failed is not None and self.may_write:
            await self.fail(failed)
            raise failed
        if isinstance(error, Exception) and self.may_write:
            return await self._failed_with(error)
        self.abandon_unfinished()
        if not crashed:
            self._raise_outside(error)
        return None

    async def _settle(self, sagas: Sagas) -> SagaError | None:
        """Have all sagas undone before the stop or the outcome of the body decides; return a failure of that."""
        if self.lifecycle.replays_for is not None and self.lifecycle.stop_reason is None:
            await sagas.until_replayed()
        self.lifecycle.settle()
        failed = await sagas.go_on()
        if not self.lifecycle.stop_decides():
            await sagas.until_left()
        return failed or await sagas.go_on()

    def _stop_error(self) -> BaseException:
        """Return the error of the stopped run for callers outside it, or the error of an undo that has failed."""
        if self.sagas is not None and self.lifecycle.is_final:
            if self.sagas.failure is not None:
                return self.sagas.failure
            if self.sagas.is_left:
                return Parked()
        return self.lifecycle.stop_error()

    def _raise_outside(self, error: BaseException) -> None:
        """Raise the run's own error instead of an error that left the body of a lost or ended run."""
        of_the_run = is_stop(error)
        if self.lifecycle.fatal_error is not None:
            if of_the_run or isinstance(error, (Exception, asyncio.CancelledError)):
                raise_instead(self.lifecycle.fatal_error, error)
        elif of_the_run and (reason := self.lifecycle.reason()) is not None:
            raise reason

    async def _failed_with(self, error: Exception) -> NextAttempt | None:
        """End the run with the error, or release it for a retry."""
        lifecycle = self.lifecycle
        lifecycle.raise_if_closed()
        try:
            retry = self._retry_after(error)
        except Exception as unexpected:  # noqa: BLE001  # the error's class, a codec or a policy may do anything
            known = {"workflow_id": self.workflow_id}
            log_unexpected(f"a retry of workflow {self.workflow_id}", unexpected, self.codec, known)
            retry = None
        if retry is None:
            await self.fail(error)
            return None
        delay, text, reopen = retry
        attempt = self.steps.history.retries + 1
        # A process that waits in place resumes the run first; a worker claims it if that process dies meanwhile.
        wait = delay if self.parking.worker is not None else delay + REPLAY_HEAD_START
        _logger.warning(
            "workflow %s (%r) failed in attempt %d and is retried in %.3g s: %s",
            self.workflow_id,
            self.name,
            attempt,
            delay,
            shown_error(error, is_sealed=is_sealing(self.codec)),
            extra={
                "workflow_id": self.workflow_id,
                "workflow_name": self.name,
                "attempt": attempt,
                "delay": delay,
            },
        )
        await self._release(WorkflowStatus.WAITING, wait, text, retries=attempt, reopen=reopen)
        if self.parking.worker is not None:
            lifecycle.stop_reason = StopReason.PARKED  # later calls in the ended run raise `Parked`, too
            raise Parked
        return NextAttempt(lifecycle.until_deadline(delay))

    def _retry_after(self, error: Exception) -> tuple[float, str, tuple[str, ...]] | None:
        """Return the delay in seconds, the record of the error and the steps to re-open; None for no retry."""
        policy = self._options.retry
        # A saga that was undone stays undone, so another attempt would fail at the same place. An error that the
        # body raises while it handles the error of the saga counts as one of the saga, too.
        is_final = policy is None or is_terminal(error) or is_of_undone_saga(error)
        delay = None if policy is None or is_final else policy.delay(self.steps.history.retries + 1, error)
        if delay is None:
            return None
        return delay, self.outcomes.sealed(dump_error(error, terminal=False)), self.steps.to_reopen(error)

    # --- stopping ---

    def cancel(self, *, interrupt: bool) -> None:
        """End the run as cancelled, after its executing steps, or with `interrupt` by interrupting steps and body.

        No step begins afterwards. Further calls are allowed; the journal calls this while it resolves records of
        the run.
        """
        self.lifecycle.cancel(interrupt=interrupt)
        replays = self.lifecycle.replays_for is not None
        if not (self.in_body or replays) and self.may_write and self._release_task is None:
            # No task executes a body, so no task would end the run.
            loop = asyncio.get_running_loop()
            self._release_task = loop.create_task(self._release_cancelled(), name="pgqrs-cancel")

    async def _release_cancelled(self) -> None:
        try:
            if self.may_write:
                await self._release(WorkflowStatus.CANCELLED)
        except PgqrsError as error:
            _logger.warning(
                "workflow %s could not be recorded as cancelled: %s",
                self.workflow_id,
                shown_error(error),
                extra={"workflow_id": self.workflow_id},
            )

    async def requeue(self, grace: float) -> None:
        """Release the run for another worker, after at most `grace` seconds for the executing steps.

        A body that ends within that time ends the run as usual.
        """
        self.lifecycle.stop_for(StopReason.REQUEUED)
        if self.in_body:
            await self.lifecycle.wait_for_body(grace)
        if self.may_write:
            await self._release(WorkflowStatus.PENDING)

    async def _finish_stopped(self) -> None:
        """End or release the run according to its stop reason, unless that has already happened."""
        if self.lifecycle.stop_reason in {StopReason.REQUEUED, StopReason.CANCELLED}:
            # One branch of `gather` has raised the stop, and the steps of the others may still execute.
            await self.steps.wait_until_idle()
        if self.has_ended or await self._finish_unwinding():
            return
        left = None if self.sagas is None else self.sagas.left
        match self.lifecycle.stop_reason:
            case StopReason.TIMED_OUT:
                timed_out = self.lifecycle.stop_error()
                if left is not None:
                    timed_out.add_note(str(left))
                text = self.outcomes.sealed_end(dump_error(timed_out, terminal=True))
                await self._end(WorkflowStatus.ERROR, error=text)
            case StopReason.CANCELLED | StopReason.INTERRUPTED:
                error = None if left is None else self.outcomes.sealed(dump_error(left, terminal=True))
                await self._release(WorkflowStatus.CANCELLED, error=error)
            case StopReason.PARKED:
                waits = self.parking.parked
                await self._release(WorkflowStatus.WAITING, self.parking.until_due(), waits=waits)
                if waits:
                    self._store.arrivals.parked()
            case StopReason.REPLAY:
                self._close()
            case StopReason.CONTINUED if self._next is not None:
                await self._continue(self._next[0])
            case _:
                await self._release(WorkflowStatus.PENDING)

    async def _finish_unwinding(self) -> bool:
        """End a run with the error of an undo, or release one that is handed over; return whether it has ended."""
        if self.sagas is None:
            return False
        await self.sagas.until_left()
        await self.sagas.go_on()
        if self.has_ended or not self.lifecycle.is_final:
            return self.has_ended
        if self.sagas.failure is not None:
            failed = dump_error(self.sagas.failure, terminal=False)
            reopen = self.steps.to_reopen(self.sagas.failure)
            await self._end(WorkflowStatus.ERROR, error=self.outcomes.sealed_end(failed), reopen=reopen)
        elif self.sagas.is_left:
            # Perhaps by a stop that a cancellation has overridden since: the body has left its sagas as they were.
            await self._release(WorkflowStatus.PENDING)
        else:
            return False
        return True

    def _successor(self) -> Run:
        """Return the run that replays the body of this run, with the same claim and the outcomes so far."""
        anew = Run(
            self.context_key,
            self._store,
            self.codec,
            workflow_id=self.workflow_id,
            name=self.name,
            epoch=self.epoch,
            claim=self.claim,
            history=self.steps.history.as_recorded(),
            worker=self.parking.worker,
            queue=self.announcements.queue,
            members=self.outcomes.members,
        )
        anew.announcements.continue_from(self.announcements)
        anew.steps.continue_from(self.steps)
        anew.lifecycle.deadline = self.lifecycle.deadline
        if self.sagas is not None:
            anew.open_sagas(self.sagas.state)
        return anew

    # --- continuing as new ---

    def continue_as_new(self, arguments: Arguments) -> NoReturn:
        """Stop the run, so that the workflow begins anew with other arguments once the body has ended."""
        self.check()
        self.lifecycle.check_may_begin()
        self._next = arguments, None
        self.lifecycle.unwind_for(StopReason.CONTINUED)
        self.lifecycle.raise_if_stopped()
        self.lifecycle.stop_at(self.place)

    async def _continue(self, arguments: Arguments) -> None:
        """Begin the workflow anew: here, or in any worker if a worker has claimed this run."""
        next_claim = None if self.parking.worker is not None else new_token()
        self._store.changing.add(self.workflow_id)
        try:
            self._close()
            await self._write_continuation(arguments, next_claim)
            if next_claim is not None:
                self._next = arguments, await self._next_generation(next_claim)
        except BaseException:
            if next_claim is not None:  # no task executes the next run, if it has begun
                self._store.abandon(self.workflow_id, self.epoch + 1, next_claim)
            raise
        finally:
            self._store.changing.discard(self.workflow_id)
        if next_claim is None:
            self.announcements.ready(self.workflow_id)

    async def _write_continuation(self, arguments: Arguments, next_claim: int | None) -> None:
        timeout = self._options.timeout
        record = RunContinuation(self.workflow_id, self.epoch, arguments.text, timeout, next_claim, self.claim)
        try:
            await self._store.write_continuation(record)
        except PgqrsError as lost:
            self.on_write_refused(lost)
            raise
        if self._store.observer is not None:
            self._store.observer.run_released(self.workflow_id, WorkflowStatus.PENDING, None)

    async def _next_generation(self, claim: int) -> Run:
        history = History({}, {}, generation=self.epoch)
        if self.lifecycle.deadline is not None:  # the next run has a deadline of its own
            history = await self._store.history(self.workflow_id)
        anew = Run(
            self.context_key,
            self._store,
            self.codec,
            workflow_id=self.workflow_id,
            name=self.name,
            epoch=self.epoch + 1,
            claim=claim,
            history=history,
            queue=self.announcements.queue,
        )
        anew.announcements.continue_from(self.announcements)
        return anew

    # --- the end ---

    async def succeed(self, value: object) -> object:
        """End the run with a value and return the stored value; an invalid value ends the run with an error."""
        self.lifecycle.raise_if_closed()
        self.steps.warn_of_interrupted()
        try:
            encoded = self.output_codec().encode(value)
        except Exception as error:
            refused = as_serialization_error(error).of(workflow_id=self.workflow_id)
            await self.fail(refused)
            raise refused from error
        await self._end(WorkflowStatus.SUCCESS, output=encoded.text)
        return encoded.value

    async def fail(self, error: str | BaseException) -> None:
        """End the run with an error."""
        self.lifecycle.raise_if_closed()
        exception = error if isinstance(error, BaseException) else None
        terminal, reopen = True, tuple[str, ...]()
        try:
            terminal = exception is None or is_terminal(exception)
            reopen = self.steps.to_reopen(exception)
            text = self.outcomes.sealed_end(dump_error(error, terminal=terminal))
        except Exception as unexpected:  # noqa: BLE001  # the error's class or a codec may do anything
            known = {"workflow_id": self.workflow_id}
            log_unexpected(f"the error of workflow {self.workflow_id}", unexpected, self.codec, known)
            text = self.outcomes.sealed_end(plain_error(error, terminal=terminal))
        await self._end(WorkflowStatus.ERROR, error=text, reopen=reopen)

    def abandon_unfinished(self) -> None:
        """Abandon the run as after a crash, unless it has ended, was released or was lost.

        No end is recorded; the next run replays the steps.
        """
        if self.may_write:
            self._close()
            self._store.abandon(self.workflow_id, self.epoch, self.claim)
            if self._store.observer is not None:
                self._store.observer.run_abandoned(self.workflow_id)

    def on_write_refused(self, error: BaseException) -> None:
        """Handle a refused write, after which the run may be unable to write anything more."""
        # A refused row affects only its own step; any other error of a write ends the run.
        if (
            isinstance(error, PgqrsError)
            and not isinstance(error, RowRefusedError)
            and self.lifecycle.state is not RunState.LOST
        ):
            self.lifecycle.lose(error)
            self._unregister()
            if self._store.observer is not None:
                self._store.observer.run_lost(self.workflow_id, error)

    async def _end(
        self,
        status: WorkflowStatus,
        *,
        output: str | None = None,
        error: str | None = None,
        reopen: tuple[str, ...] = (),
    ) -> None:
        self._close(partial(WorkflowFinishedError, self.workflow_id, status))
        try:
            await self._store.write_end(RunEnd(self.workflow_id, self.epoch, output, error, reopen, self.claim))
        except PgqrsError as lost:
            if self._store.observer is not None and isinstance(lost, WorkflowCancelledError):
                self._store.observer.run_released(self.workflow_id, WorkflowStatus.CANCELLED, None)
            self.on_write_refused(lost)
            raise
        self.announcements.ended()
        if self._store.observer is not None:
            self._store.observer.run_ended(self.workflow_id, status)
        # Earlier runs may have recorded steps that this run did not use, unless it was stopped before.
        if self.epoch > 1 and not self.lifecycle.is_final:
            with suppress(PgqrsError, TimeoutError):
                async with asyncio.timeout(UNASKED_TIMEOUT):
                    await self.steps.warn_of_unasked()

    async def _release(
        self,
        status: WorkflowStatus,
        wait: float | None = None,
        error: str | None = None,
        *,
        retries: int | None = None,
        reopen: tuple[str, ...] = (),
        waits: tuple[StepWait, ...] = (),
    ) -> None:
        if status is WorkflowStatus.WAITING and self.sagas is not None:
            await self.sagas.clear_stale()
        self._close()
        record = RunRelease(self.workflow_id, self.epoch, status, wait, error, retries, reopen, self.claim, waits)
        try:
            is_cancelled = await self._store.write_end(record)
        except PgqrsError as lost:
            self.on_write_refused(lost)
            raise
        if status is WorkflowStatus.CANCELLED:
            self.announcements.ended()
        if self._store.observer is not None:
            if is_cancelled:
                status = WorkflowStatus.CANCELLED if self.sagas is None else WorkflowStatus.PENDING
            self._store.observer.run_released(self.workflow_id, status, wait)

    def _close(self, error: Callable[[], PgqrsError] | None = None) -> None:
        self.lifecycle.end(error)
        self._unregister()

    def _unregister(self) -> None:
        if self._store.runs.get(self.workflow_id) is self:
            del self._store.runs[self.workflow_id]


def run_of(owner: object) -> Run | None:
    """Return the run of the calling task in the context that `owner` identifies, or None."""
    scope = scope_of(owner)
    run = None if scope is None else scope.run
    return run if isinstance(run, Run) else None
