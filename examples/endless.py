"""An account that takes payments for ever, and a change of its code while it lives.

``python -m examples.endless`` runs it. The history of the account stays short, because the workflow begins anew
after a few payments with the balance as its argument. A payment that comes in between waits in the mailbox.
"""

import asyncio

from pgqrs import Admin, PyWorkflow, Topic, Worker, step, workflow

PAYMENT = Topic("payment", int)
PAYMENTS_OF_A_GENERATION = 3


@step(key=lambda _balance, number: number)
async def with_fee(_ctx: PyWorkflow, balance: int, _number: int) -> int:
    return balance - 1


@workflow
async def account(ctx: PyWorkflow, balance: int) -> int:
    # An account that has begun with the code of last year pays no fee until it begins anew.
    has_fee = await ctx.patched("fee-2026")
    for number in range(PAYMENTS_OF_A_GENERATION):
        payment = await ctx.receive(PAYMENT)
        if payment == 0:
            break
        balance += payment
        if has_fee:
            balance = await with_fee(ctx, balance, number)
    else:
        await ctx.set_event("balance", balance)
        await ctx.continue_as_new(account, balance)
    return balance


async def main() -> None:
    async with Admin("embedded://") as admin:
        await admin.install()
        handle = await admin.enqueue(account, 100)
        for payment in (10, 20, 30, 40, 50, 0):
            await handle.send(PAYMENT, payment)
        async with Worker(admin, [account]):
            print(await handle.result(timeout=30))
        print([each.step_id for each in await handle.steps()])
        print(await handle.events())


if __name__ == "__main__":
    asyncio.run(main())
