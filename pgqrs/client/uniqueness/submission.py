"""The submission of workflows with unique values."""

from __future__ import annotations

from collections.abc import Sequence

from pgqrs.storage.access.operations import OnTaken, WorkflowOperations
from pgqrs.storage.uniqueness.records import Placed, UniquePolicy, UniqueSubmission


async def submit_unique(
    operations: WorkflowOperations,
    new: Sequence[UniqueSubmission],
    policy: UniquePolicy,
    taken: OnTaken,
    trace: str | None = None,
) -> list[Placed]:
    """Write submissions of one name, and return the results in order.

    Of the submissions with one value the first is written; if a newer submission replaces or cancels an older one,
    the last. The other ones get the same result.
    """
    in_order = new if policy.changes_holder or policy.taken == "cancel" else reversed(new)
    chosen = {each.unique_value: each for each in in_order}
    placed = await operations.submit_unique(list(chosen.values()), policy, taken, trace)
    by_value = dict(zip(chosen, placed, strict=True))
    return [by_value[each.unique_value] for each in new]
