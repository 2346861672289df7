"""What a leader does: it takes proposals, replicates them and counts what is stored (paper, 5.3, 5.4; thesis, 10.2)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from consensus import configuration
from consensus.configuration import ConfChange
from consensus.errors import Compacted, ConfigError, ProposalDropped, SnapshotTemporarilyUnavailable
from consensus.messages import NONE, Entry, EntryKind, Message, MessageType
from consensus.progress import Progress, ProgressState
from consensus.quorum import VoteResult
from consensus.ready import ReadState

if TYPE_CHECKING:
    from consensus.raft import Raft


def step(raft: Raft, message: Message) -> None:
    """Take a message of this term, or of none. Raises ProposalDropped."""
    match message.type:
        case MessageType.PROPOSE:
            propose(raft, [(entry.kind, entry.data) for entry in message.entries])
            return
        case MessageType.READ_INDEX:
            _read(raft, message)
            return
    progress = raft.progress.get(message.sender)
    if progress is None:
        return  # removed meanwhile
    match message.type:
        case MessageType.APPEND_RESPONSE:
            progress.recent_active = True
            if message.reject:
                _rejected(raft, progress, message)
            else:
                _acknowledged(raft, progress, message)
        case MessageType.HEARTBEAT_RESPONSE:
            _heard(raft, progress, message)
        case MessageType.TRANSFER_LEADER:
            _transfer(raft, progress, message.sender)


# -- time --------------------------------------------------------------------------------------------------------------


def tick(raft: Raft) -> None:
    """One tick as leader: check the quorum, give up a transfer that takes too long, send heartbeats."""
    raft.heartbeat_elapsed += 1
    if raft.election_elapsed >= raft.options.election_ticks:
        raft.election_elapsed = 0
        if raft.options.check_quorum and not _quorum_active(raft):
            raft.become_follower(raft.term, NONE)
            return
        raft.transferee = NONE
    if raft.heartbeat_elapsed >= raft.options.heartbeat_ticks:
        raft.heartbeat_elapsed = 0
        broadcast_heartbeat(raft)
        leave_joint(raft)


def _quorum_active(raft: Raft) -> bool:
    """Whether a quorum was heard since the last time this was asked (thesis, 6.2)."""
    heard = {node: one.recent_active for node, one in raft.progress.items() if not one.is_learner}
    for node in raft.others:
        raft.progress[node].recent_active = False
    return raft.config.voters.vote_result(heard) is VoteResult.WON


def broadcast_heartbeat(raft: Raft) -> None:
    """Tell every member who leads, what is committed of what it has, and which reads wait for it."""
    context = raft.reads.round()
    for node in raft.others:
        progress = raft.progress[node]
        # No more than it is known to have: it might not have stored what lies above (paper, 5.3).
        progress.sent_commit = min(progress.match, raft.log.committed)
        raft.send(MessageType.HEARTBEAT, node, commit=progress.sent_commit, context=context)


# -- proposals ---------------------------------------------------------------------------------------------------------


def propose(raft: Raft, proposals: Sequence[tuple[EntryKind, bytes]]) -> None:
    """Append proposals, all or none, and replicate them. Raises ProposalDropped.

    A change of the configuration that may not be made now becomes an empty entry: its proposer sees it pass by.
    """
    if raft.id not in raft.progress:
        raise ProposalDropped("this node leads and was removed: it waits for the next leader")
    if raft.transferee != NONE:
        raise ProposalDropped(f"leadership is on its way to node {raft.transferee}")
    size = sum(len(data) for _kind, data in proposals)
    waiting = raft.uncommitted_bytes  # a single proposal of any size is taken when nothing waits
    if waiting > 0 and size > 0 and waiting + size > raft.options.max_uncommitted_bytes:
        raise ProposalDropped(f"{waiting} bytes are not committed yet; try again")  # P12
    last = raft.log.last_index
    checked: list[tuple[EntryKind, bytes]] = []
    for index, (kind, data) in enumerate(proposals, last + 1):
        if kind is not EntryKind.CONF_CHANGE:
            checked.append((kind, data))
        elif _may_change(raft, data):
            raft.pending_conf_index = index
            checked.append((kind, data))
        else:
            checked.append((EntryKind.NORMAL, b""))
    append(raft, checked)
    broadcast_append(raft)


def _may_change(raft: Raft, data: bytes) -> bool:
    """One change at a time, applied before the next is proposed, and only one that fits the configuration.

    Changes that other leaders may have left in the log count as pending until they are applied. The bug of 2015, two
    leaders that each change the last committed configuration (thesis, 4.1), cannot happen here: a change takes effect
    when it is applied, so a quorum of the configuration before it has stored it, and the leader's whole log with it.
    """
    if raft.pending_conf_index > raft.log.applied:
        return False
    try:
        change = configuration.decode(data)
        configuration.apply_change(raft.config, change)
    except ConfigError:
        return False
    return bool(change.changes) or raft.config.joint


def leave_joint(raft: Raft) -> None:
    """Propose to leave a joint configuration that is to be left by itself, once it is applied.

    Asked again with each heartbeat: it may have been dropped, for a transfer that was under way.
    """
    if raft.config.auto_leave and raft.log.applied >= raft.pending_conf_index:
        with suppress(ProposalDropped):
            propose(raft, [(EntryKind.CONF_CHANGE, configuration.encode(ConfChange()))])


def append(raft: Raft, proposals: Sequence[tuple[EntryKind, bytes]]) -> None:
    """Put entries of this term at the end of the log. They count for this node when they are stored."""
    last = raft.log.last_index
    entries = [Entry(raft.term, index, kind, data) for index, (kind, data) in enumerate(proposals, last + 1)]
    raft.uncommitted_bytes += sum(len(entry.data) for entry in entries)
    raft.log.append(entries)
    raft.send(MessageType.APPEND_RESPONSE, raft.id, index=entries[-1].index)


# -- replication -------------------------------------------------------------------------------------------------------


def broadcast_append(raft: Raft) -> None:
    """Send everybody what comes next, and what is committed."""
    for node in raft.others:
        send_append(raft, node)


def send_append(raft: Raft, node: int, *, if_empty: bool = True) -> bool:
    """Send a node the entries it lacks, as far as its limits allow. Returns False if nothing went out.

    if_empty: also where there are none, to tell what is committed.
    """
    progress = raft.progress[node]
    if not progress.may_send():
        return False
    log, before = raft.log, progress.next - 1
    try:
        before_term = log.term(before)
        entries: Sequence[Entry] = ()
        if progress.state is not ProgressState.REPLICATE or not progress.inflights.full():
            entries = log.entries(progress.next, log.last_index + 1, raft.options.max_message_bytes)
    except Compacted:
        return _send_snapshot(raft, node, progress)
    if not entries and not if_empty:
        return False
    raft.send(
        MessageType.APPEND,
        node,
        index=before,
        log_term=before_term,
        entries=tuple(entries),
        commit=log.committed,
    )
    progress.sent(len(entries), sum(len(entry.data) for entry in entries))
    progress.sent_commit = log.committed
    return True


def _send_snapshot(raft: Raft, node: int, progress: Progress) -> bool:
    if not progress.recent_active:
        return False  # it may be gone: a snapshot is too dear for that
    try:
        snapshot = raft.log.snapshot or raft.options.storage.snapshot()
    except SnapshotTemporarilyUnavailable:
        return False
    state = snapshot.meta.conf_state
    if node not in {*state.voters, *state.learners, *state.voters_outgoing}:
        raft.snapshot_wanted = True  # it was made before the node was added, and the node would refuse it, for ever
        return False
    progress.become_snapshot(snapshot.meta.index)
    raft.send(MessageType.SNAPSHOT, node, snapshot=snapshot)
    return True


def try_commit(raft: Raft) -> bool:
    """Commit what a quorum has stored, if it is of this term. Returns False if nothing new is."""
    acked = {node: progress.match for node, progress in raft.progress.items()}
    return raft.log.try_commit(raft.config.voters.committed_index(acked), raft.term)


def adopt_config(raft: Raft) -> None:
    """A change was applied: a smaller quorum may have stored more, a new member wants the log."""
    if try_commit(raft):
        broadcast_append(raft)
    else:
        for node in raft.others:
            send_append(raft, node, if_empty=False)
    if raft.transferee not in raft.config.voters:
        raft.transferee = NONE


# -- answers -----------------------------------------------------------------------------------------------------------


def _rejected(raft: Raft, progress: Progress, message: Message) -> None:
    """The logs do not meet there: go back (paper, 5.3), over whole terms by the hints of both sides."""
    meet = message.reject_hint
    if message.log_term > 0:
        meet, _term = raft.log.find_conflict_by_term(message.reject_hint, message.log_term)
    if progress.rejected(message.index, meet):
        if progress.state is ProgressState.REPLICATE:
            progress.become_probe()
        send_append(raft, message.sender)


def _acknowledged(raft: Raft, progress: Progress, message: Message) -> None:
    node = message.sender
    news = progress.acknowledged(message.index)
    # A probe of what was known to match is answered so: the logs meet, nothing was lost since.
    if not news and not (progress.match == message.index and progress.state is ProgressState.PROBE):
        return
    if progress.state is ProgressState.PROBE:
        progress.become_replicate()
    elif progress.state is ProgressState.SNAPSHOT:
        # By a snapshot or otherwise, it has come to where this log can go on.
        if progress.match + 1 >= raft.log.first_index:
            progress.become_replicate()
    else:
        progress.inflights.free_up_to(message.index)

    if try_commit(raft):
        _release_early_reads(raft)
        broadcast_append(raft)
    elif node != raft.id and progress.needs_commit(raft.log.committed):
        send_append(raft, node)
    if node == raft.id:
        return
    while send_append(raft, node, if_empty=False):
        pass  # there may be room for several messages now
    if node == raft.transferee and progress.match == raft.log.last_index:
        raft.send(MessageType.TIMEOUT_NOW, node)


def _heard(raft: Raft, progress: Progress, message: Message) -> None:
    progress.recent_active = True
    progress.paused = False  # an append or its answer may have been lost
    if progress.match < raft.log.last_index or progress.state is ProgressState.PROBE:
        send_append(raft, message.sender)
    if message.context:
        raft.reads.answered(message.sender, message.context)
        for request, index in raft.reads.confirm(raft.config.voters):
            _answer_read(raft, request, index)


# -- reads -------------------------------------------------------------------------------------------------------------


def _read(raft: Raft, message: Message) -> None:
    """Begin a read (thesis, 6.4). Before an entry of this term is committed, the commit index may be behind."""
    if raft.log.term(raft.log.committed) != raft.term:
        raft.early_reads.append(message)
    elif raft.config.singleton:
        _answer_read(raft, message, raft.log.committed)
    else:
        raft.reads.add(message, raft.log.committed)
        raft.reads.answered(raft.id, raft.reads.round())
        broadcast_heartbeat(raft)


def _release_early_reads(raft: Raft) -> None:
    reads, raft.early_reads = raft.early_reads, []
    for message in reads:
        _read(raft, message)


def _answer_read(raft: Raft, request: Message, index: int) -> None:
    if request.sender in (NONE, raft.id):
        raft.read_states.append(ReadState(index, request.context))
    else:
        raft.send(MessageType.READ_INDEX_RESPONSE, request.sender, index=index, context=request.context)


# -- transfer ----------------------------------------------------------------------------------------------------------


def _transfer(raft: Raft, progress: Progress, node: int) -> None:
    """Let a voter lead (thesis, 3.10): bring its log up to date, then tell it to stand at once."""
    if progress.is_learner or raft.transferee == node:
        return
    raft.transferee = NONE
    if node == raft.id:
        return
    raft.election_elapsed = 0  # it has one election time-out to succeed; then proposals are taken again
    raft.transferee = node
    if progress.match == raft.log.last_index:
        raft.send(MessageType.TIMEOUT_NOW, node)
    else:
        send_append(raft, node)


# -- what the driver reports -------------------------------------------------------------------------------------------


def report_unreachable(raft: Raft, node: int) -> None:
    """A message to the node was lost for certain: what is in flight may be lost too."""
    progress = raft.progress.get(node)
    if progress is not None and progress.state is ProgressState.REPLICATE:
        progress.become_probe()


def report_snapshot(raft: Raft, node: int, *, ok: bool) -> None:
    """The node has got, or has not got, the snapshot. Either way its next answer decides how to go on."""
    progress = raft.progress.get(node)
    if progress is None or progress.state is not ProgressState.SNAPSHOT:
        return
    if not ok:
        progress.pending_snapshot = 0
    progress.become_probe()
    progress.paused = True
