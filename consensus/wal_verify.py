"""What a log's directory holds and whether all of it is sound, for operators. Reads only; needs no lock.

Goes through the same checks as opening does, and on to the next file after damage. While an agent runs on the
directory, what it writes at that moment may look like a torn end, and a file may go away while it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from consensus.disk import REAL, FileSystem, LogDisk
from consensus.errors import LogDamaged, LogError
from consensus.hard_state import VOTE_MAGIC, VOTE_NAME, decode_vote, newest_slot
from consensus.wal_entries import decode_record
from consensus.wal_format import NewerVersion, NotOurs
from consensus.wal_identity import IDENTITY_NAME, Identity, find_identity, refuse_used
from consensus.wal_recovery import RaftLog, recover
from consensus.wal_snapshot import SnapshotHead, SnapshotReader
from consensus.wal_survey import MARK_NAME, Inspection, inspect, read_mark, read_records, survey


@dataclass(slots=True)
class Report:
    """A directory. files: as they were found, see Inspection; errors: everything that is wrong, empty = sound.

    plain: the records are not a Raft log's; then the rest says nothing. vote: (term, vote). heads: of the sound
    snapshots, by their record. log: the Raft log, None where it cannot be put together.
    """

    files: Inspection
    errors: list[LogError]
    plain: bool = False
    identity: Identity | None = None
    vote: tuple[int, int] | None = None
    heads: dict[int, SnapshotHead] = field(default_factory=dict)
    log: RaftLog | None = None

    @property
    def torn(self) -> tuple[Path, int, int] | None:
        """(file, offset, bytes) of a torn end, which the next start cuts; None = there is none, or it is damage."""
        if self.files.torn_bytes == 0 or self.files.segments[-1].witness is not None:
            return None
        return self.files.segments[-1].path, self.files.segments[-1].end, self.files.torn_bytes


def verify(directory: Path, *, io: FileSystem = REAL) -> Report:
    """Read and check everything in `directory`. Raises FileNotFoundError; LogFailed where it cannot even be listed."""
    names = LogDisk(io).listdir(directory)
    files = inspect(directory, io=io)
    report = Report(files, list(files.errors))
    if files.durable_index is None:
        return report  # without the mark nobody knows which log the other files belong to
    if VOTE_NAME not in names and IDENTITY_NAME not in names:
        with _noting(report):
            report.plain = _is_plain(LogDisk(io), directory, files)
        return report
    with _noting(report):
        report.identity = find_identity(LogDisk(io), directory, names)
        if report.identity is None:
            refuse_used(LogDisk(io), directory, names, survey(LogDisk(io), directory))
    if VOTE_NAME in names:
        with _noting(report):
            log_id = read_mark(LogDisk(io), directory / MARK_NAME).log_id
            report.vote = decode_vote(newest_slot(LogDisk(io), directory / VOTE_NAME, VOTE_MAGIC, log_id)[1])
    for one in files.snapshots:
        if one.problem is None:
            with _noting(report), SnapshotReader(LogDisk(io), one.path) as reader:
                report.heads[one.index] = reader.head
    if report.vote is not None and not report.errors:
        with _noting(report):
            report.log = recover(LogDisk(io), directory, files.segments, files.snapshots, report.vote[0])
    return report


def _is_plain(disk: LogDisk, directory: Path, files: Inspection) -> bool:
    """Whether the records are another program's than a Raft log's. Raises LogDamaged where they are one's."""
    first = next(read_records(disk, files.segments), None)
    try:
        if first is not None:
            decode_record(first[1])
        elif files.snapshots:
            SnapshotReader(disk, files.snapshots[0].path).close()
        else:
            return False  # there is nothing yet
    except (NotOurs, NewerVersion, LogDamaged):
        return True
    raise LogDamaged(directory / IDENTITY_NAME, 0, "identity and vote are missing, though a node's log is here")


@contextmanager
def _noting(report: Report) -> Iterator[None]:
    try:
        yield
    except LogError as error:
        if str(error) not in map(str, report.errors):
            report.errors.append(error)
