"""The few things the log asks of a file system, the real one, and the translation of its errors.

Everything goes through `FileSystem`, so that tests put a disk there which loses, tears and refuses on purpose.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from consensus.errors import LogFailed, LogFull, LogLocked

TEMPORARY: Final = ".tmp"  # the end of an unfinished file's name

_T = TypeVar("_T")
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class FileSystem(Protocol):
    """What the log needs from an operating system. Files are named by small integers; errors are OSError."""

    def make_directory(self, path: Path) -> None:
        """Create `path` and its missing parents, durably."""

    def lock(self, path: Path) -> int:
        """Create `path` if need be and hold it alone until `close`; BlockingIOError if another holds it."""

    def open(self, path: Path, *, create: bool = False, write: bool = True) -> int:
        """Open for reading, and writing too if `write`; with `create`, make it, or empty it if there is one."""

    def close(self, file: int) -> None:
        """Give the file, and a lock on it, back."""

    def size(self, file: int) -> int:
        """Length in bytes."""

    def pwrite(self, file: int, data: bytes, offset: int) -> None:
        """Write all of `data` at `offset`, or raise."""

    def pread(self, file: int, length: int, offset: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the end of the file."""

    def fallocate(self, file: int, length: int) -> None:
        """Reserve space for `length` bytes, so that writes below it do not run out of it."""

    def fdatasync(self, file: int) -> None:
        """Return when the file's data, and what is needed to find them, are on the disk."""

    def fsync_dir(self, path: Path) -> None:
        """Return when the names in the directory `path` are on the disk."""

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name at once, replacing what had it."""

    def unlink(self, path: Path) -> None:
        """Remove a name."""

    def listdir(self, path: Path) -> list[str]:
        """Names in a directory."""

    def random(self, length: int) -> bytes:
        """Random bytes, for the log's own id."""


