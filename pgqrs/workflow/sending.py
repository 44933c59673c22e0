"""Steps that send a message, or set an event, by the statement that records them."""

from __future__ import annotations

from typing import Any

from pgqrs.codecs.base import codec_at, stored_name
from pgqrs.codecs.messages import own_event_codec
from pgqrs.codecs.records import value_context
from pgqrs.engine.run import Run
from pgqrs.engine.scope import StepExecution
from pgqrs.errors import CodecMismatchError, PgqrsError, WorkflowFinishedError
from pgqrs.storage.records import StoredOutcome
from pgqrs.storage.writes.messages import OVER, SentMessage
from pgqrs.storage.writes.outbox import OutgoingMessage, SendingStep, SetEvent
from pgqrs.validation import check_name, escaped
from pgqrs.workflow.messages import Topic, as_topic, message


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
            refusal = await _refusal(run, sent)
        except BaseException:
            run.steps.abandon(found)
            raise
        if refusal is not None:
            await run.steps.fail(found, refusal, terminal=True)
            raise refusal
        outgoing = OutgoingMessage(
            run.workflow_id, own_id, workflow_id, sent.address, sent.key, sent.is_kept, sent.payload
        )
        await _record(run, found, messages=(outgoing,))
        run.arrivals.sent()
    elif found.error is not None:
        raise run.steps.replay_error(own_id, found.error)


async def set_event(run: Run, name: str, value: object, step_id: str | None) -> None:
    """Set an event of the workflow in a step, once."""
    check_name("event", name)
    own_id = step_id or run.steps.next_id(run.place, f"set_event/{escaped(name)}")
    found = await run.steps.acquire(run.place, own_id)
    if isinstance(found, StepExecution):
        try:
            with value_context(run.workflow_id, own_id):
                text = own_event_codec(run.codec, run.workflow_id, name).encode(value).text
        except BaseException:
            run.steps.abandon(found)
            raise
        await _record(run, found, events=(SetEvent(run.workflow_id, own_id, name, text),))


async def _refusal(run: Run, sent: SentMessage) -> PgqrsError | None:
    """Return the reason why a workflow cannot get a message; None if it can."""
    try:
        receiver = await run.reader.receiver(sent.workflow_id, sent.address, sent.key)
    except PgqrsError as error:
        if getattr(error, "workflow_id", None) != sent.workflow_id:
            raise
        return error
    if receiver.status in OVER and not receiver.has_message:
        return WorkflowFinishedError(sent.workflow_id, receiver.status)
    if sent.codec is not None and sent.codec != receiver.codec:
        return CodecMismatchError(sent.workflow_id, receiver.codec, stored_name(run.codec))
    return None


async def _record(
    run: Run,
    execution: StepExecution,
    *,
    messages: tuple[OutgoingMessage, ...] = (),
    events: tuple[SetEvent, ...] = (),
) -> StoredOutcome:
    workflow_id, epoch, step_id, claim = execution.started
    output = codec_at(run.codec, "output", workflow_id, step_id).encode(None).text
    record = SendingStep(workflow_id, epoch, step_id, output, None, execution.began, None, claim, messages, events)
    try:
        outcome = await run.steps.take(execution, record)
    except BaseException:
        run.steps.abandon(execution)
        raise
    assert outcome is not None  # noqa: S101  # `take` raises the stop of a run that writes nothing more
    return outcome
