"""Polls the results of workflows for all handles of one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from time import monotonic

from pgqrs.errors import PgqrsError, WorkflowNotFoundError
from pgqrs.storage.records import WorkflowResult
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

EXISTENCE_INTERVAL = 1.0
"""Seconds between two searches for deleted workflows."""

Look = Callable[[Collection[int]], Awaitable[dict[int, WorkflowResult]]]
Find = Callable[[Collection[int]], Awaitable[dict[int, int | None]]]


class ResultPoller:
    """Waits for the results of workflows: one statement reads the results of all awaited workflows.

    `look` returns the results of the workflows that have ended. The poller calls `look` soon after a new wait
    begins, and less often later. It looks at once for a workflow that ends in this process. `find` returns the
    tokens of the workflows that exist, because a deleted workflow never has a result.
    """

    def __init__(self, look: Look, find: Find) -> None:
        self._look = look
        self._find = find
        self._find_due = 0.0
        self._waiting: dict[int, dict[asyncio.Future[WorkflowResult], int | None]] = {}
        """The futures of the callers by workflow id, each with the token of the workflow that it waits for."""
        self._due_now: set[int] = set()
        self._woken = asyncio.Event()
        self._rest = MIN_POLL_INTERVAL
        self._all_due = 0.0
        self._pause = 0.0
        self._task: asyncio.Task[None] | None = None

    async def wait(self, workflow_id: int, token: int | None = None) -> WorkflowResult:
        """Wait until an existing workflow has ended, and return its result.

        Raises `WorkflowNotFoundError` for a deleted workflow and for a workflow with another token than `token`,
        and the error of `look` or `find`, such as `DatabaseUnavailableError`.
        """
        future: asyncio.Future[WorkflowResult] = asyncio.get_running_loop().create_future()
        waiters = self._waiting.setdefault(workflow_id, {})
        waiters[future] = token
        self._look_now(workflow_id)
        self._rest = MIN_POLL_INTERVAL
        self._all_due = min(self._all_due, monotonic() + max(MIN_POLL_INTERVAL, self._pause))
        if self._task is None:
            self._find_due = monotonic() + EXISTENCE_INTERVAL
            self._task = asyncio.get_running_loop().create_task(self._serve(), name="pgqrs-results")
        try:
            return await future
        finally:
            if future.done() and not future.cancelled():
                future.exception()  # marks the error as retrieved, if the caller is cancelled at this moment
            waiters.pop(future, None)
            if not waiters and self._waiting.get(workflow_id) is waiters:
                del self._waiting[workflow_id]

    def notify_finished(self, workflow_id: int) -> None:
        """Poll at once for a workflow that has ended in this process."""
        if workflow_id in self._waiting:
            self._look_now(workflow_id)

    async def close(self) -> None:
        """Stop the poller, and raise an error in all callers that still wait."""
        self._fail(
            PgqrsError(
                "the Admin was closed while a caller waited for the result of a workflow: call `result` again to "
                "continue waiting."
            )
        )
        self._woken.set()
        if self._task is not None:
            await asyncio.wait([self._task])

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
            found = await self._look(list(self._waiting) if all_due else due_now) if all_due or due_now else {}
        except Exception as error:  # noqa: BLE001  # every waiting caller must receive the error
            self._fail(error)
            return
        for workflow_id, end in found.items():
            self._resolve(workflow_id, end)
        now = monotonic()
        if all_due:
            took = now - began
            self._pause = MIN_REST_RATIO * took
            self._all_due = now + max(self._rest, self._pause)
            longest = min(max(MAX_POLL_INTERVAL, MAX_REST_RATIO * took), MAX_SLOW_POLL_INTERVAL)
            self._rest = min(self._rest * BACKOFF, longest)
            await self._drop_the_deleted(list(self._waiting))
        await self._wait(self._all_due - monotonic())

    async def _drop_the_deleted(self, ids: Collection[int]) -> None:
        """Raise `WorkflowNotFoundError` in the callers that wait for a deleted workflow, once per interval."""
        began = monotonic()
        if not ids or began < self._find_due:
            return
        try:
            found = await self._find(ids)
        except Exception as error:  # noqa: BLE001  # every waiting caller must receive the error
            self._fail(error)
            return
        now = monotonic()
        self._find_due = now + max(EXISTENCE_INTERVAL, MAX_REST_RATIO * (now - began))
        for workflow_id in ids:
            if workflow_id in found:
                self._drop_the_replaced(workflow_id, found[workflow_id])
            else:
                self._fail_all(self._waiting.pop(workflow_id, ()), WorkflowNotFoundError(workflow_id))

    def _resolve(self, workflow_id: int, end: WorkflowResult) -> None:
        self._drop_the_replaced(workflow_id, end.token)
        for future in self._waiting.pop(workflow_id, ()):
            if not future.done():
                future.set_result(end)

    def _drop_the_replaced(self, workflow_id: int, found: int | None) -> None:
        """Raise `WorkflowNotFoundError` in the callers that wait for a workflow whose id another workflow has."""
        waiters = self._waiting.get(workflow_id, {})
        for future, token in list(waiters.items()):
            try:
                check_token(workflow_id, token, found)
            except WorkflowNotFoundError as error:
                del waiters[future]
                self._fail_all([future], error)

    def _fail(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, {}
        for waiters in waiting.values():
            self._fail_all(waiters, error)

    def _fail_all(self, waiters: Iterable[asyncio.Future[WorkflowResult]], error: Exception) -> None:
        for future in waiters:
            if not future.done():
                future.set_exception(error)

    async def _wait(self, seconds: float) -> None:
        if self._waiting:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._woken.wait()
