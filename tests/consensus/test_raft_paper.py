"""What the Raft paper says, by section (Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm",
extended version, 2014). Each test holds one or a few of its sentences against one node, from outside.

Pre-vote and check-quorum, which are not in the paper, are off here.
"""

from __future__ import annotations

import random

import pytest

from consensus.messages import NONE, Entry, HardState, Message, MessageType
from consensus.ready import Role
from tests.consensus.server import ELECTION_TICKS, in_role, leader, log, server, settled

ROLES = [Role.FOLLOWER, Role.CANDIDATE, Role.LEADER]


# -- 5.1 Raft basics ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_a_server_takes_over_a_later_term_and_follows(role: Role) -> None:
    """5.1: a larger term is taken over; a candidate or leader whose term is out of date reverts to follower."""
    one = in_role(role)
    one.hear(MessageType.APPEND, 2, 2)
    assert (one.node.term, one.node.role, one.node.leader) == (2, Role.FOLLOWER, 2)


@pytest.mark.parametrize(
    "kind", [MessageType.APPEND, MessageType.VOTE, MessageType.HEARTBEAT, MessageType.APPEND_RESPONSE]
)
def test_a_message_of_an_earlier_term_changes_nothing(kind: MessageType) -> None:
    """5.1: a request with a stale term number is rejected."""
    one = server(hard_state=HardState(2, 0, 0))
    one.hear(kind, 2, 1, entries=log(1) if kind is MessageType.APPEND else ())
    assert (one.node.term, one.node.leader, one.node.vote, one.log()) == (2, NONE, NONE, ())


def test_the_term_and_the_vote_are_stored_before_they_are_told() -> None:
    """Figure 2, persistent state: updated on stable storage before responding to RPCs."""
    one = server()
    one.node.step(Message(MessageType.VOTE, 1, 2, 3))
    ready = one.node.ready()
    assert (ready.hard_state, ready.must_sync) == (HardState(3, 2, 0), True)
    assert not ready.messages
    assert [message.type for message in ready.messages_after_sync] == [MessageType.VOTE_RESPONSE]


def test_entries_are_stored_before_they_are_acknowledged() -> None:
    """Figure 2, persistent state, and 5.3: a follower that answers has the entries in its log."""
    one = server()
    one.node.step(Message(MessageType.APPEND, 1, 2, 1, entries=log(1, 1)))
    ready = one.node.ready()
    assert (ready.entries, ready.must_sync) == (log(1, 1), True)
    assert not ready.messages
    assert [(message.type, message.index) for message in ready.messages_after_sync] == [
        (MessageType.APPEND_RESPONSE, 2)
    ]


# -- 5.2 Leader election -----------------------------------------------------------------------------------------------


def test_servers_begin_as_followers() -> None:
    """5.2: when servers start up, they begin as followers."""
    assert server().node.role is Role.FOLLOWER
    assert server(entries=log(1), hard_state=HardState(1, 1, 1)).node.role is Role.FOLLOWER


def test_a_leader_sends_heartbeats_to_all_without_entries() -> None:
    """5.2: leaders send periodic heartbeats (AppendEntries RPCs that carry no log entries) to all followers."""
    one = leader()
    one.node.propose(b"data")
    one.work()
    beats = one.tick(1)
    assert beats == [Message(MessageType.HEARTBEAT, node, 1, 1) for node in (2, 3)]


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE])
def test_who_hears_nothing_for_a_time_starts_an_election(role: Role) -> None:
    """5.2: it increments its term, becomes candidate, votes for itself and asks all others; also when one failed."""
    one = in_role(role)
    assert one.tick(ELECTION_TICKS - 1) == []
    asked = one.tick(1)
    assert (one.node.term, one.node.role, one.node.vote) == (2, Role.CANDIDATE, 1)
    assert asked == [Message(MessageType.VOTE, node, 1, 2) for node in (2, 3)]


def test_a_follower_stays_one_as_long_as_it_hears_a_leader() -> None:
    """5.2: a server remains follower as long as it receives valid RPCs from a leader or candidate."""
    one = server()
    for _ in range(5):
        one.tick(ELECTION_TICKS - 1)
        one.hear(MessageType.HEARTBEAT, 2, 1)
    assert one.node.role is Role.FOLLOWER


