"""What a run has passed, by the times of the recorded steps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random

from pgqrs.engine.replay.frontier import Reached, Spans
from pgqrs.storage.records import StepTimes

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(second):
    return START + timedelta(seconds=second)


def test_spans_cover_what_one_of_them_contains():
    random = Random(7)
    for _ in range(300):
        spans = [
            (start, start + random.randint(0, 5)) for start in random.choices(range(12), k=random.randint(0, 6))
        ]
        found = Spans((at(start), at(end)) for start, end in spans)
        for start in range(-1, 14):
            for end in range(start, 16):
                expected = any(began <= start and end <= ended for began, ended in spans)
                assert found.cover(at(start), at(end)) is expected


def test_very_many_nested_steps_are_found_behind_at_once():
    """A look at all the steps around for each nested step would take minutes."""
    outer = [StepTimes(f"outer:{n}", 1, at(4 * n), at(4 * n + 3)) for n in range(60_000)]
    inner = [StepTimes(f"inner:{n}", 1, at(4 * n + 1), at(4 * n + 2)) for n in range(60_000)]
    after = StepTimes("after", 1, at(4 * 60_000), at(4 * 60_000 + 1))
    reached = Reached([*outer, *inner, after], {each.step_id for each in outer}, ())
    assert all(reached.is_behind(each.step_id) for each in inner)
    assert not reached.is_behind("after")
