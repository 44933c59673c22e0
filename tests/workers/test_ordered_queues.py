"""Workers of ordered queues: a ledger refuses a second workflow of a key, and has the order of the workflows."""

import asyncio
import os
import signal

from pgqrs import Admin, PyWorkflow, RetryPolicy, Topic, Worker, workflow
from tests.support.processes import line_of
from tests.support.waiting import no_hang

LEDGER = """
CREATE TABLE ledger (
    place bigint GENERATED ALWAYS AS IDENTITY, key text NOT NULL, workflow bigint NOT NULL, left_at timestamptz,
    EXCLUDE USING btree (key WITH =) WHERE (left_at IS NULL)
);
"""


class Ledger:
    """A workflow enters before its first step and leaves after its last one, however often it runs."""

    def __init__(self, sql):
        self._sql = sql
        self._lock = asyncio.Lock()

    async def enter(self, ctx, key):
        async with self._lock:
            await self._sql.execute("INSERT INTO ledger (key, workflow) VALUES ($1, $2)", key, ctx.id())

    async def leave(self, ctx):
        async with self._lock:
            await self._sql.execute("UPDATE ledger SET left_at = now() WHERE workflow = $1", ctx.id())

    async def order(self, key):
        async with self._lock:
            rows = await self._sql.fetch("SELECT workflow FROM ledger WHERE key = $1 ORDER BY place", key)
            return [row["workflow"] for row in rows]


async def test_order_holds_over_failures_retries_and_waits(admin: Admin, dsn, schema, sql):
    await sql.execute(LEDGER)
    ledger, go, failed = Ledger(sql), Topic("go", int), set()

    @workflow(retry=RetryPolicy(2, initial=0.01))
    async def entry(ctx: PyWorkflow, key: str, number: int) -> int:
        await ctx.step("enter", lambda: ledger.enter(ctx, key))
        if number % 3 == 0 and ctx.id() not in failed:
            failed.add(ctx.id())
            raise OSError
        if number % 3 == 1:
            await ctx.receive(go)
        await ctx.step("leave", lambda: ledger.leave(ctx))
        if number % 3 == 2:
            raise ValueError
        return number

    await admin.set_queue("books", ordered=True)
    handles = {key: [] for key in "ab"}
    for number in range(3):
        for key, own in handles.items():
            submit = admin.options(queue="books", partition_key=key)
            own.append(await submit.enqueue(entry, key, number))
    async with (
        no_hang(),
        Admin(dsn, schema) as second,
        Worker(admin, [entry], ["books"], 3),
        Worker(second, [entry], ["books"], 3),
    ):
        for own in handles.values():
            await own[1].send(go, 1)
            ends = await asyncio.gather(*(each.result() for each in own), return_exceptions=True)
            assert [isinstance(each, ValueError) for each in ends] == [False, False, True]
    for key, own in handles.items():
        assert await ledger.order(key) == [each.id for each in own]


async def test_parked_head_does_not_stop_other_keys(admin: Admin):
    go = Topic("go", int)

    @workflow
    async def waiting(ctx: PyWorkflow) -> int:
        return await ctx.receive(go)

    @workflow
    async def quick(ctx: PyWorkflow) -> int:
        return 1

    await admin.set_queue("books", ordered=True)
    async with no_hang(), Worker(admin, [waiting, quick], ["books"], 1):
        head = await admin.options(queue="books", partition_key="a").enqueue(waiting)
        behind = await admin.options(queue="books", partition_key="a").enqueue(quick)
        assert await (await admin.options(queue="books", partition_key="b").enqueue(quick)).result() == 1
        assert [each.status for each in await admin.list_workflows(limit=3)][1] == "PENDING"
        await head.send(go, 5)
        assert await head.result() == 5
        assert await behind.result() == 1


