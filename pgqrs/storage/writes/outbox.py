"""The operations that record a step together with its messages, its replies, its events and its children."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from sqlalchemy import case, cast, exists, func, literal_column, null, select, true, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased
from sqlalchemy.sql import ColumnElement

from pgqrs.models import Event, Message, Step, Text, Workflow
from pgqrs.storage.records import StoredOutcome
from pgqrs.storage.sql.expressions import (
    ONE,
    ZERO,
    is_found,
    json_of,
    number_literal,
    seconds_ago,
    text_literal,
)
from pgqrs.storage.writes.attributes import SetAttributes, WrittenAttributes
from pgqrs.storage.writes.children import ChildWrites, NewChild
from pgqrs.storage.writes.columns import Arrays
from pgqrs.storage.writes.messages import OVER, is_readable, outcome_of
from pgqrs.storage.writes.operation import (
    RETRY,
    CancelRequested,
    Companion,
    CurrentState,
    Follower,
    Operation,
)
from pgqrs.storage.writes.steps import Began, RecordStep, StepOutcome, may_replace
from pgqrs.types import StepStatus

REFUSED = 0
"""The epoch in the answer of a message that its receiver cannot get; no run has it."""


class OutgoingMessage(NamedTuple):
    """A record to write: the outcome of a step together with the message that the step sends.

    `receiver` is the id of a workflow. `codec` is as for a `SentMessage`, and `is_kept` says that `key` is the
    sender's own.
    """

    workflow_id: int
    epoch: int
    step_id: str
    output: str
    began: Began
    claim: int
    receiver: int
    address: str
    key: str
    is_kept: bool
    payload: str
    codec: str | None


class SentReply(NamedTuple):
    """A reply of a step to a request to its own workflow; `key` is the key of the request, `payload` JSON text.

    `is_kept` says that the key is the caller's own: the reply is then kept as long as the workflow.
    """

    workflow_id: int
    step_id: str
    address: str
    key: str
    is_kept: bool
    payload: str


class SetEvent(NamedTuple):
    """An event of its own workflow that a step sets to a value, JSON text."""

    workflow_id: int
    step_id: str
    name: str
    value: str


class SendingStep(NamedTuple):
    """A record to write: the outcome of a step with its events, its children, its replies and its attributes."""

    workflow_id: int
    epoch: int
    step_id: str
    output: str | None
    error: str | None
    began: Began
    fingerprint: int | None
    claim: int
    events: tuple[SetEvent, ...] = ()
    children: tuple[NewChild, ...] = ()
    replies: tuple[SentReply, ...] = ()
    attributes: WrittenAttributes | None = None


class EmittedEvent(NamedTuple):
    """A record to write: an event of the schema; `payload` is JSON text. No workflow has the id 0."""

    address: str
    payload: str
    workflow_id: int = 0


class InsertReplies(Companion[SentReply]):
    """Insert the replies of the steps that the same statement records; the first reply to a request stays."""

    name = "replies"
    record = SentReply

    def statement_after(self, written: Any) -> Any:
        """Return the insert; no workflow receives a reply, so it counts as taken."""
        rows = self.rows()
        taken: Any = (literal_column("false"), func.now())
        sent = (
            select(rows.c.workflow_id, rows.c.address, rows.c.key, rows.c.is_kept, json_of(rows.c.payload), *taken)
            .join_from(
                rows, written, (written.c.workflow_id == rows.c.workflow_id) & (written.c.key == rows.c.step_id)
            )
            .order_by(rows.c.address, rows.c.key)
        )
        columns = [Message.workflow_id, Message.address, Message.key, Message.is_kept, Message.payload]
        written_to = [*columns, Message.is_new, Message.taken_at]
        return insert(Message).from_select(written_to, sent, include_defaults=False).on_conflict_do_nothing()


class SetEvents(Companion[SetEvent]):
    """Set the events of the steps that the same statement records; the newest value replaces the older one."""

    name = "events"
    record = SetEvent

    def statement_after(self, written: Any) -> Any:
        """Return the insert."""
        rows = self.rows()
        values = (
            select(rows.c.workflow_id, rows.c.name, json_of(rows.c.value), func.now())
            .join_from(
                rows, written, (written.c.workflow_id == rows.c.workflow_id) & (written.c.key == rows.c.step_id)
            )
            .order_by(rows.c.workflow_id, rows.c.name)
        )
        columns = [Event.workflow_id, Event.name, Event.value, Event.set_at]
        statement = insert(Event).from_select(columns, values, include_defaults=False)
        return statement.on_conflict_do_update(
            index_elements=[Event.workflow_id, Event.name],
            set_={"value": statement.excluded.value, "set_at": statement.excluded.set_at},
        )


INSERT_REPLIES = InsertReplies()

SET_EVENTS = SetEvents()

SET_ATTRIBUTES = SetAttributes("attributes")


class RecordSendingStep(RecordStep):
    """Record the outcomes of steps with their replies, events, attributes and children, for current runs."""

    name = "sending"
    record = SendingStep  # type: ignore[assignment]  # the same fields, and more
    unsent: ClassVar = frozenset({"epoch", "events", "children", "replies", "attributes"})
    last_record = None
    writes: ClassVar = ChildWrites("child", "parent")

    @property
    def companions(self) -> Sequence[Companion[Any]]:
        """The writes of the replies, of the events, of the attributes and of the children."""
        return (INSERT_REPLIES, SET_EVENTS, SET_ATTRIBUTES, *self.writes.all)

    def arrays(self, records: Sequence[Any]) -> Arrays:
        """Return the binds, with the binds of the further writes."""
        arrays = super().arrays(records)
        if replies := [each for record in records for each in record.replies]:
            arrays |= INSERT_REPLIES.arrays(replies)
        if events := [each for record in records for each in record.events]:
            arrays |= SET_EVENTS.arrays(events)
        if attributes := [record.attributes for record in records if record.attributes is not None]:
            arrays |= SET_ATTRIBUTES.arrays(attributes)
        children = [each for record in records for each in record.children]
        return arrays | self.writes.arrays(children)

    def payload_size(self, record: Any) -> int:
        """Return the length of the replies and values of events, and of the inputs of the children."""
        sent = sum(len(each.payload) for each in record.replies)
        started = sum(len(each.input) for each in record.children)
        described = len(record.attributes.attributes) if record.attributes else 0
        events = sum(len(each.value) for each in record.events)
        return super().payload_size(record) + sent + started + events + described

    def conflict_key(self, record: Any) -> Any:
        """Return None: a workflow has one such record in a batch, so the order of its events is kept."""
        return None

    def can_be_single(self, record: StepOutcome) -> bool:
        """Return False: the statement has further writes."""
        return False

    def _workflow_conditions(self) -> list[ColumnElement[bool]]:
        return [Workflow.cancel_interrupts.is_(None)]

    def _blocked(self, record: StepOutcome, current: CurrentState) -> Any:
        return RETRY if current.cancels is None else CancelRequested(current.cancels, None)


class SendFromSteps(Operation[OutgoingMessage]):
    """Record steps together with the messages that they send, for current runs.

    A message is sent if its receiver exists, has not ended and reads its codec; a message that is there with its
    key counts as sent. If not, nothing is written, and the record is answered with the epoch `REFUSED`. No
    receiver is locked, so its writes never wait for a sender; one that ends at the same moment may leave the
    message unread. A record whose step has an outcome stays unanswered, as by `TakeMessages`: the statement can
    be sent twice.
    """

    name = "outgoing"
    record = OutgoingMessage
    unsent: ClassVar = frozenset({"epoch"})  # the row has the epoch of the workflow

    def payload_size(self, record: OutgoingMessage) -> int:
        """Return the length of the payload."""
        return len(record.payload)

    def answer_key(self, record: OutgoingMessage) -> str:
        """Return the id of the step."""
        return record.step_id

    def can_be_single(self, record: OutgoingMessage) -> bool:
        """Return False: the statement has further writes."""
        return False

    def _workflow_conditions(self) -> list[ColumnElement[bool]]:
        return [Workflow.cancel_interrupts.is_(None)]

    def result_for(self, record: OutgoingMessage, epoch: int) -> StoredOutcome | bool:
        """Return the outcome as it was sent; False for a message that its receiver cannot get."""
        return StoredOutcome(record.output, None, None) if epoch != REFUSED else False

    def resolve_missing(self, record: OutgoingMessage, current: CurrentState) -> Any:
        """Return the outcome of the step, an error for a stale run, or the reason to send the record again."""
        return outcome_of(record, current)

    def statement(self, *, single: bool = False) -> Any:
        """Return the query for the steps without an outcome, each with its message; it locks the senders."""
        held = self.lock_workflows(to_update=False, single=single)
        given = held.c
        epoch = case((_accepts(given), held.epoch), else_=number_literal(REFUSED))
        message = (given.receiver, given.address, given.key.label("message_key"), given.is_kept, given.payload)
        columns = (*self.returning(held.workflow_id, epoch, given.step_id), given.output, given.elapsed, *message)
        outcome = exists().where(
            Step.workflow_id == held.workflow_id,
            Step.step_id == given.step_id,
            Step.status != text_literal(StepStatus.RUNNING),
            ~Step.reopened,
        )
        return select(*columns).select_from(held.source).where(held.is_current, ~outcome)

    def answers(self, written: Any) -> Any:
        """Return the records that are written, and the refused ones."""
        return select(written.c.kind, written.c.workflow_id, written.c.key, written.c.epoch)

    @property
    def followers(self) -> Mapping[str, Follower]:
        """The write of the messages, which has the write of the outcomes in it."""
        return {"messages": _insert_sent}


def _accepts(given: Any) -> ColumnElement[bool]:
    """Return the condition that a message is sent; one that is there with its key counts as sent."""
    receiver, message = aliased(Workflow, name="receiver"), aliased(Message, name="sent")
    is_there = select(ONE).where(message.address == given.address, message.key == given.key)
    is_live = receiver.status.not_in([text_literal(status) for status in OVER])
    own = select(ONE).where(
        receiver.id == given.receiver,
        is_live | is_found(is_there, message),
        is_readable(given.codec, receiver.codec),
    )
    return is_found(own, receiver)


def _record_sent(written: Any) -> Any:
    given = written.c
    values: dict[str, Any] = {
        "workflow_id": given.workflow_id,
        "step_id": given.key,
        "status": text_literal(StepStatus.SUCCESS),
        "epoch": given.epoch,
        "started_at": seconds_ago(given.elapsed),
        "completed_at": func.now(),
        "output": json_of(given.output),
    }
    outcomes = select(*values.values()).where(given.epoch != number_literal(REFUSED))
    statement = insert(Step).from_select(list(values), outcomes, include_defaults=False)
    replaced = {
        key: statement.excluded[key] for key in values if key not in {"workflow_id", "step_id", "started_at"}
    }
    cleared: dict[str, Any] = {
        "error": null(),
        "failures": ZERO,
        "retry_at": null(),
        "reopened": literal_column("false"),
    }
    return statement.on_conflict_do_update(
        index_elements=[Step.workflow_id, Step.step_id],
        set_=replaced | cleared,
        where=may_replace(statement.excluded),
    ).returning(Step.workflow_id, Step.step_id)


def _insert_sent(written: Any) -> Any:
    """Return the insert, for the outcomes that are written: a copy of the statement may commit after a refusal.

    A message whose key an earlier one has is not inserted.
    """
    given = written.c
    recorded = _record_sent(written).cte("outgoing_outcomes").c
    columns = [Message.workflow_id, Message.address, Message.key, Message.is_kept, Message.payload]
    values = select(given.receiver, given.address, given.message_key, given.is_kept, json_of(given.payload))
    is_recorded = tuple_(given.workflow_id, given.key).in_(select(recorded.workflow_id, recorded.step_id))
    # `IS TRUE` makes the planner hash the outcomes: it expects one, and would search all of them for each message.
    own = values.where(is_recorded.is_(true()))
    # In the order of the keys, so that two statements of these records do not wait for each other in a circle.
    ordered = own.order_by(given.address, given.message_key)
    return insert(Message).from_select(columns, ordered, include_defaults=False).on_conflict_do_nothing()


class EmitEvents(Operation[EmittedEvent]):
    """Insert events of the schema; the first value of an event stays."""

    name = "emit"
    record = EmittedEvent
    requeues_last: ClassVar = True  # another transaction may hold its name for a long time

    def payload_size(self, record: EmittedEvent) -> int:
        """Return the length of the payload."""
        return len(record.payload)

    def conflict_key(self, record: EmittedEvent) -> str:
        """Return the address of the event."""
        return record.address

    def order_key(self, record: EmittedEvent) -> str:
        """Return the address: an event delays no other event."""
        return record.address

    def answer_key(self, record: EmittedEvent) -> str:
        """Return the address of the event."""
        return record.address

    def statement(self, *, single: bool = False) -> Any:
        """Return the insert, which answers an event that has the value now."""
        given = self.plain() if single else self.rows().c
        order = () if single else (given.address,)
        events = select(given.address, text_literal(""), json_of(given.payload)).order_by(*order)
        columns = [Message.address, Message.key, Message.payload]
        statement = insert(Message).from_select(columns, events, include_defaults=False)
        same = cast(Message.payload, Text()) == cast(statement.excluded.payload, Text())
        return statement.on_conflict_do_update(
            index_elements=[Message.address, Message.key], set_={"key": statement.excluded.key}, where=same
        ).returning(*self.returning(ZERO, ONE, Message.address, single=single))

    def result_for(self, record: EmittedEvent, epoch: int) -> bool:
        """Return True: the event has this value."""
        return True

    def resolve_missing(self, record: EmittedEvent, current: CurrentState) -> bool:
        """Return False: the event has another value."""
        return False
