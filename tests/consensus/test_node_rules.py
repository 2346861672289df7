"""The door of the core: what it refuses, what it tells, when it has something to do, and what it forgets."""

from __future__ import annotations

from typing import Any

import pytest

from consensus.errors import ProposalDropped
from consensus.messages import ConfState, Entry, HardState, Message, MessageType, Snapshot, SnapshotMeta
from consensus.node import Config
from consensus.ready import Role
from consensus.storage import ENTRY_OVERHEAD_BYTES, MemoryStorage
from tests.consensus.custom import THREE, custom, elect, leading
from tests.consensus.server import log, settled


def config(**options: Any) -> Config:
    return Config(**{"id": 1, "storage": MemoryStorage(), "jitter": lambda _ticks: 0, **options})


def snapshot(index: int, members: ConfState = THREE) -> Snapshot:
    return Snapshot(SnapshotMeta(index, 1, members), b"state")


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": 0},
        {"id": -1},
        {"heartbeat_ticks": 0},
        {"heartbeat_ticks": 10, "election_ticks": 10},
        {"max_inflight_messages": 0},
        {"max_inflight_bytes": 9, "max_message_bytes": 10},
        {"max_inflight_bytes": 1, "max_message_bytes": 10},
    ],
)
def test_a_config_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"id|ticks|inflight"):
        config(**wrong)


@pytest.mark.parametrize(
    "right",
    [
        {"id": 1},
        {"heartbeat_ticks": 1, "election_ticks": 2},
        {"max_inflight_messages": 1},
        {"max_inflight_bytes": 0, "max_message_bytes": 10},
        {"max_inflight_bytes": 10, "max_message_bytes": 10},
    ],
)
def test_a_config_at_its_limits_is_taken(right: dict[str, Any]) -> None:
    config(**right)


@pytest.mark.parametrize(
    ("kind", "term"),
    [(MessageType.APPEND, 0), (MessageType.VOTE, 0), (MessageType.PROPOSE, 1), (MessageType.READ_INDEX, 1)],
)
def test_a_message_must_have_a_term_if_its_type_has_one(kind: MessageType, term: int) -> None:
    with pytest.raises(ValueError, match="of term"):
        custom().node.step(Message(kind, 1, 2, term))


def test_nothing_cannot_be_proposed() -> None:
    with pytest.raises(ValueError, match="nothing"):
        leading().node.propose()


# -- what is told ------------------------------------------------------------------------------------------------------


def test_a_node_knows_whether_it_only_learns() -> None:
    members = ConfState((2,), (1,))
    assert custom(members).node.is_learner
    assert not custom(members, id=2).node.is_learner


def test_a_snapshot_that_was_taken_is_told_until_it_is_stored() -> None:
    one = custom()
    assert one.node.snapshot_index == 0
    one.node.step(Message(MessageType.SNAPSHOT, 1, 2, 1, snapshot=snapshot(5)))
    assert one.node.snapshot_index == 5
    one.work()
    assert one.node.snapshot_index == 0


def test_a_new_leader_knows_its_own_log_and_that_it_is_there() -> None:
    one = elect(custom(entries=log(1, 1), hard_state=HardState(1, 0, 2)))
    mine = one.node.status().progress[1]
    assert (mine.match, mine.next, mine.recent_active, mine.state.name) == (3, 4, True, "REPLICATE")


def test_a_leader_is_replicating_to_itself_before_it_has_stored_anything() -> None:
    one = custom(entries=log(1, 1), hard_state=HardState(1, 0, 2), pre_vote=False)
    one.node.campaign()
    one.work()
    one.node.step(Message(MessageType.VOTE_RESPONSE, 1, 2, 2))
    mine = one.node.status().progress[1]
    assert (mine.match, mine.recent_active, mine.state.name) == (2, True, "REPLICATE")


# -- has_ready ---------------------------------------------------------------------------------------------------------


def test_a_term_alone_is_a_reason_for_a_ready() -> None:
    one = custom()
    one.node.step(Message(MessageType.HEARTBEAT_RESPONSE, 1, 2, 7))
    assert one.node.has_ready()
    assert one.node.ready().hard_state == HardState(7, 0, 0)


def test_a_snapshot_that_is_wanted_is_a_reason_for_a_ready() -> None:
    """The storage's is from before node 3 was added, and what node 3 lacks is dropped."""
    one = leading()
    one.storage.create_snapshot(1, ConfState((1, 2)))
    one.storage.compact(1)
    one.node._raft.progress[3].match = 0
    one.node._raft.progress[3].become_probe()
    one.node.step(Message(MessageType.HEARTBEAT_RESPONSE, 1, 3, 1))
    assert one.node.has_ready()
    ready = one.node.ready()
    assert (ready.snapshot_wanted, ready.messages) == (True, ())
    one.node.advance()
    assert not one.node.has_ready()


