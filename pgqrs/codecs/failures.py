"""Classify errors as terminal or transient, record them as JSON, and raise them again in a replay.

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
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from types import BuiltinFunctionType, GetSetDescriptorType, MemberDescriptorType, ModuleType, new_class
from typing import Any, ClassVar, Final, TypeAlias, cast

from pgqrs.codecs.base import JsonCodec
from pgqrs.errors import PgqrsError, StepFailedError, TerminalError, TransientError

__all__ = [
    "Failure",
    "dump_error",
    "is_terminal",
    "is_terminal_text",
    "load_error",
    "plain_error",
    "shown_error",
    "steps_behind",
]

ErrorClasses: TypeAlias = tuple[type[BaseException], ...]

_TERMINAL_BY_DEFAULT: Final[ErrorClasses] = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    NameError,
    NotImplementedError,
)

_SQLSTATE_LENGTH: Final = 5
_TERMINAL_SQLSTATES: Final = ("22", "42")
"""Classes of SQLSTATE: data exceptions (22), and syntax errors or access rule violations (42)."""


# --- terminal or transient ---


def is_terminal(error: BaseException, *, terminal: ErrorClasses = (), transient: ErrorClasses = ()) -> bool:
    """Return True if a retry after `error` cannot succeed.

    The first rule that applies decides: the options `terminal` and `transient` of the step; the recorded verdict
    of a replayed error; `TerminalError` and `TransientError`; the defaults. If both options name a class of the
    error, the most specific class decides, and `terminal` wins a tie. A group is terminal if one of its leaves is
    terminal, unless a rule names the class of the group.
    """
    pending = [error]
    while pending:
        current = pending.pop()
        verdict = _verdict(current, terminal, transient)
        if verdict is None and _is_group(current):
            pending += _leaves_of(current)
        elif verdict:
            return True
    return False


def _is_group(error: BaseException) -> bool:
    return isinstance(error, BaseExceptionGroup)


def _decides_on_groups(cls: type) -> bool:
    return issubclass(cls, (BaseExceptionGroup, TerminalError, TransientError))


def _leaves_of(group: Any) -> tuple[BaseException, ...]:
    return cast("tuple[BaseException, ...]", group.exceptions)


def _verdict(error: BaseException, terminal: ErrorClasses, transient: ErrorClasses) -> bool | None:
    """Return the verdict on `error` itself; None makes a leaf transient, and leaves a group to its leaves."""
    lineage = _lineage(error)
    if _is_group(error):
        lineage = list(filter(_decides_on_groups, lineage))
    verdicts = (
        _first_named(lineage, terminal, transient),
        error.pgqrs_failure.terminal if isinstance(error, _ReplayedError) else None,
        _first_named(lineage, (TerminalError,), (TransientError,)),
        _first_named(lineage, _TERMINAL_BY_DEFAULT, ()),
        _is_refused_by_sql(error) or None,
    )
    return next((verdict for verdict in verdicts if verdict is not None), None)


def _is_refused_by_sql(error: BaseException) -> bool:
    """Return True for a database error that the same statement with the same data raises again.

    SQLAlchemy's errors hold the driver's error as `orig`, and drivers hold the code as `sqlstate` or `pgcode`.
    Errors of pgqrs are excluded: they concern statements of pgqrs, which are not the step's input.
    """
    if isinstance(error, PgqrsError):
        return False
    with suppress(Exception):  # an exception's class may raise any exception
        for each in (error, getattr(error, "orig", None)):
            for name in ("sqlstate", "pgcode"):
                code = getattr(each, name, None)
                if isinstance(code, str) and len(code) == _SQLSTATE_LENGTH:
                    return code.startswith(_TERMINAL_SQLSTATES)
    return False


def _lineage(error: BaseException) -> list[type]:
    """Return the classes of `error`; the classes of a replayed error begin with the classes of its original."""
    original = type(error).pgqrs_original.__mro__ if isinstance(error, _ReplayedError) else ()
    return [*original, *type(error).__mro__]


def _first_named(lineage: list[type], terminal: ErrorClasses, transient: ErrorClasses) -> bool | None:
    for cls in lineage:
        if cls in terminal:
            return True
        if cls in transient:
            return False
    return None


# --- the record ---


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
            type=_text_or(document.get("type"), StepFailedError.__name__),
            message=_text_or(document.get("message"), "the recorded error has no message"),
            terminal=document.get("terminal") is not False,
            mro=_texts(document.get("mro")),
            args=tuple(_list(document["args"])) if "args" in document else None,
            attributes=_dict(document.get("attributes")),
            notes=_texts(document.get("notes")),
            errors=tuple(cls.read(each) for each in _list(document.get("errors")) if isinstance(each, dict)),
            steps=_texts(document.get("steps")),
            traceback=_text_or(document.get("traceback"), "") or None,
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


def _text_or(value: object, default: str) -> str:
    return value if isinstance(value, str) else default


def _list(value: object) -> list[Any]:
    return [*cast("Sequence[Any]", value)] if isinstance(value, list) else []


def _dict(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _texts(value: object) -> tuple[str, ...]:
    return tuple(each for each in _list(value) if isinstance(each, str))


# --- recording ---

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
_STATE: Final = "pgqrs_failure"
_OURS: Final = frozenset({"workflow_id", "step_id", _STATE})
_Slot: TypeAlias = MemberDescriptorType | GetSetDescriptorType


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
    if isinstance(error, _ReplayedError) or not _is_group(error):
        return failure
    return replace(failure, errors=_errors_of(error, terminal, room, level, budget))


def _record_alone(error: BaseException, *, terminal: bool, room: int, level: int) -> Failure:
    """Return the record of an error without the errors of a group; a replayed group keeps its recorded errors."""
    limit = max(_SHORTEST_TEXT, min(_LONGEST_TEXT, room))
    notes = _notes_of(error, limit)
    attributes = _attributes_of(error, limit)
    if isinstance(error, _ReplayedError):
        known = error.pgqrs_failure
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
        args=None if _is_group(error) else _args_of(error, limit),
        attributes=attributes,
        notes=notes,
        traceback=None if level else _traceback_of(error),
    )


def _errors_of(
    group: BaseException, terminal: bool, room: int, level: int, budget: _Budget
) -> tuple[Failure, ...]:
    if level == _MOST_LEVELS:
        return ()
    leaves = _leaves_of(group)[: max(1, room // _ROOM_OF_A_LEAF)]
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
    hidden = _OURS if isinstance(error, _ReplayedError) else ()
    for name, slot in _slots_of(type(error)):
        value = None
        with suppress(Exception):
            value = slot.__get__(error)
        if value is not None:
            yield name, value
    for name, value in list(islice(_state_of(error).items(), _MOST_FIELDS)):
        if _is_public(name) and name not in hidden:
            yield name, value


def _slots_of(kind: type) -> Iterator[tuple[str, _Slot]]:
    for cls in kind.__mro__:
        for name, slot in vars(cls).items():
            if isinstance(slot, _Slot) and _is_public(name) and name != "args":
                yield name, slot


def _state_of(error: BaseException) -> dict[str, Any]:
    """Return the `__dict__` of `error`, even if its class redefines that name."""
    return cast("dict[str, Any]", vars(BaseException)["__dict__"].__get__(error))


def _is_public(name: object) -> bool:
    """Return True if `name` is an attribute of the error, not of Python, such as `__notes__`."""
    return isinstance(name, str) and not name.startswith("__")


def _notes_of(error: BaseException, limit: int) -> tuple[str, ...]:
    notes: list[str] = []
    left = limit
    for note in _list(_state_of(error).get("__notes__")):
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


# --- raising again ---


class _ReplayedError(StepFailedError):
    """The base of every replayed error, which is also of the original's class if that class is found.

    It comes first among the bases, so its methods override the methods of the original's class.
    """

    workflow_id: int = 0
    step_id: str = ""
    pgqrs_failure: Failure
    pgqrs_original: ClassVar[type[Exception]] = StepFailedError

    def __init_subclass__(cls, **_: Any) -> None:
        """Keep the hook of the original's class, such as a registry, from running for the replayed class."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Create an error of the original's class, for code such as ``raise type(error)("...") from error``."""
        return cls.pgqrs_original(*args, **kwargs)

    def __str__(self) -> str:
        return self.pgqrs_failure.message

    def __repr__(self) -> str:
        name, own = self.pgqrs_failure.type, StepFailedError.__name__
        return f"{own if name == own else f'{own}[{name}]'}({self.pgqrs_failure.message!r})"

    def __reduce__(self) -> tuple[Callable[..., StepFailedError], tuple[Any, ...]]:
        text = dump_error(self, terminal=self.pgqrs_failure.terminal)
        return _revive, (text, self.workflow_id, self.step_id)

    def __reduce_ex__(self, _protocol: Any) -> tuple[Callable[..., StepFailedError], tuple[Any, ...]]:
        return self.__reduce__()


class _ReplayedGroupError(_ReplayedError, ExceptionGroup[Exception]):
    """The base of every replayed group."""

    def derive(self, excs: Sequence[Any], /) -> Any:
        """Create a group as the original's class does, or a plain group if that needs unrecorded data."""
        with suppress(Exception):
            return super().derive(excs)
        return ExceptionGroup(self.message, excs)


