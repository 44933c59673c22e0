"""An order, charged and then shipped parcel by parcel: a step that is recorded never runs again."""

import asyncio

from pgqrs import Admin, PyWorkflow, step, workflow


@step
async def charge(ctx: PyWorkflow, order: str, cents: int) -> str:
    return f"receipt {ctx.id()}: {cents} cents for {order}"


@step(key=lambda parcel: parcel)  # one step for each parcel
async def ship(ctx: PyWorkflow, parcel: str) -> str:
    return f"{parcel} of order {ctx.id()} is on its way"


@workflow
async def checkout(ctx: PyWorkflow, order: str, parcels: list[str]) -> list[str]:
    return [await charge(ctx, order, 4200), *[await ship(ctx, parcel) for parcel in parcels]]


async def main() -> None:
    async with Admin("embedded://") as admin:  # or "postgresql://...", or your own AsyncEngine
        await admin.install()
        print(await admin.run(checkout, "a lamp", ["shade", "foot"]))


asyncio.run(main())
