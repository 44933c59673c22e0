"""`RetryPolicy`: after how long a failed attempt is tried again, and when no more."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from pgqrs.errors import ConfigurationError, TransientError

_CENTURY = 100 * 365 * 86400.0
"""The longest delay, in seconds, well before the timestamps of PostgreSQL end."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often something is tried, and how long the delays between the attempts are.

    `attempts` counts all of them, the first included. The first delay is `initial` seconds, each further one
    `factor` times the one before, none longer than `maximum` seconds. A share of each, up to `jitter` (between 0
    and 1), is taken off at random, so that what failed together is not tried again together. `longest` bounds, in
    seconds, the `retry_after` of a `TransientError`, which other systems choose: a day by default.

    Raises `ConfigurationError` (a `ValueError`) for numbers that make no sense.
    """

    attempts: int = 3
    initial: float = 1.0
    factor: float = 2.0
    maximum: float = 60.0
    jitter: float = 0.1
    longest: float = 86400.0

    def __post_init__(self) -> None:
        if not _is_int(self.attempts) or self.attempts < 1:
            raise ConfigurationError(f"attempts must be an int of at least 1, and is {self.attempts!r}.")
        _check("initial", self.initial, 0, math.inf)
        _check("factor", self.factor, 1, math.inf)
        _check("maximum", self.maximum, 0, _CENTURY)
        _check("jitter", self.jitter, 0, 1)
        _check("longest", self.longest, 0, _CENTURY)

    def delay(self, failures: int, error: BaseException | None = None) -> float | None:
        """Return the delay before the next attempt, in seconds, or None when there is none.

        `failures` counts the failed attempts so far, and `error` is the last one: the `retry_after` of a
        `TransientError` is taken as it is, up to `longest`; of several in a group, the longest.
        """
        if failures >= self.attempts:
            return None
        asked = max(_retry_afters(error), default=None)
        if asked is not None:
            return float(min(max(asked, 0), self.longest))
        return self._backoff(failures) * (1.0 - self.jitter * random.random())  # noqa: S311  # no secret

    def _backoff(self, failures: int) -> float:
        try:
            return min(self.initial * self.factor ** (failures - 1), self.maximum)
        except OverflowError:
            return self.maximum


def policy_of(retry: object) -> RetryPolicy | None:
    """Return the policy that a decorator's `retry` stands for: a number is that many attempts.

    Raises `ConfigurationError` for a number below 1, and `TypeError` for what is neither.
    """
    if retry is None or isinstance(retry, RetryPolicy):
        return retry
    if not _is_int(retry):
        raise TypeError(f"retry is a number of attempts or a RetryPolicy, not {type(retry).__name__}.")
    return RetryPolicy(attempts=cast(int, retry))


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check(name: str, value: object, least: float, most: float) -> None:
    is_number = isinstance(value, float) or _is_int(value)
    if not is_number or not least <= cast(float, value) <= most or value == math.inf:
        bounds = f"at least {least}" if math.isinf(most) else f"between {least} and {most}"
        raise ConfigurationError(f"{name} must be a number, {bounds}, and is {value!r}.")


def _retry_afters(error: BaseException | None) -> Iterator[float]:
    """Yield the delays that an error, or the leaves of a group, ask for: floats and ints of any size."""
    pending = [error]
    while pending:
        each = pending.pop()
        if isinstance(each, BaseExceptionGroup):
            pending += cast("BaseExceptionGroup[BaseException]", each).exceptions
        elif isinstance(each, TransientError):
            # A replayed error has what was recorded for an attribute, and an application may set anything.
            after: Any = getattr(each, "retry_after", None)
            # An int is compared and not converted: one of 400 digits is no float.
            if _is_int(after) or (isinstance(after, float) and math.isfinite(after)):
                yield after
