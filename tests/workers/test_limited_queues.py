"""Workers of queues with limits: a ledger of the runs refuses one too many, and tells whether the limit is reached."""

import asyncio
import os
import random
import signal
from collections import Counter

import asyncpg
import pytest
import pytest_asyncio

from pgqrs import Admin, ConfigurationError, PyWorkflow, Rate, Topic, Worker, workflow
from pgqrs.worker import claimer, maintenance
from tests.support.processes import line_of
from tests.support.waiting import DEADLINE, no_hang, until

# A run takes a place of its key, and one of the queue, before it works, and leaves both after. A place counts while the
# run is valid: that of a process which was killed, or stopped until its run was recovered, is free for another run.
LEDGER = """
CREATE TABLE ledger (
    key text NOT NULL, place int NOT NULL, workflow bigint NOT NULL, epoch bigint NOT NULL, left_at timestamptz,
    pid int NOT NULL, EXCLUDE USING btree (key WITH =, place WITH =) WHERE (left_at IS NULL)
);
CREATE TABLE refused (workflow bigint NOT NULL);
"""

JOBS = """
import asyncio, logging, os, sys
import asyncpg
from pgqrs import Admin, PyWorkflow, Worker, workflow

OF_KEY, OF_QUEUE, SCHEMA = 2, 5, os.environ.get("PGQRS_SCHEMA")


FREE_THE_LOST = '''
    UPDATE ledger SET left_at = now() WHERE ctid IN (
        SELECT ctid FROM ledger WHERE left_at IS NULL AND NOT EXISTS (
            SELECT FROM pgqrs_workflows w WHERE w.id = workflow AND w.epoch = ledger.epoch AND w.executor IS NOT NULL
        ) FOR UPDATE SKIP LOCKED
    )
'''
TAKE = '''
    INSERT INTO ledger SELECT $1, $2, id, epoch, NULL, $5 FROM pgqrs_workflows
    WHERE id = $3 AND epoch = $4 AND executor IS NOT NULL
'''
LEAVE = "UPDATE ledger SET left_at = now() WHERE workflow = $1 AND epoch = $2 AND key = $3 AND left_at IS NULL"


async def enter(connection, run, key):
    await connection.execute(FREE_THE_LOST)
    if not (await take(connection, run, key, OF_KEY) and await take(connection, run, "", OF_QUEUE)):
        await connection.execute("INSERT INTO refused VALUES ($1)", run[0])


async def take(connection, run, key, places):
    for place in range(places):
        try:
            await connection.execute(TAKE, key, place, *run, os.getpid())
            return True
        except asyncpg.ExclusionViolationError:
            pass
    return False


async def leave(connection, run, key):
    for each in (key, ""):  # one row at a time, so that no two processes wait for each other
        await connection.execute(LEAVE, *run, each)


class Books:
    def __init__(self, connection):
        self.connection = connection
        self.lock = asyncio.Lock()
        self.gate = asyncio.Event()
        self.gate.set()

    async def work(self, run, key, seconds):
        async with self.lock:
            await enter(self.connection, run, key)
        await asyncio.sleep(seconds)
        await self.gate.wait()
        async with self.lock:
            await leave(self.connection, run, key)


books = []


@workflow
async def kept(ctx: PyWorkflow, key: str, seconds: float) -> str:
    await books[0].work((ctx.id(), ctx._run.epoch), key, seconds)
    return key


async def main():
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    connection = await asyncpg.connect(os.environ["PGQRS_DSN"], server_settings={"search_path": SCHEMA})
    books.append(Books(connection))
    async with Admin(os.environ["PGQRS_DSN"], SCHEMA, heartbeat_timeout=1.0) as admin:
        async with Worker(admin, [kept], ["mail"], 20):
            print("works", flush=True)
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
"""
jobs: dict[str, object] = {}
exec(compile(JOBS.replace('__name__ == "__main__"', "False"), "jobs", "exec"), jobs)
kept, Books = jobs["kept"], jobs["Books"]


@pytest_asyncio.fixture
async def ledger(sql, dsn, schema):
    await sql.execute(LEDGER)
    connection = await asyncpg.connect(dsn, server_settings={"search_path": schema})
    jobs["books"].append(Books(connection))
    yield sql
    jobs["books"].clear()
    await connection.close()