_METHODS: Final = frozenset(
    name
    for cls in (_ReplayedGroupError, _ReplayedError, BaseExceptionGroup, BaseException)
    for name, value in vars(cls).items()
    if name.startswith("pgqrs_") or callable(value)
)

_LINES: Final = ("lineno", "offset", "end_lineno", "end_offset")
_LONGEST_LINE: Final = 1_000_000


def _can_be_formatted(error: BaseException, name: str, value: Any) -> bool:
    """Return True if `traceback` can format the error with this attribute; it reads some of a `SyntaxError`."""
    if not isinstance(error, SyntaxError):
        return True
    if name in _LINES:
        return value is None or (isinstance(value, int) and abs(value) <= _LONGEST_LINE)
    return name not in {"msg", "filename", "text"} or value is None or isinstance(value, str)


def load_error(text: str, *, workflow_id: int, step_id: str) -> StepFailedError:
    """Return the error recorded as `text`, ready to be raised again.

    The error is a `StepFailedError`. If a class of the original is found in an imported module, the error is also
    an instance of that class. This function imports and calls nothing that `text` names, except the metaclass of a
    found class. It never raises: a malformed text gives a plain `StepFailedError`.
    """
    failure = Failure.parse(text)
    try:
        return _replay(failure, workflow_id, step_id)
    except Exception:  # noqa: BLE001  RecursionError, for example: a malformed record has no limits
        return _replay(replace(failure, mro=(), attributes={}, errors=()), workflow_id, step_id)


