"""A nightly job in a time zone: each night once, also in the night in which the clock is set.

The report of a night is made by the worker that comes first, whatever the number of workers. After an outage over
several nights, the newest report is made.
"""

import asyncio

from pgqrs import Admin, Cron, PyWorkflow, Worker, step, workflow

HALF_PAST_TWO = Cron("30 2 * * *", "Europe/Berlin")


@step
async def count_orders(_ctx: PyWorkflow, day: str) -> int:
    return len(day)


@workflow
async def report(ctx: PyWorkflow, shop: str) -> str:
    assert ctx.scheduled_for is not None
    day = ctx.scheduled_for.date().isoformat()
    return f"{shop} on {day}: {await count_orders(ctx, day)} orders"


async def main() -> None:
    async with Admin("embedded://") as admin:
        await admin.install()
        nightly = await admin.schedule("nightly", HALF_PAST_TWO, report, "books", jitter=60)
        for time in await nightly.next(3):
            print("comes at", time)
        async with Worker(admin, [report]):
            handle = await nightly.trigger()  # as an operator does, in place of a wait for the night
            print(await handle.result(timeout=30))


if __name__ == "__main__":
    asyncio.run(main())
