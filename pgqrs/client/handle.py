"""`WorkflowHandle`, the object by which a client monitors, awaits and cancels a workflow."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from math import inf
from time import monotonic
from typing import Any, Generic, TypeVar, cast

from pgqrs.client.loop_state import LoopStates
from pgqrs.client.misuse import check_wait, warn_in_body
from pgqrs.client.updates import ask_workflow
from pgqrs.codecs.annotations import ReturnType
from pgqrs.codecs.base import Codec, codec_at, open_error
from pgqrs.codecs.failures import load_error
from pgqrs.codecs.messages import own_event_codec
from pgqrs.codecs.records import ValueContext, check_codec
from pgqrs.engine.scope import calling_runs
from pgqrs.errors import WorkflowCancelledError, WorkflowFinishedError, WorkflowNotFoundError
from pgqrs.storage.records import EventState, WorkflowIdentity, WorkflowResult
from pgqrs.storage.store import Store
from pgqrs.storage.writes.messages import OVER
from pgqrs.types import StepRecord, WorkflowRecord, WorkflowStatus
from pgqrs.validation import check_name
from pgqrs.workflow.messaging.messages import Topic, as_topic, message
from pgqrs.workflow.messaging.updates import Askable

A = TypeVar("A")
Q = TypeVar("Q")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")


MIN_EVENT_PAUSE = 0.01
"""Seconds between the first two reads while a handle waits for an event."""

MAX_EVENT_PAUSE = 0.5
"""Maximum seconds between two reads while a handle waits for an event."""

EVENT_BACKOFF = 1.5
"""Factor between the pauses before two reads."""


class WorkflowHandle(Generic[R_co]):
    """A reference to a workflow that may run in any process, for its status, its result and its cancellation.

    `Admin.enqueue`, `Submitter.enqueue` and `Admin.handle` create handles. All handles of one event loop wait
    together: one statement reads the results for all of them.

    A server that loses its last transactions, as in a failover to an asynchronous standby, may give the id of a
    lost workflow to another workflow. A handle that `enqueue` returned then raises `WorkflowNotFoundError`; a
    handle of `Admin.handle` knows the id alone, and refers to the other workflow.
    """

    __slots__ = ("_id", "_is_there", "_loops", "_returns", "_token")

    def __init__(
        self, loops: LoopStates, identity: WorkflowIdentity, *, is_there: bool, returns: ReturnType | None = None
    ) -> None:
        self._loops = loops
        self._id, self._token = identity
        self._is_there = is_there
        self._returns = returns

    @property
    def id(self) -> int:
        """The id of the workflow."""
        return self._id

    def __repr__(self) -> str:
        return f"<WorkflowHandle {self._id}>"

    async def status(self) -> WorkflowStatus:
        """Return the current status of the workflow.

        Returns:
            The status as recorded in the database.

        Raises:
            WorkflowNotFoundError: No workflow has this id, the transaction that enqueued it has not committed, or
                the workflow was lost and another workflow has its id.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await (await self._loops.store()).reader.status(self._id, self._token)

    async def result(self, timeout: float | None = None) -> R_co:
        """Wait until the workflow has ended, and return its output.

        A workflow waits for another one by ``child = await ctx.start(...)`` and ``await child``, which parks it.

        Args:
            timeout: Seconds that bound the wait. Without a timeout, the default, the wait ends with the workflow,
                or with an error of the database.

        Returns:
            The return value of the workflow's function, as its recorded form decodes.

        Raises:
            StepFailedError: The workflow failed; this is its recorded error. The raised error is also an instance
                of the original class, such as `ValueError`.
            WorkflowCancelledError: The workflow was cancelled.
            WorkflowInProgressError: The caller is a step or the function of this workflow itself.
            TimeoutError: The timeout passed. The workflow itself continues.
            WorkflowNotFoundError: No workflow has this id, the workflow was deleted and not archived, the
                transaction that enqueued it has not committed, or the workflow was lost and another workflow has
                its id.
            CodecMismatchError: The workflow is written with another codec.
            SerializationError: The codec cannot decode the output or the error.
            PgqrsError: The `Admin` was closed during the wait.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database was unavailable for longer than the `outage_timeout` of the
                `Admin`.
        """
        return cast(R_co, self._output(await self._ended(timeout)))

    async def joined(self) -> R_co:
        """Return the result as `result` does; `Submitter.run` calls this method.

        Returns:
            The result of the workflow.
        """
        return cast(R_co, self._output(await self._ended(None, joins=True)))

    async def cancel(self, *, interrupt: bool = False) -> None:
        """Request the cancellation of the workflow; see `Admin.cancel_workflow` for its course.

        Args:
            interrupt: Whether to cancel the tasks of executing steps, which then have no outcome, and the task of
                the function. False by default.

        Raises:
            WorkflowNotFoundError: No workflow has this id, or the workflow was lost and another workflow has its
                id.
            WorkflowFinishedError: The workflow has succeeded or failed; `status` names the end.
            DatabaseUnavailableError: The database is unavailable.
        """
        warn_in_body("cancel")
        await (await self._loops.loop_state()).cancel(self._id, interrupt=interrupt, token=self._token)

    async def send(self, topic: Topic[T] | str, value: T, *, key: str | None = None) -> None:
        """Send a message to the workflow, which `PyWorkflow.receive` receives.

        The message is committed when this method returns. It waits until the workflow receives it. Sending takes
        no lock on the workflow.

        Args:
            topic: The topic, or its name for values of any type.
            value: The value of the message, which the codec of the topic must be able to encode.
            key: An idempotency key: a second message with this key and topic is not sent, as long as the workflow
                is kept. By default every call sends a message.

        Raises:
            WorkflowNotFoundError: No workflow has this id, the transaction that enqueued it has not committed, or
                the workflow was lost and another workflow has its id.
            WorkflowFinishedError: The workflow has ended; `status` names the end.
            CodecMismatchError: The workflow is written with another codec.
            SerializationError: The codec cannot encode `value`.
            InvalidNameError: The topic or the key cannot be stored.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        warn_in_body("send", as_topic(topic).name, key=key)
        await self._loops.send(message(self._loops.codec, self._id, topic, value, key=key, token=self._token))

    async def update(
        self,
        update: Askable[Q, A],
        value: Q,
        *,
        timeout: float | timedelta | None = None,
        key: str | None = None,
    ) -> A:
        """Send a request to the workflow, and return the reply of `Request.reply`.

        The workflow receives the request by `PyWorkflow.receive`. The request is committed before the wait begins.
        All callers of one event loop wait together: one statement reads the replies for all of them.

        Args:
            update: The update.
            value: The value of the request, which the codec of the update must be able to encode.
            timeout: Seconds, or a `timedelta`, that bound the wait for the reply. The request stays there
                afterwards. None, the default, for no limit.
            key: An idempotency key: a second call with this key sends no second request, from any process, and
                returns the same reply, as long as the workflow is kept. The value of the first call counts. By
                default every call sends a request.

        Returns:
            The value of the reply.

        Raises:
            UpdateRefusedError: The workflow has refused the request; `reason` is its reason.
            UpdateTimeoutError: The timeout passed. It is a `TimeoutError`.
            WorkflowFinishedError: The workflow has ended, and has not answered the request; `status` names the
                end.
            WorkflowNotFoundError: No workflow has this id, the transaction that enqueued it has not committed, or
                the workflow was lost and another workflow has its id.
            CodecMismatchError: The workflow is written with another codec.
            SerializationError: The codec cannot encode `value`, or cannot decode the reply.
            ConfigurationError: `timeout` is not more than 0.
            InvalidNameError: The key cannot be stored.
            PgqrsError: The `Admin` was closed during the wait.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        to = WorkflowIdentity(self._id, self._token)
        return await ask_workflow(self._loops, to, update, value, timeout=timeout, key=key)

    async def event(self, name: str, *, timeout: float | None = None) -> Any:
        """Return the newest value of an event that the workflow has set, and wait until it sets the event.

        No worker is necessary to read an event, and an event can be read after the end of the workflow.

        Args:
            name: The name of the event.
            timeout: Seconds that bound the wait, 0 for no wait. None, the default, for no limit.

        Returns:
            The value of the event.

        Raises:
            TimeoutError: The workflow has not set the event before the timeout.
            WorkflowFinishedError: The workflow has ended and has not set the event; `status` names the end.
            WorkflowNotFoundError: No workflow has this id, the transaction that enqueued it has not committed, or
                the workflow was lost and another workflow has its id.
            CodecMismatchError: The workflow is written with another codec.
            SerializationError: The codec cannot decode the value.
            InvalidNameError: The name cannot be stored.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        check_name("event", name)
        state = await self._loops.loop_state()
        found = await state.store.reader.event(self._id, name, self._token)
        if found.value is None and found.status not in OVER and (timeout is None or timeout > 0):
            check_wait(state, self._id, "event")
            with state.waits.counted(calling_runs(state.store.runs)):
                found = await self._event_or_end(state.store, name, timeout)
        if found.value is None:
            if found.status in OVER:
                raise WorkflowFinishedError(self._id, found.status)
            raise TimeoutError(f"workflow {self._id} has not set the event {name!r} within {timeout} s.")
        check_codec(self._loops.codec, self._id, found.codec)
        with ValueContext(self._id):
            return own_event_codec(self._loops.codec, self._id, name).decode(found.value)

    async def events(self) -> dict[str, Any]:
        """Return the newest values of all events that the workflow has set, by name.

        Returns:
            The values by name; empty if the workflow has set no event.

        Raises:
            WorkflowNotFoundError: No workflow has this id, or the workflow was lost and another workflow has its
                id.
            CodecMismatchError: The workflow is written with another codec.
            SerializationError: The codec cannot decode a value.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        reader = (await self._loops.store()).reader
        check_codec(self._loops.codec, self._id, (await reader.workflow(self._id, self._token)).codec)
        texts = await reader.events(self._id)
        with ValueContext(self._id):
            return {
                name: own_event_codec(self._loops.codec, self._id, name).decode(text)
                for name, text in texts.items()
            }

    async def record(self) -> WorkflowRecord:
        """Return a snapshot of the workflow.

        Returns:
            The record. A payload that this `Admin` cannot read is `Unreadable`.

        Raises:
            WorkflowNotFoundError: No workflow has this id, or the workflow was lost and another workflow has its
                id.
            NotInstalledError: The schema holds no tables of pgqrs.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await self._loops.record(self._id, self._token)

    async def steps(self) -> list[StepRecord]:
        """Return the records of the workflow's steps, in the order in which the steps began.

        Returns:
            The records; see `Admin.list_steps`.

        Raises:
            WorkflowNotFoundError: No workflow has this id, or the workflow was lost and another workflow has its
                id.
            DatabaseUnavailableError: The database is unavailable.
        """
        return await self._loops.steps(self._id, self._token)

    async def _event_or_end(self, store: Store, name: str, timeout: float | None) -> EventState:
        """Wait for an event, for the end of the workflow, or for the timeout, and return the last read."""
        pause, until = MIN_EVENT_PAUSE, inf if timeout is None else monotonic() + timeout
        while True:
            await asyncio.sleep(min(pause, max(0.0, until - monotonic())))
            found = await store.reader.event(self._id, name, self._token)
            if found.value is not None or found.status in OVER or monotonic() >= until:
                return found
            pause = min(EVENT_BACKOFF * pause, MAX_EVENT_PAUSE)

    async def _ended(self, timeout: float | None, *, joins: bool = False) -> WorkflowResult:
        bound = asyncio.timeout(timeout)
        try:
            async with bound:
                state = await self._loops.loop_state()
                if not joins:
                    check_wait(state, self._id, "result")
                if not self._is_there:
                    try:
                        await state.store.reader.status(self._id, self._token)
                    except WorkflowNotFoundError:
                        archived = await state.store.reader.archived_result(self._id, self._token)
                        if archived is None:
                            raise
                        return archived
                    self._is_there = True
                with state.waits.counted(calling_runs(state.store.runs)):
                    return await state.results.wait(self._id, self._token)
        except TimeoutError as error:
            if not bound.expired():
                raise
            raise TimeoutError(
                f"workflow {self._id} did not end within {timeout} s; the workflow itself continues."
            ) from error

    def _output(self, end: WorkflowResult) -> Any:
        if end.status == WorkflowStatus.CANCELLED:
            raise WorkflowCancelledError(self._id)
        check_codec(self._loops.codec, self._id, end.codec)
        if end.error is not None:
            with ValueContext(self._id):
                text = open_error(self._loops.codec, end.error, self._id)
            raise load_error(text, workflow_id=self._id, step_id="")
        with ValueContext(self._id):
            return None if end.output is None else self._codec().decode(end.output)

    def _codec(self) -> Codec:
        codec = self._loops.codec
        return codec_at(codec if self._returns is None else self._returns.codec(codec), "output", self._id)
