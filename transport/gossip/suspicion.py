"""The time a suspect has to speak up: long on one word, short where several agree (Lifeguard, 4.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from transport.gossip.config import Config


@dataclass(slots=True)
class Suspicion:
    """One suspicion. wanted: how many must agree with the first accuser for the shortest time; 0: nobody has to."""

    started_ms: int
    shortest_ms: int
    longest_ms: int
    wanted: int
    accusers: list[int] = field(default_factory=list)
    ends_ms: int = 0

    def confirm(self, accuser: int) -> bool:
        """Somebody accuses the member. Returns whether that is news, worth passing on: each counts once."""
        if accuser in self.accusers or len(self.accusers) > self.wanted:
            return False
        self.accusers.append(accuser)
        part = math.log(len(self.accusers)) / math.log(self.wanted + 1) if self.wanted else 1
        self.ends_ms = self.started_ms + math.ceil(self.longest_ms - (self.longest_ms - self.shortest_ms) * part)
        return True

    def postpone(self, by_ms: int) -> None:
        """A time passed in which nothing could be heard: it does not count."""
        self.started_ms += by_ms
        self.ends_ms += by_ms


def begin(config: Config, living: int, accuser: int, now_ms: int) -> Suspicion:
    """A new suspicion. living: members, this one and the suspect among them."""
    shortest_ms = math.ceil(config.suspicion_mult * max(1.0, math.log10(living)) * config.probe_ms)
    wanted = config.suspicion_mult - 2  # two probe intervals are left for the news to spread
    if living - 2 < wanted:  # there are not that many others
        wanted = 0
    suspicion = Suspicion(now_ms, shortest_ms, shortest_ms * config.suspicion_max_mult, wanted)
    suspicion.confirm(accuser)
    return suspicion
