"""One node with what stands around it in a test, and what must hold between nodes."""

from __future__ import annotations

from dataclasses import dataclass, field

from consensus.configuration import decode
from consensus.errors import ConfigError
from consensus.messages import Entry, EntryKind, Snapshot, SnapshotMeta
from consensus.node import Config, Node
from consensus.ready import Ready
from consensus.storage import MemoryStorage
from tests.consensus.storing import store, stored


@dataclass(slots=True)
class Member:
    """One node, its storage and its state machine. points: a snapshot of the state machine after each entry."""

    config: Config
    storage: MemoryStorage
    node: Node
    points: dict[int, Snapshot]
    state: Snapshot = field(default_factory=Snapshot)

    def apply(self, entry: Entry) -> str:
        """Give a committed entry to the state machine. Returns what went wrong with it."""
        conf_state, data, problem = self.state.meta.conf_state, entry.data, ""
        if entry.kind is EntryKind.CONF_CHANGE:
            change, data = decode(entry.data), b""
            try:
                conf_state = self.node.apply_conf_change(change)
            except ConfigError as error:
                problem = f"{error}\n"
        self.state = Snapshot(SnapshotMeta(entry.index, entry.term, conf_state), self.state.data + data)
        self.storage.create_snapshot(entry.index, conf_state, self.state.data)
        self.points[entry.index] = self.state
        return problem

    def store(self, ready: Ready) -> None:
        """Make durable what a Ready asks for."""
        store(self.storage, ready)
        if ready.snapshot is not None:
            assert not ready.entries
            self.state = ready.snapshot
            self.points[self.state.meta.index] = self.state

    def log(self) -> list[Entry]:
        """The stored entries."""
        return list(stored(self.storage))


@dataclass(slots=True)
class Promises:
    """What has been seen, to find what must never be (paper, figure 3)."""

    leaders: dict[int, int] = field(default_factory=dict)  # term -> who led it
    applied: dict[int, Entry] = field(default_factory=dict)  # index -> what was applied there

    def saw_leader(self, term: int, node: int) -> None:
        """Election safety: at most one leader in a term."""
        assert self.leaders.setdefault(term, node) == node, f"two leaders in term {term}"

    def saw_applied(self, entry: Entry) -> None:
        """State machine safety: no two nodes apply different entries at one index."""
        assert self.applied.setdefault(entry.index, entry) == entry, f"two entries applied at index {entry.index}"

    @staticmethod
    def saw_logs(one: list[Entry], other: list[Entry]) -> None:
        """Log matching: logs that hold an entry of the same index and term are the same up to there."""
        mine, met = {entry.index: entry for entry in one}, False
        for entry in reversed(other):
            if entry.index in mine:
                met = met or mine[entry.index].term == entry.term
                assert not met or mine[entry.index] == entry, f"logs differ at {entry.index} below where they meet"
