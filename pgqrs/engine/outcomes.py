"""The stored forms of the value or the error with which a run ends its workflow, or the submissions of a batch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from pgqrs.codecs.base import Codec, Encoded, codec_at, is_sealing, seal_error
from pgqrs.errors import SerializationError


class BatchCodec:
    """Encodes the value of a batch as an array that has the value of each of its submissions.

    Each element is encoded as the output of its submission. The end of the batch writes them to the submissions.

    Args:
        codec: The codec of the elements.
        members: The ids of the submissions.
    """

    def __init__(self, codec: Codec, members: Sequence[int]) -> None:
        self._codec = codec
        self._members = members

    @property
    def name(self) -> str:
        """The name of the codec of the elements."""
        return self._codec.name

    def encode(self, value: Any) -> Encoded:
        """Encode a list with one element for each submission, or None for None as each of them."""
        if value is None:
            elements: Sequence[Any] = [None] * len(self._members)
        elif isinstance(value, (list, tuple)):
            elements = cast("Sequence[Any]", value)
        else:
            raise SerializationError(f"{self._wanted}, got {type(value).__name__}.")
        if len(elements) != len(self._members):
            raise SerializationError(f"{self._wanted}, got {len(elements)} elements.")
        encoded = [
            codec_at(self._codec, "output", member).encode(each)
            for member, each in zip(self._members, elements, strict=True)
        ]
        values = None if value is None else [each.value for each in encoded]
        return Encoded(f"[{','.join(each.text for each in encoded)}]", values)

    def decode(self, text: str) -> Any:  # noqa: ARG002  # the signature of a codec
        """Return None: a batch that has ended has no value of its own."""
        return None

    @property
    def _wanted(self) -> str:
        count = len(self._members)
        return f"a batch of {count} must return a list with one element for each submission, in order, or None"


class Outcomes:
    """Encodes the end of one run.

    Args:
        codec: The codec of the workflow's payloads.
        workflow_id: The id of the workflow.
        members: The ids of the submissions of a batch; none for any other workflow.
    """

    __slots__ = ("_codec", "_value_codec", "_workflow_id", "members")

    def __init__(self, codec: Codec, workflow_id: int, members: Sequence[int]) -> None:
        self._codec = codec
        self._workflow_id = workflow_id
        self._value_codec: Codec | None = None
        self.members = members

    def value_codec(self, returns: Codec) -> Codec:
        """Return the codec of the value; `returns` is that of the return type of the function."""
        if self._value_codec is None:
            at_place = codec_at(returns, "output", self._workflow_id)
            self._value_codec = BatchCodec(returns, self.members) if self.members else at_place
        return self._value_codec

    def sealed(self, text: str) -> str:
        """Return the stored form of an error of the workflow, which has not ended."""
        return seal_error(self._codec, text, self._workflow_id)

    def sealed_end(self, text: str) -> str:
        """Return the stored form of the error that ends the workflow.

        A sealed error can be read for one workflow only, so a batch has an array of it: its own, then those of its
        submissions.
        """
        if not (self.members and is_sealing(self._codec)):
            return self.sealed(text)
        return json.dumps(
            [json.loads(seal_error(self._codec, text, each)) for each in (self._workflow_id, *self.members)]
        )