def steps_behind(error: BaseException) -> tuple[str, ...]:
    """Return the nested steps whose transient errors caused the replayed `error` of a step."""
    return error.pgqrs_failure.steps if isinstance(error, _ReplayedError) else ()


def _revive(text: str, workflow_id: int, step_id: str) -> StepFailedError:
    return load_error(text, workflow_id=workflow_id, step_id=step_id)


def _replay(failure: Failure, workflow_id: int, step_id: str) -> StepFailedError:
    leaves = [_replay(leaf, workflow_id, step_id) for leaf in failure.errors]
    for original in _originals(failure):
        with suppress(Exception):
            return _build(original, failure, leaves, {"workflow_id": workflow_id, "step_id": step_id})
    return _build(StepFailedError, failure, [], {"workflow_id": workflow_id, "step_id": step_id})


def _originals(failure: Failure) -> list[type[Exception]]:
    """Return the classes to try, the most specific first: group classes for a group, other classes otherwise."""
    is_group = bool(failure.errors)
    found = [cls for name in failure.mro if (cls := _find_class(name)) is not None and cls is not Exception]
    # Raised in a coroutine, a StopIteration becomes a RuntimeError.
    found = [cls for cls in found if not issubclass(cls, StopIteration)]
    suitable = [cls for cls in found if issubclass(cls, BaseExceptionGroup) == is_group]
    return [*suitable, ExceptionGroup] if is_group else suitable


