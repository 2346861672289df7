"""Elections in corners that neither the paper nor a scenario visits: what a role begins with and leaves behind."""

from __future__ import annotations

import pytest

from consensus.errors import ProposalDropped
from consensus.messages import TRANSFER, ConfState, HardState, Message, MessageType, Snapshot, SnapshotMeta
from consensus.ready import Role
from tests.consensus.custom import THREE, custom, elect, leading
from tests.consensus.server import ELECTION_TICKS, Server, log

FIVE = ConfState((1, 2, 3, 4, 5))


def role(one: Server) -> Role:
    """What it is now."""
    return one.node.role


# -- votes -------------------------------------------------------------------------------------------------------------


def test_who_follows_a_leader_votes_for_nobody_else_in_that_term() -> None:
    one = custom()
    one.hear(MessageType.HEARTBEAT, 2, 1)
    (answer,) = one.hear(MessageType.VOTE, 3, 1)
    assert (answer.type, answer.reject, one.node.vote) == (MessageType.VOTE_RESPONSE, True, 0)


@pytest.mark.parametrize("granted", [True, False])
def test_a_vote_puts_the_own_election_off_only_where_it_is_granted(granted: bool) -> None:
    """Figure 2, rules for followers. The term is known before: entering one puts it off too."""
    one = custom(entries=log(1), hard_state=HardState(1, 0, 0), pre_vote=False)
    one.tick(ELECTION_TICKS - 1)
    one.hear(MessageType.VOTE, 2, 1, index=1, log_term=1 if granted else 0)
    one.tick(1)
    assert one.node.role is (Role.FOLLOWER if granted else Role.CANDIDATE)
    one.tick(ELECTION_TICKS - 2)
    assert one.node.role is (Role.FOLLOWER if granted else Role.CANDIDATE)


def test_granting_a_vote_puts_the_own_election_off_by_a_whole_time_out() -> None:
    one = custom(hard_state=HardState(1, 0, 0), pre_vote=False)
    one.hear(MessageType.VOTE, 2, 1)
    one.tick(ELECTION_TICKS - 1)
    assert role(one) is Role.FOLLOWER
    one.tick(1)
    assert role(one) is Role.CANDIDATE


def test_a_later_term_puts_the_own_election_off() -> None:
    one = custom(entries=log(1), hard_state=HardState(1, 0, 0), pre_vote=False)
    one.tick(ELECTION_TICKS - 1)
    one.hear(MessageType.VOTE, 2, 5)  # refused: its log is older
    one.tick(ELECTION_TICKS - 1)
    assert (one.node.role, one.node.vote) == (Role.FOLLOWER, 0)


def test_votes_of_an_election_do_not_count_for_the_next_pre_vote() -> None:
    one = custom(FIVE)
    one.node.campaign()
    one.work()
    for node in (2, 3):
        one.hear(MessageType.PRE_VOTE_RESPONSE, node, 1)
    assert one.node.role is Role.CANDIDATE
    one.hear(MessageType.VOTE_RESPONSE, 2, 1)
    one.tick(ELECTION_TICKS)
    one.hear(MessageType.PRE_VOTE_RESPONSE, 3, 2)
    assert (one.node.role, one.node.term) == (Role.PRE_CANDIDATE, 1)


def test_the_vote_after_a_pre_vote_is_no_transfer() -> None:
    """Only a leader may ask for an election that its lease does not hold off (thesis, 3.10)."""
    one = custom()
    one.node.campaign()
    one.work()
    asked = one.hear(MessageType.PRE_VOTE_RESPONSE, 2, 1)
    assert [(message.type, message.context) for message in asked] == [(MessageType.VOTE, b"")] * 2
    other = custom()
    assert {message.context for message in other.hear(MessageType.TIMEOUT_NOW, 2, 1)} == {TRANSFER}


def test_a_node_stands_for_nothing_until_the_snapshot_it_was_given_is_stored() -> None:
    one = custom()
    snapshot = Snapshot(SnapshotMeta(5, 1, THREE), b"state")
    one.node.step(Message(MessageType.SNAPSHOT, 1, 2, 1, snapshot=snapshot))
    ready = one.node.ready()
    one.node.campaign()
    assert role(one) is Role.FOLLOWER
    one.store(ready)
    one.node.advance()
    one.node.campaign()
    assert role(one) is Role.PRE_CANDIDATE


