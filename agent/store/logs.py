"""Where attempts' output is on this agent's disk, how it is read and followed, and when it goes.

`<root>/<run>/<instance>/<attempt>/000001.log`, ...: what the files hold is `executors/segments.py`'s.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shutil
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from agent.store.errors import LogsError
from executors import segments
from executors.base import LogLine, Stream
from executors.errors import ExecutorError
from executors.segments import Cursor, Gap, SegmentWriter

KEEP_MS = 15 * 24 * 3600 * 1000
MAX_BYTES = 20 * 1024**3
LIMIT_BYTES = 256 * 1024 * 1024
POLL_S = 0.15

NO_OTHERS: Final[Mapping[str, int]] = MappingProxyType({})

_NAME_BYTES_MAX = 255
_ATTEMPT = re.compile(r"[1-9][0-9]{0,17}")
_EMPTY_KEEP_MS = 3600 * 1000  # a folder that empties may be about to get the next attempt


@dataclass(frozen=True, slots=True)
class End:
    """The attempt has ended and all its output has been given."""


@dataclass(frozen=True, slots=True)
class LogRef:
    """One attempt's log. size: bytes; written_ms: when it was last written to, milliseconds since the epoch."""

    run_id: str
    instance: str
    attempt: int
    size: int
    written_ms: int


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep removed, the bytes of all logs that are left, and what is due but may not go yet."""

    removed: tuple[LogRef, ...]
    left_bytes: int
    held: tuple[LogRef, ...] = ()


class LogStore:
    """The logs of attempts below `root`. Every method raises LogsError for a name that is no file's name."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def directory(self, run_id: str, instance: str, attempt: int) -> Path:
        """Where this attempt's segments are, or will be; always three levels below the root."""
        if attempt < 1:
            raise LogsError(f"attempt {attempt} of {run_id!r} cannot have a log: attempts count from 1")
        return self._root / _name(run_id) / _name(instance) / str(attempt)

    def writer(
        self,
        run_id: str,
        instance: str,
        attempt: int,
        *,
        limit_bytes: int = LIMIT_BYTES,
        segment_bytes: int = segments.SEGMENT_BYTES,
    ) -> SegmentWriter:
        """A writer that goes on where this attempt's log ends; the caller closes it.

        Raises LogsError where another writer is at work or the disk refuses.
        """
        directory = self.directory(run_id, instance, attempt)
        with _errors(directory):
            return SegmentWriter(directory, limit_bytes=limit_bytes, segment_bytes=segment_bytes)

    def exists(self, run_id: str, instance: str, attempt: int) -> bool:
        """True if there is a log of this attempt here, be it empty."""
        directory = self.directory(run_id, instance, attempt)
        with _errors(directory):
            return bool(segments.segment_numbers(directory))

    def read(
        self,
        run_id: str,
        instance: str,
        attempt: int,
        *,
        since_ns: int = 0,
        stream: Stream | None = None,
        tail: int | None = None,
    ) -> Iterator[LogLine | Gap]:
        """What there is now, in the order written; nothing where there is no log.

        since_ns: nanoseconds since the epoch, inclusive. stream: only this one. tail: only the last so many records.
        Gaps stand where output is missing. It blocks on the disk: in a coroutine, `follow` with `ended=lambda: True`
        gives the same off the event loop.
        """
        directory = self.directory(run_id, instance, attempt)
        return self._read(directory, since_ns, stream, tail)

    def _read(self, directory: Path, since_ns: int, stream: Stream | None, tail: int | None) -> Iterator[LogLine | Gap]:
        with _errors(directory):
            if tail is None:
                yield from segments.read(directory, since_ns=since_ns, stream=stream)
                return
            for record in segments.tail(directory, tail, stream=stream):
                if isinstance(record, Gap) or record.time_ns >= since_ns:
                    yield record

    def follow(
        self,
        run_id: str,
        instance: str,
        attempt: int,
        *,
        ended: Callable[[], bool],
        since_ns: int = 0,
        stream: Stream | None = None,
        poll_s: float = POLL_S,
    ) -> AsyncGenerator[LogLine | Gap | End, None]:
        """What there is, and what comes, each record once, and an End when `ended()` and all was given.

        Who stops reading before the End closes it (`contextlib.aclosing`), so that its file is closed at once.

        ended: true only when nothing more will be written, that is, after the attempt's writer was closed; called on
        the event loop. The log may come later than the call. poll_s: seconds between looks at a quiet log.
        """
        return self._follow(self.directory(run_id, instance, attempt), ended, since_ns, stream, poll_s)

    async def _follow(
        self, directory: Path, ended: Callable[[], bool], since_ns: int, stream: Stream | None, poll_s: float
    ) -> AsyncGenerator[LogLine | Gap | End, None]:
        with Cursor(directory, since_ns=since_ns, stream=stream) as cursor:
            while True:
                is_last = ended()  # asked before the look: what was written before the end is seen by that look
                batch = await _poll(directory, cursor)
                for record in batch:
                    yield record
                if batch:
                    continue
                if is_last:
                    break
                await asyncio.sleep(poll_s)
        yield End()

    async def usage_bytes(self) -> int:
        """Bytes of all logs."""
        return sum(log.size for log in await asyncio.to_thread(self._scan))

    async def sweep(
        self,
        now_ms: int,
        keep_ms: int = KEEP_MS,
        max_bytes: int = MAX_BYTES,
        *,
        active: Callable[[str, str, int], bool],
        keep_of: Mapping[str, int] = NO_OTHERS,
        may_go: Callable[[LogRef], bool] = lambda _log: True,
        note: Callable[[LogRef, str], None] = lambda _log, _why: None,
    ) -> Swept:
        """Remove whole logs: those last written more than `keep_ms` before `now_ms`, then the oldest past `max_bytes`.

        active: may (run, instance, attempt) still be written to? Then it stays. Called on the event loop, just before
        each removal. keep_of: in place of keep_ms, by run. may_go: whether nothing is lost with it; note: called
        before each removal, with why; both in a thread. Raises LogsError where the disk refuses.
        """
        with _errors(self._root):
            logs = await asyncio.to_thread(self._scan)
            left_bytes = sum(log.size for log in logs)
            removed, held = [], []
            for log in sorted(logs, key=lambda log: log.written_ms):
                too_old = log.written_ms < now_ms - keep_of.get(log.run_id, keep_ms)
                if not (too_old or left_bytes > max_bytes) or active(log.run_id, log.instance, log.attempt):
                    continue
                why = "its time was over" if too_old else "the disk's share for output was used up"
                if await asyncio.to_thread(self._remove, log, why, may_go, note):
                    removed.append(log)
                    left_bytes -= log.size
                else:
                    held.append(log)
            await asyncio.to_thread(self._remove_empty, now_ms - _EMPTY_KEEP_MS)
        return Swept(tuple(removed), left_bytes, tuple(held))

    async def all(self) -> list[LogRef]:
        """Every log on this disk. Raises LogsError."""
        with _errors(self._root):
            return await asyncio.to_thread(self._scan)

    def _remove(
        self, log: LogRef, why: str, may_go: Callable[[LogRef], bool], note: Callable[[LogRef, str], None]
    ) -> bool:
        if not may_go(log):
            return False
        note(log, why)
        shutil.rmtree(self.directory(log.run_id, log.instance, log.attempt))
        return True

    def _scan(self) -> list[LogRef]:
        """All logs. What is not named as a log is somebody else's, and left alone."""
        return [_measured(path) for path in self._root.glob("*/*/*") if _ATTEMPT.fullmatch(path.name) and path.is_dir()]

    def _remove_empty(self, before_ms: int) -> None:
        """Remove folders of instances and runs that have been empty for a while."""
        for pattern in ("*/*", "*"):
            for directory in self._root.glob(pattern):
                if directory.is_dir() and directory.stat().st_mtime_ns // 1_000_000 < before_ms:
                    with suppress(OSError):  # not empty, which is the rule
                        directory.rmdir()


