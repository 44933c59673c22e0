"""The addresses of messages.

| address | receiver |
|---|---|
| ``m/17/paid`` | the topic ``paid`` of workflow 17 |
| ``e/closed`` | each workflow that waits for the event ``closed`` of the schema |
| ``c/17/start:1`` | workflow 17, about the ends of the children that its step ``start:1`` has started |
| ``c/17/4//start:1`` | the same, of a step in the generation that began in epoch 4 |
| ``u/17/approve`` | the update ``approve`` of workflow 17, for its requests |
| ``r/17/approve`` | the callers of the update ``approve`` of workflow 17, for the replies to their requests |
| ``x/17`` | the cancellation of the children of workflow 17, which has ended |

The SQL functions that send messages, and the trigger on the ends of workflows, build the same texts.
"""

from __future__ import annotations

from pgqrs.codecs.messages import CHILDREN, EVENT
from pgqrs.codecs.updates import REPLY, REQUEST

SEPARATOR = "\n"
"""Separates several addresses in one text; no address contains it."""


def topic_address(workflow_id: int, topic: str) -> str:
    """Return the address of a topic of a workflow."""
    return f"m/{workflow_id}/{_in_one_line(topic)}"


def request_address(workflow_id: int, update: str) -> str:
    """Return the address of the requests of an update of a workflow."""
    return f"{REQUEST}{workflow_id}/{_in_one_line(update)}"


def reply_address(workflow_id: int, update: str) -> str:
    """Return the address of the replies of an update of a workflow; a reply has the key of its request."""
    return f"{REPLY}{workflow_id}/{_in_one_line(update)}"


def children_address(workflow_id: int, step_id: str) -> str:
    """Return the address of the children that a step of a workflow has started."""
    return f"{CHILDREN}{workflow_id}/{_in_one_line(step_id)}"


def in_generation(generation: int, step_id: str) -> str:
    """Return the name of a step among the steps of all generations of a workflow, for its children.

    A step id has no ``//``: ``/`` is escaped in keys and in names.
    """
    return f"{generation}//{step_id}" if generation else step_id


def event_address(name: str) -> str:
    """Return the address of an event."""
    return f"{EVENT}{_in_one_line(name)}"


def name_in(address: str) -> str:
    """Return the name of the topic, the step or the event of an address."""
    kind, _, rest = address.partition("/")
    name = rest if f"{kind}/" == EVENT else rest.partition("/")[2]
    return name.replace("%0A", SEPARATOR).replace("%25", "%")


def _in_one_line(name: str) -> str:
    return name.replace("%", "%25").replace(SEPARATOR, "%0A")
