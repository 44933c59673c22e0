"""Delivers messages to parked workflows, when a message is announced or the maintenance has found one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import ClassVar

from pgqrs.worker.service import NEVER, PeriodicService


class Deliveries(PeriodicService):
    """Calls `deliver` at each `wake`, and again as long as it returns True because more messages may be left."""

    name: ClassVar[str] = "delivery of messages"

    def __init__(self, deliver: Callable[[], Awaitable[bool]]) -> None:
        super().__init__()
        self._deliver = deliver

    async def run_once(self) -> float:
        """Deliver messages once."""
        return 0.0 if await self._deliver() else NEVER
