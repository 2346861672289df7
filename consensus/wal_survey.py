"""What is in a log's directory: read, checked and judged, with nothing changed.

`survey` is the first half of opening a log and refuses damage; `inspect` is for operators and tells all it finds.

    LOCK                     held by the agent that uses the directory
    durable                  the durable mark: two slots, written in turn
    <first index>.wal        segments
    spare                    the next segment, zero-filled, without a name of its own yet
    <index>.snap             snapshots; the newest two are kept
    identity, vote           of a node of a cluster (`wal_identity`, `hard_state`)
    incoming, incoming.progress   a leader's snapshot that is on its way (`wal_incoming`)
    *.tmp                    unfinished; removed when the log is opened
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from crc32c import crc32c

from consensus import wal_format as form
from consensus.disk import REAL, TEMPORARY, FileSystem, LogDisk
from consensus.errors import LogDamaged, LogError, LogTooNew

MARK_NAME: Final = "durable"
MARK_SLOT_BYTES: Final = 4096  # a slot to a block: a torn write of one cannot touch the other
SPARE_NAME: Final = "spare"
LOCK_NAME: Final = "LOCK"

_NAME = re.compile(r"([0-9a-f]{16})\.(wal|snap)")
_READ_BYTES: Final = 1024 * 1024


def snapshot_name(index: int) -> str:
    """The file of the snapshot of everything up to record `index`."""
    return f"{index:016x}.snap"


@dataclass(frozen=True, slots=True)
class SegmentReport:
    """One segment as read. Indexes are inclusive, offsets and sizes in bytes; last_index = first_index - 1 if empty.

    end: where the records end. nonzero_end: where the last byte that is not zero ends; above `end` = a torn tail.
    durable_end: where the last record under the durable mark ends.
    chain_before, chain_after: CRC of the record before the first, and of the last.
    witness: offset of a record after `end` that says the record missing there had been durable; None = none does.
    """

    path: Path
    log_id: bytes
    first_index: int
    last_index: int
    size: int
    end: int
    nonzero_end: int
    durable_end: int
    chain_before: int
    chain_after: int
    witness: int | None


@dataclass(frozen=True, slots=True)
class SnapshotReport:
    """One snapshot file. size: bytes of its payload. problem: None = sound."""

    path: Path
    index: int
    size: int
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Survey:
    """A sound directory. mark None = a new one, nothing in it. Segments and snapshots in ascending order."""

    mark: form.Mark | None
    segments: tuple[SegmentReport, ...]
    snapshots: tuple[SnapshotReport, ...]
    temporary: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What an operator wants to know of a directory. durable_index: None where the mark cannot be read.

    While an agent runs on the directory, what it writes at that moment may look like a torn tail.
    """

    directory: Path
    durable_index: int | None
    segments: tuple[SegmentReport, ...]
    snapshots: tuple[SnapshotReport, ...]
    errors: tuple[LogError, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, a sentence each; empty = sound."""
        return tuple(str(error) for error in self.errors)

    @property
    def torn_bytes(self) -> int:
        """Bytes of a torn tail, which the next start cuts. It holds nothing that was ever acknowledged."""
        return max(0, self.segments[-1].nonzero_end - self.segments[-1].end) if self.segments else 0


def survey(disk: LogDisk, directory: Path) -> Survey:
    """Read and check everything. Raises LogDamaged, LogTooNew, LogFailed."""
    segment_paths, snapshot_paths, temporary, has_mark = _list(disk, directory)
    if not has_mark:
        if segment_paths or snapshot_paths:
            raise LogDamaged(directory / MARK_NAME, 0, "the durable mark is missing though there is a log")
        return Survey(None, (), (), temporary)
    mark = read_mark(disk, directory / MARK_NAME)
    segments = tuple(read_segment(disk, path, mark) for path in segment_paths)
    snapshots = tuple(read_snapshot(disk, path, mark.log_id) for path in snapshot_paths)
    check_chain(directory, segments, mark)
    check_coverage(directory, segments, snapshots, mark)
    return Survey(mark, segments, snapshots, temporary)


def inspect(directory: Path, *, io: FileSystem = REAL) -> Inspection:
    """Summarise a log's directory, damaged or not, without changing or locking it. Raises FileNotFoundError."""
    segment_paths, snapshot_paths, _, has_mark = _list(LogDisk(io), directory)
    errors: list[LogError] = []
    mark: form.Mark | None = None
    segments: list[SegmentReport] = []
    snapshots: list[SnapshotReport] = []
    with _noting(errors):
        if has_mark:
            mark = read_mark(LogDisk(io), directory / MARK_NAME)
        elif segment_paths or snapshot_paths:
            raise LogDamaged(directory / MARK_NAME, 0, "the durable mark is missing though there is a log")
    for path in segment_paths:
        with _noting(errors):
            segments.append(read_segment(LogDisk(io), path, mark))  # one that cannot be read spoils no other
    log_id = mark.log_id if mark else segments[0].log_id if segments else b""
    for path in snapshot_paths:
        with _noting(errors):
            snapshots.append(read_snapshot(LogDisk(io), path, log_id))
    errors += [LogDamaged(one.path, 0, one.problem) for one in snapshots if one.problem]
    if mark is not None and len(segments) == len(segment_paths):
        with _noting(errors):
            check_chain(directory, segments, mark)
        with _noting(errors):
            check_coverage(directory, segments, snapshots, mark)
    return Inspection(directory, mark.index if mark else None, tuple(segments), tuple(snapshots), tuple(errors))


@contextmanager
def _noting(errors: list[LogError]) -> Iterator[None]:
    try:
        yield
    except LogError as error:
        errors.append(error)


def read_mark(disk: LogDisk, path: Path) -> form.Mark:
    """The newer of the two slots. A crash can spoil one, never both. Raises LogDamaged, LogTooNew."""
    file = disk.open(path, write=False)
    try:
        data = disk.pread(file, 2 * MARK_SLOT_BYTES, 0)
    finally:
        disk.close(file)
    marks: list[form.Mark] = []
    for slot in range(2):
        try:
            marks.append(form.decode_mark(data[slot * MARK_SLOT_BYTES :]))
        except form.NotOurs:
            continue  # torn or not yet written: the other one counts
        except form.NewerVersion as error:
            raise LogTooNew(f"{path}: {error}. Start the version that wrote it, or a later one.") from error
    if not marks:
        raise LogDamaged(path, 0, "both slots of the durable mark are unreadable")
    return max(marks, key=lambda mark: mark.sequence)


def read_segment(disk: LogDisk, path: Path, mark: form.Mark | None) -> SegmentReport:
    """Read one segment and check each record. A bad record ends it; what that means is judged in `check_chain`."""
    buffer = _read_whole(disk, path)
    try:
        header = form.decode_segment_header(buffer)
    except form.NotOurs as error:
        raise LogDamaged(path, 0, str(error)) from error
    except form.NewerVersion as error:
        raise LogTooNew(f"{path}: {error}. Start the version that wrote it, or a later one.") from error
    end = durable_end = form.SEGMENT_HEADER_BYTES
    last, chain = header.first_index - 1, header.chain
    for record in form.walk(buffer, header):
        if record.kind != form.Kind.ENTRY:
            raise LogTooNew(
                f"{path}: record {record.index} is of kind {record.kind}, which a later version wrote. Start that one."
            )
        end, last, chain = record.end, record.index, record.crc
        if mark is not None and record.index <= mark.index:
            durable_end = end
    nonzero_end = len(buffer.rstrip(b"\0"))
    witness = None
    if nonzero_end > end:
        witness = form.find_witness(buffer[:nonzero_end], end, last + 1, form.salt_of(header.log_id))
    return SegmentReport(
        path=path,
        log_id=header.log_id,
        first_index=header.first_index,
        last_index=last,
        size=len(buffer),
        end=end,
        nonzero_end=max(nonzero_end, end),
        durable_end=durable_end,
        chain_before=header.chain,
        chain_after=chain,
        witness=witness,
    )


def read_snapshot(disk: LogDisk, path: Path, log_id: bytes) -> SnapshotReport:
    """Check one snapshot without holding it in memory. Raises LogTooNew, LogFailed; damage is in the report."""
    named = int(path.name.removesuffix(".snap"), 16)
    file = disk.open(path, write=False)
    try:
        size = disk.size(file)
        payload = size - form.SNAPSHOT_HEADER_BYTES - form.SNAPSHOT_TRAILER_BYTES
        try:
            own_id, index = form.decode_snapshot_header(disk.pread(file, form.SNAPSHOT_HEADER_BYTES, 0))
        except form.NotOurs as error:
            return SnapshotReport(path, named, max(payload, 0), str(error))
        except form.NewerVersion as error:
            raise LogTooNew(f"{path}: {error}. Start the version that wrote it, or a later one.") from error
        crc, at, end = 0, 0, size - form.SNAPSHOT_TRAILER_BYTES
        while at < end:
            chunk = disk.pread(file, min(_READ_BYTES, end - at), at)
            crc, at = crc32c(chunk, crc), at + len(chunk)
        trailer = disk.pread(file, form.SNAPSHOT_TRAILER_BYTES, max(end, 0))
    finally:
        disk.close(file)
    problem = None
    if payload < 0 or trailer != form.encode_snapshot_trailer(payload, crc):
        problem = "the snapshot's checksum is wrong"
    elif own_id != log_id or index != named:
        problem = f"it is snapshot {index} of log {own_id.hex()}, and does not belong here"
    return SnapshotReport(path, named, max(payload, 0), problem)


def read_records(disk: LogDisk, segments: Sequence[SegmentReport], from_index: int = 1) -> Iterator[tuple[int, bytes]]:
    """Index and data of the records from `from_index` on, in order; of a damaged segment those before the damage."""
    for segment in segments:
        if segment.last_index < from_index:
            continue
        buffer = _read_whole(disk, segment.path)
        for record in form.walk(buffer, form.decode_segment_header(buffer)):
            if record.index >= from_index:
                yield record.index, buffer[record.data_start : record.data_end]


def place_of(disk: LogDisk, directory: Path, index: int) -> tuple[Path, int]:
    """File and offset (bytes) of a record; where it should be if it is not there."""
    paths = [path for path in _list(disk, directory)[0] if int(path.stem, 16) <= index]
    if not paths:
        return directory, 0
    buffer = _read_whole(disk, paths[-1])
    at = form.SEGMENT_HEADER_BYTES
    for record in form.walk(buffer, form.decode_segment_header(buffer)):
        if record.index >= index:
            break
        at = record.end
    return paths[-1], at


def check_chain(directory: Path, segments: Sequence[SegmentReport], mark: form.Mark) -> None:
    """Every segment continues the one before, and nothing that was durable is missing. Raises LogDamaged."""
    for segment in segments:
        if segment.log_id != mark.log_id:
            raise LogDamaged(segment.path, 0, "the segment belongs to another log")
    for before, after in pairwise(segments):
        if before.last_index + 1 < after.first_index and before.nonzero_end > before.end:
            raise LogDamaged(before.path, before.end, f"record {before.last_index + 1} is damaged")
        if before.last_index + 1 != after.first_index or before.chain_after != after.chain_before:
            raise LogDamaged(
                before.path,
                before.end,
                f"the segment ends with record {before.last_index}, but {after.path.name} goes on with "
                f"{after.first_index}: records are missing or belong to another history",
            )
    if not segments:
        if mark.index > 0:
            raise LogDamaged(directory, 0, f"there are no segments, though {mark.index} records were durable")
        return
    tail = segments[-1]
    missing = tail.last_index + 1
    if missing <= mark.index:
        raise LogDamaged(
            tail.path, tail.end, f"record {missing} is damaged or missing, though all up to {mark.index} were durable"
        )
    if tail.witness is not None:
        raise LogDamaged(
            tail.path, tail.end, f"record {missing} is damaged: the one at byte {tail.witness} says it had been durable"
        )


def check_coverage(
    directory: Path, segments: Sequence[SegmentReport], snapshots: Sequence[SnapshotReport], mark: form.Mark
) -> None:
    """The newest sound snapshot and the log behind it tell everything from the beginning. Raises LogDamaged."""
    sound = max((one.index for one in snapshots if one.problem is None), default=0)
    if sound > mark.index:
        raise LogDamaged(directory / MARK_NAME, 0, f"the durable mark is {mark.index}, but snapshot {sound} exists")
    first = segments[0].first_index if segments else 1
    if first > sound + 1:
        damaged = [one for one in snapshots if one.problem is not None]
        path = damaged[-1].path if damaged else directory
        why = damaged[-1].problem if damaged else "a snapshot or a segment is missing"
        raise LogDamaged(path, 0, f"{why}, and the log begins only with {first}: it cannot be rebuilt from {sound}")


def _list(disk: LogDisk, directory: Path) -> tuple[list[Path], list[Path], tuple[Path, ...], bool]:
    names = disk.listdir(directory)
    matches = [match for name in names if (match := _NAME.fullmatch(name))]
    return (
        [directory / match[0] for match in matches if match[2] == "wal"],
        [directory / match[0] for match in matches if match[2] == "snap"],
        tuple(directory / name for name in names if name.endswith(TEMPORARY)),
        MARK_NAME in names,
    )


def _read_whole(disk: LogDisk, path: Path) -> bytes:
    file = disk.open(path, write=False)
    try:
        return disk.pread(file, disk.size(file), 0)
    finally:
        disk.close(file)
