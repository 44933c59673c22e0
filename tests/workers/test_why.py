"""Why a workflow is not running: each reason, with real workers, real limits and real locks."""

import os
import signal
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest
import pytest_asyncio

from pgqrs import (
    Admin,
    Batch,
    PyWorkflow,
    Rate,
    ReasonKind,
    RetryPolicy,
    Topic,
    TransientError,
    Update,
    Worker,
    WorkflowNotFoundError,
    step,
    workflow,
)
from pgqrs.codecs.pydantic import PydanticCodec
from pgqrs.storage.queries.executors import ABANDONED
from tests.support.database import connected
from tests.support.executors import planted_executor, watching
from tests.support.processes import line_of
from tests.support.queues import claimed
from tests.support.waiting import no_hang, until
from tests.support.workflows import Gate

pytest_plugins = ("pytest_pgqrs",)

WAITS = ["message", "update", "event", "children", "sleep", "step_retry"]
PAID, ASK = Topic("paid", bool), Update("ask", str, str)


@workflow
async def plain(ctx: PyWorkflow) -> None: ...


@workflow
async def other(ctx: PyWorkflow) -> None: ...


@workflow(batch=Batch(2, within=60))
async def batched(ctx: PyWorkflow, items: list[int]) -> None: ...


@step(retry=RetryPolicy(attempts=5, initial=40, factor=1, jitter=0))
async def unstable(ctx: PyWorkflow) -> None:
    raise TransientError("not now")


@workflow
async def waiting(ctx: PyWorkflow, what: str) -> None:
    match what:
        case "message":
            await ctx.receive(PAID, timeout=100)
        case "update":
            await ctx.receive(ASK)
        case "event":
            await ctx.wait_event("the shop has closed")
        case "children":
            await (await ctx.options(queue="unserved").start(plain))
        case "sleep":
            await ctx.sleep(3600)
        case "step_retry":
            await unstable(ctx)


@workflow(retry=RetryPolicy(attempts=3, initial=50, factor=1, jitter=0))
async def failing(ctx: PyWorkflow) -> None:
    raise TransientError("not now")


HOLDING = """
import asyncio, os
from pgqrs import Admin, PyWorkflow, Worker, workflow

@workflow
async def held(ctx: PyWorkflow) -> None:
    print("held", flush=True)
    await asyncio.Event().wait()

async def main():
    async with Admin(os.environ["PGQRS_DSN"], os.environ["PGQRS_SCHEMA"]) as admin, Worker(admin, [held]):
        await asyncio.Event().wait()

asyncio.run(main())
"""


def gated(gate):
    """Return a workflow whose step waits at a gate."""
    wait = gate.step("held")

    @workflow(name="held")
    async def held(ctx: PyWorkflow) -> None:
        await wait(ctx)

    return held


def as_role(dsn, role):
    parts = urlsplit(dsn)
    return urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}"))


async def only(admin, handle):
    """Return the only reason of a workflow."""
    (reason,) = (await admin.why(handle.id)).reasons
    return reason


async def kind_of(admin, handle):
    return (await only(admin, handle)).kind


async def has_reason(admin, handle, kind):
    return kind in (await admin.why(handle.id)).kinds


@pytest_asyncio.fixture
async def worker_of(dsn, schema, admin):
    """Starts workers, each with an `Admin` of its own."""
    async with AsyncExitStack() as stack:

        async def start(workflows, queues=("default",), *, codec=None, **options):
            own = await stack.enter_async_context(Admin(dsn, schema, codec=codec))
            await stack.enter_async_context(Worker(own, workflows, queues, **options))
            await until(_has_registered, admin, own)
            return own

        yield start


async def _has_registered(admin, own):
    executor = (await own.store()).executor_id
    return any(each.executor_id == executor and each.names for each in await admin.list_workers())


async def test_no_live_worker_claims_the_workflow(admin, worker_of):
    handle = await admin.options(queue="mail").enqueue(plain)
    assert await kind_of(admin, handle) is ReasonKind.NO_WORKER
    await worker_of([other])
    assert await kind_of(admin, handle) is ReasonKind.UNKNOWN_NAME
    await worker_of([plain, other])
    reason = await only(admin, handle)
    assert (reason.kind, reason.name) == (ReasonKind.QUEUE_NOT_SERVED, "mail")
    await worker_of([plain], ["mail"], codec=PydanticCodec())
    reason = await only(admin, handle)
    assert (reason.kind, reason.name) == (ReasonKind.OTHER_CODEC, "json")
    assert "'pydantic'" in reason.text


