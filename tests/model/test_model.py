"""Hypothesis drives pgqrs and a plain model of it side by side; after every move the tables must be the model's.

Set PGQRS_MODEL_EXAMPLES for a long run of so many examples, drawn anew each time.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.model_driver import Driver
from tests.support.model_machine import PROCESSES
from tests.support.model_regulation import RegulatedMachine


@pytest.fixture(scope="module")
def driven(dsn: str) -> Iterator[tuple[asyncio.Runner, Driver]]:
    """Three processes on a schema of their own, in an event loop that goes on from example to example."""
    with asyncio.Runner() as runner:
        driver = Driver(dsn, f"test_{uuid.uuid4().hex[:12]}", PROCESSES)
        runner.run(driver.open())
        yield runner, driver
        runner.run(driver.close())


def _settings() -> settings:
    examples = int(os.environ.get("PGQRS_MODEL_EXAMPLES", "0"))
    common = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}
    if examples:
        return settings(max_examples=examples, stateful_step_count=50, **common)
    # Without the shrinking, which takes minutes: a long run shows what failed in fewer moves.
    phases = [phase for phase in Phase if phase is not Phase.shrink]
    return settings(
        max_examples=20, stateful_step_count=30, derandomize=True, database=None, phases=phases, **common
    )


def test_a_cancelled_run_of_a_dead_executor_keeps_no_deadline(driven: tuple[asyncio.Runner, Driver]) -> None:
    """What the machine found once, move by move: its deadline passed afterwards, and it became an ERROR."""
    machine = RegulatedMachine(*driven)
    machine.begin(process=0, name="first", timeout=5)
    machine.cancel(process=1, pick=0, interrupt=False)
    machine.strike(pick=0, how="freeze")
    machine.tick(process=1, some=["first"], queues=["default"], unknown_too=False)
    machine.the_tables_are_the_models()
    machine.pass_time(units=10)
    machine.tick(process=1, some=["first"], queues=["default"], unknown_too=False)
    machine.the_tables_are_the_models()
    machine.teardown()


ALL = {"some": ["first", "second"], "queues": ["default", "other"]}


def test_messages_to_processes_that_die_are_received_once(driven: tuple[asyncio.Runner, Driver]) -> None:
    machine = RegulatedMachine(*driven)
    machine.begin(process=0, name="first", timeout=None)
    waits = [("w", ("m/paid",)), ("v", ("e/closed",))]
    machine.park(pick=0, stale=False, waits=waits, timeout=2, kind="error")
    machine.strike(pick=0, how="freeze")
    machine.send_in_session(process=1, pick=0, topic="paid", key=None, commits=False)
    machine.deliver(process=1)
    machine.send_in_session(process=1, pick=0, topic="paid", key="k", commits=True)
    machine.send(process=2, pick=0, topic="paid", key="k")
    machine.the_tables_are_the_models()
    machine.deliver(process=1)
    machine.claim_ready(process=1, limit=1, **ALL)
    machine.the_tables_are_the_models()
    machine.send(process=2, pick=0, topic="sent", key=None)
    machine.receive(0, stale=False, step_id="v", addresses=("m/sent",), sent=False, late=False, kind="error")
    machine.the_tables_are_the_models()
    assert [each.taken for each in machine.model.messages] == [0, 0]
    assert {id_: step.status for id_, step in machine.model.workflows[0].steps.items()} == {
        "w": "SUCCESS", "v": "SUCCESS",
    }  # fmt: skip
    machine.teardown()


def test_waits_that_end_without_a_message_leave_nothing(driven: tuple[asyncio.Runner, Driver]) -> None:
    machine = RegulatedMachine(*driven)
    for how in ("cancel", "claim", "resume", "late"):
        machine.disturb(process=0, pick=0, how=how)
        machine.the_tables_are_the_models()
    assert not any(each.waits for each in machine.model.workflows)
    assert [each.status for each in machine.model.workflows] == ["CANCELLED", "RUNNING", "PENDING", "PENDING"]
    assert {step.status for step in machine.model.workflows[3].steps.values()} == {"ERROR"}
    machine.teardown()


def test_children_of_a_parent_that_dies_are_started_once(driven: tuple[asyncio.Runner, Driver]) -> None:
    machine = RegulatedMachine(*driven)
    machine.begin(process=0, name="first", timeout=None)
    machine.start_some(0, stale=False, name="second", queue="other", places=(0, 1), goes_on=False)
    machine.strike(pick=0, how="freeze")
    machine.tick(process=1, unknown_too=False, **ALL)
    machine.claim(process=1, pick=2, timeout=None)
    machine.start(0, stale=False, step_id="t", name="second", queue="other", timeout=None, ends=True)
    machine.the_tables_are_the_models()
    assert [each.place for each in machine.model.workflows] == [None, 0, 1, 2]
    machine.park(pick=0, stale=False, waits=[("w", ("c/t",))], timeout=None, kind="error")
    machine.answer(1, pick=0, partly=True, addresses=("c/t",), how="deliver")
    assert machine.model.workflows[0].waits
    machine.cancel(process=1, pick=0, interrupt=False)
    machine.answer(1, pick=0, partly=False, addresses=("c/t",), how="deliver")
    machine.the_tables_are_the_models()
    assert machine.model.workflows[0].ready
    assert json.loads(machine.model.workflows[0].steps["w"].output or "") == {"failed": [2]}
    machine.claim(process=2, pick=3, timeout=None)
    machine.start(0, stale=False, step_id="s", name="second", queue="other", timeout=None, ends=True)
    machine.end(0, stale=False, fails=True, reopen=())
    machine.reap(process=2)
    machine.the_tables_are_the_models()
    assert machine.model.workflows[4].status == "CANCELLED"
    machine.teardown()


def test_saga_of_a_process_that_dies_is_undone(driven: tuple[asyncio.Runner, Driver]) -> None:
    machine = RegulatedMachine(*driven)
    machine.begin_saga(process=0, steps=("c", "a"), name="first", timeout=None)
    machine.send(process=1, pick=0, topic="paid", key=None)
    machine.deliver(process=1)
    machine.claim_ready(process=1, limit=1, some=["first"], queues=["default"])
    machine.cancel(process=2, pick=0, interrupt=False)
    machine.strike(pick=1, how="freeze")
    machine.tick(process=2, unknown_too=False, **ALL)
    machine.the_tables_are_the_models()
    machine.undo(process=2, pick=0, steps=("a",))
    machine.the_tables_are_the_models()
    (workflow,) = machine.model.workflows
    assert workflow.status == "CANCELLED"
    assert {each for each in workflow.steps if each.startswith("undo/")} == {"undo/a", "undo/c"}
    machine.teardown()


def test_schedule_of_a_limited_queue_starts_each_time_once(driven: tuple[asyncio.Runner, Driver]) -> None:
    machine = RegulatedMachine(*driven)
    machine.set_queue(process=0, queue="other", concurrency=1, of_key=None, burst=None)
    machine.schedule(0, "nightly", "first", "other", ("queue", "last"), is_new_rule=True)
    machine.fire(process=1, units=3, **ALL)
    machine.fire(process=2, units=1, **ALL)
    machine.the_tables_are_the_models()
    assert [each.schedule for each in machine.model.workflows] == ["nightly"]
    machine.control(process=0, pick=0, how="trigger")
    machine.claim_ready(process=1, limit=2, **ALL)
    machine.the_tables_are_the_models()
    assert [each.status for each in machine.model.workflows] == ["RUNNING", "PENDING"]
    machine.end(0, stale=False, fails=False, reopen=())
    machine.claim_at_once(limit=1, order=[0, 1, 2])
    machine.end(0, stale=False, fails=False, reopen=())
    machine.fire(process=1, units=0, **ALL)
    machine.the_tables_are_the_models()
    assert [each.status for each in machine.model.workflows] == ["SUCCESS", "SUCCESS", "PENDING"]
    machine.schedule(0, "nightly", "first", "other", ("cancel", "last"), is_new_rule=False)
    machine.fire(process=1, units=1, **ALL)
    machine.the_tables_are_the_models()
    assert machine.model.workflows[2].status == "CANCELLED"
    machine.teardown()


@pytest.mark.timeout(0 if "PGQRS_MODEL_EXAMPLES" in os.environ else 300)
def test_pgqrs_behaves_like_the_model(driven: tuple[asyncio.Runner, Driver]) -> None:
    run_state_machine_as_test(lambda: RegulatedMachine(*driven), settings=_settings())
