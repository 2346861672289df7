"""What the Raft paper says of safety, compaction and clients, by section: `test_raft_paper` goes on here (5.4 to 8).

Last come some sentences of the thesis on the leader's own disk (Ongaro, "Consensus: Bridging Theory and Practice").
"""

from __future__ import annotations

import pytest

from consensus.errors import Inconsistent, ProposalDropped
from consensus.messages import NONE, ConfState, Entry, HardState, Message, MessageType, Snapshot, SnapshotMeta
from consensus.ready import Role
from tests.consensus.server import ELECTION_TICKS, leader, log, server, settled

# -- 5.4.1 Election restriction ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("entries", "term"), [(log(1), 2), (log(1, 2), 3)])
def test_a_request_for_votes_tells_how_the_log_ends(entries: tuple[Entry, ...], term: int) -> None:
    """5.4.1: the RPC includes information about the candidate's log, and goes to all others."""
    one = server()
    one.hear(MessageType.APPEND, 2, term - 1, entries=entries)
    asked = one.tick(ELECTION_TICKS)
    last = entries[-1]
    assert asked == [Message(MessageType.VOTE, node, 1, term, index=last.index, log_term=last.term) for node in (2, 3)]


@pytest.mark.parametrize(
    ("mine", "term", "index", "granted"),
    [
        (log(1), 1, 1, True),
        (log(1), 1, 2, True),
        (log(1, 1), 1, 1, False),
        (log(1), 2, 1, True),
        (log(1), 2, 2, True),
        (log(1, 1), 2, 1, True),
        (log(2), 1, 1, False),
        (log(2), 1, 2, False),
        (log(2, 2), 1, 1, False),
        ((), 0, 0, True),
    ],
)
def test_a_vote_is_denied_to_a_log_that_is_less_up_to_date(
    mine: tuple[Entry, ...], term: int, index: int, granted: bool
) -> None:
    """5.4.1: the later last term is more up to date; with the same last term the longer log is."""
    one = server(2, mine, HardState(2, 0, 0))
    (answer,) = one.hear(MessageType.VOTE, 2, 3, log_term=term, index=index)
    assert answer == Message(MessageType.VOTE_RESPONSE, 2, 1, 3, reject=not granted)
    assert one.node.vote == (2 if granted else NONE)


# -- 5.4.2 Committing entries from previous terms ----------------------------------------------------------------------


@pytest.mark.parametrize(("stored", "committed"), [(1, 0), (2, 0), (3, 3), (4, 4)])
def test_only_entries_of_the_own_term_are_committed_by_counting(stored: int, committed: int) -> None:
    """5.4.2: an entry of an earlier term is never committed by counting replicas; it is with one of the own term."""
    one = leader(2, log(1, 2), HardState(2, 0, 0))
    one.node.propose(b"")
    one.work()
    one.hear(MessageType.APPEND_RESPONSE, 2, index=stored)
    assert one.node.committed == committed


def test_a_heartbeat_speaks_of_nothing_that_its_receiver_may_not_have() -> None:
    """5.3, figure 2: what a follower commits is in its log, and is the leader's; a heartbeat checks neither."""
    one = settled()
    one.node.propose(b"data")
    one.work()
    one.hear(MessageType.APPEND_RESPONSE, 2, index=2)
    assert one.node.committed == 2
    assert {(beat.to, beat.commit) for beat in one.tick(1)} == {(2, 2), (3, 1)}


def test_what_is_committed_is_never_replaced() -> None:
    """5.4.3, state machine safety: entries at committed indexes are answered for, and left as they are."""
    one = server(entries=log(1, 1), hard_state=HardState(1, 0, 2))
    (answer,) = one.hear(MessageType.APPEND, 2, 2, index=1, log_term=1, entries=log(2, start=2))
    assert (answer.index, answer.reject) == (2, False)
    assert one.log() == log(1, 1)


def test_a_node_that_has_lost_committed_entries_stops() -> None:
    """5.4.3: a leader that knows of entries stored here which are not here any more shows that a disk has lost them."""
    one = server(entries=log(1, 1), hard_state=HardState(1, 0, 2))
    with pytest.raises(Inconsistent):
        one.hear(MessageType.HEARTBEAT, 2, 2, commit=3)


# -- 5.5 Follower and candidate crashes --------------------------------------------------------------------------------


def test_an_append_that_comes_twice_does_no_harm() -> None:
    """5.5: Raft RPCs are idempotent."""
    one = server()
    sent = [one.hear(MessageType.APPEND, 2, 1, entries=log(1, 1), commit=1) for _ in range(2)]
    assert [(answer.type, answer.reject) for (answer,) in sent] == [(MessageType.APPEND_RESPONSE, False)] * 2
    assert one.log() == log(1, 1)
    assert tuple(one.applied) == log(1)


# -- 7 Log compaction --------------------------------------------------------------------------------------------------


def _snapshot(index: int, term: int) -> Snapshot:
    return Snapshot(SnapshotMeta(index, term, ConfState((1, 2, 3))), b"state")