def test_granting_a_vote_puts_the_own_election_off() -> None:
    """5.2 and figure 2, rules for followers: no election time-out after a vote was granted."""
    one = server()
    one.tick(ELECTION_TICKS - 1)
    one.hear(MessageType.VOTE, 2, 1)
    one.tick(ELECTION_TICKS - 1)
    assert one.node.role is Role.FOLLOWER


@pytest.mark.parametrize(
    ("size", "votes", "role"),
    [
        (1, {}, Role.LEADER),
        (3, {2: True, 3: True}, Role.LEADER),
        (3, {2: True}, Role.LEADER),
        (5, {2: True, 3: True, 4: True, 5: True}, Role.LEADER),
        (5, {2: True, 3: True, 4: True}, Role.LEADER),
        (5, {2: True, 3: True}, Role.LEADER),
        (4, {2: True, 3: True}, Role.LEADER),
        (3, {2: False, 3: False}, Role.FOLLOWER),
        (5, {2: False, 3: False, 4: False, 5: False}, Role.FOLLOWER),
        (5, {2: True, 3: False, 4: False, 5: False}, Role.FOLLOWER),
        (4, {2: False, 3: False}, Role.FOLLOWER),
        (3, {}, Role.CANDIDATE),
        (4, {2: True}, Role.CANDIDATE),
        (5, {2: True}, Role.CANDIDATE),
        (5, {2: False, 3: False}, Role.CANDIDATE),
        (5, {}, Role.CANDIDATE),
    ],
)
def test_a_candidate_wins_with_a_majority_of_the_votes_in_its_term(
    size: int, votes: dict[int, bool], role: Role
) -> None:
    """5.2: a majority of the full cluster for the same term wins; with a majority of denials it is lost for now."""
    one = server(size)
    one.node.campaign()
    one.work()
    for voter, granted in votes.items():
        one.hear(MessageType.VOTE_RESPONSE, voter, 1, reject=not granted)
    assert (one.node.role, one.node.term) == (role, 1)


def test_a_vote_counts_once_and_only_for_its_term() -> None:
    """5.2: at most one vote of each server in a term."""
    one = server(5)
    one.node.campaign()
    one.node.campaign()
    one.work()
    one.hear(MessageType.VOTE_RESPONSE, 2, 1)
    one.hear(MessageType.VOTE_RESPONSE, 3, 1)
    one.hear(MessageType.VOTE_RESPONSE, 2, 2)
    one.hear(MessageType.VOTE_RESPONSE, 2, 2)
    assert (one.node.role, one.node.term) == (Role.CANDIDATE, 2)


@pytest.mark.parametrize(
    ("vote", "candidate", "granted"),
    [(NONE, 2, True), (NONE, 3, True), (2, 2, True), (3, 3, True), (2, 3, False), (3, 2, False)],
)
def test_a_server_votes_for_one_candidate_in_a_term_and_the_first_one_gets_it(
    vote: int, candidate: int, granted: bool
) -> None:
    """5.2: at most one vote in a term, first come first served. Asked again it says the same."""
    one = server(hard_state=HardState(1, vote, 0))
    for _ in range(2):
        (answer,) = one.hear(MessageType.VOTE, candidate, 1)
        assert answer == Message(MessageType.VOTE_RESPONSE, candidate, 1, 1, reject=not granted)
    assert one.storage.hard_state.vote == (candidate if granted else vote)


@pytest.mark.parametrize("term", [1, 2])
def test_a_candidate_that_hears_a_leader_of_its_term_or_later_follows_it(term: int) -> None:
    """5.2: it recognises the leader as legitimate and returns to follower state."""
    one = in_role(Role.CANDIDATE)
    one.hear(MessageType.APPEND, 2, term)
    assert (one.node.role, one.node.term, one.node.leader) == (Role.FOLLOWER, term, 2)


