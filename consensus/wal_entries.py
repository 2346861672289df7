"""What the records of a Raft log say, pure: values in, bytes out, and back.

    an entry    msgpack [term, index, kind, data], as it is on the wire; its first byte is 0x94
    Noting      msgpack [term, index, kind, data, commit]: an entry, and what was committed when it was written
    Marker      1 u8 | index u64 | term u64    from here on the log may begin anew after a leader's snapshot, see below
    Installed   2 u8 | marker u64              the snapshot of the record `marker` has its name, durably
    Commit      3 u8 | index u64               entries up to here were committed

Records are numbered one by one by the log under them (`wal`), here called `seq`; entries have their Raft index. An
entry whose index is not above the last one replaces that one and all behind it, so a log file only grows, and what was
durable stays so: nothing has to be lowered before a truncation.

The commit index goes with the first entry that is written after it has moved, so nobody who has that entry has
forgotten it (why that matters: `DESIGN.md`). Where no entry comes, it is a record of its own, now and then.

Measured (CPython 3.11, one core, 64 entries of 200 bytes, microseconds an entry):

    encode   msgspec 0.10-0.14, struct 0.11-0.14, msgpack 0.38-0.49      record, CRC and chain around it 0.62
    decode   msgspec 0.11, struct 0.6-0.8                    `DurableLog.save` in all, but for the sync 1.0
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from consensus.messages import Entry, EntryKind, SnapshotMeta
from consensus.wal_format import NewerVersion, NotOurs

_ENTRY_BYTE, _NOTING_BYTE = 0x94, 0x95  # msgpack: an array of four, of five

_MARKER: Final = struct.Struct("<BQQ")
_INSTALLED: Final = struct.Struct("<BQ")
_COMMIT: Final = struct.Struct("<BQ")
_MARKER_BYTE, _INSTALLED_BYTE, _COMMIT_BYTE = 1, 2, 3  # numbers are for ever


class Noting(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An entry, and what was committed when it was written."""

    term: int
    index: int
    kind: EntryKind
    data: bytes
    commit: int

    @property
    def entry(self) -> Entry:
        """The entry alone."""
        return Entry(self.term, self.index, self.kind, self.data)


@dataclass(frozen=True, slots=True)
class Marker:
    """A snapshot of everything up to `index` is about to take the place of the log. It counts where it was named."""

    index: int
    term: int


@dataclass(frozen=True, slots=True)
class Installed:
    """The snapshot that the record `marker` speaks of was named and synced: without it the log is damaged."""

    marker: int


@dataclass(frozen=True, slots=True)
class Commit:
    """Everything up to `index` was committed."""

    index: int


Record = Entry | Noting | Marker | Installed | Commit

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Entry).decode
_decode_noting: Final = msgspec.msgpack.Decoder(Noting).decode


def encode_entries(entries: Sequence[Entry], commit: int = 0) -> list[bytes]:
    """One record for each. commit: to go with the first of them; 0 = none."""
    encode = _encode
    records = [encode(entry) for entry in entries]
    if commit:
        first = entries[0]
        records[0] = encode(Noting(first.term, first.index, first.kind, first.data, commit))
    return records


def encode_marker(meta: SnapshotMeta) -> bytes:
    """A Marker."""
    return _MARKER.pack(_MARKER_BYTE, meta.index, meta.term)


def encode_installed(marker: int) -> bytes:
    """An Installed."""
    return _INSTALLED.pack(_INSTALLED_BYTE, marker)


def encode_commit(index: int) -> bytes:
    """A Commit."""
    return _COMMIT.pack(_COMMIT_BYTE, index)


def decode_record(data: bytes) -> Record:
    """What a record says. Raises NotOurs, NewerVersion."""
    try:
        if data[0] == _ENTRY_BYTE:
            return _decode(data)
        if data[0] == _NOTING_BYTE:
            return _decode_noting(data)
        if data[0] == _MARKER_BYTE:
            return Marker(*_MARKER.unpack(data)[1:])
        if data[0] == _INSTALLED_BYTE:
            return Installed(*_INSTALLED.unpack(data)[1:])
        if data[0] == _COMMIT_BYTE:
            return Commit(*_COMMIT.unpack(data)[1:])
    except (msgspec.MsgspecError, struct.error) as error:
        raise NotOurs(f"it is no record of a Raft log: {error}") from error
    except IndexError as error:
        raise NotOurs("it is empty, and so no record of a Raft log") from error
    if data[0] < 0x20:
        raise NewerVersion(f"a record of kind {data[0]}")
    raise NotOurs(f"it begins with {data[0]:#04x}, as no record of a Raft log does")
