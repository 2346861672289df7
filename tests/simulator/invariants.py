"""What must hold after every step, looked at from outside of the nodes and incrementally.

The observer keeps the one true history: `truth[i]` is the entry that was first committed at index i. Everything a node
appends, stores, sends, commits or applies is compared with what is known already, so that a step costs the same however
long the run is. Names and numbers are of the paper's figure 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NoReturn

from consensus.messages import ConfState, Entry, EntryKind, Message, MessageType
from consensus.ready import Ready, Role
from consensus.storage import entry_bytes

if TYPE_CHECKING:
    from consensus.raft import Raft
    from tests.simulator.member import Member

_PRE_VOTES = (MessageType.PRE_VOTE, MessageType.PRE_VOTE_RESPONSE)  # their term is only asked for
_LEADERS = (MessageType.APPEND, MessageType.HEARTBEAT, MessageType.SNAPSHOT, MessageType.TIMEOUT_NOW)


class Violation(AssertionError):
    """Something that must never be. The message begins with the invariant's name."""


class Stuck(Violation):
    """The cluster does not come to rest, or does not serve, in the time it has."""


class _Seen:
    """What was seen of a node last."""

    __slots__ = ("commit", "last", "leading", "role", "term", "vote")

    def __init__(self, raft: Raft) -> None:
        self.term, self.vote, self.role = raft.term, raft.vote, raft.role
        self.commit = raft.log.committed
        self.last = raft.log.last_index
        self.leading = 0  # the term it leads and has given out a Ready of


