"""The short form of `make chaos`: worker processes and PostgreSQL itself under faults, compared with a ledger."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from uuid import UUID, uuid4

import pytest

# It is not in the source distribution.
checks, tables, work = [pytest.importorskip(f"chaos.{name}") for name in ("checks", "tables", "work")]

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 150

pytestmark = pytest.mark.timeout(PATIENCE + 30)


def _family(*, second_child=False, output=None, unread=()):
    """Return the ledger of one parent without faults, with what the arguments change."""
    names = ["chaos.parent", *work.FAMILIES["chaos.parent"], *["chaos.child"] * second_child]
    entries = [
        tables.Entered(uuid4(), number, step_id, 1, 1, 1.0)
        for number, name in enumerate(names)
        for step_id in work.STEPS[name]
    ]
    steps = [
        tables.Recorded(each.workflow_id, each.step_id, "SUCCESS", str(each.id), 1, 0, 1.0, 2.0)
        for each in entries
    ]
    outputs = [[step.output for step in steps if step.workflow_id == number] for number in range(len(names))]
    outputs[0][1:1] = [value for each in outputs[1:] for value in each]
    outputs[1] = outputs[1] if output is None else output(outputs[1])
    workflows = [
        tables.Written(
            number, name, None if number else "k", "SUCCESS", outputs[number], None, 1, 0 if number else None
        )
        for number, name in enumerate(names)
    ]
    return checks.Ledger.of(workflows, steps, entries, list(unread), {})


def test_ledger_of_a_faultless_family_has_no_violation():
    assert list(_family().violations(1)) == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"second_child": True}, "has the children"),
        ({"output": lambda found: [found[0], found[0], found[1]]}, "(chaos.receiver) returned"),
        ({"output": lambda found: found[:-1]}, "(chaos.receiver) returned"),
        ({"unread": ["m/1/item"]}, "'m/1/item' was sent twice, or was not received"),
    ],
    ids=["child twice", "received twice", "message lost", "sent twice"],
)
def test_ledger_finds_lost_and_repeated_parts(changed, told):
    assert any(told in each for each in _family(**changed).violations(1))


@pytest.mark.parametrize("name", ["chaos.quick", "chaos.saga"])
def test_ledger_tells_the_queue_of_a_workflow_that_has_not_ended(name):
    waits = tables.Written(7, name, "0", "WAITING", None, None, 3, None, queue="ordered", partition_key="key 2")
    assert list(checks.Ledger.of([waits], [], [], [], {}).violations(1)) == [
        "unfinished workflows of queue 'ordered': 1.",
        f"workflow 7 ({name}) in queue 'ordered', partition key 'key 2' is WAITING, epoch 3: None",
    ]


NUMBERS = {fate: place * len(work.FUNCTIONS) for place, fate in enumerate(work.FATES)}
"""A number of a saga of each fate."""


def _saga(fate, status, *, steps=("do:a", "dare:b"), undone=("dare:b", "do:a"), began=(), executed=(), value=None):
    """Return the ledger of one saga whose steps, and whose undos, were recorded in this order."""
    entries, recorded = [], []
    for at, step_id in enumerate([*steps, *(f"undo/{each}" for each in undone)]):
        undoes = next((row.output for row in recorded if f"undo/{row.step_id}" == step_id), None)
        entries.append(tables.Entered(uuid4(), 1, step_id, 1, 1, 1.0 + at, value or undoes))
        recorded.append(tables.Recorded(1, step_id, "SUCCESS", str(entries[-1].id), 1, 0, 1.0 + at, 1.5 + at))
    recorded += [tables.Recorded(1, step_id, "RUNNING", None, 1, 0, 1.0, None) for step_id in began]
    entries += [tables.Entered(uuid4(), 1, step_id, 1, 1, 1.0) for step_id in executed]
    outputs = [row.output for row in recorded if row.step_id in work.STEPS["chaos.saga"]]
    output = outputs if status == "SUCCESS" else None
    key = str(NUMBERS[fate])
    workflows = [tables.Written(1, "chaos.saga", key, status, output, None, 1, None)]
    return checks.Ledger.of(workflows, recorded, entries, [], {})


STEPS = work.STEPS["chaos.saga"]


@pytest.mark.parametrize(
    "saga",
    [
        ("succeeds", "SUCCESS", {"steps": STEPS, "undone": ()}),
        ("cancelled", "SUCCESS", {"steps": STEPS, "undone": ()}),
        ("cancelled", "CANCELLED", {}),
        ("cancelled", "CANCELLED", {"steps": STEPS, "undone": STEPS[::-1]}),
        # The cancellation was heard after the block.
        ("cancelled", "CANCELLED", {"steps": STEPS, "undone": ()}),
        ("cancelled", "CANCELLED", {"steps": (), "undone": ()}),
        ("fails", "ERROR", {"steps": STEPS, "undone": STEPS[::-1]}),
        # A process died in the step, before or after its effect.
        ("fails", "ERROR", {"steps": ("do:a",), "undone": ("dare:b", "do:a"), "began": ("dare:b",)}),
        # A process died after the effect of a step that counts only with its record.
        ("cancelled", "CANCELLED", {"steps": (), "undone": (), "executed": ("do:a",)}),
    ],
)  # fmt: skip
def test_ledger_of_an_undone_saga_has_no_violation(saga):
    fate, status, options = saga
    assert list(_saga(fate, status, **options).violations(1)) == []


@pytest.mark.parametrize(
    ("saga", "told"),
    [
        (("cancelled", "CANCELLED", {"undone": ("do:a",)}), "left standing"),
        (("fails", "ERROR", {"undone": ()}), "left standing"),
        (("fails", "ERROR", {"steps": STEPS, "undone": ()}), "left standing"),
        (("cancelled", "CANCELLED", {"steps": STEPS[:4], "undone": ()}), "left standing"),
        (("cancelled", "CANCELLED", {"steps": STEPS, "undone": STEPS[:0:-1]}), "left standing"),
        (("fails", "ERROR", {"began": ("dare:d",)}), "left standing"),
        (("fails", "ERROR", {"executed": ("undo/do:a",) * 2, "undone": ("dare:b",)}), "left standing"),
        (("fails", "ERROR", {"executed": ("dare:d",)}), "its beginning is not recorded"),
        (("fails", "ERROR", {"undone": ("dare:b", "do:c", "do:a")}), "is not recorded, and was undone"),
        (("fails", "ERROR", {"executed": ("undo/do:c",)}), "is not recorded, and was undone"),
        (("fails", "ERROR", {"value": "other"}), "its undo was called with {'other'}"),
        (("fails", "ERROR", {"steps": STEPS, "undone": STEPS}), "has undone step 'do:a' before step 'dare:d'"),
        (("succeeds", "SUCCESS", {"steps": STEPS, "undone": ("do:a",)}), "has succeeded, and step 'do:a' was"),
        (("succeeds", "SUCCESS", {"steps": STEPS[:3], "undone": ()}), "returned"),
        (("succeeds", "CANCELLED", {}), "is CANCELLED"),
        (("fails", "CANCELLED", {}), "is CANCELLED"),
    ],
)
def test_ledger_finds_steps_left_standing_and_wrong_undos(saga, told):
    fate, status, options = saga
    assert any(told in each for each in _saga(fate, status, **options).violations(1))


def test_violation_of_a_saga_tells_its_queue_runs_and_error():
    ledger = _saga("cancelled", "CANCELLED", undone=("do:a",))
    ledger.workflows[0] = ledger.workflows[0]._replace(queue="narrow", epoch=3, error="late")
    [found] = ledger.violations(1)
    assert "CANCELLED in queue 'narrow' after 3 runs, saga state None, error late, epochs {'do:a': 1," in found


def _batch(*, listed=(1, 2), second=None, turned=False, executed=()):
    """Return the ledger of a batch, 3, of the submissions 1 and 2, with what the arguments change."""
    step_ids = [f"note:{work.stamp_name(place, 10 + number)}" for place, number in enumerate((1, 2))]
    entries = [tables.Entered(uuid4(), 3, step_id, 1, 1, 1.0) for step_id in step_ids]
    steps = [tables.Recorded(3, each.step_id, "SUCCESS", str(each.id), 1, 0, 1.0, 2.0) for each in entries]
    entries += [tables.Entered(uuid4(), 3, step_id, epoch, 1, 3.0) for step_id, epoch in executed]
    outputs = [[str(entry.id)] for entry in entries[:2]][:: -1 if turned else 1]
    workflows = [
        tables.Written(
            number, "chaos.stamp", str(number), "SUCCESS", output, None, 1, None, {"args": [10 + number]}, 3
        )
        for number, output in zip((1, 2), outputs, strict=True)
    ]
    for number, own in ((3, listed), (4, second)):
        if own is not None:
            workflows.append(
                tables.Written(number, "chaos.stamp/batch", None, "SUCCESS", None, None, 1, None, [*own], number)
            )
    return checks.Ledger.of(workflows, steps, entries, [], {})


def test_ledger_of_a_batch_has_no_violation():
    assert list(_batch().violations(2)) == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"listed": (1,)}, "workflow 2 is in batch 3, and the batches that list it are []"),
        ({"second": (2,)}, "workflow 2 is in batch 3, and the batches that list it are [3, 4]"),
        ({"listed": (1, 2, 9)}, "lists workflow 9, which does not exist"),
        ({"listed": ()}, "has 0 submissions"),
        ({"listed": (2, 1)}, "has executed step 'note:0 for 11', which is of no submission in its list"),
        ({"turned": True}, "workflow 1 (chaos.stamp) returned"),
        ({"executed": [("note:1 for 12", 2)]}, "was executed again by epoch 2"),
        ({"executed": [("note:0 for 12", 2)]}, "which is of no submission in its list"),
    ],
)
def test_ledger_finds_submissions_that_did_not_run_in_one_batch(changed, told):
    assert any(told in each for each in _batch(**changed).violations(2))


def _clerk(replies):
    """Return the ledger of one clerk with the output ``["x", "y"]`` of its steps, and what its callers got."""
    ids = [UUID(int=number) for number in range(2)]
    steps = work.STEPS["chaos.clerk"]
    recorded = [
        tables.Recorded(1, step_id, "SUCCESS", str(own), 1, 0, 1.0, 2.0)
        for step_id, own in zip(steps, ids, strict=True)
    ]
    entries = [tables.Entered(own, 1, step_id, 1, 1, 1.0) for step_id, own in zip(steps, ids, strict=True)]
    workflow = tables.Written(1, "chaos.clerk", "k", "SUCCESS", [str(own) for own in ids], None, 1, None)
    asked = {(1, value): [str(ids[each]) for each in found] for value, found in enumerate(replies)}
    return checks.Ledger.of([workflow], recorded, entries, [], asked)


def test_ledger_of_the_same_replies_has_no_violation():
    assert list(_clerk([[0, 0], [1]]).violations(1)) == []


@pytest.mark.parametrize("replies", [[[0, 1], [1]], [[0], []], [[1], [1]]], ids=["another", "none", "wrong"])
def test_ledger_finds_requests_that_were_not_answered_once(replies):
    assert any("callers got" in each for each in _clerk(replies).violations(1))


SHORT = ("--workflows", "80", "--faults", "8", "--seconds", "7")
"""Enough for each kind of fault; `make chaos CHAOS_OPTIONS=--quick` takes twice as long."""


def test_chaos_run_loses_and_repeats_nothing():
    process = subprocess.Popen(
        [sys.executable, "-m", "chaos", "--quick", *SHORT, "--folder", ".pgqrs/chaos-short"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env=os.environ | {"COLUMNS": "150"},
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=PATIENCE)
    finally:
        with suppress(ProcessLookupError):  # its workers are in its group
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == 0, output
