"""What a leader does with answers, reports and changes, and a follower with what is old or not for it."""

from __future__ import annotations

import pytest

from consensus.configuration import Change, ConfChange, ConfChangeKind, decode
from consensus.messages import ConfState, Entry, EntryKind, HardState, Message, MessageType, Snapshot, SnapshotMeta
from consensus.progress import Progress, ProgressState
from consensus.quorum import JointVoters
from consensus.read_index import ReadIndex
from consensus.ready import Role
from tests.consensus.custom import THREE, custom, leading
from tests.consensus.server import Server, log

ADD, REMOVE = ConfChangeKind.ADD_VOTER, ConfChangeKind.REMOVE


def of(one: Server, node: int) -> Progress:
    return one.node.status().progress[node]


def probing(one: Server, node: int) -> Server:
    """The leader has lost sight of the node."""
    one.node.report_unreachable(node)
    assert of(one, node).state is ProgressState.PROBE
    return one


# -- acknowledgements --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "state"), [(1, ProgressState.PROBE), (2, ProgressState.REPLICATE), (3, ProgressState.REPLICATE)]
)
def test_a_probe_is_over_when_its_answer_shows_that_the_logs_meet(index: int, state: ProgressState) -> None:
    """Also by what was known to match: nothing was lost since. An answer from before says nothing."""
    one = leading()
    for _ in range(2):
        one.node.propose(b"data")
        one.work()
    one.hear(MessageType.APPEND_RESPONSE, 2, index=2)
    probing(one, 2)
    one.hear(MessageType.APPEND_RESPONSE, 2, index=index)
    assert (of(one, 2).state, of(one, 2).match) == (state, max(index, 2))


def test_an_acknowledgement_that_comes_again_starts_nothing() -> None:
    one = leading()
    one.node.transfer_leadership(2)
    assert [message.type for message in one.work()] == [MessageType.TIMEOUT_NOW]
    for index in (0, 1):
        assert one.hear(MessageType.APPEND_RESPONSE, 2, index=index) == []
    assert of(one, 2).match == 1


def test_the_target_of_a_transfer_stands_when_it_has_everything_and_not_before() -> None:
    one = leading()
    one.node.propose(b"1")
    one.node.propose(b"2")
    one.work()
    one.node.transfer_leadership(3)
    kinds = [
        {message.type for message in one.hear(MessageType.APPEND_RESPONSE, 3, index=index)} - {MessageType.APPEND}
        for index in (2, 3)
    ]
    assert kinds == [set(), {MessageType.TIMEOUT_NOW}]


def test_a_member_that_is_up_to_date_is_probed_until_it_answers() -> None:
    one = probing(leading(), 2)
    (probe,) = one.hear(MessageType.HEARTBEAT_RESPONSE, 2)
    assert (probe.type, probe.to, probe.entries) == (MessageType.APPEND, 2, ())
    one.hear(MessageType.APPEND_RESPONSE, 2, index=1)
    assert one.hear(MessageType.HEARTBEAT_RESPONSE, 2) == []


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_refusal_from_before_what_is_known_changes_nothing_and_is_not_answered() -> None:
    one = leading()
    assert one.hear(MessageType.APPEND_RESPONSE, 2, index=1, reject=True, reject_hint=0) == []
    assert (of(one, 2).state, of(one, 2).match) == (ProgressState.REPLICATE, 1)
    probing(one, 2)
    assert one.hear(MessageType.APPEND_RESPONSE, 2, index=0, reject=True, reject_hint=0) == []
    assert of(one, 2).state is ProgressState.PROBE


def test_a_hint_without_a_term_is_followed_as_it_is() -> None:
    """The follower has compacted what stands there: only the index says where the logs may meet."""
    one = custom(entries=log(1, 2, 3), hard_state=HardState(3, 0, 0), pre_vote=False)
    one.node.campaign()
    one.work()
    one.hear(MessageType.VOTE_RESPONSE, 2)
    (append,) = one.hear(MessageType.APPEND_RESPONSE, 2, index=3, reject=True, reject_hint=2)
    assert (append.index, append.log_term) == (2, 2)


def test_an_empty_log_refuses_with_a_hint_of_nothing() -> None:
    (answer,) = custom().hear(MessageType.APPEND, 2, 3, index=5, log_term=2)
    assert answer == Message(MessageType.APPEND_RESPONSE, 2, 1, 3, index=5, reject=True)


