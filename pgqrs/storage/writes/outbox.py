"""The operations that record a step together with its messages, its replies, its events and its children."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from sqlalchemy import cast, func, literal_column, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql import ColumnElement

from pgqrs.models import Event, Message, Text, Workflow
from pgqrs.storage.sql.expressions import ONE, ZERO, json_of, text_literal
from pgqrs.storage.writes.children import InsertChildren, MarkParents, NewChild, child_arrays
from pgqrs.storage.writes.columns import Arrays
from pgqrs.storage.writes.operation import RETRY, CancelRequested, Companion, CurrentState, Operation
from pgqrs.storage.writes.steps import Began, RecordStep, StepOutcome


class OutgoingMessage(NamedTuple):
    """A message that a step sends; `receiver` is the id of a workflow, None for an address of no workflow.

    `workflow_id` and `step_id` name the step. `is_kept` says that `key` is the sender's own.
    """

    workflow_id: int
    step_id: str
    receiver: int | None
    address: str
    key: str
    is_kept: bool
    payload: str


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
    """A record to write: the outcome of a step with its messages, its events, its children and its replies."""

    workflow_id: int
    epoch: int
    step_id: str
    output: str | None
    error: str | None
    began: Began
    fingerprint: int | None
    claim: int
    messages: tuple[OutgoingMessage, ...] = ()
    events: tuple[SetEvent, ...] = ()
    children: tuple[NewChild, ...] = ()
    replies: tuple[SentReply, ...] = ()


class EmittedEvent(NamedTuple):
    """A record to write: an event of the schema; `payload` is JSON text. No workflow has the id 0."""

    address: str
    payload: str
    workflow_id: int = 0


class InsertMessages(Companion[OutgoingMessage]):
    """Insert the messages of the steps that the same statement records."""

    name = "outgoing"
    record = OutgoingMessage

    def statement_after(self, written: Any) -> Any:
        """Return the insert; a message whose key an earlier one has is not inserted."""
        rows = self.rows()
        sent = (
            select(rows.c.receiver, rows.c.address, rows.c.key, rows.c.is_kept, json_of(rows.c.payload))
            .join_from(
                rows, written, (written.c.workflow_id == rows.c.workflow_id) & (written.c.key == rows.c.step_id)
            )
            .order_by(rows.c.address, rows.c.key)
        )
        columns = [Message.workflow_id, Message.address, Message.key, Message.is_kept, Message.payload]
        return insert(Message).from_select(columns, sent, include_defaults=False).on_conflict_do_nothing()


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


INSERT_MESSAGES = InsertMessages()

INSERT_REPLIES = InsertReplies()

SET_EVENTS = SetEvents()


class RecordSendingStep(RecordStep):
    """Record the outcomes of steps with their messages, replies, events and children, for current runs."""

    name = "sending"
    record = SendingStep  # type: ignore[assignment]  # the same fields, and more
    unsent: ClassVar = frozenset({"epoch", "messages", "events", "children", "replies"})
    last_record = None
    inserts: ClassVar = InsertChildren("child")
    marks: ClassVar = MarkParents("parent")

    @property
    def companions(self) -> Sequence[Companion[Any]]:
        """The writes of the messages, of the replies, of the events and of the children."""
        return (INSERT_MESSAGES, INSERT_REPLIES, SET_EVENTS, self.inserts, self.marks)

    def arrays(self, records: Sequence[Any]) -> Arrays:
        """Return the binds, with the binds of the messages, of the replies, of the events and of the children."""
        arrays = super().arrays(records)
        if messages := [each for record in records for each in record.messages]:
            arrays |= INSERT_MESSAGES.arrays(messages)
        if replies := [each for record in records for each in record.replies]:
            arrays |= INSERT_REPLIES.arrays(replies)
        if events := [each for record in records for each in record.events]:
            arrays |= SET_EVENTS.arrays(events)
        children = [each for record in records for each in record.children]
        return arrays | child_arrays(self.inserts, self.marks, children)

    def payload_size(self, record: Any) -> int:
        """Return the length of the messages, replies and values of events, and of the inputs of the children."""
        sent = sum(len(each.payload) for each in (*record.messages, *record.replies))
        started = sum(len(each.input) for each in record.children)
        return super().payload_size(record) + sent + started + sum(len(each.value) for each in record.events)

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
