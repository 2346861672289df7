"""One node, seen from outside: what tests of single nodes step, tick and look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from consensus.messages import ConfState, Entry, HardState, Message, MessageType, Snapshot, SnapshotMeta
from consensus.node import Config, Node
from consensus.ready import Ready, Role
from consensus.storage import MemoryStorage
from tests.consensus.storing import store, stored

ELECTION_TICKS = 10


def log(*terms: int, start: int = 1) -> tuple[Entry, ...]:
    """Entries with these terms, the first at `start`."""
    return tuple(Entry(term, index) for index, term in enumerate(terms, start))


@dataclass
class Server:
    """A node and what it has stored and applied. Nothing is delivered that a test does not step."""

    node: Node
    storage: MemoryStorage
    applied: list[Entry] = field(default_factory=list)

    def store(self, ready: Ready) -> None:
        """Do what a Ready asks for, all but the sending."""
        store(self.storage, ready)
        self.applied += ready.committed_entries

    def work(self) -> list[Message]:
        """Do all that the node wants done. Returns what it has sent."""
        sent: list[Message] = []
        while self.node.has_ready():
            ready = self.node.ready()
            self.store(ready)
            sent += [*ready.messages, *ready.messages_after_sync]
            self.node.advance()
        return sent

    def hear(self, kind: MessageType, sender: int, term: int | None = None, **fields: Any) -> list[Message]:
        """Step a message. term: the node's own where it is not given. Returns what it has sent."""
        term = self.node.term if term is None else term
        self.node.step(Message(kind, self.node.id, sender, term, **fields))
        return self.work()

    def hear_accepted(self, append: Message) -> list[Message]:
        """Step the answer of a follower that has stored an append of this node."""
        assert append.type is MessageType.APPEND
        last = append.index + len(append.entries)
        return self.hear(MessageType.APPEND_RESPONSE, append.to, append.term, index=last)

    def tick(self, times: int) -> list[Message]:
        """Let time pass."""
        for _ in range(times):
            self.node.tick()
        return self.work()

    def log(self) -> tuple[Entry, ...]:
        """What is stored."""
        return stored(self.storage)


def server(
    size: int = 3,
    entries: Sequence[Entry] = (),
    hard_state: HardState | None = None,
    jitter: Callable[[int], int] = lambda _ticks: 0,
    node: int = 1,
) -> Server:
    """A node of a cluster of `size` voters, with a log."""
    conf_state = ConfState(tuple(range(1, size + 1)))
    storage = MemoryStorage(Snapshot(SnapshotMeta(0, 0, conf_state)), hard_state)
    storage.append(entries)
    config = Config(
        id=node,
        storage=storage,
        jitter=jitter,
        election_ticks=ELECTION_TICKS,
        heartbeat_ticks=1,
        pre_vote=False,
        check_quorum=False,
    )
    return Server(Node(config), storage)


def leader(size: int = 3, entries: Sequence[Entry] = (), hard_state: HardState | None = None) -> Server:
    """Node 1, elected by all in the term after the one it begins with. Its empty entry is sent, and not answered."""
    one = server(size, entries, hard_state)
    one.node.campaign()
    one.work()
    for voter in range(2, size + 1):
        one.hear(MessageType.VOTE_RESPONSE, voter)
    assert one.node.role is Role.LEADER
    return one


def settled(size: int = 3) -> Server:
    """A leader whose empty entry all have stored."""
    one = leader(size)
    for node in range(2, size + 1):
        one.hear(MessageType.APPEND_RESPONSE, node, index=one.node.last_index)
    return one


def in_role(role: Role) -> Server:
    """A node in term 1."""
    if role is Role.LEADER:
        return leader()
    one = server()
    if role is Role.FOLLOWER:
        one.hear(MessageType.HEARTBEAT, 2, 1)
    else:
        one.node.campaign()
        one.work()
    assert (one.node.role, one.node.term) == (role, 1)
    return one
