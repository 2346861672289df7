"""The world in which attempts run, and the engine of each host that starts and ends them.

`World` is where P3 is seen: no attempt begins twice, no two attempts of an instance run at once, none begins that was
not meant to, durably. An engine and what it runs outlive their agent; a reboot ends both.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import msgspec

from agent.attempt import Intent
from executors.base import AttemptSpec, LogLine, Outcome, Started
from executors.errors import StartRefused, StateLost, Unsettled
from tests.chaos.journal import MemoryJournal
from tests.chaos.loop import SimulatedLoop
from tests.simulator.invariants import Violation

T = TypeVar("T")

ANSWER_S: Final = 5.0  # an engine that takes longer has not answered
DEATH_SHARE: Final = 0.5  # of the terms' kill: what is left of it, is for the detection


class Site(Protocol):
    """The host of an engine (`cluster.Host`)."""

    name: str
    journal: MemoryJournal
    engine: Engine
    engine_hangs_until: int
    boot: int

    def boottime_s(self) -> float: ...
    def wall_ms(self) -> int: ...
    def engine_ms(self) -> float: ...
    def death_ms(self) -> float: ...
    def later(self, seconds: float, call: Callable[..., object], *args: object) -> None: ...


@dataclass(slots=True)
class Work:
    """One attempt that has begun. kill_s: when it is killed at the latest, by its host's clock."""

    name: str
    intent: Intent
    waits: bool
    begun_ms: int
    stubborn: bool
    exit_code: int
    outcome: Outcome | None = None
    kill_s: float = float("inf")
    watchers: list[tuple[SimulatedLoop, asyncio.Future[Outcome]]] = field(default_factory=list)


class World:
    """Outside of prime: what really began and ended."""

    def __init__(self, fail: Callable[[Violation], None]) -> None:
        self._fail = fail
        self.begun: set[str] = set()
        self.running: dict[tuple[str, str], Work] = {}
        self.counts: Counter[str] = Counter()

    def begin(self, site: Site, work: Work) -> None:
        """An attempt begins."""
        key = (work.intent.run_id, work.intent.instance)
        entry = site.journal.get(work.name)
        if work.name in self.begun:
            self._fail(Violation(f"one start (P3): {work.name} begins again, on {site.name}"))
        elif key in self.running:
            self._fail(Violation(f"one attempt at a time (P3): {work.name} begins, {self.running[key].name} runs"))
        elif entry is None or entry.payload is None or entry.refused is not None or entry.outcome is not None:
            self._fail(
                Violation(f"intent before start (P3): {work.name} begins on {site.name}, whose journal: {entry}")
            )
        self.begun.add(work.name)
        self.running[key] = work
        self.counts["attempts begun"] += 1

    def end(self, work: Work) -> None:
        """An attempt has ended."""
        key = (work.intent.run_id, work.intent.instance)
        if self.running.get(key) is work:
            del self.running[key]


class Engine:
    """Of one host. Its own state is durable: a process's directory, a container."""

    def __init__(self, site: Site, world: World) -> None:
        self.site, self.world = site, world
        self.works: dict[str, Work] = {}
        self.never: dict[str, str] = {}

    # -- starting ----------------------------------------------------------------------------------------------------

    def start(self, spec: AttemptSpec) -> Started:
        """As a task begins: the last thing before it is a look at the clock."""
        work = self.works.get(spec.name)
        if work is None:
            if self.site.boottime_s() > spec.not_after_s:
                self.never.setdefault(spec.name, "the start came after its not-after")
            if spec.name in self.never:
                self.world.counts["starts that came too late"] += 1
                raise StartRefused(f"{spec.name}: {self.never[spec.name]}")
            work = self._begin(spec)
        return Started(spec.name, work.begun_ms)

    def _begin(self, spec: AttemptSpec) -> Work:
        intent = msgspec.json.decode(spec.environment["INTENT"], type=Intent)
        chance = zlib.crc32(spec.name.encode())
        exit_code = int(chance % 5 == 0)
        waits = spec.environment["WAITS"] == "yes"
        work = Work(spec.name, intent, waits, self.site.wall_ms(), chance % 3 == 0, exit_code)
        self.works[spec.name] = work
        self.world.begin(self.site, work)
        self.site.later(_duration_s(chance), self._ends_by_itself, work)
        return work

    def _ends_by_itself(self, work: Work) -> None:
        self._ended(work, Outcome(work.exit_code, "exit_code" if work.exit_code else None))

    # -- ending ------------------------------------------------------------------------------------------------------

    def stop(self, name: str, grace_s: float) -> None:
        """SIGTERM now, SIGKILL when the grace is over. What has not begun never will."""
        work = self.works.get(name)
        if work is None:
            self.never.setdefault(name, "a stop came before the start")
        else:
            self.end(work, self.site.boottime_s() + grace_s)

    def end(self, work: Work, kill_s: float) -> None:
        """SIGTERM now, SIGKILL at a time of the host's clock; then it still takes what a death takes."""
        if work.outcome is not None or kill_s >= work.kill_s:
            return
        work.kill_s = kill_s
        left_s = max(0.0, kill_s - self.site.boottime_s())
        takes_s = left_s + self.site.death_ms() / 1000 if work.stubborn else min(left_s, 0.1)
        self.site.later(takes_s, self._ended, work, Outcome(137, "exit_code", "a signal has ended it"))

    def _ended(self, work: Work, outcome: Outcome) -> None:
        if work.outcome is not None:
            return
        self.world.end(work)
        work.outcome = Outcome(
            outcome.exit_code, outcome.reason, outcome.message, work.begun_ms, self.site.wall_ms(), {}
        )
        for loop, future in work.watchers:
            loop.call_soon(_tell, future, work.outcome)
        work.watchers.clear()

    def reboot(self) -> None:
        """The power has failed."""
        for work in self.works.values():
            self._ended(work, Outcome(None, "agent_lost", "its host has rebooted"))

    def get(self, name: str) -> Work:
        """Raises StateLost."""
        if name not in self.works:
            raise StateLost(f"{name}: there was no start of it")
        return self.works[name]


