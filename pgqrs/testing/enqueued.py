"""The queues without a worker: assertions on enqueued workflows, and their execution in the test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, NamedTuple

from pgqrs.client.admin import Admin
from pgqrs.client.loop_state import LoopState
from pgqrs.codecs.base import stored_name
from pgqrs.codecs.records import decode_workflow
from pgqrs.decorators import AnyFunction
from pgqrs.errors import SerializationError
from pgqrs.storage.claim_connection import ClaimConnection
from pgqrs.storage.records import ClaimedRun
from pgqrs.storage.selection.filters import WorkflowFilter
from pgqrs.testing import sql as testbed
from pgqrs.testing.clock import PAUSE, TestClock
from pgqrs.testing.comparison import Arguments
from pgqrs.types import WorkflowRecord, WorkflowStatus
from pgqrs.worker.batches import batched_workflows
from pgqrs.worker.runner import WorkflowRunner
from pgqrs.workflow.definition import Definition, definition_of

PAGE = 500
"""Maximum workflows that one statement reads."""

SHOWN = 20
"""Maximum workflows that a message lists."""

_QUEUED = (WorkflowStatus.PENDING, WorkflowStatus.WAITING)


async def assert_enqueued(
    admin: Admin,
    workflow: Callable[..., Awaitable[Any]],
    *args: Any,
    key: str | None = None,
    queue: str | None = None,
    **kwargs: Any,
) -> WorkflowRecord:
    """Assert that a workflow is enqueued and has not ended, and return the newest match.

    Arguments are compared as they are recorded, whether they were passed by position, by name, or by default. A
    workflow that a worker has started counts while it sleeps or waits for a retry.

    Args:
        admin: The client of the database.
        workflow: A function decorated with `@workflow`.
        *args: Arguments of the workflow. If no arguments are passed, workflows with any arguments match.
        key: The idempotency key of the workflow; any key, or none, by default.
        queue: The name of the queue; any queue by default.
        **kwargs: Arguments of the workflow by name.

    Returns:
        The record of the newest matching workflow.

    Raises:
        AssertionError: No enqueued workflow matches; the message lists the enqueued workflows.
        SerializationError: The codec cannot encode the arguments.
        TypeError: The function is not a workflow, or cannot be called with the arguments.
    """
    wanted = _Wanted(admin, definition_of(workflow), args, kwargs, key=key, queue=queue)
    queued = await _queued(admin)
    for each in queued:
        if wanted.is_met_by(each):
            return each.record
    raise AssertionError(f"{wanted} is not enqueued; {_listed(queued)}")


async def assert_not_enqueued(
    admin: Admin,
    workflow: Callable[..., Awaitable[Any]],
    *args: Any,
    key: str | None = None,
    queue: str | None = None,
    **kwargs: Any,
) -> None:
    """Assert that no enqueued workflow matches.

    Args:
        admin: The client of the database.
        workflow: A function decorated with `@workflow`.
        *args: Arguments of the workflow. If no arguments are passed, workflows with any arguments match.
        key: The idempotency key of the workflow; any key, or none, by default.
        queue: The name of the queue; any queue by default.
        **kwargs: Arguments of the workflow by name.

    Raises:
        AssertionError: An enqueued workflow matches; the message lists the matching workflows.
        SerializationError: The codec cannot encode the arguments.
        TypeError: The function is not a workflow, or cannot be called with the arguments.
    """
    wanted = _Wanted(admin, definition_of(workflow), args, kwargs, key=key, queue=queue)
    found = [each for each in await _queued(admin) if wanted.is_met_by(each)]
    if found:
        raise AssertionError(f"{wanted} is enqueued; {_listed(found)}")


async def run_enqueued(
    admin: Admin,
    workflows: Iterable[AnyFunction],
    *,
    queues: Iterable[str] | None = None,
) -> int:
    """Run the enqueued workflows, and the workflows that they enqueue, here to their end, one after another.

    Workflows run as in a `Worker`: by priority, then by age. Their messages are delivered, and their children run
    if they are among `workflows`. An error of a workflow is recorded, and its handle raises it. If the `admin` has
    a `TestClock`, the time of sleeps, retries, timeouts and rates is skipped; otherwise workflows that are due
    later are not run. A workflow that can only wait for a message, an event or a child of another name is left
    waiting. Workflows of a paused queue, and those that are stored with another codec, are not run.
    Submissions of a workflow with `batch` are put into batches at once, without the time in which a batch fills; a
    batch counts as one workflow.

    Args:
        admin: The client of the database.
        workflows: Functions decorated with `@workflow`. Workflows of other names are not run.
        queues: The names of the queues; all queues by default.

    Returns:
        The number of workflows that were run.

    Raises:
        TypeError: A function is not a workflow.
    """
    definitions = {each.claimed_name: each for each in map(definition_of, workflows)}
    chosen = None if queues is None else list(queues)
    here = await admin.loop_state()
    watch = await here.store.claim_connection(lambda _queue: None)
    try:
        async with skipping(admin):
            return await _Inline(admin, here, watch, definitions, chosen).run()
    finally:
        await watch.close()


class _Queued(NamedTuple):
    """An enqueued workflow and the text of its input."""

    record: WorkflowRecord
    input: str


class _Wanted:
    """The workflow that an assertion looks for."""

    def __init__(
        self,
        admin: Admin,
        definition: Definition,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        key: str | None,
        queue: str | None,
    ) -> None:
        self._codec = admin.codec
        self._definition = definition
        self._key = key
        self._queue = queue
        self._arguments = Arguments.of(self._codec, definition, args, kwargs) if args or kwargs else None

    def __str__(self) -> str:
        shown = "..." if self._arguments is None else _shown(self._arguments.plain)
        key = "" if self._key is None else f" of the key {self._key!r}"
        queue = "" if self._queue is None else f" in the queue {self._queue!r}"
        return f"{self._definition.name}({shown}){key}{queue}"

    def is_met_by(self, queued: _Queued) -> bool:
        """Return whether an enqueued workflow matches."""
        record = queued.record
        return (
            record.name == self._definition.name
            and self._key in {None, record.key}
            and self._queue in {None, record.queue}
            and (self._arguments is None or self._is_called_with(self._arguments, queued.input))
        )

    def _is_called_with(self, arguments: Arguments, text: str) -> bool:
        try:
            return arguments.equals(Arguments(self._codec, self._definition, text))
        except (TypeError, SerializationError):  # enqueued for another version of the function
            return False


class _Inline:
    """Claims and runs one workflow at a time, as a worker does, until no workflow is left."""

    def __init__(
        self,
        admin: Admin,
        here: LoopState,
        watch: ClaimConnection,
        definitions: Mapping[str, Definition],
        queues: list[str] | None,
    ) -> None:
        self._here = here
        self._watch = watch
        self._names = list(definitions)
        self._batched = [each._replace(within=0.0) for each in batched_workflows(definitions.values())]
        self._submitted = [each.name for each in self._batched]
        self._codec = stored_name(admin.codec)
        self._queues = queues
        self._skips = isinstance(admin.clock, TestClock)
        self._left = asyncio.Event()
        self._runner = WorkflowRunner(admin, here.store, definitions, 1, self._tell)
        self._ids: set[int] = set()

    async def run(self) -> int:
        """Run until no workflow is left that can go on, and return the number of workflows."""
        while queues := await self._busy_queues():
            await self._watch.run_maintenance(self._names, queues, self._submitted)
            if self._batched:
                await self._watch.form_batches(self._batched, queues)
            if await self._run_next(queues):
                continue
            if not self._skips:
                break
            await asyncio.sleep(PAUSE)  # until time has been skipped
        return len(self._ids)

    async def _busy_queues(self) -> list[str]:
        await deliver(self._watch)
        found = await self._here.store.database.run_with_retries(
            lambda each: testbed.queues(each, [*self._names, *self._submitted], self._codec)
        )
        return [each for each in found if self._queues is None or each in self._queues]

    async def _run_next(self, queues: list[str]) -> bool:
        claimed = await self._watch.claim(self._names, queues, 1)
        for each in claimed:
            self._ids.add(each.workflow_id)
            self._left.clear()
            self._runner.run(each)
            await self._left.wait()
        return bool(claimed)

    def _tell(self, claimed: ClaimedRun) -> None:
        self._left.set()
        self._here.notify_finished(claimed.workflow_id)


async def deliver(watch: ClaimConnection) -> None:
    """Deliver all messages to parked workflows, and cancel the children of ended parents, as a worker does."""
    again = True
    while again:
        delivered = await watch.deliver()
        again = delivered.again or (delivered.has_ended_parents and await watch.cancel_children())


def skipping(admin: Admin) -> AbstractAsyncContextManager[None]:
    """Return a context in which time is skipped if the `Admin` has a `TestClock`."""
    return admin.clock.skipping() if isinstance(admin.clock, TestClock) else nullcontext()


async def _queued(admin: Admin) -> list[_Queued]:
    """Return all enqueued workflows that have not ended, newest first; a batch is not enqueued."""
    reader = (await admin.store()).reader
    found: list[_Queued] = []
    after: int | None = None
    while True:
        rows, after = await reader.workflows(WorkflowFilter(), limit=PAGE, after=after)
        queued = [each for each in rows if each.queue is not None and each.status in _QUEUED and not each.is_batch]
        found += [_Queued(decode_workflow(admin.codec, each), each.input) for each in queued]
        if after is None:
            return found


def _listed(queued: list[_Queued]) -> str:
    if not queued:
        return "no workflow is enqueued."
    lines = [f"    {_described(each.record)}" for each in queued[:SHOWN]]
    more = len(queued) - SHOWN
    if more > 0:
        lines.append(f"    and {more} more")
    return "\n".join(["there are:", *lines])


def _described(record: WorkflowRecord) -> str:
    key = "" if record.key is None else f", key {record.key!r}"
    return f"{record.id}: {record.name}({_shown(record.input)}), queue {record.queue!r}{key}, {record.status}"


def _shown(given: Any) -> str:
    named = [f"{name}={value!r}" for name, value in given["kwargs"].items()]
    return ", ".join([*map(repr, given["args"]), *named])
