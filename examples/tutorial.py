"""An order that waits for its payment, is packed, and ships its parcels: the program of docs/tutorial.md.

``python -m examples.tutorial work`` runs a worker. In another terminal ``... order lamp shade`` submits an order
and prints its id, ``... pay 1 4200`` pays order 1, and ``... show 1`` waits for its end.
"""

import asyncio
import os
import signal
import sys
from datetime import timedelta

from pgqrs import Admin, PyWorkflow, Topic, Worker, step, workflow

PAYMENT = Topic("payment", int)

BOXES = {"lamp": "a large box", "shade": "a round box"}


@step
async def reserve(_ctx: PyWorkflow, items: list[str]) -> None:
    print(f"reserve {', '.join(items)}")


@step
async def release(_ctx: PyWorkflow, items: list[str]) -> None:
    print(f"release {', '.join(items)}")


@step(key=lambda item: item)  # one step for each item
async def pack(_ctx: PyWorkflow, item: str) -> str:
    print(f"pack the {item}")
    return f"the {item} in {BOXES[item]}"


@step(retry=3, timeout=30)
async def hand_over(ctx: PyWorkflow, parcel: str) -> str:
    print(f"hand over {parcel}")
    if os.environ.get("CRASH") == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{parcel}, number {ctx.id()}"


@workflow
async def ship(ctx: PyWorkflow, parcel: str) -> str:
    return await hand_over(ctx, parcel)


@workflow
async def fulfil(ctx: PyWorkflow, items: list[str]) -> list[str]:
    await reserve(ctx, items)
    cents = await ctx.receive(PAYMENT, timeout=timedelta(days=3), default=0)
    if cents == 0:
        await release(ctx, items)
        return []
    parcels = [await pack(ctx, item) for item in items]
    children = await ctx.start_many(ship, [(parcel,) for parcel in parcels])
    return await ctx.gather(children)


async def main(command: str, *arguments: str) -> None:
    async with Admin(os.environ.get("PGQRS_DSN", "embedded://")) as admin:
        await admin.install()
        if command == "work":
            await Worker(admin, [fulfil, ship]).run()
        elif command == "order":
            handle = await admin.enqueue(fulfil, list(arguments))
            print(f"order {handle.id}")
        elif command == "pay":
            number, cents = map(int, arguments)
            await admin.send(number, PAYMENT, cents, key="the payment")  # a second click pays nothing
        elif command == "show":
            print(await admin.handle(int(arguments[0]), fulfil).result())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
