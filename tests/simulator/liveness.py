"""After the faults: the cluster must come to rest within a bounded time, serve, and hold one log.

Thesis, 3.9 and 9: progress is owed once messages arrive and a majority runs. Every bound here is in election time-outs.
"""

from __future__ import annotations

from typing import Final

from tests.simulator.clients import Clients
from tests.simulator.cluster import Cluster, Process
from tests.simulator.invariants import Stuck
from tests.simulator.machine import Kind
from tests.simulator.operators import Operators
from tests.simulator.plan import SAFETY_ONLY, TICK
from tests.simulator.rest import at_rest, check_durable, check_nothing_lost, check_same_logs, states

REST_MAX: Final = 60  # election time-outs until everybody has the same
SERVE_MAX: Final = 10  # and until a node has answered


class Recovery:
    """The second phase of a run. Raises Violation where it does not end well."""

    def __init__(self, cluster: Cluster, clients: Clients, operators: Operators) -> None:
        self._cluster = cluster
        self._clients = clients
        self._operators = operators
        self._election = cluster.plan.election_ticks * TICK

    def run(self) -> None:
        """Heal, rest, serve, rest; then let the power fail and look at the disks."""
        self._clients.stop()
        self._cluster.heal()
        try:
            self._come_back()
        except Stuck:
            if not self._cluster.plan.faults & SAFETY_ONLY:
                raise
            self._cluster.counts["stuck, where no more is owed"] += 1

    def _come_back(self) -> None:
        self._rest()
        self._serve()
        members = self._rest()
        check_same_logs(self._cluster.observer, members)
        check_nothing_lost(self._cluster.commands, members[0])
        self._power_cycle(members)

    # -- coming to rest ----------------------------------------------------------------------------------------------

    def _rest(self) -> list[Process]:
        """Wait until one leader leads, and every member has all of its log applied. Returns the members."""
        members = self._rests(REST_MAX)
        if not members:
            raise Stuck(f"liveness: not at rest after {REST_MAX} election time-outs\n{states(self._cluster.members)}")
        return members

    def _rests(self, elections: int) -> list[Process]:
        agenda = self._cluster.agenda
        for half in range(2 * elections):
            members = at_rest(self._cluster.members)
            if members:
                self._cluster.counts["half elections to rest"] += half
                return members
            agenda.run(agenda.now + self._election // 2)
            self._operators.leave_joint()
            self._operators.retire()
        return []

    # -- serving -----------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Every member must take a write and a read, and answer both."""
        agenda = self._cluster.agenda
        for process in at_rest(self._cluster.members):
            commands = [self._clients.command(kind) for kind in (Kind.SWAP, Kind.READ)]
            for try_ in range(8 * SERVE_MAX):
                waiting = [command for command in commands if command.returned is None]
                if not waiting or not self._is_member(process):
                    break
                if try_ % 16 == 0:  # there may have been no leader for a moment; asking again does nothing twice
                    for command in waiting:
                        self._clients.send(process, [command])
                agenda.run(agenda.now + self._election // 8)
            else:
                text = ", ".join(f"{command.kind} {command.number}" for command in waiting)
                late = f"node {process.id} has not answered {text} after {SERVE_MAX} election time-outs"
                raise Stuck(f"liveness: {late}\n{states(self._cluster.members)}")

    def _is_member(self, process: Process) -> bool:
        """A change that was passed on long ago may still remove it."""
        leader = self._cluster.leader()
        return leader is None or leader.node is None or process.id in leader.node.config.members

    def _power_cycle(self, members: list[Process]) -> None:
        """The power fails everywhere; the disks alone must bring back what was committed."""
        for process in self._cluster.running():
            self._cluster.crash(process, TICK)
        check_durable(self._cluster.observer, members)
        self._cluster.agenda.run(self._cluster.agenda.now + 2 * TICK)
        check_nothing_lost(self._cluster.commands, self._rest()[0])
