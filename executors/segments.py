"""Log files: output lines with time and stream, in bounded, numbered segments.

A directory holds `000001.log`, `000002.log`, ... in CRI's format, one record a line:

    2016-10-06T00:17:09.669794202Z stdout F text

A record's data is every byte of a line up to its newline, whatever those bytes are. Tag `F` ends a line; tag `P` says
that the line goes on in that stream's next record. A `P` that is never followed is a last line without a newline.
So the exact output of a stream is: each record's data, and a newline after each `F`.

Past the limit the oldest segments but the first are deleted. A missing number is the mark of what is missing, whether
it was deleted or could not be written because the disk was full (P12: bounded, and it says so).
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Self

from executors.base import LogLine, Stream
from executors.errors import ExecutorError

SEGMENT_BYTES = 8 * 1024 * 1024
RECORD_BYTES = 16 * 1024  # data of one record; longer lines are cut
BATCH_RECORDS = 1000

_TIME_BYTES = 30  # 2016-10-06T00:17:09.669794202Z
_PREFIX_BYTES = 40  # and " stdout F ": both streams' names are six letters
_TAGS = {f" {stream} {tag} ".encode(): (stream, tag == "P") for stream in Stream for tag in "FP"}
_ROOM_BYTES = 64 * 1024 * 1024  # of the disk that output never takes, or its eighth: records of what ended need some
_SEGMENTS_MIN = 4  # within the limit: the first, the last, and some between
_BLOCK_BYTES = 256 * 1024
_DISORDER_NS = 60 * 10**9  # two streams copied from an engine may be this far out of order
_FILE_NAME = re.compile(r"(\d{6,})\.log")


@dataclass(frozen=True, slots=True)
class Gap:
    """Output is missing here: whole segments, or bytes of a segment that are no record (P9: damage is shown)."""

    missing_segments: int
    damaged_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Position:
    """The place in a log just after a record: number of a segment, bytes into it."""

    segment: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """A stream's last time (ns since the epoch), and how many of its records at the log's end carry that time."""

    time_ns: int
    records: int


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


@lru_cache(maxsize=64)
def _epoch_ns(text: bytes) -> int | None:
    try:
        return int(datetime.fromisoformat(f"{text.decode()}+00:00").timestamp()) * 10**9
    except ValueError:
        return None


def _prefix(time_ns: int, stream: Stream, tag: str) -> bytes:
    seconds, nanoseconds = divmod(time_ns, 10**9)
    return f"{_second(seconds)}.{nanoseconds:09d}Z {stream} {tag} ".encode()


def parse_record(raw: bytes) -> LogLine | None:
    """One record without its newline as a LogLine; None if it is damaged."""
    head = _TAGS.get(raw[_TIME_BYTES:_PREFIX_BYTES])
    fraction = raw[20:29]
    if head is None or raw[19:20] != b"." or raw[29:30] != b"Z" or not fraction.isdigit():
        return None
    seconds_ns = _epoch_ns(raw[:19])
    if seconds_ns is None:
        return None
    return LogLine(seconds_ns + int(fraction), head[0], raw[_PREFIX_BYTES:], head[1])


def _path(directory: Path, number: int) -> Path:
    return directory / f"{number:06d}.log"


def segment_numbers(directory: Path) -> list[int]:
    """Numbers of the segments in `directory`, ascending; empty if there is no such directory."""
    try:
        names = os.listdir(directory)  # noqa: PTH208  half the cost of iterdir, and followers ask often
    except FileNotFoundError:
        return []
    return sorted(int(match[1]) for match in map(_FILE_NAME.fullmatch, names) if match)


def _whole_bytes(file: BinaryIO) -> int:
    """Bytes up to and with the last newline: what comes after is torn, or still being written."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _BLOCK_BYTES)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


