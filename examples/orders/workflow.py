"""What becomes of an order: it is charged, shipped, and its customer told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy.exc import IntegrityError

from examples.orders.carrier import Carrier
from examples.orders.models import Order, Payment, Shipment
from pgqrs import PyWorkflow, RetryPolicy, step, workflow

CANCELLED = "cancelled"
"""What the workflow returns for an order that was cancelled before it was charged."""

Fulfil: TypeAlias = Callable[[PyWorkflow, str], Coroutine[Any, Any, str]]

_logger = logging.getLogger("orders")

_PATIENTLY = RetryPolicy(attempts=10, initial=0.1, maximum=30)


def fulfilment(carrier: Carrier) -> Fulfil:
    """Return the workflow of an order, which is given the order's id, with the parcels handed to this carrier."""

    @step(retry=_PATIENTLY)
    async def ship(ctx: PyWorkflow, order_id: str) -> str:
        """Hand the parcel to the carrier and return its tracking number.

        It happens outside of the database, so it may be called again: after a crash between the carrier's answer
        and the record of it, or when the answer got lost. The key is the same each time, and tells the carrier.
        """
        return await carrier.deliver(order_id, key=f"orders/{ctx.id()}/{order_id}")

    @workflow
    async def fulfil(ctx: PyWorkflow, order_id: str) -> str:
        if not await charge(ctx, order_id):
            return CANCELLED
        tracking = await ship(ctx, order_id)
        await file_shipment(ctx, order_id, tracking)
        await notify(ctx, order_id, tracking)
        return tracking

    return fulfil


@step(transactional=True, retry=_PATIENTLY, terminal=(IntegrityError,))
async def charge(ctx: PyWorkflow, order_id: str) -> bool:
    """Charge the order, unless it was cancelled; tell whether it was charged.

    The payment and the record of this step are one transaction: neither is ever there without the other. The lock
    makes a cancellation come before the payment or after it.
    """
    order = await ctx.session.get_one(Order, UUID(order_id), with_for_update=True)
    if order.is_cancelled:
        return False
    ctx.session.add(Payment(order_id=order.id, cents=order.cents))
    return True


@step(transactional=True, retry=_PATIENTLY, terminal=(IntegrityError,))
async def file_shipment(ctx: PyWorkflow, order_id: str, tracking: str) -> None:
    """Note the tracking number, in the application's own tables and so exactly once."""
    ctx.session.add(Shipment(order_id=UUID(order_id), tracking=tracking))


@step
async def notify(ctx: PyWorkflow, order_id: str, tracking: str) -> None:  # noqa: ARG001
    """Tell the customer. A crash at the wrong moment tells them twice, which they will bear."""
    _logger.info("order %s is on its way as %s", order_id, tracking)
