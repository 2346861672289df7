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
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from agent.store import history_holes as holes
from agent.store.errors import HistoryError, HistoryFull
from agent.store.history_file import open_file, pruned, transaction, used_bytes
from agent.store.history_holes import Hole
from agent.store.history_rows import COLUMNS, START, FinishedRun, Position, StoredRun, end_of, pack

__all__ = [
    "START",
    "FinishedRun",
    "History",
    "Hole",
    "Part",
    "Position",
    "RunFilter",
    "StoredRun",
    "Tail",
    "decode_cursor",
    "encode_cursor",
    "end_of",
    "pack",
]

KEEP_MS: Final = 365 * 24 * 3600 * 1000
MAX_BYTES: Final = 2 * 1024**3
UNMIRRORED_MAX_BYTES: Final = 20 * 1024**3

_PRUNE_ROWS: Final = 500  # a delete of this many rows holds the writer for some milliseconds
_VACUUM_PAGES: Final = 16384  # 64 MiB given back to the file system at a prune, at most
_TAIL_BYTES: Final = 4 * 1024**2  # of packed records at a look
_ROW_BYTES: Final = 200  # about, of a row without its record


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

    runs: the next records, in order, up to where one may be missing.
    behind: how many records follow the position, counted up to a bound.
    pruned: the latest position that has been pruned; a reader whose position is before it has missed something.
    end: the latest position that is, was, or ought to be here.
    missing: what has to be fetched before the reader can go on; None = nothing among `runs` and right behind them.
    lost: what follows the position and nobody has, in order.
    """

    runs: Sequence[FinishedRun]
    behind: int
    pruned: Position
    end: Position = START
    missing: Hole | None = None
    lost: Sequence[Hole] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """What a history has for another one that asked for what follows a position.

    rows: the next records. complete: all that ended up to there is in `rows`; the position asked for where this history
    has nothing right behind it. resumes: then, after which position it has something again; None = it may come yet.
    """

    rows: Sequence[StoredRun]
    complete: Position
    resumes: Position | None = None


_LAST: Position = end_of(2**62)

_Runs: TypeAlias = list[FinishedRun]  # `list` means the method inside the class
_Rows: TypeAlias = list[StoredRun]
_Ids: TypeAlias = list[str]


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
        self._holes = holes.read(writer)

    @classmethod
    def open(cls, path: Path) -> History:
        """Open the history at `path`, made (0600) or migrated where needed; its folder must exist.

        Raises HistoryError where it cannot be opened, is not a history, or was written by a newer prime.
        """
        writer, reader = open_file(path)
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
            gone = pruned(sql)
            for run in runs:
                if run.position > gone:
                    self._insert(sql, pack(run))

    def _insert(self, sql: sqlite3.Connection, row: StoredRun) -> None:
        at = row.position
        present = sql.execute("SELECT run_id FROM finished_run WHERE (log_index, ordinal) = (?, ?)", at).fetchone()
        if present is not None:
            if present[0] != row.run_id:
                raise HistoryError(
                    f"history {self._path}: run {present[0]} ended at {at}, where the log says {row.run_id}: this file "
                    "belongs to another log; move it away and restart the agent"
                )
            return
        sql.execute(
            "UPDATE finished_run SET latest = 0 WHERE run_id = ? AND latest = 1 AND (log_index, ordinal) < (?, ?)",
            (row.run_id, *at),
        )
        later = sql.execute(
            "SELECT 1 FROM finished_run WHERE run_id = ? AND (log_index, ordinal) > (?, ?)", (row.run_id, *at)
        ).fetchone()
        sql.execute(
            f"INSERT INTO finished_run ({COLUMNS}, latest) VALUES ({'?, ' * 16}?)",  # noqa: S608 - constants only
            (*msgspec.structs.astuple(row), int(later is None)),
        )

    def get(self, run_id: str) -> FinishedRun | None:
        """The latest end of this run, or None."""
        with self._read() as sql:
            row = sql.execute(
                f"SELECT {COLUMNS} FROM finished_run WHERE run_id = ? "  # noqa: S608 - constants only
                "ORDER BY log_index DESC, ordinal DESC LIMIT 1",
                (run_id,),
            ).fetchone()
        return None if row is None else self._unpack(StoredRun(*row))

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
                f"SELECT {COLUMNS} FROM finished_run WHERE {' AND '.join(terms)} "  # noqa: S608 - constants only
                "ORDER BY created_at_ms DESC, run_id DESC LIMIT ?",
                (*values, limit + 1),
            ).fetchall()
        runs = [self._unpack(StoredRun(*row)) for row in rows[:limit]]
        more = len(rows) > limit and bool(runs)
        return runs, encode_cursor(runs[-1].created_at_ms, runs[-1].run_id) if more else None

    def after(self, index: int, ordinal: int, limit: int) -> _Runs:
        """The next records behind this position, at most `limit`, in the order in which they ended."""
        with self._read() as sql:
            return [self._unpack(row) for row in self._rows(sql, (index, ordinal), _LAST, None, limit)[0]]

    def tail(self, position: Position, limit: int, *, count_limit: int = 100_000) -> Tail:
        """What follows `position`, at most `limit` records and some MiB, seen at one moment with all else of a Tail.

        count_limit: where to stop counting `behind`, as a count costs time by its size.
        """
        with self._read() as sql:
            (behind,) = sql.execute(
                "SELECT count(*) FROM (SELECT 1 FROM finished_run WHERE (log_index, ordinal) > (?, ?) LIMIT ?)",
                (*position, count_limit),
            ).fetchone()
            known = holes.read(sql)
            missing = next((hole for hole in known if not hole.lost and hole.to > position), None)
            to = missing.after if missing is not None else _LAST
            rows, cut = self._rows(sql, position, to, _TAIL_BYTES, limit)
            return Tail(
                [self._unpack(row) for row in rows],
                behind,
                pruned(sql),
                max(self._last(sql), *(hole.to for hole in known), START),
                None if cut else missing,
                [hole for hole in known if hole.lost and hole.to > position],
            )

    def last(self) -> Position:
        """The latest position that is, or was, recorded; START where there was never one."""
        with self._read() as sql:
            return self._last(sql)

    def _last(self, sql: sqlite3.Connection) -> Position:
        row = sql.execute(
            "SELECT log_index, ordinal FROM finished_run ORDER BY log_index DESC, ordinal DESC LIMIT 1"
        ).fetchone()
        return max(pruned(sql), START if row is None else (row[0], row[1]))

    def pruned(self) -> Position:
        """The latest position that has been pruned: nothing at or before it is here, nor comes back."""
        with self._read() as sql:
            return pruned(sql)

    # -- what belongs here -------------------------------------------------------------------------------------------

    @property
    def covered_index(self) -> int:
        """All runs ended by commands up to this log index are here, but for what was pruned and `holes`. 0 at first."""
        with self._read() as sql:
            return int(sql.execute("SELECT covered_index FROM mark").fetchone()[0])

    def set_covered(self, index: int) -> None:
        """Make it durable that everything up to this log index is in here, or is known to be missing. Never goes back.

        The caller *must* have appended it all, and sets this before it publishes a snapshot that covers `index`.
        """
        with self._write() as sql:
            sql.execute("UPDATE mark SET covered_index = max(covered_index, ?)", (index,))

    def check_covers(self, snapshot_index: int, last_index: int) -> None:
        """Check at a start that this file belongs to the log beside it: it has what that dropped, or knows its holes.

        snapshot_index: what the log begins after. last_index: its end. Raises HistoryError (P4, P9).
        """
        with self._write() as sql:
            holes.clip(sql, snapshot_index)
        last, covered = self.last()[0], holes.covered(self._holes, self.covered_index)
        if covered < snapshot_index and snapshot_index > 1:
            raise HistoryError(
                f"{self._path}: has finished runs up to {covered}, and the log begins after {snapshot_index}: "
                "records of runs are missing; restore the whole data directory from one copy"
            )
        if last > last_index:
            raise HistoryError(
                f"{self._path}: has runs up to {last}, and the log ends at {last_index}: they do not belong together; "
                "restore the whole data directory from one copy"
            )

    # -- what is missing here ----------------------------------------------------------------------------------------

    @property
    def holes(self) -> tuple[Hole, ...]:
        """What is known not to be here, in order; what was pruned apart. Asks no disk."""
        return self._holes

    @property
    def missing(self) -> tuple[Hole, ...]:
        """Those of `holes` that other agents may fill."""
        return tuple(hole for hole in self._holes if not hole.lost)

    def note_missing(self, held_index: int, up_to_index: int) -> None:
        """Make it durable that what ended after held_index, up to up_to_index, is not here: the log will not tell it.

        All that ended up to held_index *must* be here. To be called before the log is dropped.
        """
        with self._write() as sql:
            holes.note(sql, held_index, up_to_index)

    def part(self, after: Position, up_to_index: int, bytes_max: int) -> Part:
        """What follows `after` here, for another agent that lacks it.

        up_to_index: nothing behind it; all that ended up to there *must* have been appended, but for `holes`.
        bytes_max: of records; one is given even if it has more.
        """
        with self._read() as sql:
            at, stop = max(after, pruned(sql)), end_of(up_to_index)
            for hole in holes.read(sql):
                if hole.covers(at):
                    at = hole.to
                elif hole.after >= at:
                    stop = min(stop, hole.after)
                    break
            if at > after:
                return Part((), after, at)
            rows, cut = self._rows(sql, after, stop, bytes_max, None)
            return Part(rows, rows[-1].position if cut else max(after, stop))

    def _rows(
        self, sql: sqlite3.Connection, after: Position, to: Position, bytes_max: int | None, limit: int | None
    ) -> tuple[_Rows, bool]:
        """Rows after one position and up to another as they are stored, and whether there are more. None = no bound."""
        rows: _Rows = []
        left = bytes_max
        with closing(
            sql.execute(
                f"SELECT {COLUMNS} FROM finished_run WHERE (log_index, ordinal) > (?, ?) "  # noqa: S608 - constants only
                "AND (log_index, ordinal) <= (?, ?) ORDER BY log_index, ordinal",
                (*after, *to),
            )
        ) as cursor:
            for row in cursor:
                stored = StoredRun(*row)
                if left is not None:
                    left -= len(stored.packed) + _ROW_BYTES
                if len(rows) == limit or (rows and left is not None and left < 0):
                    return rows, True
                rows.append(stored)
        return rows, False

    def fill(self, after: Position, part: Part) -> None:
        """Take what another agent has for the hole that begins after `after`, in one fsynced transaction.

        Raises HistoryError also for rows that are damaged, or not what was asked for: then nothing was taken.
        """
        for row in part.rows:
            if not row.sound or not after < row.position <= part.complete:
                raise HistoryError(f"history {self._path}: run {row.run_id!r} at {row.position} came damaged")
        with self._write() as sql:
            gone = pruned(sql)
            for row in part.rows:
                if row.position > gone:
                    self._insert(sql, row)
            holes.close(sql, after, part.complete)

    def give_up(self, after: Position, to: Position) -> None:
        """No agent has what is missing here after `after`, up to `to`, any more."""
        with self._write() as sql:
            holes.lose(sql, after, to)

    # -- pruning -----------------------------------------------------------------------------------------------------

    @property
    def records_bytes(self) -> int:
        """Bytes on disk that records, with their indexes, take up."""
        with self._read() as sql:
            return used_bytes(sql)

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
            used = used_bytes(sql)
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
                holes.prune(sql, last)
            return count

    def _unpack(self, stored: StoredRun) -> FinishedRun:
        if not stored.sound:
            raise HistoryError(
                f"history {self._path}: the record of run {stored.run_id!r} at {stored.position} is damaged: check the "
                "disk, then move the file away; the agent starts a new one"
            )
        return stored.unpack()

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
        with self._write_lock, self._errors():
            with transaction(self._writer):
                yield self._writer
            self._holes = holes.read(self._writer)

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        """One consistent snapshot for all statements of the block."""
        with self._read_lock, self._errors():
            self._reader.execute("BEGIN")
            try:
                yield self._reader
            finally:
                self._reader.execute("ROLLBACK")