def _find_class(name: str) -> type[Exception] | None:
    """Return the exception class of a "module:qualname" if its module is imported; run no code to find it.

    Namespaces are read through the descriptors of `type` and `ModuleType`: an access to an attribute would make a
    lazy module import itself, and a metaclass may return any object.
    """
    module, _, qualname = name.partition(":")
    found: object = sys.modules.get(module)
    for part in qualname.split("."):
        found = _namespace(found).get(part)
    # `isinstance` would ask a proxy for its `__class__`, and that runs code.
    is_error = issubclass(type(found), type) and issubclass(cast("type", found), Exception)
    return cast("type[Exception]", found) if is_error else None


def _namespace(owner: object) -> Any:
    for kind in (ModuleType, type):
        if issubclass(type(owner), kind):
            return vars(kind)["__dict__"].__get__(owner)
    return {}


def _build(
    original: type[Exception], failure: Failure, leaves: list[StepFailedError], whose: dict[str, Any]
) -> StepFailedError:
    """Return an instance of the class combined with `original`; raise if Python cannot combine or create it."""
    cls = _combine(original)
    if cls is None:
        raise TypeError(f"{original} cannot be a base")
    new = _native_new(cls)
    error: _ReplayedError = new(cls, _group_message(failure), leaves) if leaves else new(cls)
    if not leaves:
        vars(BaseException)["args"].__set__(error, (failure.message,) if failure.args is None else failure.args)
    for name, value in failure.attributes.items():
        _restore(error, name, value)
    _state_of(error).update(whose, **{_STATE: failure})
    if failure.notes:
        _state_of(error)["__notes__"] = list(failure.notes)
    return error


@lru_cache(maxsize=256)
def _combined(original: type[Exception]) -> type[_ReplayedError] | None:
    """Return the replayed class combined with `original`, or None if layouts or metaclasses conflict."""
    mixin = _ReplayedGroupError if issubclass(original, BaseExceptionGroup) else _ReplayedError
    bases = (mixin,) if issubclass(mixin, original) else (mixin, original)
    own = StepFailedError.__name__
    name = own if original is StepFailedError else f"{own}[{original.__qualname__}]"
    body = {"__module__": StepFailedError.__module__, "pgqrs_original": original}
    with suppress(Exception):
        return new_class(name, bases, exec_body=lambda namespace: namespace.update(body))
    return None


_combine = cast("Callable[[type[Exception]], type[_ReplayedError] | None]", _combined)
"""`_combined` with a type for type checkers, which treat a class of exceptions as unhashable."""


def _native_new(cls: type) -> Callable[..., Any]:
    """Return the `__new__`, written in C, that creates instances of this layout without required arguments."""
    base: type | None = cls
    while base is not None:
        new = vars(base).get("__new__")
        if isinstance(new, BuiltinFunctionType):
            return new
        base = base.__base__
    raise TypeError(f"{cls} has no native __new__")


def _group_message(failure: Failure) -> str:
    return _text_or(failure.attributes.get("message"), failure.message)


def _restore(error: BaseException, name: str, value: Any) -> None:
    """Set an attribute in its slot or in the instance's `__dict__`; no property and no `__setattr__` runs.

    An attribute that would replace a method, or that would keep Python from formatting the error, is omitted.
    """
    if not _is_public(name) or name in _METHODS or not _can_be_formatted(error, name, value):
        return
    slot = next((vars(cls)[name] for cls in type(error).__mro__ if name in vars(cls)), None)
    if isinstance(slot, _Slot):
        with suppress(Exception):
            slot.__set__(error, value)
    else:
        _state_of(error)[name] = value
