"""Stops runs: by a cancellation, a timeout or a requeue, and by parking runs that only wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, NoReturn, Protocol, cast

from pgqrs.clock import Clock, Timer
from pgqrs.engine.body import Body
from pgqrs.engine.idle import IdleTimer
from pgqrs.engine.replay.failure_trace import stems_from
from pgqrs.engine.scope import Scope, Shelter, StepExecution, ancestors, is_sheltered, scope_of
from pgqrs.errors import PgqrsError, RunEndedError, WorkflowCancelledError, WorkflowTimeoutError
from pgqrs.storage.journal.futures import resolve

IDLE_BEFORE_PARK = 0.2
"""Seconds without an executing step before a run parks whose body is not the waiting task itself."""

UNWIND_GRACE = 1.0
"""Seconds for a body to end after its run stopped, before its task is interrupted.

In a cancelled run, time during which a step executes does not count.
"""

REPLAY_GRACE = 30.0
"""Seconds, in place of `UNWIND_GRACE`, for a body that replays the steps of its sagas, so that they are undone.

A body that is interrupted before it comes to its saga leaves the steps of the saga standing.
"""

INTERRUPT_GRACE = 5.0
"""Maximum seconds that a requeue waits for the body after it has interrupted the body."""


STUCK_AFTER = 10.0
"""Seconds after the interrupt of a body that does not end at which a warning is logged."""

_logger = logging.getLogger("pgqrs.engine")


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


class RunState(IntEnum):  # an `IntEnum` is hashed without a call of a Python function
    """The state of a run; `TRANSITIONS` has the states that may follow each state."""

    OPEN = 1
    """Steps may begin."""
    STOPPING = 2
    """No step may begin, but no call in the run has raised the stop yet."""
    STOPPED = 3
    """A call in the run has raised the stop, or the tasks of the run were interrupted."""
    ENDED = 4
    """The end or the release of the run is recorded or on its way, or the run was abandoned."""
    LOST = 5
    """Nothing more can be written: the run was fenced, or a write failed for good."""


TRANSITIONS: Mapping[RunState, frozenset[RunState]] = {
    RunState.OPEN: frozenset({RunState.STOPPING, RunState.ENDED, RunState.LOST}),
    RunState.STOPPING: frozenset({RunState.STOPPED, RunState.ENDED, RunState.LOST}),
    RunState.STOPPED: frozenset({RunState.ENDED, RunState.LOST}),
    # The write of the end may be refused.
    RunState.ENDED: frozenset({RunState.LOST}),
    RunState.LOST: frozenset(),
}
"""The states that may follow each state of a run."""

# Global names: `RunState.OPEN` costs a look-up through the metaclass, and some of these are read for each step.
_OPEN, _STOPPING, _STOPPED, _ENDED, _LOST = RunState


class StopReason(IntEnum):
    """The reason why a run begins no further step; a greater reason overrides a lesser reason."""

    REPLAY = 1
    PARKED = 2
    REQUEUED = 3
    CONTINUED = 4
    """The workflow continues as new, in a run with another input and without steps."""
    TIMED_OUT = 5
    CANCELLED = 6
    """The executing steps complete first."""
    INTERRUPTED = 7
    """The workflow was cancelled, and the executing steps are interrupted."""


class SagaControl(Protocol):
    """The part of the sagas of a run that its lifecycle uses."""

    def check(self) -> None:
        """Raise the stop, or the error, of a place in which no step or wait may begin."""
        ...

    def has_to_replay(self) -> bool:
        """Return whether a recorded step of a saga may not have been called again."""
        ...

    async def acknowledge(self) -> bool:
        """Write that the workflow is to end and unwinds, and return False if it is not, or if its row says so."""
        ...


class Unwinding:
    """The part of the state of a run that undoes its sagas, or may have to.

    Attributes:
        sagas: The sagas of the run.
        shelters: The number of places in which steps are executed although the run has stopped.
        replays_for: The stop of a run that only replays recorded outcomes, up to the first call without one, so
            that its sagas are undone; None for any other run.
        is_handed_over: True once the run was interrupted to be handed over to another worker.
    """

    __slots__ = ("is_handed_over", "replays_for", "sagas", "shelters")

    def __init__(self, sagas: SagaControl, replays_for: StopReason | None) -> None:
        self.sagas = sagas
        self.shelters = 0
        self.replays_for = replays_for
        self.is_handed_over = False


class RunLifecycle:
    """The state of a run, and the stops that change it.

    Except while the state is `RunState.OPEN`, every call on the context raises: a `RunStopped` within the run, the
    error itself elsewhere.

    Args:
        owner: The object that identifies the context of the run.
        workflow_id: The id of the workflow.
        executions: The executing steps of the run by their ids, kept by its `StepRunner`.
        deadline: The deadline of the workflow by `clock`; None for no deadline.
        clock: The clock of the deadline.

    Attributes:
        state: The state of the run.
        stop_reason: The reason of the stop; None for a run that was not stopped.
        fatal_error: The reason for which the run was lost; None unless the state is `RunState.LOST`.
        body: The task of the body.
        idle: The timer for moments in which the run executes no step.
        waiters: The futures of the waits in the run, which a stop resolves.
        unwinding: The part of the state that runs with sagas and clean-ups have; None for any other run.
        loop: The event loop of the run, kept because `get_running_loop` costs a system call on Python 3.11.
    """

    __slots__ = (
        "_end_error",
        "_owner",
        "_timers",
        "_workflow_id",
        "body",
        "clock",
        "deadline",
        "fatal_error",
        "idle",
        "loop",
        "state",
        "stop_reason",
        "unwinding",
        "waiters",
    )

    def __init__(
        self,
        owner: object,
        workflow_id: int,
        executions: Mapping[str, StepExecution],
        deadline: float | None,
        clock: Clock,
    ) -> None:
        self._owner = owner
        self._workflow_id = workflow_id
        self._end_error: Callable[[], PgqrsError] | None = None
        self._timers: dict[str, Timer] = {}
        self.unwinding: Unwinding | None = None
        self.loop = asyncio.get_running_loop()
        self.clock = clock
        self.deadline = deadline
        self.state = _OPEN
        self.stop_reason: StopReason | None = None
        self.fatal_error: PgqrsError | None = None
        self.body = Body(self.loop)
        self.idle = IdleTimer(self.loop, executions)
        self.waiters: set[asyncio.Future[None]] = set()

    @property
    def may_write(self) -> bool:
        """True while the run has neither ended nor been lost."""
        return self.state is not _ENDED and self.state is not _LOST

    def raise_if_stopped(self) -> None:
        """Raise the stop of the run unless it is open, or the calling task is in a shelter."""
        if self.state is _OPEN or (self.unwinding is not None and self.is_sheltered()):
            return
        if self.state is _STOPPING:
            self._enter(_STOPPED)
        self.stop_at(scope_of(self._owner))

    def stop_at(self, place: Scope | None) -> NoReturn:
        """Raise the stop of the run in the calling task, which is at this place; see `stop_error_in`."""
        if place is not None and (self.state is not _ENDED or self.stop_reason is not None):
            _keep_quiet(asyncio.current_task(), self.body.task)
        raise self.stop_error_in(place)

    def raise_if_closed(self) -> None:
        """Raise the error of the run if it was lost or has ended."""
        if self.fatal_error is not None:
            raise self.fatal_error
        if self.state is _ENDED:
            raise self._error_after_end()

    def reason(self) -> PgqrsError | None:
        """Return the error that stopped the run; None for a live run and for a run released for a later claim."""
        if self.fatal_error is not None:
            return self.fatal_error
        return self._error_of(self.stop_reason)

    def _error_of(self, stop: StopReason | None) -> PgqrsError | None:
        match stop:
            case StopReason.CANCELLED | StopReason.INTERRUPTED:
                return WorkflowCancelledError(self._workflow_id)
            case StopReason.TIMED_OUT:
                return WorkflowTimeoutError(self._workflow_id, self.body.timeout)
            case None:
                return self._error_after_end() if self.state is _ENDED else None
            case _:
                return None

    def _error_after_end(self) -> PgqrsError:
        return RunEndedError(self._workflow_id) if self._end_error is None else self._end_error()

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

    # --- shelters, and runs that only replay ---

    def is_sheltered(self) -> bool:
        """Return whether the calling task may begin steps although the run has stopped or only replays."""
        own = self.unwinding
        if own is None or not own.shelters or own.is_handed_over or not self.may_write:
            return False
        return (self.stop_reason is None or self.is_final) and is_sheltered(scope_of(self._owner))

    @property
    def replays_for(self) -> StopReason | None:
        """The stop of a run that only replays recorded outcomes, up to the first call without one."""
        return None if self.unwinding is None else self.unwinding.replays_for

    @property
    def is_handed_over(self) -> bool:
        """True if the run was interrupted to be handed over to another worker."""
        return self.unwinding is not None and self.unwinding.is_handed_over

    def check_may_begin(self) -> None:
        """Raise the stop, or the error, of a place in which no step or wait may begin."""
        if self.unwinding is not None:
            self.unwinding.sagas.check()

    def enter_shelter(self, shelter: Shelter) -> None:
        """Let the steps in a shelter begin, and interrupt neither them nor the body."""
        if self.unwinding is not None:
            self.unwinding.shelters += 1
        shelter.is_open = True

    def leave_shelter(self, shelter: Shelter) -> None:
        """Let no further step in a shelter begin; a body that does not end is interrupted as before."""
        shelter.is_open = False
        if self.unwinding is None:
            return
        self.unwinding.shelters -= 1
        if not self.unwinding.shelters and self.is_final and self.body.task is not None:
            self.idle.watch(UNWIND_GRACE, self.interrupt)

    def raise_if_replaying(self) -> None:
        """Raise the stop of a run that only replays: the calling task needs an outcome that is not recorded."""
        if self.replays_for is None or self.is_sheltered():
            return
        place = scope_of(self._owner)
        for each in ancestors(place):
            each.interrupted = True
        _keep_quiet(asyncio.current_task(), self.body.task)
        error = self._error_of(self.replays_for)
        raise RunStopped(error) if place is not None or error is None else error

    def _stop_or_replay(self, stop: StopReason) -> bool:
        """Stop the run, or let it only replay while recorded steps of its sagas were not called again."""
        own = self.unwinding
        if own is None or (own.replays_for is None and (self.state is not _OPEN or not own.sagas.has_to_replay())):
            return self.stop_for(stop)
        if own.replays_for is not None and own.replays_for >= stop:
            return False
        own.replays_for = stop
        self._wake()
        return True

    def settle(self) -> None:
        """Stop a run that only replays, once its body needs no further outcome."""
        reason = self.replays_for
        if self.unwinding is not None:
            self.unwinding.replays_for = None
        if reason is not None and (self.stop_reason is None or self.state is _STOPPING):
            self.stop_for(reason)
            if self.state is _STOPPING:
                self._enter(_STOPPED)

    @property
    def is_ending(self) -> bool:
        """True if the run ends its workflow by a cancellation or a timeout, now or after a replay."""
        return self.is_final or self.replays_for is not None

    # --- transitions ---

    def _enter(self, state: RunState) -> None:
        if state not in TRANSITIONS[self.state]:
            raise RuntimeError(f"a run that is {self.state.name} cannot become {state.name}.")
        self.state = state

    def end(self, error: Callable[[], PgqrsError] | None = None) -> None:
        """Note that the run has ended, was released or was abandoned.

        `error` creates the error for later calls; None creates `RunEndedError`.
        """
        self._enter(_ENDED)
        self._end_error = error

    def lose(self, error: PgqrsError) -> None:
        """Forbid further writes because of `error`, and end all waits."""
        self._enter(_LOST)
        self.fatal_error = error
        self._wake()

    def stop_for(self, stop: StopReason) -> bool:
        """Forbid further steps and end all waits, unless the run has ended, was lost or has such a reason already.

        Returns:
            True if the stop took effect.
        """
        if not self.may_write or (self.stop_reason is not None and self.stop_reason >= stop):
            return False
        self.stop_reason = stop
        if self.state is _OPEN:
            self._enter(_STOPPING)
        self._wake()
        return True

    def _wake(self) -> None:
        for waiter in self.waiters:
            resolve(waiter, None)

    # --- the body ---

    def enter_body(self, timeout: float | None) -> None:
        """Register the calling task as the task of the body; `timeout` is the workflow's timeout in seconds."""
        self.body.enter(timeout)
        if self.replays_for is not None:
            self.idle.watch(REPLAY_GRACE, self.interrupt)
            return
        if self.deadline is None and timeout is not None:  # `ctx.start()` began the run, without a timeout
            self.deadline = self.clock.time() + timeout
        if self.deadline is None:
            return
        if self.deadline <= self.clock.time():
            self._stop_or_replay(StopReason.TIMED_OUT)
        else:
            self._timers["deadline"] = self.clock.call_at(self.deadline, self._time_out)

    def leave_body(self) -> bool:
        """Detach the task of the body; return whether code outside the run has cancelled it, as `Body.leave`."""
        if self.body.task is None:
            return False
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self.idle.unwatch()
        return self.body.leave()

    async def wait_for_body(self, grace: float) -> None:
        """Wait until the body ends, and interrupt it if that takes too long.

        A body with executing steps has `grace` seconds; any other body has at most `IDLE_BEFORE_PARK` seconds.
        """
        if asyncio.current_task() is self.body.task:
            return
        if not await self.body.wait(min(grace, IDLE_BEFORE_PARK) if self.idle.is_idle else grace):
            if self.unwinding is not None:
                self.unwinding.is_handed_over = True
            self.interrupt()
            await self.body.wait(INTERRUPT_GRACE)

    # --- stopping ---

    def stop_decides(self) -> bool:
        """Return whether the stop determines the end of the run.

        A requeue or a parking does not if no call has raised it in the run: the outcome of the body then counts.
        """
        return self.is_final or (self.stop_reason is not None and self.state in {_STOPPED, _ENDED})

    @property
    def is_final(self) -> bool:
        """True if the stop ends the workflow too: by a cancellation or a timeout."""
        return self.stop_reason is not None and self.stop_reason > StopReason.CONTINUED and self.state is not _LOST

    def is_stop_error(self, error: BaseException | None) -> bool:
        """Return whether the error of a step is, or stems from, the stop of the run."""
        # In a shelter the stop is handled: it is the context of each error, and a step that it interrupts says so.
        if self.stop_reason is None or error is None or self.is_sheltered():
            return False
        return any(isinstance(each, RunStopped) for each in stems_from(error))

    def cancel(self, *, interrupt: bool) -> None:
        """Stop the run as cancelled; a second call with `interrupt` also interrupts it.

        Without `interrupt`, the executing steps complete first. A body that does not end by itself is interrupted
        `UNWIND_GRACE` seconds after the last step; one that replays its sagas, after `REPLAY_GRACE` seconds.
        """
        if not self._stop_or_replay(StopReason.INTERRUPTED if interrupt else StopReason.CANCELLED):
            return
        if interrupt:
            self._interrupt_or_replay()
        elif self.body.task is not None:
            grace = UNWIND_GRACE if self.replays_for is None else REPLAY_GRACE
            self.idle.watch(grace, self.interrupt)

    def _interrupt_or_replay(self) -> None:
        """Interrupt the run, and a body that is to call its recorded steps first only once it is idle for long."""
        if self.replays_for is None:
            self.interrupt()
        elif self.body.task in self._interrupt_steps():
            self.body.interrupt()
        elif self.body.task is not None:
            self.idle.watch(REPLAY_GRACE, self.interrupt)

    def interrupt(self) -> None:
        """Cancel the tasks of the executing steps and of the body, unless they are sheltered.

        A run that is handed over to another worker has no shelters.

        A step whose outcome is already in the journal keeps that outcome.
        """
        self._interrupt_steps()
        if not self.has_shelter:
            self.body.interrupt()
            if self.body.task is not None and "stuck" not in self._timers:
                self._timers["stuck"] = self.loop.call_later(STUCK_AFTER, self._warn_of_body)

    def _warn_of_body(self) -> None:
        _logger.warning(
            "the function of workflow %s does not end, although it was cancelled %g s ago: it holds its slot, and "
            "the workflow does not go on. A `finally` or an `except` of the function, or of a task in its task "
            "group, waits for an event that does not come: bound that wait by a timeout.",
            self._workflow_id,
            STUCK_AFTER,
            extra={"workflow_id": self._workflow_id},
        )

    @property
    def has_shelter(self) -> bool:
        """True while a task undoes a saga or cleans up, unless the run is handed over."""
        return self.unwinding is not None and self.unwinding.shelters > 0 and not self.is_handed_over

    def _interrupt_steps(self) -> frozenset[asyncio.Task[Any]]:
        """Cancel the tasks of the executing steps except the body's, and return the tasks with the body's."""
        if self.state is _STOPPING:
            self._enter(_STOPPED)
        has_shelter = self.has_shelter
        executing = [
            each
            for each in self.idle.executions.values()
            if not (each.over or (has_shelter and is_sheltered(each)))
        ]
        for execution in executing:
            execution.interrupted = True
        carriers = frozenset(task for each in executing if (task := each.carrier) is not None)
        tasks = carriers - {self.body.task}
        self.body.interrupted |= tasks
        for task in tasks:
            task.cancel()
        return carriers

    def take_back(self, task: asyncio.Task[Any] | None) -> bool:
        """Withdraw the cancellation of a step's task; return whether no other code has cancelled the task."""
        if task is None or task not in self.body.interrupted:
            return False
        self.body.interrupted.discard(task)
        return task.uncancel() == 0

    def replay_after(self, execution: StepExecution) -> None:
        """Stop the run to replay its body, if the body called the step directly and no other step executes."""
        called_by_body = self.body.task is not None and execution.parent is execution.run
        if self.stop_reason is None and called_by_body and self.idle.is_idle:
            self.unwind_for(StopReason.REPLAY)
            self.raise_if_stopped()

    def _time_out(self) -> None:
        self._stop_or_replay(StopReason.TIMED_OUT)
        self._interrupt_or_replay()

    def unwind_for(self, stop: StopReason) -> None:
        """Stop the run, and interrupt a body that does not end: it may wait for an event outside the run."""
        self.stop_for(stop)
        self._timers["unwinding"] = self.loop.call_later(UNWIND_GRACE, self.interrupt)

    def until_deadline(self, delay: float) -> float:
        """Return the lesser of `delay` and the time until the deadline, in seconds."""
        return delay if self.deadline is None else min(delay, max(0.0, self.deadline - self.clock.time()))


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
