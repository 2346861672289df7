"""The worker's own memory, fsynced: what it meant to start, what it refused, what ran and how it ended (P3).

One row for each attempt, from its intent until its outcome is applied. An attempt whose intent or refusal stands here
is never started (again), whatever the table says. SQLite in WAL mode, synchronous=FULL: every commit is synced. Each
row carries a CRC of its own, since SQLite does not notice a changed byte within a value (P9).

A sequence number is given to each start and each end; it grows over the journal's whole life, so that whoever hears
of two of them knows which is later. It is not used again when rows are forgotten.
"""

from __future__ import annotations

import math
import os
import sqlite3
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from crc32c import crc32c

from agent.files import sync_directory
from agent.store.errors import AlreadyJournaled, JournalDamaged, JournalError, JournalFull

SCHEMA_VERSION: Final = 1
APPLICATION_ID: Final = 0x70726D6A  # "prmj"

_SCHEMA: Final = f"""
CREATE TABLE attempt (
  name TEXT PRIMARY KEY, payload BLOB, not_after_s REAL, boot_id TEXT, refused TEXT,
  started BLOB, started_seq INTEGER, outcome BLOB, ended_seq INTEGER, crc INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE sequence (id INTEGER PRIMARY KEY CHECK (id = 1), last INTEGER NOT NULL, crc INTEGER NOT NULL) STRICT;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""
_COLUMNS: Final = "name, payload, not_after_s, boot_id, refused, started, started_seq, outcome, ended_seq"
_CORRUPT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_ADVICE: Final = (
    "Nothing was changed. What this agent ran is not known from here: stop what still runs of its attempts, check the "
    "disk, then restore the whole data directory from one copy, or begin with an empty one."
)


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """What is known of one attempt.

    payload, not_after_s, boot_id: of its intent; not_after_s is CLOCK_BOOTTIME in seconds of that boot. None = it was
        refused without ever having been meant to start.
    refused: why it will not be started. started, outcome: payloads; started_seq, ended_seq: when they were journaled.
    """

    name: str
    payload: bytes | None = None
    not_after_s: float | None = None
    boot_id: str | None = None
    refused: str | None = None
    started: bytes | None = None
    started_seq: int | None = None
    outcome: bytes | None = None
    ended_seq: int | None = None

    @property
    def seq(self) -> int:
        """The latest sequence number of the attempt; 0 = it neither started nor ended."""
        return self.ended_seq or self.started_seq or 0


class Journal:
    """The journal of one agent, held alone by it. One connection: use it from the thread that opened it.

    A call outside `batch` is durable when it returns; within one, when the batch has ended.
    """

    def __init__(self, path: Path) -> None:
        """Open the journal at `path`, made (0600) if missing. Raises JournalDamaged, JournalError."""
        self._path = path
        self._failure: str | None = None
        self._batching = False
        self._names: set[str] = set()
        self._forgotten: set[str] = set()  # by the transaction that goes on
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._database = sqlite3.connect(path, isolation_level=None, timeout=0)
        try:
            with self._checked():
                self._prepare()
            sync_directory(path.parent)
        except BaseException:
            self._database.close()
            raise

    def _prepare(self) -> None:
        execute = self._database.execute
        execute("PRAGMA locking_mode = EXCLUSIVE")  # no second agent, and no shared-memory file
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        (version,) = execute("PRAGMA user_version").fetchone()
        (objects,) = execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version == 0 and objects == 0:
            self._database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA}")
            execute("INSERT INTO sequence VALUES (1, 0, ?)", (_crc(0),))
            execute("COMMIT")
            return
        (application,) = execute("PRAGMA application_id").fetchone()
        if application != APPLICATION_ID or version < 1:
            raise JournalDamaged(f"{self._path}: a SQLite file, but no journal of an agent. {_ADVICE}")
        if version > SCHEMA_VERSION:
            raise JournalError(
                f"{self._path}: journal version {version}; this program knows {SCHEMA_VERSION}. Start the later one."
            )
        (verdict,) = execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise JournalDamaged(f"{self._path}: {verdict}. {_ADVICE}")
        last = self._last_seq()
        entries = self._select("")
        self._names.update(entry.name for entry in entries)
        if any(entry.seq > last for entry in entries):
            raise JournalDamaged(f"{self._path}: a row is later than the sequence, {last}. {_ADVICE}")

    # -- writing ---------------------------------------------------------------------------------------------------

    @contextmanager
    def batch(self) -> Iterator[Self]:
        """Make several calls one commit, and one sync. Nothing of it is kept if it ends with an exception.

        What was journaled may be acted on, or sent, only after the batch has ended.
        """
        if self._batching:
            raise JournalError(f"{self._path}: a batch within a batch: end the first one before")
        with self._transaction():
            self._batching = True
            try:
                yield self
            finally:
                self._batching = False

    def intend(self, name: str, payload: bytes, not_after_s: float, boot_id: str) -> None:
        """Journal that the attempt is about to be started, and until when that may happen.

        not_after_s: CLOCK_BOOTTIME in seconds, of the boot with this boot_id; infinity is allowed.
        Raises AlreadyJournaled if the attempt is known in any way: then it must not be started (P3).
        """
        if math.isnan(not_after_s):
            raise ValueError("not_after_s is not a number")
        with self._transaction():
            if self.get(name) is not None:
                raise AlreadyJournaled(f"{name}: stands in the journal already, so it must not be started (again)")
            self._store(JournalEntry(name, payload, not_after_s, boot_id))

    def refuse(self, name: str, reason: str) -> None:
        """Journal that the attempt will not be started. The first reason stays.

        Raises JournalError if it has been started, or has ended.
        """
        with self._transaction():
            entry = self.get(name) or JournalEntry(name)
            if entry.started is not None or entry.outcome is not None:
                raise JournalError(f"{name}: has been started or has ended already and can no longer be refused")
            if entry.refused is None:
                self._store(replace(entry, refused=reason))

    def started(self, name: str, payload: bytes) -> int:
        """Journal that the attempt runs. Returns its sequence number; the first call counts, others return the same.

        Raises JournalError for an attempt without an intent, or refused, or ended.
        """
        with self._transaction():
            entry = self._known(name)
            if entry.started_seq is not None:
                return entry.started_seq
            if entry.payload is None or entry.refused is not None or entry.outcome is not None:
                raise JournalError(f"{name}: cannot have started: it has no intent, was refused, or has ended")
            seq = self._next_seq()
            self._store(replace(entry, started=payload, started_seq=seq))
            return seq

    def ended(self, name: str, payload: bytes) -> int:
        """Journal how the attempt ended, started or not. Returns its sequence number; the first outcome stays (P4).

        Raises JournalError for an attempt that is not in the journal.
        """
        with self._transaction():
            entry = self._known(name)
            if entry.ended_seq is not None:
                return entry.ended_seq
            seq = self._next_seq()
            self._store(replace(entry, outcome=payload, ended_seq=seq))
            return seq

    def forget(self, names: Iterable[str]) -> None:
        """Drop attempts whose outcome is applied and which nothing can ask to start any more; unknown ones too."""
        gone = list(names)
        with self._transaction():
            self._database.executemany("DELETE FROM attempt WHERE name = ?", ((name,) for name in gone))
            self._forgotten |= self._names.intersection(gone)
            self._names.difference_update(gone)

    # -- reading ---------------------------------------------------------------------------------------------------

    def may_know(self, name: str) -> bool:
        """Whether there may be something to `get`. May be asked from any thread, and touches no disk."""
        return name in self._names

    def get(self, name: str) -> JournalEntry | None:
        """What is known of the attempt; None = nothing. Raises JournalDamaged."""
        with self._checked():
            return next(iter(self._select("WHERE name = ?", name)), None)

    def entries(self) -> list[JournalEntry]:
        """All attempts not yet forgotten, by name. Raises JournalDamaged."""
        with self._checked():
            return self._select("")

    # -- the rest --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _known(self, name: str) -> JournalEntry:
        if (entry := self.get(name)) is None:
            raise JournalError(f"{name}: is not in the journal: journal the intent or the refusal first")
        return entry

    def _select(self, where: str, *arguments: str) -> list[JournalEntry]:
        sql = f"SELECT {_COLUMNS}, crc FROM attempt {where} ORDER BY name"  # noqa: S608  `where` is one of our constants
        entries = []
        for *columns, crc in self._database.execute(sql, arguments):
            if _crc(*columns) != crc:
                raise JournalDamaged(f"{self._path}: the row of {columns[0]!r} has changed on the disk. {_ADVICE}")
            entries.append(JournalEntry(*columns))
        return entries

    def _store(self, entry: JournalEntry) -> None:
        self._names.add(entry.name)
        columns = astuple(entry)
        marks = ", ".join("?" * (len(columns) + 1))
        sql = f"INSERT OR REPLACE INTO attempt ({_COLUMNS}, crc) VALUES ({marks})"  # noqa: S608  constants only
        self._database.execute(sql, (*columns, _crc(*columns)))

    def _last_seq(self) -> int:
        row = self._database.execute("SELECT last, crc FROM sequence").fetchone()
        if row is None or _crc(row[0]) != row[1]:
            raise JournalDamaged(f"{self._path}: the sequence is missing or has changed on the disk. {_ADVICE}")
        last: int = row[0]
        return last

    def _next_seq(self) -> int:
        seq = self._last_seq() + 1
        self._database.execute("UPDATE sequence SET last = ?, crc = ?", (seq, _crc(seq)))
        return seq

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._checked():
            if self._batching:
                if not self._database.in_transaction:  # SQLite takes a transaction back by itself on a full disk
                    raise JournalError(f"{self._path}: the batch was taken back after an error: begin it again")
                yield
                return
            self._database.execute("BEGIN IMMEDIATE")
            self._forgotten = set()
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        self._names |= self._forgotten  # they are known again
        if self._database.in_transaction:
            self._database.execute("ROLLBACK")

    @contextmanager
    def _checked(self) -> Iterator[None]:
        """Turn SQLite's errors into ours. After a disk's error nothing is done any more: what it holds is unknown."""
        if self._failure is not None:
            raise JournalError(self._failure)
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in _CORRUPT:
                raise JournalDamaged(f"{self._path}: {error}. {_ADVICE}") from error
            if code == sqlite3.SQLITE_BUSY:
                raise JournalError(f"{self._path}: another process holds the journal: stop that agent first") from error
            if code == sqlite3.SQLITE_FULL:
                raise JournalFull(f"{self._path}: no space left: nothing was journaled; free some space") from error
            self._failure = f"{self._path}: {error}. Check the disk, then start the agent again."
            raise JournalError(self._failure) from error


def _crc(*columns: Any) -> int:
    """CRC-32C over the values, each with its type and length, so that none can pass for its neighbour's part."""
    crc = 0
    for value in columns:
        match value:
            case None:
                tag, data = b"n", b""
            case bytes():
                tag, data = b"b", value
            case str():
                tag, data = b"s", value.encode()
            case int():
                tag, data = b"i", struct.pack("<q", value)
            case float():
                tag, data = b"f", struct.pack("<d", value)
            case _:
                raise TypeError(f"{type(value).__name__} is no value of the journal")
        crc = crc32c(data, crc32c(tag + struct.pack("<Q", len(data)), crc))
    return crc
