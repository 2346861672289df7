"""Hosts and their agents, on the simulator's cluster: a member whose state machine is the run table, and what is above.

A host has a clock, a disk with log and journal, a watchdog and an engine; these outlive the agent's process.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, cast

from agent.runtable.model import Agent, Leases, Project, TableImage
from agent.runtable.table import Table
from consensus.configuration import decode
from consensus.messages import ConfState, EntryKind, HardState, Snapshot, SnapshotMeta
from consensus.node import Config
from consensus.ready import ReadState
from consensus.storage import MemoryStorage
from tests.chaos.agent import AgentProcess
from tests.chaos.checks import Checks
from tests.chaos.engine import Engine, World
from tests.chaos.journal import MemoryJournal
from tests.chaos.loop import SimulatedLoop
from tests.chaos.machine import TableImage as MachineImage
from tests.chaos.machine import TableMachine
from tests.chaos.plan import Chaos
from tests.chaos.watchdog import WatchdogProcess
from tests.simulator.cluster import FOUNDING, Cluster, Process
from tests.simulator.disk import Disk
from tests.simulator.invariants import Violation
from tests.simulator.machine import Image, Machine
from tests.simulator.member import Options
from tests.simulator.plan import TICK, Fault
from transport.frames import Frame

CLUSTER: Final = "sim"
PROJECT: Final = "p"
EPOCH_MS: Final = 1_700_000_000_000
SLOTS: Final = 3
SNAPSHOT_EVERY: Final = 60
SLICE_MS: Final = 100


def row_of(node: int) -> Agent:
    """An agent's row, as it describes itself."""
    name = f"a{node}"
    return Agent(name, 1, f"{name}:1", f"{name}:2", SLOTS, ("sim",), "1", node=node)


