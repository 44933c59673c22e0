"""Runs claimed workflows, and ends, parks, requeues or releases each run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from time import monotonic
from typing import Any

from pgqrs.client.result_waits import ResultWaits
from pgqrs.codecs.base import is_sealing, seal_error
from pgqrs.codecs.failures import dump_error, shown_error
from pgqrs.codecs.records import ValueContext
from pgqrs.engine.lifecycle import Parked, RunStopped
from pgqrs.engine.parking import RunWorker
from pgqrs.errors import (
    DatabaseError,
    PgqrsError,
    PoisonedWorkflowError,
    RunEndedError,
    SchemaError,
    WorkflowCancelledError,
    WorkflowFencedError,
    WorkflowFinishedError,
    WorkflowNotFoundError,
)
from pgqrs.storage.claim_connection import MAX_CLAIM_BYTES
from pgqrs.storage.records import ClaimedRun
from pgqrs.storage.store import Store
from pgqrs.storage.writes.runs import RunRelease
from pgqrs.types import WorkflowStatus
from pgqrs.workflow.arguments import decode_input
from pgqrs.workflow.batching.items import decode_items, members_of
from pgqrs.workflow.context import ContextHost, PyWorkflow
from pgqrs.workflow.definition import Definition

REQUEUE_TIMEOUT = 5.0
"""Seconds that tasks may take to end after their runs were released, and again after their cancellation."""

FIRST_MISFIT = 0.5
"""Seconds for which a misfit is released after its first claim."""

MISFIT_FACTOR = 1.5
"""Factor between two successive waits of a misfit."""

MAX_MISFIT = 60.0
"""Maximum seconds for which a misfit is released."""

AVOIDED = 2
"""Multiple of a misfit's wait for which this worker does not claim it, so that other workers claim it first."""

MAX_AVOIDED = 1000
"""Maximum misfits that one claim excludes."""

REQUEUE_MARGIN = 15.0
"""Seconds that the requeue of a run may take in addition to the grace."""

MAX_HELD = 10
"""Maximum runs that a worker holds, as a multiple of its concurrency, runs that wait for workflows included."""

_STALE = (WorkflowFencedError, WorkflowFinishedError, WorkflowNotFoundError, RunEndedError)
_UNRECORDED = (DatabaseError, SchemaError)

_logger = logging.getLogger("pgqrs.worker")


class ClaimedTask:
    """A claimed run and its task; `adopted` is true once the workflow's context has the run.

    `size` is the bytes of input that it holds.
    """

    __slots__ = ("adopted", "claimed", "context", "size", "task")

    def __init__(self, claimed: ClaimedRun, context: PyWorkflow) -> None:
        self.claimed = claimed
        self.context = context
        self.adopted = False
        self.size = len(claimed.input)
        self.task: asyncio.Task[None] | None = None


