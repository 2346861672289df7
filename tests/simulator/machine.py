"""The state machine that the simulated nodes replicate: registers, and which commands were done already.

A command's entry holds its number; what it says stands in the clients' own list. A command that comes twice, because a
client asked again or the network doubled it, is done once (thesis, 6.3).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from consensus.messages import Entry, EntryKind

NUMBER_BYTES: Final = 4


class Kind(StrEnum):
    """What a client may ask for."""

    WRITE = "write"  # gives nothing
    SWAP = "swap"  # gives the value before
    READ = "read"  # through ReadIndex, without an entry


@dataclass(slots=True)
class Command:
    """One wish of a client, and what became of it. value: of WRITE and SWAP, never used twice; 0 = the beginning.

    called, returned: time; returned = None: not answered. index: of its entry, or the state a read was answered from.
    floor: no read and no write may be answered from before this index: somebody was told of it before this began.
    """

    number: int
    kind: Kind
    key: int
    value: int
    called: int
    floor: int
    size_bytes: int = NUMBER_BYTES
    returned: int | None = None
    output: int | None = None
    index: int = 0
    refused: bool = False  # for certain not done

    @property
    def data(self) -> bytes:
        """What its entry holds."""
        return self.number.to_bytes(NUMBER_BYTES, "big").ljust(self.size_bytes, b".")


@dataclass(frozen=True, slots=True)
class Image:
    """What a snapshot holds."""

    index: int
    registers: dict[int, int]
    done: dict[int, tuple[int, int]]
    digest: int


@dataclass(slots=True)
class Machine:
    """registers: key -> value. done: number of a command -> (index, output). digest: of everything that was applied."""

    commands: list[Command]
    index: int = 0
    registers: dict[int, int] = field(default_factory=dict)
    done: dict[int, tuple[int, int]] = field(default_factory=dict)
    digest: int = 0

    def apply(self, entry: Entry) -> Command | None:
        """Take the next entry. Returns the command that it holds, the first time or again."""
        self.index = entry.index
        self.digest = hash((self.digest, entry.index, entry.term))
        if entry.kind is not EntryKind.NORMAL or not entry.data:
            return None
        command = self.commands[int.from_bytes(entry.data[:NUMBER_BYTES], "big")]
        if command.number not in self.done:
            self.done[command.number] = (entry.index, self.registers.get(command.key, 0))
            self.registers[command.key] = command.value
        return command

    def image(self) -> Image:
        """A copy of everything."""
        return Image(self.index, dict(self.registers), dict(self.done), self.digest)

    def restore(self, image: Image) -> None:
        """Become what a snapshot holds."""
        self.index, self.digest = image.index, image.digest
        self.registers, self.done = dict(image.registers), dict(image.done)
