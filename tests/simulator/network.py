"""The simulated network: what is sent arrives later, twice, out of order, or never."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol

from consensus.messages import Message, MessageType
from tests.simulator.agenda import Agenda
from tests.simulator.plan import TICK, Fault, Plan

DUPLICATE_LATE: Final = 5.0  # how much longer a second copy may take, in times of the first's delay
REORDER_LATE: Final = 20.0

Sender = tuple[int, int]  # a node, and which of its lives


class Ends(Protocol):
    """What the network calls."""

    def deliver(self, message: Message) -> bool:
        """A message arrives. Returns False if nobody is there to take it."""

    def unreachable(self, sender: Sender, to: int) -> None:
        """A message was lost in a way that a sender might notice."""

    def snapshot_sent(self, sender: Sender, to: int, *, ok: bool) -> None:
        """The transfer of a snapshot has ended."""


class Network:
    """blocked: pairs (from, to) that cannot talk at this moment."""

    def __init__(self, plan: Plan, agenda: Agenda, counts: Counter[str], ends: Ends) -> None:
        self._agenda = agenda
        self._counts = counts
        self._ends = ends
        self._random = plan.random("network").random
        election = plan.election_ticks * TICK
        self._delay = 0.05 * TICK + plan.between(Fault.SLOW_LINKS, 0.05, 0.5) * election
        self._loss = plan.between(Fault.LOSS, 0.01, 0.3)
        self._duplicates = plan.between(Fault.DUPLICATES, 0.01, 0.3)
        self._reordering = plan.between(Fault.REORDERING, 0.01, 0.3)
        self._transfer = TICK + plan.between(Fault.SLOW_SNAPSHOTS, 0.5, 4.0) * election
        self._failed_transfer = plan.between(Fault.FAILED_SNAPSHOTS, 0.1, 0.7)
        self._arrival: dict[tuple[int, int], int] = {}
        self.blocked: frozenset[tuple[int, int]] = frozenset()

    def heal(self) -> None:
        """From now on everything arrives, soon and in order."""
        self.blocked = frozenset()
        self._loss = self._duplicates = self._reordering = self._failed_transfer = 0.0
        self._delay, self._transfer = 0.05 * TICK, TICK

    def carry(self, link: tuple[int, int], arrive: Callable[..., object], *args: object) -> bool:
        """Take what is no message of the core: it is lost, late or doubled as these are. Returns False if it is cut."""
        if link in self.blocked:
            self._counts["blocked messages"] += 1
            return False
        if self._loss and self._random() < self._loss:
            self._counts["lost messages"] += 1
            return True
        late = self._reordering and self._random() < self._reordering
        self._counts["late messages"] += bool(late)
        delay = self._delay * (0.5 + self._random()) * (1 + late * REORDER_LATE * self._random())
        self._agenda.after(delay, self._arrive_at, link, arrive, args)
        if self._duplicates and self._random() < self._duplicates:
            self._counts["doubled messages"] += 1
            self._agenda.after(delay * (1 + DUPLICATE_LATE * self._random()), self._arrive_at, link, arrive, args)
        return True

    def _arrive_at(self, link: tuple[int, int], arrive: Callable[..., object], args: tuple[object, ...]) -> None:
        if link not in self.blocked:
            arrive(*args)

    def send(self, sender: Sender, message: Message) -> None:
        """Take a message."""
        if message.type is MessageType.SNAPSHOT:
            broken = self._random() < self._failed_transfer
            self._agenda.after(self._transfer * (0.5 + self._random()), self._transferred, sender, message, broken)
            return
        link = (sender[0], message.to)
        if self.blocked and link in self.blocked:
            self._block(sender, message)
            return
        random = self._random
        if self._loss and random() < self._loss:
            self._counts["lost messages"] += 1
            return
        delay = self._delay * (0.5 + random())
        if self._reordering and random() < self._reordering:
            self._counts["late messages"] += 1
            at = self._agenda.now + int(delay * (1 + REORDER_LATE * random()))
        else:
            at = max(self._agenda.now + int(delay), self._arrival.get(link, 0))
            self._arrival[link] = at
        self._agenda.at(at, self._arrive, sender, message)
        if self._duplicates and random() < self._duplicates:
            self._counts["doubled messages"] += 1
            self._agenda.at(at + int(delay * DUPLICATE_LATE * random()), self._arrive, sender, message)

    def _block(self, sender: Sender, message: Message) -> None:
        self._counts["blocked messages"] += 1
        self._ends.unreachable(sender, message.to)

    def _arrive(self, sender: Sender, message: Message) -> None:
        if self.blocked and (sender[0], message.to) in self.blocked:
            self._block(sender, message)
        elif not self._ends.deliver(message):
            self._ends.unreachable(sender, message.to)

    def _transferred(self, sender: Sender, message: Message, broken: bool) -> None:
        ok = not broken and (sender[0], message.to) not in self.blocked and self._ends.deliver(message)
        self._counts["snapshots sent" if ok else "snapshots not sent"] += 1
        self._ends.snapshot_sent(sender, message.to, ok=ok)