class WorkflowRunner:
    """Runs claimed workflows, a task each, `concurrency` at once; it raises no error of a workflow.

    `over` is called with a claimed run when its task has ended and the slot is free again. `is_behind` returns
    whether more workflows may be ready, in the queue of a run or in all queues, than the worker has claimed.
    """

    def __init__(
        self,
        host: ContextHost,
        store: Store,
        definitions: Mapping[str, Definition],
        concurrency: int,
        over: Callable[[ClaimedRun], object],
        *,
        waits: ResultWaits | None = None,
        is_behind: Callable[[ClaimedRun], bool] = lambda _claimed: False,
    ) -> None:
        self._is_behind = is_behind
        self._waits = ResultWaits() if waits is None else waits
        self._has_warned = False
        self._host = host
        self._store = store
        self._definitions = definitions
        self._concurrency = concurrency
        self._over = over
        self._held: set[ClaimedTask] = set()
        self._bytes = 0
        self._misfits: set[str] = set()
        self._avoided: dict[int, float] = {}
        self._deadline: float | None = None
        self._draining = False
        self._requeues: set[asyncio.Task[None]] = set()

    @property
    def held(self) -> int:
        """Number of runs that the worker holds."""
        return len(self._held)

    @property
    def free(self) -> int:
        """Number of additional runs that can start now.

        A run that waits for the result of another workflow frees its slot: that workflow may need the slot to run.
        """
        held = len(self._held)
        if not self._waits:
            return self._concurrency - held
        waiting = sum(each.claimed.workflow_id in self._waits for each in self._held)
        most = MAX_HELD * self._concurrency
        if held >= most and waiting == held and not self._has_warned:
            self._has_warned = True
            _logger.warning(
                "pgqrs: all %d workflows of this worker wait for the results of other workflows, and it claims no "
                "more: give it a larger concurrency, or run the awaited workflows on another worker.",
                held,
            )
        return min(self._concurrency - held + waiting, most - held)

    @property
    def room(self) -> int:
        """Bytes of input that can be held in addition."""
        return MAX_CLAIM_BYTES - self._bytes

    def held_in(self, queue: str) -> int:
        """Return the number of runs of a queue, without those that wait for the result of another workflow."""
        own = (each.claimed for each in self._held if each.claimed.queue == queue)
        return sum(each.workflow_id not in self._waits for each in own)

    def has_room(self, claimed: ClaimedRun) -> bool:
        """Return whether no ready workflow waits for the slot of a run, as far as this worker knows."""
        return self.free > 0 and not self._is_behind(claimed)

    def avoided(self) -> list[int]:
        """Return the ids of recent misfits, which other workers should claim first."""
        now = monotonic()
        self._avoided = {each: until for each, until in self._avoided.items() if until > now}
        return list(self._avoided)[-MAX_AVOIDED:]

    def run(self, claimed: ClaimedRun) -> None:
        """Start a claimed run in a task of its own."""
        self._bytes += len(claimed.input)
        held = ClaimedTask(claimed, PyWorkflow(self._host, claimed.workflow_id, claimed.name))
        self._held.add(held)
        self._store.changing.add(claimed.workflow_id)
        name = f"pgqrs-workflow-{claimed.workflow_id}"
        held.task = asyncio.get_running_loop().create_task(self._hold(held), name=name)

    async def _hold(self, held: ClaimedTask) -> None:
        try:
            await self.execute(held)
        finally:
            if not held.adopted:
                self._store.changing.discard(held.claimed.workflow_id)
            self._held.discard(held)
            self._bytes -= held.size
            self._over(held.claimed)

    async def execute(self, held: ClaimedTask) -> None:
        """Run a claimed workflow to one of its ends, or release its run for a later claim."""
        claimed = held.claimed
        try:
            await self._begin(held)
        except Parked:
            pass
        except WorkflowCancelledError:
            _logger.info(
                "workflow %s (%r) was cancelled", claimed.workflow_id, claimed.name, extra=_known(claimed)
            )
        except _STALE as error:
            shown = self._shown(error)
            _logger.info(
                "a run of workflow %s (%r) was dropped: %s",
                claimed.workflow_id,
                claimed.name,
                shown,
                extra=_known(claimed),
            )
        except _UNRECORDED as error:
            self._log_failure(claimed, error)
            await self._release_for_recovery(
                claimed
            )  # the error may have kept the end of the run from being recorded
        except Exception as error:  # noqa: BLE001  # it is mostly recorded, and other runs continue
            self._log_failure(claimed, error)
            self._abandon(held)
        # A `RunStopped` here belongs to another workflow: this workflow's function called a step of it.
        except (asyncio.CancelledError, SystemExit, GeneratorExit, RunStopped) as crash:
            shown = self._shown(crash)
            _logger.warning(
                "a run of workflow %s (%r) crashed: %s",
                claimed.workflow_id,
                claimed.name,
                shown,
                extra=_known(claimed),
            )
            self._abandon(held)

    def _abandon(self, held: ClaimedTask) -> None:
        """Release an unresolved run for a later claim, as after a crash."""
        if held.adopted:
            held.context.abandon()
        else:
            self._store.abandon(held.claimed.workflow_id, held.claimed.epoch, held.claimed.claim)

    async def _begin(self, held: ClaimedTask) -> None:
        """Call the workflow's function, unless the workflow is poisoned, is a misfit, or the worker drains."""
        claimed, context = held.claimed, held.context
        definition = self._definitions[claimed.name]
        if claimed.attempts > definition.max_attempts:
            error = PoisonedWorkflowError(claimed.workflow_id, claimed.attempts - 1)
            await self._adopt(held)
            self._log_failure(claimed, error)
            await context.fail(error)
            return
        texts = await self._inputs_of_batch(definition, held)
        try:
            with ValueContext(claimed.workflow_id):
                function, args, kwargs = self._call_of(held, definition, texts)
        except Exception as misfit:  # noqa: BLE001  # a codec may raise any error
            await self._release_misfit(held, definition, misfit)
            return
        await self._adopt(held)
        if self._draining:
            await context.requeue(0.0)
            return
        await function(context, *args, **kwargs)

    async def _inputs_of_batch(self, definition: Definition, held: ClaimedTask) -> dict[int, str]:
        """Return the inputs of the submissions of a batch by their ids; none for any other workflow."""
        if definition.batch is None:
            return {}
        texts = await self._store.reader.inputs(members_of(held.claimed.input))
        size = sum(map(len, texts.values()))
        held.size += size
        self._bytes += size
        return texts

    def _call_of(
        self, held: ClaimedTask, definition: Definition, texts: Mapping[int, str]
    ) -> tuple[Callable[..., Awaitable[Any]], tuple[Any, ...], dict[str, Any]]:
        """Return the function of a claimed workflow and its arguments."""
        text = held.claimed.input
        if definition.batch is None:
            return definition.function, *decode_input(self._host.codec, definition, text)
        items = decode_items(self._host.codec, definition, members_of(text), texts)
        return definition.batch.function, (items,), {}

    async def _release_misfit(self, held: ClaimedTask, definition: Definition, error: Exception) -> None:
        """Release a misfit for a newer worker; at the last claim, record its error.

        A newer process may have enqueued the workflow.
        """
        claimed, context = held.claimed, held.context
        if claimed.attempts >= definition.max_attempts:
            self._log_failure(claimed, error)
            await self._adopt(held)
            await context.fail(error)
            return
        # Other workers should claim it first.
        wait = min(FIRST_MISFIT * MISFIT_FACTOR ** (claimed.attempts - 1), MAX_MISFIT)
        self._avoided[claimed.workflow_id] = monotonic() + AVOIDED * wait
        level = logging.INFO if claimed.name in self._misfits else logging.WARNING
        self._misfits.add(claimed.name)
        _logger.log(
            level,
            "workflow %s (%r) does not fit this worker and is released for %g s, for a newer worker; it fails at "
            "claim %d: %s",
            claimed.workflow_id, claimed.name, wait, definition.max_attempts, self._shown(error),
            extra={**_known(claimed), "delay": wait},
        )  # fmt: skip
        text = seal_error(self._host.codec, dump_error(error, terminal=True), claimed.workflow_id)
        left = RunRelease(
            claimed.workflow_id, claimed.epoch, WorkflowStatus.WAITING, wait=wait, error=text, claim=claimed.claim
        )
        await self._store.write_end(left)

    async def _adopt(self, held: ClaimedTask) -> None:
        claimed = held.claimed
        is_batch = self._definitions[claimed.name].batch is not None
        members = members_of(claimed.input) if is_batch else ()
        worker = RunWorker(self._definitions.keys(), partial(self.has_room, claimed))
        await held.context.attach_run(claimed, worker=worker, store=self._store, members=members)
        held.adopted = True
        self._store.changing.discard(held.claimed.workflow_id)

    def _log_failure(self, claimed: ClaimedRun, error: Exception) -> None:
        shown = self._shown(error)
        _logger.warning(
            "workflow %s (%r) failed: %s", claimed.workflow_id, claimed.name, shown, extra=_known(claimed)
        )

    def _shown(self, error: BaseException) -> str:
        return shown_error(error, is_sealed=is_sealing(self._host.codec))

    async def _release_for_recovery(self, claimed: ClaimedRun) -> None:
        """Release a run for another executor, and retry while the database is away; skip a run that has ended."""
        while True:
            try:
                left = RunRelease(claimed.workflow_id, claimed.epoch, WorkflowStatus.RUNNING, claim=claimed.claim)
                await self._store.write_end(left)
            except PgqrsError as error:
                if isinstance(error, _STALE):
                    return
                await asyncio.sleep(1)
            else:
                return

    def start_no_more(self) -> None:
        """Requeue the runs that are claimed from now on, and start none of them."""
        self._draining = True

    def shorten_grace(self, grace: float) -> None:
        """Limit the grace of executing steps to `grace` seconds from now; the drain may be in progress."""
        deadline = monotonic() + grace
        if self._deadline is None or deadline < self._deadline:
            self._deadline = deadline
            if self._requeues:
                self._requeue_all()

    async def drain(self) -> None:
        """Requeue every run: at once between two steps, otherwise when its steps have ended or the grace is over.

        `shorten_grace` sets the grace. The call returns when all tasks have ended, or do not end after their
        cancellation.
        """
        self.start_no_more()
        self._requeue_all()
        while self._requeues:
            await asyncio.wait(self._requeues)
        await self._end_tasks()

    def _requeue_all(self) -> None:
        grace = 0.0 if self._deadline is None else max(0.0, self._deadline - monotonic())
        for held in self._held:
            if held.adopted:
                task = asyncio.get_running_loop().create_task(self._requeue(held, grace))
                self._requeues.add(task)
                task.add_done_callback(self._requeues.discard)

    async def _requeue(self, held: ClaimedTask, grace: float) -> None:
        """Requeue a run for another worker, without counting an attempt."""
        try:
            async with asyncio.timeout(grace + REQUEUE_MARGIN):
                await held.context.requeue(grace)
        except (PgqrsError, TimeoutError) as error:
            # The same error may keep the end of this executor from being recorded: workers will find it dead.
            workflow_id, shown = held.claimed.workflow_id, self._shown(error)
            _logger.warning(
                "workflow %s could not be requeued: %s", workflow_id, shown, extra={"workflow_id": workflow_id}
            )

    async def _end_tasks(self) -> None:
        """Wait for the tasks of all released runs; cancel the tasks that remain, and wait again."""
        for cancelled in (False, True):
            tasks = [held.task for held in self._held if held.task is not None]
            if tasks and cancelled:
                for task in tasks:
                    task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=REQUEUE_TIMEOUT)
        if self._held:
            _logger.warning(
                "pgqrs: the tasks of %d workflows did not end after their cancellation", len(self._held)
            )


def _known(claimed: ClaimedRun) -> dict[str, object]:
    return {"workflow_id": claimed.workflow_id, "workflow_name": claimed.name}
