"""The addresses of messages: a topic of a workflow, or an event of the schema.

``m/17/paid`` is the topic ``paid`` of workflow 17, and ``e/closed`` the event ``closed``. The SQL functions that
send messages build the same texts.
"""

from __future__ import annotations

from pgqrs.codecs.messages import EVENT

SEPARATOR = "\n"
"""Separates several addresses in one text; no address contains it."""


def topic_address(workflow_id: int, topic: str) -> str:
    """Return the address of a topic of a workflow."""
    return f"m/{workflow_id}/{_in_one_line(topic)}"


def event_address(name: str) -> str:
    """Return the address of an event."""
    return f"{EVENT}{_in_one_line(name)}"


def _in_one_line(name: str) -> str:
    return name.replace("%", "%25").replace(SEPARATOR, "%0A")