PROGRAM = """
import asyncio, logging, os, sys
import asyncpg
from pgqrs import Admin, PyWorkflow, Worker, workflow

# The step may be executed twice, and the workflow has one row.
ENTER = "INSERT INTO ledger (key, workflow) SELECT $1, $2 WHERE NOT EXISTS (SELECT FROM ledger WHERE workflow = $2)"
LEAVE = "UPDATE ledger SET left_at = now() WHERE workflow = $1"


class Books:
    def __init__(self, connection, wait):
        self.connection, self.wait = connection, wait
        self.lock = asyncio.Lock()

    async def write(self, *values):
        async with self.lock:
            await self.connection.execute(*values)

    async def work(self, number):
        await self.wait(number)
        return os.getpid()


books = []


@workflow
async def kept(ctx: PyWorkflow, key: str, number: int) -> int:
    await ctx.step("enter", lambda: books[0].write(ENTER, key, ctx.id()))
    pid = await ctx.step("work", lambda: books[0].work(number))
    await ctx.step("leave", lambda: books[0].write(LEAVE, ctx.id()))
    return pid


async def wait_for_input(number):
    if number == 0:
        print("works on the head", flush=True)
        await asyncio.to_thread(sys.stdin.readline)


async def main():
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    schema = os.environ["PGQRS_SCHEMA"]
    connection = await asyncpg.connect(os.environ["PGQRS_DSN"], server_settings={"search_path": schema})
    books.append(Books(connection, wait_for_input))
    async with Admin(os.environ["PGQRS_DSN"], schema) as admin, Worker(admin, [kept], ["books"]):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
"""


async def test_stopped_process_that_wakes_does_not_break_the_order(admin: Admin, sql, program):
    """The process of the head wakes while another process runs the next workflow of the key."""
    await sql.execute(LEDGER)
    jobs: dict[str, object] = {}
    exec(compile(PROGRAM.replace('__name__ == "__main__"', "False"), "jobs", "exec"), jobs)
    reached, gate = asyncio.Event(), asyncio.Event()

    async def wait_for_gate(number):
        if number == 1:
            reached.set()
            await gate.wait()

    kept, books = jobs["kept"], Ledger(sql)
    jobs["books"].append(jobs["Books"](sql, wait_for_gate))
    await admin.set_queue("books", ordered=True)
    of = {key: admin.options(queue="books", partition_key=key) for key in "ab"}
    stopped = program(PROGRAM)
    handles = await of["a"].enqueue_many(kept, [("a", number) for number in range(4)])
    assert await line_of(stopped.stdout, "works on the head")
    stopped.send_signal(signal.SIGSTOP)
    # As a minute without a heartbeat would.
    await sql.execute(
        "UPDATE pgqrs_executors SET expires_at = now(), suspected_at = now() - interval '50 s' WHERE pid = $1",
        stopped.pid,
    )
    async with no_hang(), Worker(admin, [kept], ["books"], 1):
        await reached.wait()
        assert await handles[0].result() == os.getpid()
        # As the heartbeat after SIGCONT would; until then the new runs of the process would be recovered, too.
        await sql.execute(
            "UPDATE pgqrs_executors SET expires_at = now() + interval '15 s', suspected_at = NULL WHERE pid = $1",
            stopped.pid,
        )
        stopped.stdin.write("\n")  # the step of the stale run ends at once
        stopped.stdin.flush()
        stopped.send_signal(signal.SIGCONT)
        assert await line_of(stopped.stdout, "was dropped: WorkflowFencedError")
        # The worker here has no room, so the process claims from the queue again, and nothing of the key.
        assert await (await of["b"].enqueue(kept, "b", 2)).result() == stopped.pid
        assert [await each.status() for each in handles] == ["SUCCESS", "RUNNING", "PENDING", "PENDING"]
        gate.set()
        assert await handles[1].result() == os.getpid()
    handles += await of["a"].enqueue_many(kept, [("a", number) for number in range(4, 6)])
    async with no_hang():
        pids = [await each.result() for each in handles]
    assert pids[4:] == [stopped.pid] * 2
    assert await books.order("a") == [each.id for each in handles]
    assert await sql.fetchval("SELECT count(*) FROM ledger WHERE left_at IS NULL") == 0
