"""A cluster's snapshot as a file: bytes to records and back. Pure.

    file     magic 8 | record ...
    record   length u32 | kind u8 | crc u32 | body      little-endian; length: of the body, in bytes

    header   `Header`, first                 blob     SHA-256 (32 bytes) | the bytes it names
    table    a piece of the table's image    lacking  SHA-256 of a blob that is named and was nowhere
    runs     finished runs, `Runs`           gone     a range of finished runs that nobody had, `Gone`
    end      `End`, last. Without it the file was cut

The CRC-32C of a record goes on from that of the record before it, from the magic on: what is changed, left out or put
elsewhere is seen, and the last one stands for the whole file. Structs are msgpack, in array form.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Final, TypeVar

import msgspec
from crc32c import crc32c

from agent.errors import PrimeError
from agent.store.blobs import BLOB_BYTES_MAX
from agent.store.history import Position, StoredRun

MAGIC: Final = b"primesnp"
FORMAT: Final = 1
DIGEST_BYTES: Final = 32
BODY_BYTES_MAX: Final = 2 * BLOB_BYTES_MAX  # a blob, or a record of one large finished run
_RECORD: Final = struct.Struct("<IBI")
_CHECKED: Final = struct.Struct("<IB")
_encode: Final = msgspec.msgpack.Encoder().encode


class SnapshotError(PrimeError):
    """What is read is no snapshot, or not whole; the message says where."""


class Kind(IntEnum):
    """Numbers are for ever: they are in files."""

    HEADER = 1
    TABLE = 2
    BLOB = 3
    LACKING = 4
    RUNS = 5
    GONE = 6
    END = 255


class Header(msgspec.Struct, array_like=True, frozen=True):
    """Of what. index, term: of the log, where the table stands; time_ms: when it was saved, since the epoch.

    version: of the program. agent: who was asked. secret_keys: ids of the keys without which its secrets cannot be
    read. history: whether finished runs are in it.
    """

    format: int
    cluster: str
    generation: int
    index: int
    term: int
    time_ms: int
    version: str
    agent: str
    secret_keys: tuple[str, ...]
    history: bool


class Runs(msgspec.Struct, array_like=True, frozen=True):
    """The finished runs after one position and up to `complete`, as `store.history.Part`."""

    after: Position
    rows: tuple[StoredRun, ...]
    complete: Position


class Gone(msgspec.Struct, array_like=True, frozen=True):
    """No finished run between these is here: pruned, or lost."""

    after: Position
    to: Position


class End(msgspec.Struct, array_like=True, frozen=True):
    """How much came before it."""

    blobs: int
    lacking: int
    runs: int


AnyBody = Header | Runs | Gone | End
StructT = TypeVar("StructT", bound=AnyBody)
_KINDS: Final = {Header: Kind.HEADER, Runs: Kind.RUNS, Gone: Kind.GONE, End: Kind.END}


class Writer:
    """Makes the bytes of records, in the order in which they are asked for. For one thread at a time."""

    def __init__(self) -> None:
        """Nothing was written yet."""
        self._crc = crc32c(MAGIC)
        self._begun = False

    def record(self, kind: Kind, *body: bytes) -> bytes:
        """A record whose body is these, one behind the other; with the magic before it where it is the first."""
        length = sum(map(len, body))
        if length > BODY_BYTES_MAX:
            raise SnapshotError(f"a record of {length} bytes; {BODY_BYTES_MAX} are allowed")
        crc = crc32c(_CHECKED.pack(length, kind), self._crc)
        for part in body:
            crc = crc32c(part, crc)
        self._crc = crc
        begin, self._begun = b"" if self._begun else MAGIC, True
        return b"".join((begin, _RECORD.pack(length, kind, crc), *body))

    def struct(self, value: AnyBody) -> bytes:
        """The record of a struct."""
        return self.record(_KINDS[type(value)], _encode(value))


Record = tuple[Kind, bytes]


class Reader:
    """Finds the records in bytes cut anywhere, each checked. For one thread at a time."""

    def __init__(self) -> None:
        """Nothing has come yet."""
        self._buffer = bytearray()
        self._at = 0  # bytes of the file before the buffer
        self._crc = crc32c(MAGIC)
        self._begun = self._ended = False

    def feed(self, data: bytes) -> Iterator[Record]:
        """The records that are whole with these bytes. Raises SnapshotError, with the byte where it is wrong."""
        self._buffer += data
        if not self._begun and not self._begin():
            return
        while (record := self._next()) is not None:
            yield record

    def _begin(self) -> bool:
        head = bytes(self._buffer[: len(MAGIC)])
        if not MAGIC.startswith(head):
            raise SnapshotError("it is no snapshot of a cluster: make one with `prime cluster snapshot save FILE`")
        self._begun = len(head) == len(MAGIC)
        if self._begun:
            self._drop(len(MAGIC))
        return self._begun

    def _next(self) -> Record | None:
        if self._ended and self._buffer:
            raise SnapshotError(f"byte {self._at}: something stands behind the end")
        if len(self._buffer) < _RECORD.size:
            return None
        length, number, crc = _RECORD.unpack_from(self._buffer)
        if length > BODY_BYTES_MAX or number not in set(Kind):
            raise SnapshotError(f"byte {self._at}: damaged, or of a later version: no record begins so")
        end = _RECORD.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_RECORD.size : end])
        found = crc32c(body, crc32c(_CHECKED.pack(length, number), self._crc))
        if found != crc:
            raise SnapshotError(f"byte {self._at}: damaged: what is there is not what was written")
        self._crc = crc
        self._drop(end)
        self._ended = number == Kind.END
        return Kind(number), body

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        self._at += count

    def finish(self) -> None:
        """Nothing more comes. Raises SnapshotError where the end is missing."""
        if not self._ended or self._buffer:
            raise SnapshotError(f"byte {self._at}: it was cut: its end is missing")


def records(pieces: Iterable[bytes]) -> Iterator[Record]:
    """The records of a whole file, its header first, its end last. Raises SnapshotError."""
    reader = Reader()
    first = True
    for piece in pieces:
        for kind, body in reader.feed(piece):
            if first != (kind is Kind.HEADER):
                raise SnapshotError("its header is not where it belongs")
            first = False
            yield kind, body
    reader.finish()


def decode(body: bytes, kind: type[StructT]) -> StructT:
    """The struct in a record. Raises SnapshotError, also for a header of a later format."""
    try:
        found = msgspec.msgpack.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SnapshotError(f"a record of kind {kind.__name__} cannot be read: {error}") from error
    if isinstance(found, Header) and found.format > FORMAT:
        raise SnapshotError(f"it has format {found.format}; this version knows {FORMAT}: use the one that saved it")
    return found


def blob_of(body: bytes) -> tuple[str, bytes]:
    """(name, bytes) of a blob's record. Raises SnapshotError where the name is another's."""
    digest, data = body[:DIGEST_BYTES], body[DIGEST_BYTES:]
    if hashlib.sha256(data).digest() != digest:
        raise SnapshotError(f"blob {digest.hex()}: its bytes are not those the name stands for")
    return digest.hex(), data