def test_a_learner_that_hears_no_leader_lets_others_be_elected() -> None:
    """It has no election of its own, but its patience with a leader ends like that of others (thesis, 4.2.3)."""
    one = custom(ConfState((2, 3), (1,)))
    one.hear(MessageType.HEARTBEAT, 2, 1)
    one.tick(ELECTION_TICKS)
    (answer,) = one.hear(MessageType.VOTE, 3, 2)
    assert (answer.type, answer.reject) == (MessageType.VOTE_RESPONSE, False)


# -- messages of earlier terms -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [MessageType.HEARTBEAT, MessageType.APPEND])
@pytest.mark.parametrize(("pre_vote", "check_quorum"), [(True, False), (False, True), (False, False)])
def test_an_old_leader_learns_the_term_where_elections_may_not_tell_it(
    kind: MessageType, pre_vote: bool, check_quorum: bool
) -> None:
    one = custom(hard_state=HardState(3, 0, 0), pre_vote=pre_vote, check_quorum=check_quorum)
    sent = one.hear(kind, 2, 2)
    told = [Message(MessageType.APPEND_RESPONSE, 2, 1, 3)]
    assert sent == (told if pre_vote or check_quorum else [])


@pytest.mark.parametrize(
    "kind",
    [
        MessageType.VOTE,
        MessageType.VOTE_RESPONSE,
        MessageType.APPEND_RESPONSE,
        MessageType.HEARTBEAT_RESPONSE,
        MessageType.SNAPSHOT,
        MessageType.TIMEOUT_NOW,
    ],
)
def test_other_messages_of_an_earlier_term_are_not_answered(kind: MessageType) -> None:
    assert custom(hard_state=HardState(3, 0, 0)).hear(kind, 2, 2) == []


def test_an_old_pre_candidate_learns_the_term() -> None:
    (answer,) = custom(hard_state=HardState(3, 0, 0)).hear(MessageType.PRE_VOTE, 2, 2)
    assert answer == Message(MessageType.PRE_VOTE_RESPONSE, 2, 1, 3, reject=True)


def test_a_request_is_passed_on_in_the_name_of_who_made_it() -> None:
    one = custom()
    one.hear(MessageType.HEARTBEAT, 2, 1)
    one.node.step(Message(MessageType.READ_INDEX, 1, 3, 0, context=b"read"))
    one.node.read_index(b"mine")
    assert [(message.to, message.sender) for message in one.work()] == [(2, 3), (2, 1)]


# -- what a leadership begins with -------------------------------------------------------------------------------------


def test_the_first_check_of_the_quorum_comes_a_whole_time_out_after_the_election() -> None:
    one = custom(pre_vote=False)
    one.node.campaign()
    one.work()
    one.tick(ELECTION_TICKS - 1)
    one.hear(MessageType.VOTE_RESPONSE, 2)
    one.tick(ELECTION_TICKS - 1)
    assert role(one) is Role.LEADER
    one.tick(1)
    assert role(one) is Role.FOLLOWER, "nobody was heard since"


def test_a_leader_that_hears_no_quorum_sends_no_more() -> None:
    one = elect(custom())
    one.tick(ELECTION_TICKS - 1)
    assert (one.tick(1), one.node.role) == ([], Role.FOLLOWER)


def beats(one: Server, ticks: int) -> list[int]:
    """After which ticks it sends heartbeats."""
    return [at for at in range(1, ticks + 1) if any(sent.type is MessageType.HEARTBEAT for sent in one.tick(1))]


def test_heartbeats_come_at_their_interval() -> None:
    one = leading(heartbeat_ticks=3)
    assert beats(one, 9) == [3, 6, 9]


def test_the_interval_of_heartbeats_begins_with_the_leadership() -> None:
    one = leading(heartbeat_ticks=3)
    one.tick(2)
    one.hear(MessageType.HEARTBEAT, 2, 2)
    elect(one)
    assert beats(one, 4) == [3]


def test_a_transfer_ends_with_its_leadership() -> None:
    one = leading()
    one.node.transfer_leadership(2)
    with pytest.raises(ProposalDropped):
        one.node.propose(b"data")
    one.hear(MessageType.HEARTBEAT, 3, 2)
    elect(one)
    one.node.propose(b"data")
    assert one.node.status().transferee == 0
