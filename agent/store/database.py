"""The mirror: finished runs in a database of the operator's, for reports and dashboards (P5).

Nothing of prime reads it. The one writer tails its own history from the watermark that the database itself holds, and
one transaction does it all: take the fence, read the watermark, write rows, move the watermark. So a crash at any
moment neither loses nor doubles a row, a deposed writer is refused by the database, and a database that went back in
time (a restored backup, an empty one) is filled again from the history.

SQLite and PostgreSQL, through peewee, by URL: `sqlite:///relative/path`, `sqlite:////absolute/path`,
`postgresql://user:password@host:5432/name?sslmode=require` (whatever libpq takes in a URI). PostgreSQL needs a driver,
`pip install 'psycopg[binary]'`. Statements keep to what both understand; times are ISO 8601 text with `Z`, which
PostgreSQL stores as TIMESTAMPTZ and SQLite's date functions read as it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.util import find_spec
from typing import Any
from urllib.parse import parse_qs, urlsplit

from peewee import (
    AutoField,
    BigIntegerField,
    CompositeKey,
    Database,
    Field,
    Model,
    PeeweeException,
    PostgresqlDatabase,
    SqliteDatabase,
    TextField,
    chunked,
)

from agent.store.errors import HistoryError, MirrorError
from agent.store.history import START, FinishedRun, History, Position

log = logging.getLogger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INSERT_ROWS = 500  # SQLite binds at most 32,766 values a statement
_BUSY_S = 10
# A database that has gone away must not hold the mirror's thread for longer than this.
_POSTGRESQL_LIMITS = {
    "connect_timeout": "10",
    "tcp_user_timeout": "30000",
    "options": "-c statement_timeout=60000 -c lock_timeout=10000",
    "application_name": "prime",
}


class FencedOut(MirrorError):
    """A writer of a later generation or term has written: this one is deposed and must stop."""


@dataclass(frozen=True, slots=True)
class MirroredAttempt:
    """One attempt as the database shows it. Times in milliseconds since the epoch."""

    number: int
    agent: str
    state: str
    reason: str | None
    exit_code: int | None
    started_at_ms: int | None
    finished_at_ms: int | None


@dataclass(frozen=True, slots=True)
class MirroredInstance:
    """The task or a hook of a run. type: what kind of instance it is."""

    name: str
    type: str
    state: str
    reason: str | None
    attempts: tuple[MirroredAttempt, ...]


@dataclass(frozen=True, slots=True)
class MirroredRun:
    """What a packed record holds beside the facts of its FinishedRun."""

    instances: tuple[MirroredInstance, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """What one step did. mirrored: records taken; behind: records that still wait, counted up to a bound."""

    mirrored: int
    behind: int


@dataclass(frozen=True, slots=True)
class MirrorStatus:
    """What is known of the mirror since this agent started.

    watermark: up to where the database has it, None = not seen yet. behind: records that wait, None = not known.
    last_error: why the last step failed, None = it did not.
    """

    watermark: Position | None
    behind: int | None
    last_error: str | None


class _Time(Field):
    """A moment in UTC, given in milliseconds since the epoch."""

    field_type = "TIMESTAMPTZ"

    def db_value(self, value: int | None) -> str | None:
        if value is None:
            return None
        return (_EPOCH + timedelta(milliseconds=value)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Text(TextField):
    """Text that any database takes: PostgreSQL refuses NUL, and one such value must not stop the mirror for ever."""

    def db_value(self, value: str | None) -> str | None:
        return None if value is None else value.replace("\0", "\ufffd")


# The models name the columns for peewee; the tables are made by the migrations below.
class _Run(Model):
    run_id = _Text(primary_key=True)
    generation = BigIntegerField()
    log_index = BigIntegerField()
    ordinal = BigIntegerField()
    project = _Text()
    namespace = _Text()
    job = _Text()
    origin = _Text()
    state = _Text()
    reason = _Text(null=True)
    requested_by = _Text()
    scheduled_at = _Time()
    created_at = _Time()
    started_at = _Time(null=True)
    finished_at = _Time()

    class Meta:
        table_name = "prime_runs"


class _Instance(Model):
    run_id = _Text()
    name = _Text()
    type = _Text()
    state = _Text()
    reason = _Text(null=True)

    class Meta:
        table_name = "prime_instances"
        primary_key = CompositeKey("run_id", "name")


class _Attempt(Model):
    run_id = _Text()
    instance = _Text()
    number = BigIntegerField()
    agent = _Text()
    state = _Text()
    reason = _Text(null=True)
    exit_code = BigIntegerField(null=True)
    started_at = _Time(null=True)
    finished_at = _Time(null=True)

    class Meta:
        table_name = "prime_attempts"
        primary_key = CompositeKey("run_id", "instance", "number")


class _Fence(Model):
    """One row: who may write (generation, term), and up to where it is written (the watermark)."""

    id = BigIntegerField(primary_key=True)
    generation = BigIntegerField()
    term = BigIntegerField()
    mark_generation = BigIntegerField()
    log_index = BigIntegerField()
    ordinal = BigIntegerField()
    gaps = BigIntegerField()

    class Meta:
        table_name = "prime_fence"


class _Gap(Model):
    """Records after (from_...) up to (to_...) that no history held any more when the mirror came to them."""

    id = AutoField()
    generation = BigIntegerField()
    from_index = BigIntegerField()
    from_ordinal = BigIntegerField()
    to_index = BigIntegerField()
    to_ordinal = BigIntegerField()

    class Meta:
        table_name = "prime_gaps"


class _Schema(Model):
    version = BigIntegerField(primary_key=True)

    class Meta:
        table_name = "prime_schema"


# {id} is how the database numbers rows by itself; all else both understand alike.
_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE prime_runs (
            run_id TEXT PRIMARY KEY, generation BIGINT NOT NULL, log_index BIGINT NOT NULL, ordinal BIGINT NOT NULL,
            project TEXT NOT NULL, namespace TEXT NOT NULL, job TEXT NOT NULL, origin TEXT NOT NULL,
            state TEXT NOT NULL, reason TEXT, requested_by TEXT NOT NULL, scheduled_at TIMESTAMPTZ NOT NULL,
            created_at TIMESTAMPTZ NOT NULL, started_at TIMESTAMPTZ, finished_at TIMESTAMPTZ NOT NULL)""",
        "CREATE INDEX prime_runs_by_job ON prime_runs (project, job, scheduled_at)",
        "CREATE INDEX prime_runs_by_end ON prime_runs (finished_at)",
        """CREATE TABLE prime_instances (
            run_id TEXT NOT NULL, name TEXT NOT NULL, type TEXT NOT NULL, state TEXT NOT NULL, reason TEXT,
            PRIMARY KEY (run_id, name))""",
        """CREATE TABLE prime_attempts (
            run_id TEXT NOT NULL, instance TEXT NOT NULL, number BIGINT NOT NULL, agent TEXT NOT NULL,
            state TEXT NOT NULL, reason TEXT, exit_code BIGINT, started_at TIMESTAMPTZ, finished_at TIMESTAMPTZ,
            PRIMARY KEY (run_id, instance, number))""",
        """CREATE TABLE prime_fence (
            id BIGINT PRIMARY KEY CHECK (id = 1), generation BIGINT NOT NULL, term BIGINT NOT NULL,
            mark_generation BIGINT NOT NULL, log_index BIGINT NOT NULL, ordinal BIGINT NOT NULL,
            gaps BIGINT NOT NULL)""",
        "INSERT INTO prime_fence VALUES (1, 0, 0, 0, 0, 0, 0)",
        """CREATE TABLE prime_gaps (
            id {id}, generation BIGINT NOT NULL, from_index BIGINT NOT NULL, from_ordinal BIGINT NOT NULL,
            to_index BIGINT NOT NULL, to_ordinal BIGINT NOT NULL)""",
    ),
)


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
        except (PeeweeException, OverflowError) as error:  # OverflowError: a time past the year 9999
            failure = MirrorError(f"database {self.name}: {' '.join(str(error).split())}; it is tried again")
            self._status = MirrorStatus(self._status.watermark, self._status.behind, str(failure))
            raise failure from error
        except (MirrorError, HistoryError) as error:
            self._status = MirrorStatus(self._status.watermark, self._status.behind, str(error))
            raise
        self._status = MirrorStatus(mark, progress.behind, None)
        return progress

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
        versions = [version for (version,) in _Schema.select(_Schema.version).tuples().execute(database)]
        found = max(versions, default=0)
        if found > len(_MIGRATIONS):
            raise MirrorError(
                f"database {self.name} has schema {found}, this prime knows {len(_MIGRATIONS)}: upgrade this agent"
            )
        number = "INTEGER PRIMARY KEY" if self._is_sqlite else "BIGSERIAL PRIMARY KEY"
        for version in range(found + 1, len(_MIGRATIONS) + 1):
            with self._exclusive():
                for statement in _MIGRATIONS[version - 1]:
                    self._execute(statement.replace("{id}", number))
                _Schema.insert(version=version).execute(database)

    def _execute(self, statement: str) -> None:
        self._database.execute_sql(statement)  # type: ignore[no-untyped-call]  # peewee's stubs leave it untyped

    def _write_batch(self, history: History, generation: int, term: int, batch: int) -> tuple[Position, Progress]:
        fence = self._take_fence(generation, term)
        stored: Position = (fence.log_index, fence.ordinal)
        # After a recovery log positions are given anew: what an older generation mirrored says nothing about them.
        start = stored if fence.mark_generation == generation else START
        tail = history.tail(start, batch)
        mark = tail.runs[-1].position if tail.runs else start
        if start > (last := history.last()):
            raise MirrorError(
                f"database {self.name} is at {start}, this agent's history ends at {last}: the database belongs to "
                "another cluster, or the history was lost; the mirror goes on when the history has passed it"
            )
        if stored < tail.pruned:
            self._record_gap(generation, stored, tail.pruned)
        self._write_rows(generation, tail.runs)
        mark = max(mark, tail.pruned)
        _Fence.update(mark_generation=generation, log_index=mark[0], ordinal=mark[1]).execute(self._database)
        return mark, Progress(len(tail.runs), tail.behind - len(tail.runs))

    def _take_fence(self, generation: int, term: int) -> _Fence:
        """Lock the fence row for this transaction, or learn that this writer is deposed."""
        not_later = (_Fence.generation < generation) | ((_Fence.generation == generation) & (_Fence.term <= term))
        taken = _Fence.update(generation=generation, term=term).where(not_later).execute(self._database)
        rows: list[_Fence] = list(_Fence.select().execute(self._database))
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
        log.warning(
            "mirror.gap database=%s from=%s to=%s: the history was pruned before the mirror came", self.name, start, end
        )
        gap = _Gap.insert(
            generation=generation, from_index=start[0], from_ordinal=start[1], to_index=end[0], to_ordinal=end[1]
        )
        gap.execute(self._database)
        _Fence.update(gaps=_Fence.gaps + 1).execute(self._database)

    def _write_rows(self, generation: int, runs: Sequence[FinishedRun]) -> None:
        """Replace the rows of these runs, except of those of which the database has this end or a later one."""
        latest = {run.run_id: run for run in runs}  # in the log's order: the last end of a run stays
        columns = (_Run.run_id, _Run.generation, _Run.log_index, _Run.ordinal)
        present = _Run.select(*columns).where(_Run.run_id.in_(list(latest))).tuples().execute(self._database)
        for run_id, *position in present:
            if tuple(position) >= (generation, *latest[run_id].position):
                del latest[run_id]
        for model in (_Run, _Instance, _Attempt):
            model.delete().where(model.run_id.in_(list(latest))).execute(self._database)
        decoded = [(run, self._decoded(run)) for run in latest.values()]
        self._insert(_Run, (_run_row(generation, run) for run in latest.values()))
        self._insert(_Instance, (row for run, held in decoded for row in _instance_rows(run.run_id, held)))
        self._insert(_Attempt, (row for run, held in decoded for row in _attempt_rows(run.run_id, held)))

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


