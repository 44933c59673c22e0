"""Ended workflows that are kept, deleted and restored.

``python -m examples.retention`` runs it. Workers delete the workflows of a customer two weeks after their end, and
keep them in the archive for ten years. When the customer leaves, the rest is deleted at once. A document of a
workflow brings it back.
"""

import asyncio
from datetime import timedelta

from pgqrs import Admin, BulkReport, PyWorkflow, Worker, WorkflowFilter, step, workflow


@step
async def pack(_ctx: PyWorkflow, goods: str) -> str:
    return f"packed {goods}"


@workflow
async def ship(ctx: PyWorkflow, goods: str) -> str:
    return await pack(ctx, goods)


async def configure(admin: Admin) -> None:
    """Set for how long ended workflows are kept."""
    await admin.set_retention(
        days=14,
        failed=60,
        per={"heartbeat": timedelta(hours=1)},
        archive=timedelta(days=3650),
    )


async def forget(admin: Admin, customer: str) -> BulkReport:
    """Delete the ended workflows of a customer, and return the report."""
    mine = WorkflowFilter(partition_key=customer)
    report = await admin.purge(mine, dry_run=True)
    print(f"of {report.found} workflows {report.changed} can be deleted")
    return await admin.purge(mine)


async def main() -> None:
    async with Admin("embedded://") as admin:
        await admin.install()
        await configure(admin)
        async with Worker(admin, [ship]):
            mine = admin.options(partition_key="ada")
            handles = [await mine.enqueue(ship, goods) for goods in ("a lamp", "a cord")]
            for handle in handles:
                print(await handle.result())
        document = await admin.export_workflow(handles[0].id)
        print(await forget(admin, "ada"))
        restored = await admin.import_workflow(document, ids="keep")
        print("restored:", await restored.result())
        for finding in await admin.doctor():
            print(finding)


if __name__ == "__main__":
    asyncio.run(main())
