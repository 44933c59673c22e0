"""The states of an `Admin`, one for each event loop: the store, the queue notifier and the pollers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from pgqrs.client.queue_notifier import QueueNotifier
from pgqrs.client.reply_poller import ReplyPoller
from pgqrs.client.result_poller import ResultPoller
from pgqrs.client.result_waits import ResultWaits
from pgqrs.codecs.base import Codec
from pgqrs.codecs.records import decode_listed_step, decode_listed_workflow
from pgqrs.errors import ConfigurationError
from pgqrs.observer import Observer, Observers
from pgqrs.storage.connections.caller import SessionOrConnection
from pgqrs.storage.heartbeat import Heartbeat
from pgqrs.storage.sql.channels import MESSAGES
from pgqrs.storage.store import Store, StoreSettings
from pgqrs.storage.writes.messages import SentMessage
from pgqrs.storage.writes.outbox import EmittedEvent
from pgqrs.types import StepRecord, WorkflowRecord


class LoopState:
    """The store of one event loop, with the notifier and the pollers that use it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.notifier = QueueNotifier(store.notify_queue)
        store.arrivals.on_sent(partial(self.notifier.notify, MESSAGES, 0))
        store.arrivals.on_ready(self.notifier.notify)
        reader = store.reader
        self.results = ResultPoller(
            reader.results, reader.tokens, reader.archived_results, store.results.keep_listening
        )
        store.results.on_ended(self.results.ended)
        self.replies = ReplyPoller(reader.replies)
        store.arrivals.on_reply(self.replies.notify)
        self.waits = ResultWaits()
        self.running: set[int] = set()
        """Ids of the workflows that `Submitter.run` is running.

        A second call of `Submitter.run` with the same key waits for their results.
        """

    async def cancel(self, workflow_id: int, *, interrupt: bool, token: int | None = None) -> None:
        """Cancel a workflow, and poll at once for its result."""
        ended = await self.store.operations.cancel(workflow_id, interrupt=interrupt, token=token)
        if ended is not None and self.store.observer is not None:
            self.store.observer.workflow_ended(*ended)
        self.notify_finished(workflow_id)

    def notify_finished(self, workflow_id: int) -> None:
        """Poll at once for a workflow that has ended in this process."""
        self.results.notify(workflow_id)
        self.replies.notify(workflow_id)

    def submitting(self, name: str, queue: str, count: int = 1) -> AbstractContextManager[str | None]:
        """Surround the write of submissions; the context is their trace context."""
        observer = self.store.observer
        return nullcontext() if observer is None else observer.submitting(name, queue, count)

    def enqueued(
        self, name: str, queue: str, new: AbstractSet[int | None], session: SessionOrConnection | None = None
    ) -> None:
        """Tell the observer about new workflows, by their tokens, once they are committed."""
        observer = self.store.observer
        if observer is None or not new:
            return
        if session is None:
            observer.workflows_enqueued(name, queue, len(new))
        else:
            tell = partial(observer.workflows_enqueued, name, queue, len(new))
            self.store.sessions.callers.after_commit(session, f"enqueued {min(filter(None, new))}", tell)

    async def close(self) -> None:
        """Fail the callers that wait for results and replies, and send the pending notifications."""
        await self.results.close()
        await self.replies.close()
        await self.notifier.close()