def _run_row(generation: int, run: FinishedRun) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "generation": generation,
        "log_index": run.index,
        "ordinal": run.ordinal,
        "project": run.project,
        "namespace": run.namespace,
        "job": run.job,
        "origin": run.origin,
        "state": run.state,
        "reason": run.reason,
        "requested_by": run.requested_by,
        "scheduled_at": run.scheduled_at_ms,
        "created_at": run.created_at_ms,
        "started_at": run.started_at_ms,
        "finished_at": run.finished_at_ms,
    }


def _instance_rows(run_id: str, held: MirroredRun) -> Iterable[dict[str, Any]]:
    for instance in held.instances:
        yield {
            "run_id": run_id,
            "name": instance.name,
            "type": instance.type,
            "state": instance.state,
            "reason": instance.reason,
        }


def _attempt_rows(run_id: str, held: MirroredRun) -> Iterable[dict[str, Any]]:
    for instance in held.instances:
        for attempt in instance.attempts:
            yield {
                "run_id": run_id,
                "instance": instance.name,
                "number": attempt.number,
                "agent": attempt.agent,
                "state": attempt.state,
                "reason": attempt.reason,
                "exit_code": attempt.exit_code,
                "started_at": attempt.started_at_ms,
                "finished_at": attempt.finished_at_ms,
            }


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
            backoff_s, working = backoff_first_s, True
            if not progress.behind:
                with suppress(TimeoutError):
                    async with asyncio.timeout(idle_s):  # `wait_for` of 3.11 may swallow a cancel that meets the wake
                        await wake.wait()
    finally:
        await asyncio.to_thread(thread.shutdown)
