"""What a run will do, decided from its seed before it begins: sizes, which faults, how hard, and when.

Each seed takes a random subset of the faults (swarm testing, Groce et al. 2012): faults hide one another, and a run
with few of them gets further. Every fault draws from a source of its own, so that a run without one of them keeps the
others where they were. That is what shrinking needs.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

TICK: Final = 100  # units of simulated time in one tick of a clock without drift


class Fault(StrEnum):
    """What may go wrong, or happen at a bad moment."""

    LOSS = "loss"
    DUPLICATES = "duplicates"
    REORDERING = "reordering"
    SLOW_LINKS = "slow_links"  # delays near an election time-out
    PARTITIONS = "partitions"  # two halves; some nodes on both sides
    ONE_WAY = "one_way"  # what some nodes say is not heard
    RING = "ring"  # everyone hears a majority, and no two the same
    ISOLATED_LEADER = "isolated_leader"
    CRASHES = "crashes"
    POWER_LOSS = "power_loss"  # every node at once
    TORN = "torn"  # a part of what was being written survives a crash
    SLOW_DISK = "slow_disk"
    STALLS = "stalls"  # one disk does nothing for several election time-outs
    FAILED_SYNC = "failed_sync"  # the node must die of it
    WIPES = "wipes"  # a disk is lost; the host comes back as a new node
    PAUSES = "pauses"  # a process stands still, then finds a full inbox and many ticks
    DRIFT = "drift"
    SLOW_LOOP = "slow_loop"  # a node takes its messages in batches
    SLOW_APPLY = "slow_apply"
    COMPACTION = "compaction"
    SLOW_SNAPSHOTS = "slow_snapshots"  # their transfer outlasts elections
    FAILED_SNAPSHOTS = "failed_snapshots"
    CHURN = "churn"  # members come, go and change their part, one at a time
    JOINT = "joint"  # and several at a time
    CARELESS = "careless"  # operators may take majorities away: only safety is owed then
    LAZY_COMMIT = "lazy_commit"  # a change is applied before its commit is durable: only safety again
    TRANSFERS = "transfers"
    CAMPAIGNS = "campaigns"
    REPORTS = "reports"  # the transport says who could not be reached
    RETRIES = "retries"  # clients send again what was not answered
    SMALL_LIMITS = "small_limits"
    NO_PRE_VOTE = "no_pre_vote"
    NO_CHECK_QUORUM = "no_check_quorum"
    LOST_COMMIT = "lost_commit"  # not a fault that may happen: a driver that keeps no commit index with its entries


SAFETY_ONLY: Final = frozenset({Fault.CARELESS, Fault.LAZY_COMMIT, Fault.LOST_COMMIT})
ON_REQUEST: Final = (Fault.LOST_COMMIT,)
RARE: Final = {
    Fault.NO_PRE_VOTE: 0.1,
    Fault.NO_CHECK_QUORUM: 0.1,
    Fault.WIPES: 0.3,
    Fault.CARELESS: 0.1,
    Fault.LAZY_COMMIT: 0.1,
}
# How often, at most, in 100 ticks. Faults that are not here are properties of the whole run.
SCHEDULED: Final = {
    Fault.PARTITIONS: 3.0,
    Fault.ONE_WAY: 2.0,
    Fault.RING: 1.5,
    Fault.ISOLATED_LEADER: 3.0,
    Fault.CRASHES: 6.0,
    Fault.POWER_LOSS: 1.0,
    Fault.STALLS: 3.0,
    Fault.FAILED_SYNC: 2.0,
    Fault.WIPES: 3.0,
    Fault.PAUSES: 5.0,
    Fault.CHURN: 12.0,
    Fault.JOINT: 8.0,
    Fault.TRANSFERS: 8.0,
    Fault.CAMPAIGNS: 8.0,
}


@dataclass(frozen=True, slots=True)
class Event:
    """One fault at one moment. at: time. salt: all that is random about it."""

    at: int
    fault: Fault
    salt: int

    def __str__(self) -> str:
        return f"{self.at}:{self.fault}"


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of `node.Config`, in bytes and messages."""

    message_bytes: int = 256 * 1024
    inflight_messages: int = 256
    inflight_bytes: int = 0
    uncommitted_bytes: int = 64 * 1024 * 1024
    committed_bytes: int = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """A run. length, think: time. faults: which are on. strength: of each fault, from 0 to 1. events: in order."""

    seed: int
    nodes: int
    length: int
    election_ticks: int
    heartbeat_ticks: int
    clients: int
    keys: int
    think: int
    limits: Limits
    faults: frozenset[Fault]
    strength: dict[Fault, float] = field(default_factory=dict)
    events: tuple[Event, ...] = ()

    def random(self, name: str) -> random.Random:
        """A source of its own for each purpose."""
        return random.Random(f"{self.seed}/{name}")

    def between(self, fault: Fault, low: float, high: float) -> float:
        """A rate between low and high by the fault's strength; 0 where the fault is off."""
        return low + (high - low) * self.strength[fault] if fault in self.faults else 0.0

    def __str__(self) -> str:
        faults = " ".join(fault for fault in Fault if fault in self.faults)
        return (
            f"seed {self.seed}: {self.nodes} nodes, {self.length // TICK} ticks, election after {self.election_ticks}, "
            f"heartbeat every {self.heartbeat_ticks}, {self.clients} clients; {faults or 'no faults'}; "
            f"{len(self.events)} events"
        )


