"""The comparison of the steps of a saga with their undos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from chaos.tables import Entered, Recorded, Written
from chaos.work import fate

ENDS = {"succeeds": ("SUCCESS",), "fails": ("ERROR",), "cancelled": ("CANCELLED", "SUCCESS")}
"""The statuses with which a saga ends, by its fate; a cancellation may come too late."""


class Undoable(NamedTuple):
    """A step of a saga and its undo: their records, and the rows of their executions."""

    step_id: str
    step: Recorded | None
    executed: Sequence[Entered]
    undo: Recorded | None
    undone: Sequence[Entered]

    @property
    def value(self) -> Any:
        """The recorded value of the step, None without one."""
        return self.step.output if self.step is not None and self.step.status == "SUCCESS" else None

    @property
    def has_begun(self) -> bool:
        """True for a step that is to be undone although it may have no value, and has begun."""
        return self.step_id.startswith("dare:") and self.step is not None

    def violations(self) -> Iterator[str]:
        """Yield the violations of a step whose saga has failed or was cancelled."""
        about = f"step {self.step_id!r}"
        if self.step_id.startswith("dare:") and self.executed and self.step is None:
            yield f"{about} was executed, and its beginning is not recorded."
        if self.value is None and not self.has_begun:
            if self.undo is not None or self.undone:
                yield f"{about} is not recorded, and was undone."
        elif self.undo is None or self.undo.status != "SUCCESS":
            yield f"{about} has the value {self.value}, and is left standing: its undo is {self.undo}."
        else:
            given = {each.undoes for each in self.undone if str(each.id) == self.undo.output}
            if given != {self.value}:
                yield f"{about} has the value {self.value}, and its undo was called with {given}."


def violations_of(workflow: Written, steps: Sequence[Undoable]) -> Iterator[str]:
    """Yield each violation of a workflow with a saga, whose steps are given in their order."""
    about = f"workflow {workflow.id} ({workflow.name})"
    if workflow.status not in ENDS[fate(int(workflow.key or 0))]:
        yield f"{about} is {workflow.status}, epoch {workflow.epoch}: {workflow.error}"
    # A cancellation that is heard after the last step of the block leaves the saga as it is.
    is_too_late = workflow.status == "CANCELLED" and all(each.value is not None for each in steps)
    has_succeeded = workflow.status == "SUCCESS" or (
        is_too_late and not any(each.undo or each.undone for each in steps)
    )
    epochs = {each.step_id: each.step.epoch for each in steps if each.step is not None}
    state = (
        f"{workflow.status} in queue {workflow.queue!r} after {workflow.epoch} runs, saga state "
        f"{workflow.saga_state}, error {workflow.error}, epochs {epochs}"
    )
    for each in steps:
        if not has_succeeded:
            yield from (f"{about} is {state}: {found}" for found in each.violations())
        elif each.undo is not None or each.undone:
            yield f"{about} has succeeded, and step {each.step_id!r} was undone."
    yield from _violations_of_order(about, steps)


def _violations_of_order(about: str, steps: Sequence[Undoable]) -> Iterator[str]:
    """Compare the undo of the first step, which is the last one, with the others."""
    first = steps[0].undo
    for each in steps[1:]:
        if (
            first is not None
            and each.undo is not None
            and (first.completed_at or 0) < (each.undo.completed_at or 0)
        ):
            yield f"{about} has undone step {steps[0].step_id!r} before step {each.step_id!r}."
