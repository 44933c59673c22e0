"""The strict JSON codec, with the paths and the remedies of its refusals."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import inspect
import json
import json.encoder
import math
import pathlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NoReturn, cast

from pgqrs.codecs.base import STRICT_JSON, Encoded, cut, shortened, type_name
from pgqrs.errors import SerializationError

__all__ = ["MAX_BYTES", "JsonCodec", "path_of"]

_MAX_DEPTH: Final = 200
"""Maximum levels of one value. The limits of Python and PostgreSQL are higher, but depend on the free stack."""

MAX_BYTES: Final = 64 * 1024 * 1024
"""Maximum bytes of the UTF-8 text of one value; the default of the codecs' `max_bytes`."""


class JsonCodec:
    """The strict JSON codec: it stores the values that JSON has and refuses all other values.

    Tuples become lists, and instances of subclasses of `str`, `int`, `float`, `list` and `dict` become plain
    values, in the first run and in a replay alike.

    Args:
        max_bytes: Maximum bytes of the UTF-8 text of one value; 64 MiB by default.
    """

    name = STRICT_JSON

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes

    def encode(self, value: Any) -> Encoded:
        """Return `value` as compact JSON text, with the decoded form of that text.

        Args:
            value: The value to store.

        Returns:
            The text and the value that it decodes to.

        Raises:
            SerializationError: `value` contains a type that JSON lacks, NaN, an infinity, a key that is not a
                string, a NUL character or a lone surrogate; it contains itself; it has more than 200 levels; or
                its text has more than `max_bytes`. The error's `path` names the place in the value.
        """
        if _round_trip is not None:
            try:
                size, text, decoded = _round_trip(value)
                if decoded == value and size <= self._max_bytes and _is_storable(text):
                    return Encoded(text, decoded)
            except Exception:  # noqa: BLE001, S110  # orjson refuses more values than the code below
                pass
        try:
            text = "".join(_chunks(value, 0))
            size = len(text) if text.isascii() else len(text.encode())
            if size > self._max_bytes:
                self._refuse(size)
            if "\\u0000" not in text:
                decoded = _scan(text, 0)[0]
                # Only keys can change silently, and a changed key compares unequal. A subclass that lies about
                # equality can at worst pass off its key 1 as "1": the stored and returned value is strict JSON.
                if (decoded == value and _is_shallow(text)) or _is_plain(value):
                    return Encoded(text, decoded)
        except SerializationError:
            raise
        except Exception:  # noqa: BLE001  for any cause, the walk finds the place and names a remedy
            _open_in_c.clear()
        return self._encode_slowly(value)

    def decode(self, text: str) -> Any:
        """Return the value of a JSON text.

        Args:
            text: The stored text.

        Returns:
            The value.

        Raises:
            SerializationError: `text` is not strict JSON, or Python's stack is too small for its levels.
        """
        try:
            return _DECODER.decode(text)
        except (ValueError, RecursionError) as error:
            reason = f"the stored text cannot be parsed as strict JSON: {error}"
            raise SerializationError(reason, reading=True) from error

    def _encode_slowly(self, value: Any) -> Encoded:
        try:
            text = _ENCODER.encode(_Walk().copy(value))
            size = len(text.encode())
            if size > self._max_bytes:
                self._refuse(size)
            return Encoded(text, _DECODER.decode(text))
        except RecursionError as error:
            reason = "it is nested too deep for the rest of Python's stack: return a flat list."
            raise SerializationError(reason) from error

    def _refuse(self, size: int) -> NoReturn:
        raise SerializationError(
            f"it takes {size:,} bytes as JSON, and {self._max_bytes:,} are allowed: "
            "store it elsewhere and return a reference to it."
        )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_ENCODER: Final = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"))
_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)
_scan: Final[Callable[[str, int], tuple[Any, int]]] = cast(Any, _DECODER).scan_once

_open_in_c: Final[dict[int, Any]] = {}
"""The containers that the C encoder is inside of. An entry from a failed call would look like a circle to a later
call, so a failure clears the dict. A call that the clearing disturbs fails and takes the slow path."""


def _make_chunks() -> Callable[[Any, int], Iterable[str]]:
    """Return a function that works as `_ENCODER.iterencode` and takes half the time for a small value.

    `iterencode` builds a C encoder for every call, and the function reuses one. The second argument of the
    function, an indentation, is 0.
    """
    make: Callable[..., Any] | None = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return lambda value, _indentation: _ENCODER.iterencode(value)
    quote = json.encoder.encode_basestring
    made: Callable[[Any, int], Iterable[str]]
    made = make(_open_in_c, _ENCODER.default, quote, None, ":", ",", False, False, False)  # noqa: FBT003
    return made


