"""A schema that is renamed: its trigger and its SQL functions find their tables under the new name."""

from __future__ import annotations

from pgqrs import Admin, PyWorkflow, Worker, workflow
from tests.support.families import double
from tests.support.waiting import no_hang


@workflow
async def of_one(ctx: PyWorkflow) -> int:
    return await (await ctx.start(double, 4))


@workflow
async def listening(ctx: PyWorkflow) -> list:
    return [await ctx.receive("paid"), await ctx.wait_event("closed")]


async def test_functions_work_after_the_schema_was_renamed(dsn, schema, installed, sql):
    moved = f'{schema}\'s "new" SCHEMA'
    quoted = '"{}"'.format(moved.replace('"', '""'))
    async with no_hang():
        async with Admin(dsn, schema) as before, Worker(before, [of_one, double]):
            assert await (await before.enqueue(of_one)).result() == 8  # the session has plans of the functions
        old = await sql.fetchval("SELECT id FROM pgqrs_workflows ORDER BY id LIMIT 1")
        await sql.execute("SELECT emit('before')")
        await sql.execute(f"ALTER SCHEMA {schema} RENAME TO {quoted}")
        try:
            async with Admin(dsn, moved) as admin, Worker(admin, [of_one, double, listening]):
                assert await admin.handle(old).result() == 8
                assert await (await admin.enqueue(of_one)).result() == 8
                waiting = await admin.enqueue(listening)
                await sql.execute(f"SELECT {quoted}.send($1, 'paid', '7')", waiting.id)
                assert await sql.fetchval(f"SELECT {quoted}.emit('closed', '\"now\"')")
                assert await waiting.result() == [7, "now"]
        finally:
            await sql.execute(f"ALTER SCHEMA {quoted} RENAME TO {schema}")
