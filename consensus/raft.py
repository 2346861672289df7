"""The state machine of one node: roles, terms, elections (paper, 5.1, 5.2; thesis, 3.4, 3.10, 6.2, 9.6).

What a leader and what a follower do with a message stands in `leader` and `follower`; here is what is common to all
roles, and the one table of which role answers what. `node` is the door to all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from consensus import configuration, follower, leader
from consensus.configuration import ConfChange, Configuration
from consensus.errors import ProposalDropped
from consensus.log import Log
from consensus.messages import NONE, TRANSFER, ConfState, EntryKind, HardState, Message, MessageType, SnapshotMeta
from consensus.progress import Inflights, Progress
from consensus.quorum import VoteResult
from consensus.read_index import ReadIndex
from consensus.ready import ReadState, Role, SoftState

if TYPE_CHECKING:
    from consensus.node import Config

_VOTES: Final = frozenset({MessageType.VOTE, MessageType.PRE_VOTE})
_VOTE_MESSAGES: Final = _VOTES | {MessageType.VOTE_RESPONSE, MessageType.PRE_VOTE_RESPONSE}
_FROM_LEADER: Final = frozenset({MessageType.APPEND, MessageType.HEARTBEAT, MessageType.SNAPSHOT})
_AFTER_SYNC: Final = frozenset({MessageType.APPEND_RESPONSE, MessageType.VOTE_RESPONSE, MessageType.PRE_VOTE_RESPONSE})
NO_TERM: Final = frozenset({MessageType.PROPOSE, MessageType.READ_INDEX})  # they belong to none: their term is 0
_RESPONSE_TO: Final = {
    MessageType.VOTE: MessageType.VOTE_RESPONSE,
    MessageType.PRE_VOTE: MessageType.PRE_VOTE_RESPONSE,
}


@dataclass(frozen=True, slots=True)
class Pending:
    """What becomes true of this node when the Ready that it stands for is stored and applied."""

    term: int
    to_self: tuple[Message, ...]
    stable: tuple[int, int] | None  # (index, term) of the last unstable entry
    snapshot: SnapshotMeta | None
    applied_index: int
    applied_bytes: int
    applied_payload: int


class Raft:
    """Everything a node knows. Fields are for `leader`, `follower` and `node`; nobody else touches them."""

    def __init__(self, config: Config) -> None:
        """Start as a follower with what the storage holds (paper, figure 2)."""
        self.id = config.id
        self.options = config
        self.log = Log(config.storage, config.max_committed_bytes)
        self.role = Role.FOLLOWER
        self.leader = NONE
        self.votes: dict[int, bool] = {}
        self.transferee = NONE
        self.pending_conf_index = 0  # no change may be proposed before this is applied (thesis, 4.1; etcd-io/raft#80)
        self.uncommitted_bytes = 0
        self.reads = ReadIndex()
        self.early_reads: list[Message] = []  # came before an entry of this term was committed
        self.election_elapsed = 0
        self.heartbeat_elapsed = 0
        self.randomized_timeout = 0
        self.messages: list[Message] = []
        self.messages_after_sync: list[Message] = []
        self.read_states: list[ReadState] = []
        self.snapshot_wanted = False
        self.progress: dict[int, Progress] = {}
        self.others: tuple[int, ...] = ()  # every member but this node, in the order of ids

        hard_state, conf_state = config.storage.initial_state()
        self.term, self.vote = hard_state.term, hard_state.vote
        self.use_config(configuration.restore(conf_state))
        self.log.commit_to(hard_state.commit)
        if config.applied:
            self.log.applied_to(config.applied, 0)
        self.become_follower(self.term, NONE)

    # -- what this node is -------------------------------------------------------------------------------------------

    @property
    def soft_state(self) -> SoftState:
        """What need not be stored."""
        return SoftState(self.leader, self.role)

    @property
    def hard_state(self) -> HardState:
        """What must be."""
        return HardState(self.term, self.vote, self.log.committed)

    @property
    def is_learner(self) -> bool:
        """Whether this node gets the log and has no vote."""
        return self.id in self.config.learners

    @property
    def promotable(self) -> bool:
        """Whether this node may become leader: a voter, with its snapshot stored."""
        return self.id in self.config.voters and self.log.snapshot is None

    # -- sending -----------------------------------------------------------------------------------------------------

    def send(self, kind: MessageType, to: int, *, term: int = 0, **fields: object) -> None:
        """Queue a message. term: only for votes, whose term is not always this node's."""
        assert (term != 0) == (kind in _VOTE_MESSAGES)
        if kind not in NO_TERM and term == 0:
            term = self.term
        message = Message(kind, to, self.id, term, **fields)  # type: ignore[arg-type]
        if kind in _AFTER_SYNC:
            self.messages_after_sync.append(message)
        else:
            assert to != self.id
            self.messages.append(message)

    def forward(self, message: Message) -> None:
        """Pass a request on to the leader, in its sender's name."""
        term = 0 if message.type in NO_TERM else self.term
        sender = message.sender or self.id
        self.messages.append(msgspec.structs.replace(message, to=self.leader, sender=sender, term=term))

    # -- roles (paper, figure 4) -------------------------------------------------------------------------------------

    def _reset(self, term: int) -> None:
        if term != self.term:
            self.term = term
            self.vote = NONE
        self.leader = NONE
        self.election_elapsed = 0
        self.heartbeat_elapsed = 0
        self.randomized_timeout = self.options.election_ticks + self.options.jitter(self.options.election_ticks)
        self.transferee = NONE
        self.votes = {}
        last = self.log.last_index
        for node in self.progress:
            self.progress[node] = self._new_progress(node, last + 1)
        if self.id in self.progress:
            self.progress[self.id].match = last
        self.pending_conf_index = 0
        self.uncommitted_bytes = 0
        self.reads = ReadIndex()
        self.early_reads = []

    def _new_progress(self, node: int, next_index: int) -> Progress:
        window = Inflights(self.options.max_inflight_messages, self.options.max_inflight_bytes)
        return Progress(0, next_index, window, is_learner=node in self.config.learners)

    def become_follower(self, term: int, leader_id: int) -> None:
        """Follow `leader_id`, or nobody yet."""
        self._reset(term)
        self.leader = leader_id
        self.role = Role.FOLLOWER

    def become_pre_candidate(self) -> None:
        """Ask whether an election could be won. Changes neither term nor vote (thesis, 9.6)."""
        assert self.role is not Role.LEADER
        self.votes = {}
        self.leader = NONE
        self.role = Role.PRE_CANDIDATE

    def become_candidate(self) -> None:
        """Begin a term and vote for oneself (paper, 5.2)."""
        assert self.role is not Role.LEADER
        self._reset(self.term + 1)
        self.vote = self.id
        self.role = Role.CANDIDATE

    def become_leader(self) -> None:
        """Lead. The first entry of the term is empty: with it, everything before is committed too (thesis, 6.4)."""
        assert self.role is not Role.FOLLOWER
        self._reset(self.term)
        self.leader = self.id
        self.role = Role.LEADER
        mine = self.progress[self.id]
        mine.become_replicate()
        mine.recent_active = True
        # Whatever stands in the log may be a change that is not applied yet.
        self.pending_conf_index = self.log.last_index
        leader.append(self, [(EntryKind.NORMAL, b"")])

    # -- time --------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """One tick has passed."""
        self.election_elapsed += 1
        if self.role is Role.LEADER:
            leader.tick(self)
        elif self.promotable and self.election_elapsed >= self.randomized_timeout:
            self.election_elapsed = 0
            self.campaign()

    # -- elections ---------------------------------------------------------------------------------------------------

    def campaign(self, *, transfer: bool = False) -> None:
        """Stand for election, unless this node leads already or may not. transfer: the leader has asked for it."""
        if self.role is Role.LEADER or not self.promotable or self._has_unapplied_change():
            return
        pre_vote = self.options.pre_vote and not transfer
        self._ask_for_votes(MessageType.PRE_VOTE if pre_vote else MessageType.VOTE, transfer=transfer)

    def _has_unapplied_change(self) -> bool:
        """A node that has not applied a committed change would count votes in a configuration that is no more."""
        low, high = self.log.applied + 1, self.log.committed + 1
        while low < high:
            page = self.log.entries(low, high, self.options.max_committed_bytes)
            if any(entry.kind == EntryKind.CONF_CHANGE for entry in page):
                return True
            low += len(page)
        return False

    def _ask_for_votes(self, kind: MessageType, *, transfer: bool) -> None:
        if kind is MessageType.PRE_VOTE:
            self.become_pre_candidate()
            term = self.term + 1
        else:
            self.become_candidate()
            term = self.term
        for node in self.config.voters:
            if node == self.id:  # its own vote counts when it is durable
                self.send(_RESPONSE_TO[kind], node, term=term)
            else:
                self.send(
                    kind,
                    node,
                    term=term,
                    index=self.log.last_index,
                    log_term=self.log.last_term,
                    context=TRANSFER if transfer else b"",
                )

    def count_vote(self, message: Message) -> None:
        """Count an answer to the votes this node has asked for."""
        self.votes.setdefault(message.sender, not message.reject)
        result = self.config.voters.vote_result(self.votes)
        if result is VoteResult.LOST:
            self.become_follower(self.term, NONE)  # of its own term also after a pre-vote: no term was begun
        elif result is VoteResult.WON and self.role is Role.PRE_CANDIDATE:
            self._ask_for_votes(MessageType.VOTE, transfer=False)
        elif result is VoteResult.WON:
            self.become_leader()
            leader.broadcast_append(self)

    def _vote(self, message: Message) -> None:
        """Answer a request for a vote (paper, 5.2, 5.4.1). A learner votes too: it may be a voter and not know it."""
        free = (
            self.vote == message.sender
            or (self.vote == NONE and self.leader == NONE)
            or (message.type is MessageType.PRE_VOTE and message.term > self.term)
        )
        answer = _RESPONSE_TO[message.type]
        if not free or not self.log.up_to_date(message.index, message.log_term):
            self._reject_vote(answer, message.sender, tell_commit=self.id not in self.config.voters)
            return
        # With the request's term: a pre-candidate asks for a term that this node may be far from.
        self.send(answer, message.sender, term=message.term)
        if message.type is MessageType.VOTE:
            self.election_elapsed = 0
            self.vote = message.sender

    def _reject_vote(self, answer: MessageType, to: int, *, tell_commit: bool) -> None:
        commit = self.log.committed if tell_commit else 0
        log_term = self.log.term(commit) if commit else 0
        self.send(answer, to, term=self.term, reject=True, commit=commit, log_term=log_term)

    def _hear_commit(self, message: Message) -> None:
        """A vote is refused, by a node that tells what it knows to be committed; both are to know it.

        The longest log may be that of a node that has no vote any more, or does not know yet that it has one. It cannot
        lead, and nobody else can without its vote, until those who know less of the members have learned the change.
        """
        if message.commit < self.log.committed:
            self._reject_vote(message.type, message.sender, tell_commit=True)
        elif self.role is not Role.LEADER and self.log.try_commit(message.commit, message.log_term):
            campaigns = self.role is not Role.FOLLOWER
            if campaigns and self._has_unapplied_change():
                self.become_follower(self.term, NONE)  # the votes are of a configuration that is no more

    # -- messages ----------------------------------------------------------------------------------------------------

    def step(self, message: Message) -> None:
        """Take one message. Raises ProposalDropped, Inconsistent."""
        if message.term > self.term:
            if not self._enter_term(message):
                return
        elif 0 < message.term < self.term:
            self._answer_old_term(message)
            return
        if message.type in _VOTES:
            self._vote(message)
            return
        if message.commit and message.type in _VOTE_MESSAGES:
            self._hear_commit(message)
        _STEPS[self.role](self, message)

    def _enter_term(self, message: Message) -> bool:
        """A message of a later term (paper, 5.1). Returns False if it must be passed by."""
        kind = message.type
        if kind in _VOTES:
            in_lease = self.options.check_quorum and self.leader and self.election_elapsed < self.options.election_ticks
            if in_lease and message.context != TRANSFER:
                return False  # there is a leader: whoever does not hear it must not disturb it (thesis, 4.2.3)
        if kind is MessageType.PRE_VOTE or (kind is MessageType.PRE_VOTE_RESPONSE and not message.reject):
            return True  # such a term is only asked for; it begins with the election
        self.become_follower(message.term, message.sender if kind in _FROM_LEADER else NONE)
        return True

    def _answer_old_term(self, message: Message) -> None:
        """A message of an earlier term is passed by, but not where its sender would be stuck for ever.

        With pre-vote or check-quorum a node of a later term cannot depose a leader by campaigning, so it must tell it;
        and a pre-candidate of an earlier term must learn the later one (etcd-io/etcd#5468, #8501).
        """
        lenient = self.options.check_quorum or self.options.pre_vote
        if lenient and message.type in (MessageType.HEARTBEAT, MessageType.APPEND):
            self.send(MessageType.APPEND_RESPONSE, message.sender)
        elif message.type is MessageType.PRE_VOTE:
            self.send(MessageType.PRE_VOTE_RESPONSE, message.sender, term=self.term, reject=True)

    # -- membership --------------------------------------------------------------------------------------------------

    def apply_conf_change(self, change: ConfChange) -> ConfState:
        """Make a committed change take effect. Raises ConfigError."""
        self.use_config(configuration.apply_change(self.config, change))
        self._adopt_config()
        return self.config.conf_state()

    def use_config(self, config: Configuration) -> None:
        """Let the members be those of `config`; what is known of those who stay is kept."""
        self.config = config
        next_index = max(self.log.last_index, 1)
        for node in config.members:
            if node not in self.progress:
                self.progress[node] = self._new_progress(node, next_index)
                # Or a check of the quorum right after the change might depose the leader for it.
                self.progress[node].recent_active = True
            self.progress[node].is_learner = node in config.learners
        for node in self.progress.keys() - config.members:
            del self.progress[node]
        self.others = tuple(sorted(config.members - {self.id}))

    def _adopt_config(self) -> None:
        if self.role is not Role.LEADER:
            return
        if self.id not in self.config.voters:
            if self.options.step_down_on_removal:
                self.become_follower(self.term, NONE)
            return
        leader.adopt_config(self)

    # -- what was asked for is done ----------------------------------------------------------------------------------

    def done(self, pending: Pending) -> None:
        """A Ready is stored and applied."""
        for message in pending.to_self:
            self.step(message)
        if pending.stable is not None and pending.term == self.term:
            # In a later term the same index may hold another entry that only looks the same: wait for the next Ready.
            self.log.stable_to(*pending.stable)
        if pending.snapshot is not None:
            # Not when it came: changes that were handed out before it are still applied to what was before it.
            self.progress.clear()
            self.use_config(configuration.restore(pending.snapshot.conf_state))
            self.log.snapshot_stable(pending.snapshot.index)
            self._applied(pending.snapshot.index, 0)
        if pending.applied_index:
            self._applied(pending.applied_index, pending.applied_bytes)
            self.uncommitted_bytes = max(0, self.uncommitted_bytes - pending.applied_payload)

    def _applied(self, index: int, size_bytes: int) -> None:
        self.log.applied_to(max(index, self.log.applied), size_bytes)
        if self.role is Role.LEADER:
            leader.leave_joint(self)


def step_candidate(raft: Raft, message: Message) -> None:
    """A candidate or a pre-candidate (paper, 5.2)."""
    wanted = MessageType.PRE_VOTE_RESPONSE if raft.role is Role.PRE_CANDIDATE else MessageType.VOTE_RESPONSE
    if message.type is wanted:
        raft.count_vote(message)
    elif message.type in _FROM_LEADER:  # of this term: somebody else has won it
        raft.become_follower(message.term, message.sender)
        follower.step(raft, message)
    elif message.type is MessageType.PROPOSE:
        raise ProposalDropped(f"there is no leader at term {raft.term}")


_STEPS: Final[dict[Role, Callable[[Raft, Message], None]]] = {
    Role.FOLLOWER: follower.step,
    Role.PRE_CANDIDATE: step_candidate,
    Role.CANDIDATE: step_candidate,
    Role.LEADER: leader.step,
}
