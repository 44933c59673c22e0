"""JSON records of errors.

The JSON of an error has these keys; the keys from `mro` on are optional::

    type         the name of its class
    message      its str()
    terminal     true if a retry cannot succeed
    mro          "module:qualname" of its class and of its exception base classes
    args         its `args`; an argument that is not JSON is recorded as its repr()
    attributes   its attributes that are JSON
    notes        its notes, as `add_note` added them
    errors       for a group, its errors in the same form
    steps        for a step's error, the nested steps whose transient errors caused it
    traceback    for people, shortened
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any, Final, TypeAlias, cast

from pgqrs.codecs.failures.classify import ReplayedError, is_group, is_terminal, leaves_of
from pgqrs.codecs.json import JsonCodec
from pgqrs.errors import StepFailedError

__all__ = [
    "STATE",
    "Failure",
    "Slot",
    "dump_error",
    "is_public",
    "is_terminal_text",
    "plain_error",
    "shown_error",
    "state_of",
    "text_or",
]


@dataclass(frozen=True, slots=True)
class Failure:
    """A recorded error; the docstring of this module describes its fields, which are the keys of the JSON."""

    type: str
    message: str
    terminal: bool = True
    mro: tuple[str, ...] = ()
    args: tuple[Any, ...] | None = None
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])
    notes: tuple[str, ...] = ()
    errors: tuple[Failure, ...] = ()
    steps: tuple[str, ...] = ()
    traceback: str | None = None

    @classmethod
    def parse(cls, text: str) -> Failure:
        """Return the failure that the JSON `text` records, without its missing and malformed parts."""
        try:
            return cls.read(json.loads(text))
        except Exception:  # noqa: BLE001  any text may come in, and raise any exception
            return cls(StepFailedError.__name__, f"the recorded error cannot be read: {_clean(str(text), 200)}")

    @classmethod
    def read(cls, document: Any) -> Failure:
        """Return the failure that the parsed JSON `document` records; raise if it is not an object."""
        return cls(
            type=text_or(document.get("type"), StepFailedError.__name__),
            message=text_or(document.get("message"), "the recorded error has no message"),
            terminal=document.get("terminal") is not False,
            mro=_texts(document.get("mro")),
            args=tuple(_list(document["args"])) if "args" in document else None,
            attributes=_dict(document.get("attributes")),
            notes=_texts(document.get("notes")),
            errors=tuple(cls.read(each) for each in _list(document.get("errors")) if isinstance(each, dict)),
            steps=_texts(document.get("steps")),
            traceback=text_or(document.get("traceback"), "") or None,
        )

    def text(self) -> str:
        """Return the JSON text that `parse` accepts."""
        return json.dumps(self.document(), ensure_ascii=False, allow_nan=False)

    def document(self) -> dict[str, Any]:
        """Return the document that `read` accepts."""
        document: dict[str, Any] = {"type": self.type, "message": self.message, "terminal": self.terminal}
        if self.args is not None:
            document["args"] = self.args
        optional = {
            "mro": self.mro,
            "attributes": self.attributes,
            "notes": self.notes,
            "errors": [each.document() for each in self.errors],
            "steps": self.steps,
            "traceback": self.traceback,
        }
        return document | {key: value for key, value in optional.items() if value}


def text_or(value: object, default: str) -> str:
    """Return `value` if it is a string, `default` otherwise."""
    return value if isinstance(value, str) else default


def _list(value: object) -> list[Any]:
    return [*cast("Sequence[Any]", value)] if isinstance(value, list) else []


def _dict(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _texts(value: object) -> tuple[str, ...]:
    return tuple(each for each in _list(value) if isinstance(each, str))


_ROOM: Final = 256 * 1024
"""Maximum characters of one error and its parts; the errors of a group share the characters of the group."""
_ROOM_OF_A_LEAF: Final = 256
_LONGEST_TEXT: Final = 16 * 1024
_LONGEST_SHOWN: Final = 500
_SHORTEST_TEXT: Final = 512
_MOST_LEVELS: Final = 50
_MOST_ERRORS: Final = _ROOM // _ROOM_OF_A_LEAF
"""Maximum errors of a group, over all levels."""
_MOST_FIELDS: Final = 1_000
"""Maximum attributes, and maximum arguments, of an error that are examined."""
_MOST_NAMES: Final = 50
_MOST_FRAMES: Final = 30

_JSON: Final = JsonCodec()
STATE: Final = "pgqrs_failure"
"""Name of the attribute of a replayed error that holds its `Failure`."""
_OURS: Final = frozenset({"workflow_id", "step_id", STATE})
Slot: TypeAlias = MemberDescriptorType | GetSetDescriptorType
"""Descriptor of an attribute that lies in the layout of an object, not in its `__dict__`."""


def dump_error(error: BaseException | str, *, terminal: bool, steps: tuple[str, ...] = ()) -> str:
    """Return the JSON text that records `error`, an exception or a message.

    For a step's error, `steps` are the nested steps whose transient errors caused it.

    This function never raises, even if the exception's own methods raise. Long texts are cut, and characters that
    PostgreSQL cannot store (NUL, lone surrogates) are escaped.
    """
    if isinstance(error, str):
        return plain_error(error, terminal=terminal, steps=steps)
    try:
        return replace(_record(error, terminal=terminal), steps=steps).text()
    except Exception:  # noqa: BLE001  an exception's class may raise any exception; its name is always readable
        return plain_error(error, terminal=terminal, steps=steps)


def plain_error(error: BaseException | str, *, terminal: bool, steps: tuple[str, ...] = ()) -> str:
    """Return the JSON text that records only the class and the message of `error`."""
    if isinstance(error, str):
        return Failure(StepFailedError.__name__, _clean(error, _LONGEST_TEXT), terminal, steps=steps).text()
    return Failure(_name_of(error), _message_of(error, _LONGEST_TEXT), terminal, steps=steps).text()


def shown_error(error: BaseException, *, is_sealed: bool = False) -> str:
    """Return the class and the message of `error` for one line of a log.

    The message is cut and its control characters are escaped, so it can neither begin a new line nor control a
    terminal. With `is_sealed` only the class is returned, because a sealing codec hides the message.
    """
    name = _on_one_line(_name_of(error))
    if is_sealed:
        return name
    message = _on_one_line(_message_of(error, _LONGEST_SHOWN))
    return f"{name}: {message}" if message else name


def _on_one_line(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def is_terminal_text(text: str) -> bool:
    """Return True if the error recorded as `text` is terminal, or if `text` records no verdict."""
    return Failure.parse(text).terminal


class _Budget:
    """The remaining characters and the remaining count for the errors of a group, over all levels."""

    __slots__ = ("_characters", "_errors")

    def __init__(self) -> None:
        self._characters = _ROOM
        self._errors = _MOST_ERRORS

    @property
    def is_spent(self) -> bool:
        """True if no further error fits."""
        return self._characters <= 0 or self._errors <= 0

    def spend_on(self, failure: Failure) -> None:
        """Subtract a recorded error."""
        self._characters -= len(failure.text())
        self._errors -= 1


def _record(
    error: BaseException, *, terminal: bool, room: int = _ROOM, level: int = 0, budget: _Budget | None = None
) -> Failure:
    failure = _record_alone(error, terminal=terminal, room=room, level=level)
    budget = budget or _Budget()
    if level:
        budget.spend_on(failure)
    if isinstance(error, ReplayedError) or not is_group(error):
        return failure
    return replace(failure, errors=_errors_of(error, terminal, room, level, budget))


def _record_alone(error: BaseException, *, terminal: bool, room: int, level: int) -> Failure:
    """Return the record of an error without the errors of a group; a replayed group keeps its recorded errors."""
    limit = max(_SHORTEST_TEXT, min(_LONGEST_TEXT, room))
    notes = _notes_of(error, limit)
    attributes = _attributes_of(error, limit)
    if isinstance(error, ReplayedError):
        known: Failure = error.pgqrs_failure
        return replace(
            known,
            terminal=terminal,
            notes=notes,
            attributes=known.attributes | attributes,
            steps=(),  # the recorded steps are nested in another step
            traceback=None if level else known.traceback,
        )
    return Failure(
        type=_name_of(error),
        message=_message_of(error, limit),
        terminal=terminal,
        mro=_class_names(type(error)),
        args=None if is_group(error) else _args_of(error, limit),
        attributes=attributes,
        notes=notes,
        traceback=None if level else _traceback_of(error),
    )


def _errors_of(
    group: BaseException, terminal: bool, room: int, level: int, budget: _Budget
) -> tuple[Failure, ...]:
    if level == _MOST_LEVELS:
        return ()
    leaves = leaves_of(group)[: max(1, room // _ROOM_OF_A_LEAF)]
    share = room // len(leaves)
    return tuple(
        _record(leaf, terminal=terminal and is_terminal(leaf), room=share, level=level + 1, budget=budget)
        for leaf in leaves
        if not budget.is_spent
    )


def _message_of(error: BaseException, limit: int) -> str:
    try:
        return _clean(str(error), limit)
    except Exception:  # noqa: BLE001
        return f"<{_name_of(error)}: its str() failed>"


def _name_of(value: object) -> str:
    """Return the name of the value's class; a metaclass cannot change the answer."""
    return _clean(vars(type)["__qualname__"].__get__(type(value)))


