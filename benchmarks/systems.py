"""The measured systems, their versions, and their environments."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "benchmarks" / "peers"
ENVIRONMENTS = ROOT / ".venv-bench"


@dataclass(frozen=True)
class System:
    """A system: its program in `benchmarks/peers`, its requirements, and a fair description of its operations."""

    name: str
    label: str
    program: str
    requirements: tuple[str, ...]
    does: str

    def python(self) -> str:
        """Return the interpreter of the system's environment; pgqrs and pgbench use the project's environment."""
        return str(ENVIRONMENTS / self.name / "bin" / "python") if self.requirements else sys.executable

    def install(self) -> None:
        """Create the environment, unless it exists with exactly these requirements."""
        if self.requirements:
            make_environment(self.name, self.requirements)


def make_environment(name: str, requirements: tuple[str, ...]) -> Path:
    """Create an environment below `.venv-bench`, and return its interpreter."""
    folder = ENVIRONMENTS / name
    stamp, wanted = folder / "installed.txt", "\n".join((sys.version, *requirements))
    python = folder / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != wanted:
        uv = _uv()
        subprocess.run([uv, "venv", "-q", "--clear", "--python", sys.executable, str(folder)], check=True)
        subprocess.run([uv, "pip", "install", "-q", "--python", str(python), *requirements], check=True)
        stamp.write_text(wanted)
    return python


def environment() -> dict[str, str]:
    """Return the environment variables without variables that change the imports or connections of a program."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "PG", "DBOS", "ABSURD")) and name != "VIRTUAL_ENV"
    }


def _uv() -> str:
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise SystemExit("uv is neither beside this interpreter nor on the PATH: `make bench` installs it.")
    return found


OURS = System(
    "pgqrs",
    "pgqrs (this checkout)",
    "ours.py",
    (),
    "asyncpg on the event loop: one write for each step and two for a workflow (`admin.run` creates and starts "
    "it in one; its end is the other). One batch of writes is in flight at a time; writes of workflows that run "
    "at the same time share a statement and its commit. Nothing is read; ids are reserved for up to 1,024 "
    "workflows at a time. In W7 `enqueue_many` writes all workflows in one statement, and a `Worker` that runs "
    "up to 500 at a time claims them in batches. A workflow that waits for a message or "
    "for its children is parked: it is a row, and a worker calls its function again when it is ready.",
)
RUST = System(
    "rust",
    "pgqrs 0.12 (Rust)",
    "rust.py",
    ("pgqrs==0.12.0",),
    "sqlx in Rust, with the pool that it makes: two statements, each its own commit, for a step (an insert when "
    "it is acquired, an update when it ends) and three for a workflow.",
)
DBOS = System(
    "dbos",
    "DBOS",
    "dbos_async.py",
    ("dbos==3.4.0",),
    "psycopg through SQLAlchemy in 20 threads with 20 connections, which are not tested at checkout: two "
    "transactions for a step (one looks it up with two selects, one locks the workflow's row and inserts the "
    "outcome) and two for a workflow. Async workflows and steps, called directly; in W7 enqueued 20 at a time, "
    "and dequeued by a process that polls every tenth of a second. A workflow that waits for a message is a "
    "coroutine of its process, which a trigger and LISTEN wake; a parent polls for its children.",
)
ABSURD = System(
    "absurd",
    "absurd",
    "absurd.py",
    ("absurd-sdk==0.5.1", "absurdctl==0.5.1"),
    "psycopg, a call of an SQL function for everything: two for a step (look up, record) and four for a task "
    "(spawn, claim, load, complete). It is a queue: in W2 and W3 all tasks are spawned, then pulled in batches "
    "by the workers of 25 async clients in the process, each with a connection; in W1 one client spawns a task "
    "and works it off, without a poll in between; in W7 one process spawns with 25 clients while the other pulls. "
    "A message is an event with a name of its own; the task that waits for it is suspended, and pulled again.",
)
FLOOR = System(
    "pgbench",
    "pgbench (floor)",
    "floor.py",
    (),
    "C: from each client one prepared one-row insert and its commit at a time, nothing else; a connection for "
    "each client, at most 190. Its figure is commits/s.",
)

SYSTEMS = {system.name: system for system in (OURS, RUST, DBOS, ABSURD, FLOOR)}
