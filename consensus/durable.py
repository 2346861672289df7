"""A node's log on disk: what a `Ready` asks to be stored, and what the node finds when it starts again.

On top of `wal`, whose records only grow in number:

    identity    cluster, node, incarnation; written once (`wal_identity`)
    vote        term and vote; both slots synced before `save` returns (`hard_state`)
    records     entries; a truncation is an entry written again under a lower index (`wal_entries`)
    snapshots   own ones belong to the record of their entry, a leader's to a marker record (`wal_snapshot`)
    incoming    a leader's snapshot on its way (`wal_incoming`)

Order of writes, which the crash tests hold:

- term and vote before the entries of that term, so a vote that has gone back shows at the next start. `ready` names the
  snapshot first: here the hard state comes before it as well, which only raises what the node has promised.
- a leader's snapshot: a marker record, synced; the file gets its name, synced; a record that it did, synced. A marker
  alone counts for nothing. With the last record and without the file the log is damaged, not older (P9).
- the log under a snapshot goes when the snapshot has its name, and what is behind the older of two snapshots stays.
- the commit index goes with the first entry that is written after it has moved. It is synced for itself only before a
  change of the members is applied.

Threads. Who drives a node has a loop (the core, `storage`), one log thread, and one thread for slow work:

    loop    storage, trim. storage is changed only here, and only when the log's thread has returned
    log     save, install_snapshot, compact, mark, mark_due_s, close
    slow    create_snapshot, receive, prepare
    any     identity, recovery, head, snapshot_meta, open_snapshot, read_snapshot, drop_incoming

    log:  save(hard_state, entries, commit)     then  loop: storage.hard_state = hard_state, storage.append(entries)
    log:  head = install_snapshot(meta, ...)    then  loop: storage.install_snapshot(head.snapshot)
    slow: head = create_snapshot(meta, chunks)  then  loop: storage.create_snapshot(head.meta.index,
                                                            head.meta.conf_state, head.snapshot.data), trim()
                                                then  log: compact()

A node that starts again restores its state machine from `read_snapshot` and hands `storage` to the core, with
`snapshot_meta().index` as what was applied. A first node begins with `install_snapshot` of an empty state of entry 1,
term 1, which names it as the voter.

After LogFailed everything but `close` is refused (a failed fsync is never tried again). LogFull refuses a call whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Final, Self

from consensus.disk import REAL, FileSystem, LogDisk
from consensus.errors import (
    Compacted,
    LogClosed,
    LogFull,
    SnapshotTemporarilyUnavailable,
    Unavailable,
)
from consensus.hard_state import VoteFile
from consensus.messages import NO_LIMIT, Entry, HardState, SnapshotMeta
from consensus.storage import entry_bytes
from consensus.wal import MARK_INTERVAL_S, SEGMENT_BYTES, Recovery, Wal
from consensus.wal_entries import encode_commit, encode_entries, encode_installed, encode_marker
from consensus.wal_identity import Identity, check_directory, write_identity
from consensus.wal_incoming import SYNC_BYTES, Incoming
from consensus.wal_recovery import RaftLog, recover
from consensus.wal_replay import Place, Places
from consensus.wal_snapshot import Payload, SnapshotHead, SnapshotReader
from consensus.wal_survey import Survey, snapshot_name

TRAILING_BYTES: Final = 32 * 1024 * 1024  # entries below a snapshot that stay in memory, for followers a little behind
TRAILING_ENTRIES: Final = 10_000
_NO_SNAPSHOT: Final = SnapshotHead(SnapshotMeta(), 0, 0)


class DurableLog:
    """See the module. Open it with `DurableLog.open`."""

    def __init__(
        self,
        wal: Wal,
        directory: Path,
        identity: Identity,
        vote: VoteFile,
        incoming: Incoming,
        found: RaftLog,
        clock: Callable[[], float],
    ) -> None:
        """Private: use `DurableLog.open`."""
        self._wal, self._directory, self._vote, self._incoming, self._clock = wal, directory, vote, incoming, clock
        self._files = ExitStack()  # closed in `close`
        self._closed = False
        self._publishing, self._receiving = Lock(), Lock()
        self._held = False  # a whole incoming snapshot waits to be installed or dropped
        self._owed: list[bytes] = []  # records that found the disk full; they go before the next
        self.identity = identity
        self.recovery: Recovery = wal.recovery
        self._snapshot = (found.head or _NO_SNAPSHOT, found.seq)
        self._places = found.log.places
        self._commit = self._noted = found.log.commit
        self._noted_at = clock()
        self.storage = found.storage(vote.term, vote.vote)
        self.bytes_since_snapshot = sum(len(entry.data) for entry in found.log.entries)
        incoming.resume()
        if incoming.head is not None and incoming.head.meta.index <= self.head.meta.index:
            incoming.drop()

    @classmethod
    def open(
        cls,
        directory: Path,
        identity: Identity,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        incoming_sync_bytes: int = SYNC_BYTES,
        io: FileSystem = REAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> DurableLog:
        """Open the log of `identity`, made if the directory is new or missing. What was cut is in `recovery`.

        segment_bytes: size of new segments. incoming_sync_bytes: of an arriving snapshot, what a crash may cost. clock:
        monotonic seconds.
        Raises LogForeign, LogDamaged, LogTooNew, LogLocked, LogFull, LogFailed.
        """
        term: int | None = None  # None = the directory is new
        raft: RaftLog | None = None

        def check(disk: LogDisk, found: Survey) -> None:
            nonlocal term, raft
            term = check_directory(disk, directory, identity, found)
            raft = recover(disk, directory, found.segments, found.snapshots, term or 0)

        with ExitStack() as files:
            wal = Wal.open(directory, segment_bytes=segment_bytes, io=io, clock=clock, check=check)
            files.callback(wal.close)
            vote = (VoteFile.create if term is None else VoteFile.open)(wal.disk, directory, wal.log_id)
            files.callback(vote.close)
            if term is None:
                write_identity(wal.disk, directory, wal.log_id, identity)
            incoming = Incoming(wal.disk, directory, wal.log_id, incoming_sync_bytes)
            files.callback(incoming.close)
            assert raft is not None
            log = cls(wal, directory, identity, vote, incoming, raft, clock)
            log._files = files.pop_all()
        return log

    # -- any thread ----------------------------------------------------------------------------------------------

    @property
    def head(self) -> SnapshotHead:
        """The newest snapshot; of index 0 if there is none."""
        return self._snapshot[0]

    def snapshot_meta(self) -> SnapshotMeta:
        """What the newest snapshot is of; index 0 if there is none."""
        return self._snapshot[0].meta

    def open_snapshot(self) -> SnapshotReader:
        """The newest snapshot, to be read in pieces and closed. A newer one does not take it away meanwhile.

        Raises SnapshotTemporarilyUnavailable if there is none, LogFailed.
        """
        self._check_open()
        head, seq = self._snapshot
        if head.meta.index == 0:
            raise SnapshotTemporarilyUnavailable("there is no snapshot yet")
        return SnapshotReader(self._wal.disk, self._directory / snapshot_name(seq))

    def read_snapshot(self) -> Iterator[bytes]:
        """The state in the newest snapshot, piece by piece; nothing if there is none.

        Raises LogDamaged behind the last piece where it is not what was stored, LogFailed.
        """
        if self.head.meta.index:
            with self.open_snapshot() as reader:
                yield from reader.chunks()

    # -- the log thread ------------------------------------------------------------------------------------------

    def save(
        self,
        hard_state: HardState | None,
        entries: Sequence[Entry],
        commit: int,
        *,
        must_sync: bool = True,
        with_commit: bool = False,
    ) -> None:
        """Store what a Ready says: term and vote, then entries, with one fdatasync for all of these.

        hard_state: None = unchanged. entries: consecutive, from the log's end + 1 or below; those they overlap are
        replaced. commit: the core's commit index. must_sync: as in the Ready; False leaves entries to a later sync.
        with_commit: the commit index is written for itself (`Ready.changes_members`).
        Raises LogFull: no entry counts, term and vote may; the same call may be made again. LogFailed: nothing may be
        sent that depends on the call. Compacted, Unavailable, ValueError for what the core never asks, with nothing
        written.
        """
        self._check_open()
        if entries:
            self._check_entries(entries, max(self._vote.term, hard_state.term if hard_state else 0))
        if hard_state is not None:
            self._vote.save(hard_state.term, hard_state.vote)
        commit = max(self._commit, commit)
        if entries:
            self._append(entries, commit)
        self._commit = commit
        if with_commit:
            self._note_commit()
        if must_sync:
            self._wal.sync()

    def _check_entries(self, entries: Sequence[Entry], term: int) -> None:
        first, last = entries[0].index, entries[-1]
        if first > self._places.last + 1:
            raise Unavailable(f"entry {first} would leave a hole: the log ends at {self._places.last}")
        if first <= self.head.meta.index:
            raise Compacted(f"entry {first} would replace what the snapshot of {self.head.meta.index} covers")
        if first <= self._commit:
            raise ValueError(f"entry {first} would replace one that was committed, up to {self._commit}")
        if last.term > term:
            raise ValueError(f"entry {last.index} is of term {last.term}, and the node of term {term}")
        if [entry.index for entry in entries] != list(range(first, first + len(entries))):
            raise ValueError(f"entries {first} to {last.index} are not consecutive")

    def _append(self, entries: Sequence[Entry], commit: int) -> None:
        moved = commit > self._noted
        records = encode_entries(entries, commit if moved else 0)
        last = self._wal.append([*self._owed, *records] if self._owed else records)
        self._owed = []
        self._places.extend(entries, last - len(entries) + 1)
        if moved:
            self._noted, self._noted_at = commit, self._clock()

    def install_snapshot(
        self, meta: SnapshotMeta, hard_state: HardState | None = None, chunks: Iterable[bytes] | None = None
    ) -> SnapshotHead:
        """Put a leader's snapshot in place of the whole log, durably.

        meta: the Ready's. hard_state: the Ready's; stored first. chunks: the state; None = what `receive` has brought,
        which is renamed, not copied. Returns the head for `storage.install_snapshot`.
        Raises Unavailable where it has not arrived whole, Compacted where a newer one is here, ValueError for a term
        above the node's, LogFull (what was here stays; the call may be made again), LogDamaged, LogFailed.
        """
        self._check_open()
        with self._publishing, self._receiving:
            done = meta == self.head.meta and self._places.last == meta.index
            if not done:
                self._check_install(meta, hard_state, received=chunks is None)
            if hard_state is not None:
                self._vote.save(hard_state.term, hard_state.vote)
            if done:
                return self.head  # the call is made again because what came after it found the disk full
            marker = self._wal.append([*self._owed, encode_marker(meta)])
            self._owed = []
            self._wal.sync()
            head = self._adopt(marker) if chunks is None else self._write_snapshot(marker, meta, chunks)
            self._places = Places(Place(meta.index, marker, meta.term))
            self._commit = max(self._commit, meta.index)
            self._confirm(marker)
            with suppress(LogFull):  # nothing is lost by what stays: the next compaction takes it
                self._wal.compact(marker)
        return head

    def _check_install(self, meta: SnapshotMeta, hard_state: HardState | None, *, received: bool) -> None:
        if meta.index <= self.head.meta.index:
            raise Compacted(f"a snapshot of {meta.index}: there is one of {self.head.meta.index}")
        term = max(self._vote.term, hard_state.term if hard_state else 0)
        if meta.term > term:
            raise ValueError(f"a snapshot of term {meta.term}, and the node is of term {term}")
        incoming = self._incoming
        if received and not (incoming.whole and incoming.head is not None and incoming.head.meta == meta):
            raise Unavailable(f"the snapshot of {meta.index} has not arrived whole")

    def _adopt(self, marker: int) -> SnapshotHead:
        incoming = self._incoming
        assert incoming.head is not None
        self._wal.adopt_snapshot(marker, incoming.path, incoming.payload_bytes, incoming.payload_checksum)
        self._snapshot = (incoming.head, marker)
        incoming.drop()
        self._held = False
        return self.head

    def _write_snapshot(self, seq: int, meta: SnapshotMeta, chunks: Iterable[bytes]) -> SnapshotHead:
        payload = Payload(meta, chunks)
        self._wal.save_snapshot(seq, payload)
        self._snapshot = (payload.head, seq)
        return payload.head

    def _confirm(self, marker: int) -> None:
        """Note that the snapshot of `marker` has its name. It is there already: a full disk takes nothing back."""
        record = encode_installed(marker)
        try:
            self._wal.append([record])
        except LogFull:
            self._owed = [record]
        else:
            self._wal.sync()

    def compact(self) -> None:
        """Drop what of the log on disk is behind the older of the two snapshots. Raises LogFailed."""
        self._check_open()
        if self._wal.snapshots:
            self._wal.compact(self._wal.snapshots[0])
            self._places.compact(self.head.meta.index)

    @property
    def mark_due_s(self) -> float | None:
        """Seconds until `mark` ought to be called if no `save` comes before; None = there is nothing to note."""
        due_s = self._wal.mark_due_s
        if self._commit > self._noted:
            hint_s = max(0.0, self._noted_at + MARK_INTERVAL_S - self._clock())
            due_s = hint_s if due_s is None else min(due_s, hint_s)
        return due_s

    def mark(self) -> None:
        """Note on disk how far the log is durable, and committed. Call it when it is due. Raises LogFailed."""
        self._check_open()
        with suppress(LogFull):  # here it is a hint, and is told again
            self._note_commit()
        self._wal.mark()

    def _note_commit(self) -> None:
        commit = min(self._commit, self._places.last)
        if commit > self._noted:
            self._noted_at = self._clock()
            self._wal.append([encode_commit(commit)])
            self._noted = commit

    def close(self) -> None:
        """Store what is known and let the directory go. Idempotent. Raises LogFailed."""
        if self._closed:
            return
        self._closed = True
        with self._files:
            if not self._wal.disk.failed:
                with suppress(LogFull):
                    self._note_commit()
                self._wal.sync()

    # -- the thread for slow work --------------------------------------------------------------------------------

    def create_snapshot(self, meta: SnapshotMeta, chunks: Iterable[bytes]) -> SnapshotHead:
        """Store the state after entry `meta.index`, which was applied; drops nothing, see `compact`.

        chunks: the state, taken piece by piece. Returns the head for `storage.create_snapshot`.
        Raises Compacted where a newer one is here, Unavailable for an entry that is not durable, ValueError for a term
        that is not the entry's, LogFull (what was here stays), LogFailed, and what `chunks` raise.
        """
        self._check_open()
        with self._publishing:
            if meta.index <= self.head.meta.index:
                raise Compacted(f"a snapshot of {meta.index}: there is one of {self.head.meta.index}")
            place = self._places.find(meta.index)
            if place.term != meta.term:
                raise ValueError(f"a snapshot of entry {meta.index}, term {meta.term}: the entry's is {place.term}")
            if place.seq > self._wal.durable_index:
                raise Unavailable(f"entry {meta.index} is not durable yet")
            return self._write_snapshot(place.seq, meta, chunks)

    def receive(self, head: SnapshotHead, offset: int, data: bytes) -> int:
        """Take a piece of a leader's snapshot. Returns how many bytes are here: where the next piece is to begin.

        head: the same with each piece; another one begins anew. offset: of `data` in the state; a piece that does not
        go on where the last one ended is passed by, so an empty one asks. When the result is head.size all is here,
        durable and checked; from then on `install_snapshot` or `drop_incoming` has to follow, and pieces of others get
        a 0. Raises SnapshotMismatch, after which it begins anew, LogFull (nothing of the call counts), LogFailed.
        """
        self._check_open()
        with self._receiving:
            if self._held and head != self._incoming.head:
                return 0
            received = self._incoming.receive(head, offset, data)
            self._held = self._incoming.whole
            return received

    def drop_incoming(self) -> None:
        """Forget a snapshot that has arrived, whole or not: the core did not want it. Raises LogFailed."""
        self._check_open()
        with self._receiving:
            self._incoming.drop()
            self._held = False

    @property
    def room_bytes(self) -> int:
        """As `Wal.room_bytes`; may be read from any thread."""
        return self._wal.room_bytes

    @property
    def spare_ready(self) -> bool:
        """As `Wal.spare_ready`; may be read from any thread."""
        return self._wal.spare_ready

    def prepare(self) -> bool:
        """Have the next segment ready, so that `save` need not wait for its zeros. As `Wal.prepare`."""
        self._check_open()
        return self._wal.prepare()

    # -- the loop's thread ---------------------------------------------------------------------------------------

    def trim(self, trailing_bytes: int = TRAILING_BYTES, trailing_entries: int = TRAILING_ENTRIES) -> int:
        """Drop entries that the newest snapshot covers from `storage`, but for the last, for followers a little behind.

        trailing_bytes (`entry_bytes`), trailing_entries: the most that stay. Returns storage.first_index().
        """
        storage = self.storage
        first = storage.first_index()
        try:
            newest = storage.snapshot().meta.index
        except SnapshotTemporarilyUnavailable:
            return first
        low = max(first, newest - trailing_entries + 1)
        size, keep = 0, newest + 1
        for entry in reversed(storage.entries(low, newest + 1, NO_LIMIT)) if low <= newest else ():
            size += entry_bytes(entry)
            if size > trailing_bytes:
                break
            keep = entry.index
        if keep > first:
            storage.compact(keep - 1)
        return storage.first_index()

    # -- the rest ------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise LogClosed(f"{self._directory}: the log is closed")
        self._wal.disk.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
