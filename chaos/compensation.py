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
    for each in steps:
        if workflow.status != "SUCCESS":
            yield from (f"{about} is {workflow.status}: {found}" for found in each.violations())
        elif each.undo is not None or each.undone:
            yield f"{about} has succeeded, and step {each.step_id!r} was undone."
    yield from _violations_of_order(about, steps)


def _violations_of_order(about: str, steps: Sequence[Undoable]) -> Iterator[str]:
    """Compare the undos of the first step and of the last one, which is undone first."""
    first, last = steps[0].undo, steps[-1].undo
    if first is not None and last is not None and (first.completed_at or 0) < (last.completed_at or 0):
        yield f"{about} has undone step {steps[0].step_id!r} before step {steps[-1].step_id!r}."
