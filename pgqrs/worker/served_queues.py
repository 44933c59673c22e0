"""The queues that a worker serves, and the share of each in the slots of the worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Self, cast

from pgqrs.storage.diagnosis.workers import Registration
from pgqrs.storage.sql.tokens import new_token
from pgqrs.validation import validate_positive_int, validate_queues

CONCURRENCY = 100
"""Workflows that a worker runs at once unless it is told another number."""


class ServedQueues(NamedTuple):
    """The names of the queues, and the maximum runs of each in this worker; None for no maximum."""

    names: Sequence[str]
    shares: Mapping[str, int] | None

    @classmethod
    def of(cls, queues: Iterable[str] | Mapping[str, int]) -> Self:
        """Check the `queues` of a worker; raises as `validate_queues` and `validate_positive_int` do."""
        names = validate_queues(queues)
        if not isinstance(queues, Mapping):
            return cls(names, None)
        given = cast("Mapping[str, int]", queues)
        return cls(names, {name: validate_positive_int(f"queues[{name!r}]", given[name]) for name in names})

    def concurrency(self, given: int | None) -> int:
        """Return the maximum runs of the worker: the `given` number, or what the queues have together."""
        if given is not None:
            return validate_positive_int("concurrency", given, "; pass a number of workflows")
        return CONCURRENCY if self.shares is None else sum(self.shares.values())

    def registration(self, names: Sequence[str], batched: Sequence[str], concurrency: int) -> Registration:
        """Return the row of a worker that claims workflows of these names, for operators."""
        shares = None if self.shares is None else [self.shares[name] for name in self.names]
        return Registration(new_token(), names, batched, self.names, shares, concurrency)

    def rooms(self, held_in: Callable[[str], int]) -> dict[str, int] | None:
        """Return the further runs of each queue that can start; `held_in` counts the runs of a queue."""
        if self.shares is None:
            return None
        return {name: max(0, share - held_in(name)) for name, share in self.shares.items()}
