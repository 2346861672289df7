"""Bugs of replication, commit, reads, limits and transfer. See `listed`."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Patch

REPLICATION: Final = (
    Patch(
        "an old term's entry is committed by counting",
        "log",
        "if index > self.committed and self.matches(index, term):",
        "if index > self.committed:",
        "paper, 5.4.2, figure 8",
    ),
    Patch(
        "half of the acknowledgements is a quorum",
        "quorum",
        "indexes[(len(indexes) - 1) // 2]",
        "indexes[len(indexes) // 2]",
        "committed on two of four",
    ),
    Patch(
        "an entry is acknowledged before it is synced",
        "raft",
        "        if kind in _AFTER_SYNC:\n",
        "        if kind in _AFTER_SYNC and (to == self.id or kind is not MessageType.APPEND_RESPONSE):\n",
        "the leader commits what a crash takes back",
    ),
    Patch(
        "entries ask for no sync",
        "node",
        "bool(entries) or (hard.term, hard.vote)",
        "(hard.term, hard.vote)",
        "the same",
    ),
    Patch(
        "an old short append cuts a longer log",
        "log",
        "            if not self.matches(entry.index, entry.term):\n",
        "            if entry.index > self.committed:\n",
        "entries that were acknowledged are gone (5.3, figure 2)",
    ),
    Patch(
        "the entry before is not looked at",
        "log",
        "        if not self.matches(index, term):\n            return None\n",
        "",
        "log matching (5.3)",
    ),
    Patch(
        "the entry before is looked at without its term",
        "log",
        "        if not self.matches(index, term):\n            return None\n",
        "        if index > self.last_index:\n            return None\n",
        "log matching",
    ),
    Patch(
        "a follower commits more than it was sent",
        "log",
        "self.commit_to(min(committed, last))",
        "self.commit_to(min(committed, self.last_index))",
        "entries behind the append may be another history (figure 2)",
    ),
    Patch(
        "a heartbeat carries a commit index past what is known to match",
        "leader",
        "progress.sent_commit = min(progress.match, raft.log.committed)",
        "progress.sent_commit = raft.log.committed",
        "a follower commits what it holds of another history",
    ),
    Patch(
        "a write of before marks entries of a later term as stable",
        "raft",
        "        if pending.stable is not None and pending.term == self.term:\n"
        "            # In a later term the same index may hold another entry that only looks the same: "
        "wait for the next Ready.\n            self.log.stable_to(*pending.stable)\n",
        "        if pending.stable is not None and pending.stable[0] <= self.log.last_index:\n"
        "            self.log.stable_to(pending.stable[0], self.log.term(pending.stable[0]))\n",
        "ABA: they are never written, and acknowledged",
    ),
    Patch(
        "entries that are being written are not written again when they are replaced",
        "log",
        "        self._in_progress = min(self._in_progress, first)\n",
        "",
        "the disk keeps the other history",
    ),
    Patch(
        "committed entries are handed out beside a snapshot",
        "log",
        "not self._applying_paused and self.snapshot is None and self.applying < self.committed",
        "not self._applying_paused and self.applying < self.committed",
        "they are applied to a state that has passed them",
    ),
    Patch(
        "a snapshot throws away entries behind it that were acknowledged",
        "follower",
        "    if raft.log.matches(meta.index, meta.term):",
        "    if False:",
        "a snapshot that races with appends (7: they must be retained)",
    ),
    Patch(
        "an old snapshot takes the log back",
        "follower",
        "    if meta.index <= raft.log.committed:\n        return False\n",
        "",
        "what was committed is forgotten",
    ),
    Patch(
        "a snapshot from before a member was added is sent to it",
        "leader",
        "    if node not in {*state.voters, *state.learners, *state.voters_outgoing}:\n",
        "    if False:\n",
        "it is refused, and sent again, for ever",
    ),
    Patch(
        "a snapshot goes to a node that may be gone",
        "leader",
        "    if not progress.recent_active:\n",
        "    if False:\n",
        "large transfers to nobody",
    ),
    Patch(
        "a snapshot is never followed by entries",
        "leader",
        "        if progress.match + 1 >= raft.log.first_index:\n",
        "        if False:\n",
        "its receiver stays behind",
    ),
    Patch(
        "entries follow before the snapshot has arrived",
        "progress",
        "return self.state is not ProgressState.SNAPSHOT and not self.paused",
        "return not self.paused",
        "a flood of appends that cannot match",
    ),
    Patch(
        "the conflict hint is one too low",
        "progress",
        "self.next = max(min(index, hint + 1), self.match + 1)",
        "self.next = max(min(index, hint), self.match + 1)",
        "a round more for each follower that is behind",
    ),
    Patch(
        "the conflict hint is one too high",
        "progress",
        "self.next = max(min(index, hint + 1), self.match + 1)",
        "self.next = max(min(index, hint + 2), self.match + 1)",
        "a follower that is never found",
    ),
    Patch(
        "the follower's hint passes over no terms",
        "follower",
        "    hint, hint_term = log.find_conflict_by_term(hint, message.log_term)\n",
        "    hint_term = log.term(hint)\n",
        "a round for each entry (5.3, last paragraphs)",
    ),
    Patch(
        "the leader's side of the hint is left out",
        "leader",
        "    if message.log_term > 0:\n",
        "    if False:\n",
        "the same",
    ),
    Patch(
        "a stale refusal moves the probe",
        "progress",
        "            if self.next - 1 != index:\n                return False\n",
        "",
        "probes that go back without end, by doubled messages",
    ),
    Patch(
        "a stale refusal ends replication",
        "progress",
        "            if index <= self.match:\n                return False\n            self.next",
        "            self.next",
        "what was acknowledged is probed again",
    ),
    Patch(
        "a lost message to a follower is not noticed",
        "leader",
        "    progress.paused = False  # an append or its answer may have been lost\n",
        "",
        "a probe that was lost is never sent again",
    ),
)

BOUNDS: Final = (
    Patch(
        "the window in flight is ignored",
        "progress",
        "return len(self.window) >= self.max_messages or (self.max_bytes > 0 and self.bytes >= self.max_bytes)",
        "return False",
        "memory without bound for a follower that is slow (10.2.1)",
    ),
    Patch(
        "the window in flight is not counted in bytes",
        "progress",
        "return len(self.window) >= self.max_messages or (self.max_bytes > 0 and self.bytes >= self.max_bytes)",
        "return len(self.window) >= self.max_messages",
        "the same",
    ),
    Patch(
        "the window in flight never opens again",
        "leader",
        "        progress.inflights.free_up_to(message.index)\n",
        "        pass\n",
        "replication stops",
    ),
    Patch(
        "the uncommitted tail is not bounded",
        "leader",
        "    if waiting > 0 and size > 0 and waiting + size > raft.options.max_uncommitted_bytes:\n",
        "    if False:\n",
        "memory without bound while there is no quorum (P12)",
    ),
    Patch(
        "the uncommitted tail never shrinks",
        "raft",
        "            self.uncommitted_bytes = max(0, self.uncommitted_bytes - pending.applied_payload)\n",
        "",
        "proposals are refused for ever",
    ),
    Patch(
        "an append has no bound",
        "leader",
        "log.entries(progress.next, log.last_index + 1, raft.options.max_message_bytes)",
        "log.entries(progress.next, log.last_index + 1, 1 << 62)",
        "one message that holds up the heartbeats behind it",
    ),
    Patch(
        "what is handed out to be applied has no bound",
        "log",
        "        room = self._max_applying_bytes - self._applying_bytes\n",
        "        room = 1 << 62\n",
        "a restart applies everything at once",
    ),
)

READS: Final = (
    Patch(
        "reads are answered before an entry of the term is committed",
        "leader",
        "    if raft.log.term(raft.log.committed) != raft.term:\n",
        "    if False:\n",
        "a new leader's commit index may be behind (6.4, step 1)",
    ),
    Patch(
        "reads are answered without a round",
        "leader",
        "    elif raft.config.singleton:\n",
        "    elif True:\n",
        "a leader that was deposed answers from the past (6.4, step 3)",
    ),
    Patch(
        "a read round is confirmed by the answer to an earlier one",
        "read_index",
        'int.from_bytes(context, "little")',
        "self.confirmed + len(self.waiting)",
        "that answer may be older than the read",
    ),
    Patch(
        "a read is confirmed by one half of a joint configuration",
        "read_index",
        "voters.committed_index(self.acked)",
        "JointVoters(voters.incoming).committed_index(self.acked)",
        "the other half may have another leader",
    ),
    Patch(
        "a read may be answered from what is applied here",
        "leader",
        "        raft.reads.add(message, raft.log.committed)\n",
        "        raft.reads.add(message, raft.log.applied)\n",
        "a write that was acknowledged is not seen (6.4, step 2)",
    ),
    Patch(
        "reads outlive their leadership",
        "raft",
        "        self.reads = ReadIndex()\n        self.early_reads = []\n",
        "        self.early_reads = []\n",
        "confirmed by answers of another term",
    ),
    Patch(
        "early reads outlive their leadership",
        "raft",
        "        self.reads = ReadIndex()\n        self.early_reads = []\n",
        "        self.reads = ReadIndex()\n",
        "answered to somebody who has long asked again",
    ),
    Patch(
        "early reads are forgotten",
        "leader",
        "        _release_early_reads(raft)\n",
        "        pass\n",
        "they are never answered",
    ),
)

TRANSFER: Final = (
    Patch(
        "a transfer is never given up",
        "leader",
        "            return\n        raft.transferee = NONE\n    if raft.heartbeat_elapsed",
        "            return\n    if raft.heartbeat_elapsed",
        "no proposals for ever, when the target has died (3.10)",
    ),
    Patch(
        "a transfer does not wait until the target is up to date",
        "leader",
        "    raft.transferee = node\n    if progress.match == raft.log.last_index:\n",
        "    raft.transferee = node\n    if True:\n",
        "an election that nobody can win",
    ),
    Patch(
        "proposals are taken during a transfer",
        "leader",
        "    if raft.transferee != NONE:\n        raise",
        "    if False:\n        raise",
        "the target never catches up",
    ),
    Patch(
        "leadership is given to a learner",
        "leader",
        "    if progress.is_learner or raft.transferee == node:\n",
        "    if raft.transferee == node:\n",
        "nobody leads until it is given up",
    ),
    Patch(
        "a transfer to a node that is removed goes on",
        "leader",
        "    if raft.transferee not in raft.config.voters:\n",
        "    if False:\n",
        "proposals are refused until it is given up",
    ),
)
