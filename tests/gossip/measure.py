"""What docs/gossip.md shows: each figure a function of size, profile and seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.gossip.simulation import Cluster
from transport.gossip import Change, Config, Rumor

RUMOR_WITHIN_MS: Final = 120_000


def percentile(values: Sequence[float], percent: float) -> float:
    """By nearest rank; NaN of nothing."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)] if ranked else math.nan


@dataclass(frozen=True)
class Detection:
    """How long after a member was killed the others declared it dead, in ms. first: one for each kill.

    missed: how many did not within a minute and a half.
    """

    all: list[int]
    first: list[int]
    missed: int


def detection(size: int, config: Config, seed: int, kills: int) -> Detection:
    """Kill one member of a quiet cluster, `kills` times in a row."""
    everybody: list[int] = []
    first: list[int] = []
    missed = 0
    for number in range(kills):
        cluster = Cluster(size, seed + number, config)
        cluster.run(2_000 + cluster.random.randrange(config.probe_ms))
        killed_ms = cluster.now
        victim = 1 + cluster.random.randrange(size)
        cluster.kill(victim)
        while len(cluster.times(Change.DEAD, victim)) < size - 1 and cluster.now - killed_ms < 90_000:
            cluster.run(200)
        times = cluster.times(Change.DEAD, victim, killed_ms)
        missed += size - 1 - len(times)
        everybody += times
        first += times[:1]
    return Detection(everybody, first, missed)


@dataclass(frozen=True)
class Quiet:
    """A time in which nobody was killed. suspected, dead: of the healthy, wrongly; slow_dead: of the slow.

    messages, bytes: a second and an agent, the header of the frame with it.
    """

    suspected: int
    dead: int
    slow_dead: int
    messages: float
    bytes: float


def quiet(size: int, config: Config, seed: int, seconds: int, *, loss: float = 0.0, slow: int = 0) -> Quiet:
    """Let a cluster be. slow: members that do nothing half of the time, for up to a second at a stretch."""
    cluster = Cluster(size, seed, config, loss=loss)
    lame = set(range(1, slow + 1))
    for member in lame:
        cluster.stutter(member, 1000)
    cluster.run(seconds * 1000)
    per = size * seconds
    return Quiet(
        cluster.wrongly(Change.SUSPECTED, cluster.running - lame),
        cluster.wrongly(Change.DEAD, cluster.running - lame),
        cluster.wrongly(Change.DEAD, lame),
        cluster.counts["messages"] / per,
        cluster.counts["bytes"] / per,
    )


@dataclass(frozen=True)
class Spread:
    """Of rumors, in ms. each: until a member heard it. all: until the last did, one for each rumor.

    late: of `asked` hearings, those that came after the time in which gossip alone tells. never: those that did not.
    """

    each: list[int]
    all: list[int]
    late: int
    asked: int
    never: int


def spread(size: int, config: Config, seed: int, count: int, *, loss: float = 0.0) -> Spread:
    """Broadcast `count` rumors from random members, one a second, and wait until all have heard all."""
    cluster = Cluster(size, seed, config, loss=loss)
    cluster.run(1000)
    begun: dict[bytes, int] = {}
    for number in range(count):
        key = b"run-%d" % number
        begun[key] = cluster.now
        cluster.broadcast(1 + cluster.random.randrange(size), Rumor(key, 1, 1, bytes(100)))
        cluster.run(900 + cluster.random.randrange(200))
    until = cluster.now + RUMOR_WITHIN_MS
    while any(len(cluster.heard[key]) < size for key in begun) and cluster.now < until:
        cluster.run(200)
    times = {key: sorted(at - begun[key] for at in cluster.heard[key].values())[1:] for key in begun}
    # Gossip alone: the last hear of it after some 2 * log2(n) rounds, and pass it on as often as everybody.
    rounds = 2 * math.ceil(math.log2(size)) + config.retransmits(size)
    gossiped_ms = rounds * config.gossip_ms
    return Spread(
        [one for each in times.values() for one in each],
        [each[-1] for each in times.values() if len(each) == size - 1],
        sum(one > gossiped_ms for each in times.values() for one in each),
        count * (size - 1),
        sum(size - 1 - len(each) for each in times.values()),
    )
