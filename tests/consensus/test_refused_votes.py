"""A refused vote may say what is committed: else the longest log could be that of a node without a vote, for ever.

Such a node cannot lead. Where the others need its vote, as they do not know of the change that has taken it or that it
has one now, nobody could be elected though all of them run (raft-rs tells commit indexes with votes for the same).
"""

from __future__ import annotations

import random

import pytest

from consensus.configuration import Change, ConfChange, ConfChangeKind, encode
from consensus.messages import ConfState, Entry, EntryKind, HardState, Message, MessageType
from consensus.ready import Role
from tests.consensus.custom import THREE, custom
from tests.consensus.server import leader, log
from tests.simulator.by_hand import ByHand
from tests.simulator.machine import Kind
from tests.simulator.member import Options

ANSWERS = {MessageType.VOTE: MessageType.VOTE_RESPONSE, MessageType.PRE_VOTE: MessageType.PRE_VOTE_RESPONSE}
REMOVAL = Entry(1, 2, EntryKind.CONF_CHANGE, encode(ConfChange((Change(ConfChangeKind.REMOVE, 3),))))


def refusal(sender: int, term: int, commit: int, log_term: int) -> Message:
    """What node 1 hears of a node that tells what is committed."""
    kind = MessageType.PRE_VOTE_RESPONSE
    return Message(kind, 1, sender, term, reject=True, commit=commit, log_term=log_term)


# -- one node ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_node_without_a_vote_tells_what_is_committed_when_it_refuses(kind: MessageType) -> None:
    one = custom(ConfState((2, 3), (1,)), log(1, 1, 2), HardState(2, 0, 2))
    (answer,) = one.hear(kind, 2, 3, index=1, log_term=1)
    assert answer == Message(ANSWERS[kind], 2, 1, one.node.term, reject=True, commit=2, log_term=1)


def test_a_voter_that_refuses_tells_nothing_more() -> None:
    """It can stand itself, with the log for which it has refused."""
    one = custom(THREE, log(1, 1, 2), HardState(2, 0, 2))
    (answer,) = one.hear(MessageType.VOTE, 2, 3, index=1, log_term=1)
    assert answer == Message(MessageType.VOTE_RESPONSE, 2, 1, 3, reject=True)


def test_who_stands_and_learns_of_a_change_stands_no_more() -> None:
    """The votes that it has are of a configuration that is no more (etcd-io/etcd#7625)."""
    one = custom(THREE, (Entry(1, 1), REMOVAL), HardState(1, 0, 1))
    one.node.campaign()
    one.node.step(refusal(3, 1, 2, 1))
    assert (one.node.role, one.node.committed) == (Role.FOLLOWER, 2)


def test_who_stands_and_learns_of_other_entries_goes_on() -> None:
    one = custom(THREE, log(1, 1), HardState(1, 0, 1))
    one.node.campaign()
    one.node.step(refusal(3, 1, 2, 1))
    assert (one.node.role, one.node.committed) == (Role.PRE_CANDIDATE, 2)


def test_who_follows_a_leader_and_learns_of_a_change_by_a_late_refusal_follows_on() -> None:
    one = custom(THREE, (Entry(1, 1), REMOVAL), HardState(1, 0, 1))
    one.hear(MessageType.HEARTBEAT, 2, 1)
    one.node.step(refusal(3, 1, 2, 1))
    assert (one.node.role, one.node.leader, one.node.committed) == (Role.FOLLOWER, 2, 2)


@pytest.mark.parametrize(("commit", "log_term"), [(2, 2), (3, 1)])
def test_an_entry_that_is_not_in_the_own_log_is_not_taken_for_committed(commit: int, log_term: int) -> None:
    one = custom(THREE, log(1, 1), HardState(2, 0, 1))
    one.node.step(refusal(3, 2, commit, log_term))
    assert one.node.committed == 1


def test_a_leader_commits_by_its_own_count_alone() -> None:
    """Figure 8: it commits entries of earlier terms with one of its own, or not at all (5.4.2)."""
    one = leader(3, log(1, 1), HardState(1, 0, 0))
    one.node.step(refusal(3, one.node.term, 2, 1))
    assert (one.node.role, one.node.committed) == (Role.LEADER, 0)


@pytest.mark.parametrize(("told", "answered"), [(1, True), (2, False), (3, False)])
def test_who_knows_more_answers_a_refusal_with_that(told: int, answered: bool) -> None:
    one = custom(THREE, log(1, 1), HardState(2, 0, 2))
    one.node.step(refusal(3, 2, told, 1))
    expected = [Message(MessageType.PRE_VOTE_RESPONSE, 3, 1, 2, reject=True, commit=2, log_term=1)]
    assert one.work() == (expected if answered else [])


# -- a cluster ---------------------------------------------------------------------------------------------------------


def cluster(voters: int) -> ByHand:
    """Node 1 leads, and all is quiet."""
    made = ByHand(voters, Options(), random.Random(1))
    first = made.members[1].node
    assert first is not None
    first.campaign()
    made.run(1)
    assert first.role is Role.LEADER
    return made


def change(made: ByHand, kind: ConfChangeKind, node: int) -> None:
    """Propose it to node 1."""
    made.members[1].propose_conf_change(ConfChange((Change(kind, node),)))


def arrive(made: ByHand, to: int, count: int = 100) -> None:
    """The first so many messages to a node arrive, and the others are lost."""
    mine = [sent for sent in made.flight if sent.message.to == to]
    made.flight = [sent for sent in made.flight if sent.message.to != to]
    for sent in mine[:count]:
        made.deliver(sent)


def test_a_voter_that_became_a_learner_with_the_longest_log_lets_the_other_be_elected() -> None:
    """The simulator's seed 59733, of two nodes: the leader's disk had forgotten what the other had learned of it."""
    made = cluster(2)
    one, two = made.members[1], made.members[2]
    change(made, ConfChangeKind.ADD_LEARNER, 2)
    made.work_off(one)
    arrive(made, 2)
    made.work_off(two)
    arrive(made, 1)
    assert made.ask(one, [made.command(Kind.SWAP)])
    assert made.work(one)  # the appends leave, and nothing is stored yet
    one.crash(torn=False)
    arrive(made, 2)
    made.work_off(two)
    assert two.raft.is_learner
    assert two.raft.log.last_index > one.disk.storage.last_index()
    made.recover()


def test_a_new_voter_that_does_not_know_it_and_has_the_longest_log_comes_to_lead() -> None:
    """Of four voters one is lost for ever; the fourth is needed, and had not heard that it may vote."""
    made = cluster(3)
    one, four = made.members[1], made.members[made.spawn()]
    change(made, ConfChangeKind.ADD_LEARNER, 4)
    made.run(3)
    change(made, ConfChangeKind.ADD_VOTER, 4)
    made.work_off(one)
    assert made.ask(one, [made.command(Kind.SWAP)])
    made.work_off(one)
    for node, count in ((2, 1), (3, 1), (4, 2)):
        arrive(made, node, count)
        made.work_off(made.members[node])
    arrive(made, 1)
    one.tick()
    made.work_off(one)
    for node in (2, 3):
        arrive(made, node)
        made.work_off(made.members[node])
        assert 4 in made.members[node].raft.config.voters
        assert made.members[node].raft.log.last_index < four.raft.log.last_index
    assert four.raft.is_learner
    one.crash(torn=False)
    one.disk.lost = True
    made.flight.clear()
    made.recover()
    leading = made.leader()
    assert leading is not None
    assert 4 in leading.raft.config.voters
