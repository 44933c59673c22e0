"""Time: the clock that sleeps are measured by, and lengths of time as they are given."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Protocol

from pgqrs.errors import ConfigurationError

LONGEST = 100 * 365 * 86400.0
"""The longest time that can be given, in seconds: a century, well before the timestamps of PostgreSQL end."""


class Clock(Protocol):
    """Where the time comes from; the database's clock is the default, which is one for all machines."""

    async def now(self) -> datetime:
        """Return the time, aware."""
        ...


def seconds_of(what: str, given: object) -> float:
    """Return a length of time in seconds that was given as a number or a `timedelta`; `what` names it.

    Raises `ConfigurationError` (a `ValueError`) for one that is not finite or longer than a century, and
    `TypeError` for what is none.
    """
    seconds = given.total_seconds() if isinstance(given, timedelta) else given
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"a {what} is a number of seconds or a timedelta, not {type(given).__name__}.")
    if not -LONGEST <= seconds <= LONGEST:  # a NaN is not within either
        raise ConfigurationError(f"a {what} is at most a hundred years, not {given} s.")
    return float(seconds)
