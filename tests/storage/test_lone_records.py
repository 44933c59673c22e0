"""A batch of one record: its waiter is resumed within the task step of the journal."""

import asyncio
import gc
import subprocess
import sys
import time
import weakref
from contextvars import Context, ContextVar

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from pgqrs import Admin
from tests.support.waiting import DEADLINE, until
from tests.support.workflows import numbered

HELD: ContextVar[object] = ContextVar("held")


class Thing:
    """Something to be collected."""


async def _started(admin):
    ctx = await admin.create_workflow("w")
    await ctx.start()
    return ctx


@pytest.mark.parametrize("bound", [0.2, None])
async def test_command_timeout_of_the_engine_does_not_apply_to_writes(dsn, schema, admin, sql, bound):
    await sql.execute(f"""
        CREATE FUNCTION {schema}.wait() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_sleep(0.6); RETURN new; END';
        CREATE TRIGGER wait BEFORE INSERT ON {schema}.pgqrs_workflow_steps
            FOR EACH ROW WHEN (new.step_id = 'numbered:7') EXECUTE FUNCTION {schema}.wait()
    """)
    sent_to_asyncpg = dsn.replace("postgresql://", "postgresql+asyncpg://", 1)
    engine = create_async_engine(sent_to_asyncpg, connect_args={"command_timeout": bound})
    try:
        async with asyncio.timeout(DEADLINE), Admin(engine, schema) as own:
            ctx = await _started(own)
            journal = (await own.store()).journal
            before = journal.statements
            assert await numbered(ctx, 7) == 7
            assert journal.statements == before + 1
    finally:
        await engine.dispose()


async def test_answer_received_during_a_blocked_loop_is_accepted(dsn, schema, admin):
    async with Admin(dsn, schema, timeout=0.2) as own:
        ctx = await _started(own)
        await numbered(ctx, -1)  # the connection knows the statement now, which is one round trip
        journal = (await own.store()).journal
        connection, before = journal._connection.dedicated.driver, journal.statements
        for n in range(3):
            writing = asyncio.create_task(numbered(ctx, n))
            while journal.statements == before + n:  # noqa: ASYNC110  # the answer must come while the loop is blocked
                await asyncio.sleep(0)
            time.sleep(0.3)  # noqa: ASYNC251  # which is what it is about
            assert await writing == n
        assert journal.statements == before + 3
        assert journal._connection.dedicated.driver is connection


NESTING_LATER = """
import asyncio, sys
import nest_asyncio
from pgqrs import Admin, step, workflow

@step(key=lambda n: n)
async def numbered(ctx, n):
    return n

@workflow
async def busy(ctx):
    n = 0
    while not over:
        n += 1
        await numbered(ctx, n)

@workflow
async def nesting(ctx):
    first = await numbered(ctx, 1)
    both = asyncio.gather(numbered(ctx, 2), numbered(ctx, 3))
    return first + sum(asyncio.get_running_loop().run_until_complete(asyncio.wait_for(both, 20)))

async def main():
    async with Admin(*sys.argv[1:]) as admin:
        others = [asyncio.create_task(admin.run(busy)) for _ in range(2)]
        await admin.run(nesting_not)
        nest_asyncio.apply()  # as a library that is imported late, while there is always something to write
        print(sum(await asyncio.gather(*(admin.run(nesting) for _ in range(5)))))
        over.append(1)
        await asyncio.gather(*others)

@workflow
async def nesting_not(ctx):
    await numbered(ctx, 1)

over = []
asyncio.run(main())
"""

NESTING = """
import asyncio, sys
import nest_asyncio
from pgqrs import Admin, step, workflow

nest_asyncio.apply()  # as in a notebook

@step(key=lambda n: n)
async def numbered(ctx, n):
    return n

@workflow
async def nesting(ctx):
    first = await numbered(ctx, 1)
    within = asyncio.wait_for(numbered(ctx, 2), 20)
    return first + asyncio.get_running_loop().run_until_complete(within)

async def main():
    async with Admin(*sys.argv[1:]) as admin:
        print(await admin.run(nesting))
        print(sum(await asyncio.gather(*(admin.run(nesting) for _ in range(5)))))

asyncio.run(main())
"""


@pytest.mark.parametrize(("program", "printed"), [(NESTING, "3\n15\n"), (NESTING_LATER, "30\n")])
def test_step_in_a_nested_event_loop_is_recorded(dsn, schema, admin, program, printed):
    """In a program of its own: `nest_asyncio` changes asyncio for good."""
    command = [sys.executable, "-c", program, dsn, schema]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE)
    assert (done.returncode, done.stdout) == (0, printed), done.stderr


async def test_journal_keeps_no_reference_to_an_ended_task(admin):
    contexts = [await _started(admin) for _ in range(2)]
    may_begin, stop = asyncio.Event(), asyncio.Event()
    freed = {}

    async def alone():
        HELD.set(held := Thing())
        await numbered(contexts[0], -1)
        freed["context"] = weakref.ref(held)
        result = Thing()
        freed["result"] = weakref.ref(result)
        may_begin.set()  # within the journal's step, which goes on with two records at a time, and no lone one
        return result

    async def in_step(ctx):
        await may_begin.wait()
        n = 0
        while not stop.is_set():
            await numbered(ctx, n)
            n += 1

    others = [asyncio.create_task(in_step(ctx), context=Context()) for ctx in contexts]
    task = asyncio.create_task(alone())
    await task
    freed["task"] = weakref.ref(task)
    del task

    def is_freed():
        gc.collect()
        return all(each() is None for each in freed.values())

    try:
        await until(is_freed)
    finally:
        stop.set()
        await asyncio.gather(*others)
