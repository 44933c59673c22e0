"""One tenant with 500 reports, and another with one.

``python -m examples.tenants`` runs it. The queue runs at most four reports at once, and two of each tenant. So the
report of the small tenant does not wait for those of the large one.
"""

import asyncio
import sys

from pgqrs import Admin, PyWorkflow, Worker, step, workflow


@step
async def render(_ctx: PyWorkflow, tenant: str, page: int) -> str:
    await asyncio.sleep(0.01)
    return f"page {page} of {tenant}"


@workflow
async def report(ctx: PyWorkflow, tenant: str, page: int) -> str:
    return await render(ctx, tenant, page)


async def render_all(admin: Admin, pages: int) -> int:
    """Enqueue the reports of both tenants, and return how many of the large one ended before that of the other."""
    await admin.set_queue("reports", concurrency=4, partition_concurrency=2)
    large = await admin.options(queue="reports", partition_key="large").enqueue_many(
        report, [("large", page) for page in range(pages)]
    )
    small = await admin.options(queue="reports", partition_key="small").enqueue(report, "small", 1)
    print(await small.result())
    done = await admin.list_workflows(status="SUCCESS", limit=pages + 1)
    await asyncio.gather(*(each.result() for each in large))
    return sum(each.partition_key == "large" for each in done)


async def main(pages: int = 500) -> None:
    async with Admin("embedded://") as admin:
        await admin.install()
        async with Worker(admin, [report], ["reports"]):
            print(f"before it, {await render_all(admin, pages)} of {pages} reports of the large tenant")


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
