"""`Admin`, the client object that installs the tables and creates, runs, lists, cancels and resumes workflows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from copy import copy
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, TypeVarTuple, Unpack, overload

from pgqrs.client.diagnosis.reasons import why
from pgqrs.client.diagnosis.workers import list_workers
from pgqrs.client.doctor.checks import Doctor
from pgqrs.client.doctor.findings import Finding
from pgqrs.client.enqueue import OnConflict, Submitter
from pgqrs.client.enqueue import options as _options
from pgqrs.client.handle import WorkflowHandle
from pgqrs.client.lists.bulk import BulkOperations
from pgqrs.client.lists.listing import count_workflows, list_workflows
from pgqrs.client.loop_state import LoopState, LoopStates
from pgqrs.client.misuse import warn_in_body
from pgqrs.client.queues.settings import QueueSettings, queue_limits
from pgqrs.client.queues.states import States, StateSnapshot
from pgqrs.client.retention.documents import Document, Documents, Ids
from pgqrs.client.retention.purge import purge
from pgqrs.client.retention.settings import KeptFor, RetentionRecord, RetentionSettings, retention_times
from pgqrs.client.rewinding.rewinds import Rewinds
from pgqrs.client.scheduling.declaration import WITHIN
from pgqrs.client.scheduling.handle import ScheduleHandle, find_schedule, list_schedules
from pgqrs.clock import Clock, MonotonicClock
from pgqrs.codecs.base import Codec, codec_at, validate_codec
from pgqrs.codecs.json import JsonCodec
from pgqrs.errors import ConfigurationError, InvariantError
from pgqrs.models import SCHEMA
from pgqrs.observer import Observer
from pgqrs.schedules import Rule, ScheduleRecord
from pgqrs.storage.connections.caller import SessionOrConnection
from pgqrs.storage.connections.database import Limits
from pgqrs.storage.connections.engines import Target, engine_source
from pgqrs.storage.records import ClaimedRun, WorkflowIdentity
from pgqrs.storage.selection.bulk import Progress
from pgqrs.storage.selection.filters import FilterConditions, WorkflowFilter
from pgqrs.storage.selection.selections import Selectable
from pgqrs.storage.step_transaction import SessionMaker
from pgqrs.storage.store import Store, StoreSettings
from pgqrs.types import (
    DEFAULT_QUEUE,
    BulkReport,
    CatchUp,
    Holds,
    Overlap,
    QueueRecord,
    Rate,
    RewindRecord,
    StepRecord,
    Taken,
    UniqueUntil,
    Until,
    Why,
    WorkerRecord,
    WorkflowCount,
    WorkflowPage,
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


class Admin:
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

        The call is safe to repeat, and safe in several processes at the same time.

        Raises:
            SchemaOutOfDateError: A newer version of pgqrs created the tables.
            ConfigurationError: The encoding of the database is not UTF-8.
            DatabaseUnavailableError: The database is unavailable.
        """
        await (await self.store()).tables.install()

    async def verify(self, *, deep: bool = False) -> None:
        """Check that the tables exist and are at this version, and optionally check their rows.

        The deep check searches for rows that are invalid in every state of a workflow: a run of an executor that
        died long ago, a step with a newer epoch than its workflow, a claim on a workflow that has ended, and more.
        The tables do not show whether a live process still executes the runs that it holds. A live process
        abandons, within seconds, each run that it holds and does not execute, and logs a warning.

        Args:
            deep: Whether to read all rows. Each of the searches may take up to an hour. False by default.

        Raises:
            NotInstalledError: The schema holds no tables of pgqrs. The message names the command that fixes this.
            SchemaOutOfDateError: The tables are at another version. The message names the command that fixes this.
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
        await context.attach_run(claimed, can_park=False, store=store)
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

    async def find_schedule(self, name: str) -> ScheduleHandle[Any]:
        """Return the handle of a schedule.

        Args:
            name: The name of the schedule.

        Returns:
            The handle.

        Raises:
            ScheduleNotFoundError: No schedule has the name.
            InvalidNameError: The name cannot be that of a schedule.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await find_schedule(self._loops, name)

    async def list_schedules(self) -> list[ScheduleRecord]:
        """Return the records of all schedules, by name.

        Returns:
            The records. Arguments that this `Admin` cannot read, as of another codec, are `Unreadable`.

        Raises:
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await list_schedules(self._loops)

    async def set_queue(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        partition_concurrency: int | None = None,
        rate: Rate | None = None,
        partition_rate: Rate | None = None,
        weights: Mapping[str, float] | None = None,
        holds: Holds = "running",
        ordered: bool = False,
        fair: bool = True,
        session: SessionOrConnection | None = None,
    ) -> None:
        """Set the limits of a queue for all workers; they replace its earlier limits.

        A claim that begins after the commit follows the limits. Runs that are live then go on, and count. A queue
        without limits costs nothing: the call without limits deletes the row of the queue, unless it is paused.

        Args:
            name: The name of the queue.
            concurrency: Maximum runs of the queue at once, in all processes; no limit by default.
            partition_concurrency: Maximum runs of each partition key at once; no limit by default. See `options`.
            rate: Maximum rate of the starts of the queue, as in ``Rate(100, per=60, burst=20)``; no limit by
                default. A workflow counts when it is started for the first time.
            partition_rate: Maximum rate of the starts of each partition key; no limit by default.
            weights: The weights of partition keys, as in ``{"gold": 4}``: while several keys have ready workflows,
                a key with the weight 4 starts four times as many as a key with the weight 1, the default.
            holds: The time for which a workflow counts for `concurrency` and `partition_concurrency`.
                ``"running"``, the default: while it runs. ``"until_end"``: from its first start until its end,
                also while it sleeps, waits or is to be retried, so that a limit of 1 is a mutex.
            ordered: Whether the workflows of each partition key run one after the other, strictly in the order in
                which they were enqueued: the next one starts when the one before it has ended. This implies
                `partition_concurrency=1` and ``holds="until_end"``. Priorities have no effect. False by default.
            fair: Whether the partition keys are served in turn; True by default. With False the workflows are
                claimed by priority, then by age, whatever their keys; the limits of each key hold as well.
            session: A caller's session or connection, in any state. The limits take effect when the caller
                commits. By default they are committed before this method returns.

        Raises:
            InvalidNameError: The name or a partition key cannot be stored.
            ConfigurationError: A limit, a weight or a rate is out of range; or `holds` is ``"until_end"``
                without a limit of runs, or `partition_concurrency` is not 1 in an ordered queue, or `fair` is
                False with weights.
            TypeError: A limit is not an int, a rate is not a `Rate`, or a weight is not a number.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        limits = queue_limits(
            concurrency=concurrency,
            partition_concurrency=partition_concurrency,
            rate=rate,
            partition_rate=partition_rate,
            weights=weights,
            holds=holds,
            ordered=ordered,
            fair=fair,
        )
        await QueueSettings(self._loops, session).set(name, limits)

    async def pause_queue(self, name: str, *, session: SessionOrConnection | None = None) -> None:
        """Pause a queue: no worker claims its workflows until `resume_queue`; its runs go on.

        Args:
            name: The name of the queue.
            session: A caller's session or connection; see `set_queue`.

        Raises:
            InvalidNameError: The name cannot be stored.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        await QueueSettings(self._loops, session).pause(name)

    async def resume_queue(self, name: str, *, session: SessionOrConnection | None = None) -> None:
        """End the pause of a queue; a queue that is not paused stays as it is.

        Args:
            name: The name of the queue.
            session: A caller's session or connection; see `set_queue`.

        Raises:
            InvalidNameError: The name cannot be stored.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        await QueueSettings(self._loops, session).resume(name)

    async def delete_queue(self, name: str, *, session: SessionOrConnection | None = None) -> None:
        """Delete the limits and the pause of a queue; its workflows stay, and are claimed without a limit.

        Args:
            name: The name of the queue.
            session: A caller's session or connection; see `set_queue`.

        Raises:
            InvalidNameError: The name cannot be stored.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        await QueueSettings(self._loops, session).delete(name)

    async def list_queues(self, *, session: SessionOrConnection | None = None) -> list[QueueRecord]:
        """Return the queues that have limits, are paused, or have workflows that are ready or running.

        The call counts all ready workflows, which takes a while if there are very many.

        Args:
            session: A caller's session or connection, in whose transaction the queues are read.

        Returns:
            The records, in the order of the names.

        Raises:
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await QueueSettings(self._loops, session).list()

    async def list_steps(self, workflow_id: int) -> list[StepRecord]:
        """Return the records of a workflow's steps, in the order in which the steps began.

        A step with `outcome_unknown` began and has no outcome; if its workflow has ended, its effect may have
        happened. A step that a killed process executed for less than 0.1 seconds has no record.

        Args:
            workflow_id: The id of the workflow.

        Returns:
            The records. A payload that this `Admin` cannot read, such as a payload of another codec, is
            `Unreadable`.

        Raises:
            TypeError: `workflow_id` is not an int.
            WorkflowNotFoundError: No workflow has this id.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await self._loops.steps(workflow_id)

    async def state(
        self,
        workflow: Callable[Concatenate[PyWorkflow, ...], Awaitable[Any]] | str,
        partition_key: str,
        *,
        session: SessionOrConnection | None = None,
    ) -> StateSnapshot:
        """Return the state that the workflows of a name and a partition key share, as `ctx.state`.

        No worker is necessary, and the state outlives the workflows.

        Args:
            workflow: A function decorated with `@workflow`, or the name of the workflow.
            partition_key: The partition key.
            session: A caller's session or connection, in whose transaction the state is read.

        Returns:
            The values by name; empty if no workflow has set one.

        Raises:
            TypeError: `workflow` is not decorated with `@workflow`.
            InvalidNameError: The name or the partition key cannot be stored.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await States(self._loops, session).read(workflow, partition_key)

    async def delete_state(
        self, workflow: Callable[Concatenate[PyWorkflow, ...], Awaitable[Any]] | str, partition_key: str
    ) -> int:
        """Delete the state that the workflows of a name and a partition key share.

        Args:
            workflow: A function decorated with `@workflow`, or the name of the workflow.
            partition_key: The partition key.

        Returns:
            The number of the values.

        Raises:
            TypeError: `workflow` is not decorated with `@workflow`.
            InvalidNameError: The name or the partition key cannot be stored.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await States(self._loops).delete(workflow, partition_key)

    async def list_workflows(
        self,
        matching: WorkflowFilter | None = None,
        *,
        after: int | None = None,
        limit: int = 100,
        **conditions: Unpack[FilterConditions],
    ) -> WorkflowPage:
        """Return one page of workflows, newest first.

        A workflow that is enqueued meanwhile is on no later page unless its id is lower, and no workflow is on two
        pages. A row that cannot be read does not fail the page.

        Without conditions, and by a status in ``ERROR`` and ``CANCELLED``, ``RUNNING``, attributes, tags, a
        parent, or a name with a key, all workflows are searched. Other conditions have no index, for which each
        workflow would have to pay: a page searches the newest 100,000 workflows, or the newest 25,000 that an
        index finds, and `WorkflowPage.next` goes on from there. So follow `next` until it is None.

        Args:
            matching: The conditions as a `WorkflowFilter`; by default they are the further arguments.
            after: The cursor of the page before, `WorkflowPage.next`: the page has lower ids only. By default the
                page begins with the newest workflow.
            limit: Maximum workflows of the page; 100 by default.
            **conditions: The fields of a `WorkflowFilter`, as in ``status="ERROR", tags=("eu",)``.

        Returns:
            The records, with the cursor of the next page. A payload that this `Admin` cannot read, such as a
            payload of another codec, is `Unreadable`.

        Raises:
            TypeError: `limit` or `after` is not an int, or a condition is unknown or of another type.
            ValueError: A status is unknown.
            ConfigurationError: `limit` is negative, or a condition is not usable; see `WorkflowFilter`.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await list_workflows(self._loops, matching, conditions, after=after, limit=limit)

    async def count_workflows(
        self, matching: WorkflowFilter | None = None, **conditions: Unpack[FilterConditions]
    ) -> list[WorkflowCount]:
        """Return the numbers of workflows by name and status.

        The call reads all workflows that it counts, which takes about a second for some million.

        Args:
            matching: The conditions as a `WorkflowFilter`; by default they are the further arguments.
            **conditions: The fields of a `WorkflowFilter`.

        Returns:
            The numbers, in the order of the names and statuses; no entry has the number 0.

        Raises:
            TypeError: A condition is unknown or of another type.
            ValueError: A status is unknown.
            ConfigurationError: A condition is not usable; see `WorkflowFilter`.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await count_workflows(self._loops, matching, conditions)

    async def why(self, workflow_id: int) -> Why:
        """Return the reasons why a workflow is not running, or is not coming forward.

        The reasons are those of one moment, read by one statement, which takes milliseconds and no lock.

        Args:
            workflow_id: The id of the workflow.

        Returns:
            The reasons, each with a sentence and its facts; ``print`` shows them.

        Raises:
            TypeError: `workflow_id` is not an int.
            WorkflowNotFoundError: No workflow has this id.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await why(self._loops, workflow_id)

    async def list_workers(self) -> list[WorkerRecord]:
        """Return the live workers, by the starts of their executors.

        A process that runs workflows without a `Worker`, and a worker of an older version, have a record without
        names. A process that was killed is listed until its executor is forgotten, and is suspected.

        Returns:
            The records.

        Raises:
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await list_workers(self._loops)

    # --- the deletion of ended workflows, see `pgqrs.client.retention` ---

    async def set_retention(
        self,
        days: KeptFor = 30,
        failed: KeptFor = 90,
        *,
        per: Mapping[str, KeptFor] | None = None,
        archive: bool | timedelta = False,
        session: SessionOrConnection | None = None,
    ) -> None:
        """Set for how long ended workflows are kept, for all workers; the times replace the earlier ones.

        The workers delete older workflows in the background, about four times in the shortest of the times, and at
        least once a day. Without this call they do so with the defaults of this method, seven days after the first
        worker of this version has started. A workflow is kept longer while its parent is there or a child of it
        lives, while its batch lives, and while the throttle of its unique value counts it.

        Args:
            days: Days, or a `timedelta`, from the end of a workflow until it is deleted; None for ever.
            failed: The same for workflows that have failed.
            per: The same for workflows of some names, failed or not.
            archive: Whether a deleted workflow is archived: its document is a row of `pgqrs_archive`, and its
                handles still return its result. With a `timedelta` a month of the archive is dropped after that
                time.
            session: A caller's session or connection, in any state. The times take effect when the caller
                commits. By default they are committed before this method returns.

        Raises:
            ConfigurationError: A time is less than an hour, or more than a hundred years.
            InvalidNameError: A name cannot be that of a workflow.
            TypeError: A time is neither a number nor a `timedelta`.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        times = retention_times(days, failed, per, archive)
        await RetentionSettings(self._loops, session).set(times)

    async def retention(self, *, session: SessionOrConnection | None = None) -> RetentionRecord:
        """Return for how long ended workflows are kept, and the state of the deletion.

        Args:
            session: A caller's session or connection, in whose transaction the record is read.

        Returns:
            The record.

        Raises:
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await RetentionSettings(self._loops, session).get()

    async def doctor(self) -> list[Finding]:
        """Look at the server and the tables for conditions that slow pgqrs down or stop it.

        The checks are cheap, whatever the tables hold. A check that this role may not make is a finding, too.

        Returns:
            The findings, the worst first: dead rows, the sessions, prepared transactions, replication slots and
            standbys that keep them, indexes, autovacuum, rights, the clock and the retention.

        Raises:
            DatabaseUnavailableError: The database is unavailable.
        """
        return await Doctor(self._loops).findings()

    async def cancel_workflows(
        self,
        which: Selectable,
        *,
        interrupt: bool = False,
        dry_run: bool = False,
        progress: Progress | None = None,
        session: SessionOrConnection | None = None,
    ) -> BulkReport:
        """Request the cancellation of many workflows; see `cancel_workflow` for the course of each.

        One statement cancels up to 2,000 workflows and is committed at once, so the call is safe to interrupt and
        to repeat. A workflow that another transaction has locked is tried again later, up to 30 seconds.

        Args:
            which: A `WorkflowFilter`; or ids; or a select of `pgqrs.models.Workflow.id`, which may join tables of
                the application, as in ``select(Workflow.id).join(Order, Order.workflow_id == Workflow.id)``.
            interrupt: Whether to interrupt executing steps; see `cancel_workflow`. False by default.
            dry_run: True to write nothing, and to return the report of the workflows that would be cancelled.
            progress: A function that is called with the report so far after each statement; none by default.
            session: A caller's session or connection: the cancellations take effect when the caller commits, all
                of them at once, and the select sees the changes of the caller.

        Returns:
            The numbers of the workflows that were found and changed, and the reasons of the others.

        Raises:
            ConfigurationError: The filter has no condition, or the select returns other columns than
                `Workflow.id`.
            TypeError: `which` is of another type, or an id is not an int.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        bulk = BulkOperations(self._loops, which, dry_run=dry_run, progress=progress, session=session)
        return await bulk.cancel(interrupt=interrupt)

    async def resume_workflows(
        self,
        which: Selectable,
        *,
        dry_run: bool = False,
        progress: Progress | None = None,
        session: SessionOrConnection | None = None,
    ) -> BulkReport:
        """Make many failed or cancelled workflows ready to run again; see `resume_workflow`.

        A workflow that has not ended is left as it is, so a repeated call does not fence the runs of the first. A
        workflow whose key another workflow has by now is left, too.

        Args:
            which: The workflows; see `cancel_workflows`.
            dry_run: True to write nothing, and to return the report of the workflows that would be resumed.
            progress: A function that is called with the report so far after each statement; none by default.
            session: A caller's session or connection, in a transaction; see `cancel_workflows`.

        Returns:
            The report.

        Raises:
            ConfigurationError: As for `cancel_workflows`.
            TypeError: As for `cancel_workflows`.
            SessionError: The caller's session cannot be used, or is in AUTOCOMMIT.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await BulkOperations(
            self._loops, which, dry_run=dry_run, progress=progress, session=session
        ).resume()

    async def send_many(
        self,
        which: Selectable,
        topic: Topic[T] | str,
        value: T,
        *,
        key: str,
        dry_run: bool = False,
        progress: Progress | None = None,
        session: SessionOrConnection | None = None,
    ) -> BulkReport:
        """Send a message to many workflows; see `WorkflowHandle.send` and `cancel_workflows`.

        Args:
            which: The workflows; see `cancel_workflows`.
            topic: The topic, or its name for values of any type.
            value: The value of the messages, which the codec of the topic must be able to encode.
            key: The idempotency key of the messages, which makes the call safe to repeat: a workflow gets one
                message with this topic and key.
            dry_run: True to write nothing, and to return the report of the workflows that would get the message.
            progress: A function that is called with the report so far after each statement; none by default.
            session: A caller's session or connection: the messages are sent when the caller commits.

        Returns:
            The report. Workflows that have ended, that have the message already, or that are written with another
            codec are left.

        Raises:
            ConfigurationError: As for `cancel_workflows`.
            TypeError: As for `cancel_workflows`.
            SerializationError: The codec cannot encode `value`.
            InvalidNameError: The topic or the key cannot be stored.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        bulk = BulkOperations(self._loops, which, dry_run=dry_run, progress=progress, session=session)
        return await bulk.send(topic, value, key)

    async def export_workflow(self, workflow_id: int, *, session: SessionOrConnection | None = None) -> Document:
        """Return a workflow, its children and their children as one JSON document.

        The document of an archived workflow is that of the archive, which has no children.
        The document has the rows as they are, so a payload is JSON text in the codec that has written it; `format`
        is the version of the document.

        Args:
            workflow_id: The id of the workflow, which may be live.
            session: A caller's session or connection, in whose transaction the workflow is read.

        Returns:
            The document, which `json.dumps` accepts.

        Raises:
            TypeError: `workflow_id` is not an int.
            WorkflowNotFoundError: No workflow has this id, and none is archived.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await Documents(self._loops, session).export(workflow_id)

    async def import_workflow(
        self,
        document: Mapping[str, Any],
        *,
        ids: Ids = "new",
        live: bool = False,
        session: SessionOrConnection | None = None,
    ) -> WorkflowHandle[Any]:
        """Write the workflows of a document of `export_workflow` or of the archive, all of them or none.

        They keep their times, so the retention may soon delete an old one again; a workflow that is resumed is
        kept. Without `live` a document with a workflow that has not ended is refused, because its steps would be
        executed a second time beside the first workflow.

        Args:
            document: The document.
            ids: ``"new"``, the default, for new ids: the recorded results of steps are not changed, and may have
                the old ids of children. ``"keep"`` for the ids of the document, if they are free, in the database
                that has given them out; handles from before then work again.
            live: Whether workflows that have not ended are accepted. They are ready, and a worker continues them.
                False by default.
            session: A caller's session or connection, in a transaction. The workflows are there when the caller
                commits.

        Returns:
            The handle of the workflow.

        Raises:
            ConfigurationError: The document is of another format, has live workflows, or ids that are not free.
            KeyTakenError: Another workflow has the key of one.
            CodecMismatchError: A live workflow is written with another codec than that of this `Admin`.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await Documents(self._loops, session).import_(document, ids=ids, live=live)

    async def purge(
        self,
        which: Selectable,
        *,
        dry_run: bool = False,
        progress: Progress | None = None,
        session: SessionOrConnection | None = None,
    ) -> BulkReport:
        """Delete workflows that have ended, each with its children and their children, now and for good.

        They are not archived; see `export_workflow`. A statement deletes up to 500 workflows with all their rows
        but their messages, which are deleted at the end of the call. So the call is safe to interrupt and to
        repeat. A workflow that another transaction has locked is tried again later, up to 30 seconds.

        Args:
            which: The workflows; see `cancel_workflows`.
            dry_run: True to delete nothing, and to return the report of the workflows that would be deleted.
            progress: A function that is called with the report so far after each chunk; none by default.
            session: A caller's session or connection: the workflows are gone when the caller commits.

        Returns:
            The report; `changed` is the number of the workflows that were deleted, without children that were not
            selected. A workflow is left if it has not ended, is a child of a workflow that stays, has a live
            child, is in a live batch, is counted by a throttle, or has replied within the last hour.

        Raises:
            ConfigurationError: As for `cancel_workflows`.
            TypeError: As for `cancel_workflows`.
            SessionError: The caller's session cannot be used.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await purge(self._loops, which, dry_run=dry_run, progress=progress, session=session)

    async def rewind(
        self, workflow_id: int, *, before: str, session: SessionOrConnection | None = None
    ) -> RewindRecord:
        """Rewind a workflow to the time before one of its steps, and make it ready to run again from there.

        Operators call this method after a fix, also for a workflow that has succeeded. The steps that were
        completed before the chosen one began stay. The chosen step and the others are set aside: the next run
        executes them again, and `list_rewinds` returns their records. Messages that these steps have received
        return to the workflow. Their effects elsewhere stay, as do messages sent, events set, and rows written.
        Children that they have started are left behind, and cancelled if they were to end with their parent.
        `docs/operating.md` has the rules.

        Args:
            workflow_id: The id of the workflow.
            before: The id of the step, as `list_steps` returns it.
            session: A caller's session or connection, in a transaction. The change takes effect when the caller
                commits. By default the change is committed before this method returns.

        Returns:
            The rewind, with the steps that it has set aside.

        Raises:
            TypeError: `workflow_id` is not an int, or `before` is not a string.
            WorkflowNotFoundError: No workflow has this id.
            StepNotFoundError: The workflow has recorded no such step; `near` has similar ids.
            RewindRefusedError: A live executor runs the workflow, or a saga has undone a step that would stay.
            KeyTakenError: The workflow has released its key at its end, and another workflow has the key.
            UniqueTakenError: The workflow has given up its unique value, and another workflow holds it.
            SessionError: The caller's session cannot be used, or is in AUTOCOMMIT.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await Rewinds(self._loops, session).rewind(workflow_id, before)

    async def list_rewinds(self, workflow_id: int) -> list[RewindRecord]:
        """Return the rewinds of a workflow, the first one first, with the steps that they have set aside.

        Args:
            workflow_id: The id of the workflow.

        Returns:
            The records; a payload that cannot be read is `Unreadable`.

        Raises:
            TypeError: `workflow_id` is not an int.
            WorkflowNotFoundError: No workflow has this id.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await Rewinds(self._loops).list(workflow_id)

    def observe(self, observer: Observer) -> None:
        """Add an observer to this `Admin`, beside the observers that it has.

        Args:
            observer: The observer of the events of runs, steps and writes.

        Raises:
            ConfigurationError: This `Admin` has been used already.
        """
        self._loops.observe(observer)

    async def rewind_workflows(
        self,
        which: Selectable,
        *,
        before: str,
        dry_run: bool = False,
        progress: Progress | None = None,
        session: SessionOrConnection | None = None,
    ) -> BulkReport:
        """Rewind many workflows that have ended to the time before one of their steps; see `rewind`.

        A workflow that has not ended is left as it is, so a repeated call does not rewind the workflows of the
        first once more, until they have ended again. One transaction rewinds up to 100 workflows.

        Args:
            which: The workflows; see `cancel_workflows`.
            before: The id of the step; a workflow that has recorded no such step is left.
            dry_run: True to write nothing, and to return the report of the workflows that would be rewound.
            progress: A function that is called with the report so far after each 2,000 workflows; none by default.
            session: A caller's session or connection, in a transaction; see `cancel_workflows`.

        Returns:
            The report.

        Raises:
            ConfigurationError: As for `cancel_workflows`.
            TypeError: As for `cancel_workflows`.
            InvalidNameError: `before` cannot be the id of a step.
            SessionError: The caller's session cannot be used, or is in AUTOCOMMIT.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        bulk = BulkOperations(self._loops, which, dry_run=dry_run, progress=progress, session=session)
        return await bulk.rewind(before)


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
