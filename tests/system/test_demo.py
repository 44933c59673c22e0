"""The README's demo, end to end: killed in the middle of a step, carried on, checked."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_demo_survives_a_kill_and_prints_its_results(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "examples.airports.demo", "--dsn", f"embedded://{tmp_path / 'server'}"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "killed by signal 9" in done.stdout
    ran_twice = re.findall(r"^ (\S+) +1 +1 +2 +SUCCESS", done.stdout, re.MULTILINE)
    ran_once = re.findall(r"^ (\S+) +1 +1 +SUCCESS", done.stdout, re.MULTILINE)
    assert ran_twice == ["transform:Europe"]
    assert {"read", "validate", "summarise", "transform:Africa", "transform:Pacific"} <= set(ran_once)
    assert "WRONG" not in done.stdout
