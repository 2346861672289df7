"""What nodes do, in the words that etcd-io/raft's transcripts use: a reader of those can read ours.

Two words are our own, since no command there leads to them: the context of reads (`MsgReadIndex`, and the round of
reads that a heartbeat carries), and `ReadStates`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from consensus.configuration import Change, ConfChange, ConfChangeKind, Configuration, Transition, decode
from consensus.messages import Entry, EntryKind, HardState, Message, MessageType, Snapshot
from consensus.progress import Progress
from consensus.ready import Ready, Role, SoftState
from tests.consensus.datadriven import TranscriptError, to_number

ROLES = {
    Role.FOLLOWER: "StateFollower",
    Role.PRE_CANDIDATE: "StatePreCandidate",
    Role.CANDIDATE: "StateCandidate",
    Role.LEADER: "StateLeader",
}
MESSAGES = {
    MessageType.PROPOSE: "MsgProp",
    MessageType.APPEND: "MsgApp",
    MessageType.APPEND_RESPONSE: "MsgAppResp",
    MessageType.VOTE: "MsgVote",
    MessageType.VOTE_RESPONSE: "MsgVoteResp",
    MessageType.PRE_VOTE: "MsgPreVote",
    MessageType.PRE_VOTE_RESPONSE: "MsgPreVoteResp",
    MessageType.SNAPSHOT: "MsgSnap",
    MessageType.HEARTBEAT: "MsgHeartbeat",
    MessageType.HEARTBEAT_RESPONSE: "MsgHeartbeatResp",
    MessageType.TIMEOUT_NOW: "MsgTimeoutNow",
    MessageType.TRANSFER_LEADER: "MsgTransferLeader",
    MessageType.READ_INDEX: "MsgReadIndex",
    MessageType.READ_INDEX_RESPONSE: "MsgReadIndexResp",
}
MESSAGE_TYPES = {name: kind for kind, name in MESSAGES.items()}
READS = (MessageType.READ_INDEX, MessageType.READ_INDEX_RESPONSE)
HEARTBEATS = (MessageType.HEARTBEAT, MessageType.HEARTBEAT_RESPONSE)
CHANGES = {"v": ConfChangeKind.ADD_VOTER, "l": ConfChangeKind.ADD_LEARNER, "r": ConfChangeKind.REMOVE}
LETTERS = {kind: letter for letter, kind in CHANGES.items()}
ONE_STEP = b"v1"  # the context of a change that a transcript wants to be of the older, one-step kind
_ESCAPES = {'"': '\\"', "\\": "\\\\"} | {chr(code): f"\\{letter}" for code, letter in enumerate("abtnvfr", 7)}


def quoted(data: bytes) -> str:
    """Bytes as a Go string literal, as `%q` prints them."""
    return '"' + "".join(map(_escaped, data.decode("utf-8", "surrogateescape"))) + '"'


def _escaped(char: str) -> str:
    code = ord(char)
    if char in _ESCAPES:
        return _ESCAPES[char]
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if char.isprintable():
        return char
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def changes_from(text: str) -> tuple[Change, ...]:
    """`v1 l2 r3` as changes: 1 becomes a voter, 2 a learner, 3 is removed. Raises TranscriptError."""
    unknown = [word for word in text.split() if word[0] not in CHANGES]
    if unknown:
        raise TranscriptError(f"unknown changes: {' '.join(unknown)}")
    return tuple(Change(CHANGES[word[0]], to_number(word[1:])) for word in text.split())


def change(data: bytes) -> str:
    """A change of the configuration: its kind of entry, then its parts."""
    conf_change: ConfChange = decode(data)
    one_step = conf_change.context == ONE_STEP
    assert not one_step or (len(conf_change.changes) == 1 and conf_change.transition is Transition.AUTO)
    words = [f"{LETTERS[part.kind]}{part.node}" for part in conf_change.changes]
    return " ".join(["EntryConfChange" if one_step else "EntryConfChangeV2", *words])


def entry(value: Entry) -> str:
    """term/index, kind and data."""
    what = f"EntryNormal {quoted(value.data)}" if value.kind is EntryKind.NORMAL else change(value.data)
    return f"{value.term}/{value.index} {what}"


def entries(values: Iterable[Entry]) -> str:
    """One line for each."""
    return "".join(f"{entry(value)}\n" for value in values)


def hard_state(value: HardState) -> str:
    """A vote for nobody is not shown."""
    return f"Term:{value.term}{f' Vote:{value.vote}' if value.vote else ''} Commit:{value.commit}"


def soft_state(value: SoftState) -> str:
    """Who leads, and what the node is."""
    return f"Lead:{value.leader} State:{ROLES[value.role]}"


def _list(ids: Iterable[int]) -> str:
    return f"[{' '.join(map(str, ids))}]"


def snapshot(value: Snapshot) -> str:
    """Its index, term and configuration."""
    state = value.meta.conf_state
    return (
        f"Index:{value.meta.index} Term:{value.meta.term} ConfState:Voters:{_list(state.voters)} "
        f"VotersOutgoing:{_list(state.voters_outgoing)} Learners:{_list(state.learners)} "
        f"LearnersNext:{_list(state.learners_next)} AutoLeave:{str(state.auto_leave).lower()}"
    )


def message(value: Message) -> str:
    """Without a line end at its end; more than one entry, or a snapshot, take lines of their own."""
    text = f"{value.sender:x}->{value.to:x} {MESSAGES[value.type]} Term:{value.term} Log:{value.log_term}/{value.index}"
    text += f" Rejected (Hint: {value.reject_hint})" if value.reject else ""
    text += f" Commit:{value.commit}" if value.commit else ""
    if len(value.entries) == 1:
        text += f" Entries:[{entry(value.entries[0])}]"
    elif value.entries:
        text += " Entries:[" + "".join(f"\n  {entry(one)}" for one in value.entries) + "\n]"
    if value.type in READS:
        text += f" Context:{quoted(value.context)}"
    if value.type in HEARTBEATS and value.context:
        text += f" Reads:{int.from_bytes(value.context, 'little')}"
    if value.snapshot is not None:
        text += f"\n  Snapshot: {snapshot(value.snapshot)}"
    return text


def ready(value: Ready) -> str:
    """Everything that a Ready asks for, in the order of etcd's."""
    text = f"{soft_state(value.soft_state)}\n" if value.soft_state else ""
    text += f"HardState {hard_state(value.hard_state)}\n" if value.hard_state else ""
    if value.read_states:
        text += "ReadStates " + " ".join(f"{read.index}:{quoted(read.context)}" for read in value.read_states) + "\n"
    text += f"Entries:\n{entries(value.entries)}" if value.entries else ""
    text += f"Snapshot {snapshot(value.snapshot)}\n" if value.snapshot else ""
    text += f"CommittedEntries:\n{entries(value.committed_entries)}" if value.committed_entries else ""
    messages = (*value.messages, *value.messages_after_sync)
    text += "Messages:\n" + "".join(f"{message(one)}\n" for one in messages) if messages else ""
    return f"Ready MustSync={str(value.must_sync).lower()}:\n{text}" if text else "<empty Ready>"


def progress(nodes: Mapping[int, Progress]) -> str:
    """What a leader knows of each node, one line for each."""
    return "".join(f"{node}: {nodes[node]}\n" for node in sorted(nodes))


def _set(ids: Iterable[int]) -> str:
    return f"({' '.join(f'{node:x}' for node in sorted(ids))})"


def configuration(value: Configuration) -> str:
    """Who votes and who learns; ids in hexadecimal."""
    text = f"voters={_set(value.voters.incoming)}"
    text += f"&&{_set(value.voters.outgoing)}" if value.voters.outgoing else ""
    text += f" learners={_set(value.learners)}" if value.learners else ""
    text += f" learners_next={_set(value.learners_next)}" if value.learners_next else ""
    return text + (" autoleave" if value.auto_leave else "")
