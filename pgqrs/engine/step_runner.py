"""The steps of a run: those that are recorded, those that execute, and what becomes of an attempt."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from pgqrs.codecs.annotations import ReturnType
from pgqrs.codecs.base import Codec, codec_at, is_sealing, is_typed, open_error, seal_error
from pgqrs.codecs.failures import dump_error, is_terminal, load_error, plain_error, shown_error, steps_behind
from pgqrs.codecs.records import as_text, value_context
from pgqrs.engine.failure_trace import FailureTrace, RaisedBy
from pgqrs.engine.lifecycle import RunLifecycle, is_stop, raise_instead
from pgqrs.engine.scope import (
    Scope,
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
    StepMismatchError,
    WorkflowError,
)
from pgqrs.retry import RetryPolicy
from pgqrs.storage.journal.futures import WriteFuture
from pgqrs.storage.records import FailedAttempt, History, StepOutcome, StoredOutcome
from pgqrs.storage.store import Store
from pgqrs.validation import is_time

ALWAYS_REPLAY = "PGQRS_ALWAYS_REPLAY"
"""The environment variable that, as ``1``, has a body begin anew after each step it records: a test of replays."""

REPEATS_BEFORE_WARNING = 100
"""Number of times in one run that a step is answered from its record before a warning says so."""

MAX_NAMED_STEPS = 10
"""Maximum number of steps that a warning names."""

_ALWAYS_REPLAYS = os.environ.get(ALWAYS_REPLAY) == "1"

_logger = logging.getLogger("pgqrs")


class StepRunner:
    """The outcomes of a run, and the steps that it executes, in `executions`.

    `owner` stands for the context whose run it is. `strict` makes an error of an outcome that answers a call with
    other arguments. It does not hold the run, which holds it: each would end as a cycle.
    """

    __slots__ = (
        "_executions",
        "_failed",
        "_interrupted",
        "_journal",
        "_lifecycle",
        "_loaded",
        "_mismatched",
        "_name",
        "_numbers",
        "_outcomes",
        "_owner",
        "_repeats",
        "_store",
        "_submitted",
        "_trace",
        "asked",
        "codec",
        "is_plain",
        "strict",
        "workflow_id",
    )

    def __init__(
        self,
        owner: object,
        store: Store,
        codec: Codec,
        lifecycle: RunLifecycle,
        executions: dict[str, StepExecution],
        *,
        workflow_id: int,
        name: str,
        history: History,
    ) -> None:
        self.workflow_id = workflow_id
        self.codec = codec
        self.is_plain = not (is_typed(codec) or is_sealing(codec))
        """Whether the codec goes by no types and hides nothing."""
        self.strict = False
        self._owner = owner
        self._name = name
        self._store = store
        self._journal = store.journal
        self._lifecycle = lifecycle
        self._executions = executions
        self._outcomes = history.outcomes
        self._failed: dict[str, tuple[int, float]] = {}
        if history.failed:
            now = lifecycle.clock.time()
            self._failed = {step: (each.failures, now + each.wait) for step, each in history.failed.items()}
        self._trace = FailureTrace()
        self._interrupted: dict[str, Scope] = {}
        self._mismatched: set[str] = set()
        self._numbers: dict[str, int] = {}
        self._repeats: dict[str, int] = {}
        self._submitted: set[str] = set()
        self._loaded = tuple(history.outcomes)
        self.asked: dict[str, ReturnType | None] = {}
        """The steps that the run has come to, each with its function; None for one that is acquired by hand."""

    @property
    def outcomes(self) -> dict[str, StoredOutcome]:
        """What is recorded."""
        return self._outcomes

    def continue_from(self, earlier: StepRunner) -> None:
        """Take over what the same run knew of its steps beside their outcomes."""
        self._failed, self._mismatched = earlier._failed, earlier._mismatched
        self._trace.continue_from(earlier._trace)
        self._submitted = earlier._submitted

    # --- what is recorded ---

    async def acquire(
        self, scope: Scope, step_id: str, fingerprint: int | None = None
    ) -> StepExecution | StoredOutcome:
        """Return the step's recorded outcome, or the execution that is now the caller's to carry out.

        A step that another task is executing is waited for. `scope` is the place of the call in the run, and
        `fingerprint` that of its arguments. Raises `StepCycleError` where that could not end, and
        `StepMismatchError` in a strict workflow.
        """
        while True:
            found = self.try_acquire(scope, step_id, fingerprint)
            if found is not None:
                return found
            await self._wait(self._executions[step_id], scope)

    def try_acquire(
        self, scope: Scope, step_id: str, fingerprint: int | None
    ) -> StepExecution | StoredOutcome | None:
        """Return what `acquire` returns, at once, or None where another task executes the step."""
        self._lifecycle.raise_if_stopped()
        outcome = self._outcomes.get(step_id)
        if outcome is None:
            return None if step_id in self._executions else self._begin(step_id, scope, fingerprint)
        if self._lifecycle.is_watched:
            self._lifecycle.restart_idle_timer()
        if outcome.fingerprint != fingerprint:
            self._check_fingerprint(step_id, outcome.fingerprint, fingerprint)
        return outcome

    def codec_and_fingerprint(
        self, step_id: str, returns: ReturnType | None, fingerprint: int | None
    ) -> tuple[Codec, int | None]:
        """Return the codec for what a step returns, and the fingerprint of its call as it may be recorded.

        Of arguments that are few a fingerprint tells which they were: nothing that a sealing codec would show.
        """
        codec = self.codec if returns is None else returns.codec(self.codec)
        codec = codec_at(codec, "output", self.workflow_id, step_id)
        return codec, None if is_sealing(codec) else fingerprint

    def value_of(self, step_id: str, outcome: StoredOutcome, codec: Codec) -> Any:
        """Return the recorded value of a step, or raise its recorded error; `codec` is the one for the value."""
        if outcome.error is not None:
            raise self.replay_error(step_id, outcome.error)
        if outcome.output is None:
            return None
        try:
            return codec.decode(outcome.output)
        except SerializationError as error:
            raise error.of(workflow_id=self.workflow_id, step_id=step_id) from error

    def replay_error(self, step_id: str, error: str) -> Exception:
        """Return the recorded error as the exception to raise."""
        text = error
        if not self.is_plain:
            with value_context(self.workflow_id, step_id):
                text = open_error(self.codec, error, self.workflow_id, step_id)
        replay = load_error(text, workflow_id=self.workflow_id, step_id=step_id)
        scope = scope_of(self._owner)
        self._trace_error(replay, step_id, scope, transient=not is_terminal(replay))
        for nested in steps_behind(replay):
            self._trace_error(replay, nested, scope, transient=True, within=(step_id,))
        return replay

    def to_reopen(self, error: BaseException | None) -> tuple[str, ...]:
        """Return the steps that the next run is to execute again after `error` ended this one."""
        return self._trace.to_reopen(error)

    def _check_fingerprint(self, step_id: str, recorded: int | None, called: int | None) -> None:
        """Warn of a recorded outcome that answers a call with other arguments."""
        if recorded is None or called is None:
            return
        if self.strict:
            raise StepMismatchError(self.workflow_id, step_id)
        if step_id not in self._mismatched:
            self._mismatched.add(step_id)
            _logger.warning(
                "workflow %s (%r): the recorded outcome of step %r answers a call with other arguments than those "
                "that it is of. Give calls that differ ids that differ (`@step(key=...)`); "
                "`@workflow(strict=True)` makes this an error.",
                self.workflow_id,
                self._name,
                step_id,
            )

    def on_repeated_answer(self, step_id: str, returns: ReturnType | None) -> None:
        """Take note of a step that was come to before in this run: it warns of another function, and of a poll."""
        first = self.asked[step_id]
        if first is not None and returns is not None and not first.is_of(returns):
            self.asked[step_id] = None  # one warning
            _logger.warning(
                "workflow %s (%r): step %r of the function %s is answered by the outcome of %s. Give one of the "
                "two functions an id of its own: `@step(id=...)`.",
                self.workflow_id,
                self._name,
                step_id,
                returns,
                first,
            )
        self._repeats[step_id] = repeats = self._repeats.get(step_id, 1) + 1
        if repeats == REPEATS_BEFORE_WARNING:
            _logger.warning(
                "workflow %s (%r): step %r was answered from its record %d times in one run. A recorded outcome "
                "does not change: give calls that are to be executed keys that differ (`@step(key=...)`).",
                self.workflow_id,
                self._name,
                step_id,
                repeats,
            )

    def warn_of_submission(self, name: str) -> None:
        """Warn of a workflow that the run's body, and not a step, submits without a key; once for each name."""
        if name not in self._submitted:
            self._submitted.add(name)
            _logger.warning(
                "workflow %s (%r) submits %r in its body, without a key: each replay submits one more. Do it in a "
                "step, with a key: `admin.options(key=...)`.",
                self.workflow_id,
                self._name,
                name,
            )

    async def warn_of_unasked(self) -> None:
        """Warn, at the run's end, of steps recorded by earlier runs that the code did not come to in this one.

        A step that is answered from its record does not come to those within it: they completed while it executed,
        and are left out. So are times.
        """
        unasked = {each for each in self._loaded if each not in self.asked and not is_time(each)}
        if not unasked:
            return
        records = await self._store.steps(self.workflow_id, as_text)
        spans = [(each.started_at, each.completed_at) for each in records if each.step_id in self.asked]
        missed = [
            each.step_id
            for each in records
            if each.step_id in unasked
            and (at := each.completed_at) is not None
            and not any(end is not None and start <= at <= end for start, end in spans)
        ]
        if missed:
            _logger.warning(
                "workflow %s (%r) has ended, and did not come to %d steps that its earlier runs have recorded: "
                "%s%s. Steps that were renamed are executed again: see docs/changing-code.md.",
                self.workflow_id,
                self._name,
                len(missed),
                ", ".join(map(repr, missed[:MAX_NAMED_STEPS])),
                ", ..." if len(missed) > MAX_NAMED_STEPS else "",
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

    # --- what executes ---

    @property
    def busy_with(self) -> str | None:
        """The id of the step that began last, of those that execute; None between steps."""
        return next(reversed(self._executions), None)

    def next_id(self, scope: Scope, kind: str) -> str:
        """Return the id of the next call of a kind in a scope: numbered in the body, and in each step."""
        if not isinstance(scope, StepExecution):
            return f"{kind}:{_next(self._numbers, kind)}"
        # Those of a step are its own: a replay may skip it.
        if scope.numbers is None:
            scope.numbers = {}
        return f"{scope.step_id}/{kind}:{_next(scope.numbers, kind)}"

    def abandon(self, execution: StepExecution, *, interrupted: bool = False) -> None:
        """End an execution without an outcome, as a crash would; another caller may take it on.

        In a run that is cancelled or timed out nothing executes it again: the tables show that it began.
        """
        if interrupted:
            self._interrupted[execution.step_id] = execution.parent
        if self._lifecycle.is_final:
            self._store.marks.left(execution)
        else:
            self._store.marks.ended(execution)
        exit_scope(execution)
        self._settle(execution)

    def drop(self, execution: StepExecution) -> None:
        """Give a step up whose guard was collected unused: in any thread, and perhaps when the loop has ended."""
        with suppress(RuntimeError):  # the loop has ended
            self._lifecycle.loop.call_soon_threadsafe(self._dropped, execution)

    def _dropped(self, execution: StepExecution) -> None:
        if self._lifecycle.may_write and self._lifecycle.stop_reason is None:
            _logger.warning(
                "the guard of step %r of workflow %s was let go unused: the step has no outcome, and its next "
                "caller executes it. Call `success` or `fail` of what `acquire_step` returns as EXECUTE.",
                execution.step_id,
                self.workflow_id,
            )
        self.abandon(execution)

    def raise_outside(self, execution: StepExecution, stop: BaseException) -> None:
        """Raise the run's error in place of a `stop` that leaves a step which was called in no body and no step.

        A cancellation is a stop where the run made it, and nothing else cancelled the task.
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
        """Warn of the cancelled steps that have no outcome although the run goes on."""
        for step_id in self._interrupted:
            _logger.warning(
                "workflow %s goes on although its step %r was cancelled and has no outcome: a replay may go "
                "another way. Put the deadline inside the step, or let the cancellation end the run.",
                self.workflow_id,
                step_id,
            )
        self._interrupted.clear()

    def _begin(self, step_id: str, scope: Scope, fingerprint: int | None) -> StepExecution:
        self._trace.step_began()
        if self._interrupted:
            self._interrupted.pop(step_id, None)
            self.warn_of_interrupted()
        execution = self._executions[step_id] = StepExecution(
            scope.run, current_scope.get(), scope, step_id, fingerprint
        )
        execution.task = asyncio.current_task(self._lifecycle.loop)
        if self._failed and step_id in self._failed:
            execution.failures, execution.due = self._failed[step_id]
        self._store.marks.began(execution)
        if isinstance(scope, StepExecution):
            scope.wait_for(execution)
        current_scope.set(execution)
        return execution

    async def _wait(self, execution: StepExecution, scope: Scope) -> None:
        waiting = set(ancestors(scope))
        if would_deadlock(execution, waiting):
            raise StepCycleError(self.workflow_id, execution.step_id)
        for each in waiting:
            each.wait_for(execution)
        try:
            await execution.wait_settled()
        finally:
            for each in waiting:
                each.wait_no_longer(execution)

    def _settle(self, execution: StepExecution) -> None:
        if self._executions.get(execution.step_id) is execution:
            del self._executions[execution.step_id]
        if isinstance(execution.parent, StepExecution):
            execution.parent.wait_no_longer(execution)
        execution.settle()
        if self._lifecycle.is_watched:
            self._lifecycle.restart_idle_timer()

    def _forget_interrupted(self, execution: StepExecution) -> None:
        """Forget the cancelled steps within one that has an outcome: a replay does not come to them."""
        for step_id, parent in list(self._interrupted.items()):
            if execution in ancestors(parent):
                del self._interrupted[step_id]

    # --- what becomes of an attempt ---

    async def retry(self, execution: StepExecution, error: Exception, policy: RetryPolicy) -> bool:
        """Record a failed attempt of a step and wait until the next one, or tell that there is none."""
        # The recorded error of a step within would only be raised again.
        if self._is_run_error(execution, error) or self._trace.stems_from_step(error):
            return False
        try:
            delay = policy.delay(execution.failures + 1, error)
            text = "" if delay is None else self._sealed(execution, dump_error(error, terminal=False))
        except Exception as unexpected:  # noqa: BLE001  # the error's class, a codec or a policy may do anything
            log_unexpected(
                f"whether {self._description(execution.step_id)} is tried again", unexpected, self.codec
            )
            return False
        if delay is None:
            return False
        self._check_counts(execution, execution)
        execution.failures += 1
        execution.due = self._lifecycle.clock.time() + delay
        self._failed[execution.step_id] = execution.failures, execution.due
        self._store.marks.ended(execution)
        _logger.warning(
            "step %r of workflow %s (%r) failed in attempt %d and is tried again in %.3g s: %s",
            execution.step_id,
            self.workflow_id,
            self._name,
            execution.failures,
            delay,
            shown_error(error, is_sealed=is_sealing(self.codec)),
        )
        workflow_id, epoch, step_id, claim = execution.started
        elapsed, failures = execution.elapsed(), execution.failures
        failure = FailedAttempt(
            workflow_id, epoch, step_id, text, elapsed, execution.fingerprint, failures, delay, claim
        )
        try:
            await self._store.record_failure(failure)
        except PgqrsError as refused:
            execution.run.on_write_refused(refused)
            self._check_counts(execution, execution)
            raise
        await self.wait_for_retry(execution)
        return True

    async def wait_for_retry(self, execution: StepExecution) -> None:
        """Wait until the next attempt of a step is due."""
        execution.numbers = None
        if execution.failures:
            await self._lifecycle.wait_until(execution.due, resting=True)

    async def fail(self, execution: StepExecution, error: str | BaseException, *, terminal: bool) -> None:
        """Record the step's error, unless it is nobody's: the body has left, or the run was stopped in it.

        A stop that was told within the step is raised again, whatever error the step made of it.
        """
        # A text mostly stands for the exception that is being handled, and that is what may leave the body.
        raised = error if isinstance(error, BaseException) else sys.exception()
        if execution.interrupted:
            await self._refused(execution)
        if self._is_run_error(execution, raised):
            self.abandon(execution)
            return
        behind: tuple[str, ...] = ()
        try:
            behind = self._trace.steps_behind(raised, execution.step_id)
            if raised is not None:
                self._trace_error(raised, execution.step_id, execution.parent, transient=not terminal)
            if not terminal:
                self._trace.recorded(execution.step_id)
            text = self._sealed(execution, dump_error(error, terminal=terminal, steps=behind))
        except Exception as unexpected:  # noqa: BLE001  # the error's class or a codec may do anything
            log_unexpected(f"the error of {self._description(execution.step_id)}", unexpected, self.codec)
            text = self._plainly(execution, error, terminal=terminal, steps=behind)
        await self.record(execution, None, text)

    def _plainly(
        self, execution: StepExecution, error: str | BaseException, *, terminal: bool, steps: tuple[str, ...]
    ) -> str:
        """Return the plain record of a step's error; where there is none, the step has no outcome."""
        try:
            return self._sealed(execution, plain_error(error, terminal=terminal, steps=steps))
        except BaseException:
            self.abandon(execution)
            raise

    def _sealed(self, execution: StepExecution, text: str) -> str:
        return seal_error(self.codec, text, self.workflow_id, execution.step_id)

    def _description(self, step_id: str) -> str:
        return f"step {step_id!r} of workflow {self.workflow_id}"

    def record(
        self, execution: StepExecution, output: str | None, error: str | None = None
    ) -> Awaitable[StoredOutcome]:
        """Record the JSON text of the step's value, or of its error; awaited, it returns what is recorded."""
        if execution.interrupted or self._lifecycle.fatal_error is not None:
            return self._refused(execution)
        self._store.marks.ended(execution)
        record = execution.outcome(output, error)
        if self._interrupted:
            self._forget_interrupted(execution)
        if not (self._journal.is_full or _ALWAYS_REPLAYS):
            return self._send(execution, record)
        return self._send_patiently(execution, record)

    async def _refused(self, execution: StepExecution) -> StoredOutcome:
        """Give up a step within which the run stopped; raises the stop."""
        self.abandon(execution)
        self._lifecycle.stop_at(calling_scope(execution))

    async def _send_patiently(self, execution: StepExecution, record: StepOutcome) -> StoredOutcome:
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
        """Raise the stop that was told within a step, or that the run was lost; `place` is where it is raised."""
        if execution.interrupted or self._lifecycle.fatal_error is not None:
            self._lifecycle.stop_at(place)

    def _send(self, execution: StepExecution, record: StepOutcome) -> asyncio.Future[StoredOutcome]:
        recorded = WriteFuture(loop=self._lifecycle.loop)
        self._journal.submit(record, partial(self._on_recorded, execution, recorded))
        exit_scope(execution)
        return recorded

    def _is_run_error(self, execution: StepExecution, error: BaseException | None) -> bool:
        """Tell whether an error is no outcome of the step: the run made it, or a session was misused."""
        lifecycle = self._lifecycle
        return (
            lifecycle.ended is not None
            or execution.interrupted
            or isinstance(error, SessionError)
            or lifecycle.is_stop_error(error)
        )

    async def transact(
        self, execution: StepExecution, body: Callable[[], Awaitable[Any]], encode: Callable[[Any], str]
    ) -> None:
        """Carry out an attempt of a step in a transaction that its outcome is the last statement of.

        What `encode` makes of the value that `body` returns is recorded. Raises what `body` raises, and why
        nothing could be recorded; the writes are rolled back then.
        """
        nested = any(each.session is not None for each in ancestors(execution.parent))
        async with self._store.step_transaction(nested=nested) as own:
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
                await self._store.journal.intercepted(record, partial(own.commit_with, record))
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

    def _committed(self, execution: StepExecution, outcome: StoredOutcome) -> None:
        if self._interrupted:
            self._forget_interrupted(execution)
        self._outcomes[execution.step_id] = outcome
        exit_scope(execution)
        self._settle(execution)

    def _on_recorded(
        self, execution: StepExecution, waiter: WriteFuture, verdict: StoredOutcome | Exception
    ) -> None:
        """Take in what was recorded; also when the waiter was cancelled in the meantime."""
        told: StoredOutcome | BaseException = verdict
        if isinstance(verdict, Exception):
            execution.run.on_write_refused(verdict)
            if self._lifecycle.fatal_error is not None:
                told = self._lifecycle.stop_error_in(calling_scope(execution))
        else:
            self._outcomes[execution.step_id] = verdict
        self._settle(execution)
        self._journal.resolve(waiter, told)


def _next(numbers: dict[str, int], kind: str) -> int:
    numbers[kind] = number = numbers.get(kind, 0) + 1
    return number


def log_unexpected(settled: str, error: Exception, codec: Codec) -> None:
    """Log an exception that kept `settled` from being recorded in full, with its place."""
    place = "".join(traceback.format_tb(error.__traceback__, -3))
    shown = shown_error(error, is_sealed=is_sealing(codec))
    _logger.error("%s could not be recorded in full: %s\n%s", settled, shown, place)
