"""The application's own tables: nothing in here knows pgqrs."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import DateTime, Identity, MetaData, func
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import CreateSchema, DropSchema

SCHEMA = "airports_demo"

sessions: async_sessionmaker[AsyncSession] = async_sessionmaker(expire_on_commit=False)
"""Opens the application's sessions, once the program has said `sessions.configure(bind=engine)`."""


class Base(DeclarativeBase):
    """The declarative base of the application."""

    metadata = MetaData(schema=SCHEMA)


class RawAirport(Base):
    """A row as the data set has it; `problem` tells why it is left out, if it is."""

    __tablename__ = "raw_airports"

    icao: Mapped[str] = mapped_column(primary_key=True)
    iata: Mapped[str]
    name: Mapped[str]
    city: Mapped[str]
    country: Mapped[str]
    region: Mapped[str]
    elevation_ft: Mapped[float]
    latitude: Mapped[float]
    longitude: Mapped[float]
    problem: Mapped[str | None]


class Airport(Base):
    """A tidy row, with the nearest other airport and the way to it."""

    __tablename__ = "airports"

    icao: Mapped[str] = mapped_column(primary_key=True)
    iata: Mapped[str | None]
    name: Mapped[str]
    city: Mapped[str | None]
    country: Mapped[str] = mapped_column(index=True)
    region: Mapped[str]
    elevation_m: Mapped[int]
    latitude: Mapped[float]
    longitude: Mapped[float]
    nearest_icao: Mapped[str]
    nearest_km: Mapped[float]


class Country(Base):
    """What the airports of one country come to."""

    __tablename__ = "countries"

    code: Mapped[str] = mapped_column(primary_key=True)
    airports: Mapped[int]
    highest_m: Mapped[int]
    mean_nearest_km: Mapped[float]


class StepRun(Base):
    """One execution of a step's function: committed by itself before the work, so that a kill leaves it."""

    __tablename__ = "step_runs"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    workflow_id: Mapped[int]
    step_id: Mapped[str]
    pid: Mapped[int]
    began_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


async def create_tables(engine: AsyncEngine) -> None:
    """Make the application's schema anew, with empty tables."""
    async with engine.begin() as connection:
        await connection.execute(DropSchema(SCHEMA, cascade=True, if_exists=True))
        await connection.execute(CreateSchema(SCHEMA))
        await connection.run_sync(Base.metadata.create_all)
