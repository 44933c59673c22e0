"""One run of a workflow, from its start to its end: what is recorded, what executes, what is lost."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from time import monotonic

from pgqrs.errors import (
    DatabaseError,
    DatabaseUnavailableError,
    PgqrsError,
    RunEndedError,
    SerializationError,
    StepCycleError,
    WorkflowFinishedError,
)
from pgqrs.failures import dump_error, is_terminal, load_error
from pgqrs.serialization import Codec
from pgqrs.storage.journal import settle
from pgqrs.storage.store import Store
from pgqrs.trace import FailureTrace, RaisedBy
from pgqrs.types import Outcome, RunEnd, StepOutcome, StepStarted, WorkflowStatus

_logger = logging.getLogger("pgqrs")


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
    """A step that is being executed; `parent` is the place in the same run that it was called from."""

    __slots__ = ("_run", "_settled", "_waits_for", "began", "over", "parent", "started", "step_id")

    def __init__(self, run: Run, outer: Scope | None, parent: Scope, step_id: str) -> None:
        super().__init__(outer)
        self._run = run
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

    `owner` stands for the context whose run it is. `over` is why no further step may begin: the run has ended.
    `lost` is why nothing more can be written: it was fenced, or the database stayed away; every later call raises
    it, so an ``except Exception`` of the workflow's cannot carry a lost run on.
    """

    def __init__(
        self,
        owner: object,
        store: Store,
        codec: Codec,
        *,
        workflow_id: int,
        epoch: int,
        outcomes: dict[str, Outcome],
    ) -> None:
        super().__init__()
        self.owner = owner
        self.workflow_id = workflow_id
        self.epoch = epoch
        self.codec = codec
        self.over: PgqrsError | None = None
        self.lost: PgqrsError | None = None
        self.in_body = False
        self._store = store
        self._outcomes = outcomes
        self._executions: dict[str, Execution] = {}
        self._trace = FailureTrace()
        self._interrupted: set[str] = set()

    @property
    def run(self) -> Run:
        """The run itself: its body is the outermost place in it."""
        return self

    @property
    def live(self) -> bool:
        """Whether the run has neither ended nor been lost."""
        return self.over is None and self.lost is None

    def check(self) -> None:
        """Raise why the run may not go on, if it may not."""
        self._check_not_lost()
        if self.over is not None:
            raise self.over

    def _check_not_lost(self) -> None:
        if self.lost is not None:
            raise self.lost

    @contextmanager
    def inside(self) -> Generator[None]:
        """Make the calling task one of this run's, and so the tasks that it starts."""
        before = self.outer = _here.get()
        _here.set(self)
        self.in_body = True
        try:
            yield
        finally:
            self.in_body = False
            _here.set(before)

    async def acquire(self, step_id: str) -> Execution | Outcome:
        """Return the step's recorded outcome, or the execution that is now the caller's to carry out.

        A step that another task is executing is waited for. Raises `StepCycleError` where that could not end.
        """
        scope = scope_of(self.owner) or self
        while True:
            self.check()
            outcome = self._outcomes.get(step_id)
            if outcome is not None:
                return outcome
            execution = self._executions.get(step_id)
            if execution is None:
                return self._begin(step_id, scope)
            await self._wait(execution, scope)

    def _begin(self, step_id: str, scope: Scope) -> Execution:
        self._trace.step_began()
        self._interrupted.discard(step_id)
        self._warn_of_interrupted()
        execution = self._executions[step_id] = Execution(self, _here.get(), scope, step_id)
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

    def replayed(self, step_id: str, error: str) -> Exception:
        """Return the recorded error as the exception to raise."""
        replay = load_error(error, workflow_id=self.workflow_id, step_id=step_id)
        self._note(replay, step_id, scope_of(self.owner) or self, transient=not is_terminal(replay))
        return replay

    def _note(self, error: BaseException, step_id: str, scope: Scope, *, transient: bool) -> None:
        within = tuple(each.step_id for each in _enclosing(scope))
        self._trace.note(error, RaisedBy(step_id, transient, within))

    async def fail_step(self, execution: Execution, error: str | BaseException, *, terminal: bool) -> None:
        """Record the step's error, unless the body has left: then a straggler's error is nobody's."""
        # A text mostly stands for the exception that is being handled, and that is what may leave the body.
        raised = error if isinstance(error, BaseException) else sys.exception()
        if raised is not None:
            self._note(raised, execution.step_id, execution.parent, transient=not terminal)
        if self.over is not None:
            self.give_up(execution)
            return
        if not terminal:
            self._trace.recorded(execution.step_id)
        await self.record(execution, None, dump_error(error, terminal=terminal))

    async def record(self, execution: Execution, output: str | None, error: str | None = None) -> Outcome:
        """Record the JSON text of the step's value, or of its error, and return what is recorded."""
        self._store.marks.ended(execution.started)
        record = StepOutcome(*execution.started, output, error, execution.elapsed())
        try:
            self._check_not_lost()
            if self._store.is_full:
                await self._store.room()
        except BaseException:
            self.give_up(execution)
            raise
        recorded: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._store.record(record, partial(self._take_in, execution, recorded))
        self._leave(execution)
        return await recorded

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

    def give_up(self, execution: Execution, *, interrupted: bool = False) -> None:
        """End an execution without an outcome, as a crash would; another caller may take it on."""
        if interrupted:
            self._interrupted.add(execution.step_id)
        self._store.marks.ended(execution.started)
        self._leave(execution)
        self._settle(execution)

    def _leave(self, execution: Execution) -> None:
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
        self.check()
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
        self.check()
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
        self.over = WorkflowFinishedError(self.workflow_id, status)
        try:
            await self._store.end(RunEnd(self.workflow_id, self.epoch, output, error, reopen))
        except PgqrsError as lost:
            self._lose(lost)
            raise

    def crash(self) -> None:
        """Leave the run without an end: nothing is recorded, and the next start goes on from its steps."""
        if self.over is None:
            self.over = RunEndedError(self.workflow_id)