class RealFileSystem:
    """The operating system's."""

    def make_directory(self, path: Path) -> None:
        if path.is_dir():
            return
        self.make_directory(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        self.fsync_dir(path.parent)

    def lock(self, path: Path) -> int:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            raise
        return file

    def open(self, path: Path, *, create: bool = False, write: bool = True) -> int:
        flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC | (os.O_CREAT | os.O_TRUNC if create else 0)
        return os.open(path, flags, 0o600)

    def close(self, file: int) -> None:
        os.close(file)

    def size(self, file: int) -> int:
        return os.fstat(file).st_size

    def pwrite(self, file: int, data: bytes, offset: int) -> None:
        written = os.pwrite(file, data, offset)
        while written < len(data):
            written += os.pwrite(file, memoryview(data)[written:], offset + written)

    def pread(self, file: int, length: int, offset: int) -> bytes:
        data = os.pread(file, length, offset)
        while len(data) < length and (more := os.pread(file, length - len(data), offset + len(data))):
            data += more
        return data

    def fallocate(self, file: int, length: int) -> None:
        os.posix_fallocate(file, 0, length)

    def fdatasync(self, file: int) -> None:
        os.fdatasync(file)

    def fsync_dir(self, path: Path) -> None:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def listdir(self, path: Path) -> list[str]:
        return os.listdir(path)  # noqa: PTH208  names are wanted, not paths

    def random(self, length: int) -> bytes:
        return os.urandom(length)


REAL: Final = RealFileSystem()


class LogDisk:
    """A `FileSystem` whose errors are the log's, and which does nothing any more once it has failed.

    After a failed fsync the kernel may call pages clean that never reached the disk, so a second try would say "done"
    without having done it (Rebello et al., "Can applications recover from fsync failures?", ATC 2020).
    """

    def __init__(self, io: FileSystem) -> None:
        self._io = io
        self._failure: str | None = None
        self._paths: dict[int, Path] = {}

    @property
    def failed(self) -> bool:
        """True once a write, sync or read has failed."""
        return self._failure is not None

    def check(self) -> None:
        """Raises LogFailed once the disk has failed."""
        if self._failure is not None:
            raise LogFailed(self._failure)

    def _call(self, what: str, path: Path, operation: Callable[..., _T], *arguments: Any, fatal: bool = False) -> _T:
        self.check()
        try:
            return operation(*arguments)
        except FileNotFoundError:
            raise  # a name that is not there is an answer; the caller knows what it means
        except OSError as error:
            if error.errno in _FULL and not fatal:
                raise LogFull(
                    f"{path}: no space left to {what}. Free some on this file system; nothing was lost."
                ) from error
            self._failure = (
                f"{path}: could not {what}: {error.strerror or error}. The log stops here and what was not yet durable "
                "is unknown. Check the disk, then start the agent again."
            )
            raise LogFailed(self._failure) from error

    def make_directory(self, path: Path) -> None:
        """Create a directory and its parents, durably."""
        self._call("create the directory", path, self._io.make_directory, path)

    def lock(self, path: Path) -> int:
        """Hold `path` alone. Raises LogLocked."""
        try:
            return self._open("lock", path, lambda: self._io.lock(path))
        except LogFailed as error:
            if isinstance(error.__cause__, BlockingIOError):
                raise LogLocked(
                    f"{path.parent}: another process holds {path.name}, probably a running agent. "
                    "Stop it, or give this one a directory of its own."
                ) from error
            raise

    def open(self, path: Path, *, create: bool = False, write: bool = True) -> int:
        """Open a file, made or emptied with `create`. Raises FileNotFoundError, LogFull, LogFailed."""
        return self._open("open", path, lambda: self._io.open(path, create=create, write=write))

    def _open(self, what: str, path: Path, operation: Callable[[], int]) -> int:
        file = self._call(what, path, operation)
        self._paths[file] = path
        return file

    def close(self, file: int) -> None:
        """Close a file, also after a failure: nothing durable depends on it."""
        del self._paths[file]
        self._io.close(file)

    def size(self, file: int) -> int:
        """Length in bytes."""
        return self._call("stat", self._paths[file], self._io.size, file)

    def pwrite(self, file: int, data: bytes, offset: int, *, fatal: bool = False) -> None:
        """Write all. Raises LogFull, LogFailed; with `fatal` every error is LogFailed."""
        what = f"write {len(data)} bytes at {offset}"
        self._call(what, self._paths[file], self._io.pwrite, file, data, offset, fatal=fatal)

    def pread(self, file: int, length: int, offset: int) -> bytes:
        """Read up to `length` bytes."""
        return self._call("read", self._paths[file], self._io.pread, file, length, offset)

    def fallocate(self, file: int, length: int) -> None:
        """Reserve space. Raises LogFull, LogFailed."""
        self._call(f"reserve {length} bytes", self._paths[file], self._io.fallocate, file, length)

    def fdatasync(self, file: int) -> None:
        """Make a file durable. Every error is LogFailed, a full disk too: the pages are lost."""
        self._call("sync", self._paths[file], self._io.fdatasync, file, fatal=True)

    def fsync_dir(self, path: Path) -> None:
        """Make the names in a directory durable. Every error is LogFailed."""
        self._call("sync the directory", path, self._io.fsync_dir, path, fatal=True)

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file."""
        self._call(f"rename {source.name}", target, self._io.rename, source, target)

    def unlink(self, path: Path) -> None:
        """Remove a name."""
        self._call("remove", path, self._io.unlink, path)

    def discard(self, path: Path) -> None:
        """Remove a name that is not needed any more, if it is there; a disk too full even for that keeps it."""
        with suppress(FileNotFoundError, LogFull):
            self.unlink(path)

    def listdir(self, path: Path) -> list[str]:
        """Names in a directory, sorted."""
        return sorted(self._call("list", path, self._io.listdir, path))

    def random(self, length: int) -> bytes:
        """Random bytes."""
        return self._io.random(length)

    def publish(self, path: Path, chunks: Iterable[bytes], reserve: int = 0) -> int:
        """Make a file whole or not at all: written under a temporary name, synced, renamed. Returns its size in bytes.

        reserve: bytes to ask of the file system first. Raises LogFull, LogFailed, and what `chunks` raise.
        """
        temporary = path.with_name(path.name + TEMPORARY)
        file = self.open(temporary, create=True)
        try:
            size = 0
            if reserve:
                self.fallocate(file, reserve)
            for chunk in chunks:
                self.pwrite(file, chunk, size)
                size += len(chunk)
            self.fdatasync(file)
            self.rename(temporary, path)
        except BaseException:
            if not self.failed:
                self.discard(temporary)  # its space is needed on a full disk
            raise
        finally:
            self.close(file)
        self.fsync_dir(path.parent)
        return size
