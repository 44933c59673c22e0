"""The README's demo, end to end, on a part of its data: killed in the middle of a step, carried on, checked."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

FEWER = """
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

spec = PathFinder.find_spec("airportsdata", [each for each in sys.path if each != str(Path(__file__).parent)])
whole = module_from_spec(spec)
spec.loader.exec_module(whole)
__version__ = whole.__version__

def load(by):
    every = enumerate(whole.load(by).items())
    return {code: each for n, (code, each) in every if n % 8 == 0 or each["tz"].startswith("Europe/")}
"""
"""A module in the place of `airportsdata`: all of Europe, where the process is killed, and an eighth of the rest."""


def test_demo_survives_a_kill_and_prints_its_results(tmp_path):
    (tmp_path / "fewer").mkdir()
    (tmp_path / "fewer" / "airportsdata.py").write_text(FEWER)
    done = subprocess.run(
        [sys.executable, "-m", "examples.airports.demo", "--dsn", f"embedded://{tmp_path / 'server'}"],
        cwd=ROOT,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "fewer"), os.environ.get("PYTHONPATH", "")])},
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
