"""The queues without a worker: what is in them, and running it here."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from pgqrs.admin import Admin
from pgqrs.decorators import Definition, definition_of
from pgqrs.runtime.here import Here
from pgqrs.runtime.runs import Runs
from pgqrs.storage import testbed
from pgqrs.storage.watch import Watch
from pgqrs.testing.clocks import PAUSE, TestClock
from pgqrs.types import WorkflowRecord, WorkflowStatus

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
    in this `queue`, if they are. One that a worker has begun counts while it sleeps or waits for a retry. Raises
    `AssertionError`, which lists what is enqueued.
    """
    definition = definition_of(workflow)
    queued = await _queued(admin)
    wanted = _Wanted(admin, definition, args, kwargs, key=key, queue=queue)
    for each in queued:
        if wanted.is_met_by(each):
            return each
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
    queued = await _queued(admin)
    wanted = _Wanted(admin, definition_of(workflow), args, kwargs, key=key, queue=queue)
    found = [each for each in queued if wanted.is_met_by(each)]
    if found:
        raise AssertionError(f"{wanted} is enqueued; {_listed(found)}")


async def run_enqueued(
    admin: Admin,
    workflows: Iterable[Callable[..., Awaitable[Any]]],
    *,
    queues: Iterable[str] | None = None,
) -> int:
    """Run here, one after another, all that is enqueued of these workflows, and what they enqueue, to its end.

    They run as in a `Worker`: by priority, then by age; an error of a workflow is recorded, and its handle raises
    it. `queues` are all of them by default. What sleeps or is to be tried again has its time skipped where the
    `admin` has a `TestClock`; where it has not, what is due later is left. Returns how many workflows were run.
    """
    definitions = {each.name: each for each in map(definition_of, workflows)}
    chosen = None if queues is None else list(queues)
    here = await admin.here()
    watch = await here.store.watch(lambda _queue: None)
    try:
        async with skipping(admin):
            return await _Inline(admin, here, watch, definitions, chosen).run()
    finally:
        await watch.close()


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
        self._definition = definition
        self._key = key
        self._queue = queue
        given = {"args": list(args), "kwargs": kwargs}
        # As it would be stored: a tuple is a list.
        self._input = admin.codec.decode(admin.codec.encode(given).text) if args or kwargs else None

    def __str__(self) -> str:
        shown = "..." if self._input is None else _shown(self._input)
        key = "" if self._key is None else f" of the key {self._key!r}"
        queue = "" if self._queue is None else f" in the queue {self._queue!r}"
        return f"{self._definition.name}({shown}){key}{queue}"

    def is_met_by(self, record: WorkflowRecord) -> bool:
        """Tell whether a workflow is it."""
        return (
            record.name == self._definition.name
            and self._key in {None, record.key}
            and self._queue in {None, record.queue}
            and (self._input is None or self._bound(record.input) == self._bound(self._input))
        )

    def _bound(self, given: Any) -> object:
        """Return arguments by the parameters' names, for they can be given by position or by name."""
        try:
            bound = inspect.signature(self._definition.function).bind(None, *given["args"], **given["kwargs"])
        except TypeError:
            return given
        bound.apply_defaults()
        return dict(list(bound.arguments.items())[1:])


class _Inline:
    """Claims as a worker does, one workflow at a time, until there is none."""

    def __init__(
        self,
        admin: Admin,
        here: Here,
        watch: Watch,
        definitions: Mapping[str, Definition],
        queues: list[str] | None,
    ) -> None:
        self._here = here
        self._watch = watch
        self._names = list(definitions)
        self._queues = queues
        self._skips = isinstance(admin.clock, TestClock)
        self._left = asyncio.Event()
        self._runs = Runs(admin, here.store, definitions, 1, self._tell)
        self._ids: set[int] = set()

    async def run(self) -> int:
        """Run until nothing is left, and return how many workflows that were."""
        while queues := await self._busy_queues():
            await self._watch.tick(self._names, queues)
            if await self._run_next(queues):
                continue
            if not self._skips:
                break
            await asyncio.sleep(PAUSE)  # until time has been skipped
        return len(self._ids)

    async def _busy_queues(self) -> list[str]:
        found = await self._here.store.database.patiently(lambda each: testbed.queues(each, self._names))
        return [each for each in found if self._queues is None or each in self._queues]

    async def _run_next(self, queues: list[str]) -> bool:
        claimed = await self._watch.claim(self._names, queues, 1)
        for each in claimed:
            self._ids.add(each.workflow_id)
            self._left.clear()
            self._runs.take(each)
            await self._left.wait()
        return bool(claimed)

    def _tell(self, workflow_id: int) -> None:
        self._left.set()
        self._here.results.tell(workflow_id)


def skipping(admin: Admin) -> AbstractAsyncContextManager[None]:
    """Return a context in which the time of an `Admin` is skipped, if it has a `TestClock`."""
    return admin.clock.skipping() if isinstance(admin.clock, TestClock) else nullcontext()


async def _queued(admin: Admin) -> list[WorkflowRecord]:
    """Return all that waits in a queue, newest first."""
    found: list[WorkflowRecord] = []
    before: int | None = None
    while page := await admin.list_workflows(limit=PAGE, before=before):
        found += [each for each in page if each.queue is not None and each.status in _QUEUED]
        before = page[-1].id
    return found


def _listed(records: list[WorkflowRecord]) -> str:
    if not records:
        return "nothing is."
    lines = [f"    {_told(each)}" for each in records[:SHOWN]]
    more = len(records) - SHOWN
    if more > 0:
        lines.append(f"    and {more} more")
    return "\n".join(["there are:", *lines])


def _told(record: WorkflowRecord) -> str:
    key = "" if record.key is None else f", key {record.key!r}"
    return f"{record.id}: {record.name}({_shown(record.input)}), queue {record.queue!r}{key}, {record.status}"


def _shown(given: Any) -> str:
    named = [f"{name}={value!r}" for name, value in given["kwargs"].items()]
    return ", ".join([*map(repr, given["args"]), *named])
