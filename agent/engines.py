"""The executors of this agent: made from entry points, and asked from time to time whether their engine answers.

An executor exists here from the start, whether its engine answers or not: an attempt that ran on an engine that is away
is waited for, never given up (P3). The table is told only of those that answer: nothing new is assigned to the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from importlib.metadata import entry_points
from typing import Final

from agent.errors import ConfigError
from executors.base import Executor
from executors.errors import EngineUnreachable

log = logging.getLogger(__name__)

GROUP: Final = "prime.executors"
PROBE_S: Final = 10.0


def load_executors(names: Iterable[str], settings: Mapping[str, Mapping[str, str]]) -> dict[str, Executor]:
    """The executors of these names, not connected yet. settings: {name: its settings}. Raises ConfigError."""
    known = {point.name: point for point in entry_points(group=GROUP)}
    made: dict[str, Executor] = {}
    for name in names:
        if name not in known:
            raise ConfigError(f"--executors {name}: there is none of that name; there are {', '.join(sorted(known))}")
        made[name] = known[name].load()(settings.get(name, {}))
    return made


class Engines:
    """Which executors answer. `ready` is what the table is told."""

    def __init__(self, executors: Mapping[str, Executor]) -> None:
        self.executors = executors
        self.ready: frozenset[str] = frozenset()
        self._told: dict[str, str] = {}  # why an engine does not answer, as it was logged

    async def probe(self) -> bool:
        """Try to connect those that did not answer so far. Returns whether `ready` has grown."""
        answering = set(self.ready)
        for name, executor in self.executors.items():
            if name in answering:
                continue
            try:
                await executor.open()
            except EngineUnreachable as error:
                if self._told.get(name) != str(error):
                    log.info("no engine answers", extra={"executor": name, "error": str(error)})
                self._told[name] = str(error)
            else:
                answering.add(name)
        grown = answering != self.ready
        self.ready = frozenset(answering)
        return grown

    async def watch(self, grown: Callable[[], Awaitable[None]]) -> None:
        """Probe again and again while one does not answer. Ends when all do, or when cancelled."""
        while self.ready != frozenset(self.executors):
            await asyncio.sleep(PROBE_S)
            if await self.probe():
                await grown()

    async def close(self) -> None:
        """Let go of every engine; running attempts go on."""
        for executor in self.executors.values():
            await executor.close()
