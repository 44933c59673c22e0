"""The place of a task in a run: the body of the run, or the execution of a step; executions may nest."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping
from contextvars import ContextVar
from time import monotonic
from typing import Any, NamedTuple, Protocol
from weakref import ref

from sqlalchemy.ext.asyncio import AsyncSession

from pgqrs.storage.journal.futures import resolve
from pgqrs.storage.records import StartedStep
from pgqrs.storage.writes.states import StateChange
from pgqrs.storage.writes.steps import StepOutcome


# No class inherits from this protocol: `isinstance(scope, StepExecution)` would then run the slow check of the
# protocol's metaclass instead of a comparison of classes.
class Scope(Protocol):
    """A place of a task: the body of a run, which the `Run` represents, or a `StepExecution`."""

    @property
    def previous(self) -> Scope | None:
        """The scope that the task was in before, of the same or another workflow."""
        ...

    @property
    def context_key(self) -> object:
        """The object that identifies the workflow's context."""
        # Not the context: context, run and scope would form a cycle, which only the garbage collector frees.
        ...

    @property
    def run(self) -> RunScope:
        """The run of the scope."""
        ...


class RunScope(Scope, Protocol):
    """The part of a `Run` that scopes, steps and contexts use; `steps` is its `StepRunner`."""

    workflow_id: int
    epoch: int
    claim: int
    steps: Any

    def cancel(self, *, interrupt: bool) -> None:
        """End the run as cancelled, after its executing steps, or with `interrupt` by interrupting them."""
        ...

    def on_write_refused(self, error: BaseException) -> None:
        """Handle a refused write, after which the run may be unable to write anything more."""
        ...


class Retry(NamedTuple):
    """The number of failed attempts of a step, and the time of the next attempt by the clock of the run."""

    failures: int
    due: float


FIRST_ATTEMPT = Retry(0, 0.0)
"""The state of a step without failed attempts."""


class _Dependencies:
    """The waits between a step and other steps."""

    __slots__ = ("over", "waits_for")

    def __init__(self) -> None:
        self.waits_for: set[StepExecution] = set()
        self.over: asyncio.Future[None] | None = None


class StepExecution:
    """A step that a task of the run is executing.

    Attributes:
        run: The run.
        parent: The scope in the same run from which the step was called.
        previous: The scope of the calling task, of the same or another workflow.
        retry: The failed attempts, including attempts of earlier runs.
        numbers: The number of recorded times that the attempt has requested, by kind.
        interrupted: True once the run stopped within the step: its task was interrupted, or a call within the step
            raised the stop. A value or an error after that is not the outcome of the step.
        session: The session of a transactional step while its function executes.
        states: The changes of the state by this attempt, by the names of the values; None without one.
        task: The task that executes the step.
        began: The start of the step, by the monotonic clock, in seconds.
        over: True once the function of the step has ended.
    """

    __slots__ = (
        "_dependencies",
        "began",
        "context_key",
        "fingerprint",
        "interrupted",
        "numbers",
        "over",
        "parent",
        "previous",
        "retry",
        "run",
        "session",
        "states",
        "step_id",
        "task",
    )

    def __init__(
        self, run: RunScope, outer: Scope | None, parent: Scope, step_id: str, fingerprint: int | None
    ) -> None:
        self.run = run
        self.context_key = run.context_key
        self.previous = outer
        self.fingerprint = fingerprint
        self.retry = FIRST_ATTEMPT
        self.interrupted = False
        self.numbers: dict[str, int] | None = None
        self.session: AsyncSession | None = None
        self.states: dict[str, StateChange] | None = None
        self.task: asyncio.Task[Any] | ref[asyncio.Task[Any]] | None = None
        self.parent = parent
        self.step_id = step_id
        self.over = False
        self._dependencies: _Dependencies | None = None  # created on demand: few steps wait for another step
        self.began = monotonic()

    @property
    def waits_for(self) -> Collection[StepExecution]:
        """The executions that must complete before this execution can."""
        return () if self._dependencies is None else self._dependencies.waits_for

    def wait_for(self, other: StepExecution) -> None:
        """Note that this execution cannot complete before the other."""
        self._known_dependencies().waits_for.add(other)

    def wait_no_longer(self, other: StepExecution) -> None:
        """Note that this execution no longer depends on the other."""
        if self._dependencies is not None:
            self._dependencies.waits_for.discard(other)

    def _known_dependencies(self) -> _Dependencies:
        if self._dependencies is None:
            self._dependencies = _Dependencies()
        return self._dependencies

    @property
    def carrier(self) -> asyncio.Task[Any] | None:
        """The task that executes the step, or None if the task is gone."""
        return self.task() if isinstance(self.task, ref) else self.task

    @property
    def is_awaited(self) -> bool:
        """True if another task has waited for the outcome of the step."""
        return self._dependencies is not None and self._dependencies.over is not None

    def hold_task_weakly(self) -> None:
        """Keep only a weak reference to the task.

        The result of the task may be the step's guard. A strong reference would then keep the guard from being
        collected.
        """
        if self.task is not None and not isinstance(self.task, ref):
            self.task = ref(self.task)

    @property
    def started(self) -> StartedStep:
        """The identity of the step and its run, for the journal."""
        return StartedStep(self.run.workflow_id, self.run.epoch, self.step_id, self.run.claim)

    def outcome(
        self, output: str | None, error: str | None = None, kind: type[StepOutcome] = StepOutcome
    ) -> StepOutcome:
        """Return the record of the outcome: the JSON text of the value or of the error."""
        run = self.run
        return kind(
            run.workflow_id, run.epoch, self.step_id, output, error, self.began, self.fingerprint, run.claim
        )

    async def wait_until_over(self) -> None:
        """Wait until the step has an outcome or was abandoned; the caller then checks again."""
        dependencies = self._known_dependencies()
        if dependencies.over is None:
            dependencies.over = asyncio.get_running_loop().create_future()
        await asyncio.shield(dependencies.over)

    def complete(self) -> None:
        """Complete the execution and wake its waiters."""
        self.over = True
        self.task = None
        if self._dependencies is not None and self._dependencies.over is not None:
            resolve(self._dependencies.over, None)


