"""The waits of steps for messages, recorded by the statement that parks their workflow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import case, func, literal_column, not_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql import ColumnElement

from pgqrs.models import Step, Wait
from pgqrs.storage.sql.expressions import ZERO, json_of, seconds_ago, seconds_from_now, text_literal
from pgqrs.storage.writes.columns import Arrays
from pgqrs.storage.writes.operation import Companion
from pgqrs.storage.writes.steps import Began
from pgqrs.types import StepStatus

_FALSE: ColumnElement[bool] = literal_column("false")


class WaitingStep(NamedTuple):
    """A step that waits, recorded as RUNNING so that its timeout survives; `seconds` are left of the timeout.

    One of `output` and `error`, JSON text, becomes the outcome of the step at the timeout, or at once with
    `is_over`. `claim` is the token of the run.
    """

    workflow_id: int
    step_id: str
    output: str | None
    error: str | None
    began: Began
    fingerprint: int | None
    seconds: float | None
    is_over: bool = False
    claim: int = 0


class AwaitedAddress(NamedTuple):
    """An address for which a step of a parked workflow waits; `claim` is the token of the run that has parked."""

    workflow_id: int
    step_id: str
    address: str
    claim: int


class ParkSteps(Companion[WaitingStep]):
    """Record the steps that wait, of the workflows that the same statement parks."""

    name = "waiting"
    record = WaitingStep

    def statement_after(self, written: Any) -> Any:
        """Return the insert; it keeps the timeout of a step that an earlier run has recorded."""
        rows = self.rows()
        given = rows.c
        values: dict[str, Any] = {
            "workflow_id": given.workflow_id,
            "step_id": given.step_id,
            "status": case(
                (given.is_over, text_literal(StepStatus.SUCCESS)), else_=text_literal(StepStatus.RUNNING)
            ),
            "epoch": written.c.epoch,
            "started_at": seconds_ago(given.elapsed),
            "completed_at": case((given.is_over, func.now())),
            "output": json_of(given.output),
            "error": json_of(given.error),
            "fingerprint": given.fingerprint,
            "retry_at": seconds_from_now(given.seconds),
        }
        parked = (
            select(*values.values())
            .join_from(rows, written, written.c.workflow_id == given.workflow_id)
            .where(written.c.epoch > ZERO)
            .order_by(given.workflow_id, given.step_id)
        )
        statement = insert(Step).from_select(list(values), parked, include_defaults=False)
        excluded = statement.excluded
        kept = ("workflow_id", "step_id", "started_at", "retry_at")
        replaced = {key: excluded[key] for key in values if key not in kept}
        earlier = case((not_(Step.reopened), Step.retry_at))
        return statement.on_conflict_do_update(
            index_elements=[Step.workflow_id, Step.step_id],
            set_=replaced
            | {"retry_at": func.coalesce(earlier, excluded.retry_at), "reopened": _FALSE, "failures": ZERO},
            where=(Step.status == text_literal(StepStatus.RUNNING)) | Step.reopened,
        )


class AwaitMessages(Companion[AwaitedAddress]):
    """Record the addresses for which the workflows wait that the same statement parks."""

    name = "awaited"
    record = AwaitedAddress

    def statement_after(self, written: Any) -> Any:
        """Return the insert."""
        rows = self.rows()
        awaited = (
            select(rows.c.workflow_id, rows.c.step_id, rows.c.address, rows.c.claim)
            .join_from(rows, written, written.c.workflow_id == rows.c.workflow_id)
            .where(written.c.epoch > ZERO)
            .order_by(rows.c.workflow_id, rows.c.step_id, rows.c.address)
        )
        columns = [Wait.workflow_id, Wait.step_id, Wait.address, Wait.claim]
        return insert(Wait).from_select(columns, awaited, include_defaults=False)


PARK_STEPS = ParkSteps()

AWAIT_MESSAGES = AwaitMessages()


class StepWait(NamedTuple):
    """A step that waits, and the addresses whose messages answer it."""

    step: WaitingStep
    addresses: tuple[str, ...]


def wait_arrays(waits: Sequence[StepWait]) -> Arrays:
    """Return the binds of the steps that wait, and of their addresses."""
    if not waits:
        return {}
    arrays = PARK_STEPS.arrays([each.step for each in waits])
    addresses = [
        AwaitedAddress(each.step.workflow_id, each.step.step_id, address, each.step.claim)
        for each in waits
        for address in each.addresses
    ]
    return arrays | (AWAIT_MESSAGES.arrays(addresses) if addresses else {})
