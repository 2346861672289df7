"""Makes the faults of a plan happen, each at its moment."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from tests.simulator.cluster import Cluster, Process
from tests.simulator.operators import Operators
from tests.simulator.plan import TICK, Event, Fault

Pairs = Iterable[tuple[int, int]]


class Nemesis:
    """Faults with a moment. Those that are properties of a whole run are in the network and the cluster."""

    def __init__(self, cluster: Cluster, operators: Operators) -> None:
        self._cluster = cluster
        self._operators = operators
        self._election = cluster.plan.election_ticks * TICK
        self._cuts = 0
        self._strikes: dict[Fault, Callable[[random.Random], bool]] = {
            Fault.PARTITIONS: self._partition,
            Fault.ONE_WAY: self._one_way,
            Fault.RING: self._ring,
            Fault.ISOLATED_LEADER: self._isolate_leader,
            Fault.CRASHES: self._crash,
            Fault.POWER_LOSS: self._power_loss,
            Fault.STALLS: self._stall,
            Fault.FAILED_SYNC: self._fail_sync,
            Fault.WIPES: operators.wipe,
            Fault.PAUSES: self._pause,
            Fault.CHURN: operators.change_one,
            Fault.JOINT: operators.change_several,
            Fault.TRANSFERS: self._transfer,
            Fault.CAMPAIGNS: self._campaign,
        }
        for event in cluster.plan.events:
            cluster.agenda.at(event.at, self._strike, event)

    def _strike(self, event: Event) -> None:
        hit = self._strikes[event.fault](random.Random(event.salt))
        self._cluster.counts[event.fault if hit else f"{event.fault} without effect"] += 1

    def _span(self, rng: random.Random, low: float, high: float) -> float:
        """How long something lasts, low and high in election time-outs."""
        return self._election * rng.uniform(low, high)

    def _victim(self, rng: random.Random) -> Process | None:
        """Any process, the leader more often than others."""
        leader = self._cluster.leader()
        if leader is not None and rng.random() < 0.35:
            return leader
        running = self._cluster.running()
        return rng.choice(running) if running else None

    # -- the network -------------------------------------------------------------------------------------------------

    def _cut(self, rng: random.Random, pairs: Pairs) -> bool:
        """Cut these links, in place of those that are cut now, for a while."""
        blocked = frozenset(pairs)
        if not blocked:
            return False
        self._cuts += 1
        self._cluster.network.blocked = blocked
        self._cluster.note(f"cut: {' '.join(f'{a}->{b}' for a, b in sorted(blocked))}")
        self._cluster.agenda.after(self._span(rng, 0.5, 5), self._mend, self._cuts)
        return True

    def _mend(self, cut: int) -> None:
        if cut == self._cuts:
            self._cluster.network.blocked = frozenset()
            self._cluster.note("no link is cut")

    def _nodes(self, rng: random.Random) -> list[int]:
        nodes = list(self._cluster.members)
        rng.shuffle(nodes)
        return nodes

    def _partition(self, rng: random.Random) -> bool:
        nodes = self._nodes(rng)
        cut = rng.randrange(1, len(nodes)) if len(nodes) > 1 else 1
        left, right = nodes[:cut], nodes[cut:]
        bridge = rng.choice(nodes) if rng.random() < 0.3 else 0
        return self._cut(rng, _between([n for n in left if n != bridge], [n for n in right if n != bridge]))

    def _one_way(self, rng: random.Random) -> bool:
        nodes = self._nodes(rng)
        cut = rng.randrange(1, len(nodes)) if len(nodes) > 1 else 1
        return self._cut(rng, [(a, b) for a in nodes[:cut] for b in nodes[cut:]])

    def _ring(self, rng: random.Random) -> bool:
        """Everyone keeps the links to its neighbours; of three, two lose sight of each other."""
        nodes = self._nodes(rng)
        if len(nodes) == 3:
            return self._cut(rng, _between(nodes[:1], nodes[1:2]))
        count, reach = len(nodes), len(nodes) // 4 or 1
        far = [
            (nodes[i], nodes[j])
            for i in range(count)
            for j in range(count)
            if reach < min((i - j) % count, (j - i) % count)
        ]
        return self._cut(rng, far)

    def _isolate_leader(self, rng: random.Random) -> bool:
        leader = self._cluster.leader()
        if leader is None:
            return False
        others = [node for node in self._cluster.members if node != leader.id]
        both = _between([leader.id], others)
        way = rng.choice([0, 0, 1, 2])  # both ways, or it is not heard, or it does not hear
        return self._cut(rng, [pair for pair in both if way == 0 or (pair[0] == leader.id) == (way == 1)])

    # -- processes and disks -----------------------------------------------------------------------------------------

    def _crash(self, rng: random.Random) -> bool:
        victim = self._victim(rng)
        if victim is None:
            return False
        self._cluster.crash(victim, rng.choice([1.0, self._span(rng, 0.1, 4)]))
        return True

    def _power_loss(self, rng: random.Random) -> bool:
        for process in self._cluster.running():
            self._cluster.crash(process, self._span(rng, 0, 2))
        return True

    def _stall(self, rng: random.Random) -> bool:
        victim = self._victim(rng)
        if victim is None:
            return False
        victim.stalled_until = self._cluster.agenda.now + int(self._span(rng, 0.5, 5))
        self._cluster.note(f"the disk of {victim.id} stalls")
        return True

    def _fail_sync(self, rng: random.Random) -> bool:
        victim = self._victim(rng)
        if victim is None:
            return False
        victim.sync_fails = True
        self._cluster.note(f"the next sync of {victim.id} will fail")
        return True

    def _pause(self, rng: random.Random) -> bool:
        victim = self._victim(rng)
        if victim is None or victim.paused:
            return False
        self._cluster.pause(victim, self._span(rng, 0.2, 4))
        return True

    # -- what operators and drivers may do at any time ---------------------------------------------------------------

    def _transfer(self, rng: random.Random) -> bool:
        process = self._victim(rng)
        if process is None or process.paused or process.node is None:
            return False
        to = rng.choice(list(self._cluster.members))
        self._cluster.note(f"{process.id} is asked to let {to} lead")
        process.node.transfer_leadership(to)
        self._cluster.observer.look(process)
        process.pump()
        return True

    def _campaign(self, rng: random.Random) -> bool:
        process = self._victim(rng)
        if process is None or process.paused or process.node is None:
            return False
        self._cluster.note(f"{process.id} is told to stand for election")
        process.node.campaign()
        self._cluster.observer.look(process)
        process.pump()
        return True


def _between(left: Iterable[int], right: Iterable[int]) -> list[tuple[int, int]]:
    right = list(right)
    return [pair for a in left for b in right for pair in ((a, b), (b, a))]
