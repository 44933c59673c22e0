"""Replays, executes and retries the steps of one run, and records their outcomes."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from pgqrs.codecs.base import Codec, is_sealing, open_error, seal_error
from pgqrs.codecs.failures import dump_error, is_terminal, load_error, plain_error, shown_error, steps_behind
from pgqrs.codecs.records import ValueContext
from pgqrs.engine.lifecycle import RunState, is_stop, raise_instead
from pgqrs.engine.parking import Parking
from pgqrs.engine.replay.failure_trace import FailureTrace, RaisedBy
from pgqrs.engine.replay.frontier import Spans
from pgqrs.engine.replay.history import StepHistory
from pgqrs.engine.scope import (
    FIRST_ATTEMPT,
    Retry,
    Scope,
    Shelter,
    StepExecution,
    ancestors,
    calling_scope,
    current_scope,
    exit_scope,
    scope_of,
    would_deadlock,
)
from pgqrs.errors import (
    DatabaseUnavailableError,
    PgqrsError,
    SerializationError,
    SessionError,
    StepCycleError,
    WorkflowError,
)
from pgqrs.retry import RetryPolicy
from pgqrs.storage.records import StoredOutcome
from pgqrs.storage.store import Store
from pgqrs.storage.writes.operation import Record
from pgqrs.storage.writes.states import StatefulOutcome
from pgqrs.storage.writes.steps import FailedAttempt, NewOutcome, StepOutcome

ALWAYS_REPLAY = "PGQRS_ALWAYS_REPLAY"
"""Name of the environment variable that, set to ``1``, replays the body after each recorded step, as a test."""

MAX_NAMED_STEPS = 10
"""Maximum number of steps that one warning names."""

_ALWAYS_REPLAYS = os.environ.get(ALWAYS_REPLAY) == "1"

_logger = logging.getLogger("pgqrs.engine")


class _Send:
    """An execution that sends a message, and the last send before it that may still execute."""

    __slots__ = ("earlier", "execution")

    def __init__(self, execution: StepExecution, earlier: _Send | None) -> None:
        self.execution = execution
        self.earlier = earlier


# No reference to the run, which refers to this object: a cycle would leave ended runs to the garbage collector.
class StepRunner:
    """The outcomes of a run and its executing steps.

    Args:
        owner: The object that identifies the context of the run.
        store: The store of the event loop.
        history: The recorded steps of the run.
        parking: The waits of the run.
        executions: The executing steps by their ids, shared with the lifecycle of the run.

    Attributes:
        history: The recorded steps of the run.
    """

    __slots__ = (
        "_executions",
        "_idle",
        "_interrupted",
        "_journal",
        "_last_send",
        "_lifecycle",
        "_numbers",
        "_observer",
        "_owner",
        "_parking",
        "_store",
        "_trace",
        "history",
    )

    def __init__(
        self,
        owner: object,
        store: Store,
        history: StepHistory,
        parking: Parking,
        executions: dict[str, StepExecution],
    ) -> None:
        self.history = history
        self._owner = owner
        self._store = store
        self._journal = store.journal
        self._observer = store.observer
        self._lifecycle = parking.lifecycle
        self._idle = parking.lifecycle.idle
        self._parking = parking
        self._executions = executions
        self._last_send: _Send | None = None
        self._trace = FailureTrace()
        self._interrupted: dict[str, Scope] = {}
        self._numbers: dict[str, int] = {}

    def continue_from(self, earlier: StepRunner) -> None:
        """Adopt the state that an earlier runner of the same run kept beside the outcomes."""
        self.history.continue_from(earlier.history)
        self._trace.continue_from(earlier._trace)

    # --- recorded outcomes ---

    async def acquire(
        self, scope: Scope, step_id: str, fingerprint: int | None = None
    ) -> StepExecution | StoredOutcome:
        """Return the step's recorded outcome, or a new execution for the caller to execute.

        If another task executes the step, this waits for its outcome.

        Args:
            scope: The scope of the call in the run.
            step_id: The id of the step.
            fingerprint: The fingerprint of the arguments; None for a step without `@step`.

        Raises:
            StepCycleError: The step would wait for itself.
            StepMismatchError: In a strict workflow, the recorded outcome belongs to different arguments.
        """
        while True:
            found = self.try_acquire(scope, step_id, fingerprint)
            if found is not None:
                return found
            await self._wait(self._executions[step_id], scope)

    def try_acquire(
        self, scope: Scope, step_id: str, fingerprint: int | None
    ) -> StepExecution | StoredOutcome | None:
        """Return the result of `acquire` without waiting; None if another task executes the step."""
        # A plain function, which callers try first: it saves a coroutine for each step.
        self._lifecycle.raise_if_stopped()
        outcome = self.history.outcomes.get(step_id)
        if outcome is None:
            return None if step_id in self._executions else self._begin(step_id, scope, fingerprint)
        if step_id in self.history.frontier.unasked:
            self._ask(step_id)
        if self._idle.is_watched:
            self._idle.restart()
        if self._observer is not None:
            self._observer.step_replayed(self.history.workflow_id, step_id)
        if outcome.fingerprint != fingerprint:
            self.history.check_fingerprint(step_id, outcome.fingerprint, fingerprint)
        return outcome

    def _ask(self, step_id: str) -> None:
        by_body = asyncio.current_task(self._lifecycle.loop) is self._lifecycle.body.task
        self.history.frontier.ask(step_id, by_body=by_body)

    def value_of(self, step_id: str, outcome: StoredOutcome, codec: Codec) -> Any:
        """Return the recorded value of a step, decoded by `codec`, or raise its recorded error."""
        if outcome.error is not None:
            raise self.replay_error(step_id, outcome.error)
        if outcome.output is None:
            return None
        try:
            return codec.decode(outcome.output)
        except SerializationError as error:
            raise error.of(workflow_id=self.history.workflow_id, step_id=step_id) from error

    def replay_error(self, step_id: str, error: str) -> Exception:
        """Return the exception to raise for a recorded error."""
        text, workflow_id = error, self.history.workflow_id
        if not self.history.is_plain:
            with ValueContext(workflow_id, step_id):
                text = open_error(self.history.codec, error, workflow_id, step_id)
        replay = load_error(text, workflow_id=workflow_id, step_id=step_id)
        scope = scope_of(self._owner)
        self._trace_error(replay, step_id, scope, transient=not is_terminal(replay))
        for nested in steps_behind(replay):
            self._trace_error(replay, nested, scope, transient=True, within=(step_id,))
        return replay

    def to_reopen(self, error: BaseException | None) -> tuple[str, ...]:
        """Return the ids of the steps that the next run must execute again after `error` ended this run."""
        return self._trace.to_reopen(error)

    async def warn_of_unasked(self) -> None:
        """Warn, at the end of the run, about steps that earlier runs recorded and this run did not use.

        Recorded times do not count. Nor do steps nested in a replayed step, because a replayed step does not call
        its nested steps; a step counts as nested if it completed while the other step executed.
        """
        history = self.history
        unasked = history.unasked()
        if not unasked:
            return
        records = await self._store.reader.steps(history.workflow_id)
        spans = Spans(
            (each.started_at, each.completed_at)
            for each in records
            if each.step_id in history.asked and each.completed_at is not None
        )
        missed = [
            each.step_id
            for each in records
            if each.step_id in unasked and (at := each.completed_at) is not None and not spans.cover(at, at)
        ]
        if missed:
            _logger.warning(
                "workflow %s (%r) has ended and did not use %d steps that its earlier runs recorded: %s%s. "
                "Renamed steps are executed again: see docs/changing-code.md.",
                history.workflow_id,
                history.name,
                len(missed),
                ", ".join(map(repr, missed[:MAX_NAMED_STEPS])),
                ", ..." if len(missed) > MAX_NAMED_STEPS else "",
                extra=history.known(),
            )

    def _trace_error(
        self,
        error: BaseException,
        step_id: str,
        scope: Scope | None,
        *,
        transient: bool,
        within: tuple[str, ...] = (),
    ) -> None:
        around = tuple(each.step_id for each in ancestors(scope))
        self._trace.note(error, RaisedBy(step_id, transient, within + around))

    # --- executing steps ---

    @property
    def busy_with(self) -> str | None:
        """The id of the most recently begun step that still executes; None between steps."""
        return next(reversed(self._executions), None)

    def next_id(self, scope: Scope, kind: str) -> str:
        """Return the id of the next call of this kind; the body, each step and each clean-up number their own."""
        if not isinstance(scope, (StepExecution, Shelter)):
            return f"{kind}:{_next(self._numbers, kind)}"
        # A step numbers its calls itself: a replay may skip it, which must not shift other numbers. So does a
        # clean-up: the body calls more or less before it, by the place at which a cancellation is heard.
        if scope.numbers is None:
            scope.numbers = {}
        return f"{scope.step_id}/{kind}:{_next(scope.numbers, kind)}"

    def abandon(self, execution: StepExecution, *, interrupted: bool = False) -> None:
        """End an execution without an outcome, as after a crash; another caller may execute the step.

        In a cancelled or timed out run no caller executes the step again. A RUNNING mark then shows that it began.
        """
        if interrupted:
            self._interrupted[execution.step_id] = execution.parent
        if self._lifecycle.is_final:
            self._store.marks.left(execution)
        else:
            self._store.marks.ended(execution)
        exit_scope(execution)
        if self._observer is not None:
            self._observer.step_abandoned(self.history.workflow_id, execution.step_id)
        self._complete(execution)

    def drop(self, execution: StepExecution) -> None:
        """Abandon a step whose guard was collected unused; may be called from any thread, after the loop too."""
        with suppress(RuntimeError):  # the loop has ended
            self._lifecycle.loop.call_soon_threadsafe(self._dropped, execution)

    def _dropped(self, execution: StepExecution) -> None:
        if self._lifecycle.state is RunState.OPEN:
            _logger.warning(
                "the guard of step %r of workflow %s was discarded unused: the step has no outcome, and its next "
                "caller executes it. Call `guard.success` or `guard.fail` when `acquire_step` returns EXECUTE.",
                execution.step_id,
                self.history.workflow_id,
                extra=self.history.known(execution.step_id),
            )
        self.abandon(execution)

    def raise_outside(self, execution: StepExecution, stop: BaseException) -> None:
        """Raise the run's error instead of `stop` if the step was called from outside the run's body and steps.

        A `CancelledError` counts as a stop only if the run alone cancelled the task.
        """
        if not execution.interrupted or calling_scope(execution) is not None:
            return
        if isinstance(stop, asyncio.CancelledError):
            stopped = self._lifecycle.take_back(asyncio.current_task(self._lifecycle.loop))
        else:
            stopped = is_stop(stop)
        reason = self._lifecycle.reason()
        if stopped and reason is not None:
            raise_instead(reason, stop)

    def warn_of_interrupted(self) -> None:
        """Warn about cancelled steps without an outcome in a run that continues."""
        for step_id in self._interrupted:
            _logger.warning(
                "workflow %s continues although its step %r was cancelled and has no outcome: a replay may take a "
                "different path. Put the deadline inside the step, or let the cancellation end the run.",
                self.history.workflow_id,
                step_id,
                extra=self.history.known(step_id),
            )
        self._interrupted.clear()

    def _begin(self, step_id: str, scope: Scope, fingerprint: int | None) -> StepExecution:
        if self._lifecycle.unwinding is not None:
            self._lifecycle.check_may_begin()
        self._trace.step_began()
        if self._interrupted:
            self._interrupted.pop(step_id, None)
            self.warn_of_interrupted()
        execution = self._executions[step_id] = StepExecution(
            scope.run, current_scope.get(), scope, step_id, fingerprint
        )
        execution.task = asyncio.current_task(self._lifecycle.loop)
        if self.history.failed and step_id in self.history.failed:
            execution.retry = self.history.failed[step_id]
            self._ask(step_id)
        # The execution itself is the entry of the running marks: a tuple for each step would cost more.
        self._store.marks.began(execution)
        if self._observer is not None:
            self._observer.step_began(self.history.workflow_id, step_id, execution.retry.failures + 1)
        if isinstance(scope, StepExecution):
            scope.wait_for(execution)
        current_scope.set(execution)
        return execution

    async def _wait(self, execution: StepExecution, scope: Scope) -> None:
        waiting = set(ancestors(scope))
        if would_deadlock(execution, waiting):
            raise StepCycleError(self.history.workflow_id, execution.step_id)
        for each in waiting:
            each.wait_for(execution)
        try:
            await execution.wait_until_over()
        finally:
            for each in waiting:
                each.wait_no_longer(execution)

    def _complete(self, execution: StepExecution) -> None:
        if self._executions.get(execution.step_id) is execution:
            del self._executions[execution.step_id]
        if isinstance(execution.parent, StepExecution):
            execution.parent.wait_no_longer(execution)
        if self._last_send is not None:
            self._last_send = self._executing_send(self._last_send)
        execution.complete()
        if self._idle.is_watched:
            self._idle.restart()

    def _forget_interrupted(self, execution: StepExecution) -> None:
        """Forget the cancelled steps nested in a step with an outcome: a replay does not call them."""
        for step_id, parent in list(self._interrupted.items()):
            if execution in ancestors(parent):
                del self._interrupted[step_id]

    # --- attempts and outcomes ---

    async def retry(self, execution: StepExecution, error: Exception, policy: RetryPolicy) -> bool:
        """Record a failed attempt and wait until the next is due; return False if the step is not retried."""
        # The error of a nested step is recorded, so a retry would only raise it again.
        if self._is_run_error(execution, error) or self._trace.stems_from_step(error):
            return False
        try:
            delay = policy.delay(execution.retry.failures + 1, error)
            text = "" if delay is None else self._sealed(execution, dump_error(error, terminal=False))
        except Exception as unexpected:  # noqa: BLE001  # the error's class, a codec or a policy may do anything
            self._log_unexpected(f"a retry of step {execution.step_id!r}", execution, unexpected)
            return False
        if delay is None:
            return False
        self._check_counts(execution, execution)
        retry = Retry(execution.retry.failures + 1, self._lifecycle.clock.time() + delay)
        execution.retry = self.history.failed[execution.step_id] = retry
        self._store.marks.ended(execution)
        _logger.warning(
            "step %r of workflow %s (%r) failed in attempt %d and is retried in %.3g s: %s",
            execution.step_id,
            self.history.workflow_id,
            self.history.name,
            retry.failures,
            delay,
            shown_error(error, is_sealed=is_sealing(self.history.codec)),
            extra=self.history.known(execution.step_id, attempt=retry.failures, delay=delay),
        )
        if self._observer is not None:
            step_id, attempt = execution.step_id, retry.failures
            self._observer.attempt_failed(self.history.workflow_id, step_id, attempt, delay)
        workflow_id, epoch, step_id, claim = execution.started
        failure = FailedAttempt(
            workflow_id,
            epoch,
            step_id,
            text,
            execution.began,
            execution.fingerprint,
            retry.failures,
            delay,
            claim,
        )
        try:
            await self._journal.write(failure)
        except PgqrsError as refused:
            execution.run.on_write_refused(refused)
            self._check_counts(execution, execution)
            raise
        await self.wait_for_retry(execution)
        return True

    async def wait_for_retry(self, execution: StepExecution) -> None:
        """Wait until the next attempt of a step is due."""
        execution.numbers = execution.states = None
        if execution.retry.failures:
            await self._parking.wait_until(execution.retry.due, resting=True)

    async def fail(
        self, execution: StepExecution, error: str | BaseException, *, terminal: bool
    ) -> StoredOutcome | None:
        """Record the step's error, and return the recorded outcome, which an earlier record may have been.

        A step whose error belongs to the run is abandoned, and has no outcome.

        If a call within the step has raised the stop of the run, the stop is raised again, even if the step has
        replaced it by another error.
        """
        # A text mostly describes the exception that is being handled, which may later leave the body.
        raised = error if isinstance(error, BaseException) else sys.exception()
        if execution.interrupted:
            await self._refused(execution)
        if self._is_run_error(execution, raised):
            self.abandon(execution)
            return None
        behind: tuple[str, ...] = ()
        try:
            behind = self._trace.steps_behind(raised, execution.step_id)
            if raised is not None:
                self._trace_error(raised, execution.step_id, execution.parent, transient=not terminal)
            if not terminal:
                self._trace.recorded(execution.step_id)
            text = self._sealed(execution, dump_error(error, terminal=terminal, steps=behind))
        except Exception as unexpected:  # noqa: BLE001  # the error's class or a codec may do anything
            self._log_unexpected(f"the error of step {execution.step_id!r}", execution, unexpected)
            text = self._plainly(execution, error, terminal=terminal, steps=behind)
        return await self.record(execution, None, text)

    def _plainly(
        self, execution: StepExecution, error: str | BaseException, *, terminal: bool, steps: tuple[str, ...]
    ) -> str:
        """Return a record of the class and message of a step's error; abandon the step if that fails too."""
        try:
            return self._sealed(execution, plain_error(error, terminal=terminal, steps=steps))
        except BaseException:
            self.abandon(execution)
            raise

    def _sealed(self, execution: StepExecution, text: str) -> str:
        return seal_error(self.history.codec, text, self.history.workflow_id, execution.step_id)

    def _log_unexpected(self, subject: str, execution: StepExecution, error: Exception) -> None:
        history = self.history
        of_workflow = f"{subject} of workflow {history.workflow_id}"
        log_unexpected(of_workflow, error, history.codec, history.known(execution.step_id))

    def record(
        self, execution: StepExecution, output: str | None, error: str | None = None
    ) -> Awaitable[StoredOutcome]:
        """Record the JSON text of the step's value or error; return an awaitable of the recorded outcome."""
        if execution.interrupted or self._lifecycle.state is RunState.LOST:
            return self._refused(execution)
        is_unmarked = self._store.marks.ended(execution)
        # A later run does not know all rows of the step: it may have been marked, or reopened.
        is_new = is_unmarked and execution.run.epoch == 1 and execution.retry is FIRST_ATTEMPT
        record: Record = execution.outcome(output, error, NewOutcome if is_new else StepOutcome)
        if execution.states is not None and error is None:
            record = StatefulOutcome(*execution.outcome(output), (*execution.states.values(),))
        if self._interrupted:
            self._forget_interrupted(execution)
        if not (self._journal.is_full or _ALWAYS_REPLAYS):
            return self._send(execution, record)
        return self._send_patiently(execution, record)

    async def _refused(self, execution: StepExecution) -> StoredOutcome:
        """Abandon a step in which the run stopped, and raise the stop."""
        self.abandon(execution)
        self._lifecycle.stop_at(calling_scope(execution))

    async def _send_patiently(self, execution: StepExecution, record: Record) -> StoredOutcome:
        try:
            await self._journal.wait_for_capacity()
            self._check_counts(execution, calling_scope(execution))
        except BaseException:
            self.abandon(execution)
            raise
        outcome = await self._send(execution, record)
        if _ALWAYS_REPLAYS:
            self._lifecycle.replay_after(execution)
        return outcome

    def _check_counts(self, execution: StepExecution, place: Scope | None) -> None:
        """Raise the stop at `place` if the run stopped within the step or was lost."""
        if execution.interrupted or self._lifecycle.state is RunState.LOST:
            self._lifecycle.stop_at(place)

    # A plain function that returns a future: it saves a coroutine for each outcome.
    def _send(self, execution: StepExecution, record: Record) -> asyncio.Future[StoredOutcome]:
        recorded = self._journal.submit(record, partial(self._on_recorded, execution))
        exit_scope(execution)
        if self._observer is not None:
            self._observer.step_left(self.history.workflow_id, execution.step_id)
        return recorded

    def _is_run_error(self, execution: StepExecution, error: BaseException | None) -> bool:
        """Return whether an error is not the step's own: the run caused it, or a session was misused."""
        lifecycle = self._lifecycle
        return (
            lifecycle.state is RunState.ENDED
            or execution.interrupted
            or isinstance(error, SessionError)
            or lifecycle.is_stop_error(error)
        )

    async def transact(
        self, execution: StepExecution, body: Callable[[], Awaitable[Any]], encode: Callable[[Any], str]
    ) -> StoredOutcome:
        """Execute an attempt of a step in a transaction whose last statement records the outcome.

        Raises the error of `body`, or the error that prevented the record; the transaction is then rolled back.

        Args:
            execution: The execution of the step.
            body: Calls the function of the step.
            encode: Encodes the value of `body` as JSON text, which is recorded.

        Returns:
            The recorded outcome.
        """
        nested = any(each.session is not None for each in ancestors(execution.parent))
        async with self._store.sessions.steps.open(nested=nested) as own:
            await own.prepare(partial(self._store.marks.stopped, execution))
            execution.session = own.session
            try:
                value = await own.run(body)
            finally:
                execution.session = None
            self._check_counts(execution, execution)
            self._store.marks.ended(execution)
            record = execution.outcome(encode(value))
            try:
                if self._observer is not None:
                    await self._observer.writing([record])
                await own.commit_with(record, (*(execution.states or {}).values(),))
                if self._observer is not None:
                    await self._observer.written([record])
            except (WorkflowError, DatabaseUnavailableError) as refused:
                execution.run.on_write_refused(refused)
                self._check_counts(execution, execution)
                raise
            finally:
                if own.outcome is not None:
                    self._committed(execution, own.outcome)
                if own.cancels is not None:
                    execution.run.cancel(interrupt=own.cancels)
        if _ALWAYS_REPLAYS:
            self._lifecycle.replay_after(execution)
        return self.history.outcomes[execution.step_id]

    def _committed(self, execution: StepExecution, outcome: StoredOutcome) -> None:
        if self._interrupted:
            self._forget_interrupted(execution)
        self.history.outcomes[execution.step_id] = outcome
        if self._observer is not None:
            self._observe_outcome(execution.step_id, outcome)
        exit_scope(execution)
        self._complete(execution)

    async def write(self, execution: StepExecution, record: Record) -> Any:
        """Write a further record of an executing step, and return its result."""
        self._check_counts(execution, calling_scope(execution))
        self._store.marks.ended(execution)
        try:
            result = await self._journal.write(record)
        except PgqrsError as refused:
            execution.run.on_write_refused(refused)
            self._check_counts(execution, calling_scope(execution))
            raise
        if result is None and await self._hears_cancel():
            return await self.write(execution, record)
        return result

    async def _hears_cancel(self) -> bool:
        """Return whether to send a record of a shelter again, which a cancellation has kept out."""
        lifecycle = self._lifecycle
        # Not settled: a body that only replays goes on after the shelter, perhaps to sagas with steps to undo.
        if lifecycle.unwinding is None or not lifecycle.is_sheltered():
            return False
        return await lifecycle.unwinding.sagas.acknowledge()

    async def wait_until_answered(self, step_ids: Iterable[str]) -> None:
        """Wait until none of these steps executes, or has an outcome that the journal is still writing.

        The journal writes the outcome of a step to the end, even if the caller was cancelled meanwhile.
        """
        for step_id in step_ids:
            while (execution := self._executions.get(step_id)) is not None:
                await execution.wait_until_over()

    async def wait_until_idle(self) -> None:
        """Wait until no step executes."""
        await self.wait_until_answered(list(self._executions))

    async def wait_for_earlier_sends(self, execution: StepExecution) -> None:
        """Wait until the steps have ended that began before an execution and send messages, as it does."""
        # For the last one alone: it waits for the others itself, so each end wakes one waiter. One that was
        # abandoned has not waited to the end.
        own = self._last_send = _Send(execution, self._executing_send(self._last_send))
        while (earlier := self._executing_send(own.earlier)) is not None:
            own.earlier = earlier
            await earlier.execution.wait_until_over()
        own.earlier = None

    def _executing_send(self, send: _Send | None) -> _Send | None:
        """Return a send, or else the last one before it, that still executes."""
        while send is not None and self._executions.get(send.execution.step_id) is not send.execution:
            send = send.earlier
        return send

    async def take(self, execution: StepExecution, record: Record) -> StoredOutcome | None:
        """Write a record whose result is the outcome of a step; return None if the result is none.

        Raises the stop of the run if it has stopped meanwhile and the step has no outcome.
        """
        outcome = await self.write(execution, record)
        if not isinstance(outcome, StoredOutcome):
            self._lifecycle.raise_if_stopped()
            # A cancellation that the write has heard lets a run with sagas only replay: it writes no such record.
            self._lifecycle.raise_if_replaying()
            return None
        self._committed(execution, outcome)
        if _ALWAYS_REPLAYS:
            self._lifecycle.replay_after(execution)
        return outcome

    def _observe_outcome(self, step_id: str, outcome: StoredOutcome) -> None:
        if self._observer is not None:
            failed = outcome.error is not None
            self._observer.step_recorded(self.history.workflow_id, step_id, failed=failed)

    def _on_recorded(
        self, execution: StepExecution, verdict: StoredOutcome | Exception
    ) -> StoredOutcome | BaseException:
        """Handle the journal's answer to an outcome, and return the result for the waiter."""
        answer: StoredOutcome | BaseException = verdict
        if isinstance(verdict, Exception):
            execution.run.on_write_refused(verdict)
            if self._observer is not None:
                self._observer.step_abandoned(self.history.workflow_id, execution.step_id)
            if self._lifecycle.state is RunState.LOST:
                answer = self._lifecycle.stop_error_in(calling_scope(execution))
        else:
            self.history.outcomes[execution.step_id] = verdict
            if self._observer is not None:
                self._observe_outcome(execution.step_id, verdict)
        self._complete(execution)
        return answer


def _next(numbers: dict[str, int], kind: str) -> int:
    numbers[kind] = number = numbers.get(kind, 0) + 1
    return number


def log_unexpected(subject: str, error: Exception, codec: Codec, known: Mapping[str, object]) -> None:
    """Log an exception that kept `subject` from being recorded in full, with the end of its traceback.

    The record of the log has the entries of `known` as attributes.
    """
    place = "".join(traceback.format_tb(error.__traceback__, -3))
    shown = shown_error(error, is_sealed=is_sealing(codec))
    _logger.error("%s could not be recorded in full: %s\n%s", subject, shown, place, extra=known)