async def test_worker_that_tells_nothing_makes_the_reason_unknown(admin, sql):
    """A worker of the revision before this one has an executor and no row of its own."""
    handle = await admin.enqueue(plain)
    await planted_executor(sql)
    assert await kind_of(admin, handle) is ReasonKind.WORKERS_UNKNOWN
    (silent,) = await admin.list_workers()
    assert (silent.names, silent.queues, silent.codec, silent.suspected) == (None, {}, None, False)


async def test_full_workers_and_running_steps_are_told(admin, worker_of):
    gate = Gate()
    held = gated(gate)
    own = await worker_of([held, plain], ["mail"], concurrency=1)
    running = await admin.options(queue="mail").enqueue(held)
    async with no_hang():
        await gate.reached.wait()
    ready = await admin.options(queue="mail").enqueue(plain)
    assert await kind_of(admin, ready) is ReasonKind.WORKERS_FULL
    found = await admin.why(running.id)
    assert found.reasons[0].kind is ReasonKind.RUNNING
    assert found.reasons[0].executor_id == (await own.store()).executor_id
    assert str(os.getpid()) in found.reasons[0].text
    await until(lambda: has_reason(admin, running, ReasonKind.STEP))
    (record,) = await admin.list_workers()
    assert (record.names, record.queues, record.concurrency, record.running) == (
        ("held", "plain"),
        {"mail": None},
        1,
        1,
    )
    await admin.cancel_workflow(running.id)
    assert await has_reason(admin, running, ReasonKind.CANCEL_REQUESTED)
    gate.open()
    await until(lambda: has_reason(admin, running, ReasonKind.ENDED))
    assert str(await admin.why(running.id)).startswith(f"workflow {running.id} (held) is CANCELLED:\n  ended: ")


async def test_worker_with_a_full_share_is_told(admin, worker_of):
    gate = Gate()
    held = gated(gate)
    await worker_of([held], {"mail": 1, "default": 5})
    await admin.options(queue="mail").enqueue(held)
    async with no_hang():
        await gate.reached.wait()
    assert await kind_of(admin, await admin.options(queue="mail").enqueue(held)) is ReasonKind.WORKERS_FULL
    (record,) = await admin.list_workers()
    assert record.queues == {"mail": 1, "default": 5}
    gate.open()


async def test_stopped_worker_is_not_listed(admin, worker_of, dsn, schema):
    handle = await admin.options(queue="mail").enqueue(plain)
    async with Admin(dsn, schema) as own:
        async with Worker(own, [plain]):
            await until(_has_registered, admin, own)
        assert (
            await kind_of(admin, handle) is ReasonKind.WORKERS_UNKNOWN
        )  # the process lives, and may have a worker
    assert await admin.list_workers() == []
    assert await kind_of(admin, handle) is ReasonKind.NO_WORKER


async def test_limits_of_a_queue_name_their_holders(admin):
    await admin.set_queue("mail", concurrency=2, partition_concurrency=1)
    async with watching(await admin.store()) as watch:
        of_key = admin.options(queue="mail", partition_key="ada")
        first = await of_key.enqueue(plain)
        assert await claimed(watch, names=["plain"]) == [first.id]
        second = await of_key.enqueue(plain)
        found = await admin.why(second.id)
        full = next(each for each in found.reasons if each.kind is ReasonKind.PARTITION_FULL)
        assert (full.workflow_ids, full.name) == ((first.id,), "mail")
        third = await admin.options(queue="mail").enqueue(plain)
        assert await claimed(watch, names=["plain"]) == [third.id]
        waits = await admin.options(queue="mail").enqueue(plain)
        full = next(each for each in (await admin.why(waits.id)).reasons if each.kind is ReasonKind.QUEUE_FULL)
        assert full.workflow_ids == (first.id, third.id)
        await admin.pause_queue("mail")
        assert await has_reason(admin, waits, ReasonKind.QUEUE_PAUSED)


async def test_rates_tell_the_next_start(admin):
    await admin.set_queue("mail", rate=Rate(1, per=60), partition_rate=Rate(1, per=3600))
    of_key = admin.options(queue="mail", partition_key="ada")
    async with watching(await admin.store()) as watch:
        await of_key.enqueue(plain)
        assert len(await claimed(watch, names=["plain"])) == 1
    found = await admin.why((await of_key.enqueue(plain)).id)
    until = {each.kind: (each.until - found.at).total_seconds() for each in found.reasons if each.until}
    assert 50 < until[ReasonKind.QUEUE_RATE] <= 60
    assert 3500 < until[ReasonKind.PARTITION_RATE] <= 3600
    keyless = await admin.why((await admin.options(queue="mail").enqueue(plain)).id)
    assert ReasonKind.PARTITION_RATE not in keyless.kinds


