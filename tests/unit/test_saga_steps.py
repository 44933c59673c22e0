"""The steps of sagas: how they are handed on, and in which order they are undone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pgqrs.engine.sagas import Sagas
from pgqrs.workflow.compensation import Saga

MANY = 300_000


def new_saga():
    current: Any = None
    return Saga(None, current, 1.0, None)


def sagas_with(outcomes):
    run: Any = SimpleNamespace(steps=SimpleNamespace(history=SimpleNamespace(outcomes=outcomes, failed={})))
    store: Any = None
    lifecycle: Any = SimpleNamespace()
    return Sagas(run, store, lifecycle, None)


def test_very_many_sagas_hand_on_their_steps_at_once():
    """A copy of all the steps for each saga within another would take minutes."""
    around, call = new_saga(), SimpleNamespace()
    names = [f"book:{n}" for n in range(MANY)]
    for each in names:
        around.adopt({each: call})
    assert [*around._calls] == names


def test_places_among_very_many_outcomes_are_found_at_once():
    """A look at all the outcomes for each saga that is undone would take minutes."""
    outcomes: dict[str, Any] = {}
    sagas = sagas_with(outcomes)
    for n in range(MANY):
        outcomes[f"book:{n}"] = outcomes[f"undo:{n}"] = None
        assert sagas.place(f"book:{n}") == (True, 2 * n)


def test_outcomes_of_earlier_runs_come_before_those_of_this_run():
    outcomes: dict[str, Any] = dict.fromkeys(["b", "a", "c", "d"])
    sagas = sagas_with(outcomes)
    assert sorted(outcomes, key=sagas.place) == ["b", "a", "c", "d"]
    sagas._order = {"a": 0, "b": 1}
    assert sorted(outcomes, key=sagas.place) == ["a", "b", "c", "d"]


def test_steps_that_only_began_are_undone_last_first():
    saga = new_saga()
    sagas = sagas_with({})
    saga._run = sagas._run
    call = SimpleNamespace(when="began")
    for each in ("train", "hotel"):
        sagas._run.steps.history.failed[each] = None
    saga._calls["train"] = call
    saga.adopt({"hotel": call})
    assert saga._to_undo(sagas) == ["hotel", "train"]
