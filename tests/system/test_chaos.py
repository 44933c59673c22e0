"""The short form of `make chaos`: worker processes and PostgreSQL itself under faults, compared with a ledger."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

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
    return checks.Ledger.of(workflows, steps, entries, list(unread))


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


def test_chaos_run_loses_and_repeats_nothing():
    process = subprocess.Popen(
        [sys.executable, "-m", "chaos", "--quick", "--folder", ".pgqrs/chaos-short"],
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
