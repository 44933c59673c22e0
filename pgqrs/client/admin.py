"""`Admin`, the client object that installs the tables and creates, runs, lists, cancels and resumes workflows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from copy import copy
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, TypeVarTuple, overload

from pgqrs.client.enqueue import OnConflict, Submitter
from pgqrs.client.enqueue import options as _options
from pgqrs.client.handle import WorkflowHandle
from pgqrs.client.loop_state import LoopState, LoopStates
from pgqrs.client.misuse import warn_in_body
from pgqrs.client.operator import Operator
from pgqrs.client.scheduling.declaration import WITHIN
from pgqrs.client.scheduling.handle import ScheduleHandle
from pgqrs.clock import Clock, MonotonicClock
from pgqrs.codecs.base import Codec, codec_at, validate_codec
from pgqrs.codecs.json import JsonCodec
from pgqrs.errors import ConfigurationError, InvariantError
from pgqrs.models import SCHEMA
from pgqrs.observer import Observer
from pgqrs.schedules import Rule
from pgqrs.storage.connections.caller import SessionOrConnection
from pgqrs.storage.connections.database import Limits
from pgqrs.storage.connections.engines import Target, engine_source
from pgqrs.storage.records import ClaimedRun, WorkflowIdentity
from pgqrs.storage.step_transaction import SessionMaker
from pgqrs.storage.store import Store, StoreSettings
from pgqrs.types import (
    DEFAULT_QUEUE,
    CatchUp,
    Overlap,
    Taken,
    UniqueUntil,
    Until,
)
from pgqrs.validation import check_is_int, check_name, check_schema, parse_seconds
from pgqrs.workflow.arguments import encode_input
from pgqrs.workflow.batching.plan import refuse_by_hand
from pgqrs.workflow.context import PyWorkflow
from pgqrs.workflow.definition import definition_of
from pgqrs.workflow.messaging.messages import Topic
from pgqrs.workflow.messaging.updates import Askable

A = TypeVar("A")
P = ParamSpec("P")
Q = TypeVar("Q")
R = TypeVar("R")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_NOTHING: Any = object()

MIN_TIMEOUT = 0.01
"""Seconds, minimum `timeout` of an `Admin`: no server answers reliably in less."""

MIN_HEARTBEAT_TIMEOUT = 1.0
"""Seconds, minimum `heartbeat_timeout` of an `Admin`: the executor sends five heartbeats in that time."""


class Admin(Operator):
    """The client object for the workflows of one schema in one database.

    An `Admin` opens its first connection when it needs one. It is an async context manager. Outside an
    ``async with`` block call `close`; otherwise the end of the event loop closes it. Several event loops may use
    one `Admin`, in turn or at the same time. An `Admin` with the application's engine belongs to one event loop.

    Args:
        dsn: The database: a DSN string, an SQLAlchemy `URL` or an `AsyncEngine`. A DSN is ``postgresql://...``, in
            the form that asyncpg reads, or ``embedded://`` for an embedded server. If a DSN or a `URL` names
            several hosts, the `Admin` connects to a host that accepts writes. ``?pgqrs_pooler=transaction``
            announces a pooler in transaction mode; an engine announces the pooler with
            ``execution_options={"pgqrs_pooler": "transaction"}``. The `Admin` never disposes the application's
            engine.
        schema: The schema of the tables; ``"pgqrs"`` by default.
        codec: The codec of inputs, outcomes and errors; strict JSON by default. `pgqrs.codecs` has other codecs.
        timeout: Seconds that bound one connection attempt and one write; 10 by default, at least 0.01.
        outage_timeout: Seconds that a write waits for an unavailable server before it raises
            `DatabaseUnavailableError`; 60 by default, at least 0.
        heartbeat_timeout: Seconds without a heartbeat after which other executors suspect this process; 15 by
            default, at least 1. Behind a pooler they recover its runs then. Without a pooler they recover the runs
            of a dead process within a second or two, and the runs of a stopped process after four times
            `heartbeat_timeout`.
        clock: The clock that times sleeps, retries and deadlines; the machine's monotonic clock by default. Tests
            pass a `pgqrs.testing.TestClock`.
        sessionmaker: The factory of the sessions of transactional steps, such as an `async_sessionmaker`. By
            default these sessions are plain `AsyncSession` objects on the engine of the `Admin`.
        tune_gc: Whether the `Admin` tunes Python's garbage collector from its first run or `Worker` until `close`:
            it sets the young threshold to 20,000 and defers full collections. A disabled collector, and a
            collector with thresholds other than Python's defaults, stay unchanged. True by default.
        observer: The observer of the events of runs, steps and writes; none by default. `observe` adds others.

    Raises:
        InvalidDSNError: `dsn` is a string or a `URL` that does not name a PostgreSQL server.
        ConfigurationError: The schema name is invalid, a number is out of range, or the engine does not use
            asyncpg. `ConfigurationError` and `InvalidDSNError` are `ValueError`s.
        TypeError: An argument has another type, or the codec has no name.
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
        observer: Observer | None = None,
    ) -> None:
        schema = SCHEMA if schema is None else schema
        check_schema(schema)
        limits = _checked_limits(timeout, outage_timeout, heartbeat_timeout)
        settings = StoreSettings(
            engine_source(dsn, timeout=limits.timeout),
            schema,
            limits,
            JsonCodec() if codec is None else validate_codec(codec),
            MonotonicClock() if clock is None else clock,
            sessionmaker,
            tune_gc,
            observer,
        )
        self._loops = LoopStates(settings)

    @property
    def schema(self) -> str:
        """The schema of the tables."""
        return self._loops.settings.schema

    @property
    def codec(self) -> Codec:
        """The codec of inputs, outcomes and errors."""
        return self._loops.codec

    @property
    def clock(self) -> Clock:
        """The clock that times sleeps, retries and deadlines."""
        return self._loops.settings.clock

    @property
    def loops(self) -> tuple[asyncio.AbstractEventLoop, ...]:
        """The event loops that have used this `Admin`; closed event loops may be among them."""
        return tuple(self._loops.stores)

    def twin(self, *, observer: Observer | None = None, max_batch: int | None = None) -> Self:
        """Return a second `Admin` with the same settings, which is an executor of its own.

        The caller closes the second `Admin` separately.

        Args:
            observer: The observer of the second `Admin`; none by default.
            max_batch: Maximum records of one transaction of its journal; as the first `Admin` by default.

        Returns:
            The new `Admin`.
        """
        twin = copy(self)
        settings = self._loops.settings._replace(observer=observer)
        if max_batch is not None:
            settings = settings._replace(limits=settings.limits._replace(max_batch=max_batch))
        twin._loops = LoopStates(settings)  # noqa: SLF001  # `twin` is of this class
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
        """Write the pending records of the running event loop and close the connections of its store.

        A second call does nothing. An `Admin` that is used after `close` connects again. The application's engine
        stays open.
        """
        await self._loops.close()

    async def loop_state(self) -> LoopState:
        """Return the notifier, the result poller and the store of the running event loop.

        The library itself uses this method.

        Returns:
            The state of the running event loop, created at the first call.
        """
        return await self._loops.loop_state()

    async def store(self) -> Store:
        """Return the store of the running event loop.

        The library itself uses this method.

        Returns:
            The store, created and opened at the first call.

        Raises:
            ConfigurationError: The engine of this `Admin` belongs to another event loop.
        """
        return await self._loops.store()

    async def install(self) -> None:
        """Create the schema and its tables, or upgrade the tables to this version of pgqrs.

        The call is safe to repeat, and safe in several processes at the same time, beside working ones. Tables of
        a newer version that support this one stay as they are.

        Raises:
            SchemaOutOfDateError: The tables are of a newer version, and do not support this one.
            ConfigurationError: The encoding of the database is not UTF-8.
            DatabaseUnavailableError: The database is unavailable, or other sessions locked the tables for the
                whole `outage_timeout`.
        """
        await (await self.store()).tables.install()

    async def verify(self, *, deep: bool = False) -> None:
        """Check that the tables exist and suit this version, and optionally check their rows.

        The deep check searches for rows that are invalid in every state of a workflow: a run of an executor that
        died long ago, a step with a newer epoch than its workflow, a claim on a workflow that has ended, and more.
        The tables do not show whether a live process still executes the runs that it holds. A live process
        abandons, within seconds, each run that it holds and does not execute, and logs a warning.

        Args:
            deep: Whether to read all rows. Each of the searches may take up to an hour. False by default.

        Raises:
            NotInstalledError: The schema holds no tables of pgqrs. The message names the command that fixes this.
            SchemaOutOfDateError: The tables are too old or too new for this version. The message names the remedy.
            ConfigurationError: The encoding of the database is not UTF-8.
            InvariantError: The deep check found invalid rows; `violations` lists them.
            DatabaseUnavailableError: The database is unavailable.
        """
        store = await self.store()
        await store.tables.verify()
        if deep and (violations := await store.reader.violations()):
            raise InvariantError(violations)

    async def create_workflow(
        self, name: str, input_arg: Any = _NOTHING, *, session: SessionOrConnection | None = None
    ) -> PyWorkflow:
        """Create a workflow for the caller to run: call the workflow's function with the returned context.

        Args:
            name: The name of the workflow, at most 512 bytes of UTF-8.
            input_arg: The recorded input, which the codec must be able to encode. It serves readers of the tables
                only: the function receives the arguments of its own call. Without `input_arg` the recorded input
                has no arguments.
            session: A caller's session or connection, in any state. The workflow exists when the caller commits.
                By default the workflow is committed before this method returns.

        Returns:
            The context of the new workflow.

        Raises:
            InvalidNameError: The name cannot be stored.
            SerializationError: The codec cannot encode `input_arg`.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        check_name("workflow name", name)
        warn_in_body("create_workflow", name)
        args = [] if input_arg is _NOTHING else [input_arg]
        encoded = codec_at(self.codec, "input", name).encode({"args": args, "kwargs": {}})
        operations = await (await self.store()).operations_for(session)
        workflow_id, token = await operations.create(name, encoded.text)
        return PyWorkflow(self, workflow_id, name, token)

    async def run(
        self, workflow: Callable[Concatenate[PyWorkflow, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Create a workflow with these arguments, run it in this task, and return its result.

        The arguments are recorded as the workflow's input, so the codec must be able to encode them. The function
        receives the arguments in their recorded form: with strict JSON a tuple becomes a list.

        Args:
            workflow: A function decorated with `@workflow`.
            *args: Positional arguments of the function, after the context.
            **kwargs: Keyword arguments of the function.

        Returns:
            The return value of the function, in its recorded form.

        Raises:
            TypeError: `workflow` is not decorated with `@workflow`, or runs in batches.
            SerializationError: The codec cannot encode the arguments or the return value.
            WorkflowCancelledError: The workflow was cancelled.
            WorkflowTimeoutError: The workflow passed its deadline.
            WorkflowFencedError: Another run of the workflow fenced this run.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
            Exception: Any exception that the function raises.
        """
        definition = definition_of(workflow)
        refuse_by_hand(definition, "run")
        warn_in_body("run", definition.name)
        encoded = encode_input(self.codec, definition, args, kwargs)
        store, timeout = await self.store(), definition.timeout
        workflow_id, claim = await store.create_and_claim(definition.name, encoded.text, timeout)
        context = PyWorkflow(self, workflow_id, definition.name, claim.token)
        claimed = ClaimedRun(workflow_id, definition.name, claim.epoch, encoded.text, 1, timeout, claim.token)
        await context.attach_run(claimed, store=store)
        function: Callable[..., Awaitable[R]] = workflow
        return await function(context, *encoded.value["args"], **encoded.value["kwargs"])

    async def enqueue(
        self, workflow: Callable[Concatenate[PyWorkflow, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> WorkflowHandle[R]:
        """Create a workflow with these arguments for a `Worker` to run.

        The workflow is committed when this method returns. The arguments are recorded as the workflow's input, so
        the codec must be able to encode them.

        Args:
            workflow: A function decorated with `@workflow`. This method uses its name, its timeout and its
                signature only.
            *args: Positional arguments of the function, after the context.
            **kwargs: Keyword arguments of the function.

        Returns:
            A handle on the new workflow.

        Raises:
            TypeError: `workflow` is not decorated with `@workflow`, or does not accept the arguments.
            SerializationError: The codec cannot encode the arguments.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await self.options().enqueue(workflow, *args, **kwargs)

    async def enqueue_many(
        self,
        workflow: Callable[[PyWorkflow, *Ts], Awaitable[R]],
        inputs: Iterable[tuple[*Ts]],
        *,
        key: Callable[[*Ts], str] | None = None,
        unique: Callable[[*Ts], str] | None = None,
    ) -> list[WorkflowHandle[R]]:
        """Enqueue one workflow for each tuple of positional arguments.

        One statement writes up to 5,000 workflows, and ends after 4 Mi characters of encoded input. If a statement
        fails, the workflows of the earlier statements stay enqueued; with `key` the call is safe to repeat.

        Args:
            workflow: A function decorated with `@workflow`.
            inputs: The positional arguments of each workflow, one tuple for each.
            key: A function that returns the key of a workflow from its arguments, as in
                ``key=lambda order, day: f"{order}:{day}"``. Tuples with equal keys get handles on one workflow.
                By default the workflows have no key.
            unique: A function that returns the unique value of a workflow from its arguments; none by default. Of
                the tuples with one value the first is submitted, and all get its handle.

        Returns:
            The handles, in the order of `inputs`.

        Raises:
            TypeError: `workflow` is not decorated with `@workflow`, an item of `inputs` is not a tuple, or the
                function does not accept its arguments.
            SerializationError: The codec cannot encode the arguments.
            InvalidNameError: A key or a unique value cannot be stored.
            KeyConflictError: A key belongs to a workflow with other arguments.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await self.options().enqueue_many(workflow, inputs, key=key, unique=unique)

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
        until: Until | UniqueUntil | None = None,
        at: datetime | None = None,
        partition_key: str | None = None,
        unique: str | None = None,
        taken: Taken = "return",
        debounce: float | timedelta | None = None,
        debounce_at_most: float | timedelta | None = None,
        throttle: float | timedelta | None = None,
        attributes: Mapping[str, Any] | None = None,
        tags: str | Collection[str] = (),
    ) -> Submitter:
        """Return a `Submitter` that enqueues and runs workflows with these options.

        Args:
            key: The idempotency key. A name and a key identify one workflow: a second submission returns the
                workflow that has the key, in any status. Without a key each submission creates a workflow.
            queue: The queue of the workflow, which selects its workers; ``"default"`` by default.
            priority: The priority of the workflow, a 64-bit integer. Workers claim higher numbers first. 0 by
                default.
            delay: Seconds, or a `timedelta`, before a worker may start the workflow. No delay by default.
            timeout: Seconds, or a `timedelta`, from the first start of the workflow to its deadline. By default
                the `timeout` of `@workflow` applies.
            session: A caller's session: an `AsyncSession` or an `AsyncConnection` in any state. The workflow
                exists when the caller commits, and does not exist when the caller rolls back. Errors of the
                caller's session are SQLAlchemy's. By default the workflow is committed at once.
            on_conflict: The reaction when the workflow with the key has other arguments. ``"raise"``, the default,
                raises `KeyConflictError`. ``"warn"`` logs a warning and returns the existing workflow.
                ``"ignore"`` returns the existing workflow.
            until: The time until which the workflow has its key, or its unique value if it has both. For a key:
                ``"purge"``, the default, is its deletion, so there is one workflow of the key for ever, and
                ``"end"`` is its end, so there is one live workflow of the key at a time. For a unique value:
                ``"end"``, the default, and ``"start"``, its first start.
            at: The time before which no worker starts the workflow, an aware datetime, in place of `delay`.
            partition_key: The key of the workflow within its queue, such as the id of a customer. If the queue has
                limits, its keys are served in turn, and `partition_concurrency` of `set_queue` limits the runs of
                each. No key by default.
            unique: The unique value, which one workflow of a name holds at a time. None by default.
            taken: The effect of a submission whose unique value another workflow holds. ``"return"``, the default,
                returns the handle of the holder. ``"raise"`` raises `UniqueTakenError`. ``"replace"`` gives the
                holder the arguments and the options of this submission, and raises `UniqueTakenError` if it has
                started. ``"cancel"`` cancels the holder and creates a workflow, in one transaction.
            debounce: Seconds, or a `timedelta`: the workflow starts, with the newest arguments, once there was no
                submission with the unique value for this time.
            debounce_at_most: Seconds, or a `timedelta`, from the first submission to the start of a workflow that
                is debounced. No limit by default.
            throttle: Seconds, or a `timedelta`, between two starts with the unique value. The first submission
                starts at once. Later ones go into one workflow, which starts once the time has passed, with the
                newest arguments.
            attributes: The attributes of the workflow, JSON values by name, as in ``{"customer": 7}``:
                `list_workflows` finds it by them. They are not encrypted by a sealing codec. None by default. If
                another workflow has the key or the unique value, it keeps its own, except that a submission that
                replaces another one replaces them, too.
            tags: The tags of the workflow, texts of at most 512 bytes of UTF-8; none by default.

        Returns:
            A `Submitter` with `enqueue`, `enqueue_many`, `run`, `find` and `schedule`.

        Raises:
            InvalidNameError: The key, the unique value, the queue, the partition key or a tag cannot be stored.
            ConfigurationError: A number is out of range, `on_conflict`, `until` or `taken` is unknown, `at` is
                naive, or two options that exclude each other are set.
            SerializationError: JSON does not have a value of the attributes.
            TypeError: A value has another type.
        """
        return Submitter(
            self._loops,
            _options(
                key=key,
                queue=queue,
                priority=priority,
                delay=delay,
                timeout=timeout,
                session=session,
                on_conflict=on_conflict,
                until=until,
                at=at,
                partition_key=partition_key,
                unique=unique,
                taken=taken,
                debounce=debounce,
                debounce_at_most=debounce_at_most,
                throttle=throttle,
                attributes=attributes,
                tags=tags,
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
        """Return a handle on a workflow by its id.

        This method does not read the database: the first use of the handle checks that the workflow exists.

        Args:
            workflow_id: The id of the workflow.
            workflow: The function of the workflow. A typed codec decodes the result as the return annotation of
                this function, and as plain JSON values without it.

        Returns:
            The handle.

        Raises:
            TypeError: `workflow_id` is not an int, or `workflow` is not decorated with `@workflow`.
        """
        check_is_int("a workflow id", workflow_id)
        returns = None if workflow is None else definition_of(workflow).returns
        return WorkflowHandle(self._loops, WorkflowIdentity(workflow_id, None), is_there=False, returns=returns)

    async def find(
        self, workflow: Callable[Concatenate[PyWorkflow, ...], Awaitable[R]], *, key: str
    ) -> WorkflowHandle[R]:
        """Return a handle on the workflow that has a key, of the name of a function.

        A workflow that was submitted with ``until="end"`` has its key until it ends. After its end it is not
        found: keep the id of its handle. `options(session=...)` returns an object whose `find` reads in the
        caller's transaction.

        Args:
            workflow: A function decorated with `@workflow`.
            key: The key; see `options`.

        Returns:
            The handle.

        Raises:
            WorkflowNotFoundError: No workflow of this name has the key; the error has `name` and `key`.
            TypeError: `workflow` is not decorated with `@workflow`, or the key is not a string.
            InvalidNameError: The key cannot be stored.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await self.options().find(workflow, key=key)

    async def get_workflow(self, workflow_id: int) -> PyWorkflow:
        """Return the context of an existing workflow, with which the caller can run the workflow again.

        Args:
            workflow_id: The id of the workflow.

        Returns:
            The context of the workflow.

        Raises:
            TypeError: `workflow_id` is not an int.
            WorkflowNotFoundError: No workflow has this id.
            DatabaseUnavailableError: The database is unavailable.
        """
        found = await (await self.store()).reader.name(workflow_id)
        return PyWorkflow(self, workflow_id, found.name, found.token, scheduled_for=found.scheduled_for)

    async def resume_workflow(self, workflow_id: int, *, session: SessionOrConnection | None = None) -> PyWorkflow:
        """Make a failed or cancelled workflow ready to run again, and reopen all its failed steps.

        Operators call this method after they have fixed the cause of a failure: the next run also executes again
        the steps that failed with a terminal error, and waits again for the children that have failed. An enqueued
        workflow returns to its queue. Any other workflow is PENDING until the returned context runs it. A run that
        is still active is fenced.

        Args:
            workflow_id: The id of the workflow.
            session: A caller's session or connection, in a transaction. The change takes effect when the caller
                commits. By default the change is committed before this method returns.

        Returns:
            The context of the workflow.

        Raises:
            TypeError: `workflow_id` is not an int.
            WorkflowNotFoundError: No workflow has this id.
            WorkflowFinishedError: The workflow has succeeded.
            KeyTakenError: The workflow has released its key at its end, and another workflow has the key; nothing
                was changed.
            UniqueTakenError: The workflow has given up its unique value at its end, and another workflow holds it;
                nothing was changed.
            SessionError: The caller's session cannot be used, or is in AUTOCOMMIT.
            DatabaseUnavailableError: The database is unavailable.
        """
        operations = await (await self.store()).operations_for(session)
        found = await operations.resume(workflow_id)
        return PyWorkflow(self, workflow_id, found.name, found.token, scheduled_for=found.scheduled_for)

    async def cancel_workflow(
        self, workflow_id: int, *, interrupt: bool = False, session: SessionOrConnection | None = None
    ) -> None:
        """Request the cancellation of a workflow, in whichever process it runs.

        A workflow without a run is CANCELLED when this method returns; one with an open saga is made ready, and a
        worker undoes the steps of the saga before it is CANCELLED. A running workflow starts no further step,
        and its sleeps and retry delays end. Its executing steps continue to their recorded outcomes. Once no step
        executes, the function has one second to return; then its task is cancelled. The run then ends as
        CANCELLED. This method does not wait for that end. `resume_workflow` makes the workflow ready to run again.

        Args:
            workflow_id: The id of the workflow.
            interrupt: Whether to cancel the tasks of executing steps, which then have no outcome, and the task of
                the function. False by default.
            session: A caller's session or connection, in any state. The request takes effect when the caller
                commits. By default the request is committed before this method returns.

        Raises:
            TypeError: `workflow_id` is not an int.
            WorkflowNotFoundError: No workflow has this id.
            WorkflowFinishedError: The workflow has succeeded or failed; `status` names the end.
            SessionError: The caller's session cannot be used.
            DatabaseUnavailableError: The database is unavailable.
        """
        warn_in_body("cancel")
        state = await self.loop_state()
        if session is None:
            await state.cancel(workflow_id, interrupt=interrupt)
        else:
            await (await state.store.operations_for(session)).cancel(workflow_id, interrupt=interrupt)

    async def send(self, workflow_id: int, topic: Topic[T] | str, value: T, *, key: str | None = None) -> None:
        """Send a message to a workflow; see `WorkflowHandle.send`.

        `options(session=...)` returns an object whose `send` belongs to the caller's transaction.

        Args:
            workflow_id: The id of the workflow.
            topic: The topic, or its name for values of any type.
            value: The value of the message, which the codec of the topic must be able to encode.
            key: An idempotency key of the message; see `WorkflowHandle.send`.

        Raises:
            WorkflowNotFoundError: No workflow has this id.
            WorkflowFinishedError: The workflow has ended; `status` names the end.
            CodecMismatchError: The workflow is written with another codec.
            SerializationError: The codec cannot encode `value`.
            InvalidNameError: The topic or the key cannot be stored.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        await self.options().send(workflow_id, topic, value, key=key)

    async def update(
        self,
        workflow_id: int,
        update: Askable[Q, A],
        value: Q,
        *,
        timeout: float | timedelta | None = None,
        key: str | None = None,
    ) -> A:
        """Send a request to a workflow, and return the reply; see `WorkflowHandle.update`.

        Args:
            workflow_id: The id of the workflow.
            update: The update.
            value: The value of the request, which the codec of the update must be able to encode.
            timeout: Seconds, or a `timedelta`, that bound the wait for the reply; None, the default, for no limit.
            key: An idempotency key of the request; see `WorkflowHandle.update`.

        Returns:
            The value of the reply.

        Raises:
            UpdateRefusedError: The workflow has refused the request.
            UpdateTimeoutError: The timeout passed. The request stays there.
            WorkflowFinishedError: The workflow has ended, and has not answered the request.
            WorkflowNotFoundError: No workflow has this id.
            CodecMismatchError: The workflow is written with another codec.
            SerializationError: The codec cannot encode `value`, or cannot decode the reply.
            InvalidNameError: The key cannot be stored.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await self.options().update(workflow_id, update, value, timeout=timeout, key=key)

    async def emit(self, name: str, value: Any = None) -> bool:
        """Emit an event of the schema, for which `PyWorkflow.wait_event` waits; the first value stays for ever.

        Workflows that wait later find the event, too. `options(session=...)` returns an object whose `emit`
        belongs to the caller's transaction.

        Args:
            name: The name of the event.
            value: The value, which the codec must be able to encode; None by default.

        Returns:
            True if the event has this value now; False if it was emitted before with another value.

        Raises:
            SerializationError: The codec cannot encode `value`.
            InvalidNameError: The name cannot be stored.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await self.options().emit(name, value)

    async def schedule(
        self,
        name: str,
        rule: Rule,
        workflow: Callable[[PyWorkflow, *Ts], Awaitable[R]],
        *args: *Ts,
        overlap: Overlap = "skip",
        catchup: CatchUp = "last",
        within: float | timedelta = WITHIN,
        jitter: float | timedelta = 0.0,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> ScheduleHandle[R]:
        """Make a schedule, which starts a workflow at each time of a rule; or change the schedule of this name.

        A time starts one workflow, however many workers there are. A worker starts it that serves the name and the
        queue of the workflow. A changed schedule stays paused if it was, and keeps its next time unless the rule,
        `start` or `end` has changed. `options(queue=..., session=...)` returns an object with this method, too.

        Args:
            name: The name of the schedule, at most 448 bytes of UTF-8.
            rule: The times: a `Cron` or an `Every`.
            workflow: A function decorated with `@workflow`.
            *args: Positional arguments of the function, after the context.
            overlap: The effect of a time while a workflow of the schedule lives, also while it waits. ``"skip"``,
                the default, drops the time. ``"queue"`` starts one more workflow when no workflow lives any more.
                ``"allow"`` starts a workflow beside it. ``"cancel"`` cancels the live workflow, and starts a
                workflow.
            catchup: The times that are caught up if no worker, or no database, was there. ``"last"``, the default,
                is the newest of the missed times. ``"all"`` is all of them, and needs ``overlap="allow"``.
                ``"none"`` is none of them; a time counts as missed a minute after it.
            within: Seconds, or a `timedelta`: the age at which a missed time is dropped; a day by default.
            jitter: Seconds, or a `timedelta`: the maximum delay of a start; 0 by default. A time has one delay.
            start: The first time that counts, an aware datetime; any time by default.
            end: The time from which on no time counts, an aware datetime; none by default.

        Returns:
            The handle of the schedule.

        Raises:
            ConfigurationError: An option is unknown or out of range, or a datetime is naive.
            InvalidNameError: The name cannot be stored.
            TypeError: `workflow` is not decorated with `@workflow`, or does not accept the arguments.
            SerializationError: The codec cannot encode the arguments.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await self.options().schedule(
            name,
            rule,
            workflow,
            *args,
            overlap=overlap,
            catchup=catchup,
            within=within,
            jitter=jitter,
            start=start,
            end=end,
        )

    def observe(self, observer: Observer) -> None:
        """Add an observer to this `Admin`, beside the observers that it has.

        Args:
            observer: The observer of the events of runs, steps and writes.

        Raises:
            ConfigurationError: This `Admin` has been used already.
        """
        self._loops.observe(observer)


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
    limit, outage, heartbeat = seconds.values()
    return Limits(limit, outage, heartbeat_interval=heartbeat / 5, heartbeat_timeout=heartbeat)
