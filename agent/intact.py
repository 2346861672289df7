"""The data directory at a start: is everything there that this agent once made, and is it the agent's alone?

It is looked at as a whole before anything in it is made or opened, since each part would make itself anew where it is
missing: an agent without its key, its log or its journal would be another one under the same name (P3, P4, P9).

    first-start     there until the first start has made every part; nothing has been promised before that
    differs         this agent's table is not that of a majority (`cluster.checkup`); it says what to do

A directory without it that has an identity must have all parts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent.errors import ConfigError
from agent.files import create_private, sync_directory
from agent.identity import FILE as IDENTITY

FIRST_START: Final = "first-start"
DIFFERS: Final = "differs"
LOG: Final = "log"
DATABASES: Final = ("history.db", "journal.db")
KEY: Final = "secret.key"
PROMISES: Final = "promises"  # of `cluster.promise`: what this agent has told other founders
ATTEMPTS: Final = "attempts"
_PRIVATE: Final = (ATTEMPTS, "attempts-state")  # what attempts are given, and what is kept of them
_DIRECTORIES: Final = (LOG, "blobs", "logs", *_PRIVATE)
_FILES: Final = (IDENTITY, FIRST_START, DIFFERS, *DATABASES, KEY, PROMISES, "agent.json", "agent.tmp")
_BESIDE: Final = ("", "-wal", "-shm", "-journal")  # SQLite's files of one database
_NOTE: Final = "The agent's first start has not ended yet. Its next start goes on and removes this file.\n"


def prepare(data_dir: Path, key_file: Path | None = None) -> None:
    """Make the directory at its first start, check that it is whole at every other; close it to other users.

    key_file: of the keyring, where it is not the directory's own.
    Raises ConfigError for what is missing, or is no file or no directory where it should be, before anything is made.
    """
    key = key_file or data_dir / KEY
    _check_kinds(data_dir)
    if (data_dir / DIFFERS).exists():
        raise ConfigError(f"{data_dir / DIFFERS}: {(data_dir / DIFFERS).read_text().strip()}")
    is_new = not (data_dir / IDENTITY).exists()
    if not (data_dir / FIRST_START).exists():
        if is_new:
            _refuse_leftovers(data_dir)
        else:
            _refuse_missing(data_dir, key)
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        if is_new:
            (data_dir / FIRST_START).write_text(_NOTE)
            sync_directory(data_dir)
        _make_private(data_dir)
    except OSError as error:
        raise ConfigError(f"{error.filename or data_dir}: cannot be prepared: {error.strerror or error}") from error


def complete(data_dir: Path) -> None:
    """Every part is there now: from here on none may be missing."""
    if (data_dir / FIRST_START).exists():
        sync_directory(data_dir)  # the parts' names first
        (data_dir / FIRST_START).unlink()
        sync_directory(data_dir)


def mark_differs(data_dir: Path, text: str) -> None:
    """Have no agent start with this directory again, and say why. Raises OSError."""
    with suppress(FileExistsError):
        create_private(data_dir / DIFFERS, text + "\n")


def _check_kinds(data_dir: Path) -> None:
    if data_dir.exists() and not data_dir.is_dir():
        raise ConfigError(f"{data_dir}: is no directory; name another with --data-dir")
    for names, is_right, wanted in ((_DIRECTORIES, Path.is_dir, "directory"), (_FILES, Path.is_file, "file")):
        for name in names:
            path = data_dir / name
            if os.path.lexists(path) and not is_right(path):
                raise ConfigError(f"{path}: is no {wanted}, and the agent keeps a {wanted} of this name; move it away")


def _refuse_missing(data_dir: Path, key: Path) -> None:
    missing = list(_missing(data_dir, key))
    if missing:
        raise ConfigError(
            f"{data_dir}: this agent's {', '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing. Nothing was "
            "changed. Put back what is missing, or restore the whole directory from one copy; to give up what the "
            "agent had, begin with an empty directory"
        )


def _missing(data_dir: Path, key: Path) -> Iterator[str]:
    if not _holds_something(data_dir / LOG):
        yield f"{LOG}/"
    for name in (*DATABASES, PROMISES):
        if not _holds_something(data_dir / name):
            yield name
    if not key.exists():
        yield KEY if key.parent == data_dir else f"key file {key}"


def _refuse_leftovers(data_dir: Path) -> None:
    found = [name for name in (LOG, *DATABASES) if _holds_something(data_dir / name)]
    if found:
        raise ConfigError(
            f"{data_dir / IDENTITY}: is missing, but there is {', '.join(found)}; restore it from a copy of the data "
            "directory, or begin with an empty one"
        )


def _holds_something(path: Path) -> bool:
    """Whether a file has bytes, a directory entries."""
    if path.is_dir():
        return any(path.iterdir())
    return path.is_file() and path.stat().st_size > 0


def _make_private(data_dir: Path) -> None:
    """Close what may hold secrets to other users, however the directory itself and the umask are (P8)."""
    for name in _PRIVATE:
        (data_dir / name).mkdir(mode=0o700, exist_ok=True)
        (data_dir / name).chmod(0o700)
    for name in DATABASES:
        for suffix in _BESIDE:
            with suppress(FileNotFoundError):
                (data_dir / f"{name}{suffix}").chmod(0o600)
