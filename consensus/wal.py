"""The durable log: checked and chained records in preallocated segments, one fdatasync for all that waits; snapshots.

Why segments full of zeros: overwriting a file that exists in full needs no change of metadata, which makes fdatasync
twice as fast as appending. Why a durable mark: the last records before a crash may be torn, and are cut; without the
mark, damage to the last records that *were* durable would look the same and would be cut too, silently (P9).

The order of writes, which the crash tests hold:

- append, then sync: only what `sync` has returned may be acknowledged (P1).
- a segment gets its name only after the one before is synced, so only the last can have a torn tail.
- the mark follows the sync of what it speaks of, at most `MARK_INTERVAL_S` late.
- a snapshot gets its name after its bytes are synced; the log under it goes after the name is synced, the oldest
  segment first, each removal synced before the next.
- opening writes the unmarked tail once more: the process before may have failed in fsync, after which the kernel shows
  bytes that never reached the disk.

What is not told apart: damage to records synced less than `MARK_INTERVAL_S` before a crash, from a torn write.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from consensus import wal_format as form
from consensus.disk import REAL, FileSystem, LogDisk
from consensus.errors import LogClosed, LogCompacted, LogDamaged, LogFailed
from consensus.wal_snapshot import seal
from consensus.wal_survey import (
    LOCK_NAME,
    MARK_NAME,
    MARK_SLOT_BYTES,
    SPARE_NAME,
    Inspection,
    SegmentReport,
    SnapshotReport,
    Survey,
    inspect,
    read_snapshot,
    snapshot_name,
    survey,
)

__all__ = ["MARK_INTERVAL_S", "SEGMENT_BYTES", "Inspection", "Recovery", "Wal", "inspect"]

SEGMENT_BYTES: Final = 64 * 1024 * 1024
MARK_INTERVAL_S: Final = 0.1
SNAPSHOTS_KEPT: Final = 2  # the newest, and one to fall back on
APPEND_BYTES_MAX: Final = 256 * 1024 * 1024
_SLICE_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Recovery:
    """What opening found and did, for the agent's log. torn_bytes: length of the tail that was cut, at torn_offset."""

    torn_path: Path | None = None
    torn_offset: int = 0
    torn_bytes: int = 0
    damaged_snapshots: tuple[SnapshotReport, ...] = ()


@dataclass(slots=True)
class _Segment:
    path: Path
    first: int
    last: int
    end: int
    chain: int  # CRC of the last record
    size: int