async def _open_places(sql):
    """Return the number of places that are taken now, of each key."""
    rows = await sql.fetch(
        "SELECT key, count(*) AS taken FROM ledger WHERE left_at IS NULL AND key <> '' GROUP BY key"
    )
    return Counter({row["key"]: row["taken"] for row in rows})


async def test_workers_reach_each_limit_and_never_exceed_it(admin, ledger):
    await admin.set_queue("mail", concurrency=5, partition_concurrency=2)
    gate = jobs["books"][0].gate
    gate.clear()
    handles = []
    for key in "abcd":
        submit = admin.options(queue="mail", partition_key=key)
        handles += await submit.enqueue_many(kept, [(key, 0.0)] * 12)
    async with no_hang():
        workers = [Worker(admin, [kept], ["mail"], 4) for _ in range(3)]
        for each in workers:
            await each.start()

        async def is_full():
            return (await _open_places(ledger)).total() == 5

        await until(is_full)
        assert max((await _open_places(ledger)).values()) == 2
        gate.set()
        assert [await each.result() for each in handles] == [key for key in "abcd" for _ in range(12)]
        for each in workers:
            await each.drain()
    assert await ledger.fetchval("SELECT count(*) FROM refused") == 0


class Crew:
    """Processes that work, one of which is killed or stopped now and then; another one takes the place of a killed one."""

    def __init__(self, sql, program, count):
        self._sql, self._program = sql, program
        self._chance = random.Random(count)
        self._crew = [program(JOBS) for _ in range(count)]
        self._stopped = []

    async def strike(self, *, stops):
        """Kill a process with runs, or stop it; a stopped one goes on when there are two more of them."""
        victim = await until(self._busy)
        if stops and self._chance.random() < 0.25:
            victim.send_signal(signal.SIGSTOP)
            self._stopped.append(victim)
            if len(self._stopped) > 2:
                self._stopped.pop(0).send_signal(signal.SIGCONT)
            return
        victim.kill()
        victim.wait()
        self._crew[self._crew.index(victim)] = self._program(JOBS)

    def wake(self):
        for each in self._stopped:
            each.send_signal(signal.SIGCONT)

    async def _busy(self):
        pids = {row["pid"] for row in await self._sql.fetch("SELECT pid FROM ledger WHERE left_at IS NULL")}
        return next((each for each in self._crew if each.pid in pids and each not in self._stopped), None)


SMALL, LARGE = (2, 40, 1), (8, 2000, 30)
"""Processes, workflows and faults."""


