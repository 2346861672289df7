"""Three members of one kind, and what is measured of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty
from typing import Any, Final

import msgspec

from scripts.bench_consensus.measure import WARM_UP_S, Load, Outage, median_load, outage_of
from scripts.bench_consensus.processes import Child, MemberConfig, MemberDied, free_addresses

MEMBERS: Final = 3
LEADER_S: Final = 30.0
_LOOK_S: Final = 0.005


class Cluster:
    """Three processes of one implementation. `members` are those that run, by id."""

    def __init__(self, module: str, folder: Path, options: dict[str, Any]) -> None:
        """module: the member's program. folder: for their data, one folder below it each. options: see the module."""
        self._module = module
        addresses = dict(enumerate(free_addresses(MEMBERS), 1))
        self._configs = {
            number: MemberConfig(number, str(folder / str(number)), addresses, options) for number in addresses
        }
        for config in self._configs.values():
            Path(config.data_dir).mkdir(parents=True)
        self.members: dict[int, Child] = {}
        self.start()

    def start(self) -> None:
        """Start all members, which do not run."""
        self.members = {number: Child(self._module, config) for number, config in self._configs.items()}

    def leader(self) -> Child:
        """The member that leads, as soon as one does. Raises MemberDied."""
        deadline_s = time.monotonic() + LEADER_S
        while time.monotonic() < deadline_s:
            for child in self.members.values():
                if child.ask("leads"):
                    return child
            time.sleep(_LOOK_S)
        raise MemberDied(f"{self._module}: no leader within {LEADER_S} s")

    def load(self, in_flight: int, seconds: float, repeats: int) -> Load:
        """Closed loops in the leader's process: the run with the median rate of `repeats`, after a warm-up."""
        leader = self.leader()
        leader.ask("load", in_flight=in_flight, seconds=WARM_UP_S)
        return median_load(
            [msgspec.convert(leader.ask("load", in_flight=in_flight, seconds=seconds), Load) for _ in range(repeats)]
        )

    def kill_leader(self) -> tuple[float, float]:
        """SIGKILL the leader. Returns (until another leads, until it committed), in ms; the killed one is back then."""
        leader = self.leader()
        self.await_applied()
        self.forget_events()
        number = leader.config.id
        del self.members[number]
        killed_ns = leader.kill()
        led_ns, committed_ns = self.await_commit(killed_ns)
        self.start_one(number)
        self.await_applied()
        return (led_ns - killed_ns) / 1e6, (committed_ns - killed_ns) / 1e6

    def stop_one(self, number: int) -> None:
        """End one member."""
        self.members.pop(number).stop()

    def start_one(self, number: int) -> None:
        """Start one that does not run."""
        self.members[number] = Child(self._module, self._configs[number])

    def forget_events(self) -> None:
        """What the members have said so far is of no interest any more."""
        for child in self.members.values():
            while not child.events.empty():
                child.events.get()

    def await_commit(self, since_ns: int) -> tuple[int, int]:
        """The last rise to leader before the first commit, and that commit."""
        led_ns = 0
        while time.monotonic_ns() - since_ns < LEADER_S * 1e9:
            for child in self.members.values():
                try:
                    event, at_ns = child.events.get(timeout=_LOOK_S)
                except Empty:
                    continue
                if event == "leader":
                    led_ns = at_ns
                elif event == "commit":
                    return led_ns, at_ns
        raise MemberDied(f"{self._module}: no commit within {LEADER_S} s after the leader was killed")

    def await_applied(self) -> None:
        """Until all are connected and have applied what the leader has now: the next death meets a whole cluster."""
        target = max(self.leader().ask("applied"), 0)
        deadline_s = time.monotonic() + LEADER_S
        while min(child.ask("applied") for child in self.members.values()) < target:
            if time.monotonic() > deadline_s:
                raise MemberDied(f"{self._module}: a member does not catch up")
            time.sleep(_LOOK_S)

    def outages(self, count: int) -> Outage:
        """`count` times `kill_leader`."""
        return outage_of([self.kill_leader() for _ in range(count)])

    def stop(self) -> None:
        """End all members."""
        for child in self.members.values():
            child.stop()
        self.members = {}


@contextmanager
def running(module: str, folder: Path, options: dict[str, Any]) -> Iterator[Cluster]:
    """A cluster for as long as the block lasts."""
    cluster = Cluster(module, folder, options)
    try:
        yield cluster
    except MemberDied as error:
        for path in sorted(folder.glob("*.err")):
            error.add_note(f"{path.name}:\n{path.read_text()[-2000:]}")
        raise
    finally:
        cluster.stop()