Edit = Callable[[Plan], Plan]


def make(seed: int) -> Plan:
    """The plan of a seed."""
    rng = random.Random(f"{seed}/plan")
    share = rng.choice([0.0, 0.15, 0.3, 0.5, 0.7])
    sources = {fault: random.Random(f"{seed}/{fault}") for fault in Fault}
    drawn = {fault: source.random() for fault, source in sources.items()}
    faults = frozenset(one for one in Fault if share and one not in ON_REQUEST and drawn[one] < RARE.get(one, share))
    election_ticks = rng.choice([4, 6, 8, 10])
    length = TICK * election_ticks * rng.choice([6, 10, 16, 24])
    events = [event for fault in Fault for event in _events(fault, sources[fault], length) if fault in faults]
    return Plan(
        seed=seed,
        nodes=rng.choice([1, 2, 3, 3, 3, 3, 4, 5, 5, 7]),
        length=length,
        election_ticks=election_ticks,
        heartbeat_ticks=rng.choice([1, 2, election_ticks // 3 or 1]),
        clients=rng.choice([1, 2, 4]),
        keys=rng.choice([1, 2, 3]),
        think=TICK * rng.choice([1, 3, 6]),
        limits=_limits(rng) if Fault.SMALL_LIMITS in faults else Limits(),
        faults=faults,
        strength={fault: sources[fault].random() for fault in Fault},
        events=tuple(sorted(events, key=lambda event: event.at)),
    )


def _limits(rng: random.Random) -> Limits:
    message_bytes = rng.choice([1, 40, 100])
    return Limits(
        message_bytes=message_bytes,
        inflight_messages=rng.choice([1, 2, 8]),
        inflight_bytes=rng.choice([0, message_bytes, 400]),
        uncommitted_bytes=rng.choice([20, 100, 1000]),
        committed_bytes=rng.choice([1, 50, 200]),
    )


def _events(fault: Fault, rng: random.Random, length: int) -> list[Event]:
    if fault not in SCHEDULED:
        return []
    rate = SCHEDULED[fault] * (0.2 + 0.8 * rng.random()) / (100 * TICK)
    at, events = rng.expovariate(rate), []
    while at < length:
        events.append(Event(int(at), fault, rng.getrandbits(32)))
        at += rng.expovariate(rate)
    return events
