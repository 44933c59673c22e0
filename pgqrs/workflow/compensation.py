"""Compensation: sagas, which undo their steps when they fail, and clean-ups after a cancellation or a timeout."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import sys
from collections.abc import Awaitable, Callable
from contextvars import Token
from types import TracebackType
from typing import Any, Literal, NamedTuple, NoReturn, Self, TypeAlias, TypeGuard

from pgqrs.codecs.base import codec_at
from pgqrs.codecs.failures import dump_error, load_error
from pgqrs.engine.lifecycle import RunStopped, StopReason
from pgqrs.engine.replay.failure_trace import mark_undone
from pgqrs.engine.run import Run
from pgqrs.engine.sagas import OpenSaga, Sagas, current_saga
from pgqrs.engine.scope import Scope, Shelter, StepExecution, current_scope, is_within_step
from pgqrs.errors import (
    ConfigurationError,
    SagaError,
    SagaUndoneError,
    WorkflowCancelledError,
    WorkflowTimeoutError,
)
from pgqrs.storage.records import SAGA, UNDO, StoredOutcome
from pgqrs.validation import check_name
from pgqrs.workflow.steps import StepCall, StepId

UNDO_TIMEOUT = 3600.0
"""Seconds that the undos of a saga may take, from the first of them on, whatever restarts."""

CLEANUP_TIMEOUT = 30.0
"""Seconds that the steps of a clean-up may take."""

UndoWhen: TypeAlias = Literal["recorded", "began"]
"""The steps that are undone: those whose value is recorded, or also those that began and may have acted."""

Undo: TypeAlias = Callable[..., Awaitable[object]]
"""A function of the context, the value of the step, and the arguments of the step; None for no value."""

Current: TypeAlias = Callable[[], Awaitable[Run]]

STEP = "__pgqrs_step__"
"""The attribute of a step: the function that makes the same step with other ids."""

_REASONS = {
    "error": "an error",
    "cancelled": "the cancellation of the workflow",
    "timed_out": "the deadline of the workflow",
}

_STOPS = (RunStopped, WorkflowCancelledError, WorkflowTimeoutError, asyncio.CancelledError)
"""The errors by which a stop leaves the code of a body."""

_logger = logging.getLogger("pgqrs.workflow")


class UndoableCall(NamedTuple):
    """A call of a step that can be undone: the step, the function that undoes it, and the arguments."""

    step_id: str
    ctx: Any
    step: Callable[..., Awaitable[Any]]
    undo: Undo
    when: UndoWhen
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    given: Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]

    async def undo_it(self, outcome: StoredOutcome | None) -> None:
        """Undo the step in a step of its own, unless that is recorded."""
        is_recorded = outcome is not None and outcome.error is None
        value = await self.step(self.ctx, *self.args, **self.kwargs) if is_recorded else None
        args, kwargs = self.given(*self.args, **self.kwargs)
        await self.undo(self.ctx, value, *args, **kwargs)


def register_step(function: Callable[..., Any], renamed: Callable[[Callable[..., str]], Undo]) -> None:
    """Attach to a step the function that makes the same step with other ids, for a step that it undoes."""
    setattr(function, STEP, renamed)


def undoable(
    calls: Callable[[StepId], StepCall],
    undo: Undo,
    when: UndoWhen,
    *,
    function: Callable[..., Any],
    takes_context: bool,
) -> Callable[[StepId], StepCall]:
    """Return the function that makes calls of a step which is undone when the saga around the call fails.

    `undo` is a step. `calls` makes the calls of the step itself. Raises `TypeError` for an `undo` that does not
    accept the value and the arguments of the step, and `ConfigurationError` for another `when`.
    """
    if when not in {"recorded", "began"}:
        raise ConfigurationError(f"`undo_when` must be 'recorded' or 'began', got {when!r}.")
    check_undo(undo, function, takes_context=takes_context)
    given = functools.partial(_given, _signature(function), takes_context)
    renamed: Callable[[Callable[..., str]], Undo] = getattr(undo, STEP)

    def calls_in_sagas(ids: StepId) -> StepCall:
        def named(*args: Any, **kwargs: Any) -> str:
            return ids if isinstance(ids, str) else ids(*args, **kwargs)

        def undo_id(_value: object, *args: Any, **kwargs: Any) -> str:
            return f"{UNDO}{named(*args, **kwargs)}"

        call, undo_step = calls(ids), renamed(undo_id)

        async def wrapper(ctx: Any, /, *args: Any, **kwargs: Any) -> Any:
            saga = current_saga.get()
            if not (isinstance(saga, Saga) and saga.takes_steps_of(ctx)):
                return await call(ctx, *args, **kwargs)
            own_id = named(*args, **kwargs)
            return await saga.call(UndoableCall(own_id, ctx, call, undo_step, when, args, kwargs, given))

        return wrapper

    return calls_in_sagas


def check_undo(undo: Undo, function: Callable[..., Any], *, takes_context: bool) -> None:
    """Raise `TypeError` for an undo that does not accept the value and the arguments of a step."""
    own, of_step = _signature(undo), _signature(function)
    if own is None or of_step is None:
        return
    parameters = list(of_step.parameters.values())[1 if takes_context else 0 :]
    positional = [each.name for each in parameters if each.kind <= each.POSITIONAL_OR_KEYWORD]
    by_name = {each.name: None for each in parameters if each.kind == each.KEYWORD_ONLY}
    try:
        own.bind(None, None, *positional, **by_name)
    except TypeError as error:
        raise TypeError(
            f"{getattr(undo, '__qualname__', undo)} cannot undo {getattr(function, '__qualname__', function)}: an "
            f"undo takes the PyWorkflow, the value of the step, and the arguments of the step "
            f"({', '.join([*positional, *by_name]) or 'none'}): {error}."
        ) from None


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except ValueError:  # a function written in C without a signature
        return None


def _given(
    signature: inspect.Signature | None, takes_context: bool, /, *args: Any, **kwargs: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call as an undo receives them: by position, with the defaults."""
    if signature is None:
        return args, kwargs
    first = (None,) if takes_context else ()
    bound = signature.bind(*first, *args, **kwargs)
    bound.apply_defaults()
    return bound.args[len(first) :], bound.kwargs


