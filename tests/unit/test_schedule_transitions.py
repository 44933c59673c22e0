"""The times of cron expressions over two years of ten time zones, beside a table that is computed without them.

The table knows no cron: it looks for the moments at which the clock of the zone shows a time.
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from itertools import pairwise, product
from zoneinfo import ZoneInfo

import pytest

from pgqrs import Cron
from pgqrs.schedules import Timetable

START = datetime(2025, 1, 1, 12, tzinfo=UTC)
END = datetime(2027, 1, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)

# The number of the changes of the clock in the two years.
ZONES = {
    "Europe/Berlin": 4,
    "Europe/London": 4,
    "America/New_York": 4,
    "America/Havana": 4,  # from 0:00 to 1:00
    "America/Santiago": 4,  # from 24:00 to 1:00
    "Africa/Cairo": 4,
    "Africa/Casablanca": 4,  # back for a month, and forward
    "Australia/Lord_Howe": 4,  # by half an hour
    "Pacific/Chatham": 4,  # 12:45 hours from UTC, at 2:45
    "Asia/Kathmandu": 0,  # 5:45 hours from UTC
}


def shown(moment: datetime, zone: ZoneInfo) -> datetime:
    """Return what the clock of a zone shows."""
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


def changes(zone: ZoneInfo) -> list[datetime]:
    """Return the moments at which the clock of a zone is set."""
    found = []
    days = [START + number * DAY for number in range((END - START).days + 1)]
    for day, following in pairwise(days):
        before, after = day, following
        if before.astimezone(zone).utcoffset() == after.astimezone(zone).utcoffset():
            continue
        while after - before > MINUTE:
            middle = before + (after - before) // MINUTE // 2 * MINUTE
            is_before = middle.astimezone(zone).utcoffset() == day.astimezone(zone).utcoffset()
            before, after = (middle, after) if is_before else (before, middle)
        found.append(after)
    return found


def moment_of(local: datetime, zone: ZoneInfo, set_at: list[datetime]) -> datetime:
    """Return the first moment at which the clock shows a time, or has passed it."""
    offsets = {each.astimezone(zone).utcoffset() for each in (START, *set_at)}
    moments = sorted((local - offset).replace(tzinfo=UTC) for offset in offsets)
    exact = [each for each in moments if shown(each, zone) == local]
    return exact[0] if exact else next(each for each in set_at if shown(each, zone) > local)


def fixed_table(
    zone: ZoneInfo, set_at: list[datetime], times: list[time], period: tuple[datetime, datetime]
) -> list[datetime]:
    """Return the moments of times of the day, once for each date, from the start of a period on and before its end."""
    start, end = period
    dates = [start.date() + number * DAY for number in range(-2, (end - start).days + 3)]
    moments = {moment_of(datetime.combine(day, each), zone, set_at) for day in dates for each in times}
    return sorted(each for each in moments if start <= each < end)


@pytest.mark.parametrize(("name", "count"), ZONES.items(), ids=ZONES)
def test_fixed_times_are_those_of_the_table(name, count):
    """A time of each night, and times within and beside each hour that is missing or comes twice."""
    zone = ZoneInfo(name)
    set_at = changes(zone)
    assert len(set_at) == count
    nightly = list(Timetable(Cron("30 2 * * *", name)).between(START, END))
    assert nightly == fixed_table(zone, set_at, [time(2, 30)], (START, END))
    for each in set_at:
        period = each - 2 * DAY, each + 2 * DAY
        times = list(Timetable(Cron("15,45 0-3,23 * * *", name)).between(*period))
        expected = [time(hour, minute) for hour, minute in product((0, 1, 2, 3, 23), (15, 45))]
        assert times == fixed_table(zone, set_at, expected, period), each
        for edge in (shown(each - MINUTE, zone), shown(each, zone)):
            times = list(Timetable(Cron(f"{edge.minute} {edge.hour} * * *", name)).between(*period))
            assert times == fixed_table(zone, set_at, [edge.time()], period), edge


@pytest.mark.parametrize("name", ZONES)
def test_times_that_follow_the_clock_are_those_of_the_table(name):
    """Each moment of the days around a change at which the clock shows a time of the rule."""
    zone = ZoneInfo(name)
    for each in changes(zone) or [START]:
        moments = [each + number * MINUTE for number in range(-1000, 1000)]
        local = {moment: shown(moment, zone) for moment in moments}
        for expression, is_meant in (
            ("*/20 * * * *", lambda clock: clock.minute % 20 == 0),
            ("30 */2 * * *", lambda clock: clock.minute == 30 and clock.hour % 2 == 0),
        ):
            times = list(Timetable(Cron(expression, name)).between(moments[0], moments[-1] + MINUTE))
            assert times == [moment for moment in moments if is_meant(local[moment])], (each, expression)
