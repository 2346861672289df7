"""The history's SQLite file: how it is made, migrated and written.

A writer and a reader have a connection each, so that a long listing never holds up the agent's applies (SQLite's
write-ahead log: https://www.sqlite.org/wal.html). synchronous=FULL makes each commit an fsync.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from agent.store.errors import HistoryError
from agent.store.history_rows import Position

# `latest` marks a run's last end. The partial indexes answer listings in order without touching the rows: the
# filters that do not lead in an index are columns at its end, so that what is passed over costs an index entry only.
# `missing` are ranges of positions, without their first and with their last, of which this file has nothing; lost = 1
# where nobody else has them either. The last failure of all, or of a job, is found at once however long ago it was.
_MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
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
    (
        """CREATE TABLE missing (
            from_index INTEGER NOT NULL, from_ordinal INTEGER NOT NULL, to_index INTEGER NOT NULL,
            to_ordinal INTEGER NOT NULL, lost INTEGER NOT NULL, PRIMARY KEY (from_index, from_ordinal))""",
    ),
    (
        """CREATE INDEX by_state ON finished_run
            (state, created_at_ms, run_id, project, namespace, job, origin) WHERE latest = 1""",
        """CREATE INDEX by_origin ON finished_run
            (origin, created_at_ms, run_id, project, namespace, job, state) WHERE latest = 1""",
        """CREATE INDEX by_name ON finished_run
            (job, created_at_ms, run_id, project, namespace, state, origin) WHERE latest = 1""",
        """CREATE INDEX by_job_state ON finished_run
            (project, job, state, created_at_ms, run_id, namespace, origin) WHERE latest = 1""",
    ),
)


def open_file(path: Path) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    """(writer, reader) of the history at `path`, made (0600) or migrated where needed; its folder must exist.

    Raises HistoryError where it cannot be opened, is not a history, or was written by a newer prime.
    """
    connections: list[sqlite3.Connection] = []
    try:
        _make_private(path)
        connections.append(writer := _connect(path))
        connections.append(reader := _connect(path))
        writer.execute("PRAGMA auto_vacuum = INCREMENTAL")  # counts only before the first table
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("PRAGMA synchronous = FULL")
        reader.execute("PRAGMA query_only = 1")
        _migrate(path, writer)
    except (sqlite3.Error, OSError, HistoryError) as error:
        for connection in connections:
            connection.close()
        if isinstance(error, HistoryError):
            raise
        raise HistoryError(
            f"history {path} cannot be opened: {error}; is it a file of prime's, on a sound disk?"
        ) from error
    return writer, reader


@contextmanager
def transaction(sql: sqlite3.Connection) -> Iterator[None]:
    """All of the block, or nothing."""
    sql.execute("BEGIN IMMEDIATE")
    try:
        yield
        sql.execute("COMMIT")
    except BaseException:
        if sql.in_transaction:  # a full disk has rolled back already
            sql.execute("ROLLBACK")
        raise


def pruned(sql: sqlite3.Connection) -> Position:
    """The latest position that has been pruned."""
    index, ordinal = sql.execute("SELECT pruned_index, pruned_ordinal FROM mark").fetchone()
    return index, ordinal


def used_bytes(sql: sqlite3.Connection) -> int:
    """Bytes on disk that are in use."""
    pages, free, size = (
        sql.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _make_private(path: Path) -> None:
    """Make an empty file for its owner alone, if there is none: SQLite would use the umask. Its other files follow."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)


def _migrate(path: Path, sql: sqlite3.Connection) -> None:
    (version,) = sql.execute("PRAGMA user_version").fetchone()
    if version > len(_MIGRATIONS):
        raise HistoryError(
            f"history {path} has version {version}, this prime knows {len(_MIGRATIONS)}: "
            "run the newer prime that wrote it"
        )
    for number in range(version, len(_MIGRATIONS)):
        with transaction(sql):
            for statement in _MIGRATIONS[number]:
                sql.execute(statement)
            sql.execute(f"PRAGMA user_version = {number + 1}")