@pytest.mark.parametrize("size", [SMALL, pytest.param(LARGE, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
async def test_killed_processes_exceed_no_limit_and_lose_no_slot(admin, ledger, program, size):
    processes, count, faults = size
    await admin.set_queue("mail", concurrency=5, partition_concurrency=2)
    handles = []
    for key in "abcd":
        submit = admin.options(queue="mail", partition_key=key)
        handles += await submit.enqueue_many(kept, [(key, 0.02)] * (count // 4))
    crew = Crew(ledger, program, processes)
    for number in range(faults):
        await until(_has_ended, ledger, count * number // (faults + 1))
        await crew.strike(stops=size is LARGE)
    crew.wake()
    await until(_has_ended, ledger, count, seconds=5 * DEADLINE)
    assert [await each.result() for each in handles] == [key for key in "abcd" for _ in range(count // 4)]
    assert await ledger.fetchval("SELECT count(*) FROM refused") == 0
    most = await ledger.fetch("SELECT key, max(place) + 1 AS most FROM ledger GROUP BY key")
    reached = {row["key"]: row["most"] for row in most}
    if size is LARGE:
        assert reached == {"": 5, **dict.fromkeys("abcd", 2)}
    else:  # of few and short runs, two of one key may never meet
        assert set(reached) == {"", *"abcd"}


async def _has_ended(sql, count):
    return await sql.fetchval("SELECT count(*) FROM pgqrs_workflows WHERE completed_at IS NOT NULL") >= count


@pytest.mark.slow  # `test_stale_holder_frees_no_slot` is its short form
async def test_stopped_process_that_wakes_frees_no_slot(admin, ledger, program):
    await admin.set_queue("mail", partition_concurrency=2)
    handles = await admin.options(queue="mail", partition_key="a").enqueue_many(kept, [("a", 0.5)] * 3)
    process, gate = program(JOBS), jobs["books"][0].gate
    gate.clear()
    of_process = "SELECT count(*) FROM ledger WHERE key = 'a' AND left_at IS NULL AND pid = $1"
    async with no_hang():
        await until(_equals, ledger, of_process, process.pid, 2)
        process.send_signal(signal.SIGSTOP)
        async with Worker(admin, [kept], ["mail"]):
            await until(_equals, ledger, of_process, os.getpid(), 2)
            process.send_signal(signal.SIGCONT)
            for _ in range(2):
                assert await line_of(process.stdout, "was dropped: WorkflowFencedError")
            assert [await each.status() for each in handles] == ["RUNNING", "RUNNING", "PENDING"]
            process.kill()
            gate.set()
            assert [await each.result() for each in handles] == ["a"] * 3
    assert await ledger.fetchval("SELECT count(*) FROM refused") == 0


async def _equals(sql, query, given, expected):
    return await sql.fetchval(query, given) == expected


async def test_end_of_a_run_starts_the_next_of_another_worker(admin, dsn, schema, monkeypatch):
    """The other worker is notified: the pauses between its polls and between its rounds of maintenance never end."""
    for module, constant in (
        (claimer, "MIN_POLL_INTERVAL"),
        (claimer, "MAX_POLL_INTERVAL"),
        (maintenance, "REGULAR_INTERVAL"),
    ):
        monkeypatch.setattr(module, constant, 10 * DEADLINE)
    order, gate = [], asyncio.Event()

    @workflow
    async def gated(ctx: PyWorkflow) -> None:
        order.append("gated")
        await gate.wait()

    @workflow
    async def other(ctx: PyWorkflow) -> None:
        order.append("other")

    await admin.set_queue("mail", concurrency=1)
    async with no_hang(), Admin(dsn, schema) as second:
        submit = admin.options(queue="mail")
        async with Worker(admin, [gated], ["mail"]), Worker(second, [other], ["mail"]):
            await submit.enqueue(gated)
            await until(lambda: order == ["gated"])
            handle = await submit.enqueue(other)
            (queue,) = await admin.list_queues()
            assert (queue.running, queue.held_back) == (1, 1)
            gate.set()
            await handle.result()
    assert order == ["gated", "other"]


async def test_end_of_a_run_starts_the_next_beside_deferred_hints(admin, monkeypatch):
    """Hints that led to no workflow defer further hints, and here for ever; the end of an own run is no hint."""
    for constant in ("MIN_POLL_INTERVAL", "MAX_POLL_INTERVAL", "MIN_HINT_PAUSE", "MAX_HINT_PAUSE"):
        monkeypatch.setattr(claimer, constant, 10 * DEADLINE)
    monkeypatch.setattr(maintenance, "REGULAR_INTERVAL", 10 * DEADLINE)
    gate = asyncio.Event()

    @workflow
    async def gated(ctx: PyWorkflow) -> None:
        await gate.wait()

    await admin.set_queue("mail", concurrency=1)
    async with no_hang():
        worker = Worker(admin, [gated], ["mail"])
        await worker.start()
        handles = [await admin.options(queue="mail").enqueue(gated) for _ in range(3)]
        await until(lambda: worker._services._claimer._pause)
        gate.set()
        for each in handles:
            await each.result()
        await worker.drain()


async def test_parked_workflow_holds_no_slot(admin):
    go = Topic("go", int)

    @workflow
    async def waiting(ctx: PyWorkflow) -> int:
        return await ctx.receive(go)

    await admin.set_queue("mail", concurrency=1)
    async with no_hang(), Worker(admin, [waiting], ["mail"]):
        handles = await admin.options(queue="mail").enqueue_many(waiting, [()] * 3)
        await until(lambda: _all_are(admin, "WAITING", 3))
        for number, each in enumerate(handles):
            await each.send(go, number)
        assert [await each.result() for each in handles] == [0, 1, 2]


async def _all_are(admin, status, count):
    return len(await admin.list_workflows(status=status)) == count


async def test_run_by_hand_counts_and_is_not_held_back(admin, watch, sql):
    @workflow
    async def one(ctx: PyWorkflow) -> int:
        return 1

    @workflow
    async def looking(ctx: PyWorkflow) -> list[int]:
        return [run.workflow_id for run in await watch.claim(["one"], ["mail"], 9)]

    await admin.set_queue("mail", concurrency=1)
    submit = admin.options(queue="mail")
    handle = await submit.enqueue(one)
    assert await submit.run(looking) == []
    assert await submit.run(one) == 1
    assert [run.workflow_id for run in await watch.claim(["one"], ["mail"], 9)] == [handle.id]


@pytest_asyncio.fixture
async def watch(admin):
    watch = await (await admin.store()).claim_connection(lambda _queue: None)
    yield watch
    await watch.close()


async def test_pause_and_limits_reach_a_worker_that_waits(admin):
    @workflow
    async def one(ctx: PyWorkflow) -> int:
        return 1

    await admin.pause_queue("mail")
    async with no_hang(), Worker(admin, [one], ["mail", "default"]):
        handle = await admin.options(queue="mail").enqueue(one)
        assert await (await admin.enqueue(one)).result() == 1
        (mail,) = await admin.list_queues()
        assert (mail.ready, mail.held_back) == (1, 1)
        await admin.resume_queue("mail")
        assert await handle.result() == 1


async def test_children_have_their_partition_keys(admin, sql):
    @workflow
    async def one(ctx: PyWorkflow) -> int:
        return 1

    @workflow
    async def parent(ctx: PyWorkflow) -> int:
        single = await ctx.options(queue="mail", partition_key="a").start(one)
        keyed = await ctx.options(queue="mail", partition_key="b", key="k").start(one)
        many = await ctx.options(queue="mail", partition_key="c").start_many(one, [(), ()])
        return await single + await keyed + sum(await ctx.gather(many))

    await admin.set_queue("mail", concurrency=2, partition_concurrency=1)
    async with no_hang(), Worker(admin, [one, parent], ["mail", "default"]):
        assert await (await admin.enqueue(parent)).result() == 4
    rows = await sql.fetch(
        "SELECT partition_key AS key FROM pgqrs_workflows WHERE parent_id IS NOT NULL ORDER BY id"
    )
    assert [row["key"] for row in rows] == [*"abcc"]


async def test_worker_keeps_to_a_rate_and_sleeps_until_the_next_start(admin, sql):
    @workflow
    async def one(ctx: PyWorkflow) -> int:
        return 1

    await admin.set_queue("mail", rate=Rate(20, per=1, burst=2))
    async with no_hang(), Worker(admin, [one], ["mail"]), Worker(admin, [one], ["mail"]):
        handles = await admin.options(queue="mail").enqueue_many(one, [()] * 8)
        assert [await each.result() for each in handles] == [1] * 8
    rows = await sql.fetch(
        "SELECT EXTRACT(epoch FROM started_at)::float AS at FROM pgqrs_workflows ORDER BY started_at"
    )
    starts = [row["at"] for row in rows]
    assert all(later - earlier > 0.049 for earlier, later in zip(starts, starts[2:], strict=False))


# The share of a queue in one worker


async def test_worker_runs_no_more_of_a_queue_than_its_share(admin):
    running, most, gate = Counter(), Counter(), asyncio.Event()

    @workflow
    async def counted(ctx: PyWorkflow, queue: str) -> None:
        running[queue] += 1
        most[queue] = max(most[queue], running[queue])
        await gate.wait()
        running[queue] -= 1

    handles = []
    for queue in ("mail", "default"):
        handles += await admin.options(queue=queue).enqueue_many(counted, [(queue,)] * 6)
    async with no_hang(), Worker(admin, [counted], {"mail": 2, "default": 3}):
        await until(lambda: running == {"mail": 2, "default": 3})
        await admin.set_queue("mail", concurrency=4)
        gate.set()
        for each in handles:
            await each.result()
    assert most == {"mail": 2, "default": 3}


def test_shares_are_checked(admin):
    @workflow
    async def one(ctx: PyWorkflow) -> int:
        return 1

    with pytest.raises(ConfigurationError, match="mail"):
        Worker(admin, [one], {"mail": 0})
    with pytest.raises(TypeError, match="mail"):
        Worker(admin, [one], {"mail": "2"})
    with pytest.raises(ConfigurationError, match="at least one queue"):
        Worker(admin, [one], {})