def test_a_candidate_that_hears_a_leader_of_an_earlier_term_goes_on() -> None:
    """5.2: an RPC with a smaller term is rejected, and it continues in candidate state."""
    one = server(hard_state=HardState(3, 0, 0))
    one.node.campaign()
    one.hear(MessageType.APPEND, 2, 3)
    assert (one.node.role, one.node.term) == (Role.CANDIDATE, 4)


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE])
def test_election_time_outs_are_spread_over_an_interval(role: Role) -> None:
    """5.2: election time-outs are chosen randomly from a fixed interval, anew for each election."""
    one = server(jitter=random.Random(1).randrange)
    seen = set()
    for term in range(1, 50 * ELECTION_TICKS, 2):
        if role is Role.FOLLOWER:
            one.hear(MessageType.HEARTBEAT, 2, term)
        else:
            one.node.campaign()
            one.work()
        ticks = 1
        while not one.tick(1):
            ticks += 1
        seen.add(ticks)
    assert seen == set(range(ELECTION_TICKS, 2 * ELECTION_TICKS))


def test_servers_seldom_time_out_together() -> None:
    """5.2: randomised time-outs make split votes rare."""
    draw = random.Random(2)
    servers = [server(5, jitter=draw.randrange, node=node) for node in range(1, 6)]
    rounds, conflicts = 500, 0
    for term in range(1, 2 * rounds, 2):
        for one in servers:
            one.hear(MessageType.APPEND, 1 + one.node.id % 5, term)
        while not (started := [one for one in servers if one.tick(1)]):
            pass
        conflicts += len(started) > 1
    assert conflicts / rounds <= 0.3


# -- 5.3 Log replication -----------------------------------------------------------------------------------------------


def test_a_leader_appends_what_is_proposed_and_sends_it_to_all_at_once() -> None:
    """5.3: it appends the command as a new entry, and sends it with the index and term of the entry before."""
    one = settled()
    one.node.propose(b"data")
    ready = one.node.ready()
    new = (Entry(1, 2, data=b"data"),)
    assert ready.entries == new
    assert [message for message in ready.messages if message.entries] == [
        Message(MessageType.APPEND, node, 1, 1, log_term=1, index=1, commit=1, entries=new) for node in (2, 3)
    ]
    assert one.node.committed == 1


def test_a_leader_applies_what_is_committed_and_tells_the_others() -> None:
    """5.3: it applies the entry; the highest index it knows to be committed goes into its later AppendEntries."""
    one = settled()
    one.node.propose(b"data")
    told = [answer for message in one.work() if message.entries for answer in one.hear_accepted(message)]
    assert one.node.committed == 2
    assert one.applied[-1] == Entry(1, 2, data=b"data")
    assert {(message.type, message.to, message.commit) for message in told} == {
        (MessageType.APPEND, 2, 2),
        (MessageType.APPEND, 3, 2),
    }


@pytest.mark.parametrize(
    ("size", "storing", "committed"),
    [
        (1, set(), True),
        (2, set(), False),
        (2, {2}, True),
        (3, set(), False),
        (3, {2}, True),
        (3, {2, 3}, True),
        (4, {2}, False),
        (4, {2, 3}, True),
        (5, set(), False),
        (5, {2}, False),
        (5, {2, 3}, True),
        (5, {2, 3, 4}, True),
        (5, {2, 3, 4, 5}, True),
    ],
)
def test_an_entry_is_committed_when_a_majority_has_stored_it(size: int, storing: set[int], committed: bool) -> None:
    """5.3: a log entry is committed once the leader that created it has replicated it on a majority."""
    one = settled(size)
    one.node.propose(b"data")
    for message in one.work():
        if message.to in storing and message.entries:
            one.hear_accepted(message)
    assert (one.node.committed == 2) == committed


@pytest.mark.parametrize("entries", [(), log(2), log(1, 2), log(1)])
def test_committing_an_entry_commits_all_before_it(entries: tuple[Entry, ...]) -> None:
    """5.3: this also commits all preceding entries, including those of previous leaders; applied in log order."""
    one = leader(entries=entries, hard_state=HardState(2, 0, 0))
    one.node.propose(b"data")
    one.work()
    one.hear(MessageType.APPEND_RESPONSE, 2, index=one.node.last_index)
    last = len(entries)
    assert tuple(one.applied) == (*entries, Entry(3, last + 1), Entry(3, last + 2, data=b"data"))


@pytest.mark.parametrize(("count", "commit"), [(1, 1), (2, 2), (2, 1), (2, 0)])
def test_a_follower_applies_what_it_learns_to_be_committed(count: int, commit: int) -> None:
    """5.3: once a follower learns that an entry is committed, it applies it, in log order."""
    one = server()
    entries = tuple(Entry(1, index, data=b"data%d" % index) for index in range(1, count + 1))
    one.hear(MessageType.APPEND, 2, 1, entries=entries, commit=commit)
    assert one.node.committed == commit
    assert tuple(one.applied) == entries[:commit]


