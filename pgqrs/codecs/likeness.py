"""Whether a value came back as what it was, and where not."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

_SEQUENCES = (list, tuple)
_COLLECTIONS = (list, tuple, set, frozenset, deque)
_SCALARS = (str, int, float, bool, type(None))
_PLAIN = (*_SCALARS, list, dict)
_BY_IDENTITY: Any = object.__eq__
_EXTRA = "__pydantic_extra__"

Pairs: TypeAlias = Iterable[tuple[object, Any, Any]]
"""What is in two values: its key or index, and what each of them has there."""


class Difference(NamedTuple):
    """A place where a value and what came back of it differ: the keys that lead there, and both."""

    keys: tuple[object, ...]
    given: Any
    back: Any


def difference(given: Any, back: Any, *, plainly: bool) -> Difference | None:
    """Return the first place where `back` is something else than `given`, None where there is none.

    A list and a tuple are alike. `plainly` takes the JSON form of an object for the same: it comes back like that
    from where its type is not known.
    """
    if _are_equal(given, back):
        return None
    pairs = _plain_pairs(given, back) if plainly and _became_plain(given, back) else _pairs(given, back)
    if pairs is None:
        return Difference((), given, back)
    for key, *both in pairs:
        if (found := difference(*both, plainly=plainly)) is not None:
            return found._replace(keys=(key, *found.keys))
    return None


def _is(value: object, kinds: type | tuple[type, ...]) -> bool:
    """`isinstance`, without what the type checkers make of `Any` then."""
    return isinstance(value, kinds)


def _are_equal(given: Any, back: Any) -> bool:
    if _is_aware(given) and _is_aware(back):
        # In an hour that a zone has twice, or not at all, a time is unequal to the same one with an offset.
        given, back = given.astimezone(dt.UTC), back.astimezone(dt.UTC)
    try:
        return bool(given == back)
    except Exception:  # noqa: BLE001  an array, say
        return False


def _is_aware(value: object) -> bool:
    return isinstance(value, dt.datetime) and value.tzinfo is not None


def _became_plain(given: Any, back: Any) -> bool:
    return type(back) in _PLAIN and (_is(back, dict) or type(given) is not type(back))


def _plain_pairs(given: Any, back: Any) -> Pairs | None:
    """Return what is in an object and in the JSON made of it; None where that cannot be its JSON."""
    if _is(given, _SCALARS):
        return None
    if _is(given, dict) and _is(back, dict):
        # The keys may have become strings, two of them the same.
        values = list(given.values())
        return _paired(values, list(back.values()), list(back))
    if _is(given, _COLLECTIONS) and _is(back, list):
        return _paired(list(given), back)
    state = _state(given)
    return [(key, state[key], back[key]) for key in state if key in back] if _is(back, dict) else ()


def _pairs(given: Any, back: Any) -> Pairs | None:
    """Return what is in two values of one kind; None where nothing is, or where they are of two kinds."""
    if _is(given, _SEQUENCES) and _is(back, _SEQUENCES):
        return _paired(given, back)
    if type(given) is not type(back):
        return None
    if _is(given, deque):
        return _paired(list(given), list(back))
    if _is(given, dict):
        return _paired_by_key(given, back)
    state = _state(given)
    if state or type(given).__eq__ is _BY_IDENTITY:
        return _paired_by_key(state, _state(back))
    return None


def _paired(given: Sequence[Any], back: Sequence[Any], keys: Sequence[object] | None = None) -> Pairs | None:
    if len(given) != len(back):
        return None
    return zip(range(len(given)) if keys is None else keys, given, back, strict=True)


def _paired_by_key(given: dict[Any, Any], back: dict[Any, Any]) -> Pairs | None:
    if given.keys() != back.keys():
        return None
    return [(key, value, back[key]) for key, value in given.items()]


def _state(value: object) -> dict[str, Any]:
    """Return the fields of a model or a dataclass, or the attributes of any other object."""
    names: Iterable[str] | None = getattr(type(value), "__pydantic_fields__", None)
    if names is None and dataclasses.is_dataclass(value):
        names = [each.name for each in dataclasses.fields(value)]
    if names is None:
        return dict(getattr(value, "__dict__", {}))
    return {name: getattr(value, name, None) for name in names} | (getattr(value, _EXTRA, None) or {})
