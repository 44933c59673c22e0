"""`RetryPolicy`, the number of attempts and the delays between them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from pgqrs.clock import MAX_SECONDS
from pgqrs.errors import ConfigurationError, TransientError
from pgqrs.validation import is_int


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The number of attempts of a step or a workflow, and the delays between the attempts.

    The delays grow exponentially. A random part of each delay is subtracted, so that steps that failed at the same
    time are retried at different times.

    Args:
        attempts: Maximum attempts, including the first attempt; 3 by default, at least 1.
        initial: Seconds of the first delay; 1 by default.
        factor: Factor by which each delay is longer than the previous delay; 2 by default, at least 1.
        maximum: Seconds, maximum delay; 60 by default.
        jitter: Maximum share of a delay that is subtracted at random, between 0 and 1; 0.1 by default.
        longest: Seconds, maximum `retry_after` of a `TransientError`, because an external service may have chosen
            that delay; one day by default.

    Raises:
        ConfigurationError: A number is out of range. It is a `ValueError`.
    """

    attempts: int = 3
    initial: float = 1.0
    factor: float = 2.0
    maximum: float = 60.0
    jitter: float = 0.1
    longest: float = 86400.0

    def __post_init__(self) -> None:
        if not is_int(self.attempts) or self.attempts < 1:
            raise ConfigurationError(f"`attempts` must be an int of at least 1, got {self.attempts!r}.")
        _check("initial", self.initial, 0, math.inf)
        _check("factor", self.factor, 1, math.inf)
        _check("maximum", self.maximum, 0, MAX_SECONDS)
        _check("jitter", self.jitter, 0, 1)
        _check("longest", self.longest, 0, MAX_SECONDS)

    def delay(self, failures: int, error: BaseException | None = None) -> float | None:
        """Return the delay before the next attempt.

        The `retry_after` of a `TransientError` replaces the computed delay, up to `longest`, and has no jitter. If
        an exception group contains several `TransientError`s, the longest `retry_after` applies.

        Args:
            failures: The number of failed attempts so far.
            error: The error of the last attempt; None by default.

        Returns:
            The delay in seconds, or None if no further attempt is allowed.
        """
        if failures >= self.attempts:
            return None
        asked = max(_retry_afters(error), default=None)
        if asked is not None:
            return float(min(max(asked, 0), self.longest))
        return self._backoff(failures) * (1.0 - self.jitter * random.random())  # noqa: S311  # not a secret

    def _backoff(self, failures: int) -> float:
        try:
            return min(self.initial * self.factor ** (failures - 1), self.maximum)
        except OverflowError:
            return self.maximum


def policy_of(retry: object) -> RetryPolicy | None:
    """Return the retry policy for the `retry` argument of a decorator.

    Args:
        retry: A `RetryPolicy`, a number of attempts, or None.

    Returns:
        The policy, or None for None.

    Raises:
        ConfigurationError: The number is less than 1.
        TypeError: `retry` has another type.
    """
    if retry is None or isinstance(retry, RetryPolicy):
        return retry
    if not is_int(retry):
        raise TypeError(f"`retry` must be a number of attempts or a RetryPolicy, got {type(retry).__name__}.")
    return RetryPolicy(attempts=retry)


def _check(name: str, value: object, least: float, most: float) -> None:
    is_number = isinstance(value, float) or is_int(value)
    if not is_number or not least <= cast(float, value) <= most or value == math.inf:
        bounds = f"of at least {least}" if math.isinf(most) else f"between {least} and {most}"
        raise ConfigurationError(f"`{name}` must be a finite number {bounds}, got {value!r}.")


def _retry_afters(error: BaseException | None) -> Iterator[float]:
    """Yield the `retry_after` of an error, or of each leaf of a group: finite floats, or ints of any size."""
    pending = [error]
    while pending:
        each = pending.pop()
        if isinstance(each, BaseExceptionGroup):
            pending += cast("BaseExceptionGroup[BaseException]", each).exceptions
        elif isinstance(each, TransientError):
            # The attribute may have any type: a replay restores it from the record, and an application may set it.
            after: Any = getattr(each, "retry_after", None)
            # An int is not converted to float here, because an int of 400 digits exceeds the range of float.
            if is_int(after) or (isinstance(after, float) and math.isfinite(after)):
                yield after
