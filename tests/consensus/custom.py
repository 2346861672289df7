"""Single nodes with any configuration, for rules that the paper's tests leave out: `server` has the plain ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from consensus.messages import ConfState, Entry, HardState, MessageType, Snapshot, SnapshotMeta
from consensus.node import Config, Node
from consensus.ready import Role
from consensus.storage import MemoryStorage
from tests.consensus.server import ELECTION_TICKS, Server

THREE = ConfState((1, 2, 3))


def custom(
    members: ConfState = THREE,
    entries: Sequence[Entry] = (),
    hard_state: HardState | None = None,
    *,
    base: tuple[int, int] = (0, 0),
    **options: Any,
) -> Server:
    """Node 1, unless `id` says otherwise, with pre-vote and check-quorum. base: what the log begins after."""
    storage = MemoryStorage(Snapshot(SnapshotMeta(*base, members), b"base"), hard_state)
    storage.append(entries)
    plain = {"id": 1, "jitter": lambda _ticks: 0, "election_ticks": ELECTION_TICKS, "applied": base[0]}
    return Server(Node(Config(storage=storage, **{**plain, **options})), storage)


def elect(one: Server) -> Server:
    """Let it be elected by all the others; nobody has answered its first entry."""
    one.node.campaign()
    one.work()
    others = [node for node in one.node.config.voters if node != one.node.id]
    if one.node.role is Role.PRE_CANDIDATE:
        for node in others:
            one.hear(MessageType.PRE_VOTE_RESPONSE, node, one.node.term + 1)
    for node in others:
        if one.node.role is Role.CANDIDATE:
            one.hear(MessageType.VOTE_RESPONSE, node)
    assert one.node.role is Role.LEADER
    return one


def settle(one: Server) -> Server:
    """Let all members store everything that a leader has."""
    for node in sorted(one.node.config.members - {one.node.id}):
        one.hear(MessageType.APPEND_RESPONSE, node, index=one.node.last_index)
    assert one.node.committed == one.node.last_index
    return one


def leading(members: ConfState = THREE, **options: Any) -> Server:
    """A leader whose first entry all have stored."""
    return settle(elect(custom(members, **options)))