_chunks: Final = _make_chunks()


def _make_round_trip() -> Callable[[Any], tuple[int, str, Any]] | None:
    """Return a function that encodes a value by orjson: its bytes, its text, and its decoded form.

    orjson refuses all subclasses, keys other than strings, and integers beyond 64 bits. A value that it writes as
    another one, as NaN as null or a UUID as a string, compares unequal to the decoded form. Without orjson the
    result is None.
    """
    try:
        import orjson  # noqa: PLC0415  # it is optional
    except ImportError:
        return None
    encode, decode = orjson.dumps, orjson.loads
    plain = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS

    def round_trip(value: Any) -> tuple[int, str, Any]:
        data = encode(value, None, plain)
        return len(data), data.decode(), decode(data)

    return round_trip


_round_trip: Final = _make_round_trip()

_SHORT: Final = 2 * _MAX_DEPTH
"""Maximum characters of a text that is too short for more than `_MAX_DEPTH` levels."""


def _is_shallow(text: str) -> bool:
    return len(text) <= _SHORT or text.count("[") + text.count("{") <= _MAX_DEPTH


def _is_storable(text: str) -> bool:
    return "\\u0000" not in text and _is_shallow(text)


_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_CONTAINERS: Final = frozenset({dict, list, tuple})


def _is_plain(value: Any) -> bool:
    """Return True if `value` has no subclasses, only string keys and at most `_MAX_DEPTH` levels; a fast walk."""
    level: list[Any] = [] if type(value) in _SCALARS else [value]
    for _ in range(_MAX_DEPTH):
        if not level:
            return True
        dicts: list[Any] = [container for container in level if type(container) is dict]
        keys: set[type[object]] = {type(key) for each in dicts for key in each}
        if not (keys <= {str} and set(map(type, level)) <= _CONTAINERS):
            return False
        level = [child for each in level for child in _children(each) if type(child) not in _SCALARS]
    return not level


def _children(container: dict[Any, Any] | list[Any] | tuple[Any, ...]) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container


class _Open:
    """A container that the walk is inside of: its plain copy so far, and its remaining entries."""

    __slots__ = ("entries", "key", "plain", "source")

    def __init__(self, source: Any, plain: list[Any] | dict[str, Any], entries: Iterator[tuple[Any, Any]]) -> None:
        self.source = source
        self.plain = plain
        self.entries = entries
        self.key: Any = None


class _Walk:
    """Copies a value into plain JSON values, or refuses it and names the place.

    The walk keeps its own stack, so a deep value never overflows Python's stack. The walk reads types with `type`,
    because an instance can lie about its `__class__`.
    """

    def __init__(self) -> None:
        self._inside: list[_Open] = []

    def copy(self, value: Any) -> Any:
        whole = self._plain(value)
        while self._inside:
            self._fill(self._inside[-1])
        return whole

    def _fill(self, container: _Open) -> None:
        """Copy entries up to the end, or up to a container, which is filled first."""
        for key, child in container.entries:
            container.key = key
            if isinstance(container.plain, dict):
                text = self._key(key, container.plain)
                container.plain[text] = self._plain(child)
            else:
                container.plain.append(self._plain(child))
            if self._inside[-1] is not container:
                return
        self._inside.pop()

    def _plain(self, value: Any) -> Any:
        """Return the plain form of `value`; a container's plain form is still empty, and open."""
        if value is None or value is True or value is False:
            return value
        copiers = (copy for base, copy in _COPIERS if _is(value, base))
        return next(copiers, _Walk.refuse_type)(self, value)

    def refuse_type(self, value: object) -> NoReturn:
        self._refuse(f"{type_name(value)} is not JSON: {_remedy(value)}.")

    def copy_string(self, value: str) -> str:
        plain = str.__str__(value)
        if "\0" in plain:
            self._refuse(
                "the string holds \\u0000, which PostgreSQL cannot store: return it without \\u0000, or as base64."
            )
        try:
            plain.encode()
        except UnicodeEncodeError as error:
            self._refuse(
                f"the string holds {plain[error.start]!r}, half of a surrogate pair, which UTF-8 cannot encode: "
                'decode it with errors="replace", or return bytes as base64.'
            )
        return plain

    def copy_int(self, value: int) -> int:
        plain = int.__int__(value)
        try:
            int.__repr__(plain)
        except ValueError:
            self._refuse(f"an int of {plain.bit_length():,} bits is too long for JSON text: return hex(value).")
        return plain

    def copy_float(self, value: float) -> float:
        plain = float.__float__(value)
        if not math.isfinite(plain):
            self._refuse(f"{plain} is not JSON: return None or a string.")
        return plain

    def _key(self, key: Any, siblings: dict[str, Any]) -> str:
        if not _is(key, str):
            self._inside.pop()  # the path of the dict: a path that ends in [1] would point into a list
            self._refuse(
                f"the dict has the key {shortened(key)}, of type {type_name(key)}, and JSON keys are "
                "strings: return str(key) instead, or a list of pairs."
            )
        plain = self.copy_string(key)
        if plain in siblings:
            self._refuse("two keys of the dict have the same text: return one of the two entries.")
        return plain

    def copy_list(self, value: list[Any]) -> Any:
        return self._open(value, [], _stored(list, value))

    def copy_tuple(self, value: tuple[Any, ...]) -> Any:
        return self._open(value, [], _stored(tuple, value))

    def copy_dict(self, value: dict[Any, Any]) -> Any:
        try:
            # `json` calls `items()` too: a subclass that overrides `items()` chooses its entries.
            entries = [(key, child) for key, child in value.items()]  # noqa: C416  each is a pair, or this raises
        except Exception as error:  # noqa: BLE001
            self._refuse(f"items() of this {type_name(value)} failed ({shortened(error)}): return a plain dict.")
        return self._open(value, {}, iter(entries))

    def _open(self, source: Any, plain: Any, entries: Iterator[tuple[Any, Any]]) -> Any:
        if any(container.source is source for container in self._inside):
            self._refuse(f"the {type_name(source)} contains itself: return an id instead of the inner value.")
        if len(self._inside) == _MAX_DEPTH:
            self._refuse(f"it is nested more than {_MAX_DEPTH} levels deep: return a flat list.")
        self._inside.append(_Open(source, plain, entries))
        return plain

    def _refuse(self, reason: str) -> NoReturn:
        raise SerializationError(reason, path=path_of(container.key for container in self._inside)) from None


