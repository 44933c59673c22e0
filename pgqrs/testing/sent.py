"""Assertions on messages that were sent to workflows, and on events of the schema that were emitted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pgqrs.client.admin import Admin
from pgqrs.client.handle import WorkflowHandle
from pgqrs.codecs.base import Codec
from pgqrs.codecs.messages import decode_emitted, encode_emitted, message_codec
from pgqrs.codecs.records import ValueContext
from pgqrs.errors import SerializationError
from pgqrs.storage.connections.caller import SessionOrConnection
from pgqrs.storage.sql.addresses import event_address
from pgqrs.storage.sql.connection import Connection
from pgqrs.testing import sql as testbed
from pgqrs.testing.comparison import Recorded
from pgqrs.types import Unreadable
from pgqrs.workflow.messaging.messages import Topic, as_topic

T = TypeVar("T")

SHOWN = 20
"""Maximum messages or events that an error lists."""


class Anything:
    """The type of `ANYTHING`, which stands for any value."""

    def __repr__(self) -> str:
        return "..."


ANYTHING: Final = Anything()
"""The value in an assertion that any value matches."""


@dataclass(frozen=True, slots=True)
class SentRecord:
    """A message to a workflow.

    Attributes:
        workflow_id: The id of the receiver.
        topic: The name of the topic.
        value: The value, decoded by the type of the topic if one was passed.
        key: The idempotency key of the sender; None for a message without a key.
        is_received: True if the workflow has received the message.
    """

    workflow_id: int
    topic: str
    value: Any
    key: str | None
    is_received: bool

    def __str__(self) -> str:
        key = "" if self.key is None else f", key {self.key!r}"
        return f"to workflow {self.workflow_id}, topic {self.topic!r}{key}: {self.value!r}"


async def assert_sent(
    admin: Admin,
    receiver: int | WorkflowHandle[Any] | None = None,
    topic: Topic[T] | str | None = None,
    value: T | Anything = ANYTHING,
    *,
    key: str | None = None,
    count: int | None = None,
    session: SessionOrConnection | None = None,
) -> SentRecord:
    """Assert that a message was sent to a workflow, and return the newest match.

    Messages that were received count, too. Values are compared as they are stored, with the type of the topic.

    Args:
        admin: The client of the database.
        receiver: The id or the handle of the workflow; any workflow by default.
        topic: The topic, or its name for values of any type; any topic by default.
        value: The value of the message; any value by default.
        key: The idempotency key of the message; any key, or none, by default.
        count: The number of messages that match; at least one by default.
        session: The session of an open transaction, whose messages count, too.

    Returns:
        The newest matching message.

    Raises:
        AssertionError: No message matches, or another number of messages; the error lists the messages.
        SerializationError: The codec cannot encode the value.
        SessionError: The session cannot be used.
        ValueError: `count` is less than 1; use `assert_not_sent`.
    """
    if count is not None and count < 1:
        raise ValueError(f"`count` must be at least 1, got {count}; use `assert_not_sent`.")
    wanted = _Wanted(admin.codec, receiver, topic, value, key)
    sent = await _sent(admin, session)
    found = wanted.matches(sent)
    if not found:
        raise AssertionError(f"{wanted} was not sent; {_listed('message', wanted.records(sent))}")
    if count is not None and len(found) != count:
        times = "once" if len(found) == 1 else f"{len(found)} times"
        raise AssertionError(
            f"{wanted} was sent {times}, not {count} times; {_listed('message', wanted.records(sent))}"
        )
    return found[-1]


async def assert_not_sent(
    admin: Admin,
    receiver: int | WorkflowHandle[Any] | None = None,
    topic: Topic[T] | str | None = None,
    value: T | Anything = ANYTHING,
    *,
    key: str | None = None,
    session: SessionOrConnection | None = None,
) -> None:
    """Assert that no message was sent that matches; the arguments are those of `assert_sent`.

    Args:
        admin: The client of the database.
        receiver: The id or the handle of the workflow; any workflow by default.
        topic: The topic, or its name for values of any type; any topic by default.
        value: The value of the message; any value by default.
        key: The idempotency key of the message; any key, or none, by default.
        session: The session of an open transaction, whose messages count, too.

    Raises:
        AssertionError: A message matches; the error lists the matching messages.
        SerializationError: The codec cannot encode the value.
        SessionError: The session cannot be used.
    """
    wanted = _Wanted(admin.codec, receiver, topic, value, key)
    if found := wanted.matches(await _sent(admin, session)):
        raise AssertionError(f"{wanted} was sent; {_listed('message', found)}")


async def assert_emitted(
    admin: Admin, name: str, value: object = ANYTHING, *, session: SessionOrConnection | None = None
) -> Any:
    """Assert that an event of the schema was emitted, as by `Admin.emit`, and return its value.

    Args:
        admin: The client of the database.
        name: The name of the event.
        value: The value of the event; any value by default.
        session: The session of an open transaction, whose events count, too.

    Returns:
        The value of the event.

    Raises:
        AssertionError: The event was not emitted, or with another value; the error lists the events.
        SerializationError: The codec cannot encode the value, or cannot decode the event.
        SessionError: The session cannot be used.
    """
    events = await _emitted(admin, session)
    if name not in events:
        shown = [f"{each!r}: {_event(admin.codec, each, text)!r}" for each, text in events.items()]
        raise AssertionError(f"the event {name!r} was not emitted; {_listed('event', shown)}")
    address = event_address(name)
    found = decode_emitted(admin.codec, address, events[name])
    if not isinstance(value, Anything):
        expected = decode_emitted(admin.codec, address, encode_emitted(admin.codec, address, value))
        if found != expected:
            raise AssertionError(f"the event {name!r} was emitted with the value {found!r}, not {expected!r}.")
    return found


async def assert_not_emitted(admin: Admin, name: str, *, session: SessionOrConnection | None = None) -> None:
    """Assert that an event of the schema was not emitted.

    Args:
        admin: The client of the database.
        name: The name of the event.
        session: The session of an open transaction, whose events count, too.

    Raises:
        AssertionError: The event was emitted; the error has its value.
        SessionError: The session cannot be used.
    """
    text = (await _emitted(admin, session)).get(name)
    if text is not None:
        raise AssertionError(f"the event {name!r} was emitted with the value {_event(admin.codec, name, text)!r}.")


class _Wanted:
    """The message that an assertion looks for."""

    def __init__(
        self,
        codec: Codec,
        receiver: int | WorkflowHandle[Any] | None,
        topic: Topic[Any] | str | None,
        value: object,
        key: str | None,
    ) -> None:
        self._codec = codec
        self._receiver = receiver.id if isinstance(receiver, WorkflowHandle) else receiver
        self._topic = None if topic is None else as_topic(topic)
        self._value = value
        self._key = key

    def __str__(self) -> str:
        topic = "" if self._topic is None else f" of the topic {self._topic.name!r}"
        receiver = "" if self._receiver is None else f" to workflow {self._receiver}"
        value = "" if isinstance(self._value, Anything) else f" with the value {self._value!r}"
        key = "" if self._key is None else f" of the key {self._key!r}"
        return f"a message{topic}{receiver}{value}{key}"

    def matches(self, sent: Sequence[testbed.StoredMessage]) -> list[SentRecord]:
        """Return the messages that match, the oldest first."""
        return self.records([each for each in sent if self._is_met_by(each)])

    def records(self, sent: Sequence[testbed.StoredMessage]) -> list[SentRecord]:
        """Return messages with their values."""
        return [
            SentRecord(each.workflow_id, each.topic, self._value_of(each), each.key, each.is_received)
            for each in sent
        ]

    def _is_met_by(self, sent: testbed.StoredMessage) -> bool:
        return (
            self._receiver in {None, sent.workflow_id}
            and (self._topic is None or self._topic.name == sent.topic)
            and self._key in {None, sent.key}
            and (isinstance(self._value, Anything) or self._has_value(sent))
        )

    def _has_value(self, sent: testbed.StoredMessage) -> bool:
        codec = self._codec_of(sent)
        with ValueContext(sent.workflow_id):
            expected = codec.encode(self._value).text
        try:
            return self._recorded(sent, expected).equals(self._recorded(sent, sent.payload))
        except SerializationError:  # written with another codec or for another type
            return False

    def _recorded(self, sent: testbed.StoredMessage, text: str) -> Recorded:
        plain = Topic[Any](sent.topic, is_plain=self._topic is not None and self._topic.is_plain)
        with ValueContext(sent.workflow_id):
            return Recorded(
                self._codec_of(sent).decode(text), plain.codec(self._codec, sent.workflow_id).decode(text)
            )

    def _codec_of(self, sent: testbed.StoredMessage) -> Codec:
        if self._topic is not None and self._topic.name == sent.topic:
            return self._topic.codec(self._codec, sent.workflow_id)
        return message_codec(self._codec, sent.address)

    def _value_of(self, sent: testbed.StoredMessage) -> Any:
        try:
            with ValueContext(sent.workflow_id):
                return self._codec_of(sent).decode(sent.payload)
        except SerializationError as error:
            return Unreadable(str(error))


async def _sent(admin: Admin, session: SessionOrConnection | None) -> list[testbed.StoredMessage]:
    return await _read(admin, testbed.sent_messages, session)


async def _emitted(admin: Admin, session: SessionOrConnection | None) -> dict[str, str]:
    return await _read(admin, testbed.emitted_events, session)


async def _read(
    admin: Admin, read: Callable[[Connection], Awaitable[T]], session: SessionOrConnection | None
) -> T:
    """Read in the caller's transaction if there is a session."""
    store = await admin.store()
    if session is None:
        return await store.database.run_with_retries(read)
    return await read(await store.sessions.callers.bind(session))


def _event(codec: Codec, name: str, text: str) -> Any:
    try:
        return decode_emitted(codec, event_address(name), text)
    except SerializationError as error:
        return Unreadable(str(error))


def _listed(kind: str, found: Sequence[object]) -> str:
    """Return a list of messages or events, the newest first."""
    if not found:
        return f"there is no {kind}."
    more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return "\n    ".join(["there are:", *map(str, reversed(found[-SHOWN:])), *more])
