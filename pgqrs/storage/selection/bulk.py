"""The course of a bulk operation: chunks of a selection, and again the workflows that were locked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any, Protocol, TypeAlias, TypeVar

from sqlalchemy import func, select

from pgqrs.models import Workflow
from pgqrs.storage.queries.workflows import bigints
from pgqrs.storage.selection.selections import Selection
from pgqrs.storage.sql.connection import Connection
from pgqrs.types import BulkReport, LeftWorkflows

T = TypeVar("T")

Outcomes: TypeAlias = Mapping[int, str | None]
"""The workflows of a chunk that an action has decided: None for a changed one, else the reason why it is left.

A workflow that is missing was locked by another transaction, or does not exist.
"""

Action: TypeAlias = Callable[[Sequence[int]], Awaitable[Outcomes]]
"""A function that changes the workflows of a chunk, in a transaction, and skips the locked ones.

It must be safe to repeat. A dry run passes a function that only looks.
"""

Progress: TypeAlias = Callable[[BulkReport], object]
"""A function that is called with the report so far after each chunk."""

CHUNK = 2000
"""Maximum workflows of one statement."""

LONGEST_SELECT = 3600.0
"""Maximum seconds of the statement that reads ids: a select of the application may read whole tables."""

PATIENCE = 30.0
"""Seconds without a change after which locked workflows are left."""

_PAUSE = 0.05
"""Seconds before locked workflows are tried again."""

SHOWN = 10
"""Maximum ids of a reason in a report."""

GONE = "do not exist"

LOCKED = "are locked by another transaction"


class Run(Protocol):
    """The way to do work in a transaction, as `WorkflowOperations.run`."""

    def __call__(
        self, work: Callable[[Connection], Awaitable[T]], /, *, lasting: float | None = None
    ) -> Awaitable[T]:
        """Do `work`, which may last for some seconds, and return its result."""
        ...


class BulkOperation:
    """One operation on many workflows; `act` is done for each chunk of the selection."""

    def __init__(self, run: Run, act: Action, progress: Progress | None = None, *, dry_run: bool = False) -> None:
        self._run = run
        self._act = act
        self._progress = progress
        self._dry_run = dry_run
        self._found = 0
        self._changed = 0
        self._left: dict[str, list[int]] = {}

    @property
    def report(self) -> BulkReport:
        """The report of the chunks so far."""
        left = [LeftWorkflows(reason, len(ids), tuple(sorted(ids)[:SHOWN])) for reason, ids in self._left.items()]
        return BulkReport(self._found, self._changed, tuple(left), self._dry_run)

    async def execute(self, selection: Selection) -> BulkReport:
        """Act on all workflows of a selection, and return the report."""
        locked: list[int] = []
        after: int | None = 0
        while after is not None:
            ids, after = await self._run(partial(selection.page, after=after), lasting=LONGEST_SELECT)
            self._found += len(ids)
            locked += await self._each(ids)
        await self._again(locked)
        return self.report

    async def _again(self, locked: list[int]) -> None:
        """Act on workflows that were locked, until none is left or none becomes free any more."""
        last = monotonic()
        while locked:
            await asyncio.sleep(_PAUSE)
            count = len(locked)
            locked = await self._each(locked)
            if len(locked) < count:
                last = monotonic()
            elif monotonic() - last > PATIENCE:
                self._note(dict.fromkeys(locked, LOCKED))
                return

    async def _each(self, ids: Sequence[int]) -> list[int]:
        """Act on workflows in chunks, and return the locked ones."""
        locked: list[int] = []
        for chunk in _chunks(ids):
            outcomes = await self._act(chunk)
            missing = [each for each in chunk if each not in outcomes]
            there = await self._run(partial(_existing, ids=missing)) if missing else []
            gone = set(missing).difference(there)
            self._note({**outcomes, **dict.fromkeys(gone, GONE)})
            locked += there
            if self._progress is not None:
                self._progress(self.report)
        return locked

    def _note(self, outcomes: Outcomes) -> None:
        for workflow_id, reason in outcomes.items():
            if reason is None:
                self._changed += 1
            else:
                self._left.setdefault(reason, []).append(workflow_id)


async def _existing(connection: Connection, ids: Iterable[int]) -> list[int]:
    """Return the ids that workflows have, in order."""
    query = select(Workflow.id).where(Workflow.id == func.any(bigints([*ids]))).order_by(Workflow.id)
    return list(await connection.scalars(query))


def _chunks(ids: Sequence[int]) -> Generator[Sequence[int]]:
    for first in range(0, len(ids), CHUNK):
        yield ids[first : first + CHUNK]


def outcomes_of(rows: Iterable[Any], reason: Callable[[Any], str | None]) -> Outcomes:
    """Return the outcomes of rows with an `id`, by a function that returns the reason to leave a row."""
    return {row.id: reason(row) for row in rows}