def test_a_snapshot_that_is_ahead_of_the_log_replaces_it() -> None:
    """7: it contains new information: the follower discards its entire log."""
    one = server(entries=log(1, 1))
    (answer,) = one.hear(MessageType.SNAPSHOT, 2, 3, snapshot=_snapshot(5, 2))
    assert (answer.type, answer.index) == (MessageType.APPEND_RESPONSE, 5)
    assert (one.log(), one.storage.first_index(), one.node.applied) == ((), 6, 5)


def test_a_snapshot_of_what_the_log_holds_leaves_the_rest_of_it() -> None:
    """7: a snapshot that describes a prefix of its log: entries following it are still valid and must be retained."""
    one = server(entries=log(1, 1, 1), hard_state=HardState(1, 0, 0))
    (answer,) = one.hear(MessageType.SNAPSHOT, 2, 1, snapshot=_snapshot(2, 1))
    assert (answer.type, answer.index) == (MessageType.APPEND_RESPONSE, 2)
    assert (one.log(), one.node.committed) == (log(1, 1, 1), 2)


def test_an_old_snapshot_changes_nothing() -> None:
    """7: by retransmission or by mistake it may come when it is known already."""
    one = server(entries=log(1, 1, 1), hard_state=HardState(1, 0, 3))
    (answer,) = one.hear(MessageType.SNAPSHOT, 2, 1, snapshot=_snapshot(2, 1))
    assert (answer.index, one.log(), one.node.committed) == (3, log(1, 1, 1), 3)


def test_a_leader_sends_a_snapshot_when_it_has_dropped_what_a_follower_lacks() -> None:
    """7: InstallSnapshot goes to followers that are too far behind."""
    one = leader()
    one.hear(MessageType.APPEND_RESPONSE, 2, index=1)
    snapshot = one.storage.create_snapshot(1, ConfState((1, 2, 3)))
    one.storage.compact(1)
    (sent,) = one.hear(MessageType.HEARTBEAT_RESPONSE, 3)
    assert sent == Message(MessageType.SNAPSHOT, 3, 1, 1, snapshot=snapshot)


# -- 8 Client interaction ----------------------------------------------------------------------------------------------


def test_a_new_leader_begins_with_an_entry_of_its_own() -> None:
    """8: each leader commits a blank no-op entry at the start of its term, to learn what is committed."""
    one = leader(entries=log(1, 1), hard_state=HardState(1, 0, 0))
    assert one.log() == (*log(1, 1), Entry(2, 3))


def test_a_leader_answers_a_read_only_after_a_majority_has_heard_it() -> None:
    """8: a leader must check whether it has been deposed before it processes a read-only request."""
    one = settled(5)
    one.node.read_index(b"read")
    beats = one.work()
    assert {beat.type for beat in beats} == {MessageType.HEARTBEAT}
    seen = []
    for beat in beats:
        one.node.step(Message(MessageType.HEARTBEAT_RESPONSE, 1, beat.to, 1, context=beat.context))
        seen.append(one.node.has_ready() and [read.index for read in one.node.ready().read_states])
        if seen[-1]:
            break
    assert seen == [False, [1]]


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE])
def test_a_server_without_a_leader_takes_no_proposals(role: Role) -> None:
    """8: clients send their requests to the leader; who knows of none says so."""
    one = server()
    if role is Role.CANDIDATE:
        one.node.campaign()
    with pytest.raises(ProposalDropped):
        one.node.propose(b"data")


# -- thesis 10.2.1 Writing to the leader's disk in parallel ------------------------------------------------------------


def test_a_leader_counts_itself_only_for_what_it_has_stored() -> None:
    """Thesis, 10.2.1: appends leave before the leader's own write ends; it does not count before that."""
    one = settled()
    one.node.propose(b"data")
    ready = one.node.ready()
    assert ready.leads
    assert {message.type for message in ready.messages} == {MessageType.APPEND}
    one.node.step(Message(MessageType.APPEND_RESPONSE, 1, 2, 1, index=2))
    assert one.node.committed == 1, "stored by one of three"
    one.store(ready)
    one.node.advance()
    assert one.node.committed == 2


def test_an_entry_may_be_committed_before_the_leader_has_stored_it() -> None:
    """Thesis, 10.2.1: a majority of followers is enough. It is applied after it is stored here too."""
    one = settled()
    one.node.propose(b"data")
    ready = one.node.ready()
    for follower in (2, 3):
        one.node.step(Message(MessageType.APPEND_RESPONSE, 1, follower, 1, index=2))
    assert one.node.committed == 2
    assert not ready.committed_entries
    one.store(ready)
    one.node.advance()
    assert one.node.ready().committed_entries == (Entry(1, 2, data=b"data"),)


def test_what_a_later_leader_replaces_while_it_is_written_is_written_again() -> None:
    """Thesis, 10.2.1, for any write that runs: its end says nothing about entries that have replaced what it wrote."""
    one = server()
    one.node.step(Message(MessageType.APPEND, 1, 2, 1, entries=log(1, 1)))
    ready = one.node.ready()
    one.node.step(Message(MessageType.APPEND, 1, 3, 2, index=1, log_term=1, entries=log(2, start=2)))
    one.store(ready)
    one.node.advance()
    assert one.node.ready().entries == log(2, start=2)
