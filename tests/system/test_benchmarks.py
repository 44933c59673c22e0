"""`make bench` works: it fills tables by statements of its own, which a change of the tables breaks."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.report import tables

ROOT = Path(__file__).parents[2]


def test_quick_run_fills_the_tables_and_measures():
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "w5,w6", "--peers", "pgqrs"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "FAILED" not in done.stdout
    found = json.loads((ROOT / ".pgqrs" / "bench-partial.json").read_text())["measurements"]
    assert [each["work"] for each in found] == ["w6", "w5"]
    assert all(each["seconds"] > 0 for each in found)
    assert found[0]["wal"] > 0


def test_table_has_a_dash_for_a_system_without_the_work():
    one = {"median": 1.0, "min": 1.0, "max": 1.0}
    latency = [
        {"work": work, "system": system, "workflows": 1, "rate": one, "p99": one, "ratio": None}
        for work, system in (("m1", "pgqrs"), ("m1", "dbos"), ("r1", "pgqrs"))
    ]
    (table,) = tables({"throughput": [], "latency": latency, "reaches": [], "others": [], "versions": {}})
    assert [row[2] == "-" for row in table[2]] == [False, True, False, True]
