"""The conditions of lists as people write them: ages, times and attributes."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def time_of(given: str) -> datetime:
    """Return the time of a text: ISO 8601 with an offset, or an age such as 90s, 15m, 2h or 7d.

    Raises `ValueError` for any other text.
    """
    age = re.fullmatch(r"(\d{1,9})([smhd])", given)
    try:
        if age is not None:
            return datetime.now(UTC) - timedelta(**{_UNITS[age[2]]: int(age[1])})
        time = datetime.fromisoformat(given)
    except (ValueError, OverflowError):
        time = None
    if time is None or time.utcoffset() is None:
        raise ValueError(
            f"a time is an age such as 90s, 15m, 2h or 7d, or ISO 8601 with an offset, such as "
            f"2026-11-27T00:00:00+01:00, got {given!r}."
        )
    return time


def attribute_of(given: str) -> tuple[str, Any]:
    """Return the name and the value of an attribute that is written as NAME=VALUE, the value as JSON or as text.

    Raises `ValueError` for any other text.
    """
    name, equals, text = given.partition("=")
    if not name or not equals:
        raise ValueError(f"an attribute is NAME=VALUE, as in customer=7, got {given!r}.")
    try:
        return name, json.loads(text)
    except ValueError:
        return name, text
