"""From the records of a log to the Raft log they tell, pure; and where in the log each entry lies."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

from consensus.errors import Compacted, Unavailable
from consensus.messages import Entry
from consensus.wal_entries import Commit, Marker, Noting, Record, decode_record
from consensus.wal_format import NewerVersion, NotOurs


class Place(NamedTuple):
    """From entry `entry` on, entries of `term` lie in records `seq` and following, one each."""

    entry: int
    seq: int
    term: int


class Places:
    """Which record holds which entry. Written by one thread; `find` may be called from another meanwhile."""

    def __init__(self, base: Place) -> None:
        """base: of the entry before the log's first; it is never replaced."""
        self._places = [base]
        self.last = base.entry

    def find(self, index: int) -> Place:
        """Where one entry lies, and its term. Raises Compacted, Unavailable."""
        places, last = self._places, self.last
        if index > last:
            raise Unavailable(f"entry {index} is past the log's end at {last}")
        at = bisect_right(places, index, key=itemgetter(0)) - 1
        if at < 0:
            raise Compacted(f"entry {index} was dropped")
        return Place(index, places[at].seq + index - places[at].entry, places[at].term)

    def add(self, index: int, seq: int, term: int) -> None:
        """Note one entry; it and what is behind it are replaced. index: not more than one past the last."""
        if index <= self.last:
            self._places = [place for place in self._places if place.entry < index]  # a reader keeps the old ones
        newest = self._places[-1]
        if term != newest.term or newest.seq - newest.entry != seq - index:
            self._places.append(Place(index, seq, term))
        self.last = index

    def extend(self, entries: Sequence[Entry], seq: int) -> None:
        """Note consecutive entries written to the records from `seq` on. Terms do not fall."""
        first, last = entries[0], entries[-1]
        self.add(first.index, seq, first.term)
        if last.term != first.term:
            for offset, entry in enumerate(entries):
                self.add(entry.index, seq + offset, entry.term)
        self.last = last.index

    def compact(self, index: int) -> None:
        """Forget what is not needed to find entries from `index` on."""
        at = max(bisect_right(self._places, index, key=itemgetter(0)) - 1, 0)
        self._places = self._places[at:]


class ReplayError(Exception):
    """The records contradict each other.

    seq: of the record that shows it. snapshot: it is the snapshot of that record that is bad. too_new: a later version
    wrote it.
    """

    def __init__(self, seq: int, problem: str, *, snapshot: bool = False, too_new: bool = False) -> None:
        super().__init__(problem)
        self.seq, self.problem, self.snapshot, self.too_new = seq, problem, snapshot, too_new


@dataclass(frozen=True, slots=True)
class Replayed:
    """The log behind a snapshot. commit: what is known to have been committed."""

    entries: list[Entry]
    places: Places
    commit: int


def replay(records: Iterable[tuple[int, bytes]], snapshot: Place, damaged: Collection[int]) -> Replayed:
    """Read the records behind the newest snapshot, in order.

    snapshot: of which entry it is, by which record; zeros = there is none. damaged: records whose snapshots are
    damaged. Raises ReplayError.
    """
    reading = _Reading(snapshot, damaged)
    for seq, data in records:
        try:
            record = decode_record(data)
        except NotOurs as error:
            raise ReplayError(seq, str(error)) from error
        except NewerVersion as error:
            raise ReplayError(seq, str(error), too_new=True) from error
        reading.read(seq, record)
    # The commit index stands in front of entries that it may speak of, and that a torn end has taken.
    return Replayed(reading.entries, reading.places, min(reading.commit, reading.places.last))


class _Reading:
    """The state of a replay."""

    def __init__(self, snapshot: Place, damaged: Collection[int]) -> None:
        self._snapshot, self._damaged = snapshot, damaged
        self._term = snapshot.term  # of the last entry
        self._next_seq = snapshot.seq + 1
        self.entries: list[Entry] = []
        self.places = Places(snapshot)
        self.commit = snapshot.entry

    def read(self, seq: int, record: Record) -> None:
        """The next record."""
        if isinstance(record, Entry):
            self._read_entry(seq, record)
        elif isinstance(record, Noting):
            self._read_entry(seq, record.entry)
            self.commit = max(self.commit, record.commit)
        elif isinstance(record, Commit):
            self.commit = max(self.commit, record.index)
        elif isinstance(record, Marker):
            if seq in self._damaged:
                raise ReplayError(seq, "the snapshot that took the place of the log is damaged", snapshot=True)
        elif record.marker > self._snapshot.seq:
            raise ReplayError(record.marker, "the snapshot that took the place of the log is missing", snapshot=True)

    def _read_entry(self, seq: int, entry: Entry) -> None:
        index, term, places = entry.index, entry.term, self.places
        if index == places.last + 1 and seq == self._next_seq and term == self._term:
            places.last = index  # nearly always
        else:
            if index != places.last + 1:
                self._truncate(seq, index)
            if term < self._term:
                raise ReplayError(seq, f"entry {index} is of term {term}, after one of term {self._term}")
            places.add(index, seq, term)
            self._term = term
        self._next_seq = seq + 1
        self.entries.append(entry)

    def _truncate(self, seq: int, index: int) -> None:
        """Make room for an entry that replaces others."""
        last = self.places.last
        if index > last:
            raise ReplayError(seq, f"entry {index} follows entry {last}: those between are missing")
        if index <= self.commit:
            raise ReplayError(seq, f"entry {index} would replace one that was committed, up to {self.commit}")
        del self.entries[index - last - 1 :]
        self._term = self.entries[-1].term if self.entries else self._snapshot.term
