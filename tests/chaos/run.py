"""One run: the faults, then everything heals, and what was accepted must end within a bounded time."""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from unittest.mock import patch

from agent.cluster import gossip
from tests.chaos.agent import SIMULATED_TIME, TIMED, simulated_random
from tests.chaos.clients import Clients
from tests.chaos.cluster import ChaosCluster
from tests.chaos.nemesis import ChaosNemesis
from tests.chaos.plan import Chaos, make
from tests.simulator.invariants import Stuck, Violation
from tests.simulator.rest import at_rest, check_durable, states

REST_MS: Final = 900_000  # the longest run has 300 s from its submission; losses, deaths and retries come on top
LOOK_MS: Final = 500


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run. failure: None where all went well. simulated_s: time in it. trace: if asked for."""

    chaos: Chaos
    failure: str | None
    simulated_s: float
    counts: Counter[str]
    trace: list[str] | None


class _Log(logging.Handler):
    """The product's log: a part of the trace, and where it says that it met what it has not foreseen."""

    def __init__(self, cluster: ChaosCluster) -> None:
        super().__init__(logging.INFO)
        self._cluster = cluster

    def emit(self, record: logging.LogRecord) -> None:
        """See Handler."""
        if self._cluster.trace is None and record.levelno < logging.ERROR:
            return
        fields = {key: record.__dict__[key] for key in ("agent", "run", "attempt", "error") if key in record.__dict__}
        self._cluster.note(f"log: {record.getMessage()} {fields or ''}")
        if record.levelno >= logging.ERROR:
            text = f"{record.getMessage()} {fields} {record.exc_info and record.exc_info[1]!r}"
            self._cluster.failed(f"an error of the agent itself: {text}")


@contextmanager
def _simulated(cluster: ChaosCluster) -> Iterator[None]:
    """The product's modules have the simulation's time, and tell it what they log."""
    logger, handler = logging.getLogger("agent"), _Log(cluster)
    before = logger.propagate, logger.level
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.INFO)
    patches: list[Any] = [patch.object(module, "time", SIMULATED_TIME) for module in TIMED]
    patches.append(patch.object(gossip, "random", simulated_random(cluster.chaos.random("gossip"))))
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()
        logger.propagate, logger.level = before
        logger.removeHandler(handler)


def run(chaos: Chaos, *, traced: bool = False) -> Outcome:
    """Run a plan. Never raises: whatever goes wrong is the outcome."""
    trace: list[str] | None = [] if traced else None
    cluster: ChaosCluster | None = None
    failure = None
    try:
        cluster = ChaosCluster(chaos, trace=trace)
        with _simulated(cluster):
            _both_phases(cluster)
    except AssertionError as violation:
        failure = str(violation) or _where(violation)
    except Exception as error:
        failure = f"{type(error).__name__}: {error} at {_where(error)}"
    if cluster is None:
        return Outcome(chaos, failure, 0.0, Counter(), trace)
    for host in cluster.hosts():
        if host.node is not None:
            host.loop.kill()
    counts = cluster.counts + cluster.world.counts + cluster.checks.counts
    counts["entries committed"] = len(cluster.observer.truth) - 1
    counts["leaders"] = len(cluster.observer.leaders)
    return Outcome(chaos, failure, cluster.agenda.now / 1000, counts, trace)


def outcome_of(seed: int, length_s: float) -> Outcome:
    """The run of one seed; where it fails, the same again with its trace."""
    outcome = run(make(seed, length_s))
    return outcome if outcome.failure is None else run(make(seed, length_s), traced=True)


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in frames[::-1])


def _both_phases(cluster: ChaosCluster) -> None:
    ChaosNemesis(cluster)
    clients = Clients(cluster)
    cluster.run(cluster.plan.length)
    clients.stop()
    cluster.heal()
    _rest(cluster)
    _check_end(cluster)


def _rest(cluster: ChaosCluster) -> None:
    """Until everything accepted has ended and every agent has the same. Raises Stuck."""
    until = cluster.agenda.now + REST_MS
    while cluster.agenda.now < until:
        cluster.run(cluster.agenda.now + LOOK_MS)
        open_runs = any(host.rows.table.rows.runs for host in cluster.hosts())
        if not open_runs and not cluster.world.running and len(at_rest(cluster.members)) == len(cluster.members):
            cluster.counts["seconds to rest"] += (cluster.agenda.now - cluster.plan.length) // 1000
            return
    left = sorted({run_id for host in cluster.hosts() for run_id in host.rows.table.rows.runs})
    raise Stuck(f"liveness (P1): {left} have not ended, {sorted(cluster.world.running)} run\n{states(cluster.members)}")


def _check_end(cluster: ChaosCluster) -> None:
    left = cluster.checks.left()
    if left:
        raise Violation(f"accepted means it will end (P1): {left}")
    tables = {host.name: host.rows.table for host in cluster.hosts()}
    images = {name: table.dump() for name, table in tables.items()}
    if len(set(images.values())) != 1 or len({host.rows.digest for host in cluster.hosts()}) != 1:
        raise Violation("same state: the tables of the agents differ")
    rows = next(iter(tables.values())).rows
    for run_id, state in cluster.checks.final.items():
        if rows.finished[run_id].state is not state:
            raise Violation(f"final is final (P4): {run_id} was {state}, is {rows.finished[run_id].state}")
    for key, run_id in cluster.checks.answers.items():
        if rows.requests[key].run_id != run_id:
            raise Violation(f"same request, same run (P2): {key} was {run_id}, is {rows.requests[key].run_id}")
    check_durable(cluster.observer, cluster.hosts())
