"""A shop finds the deliveries of a customer, and cancels the ones whose orders were withdrawn.

``python -m examples.withdrawals`` runs it. The deliveries are selected by a join with the table of the shop, and
cancelled in the transaction that marks the orders.
"""

import asyncio

import asyncpg
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pgqrs import Admin, BulkReport, PyWorkflow, Worker, WorkflowPage, embedded, workflow
from pgqrs.models import Workflow


class Base(DeclarativeBase):
    """The tables of the shop."""


class Order(Base):
    """An order, and the workflow that delivers it."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[int]
    is_withdrawn: Mapped[bool] = mapped_column(default=False)
    workflow_id: Mapped[int | None]


@workflow
async def deliver(ctx: PyWorkflow, order: int) -> str:
    await ctx.set_attributes(stage="packed")
    carrier: str = await ctx.receive("picked up")
    await ctx.set_attributes(stage="shipped", carrier=carrier)
    return f"order {order} is with {carrier}"


async def place(admin: Admin, sessions: async_sessionmaker[AsyncSession], customer: int) -> int:
    """Write an order and enqueue its delivery, in one transaction; return the id of the order."""
    async with sessions.begin() as session:
        session.add(order := Order(customer=customer))
        await session.flush()
        options = admin.options(session=session, attributes={"customer": customer}, tags=("delivery", "eu"))
        order.workflow_id = (await options.enqueue(deliver, order.id)).id
        return order.id


async def packed_for(admin: Admin, customer: int) -> WorkflowPage:
    """Return the deliveries of a customer that are packed and not shipped."""
    return await admin.list_workflows(
        name="deliver", attributes={"customer": customer, "stage": "packed"}, status=("PENDING", "WAITING")
    )


async def withdraw(admin: Admin, sessions: async_sessionmaker[AsyncSession], customer: int) -> BulkReport:
    """Withdraw the orders of a customer, and cancel their deliveries, in one transaction."""
    async with sessions.begin() as session:
        await session.execute(update(Order).where(Order.customer == customer).values(is_withdrawn=True))
        withdrawn = select(Workflow.id).join(Order, Order.workflow_id == Workflow.id).where(Order.is_withdrawn)
        print("dry run:", await admin.cancel_workflows(withdrawn, dry_run=True, session=session))
        return await admin.cancel_workflows(withdrawn, session=session)


async def main() -> None:
    dsn = await asyncio.to_thread(embedded.start, "embedded://")
    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(dsn))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
        await connection.run_sync(Base.metadata.create_all)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    async with Admin(engine) as admin:
        await admin.install()
        customers = (0, 1, 0, 1)
        for customer in customers:
            await place(admin, sessions, customer)
        async with Worker(admin, [deliver]):
            for _ in range(200):
                if len(await packed_for(admin, 0)) + len(await packed_for(admin, 1)) == len(customers):
                    break
                await asyncio.sleep(0.05)
        print(await withdraw(admin, sessions, customer=1))
        page = await admin.list_workflows(attributes={"customer": 0}, tags="eu")
        print("left:", [(each.id, each.attributes["stage"]) for each in page])
        print(await admin.send_many([each.id for each in page], "picked up", "the post", key="monday"))
        print("counts:", await admin.count_workflows(tags="delivery"))
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
