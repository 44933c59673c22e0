"""The names of the NOTIFY channels, and the payloads that are sent on them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final
from uuid import UUID

MAX_IDS: Final = 400
"""Maximum ids in one payload."""

MESSAGES = "\0messages"
"""The name, which no queue has, whose notifications announce messages to parked workflows of any queue."""


RESULTS = "\0results"
"""The name, which no queue has, whose notifications say that a process waits for results."""


def result_channel(schema: str) -> str:
    """Return the channel on which workers tell the ids of ended workflows to processes that wait for results."""
    return f"pgqrs_{_digest(f'results of {schema}')}"


def ids_payload(ids: Iterable[int]) -> str:
    """Return the payload that has the ids of workflows; it may have 8,000 bytes, so at most `MAX_IDS` ids."""
    return ",".join(map(str, ids))


def parse_ids(payload: str) -> list[int]:
    """Return the ids of a payload; every role of the database can send payloads, so other texts are left out."""
    return [int(each) for each in payload.split(",") if _is_id(each)]


def queue_channel(schema: str) -> str:
    """Return the channel of the notifications about all queues of a schema; see `payload_of`."""
    # The name of a channel has at most 63 bytes, and the name of a schema may be as long.
    return f"pgqrs_{_digest(schema)}"


def mark_of(queue: str) -> str:
    """Return the mark of a queue: a digest of its name, because every role of the database can listen."""
    return _digest(queue)


def payload_of(queue: str, first: int) -> str:
    """Return the payload that announces ready workflows of a queue, with ids from `first` on."""
    return f"{mark_of(queue)}:{first}"


def parse_payload(payload: str) -> tuple[str, int | None]:
    """Return the queue's mark and the first id of a payload, None for an invalid id.

    Every role of the database can send payloads, so the id may be missing or invalid.
    """
    mark, _, first = payload.partition(":")
    return mark, int(first) if _is_id(first) else None


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= len(str(2**63 - 1))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def executor_channel(executor_id: UUID) -> str:
    """Return the channel on which an executor is notified to look for requests to cancel its workflows."""
    return f"pgqrs_{executor_id.hex}"
