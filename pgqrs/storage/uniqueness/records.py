"""The records of submissions with a unique value."""

from __future__ import annotations

from typing import NamedTuple

from pgqrs.storage.writes.attributes import GivenAttributes
from pgqrs.types import Taken


class UniqueSubmission(NamedTuple):
    """A record to write: a workflow for the workers of `queue` that is to hold a unique value.

    `until_start` says that it gives the value up at its first start, and not at its end. The other fields are
    those of a `PartitionedSubmission`.
    """

    workflow_id: int
    name: str
    input: str
    queue: str
    priority: int
    delay: float | None
    timeout: float | None
    key: str | None
    codec: str | None
    token: int
    attributes: GivenAttributes | None
    partition_key: str | None
    unique_value: str
    until_start: bool


class UniquePolicy(NamedTuple):
    """The effect of submissions whose unique value another workflow holds; times are in seconds.

    `taken` is as in `Admin.options`. With `debounce` or `throttle` the holder takes the new arguments, as far as
    it has not started.
    """

    taken: Taken = "return"
    debounce: float | None = None
    debounce_at_most: float | None = None
    throttle: float | None = None

    @property
    def changes_holder(self) -> bool:
        """True if a holder that has not started takes the arguments of the submission."""
        return self.taken == "replace" or self.debounce is not None or self.throttle is not None

    @property
    def needs_transaction(self) -> bool:
        """True if a submission takes several statements that must be committed together."""
        return self.taken == "cancel" or self.throttle is not None


class Placed(NamedTuple):
    """The workflow that a submission has led to, a new one or the holder; `is_ready` says that it may start."""

    workflow_id: int
    token: int | None
    is_ready: bool = False
