"""Requests to workflows: the call that sends a request and waits for its reply."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import TypeAlias, TypeVar

from pgqrs.client.loop_state import LoopStates
from pgqrs.engine.scope import calling_runs
from pgqrs.errors import UpdateTimeoutError
from pgqrs.storage.access.operations import MessageFor
from pgqrs.storage.records import ReplyState, WorkflowIdentity
from pgqrs.storage.writes.messages import SentMessage
from pgqrs.validation import validate_seconds
from pgqrs.workflow.messaging.messages import sender_key
from pgqrs.workflow.messaging.updates import Askable, asked_reply

Q = TypeVar("Q")
A = TypeVar("A")

Send: TypeAlias = Callable[[MessageFor], Awaitable[SentMessage]]
"""A function that writes the message to a workflow that it is given a function for, and returns it."""


async def ask(
    loops: LoopStates,
    update: Askable[Q, A],
    value: Q,
    *,
    send: Send,
    timeout: float | timedelta | None,
    key: str | None,
) -> A:
    """Send a request by `send`, and wait for its reply as `WorkflowHandle.update` does."""
    seconds = validate_seconds("timeout", timeout, positive=True)
    own = sender_key(key)
    sent = await send(lambda to: update.message(loops.codec, to, value, own, is_kept=key is not None))
    asked = asked_reply(update, sent)
    state = await loops.loop_state()
    bound = asyncio.timeout(seconds)
    try:
        async with bound:
            with state.waits.counted(calling_runs(state.store.runs)):
                found: ReplyState = await state.replies.wait(sent.workflow_id, asked)
    except TimeoutError as error:
        if not bound.expired():
            raise
        raise UpdateTimeoutError(sent.workflow_id, update.name, key, seconds or 0.0) from error
    return update.answered(loops.codec, asked, found)


async def send_to(loops: LoopStates, to: WorkflowIdentity, message_for: MessageFor) -> SentMessage:
    """Send a request to an existing workflow, and return its record."""
    sent = message_for(to)
    await loops.send(sent)
    return sent


async def ask_workflow(
    loops: LoopStates,
    to: WorkflowIdentity,
    update: Askable[Q, A],
    value: Q,
    *,
    timeout: float | timedelta | None,
    key: str | None,
) -> A:
    """Send a request to an existing workflow, and wait for its reply as `WorkflowHandle.update` does."""
    return await ask(loops, update, value, send=partial(send_to, loops, to), timeout=timeout, key=key)


class WithStart:
    """A workflow that is started, unless it is there, together with a request to it.

    `Submitter.with_start` creates it.
    """

    __slots__ = ("_loops", "_send")

    def __init__(self, loops: LoopStates, send: Send) -> None:
        self._loops = loops
        self._send = send

    async def update(
        self,
        update: Askable[Q, A],
        value: Q,
        *,
        timeout: float | timedelta | None = None,
        key: str | None = None,
    ) -> A:
        """Start the workflow, unless it is there, send a request to it, and return the reply.

        One transaction starts the workflow and sends the request. The same call with the same keys starts nothing
        a second time, and returns the same reply.

        Args:
            update: The update.
            value: The value of the request, which the codec of the update must be able to encode.
            timeout: Seconds, or a `timedelta`, that bound the wait for the reply; see `WorkflowHandle.update`.
            key: An idempotency key of the request; see `WorkflowHandle.update`.

        Returns:
            The value of the reply.

        Raises:
            KeyConflictError: The key belongs to a workflow with other arguments, and `on_conflict` is ``"raise"``.
            UpdateRefusedError: The workflow has refused the request.
            UpdateTimeoutError: The timeout passed. The request stays there.
            WorkflowFinishedError: The workflow has ended, and has not answered the request.
            CodecMismatchError: The workflow is written with another codec.
            SerializationError: The codec cannot encode `value`, or cannot decode the reply.
            InvalidNameError: The key cannot be stored.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await ask(self._loops, update, value, send=self._send, timeout=timeout, key=key)
