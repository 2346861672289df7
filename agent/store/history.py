"""The runs that have ended, on this agent's own disk: packed, immutable, in the order in which the log ended them.

One SQLite file. `prime run show/list/diff` read it on any agent and the mirror tails it (P5); nothing that decides
reads it. A run may end more than once (an operator clears it and it ends again), so a record's name is its position
(index, ordinal): the log index of the command that ended it, and its place among the runs that this command ended.
Lists and look-ups give each run's latest end.

A writer and a reader have a connection each, so that a long listing never holds up the agent's applies (SQLite's
write-ahead log: https://www.sqlite.org/wal.html). synchronous=FULL makes each commit an fsync.
"""

from __future__ import annotations

import base64
import binascii
import sqlite3
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import crc32c
import msgspec

from agent.store.errors import HistoryError, HistoryFull

KEEP_MS = 365 * 24 * 3600 * 1000
MAX_BYTES = 2 * 1024**3
UNMIRRORED_MAX_BYTES = 20 * 1024**3

Position: TypeAlias = tuple[int, int]
"""(index, ordinal): where in the log a run ended. (0, 0) is before everything."""

START: Position = (0, 0)

_PRUNE_ROWS = 500  # a delete of this many rows holds the writer for some milliseconds
_VACUUM_PAGES = 16384  # 64 MiB given back to the file system at a prune, at most


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """One end of one run.

    index, ordinal: the log index of the command that ended it, and its place among the runs which that command ended.
    record: the run as the run table packed it; opaque here, compressed on disk.
    """

    index: int
    ordinal: int
    run_id: str
    project: str
    namespace: str
    job: str
    origin: str
    state: str
    reason: str | None
    requested_by: str
    scheduled_at_ms: int
    created_at_ms: int
    started_at_ms: int | None
    finished_at_ms: int
    record: bytes

    @property
    def position(self) -> Position:
        """(index, ordinal)."""
        return self.index, self.ordinal


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs to list; None = any. since_ms (inclusive) and until_ms (exclusive) bound the time of creation."""

    project: str | None = None
    namespace: str | None = None
    job: str | None = None
    state: str | None = None
    origin: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Tail:
    """One consistent look at what follows a position.

    runs: the next records, in order.
    behind: how many records follow the position, counted up to a bound.
    pruned: the latest position that has been pruned; a reader whose position is before it has missed something.
    """

    runs: Sequence[FinishedRun]
    behind: int
    pruned: Position


_Runs: TypeAlias = list[FinishedRun]  # `list` means the method inside the class
_Ids: TypeAlias = list[str]

_COLUMNS = (
    "log_index, ordinal, run_id, project, namespace, job, origin, state, reason, requested_by, "
    "scheduled_at_ms, created_at_ms, started_at_ms, finished_at_ms, record"
)

# `latest` marks a run's last end. The three partial indexes answer listings in order without touching the rows: the
# filters that do not lead in an index are columns at its end, so that what is passed over costs an index entry only.
_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE finished_run (
            log_index INTEGER NOT NULL, ordinal INTEGER NOT NULL, run_id TEXT NOT NULL, project TEXT NOT NULL,
            namespace TEXT NOT NULL, job TEXT NOT NULL, origin TEXT NOT NULL, state TEXT NOT NULL, reason TEXT,
            requested_by TEXT NOT NULL, scheduled_at_ms INTEGER NOT NULL, created_at_ms INTEGER NOT NULL,
            started_at_ms INTEGER, finished_at_ms INTEGER NOT NULL, latest INTEGER NOT NULL,
            checksum INTEGER NOT NULL, record BLOB NOT NULL, PRIMARY KEY (log_index, ordinal))""",
        "CREATE INDEX by_run ON finished_run (run_id, log_index, ordinal)",
        """CREATE INDEX by_created ON finished_run
            (created_at_ms, run_id, project, namespace, job, state, origin) WHERE latest = 1""",
        """CREATE INDEX by_project ON finished_run
            (project, created_at_ms, run_id, namespace, job, state, origin) WHERE latest = 1""",
        """CREATE INDEX by_job ON finished_run
            (project, job, created_at_ms, run_id, namespace, state, origin) WHERE latest = 1""",
        """CREATE TABLE mark (one INTEGER PRIMARY KEY CHECK (one = 1), covered_index INTEGER NOT NULL,
            pruned_index INTEGER NOT NULL, pruned_ordinal INTEGER NOT NULL)""",
        "INSERT INTO mark VALUES (1, 0, 0, 0)",
    ),
)


