"""Agents that found a cluster, on a network and disks that fail, from one seed. No clock, no socket, no file.

In the first part messages are lost, doubled, late; links are cut, names do not resolve, agents crash before and after
everything they are told to do, and lose disks: as many that hold a promise as `formation` bears, and any that hold
none. Then all heals, everybody is up, and within `ROUNDS_MAX` ticks all must belong to one cluster.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.cluster.formation import (
    TICK_MS,
    Action,
    Answered,
    Ask,
    Asked,
    Event,
    Fail,
    Formation,
    Found,
    Join,
    Member,
    Say,
    Store,
    Stored,
    Tick,
)
from agent.cluster.standing import AnyQuestion, Founder, FoundingSet, Record, Standing

FAULTS_MS = 120_000
ROUNDS_MAX = 100  # of ticks; 60 of them are the patience with a member that is not heard
SERVICE = "all:1"  # an entry behind which every agent is


class Broken(Exception):
    """A promise of the agreement does not hold."""


@dataclass
class Disk:
    """What survives a crash. began: the set that the log began with. joined: the cluster that was entered."""

    me: Founder
    record: Record = field(default_factory=Record)
    began: FoundingSet | None = None
    joined: str = ""

    @property
    def cluster(self) -> str:
        return self.began.cluster if self.began else self.joined


class Host:
    """An address, its disk, and the agent that runs there. life: counts its starts, 0 = it has never run."""

    def __init__(self, world: World, address: str) -> None:
        self.world, self.address = world, address
        self.disk = world.blank(address)
        self.formation: Formation | None = None
        self.life = 0
        self.stuck = False

    def start(self) -> None:
        disk = self.disk
        member = Member(disk.cluster, 1, (disk.me,)) if disk.cluster else None
        self.life += 1
        self.stuck = False
        expect = self.world.expect if self.address in self.world.join else 0
        jitter = self.world.random.randrange
        self.formation = self.world.kind(disk.me, self.world.join, expect, disk.record, jitter=jitter, member=member)
        self.later(self.world.random.randrange(TICK_MS), self.tick)

    def stop(self) -> None:
        self.formation = None

    def later(self, delay_ms: int, work: Callable[[], None]) -> None:
        """Do it in this life, or never."""
        life = self.life
        self.world.later(delay_ms, lambda: work() if self.formation is not None and self.life == life else None)

    def tick(self) -> None:
        self.step(Tick(self.world.resolved()))
        self.later(TICK_MS if self.world.healed else self.world.tick_ms, self.tick)

    def step(self, event: Event) -> bool:
        """Whether it has survived that, with nothing on its way to the disk."""
        if self.formation is None:
            return False
        clean = True
        for action in self.formation.step(event, self.world.now_ms):
            if self.world.crashes(rarely=isinstance(action, Ask)):
                self.world.crash(self)
                return False
            clean = clean and not isinstance(action, Store)
            self.carry_out(action)
        return clean

    def carry_out(self, action: Action) -> None:
        world, disk = self.world, self.disk
        match action:
            case Ask():
                world.ask(self, action.address, action.question)
            case Store():
                self.later(world.random.randrange(world.disk_ms), lambda: self.store(disk, action.record))
            case Found():
                world.check_found(action.founders)
                if not world.healed and world.random.random() < world.silence:
                    world.isolate(self)  # the worst moment: it knows, and nobody else may
                self.later(world.random.randrange(400), lambda: self.begin(disk, action.founders))
            case Join():
                world.check_cluster(action.cluster)
                self.later(world.random.randrange(400), lambda: self.enter(disk, action))
            case Say():
                self.stuck = self.stuck or action.stuck
                world.said.add(action.message)
            case Fail():
                raise Broken(f"{self.address} gives up: {action.message}")

    def store(self, disk: Disk, record: Record) -> None:
        disk.record = record  # from here on it is durable, whether the agent lives to know it or not
        if self.world.crashes():
            self.world.crash(self)
        else:
            self.step(Stored())

    def begin(self, disk: Disk, founders: FoundingSet) -> None:
        disk.began = founders

    def enter(self, disk: Disk, join: Join) -> None:
        host = self.world.hosts[join.address]
        if self.formation is not None and not disk.cluster and host.formation and host.disk.cluster == join.cluster:
            disk.joined = join.cluster
            self.step(Member(join.cluster, 1, join.members))


class World:
    """kind: the class of Formation under test. trace: of what has happened, for people."""

    def __init__(self, seed: int, kind: type[Formation] = Formation) -> None:
        self.random = rng = random.Random(seed)
        self.kind = kind
        self.now_ms = 0
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        running = rng.randint(1, 7) if rng.random() < 0.1 else rng.randint(3, 7)
        self.has_service = running > 2 and rng.random() < 0.1
        size = min(running + (rng.randint(0, 3) if rng.random() < 0.5 else 0), 2 * running - 1 - self.has_service)
        addresses = [f"h{number}:1" for number in range(size)]
        self.join = [*addresses, *([SERVICE] if self.has_service else [])]
        rng.shuffle(self.join)
        self.expect = rng.randint(len(self.join) // 2 + 1, running)
        self.hosts = {one: Host(self, one) for one in addresses[:running]}
        for number in range(rng.choice((0, 0, 1, 2))):
            address = f"j{number}:1"
            self.hosts[address] = Host(self, address)
        self.may_lose = 2 * self.expect - len(self.join) - 1  # disks with a promise
        self.loss, self.slow_ms = rng.choice((0.0, 0.1, 0.4)), rng.choice((20, 400, 4000))
        self.doubt = rng.choice((0.0, 0.05, 0.3))  # of crashing at a step
        self.wipe = rng.choice((0.0, 0.3, 0.6))  # of coming back without a disk
        gaps = rng.choice((0.0, 0.2, 0.5))  # how many links are cut at first
        pairs = [frozenset((one, other)) for one in self.hosts for other in self.hosts if one < other]
        self.cut = {one for one in pairs if rng.random() < gaps}
        self.silence = rng.choice((0.0, 0.9))  # of being cut off when founding
        self.calm_ms = rng.choice((1_000, 5_000, 20_000))  # between faults, at most
        self.tick_ms = rng.choice((TICK_MS, 4 * TICK_MS))  # a slow name server holds ticks up
        self.disk_ms = rng.choice((10, 100, 2_000))  # a disk needs for a record, at most
        self.healed = False
        self.complete: set[FoundingSet] = set()
        self.said: set[str] = set()

    def blank(self, address: str) -> Disk:
        """Of an agent that starts for the first time."""
        node = self.random.randint(1, 2**40)
        return Disk(Founder(f"a{node}", node, address))

    def later(self, delay_ms: int, work: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._agenda, (self.now_ms + delay_ms, self._count, work))

    def go_to(self, end_ms: int) -> None:
        while self._agenda and self._agenda[0][0] <= end_ms:
            self.now_ms, _, work = heapq.heappop(self._agenda)
            work()
        self.now_ms = end_ms

    # -- the network -------------------------------------------------------------------------------------------------

    def resolved(self) -> dict[str, tuple[str, ...]]:
        names: dict[str, tuple[str, ...]] = {one: (one,) for one in self.join if one != SERVICE}
        if not self.healed and self.loss and self.random.random() < 0.1:
            names[self.random.choice(sorted(names))] = ()
        return {**names, SERVICE: tuple(sorted(self.hosts))} if self.has_service else names

    def ask(self, host: Host, address: str, question: AnyQuestion) -> None:
        other, life = self.hosts.get(address), host.life

        def answer(standing: Standing) -> None:
            if host.life == life:
                host.step(Answered(address, standing))

        def arrive() -> None:
            if other is None or other.formation is None:
                return
            if other.step(Asked(question)):
                reply()
            else:  # a driver answers when what was to be stored is stored
                other.later(self.disk_ms, reply)

        def reply() -> None:
            if other is not None and other.formation is not None:
                standing = other.formation.standing
                self.send(other.address, host.address, lambda: answer(standing))

        self.send(host.address, address, arrive)

    def send(self, sender: str, to: str, work: Callable[[], None]) -> None:
        copies = 0 if frozenset((sender, to)) in self.cut else 1
        if not self.healed:
            copies = copies and sum(self.random.random() >= self.loss for _ in range(1 + (self.random.random() < 0.1)))
        for _ in range(copies):
            self.later(self.random.randrange(1, 20 if self.healed else self.slow_ms), work)

    # -- faults ------------------------------------------------------------------------------------------------------

    def crashes(self, *, rarely: bool = False) -> bool:
        return not self.healed and self.random.random() < self.doubt / (50 if rarely else 1)

    def crash(self, host: Host) -> None:
        host.stop()
        self.later(self.random.randrange(20_000), lambda: self.restart(host))

    def restart(self, host: Host) -> None:
        if host.formation is not None:
            return
        if not self.healed and self.random.random() < self.wipe:
            holds = host.disk.record.promised is not None
            if not holds or self.may_lose > 0:
                self.may_lose -= holds
                host.disk = self.blank(host.address)
        host.start()

    def nemesis(self) -> None:
        """Something goes wrong, or right again."""
        if self.healed:
            return
        rng = self.random
        host, other = rng.choice(list(self.hosts.values())), rng.choice(list(self.hosts))
        kind = rng.randrange(5)
        if kind == 0:
            self.cut ^= {frozenset((host.address, other))}
        elif kind == 1:
            self.cut.clear()
        elif kind == 2:
            self.isolate(host)
        elif host.formation is not None:
            self.crash(host)
        self.later(self.random.randrange(1, self.calm_ms), self.nemesis)

    def isolate(self, host: Host) -> None:
        self.cut |= {frozenset((host.address, other)) for other in self.hosts if other != host.address}

    # -- what must hold ----------------------------------------------------------------------------------------------

    def check_found(self, founders: FoundingSet) -> None:
        self.complete.add(founders)
        if len(self.complete) > 1:
            raise Broken(f"two sets founded: {self.complete}")
        disks = {one.disk.me: one.disk for one in self.hosts.values()}
        for one in founders.founders:
            if one in disks and disks[one].record.promised != founders:
                raise Broken(f"{one.id} has not promised what is founded")

    def check_cluster(self, cluster: str) -> None:
        if cluster not in {one.cluster for one in self.complete}:
            raise Broken(f"cluster {cluster} is joined, and was never founded")

    def all_belong(self) -> bool:
        return all(host.disk.cluster for host in self.hosts.values())

    def operator(self) -> None:
        """Do what the agents ask for: those that say that they are stuck begin with empty directories."""
        stuck = [host for host in self.hosts.values() if host.stuck]
        if stuck and not any(host.disk.cluster for host in self.hosts.values()):
            self.complete.clear()  # of a set that was founded no log is left, nor a promise when this is done
            for host in stuck:
                host.disk = self.blank(host.address)
                host.start()

    def run(self) -> int:
        """Returns how many rounds it took after all was well. Raises Broken."""
        for host in self.hosts.values():
            self.later(self.random.randrange(self.random.choice((1000, 60_000))), lambda host=host: self.restart(host))  # type: ignore[misc]
        self.later(self.random.randrange(1, self.calm_ms), self.nemesis)
        end_ms = self.random.randrange(FAULTS_MS)
        while self.now_ms < end_ms and not self.all_belong():
            self.go_to(self.now_ms + 1_000)
        self.healed, self.cut = True, set()
        for host in self.hosts.values():
            if host.formation is None:
                host.start()
        for rounds in range(ROUNDS_MAX):
            self.operator()
            if self.all_belong():
                return rounds
            self.go_to(self.now_ms + TICK_MS)
        raise Broken(f"after {ROUNDS_MAX} rounds: {[(h.address, h.disk) for h in self.hosts.values()]}")


def failure(seed: int, kind: type[Formation] = Formation) -> str | None:
    """What breaks in the run of a seed; None = nothing."""
    try:
        World(seed, kind).run()
    except (Broken, AssertionError) as error:
        return f"{type(error).__name__}: {error}"
    return None
