"""What can go wrong in the durable log.

ConsensusError
└── LogError
    ├── LogDamaged    bytes that were durable are not what was written: refused, nothing is changed (P9)
    ├── LogTooNew     written by a later version of this program
    ├── LogLocked     another process uses the directory
    ├── LogFailed     the disk failed a write, a sync or a read: the log is unusable until it is opened again
    ├── LogFull       the disk is full: nothing of the call was accepted; the log goes on and stays readable
    ├── LogCompacted  the index asked for was dropped, a snapshot covers it
    └── LogClosed     the caller's: used after close
"""

from __future__ import annotations

from pathlib import Path


class ConsensusError(Exception):
    """Base of all errors of `consensus`."""


class LogError(ConsensusError):
    """Base of the errors of the durable log."""


class LogDamaged(LogError):
    """Durable bytes have changed or vanished. `path` and `offset` (bytes) say where; the files were not touched."""

    def __init__(self, path: Path, offset: int, problem: str) -> None:
        super().__init__(
            f"{path}: byte {offset}: {problem}. Nothing was changed. Stop using this disk until it is checked; then "
            "restore the agent's directory from a copy, or remove it and let the agent join its cluster as a new one."
        )
        self.path = path
        self.offset = offset
        self.problem = problem


class LogTooNew(LogError):
    """The file was written by a later version. Start that version or a later one."""


class LogLocked(LogError):
    """Another process holds the directory."""


class LogFailed(LogError):
    """A write, sync or read failed. What was not synced is unknown; it is never tried again on the same open log."""


class LogFull(LogError):
    """No space. Nothing of the refused call counts; what was there is readable, and a later call may succeed."""


class LogCompacted(LogError):
    """The entry was dropped because a snapshot covers it."""


class LogClosed(LogError):
    """The log was closed."""
