"""Comparison of a value with the value that its recorded text decodes to."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import uuid
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

_SEQUENCES = (list, tuple)
_COLLECTIONS = (list, tuple, set, frozenset, deque)
_SCALARS = (str, int, float, bool, type(None))
_PLAIN = (*_SCALARS, list, dict)
_HONEST = frozenset({*_SCALARS, bytes, decimal.Decimal, uuid.UUID, dt.date, dt.datetime, dt.time, dt.timedelta})
"""Types whose values are equal only if nothing is lost."""

_BY_IDENTITY: Any = object.__eq__
_EXTRA = "__pydantic_extra__"
_FIELDS = "__pydantic_fields__"
_GENERIC = "__pydantic_generic_metadata__"
_CONFIGS = ("model_config", "__pydantic_config__")

Pairs: TypeAlias = Iterable[tuple[object, Any, Any]]
"""The common content of two values: each key or index, with the item of the first and of the second value."""


class Difference(NamedTuple):
    """A place where a value and the decoded value differ: the keys that lead to it, and both items."""

    keys: tuple[object, ...]
    given: Any
    back: Any


def first_difference(given: Any, back: Any, *, plainly: bool, members: bool = True) -> Difference | None:
    """Return the first place where `back`, the decoded value, differs from `given`; None if nothing differs.

    A list and a tuple do not differ. With `plainly`, an object and its JSON form do not differ: an object of
    unknown type is decoded as its JSON form. With `members`, a member of an enum differs from a value that is
    equal to it.
    """
    pairs: Pairs | None
    if given is back:
        return None
    if _has_fields(given) and _kind(given) is _kind(back):
        pairs = _paired_by_key(_state(given), _state(back))
    elif are_equal(given, back):
        pairs = _pairs_of_equals(given, back, plainly=plainly, members=members)
    elif plainly and _became_plain(given, back):
        pairs = _plain_pairs(given, back)
    else:
        pairs = _pairs(given, back)
    if pairs is None:
        return Difference((), given, back)
    members = members and not _holds_values_of_members(given)
    for key, one, other in pairs:
        if _is_honest(one, other) and one == other:
            continue
        if (found := first_difference(one, other, plainly=plainly, members=members)) is not None:
            return found._replace(keys=(key, *found.keys))
    return None


def _is_honest(given: object, back: object) -> bool:
    return type(given) in _HONEST and type(back) in _HONEST


def are_equal(given: Any, back: Any) -> bool:
    """Return True if two values compare equal, or are the same moment."""
    try:
        if _is_aware(given) and _is_aware(back):
            # In an hour that a zone repeats or skips, a time is unequal to the same time with an offset.
            return not given - back
        return bool(given == back)
    except Exception:  # noqa: BLE001  the comparison of arrays, for example, raises
        return False


def _is(value: object, kinds: type | tuple[type, ...]) -> bool:
    """`isinstance`, but type checkers do not narrow an `Any` by it."""
    return isinstance(value, kinds)


def _is_aware(value: object) -> bool:
    return isinstance(value, dt.datetime) and value.tzinfo is not None


def _holds_values_of_members(value: object) -> bool:
    """Return True if a model is configured to replace the members of its enums by their values."""
    configs = (getattr(type(value), name, None) for name in _CONFIGS)
    return any(isinstance(each, dict) and cast("Any", each).get("use_enum_values") for each in configs)


def _pairs_of_equals(given: Any, back: Any, *, plainly: bool, members: bool) -> Pairs | None:
    """Return the content of two values that compare equal; None if they are of two kinds nevertheless."""
    if _is_honest(given, back):
        return ()
    if _has_fields(given) or _has_fields(back) or (members and (_is(given, enum.Enum) or _is(back, enum.Enum))):
        return () if type(given) is type(back) or (plainly and type(back) in _PLAIN) else None
    if _is(given, dict) and _is(back, dict):
        return _pairs_of_equal_dicts(given, back)
    if _is(given, (set, frozenset)) and _is(back, (set, frozenset)):
        return _pairs_of_equal_sets(given, back)
    if _is(given, _COLLECTIONS) and _is(back, _COLLECTIONS) and not _are_honest(given, back):
        return _paired(list(given), list(back))
    return ()


def _pairs_of_equal_dicts(given: dict[Any, Any], back: dict[Any, Any]) -> Pairs:
    if _are_honest(given, back) and _are_honest(given.values(), back.values()):
        return ()
    keys = {key: key for key in back}
    values = [(key, value, back[key]) for key, value in given.items()]
    return [*((key, key, keys[key]) for key in given), *values]


def _pairs_of_equal_sets(given: Iterable[Any], back: Iterable[Any]) -> Pairs:
    if _are_honest(given, back):
        return ()
    items = {item: item for item in back}
    return [(item, item, items[item]) for item in given]


def _are_honest(given: Iterable[Any], back: Iterable[Any]) -> bool:
    return _HONEST.issuperset(map(type, given)) and _HONEST.issuperset(map(type, back))


def _became_plain(given: Any, back: Any) -> bool:
    return type(back) in _PLAIN and (_is(back, dict) or type(given) is not type(back))


def _plain_pairs(given: Any, back: Any) -> Pairs | None:
    """Return the content of an object and of a JSON value; None if that value cannot be the object's JSON."""
    if _is(given, _SCALARS):
        return None
    if _is(given, dict) and _is(back, dict):
        # The keys may have become strings, and two keys may have become the same string.
        values = list(given.values())
        return _paired(values, list(back.values()), list(back))
    if _is(given, _COLLECTIONS) and _is(back, list):
        return _paired(list(given), back)
    state = _state(given)
    return [(key, state[key], back[key]) for key in state if key in back] if _is(back, dict) else ()


def _pairs(given: Any, back: Any) -> Pairs | None:
    """Return the content of two values of one kind; None if they have no content, or are of two kinds."""
    if _is(given, _SEQUENCES) and _is(back, _SEQUENCES):
        return _paired(given, back)
    if _kind(given) is not _kind(back):
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


def _kind(value: object) -> type:
    """Return the class of a value, ``Page`` for a ``Page[int]``: Pydantic compares models by that class."""
    kind = type(value)
    origin: object = getattr(kind, _GENERIC, {}).get("origin")
    return origin if isinstance(origin, type) else kind


def _has_fields(value: object) -> bool:
    """Return True if a value is a model or a dataclass."""
    kind = type(value)
    return hasattr(kind, _FIELDS) or dataclasses.is_dataclass(kind)


def _state(value: object) -> dict[str, Any]:
    """Return the fields of a model or a dataclass, or the attributes of any other object."""
    names: Iterable[str] | None = getattr(type(value), _FIELDS, None)
    if names is None and dataclasses.is_dataclass(value):
        names = [each.name for each in dataclasses.fields(value)]
    if names is None:
        return dict(getattr(value, "__dict__", {}))
    return {name: getattr(value, name, None) for name in names} | (getattr(value, _EXTRA, None) or {})
