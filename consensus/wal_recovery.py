"""From a directory's records and newest snapshot to a node's Raft log, or to what is wrong, with file and offset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from consensus.disk import LogDisk
from consensus.errors import LogDamaged, LogError, LogTooNew
from consensus.hard_state import VOTE_NAME
from consensus.messages import HardState, Snapshot
from consensus.storage import MemoryStorage
from consensus.wal_replay import Place, Replayed, ReplayError, replay
from consensus.wal_snapshot import SnapshotHead, SnapshotReader
from consensus.wal_survey import SegmentReport, SnapshotReport, place_of, read_records, snapshot_name


@dataclass(frozen=True, slots=True)
class RaftLog:
    """What a directory tells. seq: the record that the newest snapshot, `head`, is of."""

    head: SnapshotHead | None
    seq: int
    log: Replayed

    def storage(self, term: int, vote: int) -> MemoryStorage:
        """The same in memory, as the core reads it."""
        snapshot = self.head.snapshot if self.head is not None else Snapshot()
        storage = MemoryStorage(snapshot, HardState(term, vote, self.log.commit))
        storage.append(self.log.entries)
        return storage


def recover(
    disk: LogDisk,
    directory: Path,
    segments: Sequence[SegmentReport],
    snapshots: Sequence[SnapshotReport],
    term: int,
) -> RaftLog:
    """Put the Raft log together, and change nothing.

    segments, snapshots: as they were found, sound but for a torn end. term: that the vote file holds.
    Raises LogDamaged, LogTooNew, LogFailed.
    """
    newest = max((one.index for one in snapshots if one.problem is None), default=0)
    damaged = {one.index for one in snapshots if one.problem is not None}
    head, place = None, Place(0, 0, 0)
    if newest:
        with SnapshotReader(disk, directory / snapshot_name(newest)) as reader:
            head = reader.head
        place = Place(head.meta.index, newest, head.meta.term)
    try:
        log = replay(read_records(disk, segments, newest + 1), place, damaged)
    except ReplayError as error:
        raise _placed(disk, directory, error) from error
    last_term = log.entries[-1].term if log.entries else place.term
    if last_term > term:
        problem = f"it holds term {term}, but the log's last entry is of term {last_term}: the vote has gone back"
        raise LogDamaged(directory / VOTE_NAME, 0, problem)
    return RaftLog(head, newest, log)


def _placed(disk: LogDisk, directory: Path, error: ReplayError) -> LogError:
    """Say where it is."""
    if error.snapshot:
        return LogDamaged(directory / snapshot_name(error.seq), 0, error.problem)
    path, offset = place_of(disk, directory, error.seq)
    if error.too_new:
        return LogTooNew(f"{path}: byte {offset}: {error.problem}, which a later version wrote. Start that one.")
    return LogDamaged(path, offset, error.problem)
