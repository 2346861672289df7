"""A cluster of real gossip members on a simulated network and clock, from one seed. Times in ms.

Members tick every 50 ms, each at its own phase. What is sent arrives after 1 to 5 ms, or is lost. A paused member does
nothing; what comes meanwhile waits for it, as it would in a socket.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Final

from tests.simulator.agenda import Agenda
from transport.frames import HEADER_BYTES
from transport.gossip import FAST, Change, Config, Gossip, MemberEvent, Metadata, Output, Rumor, State

TICK_MS: Final = 50
INBOX: Final = 1000  # frames that wait for a paused member; the transport's high-water mark


@dataclass(frozen=True)
class Seen:
    """An event, when it came and to whom."""

    at_ms: int
    by: int
    event: MemberEvent


@dataclass
class Member:
    """One agent. paused_until: it does nothing before."""

    gossip: Gossip
    paused_until: int = 0
    inbox: deque[tuple[int, bytes]] = field(default_factory=deque)


class Cluster:
    """loss: of messages, from 0 to 1. blocked: pairs (from, to) that cannot talk."""

    def __init__(self, size: int, seed: int, config: Config = FAST, *, loss: float = 0.0, warm: bool = True) -> None:
        """Members 1 to `size`. warm: all know each other already."""
        self.random = random.Random(seed)
        self.config = config
        self.loss = loss
        self.agenda = Agenda()
        self.members: dict[int, Member] = {}
        self.killed: set[int] = set()
        self.blocked: set[tuple[int, int]] = set()
        self.seen: list[Seen] = []
        self.heard: dict[bytes, dict[int, int]] = {}  # key -> member -> when
        self.counts: Counter[str] = Counter()
        for member in range(1, size + 1):
            self.start(member)
        if warm:
            self._introduce()

    @property
    def now(self) -> int:
        """The time."""
        return self.agenda.now

    def start(self, member: int, incarnation: int = 0) -> Gossip:
        """A member's process begins; also again, after it was killed."""
        metadata = Metadata(f"10.0.0.{member}:7400", f"10.0.0.{member}:7401", "0.1.0", {"zone": f"z{member % 3}"})
        gossip = Gossip(member, metadata, self.random.randrange, self.now, config=self.config, incarnation=incarnation)
        self.members[member] = one = Member(gossip)
        self.killed.discard(member)
        self.agenda.after(1 + self.random.randrange(TICK_MS), self._tick, member, one)
        return gossip

    def _introduce(self) -> None:
        everybody = [one.gossip.me for one in self.members.values()]
        for member in self.members.values():
            for update in everybody:
                member.gossip._swim.hear(update, 0, synced=True)
            member.gossip._swim.events.clear()
            member.gossip._swim.table.queue.drop(member.gossip.me.id)

    # -- faults ------------------------------------------------------------------------------------------------------

    def kill(self, member: int) -> None:
        """It is gone, without a word."""
        self.killed.add(member)

    def pause(self, member: int, for_ms: int) -> None:
        """It does nothing for a while."""
        one = self.members[member]
        one.paused_until = self.now + for_ms
        self.agenda.after(for_ms, self._resume, member, one)

    def stutter(self, member: int, longest_ms: int) -> None:
        """From now on it does nothing half of the time, for up to `longest_ms` at a stretch."""
        self.pause(member, 1 + self.random.randrange(longest_ms))
        pause_ms = self.members[member].paused_until - self.now
        self.agenda.after(pause_ms + 1 + self.random.randrange(longest_ms), self.stutter, member, longest_ms)

    def cut(self, some: set[int], others: set[int], *, one_way: bool = False) -> None:
        """`some` are not heard by `others` any more, and not the other way, but for `one_way`."""
        self.blocked |= {(a, b) for a in some for b in others}
        if not one_way:
            self.blocked |= {(b, a) for a in some for b in others}

    def heal(self) -> None:
        """All cuts end, and nothing is lost any more."""
        self.blocked.clear()
        self.loss = 0.0

    # -- what happens ------------------------------------------------------------------------------------------------

    def run(self, for_ms: int) -> None:
        """Let time pass."""
        self.agenda.run(self.now + for_ms)

    def broadcast(self, member: int, rumor: Rumor) -> None:
        """A member tells something."""
        assert self.members[member].gossip.broadcast(rumor, self.now)
        self.heard.setdefault(rumor.key, {})[member] = self.now

    def _tick(self, member: int, one: Member) -> None:
        if self.members[member] is not one or member in self.killed:
            return
        if one.paused_until <= self.now:
            self._take(member, one.gossip.tick(self.now))
        self.agenda.after(TICK_MS, self._tick, member, one)

    def _resume(self, member: int, one: Member) -> None:
        while one.inbox and member not in self.killed and one.paused_until <= self.now:
            sender, payload = one.inbox.popleft()
            self._take(member, one.gossip.step(payload, sender, self.now))

    def _take(self, member: int, output: Output) -> None:
        for to, payload in output.messages:
            self.counts["messages"] += 1
            self.counts["bytes"] += HEADER_BYTES + len(payload)
            self.counts["longest"] = max(self.counts["longest"], len(payload))
            lost = (self.loss and self.random.random() < self.loss) or (member, to) in self.blocked
            if not lost and to in self.members:
                self.agenda.after(1 + self.random.randrange(5), self._arrive, member, to, payload)
        for event in output.events:
            self.seen.append(Seen(self.now, member, event))
        for rumor in output.rumors:
            self.heard.setdefault(rumor.key, {})[member] = self.now

    def _arrive(self, sender: int, to: int, payload: bytes) -> None:
        one = self.members[to]
        if to in self.killed:
            return
        if one.paused_until > self.now:
            if len(one.inbox) < INBOX:
                one.inbox.append((sender, payload))
            return
        self._take(to, one.gossip.step(payload, sender, self.now))

    # -- what is looked at -------------------------------------------------------------------------------------------

    @property
    def running(self) -> set[int]:
        """Who was not killed."""
        return self.members.keys() - self.killed

    def agrees(self) -> bool:
        """Whether all that run believe of each other that they live, and of the others that they do not."""
        return all(
            {other.id for other in self.members[one].gossip.members if other.state is State.ALIVE}
            == self.running - {one}
            for one in self.running
        )

    def settle(self, within_ms: int) -> int | None:
        """Run until all agree. Returns how long it took; None: longer than that."""
        begin = self.now
        while not self.agrees():
            if self.now - begin >= within_ms:
                return None
            self.run(TICK_MS)
        return self.now - begin

    def times(self, change: Change, about: int, since_ms: int = 0) -> list[int]:
        """How long after `since_ms` each saw this happen to a member, for the first time."""
        first: dict[int, int] = {}
        for one in self.seen:
            if one.event.change is change and one.event.member.id == about and one.at_ms >= since_ms:
                first.setdefault(one.by, one.at_ms - since_ms)
        return sorted(first.values())

    def wrongly(self, change: Change, members: set[int]) -> int:
        """How often some of these, which run, were suspected or declared dead: once an incarnation, whoever saw it."""
        return len(
            {
                (one.event.member.id, one.event.member.incarnation)
                for one in self.seen
                if one.event.change is change and one.event.member.id in members & self.running
            }
        )
