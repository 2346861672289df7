"""Who submits runs, by any agent, repeats what was not answered, and cancels some."""

from __future__ import annotations

import random
from dataclasses import dataclass

from agent.errors import PrimeError
from agent.runtable import commands as c
from agent.runtable.gate_rows import GateKind, GatePlan
from agent.runtable.model import InstanceKind, InstancePlan, OnAgentLost, Origin, RetryPolicy
from tests.chaos.cluster import PROJECT, ChaosCluster, Host

TRIES_MAX = 4
RUNS_OPEN_MAX = 40  # a load that the slots can take: what waits for ever shows nothing


@dataclass(slots=True)
class Request:
    """One wish. key: by which it is the same, whoever is asked."""

    key: str
    plans: tuple[InstancePlan, ...]
    timeout_ms: int
    diamond: bool = False
    tries: int = 0
    answered: bool = False


class Clients:
    """All of them."""

    def __init__(self, cluster: ChaosCluster) -> None:
        self._cluster, self._chaos = cluster, cluster.chaos
        self._rng = cluster.chaos.random("clients")
        self._pipelines = cluster.chaos.random("pipelines")
        self._count = 0
        self._stopped = False
        for _ in range(cluster.plan.clients):
            cluster.agenda.after(1000 * self._rng.random(), self._next)

    def stop(self) -> None:
        """Ask for nothing more."""
        self._stopped = True

    def _next(self) -> None:
        if self._stopped:
            return
        checks = self._cluster.checks
        if checks.accepted - len(checks.final) < RUNS_OPEN_MAX:
            self._count += 1
            timeout_ms = self._rng.choice([20_000, 120_000, 300_000])
            request = Request(f"k{self._count}", tuple(_plans(self._rng)), timeout_ms)
            request.diamond = self._pipelines.random() < self._chaos.pipelines
            self._ask(request)
        self._cluster.agenda.after(self._chaos.pause_ms * self._rng.expovariate(1), self._next)

    def _ask(self, request: Request) -> None:
        request.tries += 1
        for _ in range(2 if self._rng.random() < 0.1 else 1):  # twice at once: a balancer that repeats
            host = self._choose()
            if host is not None:
                host.loop.create_task(self._submit(host, request))
        self._cluster.agenda.after(self._chaos.patience_ms, self._give_up, request)

    def _choose(self) -> Host | None:
        running = [host for host in self._cluster.hosts() if host.agent is not None]
        return self._rng.choice(running) if running else None

    def _give_up(self, request: Request) -> None:
        if request.answered or self._stopped:
            return
        self._cluster.counts["requests that got no answer in time"] += 1
        if request.tries < TRIES_MAX:
            self._ask(request)

    async def _submit(self, host: Host, request: Request) -> None:
        assert host.agent is not None
        run_id = f"{self._rng.getrandbits(80):016x}"
        if request.diamond:
            await self._offer(host, request, _diamond(host, request, run_id))
            return
        command = c.SubmitRun(
            time_ms=host.wall_ms(),
            run_id=run_id,
            project=PROJECT,
            namespace="n",
            job=f"j{self._rng.randrange(4)}",
            scheduled_at_ms=0,
            origin=Origin.MANUAL,
            requested_by="client",
            via=host.name,
            request=request.key,
            body_hash=request.key,
            keep_ms=86_400_000,
            bundle="b",
            timeout_ms=request.timeout_ms,
            queue_timeout_ms=request.timeout_ms,
            instances=request.plans,
        )
        await self._offer(host, request, command)

    async def _offer(self, host: Host, request: Request, command: c.SubmitRun | c.SubmitPipeline) -> None:
        assert host.agent is not None
        try:
            applied = await host.agent.replica.propose(command)
        except PrimeError as error:
            self._cluster.counts[f"requests refused: {getattr(error, 'code', error)}"] += 1
            return
        if not applied.ok:
            self._cluster.failed(f"an honest request is taken: {applied}")
            return
        request.answered = True
        self._cluster.counts["requests answered"] += 1
        self._cluster.known = max(self._cluster.known, applied.index)
        self._cluster.checks.answered(request.key, applied.run_id)
        if self._rng.random() < 0.15:
            self._cluster.agenda.after(20_000 * self._rng.random(), self._cancel, applied.run_id)

    def _cancel(self, run_id: str) -> None:
        host = self._choose()
        if host is not None and not self._stopped:
            whole = c.CancelPipeline if run_id.startswith("p-") else c.CancelRun
            host.loop.create_task(self._propose(host, whole(host.wall_ms(), run_id, "client", host.name)))

    async def _propose(self, host: Host, command: c.AnyCommand) -> None:
        assert host.agent is not None
        try:
            await host.agent.replica.propose(command)
        except PrimeError:
            self._cluster.counts["cancels not taken"] += 1


def _diamond(host: Host, request: Request, name: str) -> c.SubmitPipeline:
    """Four runs: one, two that wait for it, and one that waits for both."""
    ids = [f"{name[:-1]}{place}" for place in "wxyz"]
    runs = tuple(
        c.PipelineRun(
            run_id,
            PROJECT,
            "n",
            f"j{place}",
            "b",
            request.timeout_ms,
            request.timeout_ms,
            request.plans,
            tuple(GatePlan(GateKind.RUN, PROJECT, f"j{one}", ids[one], timeout_ms=None) for one in after),
        )
        for place, (run_id, after) in enumerate(zip(ids, ((), (0,), (0,), (1, 2)), strict=True))
    )
    return c.SubmitPipeline(
        host.wall_ms(), f"p-{name}", 0, "client", host.name, request.key, request.key, 86_400_000, runs
    )


def _plans(rng: random.Random) -> list[InstancePlan]:
    """A task, often with a hook before or after it, or one for its failure."""
    kinds = [InstanceKind.TASK]
    if rng.random() < 0.3:
        kinds.insert(0, InstanceKind.PRE)
    if rng.random() < 0.3:
        kinds.append(InstanceKind.POST)
    if rng.random() < 0.2:
        kinds.append(InstanceKind.FAIL)
    lost = rng.choice([OnAgentLost.RERUN, OnAgentLost.RERUN, OnAgentLost.FAIL, OnAgentLost.WAIT])
    plans: list[InstancePlan] = []
    for kind in kinds:
        core = tuple(one.name for one in plans)
        plans.append(
            InstancePlan(
                name=kind.value,
                kind=kind,
                plugin=kind.value,
                after=() if kind is InstanceKind.FAIL else core,
                executor="sim",
                retry=RetryPolicy(rng.choice([0, 1, 3]), rng.choice([0.5, 5])),
                timeout_ms=rng.choice([None, None, 4000, 30_000]),
                on_agent_lost=lost,
            )
        )
    return plans
