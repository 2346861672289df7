"""P3: work under a lease has ended when another agent may be given it, whatever the clocks, the network and the leaders
do, as long as clocks keep within rho. Beyond it the simulation fails, so the check can.

Real `Lessee`s and `Lessor`s, a clock for each agent, a network that delays, loses and reorders, leaders that are
deposed and go on answering, terms of the leases that change. Time passes as the seed has it.

A leader's round is as Raft makes it: it begins after the question came, and is confirmed if no later leader was elected
before its end. So are its proposals: at an election those under way are in the new leader's log, and applied before it
grants anything, or lost for ever.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from agent.cluster.lease import Grant, Lessee, Lessor
from agent.runtable.model import Leases, LeaseTerms

HOSTS = 3
LENGTH_S = 400.0
RHO = 0.01
TERMS = LeaseTerms(ttl_ms=4000, stop_ms=1000, kill_ms=1000, rho_permille=10)
# Shorter leases and a longer grace: the two of different grants would have no margin together.
SHORT = LeaseTerms(ttl_ms=1500, stop_ms=3500, kill_ms=500, rho_permille=10)


@dataclass
class Row:
    id: str
    epoch: int = 1
    lost: bool = False


@dataclass
class Host:
    """One agent with a clock that is off. work: (epoch, real time of its end or None) of what it runs."""

    name: str
    rate: float
    lessee: Lessee = field(default_factory=Lessee)
    watchdog_until_s: float = float("-inf")  # by its clock; the one who acts when the agent does not
    watchdog_epoch: int = 0
    end_s: float = 0.0  # what stop and kill may take, by the terms of its last lease
    paused_until: float = 0.0  # real time: the agent, not its watchdog
    running: int | None = None  # the epoch of the work that runs
    ending: bool = False

    def clock_s(self, now: float) -> float:
        return 1000.0 + now * self.rate


@dataclass
class Leader:
    host: Host
    term: int
    lessor: Lessor


class World:
    """Events in real time, drawn from one seed."""

    def __init__(self, seed: int, rho: float) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.hosts = [Host(f"h{n}", 1 + self.random.choice([-rho, 0, rho])) for n in range(HOSTS)]
        self.rows = {one.name: Row(one.name) for one in self.hosts}
        self.leases = Leases(TERMS)
        self.leaders: list[Leader] = []
        self.elected_at = [0.0]
        self.overlaps: list[str] = []
        self.proposed: set[tuple[str, int]] = set()
        self.losses = self.grants = self.fences = 0
        self._numbers = itertools.count(1)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []

    def later(self, after: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + after, next(self._numbers), what))

    def run(self) -> None:
        self.elect()
        for host in self.hosts:
            self.later(0.0, lambda host=host: self.ask(host))  # type: ignore[misc]
        self.later(self.random.uniform(20, 60), self.depose)
        self.later(self.random.uniform(5, 20), self.pause)
        self.later(self.random.uniform(20, 80), self.change_terms)
        while self._queue and self.now < LENGTH_S:
            self.now, _, what = heapq.heappop(self._queue)
            what()

    # -- the cluster's part

    @property
    def leader(self) -> Leader:
        return self.leaders[-1]

    @property
    def table_ms(self) -> int:
        return round(self.now * 1000)

    def elect(self) -> None:
        for agent, epoch in sorted(self.proposed):
            if self.random.random() < 0.5:
                self.lose(agent, epoch)
        self.proposed.clear()
        host = self.random.choice(self.hosts)
        self.leaders = [*self.leaders[-3:], Leader(host, len(self.elected_at), Lessor(host.clock_s(self.now)))]
        self.elected_at.append(self.now)
        self.later(0.0, lambda leader=self.leader: self.look(leader))  # type: ignore[misc]

    def depose(self) -> None:
        self.elect()
        self.later(self.random.uniform(1, 60), self.depose)

    def look(self, leader: Leader) -> None:
        if leader is not self.leader:
            return  # its proposals reach no quorum
        loss_s = self.leases.loss_ms(self.table_ms) / 1000
        for agent, epoch in leader.lessor.lost(self.rows.values(), loss_s, leader.host.clock_s(self.now)):
            self.proposed.add((agent, epoch))
            self.later(self.delay(), lambda loss=(agent, epoch): self.committed(loss))  # type: ignore[misc]
        leader.lessor.forget(self.rows)
        self.later(0.1, lambda: self.look(leader))

    def committed(self, loss: tuple[str, int]) -> None:
        if loss in self.proposed:
            self.lose(*loss)

    def lose(self, agent: str, epoch: int) -> None:
        row = self.rows[agent]
        if row.lost or row.epoch != epoch:
            return
        row.lost = True
        self.losses += 1
        host = next(one for one in self.hosts if one.name == agent)
        if host.running is not None and host.running <= epoch:
            self.overlaps.append(f"{self.now:.3f}: {agent} epoch {epoch} was lost while its work ran")
        self.later(self.random.uniform(1, 10), lambda: self.come_back(host))

    def come_back(self, host: Host) -> None:
        row = self.rows[host.name]
        if host.running is not None:  # its word is that nothing runs
            self.later(1.0, lambda: self.come_back(host))
        elif row.lost:
            row.lost, row.epoch = False, row.epoch + 1

    def change_terms(self) -> None:
        new, old = (SHORT if self.leases.terms == TERMS else TERMS), self.leases.terms
        self.leases = Leases(new, old, self.table_ms + old.loss_ms)  # as the table does
        self.later(self.random.uniform(10, 80), self.change_terms)

    # -- an agent's part

    def delay(self) -> float:
        return self.random.choice([0.001, 0.02, self.random.uniform(0, 1), self.random.uniform(0, 8)])

    def pause(self) -> None:
        host = self.random.choice(self.hosts)
        host.paused_until = self.now + self.random.choice([0.5, 3.0, 30.0])
        self.later(self.random.uniform(2, 20), self.pause)

    def ask(self, host: Host) -> None:
        ttl_s = self.leases.terms.ttl_ms / 1000
        self.later(ttl_s / 4 * self.random.uniform(0.9, 1.5), lambda: self.ask(host))
        if self.now < host.paused_until:
            return
        nonce, epoch = next(self._numbers), self.rows[host.name].epoch
        host.lessee.ask(nonce, host.clock_s(self.now))
        if self.random.random() < 0.8:  # it may also ask one that was deposed
            leader = self.random.choice(self.leaders) if self.random.random() < 0.3 else self.leader
            self.later(self.delay(), lambda: self.asked(leader, host, nonce, epoch))

    def asked(self, leader: Leader, host: Host, nonce: int, epoch: int) -> None:
        leader.lessor.asked(host.name, epoch, leader.host.clock_s(self.now))
        self.later(self.delay(), lambda: self.confirmed(leader, host, nonce, epoch))

    def confirmed(self, leader: Leader, host: Host, nonce: int, epoch: int) -> None:
        """Its round began after the question came. The quorum's words may have come before a later election."""
        if leader is not self.leader and self.random.random() < 0.5:
            return  # the round has failed
        quorum_at = self.elected_at[leader.term + 1] if leader is not self.leader else self.now
        if leader is not self.leader and quorum_at < self.now - 8:
            return
        if self.began_after(leader, quorum_at, host, nonce) and leader.lessor.may_grant(self.rows[host.name], epoch):
            self.grants += 1
            terms = self.leases.terms
            self.later(
                self.delay(),
                lambda: self.granted(host, nonce, Grant(terms.ttl_ms / 1000, epoch, 0, terms.stop_ms / 1000), terms),
            )

    def began_after(self, leader: Leader, quorum_at: float, host: Host, nonce: int) -> bool:
        """A deposed leader answers only what it was asked before the quorum that deposed it."""
        sent_s = host.lessee._asked.get(nonce)
        return leader is self.leader or (sent_s is not None and sent_s <= host.clock_s(quorum_at))

    def granted(self, host: Host, nonce: int, grant: Grant, terms: LeaseTerms) -> None:
        if self.now < host.paused_until:
            self.later(host.paused_until - self.now, lambda: self.granted(host, nonce, grant, terms))
            return
        until_s = host.lessee.worth(nonce, grant)
        if until_s is None:
            return
        if grant.epoch > host.watchdog_epoch:
            host.watchdog_epoch, host.watchdog_until_s = grant.epoch, float("-inf")
        if until_s >= host.watchdog_until_s:
            host.watchdog_until_s, host.end_s = until_s, grant.stop_s + terms.kill_ms / 1000
        assert host.lessee.granted(nonce, grant)
        self.start(host, grant.epoch)

    def start(self, host: Host, epoch: int) -> None:
        if host.running is None and host.lessee.may_start(epoch, 0, host.clock_s(self.now)):
            host.running, host.ending = epoch, False
            self.watch(host)

    def watch(self, host: Host) -> None:
        """The watchdog of the host, which is not paused: at the lease's end, stop and kill take what they may."""
        if host.running is None or host.ending:
            return
        until_s = host.watchdog_until_s if host.running == host.watchdog_epoch else float("-inf")
        left = (until_s - host.clock_s(self.now)) / host.rate
        if left > 1e-9:
            self.later(left, lambda: self.watch(host))
            return
        host.ending = True
        self.fences += 1
        self.later(host.end_s / host.rate, lambda: self.end(host))

    def end(self, host: Host) -> None:
        host.running = None


def simulate(seed: int, rho: float) -> World:
    world = World(seed, rho)
    world.run()
    return world


@pytest.mark.parametrize("seed", range(60))
def test_work_never_runs_when_its_agent_is_declared_lost_p3(seed: int) -> None:
    world = simulate(seed, RHO)
    assert world.overlaps == [], f"seed {seed}"


def test_the_simulation_meets_what_it_is_about() -> None:
    worlds = [simulate(seed, RHO) for seed in range(20)]
    assert sum(one.losses for one in worlds) > 50
    assert sum(one.grants for one in worlds) > 1000
    assert sum(one.fences for one in worlds) > 50


def test_beyond_rho_it_fails_so_the_check_can() -> None:
    assert any(simulate(seed, 20 * RHO).overlaps for seed in range(60))


def test_with_half_the_margin_it_fails_so_the_margin_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LeaseTerms, "loss_ms", property(lambda terms: terms.ttl_ms + terms.margin_ms // 2))
    assert any(simulate(seed, RHO).overlaps for seed in range(60))
