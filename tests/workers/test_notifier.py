"""Queue notifications and polling: latency of a start and cost of an idle worker."""

import asyncio
import statistics
import time
from contextlib import asynccontextmanager

import pytest

from pgqrs import Admin, DatabaseUnavailableError, PyWorkflow, Worker, workflow
from pgqrs.client.queue_notifier import MAX_INTERVAL, QueueNotifier
from pgqrs.storage.sql.channels import mark_of, parse_payload, queue_channel
from pgqrs.worker.claimer import MAX_POLL_INTERVAL
from tests.support.waiting import until
from tests.support.wire import Wire


@workflow
async def stamped(ctx: PyWorkflow) -> float:
    return time.monotonic()


@asynccontextmanager
async def idle_worker(admin):
    """Give a worker that is idle as one is after a while, and that is so again at each call of what this gives."""
    async with asyncio.timeout(60), Worker(admin, [stamped]) as worker:
        await (await admin.enqueue(stamped)).result()
        services = worker._services
        claims = services._claimer

        async def idle():
            """Wait until a long rest between two claims has begun."""
            before = services._claim_connection.statements
            claims._rest_when_idle = MAX_POLL_INTERVAL
            claims.may_be_more = False
            claims.wake()
            await until(
                lambda: (
                    services._claim_connection.statements > before and not services._claim_connection._unanswered
                )
            )
            return services

        yield idle


async def test_notified_idle_worker_starts_a_workflow_at_once(admin, dsn, schema):
    async with Admin(dsn, schema) as other, idle_worker(other) as idle:
        latencies, bell = [], (await admin.loop_state()).notifier
        for _ in range(12):
            await idle()
            await until(lambda: not bell._senders)  # a queue that was rung just now is rung again a moment later
            began = time.monotonic()
            latencies.append(await (await admin.enqueue(stamped)).result() - began)
        # 6 ms on a machine with nothing else to do; with polling alone it would be half a second.
        assert statistics.median(latencies) < 0.25, latencies


async def test_a_worker_of_the_same_admin_needs_no_notification(admin):
    async with idle_worker(admin) as idle:
        (await admin.loop_state()).notifier._send = _unreachable
        await idle()
        began = time.monotonic()
        assert await (await admin.enqueue(stamped)).result() - began < 0.5


async def _unreachable(queue, first):
    raise DatabaseUnavailableError("the bell is broken")


async def test_polling_finds_workflows_without_notifications(admin, sql):
    async with idle_worker(admin) as idle:
        await idle()
        began = time.monotonic()
        workflow_id = await sql.fetchval(
            "INSERT INTO pgqrs_workflows (name, input, queue, ready_at) "
            "VALUES ('stamped', '{\"args\": [], \"kwargs\": {}}', 'default', now()) RETURNING id"
        )
        assert await admin.handle(workflow_id).result() - began < MAX_POLL_INTERVAL + 1


async def test_burst_of_enqueues_sends_few_notifications(admin, sql, schema):
    heard = []
    await sql.add_listener(queue_channel(schema), lambda *told: heard.append(told[-1]))
    began = time.monotonic()
    for _ in range(30):
        await asyncio.gather(*(admin.options(queue=queue).enqueue(stamped) for queue in ("a", "b")))
    await admin.options(queue="c", delay=60).enqueue(stamped)
    await admin.close()  # rings what is still to be rung
    elapsed = time.monotonic() - began
    await sql.fetchval("SELECT 1")  # what was sent before is heard by now
    marks = [parse_payload(each)[0] for each in heard]
    assert {mark_of("a"), mark_of("b")} == set(marks)
    assert marks.count(mark_of("a")) <= 3 + elapsed / MAX_INTERVAL
    assert not any("a:" in each for each in heard if not each.startswith(mark_of("a")))


async def test_notifier_sends_the_first_at_once_and_batches_the_rest():
    rung, heard = [], []

    async def ring(queue, first):
        rung.append((queue, first))

    bell = QueueNotifier(ring)
    listener = lambda *told: heard.append(told)  # noqa: E731  # to be ignored later
    bell.listen(listener)
    for n in range(100):
        bell.notify("q", 7 + n)
    await asyncio.sleep(0)
    assert rung == [("q", 7)]
    assert heard == [("q", 7 + n) for n in range(100)]
    bell.notify("q", 6)
    bell.notify("q", 5)
    bell.notify("q", 9)
    await until(lambda: len(rung) == 2)
    bell.unlisten(listener)
    await bell.close()
    assert rung == [("q", 7), ("q", 5)]
    assert len(heard) == 103


async def test_slow_notification_delays_only_its_queue():
    gate, rung = asyncio.Event(), []

    async def ring(queue, first):
        rung.append(queue)
        if queue == "slow":
            await gate.wait()

    bell = QueueNotifier(ring)
    for _ in range(3):
        bell.notify("slow", 1)
        bell.notify("q", 1)
        await until(lambda: "q" not in bell._senders)
    assert rung.count("slow") == 1
    assert rung.count("q") == 3
    gate.set()
    await bell.close()
    assert rung.count("slow") == 2


async def test_failed_notification_is_ignored():
    bell = QueueNotifier(_unreachable)
    bell.notify("q", 1)
    bell.notify("q", 1)
    await bell.close()


@pytest.mark.parametrize("times", [1, 3])
async def test_killed_listening_connection_is_reopened(admin, dsn, schema, sql, times):
    async with Admin(dsn, schema) as other, idle_worker(other) as idle:
        for _ in range(times):
            services = await idle()
            connection = services._claim_connection._dedicated.driver
            await sql.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
            await until(lambda: services._claim_connection._dedicated.driver not in {None, connection})  # noqa: B023
        await idle()
        began = time.monotonic()
        assert await (await admin.enqueue(stamped)).result() - began < 0.5


async def test_outage_is_logged_once_and_the_worker_continues(dsn, schema, admin, sql, caplog):
    async with asyncio.timeout(60), Wire(dsn, sql) as wire, Admin(wire.dsn, schema) as far:
        async with Worker(far, [stamped]) as worker:
            await (await admin.enqueue(stamped)).result()
            services = worker._services
            await wire.cut()
            handle = await admin.enqueue(stamped)
            await until(lambda: min(services._claimer._failures, services._maintenance._failures) >= 4)
            await wire.restore()
            await handle.result()
        failures = [each for each in caplog.records if "failed and will be retried" in each.getMessage()]
        assert len(failures) == 2  # the claims and the ticks, each once


async def test_an_idle_worker_sends_at_most_two_statements_a_second(dsn, schema, admin, sql):
    async with Wire(dsn, sql) as wire, Admin(wire.dsn, schema) as far, idle_worker(far) as idle:
        await idle()
        before, began = wire.exchanges, time.monotonic()
        await until(lambda: time.monotonic() - began > 5)
        assert wire.exchanges - before <= 2 * (time.monotonic() - began)


async def test_worker_reconnects_after_a_silent_server(dsn, schema, admin, sql):
    async with (
        asyncio.timeout(60),
        Wire(dsn, sql) as wire,
        Admin(wire.dsn, schema, timeout=1.0) as far,
        Worker(far, [stamped]) as worker,
    ):
        await (await admin.enqueue(stamped)).result()
        wire.mute()
        handle = await admin.enqueue(stamped)
        services = worker._services
        await until(lambda: min(services._claimer._failures, services._maintenance._failures) >= 1)
        await wire.cut()
        wire._muted = False
        await wire.restore()
        await handle.result()
    [record] = await admin.list_workflows(limit=1)
    assert (record.id, record.attempts) == (handle.id, 1)