class _Decision(NamedTuple):
    """The recorded decision to undo a saga: the steps in the order of the undos, the reason, the error."""

    steps: tuple[str, ...]
    kind: str
    error: str | None


class Saga:
    """A block whose steps are undone, last first, when it fails: ``async with ctx.saga():``.

    `PyWorkflow.saga` creates it.
    """

    def __init__(self, ctx: object, current: Current, timeout: float, name: str | None) -> None:
        self._ctx = ctx
        self._current = current
        self._timeout = timeout
        self._name = name
        self._calls: dict[str, UndoableCall] = {}
        self._executing = 0
        self._idle: asyncio.Future[None] | None = None
        self._decision: _Decision | None = None
        self._ends = False
        self._run: Run
        self._around: Saga | None = None
        self.inner: dict[Saga, None] = {}
        """The sagas directly within this one that tasks are in."""
        self._task: asyncio.Task[Any] | None = None
        self._token: Token[OpenSaga | None]
        self._go_on: Callable[[], Awaitable[object]]
        self.step_id = ""
        """The id of the step that records that the saga is undone."""

    # --- the parts that steps and the run use ---

    @property
    def key(self) -> object:
        """The object that identifies the context of the saga."""
        return self._run.context_key

    @property
    def has_steps(self) -> bool:
        """True if a step was called that can be undone."""
        return bool(self._calls)

    def is_held_elsewhere(self) -> bool:
        """Return whether another task than the calling one executes the block."""
        task = self._task
        return task is not None and not task.done() and task is not asyncio.current_task()

    def interrupt(self) -> None:
        """Cancel the task that executes the block."""
        if self._task is not None:
            self._task.cancel()

    def is_of(self, ctx: object) -> bool:
        """Return whether the saga is one of a context."""
        return self._ctx is ctx

    def takes_steps_of(self, ctx: object) -> bool:
        """Return whether a step that is called now with a context belongs to the saga; a nested step does not."""
        return self.is_of(ctx) and not is_within_step(self._run.place)

    def raise_if_ended(self) -> None:
        """Raise the error of a saga that is or will be undone: no further step of it begins."""
        if self._ends:
            raise self._error()
        if self._around is not None:
            self._around.raise_if_ended()

    def ended(self) -> Saga | None:
        """Return the innermost saga that is or will be undone, of this one and those around it."""
        if self._ends or self._around is None:
            return self if self._ends else None
        return self._around.ended()

    async def call(self, call: UndoableCall) -> Any:
        """Call a step of the saga."""
        self._calls.setdefault(call.step_id, call)
        await self._prepare(call)
        self._executing += 1
        try:
            return await call.step(call.ctx, *call.args, **call.kwargs)
        finally:
            self._executing -= 1
            if self._idle is not None and not self._executing and not self._idle.done():
                self._idle.set_result(None)

    async def _prepare(self, call: UndoableCall) -> None:
        """Write what a later run must know before the step may act."""
        run, history = self._run, self._run.steps.history
        if self.ended() is not None or run.lifecycle.replays_for is not None:
            return
        run.check()
        check_name("step id", f"{UNDO}{call.step_id}")
        sagas = run.open_sagas()
        await sagas.mark_open()
        self.raise_if_ended()
        if call.when == "began" and call.step_id not in history.outcomes and call.step_id not in history.failed:
            await sagas.begin(call.step_id)

    def adopt(self, calls: dict[str, UndoableCall]) -> None:
        """Take over the steps of a saga within this one."""
        for step_id, call in calls.items():
            self._calls.setdefault(step_id, call)

    async def leave_to(self, around: Saga) -> None:
        """Leave the steps to a saga that is to be undone, once none of them executes."""
        while self._executing:
            if self._idle is None or self._idle.done():
                self._idle = self._run.lifecycle.loop.create_future()
            await asyncio.wait([self._idle])
        around.adopt(self._calls)

    def is_to_be_undone(self, sagas: Sagas) -> bool:
        """Return whether there are steps to undo, or may be once the executing ones have ended."""
        return self._decision is not None or self._executing > 0 or bool(self._to_undo(sagas))

    # --- the block ---

    async def __aenter__(self) -> Self:
        run = self._run = await self._current()
        run.check()
        if not run.in_body or is_within_step(run.place):
            raise ConfigurationError(
                f"workflow {run.workflow_id} opens a saga outside of its function, or within a step: only the "
                "function is called again to undo the steps. Open the saga in the workflow's function."
            )
        own_id = self._name or run.steps.next_id(run.place, "saga")
        self.step_id = own_id if own_id.startswith(SAGA) else f"saga/{own_id}"  # in a clean-up
        sagas = run.open_sagas()
        outcome = run.steps.history.outcomes.get(self.step_id)
        if outcome is not None:
            self._decision = self._decoded(outcome)
            self._ends = True
        around = current_saga.get()
        if isinstance(around, Saga) and around.is_of(self._ctx):
            self._around = around
            around.inner[self] = None
        self._token = current_saga.set(self)
        self._task = asyncio.current_task()
        sagas.entered.add(self)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        current_saga.reset(self._token)
        sagas = self._run.open_sagas()
        sagas.entered.discard(self)
        if self._around is not None and not self.inner:  # else a task that was left behind is in one of these
            self._around.inner.pop(self, None)
        ended = None if self._around is None else self._around.ended()
        if ended is not None and self._decision is None:
            ended.adopt(self._calls)  # it undoes these steps, and may do so already
            return
        kind = self._kind(exc_value)
        if self._run.lifecycle.is_handed_over and self._run.lifecycle.is_ending:
            sagas.unfinished.add(self)
        if kind is None:
            self._leave(sagas, exc_value)
            return
        self._ends = True
        sagas.unfinished.add(self)
        if isinstance(exc_value, asyncio.CancelledError) and self._run.lifecycle.body.is_cancelled_outside:
            self._put_off(sagas, kind, exc_value)
            return
        if not await self._sheltered(kind, exc_value):
            return
        if isinstance(exc_value, Exception):
            mark_undone(exc_value)
        elif exc_value is None:
            self._run.check()
            raise self._error()

    def _kind(self, error: BaseException | None) -> str | None:
        """Return the reason to undo the saga whose block ends with an error; None to undo nothing."""
        lifecycle = self._run.lifecycle
        if self._is_failed_undo(error) or lifecycle.is_handed_over or not lifecycle.may_write:
            return None
        if error is None and not lifecycle.is_final:
            return None if self._decision is None else self._decision.kind
        if lifecycle.is_ending:
            reason = lifecycle.replays_for or lifecycle.stop_reason
            return "timed_out" if reason is StopReason.TIMED_OUT else "cancelled"
        return "error" if isinstance(error, Exception) and lifecycle.stop_reason is None else None

    def _is_failed_undo(self, error: BaseException | None) -> TypeGuard[SagaError]:
        """Return whether an error says that a saga of this run is not undone."""
        # That of a child is like any other error; its recorded error is of a class of its own, a subclass.
        return type(error) is SagaError and error.workflow_id == self._run.workflow_id

    def _leave(self, sagas: Sagas, error: BaseException | None) -> None:
        """Leave the steps to the saga around this one, or to a later run of a run that was released."""
        stopped = self._run.lifecycle.stop_reason is not None
        is_failed_undo = self._is_failed_undo(error)
        if self._is_failed_undo(error):
            known = {*error.left}
            error.left += [each for each in self._to_undo(sagas) if each not in known]
        if error is not None and (stopped or is_failed_undo):
            if self._calls or self._decision is not None:
                sagas.leave_open()
            if isinstance(error, Exception) and not is_failed_undo:
                self._run.check()  # the next run undoes the steps, so this run is to stop before the error ends it
        elif self._around is not None:
            self._around.adopt(self._calls)

    # --- undoing ---

    async def _sheltered(self, kind: str, error: BaseException | None) -> bool:
        """Undo the steps in a task of their own, and return whether there were any.

        The errors of the undos do not have `error` as their context, which would make them errors of the run.
        """
        run, sagas = self._run, self._run.open_sagas()
        shelter = Shelter(run.place, self.step_id)
        run.lifecycle.enter_shelter(shelter)
        task = asyncio.get_running_loop().create_task(self._unwind(shelter, kind, error), name="pgqrs-undo")
        try:
            cancelled = await self._until_done(task)
            was_undone = task.result()
        except SagaError as failed:
            sagas.unfinished.discard(self)
            if run.lifecycle.is_ending:
                sagas.failure = failed
            else:
                sagas.leave_open()
            _raise_alone(failed)
        except asyncio.CancelledError:
            self._put_off(sagas, kind, error)
            raise
        finally:
            run.lifecycle.leave_shelter(shelter)
        sagas.unfinished.discard(self)
        if cancelled is not None:
            raise cancelled
        return was_undone

    def _put_off(self, sagas: Sagas, kind: str, error: BaseException | None) -> None:
        """Leave the undos to the end of the body, if that is no crash."""
        self._go_on = functools.partial(self._sheltered, kind, error)
        sagas.interrupted.append(self)

    async def go_on(self) -> None:
        """Undo the steps after the end of the body."""
        await self._go_on()

    async def _until_done(self, task: asyncio.Task[bool]) -> asyncio.CancelledError | None:
        """Wait for the undos, and return the cancellation of the calling task that has waited for them, too.

        A task group and a timeout cancel the task, and so does the end of a process, which interrupts the undos.
        After the end of the body only the latter does.
        """
        lifecycle = self._run.lifecycle
        body = lifecycle.body
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
                is_crash = body.task is None or body.is_cancelled_outside
                if is_crash or lifecycle.is_handed_over or not lifecycle.may_write:
                    task.cancel()
        return cancelled

    async def _unwind(self, shelter: Shelter, kind: str, error: BaseException | None) -> bool:
        current_scope.set(shelter)
        run, sagas = self._run, self._run.open_sagas()
        if not self._was_undone():
            await sagas.until_replayed()
            # Else the body of a run that only replays goes on, perhaps to another saga that has steps to undo.
            if any(each.is_to_be_undone(sagas) for each in self._within(sagas)):
                run.lifecycle.settle()
        for each in self._within(sagas):
            await each.leave_to(self)
        await sagas.until_begun()
        await run.steps.wait_until_answered(list(self._calls))
        await sagas.load()
        steps = self._to_undo(sagas)
        if self._decision is None and not steps:
            return False
        await sagas.acknowledge()
        if self._decision is None:
            self._decision = await self._decide(shelter, _Decision(tuple(steps), kind, _recorded(error)))
        await self._undo_all(self._decision, sagas)
        return True

    def _within(self, sagas: Sagas) -> list[Saga]:
        """Return the saga and those within it that other tasks are in: no step of these begins any more."""
        return [self, *(each for inner in self.inner for each in inner.open_within(sagas))]

    def open_within(self, sagas: Sagas) -> list[Saga]:
        """Return the saga and those within it that tasks are in, without those that are or will be undone."""
        if self._ends:
            return []
        own = [self] if self in sagas.entered else []
        return [*own, *(each for inner in self.inner for each in inner.open_within(sagas))]

    def _was_undone(self) -> bool:
        """Return whether earlier runs have undone all steps of the saga, so that its undos only replay."""
        if self._decision is None:
            return False
        undos = map(self._run.steps.history.outcomes.get, (f"{UNDO}{each}" for each in self._decision.steps))
        return all(each is not None and each.error is None for each in undos)

    def _to_undo(self, sagas: Sagas) -> list[str]:
        """Return the ids of the steps to undo: those that only began, then those with a value, last first."""
        history = self._run.steps.history
        outcomes = history.outcomes
        began = [
            step_id
            for step_id, call in self._calls.items()
            if call.when == "began"
            and (outcome.error is not None if (outcome := outcomes.get(step_id)) else step_id in history.failed)
        ]
        recorded = [each for each in self._calls if (own := outcomes.get(each)) is not None and own.error is None]
        return [*reversed(began), *sorted(recorded, key=sagas.place, reverse=True)]

    async def _decide(self, shelter: Scope, decision: _Decision) -> _Decision:
        """Record the steps to undo and the reason, once."""
        run = self._run
        run.steps.history.asked[self.step_id] = None
        found = await run.steps.acquire(shelter, self.step_id)
        if isinstance(found, StepExecution):
            try:
                value = {"steps": list(decision.steps), "reason": decision.kind, "error": decision.error}
                codec = codec_at(run.codec, "output", run.workflow_id, self.step_id)
                text = codec.encode(value).text
            except BaseException:
                run.steps.abandon(found)
                raise
            found = await run.steps.record(found, text)
        return self._decoded(found)

    def _decoded(self, outcome: StoredOutcome) -> _Decision:
        run = self._run
        codec = codec_at(run.codec, "output", run.workflow_id, self.step_id)
        value = run.steps.value_of(self.step_id, outcome, codec)
        run.steps.history.asked[self.step_id] = None
        run.steps.history.frontier.ask(self.step_id, by_body=True)
        return _Decision(tuple(value["steps"]), value["reason"], value["error"])

    async def _undo_all(self, decision: _Decision, sagas: Sagas) -> None:
        """Undo the steps in order; raise `SagaError` for an undo that fails, and for steps that are left."""
        outcomes = self._run.steps.history.outcomes
        clock = self._run.lifecycle.clock
        left = self._timeout - sagas.age(self.step_id)
        bound = _Bound(asyncio.current_task())
        timer = clock.call_at(clock.time() + left, bound.expire)
        undone: list[str] = []
        try:
            for step_id in decision.steps:
                done = outcomes.get(f"{UNDO}{step_id}")
                if step_id not in self._calls and done is not None and done.error is None:
                    # The code calls the step no longer, and its undo is over.
                    self._run.steps.history.frontier.ask(f"{UNDO}{step_id}", by_body=False)
                    undone.append(step_id)
                    continue
                is_late = left <= 0 and f"{UNDO}{step_id}" not in outcomes
                if is_late or step_id not in self._calls:
                    problem = "the time for it has passed" if is_late else f"step {step_id!r} was not called again"
                    self._give_up(sagas, undone, problem, is_late=is_late)
                    return
                await self._calls[step_id].undo_it(outcomes.get(step_id))
                undone.append(step_id)
        except asyncio.CancelledError:
            if not bound.is_over:
                raise
            self._give_up(sagas, undone, "the time for it has passed", is_late=True)
        except Exception as error:
            if self._is_failed_undo(error):
                raise
            raise self._failed(undone, f"the undo of {self._next(undone)!r} has failed: {error}") from error
        finally:
            timer.cancel()

    def _give_up(self, sagas: Sagas, undone: list[str], problem: str, *, is_late: bool) -> None:
        """Leave the rest of the steps: a cancelled workflow ends all the same, and its record names them."""
        failed = self._failed(undone, problem)
        if not (is_late and self._run.lifecycle.is_ending):
            raise failed
        _logger.error("%s", failed, extra={"workflow_id": self._run.workflow_id, "left": failed.left})
        sagas.left = failed

    def _failed(self, undone: list[str], problem: str) -> SagaError:
        steps = () if self._decision is None else self._decision.steps
        left = steps[len(undone) :]
        return SagaError(self._run.workflow_id, self.step_id, undone, left, reason=self._reason(), problem=problem)

    def _next(self, undone: list[str]) -> str:
        steps = () if self._decision is None else self._decision.steps
        return steps[len(undone)]

    def _reason(self) -> str:
        return _REASONS["error" if self._decision is None else self._decision.kind]

    def _error(self) -> Exception:
        """Return the error for a call in a saga that is undone: the recorded one, as in the run that undid it."""
        run, decision = self._run, self._decision
        if decision is None or decision.error is None:
            return SagaUndoneError(run.workflow_id, self.step_id, self._reason())
        return load_error(decision.error, workflow_id=run.workflow_id, step_id=self.step_id)


