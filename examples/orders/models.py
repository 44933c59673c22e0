"""The application's own tables; nothing in here knows pgqrs."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, MetaData
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA = "orders_example"


class Base(DeclarativeBase):
    """The declarative base of the application."""

    metadata = MetaData(schema=SCHEMA)


class Item(Base):
    """What can be ordered, and how many there are."""

    __tablename__ = "items"
    __table_args__ = (CheckConstraint("stock >= 0"),)

    sku: Mapped[str] = mapped_column(primary_key=True)
    cents: Mapped[int]
    stock: Mapped[int]


class Order(Base):
    """An order; its customer chose the id. `workflow_id` is that of the workflow that carries it out."""

    __tablename__ = "orders"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    customer: Mapped[str]
    sku: Mapped[str]
    quantity: Mapped[int]
    cents: Mapped[int]
    workflow_id: Mapped[int] = mapped_column(BigInteger, unique=True)
    is_cancelled: Mapped[bool] = mapped_column(default=False)


class Payment(Base):
    """What an order was charged: there is no second one of an order."""

    __tablename__ = "payments"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    order_id: Mapped[UUID] = mapped_column(ForeignKey(Order.id), unique=True)
    cents: Mapped[int]


class Shipment(Base):
    """Where an order's parcel is: there is no second one of an order."""

    __tablename__ = "shipments"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    order_id: Mapped[UUID] = mapped_column(ForeignKey(Order.id), unique=True)
    tracking: Mapped[str] = mapped_column(unique=True)
