"""Steps that send a message, answer a request, set an event or attributes, by the statement that records them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from hashlib import sha256
from typing import Any, NamedTuple

from pgqrs.codecs.base import codec_at
from pgqrs.codecs.messages import own_event_codec
from pgqrs.codecs.records import ValueContext
from pgqrs.engine.run import Run
from pgqrs.engine.scope import StepExecution
from pgqrs.errors import (
    PgqrsError,
    RequestAnsweredError,
    WorkflowFinishedError,
    WorkflowNotFoundError,
)
from pgqrs.storage.access.id_allocator import check_id
from pgqrs.storage.records import StoredOutcome
from pgqrs.storage.writes.attributes import WrittenAttributes, given_attributes
from pgqrs.storage.writes.messages import OVER, SentMessage, unreadable
from pgqrs.storage.writes.outbox import OutgoingMessage, SendingStep, SentReply, SetEvent
from pgqrs.validation import check_name, escaped
from pgqrs.workflow.messaging.messages import Topic, as_topic, message

MAX_JOINED = 80
"""Maximum characters of the names of attributes or tags in a step id."""


async def send(
    run: Run, workflow_id: int, topic: Topic[Any] | str, value: object, *, key: str | None, step_id: str | None
) -> None:
    """Send a message to a workflow in a step, once; the error of a receiver that is not there is recorded."""
    of = as_topic(topic)
    own_id = step_id or run.steps.next_id(run.place, f"send/{escaped(of.name)}")
    found = await run.steps.acquire(run.place, own_id)
    if isinstance(found, StepExecution):
        try:
            sent = message(run.codec, workflow_id, of, value, key=key)
            await run.steps.wait_for_earlier_sends(found)  # messages of one sender keep their order
            refusal = await _deliver(run, found, sent)
        except BaseException:
            run.steps.abandon(found)
            raise
        if refusal is not None:
            recorded = await run.steps.fail(found, refusal, terminal=True)
            # Another copy of the statement, which a lost connection has left, may have sent the message meanwhile.
            if recorded is None or recorded.error is not None:
                raise refusal
        run.announcements.message_sent()
        run.parking.expects_answer = True
        run.arrivals.sent_to(sent.address)
    elif found.error is not None:
        raise run.steps.replay_error(own_id, found.error)


class Answer(NamedTuple):
    """An answer to the request that a step has received.

    `kind` is ``"reply"`` or ``"refuse"``. `address`, `key`, `is_kept` and `payload` are those of the reply.
    """

    step_id: str
    kind: str
    address: str
    key: str
    is_kept: bool
    payload: str


async def answer(run: Run, given: Answer) -> None:
    """Answer a request in a step, once.

    The step belongs to the request, and its output names the call that has answered: a replay of this call finds
    the answer, whatever the order of the requests is, and any other call raises `RequestAnsweredError`.
    """
    own_id = f"{given.step_id}/answer"
    call = run.steps.next_id(run.place, f"{given.step_id}/{given.kind}")
    found = await run.steps.acquire(run.place, own_id)
    if isinstance(found, StepExecution):
        reply = SentReply(run.workflow_id, own_id, given.address, given.key, given.is_kept, given.payload)
        found = await _record(run, found, replies=(reply,), output=call)
        run.parking.expects_answer = True
        run.arrivals.replied(run.workflow_id)
    # Also after the record: an earlier call that was cancelled may have answered meanwhile.
    if run.steps.value_of(own_id, found, codec_at(run.codec, "output", run.workflow_id, own_id)) != call:
        raise RequestAnsweredError(run.workflow_id, given.step_id)


async def set_event(run: Run, name: str, value: object, step_id: str | None) -> None:
    """Set an event of the workflow in a step, once."""
    check_name("event", name)
    own_id = step_id or run.steps.next_id(run.place, f"set_event/{escaped(name)}")
    found = await run.steps.acquire(run.place, own_id)
    if isinstance(found, StepExecution):
        try:
            with ValueContext(run.workflow_id, own_id):
                text = own_event_codec(run.codec, run.workflow_id, name).encode(value).text
        except BaseException:
            run.steps.abandon(found)
            raise
        await _record(run, found, events=(SetEvent(run.workflow_id, own_id, name, text),))


async def set_attributes(run: Run, attributes: Mapping[str, Any], tags: Collection[str]) -> None:
    """Add attributes, or tags, to the workflow in a step, once."""
    given = given_attributes(attributes, tags)
    if given is None:
        return
    kind = "set_attributes" if attributes else "add_tags"
    own_id = run.steps.next_id(run.place, f"{kind}/{_joined(attributes or tags)}")
    found = await run.steps.acquire(run.place, own_id)
    if isinstance(found, StepExecution):
        await _record(run, found, attributes=WrittenAttributes(run.workflow_id, own_id, run.workflow_id, *given))


def _joined(names: Iterable[str]) -> str:
    """Return names as a part of a step id: concurrent calls may come in another order in a replay."""
    joined = ",".join(map(escaped, sorted({*names})))
    return joined if len(joined) <= MAX_JOINED else f"{joined[:MAX_JOINED]}-{sha256(joined.encode()).hexdigest()}"


async def _deliver(run: Run, execution: StepExecution, sent: SentMessage) -> PgqrsError | None:
    """Record the step together with its message, or return the reason why the workflow cannot get the message."""
    workflow_id, epoch, step_id, claim = execution.started
    output = codec_at(run.codec, "output", workflow_id, step_id).encode(None).text
    try:
        check_id(sent.workflow_id)
    except WorkflowNotFoundError as error:
        return error
    record = OutgoingMessage(
        workflow_id,
        epoch,
        step_id,
        output,
        execution.began,
        claim,
        sent.workflow_id,
        sent.address,
        sent.key,
        sent.is_kept,
        sent.payload,
        sent.codec,
    )
    # The reason is read after a refusal alone. A receiver that was resumed meanwhile gets the message then.
    while await run.steps.take(execution, record) is None:
        if (refusal := await _refusal(run, sent)) is not None:
            return refusal
    return None


async def _refusal(run: Run, sent: SentMessage) -> PgqrsError | None:
    """Return the reason why a workflow cannot get a message; None if it can."""
    try:
        receiver = await run.reader.receiver(sent.workflow_id, sent.address, sent.key)
    except WorkflowNotFoundError as error:
        return error
    if receiver.status in OVER and not receiver.has_message:
        return WorkflowFinishedError(sent.workflow_id, receiver.status)
    return unreadable(sent, receiver.codec)


async def _record(
    run: Run,
    execution: StepExecution,
    *,
    events: tuple[SetEvent, ...] = (),
    replies: tuple[SentReply, ...] = (),
    attributes: WrittenAttributes | None = None,
    output: str | None = None,
) -> StoredOutcome:
    workflow_id, epoch, step_id, claim = execution.started
    text = codec_at(run.codec, "output", workflow_id, step_id).encode(output).text
    record = SendingStep(
        workflow_id,
        epoch,
        step_id,
        text,
        None,
        execution.began,
        None,
        claim,
        events=events,
        replies=replies,
        attributes=attributes,
    )
    try:
        outcome = await run.steps.take(execution, record)
    except BaseException:
        run.steps.abandon(execution)
        raise
    assert outcome is not None  # noqa: S101  # `take` raises the stop of a run that writes nothing more
    return outcome
