"""The names of the NOTIFY channels."""

from __future__ import annotations

import hashlib
from uuid import UUID


def queue_channel(schema: str) -> str:
    """Return the channel on which the queues of a schema are rung; the payload is the queue's name."""
    # A channel's name has 63 bytes at most, and a schema's may have as many.
    return f"pgqrs_{hashlib.sha256(schema.encode()).hexdigest()[:32]}"


def executor_channel(executor_id: UUID) -> str:
    """Return the channel on which an executor hears that it should look for what is asked of it."""
    return f"pgqrs_{executor_id.hex}"
