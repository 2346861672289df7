"""What nodes tell each other, and what their logs hold. Values only; the bytes on the wire are the transport's matter.

Names are the paper's (Ongaro and Ousterhout 2014) and the thesis' (Ongaro 2014); RPCs are pairs of one-way messages.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import msgspec

NONE: Final = 0  # no node: node ids are 1 and up
NO_LIMIT: Final = 2**63 - 1


class EntryKind(IntEnum):
    """What an entry's data is. Numbers are for ever: they are on disks."""

    NORMAL = 0  # opaque to consensus; empty in the entry that a new leader begins with (thesis 6.4)
    CONF_CHANGE = 1  # a ConfChange, encoded by `configuration.encode`


class Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One entry of the replicated log. data: bytes that only the state machine understands."""

    term: int
    index: int
    kind: EntryKind = EntryKind.NORMAL
    data: bytes = b""


class HardState(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What must be durable before anything that depends on it is sent (paper, figure 2: persistent state).

    commit need not be synced for itself, but must not be lost behind entries that were stored with it or later: see
    DESIGN.md.
    """

    term: int = 0
    vote: int = NONE
    commit: int = 0


class ConfState(msgspec.Struct, array_like=True, frozen=True):
    """A configuration as it is stored: sorted ids. While it is joint, voters_outgoing is not empty (paper, 6)."""

    voters: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()
    voters_outgoing: tuple[int, ...] = ()
    learners_next: tuple[int, ...] = ()
    auto_leave: bool = False


class SnapshotMeta(msgspec.Struct, array_like=True, frozen=True):
    """Which prefix of the log a snapshot replaces: everything up to `index`, whose entry had `term`."""

    index: int = 0
    term: int = 0
    conf_state: ConfState = ConfState()


class Snapshot(msgspec.Struct, array_like=True, frozen=True):
    """A snapshot. data: the state machine's bytes, or a name by which the driver finds them; the core never looks."""

    meta: SnapshotMeta = SnapshotMeta()
    data: bytes = b""


class MessageType(IntEnum):
    """Numbers are for ever: they are on the wire."""

    PROPOSE = 1  # a follower passes proposals on to its leader
    APPEND = 2  # AppendEntries
    APPEND_RESPONSE = 3
    VOTE = 4  # RequestVote
    VOTE_RESPONSE = 5
    PRE_VOTE = 6  # thesis 9.6
    PRE_VOTE_RESPONSE = 7
    SNAPSHOT = 8  # InstallSnapshot; how its bytes travel is the driver's matter
    HEARTBEAT = 9
    HEARTBEAT_RESPONSE = 10
    TIMEOUT_NOW = 11  # thesis 3.10
    TRANSFER_LEADER = 12  # sender: who is to lead. A follower passes it on to its leader
    READ_INDEX = 13  # thesis 6.4
    READ_INDEX_RESPONSE = 14


RESPONSES: Final = frozenset(
    {
        MessageType.APPEND_RESPONSE,
        MessageType.VOTE_RESPONSE,
        MessageType.PRE_VOTE_RESPONSE,
        MessageType.HEARTBEAT_RESPONSE,
    }
)


class Message(msgspec.Struct, array_like=True, frozen=True):
    """One message. Which fields mean something depends on the type:

    term: the sender's, or for votes the term that is asked for or answered; 0 in PROPOSE and READ_INDEX, which belong
        to no term.
    index, log_term: APPEND: the entry before `entries`. VOTE, PRE_VOTE: the candidate's last entry. APPEND_RESPONSE:
        the last index that matches, or where `reject` the refused one. READ_INDEX_RESPONSE: index, what may be read.
    commit: the leader's commit index, or what of it the receiver may know. VOTE_RESPONSE, PRE_VOTE_RESPONSE: the
        sender's, where it refuses and tells it, and in log_term the term of that entry; 0 = it does not tell it.
    reject_hint, log_term: where and in which term the follower's log may match (paper 5.3, last paragraphs).
    context: VOTE, PRE_VOTE: TRANSFER where the leader asked for it. HEARTBEAT and its answer: a read round.
        READ_INDEX and its answer: the reader's own mark.
    """

    type: MessageType
    to: int = NONE
    sender: int = NONE
    term: int = 0
    log_term: int = 0
    index: int = 0
    commit: int = 0
    entries: tuple[Entry, ...] = ()
    snapshot: Snapshot | None = None
    reject: bool = False
    reject_hint: int = 0
    context: bytes = b""


TRANSFER: Final = b"transfer"  # the context of a vote that the leader asked for: it is not held off by its lease