def is_written(directory: Path) -> bool:
    """Whether a writer is at work on the log in the directory: of this process or another one, which may outlive it."""
    with _errors(directory):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False


def _measured(directory: Path) -> LogRef:
    size, written_ns = 0, 0
    for path in directory.glob("*.log"):
        with suppress(FileNotFoundError):  # its writer has just deleted it to stay within its limit
            stat = path.stat()
            size += stat.st_size
            written_ns = max(written_ns, stat.st_mtime_ns)
    run_id, instance, attempt = directory.parts[-3:]
    return LogRef(run_id, instance, int(attempt), size, (written_ns or directory.stat().st_mtime_ns) // 1_000_000)


def _name(text: str) -> str:
    if (
        not text
        or text.startswith(".")
        or "/" in text
        or not text.isprintable()
        or len(text.encode(errors="replace")) > _NAME_BYTES_MAX
    ):
        raise LogsError(f"{text!r} is not the name of a run or an instance: no log has it")
    return text


async def _poll(directory: Path, cursor: Cursor) -> list[LogLine | Gap]:
    """The next records. Cancelled, it waits for the thread to let go of the cursor, as that is closed next."""
    look = asyncio.ensure_future(asyncio.to_thread(cursor.poll))
    try:
        with _errors(directory):
            return await asyncio.shield(look)
    finally:
        await asyncio.wait([look])


@contextmanager
def _errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ExecutorError) as error:
        raise LogsError(f"log {directory}: {error}; check the disk") from error
