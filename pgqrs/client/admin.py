"""`Admin`: connect, install, create, run, enqueue, inspect, cancel, resume."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from copy import copy
from datetime import timedelta
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, TypeVarTuple, overload

from pgqrs.client.enqueue import OnConflict, Submitter, warn_in_body
from pgqrs.client.enqueue import options as _options
from pgqrs.client.handle import WorkflowHandle
from pgqrs.client.loop_state import LoopState
from pgqrs.clock import Clock, MonotonicClock, parse_seconds
from pgqrs.codecs.base import Codec, codec_at, stored_name, validate_codec
from pgqrs.codecs.json import JsonCodec
from pgqrs.codecs.records import as_text, decode_listed_step, decode_listed_workflow
from pgqrs.errors import ConfigurationError, InvariantError
from pgqrs.models import SCHEMA
from pgqrs.storage.connections.caller import SessionOrConnection
from pgqrs.storage.connections.database import Limits
from pgqrs.storage.connections.engines import Target, engine_source
from pgqrs.storage.heartbeat import Heartbeat
from pgqrs.storage.id_allocator import MAX_ID, check_is_int
from pgqrs.storage.records import ClaimedRun
from pgqrs.storage.step_transaction import SessionMaker
from pgqrs.storage.store import Store
from pgqrs.types import DEFAULT_QUEUE, StepRecord, WorkflowRecord, WorkflowStatus
from pgqrs.validation import check_name, check_schema
from pgqrs.workflow.arguments import encode_input
from pgqrs.workflow.context import PyWorkflow
from pgqrs.workflow.definition import definition_of

P = ParamSpec("P")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")

_NOTHING: Any = object()

MIN_TIMEOUT = 0.01
"""Minimum `timeout` of an `Admin`, in seconds: no server answers reliably in less."""

MIN_HEARTBEAT_TIMEOUT = 1.0
"""Minimum `heartbeat_timeout` of an `Admin`, in seconds: there are five beats in that time."""


class Admin:
    """The way into a database's workflows.

    `dsn` is a DSN string (``postgresql://...`` as asyncpg reads it, or ``embedded://`` for a PostgreSQL of its
    own), an SQLAlchemy `URL`, or an `AsyncEngine` of yours, which is never disposed here. Of several hosts one
    that takes writes is looked for. ``?pgqrs_pooler=transaction`` says that PgBouncer is in between; for an engine
    its ``execution_options={"pgqrs_pooler": "transaction"}`` do. `schema` is where the tables are, ``"pgqrs"`` by
    default. `codec` turns values into text and back; strict JSON by default,
    see `pgqrs.codecs` for others.
    `timeout` bounds one connection attempt and one write, in seconds. `outage_timeout` is how long, in seconds, a
    write waits for a server that went away before `DatabaseUnavailableError` is raised. `heartbeat_timeout` is how
    long, in seconds and at least 1, this process may give no sign of life before others suspect it: behind a
    pooler they take its runs over then, and those of a stopped process after four times as long; one that died is
    noticed in a second or two. `clock` is what sleeps, retries and deadlines are waited for by: tests give a
    `pgqrs.testing.TestClock`. `sessionmaker` makes the sessions of transactional steps, as an
    `async_sessionmaker` of yours does; without one they are plain `AsyncSession`s on the `Admin`'s engine.
    `tune_gc` has Python's garbage collector tuned from the first run or `Worker` until `close`: the young
    threshold is 20,000, and full collections are held back. A collector that is disabled, or whose thresholds are
    not Python's own, is left alone; so is any with False.

    Nothing is connected before it is needed. It is an async context manager; without one call `close`, or let
    the event loop's end do it. It can be used in several event loops, one after another or at once, unless an
    engine was given, which belongs to one.

    Raises `InvalidDSNError` (a `ValueError`) for what is no PostgreSQL DSN, `ConfigurationError` (a
    `ValueError`) for a schema name that cannot be and for a number out of range, `TypeError` for anything else, a
    codec without a name, say.
    """

    def __init__(
        self,
        dsn: Target,
        schema: str | None = None,
        *,
        codec: Codec | None = None,
        timeout: float = 10.0,
        outage_timeout: float = 60.0,
        heartbeat_timeout: float = 15.0,
        clock: Clock | None = None,
        sessionmaker: SessionMaker | None = None,
        tune_gc: bool = True,
    ) -> None:
        self._schema = SCHEMA if schema is None else schema
        check_schema(self._schema)
        self._limits = _checked_limits(timeout, outage_timeout, heartbeat_timeout)
        self._source = engine_source(dsn, timeout=self._limits.timeout)
        self._codec: Codec = JsonCodec() if codec is None else validate_codec(codec)
        self._clock: Clock = MonotonicClock() if clock is None else clock
        self._sessionmaker = sessionmaker
        self._tune_gc = tune_gc
        self._stores: dict[asyncio.AbstractEventLoop, Store] = {}
        self._here: dict[asyncio.AbstractEventLoop, LoopState] = {}
        self._pulse: Heartbeat | None = None
        self._pid = os.getpid()
        self._inherited: dict[asyncio.AbstractEventLoop, Store] = {}

    @property
    def schema(self) -> str:
        """The schema of the tables."""
        return self._schema

    @property
    def codec(self) -> Codec:
        """How values become text and back."""
        return self._codec

    @property
    def clock(self) -> Clock:
        """What sleeps, retries and deadlines are waited for by."""
        return self._clock

    @property
    def loops(self) -> tuple[asyncio.AbstractEventLoop, ...]:
        """The event loops in which it was used, those that have ended among them."""
        return tuple(self._stores)

    def twin(self) -> Self:
        """Return another `Admin` like this one, which is an executor of its own; close it as any other."""
        twin = copy(self)
        twin._stores, twin._here, twin._pulse = {}, {}, None  # noqa: SLF001  # of the same class
        return twin

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Write what was accepted and close the connections that are ours; again does nothing.

        An `Admin` that is used after it was closed connects again.
        """
        loop = asyncio.get_running_loop()
        self._leave_other_process()
        here, store = self._here.get(loop), self._stores.get(loop)
        try:
            if here is not None:
                await here.close()
        finally:
            if store is not None:
                await store.close()

    async def loop_state(self) -> LoopState:
        """Return what the running event loop has beside its store; for the library's own use."""
        loop = asyncio.get_running_loop()
        self._leave_other_process()
        here = self._here.get(loop)
        if here is None:
            here = self._here.setdefault(loop, LoopState(await self.store()))
        return here

    async def store(self) -> Store:
        """Return the running event loop's store; for the library's own use."""
        loop = asyncio.get_running_loop()
        self._leave_other_process()
        store = self._stores.get(loop)
        if store is None:
            self._leave_other_loops()
            store = self._stores[loop] = self._new_store()
            await store.open()
        return store

    def _new_store(self) -> Store:
        codec = stored_name(self._codec)
        return Store(
            self._source,
            self._schema,
            self._limits,
            self._own_pulse(),
            codec=codec,
            clock=self._clock,
            sessionmaker=self._sessionmaker,
            tunes_gc=self._tune_gc,
        )

    def _own_pulse(self) -> Heartbeat:
        """Return this process's pulse."""
        if self._pulse is None:
            self._pulse = Heartbeat(self._source, self._schema, self._limits)
        return self._pulse

    def _leave_other_process(self) -> None:
        """Drop what a parent process had: its ids, its connections and its executor are not a forked child's."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            # Kept: its connections are the parent's, which must not be closed when they are collected here.
            self._inherited = self._stores
            self._stores, self._here, self._pulse = {}, {}, None

    def _leave_other_loops(self) -> None:
        if self._stores and not self._source.owned:
            raise ConfigurationError(
                "the engine that this Admin was given belongs to another event loop: give each loop an engine "
                "and an Admin of its own, or give Admin a DSN."
            )
        for loop in [each for each in self._stores if each.is_closed()]:
            del self._stores[loop]
            self._here.pop(loop, None)

    async def install(self) -> None:
        """Create the schema and its tables, or bring them to this version; safe to call again, and at once.

        Raises `SchemaOutOfDateError` when a newer pgqrs made the tables, and `ConfigurationError` for a database
        that is not encoded in UTF-8.
        """
        await (await self.store()).install()

    async def verify(self, *, deep: bool = False) -> None:
        """Check that the tables are there and at this version, and what is in them if `deep`.

        `deep` reads all rows: no run of an executor that died long ago, no step newer than its workflow, no claim
        on a workflow that has ended, and so on. Each of these searches may take up to an hour. The tables do not
        show whether a process that lives carries out the runs that it holds: it gives up by itself, within
        seconds, any that it does not, and logs a warning. Raises `NotInstalledError` or `SchemaOutOfDateError`,
        which name the command that mends it, and `InvariantError`, which lists what it found.
        """
        store = await self.store()
        await store.verify()
        if deep and (violations := await store.violations()):
            raise InvariantError(violations)

    async def create_workflow(
        self, name: str, input_arg: Any = _NOTHING, *, session: SessionOrConnection | None = None
    ) -> PyWorkflow:
        """Create a workflow, to be run by calling its function with the context that this returns.

        `name` is the workflow's type, at most 512 bytes. `input_arg` is recorded as its input and must be strict
        JSON; it is for you to read, and the function is called with whatever you call it with. Raises
        `InvalidNameError`, `SerializationError`, `NotInstalledError`, `DatabaseUnavailableError`.
        """
        check_name("workflow name", name)
        warn_in_body(name)
        args = [] if input_arg is _NOTHING else [input_arg]
        encoded = codec_at(self._codec, "input", name).encode({"args": args, "kwargs": {}})
        store = await self.store()
        target = store if session is None else await store.in_transaction(session)
        return PyWorkflow(self, await target.create(name, encoded.text), name)

    async def run(
        self, workflow: Callable[Concatenate[PyWorkflow, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Create a workflow with these arguments, run it here, and return its result.

        `workflow` is a function decorated with `@workflow`. The arguments are recorded as its input, so they
        must be strict JSON, and it is called with them as they are recorded (a tuple is a list); another codec
        may carry more. Raises what the workflow raises, and as `create_workflow` does.
        """
        definition = definition_of(workflow)
        warn_in_body(definition.name)
        encoded = encode_input(self._codec, definition, args, kwargs)
        store, timeout = await self.store(), definition.timeout
        workflow_id, claim = await store.create_and_claim(definition.name, encoded.text, timeout)
        context = PyWorkflow(self, workflow_id, definition.name)
        claimed = ClaimedRun(workflow_id, definition.name, claim.epoch, encoded.text, 1, timeout, claim.token)
        await context.attach_run(claimed, can_park=False, store=store)
        function: Callable[..., Awaitable[R]] = workflow
        return await function(context, *encoded.value["args"], **encoded.value["kwargs"])

    async def enqueue(
        self, workflow: Callable[Concatenate[PyWorkflow, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> WorkflowHandle[R]:
        """Create a workflow with these arguments for a `Worker` to run, and return a handle on it.

        `workflow` is a function decorated with `@workflow`; nothing of it but its name, its timeout and its
        signature matters here. The arguments are recorded as its input and must be strict JSON. Once this returns
        the workflow is on disk. Raises `TypeError` for arguments that do not fit, `SerializationError`,
        `NotInstalledError`, `DatabaseUnavailableError`.
        """
        return await self.options().enqueue(workflow, *args, **kwargs)

    async def enqueue_many(
        self,
        workflow: Callable[[PyWorkflow, *Ts], Awaitable[R]],
        inputs: Iterable[tuple[*Ts]],
        *,
        key: Callable[[*Ts], str] | None = None,
    ) -> list[WorkflowHandle[R]]:
        """Enqueue a workflow for each tuple of positional arguments, and return the handles in their order.

        Thousands are written in one statement, fewer where their inputs are large: it ends at 4 MiB of them. `key`
        makes the key of each from its arguments, as in ``key=lambda order, day: f"{order}:{day}"``; tuples of one
        key get handles on one workflow. A failure on the way leaves those before it enqueued: with keys the call
        can be repeated. Raises as `enqueue` does.
        """
        return await self.options().enqueue_many(workflow, inputs, key=key)

    def options(
        self,
        *,
        key: str | None = None,
        queue: str = DEFAULT_QUEUE,
        priority: int = 0,
        delay: float | timedelta | None = None,
        timeout: float | timedelta | None = None,
        session: SessionOrConnection | None = None,
        on_conflict: OnConflict = "raise",
    ) -> Submitter:
        """Return a `Submitter`, whose `enqueue`, `enqueue_many` and `run` submit with these options.

        `key`: there is one workflow of a name and a key, so submitting again gives the one that is there,
        whatever became of it. `on_conflict`: the answer where that one has other arguments: ``"raise"`` raises
        `KeyConflictError`, ``"warn"`` logs a warning and gives it, ``"ignore"`` gives it. `queue`: which workers
        it is for. `priority`: a higher one is claimed before a lower one. `delay`: how long it is not to be
        started, in seconds or as a `timedelta`. `timeout`: how long it may take from its first start, instead of
        what `@workflow(timeout=)` says. `session`: an `AsyncSession` or an `AsyncConnection` of yours, in any
        state: what is enqueued is there when you commit, and gone when you roll back; its own errors are
        SQLAlchemy's.

        Raises `InvalidNameError` for a key or a queue that cannot be stored, `ConfigurationError` for a number
        that is out of range or an unknown `on_conflict`, and `TypeError` for a value of another type.
        """
        return Submitter(
            self,
            _options(
                key=key,
                queue=queue,
                priority=priority,
                delay=delay,
                timeout=timeout,
                session=session,
                on_conflict=on_conflict,
            ),
        )

    @overload
    def handle(self, workflow_id: int) -> WorkflowHandle[Any]: ...

    @overload
    def handle(
        self, workflow_id: int, workflow: Callable[Concatenate[PyWorkflow, ...], Awaitable[R]]
    ) -> WorkflowHandle[R]: ...

    def handle(
        self, workflow_id: int, workflow: Callable[..., Awaitable[Any]] | None = None
    ) -> WorkflowHandle[Any]:
        """Return a handle on a workflow; whether there is one of this id is asked when the handle is used.

        `workflow` is its function: with a codec that goes by types the result is what that is annotated to return,
        and the JSON of it otherwise.
        """
        check_is_int("a workflow id", workflow_id)
        returns = None if workflow is None else definition_of(workflow).returns
        return WorkflowHandle(self, workflow_id, is_there=False, returns=returns)

    async def get_workflow(self, workflow_id: int) -> PyWorkflow:
        """Return the context of a workflow that is there, to run it again.

        Raises `WorkflowNotFoundError`.
        """
        return PyWorkflow(self, workflow_id, await (await self.store()).name_of(workflow_id))

    async def resume_workflow(self, workflow_id: int, *, session: SessionOrConnection | None = None) -> PyWorkflow:
        """Make a failed or cancelled workflow runnable again, every failed step of it too, terminal ones as well.

        The operator's button after a fix. One that was enqueued is queued again; any other is PENDING until the
        context returned runs it. Whatever run of it still goes on is fenced. `session` is as in `options`, in a
        transaction. Raises `WorkflowNotFoundError`, and `WorkflowFinishedError` for a workflow that has succeeded.
        """
        store = await self.store()
        target = store if session is None else await store.in_transaction(session)
        return PyWorkflow(self, workflow_id, await target.resume(workflow_id))

    async def cancel_workflow(
        self, workflow_id: int, *, interrupt: bool = False, session: SessionOrConnection | None = None
    ) -> None:
        """Cancel a workflow, wherever it runs.

        One that does not run is CANCELLED at once. In one that runs no new step starts and what it waits for
        ends; a step that executes goes on to its recorded outcome, unless `interrupt` is true; then the run
        ends CANCELLED. This returns once it is asked for. `resume_workflow` makes the workflow runnable again.
        A function that awaits something else than its steps is interrupted after a second. `session` is as in
        `options`. Raises `WorkflowNotFoundError`, and `WorkflowFinishedError` for one that has succeeded or
        failed, as its `status` tells.
        """
        here = await self.loop_state()
        if session is not None:
            await (await here.store.in_transaction(session)).cancel(workflow_id, interrupt=interrupt)
            return
        await here.store.cancel(workflow_id, interrupt=interrupt)
        here.results.notify_finished(workflow_id)

    async def list_workflows(
        self,
        *,
        status: WorkflowStatus | str | None = None,
        name: str | None = None,
        limit: int = 100,
        before: int | None = None,
    ) -> list[WorkflowRecord]:
        """Return workflows, newest first, at most `limit`.

        `status` and `name` filter. `before` is the id below which to go on: the last one of the page before.
        A payload that this `Admin` cannot read, one of another codec among them, is `Unreadable` in its record.
        Raises `ValueError` for a status that is none, and `TypeError` for a `limit` or `before` that is no int.
        """
        check_is_int("limit", limit)
        if before is not None:
            check_is_int("before", before)
            before = min(before, MAX_ID)
        if limit < 0:
            raise ConfigurationError(f"limit must not be negative, and is {limit}.")
        wanted = None if status is None else WorkflowStatus(status)
        store = await self.store()
        found = await store.workflows(as_text, status=wanted, name=name, limit=limit, before=before)
        return [decode_listed_workflow(self._codec, each) for each in found]

    async def list_steps(self, workflow_id: int) -> list[StepRecord]:
        """Return what is recorded of a workflow's steps, in the order in which they were started.

        One with `outcome_unknown` began and has no outcome: in a workflow that has ended its effect may have
        happened. A step that a killed process executed for less than 0.1 seconds has no record.

        A payload that this `Admin` cannot read, one of another codec among them, is `Unreadable` in its record.
        Raises `WorkflowNotFoundError`.
        """
        store = await self.store()
        written = (await store.workflow(workflow_id, as_text)).codec
        return [decode_listed_step(self._codec, each, written) for each in await store.steps(workflow_id, as_text)]


def _checked_limits(timeout: object, outage_timeout: object, heartbeat_timeout: object) -> Limits:
    checked = {
        "timeout": timeout,
        "outage_timeout": outage_timeout,
        "heartbeat_timeout": heartbeat_timeout,
    }
    seconds = {name: parse_seconds(name, given) for name, given in checked.items()}
    least = {"timeout": MIN_TIMEOUT, "outage_timeout": 0.0, "heartbeat_timeout": MIN_HEARTBEAT_TIMEOUT}
    for name, given in seconds.items():
        if given < least[name]:
            raise ConfigurationError(f"`{name}` must be at least {least[name]:g} s, got {given:g} s.")
    return Limits(**seconds, heartbeat_interval=seconds["heartbeat_timeout"] / 5)