def encode_cursor(created_at_ms: int, run_id: str) -> str:
    """The cursor that stands on this run; a listing goes on with the runs created before it."""
    return base64.urlsafe_b64encode(f"{created_at_ms}:{run_id}".encode()).decode("ascii").rstrip("=")


def decode_cursor(cursor: str) -> tuple[int, str]:
    """(created_at_ms, run_id) of the run on which `cursor` stands. Raises HistoryError for what is no cursor."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        created, colon, run_id = base64.b64decode(padded, altchars=b"-_", validate=True).decode().partition(":")
        created_at_ms = int(created)
    except (ValueError, binascii.Error) as error:
        raise HistoryError(f"{cursor!r} is not a cursor of this list: use next_cursor as it was given") from error
    if not colon or abs(created_at_ms) >= 2**63:
        raise HistoryError(f"{cursor!r} is not a cursor of this list: use next_cursor as it was given")
    return created_at_ms, run_id


class History:
    """The finished runs of this agent. Usable from several threads; every call is short.

    Every method raises HistoryError where the file cannot be read or written: a full disk, damage (P9), or use after
    `close`. A write that failed has left nothing behind.
    """

    def __init__(self, path: Path, writer: sqlite3.Connection, reader: sqlite3.Connection) -> None:
        self._path = path
        self._writer = writer
        self._reader = reader
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()

    @classmethod
    def open(cls, path: Path) -> History:
        """Open the history at `path`, making or migrating it where needed; its folder must exist.

        Raises HistoryError where it cannot be opened, is not a history, or was written by a newer prime.
        """
        connections: list[sqlite3.Connection] = []
        try:
            connections.append(writer := _connect(path))
            connections.append(reader := _connect(path))
            writer.execute("PRAGMA auto_vacuum = INCREMENTAL")  # counts only before the first table
            writer.execute("PRAGMA journal_mode = WAL")
            writer.execute("PRAGMA synchronous = FULL")
            reader.execute("PRAGMA query_only = 1")
            _migrate(path, writer)
        except (sqlite3.Error, HistoryError) as error:
            for connection in connections:
                connection.close()
            if isinstance(error, HistoryError):
                raise
            raise HistoryError(
                f"history {path} cannot be opened: {error}; is it a file of prime's, on a sound disk?"
            ) from error
        return cls(path, writer, reader)

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        with self._read_lock:
            self._reader.close()
        with self._write_lock:
            self._writer.close()

    def append(self, runs: Sequence[FinishedRun]) -> None:
        """Make `runs` durable, all or none, in one fsynced transaction.

        A record that is here already, or has been pruned, is passed over. Raises HistoryError also where another run
        stands at the same position: then this file does not belong to this log.
        """
        with self._write() as sql:
            pruned = _pruned(sql)
            for run in runs:
                if run.position > pruned:
                    self._insert(sql, run)

    def _insert(self, sql: sqlite3.Connection, run: FinishedRun) -> None:
        at = (run.index, run.ordinal)
        present = sql.execute("SELECT run_id FROM finished_run WHERE (log_index, ordinal) = (?, ?)", at).fetchone()
        if present is not None:
            if present[0] != run.run_id:
                raise HistoryError(
                    f"history {self._path}: run {present[0]} ended at {at}, where the log says {run.run_id}: this file "
                    "belongs to another log; move it away and restart the agent"
                )
            return
        sql.execute(
            "UPDATE finished_run SET latest = 0 WHERE run_id = ? AND latest = 1 AND (log_index, ordinal) < (?, ?)",
            (run.run_id, *at),
        )
        later = sql.execute(
            "SELECT 1 FROM finished_run WHERE run_id = ? AND (log_index, ordinal) > (?, ?)", (run.run_id, *at)
        ).fetchone()
        *facts, record = astuple(run)
        packed = zlib.compress(record)
        sql.execute(
            f"INSERT INTO finished_run ({_COLUMNS}, latest, checksum) VALUES ({'?, ' * 16}?)",  # noqa: S608 - constants only
            (*facts, packed, int(later is None), _checksum(facts, packed)),
        )

    def get(self, run_id: str) -> FinishedRun | None:
        """The latest end of this run, or None."""
        with self._read() as sql:
            row = sql.execute(
                f"SELECT {_COLUMNS}, checksum FROM finished_run WHERE run_id = ? "  # noqa: S608 - constants only
                "ORDER BY log_index DESC, ordinal DESC LIMIT 1",
                (run_id,),
            ).fetchone()
        return None if row is None else self._unpack(row)

    def find(self, prefix: str, limit: int) -> _Ids:
        """At most `limit` run ids that begin with `prefix`, in their order."""
        with self._read() as sql:
            rows = sql.execute(
                "SELECT DISTINCT run_id FROM finished_run WHERE run_id >= ? AND run_id < ? ORDER BY run_id LIMIT ?",
                (prefix, prefix + "\U0010ffff", limit),
            ).fetchall()
        return [run_id for (run_id,) in rows]

    def list(self, filter: RunFilter, limit: int, cursor: str | None = None) -> tuple[_Runs, str | None]:  # noqa: A002 - the field's word
        """At most `limit` runs that pass `filter`, newest first, and the cursor to go on with; None = these are all.

        A run stands where its creation puts it: a cursor stays good while runs end, end again or are pruned. Raises
        HistoryError also for a cursor that is none.
        """
        terms, values = ["latest = 1"], []
        for column in ("project", "namespace", "job", "state", "origin"):
            if (value := getattr(filter, column)) is not None:
                terms.append(f"{column} = ?")
                values.append(value)
        for term, bound in (("created_at_ms >= ?", filter.since_ms), ("created_at_ms < ?", filter.until_ms)):
            if bound is not None:
                terms.append(term)
                values.append(bound)
        if cursor is not None:
            terms.append("(created_at_ms, run_id) < (?, ?)")
            values.extend(decode_cursor(cursor))
        with self._read() as sql:
            rows = sql.execute(
                f"SELECT {_COLUMNS}, checksum FROM finished_run WHERE {' AND '.join(terms)} "  # noqa: S608 - constants only
                "ORDER BY created_at_ms DESC, run_id DESC LIMIT ?",
                (*values, limit + 1),
            ).fetchall()
        runs = [self._unpack(row) for row in rows[:limit]]
        more = len(rows) > limit and bool(runs)
        return runs, encode_cursor(runs[-1].created_at_ms, runs[-1].run_id) if more else None

    def after(self, index: int, ordinal: int, limit: int) -> _Runs:
        """The next records behind this position, at most `limit`, in the order in which they ended."""
        with self._read() as sql:
            return self._after(sql, (index, ordinal), limit)

    def tail(self, position: Position, limit: int, *, count_limit: int = 100_000) -> Tail:
        """What follows `position`, at most `limit` records, seen at one moment together with what was pruned.

        count_limit: where to stop counting `behind`, as a count costs time by its size.
        """
        with self._read() as sql:
            (behind,) = sql.execute(
                "SELECT count(*) FROM (SELECT 1 FROM finished_run WHERE (log_index, ordinal) > (?, ?) LIMIT ?)",
                (*position, count_limit),
            ).fetchone()
            return Tail(self._after(sql, position, limit), behind, _pruned(sql))

    def _after(self, sql: sqlite3.Connection, position: Position, limit: int) -> _Runs:
        rows = sql.execute(
            f"SELECT {_COLUMNS}, checksum FROM finished_run WHERE (log_index, ordinal) > (?, ?) "  # noqa: S608 - constants only
            "ORDER BY log_index, ordinal LIMIT ?",
            (*position, limit),
        ).fetchall()
        return [self._unpack(row) for row in rows]

    def last(self) -> Position:
        """The latest position that is, or was, recorded; START where there was never one."""
        with self._read() as sql:
            row = sql.execute(
                "SELECT log_index, ordinal FROM finished_run ORDER BY log_index DESC, ordinal DESC LIMIT 1"
            ).fetchone()
            return max(_pruned(sql), START if row is None else (row[0], row[1]))

    def pruned(self) -> Position:
        """The latest position that has been pruned: nothing at or before it is here, nor comes back."""
        with self._read() as sql:
            return _pruned(sql)

    @property
    def covered_index(self) -> int:
        """All runs ended by commands up to this log index are here (but for what was pruned). 0 at first."""
        with self._read() as sql:
            return int(sql.execute("SELECT covered_index FROM mark").fetchone()[0])

    def set_covered(self, index: int) -> None:
        """Make it durable that everything up to this log index is in here. It never goes back.

        The caller *must* have appended it all, and sets this before it publishes a snapshot that covers `index`.
        """
        with self._write() as sql:
            sql.execute("UPDATE mark SET covered_index = max(covered_index, ?)", (index,))

    @property
    def records_bytes(self) -> int:
        """Bytes on disk that records, with their indexes, take up."""
        with self._read() as sql:
            return _used_bytes(sql)

    def prune(
        self,
        now_ms: int,
        keep_ms: int = KEEP_MS,
        max_bytes: int = MAX_BYTES,
        *,
        mirrored: Position | None = None,
        unmirrored_max_bytes: int = UNMIRRORED_MAX_BYTES,
    ) -> int:
        """Remove the oldest records that are older than `keep_ms` or do not fit in `max_bytes`; returns how many.

        now_ms: milliseconds since the epoch. mirrored: up to where the database has it; None = there is no database.
        With one, records that it has not got yet are kept whatever their age until all records pass
        `unmirrored_max_bytes` (P5). It works in short transactions; a crash between them loses nothing but the rest.
        """
        removed = 0
        while batch := self._prune_batch(now_ms - keep_ms, max_bytes, mirrored, unmirrored_max_bytes):
            removed += batch
        if removed:
            with self._write_lock, self._errors():
                # executescript steps the statement to its end; each step gives back one page.
                self._writer.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")
        return removed

    def _prune_batch(self, cutoff_ms: int, max_bytes: int, mirrored: Position | None, unmirrored_max_bytes: int) -> int:
        with self._write() as sql:
            used = _used_bytes(sql)
            rows = sql.execute(
                "SELECT log_index, ordinal, finished_at_ms, length(record) FROM finished_run "
                "ORDER BY log_index, ordinal LIMIT ?",
                (_PRUNE_ROWS,),
            ).fetchall()
            last: Position | None = None
            count = 0
            for index, ordinal, finished_at_ms, size in rows:
                safe = mirrored is None or (index, ordinal) <= mirrored
                if not (safe and (finished_at_ms < cutoff_ms or used > max_bytes)) and used <= unmirrored_max_bytes:
                    break
                last = (index, ordinal)
                count += 1
                used -= size
            if last is not None:
                sql.execute("DELETE FROM finished_run WHERE (log_index, ordinal) <= (?, ?)", last)
                sql.execute("UPDATE mark SET pruned_index = ?, pruned_ordinal = ?", last)
            return count

    def _unpack(self, row: Sequence[Any]) -> FinishedRun:
        *facts, packed, checksum = row
        if _checksum(facts, packed) != checksum:
            raise HistoryError(
                f"history {self._path}: the record of run {facts[2]!r} at {(facts[0], facts[1])} is damaged: check the "
                "disk, then move the file away; the agent starts a new one"
            )
        facts.append(zlib.decompress(packed))
        return FinishedRun(*facts)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
                raise HistoryFull(f"history {self._path}: no space left; free some space") from error
            raise HistoryError(f"history {self._path}: {error}; check the disk and its free space") from error

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is on disk when the block ends, or has left nothing."""
        with self._write_lock, self._errors(), _transaction(self._writer):
            yield self._writer

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        """One consistent snapshot for all statements of the block."""
        with self._read_lock, self._errors():
            self._reader.execute("BEGIN")
            try:
                yield self._reader
            finally:
                self._reader.execute("ROLLBACK")


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)