_COPIERS: Final[tuple[tuple[type, Callable[[_Walk, Any], Any]], ...]] = (
    (str, _Walk.copy_string),
    (int, _Walk.copy_int),
    (float, _Walk.copy_float),
    (dict, _Walk.copy_dict),
    (list, _Walk.copy_list),
    (tuple, _Walk.copy_tuple),
)


def _stored(base: Any, value: Any) -> Iterator[tuple[int, Any]]:
    """Iterate over the entries that `json` writes; the `__iter__` of a subclass may yield other entries."""
    stored: Iterator[Any] = base.__iter__(value)
    return enumerate(stored)


def _is(value: object, base: type) -> bool:
    return issubclass(type(value), base)


def path_of(keys: Iterable[object]) -> str:
    """Return the path of a place in a value, such as ``$.orders[3].at``, from its keys and indexes."""
    return "$" + "".join(map(_part, keys))


def _part(key: Any) -> str:
    if _is(key, str):
        key = str.__str__(key)
        if key.isidentifier() and key.isascii():
            return f".{cut(key)}"
    return f"[{shortened(key)}]"


_REMEDIES: Final[tuple[tuple[tuple[type, ...], str], ...]] = (
    ((dt.date, dt.time), "return value.isoformat()"),
    ((dt.timedelta,), "return value.total_seconds()"),
    ((decimal.Decimal, uuid.UUID, pathlib.PurePath), "return str(value)"),
    ((enum.Enum,), "return value.value"),
    ((bytes, bytearray, memoryview), "return base64.b64encode(value).decode()"),
    ((set, frozenset), "return sorted(value)"),
    ((complex,), "return [value.real, value.imag]"),
    ((Mapping,), "return dict(value)"),
    ((Iterator,), "return list(value)"),
)

_REMEDIES_BY_METHOD: Final = (
    ("model_dump", 'return value.model_dump(mode="json")'),
    ("tolist", "return value.tolist()"),
    ("_asdict", "return value._asdict()"),
)


def _remedy(value: object) -> str:
    """Return the advice on a JSON value to return instead of `value`."""
    kind = type(value)
    if inspect.iscoroutine(value):
        return "await it, and return its result"
    if dataclasses.is_dataclass(kind):
        return "return dataclasses.asdict(value)"
    for bases, remedy in _REMEDIES:
        if issubclass(kind, bases):
            return remedy
    return _remedy_by_method(kind)


def _remedy_by_method(kind: type) -> str:
    remedies = (remedy for method, remedy in _REMEDIES_BY_METHOD if hasattr(kind, method))
    return next(remedies, "return a dict, list, str, int, float, bool or None")
