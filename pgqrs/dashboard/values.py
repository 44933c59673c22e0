"""The values of the pages: payloads cut and sealed, times, and records as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, cast

from pgqrs.types import Unreadable, names_of_fields

MAX_VALUE = 4000
"""Maximum characters of a value on a page."""

MAX_TEXT = 300
"""Maximum characters of a name or a message on a page."""

MAX_EXACT = 2**53 - 1
"""The largest whole number that JavaScript has exactly; a larger one is a string in JSON."""

_PAYLOADS = frozenset({"input", "output", "error", "events"})

_IDS = ("id", "workflow_id", "batch_id", "parent_id", "parent", "workflow_ids", "ids")

SEALED = "sealed: this page does not show values that the codec encrypts"


class Shown(NamedTuple):
    """A value on a page: its text, and a note about it, of which one may be empty."""

    text: str
    note: str = ""


class Values:
    """Shows the values of records; `hides` is true if payloads are sealed and stay hidden."""

    def __init__(self, *, hides: bool) -> None:
        self._hides = hides

    def payload(self, value: Any) -> Shown | None:
        """Return a payload as JSON text that is not too long, None for None."""
        if value is None:
            return None
        if isinstance(value, Unreadable):
            return Shown("", f"unreadable: {cut(value.error)}")
        return Shown("", SEALED) if self._hides else _cut_json(value)

    def error(self, error: Mapping[str, Any] | Unreadable | None) -> str:
        """Return an error in one line: its class and its message."""
        if error is None:
            return ""
        if isinstance(error, Unreadable):
            return f"unreadable: {cut(error.error)}"
        if self._hides:
            return "sealed"
        return cut(f"{error.get('type', 'error')}: {error.get('message', '')}")

    def json(self, value: Any) -> Any:
        """Return a record, or a structure of records, as values for JSON, with each id as a string."""
        if isinstance(value, Unreadable):
            return {"unreadable": value.error}
        if names := names_of_fields(value):
            return {name: self._member(name, getattr(value, name)) for name in names}
        if isinstance(value, Mapping):
            named = cast("dict[Any, Any]", value)
            return {str(name): self._member(str(name), each) for name, each in named.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self.json(each) for each in cast("Sequence[Any]", value)]
        return _plain(value)

    def _member(self, name: str, value: Any) -> Any:
        if name in _PAYLOADS:
            is_hidden = self._hides and not isinstance(value, Unreadable | None)
            return {"sealed": True} if is_hidden else _exact(value)
        if name in _IDS and isinstance(value, (int, list, tuple)):
            return _strings(cast("int | Sequence[int]", value))
        return self.json(value)


def cut(text: str, most: int = MAX_TEXT) -> str:
    """Return a text with at most `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def moment(time: datetime | None) -> str:
    """Return a time to the second, in UTC."""
    return "" if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def length(seconds: float | None) -> str:
    """Return a length of time with a unit."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _cut_json(value: Any) -> Shown:
    """Return the beginning of a value as JSON; the rest is not even encoded."""
    parts: list[str] = []
    left = MAX_VALUE
    try:
        for part in json.JSONEncoder(indent=2, ensure_ascii=False, default=repr).iterencode(value):
            parts.append(part[:left])
            left -= len(part)
            if left < 0:
                return Shown("".join(parts), f"cut after {MAX_VALUE} characters; `pgqrs show --full` shows all")
    except (TypeError, ValueError, RecursionError):
        return Shown("", f"no JSON: an object of the class {type(value).__name__!r}")
    return Shown("".join(parts))


def _strings(value: int | Sequence[int]) -> str | list[str]:
    return str(value) if isinstance(value, int) else list(map(str, value))


def _exact(value: Any) -> Any:
    """Return a payload with the whole numbers as strings that JavaScript would round."""
    if isinstance(value, Unreadable):
        return {"unreadable": value.error}
    if isinstance(value, Mapping):
        return {str(name): _exact(each) for name, each in cast("dict[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_exact(each) for each in cast("Sequence[Any]", value)]
    return _plain(value)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, str, float)):
        return value
    if isinstance(value, int):
        return value if abs(value) <= MAX_EXACT else str(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value.isoformat() if isinstance(value, datetime) else str(value)
