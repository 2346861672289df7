"""What earlier processes of this agent have left behind: found, and ended before anything of it is forgotten (P3).

Three kinds: attempts of an epoch that was lost, attempts that the table has closed while the agent was away, strays:
what an engine runs under this agent's labels and no record knows.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, Final

import msgspec

from agent.attempt import Intent
from agent.gate import Gate
from agent.prepare import Preparer, Settings
from agent.provision import Workspace
from agent.replica import Replica
from agent.retired import Retired, until_stopped
from agent.runtable.model import Attempt, Instance, Run
from agent.store.history import START
from agent.store.journal import Journal
from executors.base import Executor
from executors.errors import EngineUnreachable, ExecutorError

log = logging.getLogger(__name__)

_NAME: Final = re.compile(r"prime-[^-]+-[0-9]+-(?P<run>[^-]+)-(?P<instance>.+)-(?P<number>[0-9]+)")


class Leftovers:
    """Of one worker, which it serves at its start and whenever an engine comes."""

    def __init__(
        self,
        replica: Replica,
        journal: Journal,
        journaled: Callable[[Callable[[], Any]], Awaitable[Any]],
        executors: Mapping[str, Executor],
        preparer: Preparer,
        retired: Retired,
        settings: Settings,
        gate: Gate,
        *,
        driven: Callable[[], Collection[str]],
        name_of: Callable[[Run, Instance, Attempt], str],
        changed: Callable[[], None],
    ) -> None:
        """journaled: runs a call in the journal's thread. driven: names of attempts that have a task of their own.

        changed: told when something that was left has ended.
        """
        self._replica, self._journal, self._journaled = replica, journal, journaled
        self._executors, self._preparer, self._retired = executors, preparer, retired
        self._settings, self._gate = settings, gate
        self._driven, self._name_of, self._changed = driven, name_of, changed
        self.ended_epoch = 0  # no work of it or an earlier one runs, though nothing was adopted yet
        self.closing: set[str] = set()  # not wanted any more, and not proven ended yet

    async def end_lost_epoch(self) -> None:
        """This agent was lost before it came back: end what still runs of that epoch, and wait until it is taken in.

        The table knows every attempt of that epoch, for the loss came after all of them; what is of a later one is
        looked at once there is a lease.
        """
        changed = self._replica.changed()
        row = self._replica.table.rows.agents[self._settings.agent_id]
        if row.lost and row.epoch > self.ended_epoch:
            waiting = self._waiting_names()
            async with asyncio.TaskGroup() as group:
                for name, intent in await self._open_intents():
                    if intent.epoch <= row.epoch and name not in waiting:
                        group.create_task(self._end_unwanted(name, intent))
            self.ended_epoch = row.epoch
            self._changed()
        await asyncio.shield(changed)

    def _waiting_names(self) -> set[str]:
        """Attempts that run on while this agent is lost: by their job's choice, or since they cannot be fenced."""
        table, names = self._replica.table, set()
        for run_id, name in table.assigned.get(self._settings.agent_id, ()):
            run = table.rows.runs[run_id]
            instance = run.instance(name)
            attempt = instance.open_attempt if instance is not None else None
            if instance is not None and attempt is not None and instance.outlives_loss:
                names.add(self._name_of(run, instance, attempt))
        return names

    async def _open_intents(self) -> list[tuple[str, Intent]]:
        """The attempts that were meant to start here, and have not ended as far as the journal knows."""
        entries = await self._journaled(self._journal.entries)
        return [
            (one.name, msgspec.msgpack.decode(one.payload, type=Intent))
            for one in entries
            if one.payload is not None and one.outcome is None
        ]

    async def _end_unwanted(self, name: str, intent: Intent) -> None:
        """Returns once it is proven ended."""
        executor = self._executors[intent.executor]  # the agent does not start without those its journal names
        directory = self._preparer.directory(intent.run_id, intent.instance, intent.number)
        fields = {"run": intent.run_id, "instance": intent.instance, "attempt": intent.number}
        log.warning("an attempt that is not wanted any more is ended", extra=fields)
        await until_stopped(lambda: executor.stop(name, directory, self._gate.stop_grace_s), fields)

    async def end_unwanted(self, group: asyncio.TaskGroup) -> None:
        """After a start: clean up what the table has closed, end what no record knows. Not before there is a lease."""
        known = set(self._driven())
        for name in await self._gate.guarded_before() - known:
            if await self._journaled(partial(self._journal.get, name)) is None:  # it was never started
                await self._gate.release(name)
        for name, intent in await self._open_intents():
            if name not in known:
                known.add(name)
                self.closing.add(name)
                group.create_task(self._close(name, intent))
        for entry in await self._journaled(self._journal.entries):
            if entry.name in known:
                continue
            known.add(entry.name)
            if entry.payload is None:
                await self._journaled(partial(self._journal.forget, [entry.name]))
            else:
                intent = msgspec.msgpack.decode(entry.payload, type=Intent)
                await self._retire(entry.name, intent)
        await self.end_strays(self._executors)

    async def _close(self, name: str, intent: Intent) -> None:
        """End an attempt that the table has closed while this agent was away."""
        await self._end_unwanted(name, intent)
        self.closing.discard(name)
        await self._retire(name, intent)
        self._changed()

    async def _retire(self, name: str, intent: Intent) -> None:
        self._retired.add(
            name, intent.executor, self._preparer.directory(intent.run_id, intent.instance, intent.number)
        )
        await self._gate.release(name)

    async def end_strays(self, kinds: Iterable[str]) -> None:
        """End and remove what these engines run under this agent's labels and no record knows."""
        for kind in kinds:
            executor = self._executors[kind]
            try:
                names = await executor.list_names(self._settings.labels)
            except Exception as error:  # it is asked again when it answers, and at the next start
                if not isinstance(error, EngineUnreachable) or await self._may_have_strays():
                    self._strays_left(kind, error)
                continue
            for name in names - set(self._driven()):
                if await self._journaled(partial(self._journal.get, name)) is None:
                    try:
                        await self._end_stray(name, executor)
                    except Exception as error:
                        self._strays_left(kind, error)

    async def _may_have_strays(self) -> bool:
        """Whether there was ever a run: before the first one, no engine can hold anything of this agent's."""
        return bool(self._replica.table.rows.runs) or await asyncio.to_thread(self._replica.history.last) != START

    @staticmethod
    def _strays_left(kind: str, error: Exception) -> None:
        foreseen = isinstance(error, ExecutorError)
        log.warning("strays may be left", extra={"executor": kind, "error": str(error)}, exc_info=not foreseen)

    async def _end_stray(self, name: str, executor: Executor) -> None:
        log.warning("an attempt that no record knows is ended", extra={"attempt": name, "executor": executor.kind})
        match = _NAME.fullmatch(name)
        directory = (
            self._preparer.directory(match["run"], match["instance"], int(match["number"]))
            if match is not None
            else self._settings.attempts / "stray" / name
        )
        await executor.stop(name, directory, 0)
        await executor.remove(name, directory)
        await asyncio.to_thread(Workspace(directory).remove, self._settings.attempts)
