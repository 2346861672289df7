"""Files that more than one part of the agent keeps in the same way: private ones, and names that have to be durable."""

from __future__ import annotations

import os
import stat
from pathlib import Path


class NotPrivate(Exception):
    """Others than its owner can use a file that holds a secret, or it is no file. The message says what to do."""


def read_private(path: Path, bytes_max: int, what: str, renew: str) -> tuple[str, os.stat_result]:
    """The text of a file that nobody but its owner may read or change (P8), and its status. Raises OSError, NotPrivate.

    bytes_max: it must not be larger. what: it holds, for messages. renew: what to do if others have had access.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise NotPrivate(f"{path}: is no file; give the path of the file that holds {what}")
        if status.st_mode & 0o077:
            raise NotPrivate(
                f"{path}: has mode {stat.S_IMODE(status.st_mode):04o}, so others than its owner can use {what}. "
                f"Run: chmod 600 {path}; and if others have had access to this host, {renew}"
            )
        if status.st_uid not in (0, os.geteuid()):
            owner = os.geteuid()
            raise NotPrivate(
                f"{path}: belongs to user {status.st_uid}, who could change {what}. Run: chown {owner} {path}"
            )
        data = os.read(file, bytes_max + 1)
    finally:
        os.close(file)
    if len(data) > bytes_max:
        raise NotPrivate(f"{path}: is larger than {bytes_max} bytes, so it does not hold {what}")
    return data.decode("ascii", errors="replace"), status


def create_private(path: Path, text: str) -> None:
    """Write a file that must not be there yet, mode 0600, durable; nothing stays of it where that fails.

    Raises OSError, FileExistsError among them.
    """
    file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w")
    try:
        with file:
            os.fchmod(file.fileno(), 0o600)  # whatever the umask
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        sync_directory(path.parent)
    except OSError:
        path.unlink()
        raise


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