class SegmentWriter:
    """Writes one attempt's log. One at a time for a directory, also among processes.

    directory: created if missing. A log that is already there goes on: a record torn by a crash is cut off.
    limit_bytes: bound of all segments together; less than 68 KiB counts as 68 KiB.
    segment_bytes: size of a segment; smaller where the limit would hold less than four.
    Raises ExecutorError if another writer is at work, OSError from the file system.
    """

    def __init__(self, directory: Path, *, limit_bytes: int, segment_bytes: int = SEGMENT_BYTES) -> None:
        record_bytes_max = _PREFIX_BYTES + RECORD_BYTES + 1
        self._segment_bytes = max(min(segment_bytes, limit_bytes // _SEGMENTS_MIN), record_bytes_max)
        self._limit_bytes = max(limit_bytes, self._segment_bytes * _SEGMENTS_MIN)
        self._rest: dict[Stream, tuple[bytes, int]] = {}  # an unfinished line and the time of its last bytes
        self._lost = False  # a write failed: the next must leave a gap
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._lock_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._lock_and_resume()
        except BaseException:
            os.close(self._lock_fd)
            raise

    def _lock_and_resume(self) -> None:
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ExecutorError(f"{self._directory}: another writer is at work on this log") from None
        numbers = segment_numbers(self._directory) or [1]
        self._first, self._number = numbers[0], numbers[-1]
        self._sealed = {number: _path(self._directory, number).stat().st_size for number in numbers[:-1]}
        self._fd = self._open(os.O_CREAT)
        with open(self._fd, "rb", closefd=False) as file:
            self._size = _whole_bytes(file)
        os.ftruncate(self._fd, self._size)

    def _open(self, flags: int) -> int:
        return os.open(_path(self._directory, self._number), os.O_RDWR | os.O_APPEND | flags, 0o640)

    def write(self, stream: Stream, data: bytes, time_ns: int) -> None:
        """Append output as it was read: any bytes, cut anywhere. A line is recorded when its newline comes.

        time_ns: when it was read. Raises OSError (a full disk): up to all of `data` is lost, and the writer is as
        good as before; the next write that succeeds leaves a gap in the numbers.
        """
        if stream in self._rest:
            data = self._rest.pop(stream)[0] + data
        body, newline, rest = data.rpartition(b"\n")
        whole = len(rest) // RECORD_BYTES * RECORD_BYTES
        if whole == len(rest):
            whole = max(0, whole - RECORD_BYTES)  # a newline may follow: no empty record then
        if len(rest) > whole:
            self._rest[stream] = (rest[whole:], time_ns)
        blob = _encode(body, stream, time_ns, "F") if newline else b""
        if whole:
            blob += _encode_part(rest[:whole], stream, time_ns)
        self._append(blob)

    def write_line(self, line: LogLine) -> None:
        """Append a record that was made elsewhere, its time and tag kept (a copy of an engine's log).

        Raises ValueError if it holds a newline, OSError as `write`.
        """
        if b"\n" in line.data:
            raise ValueError(f"a record holds a newline: {line.data[:80]!r}")
        rest = self._rest.pop(line.stream, None)
        blob = _encode_part(rest[0], line.stream, rest[1]) if rest else b""
        blob += (
            _encode_part(line.data, line.stream, line.time_ns)
            if line.partial
            else _encode(line.data, line.stream, line.time_ns, "F")
        )
        self._append(blob)

    def flush(self) -> None:
        """Record unfinished lines now, with tag P. Raises OSError as `write`."""
        rests, self._rest = self._rest, {}
        self._append(b"".join(_encode_part(data, stream, time_ns) for stream, (data, time_ns) in rests.items()))

    def close(self) -> None:
        """Flush, make durable, and let the next writer in. Raises OSError if the last records were lost."""
        try:
            self.flush()
            os.fdatasync(self._fd)
        finally:
            os.close(self._fd)
            os.close(self._lock_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, blob: bytes) -> None:
        """Write whole records, turning to new segments between them."""
        if self._lost and blob:
            # One gap is enough: a segment that follows one and is still empty serves.
            after_gap = self._number != self._first and self._number - 1 not in self._sealed
            if self._size or not after_gap:
                self._roll(skip=1)
            self._lost = False
        view = memoryview(blob)
        start = 0
        while start < len(blob):
            room = max(0, self._segment_bytes - self._size)
            end = len(blob) if len(blob) - start <= room else blob.rfind(b"\n", start, start + room) + 1
            if end:
                self._write_all(view[start:end])
                start = end
            else:
                self._roll()

    def _write_all(self, view: memoryview) -> None:
        size = self._size + len(view)
        try:
            self._leave_room(len(view))
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            self._lost = True
            os.ftruncate(self._fd, self._size)  # whole records only
            raise
        self._size = size

    def _leave_room(self, size: int) -> None:
        disk = os.fstatvfs(self._fd)
        if (disk.f_bavail * disk.f_frsize) - size < min(_ROOM_BYTES, disk.f_blocks * disk.f_frsize // 8):
            raise OSError(errno.ENOSPC, "the disk is full but for what is kept for records")

    def _roll(self, skip: int = 0) -> None:
        before, number = self._fd, self._number
        self._number += 1 + skip
        try:
            self._fd = self._open(os.O_CREAT | os.O_EXCL)
        except OSError:
            self._number, self._lost = number, True
            raise
        os.close(before)
        self._sealed[number], self._size = self._size, 0
        while sum(self._sealed.values()) + self._segment_bytes > self._limit_bytes:
            oldest = min((number for number in self._sealed if number != self._first), default=None)
            if oldest is None:
                break
            _path(self._directory, oldest).unlink(missing_ok=True)
            del self._sealed[oldest]


def _encode(body: bytes, stream: Stream, time_ns: int, tag: str) -> bytes:
    """Lines, the last without its newline, as records."""
    prefix = _prefix(time_ns, stream, tag)
    if _lines_are_short(body):
        return b"%b%b\n" % (prefix, body.replace(b"\n", b"\n" + prefix))
    out = []
    for line in body.split(b"\n"):
        last = max(0, (len(line) - 1) // RECORD_BYTES * RECORD_BYTES)
        out.append(_encode_part(line[:last], stream, time_ns))
        out.append(b"%b%b\n" % (prefix, line[last:]))
    return b"".join(out)


def _encode_part(data: bytes, stream: Stream, time_ns: int) -> bytes:
    """A piece of a line as records with tag P."""
    prefix = _prefix(time_ns, stream, "P")
    pieces = (data[at : at + RECORD_BYTES] for at in range(0, len(data), RECORD_BYTES))
    return b"".join(b"%b%b\n" % (prefix, piece) for piece in pieces)


def _lines_are_short(body: bytes) -> bool:
    """True if no line is longer than a record. Looks for one newline in each window: no cost per line."""
    start = 0
    while len(body) - start > RECORD_BYTES:
        newline = body.rfind(b"\n", start, start + RECORD_BYTES + 1)
        if newline < 0:
            return False
        start = newline + 1
    return True


class Cursor:
    """Reads a log forward, also while it is written: ask again, get what is new.

    It holds the segment it reads open, so a deletion under its feet costs nothing that it had begun.
    since_ns: records before it are left out. stream: only this one; None = both. after: where another cursor was.
    """

    def __init__(
        self, directory: Path, *, since_ns: int = 0, stream: Stream | None = None, after: Position | None = None
    ) -> None:
        self._directory = directory
        self._since_ns = since_ns
        self._stream = stream
        self._file: BinaryIO | None = None
        self._number, self._offset = (after.segment, after.offset) if after else (0, 0)
        self._sealed = False  # a later segment exists: nothing will be added to this one

    @property
    def position(self) -> Position:
        """Just after the last record that was returned or left out."""
        return Position(self._number, self._offset)

    def poll(self, limit: int = BATCH_RECORDS) -> list[LogLine | Gap]:
        """At most `limit` next records; empty if there are none yet."""
        out: list[LogLine | Gap] = []
        while len(out) < limit:
            if self._file is None and not self._open(out):
                break
            assert self._file is not None
            raw = self._file.readline()
            if raw.endswith(b"\n"):
                self._offset += len(raw)
                self._take(raw, out)
            elif not self._end_of_segment(raw, out):
                break
        return out

    def _take(self, raw: bytes, out: list[LogLine | Gap]) -> None:
        line = parse_record(raw[:-1])
        if line is None:
            out.append(Gap(0, damaged_bytes=len(raw)))
        elif line.time_ns >= self._since_ns and self._stream in (None, line.stream):
            out.append(line)

    def _open(self, out: list[LogLine | Gap]) -> bool:
        """Open the segment to begin with; False if there is none."""
        numbers = [number for number in segment_numbers(self._directory) if number >= self._number]
        if not numbers:
            return False
        begin, offset = numbers[0], 0
        if self._number:
            missing = begin - self._number
            offset = 0 if missing else self._offset
        else:
            missing = begin - 1
            if self._since_ns:
                begin = next((number for number in reversed(numbers) if self._starts_before_since(number)), begin)
                missing = missing if begin == numbers[0] else 0  # what is missing before `since` is not asked for
        if not self._open_number(begin, offset):
            return self._open(out)  # deleted since it was listed
        if missing:
            out.append(Gap(missing))
        return True

    def _starts_before_since(self, number: int) -> bool:
        try:
            with _path(self._directory, number).open("rb") as file:
                line = parse_record(file.read(_PREFIX_BYTES))
        except FileNotFoundError:
            return False
        return line is not None and line.time_ns + _DISORDER_NS < self._since_ns

    def _open_number(self, number: int, offset: int) -> bool:
        try:
            file = _path(self._directory, number).open("rb")
        except FileNotFoundError:
            return False  # deleted since it was listed
        self.close()
        file.seek(offset)
        self._file, self._number, self._offset, self._sealed = file, number, offset, False
        return True

    def _end_of_segment(self, torn: bytes, out: list[LogLine | Gap]) -> bool:
        """Turn to the next segment; False if this one is the last, so far."""
        assert self._file is not None
        later = [number for number in segment_numbers(self._directory) if number > self._number]
        if later and self._sealed:
            if torn:
                out.append(Gap(0, damaged_bytes=len(torn)))
                self._offset += len(torn)
            missing = later[0] - self._number - 1
            if self._open_number(later[0], 0) and missing:
                out.append(Gap(missing))
            return True
        # Records may have come between the last read and this look at the directory: read once more before leaving.
        self._sealed = bool(later)
        self._file.seek(self._offset)
        return self._sealed

    def close(self) -> None:
        """Let go of the open segment."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(directory: Path, *, since_ns: int = 0, stream: Stream | None = None) -> Iterator[LogLine | Gap]:
    """All records there are now, in the order written, with a Gap where some are missing."""
    with Cursor(directory, since_ns=since_ns, stream=stream) as cursor:
        while batch := cursor.poll():
            yield from batch


def _backward(directory: Path) -> Iterator[LogLine | Gap]:
    """All records, the last first."""
    after: int | None = None
    for number in reversed(segment_numbers(directory)):
        if after is not None and after - number > 1:
            yield Gap(after - number - 1)
        try:
            file = _path(directory, number).open("rb")
        except FileNotFoundError:
            continue  # deleted since it was listed: the next one's number shows the gap
        after = number
        with file:
            for raw in _lines_backward(file):
                yield parse_record(raw) or Gap(0, damaged_bytes=len(raw) + 1)
    if after is not None and after > 1:
        yield Gap(after - 1)


def _lines_backward(file: BinaryIO) -> Iterator[bytes]:
    end = _whole_bytes(file) - 1  # without the last newline
    if end < 0:
        return
    rest = b""
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        file.seek(start)
        first, *others = (file.read(end - start) + rest).split(b"\n")
        yield from reversed(others)
        rest, end = first, start
    yield rest


def tail(directory: Path, count: int, *, stream: Stream | None = None) -> list[LogLine | Gap]:
    """The last `count` records in the order written, and the gaps among them. Reads only as much as it needs."""
    out: list[LogLine | Gap] = []
    wanted = count
    for record in _backward(directory) if count > 0 else ():
        if isinstance(record, Gap):
            out.append(record)
        elif stream in (None, record.stream):
            out.append(record)
            wanted -= 1
            if not wanted:
                break
    return out[::-1]


def resume_points(directory: Path) -> dict[Stream, ResumePoint]:
    """Where each stream's copy ended: ask the engine for lines since `time_ns`, and skip the first `records` of that
    time, to go on with each line exactly once. A stream without records has no entry.
    """
    points: dict[Stream, ResumePoint] = {}
    open_streams = set(Stream)
    for record in _backward(directory):
        if isinstance(record, Gap) or record.stream not in open_streams:
            continue
        point = points.get(record.stream)
        if point is None:
            points[record.stream] = ResumePoint(record.time_ns, 1)
        elif point.time_ns == record.time_ns:
            points[record.stream] = ResumePoint(point.time_ns, point.records + 1)
        else:
            open_streams.discard(record.stream)
            if not open_streams:
                break
    return points
