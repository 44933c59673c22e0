"""The submissions of a batch, as the function of its workflow gets them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pgqrs.codecs.base import Codec
from pgqrs.codecs.records import ValueContext
from pgqrs.errors import WorkflowNotFoundError
from pgqrs.workflow.arguments import decode_input
from pgqrs.workflow.definition import Definition


def members_of(text: str) -> tuple[int, ...]:
    """Return the ids of the submissions of a batch, in order, from the text of its input."""
    return tuple(json.loads(text))


def decode_items(
    codec: Codec, definition: Definition, members: Sequence[int], texts: Mapping[int, str]
) -> list[Any]:
    """Decode the inputs of the submissions of a batch, in order; `texts` has them by id."""
    return [_item(codec, definition, each, texts) for each in members]


def _item(codec: Codec, definition: Definition, member: int, texts: Mapping[int, str]) -> Any:
    if member not in texts:
        raise WorkflowNotFoundError(member)
    with ValueContext(member):
        args, kwargs = decode_input(codec, definition, texts[member])
    return next(iter((*args, *kwargs.values())))
