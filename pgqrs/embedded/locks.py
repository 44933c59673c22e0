"""Locks on files, by which the processes that use an embedded server find each other.

The kernel decides which processes use the server: it drops the flock of a process however the process ends, so no
list of pids can become stale.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shlex
import sys
import threading
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pgqrs.embedded.processes import comes_true
from pgqrs.errors import EmbeddedServerError

if sys.platform != "win32":
    import fcntl

_TURN_SECONDS = 240
_EXIT_TURN_SECONDS = 30
_REGISTER_SECONDS = 10


class Lock:
    """A flock on the file `path`; the kernel drops it when the process ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def take(self, *, shared: bool) -> bool:
        """Try to take the lock, without waiting."""
        try:
            fcntl.flock(self._descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def is_current(self) -> bool:
        """Return True if the locked file is still the file at its path."""
        with contextlib.suppress(OSError):
            return os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        return False

    def release(self) -> None:
        """Unlock explicitly: a child that foreign code forked may hold a copy of the descriptor."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        os.close(self._descriptor)

    def forget(self) -> None:
        """Close this process's descriptor; another process with a copy of the descriptor keeps the lock."""
        os.close(self._descriptor)

    def fileno(self) -> int:
        """Return the descriptor of the file."""
        return self._descriptor


class _Server(Protocol):
    """A server to start and to stop; the methods are called with the turn, except `make_folder` and `check`."""

    folder: Path

    def make_folder(self) -> None: ...

    def check(self) -> None: ...

    def start_reaper(self, lock: int) -> None: ...

    def run(self) -> Path: ...

    def shut_down(self) -> None: ...


class _Share(NamedTuple):
    """A server in use, and the locks by which a process uses it: on `users.lock` and on `alive.lock`."""

    server: _Server
    user: Lock
    alive: Lock


class _ThisProcess:
    """The servers that this process uses, with its locks, by folder."""

    def __init__(self) -> None:
        self._knows_forks = False
        self._opening = threading.RLock()  # held during a fork, so that every open lock is in `_locks`
        self._reset()

    def _reset(self) -> None:
        self._mutex = threading.RLock()
        self._locks: set[Lock] = set()
        self._users: dict[Path, _Share] = {}
        self._knows_exit = False

    def enter(self, server: _Server) -> Path:
        """Become a user of a server, start it if necessary, and return the folder of its socket."""
        with self._mutex:
            self._prepare()
            server.make_folder()
            server.check()
            with self._turn(server.folder, _TURN_SECONDS):
                self._register(server)
                self._have_reaped(server)
                return self._run(server)

    def leave(self, folder: Path, *, seconds: float = _TURN_SECONDS) -> None:
        """End the use of the server in `folder`, and stop the server if no process uses it."""
        with self._mutex:
            if folder not in self._users:
                return
            share = self._users[folder]
            try:
                with self._turn(folder, seconds):
                    self._close(share.user)
                    self._stop_if_unused(share.server)
            except FileNotFoundError:  # the folder was deleted under the server
                share.server.shut_down()
            finally:
                self._give_up(folder)

    def leave_all(self) -> None:
        """End the use of all servers; without errors, because the interpreter is exiting."""
        for folder in list(self._users):
            with contextlib.suppress(Exception, KeyboardInterrupt):
                self.leave(folder, seconds=_EXIT_TURN_SECONDS)

    def _run(self, server: _Server) -> Path:
        try:
            return server.run()
        except Exception:  # keeps the server running: it may only be slow
            self._give_up(server.folder)
            raise
        except BaseException:  # Ctrl-C
            self._give_up(server.folder)
            self._stop_if_unused(server)
            raise

    def _register(self, server: _Server) -> None:
        folder = server.folder
        held = self._users.get(folder)
        if held is not None and held.user.is_current():
            return
        self._give_up(folder)
        share = _Share(server, self._open(folder / "users.lock"), self._open(folder / "alive.lock"))
        self._users[folder] = share
        share.user.take(shared=True)  # cannot fail: an exclusive lock needs the turn, which this process has
        # Not at once: the reaper holds the lock exclusively for a moment when it wakes.
        comes_true(partial(share.alive.take, shared=True), _REGISTER_SECONDS)

    def _give_up(self, folder: Path) -> None:
        share = self._users.pop(folder, None)
        if share is not None:
            self._close(share.user)
            self._close(share.alive)

    def _have_reaped(self, server: _Server) -> None:
        """Start the server's reaper if it is missing; the reaper inherits and keeps the lock."""
        lock = self._open(server.folder / "reaper.lock")
        is_missing = lock.take(shared=False)
        try:
            if is_missing:
                server.start_reaper(lock.fileno())
        finally:
            self._close(lock, is_shared=is_missing)

    def _stop_if_unused(self, server: _Server) -> None:
        users = self._open(server.folder / "users.lock")
        try:
            if users.take(shared=False):
                server.shut_down()
        finally:
            self._close(users)

    @contextlib.contextmanager
    def _turn(self, folder: Path, seconds: float) -> Generator[None, None, None]:
        """Hold `start.lock`, as only one process at a time may start or stop the server."""
        lock = self._open(folder / "start.lock")
        try:
            if not comes_true(partial(lock.take, shared=False), seconds):
                raise EmbeddedServerError(
                    f"another process has been starting or stopping the server in {folder} for "
                    f"{seconds:.0f} seconds: find it with `fuser {shlex.quote(str(lock.path))}`, check its state, "
                    "then try again."
                )
            yield
        finally:
            self._close(lock)

    def _open(self, path: Path) -> Lock:
        with self._opening:
            lock = Lock(path)
            self._locks.add(lock)
        return lock

    def _close(self, lock: Lock, *, is_shared: bool = False) -> None:
        """Release a lock once; if it is shared with a process that has a copy, only close it."""
        with self._opening:
            if lock in self._locks:
                self._locks.discard(lock)
                lock.forget() if is_shared else lock.release()

    def _prepare(self) -> None:
        """Register the hooks for forks and for the exit: at the first start, so that an import has no effect."""
        if not self._knows_forks:
            os.register_at_fork(
                before=self._opening.acquire,
                after_in_parent=self._opening.release,
                after_in_child=self._after_fork,
            )
            self._knows_forks = True
        if not self._knows_exit:
            atexit.register(self.leave_all)
            # Children of multiprocessing may end by os._exit, but they run multiprocessing's finalizers.
            multiprocessing: Any = sys.modules.get("multiprocessing.util")
            if multiprocessing is not None:
                multiprocessing.Finalize(None, self.leave_all, exitpriority=-100)
            self._knows_exit = True

    def _after_fork(self) -> None:
        """Close the parent's locks in a forked child, which would hold them beyond the parent's end."""
        for lock in self._locks:
            lock.forget()
        self._reset()
        self._opening.release()


# One instance per process, because the kernel's locks and the hooks at fork and at exit belong to the process.
this_process = _ThisProcess()
