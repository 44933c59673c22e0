"""Failover to a synchronous standby: workflows continue, and nothing is lost."""

import asyncio
import signal
import uuid
from functools import partial
from urllib.parse import quote

import pytest
import pytest_asyncio
from sqlalchemy import URL

from pgqrs import Admin, PyWorkflow, Worker, WorkflowStatus, step, workflow
from tests.support.cluster import replicated
from tests.support.database import connected
from tests.support.waiting import DEADLINE, until
from tests.support.wire import Wire
from tests.support.workflows import Gate

STEPS = 20
WORKFLOWS = 30


@pytest_asyncio.fixture
async def pair(template):
    async with replicated(template) as pair:
        yield pair


@pytest.fixture
def both(pair):
    """A DSN of both hosts; it says nothing of which will do."""
    hosts = ",".join(server.sockets for server in pair)
    return f"postgresql://postgres@/postgres?host={quote(hosts, safe=',')}&port=5432,5432"


def ledgered():
    """Return a workflow, and the list of the outcomes that were acknowledged to it."""
    ledger = []

    @step(key=lambda n: n)
    async def draw(ctx: PyWorkflow, n: int) -> str:
        return str(uuid.uuid4())

    @workflow
    async def lottery(ctx: PyWorkflow, steps: int) -> list[str]:
        drawn = []
        for n in range(steps):
            drawn.append(await draw(ctx, n))
            ledger.append((ctx.id(), f"draw:{n}", drawn[-1]))
        return drawn

    return lottery, ledger


async def recorded(server):
    async with connected(server.dsn) as connection:
        rows = await connection.fetch(
            "SELECT workflow_id, step_id, output #>> '{}' FROM pgqrs.pgqrs_workflow_steps"
        )
    return {(row[0], row[1]): row[2] for row in rows}


async def agrees(server, ledger):
    """Check that the server has what was acknowledged, each as it was acknowledged."""
    there = await recorded(server)
    lost = [entry for entry in ledger if there.get(entry[:2]) != entry[2]]
    assert lost == []


async def fail_over(pair):
    primary, standby = pair
    await primary.kill()
    await standby.promote()


def url_of(pair):
    hosts = tuple(f"{server.sockets}:5432" for server in pair)
    query = {"host": hosts, "target_session_attrs": "primary"}
    return URL.create("postgresql+asyncpg", "postgres", database="postgres", query=query)


async def test_failover_to_the_standby_loses_no_recorded_step(pair, both):
    lottery, ledger = ledgered()
    async with (
        asyncio.timeout(DEADLINE),
        Admin(both, outage_timeout=DEADLINE) as one,
        Admin(url_of(pair), outage_timeout=DEADLINE) as two,
    ):
        await one.install()
        async with Worker(one, [lottery], concurrency=20), Worker(two, [lottery], concurrency=20):
            handles = await one.enqueue_many(lottery, [(STEPS,)] * WORKFLOWS)
            plain = [asyncio.create_task(two.run(lottery, STEPS)) for _ in range(5)]
            await until(lambda: len(ledger) > 200)
            await pair[0].kill()
            before = list(ledger)
            assert len(before) < STEPS * (WORKFLOWS + 5)
            await agrees(pair[1], before)
            await pair[1].promote()
            results = await asyncio.gather(*(handle.result() for handle in handles))
            await asyncio.gather(*plain)
            late = await one.enqueue(lottery, 3)
            assert len(await late.result()) == 3
        await agrees(pair[1], ledger)
        there = await recorded(pair[1])
        for handle, result in zip(handles, results, strict=True):
            assert result == [there[handle.id, f"draw:{n}"] for n in range(STEPS)]
            assert await handle.status() is WorkflowStatus.SUCCESS
        await one.verify(deep=True)


