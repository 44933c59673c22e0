"""The application's own tables; nothing in this module knows pgqrs."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, MetaData, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA = "orders_example"


class Base(DeclarativeBase):
    """The declarative base of the application."""

    metadata = MetaData(schema=SCHEMA)


class Item(Base):
    """One kind of goods, its price and its stock."""

    __tablename__ = "items"
    __table_args__ = (CheckConstraint("stock >= 0"),)

    sku: Mapped[str] = mapped_column(primary_key=True)
    cents: Mapped[int]
    stock: Mapped[int]


class Order(Base):
    """An order of a customer, who chooses the id; `workflow_id` is the id of the workflow that fulfils it."""

    __tablename__ = "orders"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    customer: Mapped[str]
    sku: Mapped[str]
    quantity: Mapped[int]
    cents: Mapped[int]
    workflow_id: Mapped[int] = mapped_column(BigInteger, unique=True)
    is_cancelled: Mapped[bool] = mapped_column(default=False)
    is_shipping: Mapped[bool] = mapped_column(default=False)


class Payment(Base):
    """The payment of an order; an order has at most one."""

    __tablename__ = "payments"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    order_id: Mapped[UUID] = mapped_column(ForeignKey(Order.id), unique=True)
    cents: Mapped[int]
    is_refunded: Mapped[bool] = mapped_column(default=False)


class Shipment(Base):
    """One parcel of an order; an order has one for each piece."""

    __tablename__ = "shipments"
    __table_args__ = (UniqueConstraint("order_id", "parcel"),)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    order_id: Mapped[UUID] = mapped_column(ForeignKey(Order.id))
    parcel: Mapped[int]
    tracking: Mapped[str] = mapped_column(unique=True)
