"""`PyWorkflow`, the context by which a workflow's code starts runs, acquires steps and sleeps."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Concatenate, NoReturn, ParamSpec, Protocol, TypeVar, TypeVarTuple, cast, overload
from weakref import ref

from sqlalchemy.ext.asyncio import AsyncSession

from pgqrs.codecs.annotations import ReturnType
from pgqrs.codecs.base import Codec, is_typed
from pgqrs.codecs.records import ValueContext
from pgqrs.engine.parking import RunWorker
from pgqrs.engine.replay.fingerprint import fingerprint_of
from pgqrs.engine.run import Run, RunOptions, run_of
from pgqrs.engine.scope import StepExecution, current_scope, scope_of
from pgqrs.engine.step_runner import StepRunner
from pgqrs.errors import (
    PgqrsError,
    SessionError,
    WorkflowFinishedError,
    WorkflowInProgressError,
)
from pgqrs.retry import RetryPolicy
from pgqrs.storage.records import Claim, ClaimedRun, History, StoredOutcome
from pgqrs.storage.states.repository import StateOwner, StateRepository
from pgqrs.storage.store import Store
from pgqrs.storage.writes.attributes import given_attributes
from pgqrs.types import StepAction, Until, WorkflowStatus
from pgqrs.validation import check_name, escaped, parse_seconds, validate_positive_int, validate_seconds
from pgqrs.workflow import timers as sleeping
from pgqrs.workflow.children import (
    Child,
    ChildGroup,
    Children,
    Many,
    OnEnd,
    as_completed,
    child_options,
    gather,
)
from pgqrs.workflow.code_changes import patched
from pgqrs.workflow.compensation import CLEANUP_TIMEOUT, UNDO_TIMEOUT, Cleanup, Saga
from pgqrs.workflow.continuation import continue_as_new
from pgqrs.workflow.definition import definition_of
from pgqrs.workflow.guard import ManualGuard, StepGuard, StepResult
from pgqrs.workflow.messaging.messages import NO_DEFAULT, Receivable, Topic
from pgqrs.workflow.messaging.sending import send, set_attributes, set_event
from pgqrs.workflow.select import Branch, Event, Receive, select, wait_for
from pgqrs.workflow.states import WorkflowState
from pgqrs.workflow.steps import Errors, StepCall, call_body

D = TypeVar("D")
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_PLAIN = RunOptions()


class ContextHost(Protocol):
    """The part of an `Admin` that its contexts use."""

    @property
    def codec(self) -> Codec:
        """The codec of inputs, outcomes and errors."""
        ...

    async def store(self) -> Store:
        """Return the store of the running event loop."""
        ...


class _Owner:
    """Identifies a context to its runs, and does not keep it alive."""

    __slots__ = ("_context", "_parts", "scheduled_for", "state_owner")

    def __init__(self, context: PyWorkflow, host: ContextHost, workflow_id: int, name: str) -> None:
        self._context = ref(context)
        self._parts = host, workflow_id, name
        self.scheduled_for: datetime | None = None
        self.state_owner: StateOwner | None = None

    def context(self) -> PyWorkflow:
        """Return the context; a context of the same runs if a task has outlived it."""
        found = self._context()
        if found is None:
            found = PyWorkflow(*self._parts, owner=self)
            self._context = ref(found)
        return found


class PyWorkflow:
    """The context of one workflow, and the first argument of the workflow's function and its steps.

    `Admin.create_workflow`, `Admin.get_workflow` and `Admin.resume_workflow` return contexts; `Admin.run` and
    workers create them. A context can run its workflow again after an error or a crash: the new run replays the
    recorded steps. One event loop at a time may use a context.

    A run stops when it is cancelled, passes its deadline, is fenced, loses the database, is released for a later
    claim, or has ended. Then each call on the context raises `RunStopped` within the workflow's function and its
    steps. Elsewhere each call raises the error itself, such as `WorkflowCancelledError`.
    """

    is_typed: bool = False
    """True for a typed codec, which accepts arguments that are not JSON."""

    def __init__(
        self,
        host: ContextHost,
        workflow_id: int,
        name: str,
        token: int | None = None,
        *,
        timeout: float | None = None,
        scheduled_for: datetime | None = None,
        owner: _Owner | None = None,
        worker: RunWorker | None = None,
    ) -> None:
        self._host = host
        # Of the runs that this context claims itself.
        self._worker = worker
        # In place of the timeout of `@workflow`; None to keep that one.
        self._timeout = timeout
        self._id = workflow_id
        self._token = token
        self._name = name
        # The runs refer to this object in place of the context. A reference to the context itself would make each
        # finished workflow a reference cycle, which only the garbage collector can free.
        self._owner = _Owner(self, host, workflow_id, name) if owner is None else owner
        if scheduled_for is not None:
            self._owner.scheduled_for = scheduled_for
        self._run: Run | None = None
        self._starting = asyncio.Lock()
        self._is_executing = False
        if is_typed(host.codec):
            self.is_typed = True

    def id(self) -> int:
        """Return the id of the workflow.

        The id suits idempotency keys of external services.

        Returns:
            The id, unique in the schema.
        """
        return self._id

    @property
    def name(self) -> str:
        """The name of the workflow."""
        return self._name

    @property
    def scheduled_for(self) -> datetime | None:
        """The time for which a schedule has started the workflow, aware and in UTC; None for any other workflow.

        It is the same in each run. With `jitter`, or after an outage, the workflow starts later.
        """
        return self._owner.scheduled_for

    def __repr__(self) -> str:
        return f"<PyWorkflow {self._id} {self._name!r}>"

    @property
    def state(self) -> WorkflowState:
        """The state of the partition key of this workflow: values by name that its later workflows find."""
        return WorkflowState(self._current, self._partition_key)

    @property
    def session(self) -> AsyncSession:
        """The session of the executing transactional step, whose writes commit together with the step's outcome.

        The `sessionmaker` of the `Admin` creates the session, one for each attempt of the step.

        Raises:
            SessionError: No transactional step of this workflow executes in the calling task.
        """
        place = scope_of(self._owner)
        session = place.session if isinstance(place, StepExecution) else None
        if session is None:
            raise SessionError(
                f"`ctx.session` of workflow {self._id} is available only while a transactional step executes: "
                "decorate the step with `@step(transactional=True)`."
            )
        return session

    @property
    def attempt(self) -> int:
        """The number of the current attempt, from 1: of the executing step, or of the workflow's function.

        In a step it is the attempt of the innermost step that the calling task executes, by the count of its retry
        policy: the failed attempts that are recorded, in this run and in earlier runs, and one. In the workflow's
        function outside its steps it is the attempt by the retry policy of the workflow. An attempt that a crash
        has ended does not count.

        Raises:
            PgqrsError: The calling task executes neither the workflow's function nor a step of it.
        """
        place = scope_of(self._owner)
        if isinstance(place, StepExecution):
            return place.retry.failures + 1
        run = run_of(self._owner)
        if run is None:
            raise PgqrsError(
                f"`ctx.attempt` of workflow {self._id} is available only in the workflow's function and its steps."
            )
        return run.attempt

    @overload
    def step(
        self,
        name: str,
        body: Callable[[], Awaitable[Any]],
        *,
        returns: type[R],
        key: object = None,
        numbered: bool = False,
        terminal: Errors = (),
        transient: Errors = (),
        retry: int | RetryPolicy | None = None,
        timeout: float | timedelta | None = None,
    ) -> Coroutine[Any, Any, R]: ...

    @overload
    def step(
        self,
        name: str,
        body: Callable[[], Awaitable[R]],
        *,
        key: object = None,
        numbered: bool = False,
        terminal: Errors = (),
        transient: Errors = (),
        retry: int | RetryPolicy | None = None,
        timeout: float | timedelta | None = None,
    ) -> Coroutine[Any, Any, R]: ...

    @overload
    def step(
        self,
        name: str,
        body: Callable[[], Awaitable[Any]],
        *,
        returns: object,
        key: object = None,
        numbered: bool = False,
        terminal: Errors = (),
        transient: Errors = (),
        retry: int | RetryPolicy | None = None,
        timeout: float | timedelta | None = None,
    ) -> Coroutine[Any, Any, Any]: ...

    def step(
        self,
        name: str,
        body: Callable[[], Awaitable[Any]],
        *,
        returns: object = None,
        key: object = None,
        numbered: bool = False,
        terminal: Errors = (),
        transient: Errors = (),
        retry: int | RetryPolicy | None = None,
        timeout: float | timedelta | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Call a function without arguments as a step: ``await ctx.step("fetch", lambda: client.fetch(url))``.

        The step is that of a function with `@step`: its outcome is recorded under its id, and a replay returns the
        outcome without a call of the function. Without a key and `numbered`, a second call of this name replays
        the outcome of the first call. If the functions have captured other values, a warning is logged, or
        `StepMismatchError` is raised in a strict workflow.

        Args:
            name: The id of the step, without ``:`` and ``/``.
            body: An ``async def`` or a lambda without arguments that returns an awaitable. For blocking code use
                ``@step(thread=True)``.
            returns: The type with which a typed codec encodes and decodes the value. By default the annotated
                return type of `body`, and of a lambda `Any`.
            key: A value that distinguishes calls of this name: the step id becomes ``name:key``. The types are
                those of the key of `@step`.
            numbered: Whether each call is a step of its own, as with `@step`: the step ids become ``/name:1``,
                ``/name:2``, ... in the order of the calls of `ctx.step`, whatever the order in which they are
                awaited. False by default.
            terminal: Exception classes that are terminal for this step; see `@step`.
            transient: Exception classes that are transient for this step.
            retry: A number of attempts, or a `RetryPolicy`; no retries by default.
            timeout: Seconds, or a `timedelta`, that bound each attempt; no timeout by default.

        Returns:
            A coroutine of the value in its recorded form.

        Raises:
            TypeError: `body` is not a function. The coroutine raises it for a `body` that returns no awaitable.
            InvalidNameError: The name is invalid, or the key has another type.
            ConfigurationError: A number is out of range. The coroutine raises the errors of a step.
        """
        return call_body(
            self,
            name,
            body,
            key=key,
            numbered=numbered,
            errors=(terminal, transient),
            retry=retry,
            timeout=timeout,
            returns=returns,
        )

    def call_numbered(self, step_id: str, call: Callable[[str], StepCall]) -> StepCall:
        """Return the call of a numbered step; `step` and `@step` call this method.

        Args:
            step_id: The id of the step, without the number.
            call: Returns the call of the step of an id.

        Returns:
            The call of the step with the next number in the calling scope.
        """
        place = scope_of(self._owner) or self._run
        if place is not None:
            return call(place.run.steps.next_id(place, f"/{step_id}"))

        async def first(ctx: PyWorkflow, /, *args: Any, **kwargs: Any) -> Any:
            await self._current()
            return await self.call_numbered(step_id, call)(ctx, *args, **kwargs)

        return first

    @overload
    async def start(self) -> None: ...

    @overload
    async def start(
        self,
        workflow: Callable[Concatenate[PyWorkflow, P], Awaitable[R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Child[R]: ...

    async def start(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[misc]  # mypy wants `workflow` by name, too
        """Start a child for a worker to run; or, without arguments, a run of this workflow by hand.

        A child is a workflow of its own, in the queue of this workflow. ``await child`` waits for its end and
        returns its output; a worker parks a workflow that only waits. The child is found by this step, so a replay
        has the same child. When this workflow ends, a child that lives is cancelled; `options` can change that.

        A run by hand fences every earlier run. The methods of a context call `start` when they need a run, unless
        this context already has a live run.

        Args:
            *args: A function decorated with `@workflow`, and its positional arguments after the context. Nothing
                for a run by hand.
            **kwargs: Keyword arguments of the function.

        Returns:
            The child; None for a run by hand.

        Raises:
            TypeError: `workflow` is not decorated with `@workflow`, or does not accept the arguments.
            SerializationError: The codec cannot encode the arguments.
            WorkflowNotFoundError: No workflow has the id of this context, or the workflow was lost and another
                workflow has its id. This and the following errors are those of a run by hand.
            WorkflowCancelledError: The workflow is cancelled.
            WorkflowFinishedError: The workflow has succeeded.
            WorkflowLockedError: Another live executor runs the workflow.
            CodecMismatchError: The workflow is written with another codec.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        if args:
            return await self.options().start(*args, **kwargs)
        await self._start_run()
        return None

    async def _start_run(self) -> None:
        async with self._starting:
            if self._run is not None and self._run.in_body and not self._run.has_ended:
                self._run.check()
            elif (self._run is None or not self._run.live) and (await self._claim()).succeeded:
                raise WorkflowFinishedError(self._id, WorkflowStatus.SUCCESS)

    async def success(self, output: Any = None) -> None:
        """End the run by hand with SUCCESS and an output.

        Args:
            output: The output of the workflow; None by default.

        Raises:
            WorkflowFinishedError: The run has ended before.
            SerializationError: The codec cannot encode `output`. This error is then recorded, and the workflow
                ends as ERROR.
            RunStopped: The run has stopped; raised within the workflow's function and its steps. Elsewhere the
                error of the run is raised, such as `WorkflowFencedError`.
        """
        run = await self._current()
        run.check()
        with run.lifecycle.raising_stops():
            await run.succeed(output)

    async def fail(self, error: str | BaseException) -> None:
        """End the run by hand with ERROR; the workflow can run again.

        Args:
            error: The error of the workflow, as an exception or as a text.

        Raises:
            WorkflowFinishedError: The run has ended before.
            RunStopped: The run has stopped; raised within the workflow's function and its steps. Elsewhere the
                error of the run is raised, such as `WorkflowFencedError`.
        """
        run = await self._current()
        run.check()
        with run.lifecycle.raising_stops():
            await run.fail(error)

    async def acquire_step(self, step_id: str) -> StepResult:
        """Replay the recorded outcome of a step, or acquire the right to execute it.

        If another task of the run executes the step, this method waits for the outcome. If the context has no run,
        this method starts one.

        Args:
            step_id: The id of the step in this workflow: at most 512 bytes of UTF-8, without NUL. The id is used
                unchanged, so an id with ``:`` or ``/`` may equal the id of a keyed step or of a recorded time.

        Returns:
            A result with the recorded value (``"SKIPPED"``), or with a guard that records the outcome
            (``"EXECUTE"``).

        Raises:
            InvalidNameError: The id cannot be stored.
            StepFailedError: The recorded outcome of the step is an error. The raised error is also an instance of
                the original class.
            StepCycleError: The step would wait for itself.
            StepMismatchError: The workflow is strict, and the recorded outcome belongs to a call with other
                arguments.
            RunStopped: The run has stopped; raised within the workflow's function and its steps. Elsewhere the
                error of the run is raised, such as `WorkflowFencedError`.
        """
        return await self.acquire_call(step_id)

    async def acquire_call(
        self, step_id: str, fingerprint: int | None = None, returns: ReturnType | None = None
    ) -> StepResult:
        """Acquire a step as `acquire_step` does, for a known call; `@step` calls this method.

        Args:
            step_id: The id of the step.
            fingerprint: The fingerprint of the step's arguments; None by default, for a step without `@step`.
            returns: The return type of the step's function; None by default, for a step without `@step`.

        Returns:
            The result of `acquire_step`.
        """
        check_name("step id", step_id)
        place = scope_of(self._owner)
        if place is None:
            place = await self._current()
        steps: StepRunner = place.run.steps
        history = steps.history
        codec = history.codec
        if not history.is_plain:
            codec, fingerprint = history.codec_and_fingerprint(step_id, returns, fingerprint)
        found = steps.try_acquire(place, step_id, fingerprint) or await steps.acquire(place, step_id, fingerprint)
        if isinstance(found, StoredOutcome):
            history.on_answer(step_id, returns)
            if found.error is not None:
                raise steps.replay_error(step_id, found.error)
            return StepResult(StepAction.SKIPPED, recorded=(steps, step_id, found, codec))
        history.asked[step_id] = returns
        if returns is not None:
            return StepResult(StepAction.EXECUTE, guard=StepGuard(steps, found, codec))
        found.hold_task_weakly()
        return StepResult(StepAction.EXECUTE, guard=ManualGuard(steps, found, codec))

    async def now(self, *, id: str | None = None) -> datetime:  # noqa: A002  # the usual word for a step's id
        """Return the time of the database's clock, recorded like a step: a replay returns the same time.

        Args:
            id: A name, which makes the step id ``now/NAME``. By default the step ids are ``now:1``, ``now:2``, ...
                in the order of the calls. Concurrent tasks need an `id`, because the order of their calls may
                differ in a replay.

        Returns:
            The time, as an aware datetime.

        Raises:
            InvalidNameError: The `id` cannot be stored.
            StepMismatchError: The step id belongs to an outcome that is not a time.
            RunStopped: The run has stopped; raised within the workflow's function and its steps. Elsewhere the
                error of the run is raised, such as `WorkflowFencedError`.
        """
        step_id = _named("now", id)
        return await sleeping.now(await self._current(), step_id)

    async def sleep(self, delay: float | timedelta, *, id: str | None = None) -> None:  # noqa: A002
        """Sleep for a duration that survives restarts: the wake-up time is recorded like a step.

        A replay waits for the rest of the duration. A worker parks a workflow that sleeps for more than a second
        while no step executes: a `RunStopped`, which is a `BaseException`, leaves the function, and a worker calls
        the function again at the wake-up time.

        Args:
            delay: Seconds, or a `timedelta`. A negative delay counts as 0.
            id: A name, which makes the step id ``sleep/NAME``. By default the step ids are ``sleep:1``,
                ``sleep:2``, ... in the order of the calls. Concurrent tasks need an `id`, because the order of
                their calls may differ in a replay.

        Raises:
            ValueError: `delay` is not finite, or longer than 100 years (`ConfigurationError`).
            TypeError: `delay` is not a number or a `timedelta`.
            InvalidNameError: The `id` cannot be stored.
            StepMismatchError: The workflow is strict, and the recorded sleep has another delay; or the step id
                belongs to an outcome that is not a time.
            RunStopped: The run has stopped; raised within the workflow's function and its steps. Elsewhere the
                error of the run is raised, such as `WorkflowCancelledError`.
        """
        step_id = _named("sleep", id)
        seconds = max(0.0, parse_seconds("delay", delay))
        run = await self._current()
        fingerprint = fingerprint_of((seconds,), {})
        await sleeping.sleep(run, step_id, fingerprint, lambda now: now + timedelta(seconds=seconds))

    async def sleep_until(self, time: datetime, *, id: str | None = None) -> None:  # noqa: A002
        """Sleep until a time of the database's clock; the sleep is recorded and parks as `sleep` does.

        Args:
            time: The wake-up time, an aware datetime. A replay uses the recorded time.
            id: A name, which makes the step id ``sleep/NAME``; see `sleep`.

        Raises:
            ValueError: `time` has no time zone.
            TypeError: `time` is not a datetime.
            InvalidNameError: The `id` cannot be stored.
            StepMismatchError: The step id belongs to an outcome that is not a time.
            RunStopped: The run has stopped; raised within the workflow's function and its steps. Elsewhere the
                error of the run is raised, such as `WorkflowCancelledError`.
        """
        step_id = _named("sleep", id)
        if not isinstance(cast(object, time), datetime):
            raise TypeError(f"`time` must be a datetime, got {type(time).__name__}.")
        if time.utcoffset() is None:
            raise ValueError(
                "`time` must be an aware datetime, got a naive one: set tzinfo, as in datetime.now(UTC)."
            )
        await sleeping.sleep(await self._current(), step_id, None, lambda _now: time)

    @overload
    async def receive(
        self,
        topic: Receivable[T],
        *,
        timeout: float | timedelta | None = None,
        id: str | None = None,
    ) -> T: ...

    @overload
    async def receive(
        self,
        topic: Receivable[T],
        *,
        timeout: float | timedelta | None = None,
        default: D,
        id: str | None = None,
    ) -> T | D: ...

    @overload
    async def receive(
        self,
        topic: str,
        *,
        timeout: float | timedelta | None = None,
        default: object = NO_DEFAULT,
        id: str | None = None,
    ) -> Any: ...

    async def receive(
        self,
        topic: Receivable[Any] | str,
        *,
        timeout: float | timedelta | None = None,
        default: object = NO_DEFAULT,
        id: str | None = None,  # noqa: A002
    ) -> Any:
        """Return the value of the oldest message of a topic to this workflow, and wait for one if none is there.

        The message is received once: a replay returns the same value. Messages that were sent before the call, or
        before the workflow ran, are found. A worker parks a workflow that only waits, as `sleep` does.

        Args:
            topic: The topic, or its name for values of any type; or an update, to receive its oldest request.
            timeout: Seconds, or a `timedelta`, after which the wait ends without a message; None, the default, for
                no limit. The time counts from the first call: a restart of the workflow does not extend it. The
                timeout is recorded, so a replay raises again although a message has come since.
            default: The value to return at the timeout; by default the timeout raises `WaitTimeoutError`.
            id: A name, which makes the step id ``receive/NAME``. By default the step ids are ``receive/TOPIC:1``,
                ``receive/TOPIC:2``, ... in the order of the calls. Concurrent tasks need an `id`, because the
                order of their calls may differ in a replay.

        Returns:
            The value of the message; for an update the `Request`, which the workflow answers.

        Raises:
            WaitTimeoutError: No message came before the timeout. It is a `TimeoutError`.
            SerializationError: The codec cannot decode the message.
            ValueError: `timeout` is not finite, or longer than 100 years (`ConfigurationError`).
            TypeError: `timeout` is not a number or a `timedelta`.
            InvalidNameError: The topic or the `id` cannot be stored.
            StepMismatchError: The workflow is strict, and the recorded outcome belongs to another topic.
            RunStopped: The run has stopped; raised within the workflow's function and its steps. Elsewhere the
                error of the run is raised, such as `WorkflowCancelledError`.
        """
        step_id = _named("receive", id)
        seconds = None if timeout is None else max(0.0, parse_seconds("timeout", timeout))
        return await wait_for(self._current, Receive(topic), step_id, seconds, default)

    async def wait_event(
        self,
        name: str,
        *,
        timeout: float | timedelta | None = None,
        default: object = NO_DEFAULT,
        id: str | None = None,  # noqa: A002
    ) -> Any:
        """Return the value of an event of the schema, which `Admin.emit` emits, and wait for it if necessary.

        An event that was emitted before the call is found, too. The value is recorded, and a worker parks a
        workflow that only waits, as with `receive`.

        Args:
            name: The name of the event.
            timeout: Seconds, or a `timedelta`, after which the wait ends; see `receive`. None, the default, for no
                limit.
            default: The value to return at the timeout; by default the timeout raises `WaitTimeoutError`.
            id: A name, which makes the step id ``event/ID``. By default the step ids are ``event/NAME:1``,
                ``event/NAME:2``, ... in the order of the calls.

        Returns:
            The value of the event.

        Raises:
            WaitTimeoutError: The event was not emitted before the timeout. It is a `TimeoutError`.
            SerializationError: The event was emitted with another codec, or the codec cannot decode it.
            ValueError: `timeout` is not finite, or longer than 100 years (`ConfigurationError`).
            TypeError: `timeout` is not a number or a `timedelta`.
            InvalidNameError: The name or the `id` cannot be stored.
            RunStopped: The run has stopped; raised within the workflow's function and its steps. Elsewhere the
                error of the run is raised, such as `WorkflowCancelledError`.
        """
        step_id = _named("event", id)
        seconds = None if timeout is None else max(0.0, parse_seconds("timeout", timeout))
        return await wait_for(self._current, Event(name), step_id, seconds, default)

    async def select(self, *, id: str | None = None, **branches: Branch) -> tuple[str, Any]:  # noqa: A002
        """Wait for the first of several branches, as in ``await ctx.select(paid=Receive(PAID), late=Sleep(60))``.

        The winner is recorded: a replay returns it again, although another branch has come since. The other
        branches leave nothing behind, and their messages stay for later calls.

        Args:
            id: A name, which makes the step id ``select/ID``. By default the step id has the names of the branches
                and a number, as in ``select/paid,late:1``.
            **branches: The branches by name: at least one `Receive`, `Event` or child, and at most one `Sleep`.

        Returns:
            The name of the branch that has won, and the value of its message or event, or the output of its child;
            None for a `Sleep`.

        Raises:
            ConfigurationError: The branches are none, or two wait for the same, or more than one is a `Sleep`.
            TypeError: A branch is neither a `Receive` nor an `Event` nor a `Sleep`.
            SerializationError: The codec cannot decode the message or the event.
            StepFailedError: The child that has won has failed.
            InvalidNameError: A name or the `id` cannot be stored.
            StepMismatchError: The recorded winner is not among the branches.
            RunStopped: The run has stopped; raised within the workflow's function and its steps. Elsewhere the
                error of the run is raised, such as `WorkflowCancelledError`.
        """
        return await select(self._current, branches, _named("select", id))

    async def send(
        self,
        workflow_id: int,
        topic: Topic[T] | str,
        value: T,
        *,
        key: str | None = None,
        id: str | None = None,  # noqa: A002
    ) -> None:
        """Send a message to another workflow, once: the message and the record of the step are one transaction.

        Args:
            workflow_id: The id of the workflow that receives the message.
            topic: The topic, or its name for values of any type.
            value: The value of the message, which the codec of the topic must be able to encode.
            key: An idempotency key of the message among all senders; see `WorkflowHandle.send`.
            id: A name, which makes the step id ``send/ID``. By default the step ids are ``send/TOPIC:1``,
                ``send/TOPIC:2``, ... in the order of the calls.

        Raises:
            WorkflowNotFoundError: No workflow has this id. This error and the next two are recorded, and a replay
                raises them again.
            WorkflowFinishedError: The workflow has ended; `status` names the end.
            CodecMismatchError: The workflow is written with another codec.
            SerializationError: The codec cannot encode `value`.
            InvalidNameError: The topic, the key or the `id` cannot be stored.
            RunStopped: The run has stopped; raised within the workflow's function and its steps. Elsewhere the
                error of the run is raised, such as `WorkflowCancelledError`.
        """
        await send(await self._current(), workflow_id, topic, value, key=key, step_id=_named("send", id))

    async def set_event(self, name: str, value: Any, *, id: str | None = None) -> None:  # noqa: A002
        """Set an event of this workflow, which `WorkflowHandle.event` reads, also after the end of the workflow.

        Readers see the newest value. The value and the record of the step are one transaction, so a replay does
        not set an older value again.

        Args:
            name: The name of the event.
            value: The value, which the codec must be able to encode.
            id: A name, which makes the step id ``set_event/ID``. By default the step ids are
                ``set_event/NAME:1``, ``set_event/NAME:2``, ... in the order of the calls.

        Raises:
            SerializationError: The codec cannot encode `value`.
            InvalidNameError: The name or the `id` cannot be stored.
            RunStopped: The run has stopped; raised within the workflow's function and its steps. Elsewhere the
                error of the run is raised, such as `WorkflowCancelledError`.
        """
        await set_event(await self._current(), name, value, _named("set_event", id))

    async def set_attributes(self, /, **attributes: Any) -> None:
        """Set attributes of this workflow, by which `Admin.list_workflows` finds it, as in ``stage="shipped"``.

        A new value replaces the older value of its attribute; other attributes stay. The values and the record of
        the step are one transaction, so a replay does not set an older value again. The step ids have the names of
        the attributes and a number, as in ``set_attributes/stage:1``.

        Args:
            **attributes: The values by name: plain JSON, which the database searches in, whatever the codec is.

        Raises:
            SerializationError: JSON does not have a value.
            RunStopped: The run has stopped; raised within the workflow's function and its steps. Elsewhere the
                error of the run is raised, such as `WorkflowCancelledError`.
        """
        await set_attributes(await self._current(), attributes, ())

    async def add_tags(self, *tags: str) -> None:
        """Add tags to this workflow, by which `Admin.list_workflows` finds it; see `set_attributes`.

        A tag stays as long as the workflow: use an attribute for a value that changes.

        Args:
            *tags: The tags, each at most 512 bytes of UTF-8.

        Raises:
            InvalidNameError: A tag cannot be stored.
            RunStopped: As for `set_attributes`.
        """
        await set_attributes(await self._current(), {}, tags)

    def options(
        self,
        *,
        queue: str | None = None,
        priority: int = 0,
        delay: float | None = None,
        timeout: float | None = None,
        on_end: OnEnd = "cancel",
        id: str | None = None,  # noqa: A002
        key: str | None = None,
        until: Until = "purge",
        partition_key: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        tags: str | Collection[str] = (),
    ) -> Children:
        """Return an object that starts children with these options.

        Args:
            queue: The queue of the children; by default the queue of this workflow.
            priority: The priority of the children in their queue; 0 by default.
            delay: Seconds before a worker may start a child; none by default.
            timeout: Seconds that a child may take from its first start; by default the timeout of `@workflow`. A
                child never outlives the deadline of this workflow.
            on_end: What becomes of a child that lives when this workflow ends: ``"cancel"``, the default, or
                ``"abandon"``, which lets it go on.
            id: A name, which makes the step id ``start/ID``. By default the step ids have the name of the child's
                function and a number, as in ``start/charge:1``. Concurrent tasks need an `id`.
            key: A key of the child, by which `Admin.find` finds it. If another workflow of its name has the key,
                the start raises `KeyTakenError`. No key by default. `start_many` accepts no key.
            until: The time until which the child has its key: ``"purge"``, the default, is its deletion, and
                ``"end"`` its end.
            partition_key: The key of the children within their queue; see `Admin.options`. None by default.
            attributes: The attributes of the children; see `Admin.options`. None by default.
            tags: The tags of the children; none by default.

        Returns:
            The object, with the methods `start`, `start_many` and `call`.

        Raises:
            ConfigurationError: A number is out of range, `on_end` or `until` is another text, or `until` is
                ``"end"`` without a key.
            InvalidNameError: The queue, the `id`, the key or the partition key cannot be stored.
        """
        return Children(
            self._new_context,
            self._current,
            child_options(
                queue=queue,
                priority=priority,
                delay=delay,
                timeout=timeout,
                on_end=on_end,
                step_id=_named("start", id),
                key=key,
                until=until,
                partition_key=partition_key,
                attributes=given_attributes(attributes, tags),
            ),
        )

    def _new_context(self, workflow_id: int, name: str, worker: RunWorker | None) -> PyWorkflow:
        return PyWorkflow(self._host, workflow_id, name, worker=worker)

    async def call(
        self, workflow: Callable[Concatenate[PyWorkflow, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Start a child, run it in this task, and return its output.

        The child is a workflow of its own. If this process dies, another process finishes the child, and then this
        workflow.

        Args:
            workflow: A function decorated with `@workflow`.
            *args: Positional arguments of the function, after the context.
            **kwargs: Keyword arguments of the function.

        Returns:
            The output of the child.

        Raises:
            TypeError: `workflow` is not decorated with `@workflow`, or does not accept the arguments.
            SerializationError: The codec cannot encode the arguments.
            StepFailedError: The child has failed. The raised error is also an instance of the original class.
            WorkflowCancelledError: The child was cancelled.
            RunStopped: The run has stopped; raised within the workflow's function and its steps. Elsewhere the
                error of the run is raised, such as `WorkflowCancelledError`.
        """
        return await self.options().call(workflow, *args, **kwargs)

    async def start_many(
        self, workflow: Callable[[PyWorkflow, *Ts], Awaitable[R]], inputs: Iterable[tuple[*Ts]]
    ) -> Many[R]:
        """Start one child for each tuple of positional arguments, as one step.

        Any number of children is one row in the history of this workflow.

        Args:
            workflow: A function decorated with `@workflow`.
            inputs: The positional arguments of each child, one tuple for each.

        Returns:
            The children, for `gather`.

        Raises:
            TypeError: `workflow` is not decorated with `@workflow`, an item of `inputs` is not a tuple, or the
                function does not accept its arguments.
            SerializationError: The codec cannot encode the arguments.
            RunStopped: The run has stopped; raised within the workflow's function and its steps. Elsewhere the
                error of the run is raised, such as `WorkflowCancelledError`.
        """
        return await self.options().start_many(workflow, inputs)

    async def gather(self, *children: Child[Any] | Many[Any], return_exceptions: bool = False) -> list[Any]:
        """Wait until all children have ended, and return their outputs in order.

        A failure cancels no other child.

        Args:
            *children: Children that `start` or `start_many` has returned.
            return_exceptions: True to return the errors of failed children in place of their outputs. False by
                default.

        Returns:
            The outputs, in the order of the arguments, and of the inputs of `start_many`.

        Raises:
            StepFailedError: A child has failed; of several failures the first by position. The raised error is
                also an instance of the original class.
            WorkflowCancelledError: A child was cancelled.
            RunStopped: The run has stopped; raised within the workflow's function and its steps. Elsewhere the
                error of the run is raised, such as `WorkflowCancelledError`.
        """
        return await gather(children, return_exceptions=return_exceptions)

    def as_completed(self, *children: Child[R]) -> AsyncIterator[Child[R]]:
        """Yield children as they end, each once; the order is recorded, so a replay has the same order.

        Args:
            *children: Children that `start` has returned.

        Returns:
            An iterator for ``async for``; each child that it yields has ended, and awaiting it returns at once.
        """
        return as_completed(self._current, children)

    def children(self, **options: Any) -> ChildGroup:
        """Return a group of children that end together, for ``async with ctx.children() as group``.

        The block ends when all children that ``group.start`` has started have ended. If one fails, or the block
        raises an error, the others are cancelled and awaited.

        Args:
            **options: The options of the children, as for `options`.

        Returns:
            The group. ``group.results`` has the outputs after the block.

        Raises:
            ConfigurationError: A number is out of range, or `on_end` is another text.
            InvalidNameError: The queue cannot be stored.
        """
        return ChildGroup(self._current, self.options(**options).given)

    async def map(
        self,
        workflow: Callable[[PyWorkflow, *Ts], Awaitable[R]],
        inputs: Iterable[tuple[*Ts]],
        *,
        at_once: int = 100,
    ) -> list[R]:
        """Start children for all inputs, at most some at once, and return their outputs in order.

        Args:
            workflow: A function decorated with `@workflow`.
            inputs: The positional arguments of each child, one tuple for each.
            at_once: Maximum children that live at once; 100 by default. The next children start when all of them
                have ended.

        Returns:
            The outputs, in the order of the inputs.

        Raises:
            ConfigurationError: `at_once` is not a positive number.
            StepFailedError: A child has failed; of several failures the first by position. No further children
                start then.
            RunStopped: The run has stopped; raised within the workflow's function and its steps. Elsewhere the
                error of the run is raised, such as `WorkflowCancelledError`.
        """
        size = validate_positive_int("at_once", at_once)
        portions: list[Many[R]] = []
        rest = iter(inputs)
        while portion := list(islice(rest, size)):
            portions.append(await self.start_many(workflow, portion))
            if not await portions[-1].have_succeeded():
                await self.gather(portions[-1])
        # At the end: each replay that waits for a portion would read the results of all portions before it.
        return await self.gather(*portions)

    async def patched(self, name: str) -> bool:
        """Return whether this workflow takes the new path of a change of the code, and record the answer.

        ``if await ctx.patched("tax-2026"): ... else: ...`` keeps the old path for the workflows that have passed
        this place with the old code. The first call decides for the whole workflow: the answer is True if the
        workflow has asked again for every step that its earlier runs have recorded, so that it comes to this place
        for the first time. Later calls return the recorded answer, in each task and each run. Delete the call, and
        the old path, once no workflow with the answer False is under way.

        Call it in the workflow's function before concurrent tasks begin. In a concurrent task the answer may be
        False although the task comes to this place for the first time: if steps call other steps, or if another
        task has passed this place.

        Args:
            name: The name of the change, which makes the step id ``patch/NAME``.

        Returns:
            True for the new path, False for the old path.

        Raises:
            InvalidNameError: The name cannot be stored.
            StepMismatchError: The step id belongs to an outcome that is not an answer.
            RunStopped: The run has stopped; raised within the workflow's function and its steps. Elsewhere the
                error of the run is raised, such as `WorkflowFencedError`.
        """
        check_name("patch", name)
        return await patched(await self._current(), name)

    async def continue_as_new(
        self, workflow: Callable[Concatenate[PyWorkflow, P], Awaitable[Any]], *args: P.args, **kwargs: P.kwargs
    ) -> NoReturn:
        """End this call of the workflow's function, and begin the workflow anew with other arguments.

        The workflow keeps its id, its key, its events, its children and the messages that it has not received. Its
        recorded steps are deleted, so the history of a workflow that never ends stays short. Handles and a parent
        wait for the end of the last generation. A timeout of the workflow begins anew.

        The call raises `RunStopped`, and the workflow begins anew when its function has ended. A cancellation that
        comes before that ends the workflow.

        Args:
            workflow: The workflow's own function, so that a type checker checks the arguments.
            *args: Positional arguments of the function, after the context.
            **kwargs: Keyword arguments of the function.

        Raises:
            ContinuationError: The call is in a step, a step has no outcome yet, or `workflow` is another function.
            TypeError: `workflow` is not decorated with `@workflow`, or does not accept the arguments.
            SerializationError: The codec cannot encode the arguments.
            RunStopped: The run stops, and the workflow begins anew; or the run has stopped before.
        """
        continue_as_new(await self._current(), definition_of(workflow), args, kwargs)

    def saga(self, *, undo_timeout: float | timedelta = UNDO_TIMEOUT, id: str | None = None) -> Saga:  # noqa: A002
        """Return a block whose steps are undone when it fails: ``async with ctx.saga():``.

        An error, a cancellation of the workflow or its deadline that leaves the block has the steps of the block
        undone which have an `undo` (see `pgqrs.step`) and a recorded value, last first, each by a step of its own,
        ``undo/`` and the id of the step. Then the error, the cancellation or the timeout goes on. A step within
        another step is not undone. A nested saga that has succeeded leaves its steps to the saga around it.

        Args:
            undo_timeout: Seconds, or a `timedelta`, for all undos, from the first of them on, whatever restarts.
                An hour by default.
            id: A name, which makes the step id ``saga/NAME`` of the record that the saga is undone. By default
                the step ids are ``saga:1``, ``saga:2``, ... in the order of the calls. Concurrent sagas need an
                `id`.

        Returns:
            The block. It raises `SagaError` if an undo fails: `Admin.resume_workflow` goes on to undo then.

        Raises:
            ConfigurationError: `undo_timeout` is out of range.
            InvalidNameError: The `id` cannot be stored.
        """
        seconds = validate_seconds("undo_timeout", undo_timeout, positive=True)
        return Saga(self, self._current, seconds or UNDO_TIMEOUT, _named("saga", id))

    def cleanup(self, *, timeout: float | timedelta = CLEANUP_TIMEOUT) -> Cleanup:
        """Return a block for ``finally:`` whose steps are executed after a cancellation or at the deadline.

        The cancellation goes on after the block. A workflow that is cancelled while it is parked, queued or
        without its process reaches the block only if a saga of it is open: use a saga for what must happen then.
        Calls that are numbered have numbers of their own in each block, as in ``cleanup/:1/now:1``.

        Args:
            timeout: Seconds, or a `timedelta`, for the block; 30 seconds by default. Then the block raises
                `TimeoutError`.

        Returns:
            The block.

        Raises:
            ConfigurationError: `timeout` is out of range.
        """
        return Cleanup(self._current, validate_seconds("timeout", timeout, positive=True) or CLEANUP_TIMEOUT)

    async def _current(self) -> Run:
        """Return the run of the calling task, which may have ended; start a run if the context has none."""
        run = run_of(self._owner)
        if run is not None:
            return run
        if self._run is None:
            await self._start_run()
        assert self._run is not None  # noqa: S101  # `start` created the run, or raised
        return self._run

    async def _partition_key(self, run: Run) -> str | None:
        if self._owner.state_owner is None:
            read = await run.read_here(lambda connection: StateRepository(connection).owner(self._id))
            self._owner.state_owner = read
        return self._owner.state_owner.partition_key

    async def _claim(self, timeout: float | None = None) -> Claim:
        """Claim a run in the database and create it here, unless the workflow has succeeded."""
        store = await self._host.store()
        store.changing.add(self._id)
        try:
            claim = await store.claim(self._id, timeout, token=self._token)
            if not claim.succeeded:
                try:
                    started = ClaimedRun(self._id, self._name, claim.epoch, "", 0, timeout, claim.token)
                    await self._new_run(store, started, worker=self._worker)
                except BaseException:
                    store.abandon(self._id, claim.epoch, claim.token)
                    raise
        finally:
            store.changing.discard(self._id)
        return claim

    async def attach_run(
        self,
        claimed: ClaimedRun,
        *,
        worker: RunWorker | None = None,
        store: Store | None = None,
        members: Sequence[int] = (),
    ) -> None:
        """Attach a run that was claimed in the database to this context, which no other task uses yet.

        `Admin.run` and workers call this method.

        Args:
            claimed: The claimed run.
            worker: The worker that has claimed the run, and claims it again after a wait. By default the run does
                not park.
            store: The store of the running event loop. By default the `Admin` looks it up.
            members: The ids of the submissions of a batch; none by default.
        """
        store = await self._host.store() if store is None else store
        if claimed.scheduled_for is not None:
            self._owner.scheduled_for = claimed.scheduled_for
        await self._new_run(store, claimed, worker=worker, members=members)

    async def requeue(self, grace: float = 0.0) -> None:
        """Release the run, so that another worker can claim the workflow at once.

        The call of the workflow's function then raises `Parked`, unless the function returns first. Without an
        active run this method does nothing. Workers call this method when they shut down.

        Args:
            grace: Seconds that executing steps have to finish before they are interrupted; 0 by default.
        """
        run = self._run
        if run is not None and run.may_write:
            await run.requeue(grace)

    def abandon(self) -> None:
        """Abandon the run for a later claim, as after a crash, unless it has ended, was released or was lost.

        Workers call this method.
        """
        if self._run is not None:
            self._run.abandon_unfinished()

    async def _new_run(
        self,
        store: Store,
        claimed: ClaimedRun,
        *,
        worker: RunWorker | None,
        members: Sequence[int] = (),
    ) -> None:
        history = History({}, {}, claimed.seconds_left)
        if claimed.epoch > 1:  # the first run has no recorded outcomes to replay
            history = await store.history(self._id)
        self._run = Run(
            self._owner,
            store,
            self._host.codec,
            workflow_id=self._id,
            name=self._name,
            epoch=claimed.epoch,
            claim=claimed.claim,
            history=history,
            worker=worker,
            queue=claimed.queue,
            parent_id=claimed.parent_id,
            members=members,
            origin=claimed.origin,
        )

    async def _first_run(self, options: RunOptions) -> Run | Claim:
        """Return the run whose body may begin now, or the claim with the recorded output of the workflow."""
        async with self._starting:
            if self._is_executing:
                raise WorkflowInProgressError(self._id)
            run = await self._live_run(options)
            self._is_executing = isinstance(run, Run)
            return run

    async def _live_run(self, options: RunOptions) -> Run | Claim:
        if self._run is None or not self._run.live:
            claim = await self._claim(options.timeout)
            if claim.succeeded:
                return claim
        assert self._run is not None  # noqa: S101  # the claim created it
        return self._run

    async def run_body(
        self,
        function: Callable[..., Awaitable[R]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: RunOptions = _PLAIN,
    ) -> R:
        """Run the body of the workflow, retry it under its policy, and record its end.

        `@workflow` calls this method. The body of a succeeded workflow does not run: this method returns the
        recorded output. An `Exception` that the body raises is recorded as the workflow's error, unless the retry
        policy allows another attempt. Any other exception is a crash, and nothing is recorded.

        Args:
            function: The workflow's function.
            args: Positional arguments of the function, after this context.
            kwargs: Keyword arguments of the function.
            options: The retry policy, the timeout and the other options of the workflow.

        Returns:
            The return value of the body, in its recorded form.

        Raises:
            WorkflowInProgressError: A body of this context already runs.
            WorkflowCancelledError: The workflow was cancelled.
            WorkflowTimeoutError: The workflow passed its deadline.
            WorkflowFencedError: Another run of the workflow fenced this run.
            DatabaseUnavailableError: The database is unavailable.
            Parked: The run was released for a later claim.
            Exception: Any exception that the body raises.
        """
        if self._timeout is not None:
            options = options._replace(timeout=self._timeout)
        run = await self._first_run(options)
        try:
            while isinstance(run, Run):
                run.enter_body(options)
                try:
                    run.check()
                    run.output_codec()  # an unsupported annotation is an error before the body runs
                    return cast(R, await run.on_return(await function(self, *args, **kwargs)))
                except BaseException as error:
                    again = await run.on_error(error)
                    if again is None:
                        raise
                finally:
                    run.exit_body()
                if again.arguments is not None:
                    _, args, kwargs = again.arguments
                await run.lifecycle.clock.sleep(again.delay)
                if again.run is not None:
                    self._run = again.run
                async with self._starting:
                    run = await self._live_run(options)
        finally:
            self._is_executing = False
        return cast(R, self._decoded(run.output, options))

    def _decoded(self, output: str | None, options: RunOptions) -> Any:
        with ValueContext(self._id):
            return None if output is None else options.codec(self._host.codec, self._id).decode(output)


def current() -> PyWorkflow | None:
    """Return the context of the workflow whose function or step the calling task executes.

    A library can so find the context, in tasks that the function or the step has started and in threads of
    ``@step(thread=True)`` too. The executor of ``@step(executor=...)`` has no context.

    Returns:
        The context; None outside workflows. A task that has outlived its run gets the context of that run, and
        each call on it raises `RunStopped`.
    """
    scope = current_scope.get()
    owner = None if scope is None else scope.context_key
    return owner.context() if isinstance(owner, _Owner) else None


def _named(kind: str, name: str | None) -> str | None:
    """Return the step id of a named time, which differs from the ids of all steps and numbered times."""
    if name is None:
        return None
    check_name("step id", name)
    step_id = f"{kind}/{escaped(name)}"
    check_name("step id", step_id)
    return step_id
