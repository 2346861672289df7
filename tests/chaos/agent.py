"""One agent's process: the parts of `agent.daemon` that decide about attempts, wired in the same way."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from agent import leader as leader_module
from agent import presence as presence_module
from agent import replica as replica_module
from agent import retired as retired_module
from agent.attempt import Driven, Intent
from agent.cluster import gossip as gossip_module
from agent.cluster.calls import Calls
from agent.cluster.forward import Forward
from agent.cluster.gossip import Gossiping
from agent.cluster.leases import Leases
from agent.leader import lead
from agent.outputs import Taken
from agent.peers import Peers
from agent.prepare import Settings
from agent.presence import Presence
from agent.runtable.model import Agent, Run
from agent.worker import Worker
from executors.base import AttemptSpec
from tests.chaos.driver import SimulatedReplica
from tests.chaos.engine import SimulatedExecutor
from tests.chaos.watchdog import WatchdogClient
from transport.frames import Frame, Kind, Lane
from transport.gossip import Metadata

if TYPE_CHECKING:
    from tests.chaos.cluster import Host

NOWHERE: Final = Path("/nonexistent/attempts")
TIMED: Final = (leader_module, presence_module, replica_module, retired_module, gossip_module)


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


SIMULATED_TIME: Final = SimpleNamespace(
    monotonic=_loop_time,
    monotonic_ns=lambda: int(_loop_time() * 10**9),
    time=_loop_time,
    time_ns=lambda: int(_loop_time() * 10**9),
)


class Wire:
    """`cluster.calls.Wire` and what gossip needs of `peers.Peers`, over the simulated network."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.own_id = host.id
        self._route = str(host.epoch).encode()  # a connection ends with its process: no later one gets its answers
        self.malformed: Counter[str] = Counter()
        self.on_request: Callable[[Frame], None] = lambda _frame: None
        self.on_answer: Callable[[Frame], None] = lambda _frame: None
        self.on_gossip: Callable[[Frame], None] = lambda _frame: None

    def send_request(self, to: int, lane: Lane, payload: bytes) -> bool:
        """See Wire."""
        return self._send(to, Frame(Kind.REQUEST, lane, self.own_id, 0, payload, self._route))

    def send_answer(self, frame: Frame, payload: bytes) -> bool:
        """See Wire."""
        return self._send(frame.sender, Frame(Kind.ANSWER, frame.lane, self.own_id, 0, payload, frame.route))

    def send_gossip(self, to: int, payload: bytes) -> bool:
        """See Peers."""
        return self._send(to, Frame(Kind.GOSSIP, Lane.GOSSIP, self.own_id, 0, payload))

    def _send(self, to: int, frame: Frame) -> bool:
        if self._host.loop.dead or to not in self._host.cluster.members:
            return False
        return self._host.cluster.network.carry((self.own_id, to), self._host.cluster.arrive, to, frame)

    def arrived(self, frame: Frame) -> None:
        """One has come."""
        if frame.kind is Kind.REQUEST:
            self.on_request(frame)
        elif frame.kind is Kind.ANSWER:
            if frame.route == self._route:
                self.on_answer(frame)
        else:
            self.on_gossip(frame)


class Preparing:
    """What `prepare.Preparer` makes, without files: an attempt says what it is by its environment."""

    def __init__(self, agent: AgentProcess) -> None:
        self._agent = agent

    def directory(self, run_id: str, instance: str, number: int) -> Path:
        """See Preparer."""
        return NOWHERE / run_id / instance / str(number)

    def prepare(
        self, driven: Driven, run: Run, sealed: Mapping[str, tuple[str, bytes]], outputs: object
    ) -> tuple[AttemptSpec, str]:
        """See Preparer."""
        intent = Intent(run.id, driven.instance, driven.number, driven.epoch, driven.executor, "", "")
        told = {"INTENT": msgspec.json.encode(intent).decode(), "WAITS": "yes" if driven.waits else "no"}
        not_after_s = self._agent.host.boottime_s() + SimulatedExecutor.start_window_s
        directory = self.directory(run.id, driven.instance, driven.number)
        return AttemptSpec(driven.name, directory, NOWHERE, environment=told, not_after_s=not_after_s), ""

    def take_outputs(self, driven: Driven, run: Run, now: object, outputs: object) -> Taken:
        """See Preparer: nothing is put out."""
        return Taken()


class AgentProcess:
    """From a start to the next crash."""

    def __init__(self, host: Host) -> None:
        """Built before anything of it runs: members may step before its loop's first turn."""
        self.host = host
        self.wire = Wire(host)
        self.replica = SimulatedReplica(host)
        self.worker: Worker | None = None
        self.leases: Leases | None = None
        self._description = host.row()

    async def run(self) -> None:
        """Its life."""
        host = self.host
        calls = Calls(self.wire)
        Forward(calls, self.replica)
        leases = self.leases = Leases(
            self.replica, calls, host.name, host.boottime_s, cast("Any", WatchdogClient(host.watchdog))
        )
        worker = self.worker = self._worker(leases)
        presence = Presence(self.replica, self._describe, worker.settled, self._let_go)
        worker.on_ended = presence.changed
        leases.is_stopping = worker.is_stopping
        work: list[Coroutine[Any, Any, None]] = [leases.run_forever(), worker.run_forever(), presence.run_forever()]
        work.append(lead(self.replica, host.unheard))
        if host.cluster.chaos.gossip:
            gossip = Gossiping(self.replica, cast("Peers", self.wire), Metadata(host.name, host.name, "1", {}))
            worker.on_word = gossip.tell
            work.append(gossip.run_forever())
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)

    def _describe(self) -> Agent:
        return self._description

    async def _let_go(self) -> bool:
        return True

    def _worker(self, leases: Leases) -> Worker:
        host = self.host
        executors = {"sim": SimulatedExecutor(host.engine, host.loop)}
        settings = Settings(
            agent_id=host.name,
            attempts=NOWHERE,
            boot_id=host.boot_id,
            boottime_s=host.boottime_s,
            labels={},
            callback_host=lambda _kind: "",
            log_limit_bytes=0,
            keep_ended_s=5.0,
        )
        nothing: Any = None
        no_blobs: Any = SimpleNamespace(blobs=None)
        worker = Worker(
            self.replica, cast("Any", host.journal), nothing, executors, no_blobs, nothing, settings, leases
        )
        worker._preparer = worker.leftovers._preparer = cast("Any", Preparing(self))
        return worker


def simulated_random(rng: random.Random) -> SimpleNamespace:
    """For modules that draw from the global source."""
    return SimpleNamespace(randrange=rng.randrange)
