"""The application: routes over a `Shop`, and a lifespan that opens the shop and runs its workers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response, status
from sqlalchemy import URL, make_url
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from examples.orders.carrier import Carrier
from examples.orders.messages import Decision, NewOrder, OrderState, Placed
from examples.orders.shop import AlreadyShippedError, NoDecisionError, OutOfStockError, Shop
from examples.orders.tables import create_tables
from examples.orders.workflow import delivery, fulfilment
from pgqrs import Admin, Worker, embedded

router = APIRouter()


def create_app(dsn: str | None = None, *, workers: int = 1, cancel_within: float = 0.0) -> FastAPI:
    """Return the application on the database of `dsn`.

    Without a DSN the environment variable ORDERS_DSN has it, and without that the application starts a server of
    its own. With no `workers` it takes orders and leaves the work to other processes. `cancel_within` is the
    number of seconds for which a paid order can be cancelled.
    """
    where = dsn or os.environ.get("ORDERS_DSN", "embedded://")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with opened(where, workers, cancel_within) as shop:
            app.state.shop = shop
            yield

    app = FastAPI(title="Orders", lifespan=lifespan)
    app.include_router(router)
    return app


@asynccontextmanager
async def opened(dsn: str, workers: int, cancel_within: float) -> AsyncGenerator[Shop]:
    """Open the shop: one engine for the application and for pgqrs, and its workers."""
    engine = create_async_engine(await asyncio.to_thread(_url_of, dsn))
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.dispose)
        await create_tables(engine)
        admin = await stack.enter_async_context(Admin(engine, sessionmaker=sessions))
        await admin.install()
        deliver = delivery(Carrier(engine))
        fulfil = fulfilment(deliver, cancel_within=cancel_within)
        for _ in range(workers):
            # At most the connections of the pool, because each transactional step takes one.
            await stack.enter_async_context(Worker(admin, [fulfil, deliver], concurrency=10, grace=10))
        yield Shop(admin, sessions, fulfil)


def _url_of(dsn: str) -> URL:
    """Return the URL for SQLAlchemy; start the embedded server if the DSN names one."""
    plain = embedded.start(dsn) if embedded.is_embedded(dsn) else dsn
    return make_url(plain).set(drivername="postgresql+asyncpg")


def _shop(request: Request) -> Shop:
    shop: Shop = request.app.state.shop
    return shop


# The shop and not a session: FastAPI runs the code after a dependency's `yield`, such as a commit, after it has
# sent the answer, unless the dependency has `scope="function"`; a 201 must not be sent before the commit.
OpenShop = Annotated[Shop, Depends(_shop)]


@router.post("/orders", status_code=status.HTTP_201_CREATED)
async def place(asked: NewOrder, shop: OpenShop, response: Response) -> Placed:
    """Place an order; the status is 200 if an order with this id exists."""
    try:
        if not await shop.place(asked):
            response.status_code = status.HTTP_200_OK
    except OutOfStockError:
        raise HTTPException(status.HTTP_409_CONFLICT, f"not in stock: {asked.quantity} of {asked.sku}") from None
    return Placed(id=asked.id)


@router.get("/orders")
async def newest(shop: OpenShop) -> list[OrderState]:
    """Return the newest orders."""
    return await shop.states()


@router.get("/orders/{order_id}")
async def one(order_id: UUID, shop: OpenShop) -> OrderState:
    """Return an order and its progress."""
    for state in await shop.states(order_id):
        return state
    raise HTTPException(status.HTTP_404_NOT_FOUND, f"there is no order {order_id}")


@router.post("/orders/{order_id}/decision")
async def decide(order_id: UUID, decision: Decision, shop: OpenShop) -> OrderState:
    """Approve an expensive order, or refuse it."""
    try:
        await shop.decide(order_id, is_approved=decision.is_approved)
    except NoDecisionError:
        raise HTTPException(status.HTTP_409_CONFLICT, f"order {order_id} has ended") from None
    return await one(order_id, shop)


@router.post("/orders/{order_id}/cancel")
async def cancel(order_id: UUID, shop: OpenShop) -> OrderState:
    """Cancel an order that is not being shipped; a payment is refunded."""
    try:
        await shop.cancel(order_id)
    except AlreadyShippedError:
        raise HTTPException(status.HTTP_409_CONFLICT, f"order {order_id} is being shipped") from None
    return await one(order_id, shop)
