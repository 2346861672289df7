"""What the core reads of its own durable log, and a storage in memory.

The core never writes here: what a `Ready` asks to be stored, the driver stores. Everything that was handed out in a
`Ready` and is not yet reported by `Node.advance` stays in the core itself (see `log`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from consensus.errors import Compacted, SnapshotTemporarilyUnavailable, Unavailable
from consensus.messages import ConfState, Entry, HardState, Snapshot, SnapshotMeta


class Storage(Protocol):
    """The stable part of a node's log. Cheap: it is called for every message."""

    def initial_state(self) -> tuple[HardState, ConfState]:
        """What was durable when the node starts; the configuration is the snapshot's."""

    def first_index(self) -> int:
        """The index of the first entry that `entries` can give; one past the snapshot's."""

    def last_index(self) -> int:
        """The index of the last entry; the snapshot's where there is none."""

    def term(self, index: int) -> int:
        """The term of the entry at `index`, from first_index - 1 to last_index. Raises Compacted, Unavailable."""

    def entries(self, low: int, high: int, max_bytes: int) -> Sequence[Entry]:
        """Entries low to high - 1, at least one, of at most max_bytes (`entry_bytes`). Raises as `term` does."""

    def snapshot(self) -> Snapshot:
        """The newest snapshot. Raises SnapshotTemporarilyUnavailable."""


ENTRY_OVERHEAD_BYTES = 16  # what an entry's term, index and kind are taken for


def entry_bytes(entry: Entry) -> int:
    """The size of an entry for every limit on messages and batches, in bytes."""
    return len(entry.data) + ENTRY_OVERHEAD_BYTES


def limit_bytes(entries: Sequence[Entry], max_bytes: int) -> Sequence[Entry]:
    """The longest prefix within max_bytes, of at least one entry where there is one."""
    size = 0
    for count, entry in enumerate(entries):
        size += entry_bytes(entry)
        if size > max_bytes and count:
            return entries[:count]
    return entries


class MemoryStorage:
    """A log in memory: what a driver keeps of a log on disk, and what tests and simulations use.

    `_entries[0]` is a dummy with the snapshot's index and term.
    """

    def __init__(self, snapshot: Snapshot | None = None, hard_state: HardState | None = None) -> None:
        """snapshot: what the log begins after. hard_state: what was durable."""
        self._snapshot = snapshot or Snapshot()
        self.hard_state = hard_state or HardState(0, 0, self._snapshot.meta.index)
        self._entries: list[Entry] = [Entry(self._snapshot.meta.term, self._snapshot.meta.index)]

    def initial_state(self) -> tuple[HardState, ConfState]:
        """See Storage."""
        return self.hard_state, self._snapshot.meta.conf_state

    def first_index(self) -> int:
        """See Storage."""
        return self._entries[0].index + 1

    def last_index(self) -> int:
        """See Storage."""
        return self._entries[0].index + len(self._entries) - 1

    def term(self, index: int) -> int:
        """See Storage."""
        offset = index - self._entries[0].index
        if offset < 0:
            raise Compacted(f"entry {index} was dropped; the log begins at {self.first_index()}")
        if offset >= len(self._entries):
            raise Unavailable(f"entry {index} is past the log's end at {self.last_index()}")
        return self._entries[offset].term

    def entries(self, low: int, high: int, max_bytes: int) -> Sequence[Entry]:
        """See Storage."""
        base = self._entries[0].index
        if low <= base:
            raise Compacted(f"entry {low} was dropped; the log begins at {base + 1}")
        if high > base + len(self._entries):
            raise Unavailable(f"entries up to {high - 1} were asked for; the log ends at {self.last_index()}")
        return limit_bytes(self._entries[low - base : high - base], max_bytes)

    def snapshot(self) -> Snapshot:
        """See Storage."""
        if self._snapshot.meta.index == 0:
            raise SnapshotTemporarilyUnavailable("there is no snapshot yet")
        return self._snapshot

    # -- the driver's side -------------------------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries; those at and above the first one's index are replaced. What is compacted already is passed by.

        Raises Unavailable if they would leave a hole.
        """
        base = self._entries[0].index
        entries = [entry for entry in entries if entry.index > base]
        if not entries:
            return
        offset = entries[0].index - base
        if offset > len(self._entries):
            raise Unavailable(f"entry {entries[0].index} would leave a hole: the log ends at {self.last_index()}")
        del self._entries[offset:]
        self._entries += entries

    def install_snapshot(self, snapshot: Snapshot) -> None:
        """Replace everything by a snapshot that came from a leader."""
        self._snapshot = snapshot
        self._entries = [Entry(snapshot.meta.term, snapshot.meta.index)]

    def create_snapshot(self, index: int, conf_state: ConfState, data: bytes = b"") -> Snapshot:
        """Note a snapshot that this node made of itself after applying `index`. Drops nothing; see `compact`."""
        self._snapshot = Snapshot(SnapshotMeta(index, self.term(index), conf_state), data)
        return self._snapshot

    def compact(self, index: int) -> None:
        """Drop the entries up to `index`; its term is kept. Raises Compacted, Unavailable."""
        base = self._entries[0].index
        if index <= base:
            raise Compacted(f"the log is compacted to {base} already")
        if index > self.last_index():
            raise Unavailable(f"cannot compact to {index}: the log ends at {self.last_index()}")
        offset = index - base
        self._entries[: offset + 1] = [Entry(self._entries[offset].term, index)]
