"""The operations of the shop; each writes its rows and changes its workflow in one transaction."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from examples.orders.messages import NewOrder, OrderState
from examples.orders.models import Item, Order, Payment, Shipment
from examples.orders.workflow import APPROVAL, PROGRESS, Fulfil, put_back
from pgqrs import Admin, WorkflowFinishedError, WorkflowStatus
from pgqrs.models import Event, Workflow


class OutOfStockError(Exception):
    """The stock is too small for the order, or has no goods of this name."""


class AlreadyShippedError(Exception):
    """The shipping of the order has begun, so the customer cannot cancel it."""


class NoDecisionError(Exception):
    """The order has ended, so a decision about it comes too late."""


@dataclass(frozen=True, slots=True)
class Shop:
    """The application's sessions, its workflows, and the operations on both."""

    admin: Admin
    sessions: async_sessionmaker[AsyncSession]
    fulfil: Fulfil

    async def place(self, asked: NewOrder) -> bool:
        """Write an order, enqueue its workflow and take the goods from the stock; return False for a known order.

        Raises `OutOfStockError`, and then writes nothing.
        """
        async with self.sessions.begin() as session:
            # There is one workflow of a key: the second of two requests for one order waits here for the first.
            submit = self.admin.options(session=session, key=f"order {asked.id}")
            handle = await submit.enqueue(self.fulfil, str(asked.id))
            if await session.get(Order, asked.id) is not None:
                return False
            order = Order(**asked.model_dump(), cents=0, workflow_id=handle.id)
            session.add(order)
            order.cents = asked.quantity * await _taken(session, asked)
        return True

    async def decide(self, order_id: UUID, *, is_approved: bool) -> bool:
        """Send the decision about an order to its workflow; return False for an unknown order.

        The key makes the first decision count. Raises `NoDecisionError` for an order that has ended.
        """
        async with self.sessions.begin() as session:
            order = await session.get(Order, order_id)
            if order is None:
                return False
            submit = self.admin.options(session=session)
            try:
                await submit.send(order.workflow_id, APPROVAL, is_approved, key="decision")
            except WorkflowFinishedError:
                raise NoDecisionError from None
        return True

    async def cancel(self, order_id: UUID) -> bool:
        """Cancel an order and put its goods back into the stock; return False for an unknown order.

        The workflow gives the money back. Raises `AlreadyShippedError`, and then changes nothing.
        """
        async with self.sessions.begin() as session:
            order = await session.get(Order, order_id, with_for_update=True)
            if order is None or order.is_cancelled:
                return order is not None
            if order.is_shipping:
                raise AlreadyShippedError
            await put_back(session, order)
            with suppress(WorkflowFinishedError):  # it has failed before it could charge
                await self.admin.cancel_workflow(order.workflow_id, session=session)
        return True

    async def states(self, order_id: UUID | None = None) -> list[OrderState]:
        """Return the newest orders, or one order, with one statement over the tables of both sides."""
        tracking = select(func.array_agg(Shipment.tracking)).where(Shipment.order_id == Order.id)
        progress = select(Event.value).where(Event.workflow_id == Workflow.id, Event.name == PROGRESS)
        parts = (tracking.scalar_subquery(), progress.scalar_subquery())
        query = (
            select(Order, Workflow.status, Payment.is_refunded, *parts)
            .join(Workflow, Workflow.id == Order.workflow_id)
            .join(Payment, Payment.order_id == Order.id, isouter=True)
            .where(*_named(order_id))
            .order_by(Workflow.id.desc())
            .limit(100)
        )
        async with self.sessions() as session:
            return [_state(*row) for row in await session.execute(query)]


def _named(order_id: UUID | None) -> list[ColumnElement[bool]]:
    return [] if order_id is None else [Order.id == order_id]


async def _taken(session: AsyncSession, asked: NewOrder) -> int:
    """Take the ordered goods from the stock and return the price of one piece."""
    enough = (Item.sku == asked.sku) & (Item.stock >= asked.quantity)
    take = update(Item).where(enough).values(stock=Item.stock - asked.quantity)
    cents: int | None = await session.scalar(take.returning(Item.cents))
    if cents is None:
        raise OutOfStockError
    return cents


def _state(
    order: Order, status: str, is_refunded: bool | None, tracking: list[str] | None, progress: str | None
) -> OrderState:
    return OrderState(
        id=order.id,
        customer=order.customer,
        sku=order.sku,
        quantity=order.quantity,
        cents=order.cents,
        is_cancelled=order.is_cancelled,
        is_refunded=bool(is_refunded),
        tracking=sorted(tracking or []),
        workflow=WorkflowStatus(status),
        progress=progress,
    )
