"""One run of a workflow, from its start to its end: what is recorded, what executes, and why it stops."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from enum import IntEnum
from functools import partial
from time import monotonic
from typing import Any, NamedTuple

from pgqrs.clock import Clock
from pgqrs.errors import (
    DatabaseError,
    DatabaseUnavailableError,
    PgqrsError,
    RunEndedError,
    SerializationError,
    StepCycleError,
    StepMismatchError,
    WorkflowCancelledError,
    WorkflowFinishedError,
    WorkflowTimeoutError,
)
from pgqrs.failures import dump_error, is_terminal, load_error
from pgqrs.retry import RetryPolicy
from pgqrs.serialization import Codec
from pgqrs.storage.journal import settle
from pgqrs.storage.store import Store
from pgqrs.trace import FailureTrace, RaisedBy, stems_from
from pgqrs.types import History, Outcome, RunEnd, RunLeave, StepFailure, StepOutcome, StepStarted, WorkflowStatus

SHORT = 1.0
"""The longest time, in seconds, that is waited for in place where the run could park."""

QUIET = 0.2
"""How long, in seconds, nothing executes before a run parks whose body is not itself what waits."""

UNWINDING = 1.0
"""How long, in seconds, a body has to leave after its run stopped, before its task is interrupted."""

ALWAYS_REPLAY = "PGQRS_ALWAYS_REPLAY"
"""The environment variable that, as ``1``, has a body begin anew after each step it records: a test of replays."""

HEAD_START = 10.0
"""How long, in seconds, a workflow that is retried in place is left alone by workers after it is due."""

LAST_MOMENT = 5.0
"""How long, in seconds, a run that is handed back waits for its interrupted body."""

_logger = logging.getLogger("pgqrs")


class Parked(BaseException):
    """The run was left for a later claim: its workflow sleeps, or another worker is to carry it on.

    It is no `Exception`, so ``except Exception`` does not catch it; every later call on the context raises it.
    """


class Stop(IntEnum):
    """Why a run begins no further step, the weightier reasons last."""

    REPLAY = 1
    PARKED = 2
    HANDED_BACK = 3
    TIMED_OUT = 4
    CANCELLED = 5


class RunOptions(NamedTuple):
    """How a workflow is run: see `pgqrs.workflow`. `timeout` is in seconds."""

    retry: RetryPolicy | None = None
    timeout: float | None = None
    strict: bool = False


class Scope:
    """A place where a task can be: in a run's body, which is the `Run`, or in the execution of one of its steps.

    `outer` is the scope that the task was in before, of whatever workflow.
    """

    __slots__ = ("outer",)

    def __init__(self, outer: Scope | None = None) -> None:
        self.outer = outer

    @property
    def run(self) -> Run:
        """The run that the place is in."""
        raise NotImplementedError


class Execution(Scope):
    """A step that is being executed; `parent` is the place in the same run that it was called from.

    `failures` counts its failed attempts, those of earlier runs too, and `due` is when the next one is, by the
    event loop's clock. `interrupted` tells that the run ended it, so that an error of it is none of its own.
    """

    __slots__ = (
        "_run",
        "_settled",
        "_waits_for",
        "began",
        "due",
        "failures",
        "fingerprint",
        "interrupted",
        "over",
        "parent",
        "started",
        "step_id",
        "task",
    )

    def __init__(
        self, run: Run, outer: Scope | None, parent: Scope, step_id: str, fingerprint: int | None
    ) -> None:
        super().__init__(outer)
        self._run = run
        self.fingerprint = fingerprint
        self.failures = 0
        self.due = 0.0
        self.interrupted = False
        self.task = asyncio.current_task()
        self.parent = parent
        self.step_id = step_id
        self.started = StepStarted(run.workflow_id, run.epoch, step_id)
        self.over = False
        self._waits_for: set[Execution] | None = None  # made when there is one: few steps wait for another
        self.began = monotonic()
        self._settled: asyncio.Future[None] | None = None

    @property
    def run(self) -> Run:
        """The run that the step belongs to."""
        return self._run

    @property
    def waits_for(self) -> Collection[Execution]:
        """The executions that must settle before this one can."""
        return self._waits_for or ()

    def wait_for(self, other: Execution) -> None:
        """Note that this execution cannot settle before the other."""
        if self._waits_for is None:
            self._waits_for = set()
        self._waits_for.add(other)

    def wait_no_longer(self, other: Execution) -> None:
        """Note that it does not depend on the other any more."""
        if self._waits_for:
            self._waits_for.discard(other)

    def elapsed(self) -> float:
        """Return how long the step has been executing, in seconds."""
        return monotonic() - self.began

    async def settled(self) -> None:
        """Wait until the step has an outcome or was given up: then look again."""
        if self._settled is None:
            self._settled = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._settled)

    def settle(self) -> None:
        """Tell those who wait to look again."""
        self.over = True
        self.task = None
        if self._settled is not None and not self._settled.done():
            self._settled.set_result(None)


_here: ContextVar[Scope | None] = ContextVar("pgqrs_scope", default=None)


def scope_of(owner: object) -> Scope | None:
    """Return where in a run of `owner`, which stands for a context, the calling task is, if it is in one."""
    scope = _here.get()
    while scope is not None and scope.run.owner is not owner:
        scope = scope.outer
    return None if scope is None else _still_going(scope)


def _still_going(scope: Scope) -> Scope:
    while isinstance(scope, Execution) and scope.over:
        scope = scope.parent
    return scope


def _enclosing(scope: Scope) -> Iterator[Execution]:
    """Yield the executions that a scope is in, innermost first."""
    while isinstance(scope, Execution):
        yield scope
        scope = scope.parent


def _waits_for_any(execution: Execution, blocked: set[Execution]) -> bool:
    seen: set[Execution] = set()
    pending = [execution]
    while pending:
        each = pending.pop()
        if each in blocked:
            return True
        if each not in seen:
            seen.add(each)
            pending.extend(each.waits_for)
    return False


class Run(Scope):
    """One start of a workflow: its epoch, its outcomes, and whether it may still write.

    `owner` stands for the context whose run it is. `can_park` tells that a worker claimed it, which will claim it
    again when its time has come. `over` is why no further step
    may begin: the run has ended. `lost` is why nothing more can be written: it was fenced, or the database stayed
    away; every later call raises it, so an ``except Exception`` of the workflow's cannot carry a lost run on. Why
    it is to stop, every later call raises too; when the body has left, the run is left as its `Stop` says.
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
        history: History,
        can_park: bool = False,
    ) -> None:
        super().__init__()
        self.owner = owner
        self.workflow_id = workflow_id
        self.name = name
        self.epoch = epoch
        self.codec = codec
        self.can_park = can_park
        self.over: PgqrsError | None = None
        self.lost: PgqrsError | None = None
        self.in_body = False
        self._store = store
        self._clock: Clock = store
        self._loop = asyncio.get_running_loop()
        self._outcomes = history.outcomes
        self._retries = history.retries
        self._failed: dict[str, tuple[int, float]] = {}
        if history.failed:
            now = self._loop.time()
            self._failed = {step: (each.failures, now + each.wait) for step, each in history.failed.items()}
        self._deadline = None if history.left is None else self._loop.time() + history.left
        self._options = RunOptions()
        self._executions: dict[str, Execution] = {}
        self._trace = FailureTrace()
        self._interrupted: dict[str, Scope] = {}
        self._mismatched: set[str] = set()
        self._numbers: dict[str, int] = {}
        self._stop: Stop | None = None
        self._told = False
        self._due = 0.0
        self._body: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self._interrupts = 0
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._waiting: dict[asyncio.Future[None], float] = {}
        self._resting = 0
        self._left: asyncio.Future[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._always_replays = os.environ.get(ALWAYS_REPLAY) == "1"
        self.successor: Run | None = None
        """The same run with its body to begin anew; see `ALWAYS_REPLAY`."""
        store.runs[workflow_id] = self

    @property
    def run(self) -> Run:
        """The run itself: its body is the outermost place in it."""
        return self

    @property
    def live(self) -> bool:
        """Whether the run has neither ended nor been lost nor stopped."""
        return self.over is None and self.lost is None and self._stop is None

    @property
    def busy_with(self) -> str | None:
        """The id of the step that began last, of those that execute; None between steps."""
        return next(reversed(self._executions), None)

    def check(self) -> None:
        """Raise why the run may not go on, if it may not."""
        if self.over is None and self.lost is None and self._stop is None:
            return
        if self._stop is not None and self.lost is None:
            self._told = True
            raise self._stopped()
        self._check_open()

    def _check_open(self) -> None:
        self._check_not_lost()
        if self.over is not None:
            raise self.over

    def _check_not_lost(self) -> None:
        if self.lost is not None:
            raise self.lost

    # --- the body ---

    @contextmanager
    def inside(self, options: RunOptions) -> Generator[None]:
        """Make the calling task one of this run's, and so the tasks that it starts; it carries out the body."""
        before = self.outer = _here.get()
        _here.set(self)
        self.in_body = True
        self._enter_body(options)
        try:
            yield
        finally:
            self._leave_body()
            self.in_body = False
            _here.set(before)
            if self._left is not None and not self._left.done():
                self._left.set_result(None)

    def _enter_body(self, options: RunOptions) -> None:
        self._options = options
        self._body = asyncio.current_task()
        self._cancelling = 0 if self._body is None else self._body.cancelling()
        if self._deadline is None and options.timeout is not None:  # a run that was started by hand
            self._deadline = self._loop.time() + options.timeout
        if self._deadline is None:
            return
        if self._deadline <= self._loop.time():
            self._stop_for(Stop.TIMED_OUT)
        else:
            self._timers["deadline"] = self._loop.call_at(self._deadline, self._time_out)

    def _leave_body(self) -> None:
        """Take what interrupts the body away; what the task does from here on is ours."""
        task, self._body = self._body, None
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for _ in range(self._interrupts):
            if task is not None:
                task.uncancel()
        self._interrupts = 0

    def _is_cancelled_from_outside(self, task: asyncio.Task[Any] | None) -> bool:
        return task is not None and task.cancelling() > self._cancelling

    async def returned(self, value: object) -> object:
        """Settle the run whose body returned `value`, and return that as it is stored.

        Raises `Parked`, `WorkflowCancelledError` or `WorkflowTimeoutError` where the run was stopped.
        """
        self._leave_body()
        if self._stop_counts():
            await self._conclude()
            raise self._stopped()
        return await self.succeed(value)

    async def raised(self, error: BaseException) -> float | None:
        """Settle the run whose body raised `error`.

        Returns the delay, in seconds, after which the body is to be run again, None where the error is to be
        raised. Raises what a stop makes of the run instead.
        """
        task = self._body
        self._leave_body()
        crashed = isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit))
        if isinstance(error, asyncio.CancelledError) and self._is_cancelled_from_outside(task):
            crashed = True
        if self._stop_counts() and not crashed:
            await self._conclude()
            if self.successor is not None:
                return 0.0
            raise self._stopped()
        if crashed or not isinstance(error, Exception):
            self.crash()
        elif self.over is None and error is not self.lost:
            return await self._failed_with(error)
        return None

    async def _failed_with(self, error: Exception) -> float | None:
        """End the run with the error, or leave it to be tried again."""
        self._check_open()
        policy = self._options.retry
        delay = None if policy is None or is_terminal(error) else policy.delay(self._retries + 1, error)
        if delay is None:
            await self.fail(error)
            return None
        text = dump_error(error, terminal=False)
        # One that waits in place has the first right to go on; a worker does if its process dies meanwhile.
        wait = delay if self.can_park else delay + HEAD_START
        await self._leave(
            WorkflowStatus.WAITING, wait, text, retries=self._retries + 1, reopen=self._trace.to_reopen(error)
        )
        if self.can_park:
            self._stop = Stop.PARKED
            raise Parked
        return delay if self._deadline is None else min(delay, max(0.0, self._deadline - self._loop.time()))

    # --- stopping ---

    def cancel(self, *, interrupt: bool) -> None:
        """End the run as cancelled, after the steps that execute, or interrupting them and the body."""
        self._stop_for(Stop.CANCELLED)
        if interrupt:
            self._interrupt()
        if not self.in_body and self.over is None and self.lost is None:
            # Nobody carries a body out who would leave the run.
            self._leaving = self._loop.create_task(self._leave_cancelled(), name="pgqrs-cancel")

    async def _leave_cancelled(self) -> None:
        try:
            await self._leave(WorkflowStatus.CANCELLED)
        except PgqrsError as error:
            _logger.warning("workflow %s could not be left as cancelled: %s", self.workflow_id, error)

    async def hand_back(self, grace: float) -> None:
        """Leave the run for another worker, after `grace` seconds at most for the steps that execute.

        A body that ends within that time ends as ever.
        """
        self._stop_for(Stop.HANDED_BACK)
        if self.in_body and asyncio.current_task() is not self._body:
            if self._left is None:
                self._left = self._loop.create_future()
            quickly = self._is_quiet()
            await asyncio.wait([self._left], timeout=min(grace, QUIET) if quickly else grace)
            if not self._left.done():
                self._interrupt()
                await asyncio.wait([self._left], timeout=LAST_MOMENT)
        if self.over is None and self.lost is None:
            await self._leave(WorkflowStatus.PENDING)

    def _time_out(self) -> None:
        self._stop_for(Stop.TIMED_OUT)
        self._interrupt()

    def _stop_for(self, stop: Stop) -> None:
        """Let no further step begin, and end the waits at once."""
        if self.over is None and self.lost is None and (self._stop is None or self._stop < stop):
            self._stop = stop
            self._wake()

    def _stopped(self) -> BaseException:
        """Return what the calls of a stopped run raise; an exception of their own each, for tracebacks add up."""
        match self._stop:
            case Stop.CANCELLED:
                return WorkflowCancelledError(self.workflow_id)
            case Stop.TIMED_OUT:
                return WorkflowTimeoutError(self.workflow_id, self._options.timeout)
            case _:
                _keep_quiet(asyncio.current_task(), self._body)
                return Parked()

    def _stop_counts(self) -> bool:
        """Tell whether a stop decides how the run ends: handed back, a body may not have heard of it."""
        return self._stop is not None and self.lost is None and (self._told or self._stop > Stop.HANDED_BACK)

    def _comes_of_stop(self, error: BaseException | None) -> bool:
        """Tell whether an error of a step is only what told it that the run stops."""
        if self._stop is None or error is None:
            return False
        return any(
            isinstance(each, Parked)
            or (
                isinstance(each, (WorkflowCancelledError, WorkflowTimeoutError))
                and each.workflow_id == self.workflow_id
            )
            for each in stems_from(error)
        )

    async def _conclude(self) -> None:
        """Leave the run as its stop says, unless that is done."""
        if self.over is not None:
            return
        match self._stop:
            case Stop.TIMED_OUT:
                timed_out = dump_error(self._stopped(), terminal=True)
                await self._end(WorkflowStatus.ERROR, error=timed_out)
            case Stop.CANCELLED:
                await self._leave(WorkflowStatus.CANCELLED)
            case Stop.PARKED:
                await self._leave(WorkflowStatus.WAITING, max(0.0, self._due - self._loop.time()))
            case Stop.REPLAY:
                self.successor = self._anew()
            case _:
                await self._leave(WorkflowStatus.PENDING)

    def _anew(self) -> Run:
        """Return the same run with what it has recorded; tasks left over from this one stay out of it."""
        self._close(RunEndedError(self.workflow_id))
        anew = Run(
            self.owner,
            self._store,
            self.codec,
            workflow_id=self.workflow_id,
            name=self.name,
            epoch=self.epoch,
            history=History(self._outcomes, {}, None, self._retries),
            can_park=self.can_park,
        )
        anew._failed, anew._deadline, anew._mismatched = self._failed, self._deadline, self._mismatched
        return anew

    def _replay_after(self, execution: Execution) -> None:
        """Have the body begin anew, where the step is one of its own and nothing else executes."""
        if self._body is not None and execution.parent is self and self._is_quiet():
            self._unwind_for(Stop.REPLAY)
            self.check()

    def _interrupt(self) -> None:
        """Cancel the tasks that execute steps, and the body's."""
        self._told = True
        tasks = {execution.task for execution in self._executions.values()} - {None, self._body}
        for execution in self._executions.values():
            execution.interrupted = True
        for task in tasks:
            if task is not None:
                task.cancel()
        if self._body is not None and self._body is not asyncio.current_task():
            self._interrupts += 1
            self._body.cancel()

    # --- waiting and parking ---

    async def pause(self, due: float, execution: Execution | None = None) -> None:
        """Wait until `due` by the event loop's clock, in place or parked; `execution` is a step that rests.

        Raises what stops the run, as soon as it stops.
        """
        self.check()
        if due <= self._loop.time():
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        timer = self._loop.call_at(due, settle, waiter, None)
        self._waiting[waiter] = due
        if execution is not None:
            self._resting += 1
        try:
            await self._park_at_once()
            self._watch()
            await waiter
        finally:
            timer.cancel()
            del self._waiting[waiter]
            if execution is not None:
                self._resting -= 1
            self._watch()
        self.check()

    def _wake(self) -> None:
        for waiter in self._waiting:
            settle(waiter, None)

    def _is_quiet(self) -> bool:
        """Tell whether no step executes: those that rest until their next attempt do not."""
        return len(self._executions) == self._resting

    def _may_park(self) -> bool:
        return self.can_park and self._stop is None and self._body is not None and self._is_quiet()

    async def _park_at_once(self) -> None:
        if self._may_park() and asyncio.current_task() is self._body:
            await asyncio.sleep(0)  # tasks that the body has just made begin their steps
            if self._may_park():
                self._park()

    def _watch(self) -> None:
        """Begin to count anew how long nothing executes, if something waits."""
        if timer := self._timers.pop("quiet", None):
            timer.cancel()
        if self._waiting and self._may_park():
            self._timers["quiet"] = self._loop.call_later(QUIET, self._park_if_quiet)

    def _park_if_quiet(self) -> None:
        if self._waiting and self._may_park():
            self._park()

    def _park(self) -> None:
        self._due = min(self._waiting.values())
        if self._due - self._loop.time() > SHORT:
            self._unwind_for(Stop.PARKED)

    def _unwind_for(self, stop: Stop) -> None:
        """Have the body leave; one that waits for something else than its tasks would otherwise never do so."""
        self._stop_for(stop)
        self._timers["unwinding"] = self._loop.call_later(UNWINDING, self._interrupt)

    # --- time ---

    async def now(self, step_id: str | None) -> datetime:
        """Return the time at which the run first asked for it at this place; `step_id` names the place."""
        return await self._recorded_time(step_id or self._numbered("now"), None, lambda now: now)

    async def sleep(
        self, step_id: str | None, fingerprint: int | None, wake_up: Callable[[datetime], datetime]
    ) -> None:
        """Wait until the time that `wake_up` makes of the current one, when the run first gets here."""
        due = await self._recorded_time(step_id or self._numbered("sleep"), fingerprint, wake_up)
        left = (due - await self._clock.now()).total_seconds()
        await self.pause(self._loop.time() + left)

    async def _recorded_time(
        self, step_id: str, fingerprint: int | None, time: Callable[[datetime], datetime]
    ) -> datetime:
        found = await self.acquire(step_id, fingerprint)
        if isinstance(found, Execution):
            try:
                encoded = self.codec.encode(time(await self._clock.now()).isoformat())
            except BaseException:
                self.give_up(found)
                raise
            found = await self.record(found, encoded.text)
        try:
            return datetime.fromisoformat(self.answer(step_id, found))
        except (ValueError, TypeError) as error:
            raise StepMismatchError(self.workflow_id, step_id) from error

    def _numbered(self, kind: str) -> str:
        """Return the id of the next call of a kind here: numbered in the body, and in each step."""
        prefix = _prefix_of(scope_of(self.owner) or self) + kind
        number = self._numbers[prefix] = self._numbers.get(prefix, 0) + 1
        return f"{prefix}:{number}"

    def _number_anew(self, execution: Execution) -> None:
        prefix = _prefix_of(execution)
        for each in [each for each in self._numbers if each.startswith(prefix)]:
            del self._numbers[each]

    # --- steps ---

    async def acquire(self, step_id: str, fingerprint: int | None = None) -> Execution | Outcome:
        """Return the step's recorded outcome, or the execution that is now the caller's to carry out.

        A step that another task is executing is waited for. `fingerprint` is that of the arguments of the call.
        Raises `StepCycleError` where that could not end, and `StepMismatchError` in a strict workflow.
        """
        scope = scope_of(self.owner) or self
        while True:
            self.check()
            outcome = self._outcomes.get(step_id)
            if outcome is not None:
                if outcome.fingerprint != fingerprint:
                    self._compare(step_id, outcome.fingerprint, fingerprint)
                return outcome
            execution = self._executions.get(step_id)
            if execution is None:
                return self._begin(step_id, scope, fingerprint)
            await self._wait(execution, scope)

    def _compare(self, step_id: str, recorded: int | None, called: int | None) -> None:
        """Warn of a recorded outcome that answers a call with other arguments."""
        if recorded is None or called is None:
            return
        if self._options.strict:
            raise StepMismatchError(self.workflow_id, step_id)
        if step_id not in self._mismatched:
            self._mismatched.add(step_id)
            _logger.warning(
                "workflow %s (%s): the recorded outcome of step %r answers a call with other arguments than those "
                "that it is of. Give calls that differ ids that differ (`@step(key=...)`); "
                "`@workflow(strict=True)` makes this an error.",
                self.workflow_id,
                self.name,
                step_id,
            )

    def _begin(self, step_id: str, scope: Scope, fingerprint: int | None) -> Execution:
        self._trace.step_began()
        if self._interrupted:
            self._interrupted.pop(step_id, None)
            self._warn_of_interrupted()
        execution = self._executions[step_id] = Execution(self, _here.get(), scope, step_id, fingerprint)
        if self._failed and step_id in self._failed:
            execution.failures, execution.due = self._failed[step_id]
        if self._numbers:
            self._number_anew(execution)
        self._store.marks.began(execution.started)
        if isinstance(scope, Execution):
            scope.wait_for(execution)
        _here.set(execution)
        return execution

    async def _wait(self, execution: Execution, scope: Scope) -> None:
        waiting = set(_enclosing(scope))
        if _waits_for_any(execution, waiting):
            raise StepCycleError(self.workflow_id, execution.step_id)
        for each in waiting:
            each.wait_for(execution)
        try:
            await execution.settled()
        finally:
            for each in waiting:
                each.wait_no_longer(execution)

    def answer(self, step_id: str, outcome: Outcome) -> Any:
        """Return the recorded value of a step, or raise its recorded error."""
        if outcome.error is not None:
            raise self.replayed(step_id, outcome.error)
        return None if outcome.output is None else self.codec.decode(outcome.output)

    def replayed(self, step_id: str, error: str) -> Exception:
        """Return the recorded error as the exception to raise."""
        replay = load_error(error, workflow_id=self.workflow_id, step_id=step_id)
        self._note(replay, step_id, scope_of(self.owner) or self, transient=not is_terminal(replay))
        return replay

    def _note(self, error: BaseException, step_id: str, scope: Scope, *, transient: bool) -> None:
        within = tuple(each.step_id for each in _enclosing(scope))
        self._trace.note(error, RaisedBy(step_id, transient, within))

    async def try_again(self, execution: Execution, error: Exception, policy: RetryPolicy) -> bool:
        """Record a failed attempt of a step and wait until the next one, or tell that there is none."""
        futile = self.over is not None or execution.interrupted or self._comes_of_stop(error)
        # The recorded error of a step within would only be raised again.
        if futile or self._trace.stems_from_step(error):
            return False
        delay = policy.delay(execution.failures + 1, error)
        if delay is None:
            return False
        self._check_not_lost()
        execution.failures += 1
        execution.due = self._loop.time() + delay
        self._failed[execution.step_id] = execution.failures, execution.due
        self._store.marks.ended(execution.started)
        text = dump_error(error, terminal=False)
        failure = StepFailure(
            *execution.started, text, execution.elapsed(), execution.fingerprint, execution.failures, delay
        )
        try:
            await self._store.record_failure(failure)
        except PgqrsError as refused:
            self._lose(refused)
            raise
        await self.rest(execution)
        return True

    async def rest(self, execution: Execution) -> None:
        """Wait until the next attempt of a step is due."""
        if self._numbers:
            self._number_anew(execution)
        if execution.failures:
            await self.pause(execution.due, execution)

    async def fail_step(self, execution: Execution, error: str | BaseException, *, terminal: bool) -> None:
        """Record the step's error, unless it is nobody's: the body has left, or the run was stopped in it."""
        # A text mostly stands for the exception that is being handled, and that is what may leave the body.
        raised = error if isinstance(error, BaseException) else sys.exception()
        if self.over is not None or execution.interrupted or self._comes_of_stop(raised):
            self.give_up(execution)
            return
        if raised is not None:
            self._note(raised, execution.step_id, execution.parent, transient=not terminal)
        if not terminal:
            self._trace.recorded(execution.step_id)
        await self.record(execution, None, dump_error(error, terminal=terminal))

    async def record(self, execution: Execution, output: str | None, error: str | None = None) -> Outcome:
        """Record the JSON text of the step's value, or of its error, and return what is recorded."""
        self._store.marks.ended(execution.started)
        record = StepOutcome(*execution.started, output, error, execution.elapsed(), execution.fingerprint)
        if self._interrupted:
            self._forget_interrupted(execution)
        try:
            self._check_not_lost()
            if self._store.is_full:
                await self._store.room()
        except BaseException:
            self.give_up(execution)
            raise
        recorded: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._store.record(record, partial(self._take_in, execution, recorded))
        self._step_out(execution)
        outcome = await recorded
        if self._always_replays:
            self._replay_after(execution)
        return outcome

    def _take_in(
        self, execution: Execution, waiter: asyncio.Future[Outcome], verdict: Outcome | Exception
    ) -> None:
        """Take in what was recorded; also when the waiter was cancelled in the meantime."""
        if isinstance(verdict, Exception):
            self._lose(verdict)
        else:
            self._outcomes[execution.step_id] = verdict
        self._settle(execution)
        settle(waiter, verdict)

    def _lose(self, error: BaseException) -> None:
        # A refused row concerns its own step alone; whatever else stopped a write stops the run.
        row_refused = isinstance(error, DatabaseError) and not isinstance(error, DatabaseUnavailableError)
        if isinstance(error, PgqrsError) and not row_refused and self.lost is None:
            self.lost = error
            self._unregister()
            self._wake()

    def _unregister(self) -> None:
        if self._store.runs.get(self.workflow_id) is self:
            del self._store.runs[self.workflow_id]

    def give_up(self, execution: Execution, *, interrupted: bool = False) -> None:
        """End an execution without an outcome, as a crash would; another caller may take it on."""
        if interrupted:
            self._interrupted[execution.step_id] = execution.parent
        self._store.marks.ended(execution.started)
        self._step_out(execution)
        self._settle(execution)

    def _step_out(self, execution: Execution) -> None:
        """Take the calling task out of the execution's scope."""
        scope = _here.get()
        if scope is execution:
            execution.over = True
            while isinstance(scope, Execution) and scope.over:
                scope = scope.outer
            _here.set(scope)

    def _settle(self, execution: Execution) -> None:
        if self._executions.get(execution.step_id) is execution:
            del self._executions[execution.step_id]
        if isinstance(execution.parent, Execution):
            execution.parent.wait_no_longer(execution)
        execution.settle()
        if self._waiting:
            self._watch()

    def _forget_interrupted(self, execution: Execution) -> None:
        """Forget the cancelled steps within one that has an outcome: a replay does not come to them."""
        for step_id, parent in list(self._interrupted.items()):
            if execution in _enclosing(parent):
                del self._interrupted[step_id]

    def _warn_of_interrupted(self) -> None:
        for step_id in self._interrupted:
            _logger.warning(
                "workflow %s goes on although its step %r was cancelled and has no outcome: a replay may go "
                "another way. Put the deadline inside the step, or let the cancellation end the run.",
                self.workflow_id,
                step_id,
            )
        self._interrupted.clear()

    async def succeed(self, value: object) -> object:
        """End the run with a value and return it as it is stored; a value that cannot be stored is its error."""
        self._check_open()
        self._warn_of_interrupted()
        try:
            encoded = self.codec.encode(value)
        except SerializationError as error:
            refused = error.of(workflow_id=self.workflow_id)
            await self.fail(refused)
            raise refused from error
        await self._end(WorkflowStatus.SUCCESS, output=encoded.text)
        return encoded.value

    async def fail(self, error: str | BaseException) -> None:
        """End the run with an error."""
        self._check_open()
        exception = error if isinstance(error, BaseException) else None
        terminal = exception is None or is_terminal(exception)
        reopen = self._trace.to_reopen(exception)
        await self._end(WorkflowStatus.ERROR, error=dump_error(error, terminal=terminal), reopen=reopen)

    async def _end(
        self,
        status: WorkflowStatus,
        *,
        output: str | None = None,
        error: str | None = None,
        reopen: tuple[str, ...] = (),
    ) -> None:
        self._close(WorkflowFinishedError(self.workflow_id, status))
        try:
            await self._store.end(RunEnd(self.workflow_id, self.epoch, output, error, reopen))
        except PgqrsError as lost:
            self._lose(lost)
            raise

    async def _leave(
        self,
        status: WorkflowStatus,
        wait: float | None = None,
        error: str | None = None,
        *,
        retries: int | None = None,
        reopen: tuple[str, ...] = (),
    ) -> None:
        self._close(RunEndedError(self.workflow_id))
        try:
            await self._store.leave(RunLeave(self.workflow_id, self.epoch, status, wait, error, retries, reopen))
        except PgqrsError as lost:
            self._lose(lost)
            raise

    def _close(self, over: PgqrsError) -> None:
        self.over = over
        self._unregister()

    def crash(self) -> None:
        """Leave the run without an end: nothing is recorded of it, and the next start goes on from its steps."""
        if self.over is None:
            self._close(RunEndedError(self.workflow_id))
            if self.lost is None:
                self._store.abandon(self.workflow_id, self.epoch)


def _prefix_of(scope: Scope) -> str:
    """Return what the ids of sleeps begin with, so that those of a step are its own: a replay may skip it."""
    return f"{scope.step_id}/" if isinstance(scope, Execution) else ""


def _keep_quiet(task: asyncio.Task[Any] | None, body: asyncio.Task[Any] | None) -> None:
    """Keep asyncio from complaining of a task that parks and that nobody awaits any more."""
    if task is not None and task is not body:
        task.add_done_callback(_look_at)


def _look_at(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