async def test_silent_primary_does_not_hide_the_next_host(pair):
    lottery, ledger = ledgered()
    async with (
        asyncio.timeout(DEADLINE),
        connected(pair[0].dsn) as primary,
        connected(pair[1].dsn) as standby,
        Wire(pair[0].dsn, primary) as first,
        Wire(pair[1].dsn, standby) as second,
    ):
        hosts = ",".join(wire.dsn.partition("@")[2].partition("/")[0] for wire in (first, second))
        dsn = f"postgresql://postgres@{hosts}/postgres?target_session_attrs=primary&sslmode=disable"
        async with Admin(dsn, timeout=2, outage_timeout=DEADLINE) as admin:
            await admin.install()
            async with Worker(admin, [lottery]):
                handles = await admin.enqueue_many(lottery, [(STEPS,)] * WORKFLOWS)
                await until(lambda: len(ledger) > 100)
                first.mute()
                before = list(ledger)
                await standby.execute("SELECT pg_promote()")
                await asyncio.gather(*(handle.result() for handle in handles))
            assert len(before) < STEPS * WORKFLOWS
            await agrees(pair[1], ledger)


async def test_read_only_standby_is_waited_for(pair):
    """Until the address leads back to the primary, and until the standby is promoted."""
    lottery, _ = ledgered()
    primary, standby = pair
    refused = "SELECT count(*) > 0 FROM pg_stat_database WHERE datname = 'postgres' AND xact_rollback > {0}"
    async with (
        asyncio.timeout(DEADLINE),
        connected(primary.dsn) as sql,
        connected(standby.dsn) as other,
        Wire(primary.dsn, sql) as wire,
        Admin(wire.dsn, outage_timeout=DEADLINE) as admin,
    ):
        await admin.install()
        home = wire.address
        for is_promoted in (False, True):
            wire.address = other._addr
            await wire.cut()
            await wire.restore()
            rollbacks = await other.fetchval(
                "SELECT xact_rollback FROM pg_stat_database WHERE datname = 'postgres'"
            )
            running = asyncio.create_task(admin.run(lottery, 3))
            await until(partial(other.fetchval, refused.format(rollbacks + 2)))
            assert not running.done()
            if is_promoted:
                await fail_over(pair)
            else:
                wire.address = home
            assert len(await running) == 3


@workflow
async def echo(ctx: PyWorkflow, n: int) -> int:
    return n


async def test_acknowledged_writes_are_on_the_synchronous_standby(pair, both):
    """Nor after it was given up and sent again: PostgreSQL commits alone when the wait for a standby is cancelled."""
    primary, standby = pair
    gate, acknowledged = Gate(), asyncio.Event()
    gated = gate.step("gated", "done")

    @workflow
    async def waiting(ctx: PyWorkflow) -> str:
        result = await gated(ctx)
        acknowledged.set()
        return result

    async with asyncio.timeout(DEADLINE), Admin(both, timeout=0.5, outage_timeout=DEADLINE) as admin:
        await admin.install()
        queued = await admin.enqueue(echo, 0)
        running = asyncio.create_task(admin.run(waiting))
        await gate.reached.wait()
        standby.signal(signal.SIGSTOP)
        gate.open()
        acts = [
            admin.enqueue_many(echo, [(1,)] * 3),
            admin.create_workflow("created"),
            admin.cancel_workflow(queued.id),
        ]
        writes = [running, *map(asyncio.ensure_future, acts)]
        try:
            await until(lambda: waited_for_long(primary, writes))
            assert not acknowledged.is_set()
            assert not any(each.done() for each in writes)
        finally:
            standby.signal(signal.SIGCONT)
        await asyncio.gather(*writes)
    async with connected(standby.dsn) as connection:
        assert await connection.fetchval("SELECT count(*) FROM pgqrs.pgqrs_workflow_steps") == 1
        assert await connection.fetchval("SELECT count(*) FROM pgqrs.pgqrs_workflows") == 6


async def waited_for_long(primary, writes):
    """Tell whether the writes wait for so long that each was sent several times; or whether one waits no more."""
    long = "query_start < now() - interval '4 s' AND query NOT LIKE '%executors%'"
    waits = await primary.fetchval(
        f"SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND {long}"
    )
    return waits or any(each.done() for each in writes)
