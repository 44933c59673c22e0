"""Stops runs: by a cancellation, a timeout or a requeue, and by parking runs that only wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, NoReturn, cast

from pgqrs.clock import Clock, Timer
from pgqrs.engine.failure_trace import stems_from
from pgqrs.engine.scope import Scope, StepExecution, ancestors, scope_of
from pgqrs.errors import PgqrsError, WorkflowCancelledError, WorkflowTimeoutError
from pgqrs.storage.journal.futures import resolve

MIN_PARK = 1.0
"""Minimum seconds of a wait for which a run parks; shorter waits stay in memory."""

IDLE_BEFORE_PARK = 0.2
"""Seconds without an executing step before a run parks whose body is not the waiting task itself."""

UNWIND_GRACE = 1.0
"""Seconds for a body to end after its run stopped, before its task is interrupted.

In a cancelled run, time during which a step executes does not count.
"""

INTERRUPT_GRACE = 5.0
"""Maximum seconds that a requeue waits for the body after it has interrupted the body."""


class RunStopped(BaseException):
    """The run has stopped: calls on the context raise this within the workflow's function and its steps.

    It is a `BaseException`, not an `Exception`, so an ``except Exception`` in a workflow or a step does not treat
    a stop as a failure. Every later call on the context raises it again, and nothing that the code computes
    afterwards is recorded. The caller of the workflow's function gets `error` instead.

    Attributes:
        error: The error for the caller of the workflow, also the `__cause__`. None if the run was released for a
            later claim.

    """

    def __init__(self, error: PgqrsError | None = None) -> None:
        super().__init__(*([] if error is None else [str(error)]))
        self.error = error
        self.__cause__ = error


class Parked(RunStopped):
    """The run was released for a later claim: its workflow waits, or another worker will resume it."""


class StopReason(IntEnum):
    """The reason why a run begins no further step; a greater reason overrides a lesser reason."""

    REPLAY = 1
    PARKED = 2
    HANDED_BACK = 3
    TIMED_OUT = 4
    CANCELLED = 5


class RunLifecycle:
    """The state of a run, the task of its body, and the waits in it.

    A run can begin steps until it ends (`ended`), is lost (`fatal_error`) or is stopped (`stop_reason`). In each
    of these states every call on the context raises: a `RunStopped` within the run, the error itself elsewhere.

    Args:
        owner: The object that identifies the context of the run.
        workflow_id: The id of the workflow.
        executions: The executing steps of the run by their ids, kept by its `StepRunner`.
        deadline: The deadline of the workflow by `clock`; None for no deadline.
        clock: The clock of the deadline and the waits.
        can_park: True if a worker claimed the run; a worker will then claim it again when its wait is over.
    """

    __slots__ = (
        "_body",
        "_cancel_interrupts",
        "_cancelled",
        "_cancelling",
        "_due",
        "_executions",
        "_interrupts",
        "_left",
        "_limit",
        "_owner",
        "_resting",
        "_timers",
        "_told",
        "_workflow_id",
        "can_park",
        "clock",
        "deadline",
        "ended",
        "fatal_error",
        "is_watched",
        "loop",
        "stop_reason",
        "waiting",
    )

    def __init__(
        self,
        owner: object,
        workflow_id: int,
        executions: Mapping[str, StepExecution],
        deadline: float | None,
        clock: Clock,
        *,
        can_park: bool,
    ) -> None:
        self._owner = owner
        self._workflow_id = workflow_id
        self._executions = executions
        self.loop = asyncio.get_running_loop()
        """The event loop of the run, kept because `get_running_loop` costs a system call on Python 3.11."""
        self.clock = clock
        self.can_park = can_park
        self.deadline = deadline
        self.ended: Callable[[], PgqrsError] | None = None
        """Creates the error for calls after the end of the run; None until the run ends."""
        self.fatal_error: PgqrsError | None = None
        """The reason why nothing more can be written: the run was fenced, or a write failed for good."""
        self.stop_reason: StopReason | None = None
        self.waiting: dict[asyncio.Future[None], float] = {}
        """The futures of the waits in the run, with the time at which each wait ends."""
        self.is_watched = False
        """True if steps must call `restart_idle_timer` when they end: a task waits, or the run was cancelled."""
        self._limit: float | None = None
        self._told = False
        self._due = 0.0
        self._body: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self._interrupts = 0
        self._cancel_interrupts = False
        self._cancelled: frozenset[asyncio.Task[Any]] = frozenset()
        """The step tasks that this object has cancelled."""
        self._timers: dict[str, Timer] = {}
        self._resting = 0
        self._left: asyncio.Future[None] | None = None

    @property
    def may_write(self) -> bool:
        """True while the run has neither ended nor been lost."""
        return self.ended is None and self.fatal_error is None

    def raise_if_stopped(self) -> None:
        """Raise the stop of the run if it has ended, was lost or was stopped."""
        if self.ended is None and self.fatal_error is None and self.stop_reason is None:
            return
        if self.stop_reason is not None and self.fatal_error is None:
            self._told = True
        self.stop_at(scope_of(self._owner))

    def stop_at(self, place: Scope | None) -> NoReturn:
        """Raise the stop of the run in the calling task, which is at this place; see `stop_error_in`."""
        if place is not None and (self.ended is None or self.stop_reason is not None):
            _keep_quiet(asyncio.current_task(), self._body)
        raise self.stop_error_in(place)

    def raise_if_closed(self) -> None:
        """Raise the error of the run if it was lost or has ended."""
        if self.fatal_error is not None:
            raise self.fatal_error
        if self.ended is not None:
            raise self.ended()

    def reason(self) -> PgqrsError | None:
        """Return the error that stopped the run; None for a live run and for a run released for a later claim."""
        if self.fatal_error is not None:
            return self.fatal_error
        match self.stop_reason:
            case StopReason.CANCELLED:
                return WorkflowCancelledError(self._workflow_id)
            case StopReason.TIMED_OUT:
                return WorkflowTimeoutError(self._workflow_id, self._limit)
            case None:
                return None if self.ended is None else self.ended()
            case _:
                return None

    def stop_error(self) -> BaseException:
        """Return the error of a stopped run for callers outside it.

        Each call returns a new exception if possible, because tracebacks accumulate in an exception.
        """
        return self.reason() or Parked()

    def stop_error_in(self, place: Scope | None) -> BaseException:
        """Return the error of a stopped run for a place in it, and mark the steps around the place as interrupted.

        Nothing more is recorded for an interrupted step. None as the place means a caller outside the run.
        """
        reason = self.reason()
        for each in ancestors(place):
            each.interrupted = True
        if reason is None:
            return Parked()
        return reason if place is None else RunStopped(reason)

    @contextmanager
    def raising_stops(self) -> Generator[None]:
        """Convert the error that lost the run to a stop if the calling task is within the run."""
        try:
            yield
        except PgqrsError as error:
            place = scope_of(self._owner)
            if error is not self.fatal_error or place is None:
                raise
            raise self.stop_error_in(place) from error

    def lose(self, error: PgqrsError) -> None:
        """Forbid further writes because of `error`, and end all waits."""
        self.fatal_error = error
        self._wake()

    # --- the body ---

    def enter_body(self, timeout: float | None) -> None:
        """Register the calling task as the task of the body; `timeout` is the workflow's timeout in seconds."""
        self._limit = timeout
        self._body = asyncio.current_task(self.loop)
        self._cancelling = 0 if self._body is None else self._body.cancelling()
        if self.deadline is None and timeout is not None:  # `ctx.start()` began the run, without a timeout
            self.deadline = self.clock.time() + timeout
        if self.deadline is None:
            return
        if self.deadline <= self.clock.time():
            self.stop_for(StopReason.TIMED_OUT)
        else:
            self._timers["deadline"] = self.clock.call_at(self.deadline, self._time_out)

    def leave_body(self) -> bool:
        """Detach the task from the run, which now executes only pgqrs's code, and withdraw the run's interrupts.

        Returns:
            True if the task was also cancelled by code outside the run. Later calls return False.
        """
        task, self._body = self._body, None
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        interrupts, self._interrupts = self._interrupts, 0
        if task is None:
            return False
        for _ in range(interrupts):
            task.uncancel()
        return task.cancelling() > self._cancelling

    def body_is_left(self) -> None:
        """Wake the waiters of `wait_for_body`."""
        if self._left is not None:
            resolve(self._left, None)

    async def wait_for_body(self, grace: float) -> None:
        """Wait until the body ends, and interrupt it if that takes too long.

        A body with executing steps has `grace` seconds; any other body has at most `IDLE_BEFORE_PARK` seconds.
        """
        if asyncio.current_task() is self._body:
            return
        if self._left is None:
            self._left = self.loop.create_future()
        quickly = self._is_quiet()
        await asyncio.wait([self._left], timeout=min(grace, IDLE_BEFORE_PARK) if quickly else grace)
        if not self._left.done():
            self.interrupt()
            await asyncio.wait([self._left], timeout=INTERRUPT_GRACE)

    # --- stopping ---

    def stop_for(self, stop: StopReason) -> None:
        """Forbid further steps and end all waits, unless the run has ended, was lost or has a greater reason."""
        if self.may_write and (self.stop_reason is None or self.stop_reason < stop):
            self.stop_reason = stop
            self._wake()

    def stop_decides(self) -> bool:
        """Return whether the stop determines the end of the run.

        A requeue or a parking does not if no call has raised it in the run: the outcome of the body then counts.
        """
        return (
            self.stop_reason is not None
            and self.fatal_error is None
            and (self._told or self.stop_reason > StopReason.HANDED_BACK)
        )

    @property
    def is_final(self) -> bool:
        """True if the stop ends the workflow too: by a cancellation or a timeout."""
        return (
            self.stop_reason is not None and self.stop_reason > StopReason.HANDED_BACK and self.fatal_error is None
        )

    def is_stop_error(self, error: BaseException | None) -> bool:
        """Return whether the error of a step is, or stems from, the stop of the run."""
        if self.stop_reason is None or error is None:
            return False
        return any(isinstance(each, RunStopped) for each in stems_from(error))

    def cancel(self, *, interrupt: bool) -> None:
        """Stop the run as cancelled; a second call with `interrupt` also interrupts it.

        Without `interrupt`, the executing steps complete first. A body that does not end by itself is interrupted
        `UNWIND_GRACE` seconds after the last step.
        """
        if not self.may_write:
            return
        first = self.stop_reason is not StopReason.CANCELLED
        self.stop_for(StopReason.CANCELLED)
        if interrupt and not self._cancel_interrupts:
            self._cancel_interrupts = True
            self.interrupt()
        elif first:
            self.is_watched = True
            self.restart_idle_timer()

    def interrupt(self) -> None:
        """Cancel the tasks of the executing steps and of the body.

        A step whose outcome is already in the journal keeps that outcome.
        """
        self._told = True
        executing = [each for each in self._executions.values() if not each.over]
        for execution in executing:
            execution.interrupted = True
        tasks = frozenset(task for each in executing if (task := each.carrier) is not None) - {self._body}
        self._cancelled |= tasks
        for task in tasks:
            task.cancel()
        if self._body is not None and self._body is not asyncio.current_task():
            self._interrupts += 1
            self._body.cancel()

    def take_back(self, task: asyncio.Task[Any] | None) -> bool:
        """Withdraw the cancellation of a step's task; return whether no other code has cancelled the task."""
        if task is None or task not in self._cancelled:
            return False
        self._cancelled -= {task}
        return task.uncancel() == 0

    def replay_after(self, execution: StepExecution) -> None:
        """Stop the run to replay its body, if the body called the step directly and no other step executes."""
        if (
            self.stop_reason is None
            and self._body is not None
            and execution.parent is execution.run
            and self._is_quiet()
        ):
            self._unwind_for(StopReason.REPLAY)
            self.raise_if_stopped()

    def _time_out(self) -> None:
        self.stop_for(StopReason.TIMED_OUT)
        self.interrupt()

    def _unwind_for(self, stop: StopReason) -> None:
        """Stop the run, and interrupt a body that does not end: it may wait for an event outside the run."""
        self.stop_for(stop)
        self._timers["unwinding"] = self.loop.call_later(UNWIND_GRACE, self.interrupt)

    # --- waiting and parking ---

    def until_due(self) -> float:
        """Return the seconds until a parked run must be claimed again."""
        return max(0.0, self._due - self.clock.time())

    def until_deadline(self, delay: float) -> float:
        """Return the lesser of `delay` and the time until the deadline, in seconds."""
        return delay if self.deadline is None else min(delay, max(0.0, self.deadline - self.clock.time()))

    @property
    def idle_until(self) -> float | None:
        """The time, by the clock, until which the run only waits; None if a step executes or nothing waits."""
        return (
            min(self.waiting.values()) if self.waiting and self.stop_reason is None and self._is_quiet() else None
        )

    async def wait_until(self, due: float, *, resting: bool = False) -> None:
        """Wait until `due` by the clock, or park the run; raise the stop of the run as soon as it stops.

        `resting` is True for a step that waits for its next attempt.
        """
        self.raise_if_stopped()
        if due <= self.clock.time():
            return
        waiter: asyncio.Future[None] = self.loop.create_future()
        timer = self.clock.call_at(due, resolve, waiter, None)
        self.waiting[waiter] = due
        self.is_watched = True
        self._resting += resting
        try:
            await self._park_at_once()
            self.restart_idle_timer()
            await waiter
        finally:
            timer.cancel()
            del self.waiting[waiter]
            self._resting -= resting
            self.restart_idle_timer()
            self.is_watched = bool(self.waiting) or self.stop_reason is StopReason.CANCELLED
        self.raise_if_stopped()

    def restart_idle_timer(self) -> None:
        """Restart the timer that parks a waiting run, or interrupts a cancelled run, when no step executes."""
        if timer := self._timers.pop("quiet", None):
            timer.cancel()
        if self.stop_reason is StopReason.CANCELLED:
            if self._body is not None and self._is_quiet():
                self._timers["quiet"] = self.loop.call_later(UNWIND_GRACE, self.interrupt)
        elif self.waiting and self._may_park():
            self._timers["quiet"] = self.loop.call_later(IDLE_BEFORE_PARK, self._park_if_quiet)

    def _wake(self) -> None:
        for waiter in self.waiting:
            resolve(waiter, None)

    def _is_quiet(self) -> bool:
        """Return whether no step executes; a step that waits for its next attempt does not count as executing."""
        return len(self._executions) == self._resting

    def _may_park(self) -> bool:
        return self.can_park and self.stop_reason is None and self._body is not None and self._is_quiet()

    async def _park_at_once(self) -> None:
        if self._may_park() and asyncio.current_task() is self._body:
            await asyncio.sleep(0)  # lets tasks that the body just created begin their steps
            if self._may_park():
                self._park()

    def _park_if_quiet(self) -> None:
        if self.waiting and self._may_park():
            self._park()

    def _park(self) -> None:
        self._due = min(self.waiting.values())
        if self._due - self.clock.time() > MIN_PARK:
            self._unwind_for(StopReason.PARKED)


def is_stop(error: BaseException) -> bool:
    """Return whether an exception is a `RunStopped` or a group that contains a `RunStopped`."""
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).subgroup(RunStopped) is not None
    return isinstance(error, RunStopped)


def raise_instead(error: BaseException, stop: BaseException) -> NoReturn:
    """Raise an error instead of the stop that is being handled, with the traceback of the stop.

    The context of the error is cleared: the stop refers to the error, so the two would form a cycle.
    """
    try:
        raise error.with_traceback(stop.__traceback__)
    finally:
        error.__context__ = None


def _keep_quiet(task: asyncio.Task[Any] | None, body: asyncio.Task[Any] | None) -> None:
    """Prevent asyncio's "exception was never retrieved" message for a task that a stop ends and no task awaits."""
    if task is not None and task is not body:
        task.add_done_callback(_look_at)


def _look_at(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
