"""What can go wrong in `consensus`.

ConsensusError
├── ProposalDropped   the caller's: this node cannot take the proposal now; nothing was appended
├── UnknownPeer       theirs: an answer from a node that is not in the configuration
├── Inconsistent      a message contradicts what is committed here: this node's disk, or another's, has lost something
├── SnapshotMismatch  theirs: the bytes of a snapshot are not those that were announced; all of them were dropped
├── ConfigError       a change that the configuration does not allow, or a configuration that is none
├── StorageError
│   ├── Compacted     the entry was dropped, a snapshot covers it
│   ├── Unavailable   the entry is past the log's end
│   └── SnapshotTemporarilyUnavailable  a snapshot is being made: ask again
└── LogError
    ├── LogDamaged    bytes that were durable are not what was written: refused, nothing is changed (P9)
    ├── LogTooNew     written by a later version of this program
    ├── LogLocked     another process uses the directory
    ├── LogForeign    the directory is another node's, or another cluster's
    ├── LogFailed     the disk failed a write, a sync or a read: the log is unusable until it is opened again
    ├── LogFull       the disk is full: nothing of the call was accepted; the log goes on and stays readable
    ├── LogCompacted  the index asked for was dropped, a snapshot covers it
    └── LogClosed     the caller's: used after close
"""

from __future__ import annotations

from pathlib import Path


class ConsensusError(Exception):
    """Base of all errors of `consensus`."""


class ProposalDropped(ConsensusError):
    """Not taken: there is no leader, a transfer runs, or too much is uncommitted (P12). Nothing was appended."""


class UnknownPeer(ConsensusError):
    """An answer came from a node that the configuration does not hold, such as one that was removed."""


class Inconsistent(ConsensusError):
    """What is committed here and what a leader says cannot both be true. The node must stop; nothing was changed."""


class SnapshotMismatch(ConsensusError):
    """What a peer sent of a snapshot is not what it announced. All of it was dropped: it is to be sent anew."""


class ConfigError(ConsensusError):
    """The change does not fit the configuration it would change; nothing was changed."""


class StorageError(ConsensusError):
    """What was asked of the storage is not there."""


class Compacted(StorageError):
    """The entry, or its term, was dropped: a snapshot covers it."""


class Unavailable(StorageError):
    """The entry is past the end of the log."""


class SnapshotTemporarilyUnavailable(StorageError):
    """There is no snapshot to send at this moment; the follower is asked for again later."""


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


class LogForeign(LogError):
    """The directory holds the log of another node, of another cluster, or of this node's life before."""


class LogFailed(LogError):
    """A write, sync or read failed. What was not synced is unknown; it is never tried again on the same open log."""


class LogFull(LogError):
    """No space. Nothing of the refused call counts; what was there is readable, and a later call may succeed."""


class LogCompacted(LogError):
    """The entry was dropped because a snapshot covers it."""


class LogClosed(LogError):
    """The log was closed."""
