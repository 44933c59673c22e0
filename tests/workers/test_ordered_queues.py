"""Workers of ordered queues: a ledger refuses a second workflow of a key, and has the order of the workflows."""

import asyncio

from pgqrs import Admin, PyWorkflow, RetryPolicy, Topic, Worker, workflow
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
