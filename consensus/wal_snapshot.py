"""A snapshot in a file of the log: what it replaces, then the state, with a checksum that travels with it.

    payload   version u32 | length u32 | meta, msgpack | state | crc u32 of the state

The log puts its own header before it and its own checksum behind it (`wal_format`), which differ from node to node;
size and checksum of the state are the same everywhere, and go with the SNAPSHOT message as its `data`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec
from crc32c import crc32c

from consensus import wal_format as form
from consensus.disk import LogDisk
from consensus.errors import LogDamaged, LogTooNew
from consensus.messages import Snapshot, SnapshotMeta

_VERSION: Final = 1
_PREFIX: Final = struct.Struct("<II")
_CRC: Final = struct.Struct("<I")
_META_BYTES_MAX: Final = 1024 * 1024
CHUNK_BYTES: Final = 1024 * 1024


class SnapshotHead(msgspec.Struct, array_like=True, frozen=True):
    """A snapshot without its bytes. size: of the state, in bytes. checksum: its CRC-32C."""

    meta: SnapshotMeta
    size: int
    checksum: int

    @property
    def snapshot(self) -> Snapshot:
        """As the core knows it, and as it goes into a SNAPSHOT message: `data` is size and checksum."""
        return Snapshot(self.meta, msgspec.msgpack.encode((self.size, self.checksum)))


def head_of(snapshot: Snapshot) -> SnapshotHead:
    """The head in what a SNAPSHOT message carries. Raises msgspec.MsgspecError if it carries something else."""
    size, checksum = msgspec.msgpack.decode(snapshot.data, type=tuple[int, int])
    return SnapshotHead(snapshot.meta, size, checksum)


def encode_prefix(meta: SnapshotMeta) -> bytes:
    """What stands before the state."""
    data = msgspec.msgpack.encode(meta)
    return _PREFIX.pack(_VERSION, len(data)) + data


def encode_suffix(checksum: int) -> bytes:
    """What stands behind the state."""
    return _CRC.pack(checksum)


def seal(disk: LogDisk, path: Path, header: bytes, size: int, checksum: int) -> None:
    """Make a snapshot's file, durably, of one that lacks its header and its trailer.

    size, checksum: of the payload, CRC-32C. Raises LogDamaged where it is another in the file, LogFull, LogFailed.
    """
    end = len(header) + size
    file = disk.open(path)
    try:
        whole, payload = crc32c(header), 0
        for at in range(len(header), end, CHUNK_BYTES):
            chunk = disk.pread(file, min(CHUNK_BYTES, end - at), at)
            whole, payload = crc32c(chunk, whole), crc32c(chunk, payload)
        if payload != checksum:
            raise LogDamaged(path, len(header), f"{size} bytes that were received read back otherwise")
        disk.pwrite(file, header, 0)
        disk.pwrite(file, form.encode_snapshot_trailer(size, whole), end)
        disk.fdatasync(file)
    finally:
        disk.close(file)


class Payload:
    """The payload of a snapshot, piece by piece, once. `head` is right when all of it was taken."""

    def __init__(self, meta: SnapshotMeta, chunks: Iterable[bytes]) -> None:
        """chunks: the state."""
        self._chunks = chunks
        self.head = SnapshotHead(meta, 0, 0)

    def __iter__(self) -> Iterator[bytes]:
        """The pieces."""
        yield encode_prefix(self.head.meta)
        size = checksum = 0
        for chunk in self._chunks:
            size, checksum = size + len(chunk), crc32c(chunk, checksum)
            yield chunk
        yield encode_suffix(checksum)
        self.head = SnapshotHead(self.head.meta, size, checksum)


class SnapshotReader:
    """A snapshot that is read piece by piece. It stays readable until `close`, also when newer ones take its place.

    For one thread at a time.
    """

    def __init__(self, disk: LogDisk, path: Path) -> None:
        """Open the file of a snapshot that was found sound. Raises LogDamaged, LogTooNew, LogFailed."""
        self._disk, self._path = disk, path
        self._file: int | None = disk.open(path, write=False)
        try:
            self.head, self._start = self._read_head(self._file)
        except BaseException:
            self.close()
            raise

    def _read_head(self, file: int) -> tuple[SnapshotHead, int]:
        at = form.SNAPSHOT_HEADER_BYTES
        end = self._disk.size(file) - form.SNAPSHOT_TRAILER_BYTES - _CRC.size
        if end < at + _PREFIX.size:
            raise LogDamaged(self._path, at, "it is too short for the snapshot of a Raft log")
        version, length = _PREFIX.unpack(self._disk.pread(file, _PREFIX.size, at))
        if version > _VERSION:
            raise LogTooNew(
                f"{self._path}: format version {version}; this program knows {_VERSION}. Start the one that wrote it."
            )
        start = at + _PREFIX.size + length
        if version == 0 or length > _META_BYTES_MAX or start > end:
            raise LogDamaged(self._path, at, "it is no snapshot of a Raft log")
        try:
            meta = msgspec.msgpack.decode(self._disk.pread(file, length, at + _PREFIX.size), type=SnapshotMeta)
        except msgspec.MsgspecError as error:
            raise LogDamaged(self._path, at + _PREFIX.size, f"what it is of cannot be read: {error}") from error
        (checksum,) = _CRC.unpack(self._disk.pread(file, _CRC.size, end))
        return SnapshotHead(meta, end - start, checksum), start

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes of the state from `offset`; fewer only at its end. Raises LogFailed, ValueError."""
        if self._file is None or not 0 <= offset <= self.head.size or length < 0:
            raise ValueError(f"{self._path}: {length} bytes at {offset} of {self.head.size} cannot be read")
        return self._disk.pread(self._file, min(length, self.head.size - offset), self._start + offset)

    def chunks(self) -> Iterator[bytes]:
        """The whole state, checked: LogDamaged behind the last piece where it is not what was stored."""
        checksum = 0
        for at in range(0, self.head.size, CHUNK_BYTES):
            chunk = self.read(at, CHUNK_BYTES)
            checksum = crc32c(chunk, checksum)
            yield chunk
        if checksum != self.head.checksum:
            raise LogDamaged(self._path, self._start, "the snapshot has changed since the log was opened")

    def close(self) -> None:
        """Let the file go. Idempotent."""
        if self._file is not None:
            self._disk.close(self._file)
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