def test_a_follower_commits_no_further_than_what_the_leader_has_sent() -> None:
    """Figure 2, AppendEntries, 5: the minimum of the leader's commit index and the index of the last new entry."""
    one = server(entries=log(1, 1, 1))
    one.hear(MessageType.APPEND, 2, 2, index=1, log_term=1, commit=3)
    assert one.node.committed == 1


@pytest.mark.parametrize(
    ("index", "term", "answer"),
    [
        (0, 0, {"index": 1}),  # before what is committed: that much matches
        (1, 1, {"index": 1}),
        (2, 2, {"index": 2}),
        (2, 1, {"index": 2, "reject": True, "reject_hint": 1, "log_term": 1}),
        (3, 3, {"index": 3, "reject": True, "reject_hint": 2, "log_term": 2}),
    ],
)
def test_a_follower_refuses_entries_that_do_not_continue_its_log(index: int, term: int, answer: dict[str, int]) -> None:
    """5.3: without an entry of the same index and term as the one before them, it refuses the new entries."""
    one = server(entries=log(1, 2), hard_state=HardState(2, 0, 1))
    (sent,) = one.hear(MessageType.APPEND, 2, 2, index=index, log_term=term)
    assert sent == Message(MessageType.APPEND_RESPONSE, 2, 1, 2, **answer)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("index", "term", "entries", "after", "stored"),
    [
        (2, 2, log(3, start=3), log(1, 2, 3), log(3, start=3)),
        (1, 1, log(3, 4, start=2), log(1, 3, 4), log(3, 4, start=2)),
        (0, 0, log(1), log(1, 2), ()),  # an old, short append cuts nothing
        (0, 0, log(3), log(3), log(3)),
        (0, 0, log(1, 2, 3), log(1, 2, 3), log(3, start=3)),  # a repeated one adds only what is new
    ],
)
def test_a_follower_replaces_its_entries_from_the_first_conflict_on(
    index: int, term: int, entries: tuple[Entry, ...], after: tuple[Entry, ...], stored: tuple[Entry, ...]
) -> None:
    """5.3, figure 2 (AppendEntries 3, 4): a conflict deletes the entry and all that follow; new ones are added."""
    one = server(entries=log(1, 2), hard_state=HardState(2, 0, 0))
    one.node.step(Message(MessageType.APPEND, 1, 2, 4, log_term=term, index=index, entries=entries))
    assert one.node.ready().entries == stored
    one.storage.append(stored)
    assert one.log() == after


FIGURE_7 = {
    "leader": log(1, 1, 1, 4, 4, 5, 5, 6, 6, 6),
    "a": log(1, 1, 1, 4, 4, 5, 5, 6, 6),
    "b": log(1, 1, 1, 4),
    "c": log(1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6),
    "d": log(1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
    "e": log(1, 1, 1, 4, 4, 4, 4),
    "f": log(1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
}


@pytest.mark.parametrize("name", "abcdef")
def test_a_leader_brings_any_follower_to_its_own_log(name: str) -> None:
    """5.3, figure 7: missing entries, entries too many, or both: the follower's log becomes a copy of the leader's."""
    one = server(entries=FIGURE_7["leader"], hard_state=HardState(7, 0, 0))
    two = server(entries=FIGURE_7[name], hard_state=HardState(7, 0, 0), node=2)
    one.node.campaign()
    one.work()
    (first,) = (message for message in one.hear(MessageType.VOTE_RESPONSE, 3) if message.to == 2)
    on_the_way, rounds = [first], 0
    while on_the_way:
        rounds += 1
        message = on_the_way.pop(0)
        receiver = one if message.to == 1 else two
        receiver.node.step(message)
        on_the_way += [sent for sent in receiver.work() if sent.to in (1, 2)]
    assert one.log() == two.log() == (*FIGURE_7["leader"], Entry(8, 11))
    assert one.node.committed == two.node.committed == 11
    assert rounds <= 10, "terms are passed over as a whole (5.3, last paragraphs)"
