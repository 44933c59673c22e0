"""Python processes of a test: started or forked, waited for, and killed in the end."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import IO, NamedTuple, Self, TypeAlias

from tests.support.forks import Forked, Forkery
from tests.support.waiting import DEADLINE

SLOW_CALLBACK = re.compile(r"^Executing <.* took 0\.[1-4]\d* seconds\n", re.MULTILINE)
"""A complaint of asyncio's debug mode of a callback above 0.1 s, which a busy machine makes of shorter ones."""


Process: TypeAlias = subprocess.Popen[str] | Forked


class Children:
    """Starts Python processes; those that still run at its end are killed."""

    def __init__(self) -> None:
        self._started: list[Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def start(self, *arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.Popen[str]:
        """Start Python with arguments; each standard stream is a pipe of text."""
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env=os.environ | environment,
        )
        self._started.append(process)
        return process

    def adopt(self, process: Forked) -> Forked:
        """Kill a program at the end, too."""
        self._started.append(process)
        return process


class Program:
    """Starts programs from their source, with every warning an error, in a folder and an environment."""

    def __init__(self, children: Children, forkery: Forkery, folder: Path, environment: dict[str, str]) -> None:
        self._children = children
        self._forkery = forkery
        self._folder = folder
        self._environment = environment
        self._count = 0

    def __call__(self, source: str, *arguments: str, **environment: str) -> Forked:
        """Start a program in a fork."""
        environment = self._environment | environment
        return self._children.adopt(
            self._forkery.start(self._written(source), *arguments, cwd=self._folder, **environment)
        )

    def anew(self, source: str, *arguments: str, dev: bool = False, **environment: str) -> subprocess.Popen[str]:
        """Start a program in a process that imports all anew, in development mode, which is slow, if `dev` is true."""
        return self._children.start(
            *(["-X", "dev"] if dev else []), "-W", "error", str(self._written(source)), *arguments,
            cwd=self._folder, **self._environment | environment,
        )  # fmt: skip

    def _written(self, source: str) -> Path:
        path = self._folder / f"program_{self._count}.py"
        path.write_text(source)
        self._count += 1
        return path


class Ended(NamedTuple):
    """The end of a process."""

    code: int
    out: str
    err: str


def ended(process: Process) -> Ended:
    """Wait until a process ends; return its exit code, its output, and its errors without slow callbacks."""
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode is not None
    return Ended(process.returncode, out, SLOW_CALLBACK.sub("", err))


async def line_of(stream: IO[str], containing: str = "") -> str:
    """Wait for the next line of a process's output that contains a text; return "" when the output ends before it."""

    def find() -> str:
        return next((line for line in stream if containing in line), "")

    async with asyncio.timeout(DEADLINE):
        return await asyncio.to_thread(find)
