"""Which faults, when: all of it follows from a seed. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tests.e2e.chaos.lan import Link

CALM_S: Final = 3.0  # at the beginning: there is something to break
GAP_S: Final = (0.5, 5.0)  # from one fault to the next; they may overlap
LASTS_S: Final = (0.3, 14.0)  # below and above a lease, and what follows from its end
SKEWS_S: Final = (-7200, -45, -20, -3, 3, 20, 45, 7200)


class Fault(StrEnum):
    """What can happen."""

    KILL = "kill"  # SIGKILL to the agent; its watchdog and its work go on
    POWER = "power"  # SIGKILL to everything on its host
    PAUSE = "pause"  # SIGSTOP, SIGCONT
    ENGINE = "engine"  # the same to what its work is started by
    ISOLATE = "isolate"  # nobody hears it, it hears nobody; its clients do
    DEAF = "deaf"  # it is heard, and hears nobody
    MUTE = "mute"  # it hears, and nobody hears it
    HALVES = "halves"  # two groups that do not hear each other
    RING = "ring"  # each hears a majority, no two of them the same one
    DISK = "disk"  # full, to the last page
    CLOCK = "clock"  # the wall clock jumps, and jumps back
    DATABASE = "database"  # the mirror's server is killed, and stays away


@dataclass(frozen=True, slots=True)
class Step:
    """One fault. at_s: from the beginning. agent: whose; -1 = of all. links: what is cut. off_s: of its clock."""

    fault: Fault
    at_s: float
    lasts_s: float
    agent: int = -1
    links: frozenset[Link] = frozenset()
    off_s: int = 0

    def __str__(self) -> str:
        who = "" if self.agent < 0 else f" a{self.agent}"
        cut = "".join(f" {sender}>{receiver}" for sender, receiver in sorted(self.links))
        off = f" {self.off_s:+d} s" if self.off_s else ""
        return f"{self.at_s:7.1f} s  {self.fault}{who}{off}{cut}, for {self.lasts_s:.1f} s"


def make(seed: int, seconds: float, agents: int, kinds: Iterable[Fault]) -> list[Step]:
    """The faults of so many seconds. All of them have begun before these are over, and are undone then at the latest.

    Every kind comes once before one comes a second time, and so on: a short run is not left to chance.
    """
    chance = random.Random(seed)
    steps: list[Step] = []
    at_s = CALM_S
    for fault in _shuffled(chance, sorted(kinds)):
        at_s += chance.uniform(*GAP_S)
        if at_s >= seconds:
            return steps
        lasts_s = min(chance.uniform(*LASTS_S), seconds - at_s)
        steps.append(_step(chance, fault, at_s, lasts_s, agents))
    raise AssertionError("there is no end of faults")


def _shuffled(chance: random.Random, kinds: list[Fault]) -> Iterator[Fault]:
    while kinds:
        yield from chance.sample(kinds, len(kinds))


def _step(chance: random.Random, fault: Fault, at_s: float, lasts_s: float, agents: int) -> Step:
    one = chance.randrange(agents)
    if fault is Fault.DATABASE:
        return Step(fault, at_s, lasts_s)
    if fault is Fault.CLOCK:
        return Step(fault, at_s, lasts_s, one, off_s=chance.choice(SKEWS_S))
    if fault in (Fault.HALVES, Fault.RING):
        order = chance.sample(range(agents), agents)
        return Step(fault, at_s, lasts_s, links=halves(order) if fault is Fault.HALVES else ring(order))
    others = [other for other in range(agents) if other != one]
    away = {(one, other) for other in others} if fault in (Fault.ISOLATE, Fault.MUTE) else set()
    towards = {(other, one) for other in others} if fault in (Fault.ISOLATE, Fault.DEAF) else set()
    return Step(fault, at_s, lasts_s, one, links=frozenset(away | towards))


def halves(order: list[int]) -> frozenset[Link]:
    """The first of them, a minority, apart from the others."""
    few, many = order[: len(order) // 2], order[len(order) // 2 :]
    return _both_ways((one, other) for one in few for other in many)


def ring(order: list[int]) -> frozenset[Link]:
    """Each hears itself and its neighbours, as far as a majority needs. Of three, two do not hear each other."""
    count = len(order)
    reach = 1 if count > 3 else 0
    kept = {(order[at], order[(at + step) % count]) for at in range(count) for step in range(1, reach + 1)}
    if count == 3:
        kept = {(order[0], order[1]), (order[1], order[2])}
    links = {(one, other) for one in order for other in order if one < other}
    return _both_ways(link for link in links if link not in kept and link[::-1] not in kept)


def _both_ways(links: Iterable[Link]) -> frozenset[Link]:
    return frozenset(way for link in links for way in (link, link[::-1]))