class LoopStates:
    """The states of an `Admin` in the event loops that use it, each created on demand.

    Handles and submitters hold this object. It is also the `ContextHost` of the workflows that they run.
    """

    def __init__(self, settings: StoreSettings) -> None:
        self.settings = settings
        self.stores: dict[asyncio.AbstractEventLoop, Store] = {}
        self.heartbeat: Heartbeat | None = None
        self.ordered_queues: set[str] = set()
        """The queues that this `Admin` has set to be ordered: it refuses submissions to them without a key."""
        self._states: dict[asyncio.AbstractEventLoop, LoopState] = {}
        self._pid = os.getpid()
        self._inherited: dict[asyncio.AbstractEventLoop, Store] = {}

    @property
    def codec(self) -> Codec:
        """The codec of inputs, outcomes and errors."""
        return self.settings.codec

    def observe(self, observer: Observer) -> None:
        """Add an observer to those of the stores that are to be created; raise if there is a store."""
        if self.stores:
            raise ConfigurationError(
                "this Admin has been used already, and its first events are lost: add the observer, as "
                "`instrument` does, right after you create the Admin."
            )
        known = self.settings.observer
        self.settings = self.settings._replace(observer=observer if known is None else Observers(known, observer))

    async def loop_state(self) -> LoopState:
        """Return the state of the running event loop."""
        loop = asyncio.get_running_loop()
        self._leave_other_process()
        state = self._states.get(loop)
        if state is None:
            state = self._states.setdefault(loop, LoopState(await self.store()))
        return state

    async def store(self) -> Store:
        """Return the store of the running event loop.

        Raises `ConfigurationError` if the application's engine belongs to another event loop.
        """
        loop = asyncio.get_running_loop()
        self._leave_other_process()
        store = self.stores.get(loop)
        if store is None:
            self._leave_other_loops()
            if self.heartbeat is None:
                settings = self.settings
                self.heartbeat = Heartbeat(settings.source, settings.schema, settings.limits)
            store = self.stores[loop] = Store(self.settings, self.heartbeat)
            await store.open()
        return store

    async def close(self) -> None:
        """Close the state and the store of the running event loop; both can be used again."""
        loop = asyncio.get_running_loop()
        self._leave_other_process()
        state, store = self._states.get(loop), self.stores.get(loop)
        try:
            if state is not None:
                await state.close()
        finally:
            if store is not None:
                await store.close()

    async def send(self, message: SentMessage, session: SessionOrConnection | None = None) -> None:
        """Send a message, and announce it; with a caller's `session`, it is sent when the caller commits."""
        store = (await self.loop_state()).store
        await (await store.operations_for(session)).send(message)
        if store.observer is not None:
            store.observer.message_sent()
        self._announce(store, session)

    async def announce_sent(self, session: SessionOrConnection | None) -> None:
        """Announce messages that were sent otherwise than by `send`, when a caller's `session` commits."""
        self._announce(await self.store(), session)

    async def emit(self, event: EmittedEvent, session: SessionOrConnection | None = None) -> bool:
        """Set an event of the schema, as `send` sends, and return whether it has this value now."""
        store = (await self.loop_state()).store
        is_set = await (await store.operations_for(session)).emit(event)
        if is_set:
            if store.observer is not None:
                store.observer.message_sent()
            self._announce(store, session)
        return is_set

    def _announce(self, store: Store, session: SessionOrConnection | None) -> None:
        if session is None:
            store.arrivals.sent()
        else:
            store.sessions.callers.after_commit(session, MESSAGES, store.arrivals.sent)

    async def steps(self, workflow_id: int, token: int | None = None) -> list[StepRecord]:
        """Return the records of a workflow's steps, in the order in which the steps began."""
        reader = (await self.store()).reader
        written = (await reader.workflow(workflow_id, token)).codec
        return [decode_listed_step(self.codec, each, written) for each in await reader.steps(workflow_id)]

    async def record(self, workflow_id: int, token: int | None = None) -> WorkflowRecord:
        """Return the record of a workflow; a payload that cannot be read is `Unreadable`."""
        return decode_listed_workflow(self.codec, await (await self.store()).reader.workflow(workflow_id, token))

    def _leave_other_process(self) -> None:
        """Drop the parent's stores after a fork: its ids, connections and executor do not belong to the child."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            # The reference keeps the parent's connections from being collected, and so closed, in this process.
            self._inherited = self.stores
            self.stores, self._states, self.heartbeat = {}, {}, None

    def _leave_other_loops(self) -> None:
        if self.stores and not self.settings.source.owned:
            raise ConfigurationError(
                "the engine of this Admin belongs to another event loop: create one engine and one Admin for each "
                "event loop, or pass a DSN."
            )
        for loop in [each for each in self.stores if each.is_closed()]:
            del self.stores[loop]
            self._states.pop(loop, None)
