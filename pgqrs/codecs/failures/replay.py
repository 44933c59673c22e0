"""Errors that a replay raises, built from their JSON records."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from types import BuiltinFunctionType, ModuleType, new_class
from typing import Any, Final, cast

from pgqrs.codecs.failures.classify import ReplayedError
from pgqrs.codecs.failures.record import STATE, Failure, Slot, dump_error, is_public, state_of, text_or
from pgqrs.errors import StepFailedError

__all__ = ["load_error", "steps_behind"]


class _ReplayedError(ReplayedError):
    """The base of every replayed error, which is also of the original's class if that class is found.

    It comes first among the bases, so its methods override the methods of the original's class.
    """

    workflow_id: int = 0
    step_id: str = ""
    pgqrs_failure: Failure

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
    for cls in (_ReplayedGroupError, _ReplayedError, ReplayedError, BaseExceptionGroup, BaseException)
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
    state_of(error).update(whose, **{STATE: failure})
    if failure.notes:
        state_of(error)["__notes__"] = list(failure.notes)
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
    return text_or(failure.attributes.get("message"), failure.message)


def _restore(error: BaseException, name: str, value: Any) -> None:
    """Set an attribute in its slot or in the instance's `__dict__`; no property and no `__setattr__` runs.

    An attribute that would replace a method, or that would keep Python from formatting the error, is omitted.
    """
    if not is_public(name) or name in _METHODS or not _can_be_formatted(error, name, value):
        return
    slot = next((vars(cls)[name] for cls in type(error).__mro__ if name in vars(cls)), None)
    if isinstance(slot, Slot):
        with suppress(Exception):
            slot.__set__(error, value)
    else:
        state_of(error)[name] = value