@contextmanager
def _transaction(sql: sqlite3.Connection) -> Iterator[None]:
    sql.execute("BEGIN IMMEDIATE")
    try:
        yield
        sql.execute("COMMIT")
    except BaseException:
        if sql.in_transaction:  # a full disk has rolled back already
            sql.execute("ROLLBACK")
        raise


def _migrate(path: Path, sql: sqlite3.Connection) -> None:
    (version,) = sql.execute("PRAGMA user_version").fetchone()
    if version > len(_MIGRATIONS):
        raise HistoryError(
            f"history {path} has version {version}, this prime knows {len(_MIGRATIONS)}: "
            "run the newer prime that wrote it"
        )
    for number in range(version, len(_MIGRATIONS)):
        with _transaction(sql):
            for statement in _MIGRATIONS[number]:
                sql.execute(statement)
            sql.execute(f"PRAGMA user_version = {number + 1}")


def _pruned(sql: sqlite3.Connection) -> Position:
    index, ordinal = sql.execute("SELECT pruned_index, pruned_ordinal FROM mark").fetchone()
    return index, ordinal


def _used_bytes(sql: sqlite3.Connection) -> int:
    pages, free, size = (
        sql.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _checksum(facts: Sequence[Any], packed: bytes) -> int:
    """CRC-32C of a whole row: SQLite itself does not notice a flipped bit in a value."""
    return crc32c.crc32c(msgspec.msgpack.encode((facts, packed)))
