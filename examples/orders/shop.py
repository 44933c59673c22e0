"""What can be asked of the shop: each writes what it writes in one transaction, workflow included."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import selectinload

from examples.orders.messages import NewOrder, OrderState
from examples.orders.models import Item, Order, Payment, Shipment
from examples.orders.workflow import Fulfil
from pgqrs import Admin, StepStatus, WorkflowFinishedError, WorkflowStatus
from pgqrs.models import Workflow


class OutOfStockError(Exception):
    """There is not enough of what was ordered, or nothing of that name."""


class AlreadyPaidError(Exception):
    """The order was charged, so it is too late to cancel it."""


@dataclass(frozen=True, slots=True)
class Shop:
    """The application's sessions, its workflows, and what it does with both."""

    admin: Admin
    sessions: async_sessionmaker[AsyncSession]
    fulfil: Fulfil

    async def place(self, asked: NewOrder) -> bool:
        """Write an order, enqueue its workflow and take it from the stock; return False for one that is there.

        Raises `OutOfStockError`: then nothing of that is written.
        """
        async with self.sessions.begin() as session:
            # Of a key there is one workflow: of two requests for one order the second waits here for the first.
            submit = self.admin.options(session=session, key=f"order {asked.id}")
            handle = await submit.enqueue(self.fulfil, str(asked.id))
            if await session.get(Order, asked.id) is not None:
                return False
            order = Order(**asked.model_dump(), cents=0, workflow_id=handle.id)
            session.add(order)
            order.cents = asked.quantity * await _taken(session, asked)
        return True

    async def cancel(self, order_id: UUID) -> bool:
        """Cancel an order and put it back into the stock; return False where there is none.

        Raises `AlreadyPaidError`: then it goes its way.
        """
        async with self.sessions.begin() as session:
            order = await session.get(Order, order_id, with_for_update=True)
            if order is None or order.is_cancelled:
                return order is not None
            if await session.scalar(select(Payment).where(Payment.order_id == order_id)) is not None:
                raise AlreadyPaidError
            order.is_cancelled = True
            await _put_back(session, order)
            with suppress(WorkflowFinishedError):  # it has failed before it could charge
                await self.admin.cancel_workflow(order.workflow_id, session=session)
        return True

    async def look(self, order_id: UUID | None = None) -> list[OrderState]:
        """Return how orders stand, or the one of this id, in statements that join both sides' tables."""
        query = (
            select(Order, Workflow, Shipment.tracking)
            .join(Workflow, Workflow.id == Order.workflow_id)
            .join(Shipment, Shipment.order_id == Order.id, isouter=True)
            .options(selectinload(Workflow.steps))
            .order_by(Workflow.id.desc())
            .limit(100)
        )
        if order_id is not None:
            query = query.where(Order.id == order_id)
        async with self.sessions() as session:
            return [_state(*row) for row in await session.execute(query)]


async def _taken(session: AsyncSession, asked: NewOrder) -> int:
    """Take what is asked for from the stock and return its price."""
    enough = (Item.sku == asked.sku) & (Item.stock >= asked.quantity)
    take = update(Item).where(enough).values(stock=Item.stock - asked.quantity)
    cents: int | None = await session.scalar(take.returning(Item.cents))
    if cents is None:
        raise OutOfStockError
    return cents


async def _put_back(session: AsyncSession, order: Order) -> None:
    await session.execute(update(Item).where(Item.sku == order.sku).values(stock=Item.stock + order.quantity))


def _state(order: Order, workflow: Workflow, tracking: str | None) -> OrderState:
    return OrderState(
        id=order.id,
        customer=order.customer,
        sku=order.sku,
        quantity=order.quantity,
        cents=order.cents,
        is_cancelled=order.is_cancelled,
        tracking=tracking,
        workflow=WorkflowStatus(workflow.status),
        steps={step.step_id: StepStatus(step.status) for step in workflow.steps},
    )
