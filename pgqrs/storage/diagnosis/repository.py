"""Reads the facts about workflows, and the workers, through a connection outside of the pool."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pgqrs.errors import WorkflowNotFoundError
from pgqrs.storage.diagnosis.facts import Facts, why
from pgqrs.storage.diagnosis.workers import StoredWorker, workers
from pgqrs.storage.records import from_row


class Diagnosis:
    """The answers to an operator, each read by one statement; `fetch` runs a statement that changes nothing.

    An operator asks while something is wrong: the pool of the application may have no free connection then.
    """

    def __init__(self, fetch: Callable[[Callable[[], Any], dict[str, Any]], Awaitable[list[Any]]]) -> None:
        self._fetch = fetch

    async def facts(self, workflow_id: int) -> Facts:
        """Return the facts about a workflow; raises `WorkflowNotFoundError`."""
        rows = await self._fetch(why, {"workflow": workflow_id})
        if not rows:
            raise WorkflowNotFoundError(workflow_id)
        return from_row(Facts, rows[0])

    async def workers(self) -> list[StoredWorker]:
        """Return the executors that have not stopped, each with its workers."""
        return [from_row(StoredWorker, row) for row in await self._fetch(workers, {})]
