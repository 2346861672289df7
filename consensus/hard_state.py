"""Small values that are replaced in place and never lost: the vote of a node, above all.

A slot file holds one value twice, each copy in a slot of its own with a checksum and a sequence number:

    slot     magic 8 | version u32, 4 zero | log id 16 | sequence u64 | length u32 | value | crc u32 | zeros to 4096

A write puts the new value into one slot, syncs, puts it into the other and syncs again. So

- a crash spoils one slot at most, and the other holds either the new value or the one before it: nothing that was
  returned from is lost, nothing that went before comes back;
- a bit that flips later spoils one of two equal copies. With one slot a write, in turn, it would bring the value
  before back to life, and a node would vote twice in a term (paper, figure 2; thesis 3.8);
- two spoilt slots are damage, and are refused (P9).

Opening writes both slots once more: the process before may have failed in fsync, after which the kernel shows bytes
that never reached the disk.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final, Self

from crc32c import crc32c

from consensus import wal_format as form
from consensus.disk import LogDisk
from consensus.errors import LogDamaged, LogFailed, LogTooNew
from consensus.messages import NONE

SLOT_BYTES: Final = 4096  # a slot to a block: a torn write of one cannot touch the other
VOTE_NAME: Final = "vote"
VOTE_MAGIC: Final = b"prime.vt"

_VERSION: Final = 1
_HEAD: Final = struct.Struct("<8sI4x16sQI")
_CRC: Final = struct.Struct("<I")
_VOTE: Final = struct.Struct("<QQ")
VALUE_BYTES_MAX: Final = SLOT_BYTES - _HEAD.size - _CRC.size


def encode_slot(magic: bytes, log_id: bytes, sequence: int, value: bytes) -> bytes:
    """One whole slot. Raises ValueError for a value of more than VALUE_BYTES_MAX."""
    if len(value) > VALUE_BYTES_MAX:
        raise ValueError(f"a value of {len(value)} bytes does not fit into a slot, which takes {VALUE_BYTES_MAX}")
    body = _HEAD.pack(magic, _VERSION, log_id, sequence, len(value)) + value
    return (body + _CRC.pack(crc32c(body))).ljust(SLOT_BYTES, b"\0")


def decode_slot(data: bytes, magic: bytes, log_id: bytes) -> tuple[int, bytes]:
    """(sequence, value). Raises NotOurs, NewerVersion."""
    if len(data) < _HEAD.size + _CRC.size:
        raise form.NotOurs("the file ends within it")
    own_magic, version, own_id, sequence, length = _HEAD.unpack_from(data)
    end = _HEAD.size + length
    if length > VALUE_BYTES_MAX or _CRC.unpack_from(data.ljust(SLOT_BYTES, b"\0"), end)[0] != crc32c(data[:end]):
        raise form.NotOurs("its checksum is wrong")
    if own_magic != magic:
        raise form.NotOurs(f"it begins with {own_magic!r}, not {magic!r}")
    if version != _VERSION:
        raise form.NewerVersion(f"format version {version}; this program knows {_VERSION}")
    if own_id != log_id:
        raise form.NotOurs(f"it belongs to log {own_id.hex()}, not {log_id.hex()}")
    return sequence, data[_HEAD.size : end]


def read_slots(disk: LogDisk, path: Path, magic: bytes, log_id: bytes) -> list[tuple[int, bytes] | None]:
    """What the two slots hold as (sequence, value); None for one that is spoilt. Changes nothing.

    Raises FileNotFoundError, LogTooNew, LogFailed, and LogDamaged where both are spoilt.
    """
    file = disk.open(path, write=False)
    try:
        data = disk.pread(file, 2 * SLOT_BYTES, 0)
    finally:
        disk.close(file)
    slots: list[tuple[int, bytes] | None] = []
    problems: list[str] = []
    for at in (0, SLOT_BYTES):
        try:
            slots.append(decode_slot(data[at : at + SLOT_BYTES], magic, log_id))
        except form.NotOurs as error:  # torn by a crash, or damaged: the other one has the value too
            slots.append(None)
            problems.append(str(error))
        except form.NewerVersion as error:
            raise LogTooNew(f"{path}: {error}. Start the version that wrote it, or a later one.") from error
    if len(problems) == len(slots):
        raise LogDamaged(path, 0, f"neither of its two slots can be read: {problems[0]}")
    first, second = slots
    if first is not None and second is not None and first[0] == second[0] and first != second:
        raise LogDamaged(path, SLOT_BYTES, "its two slots contradict each other")
    return slots


def newest_slot(disk: LogDisk, path: Path, magic: bytes, log_id: bytes) -> tuple[int, bytes]:
    """The (sequence, value) that counts. Raises as `read_slots`."""
    return max((one for one in read_slots(disk, path, magic, log_id) if one is not None), key=lambda slot: slot[0])


class SlotFile:
    """One value of at most VALUE_BYTES_MAX bytes. Not for two threads at once."""

    def __init__(self, disk: LogDisk, path: Path, magic: bytes, log_id: bytes, slot: tuple[int, bytes]) -> None:
        """Private: use `create` or `open`."""
        self._disk, self._path, self._magic, self._log_id = disk, path, magic, log_id
        self._sequence, self._value = slot
        self._file = disk.open(path)

    @classmethod
    def create(cls, disk: LogDisk, path: Path, magic: bytes, log_id: bytes, value: bytes) -> Self:
        """Make the file, durably, or replace it. Raises LogFull, LogFailed, ValueError for a value too long."""
        disk.publish(path, [encode_slot(magic, log_id, 1, value)] * 2)
        return cls(disk, path, magic, log_id, (1, value))

    @classmethod
    def open(cls, disk: LogDisk, path: Path, magic: bytes, log_id: bytes) -> Self:
        """Read the file and make both slots equal. Raises FileNotFoundError, LogDamaged, LogTooNew, LogFailed."""
        slots = read_slots(disk, path, magic, log_id)
        newest = max((slot for slot in slots if slot is not None), key=lambda slot: slot[0])
        one = cls(disk, path, magic, log_id, newest)
        try:
            one._settle(first=1 - slots.index(newest))
        except BaseException:
            one.close()
            raise
        return one

    def _settle(self, first: int) -> None:
        """Write the value into both slots, the other one than it was read from first, and read it back."""
        slot = encode_slot(self._magic, self._log_id, self._sequence, self._value)
        self._put(slot, first)
        self._put(slot, 1 - first)
        if self._disk.pread(self._file, 2 * SLOT_BYTES, 0) != slot * 2:
            raise LogFailed(f"{self._path}: what was written reads back otherwise: a bad disk.")

    @property
    def value(self) -> bytes:
        """What was last written and is durable."""
        return self._value

    def write(self, value: bytes) -> None:
        """Replace the value, durably: two writes and two syncs. Raises LogFailed, ValueError for one too long."""
        slot = encode_slot(self._magic, self._log_id, self._sequence + 1, value)
        self._put(slot, 0)
        self._put(slot, 1)
        self._sequence += 1
        self._value = value

    def _put(self, slot: bytes, place: int) -> None:
        # A full disk cannot be meant here, the file has its blocks; and a vote must not seem to be only refused.
        self._disk.pwrite(self._file, slot, place * SLOT_BYTES, fatal=True)
        self._disk.fdatasync(self._file)

    def close(self) -> None:
        """Let the file go."""
        self._disk.close(self._file)


def decode_vote(value: bytes) -> tuple[int, int]:
    """(term, vote) of a vote file's value."""
    term, vote = _VOTE.unpack(value)
    return term, vote


