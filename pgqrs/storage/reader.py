"""Reads workflows and steps for people: for handles, lists, the command line and a dashboard."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from pgqrs.codecs.records import StoredStep, StoredWorkflow
from pgqrs.errors import DatabaseError, KeyTakenError, UniqueTakenError
from pgqrs.storage.access.id_allocator import check_id
from pgqrs.storage.connections.database import Database
from pgqrs.storage.diagnosis.facts import Facts
from pgqrs.storage.diagnosis.repository import Diagnosis
from pgqrs.storage.diagnosis.workers import StoredWorker
from pgqrs.storage.queries.children import child_of, child_results
from pgqrs.storage.queries.invariants import Invariant, invariants
from pgqrs.storage.queries.server import Gauges, ServerRepository
from pgqrs.storage.queries.steps import StepRepository
from pgqrs.storage.queries.updates import replies
from pgqrs.storage.queries.workflows import WorkflowRepository
from pgqrs.storage.records import (
    AskedReply,
    ChildResult,
    EventState,
    Receiver,
    ReplyState,
    StepTimes,
    WorkflowIdentity,
    WorkflowName,
    WorkflowResult,
    from_row,
    stored_member,
)
from pgqrs.storage.retention.archive import ArchiveRepository
from pgqrs.storage.schema.tables import InstalledTables
from pgqrs.storage.selection.activity import Activity, newest_activity
from pgqrs.storage.selection.filters import WorkflowFilter
from pgqrs.storage.selection.pages import StoredPage, WorkflowLists
from pgqrs.storage.server_clock import ServerClock
from pgqrs.storage.sql.expressions import text_of_array
from pgqrs.storage.sql.tokens import check_token
from pgqrs.types import WorkflowCount, WorkflowStatus

LONGEST_SEARCH = 3600.0
"""Maximum seconds of the search for violations of one invariant, and of a count."""

INSUFFICIENT_PRIVILEGE = "42501"
"""The SQLSTATE of a statement for which a role has not the rights."""

T = TypeVar("T")


class StoreReader:
    """The reads that no run depends on; they change nothing.

    A method that takes a `token` raises `WorkflowNotFoundError` if the workflow of the id has another token.
    """

    def __init__(
        self, database: Database, tables: InstalledTables, server_clock: ServerClock, diagnosis: Diagnosis
    ) -> None:
        self._database = database
        self._tables = tables
        self._diagnosis = diagnosis
        self.server_clock = server_clock

    async def workflows(
        self, given: WorkflowFilter, *, limit: int, after: int | None, payloads: bool = True
    ) -> StoredPage:
        """Return a page of workflows, newest first; without `payloads` inputs and outputs are not read."""
        return await self._read(
            lambda connection: WorkflowLists(connection).page(given, limit=limit, after=after, payloads=payloads)
        )

    async def activity(self) -> Activity:
        """Return the recent changes of the newest workflows."""
        return await self._read(newest_activity)

    async def counts(self, given: WorkflowFilter) -> list[WorkflowCount]:
        """Return the numbers of workflows by name and status."""
        return await self._read(lambda connection: WorkflowLists(connection).count(given), lasting=LONGEST_SEARCH)

    async def workflow(self, workflow_id: int, token: int | None = None) -> StoredWorkflow:
        """Return the current record of a workflow."""
        check_id(workflow_id)
        found = await self._read(lambda connection: WorkflowRepository(connection).get(workflow_id))
        check_token(workflow_id, token, found.token)
        return found

    async def status(self, workflow_id: int, token: int | None = None) -> WorkflowStatus:
        """Return the status of a workflow."""
        check_id(workflow_id)
        status, found = await self._read(lambda connection: WorkflowRepository(connection).status(workflow_id))
        check_token(workflow_id, token, found)
        return status

    async def name(self, workflow_id: int) -> WorkflowName:
        """Return the name and the token of a workflow."""
        check_id(workflow_id)
        return await self._read(lambda connection: WorkflowRepository(connection).name(workflow_id))

    async def key_taken(self, workflow_id: int) -> KeyTakenError | UniqueTakenError | None:
        """Return the error of a workflow that cannot run again because another one has its key, or None."""
        return await self._read(lambda connection: WorkflowRepository(connection).key_taken(workflow_id))

    async def steps(self, workflow_id: int) -> list[StoredStep]:
        """Return a workflow's steps in the order in which they were started."""
        return await self._read(lambda connection: StepRepository(connection).of_workflow(workflow_id))

    async def step_times(self, workflow_id: int) -> list[StepTimes]:
        """Return the times of a workflow's steps."""
        return await self._read(lambda connection: StepRepository(connection).times(workflow_id))

    async def results(self, ids: Collection[int]) -> dict[int, WorkflowResult]:
        """Return the results of the workflows that have ended, by id."""
        return await self._read(lambda connection: WorkflowRepository(connection).results(ids))

    async def archived_results(self, ids: Collection[int]) -> dict[int, WorkflowResult]:
        """Return the results of the workflows that were archived, by id; none without the right to read them."""
        try:
            return await self._read(lambda connection: ArchiveRepository(connection).results(ids))
        except DatabaseError as error:
            if error.sqlstate == INSUFFICIENT_PRIVILEGE:
                return {}
            raise

    async def archived_result(self, workflow_id: int, token: int | None) -> WorkflowResult | None:
        """Return the result of an archived workflow, None without one."""
        found = (await self.archived_results([workflow_id])).get(workflow_id)
        if found is not None:
            check_token(workflow_id, token, found.token)
        return found

    async def receiver(self, workflow_id: int, address: str, key: str) -> Receiver:
        """Return the state of the receiver of a message with an address and a key."""
        check_id(workflow_id)
        return await self._read(
            lambda connection: WorkflowRepository(connection).receiver(workflow_id, address, key)
        )

    async def event(self, workflow_id: int, name: str, token: int | None = None) -> EventState:
        """Return the value of an event of a workflow, and the state of the workflow."""
        check_id(workflow_id)
        found = await self._read(lambda connection: WorkflowRepository(connection).event(workflow_id, name))
        check_token(workflow_id, token, found.token)
        return found

    async def events(self, workflow_id: int) -> dict[str, str]:
        """Return the values, JSON texts, of the events that a workflow has set, by name."""
        return await self._read(lambda connection: WorkflowRepository(connection).events(workflow_id))

    async def inputs(self, ids: Collection[int]) -> dict[int, str]:
        """Return the inputs, JSON texts, of the workflows that exist, by id."""
        return await self._read(lambda connection: WorkflowRepository(connection).inputs(ids))

    async def child_results(self, workflow_id: int, step_id: str, first: int, count: int) -> list[ChildResult]:
        """Return the ends of up to `count` children that a step has started, from the place `first` on.

        The list has fewer of them if their results are large, but one at least while there is one.
        """
        values = {"parent": workflow_id, "step": step_id, "first": first, "count": count}

        async def read(connection: AsyncConnection) -> list[ChildResult]:
            rows: Sequence[Any] = (await connection.execute(child_results(), values)).all()
            return [
                ChildResult(row[0], row[1], stored_member(WorkflowStatus, row[2]), row[3], row[4]) for row in rows
            ]

        return await self._read(read)

    async def keyed_child(
        self, workflow_id: int, step_id: str, name: str, key: str
    ) -> tuple[WorkflowIdentity | None, WorkflowIdentity | None]:
        """Return the child that a step has started, and the workflow of a name that has a key."""

        async def read(connection: AsyncConnection) -> tuple[WorkflowIdentity | None, WorkflowIdentity | None]:
            found = await connection.execute(child_of(), {"parent": workflow_id, "step": step_id})
            row: Any = found.one_or_none()
            holder = await WorkflowRepository(connection).of_key(name, key)
            return None if row is None else WorkflowIdentity(*row), holder

        return await self._read(read)

    async def replies(self, asked: Collection[AskedReply]) -> dict[AskedReply, ReplyState]:
        """Return the states of the requests that have a reply, or whose workflows have ended or are gone."""
        workflow_ids, addresses, keys, tokens = zip(*asked, strict=True)
        values = {
            "workflow_ids": text_of_array(workflow_ids),
            "addresses": list(addresses),
            "keys": list(keys),
            "tokens": text_of_array(tokens),
        }

        async def read(connection: AsyncConnection) -> dict[AskedReply, ReplyState]:
            rows = (await connection.execute(replies(), values)).mappings()
            found = [(AskedReply(*(row[f"asked_{each}"] for each in AskedReply._fields)), row) for row in rows]
            return {own: from_row(ReplyState, row) for own, row in found}

        return await self._read(read)

    async def tokens(self, ids: Collection[int]) -> dict[int, int | None]:
        """Return the tokens of the workflows that exist, by id."""
        return await self._read(lambda connection: WorkflowRepository(connection).tokens(ids))

    async def violations(self) -> list[str]:
        """Return a sentence for each violation of the tables' invariants."""
        found: list[str] = []
        for each in invariants():

            async def search(connection: AsyncConnection, each: Invariant = each) -> list[str]:
                return await ServerRepository(connection).violations(each, LONGEST_SEARCH)

            found += await self._read(search, lasting=LONGEST_SEARCH)
        return found

    async def facts(self, workflow_id: int) -> Facts:
        """Return the facts that tell why a workflow is not running."""
        check_id(workflow_id)
        await self._tables.ensure()
        return await self._diagnosis.facts(workflow_id)

    async def workers(self) -> list[StoredWorker]:
        """Return the executors that have not stopped, each with its workers."""
        await self._tables.ensure()
        return await self._diagnosis.workers()

    async def gauges(self) -> Gauges:
        """Return the numbers of the workflows that have not ended, and of the executors."""
        return await self._read(lambda connection: ServerRepository(connection).gauges())

    async def now(self) -> datetime:
        """Return the time by the database's clock."""
        return await self.server_clock.now()

    async def _read(self, work: Callable[[AsyncConnection], Awaitable[T]], *, lasting: float | None = None) -> T:
        await self._tables.ensure()
        return await self._database.run_with_retries(work, lasting=lasting)
