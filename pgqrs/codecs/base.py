"""How values become the JSON text that is stored, and come back: the `Codec` protocol and `JsonCodec`."""

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
from typing import Any, Final, NamedTuple, NoReturn, Protocol, cast

from pgqrs.errors import SerializationError, WorkflowTimeoutError

__all__ = [
    "Codec",
    "Encoded",
    "JsonCodec",
    "PlacedCodec",
    "SealingCodec",
    "TypedCodec",
    "codec_at",
    "codec_for",
    "is_sealing",
    "is_typed",
    "open_error",
    "path_of",
    "seal_error",
    "stored_name",
    "validate_codec",
]

_MAX_DEPTH: Final = 200
"""Python and PostgreSQL read deeper text too, but how much deeper depends on the stack of the moment."""

MAX_BYTES: Final = 64 * 1024 * 1024
"""The longest UTF-8 text of one value, unless a codec is told otherwise."""

_LONGEST_NAME: Final = 100

_LONGEST_TIMEOUT: Final = 1e12
"""Seconds; only a row that was written by hand has a longer one."""


class Encoded(NamedTuple):
    """A value as it is stored: `text` is JSON, and `value` is what `text` decodes to."""

    text: str
    value: Any


class Codec(Protocol):
    """Makes JSON text of values, and values of that text.

    An implementation is shared by all workflows of an `Admin`, so it keeps no state between calls but caches.
    What it can beyond this, it says by having the methods of `TypedCodec` or `SealingCodec`.
    """

    @property
    def name(self) -> str:
        """What it is recorded as with each workflow: those written under another name are refused.

        At most 100 printable characters. ``"json"`` is strict JSON, and what was written before codecs had names.
        """
        ...

    def encode(self, value: Any) -> Encoded:
        """Return `value` as JSON text, with what a replay will see.

        The text is JSON that PostgreSQL can store: without NUL characters and lone surrogates. Raise
        `SerializationError` for a value that it cannot carry.
        """
        ...

    def decode(self, text: str) -> Any:
        """Return the value that `text` stands for; raise `SerializationError` when it stands for none."""
        ...


class TypedCodec(Codec, Protocol):
    """A codec that goes by what functions are annotated with."""

    def of(self, annotation: Any) -> Codec:
        """Return the codec, of the same name, for values of a type.

        `annotation` is the resolved one of a function's result, `Any` where there is none, or a `TypedDict` of the
        arguments that a workflow is called with. The codec itself is for values of which nothing is known: it
        decodes every text that one of these has encoded. Raise `ConfigurationError` for a type that it cannot
        carry. Asked once a function, so it may take its time.
        """
        ...


class SealingCodec(Codec, Protocol):
    """A codec that hides what it writes: recorded errors, which no codec encodes, pass through it too."""

    def seal(self, text: str) -> str:
        """Return JSON text that hides the JSON `text` of an error."""
        ...

    def open(self, text: str) -> str:
        """Return the text that was sealed; raise `SerializationError` for a text that was not."""
        ...


class PlacedCodec(Codec, Protocol):
    """A codec whose text cannot be moved from one place of the tables to another."""

    def at(self, place: str) -> Codec:
        """Return the codec, of the same name, for the values of one place.

        It raises `SerializationError` for text that was written at another place. It is sealing if this one is.

        Args:
            place: A text that names the place: the workflow and the step of an outcome or an error, the name of
                the workflow for an input. It is the same whenever the value is read.
        """
        ...


def validate_codec(codec: object) -> Codec:
    """Return what was given as a codec, if it is one; raises `TypeError`."""
    if isinstance(codec, type):
        raise TypeError(f"a codec is an object, and {codec.__name__} is a class: write {codec.__name__}().")
    for method in ("encode", "decode"):
        if not callable(getattr(codec, method, None)):
            raise TypeError(
                f"a codec has the method {method!r}, which {_type_name(codec)} lacks: see pgqrs.Codec."
            )
    name: object = getattr(codec, "name", None)
    if not (isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME and name.isprintable()):
        raise TypeError(
            "a codec has a `name`, a short text that is recorded with each workflow, and that of "
            f"{_type_name(codec)} is {_shortened(name)}: give the class one, or 'json' where it is to go on with "
            "workflows that it wrote before codecs had names."
        )
    return cast(Codec, codec)


def as_serialization_error(error: Exception) -> SerializationError:
    """Return why a value could not be encoded, whatever a codec of somebody's raised."""
    if isinstance(error, SerializationError):
        return error
    return SerializationError(f"the codec failed with {type(error).__name__}: {error}")


def stored_name(codec: Codec) -> str | None:
    """Return what a codec is recorded as: None for strict JSON."""
    return None if codec.name == JsonCodec.name else codec.name


def is_typed(codec: Codec) -> bool:
    """Tell whether a codec is a `TypedCodec`, or what its `is_typed` says where it stands for another one."""
    return bool(getattr(codec, "is_typed", hasattr(codec, "of")))


