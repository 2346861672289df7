"""The mirror: finished runs in a database of the operator's, for reports and dashboards (P5).

Nothing of prime reads it. The one writer tails its own history from the watermark that the database itself holds, and
one transaction does it all: take the fence, read the watermark, write rows, move the watermark. So a crash at any
moment neither loses nor doubles a row, a deposed writer is refused by the database, and a database that went back in
time (a restored backup, an empty one) is filled again from the history.

SQLite and PostgreSQL, through peewee, by URL: `sqlite:///relative/path`, `sqlite:////absolute/path`,
`postgresql://user:password@host:5432/name?sslmode=require` (whatever libpq takes in a URI). PostgreSQL needs a driver,
`pip install 'psycopg[binary]'`. The tables are in `database_tables`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from peewee import (
    Database,
    Model,
    PeeweeException,
    PostgresqlDatabase,
    SqliteDatabase,
    chunked,
)

from agent.store import database_tables as tables
from agent.store.database_tables import MirroredAttempt, MirroredInstance, MirroredRun
from agent.store.errors import HistoryError, MirrorError
from agent.store.history import START, FinishedRun, History, Hole, Position

__all__ = [
    "FencedOut",
    "Mirror",
    "MirrorStatus",
    "MirroredAttempt",
    "MirroredInstance",
    "MirroredRun",
    "Progress",
    "open_database",
    "run",
]

log = logging.getLogger(__name__)

_INSERT_ROWS: Final = 500  # SQLite binds at most 32,766 values a statement
_BUSY_S: Final = 10
# A database that has gone away must not hold the mirror's thread for long, nor a writer that has gone away the fence.
_POSTGRESQL_LIMITS: Final = {
    "connect_timeout": "10",
    "tcp_user_timeout": "30000",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "options": "-c statement_timeout=60000 -c lock_timeout=10000 -c idle_in_transaction_session_timeout=30000",
    "application_name": "prime",
}


class FencedOut(MirrorError):
    """A writer of a later generation or term has written: this one is deposed and must stop."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What one step did. mirrored: records taken; behind: records that still wait, counted up to a bound.

    missing: what the history has to get before there can be more; None = nothing.
    """

    mirrored: int
    behind: int
    missing: Hole | None = None


@dataclass(frozen=True, slots=True)
class MirrorStatus:
    """What is known of the mirror since this agent started.

    watermark: up to where the database has it, None = not seen yet. behind: records that wait, None = not known.
    last_error: why the last step failed, None = it did not.
    """

    watermark: Position | None
    behind: int | None
    last_error: str | None


def open_database(url: str) -> Database:
    """The peewee database of `url`; nothing is connected yet.

    Raises MirrorError for a URL that means nothing to the mirror, and for a missing driver.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise MirrorError(f"the database URL cannot be read ({error}): {_URLS}") from error
    if parts.scheme == "sqlite":
        path = parts.path[1:]
        if parts.netloc or not path or path == ":memory:":
            raise MirrorError(f"database {url}: a SQLite database is a file: {_URLS}")
        return SqliteDatabase(path, pragmas={"journal_mode": "wal", "synchronous": "full"}, timeout=_BUSY_S)
    if parts.scheme in ("postgres", "postgresql"):
        if find_spec("psycopg") is None:
            raise MirrorError(f"database {_shown(url)} needs a driver: pip install 'psycopg[binary]'")
        given = parse_qs(parts.query)
        limits: dict[str, Any] = {name: value for name, value in _POSTGRESQL_LIMITS.items() if name not in given}
        dsn = "postgresql" + url[len(parts.scheme) :]
        return PostgresqlDatabase(dsn, prefer_psycopg3=True, **limits)
    raise MirrorError(f"database {_shown(url)}: the mirror writes to SQLite and PostgreSQL only: {_URLS}")


_URLS = "give sqlite:////absolute/path, sqlite:///relative/path or postgresql://user:password@host:5432/name"


