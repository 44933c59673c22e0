"""One run of a workflow, from its start to its end: its body, and as what it is left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from pgqrs.clock import TimeOfDay
from pgqrs.codecs.annotations import ReturnType
from pgqrs.codecs.base import Codec, as_serialization_error, codec_at, is_sealing, seal_error
from pgqrs.codecs.failures import dump_error, is_terminal, plain_error, shown_error
from pgqrs.engine.lifecycle import Parked, RunLifecycle, StopReason, is_stop, raise_instead
from pgqrs.engine.scope import Scope, StepExecution, current_scope, scope_of
from pgqrs.engine.step_runner import StepRunner, log_unexpected
from pgqrs.errors import (
    PgqrsError,
    RowRefusedError,
    RunEndedError,
    WorkflowFinishedError,
)
from pgqrs.retry import RetryPolicy
from pgqrs.storage.records import History, RunEnd, RunRelease
from pgqrs.storage.store import Store
from pgqrs.types import WorkflowStatus

REPLAY_HEAD_START = 10.0
"""How long, in seconds, a workflow that is retried in place is left alone by workers after it is due."""

UNASKED_TIMEOUT = 5.0
"""Seconds that the look at the steps of a workflow that has ended may take, which is for a warning only."""

_logger = logging.getLogger("pgqrs")


class RunOptions(NamedTuple):
    """How a workflow is run: see `pgqrs.workflow`. `timeout` is in seconds.

    `returns` is what its function is annotated to return, if that is known.
    """

    retry: RetryPolicy | None = None
    timeout: float | None = None
    strict: bool = False
    returns: ReturnType | None = None

    def codec(self, codec: Codec, workflow_id: int) -> Codec:
        """Return the codec for what the workflow returns."""
        return codec_at(codec if self.returns is None else self.returns.codec(codec), "output", workflow_id)


class Run:
    """One start of a workflow: its epoch, its `steps`, and, in `lifecycle`, whether it may still go on.

    It is itself the outermost `Scope` in it. `owner` stands for the context whose run it is. `can_park` tells that
    a worker claimed it, which will claim it again when its time has come. When the body has left a run that
    stopped, the run is left as its `Stop` says.
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
        can_park: bool = False,
    ) -> None:
        self.context_key = owner
        self.workflow_id = workflow_id
        self.name = name
        self.epoch = epoch
        self.claim = claim
        self.codec = codec
        self.clock: TimeOfDay = store
        self.previous: Scope | None = None
        self.in_body = False
        self.replay_run: Run | None = None
        """The same run with its body to begin anew; see `pgqrs.engine.step_runner.ALWAYS_REPLAY`."""
        executions: dict[str, StepExecution] = {}
        deadline = None if history.seconds_left is None else store.clock.time() + history.seconds_left
        self.lifecycle = RunLifecycle(owner, workflow_id, executions, deadline, store.clock, can_park=can_park)
        self.steps = StepRunner(
            owner,
            store,
            codec,
            self.lifecycle,
            executions,
            workflow_id=workflow_id,
            name=name,
            history=history,
        )
        self._store = store
        self._retries = history.retries
        self._policy: RetryPolicy | None = None
        self._output_codec = codec_at(codec, "output", workflow_id)
        self._leaving: asyncio.Task[None] | None = None
        store.runs[workflow_id] = self

    @property
    def run(self) -> Run:
        """The run itself: its body is the outermost place in it."""
        return self

    @property
    def place(self) -> Scope:
        """Where in the run the calling task is."""
        return scope_of(self.context_key) or self

    @property
    def may_write(self) -> bool:
        """Whether the run has neither ended nor been lost."""
        return self.lifecycle.may_write

    @property
    def live(self) -> bool:
        """Whether the run has neither ended nor been lost nor stopped."""
        return self.lifecycle.may_write and self.lifecycle.stop_reason is None

    @property
    def has_ended(self) -> bool:
        """Whether the run has ended, or was left."""
        return self.lifecycle.ended is not None

    @property
    def is_carried_out(self) -> bool:
        """Whether a task carries the body out, which will end the run."""
        return self.in_body and not self.has_ended

    @property
    def busy_with(self) -> str | None:
        """The id of the step that began last, of those that execute; None between steps."""
        return self.steps.busy_with

    def check(self) -> None:
        """Raise why the run may not go on, if it may not."""
        self.lifecycle.raise_if_stopped()

    # --- the body ---

    def enter_body(self, options: RunOptions) -> None:
        """Make the calling task one of this run's, and so the tasks that it starts; it carries out the body."""
        self.previous = current_scope.get()
        current_scope.set(self)
        self.in_body = True
        self._policy = options.retry
        self.steps.strict = options.strict
        self.lifecycle.enter_body(options.timeout)

    def exit_body(self) -> None:
        """Take the calling task out again, whatever has become of the body.

        A run that is neither over nor lost by now was kept from it by an error of pgqrs's own: it is given up.
        """
        self.abandon_unfinished()
        self.lifecycle.leave_body()
        self.in_body = False
        current_scope.set(self.previous)
        self.lifecycle.body_is_left()

    def bind_output(self, options: RunOptions) -> None:
        """Look up what the body is annotated to return; raises `ConfigurationError` if that cannot be recorded."""
        self._output_codec = options.codec(self.codec, self.workflow_id)

    async def on_return(self, value: object) -> object:
        """Settle the run whose body returned `value`, and return that as it is stored.

        Raises `Parked`, `WorkflowCancelledError` or `WorkflowTimeoutError` where the run was stopped.
        """
        self.lifecycle.leave_body()
        if self.lifecycle.stop_decides():
            await self._finish_stopped()
            raise self.lifecycle.stop_error()
        return await self.succeed(value)

    async def on_error(self, error: BaseException) -> float | None:
        """Settle the run whose body raised `error`.

        Returns the delay, in seconds, after which the body is to be run again, None where the error is to be
        raised. Raises what a stop makes of the run instead.
        """
        cancelled_from_outside = self.lifecycle.leave_body()
        crashed = isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit))
        if isinstance(error, asyncio.CancelledError) and cancelled_from_outside:
            crashed = True
        if self.lifecycle.stop_decides() and not crashed:
            await self._finish_stopped()
            if self.replay_run is not None:
                return 0.0
            raise self.lifecycle.stop_error()
        if isinstance(error, Exception) and self.may_write:
            return await self._failed_with(error)
        self.crash()
        if not crashed:
            self._raise_outside(error)
        return None

    def _raise_outside(self, error: BaseException) -> None:
        """Raise the run's own error in place of one that leaves the body of a run that is lost, or over."""
        of_the_run = is_stop(error)
        if self.lifecycle.fatal_error is not None:
            if of_the_run or isinstance(error, (Exception, asyncio.CancelledError)):
                raise_instead(self.lifecycle.fatal_error, error)
        elif of_the_run and (reason := self.lifecycle.reason()) is not None:
            raise reason

    async def _failed_with(self, error: Exception) -> float | None:
        """End the run with the error, or leave it to be tried again."""
        lifecycle = self.lifecycle
        lifecycle.raise_if_closed()
        try:
            retry = self._retry_after(error)
        except Exception as unexpected:  # noqa: BLE001  # the error's class, a codec or a policy may do anything
            log_unexpected(f"whether workflow {self.workflow_id} is tried again", unexpected, self.codec)
            retry = None
        if retry is None:
            await self.fail(error)
            return None
        delay, text, reopen = retry
        # One that waits in place has the first right to go on; a worker does if its process dies meanwhile.
        wait = delay if lifecycle.can_park else delay + REPLAY_HEAD_START
        _logger.warning(
            "workflow %s (%r) failed in attempt %d and is tried again in %.3g s: %s",
            self.workflow_id,
            self.name,
            self._retries + 1,
            delay,
            shown_error(error, is_sealed=is_sealing(self.codec)),
        )
        await self._release(WorkflowStatus.WAITING, wait, text, retries=self._retries + 1, reopen=reopen)
        if lifecycle.can_park:
            lifecycle.stop_reason = StopReason.PARKED
            raise Parked
        return lifecycle.until_deadline(delay)

    def _retry_after(self, error: Exception) -> tuple[float, str, tuple[str, ...]] | None:
        """Return the delay before the body runs again, the record of its error, and the steps to re-open."""
        policy = self._policy
        delay = None if policy is None or is_terminal(error) else policy.delay(self._retries + 1, error)
        if delay is None:
            return None
        return delay, self._sealed(dump_error(error, terminal=False)), self.steps.to_reopen(error)

    # --- stopping ---

    def cancel(self, *, interrupt: bool) -> None:
        """End the run as cancelled, after the steps that execute, or interrupting them and the body.

        May be called again, and by the journal while it settles what the run has written: no step begins after it.
        """
        self.lifecycle.cancel(interrupt=interrupt)
        if not self.in_body and self.may_write and self._leaving is None:
            # Nobody carries a body out who would leave the run.
            loop = asyncio.get_running_loop()
            self._leaving = loop.create_task(self._leave_cancelled(), name="pgqrs-cancel")

    async def _leave_cancelled(self) -> None:
        try:
            await self._release(WorkflowStatus.CANCELLED)
        except PgqrsError as error:
            _logger.warning("workflow %s could not be left as cancelled: %s", self.workflow_id, shown_error(error))

    async def requeue(self, grace: float) -> None:
        """Leave the run for another worker, after `grace` seconds at most for the steps that execute.

        A body that ends within that time ends as ever.
        """
        self.lifecycle.stop_for(StopReason.HANDED_BACK)
        if self.in_body:
            await self.lifecycle.wait_for_body(grace)
        if self.may_write:
            await self._release(WorkflowStatus.PENDING)

    async def _finish_stopped(self) -> None:
        """Leave the run as its stop says, unless that is done."""
        if self.has_ended:
            return
        match self.lifecycle.stop_reason:
            case StopReason.TIMED_OUT:
                timed_out = dump_error(self.lifecycle.stop_error(), terminal=True)
                await self._end(WorkflowStatus.ERROR, error=self._sealed(timed_out))
            case StopReason.CANCELLED:
                await self._release(WorkflowStatus.CANCELLED)
            case StopReason.PARKED:
                await self._release(WorkflowStatus.WAITING, self.lifecycle.until_due())
            case StopReason.REPLAY:
                self.replay_run = self._restart()
            case _:
                await self._release(WorkflowStatus.PENDING)

    def _restart(self) -> Run:
        """Return the same run with what it has recorded; tasks left over from this one stay out of it."""
        self._close(self._ended)
        anew = Run(
            self.context_key,
            self._store,
            self.codec,
            workflow_id=self.workflow_id,
            name=self.name,
            epoch=self.epoch,
            claim=self.claim,
            history=History(self.steps.outcomes, {}, None, self._retries),
            can_park=self.lifecycle.can_park,
        )
        anew.steps.continue_from(self.steps)
        anew.lifecycle.deadline = self.lifecycle.deadline
        return anew

    # --- the end ---

    async def succeed(self, value: object) -> object:
        """End the run with a value and return it as it is stored; a value that cannot be stored is its error."""
        self.lifecycle.raise_if_closed()
        self.steps.warn_of_interrupted()
        try:
            encoded = self._output_codec.encode(value)
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
            text = self._sealed(dump_error(error, terminal=terminal))
        except Exception as unexpected:  # noqa: BLE001  # the error's class or a codec may do anything
            log_unexpected(f"the error of workflow {self.workflow_id}", unexpected, self.codec)
            text = self._sealed(plain_error(error, terminal=terminal))
        await self._end(WorkflowStatus.ERROR, error=text, reopen=reopen)

    def _sealed(self, text: str) -> str:
        return seal_error(self.codec, text, self.workflow_id)

    def abandon_unfinished(self) -> None:
        """Leave a run that was neither ended nor left nor lost, as after a crash."""
        if self.may_write:
            self.crash()

    def crash(self) -> None:
        """Leave the run without an end: nothing is recorded of it, and the next start goes on from its steps."""
        if not self.has_ended:
            self._close(self._ended)
            if self.lifecycle.fatal_error is None:
                self._store.abandon(self.workflow_id, self.epoch, self.claim)

    def on_write_refused(self, error: BaseException) -> None:
        """Take in that a write was refused, which may mean that nothing more can be written."""
        # A refused row concerns its own step alone; any other error of a write stops the run.
        if (
            isinstance(error, PgqrsError)
            and not isinstance(error, RowRefusedError)
            and self.lifecycle.fatal_error is None
        ):
            self.lifecycle.lose(error)
            self._unregister()

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
            self.on_write_refused(lost)
            raise
        if self.epoch > 1:  # earlier runs may have recorded what this one did not come to
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
    ) -> None:
        self._close(self._ended)
        try:
            await self._store.write_end(
                RunRelease(self.workflow_id, self.epoch, status, wait, error, retries, reopen, self.claim)
            )
        except PgqrsError as lost:
            self.on_write_refused(lost)
            raise

    def _close(self, over: Callable[[], PgqrsError]) -> None:
        self.lifecycle.ended = over
        self._unregister()

    def _ended(self) -> PgqrsError:
        return RunEndedError(self.workflow_id)

    def _unregister(self) -> None:
        if self._store.runs.get(self.workflow_id) is self:
            del self._store.runs[self.workflow_id]


def run_of(owner: object) -> Run | None:
    """Return the run of `owner`, which stands for a context, that the calling task is in, if it is in one."""
    scope = scope_of(owner)
    run = None if scope is None else scope.run
    return run if isinstance(run, Run) else None