class Wal:
    """The log of one agent, its entries numbered from 1.

    `append`, `sync`, `mark`, `compact` and `close` belong to one thread. `prepare`, `save_snapshot`, `snapshot` and
    `read` may be called from another one meanwhile. After `LogFailed` everything but `close` is refused.
    """

    def __init__(
        self, disk: LogDisk, directory: Path, lock: int, segment_bytes: int, clock: Callable[[], float]
    ) -> None:
        """Private: use `Wal.open`."""
        self._disk = disk
        self._directory = directory
        self._files = [lock]  # closed in `close`
        self._segment_bytes = segment_bytes
        self._clock = clock
        self._closed = False
        self._spare_lock, self._snapshot_lock, self._mark_lock = threading.Lock(), threading.Lock(), threading.Lock()
        self._spare_bytes = 0  # of the next segment, as far as it is known to be ready
        self._segments: list[_Segment] = []
        self._snapshots: list[SnapshotReport] = []
        self.recovery = Recovery()

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        io: FileSystem = REAL,
        clock: Callable[[], float] = time.monotonic,
        check: Callable[[LogDisk, Survey], None] | None = None,
    ) -> Wal:
        """Open the log in `directory`, made if missing; what was done to a torn tail is in `recovery`.

        segment_bytes: size of new segments. clock: monotonic seconds. check: called with what was found in the
        directory, before anything is changed; what it raises is raised.
        Raises LogDamaged, LogTooNew, LogLocked, LogFull, LogFailed.
        """
        if segment_bytes <= form.SEGMENT_HEADER_BYTES:
            raise ValueError(f"segment_bytes must be more than {form.SEGMENT_HEADER_BYTES}, not {segment_bytes}")
        disk = LogDisk(io)
        disk.make_directory(directory)
        wal = cls(disk, directory, disk.lock(directory / LOCK_NAME), segment_bytes, clock)
        try:
            wal._recover(check)
        except BaseException:
            wal._release()
            raise
        return wal

    # -- recovery ------------------------------------------------------------------------------------------------

    def _recover(self, check: Callable[[LogDisk, Survey], None] | None) -> None:
        found = survey(self._disk, self._directory)
        if check is not None:
            check(self._disk, found)
        for path in found.temporary:
            self._disk.unlink(path)
        self._mark = found.mark or self._create_mark()
        self._mark_file = self._keep_open(self._directory / MARK_NAME)
        self._marked_at = self._clock()
        self._salt = form.salt_of(self._mark.log_id)
        self._snapshots = [one for one in found.snapshots if one.problem is None]
        self._segments = [
            _Segment(one.path, one.first_index, one.last_index, one.end, one.chain_after, one.size)
            for one in found.segments
        ]
        # A process killed before its directory sync leaves names that a power cut would still take away.
        self._disk.fsync_dir(self._directory)
        self._last = self._durable = 0
        if self._segments:
            self._settle(found.segments[-1])
        else:
            self._begin_segment(0)
        damaged = tuple(one for one in found.snapshots if one.problem is not None)
        torn = found.segments[-1] if found.segments and found.segments[-1].nonzero_end > self._active.end else None
        self.recovery = Recovery(
            torn_path=torn.path if torn else None,
            torn_offset=torn.end if torn else 0,
            torn_bytes=torn.nonzero_end - torn.end if torn else 0,
            damaged_snapshots=damaged,
        )

    def _create_mark(self) -> form.Mark:
        mark = form.Mark(self._disk.random(form.LOG_ID_BYTES), 1, 0)
        path = self._directory / MARK_NAME
        self._disk.publish(path, [bytes(MARK_SLOT_BYTES), form.encode_mark(mark).ljust(MARK_SLOT_BYTES, b"\0")])
        return mark

    def _settle(self, tail: SegmentReport) -> None:
        """Write the last segment's unmarked records again, zeros over what is torn behind them; sync, read back."""
        self._file = self._keep_open(tail.path)
        length = tail.nonzero_end - tail.durable_end
        if length > 0:
            kept = self._disk.pread(self._file, tail.end - tail.durable_end, tail.durable_end)
            settled = kept.ljust(length, b"\0")
            self._disk.pwrite(self._file, settled, tail.durable_end)
            self._disk.fdatasync(self._file)
            if self._disk.pread(self._file, length, tail.durable_end) != settled:
                raise LogFailed(
                    f"{tail.path}: what was written at {tail.durable_end} reads back otherwise: a bad disk."
                )
        self._last = self._durable = tail.last_index
        if self._durable > self._mark.index:
            self.mark()

    # -- what is there -------------------------------------------------------------------------------------------

    @property
    def first_index(self) -> int:
        """Index of the oldest entry that is there; `last_index` + 1 if there is none."""
        return self._segments[0].first

    @property
    def last_index(self) -> int:
        """Index of the newest entry appended; 0 = there never was one."""
        return self._last

    @property
    def durable_index(self) -> int:
        """Index of the newest entry that `sync` made durable. Only up to here may anything be acknowledged."""
        return self._durable

    @property
    def log_id(self) -> bytes:
        """16 random bytes, given to this directory when it was made."""
        return self._mark.log_id

    @property
    def disk(self) -> LogDisk:
        """For files that lie beside the log: what fails there fails the log as well, and the other way round."""
        return self._disk

    @property
    def snapshots(self) -> tuple[int, ...]:
        """Indexes of the sound snapshots, ascending. `compact(snapshots[0])` keeps the older one useful."""
        return tuple(one.index for one in self._snapshots)

    @property
    def _active(self) -> _Segment:
        return self._segments[-1]

    def read(self, from_index: int) -> Iterator[tuple[int, bytes]]:
        """Entries from `from_index` to the last one appended so far, in order, each checked again.

        Raises LogCompacted if it is before `first_index`, LogDamaged at a record that has changed since.
        """
        self._check_open()
        if from_index < self.first_index:
            raise LogCompacted(
                f"{self._directory}: entry {from_index} was dropped; the log begins at {self.first_index}"
            )
        return self._read(from_index, self._last, list(self._segments))

    def _read(self, from_index: int, to_index: int, segments: list[_Segment]) -> Iterator[tuple[int, bytes]]:
        for segment in segments:
            if segment.last < from_index or segment.first > to_index:
                continue
            upto = min(segment.last, to_index)
            buffer = self._read_file(segment.path, segment.end)
            index, end = segment.first - 1, form.SEGMENT_HEADER_BYTES
            for record in form.walk(buffer, form.decode_segment_header(buffer)):
                index, end = record.index, record.end
                if index > upto:
                    break
                if index >= from_index:
                    yield index, buffer[record.data_start : record.data_end]
            if index < upto:
                raise LogDamaged(segment.path, end, f"record {index + 1} is damaged")

    def _read_file(self, path: Path, length: int) -> bytes:
        try:
            file = self._disk.open(path, write=False)
        except FileNotFoundError as error:
            raise LogCompacted(f"{path}: was dropped while it was to be read") from error
        try:
            return self._disk.pread(file, length, 0)
        finally:
            self._disk.close(file)

    # -- appending -----------------------------------------------------------------------------------------------

    def append(self, records: Sequence[bytes]) -> int:
        """Append entries, all of them or none. They are durable only when a later `sync` has returned.

        Returns the index of the last entry. Raises LogFull (nothing was appended, the log goes on), LogFailed,
        ValueError for a record of more than 64 MiB or a batch of more than 256 MiB.
        """
        self._check_open()
        size = sum(form.record_bytes(len(record)) for record in records)
        if size > APPEND_BYTES_MAX or any(len(record) > form.RECORD_BYTES_MAX for record in records):
            raise ValueError(
                f"a batch of {size} bytes: a record may have {form.RECORD_BYTES_MAX}, a batch {APPEND_BYTES_MAX}"
            )
        if not records:
            return self._last
        if self._active.end + size > self._active.size:
            self._roll(size)
        segment = self._active
        data, chain = form.encode_records(records, self._last + 1, segment.chain, self._durable, self._salt)
        # A full disk may leave a part of this behind the tail. It is overwritten, or cut when the log is opened:
        # no record of it says that anything of this place was durable.
        self._disk.pwrite(self._file, data, segment.end)
        segment.end += size
        segment.chain = chain
        self._last += len(records)
        segment.last = self._last
        return self._last

    def sync(self) -> int:
        """Make everything appended durable, with one fdatasync. Returns `durable_index`. Raises LogFailed."""
        self._check_open()
        if self._last > self._durable:
            self._disk.fdatasync(self._file)
            self._durable = self._last
        if self.mark_due_s == 0.0:
            self.mark()
        return self._durable

    @property
    def mark_due_s(self) -> float | None:
        """Seconds until `mark` ought to be called if no `sync` comes before; None = there is nothing to mark."""
        if self._durable <= self._mark.index:
            return None
        return max(0.0, self._marked_at + MARK_INTERVAL_S - self._clock())

    def mark(self) -> None:
        """Note on disk how far the log is durable. `sync` does it when it is due; call it when no more comes."""
        self._check_open()
        with self._mark_lock:
            if self._durable > self._mark.index:
                mark = form.Mark(self._mark.log_id, self._mark.sequence + 1, self._durable)
                slot = mark.sequence % 2 * MARK_SLOT_BYTES
                # A full disk cannot be meant here, the file has its blocks; and `sync` must not seem to be refused.
                self._disk.pwrite(self._mark_file, form.encode_mark(mark), slot, fatal=True)
                self._disk.fdatasync(self._mark_file)
                self._mark = mark
            self._marked_at = self._clock()

    def prepare(self) -> bool:
        """Have the next segment ready, so that `append` need not wait for it. Takes as long as writing its zeros.

        Returns True if it had to be made. Raises LogFull, LogFailed. Also what keeps a reserve on a nearly full disk.
        """
        self._check_open()
        with self._spare_lock:
            return self._prepare(self._segment_bytes)

    def _prepare(self, size: int) -> bool:
        path = self._directory / SPARE_NAME
        try:
            file = self._disk.open(path, write=False)
        except FileNotFoundError:
            pass  # the usual case: the last one has become a segment
        else:
            there = self._disk.size(file)
            self._disk.close(file)
            if there >= size:
                self._spare_bytes = there
                return False
        whole, rest = divmod(size, _SLICE_BYTES)
        self._disk.publish(path, (bytes(length) for length in [_SLICE_BYTES] * whole + [rest] if length), reserve=size)
        self._spare_bytes = size
        return True

    @property
    def room_bytes(self) -> int:
        """Bytes that can be appended without new room on the disk: the rest of this segment, and the next if ready."""
        return self._active.size - self._active.end + max(0, self._spare_bytes - form.SEGMENT_HEADER_BYTES)

    @property
    def spare_ready(self) -> bool:
        """Whether the next segment is ready; `prepare` makes it so."""
        return self._spare_bytes > 0

    def _roll(self, need: int) -> None:
        self.sync()
        old = self._file
        self._begin_segment(need)
        self._files.remove(old)
        self._disk.close(old)

    def _begin_segment(self, need: int) -> None:
        """Give the spare its header and its name. Everything before it is synced."""
        spare = self._directory / SPARE_NAME
        first = self._last + 1
        chain = self._active.chain if self._segments else self._salt
        header = form.encode_segment_header(form.SegmentHeader(self._mark.log_id, first, chain))
        with self._spare_lock:
            self._prepare(max(self._segment_bytes, form.SEGMENT_HEADER_BYTES + need))
            file = self._disk.open(spare)
            try:
                size = self._disk.size(file)
                self._disk.pwrite(file, header, 0)
                self._disk.fdatasync(file)
                path = self._directory / f"{first:016x}.wal"
                self._disk.rename(spare, path)
                self._spare_bytes = 0
                self._disk.fsync_dir(self._directory)
            except BaseException:
                self._disk.close(file)
                raise
        self._files.append(file)
        self._file = file
        if self._segments and self._active.path == path:
            self._segments.pop()  # it was empty and too small for the batch: the new one has taken its name
        self._segments.append(_Segment(path, first, first - 1, len(header), chain, size))

    # -- snapshots -----------------------------------------------------------------------------------------------

    def save_snapshot(self, index: int, data: bytes | bytearray | memoryview | Iterable[bytes]) -> None:
        """Store the state after entry `index`, durably; the newest two are kept. Drops nothing of the log.

        data: the state's bytes, at once or in chunks. Raises ValueError for an index that is not durable or older
        than the newest snapshot, LogFull (the snapshots that were there stay), LogFailed.
        """
        self._check_open()
        with self._snapshot_lock:
            path = self._snapshot_path(index)
            chunks = [bytes(data)] if isinstance(data, bytes | bytearray | memoryview) else data
            size = self._disk.publish(path, form.encode_snapshot(self._mark.log_id, index, chunks))
            self._keep_newest(index, path, size - form.SNAPSHOT_HEADER_BYTES - form.SNAPSHOT_TRAILER_BYTES)

    def adopt_snapshot(self, index: int, source: Path, size: int, checksum: int) -> None:
        """As `save_snapshot`, of bytes that lie in a file of this directory already: it is renamed, not copied.

        source: behind SNAPSHOT_HEADER_BYTES of room it holds the state, `size` bytes of CRC-32C `checksum`. Raises as
        `save_snapshot`, and LogDamaged where it reads back otherwise; the file then keeps its name.
        """
        self._check_open()
        with self._snapshot_lock:
            path = self._snapshot_path(index)
            seal(self._disk, source, form.encode_snapshot_header(self._mark.log_id, index), size, checksum)
            self._disk.rename(source, path)
            self._disk.fsync_dir(self._directory)
            self._keep_newest(index, path, size)

    def _snapshot_path(self, index: int) -> Path:
        newest = self._snapshots[-1].index if self._snapshots else 0
        if not max(newest, 1) <= index <= self._durable:
            raise ValueError(f"a snapshot of {index}: it must be from {max(newest, 1)} to {self._durable}")
        if index > self._mark.index:
            self.mark()
        return self._directory / snapshot_name(index)

    def _keep_newest(self, index: int, path: Path, size: int) -> None:
        older = [one for one in self._snapshots if one.index < index]
        self._snapshots = [*older, SnapshotReport(path, index, size)][-SNAPSHOTS_KEPT:]
        kept = {one.path.name for one in self._snapshots}
        for name in self._disk.listdir(self._directory):
            if name.endswith(".snap") and name not in kept:
                self._disk.discard(self._directory / name)
        self._disk.fsync_dir(self._directory)

    def snapshot(self) -> tuple[int, bytes] | None:
        """The newest sound snapshot as (index, the bytes given to `save_snapshot`); None = there is none.

        Raises LogDamaged if it has changed since the log was opened.
        """
        self._check_open()
        with self._snapshot_lock:
            if not self._snapshots:
                return None
            newest = self._snapshots[-1]
            checked = read_snapshot(self._disk, newest.path, self._mark.log_id)
            if checked.problem is not None:
                raise LogDamaged(newest.path, 0, checked.problem)
            data = self._read_file(newest.path, form.SNAPSHOT_HEADER_BYTES + checked.size)
            return newest.index, data[form.SNAPSHOT_HEADER_BYTES :]

    def compact(self, index: int) -> int:
        """Drop whole segments that hold nothing above `index`, nor above the newest durable snapshot.

        Returns `first_index`. To be able to fall back on the older snapshot, pass `snapshots[0]`.
        """
        self._check_open()
        covered = min(index, self._snapshots[-1].index if self._snapshots else 0)
        while len(self._segments) > 1 and self._segments[0].last <= covered:
            self._disk.unlink(self._segments[0].path)
            # One at a time: otherwise a crash may take away a later one and leave this, a hole in the log.
            self._disk.fsync_dir(self._directory)
            self._segments = self._segments[1:]
        return self.first_index

    # -- the rest ------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Mark what is durable and let the directory go. What was not synced may be lost. Idempotent."""
        if self._closed:
            return
        try:
            if not self._disk.failed:
                self.mark()
        finally:
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _release(self) -> None:
        self._closed = True
        while self._files:
            self._disk.close(self._files.pop())

    def _check_open(self) -> None:
        if self._closed:
            raise LogClosed(f"{self._directory}: the log is closed")
        self._disk.check()

    def _keep_open(self, path: Path) -> int:
        file = self._disk.open(path)
        self._files.append(file)
        return file
