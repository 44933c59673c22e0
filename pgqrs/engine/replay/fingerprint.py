"""Computes a short fingerprint of a step's arguments, to detect a recorded outcome of a different call."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import functools
import json.encoder
import pathlib
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from zlib import crc32


def fingerprint_of(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], names: Sequence[str] = (), *, by_content: bool = False
) -> int:
    """Return the fingerprint of arguments; equal arguments have equal fingerprints in every process and replay.

    This function never raises.

    Args:
        args: The positional arguments.
        kwargs: The keyword arguments.
        names: The names of the parameters, in order. With them, a keyword argument and a positional argument for
            the same parameter count as equal.
        by_content: False to represent a value outside JSON by its type alone. True to include the content of
            models, dataclasses, times, decimals and similar values.

    Returns:
        A CRC-32 checksum.
    """
    if kwargs and names:
        args, kwargs = _in_position(args, kwargs, names)
    given: object = [args, kwargs] if kwargs else args
    try:
        text = _text_by_content(given) if by_content else _text(given)
    except Exception:  # noqa: BLE001  # cyclic values, unsortable keys, ...
        text = "".join(map(_named, (*args, *kwargs.values())))
    return crc32(text.encode("ascii", "backslashreplace"))


def captured_by(function: Callable[..., object]) -> tuple[object, ...]:
    """Return the values that a function without arguments has captured: variables, defaults, bound arguments."""
    found: list[object] = []
    while isinstance(function, functools.partial):
        found += [*function.args, function.keywords]
        function = function.func
    for cell in getattr(function, "__closure__", None) or ():
        with suppress(ValueError):  # not assigned yet
            found.append(cell.cell_contents)
    found += getattr(function, "__defaults__", None) or ()
    found += (getattr(function, "__kwdefaults__", None) or {}).values()
    return tuple(found)


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
    """Return the name of the type of a value outside JSON."""
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def _described(value: Any) -> object:
    """Return the name of the type of a value outside JSON, with its content."""
    return [_named(value), _content(value)]


def _content(value: Any) -> object:
    for kind, content in _CONTENTS:
        if isinstance(value, kind):
            return content(value)
    names = _fields(value)
    return None if names is None else {name: getattr(value, name, None) for name in names}


def _moment(time: dt.datetime) -> str:
    # A replay may see the same moment in another time zone.
    return str(time if time.tzinfo is None else time.astimezone(dt.UTC))


def _elements(values: Iterable[object]) -> list[int]:
    # Checksums instead of texts: each enclosing set would quote a text again, which doubles its length.
    return sorted(crc32(_text_by_content(each).encode("ascii", "backslashreplace")) for each in values)


_CONTENTS: tuple[tuple[type | tuple[type, ...], Callable[[Any], object]], ...] = (
    (dt.datetime, _moment),
    ((dt.date, dt.time, dt.timedelta, uuid.UUID, pathlib.PurePath), str),
    (decimal.Decimal, lambda number: str(number.normalize())),
    (enum.Enum, lambda member: member.value),
    ((bytes, bytearray), lambda data: data.hex()),
    ((set, frozenset), _elements),
)


def _fields(value: object) -> Iterable[str] | None:
    """Return the field names of a model or a dataclass, or None for any other value."""
    names: Iterable[str] | None = getattr(type(value), "__pydantic_fields__", None)
    if names is None and dataclasses.is_dataclass(value):
        return [each.name for each in dataclasses.fields(value)]
    return names


def _encoder(default: Callable[[Any], object]) -> Callable[[object], str]:
    """Return a function like `JSONEncoder.encode` that keeps one C encoder.

    `JSONEncoder.encode` creates a C encoder at each call, which takes as long as the encoding itself.
    """
    slow = json.JSONEncoder(sort_keys=True, default=default, separators=(",", ":"))
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return slow.encode
    ascii_: Any = getattr(json.encoder, "encode_basestring_ascii", None)
    encode = make(None, default, ascii_, None, ":", ",", True, False, True)  # noqa: FBT003
    return lambda value: "".join(encode(value, 0))


_text = _encoder(_named)
_text_by_content = _encoder(_described)
