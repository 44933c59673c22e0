"""The operations by which a step starts children, with their records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from sqlalchemy import case, func, select, true, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased
from sqlalchemy.sql import ColumnElement

from pgqrs.models import Workflow
from pgqrs.storage.sql.expressions import json_of, seconds_from_now
from pgqrs.storage.writes.columns import Arrays
from pgqrs.storage.writes.operation import (
    RETRY,
    CancelRequested,
    Companion,
    CurrentState,
    Operation,
    fencing_error,
)


class NewChild(NamedTuple):
    """A child that a step starts; `workflow_id` and `step_id` name the step, `place` counts its children from 0.

    `input` is JSON text. `delay` is the seconds until the child may start, `timeout` the seconds that it may take
    from its first start; its parent's deadline holds for it, too.
    """

    workflow_id: int
    step_id: str
    place: int
    child_id: int
    name: str
    input: str
    queue: str
    priority: int
    delay: float | None
    timeout: float | None
    codec: str | None
    token: int
    ends_with_parent: bool


class NewParent(NamedTuple):
    """A workflow whose step starts children."""

    workflow_id: int
    step_id: str


class StartedChildren(NamedTuple):
    """A record to write: some of the children of a step that has no outcome yet."""

    workflow_id: int
    epoch: int
    step_id: str
    claim: int
    children: tuple[NewChild, ...]


class InsertChildren(Companion[NewChild]):
    """Insert the children of the steps that the same statement has found to be current."""

    record = NewChild

    def __init__(self, name: str) -> None:
        self.name = name

    def statement_after(self, written: Any) -> Any:
        """Return the insert; a child that is there already, at its place, is not inserted again."""
        rows = self.rows()
        given = rows.c
        parent = aliased(Workflow, name="parent")
        values: dict[str, Any] = {
            "id": given.child_id,
            "name": given.name,
            "input": json_of(given.input),
            "token": given.token,
            "queue": given.queue,
            "priority": given.priority,
            "ready_at": case((given.delay.is_(None), func.now())),
            "due_at": seconds_from_now(given.delay),
            "timeout": given.timeout,
            "deadline": parent.deadline,
            "codec": given.codec,
            "parent_id": given.workflow_id,
            "parent_step": given.step_id,
            "place": given.place,
            "ends_with_parent": given.ends_with_parent,
        }
        of_step = (written.c.workflow_id == given.workflow_id) & (written.c.key == given.step_id)
        new = (
            select(*values.values())
            .join_from(rows, written, of_step)
            .join(parent, parent.id == given.workflow_id)
            .order_by(given.child_id)
        )
        return insert(Workflow).from_select(list(values), new, include_defaults=False).on_conflict_do_nothing()


class MarkParents(Companion[NewParent]):
    """Note that workflows have children, so that their ends are noticed."""

    record = NewParent

    def __init__(self, name: str) -> None:
        self.name = name

    def statement_after(self, written: Any) -> Any:
        """Return the update."""
        rows = self.rows()
        return (
            update(Workflow)
            .where(Workflow.id == rows.c.workflow_id, Workflow.has_children.is_(False))
            .where(written.c.workflow_id == rows.c.workflow_id, written.c.key == rows.c.step_id)
            .values(has_children=true())
        )


def child_arrays(insert_children: InsertChildren, mark: MarkParents, children: Sequence[NewChild]) -> Arrays:
    """Return the binds of children and of their parents."""
    if not children:
        return {}
    parents = dict.fromkeys(NewParent(each.workflow_id, each.step_id) for each in children)
    return insert_children.arrays(children) | mark.arrays(list(parents))


class StartChildren(Operation[StartedChildren]):
    """Insert some of the children of steps, for current runs; the outcomes of the steps follow."""

    name = "startmany"
    record = StartedChildren
    unsent: ClassVar = frozenset({"epoch", "children"})
    inserts: ClassVar = InsertChildren("children")
    marks: ClassVar = MarkParents("parents")

    @property
    def companions(self) -> Sequence[Companion[Any]]:
        """The writes of the children and of their parents."""
        return (self.inserts, self.marks)

    def arrays(self, records: Sequence[StartedChildren]) -> Arrays:
        """Return the binds, with the binds of the children and of their parents."""
        children = [each for record in records for each in record.children]
        return super().arrays(records) | child_arrays(self.inserts, self.marks, children)

    def payload_size(self, record: StartedChildren) -> int:
        """Return the length of the inputs."""
        return sum(len(each.input) for each in record.children)

    def answer_key(self, record: StartedChildren) -> str:
        """Return the id of the step."""
        return record.step_id

    def can_be_single(self, record: StartedChildren) -> bool:
        """Return False: the statement has further writes."""
        return False

    def _workflow_conditions(self) -> list[ColumnElement[bool]]:
        return [Workflow.cancel_interrupts.is_(None)]

    def statement(self, *, single: bool = False) -> Any:
        """Return the query that locks the parents."""
        held = self.lock_workflows(to_update=True, single=single)
        columns = self.returning(held.c.workflow_id, held.epoch, held.c.step_id)
        return select(*columns).select_from(held.source).where(held.is_current)

    def result_for(self, record: StartedChildren, epoch: int) -> bool:
        """Return True: the children are there."""
        return True

    def resolve_missing(self, record: StartedChildren, current: CurrentState) -> Any:
        """Return the error of a stale run, or the reason to send the record again."""
        if reason := fencing_error(record, current):
            return reason
        return RETRY if current.cancels is None else CancelRequested(current.cancels, None)
