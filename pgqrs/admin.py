"""`Admin`: connect, install, create, run, inspect, resume."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from pgqrs.context import PyWorkflow
from pgqrs.decorators import workflow_name
from pgqrs.errors import ConfigurationError
from pgqrs.models import SCHEMA
from pgqrs.names import check_name, check_schema
from pgqrs.serialization import Codec, JsonCodec
from pgqrs.storage.database import Limits
from pgqrs.storage.engines import Target, engine_source
from pgqrs.storage.store import Store
from pgqrs.types import StepRecord, WorkflowRecord, WorkflowStatus

P = ParamSpec("P")
R = TypeVar("R")

_NOTHING: Any = object()


class Admin:
    """The way into a database's workflows.

    `dsn` is a DSN string (``postgresql://...`` as asyncpg reads it, or ``embedded://`` for a PostgreSQL of its
    own), an SQLAlchemy `URL`, or an `AsyncEngine` of yours, which is never disposed here. `schema` is where the
    tables are, ``"pgqrs"`` by default. `codec` turns values into text and back; strict JSON by default.
    `timeout` bounds one connection attempt and one write, in seconds. `patience` is how long, in seconds, a
    write waits for a server that went away before `DatabaseUnavailableError` is raised.

    Nothing is connected before it is needed. It is an async context manager; without one call `close`, or let
    the event loop's end do it. It can be used in several event loops, one after another or at once, unless an
    engine was given, which belongs to one.

    Raises `InvalidDSNError` (a `ValueError`) for what is no PostgreSQL DSN, `ConfigurationError` (a
    `ValueError`) for a schema name that cannot be, `TypeError` for anything else.
    """

    def __init__(
        self,
        dsn: Target,
        schema: str | None = None,
        *,
        codec: Codec | None = None,
        timeout: float = 10.0,
        patience: float = 60.0,
    ) -> None:
        self._schema = SCHEMA if schema is None else schema
        check_schema(self._schema)
        self._source = engine_source(dsn, timeout=timeout)
        self._limits = Limits(timeout, patience)
        self._codec: Codec = JsonCodec() if codec is None else codec
        self._stores: dict[asyncio.AbstractEventLoop, Store] = {}

    @property
    def schema(self) -> str:
        """The schema of the tables."""
        return self._schema

    @property
    def codec(self) -> Codec:
        """How values become text and back."""
        return self._codec

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
        store = self._stores.get(asyncio.get_running_loop())
        if store is not None:
            await store.close()

    async def store(self) -> Store:
        """Return the running event loop's store; for the library's own use."""
        loop = asyncio.get_running_loop()
        store = self._stores.get(loop)
        if store is None:
            self._leave_other_loops()
            store = self._stores[loop] = Store(self._source, self._schema, self._limits)
            await store.open()
        return store

    def _leave_other_loops(self) -> None:
        if self._stores and not self._source.owned:
            raise ConfigurationError(
                "the engine that this Admin was given belongs to another event loop: give each loop an engine "
                "and an Admin of its own, or give Admin a DSN."
            )
        for loop in [each for each in self._stores if each.is_closed()]:
            del self._stores[loop]

    async def install(self) -> None:
        """Create the schema and its tables, or bring them to this version; safe to call again, and at once.

        Raises `SchemaOutOfDateError` when a newer pgqrs made the tables.
        """
        await (await self.store()).install()

    async def verify(self) -> None:
        """Check that the tables are there and at this version.

        Raises `NotInstalledError` or `SchemaOutOfDateError`, which name the command that mends it.
        """
        await (await self.store()).verify()

    async def create_workflow(self, name: str, input_arg: Any = _NOTHING) -> PyWorkflow:
        """Create a workflow, to be run by calling its function with the context that this returns.

        `name` is the workflow's type, at most 512 bytes. `input_arg` is recorded as its input and must be strict
        JSON; it is for you to read, and the function is called with whatever you call it with. Raises
        `InvalidNameError`, `SerializationError`, `NotInstalledError`, `DatabaseUnavailableError`.
        """
        args = [] if input_arg is _NOTHING else [input_arg]
        context, _ = await self._create(name, {"args": args, "kwargs": {}})
        return context

    async def _create(self, name: str, given: dict[str, Any]) -> tuple[PyWorkflow, dict[str, Any]]:
        """Create a workflow and return its context, and its input as it is stored."""
        check_name("workflow name", name)
        encoded = self._codec.encode(given)
        store = await self.store()
        return PyWorkflow(self, await store.create(name, encoded.text), name), encoded.value

    async def run(
        self, workflow: Callable[Concatenate[PyWorkflow, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Create a workflow with these arguments, run it here, and return its result.

        `workflow` is a function decorated with `@workflow`. The arguments are recorded as its input, so they
        must be strict JSON, and it is called with them as they are recorded (a tuple is a list). Raises what
        the workflow raises, and as `create_workflow` does.
        """
        context, given = await self._create(workflow_name(workflow), {"args": list(args), "kwargs": kwargs})
        function: Callable[..., Awaitable[R]] = workflow
        return await function(context, *given["args"], **given["kwargs"])

    async def get_workflow(self, workflow_id: int) -> PyWorkflow:
        """Return the context of a workflow that is there, to run it again.

        Raises `WorkflowNotFoundError`.
        """
        return PyWorkflow(self, workflow_id, await (await self.store()).name_of(workflow_id))

    async def resume_workflow(self, workflow_id: int) -> PyWorkflow:
        """Make a failed or cancelled workflow runnable again, every failed step of it too, terminal ones as well.

        The operator's button after a fix. It is PENDING then, whatever run of it still goes on is fenced, and
        the context returned runs it. Raises `WorkflowNotFoundError`, and `WorkflowFinishedError` for a workflow
        that has succeeded.
        """
        return PyWorkflow(self, workflow_id, await (await self.store()).resume(workflow_id))

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
        Raises `ValueError` for a status that is none.
        """
        if limit < 0:
            raise ConfigurationError(f"limit must not be negative, and is {limit}.")
        wanted = None if status is None else WorkflowStatus(status)
        store = await self.store()
        return await store.workflows(self._codec.decode, status=wanted, name=name, limit=limit, before=before)

    async def list_steps(self, workflow_id: int) -> list[StepRecord]:
        """Return what is recorded of a workflow's steps, in the order in which they were started.

        Raises `WorkflowNotFoundError`.
        """
        return await (await self.store()).steps(workflow_id, self._codec.decode)