def is_sealing(codec: Codec) -> bool:
    """Tell whether a codec is a `SealingCodec`."""
    return hasattr(codec, "seal")


def codec_for(codec: Codec, annotation: Any) -> Codec:
    """Return the codec for values of a type, which is the codec itself where it does not go by types."""
    return cast(TypedCodec, codec).of(annotation) if is_typed(codec) else codec


def codec_at(codec: Codec, kind: str, *where: str | int) -> Codec:
    """Return the codec for the values of a place, which is the codec itself where it does not go by places.

    Args:
        codec: The codec, already bound to a type where it goes by types.
        kind: ``"input"``, ``"output"`` or ``"error"``.
        where: The workflow's name for its input, else its id, and the id of a step for that of a step.
    """
    at: Callable[[str], Codec] | None = getattr(codec, "at", None)
    return codec if at is None else at(json.dumps([kind, *where]))


def seal_error(codec: Codec, text: str, *where: str | int) -> str:
    """Return the JSON text of an error as it is stored; `where` is that of `placed`."""
    return cast(SealingCodec, codec_at(codec, "error", *where)).seal(text) if is_sealing(codec) else text


def open_error(codec: Codec, text: str, *where: str | int) -> str:
    """Return the JSON text of an error that `sealed` returned as `text`.

    Any worker ends a workflow whose deadline has passed, also without knowing its codec: that error alone may be
    unsealed.
    """
    if not is_sealing(codec):
        return text
    return _time_out(text, *where) or cast(SealingCodec, codec_at(codec, "error", *where)).open(text)


def _time_out(text: str, workflow_id: str | int = 0, *step: str | int) -> str | None:
    """Return the error of a workflow that timed out, made anew of its timeout; None for other errors."""
    if step or text.startswith('"'):
        return None
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    recorded = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    if recorded.get("type") != WorkflowTimeoutError.__name__:
        return None
    attributes = recorded.get("attributes")
    timeout: object = cast("dict[str, Any]", attributes).get("timeout") if isinstance(attributes, dict) else None
    given = float(timeout) if isinstance(timeout, (int, float)) and 0 < timeout <= _LONGEST_TIMEOUT else None
    error = WorkflowTimeoutError(int(workflow_id), given)
    classes = [each for each in type(error).__mro__ if issubclass(each, Exception)]
    return json.dumps(
        {
            "type": type(error).__name__,
            "message": str(error),
            "terminal": True,
            "mro": [f"{each.__module__}:{each.__qualname__}" for each in classes],
            "args": list(error.args),
            "attributes": {"workflow_id": error.workflow_id, "timeout": error.timeout},
        }
    )


class JsonCodec:
    """The strict JSON codec: it stores what JSON can say and refuses everything else.

    Tuples become lists, and subclasses of `str`, `int`, `float`, `list` and `dict` the plain value, in the
    first run as in a replay. `max_bytes` limits the UTF-8 text of one value.
    """

    name = "json"

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes

    def encode(self, value: Any) -> Encoded:
        """Return `value` as compact JSON text, with the decoded form of that text.

        Raise `SerializationError`, whose `path` tells where in the value, for: a type that JSON lacks, NaN,
        an infinity, a key that is no string, a NUL character, a lone surrogate, a value that contains itself,
        more than 200 levels, more than `max_bytes`.
        """
        try:
            text = "".join(_chunks(value, 0))
            size = len(text) if text.isascii() else len(text.encode())
            if size > self._max_bytes:
                self._refuse(size)
            if "\\u0000" not in text:
                decoded = _scan(text, 0)[0]
                # Only keys can change silently, and then they compare unequal. A subclass that lies about
                # equality can at worst pass off its key 1 as "1": what is stored and returned is strict JSON.
                if (decoded == value and (len(text) <= _SHORT or _is_shallow(text))) or _is_plain(value):
                    return Encoded(text, decoded)
        except SerializationError:
            raise
        except Exception:  # noqa: BLE001  whatever it was, the walk finds where and says what to do
            _open_in_c.clear()
        return self._encode_slowly(value)

    def decode(self, text: str) -> Any:
        """Return the value of the JSON `text`; raise `SerializationError` when it is not strict JSON."""
        try:
            return _DECODER.decode(text)
        except (ValueError, RecursionError) as error:
            reason = f"the stored text is not JSON that can be read back: {error}"
            raise SerializationError(reason, reading=True) from error

    def _encode_slowly(self, value: Any) -> Encoded:
        try:
            text = _ENCODER.encode(_Walk().copy(value))
            size = len(text.encode())
            if size > self._max_bytes:
                self._refuse(size)
            return Encoded(text, _DECODER.decode(text))
        except RecursionError as error:
            raise SerializationError("it is nested deeper than what is left of Python's stack.") from error

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
"""The containers that the C encoder is inside of. What a failed call leaves here would look like a circle to
a later one, so a failure clears it; a call that this disturbs fails and takes the slow way."""


