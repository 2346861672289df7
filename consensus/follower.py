"""What a follower does with what its leader sends (paper, 5.3, 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.errors import ProposalDropped
from consensus.messages import NONE, Message, MessageType, Snapshot
from consensus.ready import ReadState, Role

if TYPE_CHECKING:
    from consensus.raft import Raft


def step(raft: Raft, message: Message) -> None:
    """Take a message of this term, or of none. Raises ProposalDropped, Inconsistent."""
    match message.type:
        case MessageType.APPEND | MessageType.HEARTBEAT | MessageType.SNAPSHOT:
            raft.election_elapsed = 0
            raft.leader = message.sender
            _FROM_LEADER[message.type](raft, message)
        case MessageType.PROPOSE:
            if raft.leader == NONE:
                raise ProposalDropped(f"there is no leader at term {raft.term}")
            if not raft.options.forward_proposals:
                raise ProposalDropped(f"node {raft.leader} leads, and proposals are not forwarded")
            raft.forward(message)
        case MessageType.READ_INDEX | MessageType.TRANSFER_LEADER:
            if raft.leader != NONE:  # else it is lost, as on the way; whoever asked asks again
                raft.forward(message)
        case MessageType.TIMEOUT_NOW:
            raft.campaign(transfer=True)
        case MessageType.READ_INDEX_RESPONSE:
            raft.read_states.append(ReadState(message.index, message.context))


def _append(raft: Raft, message: Message) -> None:
    log = raft.log
    if message.index < log.committed:  # old: what it holds is here
        raft.send(MessageType.APPEND_RESPONSE, message.sender, index=log.committed)
        return
    last = log.try_append(message.index, message.log_term, message.entries, message.commit)
    if last is not None:
        raft.send(MessageType.APPEND_RESPONSE, message.sender, index=last)
        return
    # Where this log can meet one with an entry of log_term at index: whole terms are passed over in one round.
    hint = min(message.index, log.last_index)
    hint, hint_term = log.find_conflict_by_term(hint, message.log_term)
    raft.send(
        MessageType.APPEND_RESPONSE,
        message.sender,
        index=message.index,
        reject=True,
        reject_hint=hint,
        log_term=hint_term,
    )


def _heartbeat(raft: Raft, message: Message) -> None:
    raft.log.commit_to(message.commit)
    raft.send(MessageType.HEARTBEAT_RESPONSE, message.sender, context=message.context)


def _install(raft: Raft, message: Message) -> None:
    assert message.snapshot is not None
    index = raft.log.last_index if restore(raft, message.snapshot) else raft.log.committed
    raft.send(MessageType.APPEND_RESPONSE, message.sender, index=index)


def restore(raft: Raft, snapshot: Snapshot) -> bool:
    """Take a snapshot in the place of the log. Returns False where the log has what it covers."""
    meta = snapshot.meta
    if meta.index <= raft.log.committed:
        return False
    assert raft.role is Role.FOLLOWER
    state = meta.conf_state
    if raft.id not in {*state.voters, *state.learners, *state.voters_outgoing}:
        return False  # it is not for this node: a node takes no part in a configuration without itself
    if raft.log.matches(meta.index, meta.term):  # the log has it all: only the commit index was behind
        raft.log.commit_to(meta.index)
        return False
    raft.log.restore(snapshot)  # its configuration counts when it is applied, see `Raft.done`
    return True


_FROM_LEADER = {
    MessageType.APPEND: _append,
    MessageType.HEARTBEAT: _heartbeat,
    MessageType.SNAPSHOT: _install,
}
