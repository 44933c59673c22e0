"""`Topic`, and the messages that workflows send and receive."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeAlias, TypeVar, overload

from pgqrs.codecs.base import Codec, codec_for
from pgqrs.codecs.json import JsonCodec
from pgqrs.codecs.messages import encode_emitted, message_codec
from pgqrs.codecs.records import ValueContext
from pgqrs.engine.run import Run
from pgqrs.storage.records import StoredOutcome
from pgqrs.storage.sql.addresses import event_address, topic_address
from pgqrs.storage.writes.messages import SentMessage
from pgqrs.storage.writes.outbox import EmittedEvent
from pgqrs.validation import check_name, validate_key

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

NO_DEFAULT: Any = object()
"""The default of `PyWorkflow.receive` that raises `WaitTimeoutError` at the timeout."""


Current: TypeAlias = Callable[[], Awaitable[Run]]
"""A function that returns the run of the calling task."""


class Receivable(ABC, Generic[T_co]):
    """The name of a kind of messages that a workflow receives as values of one type: a `Topic` or an `Update`."""

    __slots__ = ()

    name: str

    @abstractmethod
    def address(self, workflow_id: int) -> str:
        """Return the address of these messages to a workflow."""

    @abstractmethod
    def received(self, current: Current, run: Run, step_id: str, outcome: StoredOutcome) -> T_co:
        """Return the value of the message that is the outcome of a step, or raise the recorded error."""


class Topic(Receivable[T]):
    """The name of a kind of messages to a workflow, and the type of their values.

    The same topic serves the sender and the receiver, so a type checker sees a value of another type at both ends.

    Args:
        name: The name of the topic: at most 512 bytes of UTF-8, without NUL.
        type: The type of the values, with which a typed codec encodes and decodes them; any value by default.
        is_plain: True to write the values as strict JSON whatever the codec of the workflow is, so that SQL can
            send them to a workflow with a sealing codec. False by default.

    Raises:
        InvalidNameError: The name cannot be stored.
    """

    __slots__ = ("is_plain", "name", "type")

    @overload
    def __init__(self: Topic[Any], name: str, *, is_plain: bool = False) -> None: ...

    @overload
    def __init__(self, name: str, type: type[T], *, is_plain: bool = False) -> None: ...

    @overload
    def __init__(self, name: str, type: object, *, is_plain: bool = False) -> None: ...

    def __init__(self, name: str, type: object = Any, *, is_plain: bool = False) -> None:  # noqa: A002
        check_name("topic", name)
        self.name = name
        self.type = type
        self.is_plain = is_plain

    def __repr__(self) -> str:
        return f"Topic({self.name!r})"

    def address(self, workflow_id: int) -> str:
        """Return the address of the messages of this topic to a workflow."""
        return topic_address(workflow_id, self.name)

    def received(self, current: Current, run: Run, step_id: str, outcome: StoredOutcome) -> T:  # noqa: ARG002
        """Return the value of the message that is the outcome of a step, or raise the recorded error."""
        value: T = run.steps.value_of(step_id, outcome, self.codec(run.codec, run.workflow_id))
        return value

    def codec(self, codec: Codec, workflow_id: int) -> Codec:
        """Return the codec of the messages of this topic to a workflow."""
        if self.is_plain:
            return JsonCodec()
        return message_codec(codec_for(codec, self.type), self.address(workflow_id))


def as_topic(topic: Topic[Any] | str) -> Topic[Any]:
    """Return a topic, which a name alone stands for with values of any type."""
    return topic if isinstance(topic, Topic) else Topic(topic)


def as_receivable(receivable: Receivable[Any] | str) -> Receivable[Any]:
    """Return a topic or an update; a name alone stands for a topic with values of any type."""
    return receivable if isinstance(receivable, Receivable) else Topic(receivable)


def sender_key(key: str | None) -> str:
    """Return the key of a message; without a key of the sender, a random one."""
    return f"~{secrets.token_hex(8)}" if key is None else validate_key(key)


def message(
    codec: Codec,
    workflow_id: int,
    topic: Topic[Any] | str,
    value: object,
    *,
    key: str | None = None,
    token: int | None = None,
) -> SentMessage:
    """Return the record of a message; raises `SerializationError` for a value that the codec cannot encode.

    A message without a key gets a random key, so that a second sending of the record is no second message.
    """
    of = as_topic(topic)
    with ValueContext(workflow_id):
        payload = of.codec(codec, workflow_id).encode(value).text
    return SentMessage(
        workflow_id,
        of.address(workflow_id),
        sender_key(key),
        key is not None,
        payload,
        None if of.is_plain else codec.name,
        token,
    )


def emitted(codec: Codec, name: str, value: object) -> EmittedEvent:
    """Return the record of an event of the schema; raises `SerializationError` as `message` does."""
    check_name("event", name)
    address = event_address(name)
    return EmittedEvent(address, encode_emitted(codec, address, value))
