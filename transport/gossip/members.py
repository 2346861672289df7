"""The table of the other members, and what is known of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from transport.gossip.config import Config
from transport.gossip.messages import COUNT_MAX, State, Update, size
from transport.gossip.retransmit import Retransmits
from transport.gossip.suspicion import Suspicion
from transport.gossip.sync import Version

Rng = Callable[[int], int]
"""rng(n) gives a number from 0 to n - 1, evenly."""

GONE: Final = frozenset({State.DEAD, State.LEFT})


@dataclass(slots=True)
class Record:
    """A row. since_ms: since when the member is in its state. suspicion: while it is SUSPECT."""

    update: Update
    since_ms: int
    suspicion: Suspicion | None = None

    @property
    def state(self) -> State:
        """What is believed of the member."""
        return self.update.state

    @property
    def gone(self) -> bool:
        """Whether it is dead or has left."""
        return self.update.state in GONE

    def told(self, now_ms: int) -> Update:
        """What is known, with the age of what is over: so that it is forgotten everywhere at about one time."""
        if not self.gone:
            return self.update
        return replace(self.update, age_ms=min(max(0, now_ms - self.since_ms), COUNT_MAX))


class Table:
    """The rows of all members but this one, at most `members_max` (P12). queue: what is passed on."""

    def __init__(self, config: Config, rng: Rng) -> None:
        """Nobody."""
        self._config = config
        self._rng = rng
        self._records: dict[int, Record] = {}
        self._ring: list[int] = []  # all ids in an order of chance: the order of the probes
        self._at = 0
        self.living = 0
        self.queue: Retransmits[int, Update] = Retransmits()

    def __iter__(self) -> Iterator[Record]:
        """Every row, in the order in which they came."""
        return iter(self._records.values())

    def get(self, member: int) -> Record | None:
        """Its row."""
        return self._records.get(member)

    def versions(self) -> dict[int, Version]:
        """Of all, for anti-entropy."""
        return {one: (row.update.incarnation, row.update.state) for one, row in self._records.items()}

    def add(self, record: Record) -> bool:
        """Add a row, in the place of the one that is gone longest where the table is full. Returns False if it is."""
        if len(self._records) >= self._config.members_max:
            gone = [one for one in self if one.gone]
            if not gone:
                return False
            self._forget(min(gone, key=lambda one: one.since_ms).update.id)
        self._records[record.update.id] = record
        self._ring.insert(self._rng(len(self._ring) + 1), record.update.id)
        self.living += not record.gone
        return True

    def set(self, record: Record, update: Update, now_ms: int) -> None:
        """Believe something else of a member."""
        self.living += record.gone - (update.state in GONE)
        if update.state is not record.state:
            record.since_ms = now_ms - update.age_ms
        record.update = update

    def announce(self, update: Update) -> None:
        """Pass a fact on."""
        self.queue.put(update.id, update, size(update))

    def expire(self, now_ms: int) -> None:
        """Forget who is gone for long enough."""
        for record in [one for one in self if one.gone and now_ms - one.since_ms >= self._config.gone_ms]:
            self._forget(record.update.id)

    def _forget(self, member: int) -> None:
        del self._records[member]
        self._ring.remove(member)
        self.queue.drop(member)

    def next(self) -> Record | None:
        """The next that lives: everybody once, in an order that is drawn anew for each round (SWIM, 4.3)."""
        for _ in range(len(self._ring)):
            if self._at >= len(self._ring):
                self._at = 0
                for place in range(len(self._ring) - 1, 0, -1):
                    other = self._rng(place + 1)
                    self._ring[place], self._ring[other] = self._ring[other], self._ring[place]
            record = self._records[self._ring[self._at]]
            self._at += 1
            if not record.gone:
                return record
        return None

    def sample(self, count: int, wanted: Callable[[Record], bool]) -> list[int]:
        """Up to `count` members that are wanted, at random. Chance may pass some by in a table where few are."""
        found: list[int] = []
        for _ in range(3 * len(self._ring)):
            if len(found) == count:
                break
            member = self._ring[self._rng(len(self._ring))]
            if member not in found and wanted(self._records[member]):
                found.append(member)
        return found