async def test_ordered_queue_names_the_workflow_before(admin):
    await admin.set_queue("accounts", ordered=True)
    of_key = admin.options(queue="accounts", partition_key="ada")
    first, second = await of_key.enqueue(plain), await of_key.enqueue(plain)
    found = await admin.why(second.id)
    behind = next(each for each in found.reasons if each.kind is ReasonKind.BEHIND)
    assert behind.workflow_ids == (first.id,)
    assert not await has_reason(admin, first, ReasonKind.BEHIND)


async def test_parked_workflows_tell_their_waits(admin, worker_of):
    await worker_of([waiting])
    handles = {what: await admin.enqueue(waiting, what) for what in WAITS}
    reasons, left = {}, {}
    for what, handle in handles.items():
        await until(_is_parked, handle)
        found = await admin.why(handle.id)
        (reasons[what],) = found.reasons
        left[what] = reasons[what].until and (reasons[what].until - found.at).total_seconds()
    assert {what: each.kind for what, each in reasons.items()} == {what: ReasonKind(what) for what in WAITS}
    names = {what: each.name for what, each in reasons.items() if each.name}
    assert names == {"message": "paid", "update": "ask", "event": "the shop has closed"}
    assert 80 < left["message"] <= 100
    assert 3500 < left["sleep"] <= 3600
    assert 20 < left["step_retry"] <= 40
    assert left["update"] is left["event"] is left["children"] is None
    assert reasons["step_retry"].step_id == "unstable"
    assert "has failed once: its attempt 2 is due in" in reasons["step_retry"].text
    (child,) = await admin.list_workflows(name="plain")
    assert reasons["children"].workflow_ids == (child.id,)
    assert await kind_of(admin, child) is ReasonKind.UNKNOWN_NAME


async def _is_parked(handle):
    return await handle.status() == "WAITING"


async def test_retry_of_a_workflow_is_told(admin, worker_of):
    await worker_of([failing])
    handle = await admin.enqueue(failing)
    await until(lambda: _is_parked(handle))
    reason = await only(admin, handle)
    assert (reason.kind, "its attempt 2 is due in" in reason.text) == (ReasonKind.WORKFLOW_RETRY, True)


async def test_workflow_that_is_not_due_tells_the_time(kit, clock):
    delayed = await kit.options(delay=60).enqueue(plain)
    debounced = await kit.options(unique="v", debounce=60).enqueue(plain)
    now = await clock.now()
    for handle, kind in ((delayed, ReasonKind.DELAYED), (debounced, ReasonKind.DEBOUNCED)):
        reason = await only(kit, handle)
        assert (reason.kind, abs(reason.until - now - timedelta(seconds=60)) < timedelta(seconds=5)) == (
            kind,
            True,
        )
    once = kit.options(unique="w", throttle=60)
    await once.enqueue(plain)
    async with watching(await kit.store()) as watch:
        assert len(await claimed(watch, queues=["default"], names=["plain"])) == 1
    assert await kind_of(kit, await once.enqueue(plain)) is ReasonKind.THROTTLED
    await clock.advance(hours=1)
    found = await kit.why(delayed.id)
    assert found.kinds == {ReasonKind.DELAYED, ReasonKind.OVERDUE} | ({ReasonKind.NO_WORKER} & found.kinds)


async def test_submission_tells_its_batch(admin, worker_of):
    await worker_of([batched])
    first = await admin.enqueue(batched, 1)
    assert await kind_of(admin, first) is ReasonKind.BATCH_FILLS
    await admin.pause_queue("default")
    await admin.enqueue(batched, 2)
    assert await kind_of(admin, first) is ReasonKind.QUEUE_PAUSED
    (record,) = await admin.list_workers()
    assert record.names == ("batched",)


@pytest.mark.plants_rows
async def test_submission_in_a_batch_names_the_batch(admin, sql):
    handle = await admin.enqueue(batched, 1)
    batch = await sql.fetchval(
        "INSERT INTO pgqrs_workflows (id, name, input, queue, ready_at, batch_id)"
        " VALUES (99, 'batched/batch', '[1]', 'default', now(), 99) RETURNING id"
    )
    await sql.execute("UPDATE pgqrs_workflows SET ready_at = NULL, batch_id = 99 WHERE id = $1", handle.id)
    reason = await only(admin, handle)
    assert (reason.kind, reason.workflow_ids) == (ReasonKind.IN_BATCH, (batch,))


