"""Mutants that do the same as the original, and why: `REASONS` is reason -> names.

A mutant stands here only if no driver that keeps the law of `consensus.ready` can tell it from the original, or if what
it changes is free: then the reason says so. `scripts/mutants --equivalent` tries them all the same: what it catches is
not equivalent.
"""

from __future__ import annotations

from typing import Final

_BEGIN: Final = "raft.Raft.__init__: "
_PENDING: Final = (
    "node.Node._accept: 0 -> -1 in self._pending = Pending(term=raft.term, "
    "to_self=tuple((one for one in raft.messages_after_..."
)
_HAS_READY: Final = (
    "node.Node.has_ready: raft.messages or raft.messages_after_sync or raft.read_states or raft.snapshot_wanted "
    "or r... without "
)

REASONS: Final[dict[str, tuple[str, ...]]] = {
    "The end of the constructor calls `become_follower` and `use_config`, which set these again.": (
        f"{_BEGIN}drop self.role = Role.FOLLOWER",
        f"{_BEGIN}drop self.leader = NONE",
        f"{_BEGIN}drop self.votes: dict[int, bool] = {{}}",
        f"{_BEGIN}drop self.transferee = NONE",
        f"{_BEGIN}drop self.pending_conf_index = 0",
        f"{_BEGIN}0 -> 1 in self.pending_conf_index = 0",
        f"{_BEGIN}0 -> -1 in self.pending_conf_index = 0",
        f"{_BEGIN}drop self.uncommitted_bytes = 0",
        f"{_BEGIN}0 -> 1 in self.uncommitted_bytes = 0",
        f"{_BEGIN}0 -> -1 in self.uncommitted_bytes = 0",
        f"{_BEGIN}drop self.reads = ReadIndex()",
        f"{_BEGIN}drop self.early_reads: list[Message] = []",
        f"{_BEGIN}drop self.election_elapsed = 0",
        f"{_BEGIN}0 -> 1 in self.election_elapsed = 0",
        f"{_BEGIN}0 -> -1 in self.election_elapsed = 0",
        f"{_BEGIN}drop self.heartbeat_elapsed = 0",
        f"{_BEGIN}0 -> 1 in self.heartbeat_elapsed = 0",
        f"{_BEGIN}0 -> -1 in self.heartbeat_elapsed = 0",
        f"{_BEGIN}drop self.randomized_timeout = 0",
        f"{_BEGIN}0 -> 1 in self.randomized_timeout = 0",
        f"{_BEGIN}0 -> -1 in self.randomized_timeout = 0",
        f"{_BEGIN}drop self.others: tuple[int, ...] = ()",
    ),
    "Only a leader looks at the index of a pending change, and it sets it when it is elected.": (
        "raft.Raft._reset: drop self.pending_conf_index = 0",
        "raft.Raft._reset: 0 -> 1 in self.pending_conf_index = 0",
        "raft.Raft._reset: 0 -> -1 in self.pending_conf_index = 0",
    ),
    "Nothing is being applied at that moment, and the count of bytes does not fall below nothing.": (
        "raft.Raft.__init__: 0 -> 1 in self.log.applied_to(config.applied, 0)",
        "raft.Raft.done: 0 -> 1 in self._applied(pending.snapshot.index, 0)",
        "log.Log.applied_to: 0 -> -1 in self._applying_bytes = max(0, self._applying_bytes - size_bytes)",
    ),
    "Who is proposed to gives an entry its term and index; those in a proposal are not looked at.": (
        "node.Node.propose_conf_change: 0 -> 1 in entry = "
        "Entry(0, 0, EntryKind.CONF_CHANGE, configuration.encode(change))",
        "node.Node.propose_conf_change: 0 -> -1 in entry = "
        "Entry(0, 0, EntryKind.CONF_CHANGE, configuration.encode(change))",
        "node.Node.propose_conf_change: 0 -> 1 in entry = "
        "Entry(0, 0, EntryKind.CONF_CHANGE, configuration.encode(change)) (2)",
        "node.Node.propose_conf_change: 0 -> -1 in entry = "
        "Entry(0, 0, EntryKind.CONF_CHANGE, configuration.encode(change)) (2)",
    ),
    "Whatever appends an entry, or takes a snapshot, queues an acknowledgement in the same call: that is seen first.": (
        f"{_HAS_READY}raft.log.has_next_unstable",
        f"{_HAS_READY}raft.log.next_snapshot() is not None",
    ),
    "Free: how soon a leader asks again to leave a joint configuration, when that had been refused.": (_PENDING,),
    "These types are never sent by `send`: a request is passed on by `forward`.": (
        "raft.Raft.send: kind not in NO_TERM and term == 0 without kind not in NO_TERM",
    ),
    "The message that made it a follower is then stepped as one, and notes its leader.": (
        "raft.Raft.become_follower: drop self.leader = leader_id",
    ),
    "A request for a vote of a later term has begun that term before.": (
        "raft.Raft._vote: message.type is MessageType.PRE_VOTE and message.term > self.term "
        "without message.type is MessageType.PRE_VOTE",
    ),
    "Only a leader looks at what is known of others; it makes that anew, and has two entries by then.": (
        "raft.Raft.use_config: 1 -> 2 in next_index = max(self.log.last_index, 1)",
        "raft.Raft.use_config: 1 -> 0 in next_index = max(self.log.last_index, 1)",
        "raft.Raft.done: drop self.progress.clear()",
    ),
    "The entry of that index is not of that term any more where anything has replaced it, and `stable_to` looks.": (
        "raft.Raft.done: pending.stable is not None and pending.term == self.term without pending.term == self.term",
    ),
    "Nothing follows that could do something.": (
        "raft.Raft.step: drop return (3)",
        "leader.step: drop return",
        "leader.step: drop return (2)",
        "log.Log.matches: drop return False",
    ),
    "It has just become a follower: no transfer runs, and the time to the next heartbeat has just begun.": (
        "leader.tick: drop return",
    ),
    "The window is emptied whenever the state changes: it is never full but in REPLICATE.": (
        "leader.send_append: progress.state is not ProgressState.REPLICATE or not progress.inflights.full() "
        "without progress.state is not ProgressState.REPLICATE",
    ),
    "There is nothing behind the last entry.": (
        "leader.send_append: 1 -> 2 in entries = "
        "log.entries(progress.next, log.last_index + 1, raft.options.max_message_bytes)",
    ),
    "Whoever asks has just been heard of, or does not look at the result.": (
        "leader._send_snapshot: False -> True in return False",
    ),
    "A node that was given a snapshot does not stand for election before it is stored, so no leader has one.": (
        "leader._send_snapshot: raft.log.snapshot or raft.options.storage.snapshot() without raft.log.snapshot",
    ),
    "Who would send more finds the state SNAPSHOT, and does not.": (
        "leader._send_snapshot: True -> False in return True",
    ),
    "The greater of this and what matches is taken, and that is never below 0.": (
        "leader.report_snapshot: 0 -> -1 in progress.pending_snapshot = 0",
        "progress.Progress.become_probe: 0 -> -1 in pending = "
        "self.pending_snapshot if self.state is ProgressState.SNAPSHOT else 0",
    ),
    "A snapshot of just what is committed matches this log: the check after it says the same.": (
        "follower.restore: meta.index <= raft.log.committed -> <",
    ),
    "After a snapshot the log ends with what is committed.": ("follower.restore: True -> False in return True",),
    "It says something of a snapshot, and there is none: taking one sets it.": (
        "log.Log.__init__: False -> True in self._snapshot_in_progress = False",
        "log.Log.snapshot_stable: drop self._snapshot_in_progress = False",
        "log.Log.snapshot_stable: False -> True in self._snapshot_in_progress = False",
    ),
    "While nothing is unstable, it only has to be past the storage's end: the first entry sets it.": (
        "log.Log.__init__: 1 -> 2 in self._offset = storage.last_index() + 1",
    ),
    "Index 0 comes before the first entry and has term 0, which is below any.": (
        "log.Log.find_conflict_by_term: index > 0 -> >=",
        "log.Log.find_conflict_by_term: 0 -> -1 in index > 0",
    ),
    "The other way gives the same: no entries, all that are unstable, or the same learners.": (
        "log.Log.entries: low >= high -> >",
        "log.Log.entries: drop return ()",
        "log.Log.entries: low >= self._offset -> >",
        "log.Log.entries: high <= self._offset -> <",
        "log.Log.append: keep <= 0 -> <",
        "log.Log.append: 0 -> -1 in keep <= 0",
        "configuration._change_one: drop return config",
    ),
    "From the first conflict on all entries have been appended: they match.": ("log.Log.try_append: drop break",),
    "It is set to what it is.": ("log.Log.commit_to: index <= self.committed -> <",),
    "An index one below takes no entry away.": (
        "log.Log.stable_to: 0 -> -1 in not 0 <= at < len(self._entries) or self._entries[at].term != term",
    ),
    "Only what was handed out becomes stable.": (
        "log.Log.stable_to: drop self._in_progress = max(self._in_progress, self._offset)",
    ),
    "It is called where something may be sent, so that nothing waits.": (
        "progress.Progress.sent: self.paused or count > 0 without self.paused",
    ),
    "The number of a round is 1 or more.": (
        "read_index.ReadIndex.answered: 0 -> 1 in self.acked[node] = "
        "max(self.acked.get(node, 0), int.from_bytes(context, 'little'))",
        "read_index.ReadIndex.answered: 0 -> -1 in self.acked[node] = "
        "max(self.acked.get(node, 0), int.from_bytes(context, 'little'))",
    ),
}
EQUIVALENT: Final = {name: reason for reason, names in REASONS.items() for name in names}
