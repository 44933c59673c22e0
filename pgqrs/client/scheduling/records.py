"""The records of schedules, with their arguments decoded."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from typing import Any

from pgqrs.codecs.base import Codec
from pgqrs.codecs.records import decode_listed_input
from pgqrs.schedules import ScheduleRecord
from pgqrs.storage.schedules.stored import StoredSchedule


def schedule_record(codec: Codec, stored: StoredSchedule) -> ScheduleRecord:
    """Return the record of a schedule, with its arguments decoded, or `Unreadable` if that fails."""
    values: dict[str, Any] = stored._asdict() | {
        "rule": stored.table.rule,
        "start": stored.table.start,
        "end": stored.table.end,
        "input": decode_listed_input(codec, stored.codec, stored.workflow, stored.input),
        "within": timedelta(seconds=stored.within),
        "jitter": timedelta(seconds=stored.jitter),
    }
    return ScheduleRecord(**{each.name: values[each.name] for each in fields(ScheduleRecord)})