async def test_workflow_in_no_queue_waits_for_the_application(admin):
    ctx = await admin.create_workflow("plain")
    (reason,) = (await admin.why(ctx.id())).reasons
    assert reason.kind is ReasonKind.NOT_ENQUEUED
    with pytest.raises(WorkflowNotFoundError):
        await admin.why(4711)


@pytest.mark.plants_rows
async def test_executor_without_a_sign_of_life_is_suspected(admin, sql):
    handle = await admin.enqueue(plain)
    for executor, kind in (
        (await planted_executor(sql, expires_in=-1), ReasonKind.EXECUTOR_SUSPECTED),
        (await planted_executor(sql, suspected=1), ReasonKind.EXECUTOR_SUSPECTED),
        (await planted_executor(sql, lock_key=5, backend_pid=1), ReasonKind.EXECUTOR_SUSPECTED),
        (await planted_executor(sql, stopped=True), ReasonKind.EXECUTOR_SUSPECTED),
        (uuid4(), ReasonKind.EXECUTOR_SUSPECTED),
        (ABANDONED, ReasonKind.ABANDONED),
        (await planted_executor(sql), ReasonKind.RUNNING),
    ):
        await sql.execute(
            "UPDATE pgqrs_workflows SET status = 'RUNNING', ready_at = NULL, executor = $1", executor
        )
        assert (await admin.why(handle.id)).reasons[0].kind is kind
    assert [each.suspected for each in await admin.list_workers()] == [True, True, True, False]


@pytest.mark.slow
async def test_executor_that_was_killed_is_suspected(admin, program):
    process = program(HOLDING)
    handle = await admin.enqueue(gated(Gate()))
    async with no_hang():
        await line_of(process.stdout, "held")
    assert (await admin.why(handle.id)).reasons[0].kind is ReasonKind.RUNNING
    process.send_signal(signal.SIGKILL)
    process.wait()
    await until(lambda: has_reason(admin, handle, ReasonKind.EXECUTOR_SUSPECTED))
    assert ReasonKind.NO_WORKER in (await admin.why(handle.id)).kinds
    (record,) = await admin.list_workers()
    assert (record.suspected, record.running) == (True, 1)


@pytest.mark.plants_rows
async def test_passed_deadline_and_sagas_to_undo_are_told(admin, sql):
    late = await admin.enqueue(plain)
    await sql.execute(
        "UPDATE pgqrs_workflows SET deadline = now() - interval '1 h', saga_state = 'TIMED_OUT' WHERE id = $1",
        late.id,
    )
    found = await admin.why(late.id)
    assert found.kinds == {ReasonKind.DEADLINE_PASSED, ReasonKind.UNWINDS, ReasonKind.NO_WORKER}


@pytest.mark.parametrize("lockers", [1, 2])
async def test_locked_row_names_the_session(admin, dsn, schema, lockers):
    """Two sessions that share the lock are a group, which the row names by one number."""
    handle = await admin.enqueue(plain)
    async with AsyncExitStack() as stack:
        pids = set()
        for _ in range(lockers):
            session = await stack.enter_async_context(connected(dsn, schema))
            await stack.enter_async_context(session.transaction())
            strength = "UPDATE" if lockers == 1 else "SHARE"
            await session.execute(f"SELECT FROM pgqrs_workflows WHERE id = $1 FOR {strength}", handle.id)
            pids.add(await session.fetchval("SELECT pg_backend_pid()"))
        await until(lambda: has_reason(admin, handle, ReasonKind.LOCKED))
        reason = (await admin.why(handle.id)).reasons[0]
        assert reason.backend_pid in pids
        assert "idle in transaction" in reason.text
        assert timedelta() < datetime.now(UTC) - reason.since < timedelta(minutes=5)
    assert not await has_reason(admin, handle, ReasonKind.LOCKED)


async def test_role_that_sees_no_sessions_gets_the_lock_alone(dsn, schema, admin, sql):
    role = f"role_{uuid4().hex[:8]}"
    handle = await admin.enqueue(plain)
    await sql.execute(f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {role}")
    await sql.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}")
    try:
        async with Admin(as_role(dsn, role), schema) as limited, sql.transaction():
            await sql.execute("SELECT FROM pgqrs_workflows FOR UPDATE")
            reason = (await limited.why(handle.id)).reasons[0]
            assert (reason.kind, reason.since) == (ReasonKind.LOCKED, None)
            assert reason.backend_pid == await sql.fetchval("SELECT pg_backend_pid()")
    finally:
        await sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
