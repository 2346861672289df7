"""One run of a plan, from the founding of the cluster to what is left on its disks."""

from __future__ import annotations

import traceback
from collections import Counter
from dataclasses import dataclass

from tests.simulator.clients import Clients
from tests.simulator.cluster import Cluster
from tests.simulator.invariants import Violation
from tests.simulator.liveness import Recovery
from tests.simulator.nemesis import Nemesis
from tests.simulator.operators import Operators
from tests.simulator.plan import Plan


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run. failure: None where all went well. events: calls of the agenda. trace: if asked for."""

    plan: Plan
    failure: str | None
    events: int
    counts: Counter[str]
    trace: list[str] | None = None

    @property
    def kind(self) -> str:
        """The failure without its particulars: what stays the same while a plan is shrunk."""
        return (self.failure or "").split(":", maxsplit=1)[0]


def run(plan: Plan, *, traced: bool = False) -> Outcome:
    """Run a plan. Never raises: whatever goes wrong is the outcome."""
    trace: list[str] | None = [] if traced else None
    cluster: Cluster | None = None
    failure = None
    try:
        cluster = Cluster(plan, trace=trace)
        _both_phases(cluster)
    except Violation as violation:
        failure = str(violation)
    except Exception as error:  # whatever a core raises that its driver has not asked for
        frames = traceback.extract_tb(error.__traceback__)[-3:]
        where = " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in frames[::-1])
        failure = f"{type(error).__name__}: {error} at {where}"
    if cluster is None:
        return Outcome(plan, failure, 0, Counter(), trace)
    cluster.counts["entries committed"] = len(cluster.observer.truth) - 1
    cluster.counts["leaders"] = len(cluster.observer.leaders)
    cluster.counts["membership changes"] = len(cluster.observer.configs)
    return Outcome(plan, failure, cluster.agenda.count, cluster.counts, trace)


def _both_phases(cluster: Cluster) -> None:
    operators = Operators(cluster)
    Nemesis(cluster, operators)
    clients = Clients(cluster)
    cluster.agenda.run(cluster.plan.length)
    Recovery(cluster, clients, operators).run()
    found = clients.contradiction()
    if found is not None:
        raise Violation(f"linearizable: {found}")
