"""The real pgqrs, driven by the state machine of the model: several executors on one PostgreSQL.

Time stands still unless it is made to pass: beats come an hour apart, and every time in the tables is shifted.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import asyncpg
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from pgqrs import Admin, Every, PyWorkflow, step, workflow
from pgqrs.storage.claim_connection import ClaimConnection, MaintenanceResult
from pgqrs.storage.connections.database import Limits
from pgqrs.storage.queries import executors
from pgqrs.storage.records import ClaimedRun, StoredOutcome
from pgqrs.storage.schedules.firing import ScheduleFiring
from pgqrs.storage.sql.addresses import SEPARATOR
from pgqrs.storage.sql.channels import executor_channel
from pgqrs.storage.sql.tokens import new_token
from pgqrs.storage.store import Store
from pgqrs.storage.writes.children import NewChild, StartedChildren
from pgqrs.storage.writes.continuations import RunContinuation
from pgqrs.storage.writes.messages import ReceivedMessage
from pgqrs.storage.writes.outbox import OutgoingMessage, SendingStep, SetEvent
from pgqrs.storage.writes.runs import RunEnd, RunRelease, SagaMark
from pgqrs.storage.writes.steps import FailedAttempt, StepOutcome
from pgqrs.storage.writes.waits import StepWait, WaitingStep
from pgqrs.testing.sql import violations
from pgqrs.types import WorkflowStatus
from tests.support.journal_records import claimed, end_run, fail_attempt, leave_run
from tests.support.model_flow import Listed, Schedule
from tests.support.model_messages import UNDOABLE, Message, Talk, Wait
from tests.support.model_reference import ABANDONED, EXPIRY, Claimed, Executor, Reference, Run, Step, Workflow
from tests.support.waiting import until

T = TypeVar("T")

UNIT = 1000.0
"""How many seconds a unit of the model's time is."""

MORE = 2.0
"""What passes with every shift beyond whole units, in seconds, so that what is due is past its time, and its grace."""

PATIENCE = 10.0
"""How long to wait for what happens by itself, in seconds."""

LIMITS = Limits(
    timeout=PATIENCE,
    outage_timeout=PATIENCE,
    heartbeat_interval=3600.0,
    heartbeat_timeout=EXPIRY * UNIT,
    unattended=1e9,
)


@step
async def give_back(ctx: PyWorkflow, value: Any) -> Any:
    """Undo a step."""
    return value


def undoable(name: str) -> Callable[[PyWorkflow], Awaitable[Any]]:
    """Return a step of a saga, which the machine records itself."""

    @step(id=name, undo=give_back)
    async def own(ctx: PyWorkflow) -> Any:
        raise AssertionError("a run that unwinds begins no step")

    return own


STEPS = [undoable(name) for name in (*UNDOABLE, "last")]
"""The last one is never recorded: a saga whose steps are all recorded has succeeded."""


async def undo_all(ctx: PyWorkflow) -> None:
    """Replay the steps of a saga. The machine plays all runs itself but those that unwind."""
    async with ctx.saga():
        await asyncio.gather(*(each(ctx) for each in STEPS))


@workflow(name="first")
async def first(ctx: PyWorkflow, number: int) -> None:
    """Undo a saga."""
    await undo_all(ctx)


@workflow(name="second")
async def second(ctx: PyWorkflow, number: int) -> None:
    """Undo a saga."""
    await undo_all(ctx)


Meanwhile = Callable[[], Awaitable[object]]

FUNCTIONS: dict[str, Callable[..., Any]] = {"first": first, "second": second}


class Told:
    """A run, as far as a store needs to know it: it hears that somebody wants it cancelled."""

    busy_with = None

    def __init__(self) -> None:
        self.heard = asyncio.Event()
        self.interrupt = False

    def cancel(self, *, interrupt: bool) -> None:
        self.interrupt = interrupt
        self.heard.set()


