"""The comparison of the batches with their submissions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

from chaos.tables import Written
from chaos.work import BATCH, stamp_name

Place = tuple[int, str]
"""The key of a step: the id of its workflow, and its own."""


def steps_of_submissions(workflows: Sequence[Written]) -> dict[int, list[Place]]:
    """Return the step of each submission in each batch that lists it."""
    by_id = {each.id: each for each in workflows}
    found: dict[int, list[Place]] = defaultdict(list)
    for batch in workflows:
        for place, member in enumerate(batch.input if batch.is_batch else ()):
            if member in by_id:
                (number,) = by_id[member].input["args"]
                found[member].append((batch.id, f"note:{stamp_name(place, number)}"))
    return found


def violations_of_batches(
    workflows: Sequence[Written], stamps: Mapping[int, Sequence[Place]], executed: Collection[Place]
) -> Iterator[str]:
    """Yield each violation of the lists of the batches.

    Args:
        workflows: All workflows, with batches and submissions.
        stamps: The steps of each submission, as `steps_of_submissions` returns them.
        executed: All steps that were executed.
    """
    batches = {each.id: each for each in workflows if each.is_batch}
    ids = {each.id for each in workflows}
    for batch in batches.values():
        about = f"batch {batch.id} of queue {batch.queue!r}"
        if not 0 < len(batch.input) <= BATCH.size:
            yield f"{about} has {len(batch.input)} submissions."
        for member in batch.input:
            if member not in ids:
                yield f"{about} lists workflow {member}, which does not exist."
    for each in workflows:
        if each.name == "chaos.stamp":
            listed = [batch_id for batch_id, _ in stamps.get(each.id, ())]
            if listed != ([] if each.batch_id is None else [each.batch_id]):
                yield f"workflow {each.id} is in batch {each.batch_id}, and the batches that list it are {listed}."
    known = {place for places in stamps.values() for place in places}
    for workflow_id, step_id in executed:
        if workflow_id in batches and (workflow_id, step_id) not in known:
            yield f"batch {workflow_id} has executed step {step_id!r}, which is of no submission in its list."