class Shelter:
    """A place in a run where steps are executed although the run has stopped: an undo, or a clean-up.

    Args:
        parent: The scope in the run around the place.
        step_id: The beginning of the ids of the calls that are numbered in the place.

    Attributes:
        run: The run.
        parent: The scope in the run around the place.
        previous: The scope of the calling task.
        step_id: The beginning of the ids of the calls that are numbered in the place.
        numbers: The number of such calls, by kind.
        is_open: False once the place was left.
    """

    __slots__ = ("context_key", "is_open", "numbers", "parent", "previous", "run", "step_id")

    def __init__(self, parent: Scope, step_id: str) -> None:
        self.run = parent.run
        self.context_key = parent.context_key
        self.parent = parent
        self.previous = current_scope.get()
        self.step_id = step_id
        self.numbers: dict[str, int] | None = None
        self.is_open = True


def is_sheltered(scope: Scope | None) -> bool:
    """Return whether a scope is a shelter that was not left, or a step within it."""
    while isinstance(scope, StepExecution):
        scope = scope.parent
    return isinstance(scope, Shelter) and scope.is_open


def is_within_step(scope: Scope) -> bool:
    """Return whether a scope is a step, or a shelter within a step."""
    while isinstance(scope, Shelter):
        scope = scope.parent
    return isinstance(scope, StepExecution)


current_scope: ContextVar[Scope | None] = ContextVar("pgqrs_scope", default=None)
"""The innermost scope of the current task."""


def scope_of(owner: object) -> Scope | None:
    """Return the scope of the calling task in a run of the context that `owner` identifies, or None."""
    scope = current_scope.get()
    while scope is not None and scope.context_key is not owner:
        scope = scope.previous
    while isinstance(scope, StepExecution) and scope.over:
        scope = scope.parent
    return scope


def calling_scope(execution: StepExecution) -> Scope | None:
    """Return the scope in the run from which a step was called; None for a call from outside the run."""
    scope = execution.previous
    while scope is not None and scope.context_key is not execution.context_key:
        scope = scope.previous
    return None if scope is None else execution.parent


def calling_runs(live: Mapping[int, object]) -> set[int]:
    """Return the ids of the workflows in `live`, runs by workflow id, whose code the calling task executes."""
    found: set[int] = set()
    scope = current_scope.get()
    while scope is not None:
        run = scope.run
        if live.get(run.workflow_id) is run:
            found.add(run.workflow_id)
        scope = scope.previous
    return found


def is_within(run: object) -> bool:
    """Return whether the calling task executes the code of a run, directly or through a nested workflow."""
    scope = current_scope.get()
    while scope is not None and scope.run is not run:
        scope = scope.previous
    return scope is not None


def calling_body() -> RunScope | None:
    """Return the run whose body the calling task executes; None within a step and outside any run."""
    scope = current_scope.get()
    while isinstance(scope, StepExecution) and scope.over:
        scope = scope.previous
    return None if scope is None or isinstance(scope, StepExecution) else scope.run


def ancestors(scope: Scope | None) -> Iterator[StepExecution]:
    """Yield the executions that contain a scope, innermost first, including the scope itself."""
    while isinstance(scope, StepExecution):
        yield scope
        scope = scope.parent


def would_deadlock(execution: StepExecution, blocked: set[StepExecution]) -> bool:
    """Return whether an execution is in `blocked`, or cannot complete before an execution in `blocked`."""
    seen: set[StepExecution] = set()
    pending = [execution]
    while pending:
        each = pending.pop()
        if each in blocked:
            return True
        if each not in seen:
            seen.add(each)
            pending.extend(each.waits_for)
    return False


def exit_scope(execution: StepExecution) -> None:
    """Return the calling task from the execution's scope to the scope around it."""
    scope = current_scope.get()
    if scope is execution:
        execution.over = True
        while isinstance(scope, StepExecution) and scope.over:
            scope = scope.previous
        current_scope.set(scope)
