"""`Update`, a kind of requests to a workflow with a reply, and the requests that workflows receive."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar, overload

from pgqrs.codecs.base import Codec, codec_for
from pgqrs.codecs.json import JsonCodec
from pgqrs.codecs.records import ValueContext, check_codec
from pgqrs.codecs.updates import decode_request, encode_reply, encode_request, part_reply, reply_codec
from pgqrs.engine.run import Run
from pgqrs.errors import UpdateRefusedError, WorkflowFinishedError
from pgqrs.storage.records import AskedReply, ReplyState, StoredOutcome, WorkflowIdentity
from pgqrs.storage.sql.addresses import reply_address, request_address
from pgqrs.storage.writes.messages import SentMessage
from pgqrs.validation import check_name
from pgqrs.workflow.messaging.messages import Current, Receivable
from pgqrs.workflow.messaging.sending import Answer, answer

Q = TypeVar("Q")
A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)


class Request(Generic[Q, A]):
    """A request that a workflow has received; the workflow answers it once, by `reply` or `refuse`.

    A replay receives the same request, and its answer is replayed.

    Attributes:
        value: The value of the request.
        key: The key that the caller has passed; None if the caller has passed no key.
    """

    __slots__ = ("_current", "_key", "_step_id", "_update", "key", "value")

    def __init__(
        self, current: Current, update: Update[Q, A], step_id: str, key: str, value: Q, *, is_kept: bool
    ) -> None:
        self._current = current
        self._update = update
        self._step_id = step_id
        self._key = key
        self.key = key if is_kept else None
        self.value = value

    def __repr__(self) -> str:
        return f"<Request of step {self._step_id!r}>"

    async def reply(self, value: A) -> None:
        """Reply to the request, once: the reply and the record of a step are one transaction.

        The step id is the id of the step that has received the request, followed by ``/answer``.

        Args:
            value: The value of the reply, which the codec of the update must be able to encode.

        Raises:
            RequestAnsweredError: Another call has answered the request.
            SerializationError: The codec cannot encode `value`.
            RunStopped: The run has stopped; raised within the workflow's function and its steps. Elsewhere the
                error of the run is raised, such as `WorkflowCancelledError`.
        """
        await self._answer("reply", value)

    async def refuse(self, reason: str) -> None:
        """Refuse the request, once: its caller gets an `UpdateRefusedError`. The step is the same as of `reply`.

        Args:
            reason: The reason, for the caller.

        Raises:
            RequestAnsweredError: Another call has answered the request.
            TypeError: `reason` is not a str.
            SerializationError: The codec cannot encode `reason`.
            RunStopped: The run has stopped; raised within the workflow's function and its steps. Elsewhere the
                error of the run is raised, such as `WorkflowCancelledError`.
        """
        if not isinstance(reason, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"`reason` must be a str, got {type(reason).__name__}.")
        await self._answer("refuse", reason)

    async def _answer(self, kind: str, value: object) -> None:
        run = await self._current()
        address = reply_address(run.workflow_id, self._update.name)
        is_refused = kind == "refuse"
        codec = self._update.codec(run.codec, str if is_refused else self._update.reply)
        # Encoded in a replay, too: a value that cannot be encoded is the same error again.
        with ValueContext(run.workflow_id, self._step_id):
            payload = encode_reply(codec, address, self._key, value, is_refused=is_refused)
        await answer(run, Answer(self._step_id, kind, address, self._key, self.key is not None, payload))


class Askable(ABC, Generic[Q, A_co]):
    """The side of an update that its callers use.

    It is covariant in the type of the reply: a type checker may take the reply as any wider type.
    """

    __slots__ = ()

    name: str

    @abstractmethod
    def message(self, codec: Codec, to: WorkflowIdentity, value: Q, key: str, *, is_kept: bool) -> SentMessage:
        """Return the record of a request; raises `SerializationError` for a value that cannot be encoded."""

    @abstractmethod
    def answered(self, codec: Codec, asked: AskedReply, found: ReplyState) -> A_co:
        """Return the value of a reply.

        Raises `UpdateRefusedError` for a refusal, and `WorkflowFinishedError` for a workflow that has ended and
        has not answered the request.
        """


class Update(Receivable[Request[Q, A]], Askable[Q, A], Generic[Q, A]):
    """The name of a kind of requests to a workflow, and the types of their values and of the replies.

    The same update serves the caller and the workflow, so a type checker sees a value of another type at both
    ends.

    Args:
        name: The name of the update: at most 512 bytes of UTF-8, without NUL.
        request: The type of the values of the requests, with which a typed codec encodes and decodes them; any
            value by default.
        reply: The type of the values of the replies; any value by default.
        is_plain: True to write requests and replies as strict JSON whatever the codec of the workflow is. False by
            default.

    Raises:
        InvalidNameError: The name cannot be stored.
    """

    __slots__ = ("is_plain", "name", "reply", "request")

    @overload
    def __init__(self: Update[Any, Any], name: str, *, is_plain: bool = False) -> None: ...

    @overload
    def __init__(self, name: str, request: type[Q], reply: type[A], *, is_plain: bool = False) -> None: ...

    @overload
    def __init__(self, name: str, request: object, reply: object, *, is_plain: bool = False) -> None: ...

    def __init__(self, name: str, request: object = Any, reply: object = Any, *, is_plain: bool = False) -> None:
        check_name("update", name)
        self.name = name
        self.request = request
        self.reply = reply
        self.is_plain = is_plain

    def __repr__(self) -> str:
        return f"Update({self.name!r})"

    def codec(self, codec: Codec, type_: object) -> Codec:
        """Return the codec of the values of a type in the requests and the replies of this update."""
        return JsonCodec() if self.is_plain else codec_for(codec, type_)

    def address(self, workflow_id: int) -> str:
        """Return the address of the requests of this update to a workflow."""
        return request_address(workflow_id, self.name)

    def received(self, current: Current, run: Run, step_id: str, outcome: StoredOutcome) -> Request[Q, A]:
        """Return the request that is the outcome of a step, or raise the recorded error."""
        if outcome.error is not None:
            raise run.steps.replay_error(step_id, outcome.error)
        codec, address = self.codec(run.codec, self.request), self.address(run.workflow_id)
        with ValueContext(run.workflow_id, step_id):
            found = decode_request(codec, address, outcome.output or "")
        return Request(current, self, step_id, found.key, found.value, is_kept=found.is_kept)

    def message(self, codec: Codec, to: WorkflowIdentity, value: Q, key: str, *, is_kept: bool) -> SentMessage:
        """Return the record of a request; raises `SerializationError` for a value that cannot be encoded."""
        workflow_id, token = to
        address, own = self.address(workflow_id), self.codec(codec, self.request)
        with ValueContext(workflow_id):
            payload = encode_request(own, address, key, value, is_kept=is_kept)
        written = None if self.is_plain else codec.name
        return SentMessage(workflow_id, address, key, is_kept, payload, written, token)

    def answered(self, codec: Codec, asked: AskedReply, found: ReplyState) -> A:
        """Return the value of a reply; see `Askable.answered`."""
        if found.payload is None:
            raise WorkflowFinishedError(asked.workflow_id, str(found.status))
        if not self.is_plain:
            check_codec(codec, asked.workflow_id, found.codec)
        with ValueContext(asked.workflow_id):
            reply = part_reply(found.payload)
            own = self.codec(codec, str if reply.is_refused else self.reply)
            value: Any = reply_codec(own, asked.address, asked.key).decode(reply.text)
        if reply.is_refused:
            raise UpdateRefusedError(asked.workflow_id, self.name, value)
        decoded: A = value
        return decoded


def asked_reply(update: Askable[Any, Any], sent: SentMessage) -> AskedReply:
    """Return the reply that the sender of a request waits for."""
    return AskedReply(sent.workflow_id, reply_address(sent.workflow_id, update.name), sent.key, sent.token)