class Observer:
    """See the module. first_index: of the snapshot that the cluster is founded with, and its term."""

    def __init__(self, members: Mapping[int, Member], first_index: int, first_term: int, message_bytes: int) -> None:
        self.members = members
        self.message_bytes = message_bytes
        self.base = first_index
        self.truth: list[Entry] = [Entry(first_term, first_index)]
        self.committed_in: list[int] = [first_term]  # the term in which truth[i] was first known to be committed
        self.leaders: dict[int, int] = {}  # term -> node: election safety
        self.votes: dict[tuple[int, int], int] = {}  # (node, term) -> whom it voted for
        self.entries: dict[tuple[int, int], tuple[int, Entry]] = {}  # (index, term) -> (term before it, entry)
        self.configs: dict[int, ConfState] = {}  # index -> the configuration after it
        self.digests: dict[int, int] = {}  # index -> the state machine after it
        self.joined: set[int] = set()  # every node that was ever a member
        self.last_change = 0  # index of the latest committed change of the configuration
        self._seen: dict[int, _Seen] = {}

    @property
    def last(self) -> int:
        """The highest index that is committed."""
        return self.base + len(self.truth) - 1

    @property
    def left(self) -> set[int]:
        """The nodes that were members, and are none by the latest change that anybody has applied."""
        if not self.configs:
            return set()
        latest = self.configs[max(self.configs)]
        return self.joined - {*latest.voters, *latest.learners, *latest.voters_outgoing}

    def fail(self, name: str, text: str) -> NoReturn:
        """Raise Violation."""
        raise Violation(f"{name}: {text}")

    # -- a process begins and ends -----------------------------------------------------------------------------------

    def started(self, member: Member) -> None:
        """It has read its disk: nothing durable may be unknown, and what it knows to be committed must be true."""
        raft = member.raft
        seen = self._seen[member.id] = _Seen(raft)
        seen.commit = member.disk.snapshot_index
        self._commits(member, seen)
        self.look(member)

    def crashed(self, member: Member) -> None:
        """It is gone."""
        self._seen.pop(member.id, None)

    # -- after every call of the core --------------------------------------------------------------------------------

    def look(self, member: Member) -> None:
        """Compare what it knows now with what it knew before."""
        raft = member.raft
        log, seen = raft.log, self._seen[member.id]
        if raft.term != seen.term or raft.role is not seen.role or raft.vote != seen.vote:
            self._moved(member, seen)
        if log.committed != seen.commit:
            self._commits(member, seen)
        last, disk = log.last_index, member.disk
        purged, saved = disk.storage._entries[0].index, disk.snapshot_index
        in_order = log.applied <= log.applying <= log.committed <= last
        if log.snapshot is None:  # else one from a leader is on its way to the state machine
            in_order = in_order and purged <= saved <= log.applied
        if not in_order:
            self.fail(
                "order of indexes",
                f"node {member.id}: purged {purged}, snapshot {saved}, applied {log.applied}, "
                f"applying {log.applying}, committed {log.committed}, last {last}",
            )
        if last < seen.last and raft.role is Role.LEADER and seen.leading == raft.term:
            self.fail("leader append-only", f"leader {member.id} cut its log from {seen.last} to {last}")
        seen.last = last

    def _moved(self, member: Member, seen: _Seen) -> None:
        raft = member.raft
        if raft.term < seen.term:
            self.fail("term goes on", f"node {member.id} went from term {seen.term} back to {raft.term}")
        if raft.term == seen.term and seen.vote not in (0, raft.vote):
            self.fail("one vote", f"node {member.id} voted for {seen.vote}, then {raft.vote} in term {raft.term}")
        if raft.role is Role.LEADER and (seen.role is not Role.LEADER or raft.term != seen.term):
            self._elected(member)
            seen.last = raft.log.last_index
        seen.term, seen.vote, seen.role = raft.term, raft.vote, raft.role

    def _elected(self, member: Member) -> None:
        raft = member.raft
        term = raft.term
        if self.leaders.setdefault(term, member.id) != member.id:
            self.fail("election safety", f"{self.leaders[term]} and {member.id} lead term {term}")
        voters = [node for node in raft.config.members if self.votes.get((node, term)) == member.id]
        if not self._majorities(raft, voters):
            self.fail("election safety", f"{member.id} leads term {term} by the durable votes of {voters} alone")
        # Leader completeness: whatever was committed in an earlier term is in its log.
        for at in range(len(self.truth) - 1, -1, -1):
            if self.committed_in[at] < term:
                index = self.base + at
                if not (index <= raft.log.last_index and self._term(member, index) == self.truth[at].term):
                    self.fail("leader completeness", f"{member.id} leads term {term} without {self.truth[at]}")
                break

    def _majorities(self, raft: Raft, nodes: Iterable[int]) -> bool:
        """Whether `nodes` are a majority of each half of its configuration. Counted here, not by the core."""
        chosen, voters = set(nodes), raft.config.voters
        return all(2 * len(half & chosen) > len(half) for half in (voters.incoming, voters.outgoing) if half)

    def _term(self, member: Member, index: int) -> int:
        """Of an entry in the node's log; of the true one where it is covered by a snapshot."""
        if index < member.raft.log.first_index - 1:
            return self.truth[index - self.base].term
        return member.raft.log.term(index)

    def _commits(self, member: Member, seen: _Seen) -> None:
        """State machine safety: one entry for each index, whoever commits it; and it is on a quorum's disks."""
        raft, commit = member.raft, member.raft.log.committed
        if commit < seen.commit:
            self.fail("commit goes on", f"node {member.id} went from {seen.commit} back to {commit}")
        if commit > raft.log.last_index:
            self.fail("order of indexes", f"node {member.id} commits {commit} of {raft.log.last_index}")
        known = self.last
        for index in range(max(seen.commit + 1, raft.log.first_index - 1, self.base), min(commit, known) + 1):
            if raft.log.term(index) != self.truth[index - self.base].term:
                theirs = self.truth[index - self.base]
                self.fail(
                    "state machine safety", f"{member.id} commits {index} of {raft.log.term(index)}, not {theirs}"
                )
        if commit > known:
            self._new_commit(member, known, commit)
        seen.commit = commit

    def _new_commit(self, member: Member, known: int, commit: int) -> None:
        raft = member.raft
        if raft.role is not Role.LEADER:
            self.fail("only leaders commit", f"{member.id}, a {raft.role.name}, commits {commit} first")
        for entry in raft.log.entries(known + 1, commit + 1, 1 << 60):
            self.truth.append(entry)
            self.committed_in.append(raft.term)
            if entry.kind is EntryKind.CONF_CHANGE:
                self.last_change = entry.index
        if self.truth[-1].term != raft.term:
            self.fail("own term", f"{member.id} commits {self.truth[-1]} by count in term {raft.term}")
        holders = [one.id for one in self.members.values() if one.disk.holds(commit, self.truth[-1].term)]
        if not self._majorities(raft, holders):
            self.fail("durable quorum", f"{member.id} commits {commit}, which only {holders} hold on disk")

    # -- what a Ready asks for ---------------------------------------------------------------------------------------

    def took(self, member: Member, ready: Ready) -> None:
        """Entries to store: log matching and the rules of leaders. Committed ones: in order, and true."""
        seen, disk = self._seen[member.id], member.disk
        if ready.entries:
            self._appends(member, ready, seen)
        if ready.leads:
            seen.leading = member.raft.term
        before = disk.storage.hard_state
        if (hard := ready.hard_state) is not None:
            if hard.term < before.term or hard.commit < before.commit:
                self.fail("hard state goes on", f"node {member.id}: {before}, then {hard}")
            if hard.term == before.term and before.vote not in (0, hard.vote):
                self.fail("one vote", f"node {member.id}: {before}, then {hard}")
        index = member.machine.index if ready.snapshot is None else ready.snapshot.meta.index
        for entry in ready.committed_entries:
            index += 1
            if entry.index != index or index > self.last or entry != self.truth[index - self.base]:
                self.fail("state machine safety", f"{member.id} applies {entry} at {index} of {self.last}")

    def _appends(self, member: Member, ready: Ready, seen: _Seen) -> None:
        entries, storage = ready.entries, member.disk.storage
        first = entries[0].index
        if ready.leads and seen.leading == member.raft.term and first <= storage.last_index():
            self.fail("leader append-only", f"leader {member.id} replaces {first} of {storage.last_index()}")
        before = storage.term(first - 1) if ready.snapshot is None else ready.snapshot.meta.term
        for entry in entries:
            known = self.entries.get((entry.index, entry.term))
            if known is None:
                self.entries[entry.index, entry.term] = (before, entry)
                self._appended_first(member, entry)
            elif known[0] != before or known[1] != entry:
                self.fail("log matching", f"{member.id} has {entry} after term {before}; known is {known}")
            if entry.term < before:
                self.fail("terms go on", f"{member.id} has {entry} after term {before}")
            before = entry.term

    def _appended_first(self, member: Member, entry: Entry) -> None:
        raft = member.raft
        if self.leaders.get(entry.term) != member.id:
            self.fail("only leaders append", f"{member.id} has {entry} first; {self.leaders.get(entry.term)} leads")
        if entry.kind is not EntryKind.CONF_CHANGE or raft.role is not Role.LEADER or raft.term != entry.term:
            return
        low = max(raft.log.applied + 1, raft.log.first_index)
        for other in raft.log.entries(low, entry.index, 1 << 60):
            if other.kind is EntryKind.CONF_CHANGE:
                self.fail("one pending change", f"leader {member.id} proposes {entry}; {other} is not applied")

    def stored(self, member: Member, ready: Ready) -> None:
        """A vote counts from when it is durable, and for ever."""
        hard = member.disk.storage.hard_state
        if hard.vote:
            self._votes(member.id, hard.term, hard.vote)
        for entry in ready.committed_entries[-1:]:
            if not member.disk.holds(entry.index, entry.term):
                self.fail("apply after sync", f"{member.id} applies {entry}, which is not on its disk")

    def _votes(self, node: int, term: int, candidate: int) -> None:
        if self.votes.setdefault((node, term), candidate) != candidate:
            self.fail("one vote", f"{node} votes for {self.votes[node, term]} and {candidate} in term {term}")

    def _said(self, message: Message) -> None:
        """A leader's own entries exist from when it says them.

        Where its disk was slow and its term is over meanwhile, it sends them and has never stored them itself.
        """
        before = message.log_term
        for entry in message.entries:
            if entry.term == message.term:
                self.entries.setdefault((entry.index, entry.term), (before, entry))
            before = entry.term

    def sent(self, member: Member, message: Message) -> None:
        """Nothing is said that a crash could make untrue."""
        if message.entries and self.leaders.get(message.term) == member.id:
            self._said(message)
        kind, hard = message.type, member.disk.storage.hard_state
        if kind in _LEADERS:
            if self.leaders.get(message.term) != member.id:
                self.fail("only leaders lead", f"{member.id} sends {message}")
            if kind is MessageType.APPEND and len(message.entries) > 1:
                size_bytes = sum(map(entry_bytes, message.entries))
                if size_bytes > self.message_bytes:
                    self.fail("bounded", f"{member.id} sends {size_bytes} bytes of entries")
        if message.commit > self.last:
            self.fail("commit is true", f"{member.id} sends commit {message.commit} of {self.last}")
        if message.term > hard.term and kind not in _PRE_VOTES:
            self.fail("term before words", f"{member.id} is at a durable term {hard.term} and sends {message}")
        if message.reject:
            return
        current = message.term == hard.term  # else a later term is durable: the earlier one cannot come back
        if kind is MessageType.VOTE_RESPONSE:
            if current and hard.vote != message.to:
                self.fail("vote before words", f"{member.id} has {hard} on disk and sends {message}")
            self._votes(member.id, message.term, message.to)
        if kind is MessageType.APPEND_RESPONSE and current and message.index > member.disk.storage.last_index():
            self.fail("acknowledged is durable", f"{member.id} sends {message}")

    # -- what a state machine does -----------------------------------------------------------------------------------

    def configured(self, member: Member, state: ConfState) -> None:
        """Everyone has the same members after the same index."""
        index = member.machine.index
        self.joined.update(state.voters, state.learners, state.voters_outgoing)
        if self.configs.setdefault(index, state) != state:
            self.fail("same members", f"{member.id} has {state} after {index}, not {self.configs[index]}")
        self.look(member)

    def applied(self, member: Member, ready: Ready) -> None:
        """Everyone has the same state after the same index."""
        machine = member.machine
        if self.digests.setdefault(machine.index, machine.digest) != machine.digest:
            self.fail("same state", f"{member.id} differs at {machine.index}")

    def may_read(self, member: Member, index: int, floor: int) -> None:
        """A read sees what somebody had been told of when it began: everything up to `floor` (thesis, 6.4)."""
        if index < floor:
            self.fail("linearizable", f"{member.id} may read at {index}, {floor} was known when the read began")
