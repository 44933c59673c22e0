"""The stored texts of messages and events, and their codecs."""

from __future__ import annotations

import json
from json import JSONDecodeError, JSONDecoder
from typing import Any

from pgqrs.codecs.base import Codec, codec_at, stored_name
from pgqrs.codecs.updates import REQUEST, decode_request
from pgqrs.errors import SerializationError

EVENT = "e/"
"""The beginning of the addresses of events of the schema, whose messages are never taken."""

CHILDREN = "c/"
"""The beginning of the addresses of children, at which each end of a child leaves a message."""

_HEAD, _VALUE = '{"codec": ', ', "value": '
"""The parts of the text of an emitted event, which the SQL function writes too."""


def message_codec(codec: Codec, address: str) -> Codec:
    """Return the codec of the messages of an address."""
    return codec_at(codec, "message", address)


def decode_message(codec: Codec, address: str, text: str) -> Any:
    """Return the value of a message or of an event of the schema, as a codec without a type decodes it.

    For children, return the record of their ends; for an update, the value of the request.
    """
    if address.startswith(CHILDREN):
        return json.loads(text)
    if address.startswith(REQUEST):
        return decode_request(codec, address, text).value
    is_event = address.startswith(EVENT)
    return decode_emitted(codec, address, text) if is_event else message_codec(codec, address).decode(text)


def own_event_codec(codec: Codec, workflow_id: int, name: str) -> Codec:
    """Return the codec of the values of an event that a workflow sets."""
    return codec_at(codec, "event", workflow_id, name)


def encode_emitted(codec: Codec, address: str, value: object) -> str:
    """Return the text of an event of the schema, with the name of the codec that has written the value."""
    text = message_codec(codec, address).encode(value).text
    return f"{_HEAD}{json.dumps(stored_name(codec))}{_VALUE}{text}}}"


def decode_emitted(codec: Codec, address: str, text: str) -> Any:
    """Return the value in the text of an event of the schema.

    Raises `SerializationError` for a value that another codec has written. Every codec reads plain JSON, which SQL
    writes, except a sealing codec.
    """
    try:
        written, end = JSONDecoder().raw_decode(text, len(_HEAD))
    except JSONDecodeError as error:
        raise SerializationError(f"the event was written by hand: {error}.", reading=True) from error
    given = stored_name(codec)
    if written not in {None, given}:
        raise SerializationError(
            f"the event was emitted with the codec {written!r}, but this Admin uses {given or 'json'!r}: emit it "
            "by an Admin with the codec of the workflows that wait for it.",
            reading=True,
        )
    return message_codec(codec, address).decode(text[end + len(_VALUE) : -1])
