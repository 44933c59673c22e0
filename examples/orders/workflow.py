"""The workflows of the shop: an order is approved, charged and shipped, one child for each parcel."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy import update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from examples.orders.carrier import Carrier
from examples.orders.models import Item, Order, Payment, Shipment
from pgqrs import PyWorkflow, RetryPolicy, Topic, step, workflow

APPROVAL = Topic("approval", bool)
"""The decision of a person about an expensive order."""

APPROVED_FROM = 50_000
"""Cents from which an order needs an approval."""

PROGRESS = "progress"
"""The event that tells the customer how far the order is."""

Fulfil: TypeAlias = Callable[[PyWorkflow, str], Coroutine[Any, Any, str]]

Deliver: TypeAlias = Callable[[PyWorkflow, str, int], Coroutine[Any, Any, str]]

_RETRIES = RetryPolicy(attempts=10, initial=0.1, maximum=30)


class OrderCancelledError(Exception):
    """The customer has cancelled the order before it was shipped."""


def delivery(carrier: Carrier) -> Deliver:
    """Return the workflow of a parcel, which this carrier delivers."""

    @step(retry=_RETRIES)
    async def ship(_ctx: PyWorkflow, order_id: str, parcel: int) -> str:
        """Hand the parcel to the carrier and return its tracking number.

        The carrier is outside of the database, so this step may run again: after a crash between the carrier's
        answer and the record of the step, or after a lost answer. The key is the same each time.
        """
        return await carrier.deliver(f"{order_id}/{parcel}", key=f"orders/{order_id}/{parcel}")

    @workflow
    async def deliver(ctx: PyWorkflow, order_id: str, parcel: int) -> str:
        tracking = await ship(ctx, order_id, parcel)
        await file_shipment(ctx, order_id, parcel, tracking)
        return tracking

    return deliver


def fulfilment(deliver: Deliver, *, cancel_within: float = 0.0) -> Fulfil:
    """Return the workflow of an order.

    A paid order waits `cancel_within` seconds before it is shipped, and the customer can cancel it meanwhile.
    """

    @workflow
    async def fulfil(ctx: PyWorkflow, order_id: str) -> str:
        # A cancellation, or an error, up to the end of this block undoes the payment.
        async with ctx.saga():
            if await price(ctx, order_id) >= APPROVED_FROM:
                await ctx.set_event(PROGRESS, "waits for an approval")
                if not await ctx.receive(APPROVAL, timeout=timedelta(days=3), default=False):
                    await withdraw(ctx, order_id)
                    return "not approved"
            await charge(ctx, order_id)
            await ctx.set_event(PROGRESS, "paid")
            await ctx.sleep(cancel_within)
            parcels = await begin_shipping(ctx, order_id)
        children = [await ctx.start(deliver, order_id, parcel) for parcel in range(1, parcels + 1)]
        shipped = 0
        async for _ in ctx.as_completed(*children):
            shipped += 1
            await ctx.set_event(PROGRESS, f"shipped {shipped} of {parcels}")
        return "shipped"

    return fulfil


@step(transactional=True, retry=_RETRIES)
async def price(ctx: PyWorkflow, order_id: str) -> int:
    """Return the price of the order in cents."""
    return (await ctx.session.get_one(Order, UUID(order_id))).cents


@step(transactional=True, retry=_RETRIES)
async def refund(ctx: PyWorkflow, _charged: None, order_id: str) -> None:
    """Give the money back; the refund and the record of this step are one transaction."""
    paid = update(Payment).where(Payment.order_id == UUID(order_id))
    await ctx.session.execute(paid.values(is_refunded=True))


@step(transactional=True, retry=_RETRIES, terminal=(IntegrityError, OrderCancelledError), undo=refund)
async def charge(ctx: PyWorkflow, order_id: str) -> None:
    """Charge the order, unless it was cancelled; the payment and the record of this step are one transaction.

    The lock makes a cancellation come before the payment or after it.
    """
    order = await _locked(ctx.session, order_id)
    ctx.session.add(Payment(order_id=order.id, cents=order.cents))


@step(transactional=True, retry=_RETRIES, terminal=(OrderCancelledError,))
async def begin_shipping(ctx: PyWorkflow, order_id: str) -> int:
    """Return the number of parcels; from now on the customer cannot cancel the order."""
    order = await _locked(ctx.session, order_id)
    order.is_shipping = True
    return order.quantity


@step(transactional=True, retry=_RETRIES)
async def withdraw(ctx: PyWorkflow, order_id: str) -> None:
    """Put an order that was not approved back into the stock."""
    order = await ctx.session.get_one(Order, UUID(order_id), with_for_update=True)
    if not order.is_cancelled:
        await put_back(ctx.session, order)


@step(transactional=True, retry=_RETRIES, terminal=(IntegrityError,))
async def file_shipment(ctx: PyWorkflow, order_id: str, parcel: int, tracking: str) -> None:
    """Note the tracking number in a table of the application, exactly once."""
    ctx.session.add(Shipment(order_id=UUID(order_id), parcel=parcel, tracking=tracking))


async def put_back(session: AsyncSession, order: Order) -> None:
    """Mark an order as cancelled, and put its goods back into the stock."""
    order.is_cancelled = True
    await session.execute(update(Item).where(Item.sku == order.sku).values(stock=Item.stock + order.quantity))


async def _locked(session: AsyncSession, order_id: str) -> Order:
    order = await session.get_one(Order, UUID(order_id), with_for_update=True)
    if order.is_cancelled:
        raise OrderCancelledError
    return order
