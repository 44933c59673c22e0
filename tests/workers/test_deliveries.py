"""Workers deliver messages to parked workflows: announced or not, for all queues, and without a slot for who waits."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from contextlib import AsyncExitStack

import pytest

from pgqrs import Admin, DatabaseUnavailableError, PyWorkflow, Topic, Worker, workflow
from pgqrs.observer import Observer
from pgqrs.worker.claimer import MAX_POLL_INTERVAL
from tests.support.database import connected
from tests.support.parked import MANY, plant_waiting
from tests.support.waiting import no_hang, until
from tests.support.wire import Wire
from tests.support.workflows import numbered

PAID = Topic("paid", int)


@workflow
async def collecting(ctx: PyWorkflow, count: int) -> list:
    """Receive messages one after the other."""
    return [await ctx.receive(PAID) for _ in range(count)]


@workflow
async def stamped(ctx: PyWorkflow) -> float:
    """Return the time at which a message is received."""
    await ctx.receive(PAID)
    return time.monotonic()


@workflow
async def quick(ctx: PyWorkflow, n: int) -> int:
    return await numbered(ctx, n)


@workflow
async def closing(ctx: PyWorkflow) -> int:
    return await ctx.wait_event("closed")


async def is_waiting(*handles):
    return all([await handle.status() == "WAITING" for handle in handles])


async def all_seen(sql):
    """Tell whether each wait has been looked at by a worker."""
    return not await sql.fetchval("SELECT count(*) FROM pgqrs_waits WHERE is_new")


class Deliveries(Observer):
    """Counts the workflows that messages have made ready."""

    def __init__(self):
        self.count = 0

    def messages_delivered(self, count):
        self.count += count


async def test_waiting_workflows_use_no_slot(admin):
    async with no_hang(), Worker(admin, [collecting, quick], concurrency=1):
        waiting = [await admin.enqueue(collecting, 2) for _ in range(10)]
        await until(is_waiting, *waiting)
        assert await (await admin.enqueue(quick, 7)).result() == 7
        for n in (1, 2):
            for handle in waiting:
                await handle.send(PAID, n)
        assert [await handle.result() for handle in waiting] == [[1, 2]] * 10


async def test_unannounced_message_is_delivered_by_the_tick(dsn, admin, sql):
    """Two workers, none of which hears of the message."""
    async with no_hang(), AsyncExitStack() as stack:
        for _ in range(2):
            own = await stack.enter_async_context(Admin(dsn, admin.schema))
            await stack.enter_async_context(Worker(own, [collecting, closing]))
        handle, other = await admin.enqueue(collecting, 2), await admin.enqueue(closing)
        await until(is_waiting, handle, other)
        await until(all_seen, sql)
        for n in (1, 2):
            await sql.execute("SELECT send($1, 'paid', to_json($2::int), ring => false)", handle.id, n)
        await sql.execute("SELECT emit('closed', '7', ring => false)")
        began = time.monotonic()
        assert await handle.result() == [1, 2]
        assert await other.result() == 7
        assert time.monotonic() - began < 10  # a tick a second, on a busy machine


async def test_message_is_delivered_while_senders_cannot_notify(admin, sql):
    async with no_hang(), Worker(admin, [collecting]):
        handle = await admin.enqueue(collecting, 3)
        await until(is_waiting, handle)
        (await admin.loop_state()).notifier._send = _unreachable
        for n in range(3):
            await handle.send(PAID, n)
        assert await handle.result() == [0, 1, 2]


async def _unreachable(queue, first):
    raise DatabaseUnavailableError("the bell is broken")


@pytest.mark.parametrize("sender", ["the worker's Admin", "another Admin", "SQL"])
async def test_announced_message_is_delivered_at_once(dsn, admin, sql, sender):
    latencies = []
    async with no_hang(), Admin(dsn, admin.schema) as other, Worker(admin, [stamped]):
        for _ in range(9):
            handle = await admin.enqueue(stamped)
            await until(is_waiting, handle)
            await until(all_seen, sql)
            began = time.monotonic()
            if sender == "SQL":
                await sql.execute("SELECT send($1, 'paid', '1')", handle.id)
            else:
                await (admin if sender == "the worker's Admin" else other).send(handle.id, PAID, 1)
            latencies.append(await handle.result() - began)
    # Some 10 ms on a machine with nothing else to do; by the tick alone it would be half a second.
    assert statistics.median(latencies) < 0.3, latencies


@pytest.mark.parametrize("sender", ["another Admin", "SQL"])
async def test_announced_message_wakes_a_run_in_place(dsn, admin, sql, sender):
    latencies = []
    async with no_hang(), Admin(dsn, admin.schema) as other, Worker(admin, [quick]):
        for n in range(7):
            handle = await admin.options(key=f"{n}").enqueue(stamped)
            task = asyncio.create_task(admin.options(key=f"{n}").run(stamped))
            await until(has_long_rested, admin)
            began = time.monotonic()
            if sender == "SQL":
                await sql.execute("SELECT send($1, 'paid', '1')", handle.id)
            else:
                await other.send(handle.id, PAID, 1)
            latencies.append(await task - began)
    assert statistics.median(latencies) < 0.3, latencies


async def has_long_rested(admin):
    """Tell whether the searches for a message have become rare."""
    arrivals = (await admin.store()).arrivals
    return arrivals._waiting and arrivals._pause >= 0.6


async def test_message_to_a_workflow_of_another_queue_is_delivered(dsn, admin):
    """The worker of one queue delivers, and the worker of the other queue hears of the workflow."""
    async with no_hang(), Admin(dsn, admin.schema) as other, Worker(other, [collecting], queues=["b"]):
        handle = await admin.options(queue="b").enqueue(collecting, 3)
        await until(is_waiting, handle)
        async with Worker(admin, [quick], queues=["a"]):
            for n in range(3):
                await handle.send(PAID, n)
            assert await handle.result() == [0, 1, 2]


async def test_worker_of_another_queue_delivers_alone(admin, sql):
    """Without a worker of its own queue, the workflow is ready for the next one."""
    handle = await admin.options(queue="b").enqueue(collecting, 1)
    async with no_hang(), Worker(admin, [collecting], queues=["b"]):
        await until(is_waiting, handle)
    async with no_hang(), Worker(admin, [quick], queues=["a"]):
        await handle.send(PAID, 7)
        await until(is_ready, handle)
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_waits") == 0
    async with no_hang(), Worker(admin, [collecting], queues=["b"]):
        assert await handle.result() == [7]


async def is_ready(handle):
    return await handle.status() == "PENDING"


async def test_failed_delivery_is_repeated(admin, caplog):
    async with no_hang(), Worker(admin, [collecting]) as worker:
        handle = await admin.enqueue(collecting, 1)
        await until(is_waiting, handle)
        connection = worker._services._claim_connection
        deliver, failed = connection.deliver, []
        await until(no_round_runs, worker)

        async def fail_twice():
            if len(failed) < 2:
                failed.append(1)
                raise DatabaseUnavailableError("the server is away")
            return await deliver()

        connection.deliver = fail_twice
        await handle.send(PAID, 7)
        assert await handle.result() == [7]
    assert len(failed) == 2
    assert [each.getMessage() for each in caplog.records if "delivery of messages failed" in each.getMessage()]


async def test_lost_claim_connection_delays_no_message_for_long(admin, sql, dsn):
    async with no_hang(), Worker(admin, [collecting]):
        handle = await admin.enqueue(collecting, 5)
        for n in range(5):
            await until(is_waiting, handle)
            async with connected(dsn) as connection:
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE query LIKE '%pgqrs_waits%' AND query LIKE $1 AND pid <> pg_backend_pid()",
                    f"%{admin.schema}%",
                )
            await handle.send(PAID, n)
            await until(has_received, admin, handle, n + 1)
        assert await handle.result() == [0, 1, 2, 3, 4]


async def has_received(admin, handle, count):
    return len([each for each in await handle.steps() if each.status == "SUCCESS"]) >= count


async def test_observer_hears_of_each_delivery(dsn, admin):
    seen = Deliveries()
    async with no_hang(), admin.twin(observer=seen) as own, Worker(own, [closing]):
        handles = await own.enqueue_many(closing, [()] * 30)
        await until(is_waiting, *handles)
        await admin.emit("closed", 7)
        assert [await handle.result() for handle in handles] == [7] * 30
    assert seen.count == 30


async def test_event_for_many_is_delivered_by_few_statements(admin, sql):
    async with no_hang(), Worker(admin, [closing]) as worker:
        handles = await admin.enqueue_many(closing, [()] * 500)
        await until(all_wait, sql, 500)
        await until(all_seen, sql)
        connection = worker._services._claim_connection
        deliver, sent = connection.deliver, []

        async def counted():
            sent.append(1)
            return await deliver()

        connection.deliver = counted
        await admin.emit("closed", 7)
        assert [await handle.result() for handle in handles] == [7] * 500
    assert len(sent) <= 20


async def all_wait(sql, count):
    return await sql.fetchval("SELECT count(*) FROM pgqrs_waits") == count


async def test_idle_worker_sends_no_delivery(admin, sql):
    """Waits that were looked at cost nothing: the tick asks for new ones, and there are none."""
    async with no_hang(), Worker(admin, [collecting]) as worker:
        handles = await admin.enqueue_many(collecting, [(1,)] * 20)
        await until(is_waiting, *handles)
        await until(all_seen, sql)
        connection = worker._services._claim_connection
        sent, ticks = [], []
        run_maintenance = connection.run_maintenance

        async def counted(*arguments):
            ticks.append(1)
            return await run_maintenance(*arguments)

        async def deliver():
            sent.append(1)
            raise AssertionError

        await until(no_round_runs, worker)
        connection.run_maintenance, connection.deliver = counted, deliver
        await until(lambda: len(ticks) >= 3)
    assert sent == []


async def no_round_runs(worker):
    deliveries = worker._services._deliveries
    return not deliveries._woken.is_set() and not worker._services._claim_connection._one_at_a_time.locked()


async def test_messages_survive_workers_that_come_and_go(dsn, admin, sql):
    """Each of a hundred messages is received once and in order, by runs of several workers that stop in between."""
    receivers = [await admin.enqueue(collecting, 20) for _ in range(5)]

    async def send_all(handle):
        for n in range(20):
            await handle.send(PAID, n)
            await asyncio.sleep(0.02)

    async def come_and_go():
        while True:
            async with Admin(dsn, admin.schema) as own, Worker(own, [collecting], grace=0.1):
                await asyncio.sleep(0.15)

    async with no_hang():
        workers = [asyncio.create_task(come_and_go()) for _ in range(2)]
        await asyncio.gather(*map(send_all, receivers))
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)
        async with Worker(admin, [collecting]):
            assert [await handle.result() for handle in receivers] == [list(range(20))] * 5
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_messages WHERE taken_at IS NULL") == 0


async def test_killed_worker_loses_no_message(dsn, admin, sql, program):
    """A process is killed while it receives; the messages that it had not recorded are the next run's."""
    handle = await admin.enqueue(collecting, 40)
    child = program(RECEIVER)
    async with no_hang():
        for n in range(40):
            await handle.send(PAID, n)
            if n == 20:
                await until(has_received, admin, handle, 5)
                child.kill()
                child.wait()
        async with Worker(admin, [collecting]):
            assert await handle.result() == list(range(40))
    counts = await sql.fetch("SELECT payload FROM pgqrs_messages ORDER BY taken_at, id")
    assert sorted(json.loads(each["payload"]) for each in counts) == list(range(40))


