"""A journey that is booked in several places, and is undone when its customer cancels it.

``python -m examples.saga`` runs it. The journey waits up to an hour for its ticket, parked: it holds neither a
slot nor memory. When the customer cancels, a worker gives the hotel back, then refunds the charge.
"""

import asyncio

from pgqrs import Admin, PyWorkflow, RetryPolicy, Worker, WorkflowCancelledError, step, workflow


@step(retry=RetryPolicy(attempts=5, initial=0.1))
async def refund(_ctx: PyWorkflow, receipt: str | None, customer: str, cents: int) -> None:
    # The receipt is None if the charge began and has no value; the key of the charge finds it then.
    print(f"refund {cents} cents to {customer}: {receipt}")


@step(undo=refund, undo_when="began")
async def charge(_ctx: PyWorkflow, customer: str, cents: int) -> str:
    return f"{customer} has paid {cents} cents"


@step
async def give_back(_ctx: PyWorkflow, room: int, hotel: str) -> None:
    print(f"give room {room} back to {hotel}")


@step(key=lambda hotel: hotel, undo=give_back)
async def book(_ctx: PyWorkflow, hotel: str) -> int:
    print(f"book a room of {hotel}")
    return 17


@workflow
async def journey(ctx: PyWorkflow, customer: str) -> str:
    async with ctx.saga():
        await charge(ctx, customer, 9900)
        room = await book(ctx, "the Grand Hotel")
        await ctx.set_event("status", f"room {room} is booked")
        ticket = await ctx.wait_event("the train is confirmed", timeout=3600)
    return f"{customer}, {ticket}"


async def main() -> None:
    async with Admin("embedded://") as admin:
        await admin.install()
        async with Worker(admin, [journey]):
            handle = await admin.enqueue(journey, "Ann")
            print(await handle.event("status"))
            await handle.cancel()
            try:
                await handle.result(timeout=30)
            except WorkflowCancelledError:
                print(await handle.status())


if __name__ == "__main__":
    asyncio.run(main())
