"""The bytes of the log, pure: values in, bytes out, and back.

Segment: a header (magic, version, log id, first index, chain, CRC), then records, then zeros up to the file's size.

    record   crc u32 | previous u32 | length u32 | kind u8, 3 zero | index u64 | synced u64 | data | zeros to 8 bytes

- `crc` is CRC-32C over all that follows it, begun with the log's salt. Nobody who does not know the salt can put
  bytes into an entry that would pass for a record, nor does a record of another log.
- `previous` is the CRC of the record before (for the first of a segment, of the last in the segment before): the chain.
- `synced` is the last index that was durable when this record was written. That is what tells damage from a torn tail:
  writes that were not synced reach the disk in any order, so a hole followed by a good record is an honest crash,
  unless that record testifies that what is missing had been durable before it.
- kind 0 is never written, so zeros end the log.

Everything is little-endian. Durable mark and snapshots are described at their structures.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from crc32c import crc32c

VERSION: Final = 1
LOG_ID_BYTES: Final = 16
RECORD_BYTES_MAX: Final = 64 * 1024 * 1024  # data of one record; bounds what a damaged length can make us read
ALIGNMENT: Final = 8

_SEGMENT: Final = struct.Struct("<8sI4x16sQI")
_CRC: Final = struct.Struct("<I")
_SEGMENT_MAGIC: Final = b"prime.wl"
SEGMENT_HEADER_BYTES: Final = _SEGMENT.size + _CRC.size

_BODY: Final = struct.Struct("<IIB3xQQ")
_RECORD: Final = struct.Struct("<IIIB3xQQ")
RECORD_HEADER_BYTES: Final = _RECORD.size

_MARK: Final = struct.Struct("<8sI4x16sQQ")  # version, log id, sequence, index; then CRC
_MARK_MAGIC: Final = b"prime.mk"
MARK_BYTES: Final = _MARK.size + _CRC.size

_SNAPSHOT: Final = struct.Struct("<8sI4x16sQ")  # version, log id, index; then the payload, then the trailer
_SNAPSHOT_MAGIC: Final = b"prime.sn"
_LENGTH: Final = struct.Struct("<Q")  # the trailer: payload length, then CRC of everything before
SNAPSHOT_HEADER_BYTES: Final = _SNAPSHOT.size
SNAPSHOT_TRAILER_BYTES: Final = _LENGTH.size + _CRC.size

assert SEGMENT_HEADER_BYTES % ALIGNMENT == 0
assert RECORD_HEADER_BYTES % ALIGNMENT == 0


class Kind(IntEnum):
    """What a record holds. Numbers are for ever. What a Raft log says is told apart within (`wal_entries`)."""

    ENTRY = 1


class NotOurs(ValueError):
    """Bytes that are no header of this format; the text says why."""


class NewerVersion(ValueError):
    """A sound header of a version this program does not know."""


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """log_id: 16 bytes; first_index: index of the first record; chain: CRC of the record before it."""

    log_id: bytes
    first_index: int
    chain: int


@dataclass(slots=True)  # not frozen: one for each record read; frozen ones make a scan take 1.7 times as long
class Record:
    """A record whose CRC is right, and where it lies: data at [data_start, data_end), the next one at `end`."""

    kind: int
    index: int
    synced: int
    previous: int
    crc: int
    data_start: int
    data_end: int
    end: int


def salt_of(log_id: bytes) -> int:
    """What every CRC of this log begins with."""
    return crc32c(log_id)


def record_bytes(length: int) -> int:
    """Bytes a record of `length` bytes of data takes."""
    return RECORD_HEADER_BYTES + -(-length // ALIGNMENT) * ALIGNMENT


def encode_records(
    records: Sequence[bytes], first_index: int, previous: int, synced: int, salt: int
) -> tuple[bytes, int]:
    """Encode entries from `first_index` on, chained to `previous`. Returns the bytes and the last CRC."""
    parts: list[bytes] = []
    for index, data in enumerate(records, first_index):
        body = _BODY.pack(previous, len(data), Kind.ENTRY, index, synced)
        previous = crc32c(data, crc32c(body, salt))
        parts += (_CRC.pack(previous), body, data, bytes(-len(data) % ALIGNMENT))
    return b"".join(parts), previous


def record_at(buffer: bytes, offset: int, salt: int) -> Record | None:
    """The record at `offset`, if there is one whose CRC is right. Its place in the chain is not judged."""
    data_start = offset + RECORD_HEADER_BYTES
    if data_start > len(buffer):
        return None
    crc, previous, length, kind, index, synced = _RECORD.unpack_from(buffer, offset)
    data_end = data_start + length
    if kind == 0 or length > RECORD_BYTES_MAX or data_end > len(buffer):
        return None
    if crc32c(memoryview(buffer)[offset + _CRC.size : data_end], salt) != crc:
        return None
    return Record(kind, index, synced, previous, crc, data_start, data_end, offset + record_bytes(length))


def walk(buffer: bytes, header: SegmentHeader) -> Iterator[Record]:
    """The records of a segment in order, up to the first that is not the next one of the chain."""
    salt, chain, index, offset = salt_of(header.log_id), header.chain, header.first_index, SEGMENT_HEADER_BYTES
    while True:
        record = record_at(buffer, offset, salt)
        if record is None or record.previous != chain or record.index != index:
            return
        yield record
        chain, index, offset = record.crc, index + 1, record.end


def find_witness(buffer: bytes, offset: int, index: int, salt: int) -> int | None:
    """Where, from `offset` on, a good record says that `index` was durable before it was written; None = nowhere."""
    for at in range(offset, len(buffer) - RECORD_HEADER_BYTES + 1, ALIGNMENT):
        _, _, _, kind, own, synced = _RECORD.unpack_from(buffer, at)
        if kind and index <= synced < own and record_at(buffer, at, salt) is not None:
            return at
    return None


def encode_segment_header(header: SegmentHeader) -> bytes:
    """The first bytes of a segment."""
    return _sealed(_SEGMENT.pack(_SEGMENT_MAGIC, VERSION, header.log_id, header.first_index, header.chain))


def decode_segment_header(data: bytes) -> SegmentHeader:
    """Raises NotOurs, NewerVersion."""
    magic, version, log_id, first_index, chain = _SEGMENT.unpack(_unsealed(data, SEGMENT_HEADER_BYTES))
    _check_magic(magic, _SEGMENT_MAGIC, version)
    return SegmentHeader(log_id, first_index, chain)


@dataclass(frozen=True, slots=True)
class Mark:
    """One slot of the durable mark: everything up to `index` was on the disk. The higher `sequence` counts."""

    log_id: bytes
    sequence: int
    index: int


def encode_mark(mark: Mark) -> bytes:
    """One slot."""
    return _sealed(_MARK.pack(_MARK_MAGIC, VERSION, mark.log_id, mark.sequence, mark.index))


def decode_mark(data: bytes) -> Mark:
    """Raises NotOurs, NewerVersion."""
    magic, version, log_id, sequence, index = _MARK.unpack(_unsealed(data, MARK_BYTES))
    _check_magic(magic, _MARK_MAGIC, version)
    return Mark(log_id, sequence, index)


def encode_snapshot_header(log_id: bytes, index: int) -> bytes:
    """What stands before a snapshot's payload."""
    return _SNAPSHOT.pack(_SNAPSHOT_MAGIC, VERSION, log_id, index)