class Process:
    """One executor: an `Admin`, and the watch of a worker."""

    def __init__(self, dsn: str, schema: str) -> None:
        self.admin = Admin(dsn, schema)
        loops = self.admin._loops
        loops.settings = loops.settings._replace(limits=LIMITS)
        self.store: Store
        self._watch: ClaimConnection | None = None

    async def open(self) -> None:
        self.store = await self.admin.store()
        # The runs of the model have no code that carries them out, and a beat would give up those older than 5 s.
        self.store.without_task = lambda _held: []  # type: ignore[method-assign]

    async def watch(self) -> ClaimConnection:
        if self._watch is None:
            self._watch = await self.store.claim_connection(lambda _queue: None)
        return self._watch

    async def close(self) -> None:
        if self._watch is not None:
            await self._watch.close()
        self._watch = None
        self.store.runs.clear()
        await self.admin.close()


class Driver:
    """Processes on one schema, and a raw connection that makes time pass and looks at the tables."""

    def __init__(self, dsn: str, schema: str, count: int) -> None:
        self._dsn, self._schema = dsn, schema
        self.processes = [Process(dsn, schema) for _ in range(count)]
        self.ids: list[int] = []
        self.sql: asyncpg.Connection[Any]
        self._engine = create_async_engine(
            "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(dsn), poolclass=NullPool
        )

    async def open(self) -> None:
        self.sql = await asyncpg.connect(self._dsn, server_settings={"search_path": f'"{self._schema}"'})
        for process in self.processes:
            await process.open()
        await self.processes[0].admin.install()
        await self._settle()

    async def _settle(self) -> None:
        """Wait until the server has been up for so long that executors may count as dead."""
        settled = "SELECT pg_postmaster_start_time() < now() - interval '1 second' * $1::float8"
        await until(lambda: self.sql.fetchval(settled, executors.SETTLING))

    async def clear(self) -> None:
        """Begin anew, with empty tables and executors that live."""
        await self.sql.execute(
            "TRUNCATE pgqrs_workflows, pgqrs_workflow_steps, pgqrs_executors, pgqrs_messages, pgqrs_events, pgqrs_waits, "
            "pgqrs_queues, pgqrs_rates, pgqrs_schedules"
        )
        self.ids.clear()
        for number, process in enumerate(self.processes):
            process.store.runs.clear()
            await self.come_back(number)

    async def close(self) -> None:
        for process in self.processes:
            await process.close()
        await self._engine.dispose()
        await self.sql.execute(f'DROP SCHEMA "{self._schema}" CASCADE')
        await self.sql.close()

    # Life and death

    def _id(self, executor: int) -> Any:
        return self.processes[executor].store.executor_id

    async def freeze(self, executor: int) -> None:
        """Let an executor's beats run out, as a stopped process's do."""
        await self.sql.execute(
            "UPDATE pgqrs_executors SET expires_at = now() - interval '1 second', "
            "suspected_at = now() - interval '1 year' WHERE id = $1",
            self._id(executor),
        )

    async def lose_lock(self, executor: int) -> None:
        """Let an executor's lock appear free, as a killed process's is."""
        nobody = random.getrandbits(61)
        await self.sql.execute(
            "UPDATE pgqrs_executors SET lock_key = $2 WHERE id = $1", self._id(executor), nobody
        )

    async def come_back(self, executor: int) -> None:
        """Let an executor beat again."""
        process, own = self.processes[executor], self._id(executor)
        await self.sql.execute(
            "UPDATE pgqrs_executors SET expires_at = now() - interval '1 second' WHERE id = $1", own
        )
        if process.store.liveness.is_beating:
            await self.sql.execute("SELECT pg_notify($1, '')", executor_channel(own))
        await process.store.ensure_heartbeat()
        lives = "SELECT count(*) FROM pgqrs_executors WHERE id = $1 AND expires_at > now() AND stopped_at IS NULL"
        await until(lambda: self.sql.fetchval(lives, own))

    async def cut(self, executor: int) -> None:
        """Terminate the backend of an executor's pulse, and wait until it holds its lock again."""
        own = self._id(executor)
        holder = (
            "SELECT l.pid FROM pg_locks l JOIN pgqrs_executors e ON l.pid = e.backend_pid WHERE e.id = $1 "
            "AND locktype = 'advisory' AND granted AND (classid::bigint << 32) | objid::bigint = lock_key"
        )
        pid = await self.sql.fetchval(holder, own)
        assert pid is not None, "a living executor holds its lock"
        await self.sql.execute("SELECT pg_terminate_backend($1)", pid)
        await until(lambda: self.sql.fetchval(f"{holder} AND l.pid <> {pid}", own))

    async def stop(self, executor: int) -> None:
        await self.processes[executor].close()

    async def pass_time(self, units: int, beating: Sequence[int]) -> None:
        """Shift every time in the tables; those who beat have beaten meanwhile."""
        seconds = units * UNIT + MORE
        shift = f"- interval '1 second' * {seconds}"
        await self.sql.execute(
            f"UPDATE pgqrs_workflows SET due_at = due_at {shift}, deadline = deadline {shift}, "
            f"started_at = started_at {shift}; "
            f"UPDATE pgqrs_workflow_steps SET retry_at = retry_at {shift}; "
            f"UPDATE pgqrs_messages SET taken_at = taken_at {shift}; "
            f"UPDATE pgqrs_rates SET free_at = free_at {shift}; "
            f"UPDATE pgqrs_schedules SET next_at = next_at {shift}, queued_for = queued_for {shift}, "
            f"anchor = anchor {shift}; "
            f"UPDATE pgqrs_executors SET expires_at = expires_at {shift}, suspected_at = suspected_at {shift}, "
            f"stopped_at = stopped_at {shift}"
        )
        await self.sql.execute(
            f"UPDATE pgqrs_executors SET expires_at = now() + interval '1 second' * {EXPIRY * UNIT}, "
            "suspected_at = NULL WHERE id = ANY($1)",
            [self._id(number) for number in beating],
        )

    async def wait_out(self, executors: Sequence[int]) -> None:
        """Let a suspicion grow old: a start by hand, or a cancellation, waits until it is."""
        await self.sql.execute(
            "UPDATE pgqrs_executors SET suspected_at = now() - interval '5 seconds' WHERE id = ANY($1) "
            "AND (suspected_at IS NULL OR suspected_at > now() - interval '5 seconds')",
            [self._id(number) for number in executors],
        )

    async def hold_suspicions(self) -> None:
        """Keep a suspicion that is new from growing old before time passes."""
        await self.sql.execute(
            "UPDATE pgqrs_executors SET suspected_at = now() + interval '10 seconds' WHERE suspected_at > now() - interval '500 seconds'"
        )

    # What is asked of the library

    async def claim_ready(self, executor: int, names: list[str], queues: list[str], limit: int) -> list[Claimed]:
        watch = await self._watch(executor)
        return [self.claimed(each) for each in await watch.claim(names, queues, limit)]

    async def tick(
        self, executor: int, names: list[str], queues: list[str], *, unknown_too: bool
    ) -> MaintenanceResult:
        """Look at everything, and for runs of unknown executors if so."""
        watch = await self._watch(executor)
        watch._ticks = 0 if unknown_too else 1
        return await watch.run_maintenance(names, queues)

    async def _watch(self, executor: int) -> ClaimConnection:
        """Return an executor's watch; between its looks at everything it goes by true time, which stands still here."""
        watch = await self.processes[executor].watch()
        watch._floor.forget()
        return watch

    def claimed(self, run: ClaimedRun) -> Claimed:
        return Claimed(self.ids.index(run.workflow_id), run.epoch, run.attempts, units(run.seconds_left))

    async def record(self, run: Run, step_id: str, output: str | None, error: str | None) -> StoredOutcome:
        return await self.recording(await self.outcome(run, step_id, output, error), run.executor)

    async def outcome(self, run: Run, step_id: str, output: str | None, error: str | None) -> StepOutcome:
        """Return an outcome with the claim that its run has, which a real run knows."""
        outcome = StepOutcome(self.ids[run.workflow], run.epoch, step_id, output, error, 0.001)
        (known,) = await claimed(self.processes[run.executor].store.database, outcome)
        return known

    def recording(self, outcome: StepOutcome, executor: int) -> Awaitable[StoredOutcome]:
        """Hand an outcome in, behind those that were handed in before, and return what becomes of it."""
        answer = self.processes[executor].store.journal.submit(outcome)
        return asyncio.wait_for(answer, PATIENCE)

    async def fail(self, run: Run, step_id: str, error: str, failures: int, delay: int) -> None:
        failure = FailedAttempt(
            self.ids[run.workflow], run.epoch, step_id, error, 0.001, None, failures, delay * UNIT
        )
        await asyncio.wait_for(fail_attempt(self.processes[run.executor].store, failure), PATIENCE)

    async def leave(self, run: Run, status: str, wait: int | None, retries: int | None, error: str | None) -> None:
        seconds = None if wait is None else wait * UNIT
        leave = RunRelease(self.ids[run.workflow], run.epoch, WorkflowStatus(status), seconds, error, retries)
        await leave_run(self.processes[run.executor].store, leave)

    async def end(self, run: Run, output: str | None, error: str | None, reopen: tuple[str, ...]) -> None:
        end = RunEnd(self.ids[run.workflow], run.epoch, output, error, reopen)
        await end_run(self.processes[run.executor].store, end)

    async def cancel(self, by: int, workflow: int, *, interrupt: bool, told: int | None) -> None:
        """Cancel a workflow; the executor `told` must hear of it, and goes on carrying the run out."""
        listener = Told()
        if told is not None:
            self.processes[told].store.runs[self.ids[workflow]] = listener
        await self.processes[by].admin.cancel_workflow(self.ids[workflow], interrupt=interrupt)
        if told is not None:
            await asyncio.wait_for(listener.heard.wait(), PATIENCE)

    # Queues and schedules

    async def queues(self) -> dict[str, Listed]:
        """Return the list of the queues."""
        return {
            each.name: Listed(
                (
                    each.concurrency,
                    each.partition_concurrency,
                    None if each.rate is None else each.rate.burst,
                    each.paused_at is not None,
                ),
                each.ready,
                each.running,
                each.held_back,
            )
            for each in await self.processes[0].admin.list_queues()
        }

    async def schedule(  # noqa: PLR0917
        self, by: int, name: str, workflow: str, queue: str, overlap: str, catchup: str, *, is_new_rule: bool
    ) -> None:
        """Make or change a schedule of a time in each unit, counted from now on if the rule is to be new."""
        anchor = await self.sql.fetchval("SELECT anchor FROM pgqrs_schedules WHERE name = $1", name)
        if anchor is None or is_new_rule:
            anchor = await self.sql.fetchval("SELECT now()")
        submitter: Any = self.processes[by].admin.options(queue=queue)
        policy = {"overlap": overlap, "catchup": catchup, "within": timedelta(days=3650)}
        await submitter.schedule(name, Every(UNIT, anchor), FUNCTIONS[workflow], 1, **policy)

    async def control(self, by: int, name: str, how: str) -> int:
        """Pause, resume, delete or trigger a schedule; return the id of the workflow that was started."""
        handle = await self.processes[by].admin.find_schedule(name)
        done = await getattr(handle, how)()
        return done.id if how == "trigger" else 0

    async def fire(self, executor: int, names: list[str], queues: list[str]) -> tuple[int, int]:
        """Start the workflows of the schedules that are due."""
        watch = await self._watch(executor)
        fired = await watch.fire_schedules(ScheduleFiring(), names, queues)
        return fired.moved, len(fired.runs)

    async def new_of_schedules(self) -> list[int]:
        """Return the ids of the workflows of schedules that are not known, in the order of their times."""
        query = (
            "SELECT id FROM pgqrs_workflows WHERE schedule IS NOT NULL AND id <> ALL($1) "
            "ORDER BY schedule, scheduled_for"
        )
        return [row["id"] for row in await self.sql.fetch(query, self.ids)]

    async def schedules(self, now: int) -> dict[str, Schedule]:
        """Return the schedules; `now` is the time of the model."""
        rows = await self.sql.fetch(
            "SELECT name, workflow, queue, overlap, catchup, extract(epoch FROM next_at - now()) AS next, "
            "extract(epoch FROM queued_for - now()) AS queued, paused_at IS NOT NULL AS paused FROM pgqrs_schedules"
        )
        found: dict[str, Schedule] = {}
        for row in rows:
            values = dict(row)
            name = values.pop("name")
            times = {each: units(values[each]) for each in ("next", "queued")}
            values |= {each: None if left is None else now + left for each, left in times.items()}
            found[name] = Schedule(**values)
        return found

    # Messages, children, sagas

    def _real(self, address: str) -> str:
        """Return the address of a workflow's id for that of its number."""
        kind, _, rest = address.partition("/")
        number, _, name = rest.partition("/")
        return f"{kind}/{self.ids[int(number)]}/{name}" if name else address

    def _numbered(self, address: str) -> str:
        kind, _, rest = address.partition("/")
        own, _, name = rest.partition("/")
        return f"{kind}/{self.ids.index(int(own))}/{name}" if name else address

    async def send(self, by: int, number: int, topic: str, value: str, key: str | None) -> None:
        await self.processes[by].admin.send(self.ids[number], topic, json.loads(value), key=key)

    async def send_in_session(
        self, by: int, number: int, topic: str, value: str, key: str | None, *, commits: bool, meanwhile: Meanwhile
    ) -> None:
        """Send in a caller's session, and do something before its transaction ends."""
        async with AsyncSession(self._engine) as session:
            admin = self.processes[by].admin.options(session=session)
            await admin.send(self.ids[number], topic, json.loads(value), key=key)
            await meanwhile()
            await (session.commit() if commits else session.rollback())

    async def emit(self, by: int, name: str, value: str) -> bool:
        return await self.processes[by].admin.emit(name, json.loads(value))

    async def _write(self, run: Run, record: Any) -> Any:
        store = self.processes[run.executor].store
        (known,) = await claimed(store.database, record)
        return await asyncio.wait_for(store.journal.write(known), PATIENCE)

    def _place(self, run: Run, step_id: str) -> tuple[int, int, str]:
        return self.ids[run.workflow], run.epoch, step_id

    async def receive_twice(self, run: Run, wait: Wait) -> list[StoredOutcome | BaseException | None]:
        """Receive by a record that is sent twice, and return both answers."""
        addresses = SEPARATOR.join(map(self._real, wait.addresses))
        record = ReceivedMessage(*self._place(run, wait.step_id), addresses, wait.output, wait.error, 0.001, None)
        both = (self._write(run, record) for _ in range(2))
        return list(await asyncio.gather(*both, return_exceptions=True))

    async def park(self, run: Run, waits: Sequence[Wait]) -> None:
        own = self.ids[run.workflow]
        timeouts = [each.timeout * UNIT for each in waits if each.timeout is not None]
        store = self.processes[run.executor].store
        leave = RunRelease(own, run.epoch, WorkflowStatus.WAITING, min(timeouts, default=None))
        (leave,) = await claimed(store.database, leave)
        real = [
            StepWait(
                WaitingStep(
                    own, each.step_id, each.output, each.error, 0.001, None,
                    None if each.timeout is None else each.timeout * UNIT, claim=leave.claim,
                ),
                tuple(map(self._real, each.addresses)),
            )
            for each in waits
        ]  # fmt: skip
        await store.write_end(leave._replace(waits=tuple(real)))

    async def deliver(self, executor: int) -> int:
        watch = await self._watch(executor)
        woken = 0
        while (found := await watch.deliver()).again:
            woken += found.woken
        return woken + found.woken

    async def reap(self, executor: int) -> None:
        """End the children of ended parents, as long as a delivery says that there are any."""
        watch = await self._watch(executor)
        for _ in range(50):
            if not (await watch.deliver()).has_ended_parents:
                return
            while await watch.cancel_children():
                pass
        raise AssertionError("the messages of ended parents are left")

    def _children(
        self, run: Run, step_id: str, ids: Sequence[int], children: Sequence[Workflow]
    ) -> tuple[NewChild, ...]:
        return tuple(
            NewChild(
                self.ids[run.workflow], step_id, each.place or 0, own, each.name, "{}", each.queue or "default",
                each.priority, None, None if each.timeout is None else each.timeout * UNIT, None, new_token(),
                each.ends_with_parent,
            )
            for own, each in zip(ids, children, strict=True)
        )  # fmt: skip

    async def draw(self, executor: int, count: int) -> list[int]:
        """Return new ids, in order."""
        return [await self.processes[executor].store.ids.next() for _ in range(count)]

    async def talk(
        self, run: Run, step_id: str, output: str, ids: Sequence[int], talk: Talk
    ) -> StoredOutcome | bool | None:
        own = self.ids[run.workflow]
        record: OutgoingMessage | SendingStep
        if talk.messages:
            ((address, value),) = talk.messages
            receiver = self.ids[int(address.split("/")[1])]
            sent = (receiver, self._real(address), f"{own}/{step_id}/{value}", False, value, None)
            record = OutgoingMessage(own, run.epoch, step_id, output, 0.001, 0, *sent)
        else:
            events = tuple(SetEvent(own, step_id, name, value) for name, value in talk.events)
            children = self._children(run, step_id, ids, talk.children)
            record = SendingStep(own, run.epoch, step_id, output, None, 0.001, None, 0, events, children)
        outcome: StoredOutcome | bool | None = await self._write(run, record)
        return outcome

    async def start_some(
        self, run: Run, step_id: str, ids: Sequence[int], children: Sequence[Workflow]
    ) -> bool | None:
        started: bool | None = await self._write(
            run, StartedChildren(*self._place(run, step_id), 0, self._children(run, step_id, ids, children))
        )
        return started

    async def open_saga(self, run: Run) -> None:
        await self._write(run, SagaMark(self.ids[run.workflow], run.epoch, "OPEN"))

    async def undo(self, executor: int, number: int, name: str) -> None:
        """Run a workflow that unwinds, by its own code."""
        ctx = await self.processes[executor].admin.get_workflow(self.ids[number])
        await asyncio.wait_for(FUNCTIONS[name](ctx, 1), PATIENCE)

    async def continue_as_new(self, run: Run, timeout: int | None) -> None:
        seconds = None if timeout is None else timeout * UNIT
        store = self.processes[run.executor].store
        record = RunContinuation(self.ids[run.workflow], run.epoch, "{}", seconds, new_token())
        (known,) = await claimed(store.database, record)
        await asyncio.wait_for(store.write_continuation(known), PATIENCE)

    async def messages(self) -> list[Message]:
        """Return the messages to workflows and the events of the schema, taken ones with the time 0."""
        rows = await self.sql.fetch(
            "SELECT address, payload::text AS value, CASE WHEN is_kept THEN key END AS key, "
            "CASE WHEN taken_at IS NOT NULL THEN 0 END AS taken FROM pgqrs_messages "
            "WHERE address LIKE 'm/%' OR address LIKE 'e/%' ORDER BY id"
        )
        return [
            Message(**dict(row) | {"address": self._numbered(row["address"]), "value": plain(row["value"])})
            for row in rows
        ]

    async def events(self) -> dict[tuple[int, str], str]:
        rows = await self.sql.fetch("SELECT workflow_id, name, value::text FROM pgqrs_events")
        return {(self.ids.index(row["workflow_id"]), row["name"]): row["value"] for row in rows}

    async def _waits(self) -> dict[int, frozenset[tuple[str, str]]]:
        found: dict[int, set[tuple[str, str]]] = {}
        for row in await self.sql.fetch("SELECT workflow_id, step_id, address FROM pgqrs_waits"):
            found.setdefault(row["workflow_id"], set()).add((row["step_id"], self._numbered(row["address"])))
        return {own: frozenset(waits) for own, waits in found.items()}

    # What the tables hold

    async def workflows(self) -> list[Workflow]:
        rows = await self.sql.fetch(
            "SELECT id, name, queue, CASE WHEN schedule IS NULL THEN key END AS key, priority, timeout, status, epoch, attempts, retries, "
            "ready_at IS NOT NULL AS ready, extract(epoch FROM due_at - now()) AS due, executor, "
            "extract(epoch FROM deadline - now()) AS deadline, cancel_interrupts AS cancel, "
            "output::text, error::text, parent_id, parent_step, place, ends_with_parent, saga_state AS saga, "
            "generation, started_at IS NOT NULL AS started, has_children, partition_key, schedule "
            "FROM pgqrs_workflows ORDER BY array_position($1::bigint[], id)",
            self.ids,
        )
        waits = await self._waits()
        known: dict[Any, int] = {self._id(number): number for number in range(len(self.processes))}
        known[executors.ABANDONED] = ABANDONED
        found: list[Workflow] = []
        for row in rows:
            values = dict(row)
            holder, parent = values.pop("executor"), values.pop("parent_id")
            values["parent"] = None if parent is None else self.ids.index(parent)
            values["waits"] = waits.get(row["id"], frozenset())
            for each in ("timeout", "due", "deadline"):
                values[each] = units(values[each])
            if values["error"] is not None and "WorkflowTimeoutError" in values["error"]:
                values["error"] = "timeout"
            found.append(Workflow(**values, executor=None if holder is None else known[holder]))
        return found

    async def steps(self) -> dict[tuple[int, str], Step]:
        rows = await self.sql.fetch(
            "SELECT workflow_id, step_id, status, epoch, output::text, error::text, failures, "
            "extract(epoch FROM retry_at - now()) AS retry_at, reopened, address FROM pgqrs_workflow_steps"
        )
        found: dict[tuple[int, str], Step] = {}
        for row in rows:
            values = dict(row)
            place = self.ids.index(values.pop("workflow_id")), values.pop("step_id")
            values["output"] = plain(values["output"])
            if values["address"] is not None:
                values["address"] = self._numbered(values["address"])
            found[place] = Step(**values | {"retry_at": units(values["retry_at"])})
        return found

    async def executors(self, model: Reference) -> list[tuple[bool, bool, bool]]:
        """Return of each executor whether it is known, has stopped and is suspected."""
        rows = await self.sql.fetch("SELECT * FROM pgqrs_executors")
        there = {row["id"]: row for row in rows}
        return [
            (
                self._id(number) in there,
                self._id(number) in there and there[self._id(number)]["stopped_at"] is not None,
                self._id(number) in there and there[self._id(number)]["suspected_at"] is not None,
            )
            for number in range(len(self.processes))
        ]

    async def violations(self) -> list[str]:
        rows = await self.sql.fetch(violations(self._schema))
        return [f"{row['sentence']} {row['found']}" for row in rows]


def units(seconds: Any) -> int | None:
    """Return a time in the model's units; what has passed since it was written is no part of one."""
    return None if seconds is None else round(float(seconds) / UNIT)


def plain(stored: str | None) -> str | None:
    """Return JSON text as the model writes it; the steps to undo are in the order of their ids."""
    if stored is None:
        return None
    value = json.loads(stored)
    if isinstance(value, dict) and "steps" in value:
        value["steps"].sort()
    return json.dumps(value)


def text(kind: str, number: int) -> str:
    """Return JSON text that is there once."""
    return json.dumps({kind: number})


def signs(executor: Executor) -> tuple[bool, bool, bool]:
    """Return of the model's executor what `Beside.executors` returns of the real one."""
    known = executor.known
    return known, known and executor.stopped, known and executor.suspected is not None
