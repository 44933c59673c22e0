"""The retention of a schema as applications set and read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from pgqrs.client.loop_state import LoopStates
from pgqrs.clock import MAX_SECONDS
from pgqrs.errors import ConfigurationError
from pgqrs.storage.connections.caller import SessionOrConnection
from pgqrs.storage.queries.delivery import RECEIVED_KEPT
from pgqrs.storage.retention.settings import (
    DAY,
    DEFAULT_TIMES,
    RetentionRepository,
    RetentionTimes,
    StoredRetention,
)
from pgqrs.validation import check_name

KeptFor: TypeAlias = float | timedelta | None
"""The time for which ended workflows are kept: days, or a `timedelta`; None for ever."""

MIN_KEPT = RECEIVED_KEPT
"""Minimum seconds for which an ended workflow is kept: a caller may still wait for its reply."""


@dataclass(frozen=True, slots=True)
class RetentionRecord:
    """A snapshot of the retention: the times for which ended workflows are kept, and its last pass.

    Attributes:
        kept: The time for which an ended workflow is kept; None for ever.
        failed: The time for which a failed workflow is kept; None for ever.
        per: The times for the workflows of some names.
        archives: True if workflows are archived when they are deleted.
        archive_kept: The time for which a month of the archive is kept; None for ever.
        is_default: True if no application has set the times.
        starts_at: The time before which nothing is deleted; None before the first start of a worker.
        next_at: The time of the next pass, or of its next step; None before the first start of a worker.
        is_under_way: True if a pass has begun and has not ended.
        ended_at: The end of the last pass; None before it.
        deleted: The number of workflows that the pass, or the last one, has deleted.
    """

    kept: timedelta | None
    failed: timedelta | None
    per: Mapping[str, timedelta | None]
    archives: bool
    archive_kept: timedelta | None
    is_default: bool
    starts_at: datetime | None
    next_at: datetime | None
    is_under_way: bool
    ended_at: datetime | None
    deleted: int


class RetentionSettings:
    """The retention of a schema; a change takes effect when it is committed."""

    def __init__(self, loops: LoopStates, session: SessionOrConnection | None = None) -> None:
        self._loops = loops
        self._session = session

    async def set(self, times: RetentionTimes) -> None:
        """Replace the times."""
        operations = await (await self._loops.store()).operations_for(self._session)
        await operations.run(lambda connection: RetentionRepository(connection).set(times))

    async def get(self) -> RetentionRecord:
        """Return the record of the retention."""
        operations = await (await self._loops.store()).operations_for(self._session)
        return retention_record(await operations.run(lambda connection: RetentionRepository(connection).get()))


def retention_record(found: StoredRetention | None) -> RetentionRecord:
    """Return the record of the row of the retention, and of the default times without one."""
    times = DEFAULT_TIMES if found is None else found.times
    return RetentionRecord(
        _length(times.kept),
        _length(times.failed),
        {name: _length(each) for name, each in times.per_name.items()},
        times.archives,
        _length(times.archive_kept),
        is_default=found is None or found.set_at is None,
        starts_at=None if found is None else found.starts_at,
        next_at=None if found is None or times.shortest is None else max(found.next_at, found.starts_at),
        is_under_way=found is not None and found.stage is not None,
        ended_at=None if found is None else found.ended_at,
        deleted=0 if found is None else found.deleted,
    )


def retention_times(
    days: KeptFor, failed: KeptFor, per: Mapping[str, KeptFor] | None, archive: bool | timedelta
) -> RetentionTimes:
    """Check the arguments of `Admin.set_retention` and return them as times; raises as `Admin.set_retention`."""
    per_name: dict[str, float | None] = {}
    for name, each in (per or {}).items():
        check_name("workflow", name)
        per_name[name] = _kept(f"per[{name!r}]", each)
    return RetentionTimes(
        _kept("days", days),
        _kept("failed", failed),
        per_name,
        archives=archive is not False,
        archive_kept=None if isinstance(archive, bool) else _kept("archive", archive),
    )


def _kept(what: str, given: object) -> float | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, timedelta | int | float):
        raise TypeError(f"`{what}` must be a number of days, a timedelta or None, got {type(given).__name__}.")
    seconds = given.total_seconds() if isinstance(given, timedelta) else float(given) * DAY
    if not MIN_KEPT <= seconds <= MAX_SECONDS:
        raise ConfigurationError(
            f"`{what}` must be at least an hour and at most a hundred years, got {given!r}; pass None to keep the "
            "workflows for ever, and call `admin.purge` to delete workflows at once."
        )
    return seconds


def _length(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)
