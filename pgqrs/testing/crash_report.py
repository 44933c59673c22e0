"""The report of a run of `crash_everywhere`, the comparison of two reports, and the texts of their differences."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from pgqrs.testing.comparison import Recorded
from pgqrs.types import StepRecord, StepStatus, WorkflowRecord, WorkflowStatus

_NUMBERS = re.compile(r"(\d+(?:[.,]\d+)*)")

_RESULTS_MAY_DIFFER = (
    "\nTwo runs without a crash differ as well. If results may differ (an id, a random number, the time), select "
    "the part that must be the same: crash_everywhere(..., compare=lambda result: ...)."
)

_RUNS_DIFFER = (
    "\nTwo runs without a crash differ as well: the steps and the error of a workflow must not depend on a "
    "random number, the time, or the memory of a process."
)

Compare: TypeAlias = Callable[[Any], object]


@dataclass(frozen=True, slots=True)
class RunReport:
    """The report of a run to its end: its writes until the crash, its record, its result and its steps.

    `begun` counts how often each step began, `begun_after` counts the beginnings after the crash. `kept` has the
    steps that were recorded at the crash, without the steps of a generation that has ended since.
    """

    writes: list[str]
    record: WorkflowRecord
    result: Recorded
    steps: Mapping[str, StepRecord]
    begun: Mapping[str, int]
    begun_after: Mapping[str, int]
    kept: Mapping[str, StepRecord]


def hint_of(undisturbed: RunReport, again: RunReport, compare: Compare | None) -> str:
    """Return a hint for two runs without a crash that differ, or an empty text."""
    differences = [*differences_of(undisturbed, again, compare)]
    if not differences:
        return ""
    both_succeeded = undisturbed.record.status == again.record.status == WorkflowStatus.SUCCESS
    in_results = both_succeeded and not _is_same_outcome(undisturbed, again, compare)
    return _RESULTS_MAY_DIFFER if in_results and len(differences) == 1 else _RUNS_DIFFER


def differences_of(undisturbed: RunReport, trial: RunReport, compare: Compare | None) -> Iterator[str]:
    """Yield each difference between the trial and the undisturbed run, as a sentence."""
    if not _is_same_outcome(undisturbed, trial, compare):
        wanted, got = _outcome_told(undisturbed, compare), _outcome_told(trial, compare)
        yield f"it {got}, and without a crash it {wanted}."
    yield from _other_steps(undisturbed, trial)
    for step_id, kept in trial.kept.items():
        if kept.status == StepStatus.SUCCESS and trial.steps.get(step_id) != kept:
            yield f"the step {step_id!r} was recorded as {kept.output!r}, and is {_step_told(trial, step_id)} now."
        if kept.status == StepStatus.SUCCESS and trial.begun_after.get(step_id, 0):
            yield f"the step {step_id!r} was recorded, and began again after the crash."
    for step_id, count in trial.begun.items():
        most = _begun_at_most(undisturbed, step_id) + 1
        if count > most and step_id in undisturbed.begun:
            yield f"the step {step_id!r} began {count} times, and one crash explains at most {most}."


def _begun_at_most(undisturbed: RunReport, step_id: str) -> int:
    """Return the maximum number of beginnings of a step without a crash.

    A step begins once for each attempt, except for a retry that waits in place.
    """
    recorded = undisturbed.steps.get(step_id)
    attempts = 0 if recorded is None else recorded.failures + 1
    return max(undisturbed.begun.get(step_id, 0), attempts)


def _other_steps(undisturbed: RunReport, trial: RunReport) -> Iterator[str]:
    for step_id in _lasting(undisturbed) - trial.steps.keys():
        yield f"it has no step {step_id!r}, which it has without a crash."
    for step_id in _lasting(trial) - undisturbed.steps.keys():
        yield f"it has a step {step_id!r}, which it does not have without a crash."


def _lasting(trial: RunReport) -> set[str]:
    """Return the ids of the steps with an outcome or a failed attempt.

    Whether another step has a record depends on the time: a long step has one, and the wait of a parked run.
    """
    return {each for each, step in trial.steps.items() if step.status != StepStatus.RUNNING or step.failures}


def _is_same_outcome(one: RunReport, other: RunReport, compare: Compare | None) -> bool:
    if one.record.status != other.record.status:
        return False
    if one.record.status != WorkflowStatus.SUCCESS:
        return _is_same_error(one.record, other.record)
    if compare is None:
        return one.result.equals(other.result)
    return bool(compare(one.result.value) == compare(other.result.value))


def _is_same_error(one: WorkflowRecord, other: WorkflowRecord) -> bool:
    """Return whether two errors are the same, where each may contain the id of its own workflow."""
    (kind, message), (other_kind, other_message) = _error(one), _error(other)
    words, other_words = _NUMBERS.split(message), _NUMBERS.split(other_message)
    own = str(one.id), str(other.id)
    return (
        kind == other_kind
        and len(words) == len(other_words)
        and all(pair[0] == pair[1] or pair == own for pair in zip(words, other_words, strict=True))
    )


def _error(record: WorkflowRecord) -> tuple[str, str]:
    """Return the class name and the message of a workflow's error; both are empty for a cancelled workflow."""
    error = record.error if isinstance(record.error, dict) else {}
    return str(error.get("type", "")), str(error.get("message", ""))


def _outcome_told(trial: RunReport, compare: Compare | None) -> str:
    match trial.record.status:
        case WorkflowStatus.SUCCESS:
            value = trial.result.value
            return f"returned {value if compare is None else compare(value)!r}"
        case WorkflowStatus.ERROR:
            return "raised {}: {}".format(*_error(trial.record))
        case status:
            return f"ended as {status}"


def _step_told(trial: RunReport, step_id: str) -> str:
    step = trial.steps.get(step_id)
    return "gone" if step is None else f"{step.status}, {step.output!r}"
