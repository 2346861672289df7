"""A simulated disk for `consensus.disk.FileSystem`: what is not synced may be lost, in any order, sector by sector.

Each file has what reads see (the page cache) and what the platter holds. A write goes to the cache and is pending;
`fdatasync` brings the file's pending writes to the platter. Names are the same for directories and `fsync_dir`.
`lose_power` decides for each sector of each pending write, and for each pending name, by the given random numbers
whether it arrived. `kill` ends the process only: the cache stays, also what a failed fsync has left there as clean.

Each step that changes something is counted, so that a test can stop at every one of them.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

SECTOR_BYTES = 512


class PowerLoss(Exception):
    """The machine stopped. Every further step of the same boot raises it too."""


@dataclass(eq=False)
class _File:
    cache: bytearray = field(default_factory=bytearray)
    platter: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes]] = field(default_factory=list)

    def persist(self, arrives: Callable[[], bool]) -> None:
        """Bring those sectors of the pending writes to the platter for which `arrives()`, in the order of writing."""
        for offset, data in self.pending:
            at = 0
            while at < len(data):
                length = min(SECTOR_BYTES - (offset + at) % SECTOR_BYTES, len(data) - at)
                if arrives():
                    _put(self.platter, offset + at, data[at : at + length])
                at += length
        self.pending = []


def _put(target: bytearray, offset: int, data: bytes) -> None:
    if len(target) < offset:
        target.extend(bytes(offset - len(target)))
    target[offset : offset + len(data)] = data


class FaultyDisk:
    """stop_at: the step (from 1) at which the power fails. fail_at: {step: errno} for steps that raise instead.

    capacity: bytes all files together may have; None = no bound.
    """

    def __init__(self, seed: int = 0) -> None:
        self.steps = 0
        self.trace: list[str] = []
        self.stop_at: int | None = None
        self.fail_at: dict[int, int] = {}
        self.capacity: int | None = None
        self._random = random.Random(seed)
        self._names: dict[Path, _File] = {}
        self._durable_names: dict[Path, _File] = {}
        self._pending_names: list[tuple[Path, dict[Path, _File | None]]] = []  # (directory, what one operation changed)
        self._directories: set[Path] = set()
        self._open: dict[int, tuple[Path, _File]] = {}
        self._locked: dict[Path, int] = {}
        self._next = 3
        self._dead = False

    # -- what tests do to it ---------------------------------------------------------------------------------------

    def lose_power(self, arrival: float) -> None:
        """Cut the power and start again. Each pending sector and name has arrived with probability `arrival`."""
        for file in {id(file): file for file in [*self._names.values(), *self._durable_names.values()]}.values():
            file.persist(lambda: self._random.random() < arrival)
        for _, changes in self._pending_names:
            if self._random.random() < arrival:
                _apply(self._durable_names, changes)
        self._pending_names = []
        self._names = dict(self._durable_names)
        for file in self._names.values():
            file.pending = []
            file.cache = bytearray(file.platter)
        self.kill()

    def kill(self) -> None:
        """End the process: locks and open files go, the page cache stays. Clears what was planned to fail."""
        self._open, self._locked = {}, {}
        self._dead, self.stop_at, self.fail_at = False, None, {}

    def flip(self, path: Path, bit: int) -> None:
        """Turn one bit round, in the cache and on the platter."""
        for data in (self._names[path].cache, self._names[path].platter):
            data[bit // 8] ^= 1 << bit % 8

    def content(self, path: Path) -> bytes:
        """What a reader sees."""
        return bytes(self._names[path].cache)

    def names(self) -> list[Path]:
        """All files a reader sees."""
        return sorted(self._names)

    def remove(self, path: Path) -> None:
        """Take a file away behind the program's back."""
        del self._names[path], self._durable_names[path]

    def clone(self, seed: int) -> FaultyDisk:
        """A copy with random numbers of its own, nothing open and no fault planned."""
        other = FaultyDisk(seed)
        files: dict[int, _File] = {}

        def copied(file: _File) -> _File:
            return files.setdefault(id(file), _File(bytearray(file.cache), bytearray(file.platter), list(file.pending)))

        other._names = {path: copied(file) for path, file in self._names.items()}
        other._durable_names = {path: copied(file) for path, file in self._durable_names.items()}
        other._pending_names = [
            (directory, {path: file and copied(file) for path, file in changes.items()})
            for directory, changes in self._pending_names
        ]
        other._directories = set(self._directories)
        return other

    # -- FileSystem ------------------------------------------------------------------------------------------------

    def make_directory(self, path: Path) -> None:
        self._directories.add(path)

    def lock(self, path: Path) -> int:
        if path in self._locked:
            raise BlockingIOError(errno.EWOULDBLOCK, "locked")
        if path not in self._names:
            self._rename_names(path.parent, {path: _File()})
        file = self._handle(path, self._names[path])
        self._locked[path] = file
        return file

    def open(self, path: Path, *, create: bool = False, write: bool = True) -> int:
        if create:
            self._step(f"create {path.name}")
            self._rename_names(path.parent, {path: _File()})
        elif self._dead:
            raise PowerLoss
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return self._handle(path, self._names[path])

    def close(self, file: int) -> None:
        path, _ = self._open.pop(file)
        if self._locked.get(path) == file:
            del self._locked[path]

    def size(self, file: int) -> int:
        return len(self._open[file][1].cache)

    def pwrite(self, file: int, data: bytes, offset: int) -> None:
        path, node = self._open[file]
        try:
            self._step(f"write {path.name}")
            self._reserve(node, offset + len(data))
        except (PowerLoss, OSError):  # a part of it may have got there all the same
            self._write(node, bytes(data[: self._random.randrange(len(data) + 1)]), offset)
            raise
        self._write(node, bytes(data), offset)

    def pread(self, file: int, length: int, offset: int) -> bytes:
        if self._dead:
            raise PowerLoss
        return bytes(self._open[file][1].cache[offset : offset + length])

    def fallocate(self, file: int, length: int) -> None:
        path, node = self._open[file]
        self._step(f"fallocate {path.name}")
        self._reserve(node, length)
        if length > len(node.cache):
            self._write(node, bytes(length - len(node.cache)), len(node.cache))

    def fdatasync(self, file: int) -> None:
        path, node = self._open[file]
        try:
            self._step(f"sync {path.name}")
        except OSError:
            node.persist(lambda: self._random.random() < 0.5)  # the rest is lost, and the cache calls it clean
            raise
        node.persist(lambda: True)

    def fsync_dir(self, path: Path) -> None:
        self._step("sync the directory")
        for directory, changes in self._pending_names:
            if directory == path:
                _apply(self._durable_names, changes)
        self._pending_names = [(directory, changes) for directory, changes in self._pending_names if directory != path]

    def rename(self, source: Path, target: Path) -> None:
        self._step(f"rename {source.name} to {target.name}")
        self._rename_names(source.parent, {source: None, target: self._names[source]})

    def unlink(self, path: Path) -> None:
        self._step(f"unlink {path.name}")
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        self._rename_names(path.parent, {path: None})

    def listdir(self, path: Path) -> list[str]:
        if path not in self._directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return [name.name for name in self._names if name.parent == path]

    def random(self, length: int) -> bytes:
        return self._random.randbytes(length)

    # ---------------------------------------------------------------------------------------------------------------

    def _step(self, what: str) -> None:
        if self._dead:
            raise PowerLoss
        self.steps += 1
        self.trace.append(what)
        if self.steps == self.stop_at:
            self._dead = True
            raise PowerLoss
        if code := self.fail_at.get(self.steps):
            raise OSError(code, os.strerror(code))

    def _handle(self, path: Path, node: _File) -> int:
        self._next += 1
        self._open[self._next] = (path, node)
        return self._next

    def _reserve(self, node: _File, length: int) -> None:
        used = sum(len(file.cache) for file in self._names.values())
        if self.capacity is not None and used + max(0, length - len(node.cache)) > self.capacity:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _write(self, node: _File, data: bytes, offset: int) -> None:
        _put(node.cache, offset, data)
        node.pending.append((offset, data))

    def _rename_names(self, directory: Path, changes: dict[Path, _File | None]) -> None:
        _apply(self._names, changes)
        self._pending_names.append((directory, changes))


def _apply(names: dict[Path, _File], changes: dict[Path, _File | None]) -> None:
    for path, file in changes.items():
        if file is None:
            names.pop(path, None)
        else:
            names[path] = file


def ticking(step_s: float = 0.03) -> Callable[[], float]:
    """A clock that goes on by itself, at each look: marks become due every few syncs."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += step_s
        return now

    return clock
