"""Times as texts for people, seen from the time of an answer."""

from __future__ import annotations

from datetime import UTC, datetime

_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def moment(time: datetime | None) -> str:
    """Return a time in UTC, to the second."""
    return "an unknown time" if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def due(now: datetime, time: datetime | None) -> str:
    """Return when a time is: how long after `now`, and the time itself."""
    if time is None:
        return "at an unknown time"
    seconds = (time - now).total_seconds()
    return f"in {_length(seconds)} ({moment(time)})" if seconds > 0 else f"now ({moment(time)})"


def ago(now: datetime, time: datetime | None) -> str:
    """Return how long before `now` a time was."""
    return "at an unknown time" if time is None else f"{_length(max(0.0, (now - time).total_seconds()))} ago"


def _length(seconds: float) -> str:
    for size, unit in _UNITS:
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "less than 1 s"
