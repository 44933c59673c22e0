"""The PostgreSQL server under test: embedded, and created anew for each run."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from urllib.parse import quote

import psutil

from pgqrs import embedded

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".pgqrs" / "chaos"
GONE = 30.0


class Server:
    """The server in `folder`, which also has the logs of the workers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._written = f"embedded://{quote(str(folder / 'postgres'))}"
        self.dsn = ""

    @property
    def _notice(self) -> Path:
        # For root the data may be elsewhere than the address says.
        return embedded.data_folder(self._written) / "data" / "postmaster.pid"

    def start(self) -> None:
        """Start the server with an empty database."""
        data = embedded.data_folder(self._written)
        if self._notice.exists():  # a server that an earlier run did not stop
            embedded.start(self._written)
            embedded.stop(self._written)
        for left in (data, self.folder):
            shutil.rmtree(left, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.dsn = embedded.start(self._written)

    def restart(self) -> None:
        """Stop the server as `pg_ctl -m immediate` does, without a checkpoint, and start it again."""
        pid = int(self._notice.read_text().split("\n", 1)[0])
        try:
            postmaster = psutil.Process(pid)
            os.kill(pid, signal.SIGQUIT)
            postmaster.wait(GONE)
        except (psutil.NoSuchProcess, ProcessLookupError):
            pass
        self.dsn = embedded.start(self._written)

    def stop(self) -> None:
        """Stop the server; its folder remains for an analysis."""
        embedded.stop(self._written)
