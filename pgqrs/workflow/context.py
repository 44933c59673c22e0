"""A workflow as its code sees it: the context, the steps it asks for, the guards that record them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar, cast

from sqlalchemy.ext.asyncio import AsyncSession

from pgqrs.clock import parse_seconds
from pgqrs.codecs.annotations import ReturnType
from pgqrs.codecs.base import Codec, is_typed
from pgqrs.codecs.records import value_context
from pgqrs.engine.fingerprint import fingerprint_of
from pgqrs.engine.run import Run, RunOptions, run_of
from pgqrs.engine.scope import StepExecution, scope_of
from pgqrs.engine.step_runner import StepRunner
from pgqrs.errors import (
    SessionError,
    WorkflowFinishedError,
    WorkflowInProgressError,
)
from pgqrs.storage.records import Claim, ClaimedRun, History, StoredOutcome
from pgqrs.storage.store import Store
from pgqrs.types import StepAction, WorkflowStatus
from pgqrs.validation import check_name, escaped
from pgqrs.workflow import timers as sleeping
from pgqrs.workflow.guard import ManualGuard, StepGuard, StepResult

R = TypeVar("R")

_PLAIN = RunOptions()

_NO_CALL: tuple[int | None, ReturnType | None] = None, None


class ContextHost(Protocol):
    """What a context needs of the `Admin` that made it."""

    @property
    def codec(self) -> Codec:
        """How values become text."""
        ...

    async def store(self) -> Store:
        """Return the store of the running event loop."""
        ...


class PyWorkflow:
    """One workflow: what its function and its steps are given as their first argument.

    Made by `Admin.create_workflow` and `Admin.get_workflow`. It can be run again, after an error or a crash, and
    goes on from the steps that are recorded. It may be used in one event loop at a time.

    Once its run goes on no further (it was cancelled, timed out, was fenced, lost the database, or has ended),
    each call raises `RunStopped` within the workflow's function and its steps, and the error itself anywhere else.
    """

    is_typed: bool = False
    """Whether its codec goes by types: values that are not JSON are then arguments as any other."""

    def __init__(self, host: ContextHost, workflow_id: int, name: str) -> None:
        self._host = host
        self._id = workflow_id
        self._name = name
        # Stands for this context in its runs: were it the context itself, each workflow would end as a cycle that
        # only the garbage collector can free.
        self._owner = object()
        self._run: Run | None = None
        self._starting = asyncio.Lock()
        self._is_to_run_again = False
        self._call = _NO_CALL
        if is_typed(host.codec):
            self.is_typed = True

    def id(self) -> int:
        """Return the workflow's id, unique in its schema: good for idempotency keys."""
        return self._id

    @property
    def name(self) -> str:
        """The name that the workflow was created with."""
        return self._name

    def __repr__(self) -> str:
        return f"<PyWorkflow {self._id} {self._name!r}>"

    @property
    def session(self) -> AsyncSession:
        """The session of the transactional step that is being called: what it writes commits with its outcome.

        It is on the application's engine; see `Admin`. Raises `SessionError` outside such a step.
        """
        place = scope_of(self._owner)
        session = place.session if isinstance(place, StepExecution) else None
        if session is None:
            raise SessionError(
                f"ctx.session of workflow {self._id} is there only in a step, while it is called: decorate that "
                "with `@step(transactional=True)`."
            )
        return session

    async def start(self) -> None:
        """Start a run, unless one is live in this context; any other run of the workflow is fenced.

        Raises `WorkflowNotFoundError`, `WorkflowCancelledError`, or `WorkflowFinishedError` for a workflow
        that has succeeded.
        """
        async with self._starting:
            if self._run is not None and self._run.in_body and not self._run.has_ended:
                self._run.check()
            elif (self._run is None or not self._run.live) and (await self._claim()).succeeded:
                raise WorkflowFinishedError(self._id, WorkflowStatus.SUCCESS)

    async def success(self, output: Any = None) -> None:
        """End the run: the workflow is SUCCESS, with this output.

        Raises `WorkflowFinishedError` when it has ended before, and `SerializationError` for an output that
        is not strict JSON, which is then its error.
        """
        run = await self._current()
        run.check()
        with run.lifecycle.raising_stops():
            await run.succeed(output)

    async def fail(self, error: str | BaseException) -> None:
        """End the run: the workflow is ERROR, with this error, and may be run again.

        Raises `WorkflowFinishedError` when it has ended before.
        """
        run = await self._current()
        run.check()
        with run.lifecycle.raising_stops():
            await run.fail(error)

    async def acquire_step(self, step_id: str) -> StepResult:
        """Ask what is recorded of a step, or for the right to execute it.

        `step_id` is its key in this workflow: at most 512 bytes, no NUL. It is taken as it is: one with ``:`` or
        ``/`` can be that of a step with a key, or of a recorded time. A step that another task of the run
        is executing is waited for. A context that was not started starts itself. Raises the step's recorded
        error, if that is its outcome, `InvalidNameError`, `StepCycleError` for a step that would wait for
        itself, and `WorkflowFencedError` for a stale run.
        """
        (fingerprint, returns), self._call = self._call, _NO_CALL
        check_name("step id", step_id)
        place = scope_of(self._owner)
        if place is None:
            place = await self._current()
        steps: StepRunner = place.run.steps
        codec = steps.codec
        if not steps.is_plain:
            codec, fingerprint = steps.codec_and_fingerprint(step_id, returns, fingerprint)
        found = steps.try_acquire(place, step_id, fingerprint) or await steps.acquire(place, step_id, fingerprint)
        if isinstance(found, StoredOutcome):
            if step_id in steps.asked:
                steps.on_repeated_answer(step_id, returns)
            else:
                steps.asked[step_id] = returns
            if found.error is not None:
                raise steps.replay_error(step_id, found.error)
            return StepResult(StepAction.SKIPPED, recorded=(steps, step_id, found, codec))
        steps.asked[step_id] = returns
        if returns is not None:
            return StepResult(StepAction.EXECUTE, guard=StepGuard(steps, found, codec))
        found.hold_task_weakly()
        return StepResult(StepAction.EXECUTE, guard=ManualGuard(steps, found, codec))

    def calls_with(self, fingerprint: int, returns: ReturnType) -> None:
        """Tell of the step that is acquired next, and at once, what it is called with and returns; for `@step`."""
        self._call = fingerprint, returns

    async def now(self, *, id: str | None = None) -> datetime:  # noqa: A002  # the word of the field
        """Return the time by the database's clock, aware, as a step would: a replay sees the same time.

        Recorded as ``now:1``, ``now:2``, ... in the order of the calls, or as ``now/id``: give an `id` where tasks
        call this at the same time.
        """
        step_id = _named("now", id)
        return await sleeping.now(await self._current(), step_id)

    async def sleep(self, delay: float | timedelta, *, id: str | None = None) -> None:  # noqa: A002
        """Sleep for `delay`, in seconds or as a `timedelta`, across restarts: a replay waits for what is left.

        The time to wake up is recorded as ``sleep:1``, ``sleep:2``, ... in the order of the calls, or as
        ``sleep/id``: give an `id` where tasks sleep at the same time. In a worker a workflow that sleeps for more
        than a moment, and executes no step meanwhile, is not held in memory: its function is left by a
        `BaseException`, and called again when it is time. Raises `ValueError` for a delay that is no finite
        number, or more than a century.
        """
        step_id = _named("sleep", id)
        seconds = max(0.0, parse_seconds("delay", delay))
        run = await self._current()
        fingerprint = fingerprint_of((seconds,), {})
        await sleeping.sleep(run, step_id, fingerprint, lambda now: now + timedelta(seconds=seconds))

    async def sleep_until(self, time: datetime, *, id: str | None = None) -> None:  # noqa: A002
        """Sleep until `time`, an aware datetime, by the database's clock; in everything else as `sleep`.

        Raises `ValueError` for a datetime without a time zone.
        """
        step_id = _named("sleep", id)
        if not isinstance(cast(object, time), datetime):
            raise TypeError(f"sleep_until takes a datetime, not {type(time).__name__}.")
        if time.utcoffset() is None:
            raise ValueError("sleep_until takes an aware datetime: give it a tzinfo, as in datetime.now(UTC).")
        await sleeping.sleep(await self._current(), step_id, None, lambda _now: time)

    async def _current(self) -> Run:
        """Return the run that the calling task belongs to, which may be over; start one where there is none."""
        run = run_of(self._owner)
        if run is not None:
            return run
        if self._run is None:
            await self.start()
        assert self._run is not None  # noqa: S101  # `start` made it, or raised
        return self._run

    async def _claim(self, timeout: float | None = None) -> Claim:
        """Start a run in the database and here, unless the workflow has succeeded."""
        store = await self._host.store()
        store.changing.add(self._id)
        try:
            claim = await store.claim(self._id, timeout)
            if not claim.succeeded:
                try:
                    await self._new_run(store, claim.epoch, claim.token, timeout, can_park=False)
                except BaseException:
                    store.abandon(self._id, claim.epoch, claim.token)
                    raise
        finally:
            store.changing.discard(self._id)
        return claim

    async def attach_run(self, claimed: ClaimedRun, *, can_park: bool = True, store: Store | None = None) -> None:
        """Make a run that was claimed in the database the first of this context's, which nobody else has yet.

        `can_park` tells that a worker claimed it, and will claim it again when it parks. `store` is the event
        loop's, looked up where it is not given.
        """
        store = await self._host.store() if store is None else store
        await self._new_run(store, claimed.epoch, claimed.claim, claimed.seconds_left, can_park=can_park)

    async def requeue(self, grace: float = 0.0) -> None:
        """Leave the run for another worker to go on with at once; the step that executes has `grace` seconds.

        The call of the function then raises `Parked`, unless it came to its end before. Nothing happens where no
        run is live.
        """
        run = self._run
        if run is not None and run.may_write:
            await run.requeue(grace)

    def give_up(self) -> None:
        """Leave a run that was neither ended nor left nor lost for a later claim, as after a crash."""
        if self._run is not None:
            self._run.abandon_unfinished()

    async def _new_run(self, store: Store, epoch: int, token: int, left: float | None, *, can_park: bool) -> None:
        history = History({}, {}, left)
        if epoch > 1:  # before the first run there was nobody to record anything
            history = await store.history(self._id)
        self._run = Run(
            self._owner,
            store,
            self._host.codec,
            workflow_id=self._id,
            name=self._name,
            epoch=epoch,
            claim=token,
            history=history,
            can_park=can_park,
        )

    async def _begin_body(self, options: RunOptions, *, again: bool) -> Run | Claim:
        """Return the run whose body may begin now, or the claim that tells the workflow's recorded output."""
        async with self._starting:
            if (self._run is not None and self._run.in_body) or (self._is_to_run_again and not again):
                raise WorkflowInProgressError(self._id)
            if self._run is None or not self._run.live:
                claim = await self._claim(options.timeout)
                if claim.succeeded:
                    return claim
            run = self._run
            assert run is not None  # noqa: S101  # claimed
            run.in_body = True
            return run

    async def run_body(self, body: Callable[[], Awaitable[R]], options: RunOptions = _PLAIN) -> R:
        """Run a workflow's body to the recorded end; `@workflow` calls this.

        A workflow that has succeeded returns its recorded output, and the body does not run. An `Exception`
        that leaves the body is recorded as the workflow's error, unless `options` have it tried again; any other
        exception is a crash, of which nothing is recorded. Raises `WorkflowInProgressError` when a body runs in
        this context already, `WorkflowCancelledError`, `WorkflowTimeoutError`, and `Parked`.
        """
        again = False
        while True:
            entered = await self._begin_body(options, again=again)
            if isinstance(entered, Claim):
                return cast(R, self._decoded(entered.output, options))
            entered.enter_body(options)
            try:
                entered.check()
                entered.bind_output(options)
                return cast(R, await entered.on_return(await body()))
            except BaseException as error:
                delay = await entered.on_error(error)
                if delay is None:
                    raise
            finally:
                entered.exit_body()
            if entered.replay_run is not None:
                self._run = entered.replay_run
            self._is_to_run_again = again = True
            try:
                await entered.lifecycle.clock.sleep(delay)
            finally:
                self._is_to_run_again = False

    def _decoded(self, output: str | None, options: RunOptions) -> Any:
        with value_context(self._id):
            return None if output is None else options.codec(self._host.codec, self._id).decode(output)


def _named(kind: str, name: str | None) -> str | None:
    """Return the step id of a time that was given a name, which no step and no numbered time can have."""
    if name is None:
        return None
    check_name("step id", name)
    step_id = f"{kind}/{escaped(name)}"
    check_name("step id", step_id)
    return step_id
