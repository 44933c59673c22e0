"""A carrier, which is an external service: the shop's transactions do not include its effects.

A real carrier has an HTTP interface. Two properties matter here. An effect of the carrier stays, whatever happens
to the caller. A caller that repeats a request with the same idempotency key gets the same delivery. Most services
that take money or move goods have such a key. Without one, a crash between the effect and the record of the step
makes the effect happen twice, and the caller cannot prevent it.
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
    """One delivery of a parcel; `asked` counts the requests with its key."""

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
        """Deliver a parcel and return its tracking number; a known `key` delivers nothing more."""
        asked = insert(Delivery).values(key=key, parcel=parcel, asked=1)
        again = asked.on_conflict_do_update(index_elements=[Delivery.key], set_={"asked": Delivery.asked + 1})
        async with AsyncSession(self._engine) as session, session.begin():
            number = await session.scalar(again.returning(Delivery.number))
        return f"parcel-{number}"
