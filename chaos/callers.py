"""The calls of the program to the workflows that it has enqueued: messages, requests and cancellations."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from chaos.work import ASK, ITEM, ITEMS, REQUESTS, clerk, fate, receiver, saga
from pgqrs import WorkflowHandle
from pgqrs.errors import UpdateTimeoutError, WorkflowFinishedError

PATIENCE = 4.0
"""Seconds for which a caller waits for a reply; the next wave asks again."""

CANCELLING = 3.0
"""Maximum seconds from the enqueuing of a saga until its cancellation."""

Handle = WorkflowHandle[Any]


class Callers:
    """The callers of the workflows of all waves.

    Args:
        tasks: The group of the calls that a wave does not wait for.
        chance: The random numbers of the cancellations.

    Attributes:
        replies: The replies to each request, by the id of the workflow and the value of the request.
    """

    def __init__(self, tasks: asyncio.TaskGroup, chance: random.Random) -> None:
        self._tasks = tasks
        self._chance = chance
        self._clerks: dict[int, Handle] = {}
        self._newest: list[Handle] = []
        self.replies: dict[tuple[int, int], list[str]] = defaultdict(list)

    async def call(self, function: object, handles: Mapping[int, Handle]) -> None:
        """Call the workflows of a function in a wave, by number; a repetition must have no effect."""
        if function is receiver:
            await asyncio.gather(*map(self._send, handles.values()))
        elif function is saga:
            for number, handle in handles.items():
                if fate(number) == "cancelled":
                    self._tasks.create_task(self._cancel(handle))
        elif function is clerk:
            for handle in {each.id: each for each in (*self._newest, *handles.values())}.values():
                self._tasks.create_task(self._ask(handle))
            self._newest = list(handles.values())
            self._clerks |= {each.id: each for each in self._newest}

    async def ask_all(self) -> None:
        """Send all requests once more, after the end of their workflows."""
        await asyncio.gather(*map(self._ask, self._clerks.values()))

    async def _send(self, handle: Handle) -> None:
        for item in range(ITEMS):
            await handle.send(ITEM, item, key=str(item))

    async def _cancel(self, handle: Handle) -> None:
        await asyncio.sleep(self._chance.uniform(0.0, CANCELLING))
        with suppress(WorkflowFinishedError):
            await handle.cancel(interrupt=self._chance.random() < 0.5)  # noqa: PLR2004

    async def _ask(self, handle: Handle) -> None:
        for value in range(REQUESTS):
            try:
                reply = await handle.update(ASK, value, key=str(value), timeout=PATIENCE)
            except UpdateTimeoutError:
                continue
            except WorkflowFinishedError as error:
                reply = str(error)
            self.replies[handle.id, value].append(reply)
