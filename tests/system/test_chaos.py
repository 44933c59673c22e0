"""The short form of `make chaos`: worker processes and PostgreSQL itself under faults, compared with a ledger."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 150

pytestmark = [
    pytest.mark.timeout(PATIENCE + 30),
    pytest.mark.skipif(not (ROOT / "chaos").is_dir(), reason="chaos is not in the source distribution"),
]


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