def _shown(url: str) -> str:
    """`url` without what may be secret: everything before the host, and the parameters."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class Mirror:
    """Writes the history into a database. `step` may be called from one thread at a time.

    url: see this module's own text. decode: what a packed record holds; it must raise nothing on records of this prime.
    """

    def __init__(self, url: str, decode: Callable[[FinishedRun], MirroredRun]) -> None:
        self._database = open_database(url)
        self._decode = decode
        self.name = _shown(url)
        self._status = MirrorStatus(None, None, None)

    def status(self) -> MirrorStatus:
        """How the mirror is doing; asks no database."""
        return self._status

    def step(self, history: History, *, generation: int, term: int, batch: int = 200) -> Progress:
        """Bring at most `batch` records of `history` into the database, in one transaction.

        generation, term: the writer's, as Raft gave them; with a later one in the database this writer is deposed.
        Each step has a connection of its own, so that a database replaced in between is seen for what it is.
        Raises FencedOut, MirrorError (unreachable, ahead of the history, a record that does not decode: nothing was
        written), HistoryError.
        """
        try:
            with self._database.connection_context():
                self._migrate()
                with self._exclusive():
                    mark, progress = self._write_batch(history, generation, term, batch)
        except (MirrorError, HistoryError) as error:
            self._failed(str(error))
            raise
        except (PeeweeException, OverflowError) as error:  # OverflowError: a time past the year 9999
            raise self._failed(f"{' '.join(str(error).split())}; it is tried again") from error
        except Exception as error:  # of a driver; a mirror that fails must not end the agent (P5)
            raise self._failed(f"{error!r}; it is tried again") from error
        missing = None if progress.missing is None else _waiting_for(progress.missing)
        self._status = MirrorStatus(mark, progress.behind, missing)
        return progress

    def look(self, *, generation: int) -> None:
        """See up to where the database has the history, for an agent that does not write it: `status` tells.

        What the database has not got must be kept by all agents, whoever leads next (P5). Raises MirrorError.
        """
        try:
            with self._database.connection_context():
                watermark = START
                if self._database.table_exists("prime_fence"):
                    for fence in tables.Fence.select().execute(self._database):
                        if fence.mark_generation == generation:
                            watermark = (fence.log_index, fence.ordinal)
        except Exception as error:  # as in `step`
            raise self._failed(" ".join(str(error).split())) from error
        self._status = MirrorStatus(watermark, None, None)

    def _failed(self, message: str) -> MirrorError:
        """Note it. A message that does not name the database gets its name."""
        text = message if self.name in message else f"database {self.name}: {message}"
        self._status = MirrorStatus(self._status.watermark, self._status.behind, text)
        return MirrorError(text)

    def _exclusive(self) -> Any:
        """A transaction that writes; SQLite is told so at its begin, as a later upgrade of the lock may fail."""
        return self._database.atomic("IMMEDIATE") if self._is_sqlite else self._database.atomic()

    @property
    def _is_sqlite(self) -> bool:
        return isinstance(self._database, SqliteDatabase)

    def _migrate(self) -> None:
        database = self._database
        if not database.table_exists("prime_schema"):
            with self._exclusive():
                self._execute("CREATE TABLE IF NOT EXISTS prime_schema (version BIGINT PRIMARY KEY)")
        rows = tables.Schema.select(tables.Schema.version).tuples().execute(database)
        found = max((version for (version,) in rows), default=0)
        if found > len(tables.MIGRATIONS):
            raise MirrorError(
                f"database {self.name} has schema {found}, this prime knows {len(tables.MIGRATIONS)}: "
                "upgrade this agent"
            )
        number = "INTEGER PRIMARY KEY" if self._is_sqlite else "BIGSERIAL PRIMARY KEY"
        for version in range(found + 1, len(tables.MIGRATIONS) + 1):
            with self._exclusive():
                for statement in tables.MIGRATIONS[version - 1]:
                    self._execute(statement.replace("{id}", number))
                tables.Schema.insert(version=version).execute(database)

    def _execute(self, statement: str) -> None:
        self._database.execute_sql(statement)  # type: ignore[no-untyped-call]  # peewee's stubs leave it untyped

    def _write_batch(self, history: History, generation: int, term: int, batch: int) -> tuple[Position, Progress]:
        fence = self._take_fence(generation, term)
        stored: Position = (fence.log_index, fence.ordinal)
        # After a recovery log positions are given anew: what an older generation mirrored says nothing about them.
        start = stored if fence.mark_generation == generation else START
        tail = history.tail(start, batch)
        if start > tail.end:
            raise MirrorError(
                f"database {self.name} is at {start}, this agent's history ends at {tail.end}: the database belongs to "
                "another cluster, or the history was lost; the mirror goes on when the history has passed it"
            )
        self._write_rows(generation, tail.runs)
        mark = max(tail.runs[-1].position if tail.runs else start, tail.pruned)
        if stored < tail.pruned:
            self._record_gap(generation, stored, tail.pruned)
        for hole in tail.lost:
            if hole.after <= mark:
                self._record_gap(generation, max(hole.after, start), hole.to)
                mark = max(mark, hole.to)
        tables.Fence.update(mark_generation=generation, log_index=mark[0], ordinal=mark[1]).execute(self._database)
        return mark, Progress(len(tail.runs), tail.behind - len(tail.runs), tail.missing)

    def _take_fence(self, generation: int, term: int) -> tables.Fence:
        """Lock the fence row for this transaction, or learn that this writer is deposed."""
        not_later = (tables.Fence.generation < generation) | (
            (tables.Fence.generation == generation) & (tables.Fence.term <= term)
        )
        taken = tables.Fence.update(generation=generation, term=term).where(not_later).execute(self._database)
        rows: list[tables.Fence] = list(tables.Fence.select().execute(self._database))
        if not rows:
            raise MirrorError(
                f"database {self.name} has no row in prime_fence: restore it, or drop all prime_ tables to start anew"
            )
        if taken != 1:
            raise FencedOut(
                f"database {self.name} was written by generation {rows[0].generation}, term {rows[0].term}; this agent "
                f"has generation {generation}, term {term} and no longer leads"
            )
        return rows[0]

    def _record_gap(self, generation: int, start: Position, end: Position) -> None:
        log.warning("mirror.gap database=%s from=%s to=%s: no history has that any more", self.name, start, end)
        gap = tables.Gap.insert(
            generation=generation, from_index=start[0], from_ordinal=start[1], to_index=end[0], to_ordinal=end[1]
        )
        gap.execute(self._database)
        tables.Fence.update(gaps=tables.Fence.gaps + 1).execute(self._database)

    def _write_rows(self, generation: int, runs: Sequence[FinishedRun]) -> None:
        """Replace the rows of these runs, except of those of which the database has this end or a later one."""
        latest = {run.run_id: run for run in runs}  # in the log's order: the last end of a run stays
        columns = (tables.Run.run_id, tables.Run.generation, tables.Run.log_index, tables.Run.ordinal)
        present = (
            tables.Run.select(*columns).where(tables.Run.run_id.in_(list(latest))).tuples().execute(self._database)
        )
        for run_id, *position in present:
            if tuple(position) >= (generation, *latest[run_id].position):
                del latest[run_id]
        for model in (tables.Run, tables.Instance, tables.Attempt):
            model.delete().where(model.run_id.in_(list(latest))).execute(self._database)
        decoded = [(run, self._decoded(run)) for run in latest.values()]
        self._insert(tables.Run, (tables.run_row(generation, run) for run in latest.values()))
        self._insert(tables.Instance, (row for run, held in decoded for row in tables.instance_rows(run.run_id, held)))
        self._insert(tables.Attempt, (row for run, held in decoded for row in tables.attempt_rows(run.run_id, held)))

    def _insert(self, model: type[Model], rows: Iterable[dict[str, Any]]) -> None:
        for some in chunked(rows, _INSERT_ROWS):
            model.insert_many(some).execute(self._database)

    def _decoded(self, run: FinishedRun) -> MirroredRun:
        try:
            return self._decode(run)
        except Exception as error:
            raise MirrorError(
                f"database {self.name}: the record of run {run.run_id} at {run.position} does not decode ({error!r}): "
                "nothing behind it is mirrored before it does"
            ) from error


def _waiting_for(hole: Hole) -> str:
    return f"waits for finished runs after {hole.after} up to {hole.to}, which this agent fetches from others"


async def run(
    mirror: Mirror,
    history: History,
    wake: asyncio.Event,
    *,
    generation: int,
    term: int,
    batch: int = 200,
    idle_s: float = 60.0,
    backoff_first_s: float = 1.0,
    backoff_max_s: float = 60.0,
) -> None:
    """Keep the database up with the history, on a thread of its own, until cancelled or fenced out.

    wake: set by whoever appends to the history. idle_s: how often to look at the database without that, so that one
    which was restored or emptied is filled again. An error is tried again after backoff_first_s, doubled up to
    backoff_max_s; meanwhile nothing is held in memory (P5, P12). Returns when a later writer has taken over. When
    cancelled it returns after the step under way has ended.
    """
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mirror")
    step = partial(mirror.step, history, generation=generation, term=term, batch=batch)
    backoff_s, working = backoff_first_s, None
    missing: Hole | None = None
    try:
        while True:
            wake.clear()  # before the step: what is appended during it is looked for in the next one
            try:
                progress = await asyncio.get_running_loop().run_in_executor(thread, step)
            except FencedOut as error:
                log.warning("mirror.fenced_out database=%s error=%s", mirror.name, error)
                return
            except (MirrorError, HistoryError) as error:
                if working is not False:
                    log.warning("mirror.failing database=%s error=%s", mirror.name, error)
                working = False
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, backoff_max_s)
                continue
            if not working:
                log.info("mirror.working database=%s behind=%d", mirror.name, progress.behind)
            if progress.missing != missing and progress.missing is not None:
                log.warning("mirror.waiting database=%s %s", mirror.name, _waiting_for(progress.missing))
            backoff_s, working, missing = backoff_first_s, True, progress.missing
            if progress.missing is not None or not progress.behind:
                with suppress(TimeoutError):
                    async with asyncio.timeout(idle_s):  # `wait_for` of 3.11 may swallow a cancel that meets the wake
                        await wake.wait()
    finally:
        await asyncio.to_thread(thread.shutdown)
