"""The checks of `make chaos` of limits and schedules: each finds a planted violation, and reports no legal state."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from pgqrs import Rate

# It is not in the source distribution.
queues, limits, slots, schedules, tables = [
    pytest.importorskip(f"chaos.{name}")
    for name in ("control.queues", "control.limits", "control.slots", "control.schedules", "tables")
]


def _slot(number, taken, left=None, *, key=None, asked=None, lost=False, epoch=1):
    """Return the slot of a workflow; it was asked for as it was taken."""
    return slots.Taken(
        number, epoch, "q", key, epoch == 1, taken if asked is None else asked, taken, left, lost if left else None
    )


def _violations(taken, *turns, entries=(), exclusive=()):
    """Check slots of a queue whose limits were changed at these times; each change takes a tenth of a second."""
    changes = [queues.Change(queues.Limits(own, is_paused=own is PAUSED), at, at + 0.1) for at, own in turns]
    return list(limits.Slots.of(taken, {"q": changes}, exclusive).violations(entries))


def _entry(number, began, entered, epoch=1):
    return tables.Entered(uuid4(), number, "note:a", epoch, 1, began, None, entered)


TWO, ONE = {"concurrency": 2}, {"concurrency": 1}
PAUSED = {"concurrency": 2}
PACED = {"rate": Rate(10, burst=2)}


@pytest.mark.parametrize(
    ("taken", "turns"),
    [
        ([_slot(1, 1, 3), _slot(2, 2, 4), _slot(3, 3.0001)], [(0, TWO)]),
        # The limit is lowered, and the runs above it go on.
        ([_slot(1, 1, 9), _slot(2, 2, 9), _slot(3, 9.5)], [(0, TWO), (3, ONE)]),
        # The claim has begun before the limit was lowered, and may have seen either.
        ([_slot(1, 1), _slot(2, 3.05)], [(0, TWO), (3, ONE)]),
        ([_slot(1, 1), _slot(2, 3.2, asked=2.9)], [(0, TWO), (3, ONE)]),
        ([_slot(1, 1), _slot(2, 2), _slot(3, 3.2)], [(0, TWO), (3, {})]),
        ([_slot(1, 1, key="a"), _slot(2, 1, key="b"), _slot(3, 1)], [(0, {"partition_concurrency": 1})]),
        ([_slot(1, 1), _slot(2, 5.2)], [(0, TWO), (3, PAUSED), (5, TWO)]),
        ([_slot(n, 1 + max(0, n - 2) / 10) for n in range(1, 30)], [(0, PACED)]),
        # A run that was recovered, and claimed again, is no start.
        ([_slot(1, 1), _slot(2, 1), *(_slot(n, 1, epoch=2) for n in range(3, 9))], [(0, PACED)]),
        ([_slot(n, 1 if n < 3 else 2.05) for n in range(1, 9)], [(0, PACED), (2, {})]),
    ],
)
def test_slots_within_the_limits_have_no_violation(taken, turns):
    assert _violations(taken, *turns) == []


@pytest.mark.parametrize(
    ("taken", "turns", "told"),
    [
        ([_slot(1, 1, 3), _slot(2, 2), _slot(3, 2.9)], [(0, TWO)], "had 3 runs when workflow 3 was claimed"),
        ([_slot(1, 1), _slot(2, 3.2)], [(0, TWO), (3, ONE)], "had 2 runs when workflow 2 was claimed"),
        ([_slot(1, 1), _slot(2, 2.9)], [(0, ONE), (3, TWO)], "had 2 runs when workflow 2 was claimed"),
        (
            [_slot(1, 1, key="a"), _slot(2, 1, key="b"), _slot(3, 1, key="a")],
            [(0, {"partition_concurrency": 1})],
            "key 'a' of queue 'q' had 2 runs when workflow 3 was claimed",
        ),
        ([_slot(1, 1), _slot(2, 4)], [(0, TWO), (3, PAUSED), (5, TWO)], "was paused, and workflow 2 was claimed"),
        (
            [_slot(n, 1) for n in range(1, 4)],
            [(0, PACED)],
            "started workflow 3 1.00 starts ahead of Rate(limit=10",
        ),
        ([_slot(n, 1 + n / 15) for n in range(1, 20)], [(0, PACED)], "starts ahead of Rate(limit=10"),
        (
            [_slot(n, 1, key="ab"[n % 2]) for n in range(1, 4)],
            [(0, {"partition_rate": Rate(1)})],
            "key 'b' of queue 'q' has started workflow 3 1.00 starts ahead",
        ),
    ],
)
def test_each_limit_that_is_exceeded_is_found(taken, turns, told):
    assert any(told in each for each in _violations(taken, *turns))


def test_exclusive_queue_claims_a_holder_again_above_its_limit():
    taken = [_slot(1, 1, key="a"), _slot(2, 1, 2, key="b"), _slot(2, 4, key="b", epoch=2)]
    assert _violations(taken, (0, TWO), (3, ONE), exclusive={"q"}) == []
    assert "had 2 runs" in _violations(taken, (0, TWO), (3, ONE))[0]


def test_exclusive_queue_has_one_workflow_of_a_key_at_a_time():
    taken = [
        _slot(1, 1, 2, key="a"),
        _slot(2, 2, 3, key="b"),
        _slot(1, 3, 4, key="a", epoch=2),
        _slot(3, 4, key="a"),
    ]
    assert _violations(taken, (0, {}), exclusive={"q"}) == []
    found = _violations([*taken, _slot(1, 5, key="a", epoch=3)], (0, {}), exclusive={"q"})
    assert found == ["key 'a' of queue 'q' has started workflow 3 before the end of the one before."]


def test_executions_are_within_the_slots_of_their_runs():
    """A stopped process may go on with a run that was recovered elsewhere."""
    taken = [_slot(1, 1, 3, lost=True), _slot(1, 4, 6, epoch=2)]
    legal = [_entry(1, 1, 2), _entry(1, 2, 9), _entry(1, 4, 5, epoch=2)]
    assert _violations(taken, (0, {}), entries=legal) == []
    wrong = [_entry(1, 4, 7, epoch=2), _entry(1, 3, 5, epoch=2), _entry(1, 4, 5, epoch=3)]
    found = _violations(taken, (0, {}), entries=wrong)
    assert [each.partition("was executed ")[2] for each in found] == [
        "by epoch 2 and ended 1.000 s after the run had left its slot.",
        "by epoch 2 before its claim.",
        "by epoch 3, which no claim has begun.",
    ]


START = datetime(2026, 1, 1, tzinfo=UTC)
TIMES = [START + timedelta(seconds=number) for number in range(4)]


def _started(name, *numbers, lived=0.5):
    """Return the workflows that a schedule has started for the times of these numbers."""
    return [
        tables.Written(
            place,
            "chaos.tick",
            None,
            "SUCCESS",
            None,
            None,
            1,
            None,
            schedule=name,
            scheduled_for=TIMES[number],
            created_at=TIMES[number],
            completed_at=TIMES[number] + timedelta(seconds=lived),
        )
        for place, number in enumerate(numbers)
    ]


@pytest.mark.parametrize(
    ("name", "numbers", "lived", "told"),
    [
        ("each time", (0, 1, 2, 3), 2.0, None),
        ("one at a time", (0, 2), 1.5, None),
        ("each time", (0, 1, 3), 0.5, f"has started no workflow for the time {TIMES[2]}"),
        ("each time", (0, 1, 2, 2, 3), 0.5, f"has started 2 workflows for the time {TIMES[2]}"),
        ("one at a time", (0, 1), 2.0, "has started workflow 1 while workflow 0 was alive"),
    ],
)
def test_wrong_starts_of_schedules_are_found(name, numbers, lived, told):
    found = list(schedules.Timetable(None, {name: TIMES}).violations(_started(name, *numbers, lived=lived)))
    assert told in found[0] if told else found == []
