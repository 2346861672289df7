"""A cluster recovered from the one log that is left, when a majority of its voters is gone for ever.

What the directory of a stopped agent has, its snapshot and its log to the end, becomes the state of a new generation
(`recovery`), whose only agent lives in the same directory under a new id. All that was acknowledged and is on this disk
is kept, and so is what its journal says of attempts that have ended here since; what is lost is what others had
acknowledged without it.

On the disk. What is new is made in `recovering/`, which becomes `recovered/` when it is whole. Until then, and until
the old log goes, nothing has changed: called again, `recover` begins again. Then the parts are moved into their places,
and no agent starts before all are there, since the identities of what is there do not agree: called again, `recover`
goes on. What was there before is kept in `before-generation-N/`.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from agent import intact
from agent.attempt import Driven, EndNote, Intent
from agent.cluster import snapshot
from agent.cluster.recovery import (
    MAKING,
    ROWS,
    Begun,
    RecoveryError,
    found_log,
    new_identity,
    next_generation,
    settle_history,
    sync,
)
from agent.housekeeping import named_in
from agent.identity import FILE as IDENTITY
from agent.identity import Identity, load_identity
from agent.replica import rows_of
from agent.runtable import commands as c
from agent.runtable.apply import apply
from agent.runtable.model import Agent, TableImage
from agent.runtable.table import Table
from agent.store.history import START, FinishedRun, History
from agent.store.journal import Journal, JournalEntry
from consensus.disk import REAL, LogDisk
from consensus.messages import EntryKind
from consensus.wal_snapshot import SnapshotReader
from consensus.wal_survey import LOCK_NAME, snapshot_name
from consensus.wal_verify import Report, verify

MADE: Final = "recovered"
ENDED: Final = "ended.db"  # in it: runs for the history


@dataclass(frozen=True, slots=True)
class Survivor:
    """What a directory still has. term, index: of the last entry of its log. committed: known to be decided.

    lacking: blobs that the table names and that are not here. table: with all entries applied; runs: that ended by
    entries behind the log's snapshot.
    """

    identity: Identity
    table: Table
    term: int
    vote_term: int
    index: int
    committed: int
    runs: list[FinishedRun]
    lacking: list[str]

    @property
    def gone(self) -> list[Agent]:
        """The other agents, which are given up."""
        return [one for one in self.table.rows.agents.values() if one.id != self.identity.agent]

    @property
    def open_attempts(self) -> Counter[str]:
        """How many attempts each agent had, which are lost now."""
        return Counter({agent: len(keys) for agent, keys in self.table.assigned.items() if keys})


def look(data_dir: Path) -> Survivor:
    """What a stopped agent's directory has; nothing is changed. Raises RecoveryError, LogError."""
    if is_unfinished(data_dir):
        raise RecoveryError(f"{data_dir}: a recovery was cut short here; give --confirm again, and it goes on")
    if not (data_dir / IDENTITY).is_file() or not (data_dir / intact.LOG).is_dir():
        raise RecoveryError(f"{data_dir}: is no data directory of an agent: identity or log is missing")
    identity = load_identity(data_dir)
    report = _sound(data_dir / intact.LOG)
    if not identity.cluster or report.log is None or report.log.head is None or report.vote is None:
        raise RecoveryError(f"{data_dir}: its agent had no table yet: there is nothing to recover here")
    table, runs = _replayed(data_dir, report)
    if identity.agent not in table.rows.agents:
        raise RecoveryError(f"{data_dir}: its table does not name {identity.agent}: it had just joined, or was removed")
    entries, meta = report.log.log.entries, report.log.head.meta
    last_term = entries[-1].term if entries else meta.term
    return Survivor(
        identity,
        table,
        last_term,
        report.vote[0],
        table.rows.index,
        report.log.log.commit,
        runs,
        sorted(_lacking(data_dir / "blobs", table.rows)),
    )


def _replayed(data_dir: Path, report: Report) -> tuple[Table, list[FinishedRun]]:
    """The table after the last entry: what was acknowledged is among these, and what was not does no harm."""
    assert report.log is not None
    with SnapshotReader(LogDisk(REAL), data_dir / intact.LOG / snapshot_name(report.log.seq)) as reader:
        try:
            table = Table.load(reader.chunks())
        except msgspec.DecodeError as error:
            raise RecoveryError(f"{data_dir}: its table cannot be read: {error}") from error
    runs: list[FinishedRun] = []
    for entry in report.log.log.entries:
        table.rows.index = entry.index
        if entry.kind == EntryKind.NORMAL and entry.data:
            runs += rows_of(entry.index, apply(table, entry.index, entry.data).finished)
    return table, runs


def _lacking(blobs: Path, rows: TableImage) -> set[str]:
    """What the table names and is not here, or is damaged; the files that blobs name are not read."""
    lacking: set[str] = set()
    for kind, digest in snapshot.named_by_rows(rows):
        path = blobs / digest[:2] / digest
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != digest:
            lacking.add(digest)
        else:
            lacking |= {one for one in named_in(kind, data) if not (blobs / one[:2] / one).is_file()}
    return lacking


