"""The application: routes over a `Shop`, and a lifespan that opens it and has its workers run meanwhile."""

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
from examples.orders.messages import NewOrder, OrderState, Placed
from examples.orders.shop import AlreadyPaidError, OutOfStockError, Shop
from examples.orders.tables import create_tables
from examples.orders.workflow import fulfilment
from pgqrs import Admin, Worker, embedded

router = APIRouter()


def create_app(dsn: str | None = None, *, workers: int = 1) -> FastAPI:
    """Return the application on the database of `dsn`.

    Without a DSN it is that in the environment variable ORDERS_DSN, or a server of its own. With no `workers` it
    takes orders and leaves the work to other processes.
    """
    where = dsn or os.environ.get("ORDERS_DSN", "embedded://")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with opened(where, workers) as shop:
            app.state.shop = shop
            yield

    app = FastAPI(title="Orders", lifespan=lifespan)
    app.include_router(router)
    return app


@asynccontextmanager
async def opened(dsn: str, workers: int) -> AsyncGenerator[Shop]:
    """Open the shop: one engine for the application and for pgqrs, and that many workers."""
    engine = create_async_engine(await asyncio.to_thread(_url_of, dsn))
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.dispose)
        await create_tables(engine)
        admin = await stack.enter_async_context(Admin(engine, sessionmaker=sessions))
        await admin.install()
        fulfil = fulfilment(Carrier(engine))
        for _ in range(workers):
            # No more at once than the pool has connections, for each step takes one.
            await stack.enter_async_context(Worker(admin, [fulfil], concurrency=10, grace=10))
        yield Shop(admin, sessions, fulfil)


def _url_of(dsn: str) -> URL:
    """Return what SQLAlchemy reads, with the embedded server started if that is what is asked for."""
    plain = embedded.start(dsn) if embedded.is_embedded(dsn) else dsn
    return make_url(plain).set(drivername="postgresql+asyncpg")


def _shop(request: Request) -> Shop:
    shop: Shop = request.app.state.shop
    return shop


# The shop and not a session: what a dependency does after its `yield`, a commit say, FastAPI does after the answer
# is sent (but for `Depends(..., scope="function")`), and a 201 must not be sent before the order is there.
OpenShop = Annotated[Shop, Depends(_shop)]


@router.post("/orders", status_code=status.HTTP_201_CREATED)
async def place(asked: NewOrder, shop: OpenShop, response: Response) -> Placed:
    """Place an order; with an id that was given before, 200 for the order that is there."""
    try:
        if not await shop.place(asked):
            response.status_code = status.HTTP_200_OK
    except OutOfStockError:
        raise HTTPException(status.HTTP_409_CONFLICT, f"not in stock: {asked.quantity} of {asked.sku}") from None
    return Placed(id=asked.id)


@router.get("/orders")
async def look_at_all(shop: OpenShop) -> list[OrderState]:
    """Tell how the newest orders stand."""
    return await shop.look()


@router.get("/orders/{order_id}")
async def look(order_id: UUID, shop: OpenShop) -> OrderState:
    """Tell how an order stands, and what its workflow has done for it."""
    for state in await shop.look(order_id):
        return state
    raise HTTPException(status.HTTP_404_NOT_FOUND, f"there is no order {order_id}")


@router.post("/orders/{order_id}/cancel")
async def cancel(order_id: UUID, shop: OpenShop) -> OrderState:
    """Cancel an order that was not charged yet."""
    try:
        await shop.cancel(order_id)
    except AlreadyPaidError:
        raise HTTPException(status.HTTP_409_CONFLICT, f"order {order_id} is paid") from None
    return await look(order_id, shop)
