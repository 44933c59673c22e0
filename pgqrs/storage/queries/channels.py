"""The names of the NOTIFY channels."""

from __future__ import annotations

import hashlib
from uuid import UUID


def queue_channel(schema: str) -> str:
    """Return the channel on which the queues of a schema are rung; see `payload_of`."""
    # A channel's name has 63 bytes at most, and a schema's may have as many.
    return f"pgqrs_{_digest(schema)}"


def mark_of(queue: str) -> str:
    """Return what stands for a queue on the channel, on which every role of the database can listen."""
    return _digest(queue)


def payload_of(queue: str, first: int) -> str:
    """Return the payload that rings a queue's doorbell, for workflows with ids from `first` on."""
    return f"{mark_of(queue)}:{first}"


def ring_of(payload: str) -> tuple[str, int | None]:
    """Return a queue's mark and the first id out of a payload; every role can send some, so there may be none."""
    mark, _, first = payload.partition(":")
    return mark, int(first) if _is_id(first) else None


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= len(str(2**63 - 1))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def executor_channel(executor_id: UUID) -> str:
    """Return the channel on which an executor hears that it should look for what is asked of it."""
    return f"pgqrs_{executor_id.hex}"
