"""The worker processes, kept at a constant number."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from chaos.control.queues import QUEUES
from chaos.server import ROOT

CONCURRENCY = 50
GRACE = 3


@dataclass
class Member:
    """A worker process; `doomed` is true if it is meant to end."""

    number: int
    process: subprocess.Popen[bytes]
    log: Path
    stopped: bool = False
    doomed: bool = False
    _started: bool = False

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self.process.pid

    @property
    def started(self) -> bool:
        """Whether the worker has started."""
        self._started = self._started or b" has started" in self.log.read_bytes()
        return self._started

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        self.process.send_signal(number)


class Crew:
    """The worker processes; the caller replaces processes that end."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self._folder = folder
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PG"))
        } | {"PGQRS_DSN": dsn}
        self.members: list[Member] = []
        self.started = 0

    def hire(self) -> Member:
        """Start another worker process."""
        self.started += 1
        log = self._folder / f"worker-{self.started}.log"
        options = ("--admin", "chaos.work:admin", "--concurrency", str(CONCURRENCY), "--grace", str(GRACE))
        served = [part for name in ("default", *(each.name for each in QUEUES)) for part in ("--queue", name)]
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603  # a program of this repository
                [sys.executable, "-m", "pgqrs.cli", "worker", "chaos.work", *options, *served],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        member = Member(self.started, process, log)
        self.members.append(member)
        return member

    @property
    def awake(self) -> list[Member]:
        """The processes that work."""
        return [each for each in self.members if not each.stopped and not each.doomed and each.started]

    def fallen(self) -> list[Member]:
        """Remove and return the processes that ended although they were not meant to."""
        found = [each for each in self.members if not each.doomed and each.process.poll() is not None]
        self.members = [each for each in self.members if each not in found]
        return found

    def dismiss(self, member: Member) -> None:
        """Remove a process."""
        self.members = [each for each in self.members if each is not member]

    def close(self) -> None:
        """Kill the remaining processes."""
        for each in self.members:
            if each.process.poll() is None:
                each.process.kill()
            each.process.wait()
        self.members.clear()
