"""The checked options of submissions with a unique value."""

from __future__ import annotations

from typing import NamedTuple, get_args

from pgqrs.errors import ConfigurationError
from pgqrs.storage.uniqueness.records import UniquePolicy
from pgqrs.types import Taken, UniqueUntil, Until
from pgqrs.validation import validate_seconds, validate_unique


class UniqueOptions(NamedTuple):
    """The unique value of a submission, None without one, and the effect of a value that is held already."""

    value: str | None = None
    policy: UniquePolicy = UniquePolicy()

    @property
    def is_delayed(self) -> bool:
        """True if the policy decides about the time of the start."""
        return self.policy.debounce is not None or self.policy.throttle is not None

    def holds_until_start(self, until: Until | UniqueUntil | None) -> bool:
        """Return whether a workflow gives its value up at its first start; `until` is None by default."""
        if until == "purge":
            raise ConfigurationError("a unique value is held until 'start' or 'end': pass one of them as `until`.")
        if not self.is_delayed:
            return until == "start"
        if until == "end":
            raise ConfigurationError(
                "`debounce` and `throttle` hold their unique value until the start of the workflow: omit `until`."
            )
        return True


def unique_options(
    *, unique: object, taken: Taken, debounce: object, debounce_at_most: object, throttle: object
) -> UniqueOptions:
    """Check the arguments of `Admin.options` that are about a unique value; raises as `Admin.options` does."""
    if taken not in get_args(Taken):
        raise ConfigurationError(f"`taken` must be 'return', 'raise', 'replace' or 'cancel', got {taken!r}.")
    policy = UniquePolicy(
        taken,
        validate_seconds("debounce", debounce, positive=True),
        validate_seconds("debounce_at_most", debounce_at_most, positive=True),
        validate_seconds("throttle", throttle, positive=True),
    )
    _check(policy)
    return UniqueOptions(None if unique is None else validate_unique(unique), policy)


def _check(policy: UniquePolicy) -> None:
    if policy.debounce is None and policy.debounce_at_most is not None:
        raise ConfigurationError("`debounce_at_most` bounds a `debounce`: pass both.")
    if policy.debounce is None and policy.throttle is None:
        return
    if policy.debounce is not None and policy.throttle is not None:
        raise ConfigurationError("`debounce` and `throttle` both set the time of the start: pass one of them.")
    if policy.taken != "return":
        raise ConfigurationError(
            "with `debounce` and `throttle` the holder of a unique value takes the new arguments: omit `taken`."
        )


def check_use(options: UniqueOptions, *, is_unique: bool, has_key: bool, has_time: bool) -> None:
    """Raise `ConfigurationError` for options that do not fit together.

    `is_unique` says that the submissions have unique values, `has_key` that they have keys, and `has_time` that a
    delay or a time is given.
    """
    policy = options.policy
    if not is_unique and policy != UniquePolicy():
        raise ConfigurationError(
            "`taken`, `debounce` and `throttle` are about a unique value: pass `unique` with them."
        )
    if has_key and policy.changes_holder:
        raise ConfigurationError(
            "a key identifies one submission, and another submission may replace this one: pass no key with "
            "`taken='replace'`, `debounce` or `throttle`."
        )
    if has_time and options.is_delayed:
        raise ConfigurationError("`debounce` and `throttle` set the time of the start: pass no `delay` or `at`.")