class Cleanup:
    """A block whose steps are executed although the run has stopped: ``async with ctx.cleanup():``.

    `PyWorkflow.cleanup` creates it.
    """

    def __init__(self, current: Current, timeout: float) -> None:
        self._current = current
        self._bound = asyncio.timeout(timeout)
        self._run: Run
        self._shelter: Shelter
        self._token: Token[Scope | None]

    async def __aenter__(self) -> Self:
        run = self._run = await self._current()
        lifecycle = run.lifecycle
        place = run.place
        own_id = run.steps.next_id(place, "cleanup/")  # no step has an id with this slash
        # A body that comes here without a stop goes on afterwards, perhaps to sagas that have steps to undo.
        if isinstance(sys.exc_info()[1], _STOPS):
            lifecycle.settle()
        if not lifecycle.is_final:
            run.check()
        sagas = run.open_sagas()
        sagas.unfinished.add(self)
        self._shelter = Shelter(place, own_id)
        self._token = current_scope.set(self._shelter)
        lifecycle.enter_shelter(self._shelter)
        try:
            await sagas.acknowledge()
            await self._bound.__aenter__()
        except BaseException:
            self._leave()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._bound.__aexit__(exc_type, exc_value, traceback)
        finally:
            self._leave()
            if not self._run.lifecycle.is_handed_over:
                self._run.open_sagas().unfinished.discard(self)

    def _leave(self) -> None:
        current_scope.reset(self._token)
        self._run.lifecycle.leave_shelter(self._shelter)


class _Bound:
    """Cancels a task when its time is over."""

    __slots__ = ("_task", "is_over")

    def __init__(self, task: asyncio.Task[Any] | None) -> None:
        self._task = task
        self.is_over = False

    def expire(self) -> None:
        """Cancel the task."""
        self.is_over = True
        if self._task is not None:
            self._task.cancel()


def _recorded(error: BaseException | None) -> str | None:
    """Return the record of the error that a saga raises in a replay; it is not retried."""
    return dump_error(error, terminal=True) if isinstance(error, Exception) else None


def _raise_alone(error: BaseException) -> NoReturn:
    """Raise an error without the error that is being handled, whose steps would count as its cause."""
    try:
        raise error
    finally:
        error.__context__ = None
