"""Everything the stores of this agent can refuse.

    StoreError
    ├── BlobError
    │   ├── BlobTooLarge      the caller's: more bytes than a blob may have
    │   ├── BlobMissing       no blob of that name here: swept, or lost
    │   └── BlobDamaged       the file is there and its bytes are not those its name promises (P9)
    ├── JournalError
    │   ├── JournalDamaged    the worker's journal cannot be trusted; work must not start (P9)
    │   ├── JournalFull       no space: nothing was journaled; the same call may succeed later
    │   └── AlreadyJournaled  the caller's: an intent for an attempt that is known already (P3)
    ├── HistoryError          the history's files, or a question they cannot answer
    │   └── HistoryFull       no space: nothing was written; the same call may succeed later
    ├── MirrorError           the database: unreachable, fenced off, or not as expected
    └── LogsError             an attempt's log segments
        └── ArchiveError      the archive of logs
            ├── ArchiveAway       it cannot be reached, or does not take it: the same call may succeed later
            └── ArchiveDamaged    what is there is not what was put there (P9)

Each message says what was wrong, where, and what to do.
"""

from __future__ import annotations

import errno
from typing import Final

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class StoreError(Exception):
    """Base of all errors of `agent.store`."""


class BlobError(StoreError):
    """Base of the errors of `agent.store.blobs`."""


class BlobTooLarge(BlobError):
    """More bytes than a blob may have."""


class BlobMissing(BlobError):
    """There is no blob of that name on this agent."""


class BlobDamaged(BlobError):
    """A blob's bytes do not hash to its name."""


class JournalError(StoreError):
    """Base of the errors of `agent.store.journal`."""


class JournalDamaged(JournalError):
    """The journal's file is not a journal, or fails its checks."""


class JournalFull(JournalError):
    """No space left. Nothing was journaled; the same call may succeed when there is room."""


class AlreadyJournaled(JournalError):
    """An intent or a refusal of that attempt stands in the journal: it is never started (again)."""


class HistoryError(StoreError):
    """The history's files are damaged, or cannot answer what was asked."""


class HistoryFull(HistoryError):
    """No space left. Nothing was written; the same call may succeed when there is room."""


class MirrorError(StoreError):
    """The database cannot be written: unreachable, fenced off by a later leader, or not as expected."""


class LogsError(StoreError):
    """An attempt's log segments cannot be read or written."""


class ArchiveError(LogsError):
    """Base of the errors of `agent.store.archive`."""


class ArchiveAway(ArchiveError):
    """The archive cannot be used now."""


class ArchiveDamaged(ArchiveError):
    """What is in the archive is not what was put there."""


def is_full(error: BaseException) -> bool:
    """Whether `error` says that the disk, or the quota, is full: the same call may succeed when there is room."""
    cause = error.__cause__ if isinstance(error, StoreError) else error
    return isinstance(error, JournalFull | HistoryFull) or (isinstance(cause, OSError) and cause.errno in _FULL)
