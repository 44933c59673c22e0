"""`crash_everywhere`: kills a workflow before and after each durable write, and compares the outcomes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Self, TypeVar, TypeVarTuple, cast, overload
from uuid import uuid4

from pgqrs.client.admin import Admin
from pgqrs.codecs.base import codec_at
from pgqrs.codecs.records import StoredWorkflow, ValueContext, decode_workflow
from pgqrs.decorators import AnyFunction
from pgqrs.engine.run import Run
from pgqrs.errors import InvariantError, RunEndedError
from pgqrs.observer import Observer
from pgqrs.storage.claim_connection import ClaimConnection
from pgqrs.storage.queries.workflows import WorkflowRepository
from pgqrs.storage.records import ClaimedRun
from pgqrs.storage.store import Store
from pgqrs.storage.writes.continuations import RunContinuation
from pgqrs.storage.writes.runs import RunEnd, RunRelease
from pgqrs.storage.writes.states import StatefulOutcome
from pgqrs.storage.writes.steps import FailedAttempt, StepOutcome
from pgqrs.testing import sql as testbed
from pgqrs.testing.clock import PAUSE, TestClock
from pgqrs.testing.comparison import Recorded
from pgqrs.testing.crash_report import Compare, RunReport, differences_of, hint_of
from pgqrs.testing.enqueued import deliver, skipping
from pgqrs.testing.scratch import scratch_admin
from pgqrs.types import StepRecord, WorkflowStatus
from pgqrs.worker.batches import batched_workflows
from pgqrs.worker.runner import ClaimedTask, WorkflowRunner
from pgqrs.worker.worker import Worker
from pgqrs.workflow.context import PyWorkflow
from pgqrs.workflow.definition import Definition, definition_of

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

DYING = 5.0
"""Seconds that the task of a killed run may take to end."""

_ENDED = (WorkflowStatus.SUCCESS, WorkflowStatus.ERROR, WorkflowStatus.CANCELLED)


@overload
async def crash_everywhere(
    workflow: Callable[[PyWorkflow, *Ts], Awaitable[R]],
    *args: *Ts,
    admin: Admin | None = None,
    compare: Compare | None = None,
    timeout: float = 30.0,
    workflows: Iterable[AnyFunction] = (),
) -> R: ...


@overload
async def crash_everywhere(
    workflow: Callable[[PyWorkflow, *Ts], Awaitable[R]],
    *,
    arrange: Callable[[], Awaitable[tuple[*Ts]]],
    admin: Admin | None = None,
    compare: Compare | None = None,
    timeout: float = 30.0,
    workflows: Iterable[AnyFunction] = (),
) -> R: ...


async def crash_everywhere(  # type: ignore[misc]  # to mypy `*args: *Ts` is more than `*args: Any`
    workflow: Callable[..., Awaitable[R]],
    *args: Any,
    arrange: Callable[[], Awaitable[tuple[Any, ...]]] | None = None,
    admin: Admin | None = None,
    compare: Compare | None = None,
    timeout: float = 30.0,
    workflows: Iterable[AnyFunction] = (),
) -> R:
    """Assert that a workflow survives a crash at any moment, and return its result.

    The workflow runs once undisturbed, as a `Worker` runs it. Then it runs twice more for each durable write of
    that run, each time as a new workflow. The first run is killed right before the write. The second run is killed
    right after the write, before the process receives the server's answer. Another executor resumes each workflow
    and runs it to its end. A durable write is the outcome of a step, the commit of a transactional step, a failed
    attempt, the time of a sleep, the release of a run that sleeps or is retried, a continuation as new, or the
    end.

    Each run must meet these conditions:

    * The result is the same; or the error has the same class and message, except for the workflow's id.
    * The same steps are recorded, and outcomes that were recorded before the crash are unchanged. If the workflow
      continues as new, these are the steps of its last generation.
    * No step's function begins more often than one crash explains, and no recorded step begins again.
    * The tables violate no invariant.

    Each workflow has a partition key of its own, and so an empty `ctx.state`.

    The kill is simulated, because the process lives on: the tasks of the run are cancelled. So ``finally:`` blocks
    run, but nothing that they do is recorded. A thread of ``@step(thread=True)`` runs to its end.

    Args:
        workflow: A function decorated with `@workflow`.
        *args: The arguments of each run; for a workflow with `batch`, the submissions of one batch, of which the
            first one is compared.
        arrange: An async function that is called before each run and returns the arguments in a tuple. Pass it
            instead of `args` if each run needs rows of its own, as an unpaid order; it creates the rows and
            commits them.
        admin: The `Admin` of the fixture `pgqrs_admin` or of `scratch_admin`, whose time is skipped, or any other
            `Admin`; an embedded server by default.
        compare: A function that receives a result, as the workflow's handle returns it, and returns the part that
            must be the same. Pass it if results contain the id of a workflow or of a row, a random number or the
            time.
        timeout: Maximum seconds of each run, without `arrange`; 30 by default.
        workflows: Functions decorated with `@workflow` that a worker runs meanwhile, as the children of the
            workflow in its queue. This worker does not crash.

    Returns:
        The result of the undisturbed run.

    Raises:
        AssertionError: A run differs from the undisturbed run; the message names the crash and the difference.
        Exception: The workflow fails with this error in each run, or `arrange` fails.
        TypeError: Both `args` and `arrange` are passed, or `arrange` does not return a tuple.
    """
    definition = definition_of(workflow)
    if args and arrange is not None:
        raise TypeError("`args` or `arrange` must be passed, not both; let `arrange` return the arguments.")
    arguments = _Arguments(args, arrange)
    async with AsyncExitStack() as stack:
        base = await stack.enter_async_context(scratch_admin()) if admin is None else admin
        await stack.enter_async_context(skipping(base))
        observers = _CrashObserver(), _CrashObserver()
        victim, survivor = [await stack.enter_async_context(_twin(base, each)) for each in observers]
        harness = _CrashHarness((victim, survivor), observers, definition, arguments, timeout)
        lab = await stack.enter_async_context(harness)
        if others := list(workflows):
            await stack.enter_async_context(Worker(base, others, queues=[lab.queue]))
        undisturbed = await lab.run(_Crash())
        for number in range(1, len(undisturbed.writes) + 1):
            for after in (False, True):
                crash = _Crash(number, after=after)
                await _check(lab, undisturbed, await lab.run(crash), crash, compare)
        return await survivor.handle(undisturbed.record.id, workflow).result()


class _Arguments:
    """The arguments of the runs: the same for all runs, or the result of `arrange` for each run."""

    def __init__(self, same: tuple[Any, ...], arrange: Callable[[], Awaitable[tuple[Any, ...]]] | None) -> None:
        self._same = same
        self._arrange = arrange

    async def of_a_run(self) -> tuple[Any, ...]:
        """Return the arguments of the next run."""
        if self._arrange is None:
            return self._same
        given: Any = await self._arrange()
        if not isinstance(cast(object, given), tuple):
            raise TypeError(
                f"`arrange` must return the workflow's arguments in a tuple, got {type(given).__name__}; "
                "write `return (order_id,)`."
            )
        return cast("tuple[Any, ...]", given)


@asynccontextmanager
async def _twin(admin: Admin, observer: _CrashObserver) -> AsyncGenerator[Admin]:
    """Yield another executor on the same tables; its process can crash between any two records."""
    clock = admin.clock
    async with admin.twin(observer=observer, max_batch=1) as twin:
        if isinstance(clock, TestClock):
            clock.follow(twin)
        yield twin
        if isinstance(clock, TestClock):
            clock.leave(twin)


class _Crash:
    """A crash at the durable write `number` of a process, counted from 1, or no crash."""

    def __init__(self, number: int | None = None, *, after: bool = False) -> None:
        self._number = number
        self._after = after
        self.writes: list[str] = []
        self.happened = asyncio.Event()
        self._dead: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def __str__(self) -> str:
        if self._number is None:
            return "Without a crash"
        place = f"{'after' if self._after else 'before'} write {self._number}"
        if not self.happened.is_set():
            return f"With a crash planned {place}, and only {len(self.writes)} writes made,"
        return f"After a crash {place} ({self.writes[-1]})"

    async def writing(self, records: Sequence[object]) -> None:
        """Hold up a write if the process is dead, or dies right before this write."""
        if not self.happened.is_set() and not all(map(_is_mark, records)):
            self.writes.append(" and ".join(map(_described, records)))
            if len(self.writes) == self._number and not self._after:
                self.happened.set()
        await self._hold_if_dead()

    async def written(self, records: Sequence[object]) -> None:
        """Hold up the answer of a write if the process is dead, or dies right after this write."""
        if len(self.writes) == self._number and not all(map(_is_mark, records)):
            self.happened.set()
        await self._hold_if_dead()

    async def _hold_if_dead(self) -> None:
        if self.happened.is_set():
            await asyncio.shield(self._dead)

    async def wait(self, task: asyncio.Task[None]) -> bool:
        """Wait for the end of a task or for the crash, and return whether the crash happened."""
        happens = asyncio.get_running_loop().create_task(self.happened.wait())
        try:
            await asyncio.wait([task, happens], return_when=asyncio.FIRST_COMPLETED)
        finally:
            happens.cancel()
        return self.happened.is_set()

    def release_waiters(self) -> None:
        """Fail the writes that wait in the dead process: they were not written."""
        if not self._dead.done():
            self._dead.set_exception(ConnectionResetError("this process was killed"))
            self._dead.exception()  # retrieved, because no task may wait for it


class _CrashObserver(Observer):
    """Counts how often each step begins in a process, and simulates the crash of the process."""

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()
        self.crash: _Crash | None = None

    def step_began(self, workflow_id: int, step_id: str, attempt: int) -> None:  # noqa: ARG002  # as `Observer` has it
        """Count a step."""
        self.begun[step_id] += 1

    async def writing(self, records: Sequence[object]) -> None:
        """Hold up a write of a dead process."""
        if self.crash is not None:
            await self.crash.writing(records)

    async def written(self, records: Sequence[object]) -> None:
        """Hold up the answer of a write of a dead process."""
        if self.crash is not None:
            await self.crash.written(records)


class _CrashHarness:
    """Two executors: the first is killed, and the second resumes its workflows."""

    def __init__(
        self,
        admins: tuple[Admin, Admin],
        observers: tuple[_CrashObserver, _CrashObserver],
        definition: Definition,
        arguments: _Arguments,
        timeout: float,
    ) -> None:
        self._admins = admins
        self._observers = observers
        self._definition = definition
        self._arguments = arguments
        self._timeout = timeout
        self.queue = f"crash_everywhere {uuid4()}"  # a queue that no other worker serves
        self._stores: list[Store] = []
        self._watches: list[ClaimConnection] = []
        self._held: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        for admin in self._admins:
            store = await admin.store()
            self._stores.append(store)
            self._watches.append(await store.claim_connection(_ignore))
        return self

    async def __aexit__(self, *_error: object) -> None:
        if self._held is not None:
            await self._kill(self._held)
        for watch in self._watches:
            await watch.close()

    async def run(self, crash: _Crash) -> RunReport:
        """Run a new workflow to its end, with a crash on the way."""
        args = await self._arguments.of_a_run()
        try:
            async with asyncio.timeout(self._timeout):
                return await self._run(crash, args)
        except TimeoutError:
            raise AssertionError(
                f"{crash} the workflow {self._definition.name!r} did not end within {self._timeout:g} s."
            ) from None

    async def _run(self, crash: _Crash, args: tuple[Any, ...]) -> RunReport:
        for each in self._observers:
            each.begun = Counter()
        begun = [each.begun for each in self._observers]
        survivor = self._admins[1]
        workflow: Callable[..., Awaitable[Any]] = self._definition.function
        submit = survivor.options(queue=self.queue, partition_key=f"crash_everywhere {uuid4()}")
        if self._definition.batch is None:
            handle = await submit.enqueue(workflow, *args)
        else:
            handle, *_others = [await submit.enqueue(workflow, each) for each in args]
        run_id = await self._run_of(handle.id)
        self._observers[0].crash = crash
        try:
            await self._run_to_end(0, handle.id, crash)
        finally:
            crash.release_waiters()
            await self._stores[0].journal.drain()
            self._observers[0].crash = None
        kept = await self._steps(run_id)
        await self._find_dead(run_id)
        await self._run_to_end(1, handle.id, None)
        ended = await self._record(handle.id)
        generation = (await self._stores[1].history(run_id)).generation
        record = decode_workflow(survivor.codec, ended)
        return RunReport(
            crash.writes,
            record,
            Recorded(self._result(ended), record.output),
            await self._steps(run_id),
            begun[0] + begun[1],
            begun[1],
            {each.step_id: each for each in kept.values() if each.epoch > generation},
        )

    async def _run_of(self, workflow_id: int) -> int:
        """Return the id of the workflow that runs: of a submission, that of its batch, which is made at once."""
        batched = [each._replace(within=0.0) for each in batched_workflows([self._definition])]
        return (await self._watches[1].form_batches(batched, [self.queue])).lowest if batched else workflow_id

    async def _run_to_end(self, which: int, workflow_id: int, crash: _Crash | None) -> None:
        """Claim and run the workflow repeatedly, until it has ended or the executor is killed."""
        while crash is None or not crash.happened.is_set():
            claimed = await self._claim(which)
            if claimed is not None:
                await self._execute(which, claimed, crash)
            elif (await self._record(workflow_id)).status in _ENDED:
                return
            else:
                await asyncio.sleep(PAUSE)  # until the workflow is due

    async def _claim(self, which: int) -> ClaimedRun | None:
        names, queues = [self._definition.claimed_name], [self.queue]
        if (await self._watches[which].run_maintenance(names, queues)).has_new:
            await deliver(self._watches[which])
        found = await self._watches[which].claim(names, queues, 1)
        return found[0] if found else None

    async def _execute(self, which: int, claimed: ClaimedRun, crash: _Crash | None) -> None:
        admin = self._admins[which]
        runs = WorkflowRunner(admin, self._stores[which], {claimed.name: self._definition}, 1, _ignore)
        held = ClaimedTask(claimed, PyWorkflow(admin, claimed.workflow_id, claimed.name))
        self._stores[which].changing.add(claimed.workflow_id)  # as `WorkflowRunner.run` does; the run removes it
        self._held = asyncio.get_running_loop().create_task(runs.execute(held), name="pgqrs-crash-everywhere")
        if crash is None:
            await asyncio.wait([self._held])
        elif await crash.wait(self._held):
            self._fence(claimed.workflow_id)
            await self._kill(self._held)
        self._held = None

    def _fence(self, workflow_id: int) -> None:
        """Refuse all further writes of the run in this process."""
        run = self._stores[0].runs.get(workflow_id)
        if isinstance(run, Run):
            run.on_write_refused(RunEndedError(workflow_id))

    async def _kill(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        await asyncio.wait([task], timeout=DYING)
        if not task.done():
            raise AssertionError(
                f"the workflow {self._definition.name!r} did not end within {DYING:g} s of its cancellation."
            )

    async def _find_dead(self, workflow_id: int) -> None:
        """Release the workflow as maintenance does after it finds the lock of a dead executor free."""
        dead = self._stores[0].executor_id
        await self._stores[1].database.run_with_retries(
            lambda connection: WorkflowRepository(connection).release([workflow_id], dead)
        )

    async def _record(self, workflow_id: int) -> StoredWorkflow:
        return await self._stores[1].reader.workflow(workflow_id)

    def _result(self, ended: StoredWorkflow) -> Any:
        """Return the result of the workflow as its function is annotated; None if the workflow failed."""
        if ended.output is None:
            return None
        with ValueContext(ended.id):
            codec = self._definition.returns.codec(self._admins[1].codec)
            return codec_at(codec, "output", ended.id).decode(ended.output)

    async def _steps(self, workflow_id: int) -> dict[str, StepRecord]:
        return {each.step_id: each for each in await self._admins[1].list_steps(workflow_id)}

    async def verify(self) -> None:
        """Check the invariants of the tables; `Admin.verify` tells of what one query finds at once."""
        survivor = self._admins[1]
        find = partial(testbed.is_violated, schema=survivor.schema)
        if await self._stores[1].database.run_with_retries(find):
            await survivor.verify(deep=True)


async def _check(
    lab: _CrashHarness, undisturbed: RunReport, trial: RunReport, crash: _Crash, compare: Compare | None
) -> None:
    differences = [*differences_of(undisturbed, trial, compare)]
    try:
        await lab.verify()
    except InvariantError as error:
        differences.append(str(error))
    if not differences:
        return
    hint = hint_of(undisturbed, await lab.run(_Crash()), compare)
    listed = "\n".join(f"    {each}" for each in differences)
    raise AssertionError(
        f"{crash} the workflow {undisturbed.record.name!r} differs from the run without a crash:\n{listed}{hint}"
    )


def _is_mark(record: object) -> bool:
    """Return whether a record is the RUNNING mark of a long step, on which no task and no record depends."""
    return isinstance(record, StepOutcome) and record.output is None and record.error is None


def _described(record: object) -> str:
    match record:
        case FailedAttempt():
            return f"a failed attempt of step {record.step_id!r}"
        case StepOutcome() | StatefulOutcome():
            return f"the outcome of step {record.step_id!r}"
        case RunEnd():
            return "the workflow's end"
        case RunContinuation():
            return "the continuation of the workflow as new"
        case RunRelease():
            return f"the release of the workflow as {record.status}"
        case _:
            return type(record).__name__


def _ignore(_notification: object) -> None:
    """Ignore a notification."""
