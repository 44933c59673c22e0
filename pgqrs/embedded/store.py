"""Root's store, `/var/lib/pgqrs`: data and programs of its servers that are unsafe or out of reach elsewhere."""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path

from pgqrs.embedded import ownership
from pgqrs.embedded.locks import Lock

_STORE = Path("/var/lib/pgqrs")


def place(origin: Path, *, prefix: str = "") -> Path:
    """Return the path in the store that belongs to the path `origin`; it need not exist."""
    return _STORE / f"{prefix}{digest(origin)}"


def digest(path: Path) -> str:
    """Return a short name for a path, the same in every process."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:16]


def make_store() -> None:
    """Create root's folder for the data and the programs of its servers."""
    if not _STORE.exists():
        make_passable(_STORE)
    trusted = ownership.owners()
    flaw = ownership.flaw(_STORE, trusted, is_folder=True) or ownership.flaw_above(_STORE, trusted)
    if flaw is not None:
        raise ownership.untrusted(_STORE, flaw)


def make_passable(folder: Path) -> None:
    """Create a folder of root, and its missing parents, so that PostgreSQL's user can pass through it."""
    for parent in reversed(folder.parents):
        if not parent.exists():
            parent.mkdir(exist_ok=True)
            parent.chmod(0o755)  # the umask may have removed some of these bits
    folder.mkdir(exist_ok=True)
    folder.chmod(0o711)


def write_origin(made: Path, origin: Path) -> None:
    """Record the original folder of a folder in the store, for `remove_abandoned`."""
    made.with_name(f"{made.name}.origin").write_bytes(os.fsencode(origin))


def remove_abandoned() -> None:
    """Remove the folders in the store whose original folder in /tmp is gone, as after a test run."""
    for record in _STORE.glob("*.origin"):
        with suppress(FileNotFoundError):  # another process removes the same folder
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
    lock = Lock(folder / "users.lock")
    try:
        return not lock.take(shared=False)
    finally:
        lock.release()
