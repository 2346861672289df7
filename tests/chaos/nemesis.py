"""Makes the troubles of a plan happen, beside the simulator's faults of core, network and disks."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

from agent.errors import PrimeError
from agent.runtable import commands as c
from tests.chaos.cluster import ChaosCluster, Host
from tests.chaos.plan import TERMS, Strike, Trouble
from tests.simulator.nemesis import Nemesis, _between
from tests.simulator.operators import Operators

_NO_OPERATORS = SimpleNamespace(wipe=None, change_one=None, change_several=None)  # members stay


class ChaosNemesis(Nemesis):
    """See the module."""

    def __init__(self, cluster: ChaosCluster) -> None:
        super().__init__(cluster, cast("Operators", _NO_OPERATORS))
        self._chaos = cluster
        self._lasting = False
        self._troubles: dict[Trouble, Callable[[random.Random], bool]] = {
            Trouble.LONG_PAUSE: self._long_pause,
            Trouble.LONG_CUT: self._long_cut,
            Trouble.LONG_DEATH: self._long_death,
            Trouble.SHORT_DEATH: self._short_death,
            Trouble.LEADER_CUT: self._leader_cut,
            Trouble.REBOOT: self._reboot,
            Trouble.WATCHDOG_DEATH: self._watchdog_death,
            Trouble.ENGINE_HANGS: self._engine_hangs,
            Trouble.NEW_TERMS: self._new_terms,
        }
        for strike in cluster.chaos.strikes:
            cluster.agenda.at(strike.at, self._trouble, strike)

    def _trouble(self, strike: Strike) -> None:
        rng = random.Random(strike.salt)
        self._lasting = True
        hit = self._troubles[strike.trouble](rng)
        self._lasting = False
        self._chaos.counts[strike.trouble if hit else f"{strike.trouble} without effect"] += 1

    def _span(self, rng: random.Random, low: float, high: float) -> float:
        """See Nemesis; what lasts, lasts as long as a lease and its margin, more or less."""
        if not self._lasting:
            return super()._span(rng, low, high)
        return self._chaos.chaos.terms.loss_ms * rng.uniform(0.5, 2.0)

    def _host(self, rng: random.Random) -> Host | None:
        return cast("Host | None", self._victim(rng))

    def _long_pause(self, rng: random.Random) -> bool:
        host = self._host(rng)
        if host is None or host.paused or not host.watchdog.alive:
            return False
        self._chaos.pause(host, self._span(rng, 0, 0))
        return True

    def _long_cut(self, rng: random.Random) -> bool:
        nodes = self._nodes(rng)
        pairs = _between(nodes[:1], nodes[1:])
        way = rng.choice([0, 0, 1, 2])  # both ways, or it is not heard, or it does not hear
        return self._cut(rng, [pair for pair in pairs if way == 0 or (pair[0] == nodes[0]) == (way == 1)])

    def _leader_cut(self, rng: random.Random) -> bool:
        return self._isolate_leader(rng)

    def _long_death(self, rng: random.Random) -> bool:
        host = self._host(rng)
        if host is not None:
            self._chaos.crash(host, self._span(rng, 0, 0))
        return host is not None

    def _short_death(self, rng: random.Random) -> bool:
        host = self._host(rng)
        if host is not None:
            self._chaos.crash(host, self._chaos.chaos.terms.ttl_ms * rng.uniform(0.02, 0.7))
        return host is not None

    def _reboot(self, rng: random.Random) -> bool:
        host = self._host(rng)
        if host is None or not host.watchdog.alive:
            return False
        self._chaos.crash(host, self._span(rng, 0, 0) * rng.choice([0.2, 1]))
        host.reboot()
        self._chaos.note(f"{host.id} reboots")
        return True

    def _watchdog_death(self, rng: random.Random) -> bool:
        """Not together with its agent, nor while that stands still: that is the residue (ARCHITECTURE.md, 8)."""
        host = self._host(rng)
        if host is None or host.paused or not host.watchdog.alive or host.watchdog.agent is None:
            return False
        self._chaos.note(f"the watchdog of {host.id} is killed")
        host.watchdog.kill()
        return True

    def _engine_hangs(self, rng: random.Random) -> bool:
        host = rng.choice(self._chaos.hosts())
        host.engine_hangs_until = self._chaos.agenda.now + rng.choice([1000, 6000, 20_000])
        self._chaos.note(f"the engine of {host.id} hangs")
        return True

    def _new_terms(self, rng: random.Random) -> bool:
        host = self._host(rng)
        if host is None or host.agent is None:
            return False
        command = c.SetLeaseTerms(host.wall_ms(), rng.choice([self._chaos.chaos.terms, *TERMS]))
        host.loop.create_task(self._propose(host, command))
        return True

    async def _propose(self, host: Host, command: c.AnyCommand) -> None:
        assert host.agent is not None
        try:
            await host.agent.replica.propose(command)
        except PrimeError:
            self._chaos.counts["new terms not taken"] += 1