class VoteFile:
    """The term and the vote of a node: what it has promised to others."""

    def __init__(self, slots: SlotFile) -> None:
        """Private: use `create` or `open`."""
        self._slots = slots
        self.term, self.vote = decode_vote(slots.value)

    @classmethod
    def create(cls, disk: LogDisk, directory: Path, log_id: bytes) -> VoteFile:
        """Of a node that has promised nothing yet. Raises LogFull, LogFailed."""
        return cls(SlotFile.create(disk, directory / VOTE_NAME, VOTE_MAGIC, log_id, _VOTE.pack(0, NONE)))

    @classmethod
    def open(cls, disk: LogDisk, directory: Path, log_id: bytes) -> VoteFile:
        """As `SlotFile.open`."""
        return cls(SlotFile.open(disk, directory / VOTE_NAME, VOTE_MAGIC, log_id))

    def save(self, term: int, vote: int) -> bool:
        """Make them durable; False = they were already. When it raises, neither is to be acted upon.

        Raises LogFailed; ValueError for a term that goes back or a second vote in a term, and nothing is written.
        """
        if (term, vote) == (self.term, self.vote):
            return False
        if term < self.term or (term == self.term and self.vote != NONE):
            raise ValueError(
                f"term {term}, vote {vote} after term {self.term}, vote {self.vote}: what was promised is never undone"
            )
        self._slots.write(_VOTE.pack(term, vote))
        self.term, self.vote = term, vote
        return True

    def close(self) -> None:
        """Let the file go."""
        self._slots.close()
