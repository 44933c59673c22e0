"""Polls the replies to requests for all callers of one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import ClassVar, TypeAlias

from pgqrs.client.poller import Poller
from pgqrs.errors import WorkflowNotFoundError
from pgqrs.storage.records import AskedReply, ReplyState

Look: TypeAlias = Callable[[Collection[AskedReply]], Awaitable[dict[AskedReply, ReplyState]]]


class ReplyPoller(Poller[AskedReply, ReplyState]):
    """Waits for the replies to requests, or for the ends of the workflows that leave them without a reply.

    `look` returns the states of the requests for which waiting is over.
    """

    name: ClassVar[str] = "pgqrs-replies"
    awaited: ClassVar[str] = "reply"
    again: ClassVar[str] = "update"

    def __init__(self, look: Look) -> None:
        super().__init__()
        self._replies = look

    async def _look(self, ids: Collection[int]) -> None:
        asked = {each for workflow_id in ids for each in self._waiting[workflow_id].values()}
        if not asked:  # their waiters have ended since
            return
        found = await self._replies(asked)
        for workflow_id in {each.workflow_id for each in found}:
            for future, subject in list(self._waiting.get(workflow_id, {}).items()):
                if subject in found and not future.done():
                    self._settle(future, subject, found[subject])

    def _settle(self, future: asyncio.Future[ReplyState], asked: AskedReply, state: ReplyState) -> None:
        if state.status is None:
            future.set_exception(WorkflowNotFoundError(asked.workflow_id))
            return
        self._drop_if_replaced(asked.workflow_id, future, asked.token, state.token)
        if not future.done():
            future.set_result(state)
