"""The workflow: read the data set, validate it, transform it region by region, sum it up.

A step may run again after a crash in its middle, so each of them writes in a way that can be repeated: rows
go in by their key, and what is there already is replaced.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import airportsdata
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert

from examples.airports.models import Airport, Base, Country, RawAirport, StepRun, sessions
from examples.airports.progress import report
from examples.airports.rules import Neighbours, airport_row, problem_of, raw_row
from pgqrs import PyWorkflow, step, workflow

_ROWS_A_TRANSACTION = 500


@workflow
async def airports(ctx: PyWorkflow, edition: str) -> dict[str, Any]:
    """Bring one edition of the data set into the application's tables."""
    await read(ctx)
    regions = await validate(ctx)
    for region in regions:
        await transform(ctx, region)
    return {"edition": edition, **await summarise(ctx)}


@step
async def read(ctx: PyWorkflow) -> int:
    """Copy the data set into the staging table; return the number of rows."""
    await _began(ctx, "read")
    rows = [raw_row({**entry}) for entry in airportsdata.load("ICAO").values()]
    await _store("read", RawAirport, rows)
    return len(rows)


@step
async def validate(ctx: PyWorkflow) -> dict[str, int]:
    """Mark the rows that cannot be used; return the number of good rows of each region."""
    await _began(ctx, "validate")
    async with sessions.begin() as session:
        found = (await session.scalars(select(RawAirport))).all()
        for raw in found:
            raw.problem = problem_of(raw)
    report("validate", len(found), len(found))
    return dict(sorted(Counter(raw.region for raw in found if raw.problem is None).items()))


@step(key=lambda region: region)
async def transform(ctx: PyWorkflow, region: str) -> int:
    """Tidy the airports of a region, find the nearest other airport of each, and store them."""
    await _began(ctx, f"transform:{region}")
    good = RawAirport.problem.is_(None)
    async with sessions() as session:
        here = (await session.scalars(select(RawAirport).where(good, RawAirport.region == region))).all()
        positions = select(RawAirport.icao, RawAirport.latitude, RawAirport.longitude).where(good)
        world = (await session.execute(positions)).tuples().all()
    rows = await asyncio.to_thread(_transformed, here, world)
    await _store(f"transform:{region}", Airport, rows)
    return len(rows)


@step
async def summarise(ctx: PyWorkflow) -> dict[str, Any]:
    """Sum the airports up by country; return the totals and the loneliest airport."""
    await _began(ctx, "summarise")
    async with sessions.begin() as session:
        totals = await session.execute(
            select(
                Airport.country.label("code"),
                func.count().label("airports"),
                func.max(Airport.elevation_m).label("highest_m"),
                func.avg(Airport.nearest_km).label("mean_nearest_km"),
            ).group_by(Airport.country)
        )
        rows = [dict(row) for row in totals.mappings()]
        lonely = (await session.scalars(select(Airport).order_by(Airport.nearest_km.desc()).limit(1))).one()
    await _store("summarise", Country, rows)
    return {
        "airports": sum(row["airports"] for row in rows),
        "countries": len(rows),
        "loneliest": {"icao": lonely.icao, "name": lonely.name, "km": lonely.nearest_km},
    }


def _transformed(here: Sequence[RawAirport], world: Sequence[tuple[str, float, float]]) -> list[dict[str, Any]]:
    neighbours = Neighbours(world)
    return [airport_row(raw, neighbours) for raw in here]


async def _began(ctx: PyWorkflow, step_id: str) -> None:
    """Note the execution of a step, in a transaction of its own."""
    async with sessions.begin() as session:
        session.add(StepRun(workflow_id=ctx.id(), step_id=step_id, pid=os.getpid()))
    report(step_id, 0, 0)


async def _store(step_id: str, model: type[Base], rows: list[dict[str, Any]]) -> None:
    """Store the rows by their keys, some hundred in a transaction."""
    done = 0
    for some in _batches(rows):
        async with sessions.begin() as session:
            await session.execute(_upsert(model), some)
        done += len(some)
        report(step_id, done, len(rows))


def _upsert(model: type[Base]) -> Any:
    statement = insert(model)
    columns = model.__table__.columns
    return statement.on_conflict_do_update(
        index_elements=[column for column in columns if column.primary_key],
        set_={column.name: statement.excluded[column.name] for column in columns if not column.primary_key},
    )


def _batches(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(rows), _ROWS_A_TRANSACTION):
        yield rows[start : start + _ROWS_A_TRANSACTION]