class Host(Process):
    """See the module. rate: how fast its clock goes. boot: counts its boots."""

    def __init__(self, cluster: ChaosCluster, node_id: int, disk: Disk, rng: random.Random) -> None:
        super().__init__(cluster, node_id, disk, rng)
        self.cluster = cluster
        self.name = f"a{node_id}"
        self.rate = 1 + cluster.chaos.drift * rng.choice([-1, -1, 1, 1, rng.uniform(-1, 1)])
        self.skew_ms = rng.randrange(cluster.chaos.skew_ms + 1)
        self.boot, self._boot_at, self._boot_s = 1, cluster.agenda.now, rng.uniform(100, 10_000)
        self.journal = MemoryJournal()
        self.engine_hangs_until = 0
        self.engine = Engine(self, cluster.world)
        self.watchdog = WatchdogProcess(self)
        self.agent: AgentProcess | None = None
        self._seen: tuple[object, ...] = ()

    # -- its clocks --------------------------------------------------------------------------------------------------

    @property
    def boot_id(self) -> str:
        """Of this boot."""
        return f"{self.name}-{self.boot}"

    def boottime_s(self) -> float:
        """CLOCK_BOOTTIME."""
        return self._boot_s + (self.cluster.agenda.now - self._boot_at) * self.rate / 1000

    def real_ms(self, seconds: float) -> float:
        """See `loop.Clock`."""
        return 1000 * seconds / self.rate

    def wall_ms(self) -> int:
        """Milliseconds since the epoch, as this host has it."""
        return EPOCH_MS + self.skew_ms + round(self.cluster.agenda.now * self.rate)

    def later(self, seconds: float, call: Callable[..., object], *args: object) -> None:
        """Call when so much has passed by this host's clock."""
        self.cluster.agenda.after(max(0, math.ceil(self.real_ms(seconds))), call, *args)

    def reboot(self) -> None:
        """The host's power fails: what runs on it ends, its clock begins again."""
        self.engine.reboot()
        self.boot, self._boot_at, self._boot_s = self.boot + 1, self.cluster.agenda.now, self.rng.uniform(5, 50)
        self.watchdog.reboot()

    # -- what engine, watchdog and threads take ----------------------------------------------------------------------

    def engine_ms(self) -> float:
        """How long the engine takes for the next request."""
        late = max(0, self.engine_hangs_until - self.cluster.agenda.now)
        return late + self.rng.choice([2, 10, 50]) * (0.5 + self.rng.random())

    def death_ms(self) -> float:
        """What SIGKILL takes: at most half of what the terms in force give to detection, engine and death."""
        leases = self.rows.table.rows.leases
        kill_ms = min(one.kill_ms for one in (leases.terms, leases.before) if one is not None)
        return 0.5 * kill_ms * self.rng.random()

    def thread_ms(self) -> float:
        """What a call in a thread takes, which may wait for the disk."""
        late = max(0, self.stalled_until - self.cluster.agenda.now)
        return late + 1 + self.cluster.journal_ms * self.rng.random()

    # -- its agent ---------------------------------------------------------------------------------------------------

    @property
    def rows(self) -> TableMachine:
        """The state machine, as what it is here."""
        return cast("TableMachine", self.machine)

    def row(self) -> Agent:
        """How the agent describes itself."""
        return row_of(self.id)

    def unheard(self) -> frozenset[int]:
        """Whom the leader gives nothing: nobody, so that more goes wrong."""
        return frozenset()

    def agent_runs(self) -> bool:
        """Whether there is a process."""
        return self.node is not None

    def agent_answers(self) -> bool:
        """Whether it does not stand still."""
        return self.node is not None and not self.paused

    def kill_agent(self) -> None:
        """The watchdog does."""
        self.cluster.counts["agents killed by their watchdog"] += 1
        self.cluster.crash(self, self.rng.choice([200, 3000, 20_000]))

    def make_machine(self) -> Machine:
        """See Member."""
        return cast("Machine", TableMachine(self.cluster.checks))

    def config(self) -> Config:
        """See Member; as `agent.driver` has it."""
        return replace(super().config(), forward_proposals=False)

    def start(self) -> None:
        """See Member."""
        super().start()
        self.period = round(TICK / self.rate)
        self.loop = SimulatedLoop(  # type: ignore[abstract]
            self.cluster.agenda, self, self.thread_ms, self.cluster.failed
        )
        self.agent = AgentProcess(self)
        self._seen = ()
        task = self.loop.create_task(self.agent.run(), name="agent")
        task.add_done_callback(lambda task, loop=self.loop: self._ended(task, loop))  # type: ignore[misc]

    def _ended(self, task: asyncio.Task[None], loop: SimulatedLoop) -> None:
        if not loop.dead:
            error = None if task.cancelled() else task.exception()
            self.cluster.failed(f"agents do not end: {self.name}: {error!r}")

    def crash(self, *, torn: bool) -> str:
        """See Member."""
        self.agent = self.watchdog.agent = None
        self.loop.kill()
        return super().crash(torn=torn)

    # -- the member's part -------------------------------------------------------------------------------------------

    @property
    def driver(self) -> Any:
        """The simulated driver of this process."""
        assert self.agent is not None
        return self.agent.replica.driver

    def tick(self) -> None:
        """See Member."""
        super().tick()
        self.driver.tick()

    def confirmed(self, state: ReadState) -> None:
        """See Member."""
        self.driver.confirmed(state)

    def apply_snapshot(self) -> None:
        """See Member."""
        super().apply_snapshot()
        assert self.ready is not None
        if self.ready.snapshot is not None:
            meta = self.ready.snapshot.meta
            assert self.agent is not None
            self.agent.replica.table = self.rows.table
            self.driver.restored(meta.index, meta.term)

    def apply_next(self) -> None:
        """See Member."""
        assert self.node is not None
        entry = self.unapplied.popleft()
        if entry.kind is EntryKind.CONF_CHANGE:
            self.conf_state = self.node.apply_conf_change(decode(entry.data))
            self.cluster.observer.configured(self, self.conf_state)
        self.driver.applied(entry, self.rows.apply(entry))

    def advance(self) -> None:
        """See Member."""
        applied = self.applying
        super().advance()
        if applied and self.agent is not None:
            self.driver.advanced(self.machine.index)
            self.agent.replica._wake()

    def pump(self) -> None:
        """See Member."""
        super().pump()
        if self.node is not None and self.agent is not None:
            seen = (self.node.role, self.node.leader, self.node.term)
            if seen != self._seen:
                self._seen = seen
                self.agent.replica._on_role(self.node.role)


