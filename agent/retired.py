"""What is left of attempts that have ended: kept a while to be looked at, then removed.

The journal's row of an attempt is the last thing to go, so whatever is interrupted here is done at the next start.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from agent.provision import Workspace
from agent.runtable.explain import Unproven
from agent.store.journal import Journal
from executors.base import Executor
from executors.errors import EngineUnreachable, ExecutorError, Unsettled

log = logging.getLogger(__name__)
T = TypeVar("T")

ENGINE_WAIT_S: Final = 2.0  # between questions to an engine that does not answer
STOP_WAIT_MAX_S: Final = 30.0  # between stops of what does not end
Attempt = tuple[str, str, int]  # run, instance, number
KEEP_ENDED_S: Final = 60.0  # how long an ended container can still be looked at


class Retired:
    """The attempts whose outcome the table has applied."""

    def __init__(
        self,
        executors: Mapping[str, Executor],
        journal: Journal,
        journaled: Callable[[Callable[[], Any]], Awaitable[Any]],
        attempts: Path,
        keep_s: float,
    ) -> None:
        """journaled: runs a call where the journal may be used. attempts: the root of their directories."""
        self._executors = executors
        self._journal = journal
        self._journaled = journaled
        self._attempts = attempts
        self._keep_s = keep_s
        self._waiting: list[tuple[float, str, str, Path]] = []  # (remove at, name, executor, directory), oldest first
        self._added = asyncio.Event()

    def add(self, name: str, executor: str, directory: Path) -> None:
        """What is left of this attempt may go, `keep_s` seconds from now."""
        self._waiting.append((time.monotonic() + self._keep_s, name, executor, directory))
        self._added.set()

    async def run_forever(self) -> None:
        """Remove each when its time has come. Ends when cancelled."""
        while True:
            await self._added.wait()
            self._added.clear()
            while self._waiting:
                await asyncio.sleep(max(0.0, self._waiting[0][0] - time.monotonic()))
                await self._remove_first()

    async def remove_now(self, timeout_s: float) -> None:
        """Remove them all, as far as timeout_s seconds reach. For the agent's own end."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._waiting:
                    await self._remove_first()
        except TimeoutError:
            log.warning("ended attempts are left; the next start removes them", extra={"count": len(self._waiting)})

    async def _remove_first(self) -> None:
        _at_s, name, kind, directory = self._waiting[0]
        executor = self._executors.get(kind)
        if executor is not None:
            try:
                await self._remove_from(executor, name, directory)
            except Exception as error:  # the journal keeps it: the next start tries again
                told = {"attempt": name, "error": str(error)}
                foreseen = isinstance(error, ExecutorError)
                log.warning("an ended attempt cannot be removed", extra=told, exc_info=not foreseen)
                self._waiting.pop(0)
                return
        await asyncio.to_thread(Workspace(directory).remove, self._attempts)
        await self._journaled(partial(self._journal.forget, [name]))
        self._waiting.pop(0)

    async def _remove_from(self, executor: Executor, name: str, directory: Path) -> None:
        """Whatever the table has closed must not run (P3), so it is stopped first. Raises ExecutorError."""
        while True:
            try:
                await executor.stop(name, directory, 0)
                return await executor.remove(name, directory)
            except EngineUnreachable as error:
                log.warning("the engine does not answer", extra={"attempt": name, "error": str(error)})
                await asyncio.sleep(ENGINE_WAIT_S)


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Ask an engine until it answers: nothing may be decided while it does not (P3).

    Raises ExecutorError where it is known that asking again gives nothing else.
    """
    while True:
        try:
            return await call()
        except Unsettled as error:
            log.warning("the engine cannot tell yet; it is asked again", extra={"error": str(error)})
            await asyncio.sleep(ENGINE_WAIT_S)


class UnprovenEnds:
    """The attempts that cannot be proven ended, or go on, at this moment, for `run explain` (P11)."""

    def __init__(self) -> None:
        self._known: dict[Attempt, Unproven] = {}

    def __len__(self) -> int:
        return len(self._known)

    def note(self, attempt: Attempt, error: str) -> None:
        """Once more something that is done again has failed for the attempt (run, instance, number)."""
        before = self._known.get(attempt)
        since_ms = time.time_ns() // 10**6 if before is None else before.since_ms
        self._known[attempt] = Unproven(since_ms, error)

    def forget(self, attempt: Attempt) -> None:
        """It has ended or goes on, or nobody asks any more."""
        self._known.pop(attempt, None)

    def of_run(self, run_id: str) -> dict[tuple[str, int], Unproven]:
        """Those of one run, by (instance, number)."""
        return {(name, number): one for (run, name, number), one in self._known.items() if run == run_id}


UNPROVEN: Final = UnprovenEnds()
"""Of the whole process, as its log is: a run's id is random, so the attempts of two agents in it are told apart."""

NO_ROOM: Final = UnprovenEnds()
"""As `UNPROVEN`: the attempts that wait because their agent's disk is full."""


async def until_stopped(stop: Callable[[], Awaitable[None]], fields: Mapping[str, object]) -> None:
    """Ask for a stop until it is done: work that is not proven ended may not be said to have (P3).

    fields: of the attempt (`Driven.fields`), for the log and for `UNPROVEN`.
    """
    attempt = (str(fields["run"]), str(fields["instance"]), int(str(fields["attempt"])))
    wait_s = ENGINE_WAIT_S
    try:
        while True:
            try:
                return await stop()
            except ExecutorError as error:
                UNPROVEN.note(attempt, str(error))
                told = {**fields, "error": str(error)}
                log.warning("an attempt cannot be proven ended: it stays open, and is stopped again", extra=told)
            await asyncio.sleep(wait_s)
            wait_s = min(STOP_WAIT_MAX_S, wait_s * 2)
    finally:
        UNPROVEN.forget(attempt)
