"""The queues without a worker: what is in them, and running it here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, NamedTuple

from pgqrs.client.admin import Admin
from pgqrs.client.loop_state import LoopState
from pgqrs.codecs.base import stored_name
from pgqrs.codecs.records import as_text, decode_workflow
from pgqrs.decorators import AnyFunction
from pgqrs.errors import SerializationError
from pgqrs.storage.claim_connection import ClaimConnection
from pgqrs.testing import sql as testbed
from pgqrs.testing.clock import PAUSE, TestClock
from pgqrs.testing.comparison import Arguments
from pgqrs.types import WorkflowRecord, WorkflowStatus
from pgqrs.worker.runner import WorkflowRunner
from pgqrs.workflow.definition import Definition, definition_of

PAGE = 500
"""How many workflows are read at a time."""

SHOWN = 20
"""How many workflows a message lists."""

_QUEUED = (WorkflowStatus.PENDING, WorkflowStatus.WAITING)


async def assert_enqueued(
    admin: Admin,
    workflow: Callable[..., Awaitable[Any]],
    *args: Any,
    key: str | None = None,
    queue: str | None = None,
    **kwargs: Any,
) -> WorkflowRecord:
    """Assert that a workflow waits in a queue to be run, and return the newest that does.

    Of `workflow`, a function decorated with `@workflow`; with these arguments, if any are given; of this `key` and
    in this `queue`, if they are. Arguments are compared as they are recorded, whether they were given by position,
    by name, or left to their defaults. One that a worker has begun counts while it sleeps or waits for a retry.

    Raises `AssertionError`, which lists what is enqueued; `TypeError` for arguments that the workflow cannot be
    called with, and `SerializationError` for some that cannot be recorded, as `Admin.enqueue` does.
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
    """Assert that no such workflow waits in a queue; in everything else as `assert_enqueued`."""
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
    """Run here, one after another, all that is enqueued of these workflows, and what they enqueue, to its end.

    They run as in a `Worker`: by priority, then by age; an error of a workflow is recorded, and its handle raises
    it. `queues` are all of them by default. What sleeps or is to be tried again has its time skipped where the
    `admin` has a `TestClock`; where it has not, what is due later is left. What was written with another codec is
    left too, as a `Worker` leaves it. Returns how many workflows were run.
    """
    definitions = {each.name: each for each in map(definition_of, workflows)}
    chosen = None if queues is None else list(queues)
    here = await admin.loop_state()
    watch = await here.store.claim_connection(lambda _queue: None)
    try:
        async with skipping(admin):
            return await _Inline(admin, here, watch, definitions, chosen).run()
    finally:
        await watch.close()


class _Queued(NamedTuple):
    """What waits in a queue, and the text of its input."""

    record: WorkflowRecord
    input: str


class _Wanted:
    """What `assert_enqueued` looks for."""

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
        """Tell whether a workflow is it."""
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
        except (TypeError, SerializationError):  # written when the function was another
            return False


class _Inline:
    """Claims as a worker does, one workflow at a time, until there is none."""

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
        self._codec = stored_name(admin.codec)
        self._queues = queues
        self._skips = isinstance(admin.clock, TestClock)
        self._left = asyncio.Event()
        self._runs = WorkflowRunner(admin, here.store, definitions, 1, self._tell)
        self._ids: set[int] = set()

    async def run(self) -> int:
        """Run until nothing is left, and return how many workflows that were."""
        while queues := await self._busy_queues():
            await self._watch.run_maintenance(self._names, queues)
            if await self._run_next(queues):
                continue
            if not self._skips:
                break
            await asyncio.sleep(PAUSE)  # until time has been skipped
        return len(self._ids)

    async def _busy_queues(self) -> list[str]:
        found = await self._here.store.database.run_with_retries(
            lambda each: testbed.queues(each, self._names, self._codec)
        )
        return [each for each in found if self._queues is None or each in self._queues]

    async def _run_next(self, queues: list[str]) -> bool:
        claimed = await self._watch.claim(self._names, queues, 1)
        for each in claimed:
            self._ids.add(each.workflow_id)
            self._left.clear()
            self._runs.run(each)
            await self._left.wait()
        return bool(claimed)

    def _tell(self, workflow_id: int) -> None:
        self._left.set()
        self._here.results.notify_finished(workflow_id)


def skipping(admin: Admin) -> AbstractAsyncContextManager[None]:
    """Return a context in which the time of an `Admin` is skipped, if it has a `TestClock`."""
    return admin.clock.skipping() if isinstance(admin.clock, TestClock) else nullcontext()


async def _queued(admin: Admin) -> list[_Queued]:
    """Return all that waits in a queue, newest first."""
    store = await admin.store()
    found: list[_Queued] = []
    before: int | None = None
    while page := await store.workflows(as_text, status=None, name=None, limit=PAGE, before=before):
        queued = [each for each in page if each.queue is not None and each.status in _QUEUED]
        found += [_Queued(decode_workflow(admin.codec, each), each.input) for each in queued]
        before = page[-1].id
    return found


def _listed(queued: list[_Queued]) -> str:
    if not queued:
        return "nothing is."
    lines = [f"    {_told(each.record)}" for each in queued[:SHOWN]]
    more = len(queued) - SHOWN
    if more > 0:
        lines.append(f"    and {more} more")
    return "\n".join(["there are:", *lines])


def _told(record: WorkflowRecord) -> str:
    key = "" if record.key is None else f", key {record.key!r}"
    return f"{record.id}: {record.name}({_shown(record.input)}), queue {record.queue!r}{key}, {record.status}"


def _shown(given: Any) -> str:
    named = [f"{name}={value!r}" for name, value in given["kwargs"].items()]
    return ", ".join([*map(repr, given["args"]), *named])