def is_unfinished(data_dir: Path) -> bool:
    """Whether a recovery has begun to take the place of what was here, and is to be gone on with."""
    made = data_dir / MADE
    return made.is_dir() and not ((made / intact.LOG).exists() and (data_dir / intact.LOG).exists())


def recover(data_dir: Path, now_ms: int) -> Begun:
    """Make what a directory has the state of a new generation. It may be called again where it was cut short.

    now_ms: milliseconds since the epoch. Raises RecoveryError, LogError (LogLocked while an agent runs there),
    StoreError, OSError.
    """
    for _step in steps(data_dir, now_ms):
        pass
    table, _runs = _replayed(data_dir, _sound(data_dir / intact.LOG))
    return Begun(load_identity(data_dir), table, sorted(_lacking(data_dir / "blobs", table.rows)))


def steps(data_dir: Path, now_ms: int) -> Generator[None, None, None]:
    """As `recover`, with a pause after each change of the disk: a crash there loses nothing."""
    with _alone(data_dir):
        if not is_unfinished(data_dir):
            yield from _make(data_dir, look(data_dir), now_ms)
        yield from _put_in_place(data_dir)


@contextmanager
def _alone(data_dir: Path) -> Iterator[None]:
    """Nobody else uses this log: neither an agent, nor another recovery."""
    at = next((one for one in (data_dir / intact.LOG, data_dir / MADE / intact.LOG) if one.is_dir()), None)
    if at is None:
        raise RecoveryError(f"{data_dir}: has no log")
    disk = LogDisk(REAL)
    lock = disk.lock(at / LOCK_NAME)
    try:
        yield
    finally:
        disk.close(lock)


def _make(data_dir: Path, survivor: Survivor, now_ms: int) -> Generator[None, None, None]:
    """All that is new, beside what is there."""
    made = data_dir / MAKING
    for left in (made, data_dir / MADE):
        if left.exists():
            shutil.rmtree(left)
    table, own = survivor.table, survivor.table.rows.agents[survivor.identity.agent]
    told = _tell_outcomes(table, survivor.identity.agent, _journaled(data_dir), now_ms)
    ended = [*survivor.runs, *told, *next_generation(table, now_ms)]
    identity = new_identity(made, table)
    # Its watchdog takes no lease of an epoch that is not above those of before.
    table.rows.agents[identity.agent] = msgspec.structs.replace(
        own,
        id=identity.agent,
        node=identity.node,
        epoch=own.epoch + 1,
        slots=0,
        lost=False,
        lost_at_ms=None,
        draining=False,
    )
    with closing(History.open(made / ENDED)) as history:
        history.append(ended)
    found_log(made, identity, table, max(survivor.term, survivor.vote_term) + 1)
    sync(made)
    yield
    made.rename(data_dir / MADE)
    sync(data_dir)
    yield


def _journaled(data_dir: Path) -> list[JournalEntry]:
    """The attempts of this agent that have ended, in the order in which they did."""
    with closing(Journal(data_dir / intact.DATABASES[1])) as journal:
        return sorted((one for one in journal.entries() if one.payload and one.outcome), key=lambda one: one.seq)


def _tell_outcomes(table: Table, agent: str, ended: list[JournalEntry], now_ms: int) -> list[FinishedRun]:
    """Say to the table how attempts have ended here while nobody took this agent's word: those are not lost.

    Returns the runs that have ended by it.
    """
    finished: list[FinishedRun] = []
    for entry in ended:
        intent = msgspec.msgpack.decode(entry.payload or b"", type=Intent)
        note = msgspec.msgpack.decode(entry.outcome or b"", type=EndNote)
        attempt = Driven(entry.name, intent.run_id, intent.instance, intent.number, intent.epoch, intent.executor)
        command = attempt.end_command(max(now_ms, table.rows.time_ms), agent, entry.seq, note)
        index = table.rows.index + 1
        finished += rows_of(index, apply(table, index, c.encode(command)).finished)
    return finished


def _put_in_place(data_dir: Path) -> Generator[None, None, None]:
    """Move what was made where it belongs. May be begun again at any point."""
    made = data_dir / MADE
    log = next(one for one in (made / intact.LOG, data_dir / intact.LOG) if one.is_dir())
    table, _runs = _replayed(log.parent, _sound(log))
    kept = data_dir / f"before-generation-{table.rows.generation}"
    kept.mkdir(exist_ok=True, mode=0o700)
    for name in (intact.LOG, intact.PROMISES, IDENTITY):
        if (made / name).exists():
            if (data_dir / name).exists():
                (data_dir / name).rename(kept / name)
                sync(kept)
                sync(data_dir)
                yield
            (made / name).rename(data_dir / name)
            sync(data_dir)
            yield
    with (
        closing(History.open(made / ENDED)) as new,
        closing(History.open(data_dir / intact.DATABASES[0])) as history,
    ):
        position = START
        while rows := new.after(*position, ROWS):
            history.append(rows)
            position = rows[-1].position
        yield
        settle_history(history, (), table.rows.index)
    yield
    shutil.rmtree(made)
    sync(data_dir)


def _sound(log: Path) -> Report:
    report = verify(log)
    if report.errors:
        raise RecoveryError(f"{report.errors[0]}; look at it with `prime wal verify {log}`")
    return report
