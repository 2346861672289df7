"""A durable log and what its user may expect of it, kept in step: for tests that cut the power in the middle.

`Expected` is what a node has been told is durable. While a call runs, `Run.allowed` holds every state that a crash
inside of it may leave; when it has returned, only the one that was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from crc32c import crc32c

from consensus.durable import DurableLog
from consensus.errors import LogFull
from consensus.messages import ConfState, Entry, EntryKind, HardState, SnapshotMeta
from consensus.wal_identity import Identity
from consensus.wal_snapshot import SnapshotHead
from tests.consensus.faulty_disk import FaultyDisk, ticking
from tests.consensus.storing import stored

DIRECTORY = Path("/node/log")
IDENTITY = Identity("c1", 3, 7)
SEGMENT_BYTES = 1024
SYNC_BYTES = 1000
CONF = ConfState(voters=(1, 2, 3))
NOBODY = SnapshotMeta()
T = TypeVar("T")


def entry(term: int, index: int, size: int = 0) -> Entry:
    """An entry whose data says which it is."""
    data = f"{term}/{index} ".encode() * 3
    return Entry(term, index, EntryKind.NORMAL, data.ljust(size, b"."))


def entries(term: int, first: int, last: int) -> tuple[Entry, ...]:
    """Entries first to last of one term."""
    return tuple(entry(term, index, index * 37 % 200) for index in range(first, last + 1))


def state(index: int, size: int = 700) -> bytes:
    """The state machine's state after entry `index`."""
    return (f"state after {index} ".encode() * (size // 10))[:size]


def head_of_state(index: int, term: int, data: bytes) -> SnapshotHead:
    """What a leader announces."""
    return SnapshotHead(SnapshotMeta(index, term, CONF), len(data), crc32c(data))


@dataclass(frozen=True)
class Expected:
    """What is durable. log: behind the snapshot. commit: the least and the most that may be known to be committed."""

    term: int = 0
    vote: int = 0
    meta: SnapshotMeta = NOBODY
    log: tuple[Entry, ...] = ()
    commit: tuple[int, int] = (0, 0)

    @property
    def last(self) -> int:
        return self.meta.index + len(self.log)

    def voted(self, hard: HardState | None) -> Expected:
        return self if hard is None else replace(self, term=hard.term, vote=hard.vote)

    def appended(self, new: Sequence[Entry], commit: int) -> Expected:
        if not new:
            return self
        log = self.log[: new[0].index - self.meta.index - 1] + tuple(new)
        least = max(self.commit[0], min(commit, self.meta.index + len(log)))
        return replace(self, log=log, commit=(least, self.commit[1]))

    def snapshot(self, meta: SnapshotMeta) -> Expected:
        kept = self.log[meta.index - self.meta.index :]
        return replace(self, meta=meta, log=kept, commit=(max(self.commit[0], meta.index), self.commit[1]))

    def installed(self, meta: SnapshotMeta) -> Expected:
        commit = (max(self.commit[0], meta.index), max(self.commit[1], meta.index))
        return replace(self, meta=meta, log=(), commit=commit)

    def describes(self, log: DurableLog) -> bool:
        """Whether `log`, just opened, is in this state."""
        hard, conf = log.storage.initial_state()
        low, high = self.commit
        return (
            (hard.term, hard.vote) == (self.term, self.vote)
            and conf == self.meta.conf_state
            and log.snapshot_meta() == self.meta
            and log.storage.first_index() == self.meta.index + 1
            and contents(log) == self.log
            and low <= hard.commit <= min(max(high, self.meta.index), self.last)
        )


def contents(log: DurableLog) -> tuple[Entry, ...]:
    """All entries in memory."""
    return stored(log.storage)


@dataclass
class Run:
    """A log in use. full: how often the disk was found full; each such call is made a second time."""

    disk: FaultyDisk
    expected: Expected = field(default_factory=Expected)
    allowed: list[Expected] = field(default_factory=lambda: [Expected()])
    clock: Callable[[], float] = field(default_factory=ticking)
    full: int = 0
    commit: int = 0  # as the core has it
    segment_bytes: int = SEGMENT_BYTES

    def open(self) -> None:
        """Open it, and see that it is in a state that is allowed; that is now the one to keep."""
        self.log = self._twice(self._open)
        found = [one for one in self.allowed if one.describes(self.log)]
        assert found, (self.log.storage.hard_state, self.log.head, contents(self.log), self.allowed)
        self._settle(found[-1])
        self.commit = self.log.storage.hard_state.commit
        if self.log.snapshot_meta().index:
            data = b"".join(self.log.read_snapshot())
            assert data == state(self.log.snapshot_meta().index, len(data))

    def _open(self) -> DurableLog:
        return DurableLog.open(
            DIRECTORY,
            IDENTITY,
            segment_bytes=self.segment_bytes,
            incoming_sync_bytes=SYNC_BYTES,
            io=self.disk,
            clock=self.clock,
        )

    def reopen(self) -> None:
        """Close it and open it."""
        self.log.close()
        self.open()

    def save(self, hard: HardState | None, new: Sequence[Entry], commit: int) -> None:
        """Save, as a driver does: the log's thread, then the loop."""
        start = replace(self.expected, commit=(self.expected.commit[0], max(self.expected.commit[1], commit)))
        voted = start.voted(hard)
        self.allowed = [start] + [voted.appended(new[:count], commit) for count in range(len(new) + 1)]
        self._twice(lambda: self.log.save(hard, new, commit))
        if hard is not None:
            self.log.storage.hard_state = hard
        self.log.storage.append(new)
        self._settle(self.allowed[-1])

    def create(self, index: int, term: int) -> None:
        """Take a snapshot of the node's own state."""
        meta = SnapshotMeta(index, term, CONF)
        after = self.expected.snapshot(meta)
        self.allowed = [self.expected, after]
        data = state(index)
        head = self._twice(lambda: self.log.create_snapshot(meta, [data[:100], data[100:]]))
        self.log.storage.create_snapshot(index, CONF, head.snapshot.data)
        self._settle(after)

    def install(self, meta: SnapshotMeta, hard: HardState | None, chunks: list[bytes] | None = None) -> None:
        """Take a leader's snapshot."""
        voted = self.expected.voted(hard)
        after = voted.installed(meta)
        self.allowed = [self.expected, voted, after]
        head = self._twice(lambda: self.log.install_snapshot(meta, hard, chunks))
        self.log.storage.install_snapshot(head.snapshot)
        self.commit = max(self.commit, meta.index)
        self._settle(after)

    def receive(self, head: SnapshotHead, data: bytes, size: int, most: int | None = None) -> int:
        """Take pieces of `size` bytes until `most` bytes are here. Returns how many there are."""
        have = self._twice(lambda: self.log.receive(head, 0, b""))
        while have < min(head.size, head.size if most is None else most):
            have = self._twice(lambda at=have: self.log.receive(head, at, data[at : at + size]))  # type: ignore[misc]
        return have

    def compact(self) -> None:
        """Drop what is behind the snapshots; nothing of it is to be seen."""
        self._twice(self.log.compact)
        self.log.trim(trailing_bytes=200)

    def call(self, name: str) -> None:
        """Any other call that changes nothing one could see."""
        self._twice(getattr(self.log, name))

    def _settle(self, expected: Expected) -> None:
        self.expected, self.allowed = expected, [expected]

    def _twice(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except LogFull:
            self.full += 1
            return call()


def work(run: Run) -> None:
    """Appends, truncations, votes, own snapshots with compaction, a leader's in pieces over a restart."""
    run.open()
    run.install(SnapshotMeta(1, 1, CONF), HardState(1, 0, 1), [state(1)])
    run.save(HardState(2, 1, 1), entries(2, 2, 4), 1)
    run.save(None, entries(2, 5, 8), 4)
    run.call("mark")
    run.save(HardState(3, 2, 5), entries(3, 6, 7), 5)
    run.create(5, 2)
    run.compact()
    run.call("prepare")
    for first in range(8, 20, 4):
        run.save(None, entries(3, first, first + 3), first - 1)
    run.create(15, 3)
    run.compact()
    theirs = state(40, 4000)
    head = head_of_state(40, 4, theirs)
    run.receive(head, theirs, 400, most=2200)
    run.save(HardState(4, 0, 18), (), 18)
    run.reopen()
    assert run.receive(head, theirs, 900) == head.size
    run.install(head.meta, None)
    run.save(None, entries(4, 41, 45), 41)
    run.save(HardState(5, 3, 42), (), 42)
    run.save(HardState(6, 0, 42), entries(6, 44, 46), 43)
    run.create(43, 4)
    run.compact()
    run.save(None, entries(6, 47, 47), 46)
    run.log.close()


def six_entries() -> Run:
    """An open log with entries 1 to 6 of term 2; 4 are committed."""
    run = Run(FaultyDisk(3))
    run.open()
    run.save(HardState(2, 1, 0), entries(2, 1, 6), 0)
    run.save(None, (), 4)
    return run


def finished_work() -> Run:
    """A closed log that has seen everything."""
    run = Run(FaultyDisk(7))
    work(run)
    run.disk.lose_power(1.0)
    return run


def writes_nothing(run: Run, call: Callable[[], object]) -> None:
    """Make the call; it must leave the disk alone."""
    before = run.disk.steps
    call()
    assert run.disk.steps == before
