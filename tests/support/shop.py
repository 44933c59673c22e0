"""An application with its own table, for tests of transactions that pgqrs and the application share."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The application's models, in whatever schema the session's connection looks first."""


class Payment(Base):
    """A payment of an order."""

    __tablename__ = "payments"

    id: Mapped[int] = mapped_column(primary_key=True)
    order: Mapped[int] = mapped_column("order_number")
    amount: Mapped[int]


async def paid(session):
    """Return the orders that are paid, in the order of their payments."""
    return list(await session.scalars(select(Payment.order).order_by(Payment.id)))
