"""A short fingerprint of a step's arguments, to notice a recorded outcome that answers another call."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import json.encoder
import pathlib
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from zlib import crc32


def fingerprint_of(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], names: Sequence[str] = (), *, by_content: bool = False
) -> int:
    """Return the fingerprint of arguments: equal ones have the same one, in every process and on replay.

    `names` are those of the parameters, in order: an argument given by its name counts as one given by position.
    What JSON cannot say counts as its type alone, unless `by_content`: models, dataclasses, times, decimals and
    the like then count with what they hold. It never raises.
    """
    if kwargs and names:
        args, kwargs = _in_position(args, kwargs, names)
    given: object = [args, kwargs] if kwargs else args
    try:
        text = _text_by_content(given) if by_content else _text(given)
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


def _told(value: Any) -> object:
    """Return the name of the type of a value that JSON cannot say, with JSON of what it holds."""
    return [_named(value), _content(value)]


def _content(value: Any) -> object:
    for kind, content in _CONTENTS:
        if isinstance(value, kind):
            return content(value)
    names = _fields(value)
    return None if names is None else {name: getattr(value, name, None) for name in names}


def _moment(time: dt.datetime) -> str:
    # A replay may have it in another zone.
    return str(time if time.tzinfo is None else time.astimezone(dt.UTC))


def _elements(values: Iterable[object]) -> list[int]:
    # Digests: texts would be quoted anew in each set around them, which doubles their length.
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
    """Return the names of the fields of a model or a dataclass."""
    names: Iterable[str] | None = getattr(type(value), "__pydantic_fields__", None)
    if names is None and dataclasses.is_dataclass(value):
        return [each.name for each in dataclasses.fields(value)]
    return names


def _encoder(default: Callable[[Any], object]) -> Callable[[object], str]:
    """Return `JSONEncoder.encode` with the C encoder that it makes anew at each call, which takes as long."""
    slow = json.JSONEncoder(sort_keys=True, default=default, separators=(",", ":"))
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return slow.encode
    ascii_: Any = getattr(json.encoder, "encode_basestring_ascii", None)
    encode = make(None, default, ascii_, None, ":", ",", True, False, True)  # noqa: FBT003
    return lambda value: "".join(encode(value, 0))


_text = _encoder(_named)
_text_by_content = _encoder(_told)
