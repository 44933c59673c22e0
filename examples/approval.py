"""An order that waits for an approval.

``python -m examples.approval`` runs it. The order waits up to an hour. It holds neither a slot nor memory, so
any number of orders may wait. Another process could approve it; here it is a task of the same one.
"""

import asyncio

from pgqrs import Admin, Event, PyWorkflow, Receive, Sleep, Topic, Worker, step, workflow

APPROVAL = Topic("approval", bool)


@step
async def ship(_ctx: PyWorkflow, order: str) -> str:
    return f"{order} is on its way"


@workflow
async def approve(ctx: PyWorkflow, order: str) -> str:
    await ctx.set_event("status", "waits for an approval")
    what, is_approved = await ctx.select(
        approval=Receive(APPROVAL), closed=Event("the shop has closed"), late=Sleep(3600)
    )
    if what == "approval" and is_approved:
        await ctx.set_event("status", "approved")
        return await ship(ctx, order)
    return f"{order} is not shipped: {what}"


async def main() -> None:
    async with Admin("embedded://") as admin:
        await admin.install()
        async with Worker(admin, [approve]):
            handle = await admin.enqueue(approve, "a lamp")
            print(await handle.event("status"))
            # The key makes a second click harmless.
            await handle.send(APPROVAL, value=True, key="click 1")
            print(await handle.result(timeout=30))
            print(await handle.events())


if __name__ == "__main__":
    asyncio.run(main())
