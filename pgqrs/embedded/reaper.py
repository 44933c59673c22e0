"""The reaper: a process that stops an embedded server whose last user ended without stopping it.

A process that a signal ends runs no code at its exit. This concerns killed processes, and every application of
uvicorn, which sends itself SIGTERM a second time. So each server has a reaper; the server's first user starts it
by running this file with `python -I -S`. The reaper blocks on a lock that all users share, and needs a few
megabytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import sys
import time
from collections.abc import Generator
from pathlib import Path


def reap(folder: Path, own_lock: int, linger: float) -> bool:
    """Wait until a server has had no user for `linger` seconds.

    Args:
        folder: The folder of the server.
        own_lock: The descriptor of the reaper's own lock, by which users know that the server has a reaper.
        linger: Seconds without a user before the server is stopped.

    Returns:
        True if the server is to be stopped. Then `start.lock` is held until this process ends, so that no process
        begins to use the server meanwhile.
    """
    while True:
        with _opened(folder / "alive.lock") as alive:
            fcntl.flock(alive, fcntl.LOCK_EX)
        time.sleep(linger)
        with contextlib.ExitStack() as turn:
            start = turn.enter_context(_opened(folder / "start.lock"))
            fcntl.flock(start, fcntl.LOCK_EX)
            if _is_another(folder / "reaper.lock", own_lock):
                return False
            if _is_unused(folder) and (status := _status(folder)) != "starting":
                turn.pop_all()  # held until this process ends
                return status is not None


def _is_another(path: Path, descriptor: int) -> bool:
    """Return True if the folder was deleted and created again, so that its server has another reaper."""
    return not os.path.samestat(path.stat(), os.fstat(descriptor))


def _is_unused(folder: Path) -> bool:
    with _opened(folder / "users.lock") as users:
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _status(folder: Path) -> str | None:
    """Return the server's status in `postmaster.pid`, None if the server was stopped."""
    try:
        lines = folder.joinpath("data", "postmaster.pid").read_text(errors="replace").split("\n")
    except FileNotFoundError:
        return None
    return "".join(lines[7:8]).strip()


@contextlib.contextmanager
def _opened(path: Path) -> Generator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def main() -> None:
    """Run the reaper of the server in the folder of the first argument, as a process without a parent."""
    if os.fork():
        os._exit(0)
    folder, own_lock, linger, path = sys.argv[1:]
    try:
        to_stop = reap(Path(folder), int(own_lock), float(linger))
    except FileNotFoundError:  # the folder was deleted under the server
        to_stop = True
    if to_stop:
        sys.path[:] = json.loads(path)
        importlib.import_module("pgqrs.embedded.cluster").shut_down(Path(folder))


if __name__ == "__main__":
    main()
