"""A finished run, as others see it and as it stands in the history's file."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, Final, TypeAlias

import crc32c
import msgspec

Position: TypeAlias = tuple[int, int]
"""(index, ordinal): where in the log a run ended. (0, 0) is before everything."""

START: Position = (0, 0)

COLUMNS: Final = (
    "log_index, ordinal, run_id, project, namespace, job, origin, state, reason, requested_by, "
    "scheduled_at_ms, created_at_ms, started_at_ms, finished_at_ms, record, checksum"
)
"""What a StoredRun is made of, in its order."""

_ORDINAL_MAX: Final = 2**31 - 1  # no command ends so many runs


def end_of(index: int) -> Position:
    """The position behind all runs that the command at `index` ended."""
    return index, _ORDINAL_MAX


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """One end of one run.

    index, ordinal: the log index of the command that ended it, and its place among the runs which that command ended.
    record: the run as the run table packed it; opaque here, compressed on disk.
    """

    index: int
    ordinal: int
    run_id: str
    project: str
    namespace: str
    job: str
    origin: str
    state: str
    reason: str | None
    requested_by: str
    scheduled_at_ms: int
    created_at_ms: int
    started_at_ms: int | None
    finished_at_ms: int
    record: bytes

    @property
    def position(self) -> Position:
        """(index, ordinal)."""
        return self.index, self.ordinal


class StoredRun(msgspec.Struct, array_like=True, frozen=True):
    """A FinishedRun as it is on disk and between agents. packed: its record, compressed. checksum: of all the rest."""

    index: int
    ordinal: int
    run_id: str
    project: str
    namespace: str
    job: str
    origin: str
    state: str
    reason: str | None
    requested_by: str
    scheduled_at_ms: int
    created_at_ms: int
    started_at_ms: int | None
    finished_at_ms: int
    packed: bytes
    checksum: int

    @property
    def position(self) -> Position:
        """(index, ordinal)."""
        return self.index, self.ordinal

    @property
    def sound(self) -> bool:
        """Whether it is what was packed: SQLite itself does not notice a flipped bit in a value (P9)."""
        *facts, packed, checksum = msgspec.structs.astuple(self)
        return _checksum(facts, packed) == int(checksum)

    def unpack(self) -> FinishedRun:
        """The run in it, which must be sound."""
        values = [*msgspec.structs.astuple(self)[:-2], zlib.decompress(self.packed)]
        return FinishedRun(*values)


def pack(run: FinishedRun) -> StoredRun:
    """A run as it is stored."""
    *facts, record = astuple(run)
    packed = zlib.compress(record)
    values = [*facts, packed, _checksum(facts, packed)]
    return StoredRun(*values)


def _checksum(facts: Sequence[Any], packed: bytes) -> int:
    """CRC-32C of a whole row."""
    return int(crc32c.crc32c(msgspec.msgpack.encode((facts, packed))))