def _make_chunks() -> Callable[[Any, int], Iterable[str]]:
    """Return `_ENCODER.iterencode`, in half the time for a small value: it builds a C encoder for every call.

    The second argument, an indentation, is 0.
    """
    make: Callable[..., Any] | None = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return lambda value, _indentation: _ENCODER.iterencode(value)
    quote = json.encoder.encode_basestring
    made: Callable[[Any, int], Iterable[str]]
    made = make(_open_in_c, _ENCODER.default, quote, None, ":", ",", False, False, False)  # noqa: FBT003
    return made


_chunks: Final = _make_chunks()

_SHORT: Final = 2 * _MAX_DEPTH
"""The longest text, in characters, that has no room for too many levels."""


def _is_shallow(text: str) -> bool:
    return text.count("[") + text.count("{") <= _MAX_DEPTH


_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_CONTAINERS: Final = frozenset({dict, list, tuple})


def _is_plain(value: Any) -> bool:
    """Whether `value` has no subclasses, string keys alone and not too many levels: a walk at speed."""
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
    """A container that the walk is inside of: its plain copy so far, and the entries that are left."""

    __slots__ = ("entries", "key", "plain", "source")

    def __init__(self, source: Any, plain: list[Any] | dict[str, Any], entries: Iterator[tuple[Any, Any]]) -> None:
        self.source = source
        self.plain = plain
        self.entries = entries
        self.key: Any = None


class _Walk:
    """Copies a value into plain JSON values, or refuses it, naming the place.

    It keeps its own stack, so no depth of a value overflows Python's. Types are asked for with `type`, since
    an instance can lie about its `__class__`.
    """

    def __init__(self) -> None:
        self._inside: list[_Open] = []

    def copy(self, value: Any) -> Any:
        whole = self._plain(value)
        while self._inside:
            self._fill(self._inside[-1])
        return whole

    def _fill(self, container: _Open) -> None:
        """Copy entries until one is a container, to be filled first, or until there are no more."""
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
        """Return the plain form of `value`; that of a container is empty yet, and open."""
        if value is None or value is True or value is False:
            return value
        copiers = (copy for base, copy in _COPIERS if _is(value, base))
        return next(copiers, _Walk.refuse_type)(self, value)

    def refuse_type(self, value: object) -> NoReturn:
        self._refuse(f"{_type_name(value)} is not JSON: {_remedy(value)}.")

    def copy_string(self, value: str) -> str:
        plain = str.__str__(value)
        if "\0" in plain:
            self._refuse(
                "the string holds \\u0000, which PostgreSQL cannot store: return it without, or as base64."
            )
        try:
            plain.encode()
        except UnicodeEncodeError as error:
            self._refuse(
                f"the string holds {plain[error.start]!r}, half of a surrogate pair, which UTF-8 cannot say: "
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
                f"the dict has the key {_shortened(key)}, of type {_type_name(key)}, and keys of JSON are "
                "strings: return str(key) in its place, or a list of pairs."
            )
        plain = self.copy_string(key)
        if plain in siblings:
            self._refuse("two keys of the dict have the same text: return it under one of them.")
        return plain

    def copy_list(self, value: list[Any]) -> Any:
        return self._open(value, [], _stored(list, value))

    def copy_tuple(self, value: tuple[Any, ...]) -> Any:
        return self._open(value, [], _stored(tuple, value))

    def copy_dict(self, value: dict[Any, Any]) -> Any:
        try:
            # As `json` does: a subclass that answers `items()` with something else means it.
            entries = [(key, child) for key, child in value.items()]  # noqa: C416  each is a pair, or this raises
        except Exception as error:  # noqa: BLE001
            self._refuse(f"items() of this {_type_name(value)} failed ({_shortened(error)}): return a plain dict.")
        return self._open(value, {}, iter(entries))

    def _open(self, source: Any, plain: Any, entries: Iterator[tuple[Any, Any]]) -> Any:
        if any(container.source is source for container in self._inside):
            self._refuse(f"the {_type_name(source)} contains itself: return ids in place of the inner one.")
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
    """Iterate over what `json` writes, which is not what a subclass may iterate over."""
    stored: Iterator[Any] = base.__iter__(value)
    return enumerate(stored)


def _is(value: object, base: type) -> bool:
    return issubclass(type(value), base)


def path_of(keys: Iterable[object]) -> str:
    """Return the path of a place in a value, as in ``$.orders[3].at``, of the keys and indexes that lead there."""
    return "$" + "".join(map(_part, keys))


def _part(key: Any) -> str:
    if _is(key, str):
        key = str.__str__(key)
        if key.isidentifier() and key.isascii():
            return f".{_cut(key)}"
    return f"[{_shortened(key)}]"


def _shortened(value: Any) -> str:
    try:
        return _cut(repr(value))
    except Exception:  # noqa: BLE001  a repr may do anything
        return f"<{_type_name(value)}>"


def _cut(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _type_name(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


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
    """Say what to return in the place of `value`."""
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