# -- snapshots ---------------------------------------------------------------------------------------------------------


def behind(members: ConfState | None = THREE) -> Server:
    """A leader that has dropped what node 3 lacks. members: of its snapshot; None = it has none yet."""
    one = leading()
    one.node.propose(b"data")
    one.work()
    one.hear(MessageType.APPEND_RESPONSE, 2, index=2)
    if members is not None:
        one.storage.create_snapshot(2, members)
    one.storage.compact(2)
    probing(one, 3)
    return one


def sending() -> Server:
    """A leader whose snapshot is on its way to node 3."""
    one = behind()
    assert [message.type for message in one.hear(MessageType.HEARTBEAT_RESPONSE, 3)] == [MessageType.SNAPSHOT]
    return one


def test_a_snapshot_that_is_from_before_a_member_is_not_sent_to_it() -> None:
    one = behind(ConfState((1, 2)))
    assert one.hear(MessageType.HEARTBEAT_RESPONSE, 3) == []
    assert one.hear(MessageType.APPEND_RESPONSE, 3, index=1) == []
    assert of(one, 3).state is not ProgressState.SNAPSHOT


def test_a_snapshot_that_cannot_be_had_now_is_asked_for_again() -> None:
    one = behind(None)
    assert one.hear(MessageType.HEARTBEAT_RESPONSE, 3) == []
    assert one.hear(MessageType.APPEND_RESPONSE, 3, index=1) == []
    one.storage.create_snapshot(2, THREE)
    assert [message.type for message in one.hear(MessageType.HEARTBEAT_RESPONSE, 3)] == [MessageType.SNAPSHOT]


@pytest.mark.parametrize(("ok", "following"), [(True, 3), (False, 2)])
def test_after_a_snapshot_the_node_is_probed_behind_it_or_if_it_failed_behind_what_matches(
    ok: bool, following: int
) -> None:
    one = sending()
    one.node.report_snapshot(3, ok=ok)
    three = of(one, 3)
    assert (three.state, three.next, three.paused) == (ProgressState.PROBE, following, True)


def test_a_snapshot_that_failed_is_forgotten_whatever_matches() -> None:
    one = leading(entries=log(1), hard_state=HardState(1, 0, 1))
    three = one.node._raft.progress[3]
    three.match = 0
    three.become_snapshot(9)
    one.node.report_snapshot(3, ok=False)
    assert three.next == 1


@pytest.mark.parametrize("node", [2, 9])
def test_a_report_of_a_snapshot_that_was_not_sent_means_nothing(node: int) -> None:
    one = leading()
    one.node.report_snapshot(node, ok=True)
    assert of(one, 2).state is ProgressState.REPLICATE
    assert not of(one, 2).paused
    assert not one.node.has_ready()


def test_a_node_that_cannot_be_reached_still_gets_its_snapshot() -> None:
    """How that goes on its own way is reported by itself."""
    one = sending()
    one.node.report_unreachable(3)
    assert of(one, 3).state is ProgressState.SNAPSHOT


def test_a_lost_probe_is_not_repeated_for_a_report_alone() -> None:
    one = probing(leading(), 2)
    one.node.propose(b"data")
    one.work()
    assert of(one, 2).paused
    one.node.report_unreachable(2)
    assert of(one, 2).paused
    one.node.report_unreachable(9)


def snapshot(index: int, term: int, members: ConfState = THREE) -> Snapshot:
    return Snapshot(SnapshotMeta(index, term, members), b"state")


def test_an_old_snapshot_takes_nothing_back_when_what_it_covers_was_dropped() -> None:
    one = custom(entries=log(2, 2, start=6), hard_state=HardState(2, 0, 6), base=(5, 1))
    (answer,) = one.hear(MessageType.SNAPSHOT, 2, 2, snapshot=snapshot(3, 1))
    assert (answer.index, one.log(), one.node.committed) == (6, log(2, 2, start=6), 6)


def test_the_answer_to_an_old_snapshot_says_no_more_than_what_is_committed() -> None:
    """The entries behind that may be another leader's."""
    one = custom(entries=log(1, 1, 1), hard_state=HardState(1, 0, 2))
    (answer,) = one.hear(MessageType.SNAPSHOT, 2, 2, snapshot=snapshot(2, 1))
    assert answer.index == 2


