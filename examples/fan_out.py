"""A parent with 10,000 children.

``python -m examples.fan_out`` runs it. The parent starts its children by ten statements, is parked while they run,
and sums their results. Its history has two rows, however many children it has.
"""

import asyncio
import sys
import time

from pgqrs import Admin, PyWorkflow, Worker, step, workflow


@step
async def measure(_ctx: PyWorkflow, page: int) -> int:
    return page % 7


@workflow
async def resize(ctx: PyWorkflow, page: int) -> int:
    return await measure(ctx, page)


@workflow
async def resize_all(ctx: PyWorkflow, pages: int) -> int:
    children = await ctx.start_many(resize, ((page,) for page in range(pages)))
    return sum(await ctx.gather(children))


async def main(pages: int = 10_000) -> None:
    async with Admin("embedded://") as admin:
        await admin.install()
        async with Worker(admin, [resize_all, resize], concurrency=500):
            began = time.monotonic()
            handle = await admin.enqueue(resize_all, pages)
            print(f"{await handle.result()} in {time.monotonic() - began:.1f} s")
            print([each.step_id for each in await handle.steps()])


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
