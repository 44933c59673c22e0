"""A schedule as its row holds it, and the binds of the workflows that it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, cast

from pgqrs.schedules import Cron, Timetable, key_of, recorded_rule
from pgqrs.storage.sql.expressions import text_of_array
from pgqrs.storage.sql.tokens import new_token
from pgqrs.types import CatchUp, Overlap


class StoredSchedule(NamedTuple):
    """A schedule as its row holds it; `input` is JSON text, and lengths are in seconds."""

    name: str
    workflow: str
    input: str
    codec: str | None
    queue: str
    priority: int
    timeout: float | None
    table: Timetable
    overlap: Overlap
    catchup: CatchUp
    within: float
    jitter: float
    next_at: datetime | None
    queued_for: datetime | None = None
    last_at: datetime | None = None
    paused_at: datetime | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    partition_key: str | None = None


class DueSchedule(NamedTuple):
    """A schedule that is due, and the time of the database's clock."""

    name: str
    table: Timetable
    overlap: Overlap
    catchup: CatchUp
    within: float
    jitter: float
    next_at: datetime | None
    queued_for: datetime | None
    now: datetime


class StartedRun(NamedTuple):
    """A workflow that a schedule starts: its time, the time until which it is delayed, and its token."""

    schedule: str
    time: datetime
    start: datetime | None
    token: int

    @property
    def key(self) -> str:
        """The key of the workflow."""
        return key_of(self.schedule, self.time)


def stored(row: Mapping[Any, Any]) -> StoredSchedule:
    """Return the record of a row."""
    return StoredSchedule(**_fields(StoredSchedule, row))


def due(row: Mapping[Any, Any]) -> DueSchedule:
    """Return the record of a row of `queries.schedules.due`."""
    return DueSchedule(**_fields(DueSchedule, row))


def _fields(record: type[StoredSchedule | DueSchedule], row: Mapping[Any, Any]) -> dict[str, Any]:
    fields = {name: row[name] for name in record._fields if name != "table"}
    rule = recorded_rule(row["cron"], row["zone"], row["every"], row["anchor"])
    return fields | {"table": Timetable(rule, row["start_at"], row["end_at"])}


def rule_columns(table: Timetable) -> dict[str, Any]:
    """Return the values of the columns of a rule."""
    rule = table.rule
    columns: dict[str, Any] = dict.fromkeys(("cron", "zone", "every", "anchor"))
    if isinstance(rule, Cron):
        columns |= {"cron": rule.expression, "zone": rule.zone}
    else:
        columns |= {"every": cast(timedelta, rule.length).total_seconds(), "anchor": rule.anchor}
    return columns | {"start_at": table.start, "end_at": table.end}


def new_run(schedule: str, time: datetime, start: datetime | None = None) -> StartedRun:
    """Return a workflow that a schedule starts for a time."""
    return StartedRun(schedule, time, start, new_token())


def run_binds(runs: Sequence[StartedRun]) -> dict[str, Any]:
    """Return the binds of the workflows that are started."""
    return {
        "schedules": [each.schedule for each in runs],
        "times": times_text([each.time for each in runs]),
        "starts": times_text([each.start for each in runs]),
        "keys": [each.key for each in runs],
        "tokens": text_of_array([each.token for each in runs]),
    }


def times_text(times: Sequence[datetime | None]) -> str:
    """Return times as the text of an array."""
    return text_of_array([None if each is None else each.isoformat() for each in times])
