"""A snapshot on its way: cut into chunks, checked, gone on with after a loss or a restart (paper, figure 13).

Pure: `Outgoing` says which bytes to send next; the driver reads them. What has arrived is `wal_incoming`'s matter, on
the disk of the one that receives, and goes on after a restart. A transfer is named by the snapshot's index and the
checksum of its state: two snapshots of the same place need not have the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec
from crc32c import crc32c

CHUNK_BYTES: Final = 256 * 1024  # larger ones hold up what waits behind them
WINDOW_CHUNKS: Final = 4  # sent and not answered
RESEND_TICKS: Final = 20  # without an answer before it is sent again
GIVE_UP_TICKS: Final = 200  # without any progress before the transfer has failed


class Chunk(msgspec.Struct, array_like=True, frozen=True):
    """Some bytes of a snapshot. file: the checksum of the whole. size: of the whole, in bytes. crc: of `data`."""

    term: int
    index: int
    file: int
    offset: int
    size: int
    data: bytes
    crc: int


class ChunkAnswer(msgspec.Struct, array_like=True, frozen=True):
    """How many bytes of that file are stored, from its beginning. refused: it is not wanted (any more)."""

    index: int
    file: int
    stored: int
    refused: bool = False


def make_chunk(term: int, index: int, file: int, offset: int, size: int, data: bytes) -> Chunk:
    """A chunk with its checksum."""
    return Chunk(term, index, file, offset, size, data, crc32c(data))


def is_whole(chunk: Chunk) -> bool:
    """Whether its bytes are those that were sent."""
    return crc32c(chunk.data) == chunk.crc


@dataclass(slots=True)
class Outgoing:
    """A snapshot that is being sent to one node. Ticks are the driver's."""

    index: int
    file: int
    size: int
    chunk_bytes: int = CHUNK_BYTES
    sent: int = 0
    stored: int = 0
    quiet_ticks: int = 0  # since the last answer
    still_ticks: int = 0  # since the last progress
    begun: bool = False

    @property
    def done(self) -> bool:
        """Whether the other has it all."""
        return self.begun and self.stored >= self.size

    @property
    def failed(self) -> bool:
        """Whether nothing has moved for too long."""
        return self.still_ticks >= GIVE_UP_TICKS

    def next(self) -> tuple[int, int] | None:
        """(offset, length) of what to send now; None = wait. The first goes alone: its answer says where to begin."""
        window = WINDOW_CHUNKS if self.begun else 1
        if self.sent - self.stored >= window * self.chunk_bytes or self.sent >= self.size:
            return None
        offset = self.sent
        length = min(self.chunk_bytes, self.size - offset)
        self.sent += length
        return offset, length

    def answered(self, answer: ChunkAnswer) -> None:
        """Take an answer of the other node."""
        if (answer.index, answer.file) != (self.index, self.file) or answer.stored > self.size:
            return
        self.quiet_ticks = 0
        if answer.refused:
            self.still_ticks = GIVE_UP_TICKS
            return
        if answer.stored > self.stored or not self.begun:
            self.still_ticks = 0
            self.stored = answer.stored
            self.sent = max(self.sent, self.stored) if self.begun else self.stored
            self.begun = True

    def tick(self) -> None:
        """Time passes: what was not answered is sent again."""
        self.quiet_ticks += 1
        self.still_ticks += 1
        if self.quiet_ticks >= RESEND_TICKS:
            self.quiet_ticks = 0
            self.sent = self.stored
