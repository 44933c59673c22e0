"""Where in a run a task is: in its body, or in the execution of one of its steps, which may nest."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping
from contextvars import ContextVar
from time import monotonic
from typing import Any, Protocol
from weakref import ref

from sqlalchemy.ext.asyncio import AsyncSession

from pgqrs.storage.records import StartedStep, StepOutcome


class Scope(Protocol):
    """A place where a task can be: in a run's body, which is the run, or in an `Execution`.

    It is not inherited from, so that telling an `Execution` is one look at a class.
    """

    @property
    def previous(self) -> Scope | None:
        """The scope that the task was in before, of whatever workflow."""
        ...

    @property
    def context_key(self) -> object:
        """What stands for the context whose run the place is in."""
        ...

    @property
    def run(self) -> RunScope:
        """The run that the place is in."""
        ...


class RunScope(Scope, Protocol):
    """A run, as its steps see it, and as the context does, which takes its `steps` for what they are."""

    workflow_id: int
    epoch: int
    claim: int
    steps: Any

    def cancel(self, *, interrupt: bool) -> None:
        """End the run as cancelled, after the steps that execute, or interrupting them."""
        ...

    def on_write_refused(self, error: BaseException) -> None:
        """Take in that a write was refused, which may mean that the run can write nothing more."""
        ...


class StepExecution:
    """A step that is being executed; `parent` is the place in the same run that it was called from.

    `failures` counts its failed attempts, those of earlier runs too, and `due` is when the next one is, by
    the run's clock. `numbers` counts the times that its attempt has asked for, by kind. `interrupted` tells that
    the run stopped within it: its task was interrupted, or a call in it was told of the stop. Nothing that it
    makes afterwards is its outcome. `session` is that of a transactional step, while its function is being called.
    `task` carries it out.
    """

    __slots__ = (
        "_settled",
        "_waits_for",
        "began",
        "context_key",
        "due",
        "failures",
        "fingerprint",
        "interrupted",
        "numbers",
        "over",
        "parent",
        "previous",
        "run",
        "session",
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
        self.failures = 0
        self.due = 0.0
        self.interrupted = False
        self.numbers: dict[str, int] | None = None
        self.session: AsyncSession | None = None
        self.task: asyncio.Task[Any] | ref[asyncio.Task[Any]] | None = None
        self.parent = parent
        self.step_id = step_id
        self.over = False
        self._waits_for: set[StepExecution] | None = None  # made when there is one: few steps wait for another
        self.began = monotonic()
        self._settled: asyncio.Future[None] | None = None

    @property
    def waits_for(self) -> Collection[StepExecution]:
        """The executions that must settle before this one can."""
        return self._waits_for or ()

    def wait_for(self, other: StepExecution) -> None:
        """Note that this execution cannot settle before the other."""
        if self._waits_for is None:
            self._waits_for = set()
        self._waits_for.add(other)

    def wait_no_longer(self, other: StepExecution) -> None:
        """Note that it does not depend on the other any more."""
        if self._waits_for:
            self._waits_for.discard(other)

    @property
    def carrier(self) -> asyncio.Task[Any] | None:
        """The task that carries it out, while that lives."""
        return self.task() if isinstance(self.task, ref) else self.task

    def hold_task_weakly(self) -> None:
        """Let the task go when nothing else needs it: its result may be the guard, which would never be let go."""
        if self.task is not None and not isinstance(self.task, ref):
            self.task = ref(self.task)

    @property
    def started(self) -> StartedStep:
        """Which step it is, of which run."""
        return StartedStep(self.run.workflow_id, self.run.epoch, self.step_id, self.run.claim)

    def outcome(self, output: str | None, error: str | None = None) -> StepOutcome:
        """Return the record of its end: the JSON text of its value, or of its error."""
        run = self.run
        return StepOutcome(
            run.workflow_id, run.epoch, self.step_id, output, error, self.elapsed(), self.fingerprint, run.claim
        )

    def elapsed(self) -> float:
        """Return how long the step has been executing, in seconds."""
        return monotonic() - self.began

    async def wait_settled(self) -> None:
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


current_scope: ContextVar[Scope | None] = ContextVar("pgqrs_scope", default=None)
"""The scope of the current task."""


def scope_of(owner: object) -> Scope | None:
    """Return where in a run of `owner`, which stands for a context, the calling task is, if it is in one."""
    scope = current_scope.get()
    while scope is not None and scope.context_key is not owner:
        scope = scope.previous
    while isinstance(scope, StepExecution) and scope.over:
        scope = scope.parent
    return scope


def calling_scope(execution: StepExecution) -> Scope | None:
    """Return the place in its run that a step was called from, None for a call in no body and no step of it."""
    scope = execution.previous
    while scope is not None and scope.context_key is not execution.context_key:
        scope = scope.previous
    return None if scope is None else execution.parent


def calling_runs(live: Mapping[int, object]) -> set[int]:
    """Return the ids of those workflows in whose code the calling task is that are `live`: runs by their ids."""
    found: set[int] = set()
    scope = current_scope.get()
    while scope is not None:
        run = scope.run
        if live.get(run.workflow_id) is run:
            found.add(run.workflow_id)
        scope = scope.previous
    return found


def is_within(run: object) -> bool:
    """Tell whether the calling task is in the code of a run, or of a run that this one's code called."""
    scope = current_scope.get()
    while scope is not None and scope.run is not run:
        scope = scope.previous
    return scope is not None


def calling_body() -> RunScope | None:
    """Return the run whose body the calling task is in, and not in one of its steps; None elsewhere."""
    scope = current_scope.get()
    while isinstance(scope, StepExecution) and scope.over:
        scope = scope.previous
    return None if scope is None or isinstance(scope, StepExecution) else scope.run


def ancestors(scope: Scope | None) -> Iterator[StepExecution]:
    """Yield the executions that a scope is in, innermost first."""
    while isinstance(scope, StepExecution):
        yield scope
        scope = scope.parent


def would_deadlock(execution: StepExecution, blocked: set[StepExecution]) -> bool:
    """Tell whether an execution is one of `blocked`, or cannot settle before one of them."""
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
    """Take the calling task out of the execution's scope."""
    scope = current_scope.get()
    if scope is execution:
        execution.over = True
        while isinstance(scope, StepExecution) and scope.over:
            scope = scope.previous
        current_scope.set(scope)
