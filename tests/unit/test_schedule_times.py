"""The times of schedules: zones over two years, aliases, anchors, and invalid rules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import islice
from zoneinfo import ZoneInfo

import pytest

from pgqrs import ConfigurationError, Cron, Every
from pgqrs.schedules import MAX_TIMES, Timetable, due_times, jittered, key_of

START = datetime(2025, 1, 1, tzinfo=UTC)
END = datetime(2027, 1, 1, tzinfo=UTC)

# The local times that differ from the time of the expression, and the days with another number of times than one.
TRANSITIONS = {
    ("30 2 * * *", "Europe/Berlin"): ["2025-03-30T03:00:00+02:00", "2026-03-29T03:00:00+02:00"],
    ("30 2 * * *", "America/New_York"): ["2025-03-09T03:00:00-04:00", "2026-03-08T03:00:00-04:00"],
    ("0 0 * * *", "Africa/Cairo"): ["2025-04-25T01:00:00+03:00", "2026-04-24T01:00:00+03:00"],
    ("15 2 * * *", "Australia/Lord_Howe"): ["2025-10-05T02:30:00+11:00", "2026-10-04T02:30:00+11:00"],
    ("30 1 * * *", "Europe/London"): ["2025-03-30T02:00:00+01:00", "2026-03-29T02:00:00+01:00"],
    ("30 2 * * *", "UTC"): [],
}


@pytest.mark.parametrize(
    ("rule", "moved"), TRANSITIONS.items(), ids=lambda each: "-".join(each) if each else "none"
)
def test_fixed_time_comes_once_a_day_over_transitions(rule, moved):
    """A time in a gap comes right after it, and a time that the clock shows twice comes once."""
    expression, zone = rule
    table = Timetable(Cron(expression, zone))
    local = [each.astimezone(ZoneInfo(zone)) for each in table.between(START, END)]
    assert len({each.date() for each in local}) == len(local)
    assert len(local) in {729, 730, 731}
    minute, hour = map(int, expression.split()[:2])
    assert [each.isoformat() for each in local if (each.hour, each.minute) != (hour, minute)] == moved


def test_hourly_rule_follows_the_hours_that_pass():
    autumn = datetime(2026, 10, 25, tzinfo=UTC)
    times = list(islice(Cron("@hourly", "Europe/Berlin").times(autumn), 26))
    assert times == [autumn + timedelta(hours=number) for number in range(1, 27)]


def test_times_begin_within_the_hour_that_comes_twice():
    """In the second 2:15 of the night, the 2:30 of that night has passed."""
    now = datetime(2026, 10, 25, 1, 15, tzinfo=UTC)
    assert next(Cron("30 2 * * *", "Europe/Berlin").times(now)) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("alias", "first"),
    [
        ("@yearly", "2026-01-01T00:00:00"),
        ("@annually", "2026-01-01T00:00:00"),
        ("@monthly", "2025-02-01T00:00:00"),
        ("@weekly", "2025-01-05T00:00:00"),
        ("@Daily", "2025-01-02T00:00:00"),
        ("@midnight", "2025-01-02T00:00:00"),
        ("@hourly", "2025-01-01T01:00:00"),
        ("*/10 * * * * *", "2025-01-01T00:00:10"),
    ],
)
def test_aliases_and_seconds(alias, first):
    assert next(Cron(alias).times(START)).isoformat() == f"{first}+00:00"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("0 0 31 2 *",), "Bad day-of-month"),
        (("every day",), "Wrong number of fields"),
        (("61 * * * *",), "Bad minute"),
        (("9" * 5000 + " * * * *",), "invalid cron expression"),
        (("0 0 * * *", "Europe/Berlin\x00"), "unknown time zone"),
        (("0 0 * * *", "Mars/Olympus"), "unknown time zone 'Mars/Olympus'"),
        (("0 0 * * *", ""), "unknown time zone"),
        (("0 0 * * *", "../etc/passwd"), "unknown time zone"),
    ],
)
def test_invalid_expression_is_refused(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        Cron(*arguments)


@pytest.mark.parametrize("length", [0, -5, 0.5, float("nan"), timedelta(days=40_000)])
def test_invalid_length_is_refused(length):
    with pytest.raises(ConfigurationError):
        Every(length)


def test_naive_anchor_is_refused():
    with pytest.raises(ConfigurationError, match="anchor"):
        Every(60, START.replace(tzinfo=None))


def test_every_counts_from_its_anchor_in_both_directions():
    rule = Every(timedelta(hours=7), datetime(2025, 1, 1, 3, tzinfo=timezone(timedelta(hours=1))))
    for start in (START, START - timedelta(days=400), START + timedelta(days=400)):
        first, second = islice(rule.times(start), 2)
        assert start < first <= start + timedelta(hours=7)
        assert second - first == timedelta(hours=7)
        assert (first - rule.anchor) % timedelta(hours=7) == timedelta()
    assert Every(60) == Every(timedelta(minutes=1))


def test_times_end_with_the_last_year():
    """And a period may begin in the first year, in any time zone."""
    century = Every(timedelta(days=36_500))
    assert [each.year for each in islice(century.times(START), 100)][-1] == 9964
    assert len(list(Cron("0 0 1 1 *", "Asia/Tokyo").times(datetime(9990, 1, 1, tzinfo=UTC)))) in {9, 10}
    first = datetime.min.replace(tzinfo=UTC)
    for rule in (century, Cron("@yearly", "America/New_York"), Cron("@yearly", "Asia/Tokyo")):
        for table in (Timetable(rule), Timetable(rule, start=first)):
            assert next(table.between(first, END)).year < 100
            assert table.next(START) == next(rule.times(START))


def test_time_that_is_one_of_the_rule_is_not_after_itself():
    for rule in (Cron("@hourly"), Every(3600)):
        assert next(rule.times(START)) == START + timedelta(hours=1)
        assert list(Timetable(rule).between(START, START + timedelta(hours=1))) == [START]


def test_newest_missed_time_is_found_without_all_others():
    """A rule of each second, and an outage of a year."""
    table, now = Timetable(Cron("* * * * * *")), END + timedelta(milliseconds=500)
    assert due_times(table, "last", 86400.0, START, now) == ((END,), END + timedelta(seconds=1))
    rare = Timetable(Cron("0 0 1 1 *"))
    assert due_times(rare, "last", 900 * 86400.0, START, END - timedelta(days=1))[0] == (
        datetime(2026, 1, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize("catchup", ["last", "all", "none"])
def test_time_on_time_starts_whatever_the_age_allowed(catchup):
    """A worker looks some tenths of a second after the time."""
    table = Timetable(Cron("@hourly"))
    for late, expected in ((timedelta(seconds=0.4), (START,)), (timedelta(seconds=61), ())):
        assert due_times(table, catchup, 0.0, START, START + late) == (expected, START + timedelta(hours=1))


def test_missed_times_are_caught_up_in_portions():
    table, now = Timetable(Cron("* * * * * *")), START + timedelta(seconds=MAX_TIMES + 10)
    times, next_at = due_times(table, "all", 86400.0, START, now)
    assert (len(times), times[0], next_at) == (MAX_TIMES, START, START + timedelta(seconds=MAX_TIMES))
    times, next_at = due_times(table, "all", 86400.0, next_at, now)
    assert (len(times), next_at) == (11, now + timedelta(seconds=1))


def test_jitter_of_a_time_is_always_the_same():
    delays = {jittered("s", START + timedelta(hours=each), 60.0) - timedelta(hours=each) for each in range(50)}
    assert len(delays) > 40
    assert START <= min(delays) <= max(delays) <= START + timedelta(minutes=1)
    assert jittered("s", START, 60.0) == jittered("s", START.astimezone(ZoneInfo("Asia/Tokyo")), 60.0)


def test_key_is_the_name_and_the_time_in_utc():
    assert (
        key_of("a b", datetime(2026, 1, 1, 1, tzinfo=ZoneInfo("Europe/Berlin"))) == "a b 2026-01-01T00:00:00+00:00"
    )
