"""A workflow that does not run, and the reasons, one after the other.

``python -m examples.why`` runs it. An operator asks `admin.why`, removes the reason, and asks again.
"""

import asyncio

from pgqrs import Admin, PyWorkflow, ReasonKind, Topic, Worker, step, workflow

APPROVAL = Topic("approval", bool)


@step
async def charge(_ctx: PyWorkflow, customer: str) -> str:
    return f"charged {customer}"


@workflow
async def checkout(ctx: PyWorkflow, customer: str) -> str:
    await ctx.receive(APPROVAL, timeout=3600)
    return await charge(ctx, customer)


async def explain(admin: Admin) -> list[ReasonKind]:
    """Enqueue a workflow, ask why it does not run until it has ended, and return the kinds of the reasons."""
    kinds: list[ReasonKind] = []

    async def ask(kind: ReasonKind) -> None:
        """Ask until the reasons have a kind, and print them."""
        why = await admin.why(handle.id)
        while kind not in why.kinds:
            await asyncio.sleep(0.05)  # the workers need a moment for the change
            why = await admin.why(handle.id)
        kinds.append(kind)
        print(why)

    await admin.pause_queue("orders")
    handle = await admin.options(queue="orders").enqueue(checkout, "ada")
    await ask(ReasonKind.NO_WORKER)
    async with Worker(admin, [checkout], ["orders"]):
        await ask(ReasonKind.QUEUE_PAUSED)
        await admin.resume_queue("orders")
        await ask(ReasonKind.MESSAGE)
        await handle.send(APPROVAL, value=True)
        await handle.result()
        await ask(ReasonKind.ENDED)
        for worker in await admin.list_workers():
            print(f"process {worker.pid} on {worker.host} claims {worker.names} of {list(worker.queues)}")
    return kinds


async def main() -> None:
    async with Admin("embedded://") as admin:
        await admin.install()
        await explain(admin)


if __name__ == "__main__":
    asyncio.run(main())
