"""Checks what the pipeline stored, against the data set and without the database's help."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import airportsdata
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from examples.airports.models import Airport, Country, RawAirport
from examples.airports.rules import Neighbours, airport_row, kilometres, point, problem_of, raw_row

_COLUMNS = tuple(Airport.__table__.columns.keys())
_EVERY = 500


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison: what was stored against what should be."""

    what: str
    stored: object
    expected: object

    @property
    def passed(self) -> bool:
        """Tell whether they are the same."""
        return self.stored == self.expected


async def check(engine: AsyncEngine) -> list[Check]:
    """Compare the stored tables with the same rules applied to the data set in memory."""
    async with AsyncSession(engine) as session:
        raw = len((await session.scalars(select(RawAirport.icao))).all())
        stored = [dict(row) for row in (await session.execute(select(Airport.__table__))).mappings()]
        countries = (await session.scalars(select(Country.airports))).all()
    every: list[Any] = [SimpleNamespace(**raw_row({**entry})) for entry in airportsdata.load("ICAO").values()]
    good = [airport for airport in every if problem_of(airport) is None]
    neighbours = Neighbours((airport.icao, airport.latitude, airport.longitude) for airport in good)
    expected = [airport_row(airport, neighbours) for airport in good]
    return [
        Check("rows read", raw, len(every)),
        Check("airports stored", len(stored), len(expected)),
        Check("countries", len(countries), len({airport.country for airport in good})),
        Check("airports, summed by country", sum(countries), len(expected)),
        Check("SHA-256 of the airports", checksum(stored), checksum(expected)),
        Check(f"distances, one in {_EVERY} the long way", *_distances(stored, good)),
    ]


def checksum(rows: Sequence[dict[str, Any]]) -> str:
    """Return a digest of the rows that does not depend on their order."""
    lines = sorted(json.dumps([row[column] for column in _COLUMNS]) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _distances(stored: list[dict[str, Any]], good: list[Any]) -> tuple[float, float]:
    points = {airport.icao: point(airport.latitude, airport.longitude) for airport in good}
    sample = sorted(stored, key=lambda row: str(row["icao"]))[::_EVERY]
    found = sum(row["nearest_km"] for row in sample)
    compared = sum(
        min(
            kilometres(math.dist(points[row["icao"]], other))
            for icao, other in points.items()
            if icao != row["icao"]
        )
        for row in sample
    )
    return round(found, 1), round(compared, 1)
