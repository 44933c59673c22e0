"""Checks of owners and permissions: finds files that another user could have created or could replace.

A file can be trusted if this process's user or root owns it, and no group and no other user may write to it. The
owner of ``/`` counts as root: in a container its user id may differ from root's.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Container, Iterator
from pathlib import Path

from pgqrs.errors import EmbeddedServerError

if sys.platform != "win32":
    import pwd

_WRITABLE = stat.S_IWGRP | stat.S_IWOTH


def owners(*accounts: int) -> frozenset[int]:
    """Return the user ids whose files can be trusted: this process's user, root and `accounts`."""
    return frozenset({os.geteuid(), 0, Path("/").stat().st_uid, *accounts})


def flaw(path: Path, trusted: Container[int], *, is_folder: bool = False) -> str | None:
    """Return the reason for which a file or folder must not be used, None if it is missing or can be trusted.

    Args:
        path: The path of the file; a symbolic link is a flaw and is not followed.
        trusted: The user ids that may own the file, as `owners` returns them.
        is_folder: True if the path must be a folder, False if it must be a regular file.
    """
    try:
        now = path.lstat()
    except FileNotFoundError:
        return None
    if not (stat.S_ISDIR if is_folder else stat.S_ISREG)(now.st_mode):
        found = "a symbolic link" if stat.S_ISLNK(now.st_mode) else "something else"
        return f"{path} is {found} where a {'folder' if is_folder else 'regular file'} belongs"
    if now.st_uid not in trusted:
        return f"{path} belongs to the user {user_name(now.st_uid)}"
    if now.st_mode & _WRITABLE:
        return f"other users may write to {path} (its mode is {stat.S_IMODE(now.st_mode):04o})"
    return None


def flaw_above(path: Path, trusted: Container[int]) -> str | None:
    """Return the reason for which another user can replace `path`, which need not exist; None if no user can.

    Another user can replace the path if a folder above it belongs to that user, or if all users may write to a
    folder above it that has no sticky bit (``/tmp`` has it). A group that may write is trusted, because the owner
    of the folder chose it; only root trusts no group except its own.
    """
    for folder, now in _existing(path):
        if now.st_uid not in trusted:
            return f"{folder} belongs to the user {user_name(now.st_uid)}"
        if is_open(now) and not now.st_mode & stat.S_ISVTX:
            return f"other users may write to {folder} (its mode is {stat.S_IMODE(now.st_mode):04o})"
    return None


def is_open(now: os.stat_result) -> bool:
    """Return True if other users may write to a folder; the folder's group counts as other users for root only."""
    by_group = now.st_mode & stat.S_IWGRP and os.geteuid() == 0 and now.st_gid != 0
    return bool(by_group or now.st_mode & stat.S_IWOTH)


def closed_above(path: Path, user: int) -> Path | None:
    """Return the nearest existing folder above `path` that `user` cannot pass, None if the user can pass all."""
    for folder, now in _existing(path):
        if not now.st_mode & (stat.S_IXUSR if now.st_uid == user else stat.S_IXOTH):
            return folder
    return None


def is_runnable(folder: Path, user: int) -> bool:
    """Return True if `user` can read all files below a folder and run the programs; the user owns none of them."""
    if closed_above(folder / "any", user) is not None:
        return False
    every = (Path(where, each).stat() for where, folders, files in os.walk(folder) for each in (*folders, *files))
    return all(_is_readable(now.st_mode) for now in every)


def _is_readable(mode: int) -> bool:
    needed = stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0)
    return mode & needed == needed


def untrusted(folder: Path, flaw: str) -> EmbeddedServerError:
    """Return the error for a server in `folder`, which must not be used because of `flaw`."""
    return EmbeddedServerError(
        f"the embedded PostgreSQL in {folder} is not safe to use: {flaw}, so another user could control its data. "
        "Take over the folder (`chown`, `chmod go-w`), or choose another folder with `embedded:///some/path`."
    )


def user_name(user: int) -> str:
    """Return the name of a user id, or the id itself if it has no name."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def _existing(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the existing folders above a path, the nearest first."""
    for folder in path.parents:
        try:
            now = folder.stat()
        except FileNotFoundError:
            continue
        yield folder, now
