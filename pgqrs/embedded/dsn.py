"""The folders that `embedded://` DSNs name.

For root: if the user `pgqrs-postgres` cannot reach the folder of a DSN, or another user could replace that folder,
the data is in the store, `/var/lib/pgqrs`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from pathlib import Path
from urllib.parse import unquote

from pgqrs.embedded import ownership, store
from pgqrs.embedded.account import ACCOUNT_NAME, Account
from pgqrs.errors import InvalidDSNError

_SCHEME = "embedded:"
_PROJECT_MARKS = ("pyproject.toml", "setup.py", ".git")

_logger = logging.getLogger("pgqrs")


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
    return kept_in(named_folder(dsn))


def exists(dsn: str) -> bool:
    """Return True if the cluster of `dsn` exists; `start` creates a missing cluster.

    Raises:
        InvalidDSNError: The DSN is malformed.
    """
    return os.path.lexists(data_folder(dsn) / "data")


def named_folder(dsn: str) -> Path:
    """Return the folder that a DSN names, with symlinks resolved.

    Raises:
        InvalidDSNError: The DSN is malformed.
    """
    rest = dsn[len(_SCHEME) :]
    if not is_embedded(dsn) or not rest.startswith("//"):
        raise _malformed("it must begin with `embedded://`")
    written = rest.removeprefix("//")
    folder = _written_folder(written) if written else _project_root() / ".pgqrs" / "postgres"
    return Path(os.path.realpath(folder))


def kept_in(named: Path) -> Path:
    """Return the folder to use for the folder that a DSN names; for root it may be a folder in the store."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return named
    kept = store.place(named)
    if os.path.lexists(kept):
        return kept
    if os.path.lexists(named / "data"):
        return named
    return named if _unfit(named) is None else kept


def make_kept(kept: Path, named: Path) -> None:
    """Create the folder in the store for the data of a DSN that names the folder `named`."""
    store.make_store()
    if kept.exists():
        return
    store.remove_abandoned()
    _logger.info("the embedded PostgreSQL of %s keeps its data in %s: %s.", named, kept, _unfit(named))
    store.make_passable(kept)
    there = next(each for each in named.parents if each.exists())
    store.write_origin(kept, there)


def _unfit(named: Path) -> str | None:
    """Return the reason for which root must not keep data in a folder, None if root may."""
    account = Account.known()
    closed = ownership.closed_above(named / "data", account.uid if account else -1)
    if closed is not None:
        return f"{closed} is closed to PostgreSQL's user {ACCOUNT_NAME!r}"
    return ownership.flaw_above(named / "data", ownership.owners())


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
