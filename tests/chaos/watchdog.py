"""The watchdog beside each agent, as a thin model of `executors.fence` around the real `executors.fence_state.Watched`,
and the agent's side of it (`agent.watchdog.Watching`).

It outlives its agent and is never paused with it. When the lease's end comes it kills an agent that does not answer,
notes what it fences and ends it, as `fence._enforce`, `_agent_is_settled` and `_mark` do, with their times.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, Protocol

from agent.gate import Guarded
from agent.watchdog import NoWatchdog
from executors.fence import MARK_S, REPLY_S
from executors.fence_state import NEVER, Guard, Watched
from tests.chaos.engine import Engine

ANSWER_S: Final = 0.005
SYNC_S: Final = 0.02  # for what has to be durable before it is answered
START_S: Final = 0.2


class Site(Protocol):
    """The host of a watchdog (`cluster.Host`)."""

    engine: Engine

    def boottime_s(self) -> float: ...
    def wall_ms(self) -> int: ...
    def later(self, seconds: float, call: Callable[..., object], *args: object) -> None: ...
    def agent_runs(self) -> bool: ...
    def agent_answers(self) -> bool: ...
    def kill_agent(self) -> None: ...


class WatchdogProcess:
    """Of one host. alive: it may be killed; what it knows stands on disk, but after a reboot (`StateFile._read`)."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.watched = Watched()
        self.alive = True
        self.agent: WatchdogClient | None = None
        self._enforcing = False
        self._look_s = float("inf")

    def changed(self) -> None:
        """Look again when the next lease ends."""
        due_s = self.watched.next_due_s()
        if self.alive and not self._enforcing and due_s < float("inf"):
            left_s = max(0.0, due_s - self._site.boottime_s())
            self._look_s = due_s
            self._site.later(left_s, self._enforce, due_s)

    def _enforce(self, due_s: float) -> None:
        if not self.alive or self._enforcing or due_s != self._look_s:
            return
        if not self.watched.due(self._site.boottime_s()):
            self.changed()
            return
        self._enforcing = True
        if not self._site.agent_runs() or self._site.agent_answers():
            self._site.later(ANSWER_S, self._mark)
        else:
            self._site.later(min(REPLY_S, self.watched.stop_s / 3), self._end_stuck_agent)

    def _end_stuck_agent(self) -> None:
        if self.alive and self._site.agent_runs() and not self._site.agent_answers():
            self._site.kill_agent()
        self._mark()

    def _mark(self) -> None:
        self._enforcing = False
        if not self.alive:
            return
        due = self.watched.due(self._site.boottime_s())
        for guard in due:
            self._note(guard)
        self._site.later(MARK_S * 0.9, self._end, [(one, self._kill_s(one)) for one in due])
        self.changed()

    def _note(self, guard: Guard) -> None:
        at_ms = self._site.wall_ms()
        self.watched.fence(guard.name, at_ms)
        self._site.engine.world.counts["fenced by a watchdog"] += 1
        if self.agent is not None:
            self.agent.fenced(guard.name, at_ms)

    def _kill_s(self, guard: Guard) -> float:
        until_s = self.watched.until(guard.epoch)
        return self._site.boottime_s() if until_s == NEVER else until_s + self.watched.stop_s

    def _end(self, guards: list[tuple[Guard, float]]) -> None:
        """A start is still refused by its not-after; what has begun is found by its mark, not by its engine."""
        for guard, kill_s in guards:
            work = self._site.engine.works.get(guard.name)
            if self.alive and work is not None:
                self._site.engine.end(work, kill_s)

    # -- its own life ------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """SIGKILL."""
        self.alive = self._enforcing = False
        agent, self.agent = self.agent, None
        if agent is not None:
            agent.lost()

    def start(self) -> None:
        """It knows what the one before has written; what that one has fenced is ended again."""
        self.alive = True
        again = [one for one in self.watched.guards.values() if one.name in self.watched.fenced]
        self._end([(one, NEVER) for one in again])
        self.changed()

    def reboot(self) -> None:
        """What it guarded has ended with the boot; what was fenced is still told."""
        before, self.watched = self.watched, Watched()
        self.watched.fenced = before.fenced
        self._enforcing, self.agent = False, None


class WatchdogClient:
    """`agent.watchdog.Watching` for one process of an agent."""

    def __init__(self, process: WatchdogProcess) -> None:
        self._process = process
        self._guarded: dict[str, Guarded] = {}
        self._released: set[str] = set()
        self._fenced: dict[str, int] = {}
        self._changed: asyncio.Future[None] | None = None
        self._gone: asyncio.Future[None] | None = None
        self.found: frozenset[str] = frozenset()
        self.ready = False

    # -- what the watchdog says --------------------------------------------------------------------------------------

    def fenced(self, name: str, at_ms: int) -> None:
        """It ends this one."""
        self._fenced[name] = at_ms
        self._wake()

    def lost(self) -> None:
        """It was killed."""
        self.ready = False
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
        self._wake()

    # -- agent.watchdog.Watching -------------------------------------------------------------------------------------

    async def run_forever(self) -> None:
        """See `Watching`."""
        while True:
            self._gone = asyncio.get_running_loop().create_future()
            await self._take_over()
            await asyncio.shield(self._gone)

    async def _take_over(self) -> None:
        if not self._process.alive:
            await asyncio.sleep(START_S)
            self._process.start()
        self._process.agent = self
        watched = self._process.watched
        self.found = self.found or frozenset(watched.guards) | watched.fenced.keys()
        self._fenced.update(watched.fenced)
        with contextlib.suppress(NoWatchdog):  # killed again: the next one is told
            for name, one in list(self._guarded.items()):
                await self.guard(name, one, runs=True)
            for name in sorted(self._released):
                await self.release(name)
            self.ready = True
            self._wake()

    async def _tell(self, seconds: float = ANSWER_S) -> Watched:
        """Raises NoWatchdog."""
        await asyncio.sleep(seconds)
        if self._process.agent is not self or not self._process.alive:
            raise NoWatchdog("there is no watchdog now")
        return self._process.watched

    async def guard(self, name: str, guarded: Guarded, *, runs: bool = False) -> str:
        """See `Watching`."""
        one = Guard(name, guarded.epoch, guarded.waits, guarded.end)
        watched = await self._tell()
        why = watched.may_guard(one, self._process._site.boottime_s(), runs=runs)
        if why:
            return why
        watched.guard(one)
        self._process.changed()
        await self._tell(SYNC_S)
        self._guarded[name] = guarded
        return ""

    async def release(self, name: str) -> None:
        """See `Watching`."""
        self._guarded.pop(name, None)
        self._fenced.pop(name, None)
        self._released.add(name)
        try:
            (await self._tell()).release(name)
            self._released.discard(name)
        except NoWatchdog:
            return

    async def renew(self, until_s: float, epoch: int, stop_s: float) -> bool:
        """See `Watching`."""
        try:
            (await self._tell()).renew(until_s, epoch, stop_s)
        except NoWatchdog:
            return False
        self._process.changed()
        return True

    async def bind(self, until_s: float) -> bool:
        """See `Watching`."""
        try:
            (await self._tell(SYNC_S)).bind(until_s)
        except NoWatchdog:
            return False
        self._process.changed()
        return True

    async def fenced_at_ms(self, name: str) -> int | None:
        """See `Watching`."""
        with contextlib.suppress(NoWatchdog):
            await self._tell()
        return self._fenced.get(name)

    def changed(self) -> asyncio.Future[None]:
        """See `Watching`."""
        if self._changed is None or self._changed.done():
            self._changed = asyncio.get_running_loop().create_future()
        return self._changed

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)
