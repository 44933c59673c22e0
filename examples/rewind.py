"""An order that was charged the wrong amount, and is charged again from the middle.

``python -m examples.rewind`` runs it. The price was wrong, so the operator corrects it, and rewinds the order to
the time before `charge`: the reservation stays, and the approval that the order has received returns to it.
"""

import asyncio

from pgqrs import Admin, PyWorkflow, Topic, Worker, step, workflow

APPROVAL = Topic("approval", str)

PRICES = {"lamp": 1}


@step
async def reserve(_ctx: PyWorkflow, item: str) -> str:
    return f"a {item} is reserved"


@step
async def charge(_ctx: PyWorkflow, item: str) -> int:
    return PRICES[item]


@step
async def ship(_ctx: PyWorkflow, item: str, approved_by: str) -> str:
    return f"the {item} is on its way, approved by {approved_by}"


@workflow
async def order(ctx: PyWorkflow, item: str) -> str:
    reserved = await reserve(ctx, item)
    cents = await charge(ctx, item)
    approved_by = await ctx.receive(APPROVAL)
    return f"{reserved}, {cents} cents, {await ship(ctx, item, approved_by)}"


async def correct(admin: Admin) -> tuple[str, str]:
    """Run an order with a wrong price, correct the price, and return both results."""
    handle = await admin.enqueue(order, "lamp")
    await handle.send(APPROVAL, "ada")
    wrong = await handle.result()
    PRICES["lamp"] = 9900
    rewind = await admin.rewind(handle.id, before="charge")
    for each in rewind.steps:
        print(f"set aside: {each.step_id}, which had recorded {each.output!r}")
    return wrong, await handle.result()


async def main() -> None:
    async with Admin("embedded://") as admin:
        await admin.install()
        async with Worker(admin, [order]):
            print(*await correct(admin), sep="\n")


if __name__ == "__main__":
    asyncio.run(main())