def test_what_a_ready_holds_is_no_reason_for_the_next_one() -> None:
    one = custom(hard_state=HardState(1, 0, 0))
    one.node.step(Message(MessageType.APPEND, 1, 2, 1, entries=log(1, 1, 1), commit=2))
    ready = one.node.ready()
    assert [entry.index for entry in ready.committed_entries] == [1, 2]
    assert not one.node.has_ready()
    one.store(ready)
    one.node.advance()
    assert not one.node.has_ready()


def test_a_snapshot_in_a_ready_is_no_reason_for_the_next_one() -> None:
    one = custom()
    one.node.step(Message(MessageType.SNAPSHOT, 1, 2, 1, snapshot=snapshot(5)))
    assert one.node.ready().snapshot is not None
    assert not one.node.has_ready()


def test_a_newer_snapshot_that_comes_while_one_is_stored_is_asked_for_next() -> None:
    one = custom()
    one.node.step(Message(MessageType.SNAPSHOT, 1, 2, 1, snapshot=snapshot(5)))
    first = one.node.ready()
    one.node.step(Message(MessageType.SNAPSHOT, 1, 2, 1, snapshot=snapshot(8)))
    one.store(first)
    one.node.advance()
    assert one.node.ready().snapshot == snapshot(8)


def test_committed_entries_past_the_limit_wait_until_something_was_applied() -> None:
    """Else they would be handed out one by one."""
    one = custom(max_committed_bytes=2 * ENTRY_OVERHEAD_BYTES)
    one.node.step(Message(MessageType.APPEND, 1, 2, 1, entries=log(1, 1, 1), commit=3))
    ready = one.node.ready()
    assert [entry.index for entry in ready.committed_entries] == [1, 2]
    assert not one.node.has_ready()
    one.store(ready)
    one.node.advance()
    assert [entry.index for entry in one.node.ready().committed_entries] == [3]


# -- what is forgotten -------------------------------------------------------------------------------------------------


def test_what_is_stored_is_not_kept_by_the_core_as_well() -> None:
    one = settled()
    for _ in range(5):
        one.node.propose(b"data")
        one.work()
    assert not one.node._raft.log.has_unstable
    assert one.node.last_index == 6


def test_what_was_asked_while_a_ready_was_stored_is_kept_for_the_next() -> None:
    one = settled()
    one.node.propose(b"one")
    ready = one.node.ready()
    one.node.propose(b"two")
    one.store(ready)
    one.node.advance()
    assert one.node.ready().entries == (Entry(1, 3, data=b"two"),)


# -- the uncommitted tail ----------------------------------------------------------------------------------------------


def test_each_proposal_that_is_applied_makes_room_for_its_own_size() -> None:
    one = leading(max_uncommitted_bytes=10)
    for data in (b"1234", b"56789"):
        one.node.propose(data)
        one.work()
    with pytest.raises(ProposalDropped):
        one.node.propose(b"ab")
    one.hear(MessageType.APPEND_RESPONSE, 2, index=2)
    with pytest.raises(ProposalDropped):
        one.node.propose(b"abcdef")
    one.node.propose(b"abcde")


def test_what_an_earlier_leader_had_proposed_is_not_counted_twice() -> None:
    before = (Entry(1, 1, data=bytes(100)), Entry(1, 2, data=bytes(100)))
    one = leading(entries=before, hard_state=HardState(1, 0, 0), max_uncommitted_bytes=10)
    assert [entry.index for entry in one.applied] == [1, 2, 3]
    one.node.propose(b"12345")
    with pytest.raises(ProposalDropped):
        one.node.propose(b"123456")
    one.node.propose(b"12345")


def test_a_single_byte_that_waits_holds_off_what_is_too_much_and_nothing_does_not() -> None:
    one = leading(max_uncommitted_bytes=10)
    one.node.propose(b"1")
    with pytest.raises(ProposalDropped):
        one.node.propose(bytes(10))
    other = leading(max_uncommitted_bytes=10)
    other.node.propose(bytes(1000))
    with pytest.raises(ProposalDropped):
        other.node.propose(b"1")


def test_entries_without_data_are_always_taken() -> None:
    """They cost nothing, and among them is what leads out of a joint configuration."""
    one = leading(max_uncommitted_bytes=10)
    one.node.propose(bytes(1000))
    one.node.propose(b"")
    assert one.node.last_index == 3
    assert one.node.role is Role.LEADER