def _class_names(kind: type) -> tuple[str, ...]:
    classes = [cls for cls in kind.__mro__ if issubclass(cls, Exception)]
    return tuple(_clean(f"{cls.__module__}:{cls.__qualname__}", _SHORTEST_TEXT) for cls in classes[:_MOST_NAMES])


def _args_of(error: BaseException, limit: int) -> tuple[Any, ...]:
    args = list(vars(BaseException)["args"].__get__(error))
    with suppress(Exception):
        return tuple(_portable(args, limit))
    return tuple(_portable_or_repr(each, limit // len(args) + 1) for each in args[: min(limit, _MOST_FIELDS)])


def _portable(value: Any, limit: int) -> Any:
    """Return the JSON form of `value`; raise if it has no JSON form of at most `limit` characters."""
    if isinstance(value, str):
        return _clean(value, limit)
    encoded = _JSON.encode(value)
    if len(encoded.text) > limit:
        raise ValueError("too long")
    return encoded.value


def _portable_or_repr(value: Any, limit: int) -> Any:
    with suppress(Exception):
        return _portable(value, limit)
    with suppress(Exception):
        return _clean(repr(value), limit)
    return f"<{_name_of(value)}>"


def _attributes_of(error: BaseException, limit: int) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    left = limit
    for name, value in islice(_fields_of(error), _MOST_FIELDS):
        with suppress(Exception):
            portable = _portable(value, left)
            attributes[_portable(name, left)] = portable
            left -= len(name) + len(json.dumps(portable))
    return attributes


def _fields_of(error: BaseException) -> Iterator[tuple[str, Any]]:
    """Iterate over the slots and the instance attributes of `error`, with their values."""
    hidden = _OURS if isinstance(error, ReplayedError) else ()
    for name, slot in _slots_of(type(error)):
        value = None
        with suppress(Exception):
            value = slot.__get__(error)
        if value is not None:
            yield name, value
    for name, value in list(islice(state_of(error).items(), _MOST_FIELDS)):
        if is_public(name) and name not in hidden:
            yield name, value


def _slots_of(kind: type) -> Iterator[tuple[str, Slot]]:
    for cls in kind.__mro__:
        for name, slot in vars(cls).items():
            if isinstance(slot, Slot) and is_public(name) and name != "args":
                yield name, slot


def state_of(error: BaseException) -> dict[str, Any]:
    """Return the `__dict__` of `error`, even if its class redefines that name."""
    return cast("dict[str, Any]", vars(BaseException)["__dict__"].__get__(error))


def is_public(name: object) -> bool:
    """Return True if `name` is an attribute of the error, not of Python, such as `__notes__`."""
    return isinstance(name, str) and not name.startswith("__")


def _notes_of(error: BaseException, limit: int) -> tuple[str, ...]:
    notes: list[str] = []
    left = limit
    for note in _list(state_of(error).get("__notes__")):
        if isinstance(note, str) and left > 0:
            notes.append(_clean(note, left))
            left -= len(note)
    return tuple(notes)


def _traceback_of(error: BaseException) -> str | None:
    if error.__traceback__ is None:
        return None
    with suppress(Exception):
        lines = traceback.format_exception(error, limit=-_MOST_FRAMES)
        return _clean("".join(lines)[-_LONGEST_TEXT:])
    return None


def _clean(text: str, limit: int = _LONGEST_TEXT) -> str:
    """Return `text` as PostgreSQL can store it, cut to about `limit` characters."""
    text = str.__str__(text)
    if len(text) > limit:
        text = f"{text[:limit]}... ({len(text) - limit:,} characters more)"
    return text.replace("\0", "\\x00").encode(errors="backslashreplace").decode()
