"""The states of a run, and the transitions between them."""

from __future__ import annotations

import asyncio

import pytest

from pgqrs.clock import MonotonicClock
from pgqrs.engine.lifecycle import TRANSITIONS, Parked, RunLifecycle, RunState, StopReason
from pgqrs.engine.parking import Parking, RunWorker, TimeReached
from pgqrs.errors import DatabaseError, RunEndedError, WorkflowCancelledError


@pytest.fixture
async def lifecycle():
    return RunLifecycle(object(), 7, {}, None, MonotonicClock())


def end(lifecycle):
    lifecycle.end()


def lose(lifecycle):
    lifecycle.lose(DatabaseError("away"))


def stop(lifecycle):
    lifecycle.stop_for(StopReason.PARKED)


def see(lifecycle):
    with pytest.raises(Parked):
        lifecycle.raise_if_stopped()


REACHED = {
    RunState.OPEN: [],
    RunState.STOPPING: [stop],
    RunState.STOPPED: [stop, see],
    RunState.ENDED: [end],
    RunState.LOST: [lose],
}


@pytest.mark.parametrize("state", RunState)
async def test_transitions_lead_to_each_state(lifecycle, state):
    for act in REACHED[state]:
        act(lifecycle)
    assert lifecycle.state is state


@pytest.mark.parametrize("state", RunState)
@pytest.mark.parametrize(("act", "after"), [(end, RunState.ENDED), (lose, RunState.LOST)])
async def test_forbidden_transition_is_an_error(lifecycle, state, act, after):
    for each in REACHED[state]:
        each(lifecycle)
    if after in TRANSITIONS[state]:
        act(lifecycle)
        assert lifecycle.state is after
    else:
        with pytest.raises(RuntimeError, match=f"a run that is {state.name} cannot become {after.name}"):
            act(lifecycle)


async def test_greater_stop_reason_overrides_lesser_reason(lifecycle):
    assert lifecycle.stop_for(StopReason.PARKED)
    assert lifecycle.stop_for(StopReason.CANCELLED)
    assert not lifecycle.stop_for(StopReason.TIMED_OUT)
    assert isinstance(lifecycle.stop_error(), WorkflowCancelledError)


@pytest.mark.parametrize("act", [end, lose])
async def test_closed_run_cannot_stop(lifecycle, act):
    act(lifecycle)
    assert not lifecycle.stop_for(StopReason.CANCELLED)
    assert lifecycle.stop_reason is None


async def test_unseen_requeue_leaves_the_outcome_of_the_body(lifecycle):
    lifecycle.stop_for(StopReason.REQUEUED)
    assert not lifecycle.stop_decides()
    see(lifecycle)
    assert lifecycle.stop_decides()


async def test_unseen_cancellation_decides(lifecycle):
    lifecycle.stop_for(StopReason.CANCELLED)
    assert lifecycle.stop_decides()


async def test_ended_run_raises_on_each_call(lifecycle):
    lifecycle.end()
    with pytest.raises(RunEndedError):
        lifecycle.raise_if_stopped()


class Told:
    """A condition that the test meets."""

    def __init__(self, due=float("inf")):
        self.due = due
        self.on_met = None

    def subscribe(self, on_met):
        self.on_met = on_met
        return self.unsubscribe

    def unsubscribe(self):
        self.on_met = None


async def test_wait_ends_with_the_first_of_its_conditions(lifecycle):
    parking, first, second = Parking(lifecycle, None), Told(), Told()
    wait = asyncio.create_task(parking.wait(first, second))
    await asyncio.sleep(0)
    assert parking.idle_until == float("inf")
    second.on_met()
    await asyncio.wait_for(wait, 5)
    assert (first.on_met, second.on_met, parking.idle_until) == (None, None, None)


async def test_wait_that_has_only_begun_is_not_idle(lifecycle):
    parking, seen = Parking(lifecycle, RunWorker()), []
    lifecycle.body.enter(None)
    lifecycle.idle.executions["sleep:1"] = object()  # the step that waits
    lifecycle.loop.call_soon(lambda: seen.append((lifecycle.idle.is_idle, parking.idle_until)))
    with pytest.raises(Parked):
        await parking.park_at_once(lifecycle.clock.time() + 1e6, lambda: None)
    assert seen == [(True, None)]


async def test_deadline_bounds_the_idle_time_of_a_run(lifecycle):
    parking, condition = Parking(lifecycle, None), Told()
    lifecycle.deadline = 5.0
    wait = asyncio.create_task(parking.wait(condition))
    await asyncio.sleep(0)
    assert parking.idle_until == 5.0
    condition.on_met()
    await wait


async def test_stop_ends_a_wait_and_its_subscriptions(lifecycle):
    parking, condition = Parking(lifecycle, None), Told()
    wait = asyncio.create_task(parking.wait(condition))
    await asyncio.sleep(0)
    lifecycle.stop_for(StopReason.PARKED)
    with pytest.raises(Parked):
        await asyncio.wait_for(wait, 5)
    assert condition.on_met is None


@pytest.mark.parametrize(("dues", "stops"), [([5.0], True), ([float("inf")], True), ([5.0, 0.9], False)])
async def test_run_parks_for_long_waits_only(lifecycle, dues, stops):
    lifecycle.enter_body(None)
    parking, now = Parking(lifecycle, RunWorker()), lifecycle.clock.time()
    conditions = [Told(now + due) for due in dues]
    wait = asyncio.ensure_future(parking.wait(*conditions))
    lifecycle.body.task = wait
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (lifecycle.state is not RunState.OPEN) is stops
    if stops:
        assert parking.until_due() == pytest.approx(min(dues), abs=1) if min(dues) < 9 else not parking.until_due()
    lifecycle.stop_for(StopReason.CANCELLED)
    await asyncio.wait([wait])
    lifecycle.leave_body()


async def test_time_condition_is_met_at_its_time(lifecycle):
    clock = lifecycle.clock
    start = clock.time()
    await Parking(lifecycle, None).wait(TimeReached(clock, start + 0.02))
    assert clock.time() >= start + 0.02


async def test_continuation_yields_to_a_cancellation_alone(lifecycle):
    assert lifecycle.stop_for(StopReason.CONTINUED)
    assert not lifecycle.stop_for(StopReason.REQUEUED)
    assert not lifecycle.is_final
    assert lifecycle.stop_for(StopReason.CANCELLED)
    assert lifecycle.is_final


async def test_very_many_interrupted_tasks_are_taken_back_at_once(lifecycle):
    """A copy of the tasks for each of them would take minutes."""

    class Interrupted:
        def uncancel(self):
            return 0

    tasks = [Interrupted() for _ in range(100_000)]
    lifecycle.body.interrupted |= {*tasks}
    assert all(lifecycle.take_back(each) for each in tasks)
    assert not lifecycle.take_back(tasks[0])
