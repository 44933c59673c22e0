"""A short fingerprint of a step's arguments, to notice a recorded outcome that answers another call."""

from __future__ import annotations

import json.encoder
from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32


def fingerprint_of(args: tuple[Any, ...], kwargs: Mapping[str, Any], names: Sequence[str] = ()) -> int:
    """Return the fingerprint of arguments: equal ones have the same one, in every process and on replay.

    `names` are those of the parameters, in order: an argument given by its name counts as one given by position.
    What JSON cannot say counts as its type alone. It never raises.
    """
    if kwargs and names:
        args, kwargs = _in_position(args, kwargs, names)
    try:
        text = _text([args, kwargs] if kwargs else args)
    except Exception:  # noqa: BLE001  # a value that contains itself, keys that cannot be sorted, ...
        text = "".join(map(_named, (*args, *kwargs.values())))
    return crc32(text.encode("ascii", "backslashreplace"))


def _in_position(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], names: Sequence[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    by_name = dict(kwargs)
    by_position = list(args)
    for name in names[len(args) :]:
        if name not in by_name:
            break
        by_position.append(by_name.pop(name))
    return tuple(by_position), by_name


def _named(value: object) -> str:
    """Return the name of the type of a value that JSON cannot say."""
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


_ENCODER = json.JSONEncoder(sort_keys=True, default=_named, separators=(",", ":"))

# `JSONEncoder.encode` makes its C encoder anew at each call, which takes as long as encoding a short text.
_make_encoder: Any = getattr(json.encoder, "c_make_encoder", None)
_ascii: Any = getattr(json.encoder, "encode_basestring_ascii", None)
_encode: Any = _make_encoder and _make_encoder(None, _named, _ascii, None, ":", ",", True, False, True)  # noqa: FBT003


def _text(value: object) -> str:
    return "".join(_encode(value, 0)) if _encode else _ENCODER.encode(value)
