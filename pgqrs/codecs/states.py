"""The codecs of the values of states."""

from __future__ import annotations

from typing import Any

from pgqrs.codecs.base import Codec, codec_at, codec_for, stored_name
from pgqrs.errors import SerializationError


def state_codec(codec: Codec, owner: tuple[str, str], name: str, type_: object = Any) -> Codec:
    """Return the codec of a value of a state; the owner is the name of a workflow, and a partition key."""
    return codec_at(codec_for(codec, type_), "state", *owner, name)


def decode_state(
    codec: Codec, owner: tuple[str, str], name: str, stored: tuple[str, str | None], type_: object = Any
) -> Any:
    """Return a value of a state, stored as its text and the name of the codec that has written it.

    Raises `SerializationError` for a value of another codec, and for a text that the codec cannot decode.
    """
    text, written = stored
    given = stored_name(codec)
    if written != given:
        raise SerializationError(
            f"the value {name!r} of the state of {owner[0]!r} and {owner[1]!r} is written with the codec "
            f"{written or 'json'!r}, but this Admin uses {given or 'json'!r}: use an Admin with that codec, or "
            "set the value anew.",
            reading=True,
        )
    return state_codec(codec, owner, name, type_).decode(text)
