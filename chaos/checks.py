"""The comparison of the ledger with what pgqrs has recorded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chaos.faults import Kill
from chaos.tables import Entered, Recorded, Written
from chaos.work import STEPS

TOLERANCE = 0.05
"""How much later, in seconds, a step may seem to begin than it did: the clocks are read one after the other."""

CALM = 3.0
"""How long, in seconds, after a kill the server must have been there for its recovery to be an undisturbed one."""

Place = tuple[int, str]


@dataclass(frozen=True)
class Ledger:
    """The three tables, by their keys."""

    workflows: list[Written]
    steps: dict[Place, Recorded]
    entries: dict[Place, list[Entered]]

    @classmethod
    def of(cls, workflows: list[Written], steps: Sequence[Recorded], entries: Sequence[Entered]) -> Ledger:
        """Put the rows in order."""
        by_place: dict[Place, list[Entered]] = defaultdict(list)
        for entry in entries:
            by_place[entry.workflow_id, entry.step_id].append(entry)
        return cls(workflows, {(each.workflow_id, each.step_id): each for each in steps}, by_place)

    @property
    def executions(self) -> int:
        """How often a step was executed to the end."""
        return sum(map(len, self.entries.values()))

    @property
    def stale(self) -> int:
        """How many executions were of a run that had been taken over: their outcomes were refused."""
        return sum(
            entry.epoch < step.epoch for place, step in self.steps.items() for entry in self.entries.get(place, ())
        )

    def violations(self, expected: int) -> Iterator[str]:
        """Yield what is not as it must be, a sentence each."""
        keys = {each.key for each in self.workflows}
        if len(self.workflows) != expected or len(keys) != expected:
            yield f"{expected} keys were enqueued; there are {len(self.workflows)} workflows of {len(keys)} keys."
        for each in self.workflows:
            yield from self._violations_of(each)

    def _violations_of(self, workflow: Written) -> Iterator[str]:
        about = f"workflow {workflow.id} ({workflow.name})"
        if workflow.status != "SUCCESS":
            yield f"{about} is {workflow.status}, epoch {workflow.epoch}: {workflow.error}"
            return
        recorded = [self.steps.get((workflow.id, step_id)) for step_id in STEPS[workflow.name]]
        if workflow.output != [step and step.output for step in recorded]:
            outcomes = [step and step.output for step in recorded]
            yield f"{about} returned {workflow.output}, and its steps {outcomes}."
        for step in recorded:
            if step is not None:
                yield from self._violations_in(step)

    def _violations_in(self, step: Recorded) -> Iterator[str]:
        """Compare a step's outcome with the rows of its executions.

        A row of an older epoch than the outcome's is of a run that was taken over, and did not know it yet: that
        is allowed at any time, since a process may be stopped in the middle of anything. A run of the outcome's
        own epoch may have written rows before (attempts that failed), but must not begin the step again then. A
        newer run must not execute it at all: it was claimed after the outcome was recorded, for an older run can
        record nothing later.
        """
        about = f"step {step.step_id!r} of workflow {step.workflow_id}"
        entries = self.entries.get((step.workflow_id, step.step_id), [])
        own = [entry for entry in entries if str(entry.id) == step.output]
        if step.status != "SUCCESS" or step.completed_at is None or not own:
            yield f"{about} is recorded as {step.status} {step.output}, which the ledger does not have."
            return
        if own[0].epoch != step.epoch:
            yield f"{about} has epoch {step.epoch}, and its outcome was made by the run of epoch {own[0].epoch}."
        for entry in entries:
            if entry.epoch > step.epoch:
                yield f"{about}, recorded by epoch {step.epoch}, was executed again by epoch {entry.epoch}."
            elif entry.epoch == step.epoch and entry.began_at > step.completed_at + TOLERANCE:
                late = entry.began_at - step.completed_at
                yield f"{about} was executed again by its own run, {late:.3f} s after its outcome was recorded."


@dataclass(frozen=True)
class Recovery:
    """How long, in seconds, after a kill a step of a workflow that was held ran elsewhere, and was recorded."""

    running: float
    recorded: float
    undisturbed: bool


def recoveries(
    kills: Sequence[Kill], steps: Sequence[Recorded], outages: Sequence[tuple[float, float]]
) -> list[Recovery]:
    """Return the recovery from each kill of a worker that held runs of which a step was left to take."""
    by_workflow: dict[int, list[Recorded]] = defaultdict(list)
    for step in steps:
        if step.completed_at is not None and ":" in step.step_id:  # no sleep
            by_workflow[step.workflow_id].append(step)
    found: list[Recovery] = []
    for kill in kills:
        elsewhere = [
            step
            for workflow_id, epoch in kill.held
            for step in by_workflow[workflow_id]
            if step.epoch > epoch and step.started_at > kill.at
        ]
        if elsewhere:
            calm = all(kill.at + CALM < began or ended + CALM < kill.at for began, ended in outages)
            running = min(step.started_at for step in elsewhere) - kill.at
            recorded = min(step.completed_at or 0.0 for step in elsewhere) - kill.at
            found.append(Recovery(running, recorded, calm))
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that so large a share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]
