"""The times for which ended workflows are kept: read and written in a transaction of the caller."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Boolean, bindparam, func, null, select
from sqlalchemy.dialects.postgresql import insert

from pgqrs.models import Retention, Text
from pgqrs.storage.records import from_row
from pgqrs.storage.sql.connection import Connection
from pgqrs.storage.sql.expressions import DOUBLE, ONE, ZERO, finite, json_of, seconds_from_now, text_of

DAY = 86400.0

KEPT = 30 * DAY
"""Seconds for which an ended workflow is kept by default."""

FAILED_KEPT = 90 * DAY
"""Seconds for which a failed workflow is kept by default."""

GRACE = 7 * DAY
"""Seconds between the first start of a worker of a version with retention and the first deletion by default."""

FOR_EVER = -1.0
"""The seconds of the workflows of a name that are kept for ever."""


class RetentionTimes(NamedTuple):
    """The seconds for which ended workflows are kept, None for ever.

    `per_name` has those of workflows of some names. `archives` says that a workflow is archived when it is
    deleted, and `archive_kept` for how long.
    """

    kept: float | None
    failed: float | None
    per_name: Mapping[str, float | None]
    archives: bool
    archive_kept: float | None

    @property
    def shortest(self) -> float | None:
        """The shortest time for which a workflow is kept, None if all are kept for ever."""
        times = (self.kept, self.failed, *self.per_name.values())
        return min((each for each in times if each is not None), default=None)

    def values(self) -> dict[str, Any]:
        """Return the binds of the statements that write the times."""
        per_name = {name: FOR_EVER if each is None else each for name, each in self.per_name.items()}
        return self._asdict() | {"per_name": json.dumps(per_name), "shortest": self.shortest}


DEFAULT_TIMES = RetentionTimes(KEPT, FAILED_KEPT, {}, archives=False, archive_kept=None)


class StoredRetention(NamedTuple):
    """The row of the retention; `per_name` is JSON text."""

    kept: float | None
    failed: float | None
    per_name: str
    archives: bool
    archive_kept: float | None
    set_at: datetime | None
    starts_at: datetime
    stage: str | None
    next_at: datetime
    ended_at: datetime | None
    deleted: int

    @property
    def times(self) -> RetentionTimes:
        """The times for which workflows are kept."""
        found: dict[str, float] = json.loads(self.per_name)
        per_name = {name: None if each < 0 else each for name, each in found.items()}
        return RetentionTimes(self.kept, self.failed, per_name, self.archives, self.archive_kept)


class RetentionRepository:
    """The retention, in a transaction of the caller."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def set(self, times: RetentionTimes) -> None:
        """Replace the times; the next pass begins at once."""
        await self._connection.execute(set_retention(), times.values())

    async def get(self) -> StoredRetention | None:
        """Return the row, None before a worker or an application has made it."""
        row = (await self._connection.execute(retention())).mappings().one_or_none()
        return None if row is None else from_row(StoredRetention, row)


def set_retention() -> Any:
    """Return the statement that sets the times, and ends the grace and the pass."""
    statement = _insert({"set_at": func.now(), "starts_at": func.now(), "next_at": func.now(), "stage": null()})
    names = (*RetentionTimes._fields, "shortest", "set_at", "starts_at", "next_at", "stage", "cursor")
    changed: dict[str, Any] = {name: statement.excluded[name] for name in names}
    return statement.on_conflict_do_update(index_elements=[Retention.id], set_=changed)


def begin_retention() -> Any:
    """Return the statement that makes the row, unless it is there, with a grace of `grace` seconds."""
    first = seconds_from_now(bindparam("grace", type_=DOUBLE))
    return _insert({"starts_at": first, "next_at": first}).on_conflict_do_nothing()


def retention() -> Any:
    """Return the query for the row."""
    times = ("set_at", "starts_at", "next_at", "ended_at")
    return select(
        Retention.kept,
        Retention.failed,
        text_of(Retention.per_name).label("per_name"),
        Retention.archives,
        Retention.archive_kept,
        Retention.stage,
        Retention.deleted,
        *(finite(getattr(Retention, name)).label(name) for name in times),
    )


def _insert(own: Mapping[str, Any]) -> Any:
    values: dict[str, Any] = {
        "id": ONE,
        "kept": bindparam("kept", type_=DOUBLE),
        "failed": bindparam("failed", type_=DOUBLE),
        "per_name": json_of(bindparam("per_name", type_=Text())),
        "shortest": bindparam("shortest", type_=DOUBLE),
        "archives": bindparam("archives", type_=Boolean()),
        "archive_kept": bindparam("archive_kept", type_=DOUBLE),
        "cursor": ZERO,
        **own,
    }
    return insert(Retention).from_select(list(values), select(*values.values()), include_defaults=False)
