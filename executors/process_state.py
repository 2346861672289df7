"""What is kept on disk of one local attempt, in a directory of its own beside all attempts' directories.

A task is not told of it and does not find it in its own directory, so that a task that removes or rewrites all it is
given takes nothing from the proof that it runs or has ended (P3). The files:

    lock             held while a start is decided, so that two starts are one
    supervisor.json  `Record`: there was a start. Written by the supervisor before its task may begin
    stop.json        {"name", "grace_s": seconds}: written by the agent. Found before a start, it is never started
    exit.json        `End`: how it ended; its processes are gone and its output is in the log

This file is for the supervisor as well, which has nothing but the standard library.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

LOCK: Final = "lock"
RECORD: Final = "supervisor.json"
STOP: Final = "stop.json"
EXIT: Final = "exit.json"


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replace `path`, durably: it has the old or the new text, also after a crash of the machine. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(fd)
    temporary.rename(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make durable which names stand in the directory. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def stop_grace_s(state: Path) -> float | None:
    """The grace of a stop that was asked for; None where there is no such word, or none that can be read."""
    try:
        return float(json.loads((state / STOP).read_bytes())["grace_s"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
