"""Bugs of what is on disk, and of snapshots on their way. See `listed`."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Patch

DISK: Final = (
    Patch(
        "a vote is written without a sync",
        "hard_state",
        "        self._disk.fdatasync(self._file)\n",
        "",
        "a power cut, and it votes again",
    ),
    Patch(
        "a vote is written into one slot only",
        "hard_state",
        "        self._put(slot, 1)\n        self._sequence",
        "        self._sequence",
        "a bit that flips brings the vote before back",
    ),
    Patch(
        "a vote is written into both slots before the first is synced",
        "hard_state",
        "        self._put(slot, 0)\n        self._put(slot, 1)\n        self._sequence",
        "        self._disk.pwrite(self._file, slot * 2, 0, fatal=True)\n        self._disk.fdatasync(self._file)\n"
        "        self._sequence",
        "a torn write spoils both",
    ),
    Patch(
        "the older of two slots counts",
        "hard_state",
        "        newest = max((slot for slot in slots if slot is not None), key=lambda slot: slot[0])\n        one",
        "        newest = min((slot for slot in slots if slot is not None), key=lambda slot: slot[0])\n        one",
        "the vote before comes back",
    ),
    Patch(
        "a spoilt slot is read",
        "hard_state",
        "if length > VALUE_BYTES_MAX or _CRC",
        "if length > VALUE_BYTES_MAX or False and _CRC",
        "half a vote",
    ),
    Patch(
        "a promise can be undone",
        "hard_state",
        "        if term < self.term or (term == self.term and self.vote != NONE):\n",
        "        if False:\n",
        "the last guard against two votes in a term",
    ),
    Patch(
        "entries are stored before the term they belong to",
        "durable",
        "        if hard_state is not None:\n            self._vote.save(hard_state.term, hard_state.vote)\n"
        "        commit = max(self._commit, commit)\n        if entries:\n            self._append(entries, commit)\n"
        "        self._commit = commit\n",
        "        commit = max(self._commit, commit)\n        if entries:\n            self._append(entries, commit)\n"
        "        self._commit = commit\n        if hard_state is not None:\n"
        "            self._vote.save(hard_state.term, hard_state.vote)\n",
        "a vote file that has gone back is not noticed",
    ),
    Patch(
        "a vote file that has gone back is not noticed",
        "wal_recovery",
        "    if last_term > term:\n",
        "    if False:\n",
        "a copy of an old one, and the node votes again",
    ),
    Patch(
        "saving does not sync",
        "durable",
        "        if must_sync:\n            self._wal.sync()\n",
        "",
        "what is acknowledged is gone after a power cut (P1)",
    ),
    Patch(
        "the commit index is lost in front of entries",
        "durable",
        "encode_entries(entries, commit if moved else 0)",
        "encode_entries(entries)",
        "a node starts with a configuration more than one change old",
    ),
    Patch(
        "a replay takes a commit index past the end",
        "wal_replay",
        "min(reading.commit, reading.places.last)",
        "reading.commit",
        "the node refuses to start after a torn end",
    ),
    Patch(
        "a replay keeps what was replaced",
        "wal_replay",
        "        del self.entries[index - last - 1 :]\n",
        "",
        "two histories in one log",
    ),
    Patch(
        "a replay replaces what was committed",
        "wal_replay",
        "        if index <= self.commit:\n",
        "        if False:\n",
        "damage is not noticed (P9)",
    ),
    Patch(
        "entries after a truncation are looked for where the old ones lie",
        "wal_replay",
        "        if term != newest.term or newest.seq - newest.entry != seq - index:\n",
        "        if term != newest.term:\n",
        "a snapshot that belongs to another record",
    ),
    Patch(
        "a snapshot's marker alone takes the place of the log",
        "durable",
        "            self._confirm(marker)\n",
        "",
        "a snapshot file that vanishes is not noticed",
    ),
    Patch(
        "a missing snapshot is passed by",
        "wal_replay",
        "        elif record.marker > self._snapshot.seq:\n",
        "        elif False:\n",
        "the log of before comes back, acknowledged entries are gone (P9)",
    ),
    Patch(
        "a log that is compacted keeps nothing for the older snapshot",
        "durable",
        "            self._wal.compact(self._wal.snapshots[0])\n",
        "            self._wal.compact(self._wal.snapshots[-1])\n",
        "when the newest is damaged nothing can be rebuilt",
    ),
    Patch(
        "a snapshot of an entry that is not durable",
        "durable",
        "            if place.seq > self._wal.durable_index:\n",
        "            if False:\n",
        "a state without its log",
    ),
    Patch(
        "records that the disk had no room for are forgotten",
        "durable",
        "            self._owed = [record]\n",
        "            self._owed = []\n",
        "an installed snapshot is not confirmed, ever",
    ),
)

WAL: Final = (
    Patch(
        "a torn tail is cut though its records had been durable",
        "wal_survey",
        "    if missing <= mark.index:\n",
        "    if False:\n",
        "acknowledged entries vanish without a word (P9)",
    ),
    Patch(
        "a damaged middle is taken for a torn tail",
        "wal_survey",
        "    if tail.witness is not None:\n",
        "    if False:\n",
        "the same, of what was written since the mark",
    ),
    Patch(
        "a torn tail is taken for damage",
        "wal_format",
        "        if kind and index <= synced < own and record_at",
        "        if kind and record_at",
        "an honest crash, and the node does not start",
    ),
    Patch(
        "a record is not checked",
        "wal_format",
        "    if crc32c(memoryview(buffer)[offset + _CRC.size : data_end], salt) != crc:\n        return None\n",
        "",
        "flipped bits are applied (P9)",
    ),
    Patch(
        "a record need not follow the one before",
        "wal_format",
        "if record is None or record.previous != chain or record.index != index:",
        "if record is None or record.index != index:",
        "records of another history come back",
    ),
    Patch(
        "what is read again after a crash is not written again",
        "wal",
        "        if length > 0:\n",
        "        if False:\n",
        "pages that a failed sync has dropped look durable",
    ),
    Patch(
        "a new segment's name is not synced",
        "wal",
        "                self._spare_bytes = 0\n                self._disk.fsync_dir(self._directory)\n",
        "                self._spare_bytes = 0\n",
        "a power cut takes the segment with all its records",
    ),
    Patch(
        "segments are dropped together",
        "wal",
        "            # One at a time: otherwise a crash may take away a later one and leave this, a hole in the log.\n"
        "            self._disk.fsync_dir(self._directory)\n",
        "",
        "a hole in the log after a crash",
    ),
    Patch(
        "a file is named before it is synced",
        "disk",
        "            self.fdatasync(file)\n            self.rename(temporary, path)\n",
        "            self.rename(temporary, path)\n",
        "a snapshot of zeros",
    ),
    Patch(
        "after a failed sync the log goes on",
        "disk",
        "            raise LogFailed(self._failure) from error\n",
        "            failure, self._failure = self._failure, None\n            raise LogFailed(failure) from error\n",
        "a second sync says yes to pages that are gone (P9)",
    ),
)

CHUNKS: Final = (
    Patch(
        "a chunk is not checked",
        "chunks",
        "    return crc32c(chunk.data) == chunk.crc\n",
        "    return True\n",
        "a snapshot with flipped bits",
    ),
    Patch(
        "a lost chunk is not sent again",
        "chunks",
        "            self.quiet_ticks = 0\n            self.sent = self.stored\n",
        "            self.quiet_ticks = 0\n",
        "the transfer hangs",
    ),
    Patch(
        "a transfer that does not move is never given up",
        "chunks",
        "        return self.still_ticks >= GIVE_UP_TICKS\n",
        "        return False\n",
        "the node waits in its SNAPSHOT state for ever",
    ),
    Patch(
        "all chunks are sent at once",
        "chunks",
        "if self.sent - self.stored >= window * self.chunk_bytes or self.sent >= self.size:",
        "if self.sent >= self.size:",
        "heartbeats wait behind them",
    ),
    Patch(
        "a first chunk that did not count is not sent again at once",
        "chunks",
        "self.sent = max(self.sent, self.stored) if self.begun else self.stored",
        "self.sent = max(self.sent, self.stored)",
        "the transfer stands still until it is taken for lost",
    ),
)
