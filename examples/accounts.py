"""Accounts whose bookings are made in the order in which they came, with the balance as a state.

``python -m examples.accounts`` runs it. A withdrawal that the balance does not allow is refused, so the order of
the bookings of an account matters; the accounts are served side by side.
"""

import asyncio

from pgqrs import Admin, PyWorkflow, StepFailedError, Worker, step, workflow


@step
async def write(ctx: PyWorkflow, amount: int) -> int:
    balance = await ctx.state.get("balance", 0, type=int) + amount
    if balance < 0:
        raise ValueError(f"{-balance} more than there is")
    await ctx.state.set("balance", balance)  # is committed with the outcome of the step
    return balance


@workflow
async def book(ctx: PyWorkflow, amount: int) -> int:
    return await write(ctx, amount)


async def book_all(admin: Admin, account: str, amounts: list[int]) -> list[str]:
    """Enqueue the bookings of an account, and return the balance after each, or the reason of its refusal."""
    submit = admin.options(queue="accounts", partition_key=account)
    answers: list[str] = []
    for each in [await submit.enqueue(book, amount) for amount in amounts]:
        try:
            answers.append(str(await each.result()))
        except StepFailedError as error:
            answers.append(f"refused: {error}")
    return answers


async def balance_of(admin: Admin, account: str) -> int:
    """Return the balance of an account; no worker is necessary."""
    return (await admin.state(book, account)).get("balance", 0, type=int)


async def main() -> None:
    async with Admin("embedded://") as admin:
        await admin.install()
        await admin.set_queue("accounts", ordered=True)
        async with Worker(admin, [book], ["accounts"]):
            both = (book_all(admin, "ada", [100, -70, -70, 50]), book_all(admin, "bob", [5, -5]))
            for answers in await asyncio.gather(*both):
                print(*answers, sep=", ")
        print("ada has", await balance_of(admin, "ada"))


if __name__ == "__main__":
    asyncio.run(main())
