"""The stored texts of the requests and the replies of updates.

A text is an object with the members that pgqrs needs, and with the value as its last member.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple, cast

from pgqrs.codecs.base import Codec, codec_at
from pgqrs.errors import SerializationError

REQUEST = "u/"
"""The beginning of the addresses of requests, of which each has the key of its sender or a random key."""

REPLY = "r/"
"""The beginning of the addresses of replies, of which each has the key of its request."""

_VALUE = ', "value": '


class StoredRequest(NamedTuple):
    """A request: its key, whether the key is the sender's own, and the value."""

    key: str
    is_kept: bool
    value: Any


class StoredReply(NamedTuple):
    """A reply or a refusal; `text` is the value of the reply, or the reason of the refusal, encoded."""

    is_refused: bool
    text: str


def encode_request(codec: Codec, address: str, key: str, value: object, *, is_kept: bool) -> str:
    """Return the text of a request; the value is bound to the address and to the key."""
    return _joined({"key": key, "is_kept": is_kept}, codec_at(codec, "request", address, key).encode(value).text)


def decode_request(codec: Codec, address: str, text: str) -> StoredRequest:
    """Return the request of a text; raises `SerializationError` for a text that another program wrote."""
    head, value = _parted("request", text)
    if not (isinstance(key := head.get("key"), str) and isinstance(is_kept := head.get("is_kept"), bool)):
        raise _foreign("request", "it has no key")
    return StoredRequest(key, is_kept, codec_at(codec, "request", address, key).decode(value))


def encode_reply(codec: Codec, address: str, key: str, value: object, *, is_refused: bool) -> str:
    """Return the text of a reply, or of a refusal with its reason, to the request with a key."""
    return _joined({"is_refused": is_refused}, reply_codec(codec, address, key).encode(value).text)


def part_reply(text: str) -> StoredReply:
    """Return the parts of the text of a reply; raises `SerializationError` as `decode_request` does."""
    head, value = _parted("reply", text)
    return StoredReply(head.get("is_refused") is True, value)


def reply_codec(codec: Codec, address: str, key: str) -> Codec:
    """Return the codec of the value of the reply to the request with a key."""
    return codec_at(codec, "reply", address, key)


def _joined(head: dict[str, object], text: str) -> str:
    return f"{json.dumps(head)[:-1]}{_VALUE}{text}}}"


def _parted(kind: str, text: str) -> tuple[dict[str, Any], str]:
    # The first separator: within a text of JSON, its quotation marks would be escaped.
    head, separator, value = text.partition(_VALUE)
    try:
        found: object = json.loads(f"{head}}}") if separator else None
    except ValueError as error:
        raise _foreign(kind, str(error)) from error
    if not isinstance(found, dict):
        raise _foreign(kind, "it has no value")
    return cast("dict[str, Any]", found), value[:-1]


def _foreign(kind: str, flaw: str) -> SerializationError:
    return SerializationError(f"the {kind} was written by another program: {flaw}.", reading=True)