class ChaosCluster(Cluster):
    """See the module. known: the highest index that any client was told of."""

    def __init__(self, chaos: Chaos, *, trace: list[str] | None = None) -> None:
        self.chaos = chaos
        self.world = World(self.broke)
        self.checks = Checks(self)
        self.broken: Violation | None = None
        self.known = 0
        self.journal_ms = 100.0 if Fault.SLOW_DISK in chaos.core.faults else 5.0
        super().__init__(chaos.core, trace=trace)

    def _found(self) -> None:
        voters = tuple(range(1, self.plan.nodes + 1))
        self.options = _options(self.options, self.plan.faults)
        self.observer.joined.update(voters)
        rows = TableImage(
            index=FOUNDING.index,
            cluster=CLUSTER,
            agents={f"a{node}": row_of(node) for node in voters},
            projects={PROJECT: Project()},
            leases=Leases(self.chaos.terms),
        )
        self.images[b"1"] = cast("Image", MachineImage(FOUNDING.index, 0, Table(rows).dump()))
        meta = SnapshotMeta(FOUNDING.index, FOUNDING.term, ConfState(voters))
        for node in voters:
            storage = MemoryStorage(Snapshot(meta, b"1"), HardState(FOUNDING.term, 0, FOUNDING.index))
            self.start(self._add(node, storage))

    def _add(self, node: int, storage: MemoryStorage) -> Process:
        host = Host(self, node, Disk(storage), random.Random(self.rng.getrandbits(32)))
        self.members[node] = host
        return host

    def hosts(self) -> list[Host]:
        """All of them."""
        return [cast("Host", one) for one in self.members.values()]

    def host(self, name: str) -> Host:
        """The agent's of that name."""
        return cast("Host", self.members[int(name[1:])])

    # -- what goes wrong ---------------------------------------------------------------------------------------------

    def broke(self, violation: Violation) -> None:
        """A promise is broken: the run ends."""
        self.broken = self.broken or violation

    def failed(self, text: str) -> None:
        """Something that nobody has foreseen."""
        self.broke(Violation(text))

    def run(self, until: int) -> None:
        """Let time pass. Raises Violation."""
        while self.agenda.now < until:
            self.agenda.run(min(until, self.agenda.now + SLICE_MS))
            if self.broken is not None:
                raise self.broken

    # -- processes ---------------------------------------------------------------------------------------------------

    def crash(self, process: Process, down: float) -> None:
        """See Cluster. With its watchdog dead, an agent is started at once: else nobody guards (ARCHITECTURE.md)."""
        host = cast("Host", process)
        super().crash(process, down if host.watchdog.alive else min(down, 100))

    def pause(self, process: Process, time: float) -> None:
        """See Cluster."""
        host = cast("Host", process)
        if host.watchdog.alive and not host.paused and host.node is not None:
            host.loop.pause()
            super().pause(process, time)

    def resume(self, process: Process, epoch: int) -> None:
        """See Cluster."""
        super().resume(process, epoch)
        host = cast("Host", process)
        if host.node is not None and not host.paused:
            host.loop.resume()

    def arrive(self, to: int, frame: Frame) -> None:
        """A question, an answer or gossip reaches a host."""
        host = cast("Host", self.members[to])
        if host.agent is not None:
            host.loop.call_soon(host.agent.wire.arrived, frame)

    def begin_snapshot(self, member: Any, conf_state: ConfState, image: Image) -> None:
        """See Cluster. Old images are dropped: no disk holds them any more."""
        oldest = min(one.disk.snapshot_index for one in self.members.values())
        for name in [name for name in self.images if int(name) < oldest]:
            del self.images[name]
        super().begin_snapshot(member, conf_state, image)

    def heal(self) -> None:
        """See Cluster."""
        self.journal_ms = 5.0
        for host in self.hosts():
            host.engine_hangs_until = 0
        super().heal()
        for host in self.hosts():
            host.period = round(TICK / host.rate)


def _options(options: Options, faults: frozenset[Fault]) -> Options:
    every = SNAPSHOT_EVERY if Fault.COMPACTION in faults else 0
    return replace(options, snapshot_every=every, snapshot_keep=10)