def decode_snapshot_header(data: bytes) -> tuple[bytes, int]:
    """(log id, index). The CRC is in the trailer. Raises NotOurs, NewerVersion."""
    if len(data) < SNAPSHOT_HEADER_BYTES:
        raise NotOurs("the file ends within its header")
    magic, version, log_id, index = _SNAPSHOT.unpack_from(data)
    _check_magic(magic, _SNAPSHOT_MAGIC, version)
    return log_id, index


def encode_snapshot(log_id: bytes, index: int, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """A snapshot's file, piece by piece; `chunks` are its payload."""
    header = encode_snapshot_header(log_id, index)
    crc, size = crc32c(header), 0
    yield header
    for chunk in chunks:
        crc, size = crc32c(chunk, crc), size + len(chunk)
        yield chunk
    yield encode_snapshot_trailer(size, crc)


def encode_snapshot_trailer(payload_bytes: int, crc: int) -> bytes:
    """What stands after the payload. `crc`: of header and payload."""
    length = _LENGTH.pack(payload_bytes)
    return length + _CRC.pack(crc32c(length, crc))


def _sealed(data: bytes) -> bytes:
    return data + _CRC.pack(crc32c(data))


def _unsealed(data: bytes, size: int) -> bytes:
    if len(data) < size:
        raise NotOurs("the file ends within its header")
    body = data[: size - _CRC.size]
    if _CRC.unpack_from(data, len(body))[0] != crc32c(body):
        raise NotOurs("the header's checksum is wrong")
    return body


def _check_magic(magic: bytes, expected: bytes, version: int) -> None:
    if magic != expected:
        raise NotOurs(f"the file begins with {magic!r}, not {expected!r}")
    if version != VERSION:
        raise NewerVersion(f"format version {version}; this program knows {VERSION}")