def test_a_snapshot_without_the_receiver_is_passed_by_and_its_answer_says_what_is_committed() -> None:
    one = custom(entries=log(1, 1, 1), hard_state=HardState(1, 0, 2))
    (answer,) = one.hear(MessageType.SNAPSHOT, 2, 2, snapshot=snapshot(9, 2, ConfState((2, 3))))
    assert (answer.index, one.node.last_index) == (2, 3)


# -- changes of the members --------------------------------------------------------------------------------------------


def apply(one: Server) -> list[Message]:
    """Do all that the node wants done, changes too. Returns what it has sent."""
    sent: list[Message] = []
    while one.node.has_ready():
        ready = one.node.ready()
        one.store(ready)
        sent += [*ready.messages, *ready.messages_after_sync]
        for entry in ready.committed_entries:
            if entry.kind is EntryKind.CONF_CHANGE:
                one.node.apply_conf_change(decode(entry.data))
        one.node.advance()
    return sent


def test_a_smaller_quorum_commits_what_waits_and_the_others_are_told() -> None:
    four = ConfState((1, 2, 3, 4))
    one = leading(four)
    one.node.propose_conf_change(ConfChange((Change(REMOVE, 4),)))
    one.node.propose(b"data")
    one.work()
    one.node.step(Message(MessageType.APPEND_RESPONSE, 1, 3, 1, index=2))
    one.node.step(Message(MessageType.APPEND_RESPONSE, 1, 2, 1, index=3))
    assert one.node.committed == 2
    sent = apply(one)
    assert one.node.committed == 3, "two of three have it"
    assert {message.to for message in sent if message.commit == 3} == {2, 3}


def test_a_removed_leader_that_goes_on_begins_nothing_by_the_removal_itself() -> None:
    """It takes part no more; what it has sent is committed by the next answer, or by the next leader."""
    one = leading(ConfState((1, 2)), step_down_on_removal=False)
    one.node.propose_conf_change(ConfChange((Change(REMOVE, 1),)))
    one.work()
    one.node.step(Message(MessageType.APPEND_RESPONSE, 1, 2, 1, index=2))
    one.node.propose(b"data")
    ready = one.node.ready()
    assert [entry.index for entry in ready.committed_entries] == [2]
    one.node.step(Message(MessageType.APPEND_RESPONSE, 1, 2, 1, index=3))
    one.store(ready)
    one.node.apply_conf_change(ConfChange((Change(REMOVE, 1),)))
    one.node.advance()
    assert (one.node.role, one.node.committed) == (Role.LEADER, 2)


def test_a_joint_configuration_is_left_by_one_entry() -> None:
    """It is proposed when the change is applied, and not again while entries before it are."""
    one = leading()
    one.node.propose_conf_change(ConfChange((Change(ADD, 4), Change(ADD, 5))))
    for _ in range(3):
        one.node.propose(b"data")
    one.work()
    for index in range(2, 7):
        for node in (2, 3):
            one.node.step(Message(MessageType.APPEND_RESPONSE, 1, node, 1, index=index))
        apply(one)
        assert one.node.config.joint == (index < 6)
    assert [entry.index for entry in one.log() if entry.kind is EntryKind.CONF_CHANGE] == [2, 6]
    assert one.node.last_index == 6


def test_what_is_no_change_at_all_becomes_an_empty_entry() -> None:
    one = leading()
    junk = Entry(0, 0, EntryKind.CONF_CHANGE, b"junk")
    one.node.step(Message(MessageType.PROPOSE, 1, 2, entries=(junk,)))
    assert one.node.ready().entries == (Entry(1, 2),)


# -- reads -------------------------------------------------------------------------------------------------------------


def test_a_read_in_a_joint_configuration_needs_both_majorities() -> None:
    voters = JointVoters(frozenset({1, 2}), frozenset({3, 4}))
    reads = ReadIndex()
    request = Message(MessageType.READ_INDEX, context=b"read")
    reads.add(request, 7)
    for node, confirmed in ((1, []), (2, []), (3, []), (4, [(request, 7)])):
        reads.answered(node, reads.round())
        assert reads.confirm(voters) == confirmed


def test_a_leader_alone_in_one_half_of_a_joint_configuration_asks_for_a_round() -> None:
    one = leading(ConfState((1,), (), (1, 2, 3)))
    one.node.read_index(b"read")
    ready = one.node.ready()
    assert (ready.read_states, {message.to for message in ready.messages}) == ((), {2, 3})
