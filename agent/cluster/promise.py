"""The file of this agent's promises: what `formation` has to have on disk before it is told.

One value in two slots (`consensus.hard_state`), bound to the agent's id: a file of another agent is refused. It is made
with the data directory and stays as long as that does. An agent whose file has gone must not go on under its id: what
it has promised to others would be forgotten (P9).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import msgspec

from agent.cluster.standing import Record
from consensus.disk import REAL, FileSystem, LogDisk
from consensus.errors import LogDamaged
from consensus.hard_state import SlotFile

FILE: Final = "promises"
MAGIC: Final = b"prime.pr"

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Record).decode


class PromiseFile:
    """The record on disk. Not for two threads at once."""

    def __init__(self, slots: SlotFile, record: Record) -> None:
        """Private: use `open`."""
        self._slots, self._record = slots, record

    @classmethod
    def open(cls, data_dir: Path, agent: str, *, io: FileSystem = REAL) -> PromiseFile:
        """Open the file of the agent with that id, or make it, with no promise in it.

        Whether it may be missing is for the caller to know: only at the agent's first start. Raises LogDamaged, also
        for the file of another agent, LogTooNew, LogFull, LogFailed.
        """
        disk, path = LogDisk(io), data_dir / FILE
        owner = hashlib.sha256(agent.encode()).digest()[:16]
        try:
            slots = SlotFile.open(disk, path, MAGIC, owner)
        except FileNotFoundError:
            slots = SlotFile.create(disk, path, MAGIC, owner, _encode(Record()))
        try:
            return cls(slots, _decode(slots.value))
        except msgspec.DecodeError as error:
            slots.close()
            raise LogDamaged(path, 0, f"what it holds is no record of promises: {error}") from error

    @property
    def record(self) -> Record:
        """What is durable."""
        return self._record

    def store(self, record: Record) -> None:
        """Make it durable: two writes, two syncs. Raises LogFailed, after which nothing of it may be told."""
        self._slots.write(_encode(record))
        self._record = record

    def close(self) -> None:
        """Let the file go."""
        self._slots.close()
