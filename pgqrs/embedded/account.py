"""The system user that runs root's servers, and copies of the programs that it cannot run in their own place.

PostgreSQL refuses to run as root. For root it runs as the system user `pgqrs-postgres`, which is created if it is
missing. The permissions of existing folders are never changed for this user. If this user cannot run the installed
PostgreSQL, a copy of it is in the store, `/var/lib/pgqrs`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import stat
import sys
import tempfile
from pathlib import Path

from pgqrs.embedded import ownership, store
from pgqrs.embedded.processes import User, comes_true, execute
from pgqrs.errors import EmbeddedServerError

if sys.platform != "win32":
    import pwd

ACCOUNT_NAME = "pgqrs-postgres"

_logger = logging.getLogger("pgqrs")


class Account(User):
    """The system user that PostgreSQL runs as when root starts it."""

    @classmethod
    def known(cls) -> Account | None:
        """Return the account, None if it does not exist."""
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(ACCOUNT_NAME)
            return cls(entry.pw_uid, entry.pw_gid)
        return None

    @classmethod
    def needed(cls) -> Account | None:
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
        copy = store.place(package / str(now.st_mtime_ns) / str(now.st_size), prefix="postgresql-")
        if not copy.exists():
            store.make_store()
            store.remove_abandoned()
            _logger.info("the user %r cannot run %s: a copy in %s is used.", ACCOUNT_NAME, package, copy)
            _copy_readable(parts, copy)
            store.write_origin(copy, package)
        return copy / binaries.relative_to(package.parent)

    def check_reaches(self, data: Path) -> None:
        """Raise `EmbeddedServerError` if the account cannot pass a folder above `data`."""
        closed = ownership.closed_above(data, self.uid)
        if closed is not None:
            raise EmbeddedServerError(
                f"PostgreSQL runs as {ACCOUNT_NAME!r} for root, and {closed} is closed to that user: "
                f"open the folder with `chmod o+x {shlex.quote(str(closed))}`, or move {data.parent} to "
                f"{store.place(data.parent)}, which pgqrs uses in its place."
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
            return bool(pwd.getpwnam(ACCOUNT_NAME))
        _logger.info("PostgreSQL does not run as root: creating the system user %r for it.", ACCOUNT_NAME)
        last = _add_account()
        return False

    # Several attempts: another process may be creating the user, or hold the lock of the password file.
    if not comes_true(exists, 5, pause=0.1):
        raise EmbeddedServerError(
            f"PostgreSQL does not run as root, and its user {ACCOUNT_NAME!r} could not be created ({last}): "
            f"create it (`useradd --system {ACCOUNT_NAME}`), or run this program as another user than root."
        )
    return pwd.getpwnam(ACCOUNT_NAME)


def _add_account() -> str:
    """Create the account with this system's tool, and return the tool's message or exit code."""
    tools = (
        ("useradd", "--system", "--user-group", "--no-create-home", "--shell", "/bin/false", ACCOUNT_NAME),
        ("adduser", "-S", "-D", "-H", "-s", "/bin/false", ACCOUNT_NAME),  # busybox
    )
    command = next((each for each in tools if shutil.which(each[0])), None)
    if command is None:
        return "useradd and adduser are missing"
    done = execute(command)
    return done.stdout.strip() or f"{command[0]} ended with {done.returncode}"
