"""The one door of an event loop to the database: what a run, and an administrator, can ask of it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from uuid import uuid4

from pgqrs.errors import WorkflowNotFoundError
from pgqrs.storage import migrate
from pgqrs.storage.database import Database, Limits
from pgqrs.storage.engines import EngineSource
from pgqrs.storage.faults import translated
from pgqrs.storage.journal import Journal
from pgqrs.storage.marks import RunningMarks
from pgqrs.storage.repositories import Decode, StepRepository, WorkflowRepository
from pgqrs.types import (
    Claim,
    NewWorkflow,
    Outcome,
    RunEnd,
    RunStart,
    StepOutcome,
    StepRecord,
    WorkflowRecord,
    WorkflowStatus,
)

_MAX_BIGINT = 2**63 - 1

MAX_ID_BLOCK = 1024
"""The most workflow ids reserved at a time; the blocks grow up to it from one, so that the first id is 1."""


class Store:
    """A database, its journal, and the ids reserved for new workflows."""

    def __init__(self, source: EngineSource, schema: str, limits: Limits) -> None:
        self.database = Database(source, schema, limits)
        self.journal = Journal(self.database)
        self.marks = RunningMarks(self.journal)
        self._ids: deque[int] = deque()
        self._block = 1
        self._reserving = asyncio.Lock()
        self._closing = asyncio.Lock()
        self._verified = False
        self._until_loop_ends: AsyncGenerator[None, None] | None = None

    async def open(self) -> None:
        """Arrange to be closed when the event loop ends, whether or not somebody calls `close` before."""
        self._until_loop_ends = self._closed_with_the_loop()
        await anext(self._until_loop_ends)

    async def _closed_with_the_loop(self) -> AsyncGenerator[None, None]:
        # asyncio closes the generators that it has seen start, `asyncio.run` as well as a hand-made loop that
        # calls shutdown_asyncgens; there is no other hook at a loop's end.
        try:
            yield
        finally:
            try:
                await self.close()
            except (asyncio.CancelledError, GeneratorExit):
                # The end of the loop cancels every task, once; where `aclose` had not begun, Python 3.11 throws a
                # GeneratorExit in here as well. What is not closed now never will be.
                await self.close()
                raise

    async def close(self) -> None:
        """Write what the journal has accepted and close what is ours; it can be used, and closed, again."""
        async with self._closing:
            await self.journal.close()
            await self.database.dispose()

    async def install(self) -> None:
        """Bring the tables to this version; see `pgqrs.storage.migrate`."""
        with translated(self.database.schema), await self.database.in_use():
            await migrate.install(self.database.engine, self.database.schema)
        self._verified = True

    async def verify(self) -> None:
        """Check that the tables are there, at this version."""
        async with self.database.transaction() as connection:
            await migrate.verify(connection, self.database.schema)

    async def ready(self) -> None:
        """Check the tables before the first use, once."""
        if not self._verified:
            await self.verify()
            self._verified = True

    async def create(self, name: str, input_text: str) -> int:
        """Write a new workflow and return its id."""
        await self.ready()
        workflow_id = await self._reserved_id()
        await self.journal.write(NewWorkflow(workflow_id, name, input_text))
        return workflow_id

    async def _reserved_id(self) -> int:
        while not self._ids:
            async with self._reserving:
                if not self._ids:
                    await self._reserve()
        return self._ids.popleft()

    async def _reserve(self) -> None:
        sequence, count = self.database.qualified("pgqrs_workflows_id_seq"), self._block
        self._ids.extend(
            await self.database.patiently(
                lambda connection: WorkflowRepository(connection).reserve_ids(sequence, count)
            )
        )
        self._block = min(2 * count, MAX_ID_BLOCK)

    async def claim(self, workflow_id: int) -> Claim:
        """Start a run of the workflow, fencing every earlier one, or return the output of its success."""
        await self.ready()
        claim: Claim = await self.journal.write(RunStart(workflow_id, uuid4()))
        return claim

    async def outcomes(self, workflow_id: int) -> dict[str, Outcome]:
        """Return what is recorded of the workflow's finished steps, those to be executed again left out."""
        return await self.database.patiently(lambda connection: StepRepository(connection).outcomes(workflow_id))

    @property
    def is_full(self) -> bool:
        """Whether `room` must be awaited before `record`."""
        return self.journal.is_full

    async def room(self) -> None:
        """Wait while too much is waiting to be written."""
        await self.journal.room()

    def record(self, outcome: StepOutcome, tell: Callable[[Outcome | Exception], None]) -> None:
        """Take a step's outcome on; `tell` is called with what is recorded, which may be an earlier one."""
        self.journal.accept(outcome, tell)

    async def end(self, end: RunEnd) -> None:
        """Record how a run ended."""
        await self.journal.write(end)

    async def name_of(self, workflow_id: int) -> str:
        """Return the name of a workflow."""
        _check_id(workflow_id)
        await self.ready()
        return await self.database.patiently(lambda connection: WorkflowRepository(connection).name(workflow_id))

    async def resume(self, workflow_id: int) -> str:
        """Make a workflow runnable again, its failed steps too, and return its name."""
        _check_id(workflow_id)
        await self.ready()
        return await self.database.patiently(lambda connection: WorkflowRepository(connection).resume(workflow_id))

    async def workflows(
        self,
        decode: Decode,
        *,
        status: WorkflowStatus | None,
        name: str | None,
        limit: int,
        before: int | None,
    ) -> list[WorkflowRecord]:
        """Return a page of workflows, newest first."""
        await self.ready()
        return await self.database.patiently(
            lambda connection: WorkflowRepository(connection).page(
                decode, status=status, name=name, limit=limit, before=before
            )
        )

    async def steps(self, workflow_id: int, decode: Decode) -> list[StepRecord]:
        """Return a workflow's steps in the order in which they were started."""
        await self.name_of(workflow_id)
        return await self.database.patiently(
            lambda connection: StepRepository(connection).of_workflow(workflow_id, decode)
        )


def _check_id(workflow_id: object) -> None:
    """Refuse an id that no row can have, before the driver does in words of its own."""
    if not isinstance(workflow_id, int):
        raise TypeError(f"a workflow id is an int, not {type(workflow_id).__name__}.")
    if not 0 < workflow_id <= _MAX_BIGINT:
        raise WorkflowNotFoundError(workflow_id)
