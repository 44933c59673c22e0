"""Tells the processes that wait for results which workflows have ended in this worker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from time import monotonic

from pgqrs.errors import PgqrsError
from pgqrs.storage.result_listener import INTEREST
from pgqrs.storage.sql.channels import MAX_IDS

INTERVAL = 0.005
"""Seconds between two notifications, at least; each notification is one statement."""


class ResultNotifier:
    """Sends the ids of ended workflows, at most 200 times a second, while another process listens.

    `send` notifies the other processes, and its errors are ignored: they poll as well.
    """

    def __init__(self, send: Callable[[Sequence[int]], Awaitable[None]]) -> None:
        self._send = send
        self._until = 0.0
        self._ids: list[int] = []
        self._task: asyncio.Task[None] | None = None

    def heard(self) -> None:
        """Send for a while: a process has said that it listens."""
        self._until = monotonic() + INTEREST

    def ended(self, workflow_id: int) -> None:
        """Send the id of a workflow that has ended, unless no process listens."""
        if monotonic() >= self._until:
            return
        self._ids.append(workflow_id)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(
                self._keep_sending(), name="pgqrs-results-notifier"
            )

    async def stop(self) -> None:
        """Send the last ids."""
        self._until = 0.0
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _keep_sending(self) -> None:
        try:
            while self._ids:
                ids, self._ids = self._ids[:MAX_IDS], self._ids[MAX_IDS:]
                with suppress(PgqrsError):
                    await self._send(ids)
                await asyncio.sleep(INTERVAL)
        finally:
            self._task = None
