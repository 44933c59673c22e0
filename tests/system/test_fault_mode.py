"""The fault mode (`pytest -p tests.support.fault_mode`): a failed test is reported with its fault."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLUGIN = "tests.support.fault_mode"

TESTS = """
import pytest
from pgqrs import PyWorkflow, step, workflow
from pgqrs.storage.journal import running_marks as marks
from tests.conftest import admin, dsn, installed, kept, schema, schemas, sound

marks.MARK_AFTER = 3600.0  # a mark that a step takes long, on a busy machine, would count as well


@step
async def one(ctx: PyWorkflow) -> int:
    return 1


@workflow
async def adding(ctx: PyWorkflow) -> int:
    return await one(ctx) + 1


async def test_that_holds(admin):
    assert await admin.run(adding) == 2


async def test_that_counts(admin):
    assert await admin.run(adding) == 2
    assert (await admin.store()).journal.statements == 3


@pytest.mark.unfaulted("it counts, too")
async def test_that_is_left_out(admin):
    assert (await admin.store()).journal.statements == 0


def test_that_writes_nothing():
    pass
"""


def _faulted(path, *options):
    command = [sys.executable, "-m", "pytest", "-p", PLUGIN, "-p", "no:cacheprovider", "-q", "-rfs"]
    given = [*options, "-c", str(ROOT / "pyproject.toml"), str(path)]
    run = subprocess.run([*command, *given], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 1, run.stdout + run.stderr
    return run.stdout


def test_faults_hit_each_round_trip_and_failures_name_them(tmp_path):
    path = tmp_path / "test_two.py"
    path.write_text(TESTS)
    told = _faulted(path, "-n", "1", "--faults", "before,after")
    # A startup, what the engine and then the journal set, and each of three statements prepared and executed: the first
    # three are no statements.
    failed = re.findall(r"^FAILED \S*::(\S+)", told, re.MULTILINE)
    before = [f"test_that_counts{{before@{n}}}" for n in range(4, 10)]
    assert sorted(failed) == sorted([*before, *(f"test_that_counts{{after@{n}}}" for n in (5, 7, 9))])
    assert "the socket closes after the commit, the answer is lost, at round trip 5: INSERT" in told
    assert "unfaulted: it counts, too" in told
    assert "3 tests, 1 of which write nothing" in told
    assert "18 round trips, 2 faults, 28 runs with a fault, 0 of which ended before it" in told