def _duration_s(chance: int) -> float:
    """Most work is short, some outlasts any lease."""
    return float((0.05, 0.2, 1, 1, 3, 8, 20, 60)[(chance >> 8) % 8])


def _tell(future: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not future.done():
        future.set_result(outcome)


class SimulatedExecutor:
    """`executors.base.Executor` for one process of an agent. A request is carried out though its agent dies of it."""

    kind = "sim"
    fenceable = True
    captures_logs = True
    start_window_s = 8.0
    absence_is_proof = False

    def __init__(self, engine: Engine, loop: SimulatedLoop) -> None:
        self._engine, self._loop = engine, loop

    def how_to_end(self, name: str, directory: Path) -> dict[str, Any]:
        """See `agent.watchdog.how_to_end`."""
        return {"kind": "sim", "name": name}

    async def _ask(self, what: Callable[[], T]) -> T:
        """The engine does it when it comes to that. Raises Unsettled where that is not known in time."""
        future: asyncio.Future[T] = self._loop.create_future()

        site, boot = self._engine.site, self._engine.site.boot

        def carry_out() -> None:
            if site.boot != boot:
                return  # what it was asked for has ended with its host
            try:
                result = what()
            except Exception as error:
                self._loop.call_soon(_fail, future, error)
            else:
                self._loop.call_soon(_done, future, result)

        if not self._loop.dead:
            site.later(site.engine_ms() / 1000, carry_out)
        try:
            async with asyncio.timeout(ANSWER_S):
                return await future
        except TimeoutError:
            self._engine.world.counts["engine does not answer"] += 1
            raise Unsettled("the engine does not answer") from None

    async def open(self) -> None:
        """It is there."""

    async def fetch(self, spec: AttemptSpec) -> None:
        """There is nothing to get."""

    async def start(self, spec: AttemptSpec) -> Started:
        """See `Executor`."""
        return await self._ask(lambda: self._engine.start(spec))

    async def attach(self, name: str, directory: Path) -> Started | None:
        """See `Executor`."""
        works = self._engine.works
        return await self._ask(lambda: Started(name, works[name].begun_ms) if name in works else None)

    async def wait(self, name: str, directory: Path) -> Outcome:
        """See `Executor`."""
        work = await self._ask(lambda: self._engine.get(name))
        return await self._ended(work)

    async def _ended(self, work: Work) -> Outcome:
        if work.outcome is not None:
            return work.outcome
        future: asyncio.Future[Outcome] = self._loop.create_future()
        work.watchers.append((self._loop, future))
        return await future

    async def stop(self, name: str, directory: Path, grace_s: float) -> None:
        """See `Executor`."""
        await self._ask(lambda: self._engine.stop(name, grace_s))
        work = self._engine.works.get(name)
        if work is not None:
            await self._ended(work)

    def logs(self, name: str, directory: Path, since_ns: int = 0, *, follow: bool = False) -> AsyncIterator[LogLine]:
        """It captures them."""
        raise NotImplementedError

    async def remove(self, name: str, directory: Path) -> None:
        """See `Executor`. What is kept of the name is kept: nothing here needs the room."""
        await self._ask(lambda: None)

    async def list_names(self, labels: Mapping[str, str]) -> frozenset[str]:
        """See `Executor`: what still runs."""
        return await self._ask(
            lambda: frozenset(one.name for one in self._engine.works.values() if one.outcome is None)
        )

    async def callback_host(self) -> str | None:
        """Nothing calls back."""
        return None

    async def close(self) -> None:
        """Nothing to let go of."""


def _done(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