RECEIVER = """
import asyncio, os
from pgqrs import Admin, Worker, workflow

@workflow
async def collecting(ctx, count):
    return [await ctx.receive("paid") for _ in range(count)]

async def main():
    async with Admin(os.environ["PGQRS_DSN"], os.environ["PGQRS_SCHEMA"]) as admin:
        await Worker(admin, [collecting]).run()

asyncio.run(main())
"""


@pytest.mark.new_tables
@pytest.mark.slow
@pytest.mark.plants_rows
@pytest.mark.timeout(900)
async def test_very_many_parked_workflows_cost_an_idle_worker_nothing(dsn, schema, admin, sql):
    """An idle worker sends as few statements as beside empty tables, and a message wakes its receiver as soon."""
    await plant_waiting(sql, MANY)
    await sql.execute("VACUUM ANALYZE pgqrs_workflows")
    async with Wire(dsn, sql) as wire, Admin(wire.dsn, schema) as far, Worker(far, [stamped]) as worker:
        await admin.send(await _parked(admin, sql), PAID, 1)
        await until(_has_ended, sql, 1)
        claimer = worker._services._claimer
        await until(lambda: claimer._rest_when_idle >= MAX_POLL_INTERVAL)
        began, before = time.monotonic(), wire.exchanges
        await until(lambda: time.monotonic() - began > 10)
        assert wire.exchanges - before <= 2 * (time.monotonic() - began)
        latencies = []
        for number in range(2, 11):
            receiver, began = await _parked(admin, sql), time.monotonic()
            await admin.send(receiver, PAID, 1)
            await until(_has_ended, sql, number)
            latencies.append(time.monotonic() - began)
    assert statistics.median(latencies) < 0.5
    assert await sql.fetchval("SELECT count(*) FROM pgqrs_waits WHERE NOT is_new") == 2 * MANY


async def _parked(admin, sql):
    handle = await admin.enqueue(stamped)
    await until(is_waiting, handle)
    await until(all_seen, sql)
    return handle.id


async def _has_ended(sql, count):
    return await sql.fetchval("SELECT count(*) FROM pgqrs_workflows WHERE status = 'SUCCESS'") == count
