"""What makes a good row: plain functions over plain values, with no database and no workflow."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

_EARTH_KM = 6371.0088
_METRES_PER_FOOT = 0.3048
_HIGHEST_LATITUDE = 90
_HIGHEST_LONGITUDE = 180

Point = tuple[float, float, float]


class Raw(Protocol):
    """A row of the data set."""

    icao: Any
    iata: Any
    name: Any
    city: Any
    country: Any
    region: Any
    elevation_ft: Any
    latitude: Any
    longitude: Any


def raw_row(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry of the data set under the names of `RawAirport`'s columns.

    Its region is the part of the world that its time zone names.
    """
    return {
        "icao": entry["icao"],
        "iata": entry["iata"],
        "name": entry["name"],
        "city": entry["city"],
        "country": entry["country"],
        "region": entry["tz"].partition("/")[0] or "Antarctica",
        "elevation_ft": entry["elevation"],
        "latitude": entry["lat"],
        "longitude": entry["lon"],
    }


def problem_of(raw: Raw) -> str | None:
    """Return why the row cannot be used, or None if it can."""
    if "unknown coordinates" in raw.name:
        return "position unknown"
    if not re.fullmatch(r"[A-Z0-9]{4}", raw.icao):
        return "no ICAO code"
    if abs(raw.latitude) > _HIGHEST_LATITUDE or abs(raw.longitude) > _HIGHEST_LONGITUDE:
        return "position not on Earth"
    return None


def airport_row(raw: Raw, neighbours: Neighbours) -> dict[str, Any]:
    """Return the tidy row of an airport, under the names of `Airport`'s columns."""
    nearest_icao, nearest_km = neighbours.nearest(raw.icao, raw.latitude, raw.longitude)
    return {
        "icao": raw.icao,
        "iata": raw.iata or None,
        "name": _tidy(raw.name),
        "city": _tidy(raw.city) or None,
        "country": raw.country,
        "region": raw.region,
        "elevation_m": round(raw.elevation_ft * _METRES_PER_FOOT),
        "latitude": raw.latitude,
        "longitude": raw.longitude,
        "nearest_icao": nearest_icao,
        "nearest_km": nearest_km,
    }


def kilometres(chord: float) -> float:
    """Return the great-circle distance between two points of the unit sphere whose chord is given."""
    return round(2 * _EARTH_KM * math.asin(min(1.0, chord / 2)), 1)


def point(latitude: float, longitude: float) -> Point:
    """Return the point of the unit sphere, where distances know no poles and no date line."""
    north, east = math.radians(latitude), math.radians(longitude)
    return math.cos(north) * math.cos(east), math.cos(north) * math.sin(east), math.sin(north)


class Neighbours:
    """Finds the nearest other airport, by a k-d tree over the points of the unit sphere."""

    def __init__(self, positions: Iterable[tuple[str, float, float]]) -> None:
        self._tree = _grow([(point(latitude, longitude), icao) for icao, latitude, longitude in positions], 0)

    def nearest(self, icao: str, latitude: float, longitude: float) -> tuple[str, float]:
        """Return the code of the airport nearest to `icao`, and the way to it in km."""
        square, nearest = _search(self._tree, point(latitude, longitude), icao, (math.inf, ""))
        return nearest, kilometres(math.sqrt(square))


_Tree = tuple[Point, str, int, "_Tree | None", "_Tree | None"]


def _grow(points: Sequence[tuple[Point, str]], axis: int) -> _Tree | None:
    if not points:
        return None
    ordered = sorted(points, key=lambda entry: entry[0][axis])
    middle, following = len(ordered) // 2, (axis + 1) % 3
    place, icao = ordered[middle]
    return place, icao, axis, _grow(ordered[:middle], following), _grow(ordered[middle + 1 :], following)


def _search(tree: _Tree | None, target: Point, own: str, best: tuple[float, str]) -> tuple[float, str]:
    if tree is None:
        return best
    place, icao, axis, below, above = tree
    if icao != own:
        square = (place[0] - target[0]) ** 2 + (place[1] - target[1]) ** 2 + (place[2] - target[2]) ** 2
        best = min(best, (square, icao))
    apart = target[axis] - place[axis]
    near, far = (below, above) if apart < 0 else (above, below)
    best = _search(near, target, own, best)
    return _search(far, target, own, best) if apart * apart <= best[0] else best


def _tidy(text: str) -> str:
    return " ".join(text.split())
