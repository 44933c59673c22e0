"""The claims of a worker from its queues: one statement for those without limits, one for each other queue."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pgqrs.storage.limits.claims import MAX_LANES
from pgqrs.storage.sql.tokens import new_token

LOCKED_PAUSE = 0.004
"""Seconds, on average, before the next claim from a queue that another worker has locked: a claim takes less."""

Rows = list[Any]


class Outlook(NamedTuple):
    """What is known after a claim: the seconds after which the next claim may find more, None if unknown.

    `is_capped` says that a queue may have more workflows than its share of this worker's slots.
    """

    again: float | None = None
    is_capped: bool = False


class Wheel:
    """The lanes of one queue as this worker has served them, so that it serves each lane in turn.

    `ahead` has how far a lane is before the others: its claimed workflows, divided by its weight.
    """

    def __init__(self) -> None:
        self.cursor = ""
        self.ahead: dict[str, float] = {}
        self._turns_in_vain = 0

    def turned(
        self, cursor: str | None, served: Mapping[str, int], weights: Mapping[str, float], lanes: int
    ) -> bool:
        """Note a claim, and return whether the lanes that it has not looked at may have workflows to claim."""
        before, self.cursor = self.cursor, cursor or ""
        if served:
            self._serve(served, weights)
        self._turns_in_vain += self.cursor <= before
        if served or lanes < MAX_LANES or self._turns_in_vain > 1:  # the first turn may have been a part of one
            self._turns_in_vain = 0
            return False
        return True

    def _serve(self, served: Mapping[str, int], weights: Mapping[str, float]) -> None:
        """Move the lanes on; the lane that is served last is at the present, and no lane is before it."""
        own = {lane: weights.get(lane, 1.0) for lane in served}
        start = {lane: self.ahead.get(lane, 0.0) + (count - 1) / own[lane] for lane, count in served.items()}
        present = max(start.values())
        ahead = self.ahead | {lane: start[lane] + 1 / own[lane] for lane in served}
        self.ahead = {lane: by - present for lane, by in ahead.items() if by > present}


class QueueClaims:
    """Claims from queues with and without limits, in turn.

    `plain` claims from queues without limits; it takes the values of the statement and a number. `fetch` runs a
    statement, and `unanswered` has the tokens of claims whose answers are outstanding. `limited` is the statement
    for a queue with limits.
    """

    def __init__(
        self,
        schema: str,
        plain: Callable[[dict[str, Any], int], Awaitable[Rows]],
        fetch: Callable[[Callable[[], Any], dict[str, Any]], Awaitable[Rows]],
        unanswered: list[int],
        *,
        limited: Callable[[], Any],
    ) -> None:
        self._schema = schema
        self._plain = plain
        self._fetch = fetch
        self._unanswered = unanswered
        self._limited = limited
        self._wheels: dict[str, Wheel] = {}
        self._turn = 0
        self.outlook = Outlook()
        """What is known since the last claim."""

    def is_limited(self, queue: str | None) -> bool:
        """Return whether a queue had a row of limits when this worker last claimed from it."""
        return queue in self._wheels

    def learn(self, asked: Sequence[str], limited: Sequence[str] | None) -> None:
        """Note which of the queues of a claim have a row of limits."""
        for queue in asked:
            if queue in (limited or ()):
                self._wheels.setdefault(queue, Wheel())
            else:
                self._wheels.pop(queue, None)

    async def claim(self, values: dict[str, Any], limit: int, rooms: Mapping[str, int] | None) -> Rows:
        """Claim up to `limit` workflows of the queues of `values`, and of each queue no more than its room."""
        rows: Rows = []
        self.outlook = Outlook()
        budget: int = values["budget"]
        targets = self._targets(values["queues"], is_separate=rooms is not None)
        for queues in targets:
            if rows and (len(rows) >= limit or budget <= 0):
                break
            left = limit - len(rows)
            wanted = left if rooms is None else min(left, rooms[queues[0]])
            if wanted > 0 or limit == 0:
                found = await self._claim(targets, values | {"queues": queues, "budget": budget}, wanted)
                rows += found
                budget -= sum(len(row["input"]) for row in found)
                wanted -= len(found)
            if wanted <= 0 and rooms is not None:
                self.outlook = self.outlook._replace(is_capped=True)
        return rows

    async def _claim(self, targets: list[list[str]], values: dict[str, Any], wanted: int) -> Rows:
        """Claim from some queues; the targets get those that turn out to have limits, or none any more."""
        queues: list[str] = values["queues"]
        was_limited = bool(queues) and queues[0] in self._wheels
        if was_limited:
            found = await self._claim_limited(queues[0], values, wanted)
        else:
            found = await self._plain(values, wanted)
        targets += [[queue] for queue in queues if (queue in self._wheels) != was_limited]
        return found

    def _targets(self, queues: Sequence[str], *, is_separate: bool) -> list[list[str]]:
        """Return the queues of each statement, in turn."""
        targets = [[queue] for queue in queues if is_separate or queue in self._wheels]
        plain = [queue for queue in queues if queue not in self._wheels]
        if not is_separate and (plain or not targets):
            targets.append(plain)
        self._turn += 1
        first = self._turn % len(targets) if targets else 0
        return targets[first:] + targets[:first]

    async def _claim_limited(self, queue: str, values: dict[str, Any], wanted: int) -> Rows:
        """Claim from a queue with limits, and note when to claim from it again."""
        wheel, token = self._wheels[queue], new_token()
        self._unanswered.append(token)
        rows = await self._fetch(
            self._limited,
            values
            | {"queue": queue, "token": token, "limit": wanted, "lock": lock_key(self._schema, queue)}
            | {"cursor": wheel.cursor, "ahead": json.dumps(wheel.ahead)},
        )
        summary = rows[0]
        found = [row for row in rows if row["workflow_id"] is not None]
        if not summary["is_limited"]:
            del self._wheels[queue]
        elif summary["is_locked"] is False:
            self._claim_again(LOCKED_PAUSE * random.uniform(0.5, 1.5))  # noqa: S311  # so that workers do not meet again
        elif summary["is_locked"]:
            served = Counter(row["partition_key"] or "" for row in found)
            weights: dict[str, float] = json.loads(summary["weights"] or "{}")
            if wheel.turned(summary["cursor"], served, weights, summary["lanes"]):
                self._claim_again(0.0)
            elif summary["next_start"] is not None:
                self._claim_again(summary["next_start"])
        return found

    def _claim_again(self, seconds: float) -> None:
        again = self.outlook.again
        self.outlook = self.outlook._replace(again=seconds if again is None else min(seconds, again))


def lock_key(schema: str, queue: str) -> int:
    """Return the advisory lock of a queue; a key that two queues share costs a repeated claim."""
    digest = hashlib.sha256(f"pgqrs queue\0{schema}\0{queue}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)
