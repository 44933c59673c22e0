"""The declaration of a schedule by an application, and the delays of submissions to a time."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, NamedTuple, cast, get_args

from pgqrs.client.loop_state import LoopStates
from pgqrs.codecs.base import stored_name
from pgqrs.errors import ConfigurationError, InvalidNameError
from pgqrs.schedules import Cron, Every, Timetable
from pgqrs.storage.connections.caller import SessionOrConnection
from pgqrs.storage.schedules.repository import ScheduleRepository
from pgqrs.storage.schedules.stored import StoredSchedule
from pgqrs.types import CatchUp, Overlap
from pgqrs.validation import check_aware, check_name, validate_seconds
from pgqrs.workflow.arguments import check_arguments, encode_input
from pgqrs.workflow.definition import Definition

WITHIN = timedelta(days=1)
"""The default age at which a missed time of a schedule is dropped."""

MAX_NAME_BYTES = 448
"""Bytes of UTF-8, maximum length of the name of a schedule: a time follows it in the keys of the workflows."""


class Policy(NamedTuple):
    """The checked options of a schedule; times are in seconds."""

    overlap: Overlap
    catchup: CatchUp
    within: float
    jitter: float


def policy(*, overlap: object, catchup: object, within: object, jitter: object) -> Policy:
    """Check the options of a schedule; raises as `Admin.schedule` does."""
    if overlap not in get_args(Overlap):
        raise ConfigurationError(f"`overlap` must be 'skip', 'queue', 'allow' or 'cancel', got {overlap!r}.")
    if catchup not in get_args(CatchUp):
        raise ConfigurationError(f"`catchup` must be 'last', 'all' or 'none', got {catchup!r}.")
    if catchup == "all" and overlap != "allow":
        raise ConfigurationError(
            f"`catchup='all'` starts all missed workflows at once, and `overlap={overlap!r}` does not allow that: "
            "pass `overlap='allow'` too, or `catchup='last'`."
        )
    seconds = validate_seconds("within", within), validate_seconds("jitter", jitter)
    return Policy(cast(Overlap, overlap), cast(CatchUp, catchup), seconds[0] or 0.0, seconds[1] or 0.0)


def timetable(rule: object, start: datetime | None, end: datetime | None) -> Timetable:
    """Check the times of a schedule; raises as `Admin.schedule` does."""
    if not isinstance(rule, Cron | Every):
        raise TypeError(f"`rule` must be a Cron or an Every, got {type(rule).__name__}.")
    for name, time in (("start", start), ("end", end)):
        if time is not None:
            check_aware(name, time)
    if start is not None and end is not None and end <= start:
        raise ConfigurationError(f"`end` must be later than `start`, got {end} and {start}.")
    return Timetable(rule, start, end)


class Target(NamedTuple):
    """The workflows that a schedule starts: their definition, arguments and options."""

    definition: Definition
    args: tuple[Any, ...]
    queue: str
    priority: int
    timeout: float | None
    partition_key: str | None


class Declaration(NamedTuple):
    """A schedule that an application declares."""

    name: str
    target: Target
    table: Timetable
    options: Policy


async def put_schedule(loops: LoopStates, new: Declaration, session: SessionOrConnection | None) -> None:
    """Write a schedule, in the caller's transaction if there is a session."""
    name, target, table, options = new
    check_name("schedule name", name)
    if len(name.encode()) > MAX_NAME_BYTES:
        raise InvalidNameError(f"the name of a schedule must have at most {MAX_NAME_BYTES} bytes of UTF-8.")
    definition = target.definition
    check_arguments(definition, target.args, {})
    text = encode_input(loops.codec, definition, target.args, {}).text
    store = await loops.store()
    operations = await store.operations_for(session)
    now = await store.reader.now()
    row = StoredSchedule(
        name,
        definition.name,
        text,
        stored_name(loops.codec),
        target.queue,
        target.priority,
        definition.timeout if target.timeout is None else target.timeout,
        table,
        *options,
        next_at=table.next(now),
        partition_key=target.partition_key,
    )
    await operations.run(lambda connection: ScheduleRepository(connection).put(row))


async def delay_until(loops: LoopStates, at: datetime, session: SessionOrConnection | None) -> float | None:
    """Return the seconds from the time of a submission until a time; None if the time has passed."""
    store = await loops.store()
    if session is None:
        now = await store.reader.now()
    else:
        operations = await store.operations_for(session)
        now = await operations.transaction_time()
    return max(0.0, (at - now).total_seconds()) or None
