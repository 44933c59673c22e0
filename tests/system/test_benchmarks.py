"""`make bench` works: it fills tables by statements of its own, which a change of the tables breaks."""

import json
import subprocess
import sys
from pathlib import Path

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
