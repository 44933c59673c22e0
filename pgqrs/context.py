"""A workflow as its code sees it: the context, the steps it asks for, the guards that record them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol, TypeVar, cast

from pgqrs.errors import GuardUsedError, SerializationError, WorkflowFinishedError, WorkflowInProgressError
from pgqrs.failures import is_terminal
from pgqrs.names import check_name
from pgqrs.run import Execution, Run, scope_of
from pgqrs.serialization import Codec
from pgqrs.storage.store import Store
from pgqrs.types import Claim, Outcome, StepAction, WorkflowStatus

R = TypeVar("R")


class Host(Protocol):
    """What a context needs of the `Admin` that made it."""

    @property
    def codec(self) -> Codec:
        """How values become text."""
        ...

    async def store(self) -> Store:
        """Return the store of the running event loop."""
        ...


class StepGuard:
    """The right and the duty to record what came of a step: `success` or `fail`, once."""

    __slots__ = ("_execution", "_run", "_state")

    def __init__(self, run: Run, execution: Execution) -> None:
        self._run = run
        self._execution = execution
        self._state: Literal["open", "refused", "used"] = "open"

    async def success(self, value: Any = None) -> Any:
        """Record the step's value and return it as a replay will see it, once it is committed.

        A value that is not strict JSON is recorded as the step's terminal error and raises
        `SerializationError`. Raises `GuardUsedError` on a second use, and `WorkflowFencedError` when the
        workflow was started again elsewhere: then nothing is recorded.
        """
        self._use()
        run, step_id = self._run, self._execution.step_id
        try:
            encoded = run.codec.encode(value)
        except SerializationError as error:
            self._state = "refused"
            refused = error.of(workflow_id=run.workflow_id, step_id=step_id)
            await run.fail_step(self._execution, refused, terminal=True)
            raise refused from error
        recorded = await run.record(self._execution, encoded.text)
        if recorded.output is encoded.text:
            return encoded.value
        return _answer(run, step_id, recorded).value

    async def fail(self, error: str | BaseException, *, transient: bool | None = None) -> None:
        """Record the step's error.

        A text is a terminal error unless `transient` is true. An exception is classified by its class unless
        `transient` says it. After a `success` whose value was refused this does nothing: that error is
        recorded already. Raises as `success` does.
        """
        if self._state == "refused":
            return
        self._use()
        if transient is None:
            transient = isinstance(error, BaseException) and not is_terminal(error)
        await self._run.fail_step(self._execution, error, terminal=not transient)

    def abandon(self, *, interrupted: bool = False) -> None:
        """Give the step up without an outcome, as a crash would: the next caller executes it.

        `interrupted` says that a cancellation ended it, so that a run which goes on all the same is warned.
        """
        if self._state == "open":
            self._state = "used"
            self._run.give_up(self._execution, interrupted=interrupted)

    def _use(self) -> None:
        if self._state != "open":
            raise GuardUsedError(self._run.workflow_id, self._execution.step_id)
        self._state = "used"


class StepResult:
    """What `PyWorkflow.acquire_step` found.

    `status` equals ``"SKIPPED"``, and `value` is the recorded value; or it equals ``"EXECUTE"``, and `guard`
    takes the outcome.
    """

    __slots__ = ("_codec", "_output", "guard", "status")

    def __init__(
        self,
        status: StepAction,
        *,
        guard: StepGuard | None = None,
        output: str | None = None,
        codec: Codec | None = None,
    ) -> None:
        self.status = status
        # Any, for the caller looks at `status` and not at whether there is a guard.
        self.guard: Any = guard
        self._output = output
        self._codec = codec

    @property
    def value(self) -> Any:
        """The recorded value, decoded anew at each reading; None where the step is to be executed."""
        if self._output is None or self._codec is None:
            return None
        return self._codec.decode(self._output)

    def __repr__(self) -> str:
        return f"<StepResult {self.status}>"


def _answer(run: Run, step_id: str, outcome: Outcome) -> StepResult:
    if outcome.error is not None:
        raise run.replayed(step_id, outcome.error)
    return StepResult(StepAction.SKIPPED, output=outcome.output, codec=run.codec)


class PyWorkflow:
    """One workflow: what its function and its steps are given as their first argument.

    Made by `Admin.create_workflow` and `Admin.get_workflow`. It can be run again, after an error or a crash, and
    goes on from the steps that are recorded. It may be used in one event loop at a time.
    """

    def __init__(self, host: Host, workflow_id: int, name: str) -> None:
        self._host = host
        self._id = workflow_id
        self._name = name
        # Stands for this context in its runs: were it the context itself, each workflow would end as a cycle that
        # only the garbage collector can free.
        self._owner = object()
        self._run: Run | None = None
        self._starting = asyncio.Lock()

    def id(self) -> int:
        """Return the workflow's id, unique in its schema: good for idempotency keys."""
        return self._id

    @property
    def name(self) -> str:
        """The name that the workflow was created with."""
        return self._name

    def __repr__(self) -> str:
        return f"<PyWorkflow {self._id} {self._name!r}>"

    async def start(self) -> None:
        """Start a run, unless one is live in this context; any other run of the workflow is fenced.

        Raises `WorkflowNotFoundError`, `WorkflowCancelledError`, or `WorkflowFinishedError` for a workflow
        that has succeeded.
        """
        async with self._starting:
            if (self._run is None or not self._run.live) and (await self._claim()).succeeded:
                raise WorkflowFinishedError(self._id, WorkflowStatus.SUCCESS)

    async def success(self, output: Any = None) -> None:
        """End the run: the workflow is SUCCESS, with this output.

        Raises `WorkflowFinishedError` when it has ended before, and `SerializationError` for an output that
        is not strict JSON, which is then its error.
        """
        await (await self._current()).succeed(output)

    async def fail(self, error: str | BaseException) -> None:
        """End the run: the workflow is ERROR, with this error, and may be run again.

        Raises `WorkflowFinishedError` when it has ended before.
        """
        await (await self._current()).fail(error)

    async def acquire_step(self, step_id: str) -> StepResult:
        """Ask what is recorded of a step, or for the right to execute it.

        `step_id` is its key in this workflow: at most 512 bytes, no NUL. A step that another task of the run
        is executing is waited for. A context that was not started starts itself. Raises the step's recorded
        error, if that is its outcome, `InvalidNameError`, `StepCycleError` for a step that would wait for
        itself, and `WorkflowFencedError` for a stale run.
        """
        check_name("step id", step_id)
        scope = scope_of(self._owner)
        run = await self._current() if scope is None else scope.run
        found = await run.acquire(step_id)
        if isinstance(found, Outcome):
            return _answer(run, step_id, found)
        return StepResult(StepAction.EXECUTE, guard=StepGuard(run, found))

    async def _current(self) -> Run:
        """Return the run that the calling task belongs to, which may be over; start one where there is none."""
        scope = scope_of(self._owner)
        if scope is not None:
            return scope.run
        if self._run is None:
            await self.start()
        assert self._run is not None  # noqa: S101  # `start` made it, or raised
        return self._run

    async def _claim(self) -> Claim:
        """Start a run in the database and here, unless the workflow has succeeded."""
        store = await self._host.store()
        claim = await store.claim(self._id)
        if not claim.succeeded:
            # Before the first run there was nobody to record anything.
            outcomes = {} if claim.epoch == 1 else await store.outcomes(self._id)
            self._run = Run(
                self._owner, store, self._host.codec, workflow_id=self._id, epoch=claim.epoch, outcomes=outcomes
            )
        return claim

    async def _enter(self) -> Run | Claim:
        """Return the run whose body may begin now, or the claim that tells the workflow's recorded output."""
        async with self._starting:
            if self._run is not None and self._run.in_body:
                raise WorkflowInProgressError(self._id)
            if self._run is None or not self._run.live:
                claim = await self._claim()
                if claim.succeeded:
                    return claim
            run = self._run
            assert run is not None  # noqa: S101  # claimed
            run.in_body = True
            return run

    async def run_body(self, body: Callable[[], Awaitable[R]]) -> R:
        """Run a workflow's body to the recorded end; `@workflow` calls this.

        A workflow that has succeeded returns its recorded output, and the body does not run. An `Exception`
        that leaves the body is recorded as the workflow's error; any other exception is a crash, of which
        nothing is recorded. Raises `WorkflowInProgressError` when a body runs in this context already.
        """
        entered = await self._enter()
        if isinstance(entered, Claim):
            return cast(R, self._decoded(entered.output))
        with entered.inside():
            try:
                result = await body()
            except Exception as error:
                if entered.over is None and error is not entered.lost:
                    await entered.fail(error)
                raise
            except BaseException:
                entered.crash()
                raise
            return cast(R, await entered.succeed(result))

    def _decoded(self, output: str | None) -> Any:
        return None if output is None else self._host.codec.decode(output)
