"""A budget that grants money: a caller asks the workflow, and waits for its reply.

``python -m examples.updates`` runs it. The budget waits without a slot and without memory. Each request is granted
or refused once, whatever crashes, and a caller that has lost its answer asks again with the same key.
"""

import asyncio
from typing import Any

from pgqrs import Admin, PyWorkflow, Receive, Topic, Update, UpdateRefusedError, Worker, step, workflow

GRANT = Update("grant", int, str)
CLOSE: Topic[Any] = Topic("close")


@step
async def pay(_ctx: PyWorkflow, cents: int) -> str:
    return f"paid {cents} cents"


@workflow
async def budget(ctx: PyWorkflow, cents: int) -> int:
    while True:
        what, request = await ctx.select(grant=Receive(GRANT), close=Receive(CLOSE))
        if what == "close":
            return cents
        if request.value > cents:
            await request.refuse(f"only {cents} cents are left")
        else:
            cents -= request.value
            await request.reply(await pay(ctx, request.value))


async def main() -> None:
    async with Admin("embedded://") as admin:
        await admin.install()
        async with Worker(admin, [budget]):
            # Starts the budget of the year, unless it is there, and asks it in the same transaction.
            year = admin.options(key="2026").with_start(budget, 1000)
            print(await year.update(GRANT, 600, timeout=30, key="order 1"))
            print(await year.update(GRANT, 600, timeout=30, key="order 1"), "(the same reply)")

            handle = await admin.options(key="2026").enqueue(budget, 1000)
            try:
                await handle.update(GRANT, 600, timeout=30, key="order 2")
            except UpdateRefusedError as error:
                print("refused:", error.reason)
            await handle.send(CLOSE, None)
            print(await handle.result(timeout=30), "cents are left")


if __name__ == "__main__":
    asyncio.run(main())
