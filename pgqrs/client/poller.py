"""Polls facts about workflows for all waiting callers of one event loop."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from contextlib import suppress
from time import monotonic
from typing import ClassVar, Generic, TypeVar

from pgqrs.errors import PgqrsError, WorkflowNotFoundError
from pgqrs.storage.sql.tokens import check_token

MIN_POLL_INTERVAL = 0.01
"""Seconds between the first poll and the second."""

BACKOFF = 1.5
"""Factor by which each pause between two polls is longer than the previous pause."""

MAX_POLL_INTERVAL = 0.1
"""Seconds between two polls, at most, if a poll is fast."""

MAX_SLOW_POLL_INTERVAL = 0.5
"""Seconds between two polls, at most, if a poll is slow."""

MIN_REST_RATIO = 5
"""Minimum ratio of a pause to the duration of the poll before it."""

MAX_REST_RATIO = 50
"""Ratio of the longest pause to the duration of the poll before it.

The longest pause lies between `MAX_POLL_INTERVAL` and `MAX_SLOW_POLL_INTERVAL`.
"""

S = TypeVar("S")
V = TypeVar("V")


class Poller(ABC, Generic[S, V]):
    """Waits for facts about workflows: one statement reads the facts for all waiting callers.

    `S` is the type of the subject of a wait, and `V` the type of the fact. The poller looks soon after a new wait
    begins, and less often later. It looks at once for a workflow that changes in this process.
    """

    name: ClassVar[str]
    """The name of the poller's task."""
    awaited: ClassVar[str]
    """The noun of the facts, for the text of an error."""
    again: ClassVar[str]
    """The name of the method by which a caller continues to wait after an error."""

    def __init__(self) -> None:
        self._waiting: dict[int, dict[asyncio.Future[V], S]] = {}
        """The futures of the callers by workflow id, each with the subject of its wait."""
        self._due_now: set[int] = set()
        self._woken = asyncio.Event()
        self._rest = MIN_POLL_INTERVAL
        self._all_due = 0.0
        self._pause = 0.0
        self._task: asyncio.Task[None] | None = None

    async def wait(self, workflow_id: int, subject: S) -> V:
        """Wait for a fact about an existing workflow.

        Raises `WorkflowNotFoundError` for a deleted or replaced workflow, and the error of a look, such as
        `DatabaseUnavailableError`.
        """
        future: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        waiters = self._waiting.setdefault(workflow_id, {})
        waiters[future] = subject
        self._look_now(workflow_id)
        self._rest = MIN_POLL_INTERVAL
        self._all_due = min(self._all_due, monotonic() + max(MIN_POLL_INTERVAL, self._pause))
        if self._task is None:
            self._on_begin()
            self._task = asyncio.get_running_loop().create_task(self._serve(), name=self.name)
        try:
            return await future
        finally:
            if future.done() and not future.cancelled():
                future.exception()  # marks the error as retrieved, if the caller is cancelled at this moment
            waiters.pop(future, None)
            if not waiters and self._waiting.get(workflow_id) is waiters:
                del self._waiting[workflow_id]

    def notify(self, workflow_id: int) -> None:
        """Poll at once for a workflow that has changed in this process."""
        if workflow_id in self._waiting:
            self._look_now(workflow_id)

    async def close(self) -> None:
        """Stop the poller, and raise an error in all callers that still wait."""
        self._fail(
            PgqrsError(
                f"the Admin was closed while a caller waited for the {self.awaited} of a workflow: call "
                f"`{self.again}` again to continue waiting."
            )
        )
        self._woken.set()
        if self._task is not None:
            await asyncio.wait([self._task])

    @abstractmethod
    async def _look(self, ids: Collection[int]) -> None:
        """Read the facts about these workflows, and end the waits for the facts that were found."""

    def _on_begin(self) -> None:
        """Prepare for the first of several waits."""

    async def _look_for_deleted(self, ids: Collection[int]) -> None:
        """End the waits for deleted workflows, if `_look` does not find them."""

    def _look_now(self, workflow_id: int) -> None:
        self._due_now.add(workflow_id)
        self._woken.set()

    async def _serve(self) -> None:
        try:
            while self._waiting:
                await self._serve_once()
        finally:
            self._task = None

    async def _serve_once(self) -> None:
        self._woken.clear()
        due_now, self._due_now = self._due_now & self._waiting.keys(), set()
        began = monotonic()
        all_due = began >= self._all_due
        try:
            if all_due or due_now:
                await self._look(list(self._waiting) if all_due else due_now)
        except Exception as error:  # noqa: BLE001  # every waiting caller must receive the error
            self._fail(error)
            return
        now = monotonic()
        if all_due:
            took = now - began
            self._pause = MIN_REST_RATIO * took
            self._all_due = now + max(self._rest, self._pause)
            longest = min(max(MAX_POLL_INTERVAL, MAX_REST_RATIO * took), MAX_SLOW_POLL_INTERVAL)
            self._rest = min(self._rest * BACKOFF, longest)
            await self._look_for_deleted(list(self._waiting))
        await self._wait(self._all_due - monotonic())

    def _drop_if_replaced(
        self, workflow_id: int, future: asyncio.Future[V], token: int | None, found: int | None
    ) -> None:
        """Raise `WorkflowNotFoundError` in a caller that waits for a workflow whose id another workflow has."""
        try:
            check_token(workflow_id, token, found)
        except WorkflowNotFoundError as error:
            self._waiting[workflow_id].pop(future, None)
            self._fail_all([future], error)

    def _fail(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, {}
        for waiters in waiting.values():
            self._fail_all(waiters, error)

    def _fail_all(self, waiters: Iterable[asyncio.Future[V]], error: Exception) -> None:
        for future in waiters:
            if not future.done():
                future.set_exception(error)

    async def _wait(self, seconds: float) -> None:
        if self._waiting:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._woken.wait()
