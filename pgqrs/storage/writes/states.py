"""The operation that records a step together with the values of its state, in one statement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from sqlalchemy import BigInteger, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql import ColumnElement

from pgqrs.models import State, Workflow
from pgqrs.storage.sql.expressions import ONE, json_of, pg
from pgqrs.storage.writes.columns import Arrays, CallerColumns
from pgqrs.storage.writes.operation import Companion
from pgqrs.storage.writes.steps import Began, RecordLastStep, StepOutcome


class StateChange(NamedTuple):
    """A value that a step sets in the state of its partition key, JSON text; None deletes it.

    The owner of the state, the name and the partition key of the workflow, is read from the workflow's row.
    """

    workflow_id: int
    step_id: str
    name: str
    value: str | None
    codec: str | None


class StatefulOutcome(NamedTuple):
    """A record to write: the outcome of a step, as in `StepOutcome`, with the changes of the state."""

    workflow_id: int
    epoch: int
    step_id: str
    output: str | None
    error: str | None
    began: Began
    fingerprint: int | None
    claim: int
    states: tuple[StateChange, ...]


class ChangeStates(Companion[StateChange]):
    """Change the states of the steps that the same statement records; the last change of a value counts."""

    name = "states"
    record = StateChange

    def statement_after(self, written: Any) -> Any:
        """Return the insert."""
        rows = self.rows(ordinality="number")
        is_recorded = (written.c.workflow_id == rows.c.workflow_id) & (written.c.key == rows.c.step_id)
        return self._changed(rows, rows.join(written, is_recorded))

    def _changed(self, rows: Any, source: Any) -> Any:
        """Return the insert of the new values, with the deletion of the other ones."""
        owner = (Workflow.name, Workflow.partition_key, rows.c.name)
        age = pg.row_number(type_=BigInteger()).over(partition_by=owner, order_by=rows.c.number.desc())
        changes = (
            select(
                Workflow.name.label("workflow"),
                Workflow.partition_key,
                rows.c.name,
                rows.c.value,
                rows.c.codec,
                age.label("age"),
            )
            .select_from(source.join(Workflow, Workflow.id == rows.c.workflow_id))
            .where(Workflow.partition_key.is_not(None))
            .subquery("changes")
        )
        newest = select(changes).where(changes.c.age == ONE).cte("states_newest")
        is_deleted = newest.c.value.is_(None)
        same = (
            State.workflow == newest.c.workflow,
            State.partition_key == newest.c.partition_key,
            State.name == newest.c.name,
        )
        deleted = delete(State).where(*same, is_deleted).cte("states_deleted")
        values: dict[str, ColumnElement[Any]] = {
            "workflow": newest.c.workflow,
            "partition_key": newest.c.partition_key,
            "name": newest.c.name,
            "value": json_of(newest.c.value),
            "codec": newest.c.codec,
            "set_at": func.now(),
        }
        # In the order of the keys, so that two statements do not wait for each other in a circle.
        key = (newest.c.workflow, newest.c.partition_key, newest.c.name)
        new = select(*values.values()).where(~is_deleted).order_by(*key)
        statement = insert(State).from_select(list(values), new, include_defaults=False)
        replaced = {each: statement.excluded[each] for each in ("value", "codec", "set_at")}
        return statement.on_conflict_do_update(
            index_elements=[State.workflow, State.partition_key, State.name], set_=replaced
        ).add_cte(deleted)


class CallerChangeStates(CallerColumns[StateChange], ChangeStates):
    """Change the state within a transactional step, before the outcome, which fences the changes."""

    def statement(self) -> Any:
        """Return the insert."""
        rows = self.rows(ordinality="number")
        return self._changed(rows, rows)


CHANGE_STATES = ChangeStates()

CALLER_CHANGE_STATES = CallerChangeStates()


class RecordStatefulStep(RecordLastStep):
    """Record the outcomes of steps with the changes of their states, for current runs.

    It does so also if the workflow is to be cancelled, as the outcome of any step is recorded in the end: two
    statements for the two cases could change one value at once. The next record of the run hears the cancellation.
    """

    name = "stateful"
    record = StatefulOutcome  # type: ignore[assignment]  # the same fields, and more
    unsent: ClassVar = frozenset({"epoch", "states"})

    def _now(self) -> ColumnElement[Any]:
        return func.now()

    @property
    def companions(self) -> Sequence[Companion[Any]]:
        """The write of the states."""
        return (CHANGE_STATES,)

    def arrays(self, records: Sequence[Any]) -> Arrays:
        """Return the binds, with the binds of the changes."""
        return super().arrays(records) | CHANGE_STATES.arrays([each for one in records for each in one.states])

    def payload_size(self, record: Any) -> int:
        """Return the length of the outcome and of the values."""
        return super().payload_size(record) + sum(len(each.value or "") for each in record.states)

    def conflict_key(self, record: Any) -> Any:
        """Return None: a workflow has one such record in a batch, so the order of its changes is kept."""
        return None

    def can_be_single(self, record: StepOutcome) -> bool:
        """Return False: the statement has a further write."""
        return False
