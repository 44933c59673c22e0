"""Polls the results of workflows for all handles of one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from time import monotonic
from typing import ClassVar

from pgqrs.client.poller import MAX_REST_RATIO, Poller
from pgqrs.errors import WorkflowNotFoundError
from pgqrs.storage.records import WorkflowResult

EXISTENCE_INTERVAL = 1.0
"""Seconds between two searches for deleted workflows."""

Look = Callable[[Collection[int]], Awaitable[dict[int, WorkflowResult]]]
Find = Callable[[Collection[int]], Awaitable[dict[int, int | None]]]

LISTEN_AFTER = 0.3
"""Seconds after which a wait is worth a connection that listens."""

MIN_LOOK_INTERVAL = 0.005
"""Seconds between two polls for workflows of which other processes tell."""


class ResultPoller(Poller[int | None, WorkflowResult]):
    """Waits for the results of workflows; the subject of a wait is the token of the workflow, None for any token.

    `look` returns the results of the workflows that have ended. `find` returns the tokens of the workflows that
    exist, because a deleted workflow never has a result there; `archived` returns the results of archived ones.
    `keep_listening` is called again and again while a caller waits for longer than `LISTEN_AFTER`: from then on
    other processes tell this poller of ends, by `ended`.
    """

    name: ClassVar[str] = "pgqrs-results"
    awaited: ClassVar[str] = "result"
    again: ClassVar[str] = "result"

    def __init__(self, look: Look, find: Find, archived: Look, keep_listening: Callable[[], None]) -> None:
        super().__init__()
        self._keep_listening = keep_listening
        self._listen_from = 0.0
        self._heard: set[int] = set()
        self._looks_from = 0.0
        self._archived = archived
        self._results = look
        self._find = find
        self._find_due = 0.0

    def ended(self, workflow_ids: Iterable[int]) -> None:
        """Poll soon for workflows that have ended in another process, as that process says.

        Every role of the database can say so, and as often as it likes.
        """
        heard = self._waiting.keys() & workflow_ids
        if heard and not self._heard:
            loop = asyncio.get_running_loop()
            self._looks_from = max(loop.time(), self._looks_from + MIN_LOOK_INTERVAL)
            loop.call_at(self._looks_from, self._look_at_heard)
        self._heard |= heard

    def _look_at_heard(self) -> None:
        heard, self._heard = self._heard, set()
        for each in heard:
            self.notify(each)

    def _on_begin(self) -> None:
        now = monotonic()
        self._find_due = now + EXISTENCE_INTERVAL
        self._listen_from = now + LISTEN_AFTER

    async def _look(self, ids: Collection[int]) -> None:
        if monotonic() > self._listen_from:
            self._keep_listening()
        self._end(await self._results(ids))

    def _end(self, results: dict[int, WorkflowResult]) -> None:
        for workflow_id, end in results.items():
            self._drop_the_replaced(workflow_id, end.token)
            for future in self._waiting.pop(workflow_id, ()):
                if not future.done():
                    future.set_result(end)

    async def _look_for_deleted(self, ids: Collection[int]) -> None:
        """Raise `WorkflowNotFoundError` in the callers that wait for a deleted workflow, once per interval."""
        began = monotonic()
        if not ids or began < self._find_due:
            return
        try:
            found = await self._find(ids)
            missing = [each for each in ids if each not in found]
            self._end(await self._archived(missing) if missing else {})
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

    def _drop_the_replaced(self, workflow_id: int, found: int | None) -> None:
        for future, token in list(self._waiting.get(workflow_id, {}).items()):
            self._drop_if_replaced(workflow_id, future, token, found)
