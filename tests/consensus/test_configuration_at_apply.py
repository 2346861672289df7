"""A configuration counts from when it is applied, also where a snapshot or a transfer comes in between."""

from __future__ import annotations

from consensus.configuration import Change, ConfChange, ConfChangeKind, Transition, decode, encode
from consensus.messages import ConfState, Entry, EntryKind, Message, MessageType, Snapshot, SnapshotMeta
from tests.consensus.server import server, settled


def test_changes_handed_out_before_a_snapshot_came_are_applied_to_what_was_before_it() -> None:
    """The simulator's seed 23903: the core would have changed the snapshot's configuration by an old entry."""
    one = server()
    old = ConfChange((Change(ConfChangeKind.ADD_LEARNER, 4),))
    entries = (Entry(1, 1), Entry(1, 2, EntryKind.CONF_CHANGE, encode(old)))
    one.node.step(Message(MessageType.APPEND, 1, 2, 1, entries=entries, commit=2))
    ready = one.node.ready()  # the change is handed out, and not applied yet
    assert [entry.index for entry in ready.committed_entries] == [1, 2]
    assert ready.changes_members
    later = ConfState((1, 3, 5))
    snapshot = Snapshot(SnapshotMeta(9, 1, later))
    one.node.step(Message(MessageType.SNAPSHOT, 1, 2, 1, snapshot=snapshot))
    one.store(ready)
    assert one.node.apply_conf_change(decode(entries[1].data)) == ConfState((1, 2, 3), (4,))
    one.node.advance()
    one.work()
    assert one.node.config.conf_state() == later
    assert one.node.applied == 9


def test_leaving_a_joint_configuration_is_proposed_again_after_a_transfer_was_given_up() -> None:
    """The simulator's seed 24247: nothing more was applied, so nobody asked again."""
    one = settled()
    change = ConfChange((Change(ConfChangeKind.ADD_VOTER, 4),), Transition.IMPLICIT)
    one.node.propose_conf_change(change)
    one.work()
    one.node.transfer_leadership(3)
    one.node.step(Message(MessageType.APPEND_RESPONSE, 1, 2, one.node.term, index=one.node.last_index))
    ready = one.node.ready()
    one.store(ready)
    one.node.apply_conf_change(change)
    one.node.advance()
    joint = one.node.last_index
    assert one.node.config.auto_leave
    assert not any(entry.index > joint for entry in one.log()), "while leadership is on its way, nothing is proposed"
    while one.node.status().transferee:
        one.node.tick()
        one.hear(MessageType.HEARTBEAT_RESPONSE, 2)
    one.tick(1)
    assert decode(one.log()[-1].data).leaves_joint
