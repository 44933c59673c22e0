"""The operations on messages, with their records: send a message, and receive one in a run that goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from sqlalchemy import Boolean, case, exists, func, literal_column, null, or_, outerjoin, select, true
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql import ColumnElement

from pgqrs.codecs.base import FERNET, STRICT_JSON
from pgqrs.errors import CodecMismatchError, WorkflowFinishedError, WorkflowNotFoundError
from pgqrs.models import Message, Step, Text, Workflow
from pgqrs.storage.queries.delivery import answers, delete_of_children, take
from pgqrs.storage.records import StoredOutcome
from pgqrs.storage.sql.addresses import SEPARATOR
from pgqrs.storage.sql.expressions import ONE, ZERO, json_of, pg, seconds_ago, text_literal, text_of
from pgqrs.storage.writes.operation import (
    RETRY,
    CancelRequested,
    CurrentState,
    Follower,
    Operation,
    RunRecord,
    fencing_error,
)
from pgqrs.storage.writes.steps import Began, may_replace
from pgqrs.types import StepStatus, WorkflowStatus

OVER = (WorkflowStatus.SUCCESS, WorkflowStatus.ERROR, WorkflowStatus.CANCELLED)


class SentMessage(NamedTuple):
    """A record to write: a message to the workflow of an id; `payload` is JSON text.

    A workflow with another token than `token` does not get the message; None stands for any token. `codec` is the
    name of the codec that has written the payload, None for plain JSON that fits any codec. `is_kept` says that
    `key` is the sender's own.
    """

    workflow_id: int
    address: str
    key: str
    is_kept: bool
    payload: str
    codec: str | None
    token: int | None


class ReceivedMessage(NamedTuple):
    """A record to write: the oldest message of one of several addresses becomes the outcome of a step.

    `addresses` has the addresses in one text, with `SEPARATOR` between them. If there is no message, `output` or
    `error`, JSON text, becomes the outcome; without them nothing is written, and the result is None.
    """

    workflow_id: int
    epoch: int
    step_id: str
    addresses: str
    output: str | None
    error: str | None
    began: Began
    fingerprint: int | None
    claim: int = 0


class SendMessages(Operation[SentMessage]):
    """Insert messages to workflows that have not ended; it takes no lock on the workflows."""

    name = "send"
    record = SentMessage
    requeues_last: ClassVar = True  # another transaction may hold its key for a long time

    def payload_size(self, record: SentMessage) -> int:
        """Return the length of the payload."""
        return len(record.payload)

    def conflict_key(self, record: SentMessage) -> str:
        """Return the key of the message."""
        return record.key

    def order_key(self, record: SentMessage) -> str:
        """Return the address with the key: a message delays no record of its receiver."""
        return f"{record.address}{SEPARATOR}{record.key}"

    def answer_key(self, record: SentMessage) -> str:
        """Return the key of the message."""
        return record.key

    @property
    def followers(self) -> Mapping[str, Follower]:
        """The insert of the messages."""
        return {"messages": _insert_messages}

    def statement(self, *, single: bool = False) -> Any:
        """Return the query for the messages that are written; one that is there with its key counts as written.

        The insert follows the query. `DO UPDATE` would lock the message that is there, and hold up its receiver.
        """
        rows = self.rows(ordinality="turn")
        given = self.plain() if single else rows.c
        is_there = exists().where(Message.address == given.address, Message.key == given.key)
        is_live = Workflow.status.not_in([text_literal(status) for status in OVER])
        receivers = select(
            *self.returning(given.workflow_id, ONE, given.key),
            given.address.label("address"),
            given.is_kept.label("is_kept"),
            json_of(given.payload).label("payload"),
            (ONE if single else given.turn).label("turn"),
        ).where(
            Workflow.id == given.workflow_id,
            is_live | is_there,
            func.coalesce(given.token, Workflow.token).is_not_distinct_from(Workflow.token),
            is_readable(given.codec, Workflow.codec),
        )
        if not single:
            return receivers.select_from(rows).join(Workflow, true())
        found = receivers.cte(f"{self.name}_done")
        return select(found.c.epoch).add_cte(_insert_messages(found).cte(f"{self.name}_messages"))

    def answers(self, written: Any) -> Any:
        """Return the messages that are written."""
        return select(written.c.kind, written.c.workflow_id, written.c.key, written.c.epoch)

    def result_for(self, record: SentMessage, epoch: int) -> None:
        """Return None: a message that was sent has no result."""

    def resolve_missing(self, record: SentMessage, current: CurrentState) -> Any:
        """Return the reason why the workflow cannot get the message, else `RETRY`."""
        if current.status is None or record.token not in {None, current.token}:
            return WorkflowNotFoundError(record.workflow_id)
        if current.status in OVER:
            return WorkflowFinishedError(record.workflow_id, str(current.status))
        return unreadable(record, current.codec) or RETRY


def is_readable(written: Any, receiver: Any) -> ColumnElement[bool]:
    """Return the condition that a message of one codec can be read with the codec of its receiver.

    Strict JSON is read with each codec except a sealing one. Plain JSON, with the codec NULL, fits any codec.
    """
    is_sealed = pg.starts_with(func.coalesce(receiver, text_literal("")), text_literal(FERNET), type_=Boolean())
    is_json = written == text_literal(STRICT_JSON)
    return or_(written.is_(None), written == receiver, is_json & ~is_sealed)


def unreadable(sent: SentMessage, receiver: str | None) -> CodecMismatchError | None:
    """Return the error of a message that its receiver cannot read, by the rule of `is_readable`."""
    written = None if sent.codec == STRICT_JSON else sent.codec
    is_read = written == receiver or (written is None and not (receiver or "").startswith(FERNET))
    if sent.codec is None or is_read:
        return None
    return CodecMismatchError(sent.workflow_id, receiver, written)


def _insert_messages(written: Any) -> Any:
    given = written.c
    columns = [Message.workflow_id, Message.address, Message.key, Message.is_kept, Message.payload]
    values = select(given.workflow_id, given.address, given.key, given.is_kept, given.payload)
    # In the order of the records: the ids are the order in which the receiver gets the messages.
    ordered = values.order_by(given.turn)
    return insert(Message).from_select(columns, ordered, include_defaults=False).on_conflict_do_nothing()


def outcome_of(record: RunRecord, current: CurrentState) -> Any:
    """Return the outcome of the step of an unanswered record, or the reason that it has none.

    The reason is an error for a stale run, a requested cancellation, or `RETRY` for a lock.
    """
    if reason := fencing_error(record, current):
        return reason
    is_over = current.step_status == StepStatus.ERROR and current.step_epoch == current.epoch
    if is_over or current.step_status == StepStatus.SUCCESS:
        return StoredOutcome(
            current.step_output, current.step_error, current.step_fingerprint, current.step_address
        )
    return RETRY if current.cancels is None else CancelRequested(current.cancels, None)


class TakeMessages(Operation[ReceivedMessage]):
    """Make the oldest messages of addresses the outcomes of steps, for current runs.

    A record for which there is no message is answered. A record whose step has an outcome now stays unanswered,
    and its result is read from the step. So the statement can be sent twice: the second sending takes no message.
    """

    name = "take"
    record = ReceivedMessage
    unsent: ClassVar = frozenset({"epoch"})  # the row has the epoch of the workflow

    def payload_size(self, record: ReceivedMessage) -> int:
        """Return the length of the outcome of a timeout."""
        return len(record.output or record.error or "")

    def answer_key(self, record: ReceivedMessage) -> str:
        """Return the id of the step."""
        return record.step_id

    def can_be_single(self, record: ReceivedMessage) -> bool:
        """Return False: the statement has further writes."""
        return False

    def _workflow_conditions(self) -> list[ColumnElement[bool]]:
        return [Workflow.cancel_interrupts.is_(None)]

    def result_for(self, record: ReceivedMessage, epoch: int) -> None:
        """Return None: there is no message."""

    def resolve_missing(self, record: ReceivedMessage, current: CurrentState) -> Any:
        """Return the outcome of the step, an error for a stale run, or the reason to send the record again."""
        return outcome_of(record, current)

    def statement(self, *, single: bool = False) -> Any:
        """Return the query for the message of each record, of steps without an outcome; it locks the workflows."""
        held = self.lock_workflows(to_update=False, single=single)
        given = (
            pg.unnest(pg.string_to_array(held.c.addresses, text_literal(SEPARATOR)))
            .table_valued("address")
            .render_derived(name="given")
        )
        address = literal_column("given.address", Text())
        oldest, ended, payload = answers(address)
        answer = (
            select(oldest.c.id, payload.label("payload"), address.label("address"))
            .select_from(outerjoin(outerjoin(given, oldest, true()), ended, true()))
            .where(payload.is_not(None))
            .order_by(oldest.c.id)
            .limit(ONE)
            .lateral("answer")
        )
        outcome = exists().where(
            Step.workflow_id == held.c.workflow_id,
            Step.step_id == held.c.step_id,
            Step.status != text_literal(StepStatus.RUNNING),
            ~Step.reopened,
        )
        columns = self.returning(held.c.workflow_id, held.epoch, held.c.step_id)
        found = select(
            *columns,
            answer.c.id.label("message"),
            answer.c.address,
            case((answer.c.payload.is_not(None), text_of(answer.c.payload)), else_=held.c.output).label("output"),
            case((answer.c.payload.is_(None), held.c.error)).label("error"),
            held.c.elapsed,
            held.c.fingerprint,
        )
        return found.select_from(held.source.outerjoin(answer, true())).where(held.is_current, ~outcome)

    def answers(self, written: Any) -> Any:
        """Return the records for which there is neither a message nor an outcome of a timeout."""
        columns = (written.c.kind, written.c.workflow_id, written.c.key, written.c.epoch)
        return select(*columns).where(func.coalesce(written.c.output, written.c.error).is_(None))

    @property
    def followers(self) -> Mapping[str, Follower]:
        """The writes of the outcomes, and of the messages that were taken."""
        return {
            "outcomes": _record_outcomes,
            "messages": lambda written: take(written.c.message),
            "children": lambda written: delete_of_children(written.c.address),
        }


def _record_outcomes(written: Any) -> Any:
    given = written.c
    output, error = given.output, given.error
    values: dict[str, Any] = {
        "workflow_id": given.workflow_id,
        "step_id": given.key,
        "status": case(
            (output.is_not(None), text_literal(StepStatus.SUCCESS)), else_=text_literal(StepStatus.ERROR)
        ),
        "epoch": given.epoch,
        "started_at": seconds_ago(given.elapsed),
        "completed_at": func.now(),
        "output": json_of(output),
        "error": json_of(error),
        "fingerprint": given.fingerprint,
        "address": given.address,
    }
    outcomes = select(*values.values()).where(func.coalesce(output, error).is_not(None))
    statement = insert(Step).from_select(list(values), outcomes, include_defaults=False)
    replaced = {
        key: statement.excluded[key] for key in values if key not in {"workflow_id", "step_id", "started_at"}
    }
    return statement.on_conflict_do_update(
        index_elements=[Step.workflow_id, Step.step_id],
        set_=replaced | {"reopened": literal_column("false"), "failures": ZERO, "retry_at": null()},
        # A copy of the statement that commits late keeps the error that the run has recorded since.
        where=may_replace(statement.excluded),
    )
