"""A worker of the tests of upgrades, for either of two versions of pgqrs: `python travelling.py DSN SCHEMA VERSION`.

It uses what both versions know, and takes commands on its standard input. Its journeys write their steps into a ledger of their own, with the version that ran them.
"""

from __future__ import annotations

import asyncio
import sys

import asyncpg

from pgqrs import Admin, PyWorkflow, Worker, step, workflow

DSN, SCHEMA, VERSION = sys.argv[1:]


@step(key=lambda place: place)
async def call_at(ctx: PyWorkflow, place: str) -> str:
    ledger = await asyncpg.connect(DSN, server_settings={"search_path": f'"{SCHEMA}"'})
    await ledger.execute("INSERT INTO ledger VALUES ($1, $2, $3)", ctx.id(), place, VERSION)
    await ledger.close()
    return place


@workflow
async def luggage(ctx: PyWorkflow, n: int) -> int:
    await call_at(ctx, "hold")
    return 10 * n


@workflow
async def journey(ctx: PyWorkflow, n: int) -> int:
    """Wait between the steps for messages, a time and a child."""
    await call_at(ctx, "home")
    await ctx.set_event("at", "platform")
    n += await ctx.receive("board", timeout=600)
    await call_at(ctx, "junction")
    bags = await ctx.call(luggage, n)
    await ctx.sleep(0.05)
    n += await ctx.receive("leave", timeout=600)
    await call_at(ctx, "inn")
    return n + bags


@step(key=str)
async def count(ctx: PyWorkflow, n: int) -> int:
    return n


@workflow
async def commute(ctx: PyWorkflow, days: int) -> int:
    """Write without a pause, so that it is under way when the tables change."""
    return sum([await count(ctx, each) for each in range(days)])


async def submit(admin: Admin) -> None:
    """Submit ten journeys and two commutes."""
    await admin.enqueue_many(journey, [(n,) for n in range(10)])
    await admin.enqueue_many(commute, [(300,)] * 2)


async def send(admin: Admin, topic: str) -> None:
    """Send each journey that waits a message of a topic."""
    for each in await admin.list_workflows(name="journey", status="WAITING"):
        await admin.send(each.id, topic, 100)


async def main() -> None:
    """Serve, and execute commands: a line each, and one for the answer."""
    async with Admin(DSN, SCHEMA) as admin, Worker(admin, [journey, luggage, commute]):
        while line := await asyncio.to_thread(sys.stdin.readline):
            command, *arguments = line.split()
            await {"submit": submit, "send": send}[command](admin, *arguments)
            sys.stdout.write("done\n")
            sys.stdout.flush()


asyncio.run(main())
