"""Whether a run goes on, and how it stops: interrupted, or parked while all that it does is wait."""

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
"""The longest time, in seconds, that is waited for in place where the run could park."""

IDLE_BEFORE_PARK = 0.2
"""How long, in seconds, nothing executes before a run parks whose body is not itself what waits."""

UNWIND_GRACE = 1.0
"""How long, in seconds, a body has to leave after its run stopped, before its task is interrupted.

Of a cancelled run only the time counts in which no step executes.
"""

INTERRUPT_GRACE = 5.0
"""How long, in seconds, a run that is handed back waits for its interrupted body."""


class RunStopped(BaseException):
    """The run goes on no further: its calls raise this within the workflow's function and its steps.

    It is no `Exception`: an ``except Exception`` around a step, or within one, does not take a stop for a failure.
    Every later call on the context raises it again, and nothing that is computed after it is recorded. The call of
    the workflow's function raises `error` in its place.

    Attributes:
        error: The error that the caller of the workflow gets, also the `__cause__`; None for a run that is left
            for a later claim.

    """

    def __init__(self, error: PgqrsError | None = None) -> None:
        super().__init__(*([] if error is None else [str(error)]))
        self.error = error
        self.__cause__ = error


class Parked(RunStopped):
    """The run was left for a later claim: its workflow sleeps, or another worker is to carry it on."""


class StopReason(IntEnum):
    """Why a run begins no further step, the weightier reasons last."""

    REPLAY = 1
    PARKED = 2
    HANDED_BACK = 3
    TIMED_OUT = 4
    CANCELLED = 5


