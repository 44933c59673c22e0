"""The comparison of the ledger with the records of pgqrs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chaos.batches import Place, steps_of_submissions, violations_of_batches
from chaos.compensation import Undoable, violations_of
from chaos.faults import Kill
from chaos.tables import Entered, Recorded, Written
from chaos.work import FAMILIES, REQUESTS, STEPS, time_name

TOLERANCE = 0.05
"""Seconds by which a step may seem to begin late, because its clock and the server's are read in turn."""

CALM = 3.0
"""Seconds before and after a kill without an outage of the server, for an undisturbed recovery."""

EXECUTED = ("note:", "try:", "wait:", "do:", "dare:", "undo/")
"""The beginnings of the ids of the steps that are executed; the other steps wait, send or start children."""


@dataclass(frozen=True)
class Ledger:
    """The three tables, by their keys, the addresses of the messages that were not received, and the replies.

    `stamps` has the steps of each submission, in all batches that list it.
    """

    workflows: list[Written]
    steps: dict[Place, Recorded]
    entries: dict[Place, list[Entered]]
    unread: list[str]
    replies: Mapping[tuple[int, int], Sequence[str]]
    stamps: Mapping[int, Sequence[Place]]

    @classmethod
    def of(
        cls,
        workflows: list[Written],
        steps: Sequence[Recorded],
        entries: Sequence[Entered],
        unread: list[str],
        replies: Mapping[tuple[int, int], Sequence[str]],
    ) -> Ledger:
        """Return a ledger of the rows."""
        by_place: dict[Place, list[Entered]] = defaultdict(list)
        for entry in entries:
            by_place[entry.workflow_id, entry.step_id].append(entry)
        by_key = {(each.workflow_id, each.step_id): each for each in steps}
        return cls(workflows, by_key, by_place, unread, replies, steps_of_submissions(workflows))

    @property
    def executions(self) -> int:
        """The number of executions of steps that were completed."""
        return sum(map(len, self.entries.values()))

    @property
    def stale(self) -> int:
        """The number of executions by runs that were recovered elsewhere; their outcomes were refused."""
        return sum(
            entry.epoch < step.epoch for place, step in self.steps.items() for entry in self.entries.get(place, ())
        )

    def violations(self, expected: int) -> Iterator[str]:
        """Yield each violation, as a sentence."""
        enqueued = [
            each
            for each in self.workflows
            if each.parent_id is None and each.schedule is None and not each.is_batch
        ]
        keys = {each.key for each in enqueued}
        if len(enqueued) != expected or len(keys) != expected:
            yield f"{expected} keys were enqueued; there are {len(enqueued)} workflows of {len(keys)} keys."
        for queue, count in Counter(each.queue for each in self.workflows if not each.has_ended).items():
            yield f"unfinished workflows of queue {queue!r}: {count}."
        families: dict[int | None, list[Written]] = defaultdict(list)
        for each in sorted(self.workflows, key=lambda each: each.id):
            families[each.parent_id].append(each)
        for each in self.workflows:
            yield from self._violations_of(each, families.get(each.id, []))
        yield from violations_of_batches(self.workflows, self.stamps, self.entries.keys())
        for address in self.unread:
            yield f"a message to the address {address!r} was sent twice, or was not received."

    def _violations_of(self, workflow: Written, children: Sequence[Written]) -> Iterator[str]:
        about = f"workflow {workflow.id} ({workflow.name})"
        if not workflow.has_ended:
            place = f"queue {workflow.queue!r}, partition key {workflow.partition_key!r}"
            yield f"{about} in {place} is {workflow.status}, epoch {workflow.epoch}: {workflow.error}"
            return
        if workflow.name == "chaos.saga":
            yield from self._violations_of_saga(workflow)
            if workflow.status in {"ERROR", "CANCELLED"}:
                return
        if workflow.status == "CANCELLED" and workflow.schedule is not None:
            return
        if workflow.status != "SUCCESS":
            yield f"{about} is {workflow.status}, epoch {workflow.epoch}: {workflow.error}"
        elif not workflow.is_batch:  # the outcomes of the steps of a batch are the outputs of its submissions
            yield from self._violations_of_success(about, workflow, children)

    def _violations_of_success(self, about: str, workflow: Written, children: Sequence[Written]) -> Iterator[str]:
        names, family = tuple(each.name for each in children), FAMILIES.get(workflow.name, ())
        if names != family:
            yield f"{about} has the children {names}, and started {family}."
        recorded = [self.steps.get(place) for place in self._places_of(workflow)]
        outcomes: list[Any] = [step and step.output for step in recorded]
        outcomes[1:1] = [value for each in children for value in each.output or ()]
        if workflow.output != outcomes:
            yield f"{about} returned {workflow.output}, and its steps and children {outcomes}."
        for step in recorded:
            if step is not None:
                yield from self._violations_in(step)
        if workflow.name == "chaos.clerk":
            yield from self._violations_of_clerk(about, workflow)

    def _places_of(self, workflow: Written) -> Sequence[Place]:
        if workflow.name == "chaos.stamp":
            return self.stamps.get(workflow.id, ())
        return [(workflow.id, step_id) for step_id in _steps_of(workflow)]

    def _violations_of_clerk(self, about: str, workflow: Written) -> Iterator[str]:
        for value in range(REQUESTS):
            replies = self.replies.get((workflow.id, value), ())
            if set(replies) != {workflow.output[value]}:
                yield f"{about} has replied {workflow.output[value]} to request {value}; callers got {replies}."

    def _violations_of_saga(self, workflow: Written) -> Iterator[str]:
        steps = [self._undoable(workflow.id, step_id) for step_id in STEPS[workflow.name]]
        yield from violations_of(workflow, steps)
        for each in steps:
            if each.value is not None and each.step is not None:
                yield from self._violations_in(each.step)
            if each.undo is not None:
                yield from self._violations_in(each.undo)

    def _undoable(self, workflow_id: int, step_id: str) -> Undoable:
        own, undo = (workflow_id, step_id), (workflow_id, f"undo/{step_id}")
        return Undoable(
            step_id,
            self.steps.get(own),
            self.entries.get(own, ()),
            self.steps.get(undo),
            self.entries.get(undo, ()),
        )

    def _violations_in(self, step: Recorded) -> Iterator[str]:
        """Compare a step's outcome with the rows of its executions.

        A row with an older epoch than the outcome belongs to a run that was recovered elsewhere and did not know
        it yet. Such a row is allowed at any time, because a process may be stopped at any point. A run of the
        outcome's own epoch may have written rows before (failed attempts), but must not begin the step again after
        the outcome. A newer run must not execute the step at all: it was claimed after the outcome was recorded,
        because an older run can record nothing later.
        """
        about = f"step {step.step_id!r} of workflow {step.workflow_id}"
        entries = self.entries.get((step.workflow_id, step.step_id), [])
        own = [entry for entry in entries if str(entry.id) == step.output]
        if step.status != "SUCCESS" or step.completed_at is None or not own:
            yield f"{about} is recorded as {step.status} {step.output}, which is not in the ledger."
            return
        if own[0].epoch != step.epoch:
            yield f"{about} has epoch {step.epoch}, and its outcome was made by the run of epoch {own[0].epoch}."
        for entry in entries:
            if entry.epoch > step.epoch:
                yield f"{about}, recorded by epoch {step.epoch}, was executed again by epoch {entry.epoch}."
            elif entry.epoch == step.epoch and entry.began_at > step.completed_at + TOLERANCE:
                late = entry.began_at - step.completed_at
                yield f"{about} was executed again by its own run, {late:.3f} s after its outcome was recorded."


def _steps_of(workflow: Written) -> tuple[str, ...]:
    return STEPS.get(workflow.name) or ("note:a", f"note:{time_name(workflow.scheduled_for)}")


@dataclass(frozen=True)
class Recovery:
    """Seconds from a kill until a step of a workflow of the victim ran elsewhere, and until it was recorded."""

    running: float
    recorded: float
    undisturbed: bool


def recoveries(
    kills: Sequence[Kill], steps: Sequence[Recorded], outages: Sequence[tuple[float, float]]
) -> list[Recovery]:
    """Return the recovery from each kill of a worker whose runs had steps left to execute."""
    by_workflow: dict[int, list[Recorded]] = defaultdict(list)
    for step in steps:
        if step.completed_at is not None and step.step_id.startswith(EXECUTED):
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
    """Return the smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]
