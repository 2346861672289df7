"""What a run will do, from its seed: the simulator's plan for core, network and disks, and what is above them.

Times are milliseconds; a tick of the core is a tenth of a second. Faults come at the pace of leases, not of elections:
some last longer than a lease and its margin, most do not.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from agent.runtable.model import LeaseTerms
from tests.simulator.plan import SCHEDULED, Event, Fault, Limits, Plan

ELECTION_TICKS: Final = 6  # as `agent.driver` has it
RHO: Final = 0.01
TERMS: Final = (
    LeaseTerms(ttl_ms=4000, stop_ms=1000, kill_ms=1000, rho_permille=10),
    LeaseTerms(ttl_ms=2500, stop_ms=1500, kill_ms=800, rho_permille=10),
    LeaseTerms(ttl_ms=10_000, stop_ms=3000, kill_ms=2000, rho_permille=10),
)


class Trouble(StrEnum):
    """What may go wrong above the core."""

    LONG_PAUSE = "long_pause"  # an agent stands still for longer than its lease
    LONG_CUT = "long_cut"  # an agent is cut off, one way or both, for longer than its lease
    LONG_DEATH = "long_death"  # an agent is away for longer than it takes to be lost
    SHORT_DEATH = "short_death"  # and comes back within its lease
    LEADER_CUT = "leader_cut"  # the leader is cut off from all, its own worker with it
    REBOOT = "reboot"  # a host: its work ends, its clock begins again
    WATCHDOG_DEATH = "watchdog_death"
    ENGINE_HANGS = "engine_hangs"  # what it is asked for is done late
    NEW_TERMS = "new_terms"  # of the leases


RATES: Final = {  # in an hour, at most
    Trouble.LONG_PAUSE: 200.0,
    Trouble.LONG_CUT: 200.0,
    Trouble.LONG_DEATH: 120.0,
    Trouble.SHORT_DEATH: 240.0,
    Trouble.LEADER_CUT: 150.0,
    Trouble.REBOOT: 80.0,
    Trouble.WATCHDOG_DEATH: 120.0,
    Trouble.ENGINE_HANGS: 200.0,
    Trouble.NEW_TERMS: 30.0,
}
TENSE: Final = (Trouble.LONG_CUT, Trouble.LONG_CUT, Trouble.LONG_PAUSE, Trouble.SHORT_DEATH)
CORE_RATES: Final = dict.fromkeys(SCHEDULED, 40.0)
CORE: Final = (  # of the simulator's faults those that leave the members alone, and that real drivers can meet
    Fault.LOSS,
    Fault.DUPLICATES,
    Fault.REORDERING,
    Fault.PARTITIONS,
    Fault.ONE_WAY,
    Fault.RING,
    Fault.ISOLATED_LEADER,
    Fault.CRASHES,
    Fault.POWER_LOSS,
    Fault.TORN,
    Fault.SLOW_DISK,
    Fault.STALLS,
    Fault.FAILED_SYNC,
    Fault.PAUSES,
    Fault.SLOW_LOOP,
    Fault.SLOW_APPLY,
    Fault.COMPACTION,
    Fault.SLOW_SNAPSHOTS,
    Fault.FAILED_SNAPSHOTS,
    Fault.TRANSFERS,
    Fault.CAMPAIGNS,
    Fault.REPORTS,
)


@dataclass(frozen=True, slots=True)
class Strike:
    """One trouble at one moment."""

    at: int
    trouble: Trouble
    salt: int


@dataclass(frozen=True, slots=True)
class Chaos:
    """A run. core: the simulator's part. terms: of the leases. drift: how far clocks are off, as a share.

    skew_ms: between wall clocks. gossip: whether words go by gossip too. heard: whether the leader gives nothing to who
    is silent. pause_ms: between a client's requests. pipelines: which share of these is for a pipeline.
    """

    seed: int
    core: Plan
    terms: LeaseTerms
    drift: float
    skew_ms: int
    gossip: bool
    pause_ms: int
    patience_ms: int
    strikes: tuple[Strike, ...] = field(default=())
    pipelines: float = 0.0

    def random(self, name: str) -> random.Random:
        """A source of its own for each purpose."""
        return random.Random(f"chaos/{self.seed}/{name}")


def make(seed: int, length_s: float = 600.0) -> Chaos:
    """The plan of a seed."""
    rng = random.Random(f"chaos/{seed}/plan")
    length = int(length_s * 1000)
    share = rng.choice([0.15, 0.3, 0.5])
    return Chaos(
        seed=seed,
        core=_core(seed, rng, share, length),
        terms=rng.choice(TERMS),
        drift=rng.choice([RHO, RHO, RHO / 2]),
        skew_ms=rng.choice([0, 500, 5000]),
        gossip=rng.random() < 0.3,
        pause_ms=rng.choice([1000, 4000, 15_000]),
        patience_ms=rng.choice([1500, 6000]),
        strikes=tuple(_strikes(seed, rng, share, length)),
    )


def tense(seed: int, length_s: float = 120.0) -> Chaos:
    """Nothing but what leads to losses, often: for bugs that are there on purpose."""
    plan, length = make(seed, length_s), int(length_s * 1000)
    rng = plan.random("tense")
    strikes = [Strike(at, one, rng.getrandbits(32)) for one in TENSE for at in _times(rng, 500.0, length)]
    core = replace(plan.core, nodes=3, clients=4, faults=frozenset(), events=())
    strikes.sort(key=lambda one: one.at)
    return replace(plan, core=core, terms=TERMS[0], drift=RHO, gossip=False, pause_ms=1000, strikes=tuple(strikes))


def _core(seed: int, rng: random.Random, share: float, length: int) -> Plan:
    faults = frozenset(one for one in CORE if rng.random() < share)
    events = [
        Event(at, fault, rng.getrandbits(32))
        for fault in CORE
        if fault in faults and fault in SCHEDULED
        for at in _times(rng, CORE_RATES[fault], length)
    ]
    return Plan(
        seed=seed,
        nodes=rng.choice([2, 3, 3, 3, 3, 4, 5]),
        length=length,
        election_ticks=ELECTION_TICKS,
        heartbeat_ticks=1,
        clients=rng.choice([1, 2, 4]),
        keys=1,
        think=0,
        limits=Limits(),
        faults=faults,
        strength={fault: 0.5 * rng.random() for fault in Fault},
        events=tuple(sorted(events, key=lambda one: one.at)),
    )


def _strikes(seed: int, rng: random.Random, share: float, length: int) -> list[Strike]:
    strikes = [
        Strike(at, trouble, rng.getrandbits(32))
        for trouble in Trouble
        if rng.random() < 2 * share
        for at in _times(rng, RATES[trouble], length)
    ]
    return sorted(strikes, key=lambda one: one.at)


def _times(rng: random.Random, an_hour: float, length: int) -> list[int]:
    rate = an_hour * (0.2 + 0.8 * rng.random()) / 3_600_000
    at, times = rng.expovariate(rate), []
    while at < length:
        times.append(int(at))
        at += rng.expovariate(rate)
    return times