class RunLifecycle:
    """Whether a run may go on, the task of its body, and all in it that only waits.

    `owner` stands for the context whose run it is, and `executions` are the steps that the run executes.
    `can_park` tells that a worker claimed it, which will claim it again when its time has come. `deadline` is by
    `clock`. `over` is why no further step may begin: the run has ended. `lost` is why nothing more can be written:
    it was fenced, or the database stayed away. `stop` is why it is to stop. Every later call raises each of the
    three: a `RunStopped` in the run, the error itself where the caller is in no body and no step of it.
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
        """The event loop of the run, kept because asking for it costs Python 3.11 a system call."""
        self.clock = clock
        self.can_park = can_park
        self.deadline = deadline
        self.ended: Callable[[], PgqrsError] | None = None
        """What the calls of a run that has ended raise, made when there is one; None while it goes on."""
        self.fatal_error: PgqrsError | None = None
        self.stop_reason: StopReason | None = None
        self.waiting: dict[asyncio.Future[None], float] = {}
        """What only waits, and until when."""
        self.is_watched = False
        """Whether `watch` is to hear when a step ends: something waits, or the body is to leave."""
        self._limit: float | None = None
        self._told = False
        self._due = 0.0
        self._body: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self._interrupts = 0
        self._cancel_interrupts = False
        self._cancelled: frozenset[asyncio.Task[Any]] = frozenset()
        """The tasks of steps that were interrupted."""
        self._timers: dict[str, Timer] = {}
        self._resting = 0
        self._left: asyncio.Future[None] | None = None

    @property
    def may_write(self) -> bool:
        """Whether the run has neither ended nor been lost."""
        return self.ended is None and self.fatal_error is None

    def raise_if_stopped(self) -> None:
        """Raise why the run may not go on, if it may not."""
        if self.ended is None and self.fatal_error is None and self.stop_reason is None:
            return
        if self.stop_reason is not None and self.fatal_error is None:
            self._told = True
        self.stop_at(scope_of(self._owner))

    def stop_at(self, place: Scope | None) -> NoReturn:
        """Tell the calling task, which is at this place, that the run goes on no further; see `told_in`."""
        if place is not None and (self.ended is None or self.stop_reason is not None):
            _keep_quiet(asyncio.current_task(), self._body)
        raise self.stop_error_in(place)

    def raise_if_closed(self) -> None:
        """Raise why the run was lost, or how it ended, if either is so."""
        if self.fatal_error is not None:
            raise self.fatal_error
        if self.ended is not None:
            raise self.ended()

    def reason(self) -> PgqrsError | None:
        """Return why the run goes on no further; None where it does, or is left for a later claim."""
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
        """Return what a stopped run raises outside; an exception of its own each, for tracebacks add up."""
        return self.reason() or Parked()

    def stop_error_in(self, place: Scope | None) -> BaseException:
        """Return what tells a place in the run that it goes on no further; of no step around it is more recorded.

        None stands for a caller that is in no body and no step of the run.
        """
        reason = self.reason()
        for each in ancestors(place):
            each.interrupted = True
        if reason is None:
            return Parked()
        return reason if place is None else RunStopped(reason)

    @contextmanager
    def raising_stops(self) -> Generator[None]:
        """Have what loses the run told as a stop, where the calling task is in it."""
        try:
            yield
        except PgqrsError as error:
            place = scope_of(self._owner)
            if error is not self.fatal_error or place is None:
                raise
            raise self.stop_error_in(place) from error

    def lose(self, error: PgqrsError) -> None:
        """Let nothing more be written, and end the waits."""
        self.fatal_error = error
        self._wake()

    # --- the body ---

    def enter_body(self, timeout: float | None) -> None:
        """Take the calling task for the one that carries out the body, which may take `timeout` seconds."""
        self._limit = timeout
        self._body = asyncio.current_task(self.loop)
        self._cancelling = 0 if self._body is None else self._body.cancelling()
        if self.deadline is None and timeout is not None:  # a run that was started by hand
            self.deadline = self.clock.time() + timeout
        if self.deadline is None:
            return
        if self.deadline <= self.clock.time():
            self.stop_for(StopReason.TIMED_OUT)
        else:
            self._timers["deadline"] = self.clock.call_at(self.deadline, self._time_out)

    def leave_body(self) -> bool:
        """Take what interrupts the body away; what the task does from here on is ours.

        Returns whether something else than the run has cancelled the task; only the first time.
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
        """Tell whoever waits for it that the body is left."""
        if self._left is not None:
            resolve(self._left, None)

    async def wait_for_body(self, grace: float) -> None:
        """Wait until the body is left; one that executes steps has `grace` seconds until it is interrupted."""
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
        """Let no further step begin, and end the waits at once."""
        if self.may_write and (self.stop_reason is None or self.stop_reason < stop):
            self.stop_reason = stop
            self._wake()

    def stop_decides(self) -> bool:
        """Tell whether a stop decides how the run ends: handed back, a body may not have heard of it."""
        return (
            self.stop_reason is not None
            and self.fatal_error is None
            and (self._told or self.stop_reason > StopReason.HANDED_BACK)
        )

    @property
    def is_final(self) -> bool:
        """Whether the run stops, and the workflow ends with it."""
        return (
            self.stop_reason is not None and self.stop_reason > StopReason.HANDED_BACK and self.fatal_error is None
        )

    def is_stop_error(self, error: BaseException | None) -> bool:
        """Tell whether an error of a step is only what told it that the run stops."""
        if self.stop_reason is None or error is None:
            return False
        return any(isinstance(each, RunStopped) for each in stems_from(error))

    def cancel(self, *, interrupt: bool) -> None:
        """Let no further step begin, and have the body leave; may be called again, to interrupt it too.

        Without `interrupt` the body has a moment to leave of itself, once no step executes any more.
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
        """Cancel the tasks that execute steps, and the body's; a step whose outcome is on its way keeps it."""
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
        """Take back what interrupted the task of a step; tells whether nothing else has cancelled it."""
        if task is None or task not in self._cancelled:
            return False
        self._cancelled -= {task}
        return task.uncancel() == 0

    def replay_after(self, execution: StepExecution) -> None:
        """Have the body begin anew, where it goes on, the step is one of its own and nothing else executes."""
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
        """Have the body leave; one that waits for something else than its tasks would otherwise never do so."""
        self.stop_for(stop)
        self._timers["unwinding"] = self.loop.call_later(UNWIND_GRACE, self.interrupt)

    # --- waiting and parking ---

    def until_due(self) -> float:
        """Return how long a parked run is to be left alone, in seconds."""
        return max(0.0, self._due - self.clock.time())

    def until_deadline(self, delay: float) -> float:
        """Return `delay`, in seconds, or how long it is until the deadline, where that is less."""
        return delay if self.deadline is None else min(delay, max(0.0, self.deadline - self.clock.time()))

    @property
    def idle_until(self) -> float | None:
        """Until when, by the clock, all in the run that can be seen only waits; None where something executes."""
        return (
            min(self.waiting.values()) if self.waiting and self.stop_reason is None and self._is_quiet() else None
        )

    async def wait_until(self, due: float, *, resting: bool = False) -> None:
        """Wait until `due` by the clock, in place or parked; `resting` tells that a step does.

        Raises what stops the run, as soon as it stops.
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
        """Begin to count anew how long nothing executes, if something waits or the body is to leave."""
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
        """Tell whether no step executes: those that rest until their next attempt do not."""
        return len(self._executions) == self._resting

    def _may_park(self) -> bool:
        return self.can_park and self.stop_reason is None and self._body is not None and self._is_quiet()

    async def _park_at_once(self) -> None:
        if self._may_park() and asyncio.current_task() is self._body:
            await asyncio.sleep(0)  # tasks that the body has just made begin their steps
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
    """Tell whether an exception tells that a run stops, or is a group that does."""
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).subgroup(RunStopped) is not None
    return isinstance(error, RunStopped)


def raise_instead(error: BaseException, stop: BaseException) -> NoReturn:
    """Raise an error in place of the stop that is being handled: from its place, and not in its context.

    The stop holds the error, so that the two would be a cycle.
    """
    try:
        raise error.with_traceback(stop.__traceback__)
    finally:
        error.__context__ = None


def _keep_quiet(task: asyncio.Task[Any] | None, body: asyncio.Task[Any] | None) -> None:
    """Keep asyncio from complaining of a task that a stop ends and that nothing awaits any more."""
    if task is not None and task is not body:
        task.add_done_callback(_look_at)


def _look_at(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
