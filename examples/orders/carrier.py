"""Stands for a carrier, which is another company: the shop's transactions do not reach into what it does.

A real one is asked over HTTP, and what matters of it is here: what it has done stays done, whatever becomes of the
caller, and a caller that asks again with the same idempotency key gets the same delivery. Most services that take
money or move things have such a key. With one that has none, a crash between its effect and the record of the step
has the effect happen twice, and nothing on this side of the wire can prevent that.
"""

from __future__ import annotations

from sqlalchemy import Identity, MetaData
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA = "orders_example_carrier"


class Base(DeclarativeBase):
    """The declarative base of the carrier."""

    metadata = MetaData(schema=SCHEMA)


class Delivery(Base):
    """A parcel on its way; `asked` counts how often somebody asked for it with this key."""

    __tablename__ = "deliveries"

    key: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(Identity(), unique=True)
    parcel: Mapped[str]
    asked: Mapped[int]


class Carrier:
    """Delivers parcels."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def deliver(self, parcel: str, *, key: str) -> str:
        """Send a parcel on its way and return its tracking number; of one `key` only the first is sent."""
        asked = insert(Delivery).values(key=key, parcel=parcel, asked=1)
        again = asked.on_conflict_do_update(index_elements=[Delivery.key], set_={"asked": Delivery.asked + 1})
        async with AsyncSession(self._engine) as session, session.begin():
            number = await session.scalar(again.returning(Delivery.number))
        return f"parcel-{number}"
