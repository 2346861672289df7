"""Makes this agent's attempts match the table.

After everything that was applied, the worker compares the attempts that the table gives this agent with those it
drives, and starts, stops or reports what differs. Nothing is kept in memory alone: what an attempt needs to be found
again stands in the journal, the executor and the attempt's own directory, so a killed agent goes on where it was (P3).

An attempt's life here: compile -> journal the intent (fsync) -> start -> journal `started` -> wait -> journal `ended`
-> tell the table until it has applied it -> clean up.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from agent.attempt import Driven, EndNote, Intent, StartNote
from agent.errors import Refusal
from agent.keyring import SecretError
from agent.provision import Provisioner, Workspace, sealed_secrets
from agent.pump import copy_logs
from agent.replica import Replica
from agent.runtable import commands as c
from agent.runtable.model import Attempt, Instance, InstanceKind, Reason, Run
from agent.spec.bundle import Bundle
from agent.spec.compile import Compiled, instance_environment, launch
from agent.spec.errors import PluginError, SpecError
from agent.spec.quantity import cores, size_bytes
from agent.store.errors import JournalFull, StoreError
from agent.store.journal import Journal, JournalEntry
from agent.store.logs import LogStore
from executors.base import AttemptSpec, Executor, Outcome, Resources, Started
from executors.errors import EngineUnreachable, ExecutorError, StartRefused

log = logging.getLogger(__name__)
T = TypeVar("T")

STOP_GRACE_S: Final = 10.0
ENGINE_WAIT_S: Final = 2.0  # between questions to an engine that does not answer
FULL_WAIT_S: Final = 2.0  # between looks at a full disk
TELL_WAIT_MAX_S: Final = 5.0
LOG_DRAIN_S: Final = 60.0  # how long the end of an attempt waits for the last of its output
KEEP_ENDED_S: Final = 60.0  # how long an ended container can still be looked at
MESSAGE_MAX: Final = 2000


@dataclass(frozen=True, slots=True)
class Settings:
    """How this worker works. Paths below the agent's data directory; host: where containers call back, "" = nowhere."""

    agent_id: str
    attempts: Path
    boot_id: str
    boottime_s: Callable[[], float]
    labels: Mapping[str, str]
    callback_host: Callable[[str], str]
    log_limit_bytes: int
    keep_ended_s: float = KEEP_ENDED_S
    network: str | None = None
    pull: str = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Materials:
    """What an attempt works with, for images that ask for it."""

    run_id: str
    project: str
    job: str
    instance: str
    plugin: str
    type: str
    scheduled_at: datetime
    environment: dict[str, str]
    secrets: dict[str, str] = field(repr=False)
    files: dict[str, bytes] = field(repr=False)


class Worker:
    """Drives the attempts of one agent. `run_forever` is its life."""

    def __init__(
        self,
        replica: Replica,
        journal: Journal,
        journal_thread: ThreadPoolExecutor,
        executors: Mapping[str, Executor],
        provisioner: Provisioner,
        logs: LogStore,
        settings: Settings,
    ) -> None:
        self.replica = replica
        self.driven: dict[str, Driven] = {}
        self._journal = journal
        self._executors = executors
        self._provisioner = provisioner
        self._logs = logs
        self._settings = settings
        self._ended: list[tuple[float, str, str, Path]] = []  # (remove at, name, executor, directory), oldest first
        self._retired = asyncio.Event()
        self._journal_thread = journal_thread
        self.starts = 0
        self.ended_counts: Counter[tuple[str, str]] = Counter()  # (executor, reason) since this agent started

    # -- reconcile ---------------------------------------------------------------------------------------------------

    async def run_forever(self) -> None:
        """Reconcile now and after everything that is applied. Ends when cancelled; running attempts go on."""
        async with asyncio.TaskGroup() as group:
            await self._adopt(group)
            group.create_task(self._clean_up(), name="clean-up")
            while True:
                changed = self.replica.changed()
                self._reconcile(group)
                await asyncio.shield(changed)

    def _reconcile(self, group: asyncio.TaskGroup) -> None:
        """Give a task to each attempt that has none, and pass on what the table wants stopped."""
        table = self.replica.table
        for run_id, name in tuple(table.assigned.get(self._settings.agent_id, ())):
            run = table.rows.runs[run_id]
            instance = run.instance(name)
            attempt = instance.open_attempt if instance is not None else None
            assert instance is not None
            assert attempt is not None
            driven = self.driven.get(self.name_of(run, instance, attempt))
            if driven is None:
                driven = self._drive(group, run, instance, attempt)
            if attempt.stop_wanted is not None:
                driven.stop.set()

    def _drive(self, group: asyncio.TaskGroup, run: Run, instance: Instance, attempt: Attempt) -> Driven:
        name = self.name_of(run, instance, attempt)
        driven = Driven(name, run.id, instance.plan.name, attempt.number, attempt.epoch, instance.plan.executor)
        self.driven[name] = driven
        driven.task = group.create_task(self._live(driven), name=name)
        return driven

    def name_of(self, run: Run, instance: Instance, attempt: Attempt) -> str:
        """The deterministic name of an attempt, the same on every agent and after every restart."""
        rows = self.replica.table.rows
        return f"prime-{rows.cluster}-{rows.generation}-{run.id}-{instance.plan.name}-{attempt.number}"

    async def _adopt(self, group: asyncio.TaskGroup) -> None:
        """After a start: take up what is open, clean up what the table has closed, end what no record knows."""
        self._reconcile(group)
        known = set(self.driven)
        for entry in await self._journaled(self._journal.entries):
            if entry.name in known:
                continue
            known.add(entry.name)
            if entry.payload is None:
                await self._journaled(partial(self._journal.forget, [entry.name]))
            else:
                intent = msgspec.msgpack.decode(entry.payload, type=Intent)
                self._retire(
                    entry.name, intent.executor, self._directory(intent.run_id, intent.instance, intent.number)
                )
        await self.end_strays(self._executors)

    async def end_strays(self, kinds: Iterable[str]) -> None:
        """End and remove what these engines run under this agent's labels and no record knows."""
        for kind in kinds:
            executor = self._executors[kind]
            try:
                for name in await executor.list_names(self._settings.labels):
                    if await self._journaled(partial(self._journal.get, name)) is None:
                        await self._end_stray(name, executor)
            except ExecutorError as error:  # it is asked again when it answers, and at the next start
                log.warning("strays may be left", extra={"executor": kind, "error": str(error)})

    async def _end_stray(self, name: str, executor: Executor) -> None:
        log.warning("an attempt that no record knows is ended", extra={"attempt": name, "executor": executor.kind})
        directory = self._settings.attempts / "stray" / name
        await executor.stop(name, directory, 0)
        await executor.remove(name, directory)

    def writes(self, run_id: str, instance: str, number: int) -> bool:
        """Whether this attempt's log may still be written to."""
        return any(
            (one.run_id, one.instance, one.number) == (run_id, instance, number) and not one.ended
            for one in self.driven.values()
        )

    async def materials(self, capability: str) -> Materials | None:
        """What the attempt with this capability works with, secrets included; None where no attempt has it."""
        driven = next((one for one in self.driven.values() if _same(one.capability, capability)), None)
        run = self.replica.table.rows.runs.get(driven.run_id) if driven is not None else None
        if driven is None or run is None or driven.ended:
            return None
        sealed = sealed_secrets(self.replica.table, run.project, run.namespace)
        compiled = await asyncio.to_thread(self._provisioner.compile, run, driven.instance, sealed)
        bundle = await asyncio.to_thread(self._provisioner.bundle, run.bundle)
        instance = run.instance(driven.instance)
        assert instance is not None
        return Materials(
            run_id=run.id,
            project=run.project,
            job=run.job,
            instance=driven.instance,
            plugin=instance.plan.plugin,
            type="task" if instance.plan.kind is InstanceKind.TASK else "hook",
            scheduled_at=datetime.fromtimestamp(run.scheduled_at_ms / 1000, UTC),
            environment={**compiled.environment, **self._told(driven, run, bundle)},
            secrets=compiled.secrets,
            files=compiled.files,
        )

    @staticmethod
    def executors_in(journal: Journal) -> set[str]:
        """The executors of attempts that have not ended, as far as the journal knows."""
        open_ones = [e for e in journal.entries() if e.payload is not None and e.outcome is None]
        return {msgspec.msgpack.decode(e.payload or b"", type=Intent).executor for e in open_ones}

    # -- one attempt -------------------------------------------------------------------------------------------------

    async def _live(self, driven: Driven) -> None:
        """All of an attempt's life on this agent, from wherever it is."""
        entry = await self._journaled(partial(self._journal.get, driven.name))
        if entry is None:
            failed = await self._begin(driven)
        elif entry.outcome is not None:
            failed = msgspec.msgpack.decode(entry.outcome, type=EndNote)
        else:
            failed = await self._find_again(driven, entry)
        note = failed or await self._see_through(driven)
        seq = await self._journaled(partial(self._journal.ended, driven.name, msgspec.msgpack.encode(note)))
        directory = self._directory(driven.run_id, driven.instance, driven.number)
        await asyncio.to_thread(Workspace(directory).scrub)
        driven.ended = True
        self.ended_counts[driven.executor, note.reason or ""] += 1
        log.info("attempt ended", extra={**driven.fields(), "reason": note.reason, "exit_code": note.exit_code})
        await self._tell(driven.end_command(self.replica.clock_ms(), self._settings.agent_id, seq, note))
        self._retire(driven.name, driven.executor, directory)
        del self.driven[driven.name]

    async def _begin(self, driven: Driven) -> EndNote | None:
        """Start an attempt that nothing is known of. Returns None once it runs, else why it never did."""
        if driven.stop.is_set():
            return await self._refuse(driven, Reason.CANCELLED, "it was stopped before it began")
        try:
            spec, kept = await self._prepare(driven)
        except (SpecError, PluginError, SecretError, StoreError, ValueError, OSError) as error:
            return await self._refuse(driven, Reason.EXECUTOR_ERROR, str(error))
        driven.compiled = kept
        executor = self._executors.get(driven.executor)
        if executor is None:
            message = f"the agent {self._settings.agent_id} has no executor {driven.executor!r}"
            return await self._refuse(driven, Reason.EXECUTOR_ERROR, message)
        intent = Intent(
            driven.run_id,
            driven.instance,
            driven.number,
            driven.epoch,
            driven.executor,
            kept,
            driven.capability,
        )
        await self._journaled(
            partial(
                self._journal.intend,
                driven.name,
                msgspec.msgpack.encode(intent),
                spec.not_after_s,
                self._settings.boot_id,
            )
        )
        return await self._start(driven, executor, spec)

    async def _refuse(self, driven: Driven, reason: Reason, message: str) -> EndNote:
        """Put on record that the attempt will never start, before anybody is told."""
        await self._journaled(partial(self._journal.refuse, driven.name, message))
        return self._never_ran(driven, reason, message)

    def _never_ran(self, driven: Driven, reason: str, message: str) -> EndNote:
        now_ms = self.replica.clock_ms()
        return EndNote(reason, None, message[:MESSAGE_MAX], None, now_ms, {}, driven.compiled)

    async def _start(self, driven: Driven, executor: Executor, spec: AttemptSpec) -> EndNote | None:
        try:
            started = await self._start_or_find(executor, spec)
        except StartRefused as refused:
            return self._never_ran(driven, Reason.FENCED, str(refused))
        except ExecutorError as error:
            return self._never_ran(driven, error.reason, str(error))
        if started is None:
            return self._never_ran(driven, Reason.AGENT_LOST, "the engine did not answer in time; nothing was started")
        self.starts += 1
        await self._note_start(driven, started)
        return None

    async def _start_or_find(self, executor: Executor, spec: AttemptSpec) -> Started | None:
        """Start once. Where the engine did not answer, whether it did start is asked, never tried again (P3)."""
        try:
            return await executor.start(spec)
        except EngineUnreachable as error:
            log.warning("the engine does not answer", extra={"attempt": spec.name, "error": str(error)})
            return await self._attach(executor, spec.name, spec.directory, spec.not_after_s)

    async def _attach(self, executor: Executor, name: str, directory: Path, not_after_s: float) -> Started | None:
        """Find an attempt whose start is unknown. None = it has not started and never will."""
        found = await _patiently(lambda: executor.attach(name, directory))
        wait_s = not_after_s - self._settings.boottime_s()
        if found is not None or executor.absence_is_proof or wait_s < 0:
            return found
        await asyncio.sleep(wait_s + 1)
        return await _patiently(lambda: executor.attach(name, directory))

    async def _find_again(self, driven: Driven, entry: JournalEntry) -> EndNote | None:
        """After a restart: an attempt that was meant to start. Returns None once it is found."""
        if entry.payload is None:
            reason = Reason.CANCELLED if driven.stop.is_set() else Reason.EXECUTOR_ERROR
            return self._never_ran(driven, reason, entry.refused or "it was refused")
        intent = msgspec.msgpack.decode(entry.payload, type=Intent)
        driven.capability, driven.compiled, driven.executor = intent.capability, intent.compiled, intent.executor
        executor = self._executors[intent.executor]  # the agent does not start without those its journal names
        same_boot = entry.boot_id == self._settings.boot_id
        not_after_s = entry.not_after_s if same_boot and entry.not_after_s is not None else float("-inf")
        directory = self._directory(driven.run_id, driven.instance, driven.number)
        found = await self._attach(executor, driven.name, directory, not_after_s)
        if found is None:
            return self._never_ran(driven, Reason.AGENT_LOST, "the agent ended before the start; nothing was started")
        log.info("attempt found again", extra=driven.fields())
        await self._note_start(driven, found)
        return None

    async def _note_start(self, driven: Driven, started: Started) -> None:
        note = StartNote(started.started_at_ms, dict(started.facts))
        driven.started = note
        driven.started_seq = await self._journaled(
            partial(self._journal.started, driven.name, msgspec.msgpack.encode(note))
        )
        log.info("attempt started", extra=driven.fields())

    async def _see_through(self, driven: Driven) -> EndNote:
        """From a running attempt to its outcome, with its output on disk."""
        executor = self._executors[driven.executor]
        directory = self._directory(driven.run_id, driven.instance, driven.number)
        async with asyncio.TaskGroup() as group:
            start = driven.start_command(self.replica.clock_ms(), self._settings.agent_id)
            told = group.create_task(self._tell(start))
            pump = None if executor.captures_logs else group.create_task(self._pump(driven, executor, directory))
            outcome = await self._outcome(driven, executor, directory)
            if pump is not None:
                await asyncio.wait({pump}, timeout=LOG_DRAIN_S)
                if not pump.done():
                    log.warning("output is incomplete: the engine gave no more", extra=driven.fields())
                    pump.cancel()
            told.cancel()
        started = driven.started
        return EndNote(
            outcome.reason,
            outcome.exit_code,
            outcome.message[:MESSAGE_MAX],
            outcome.started_at_ms or (started.started_at_ms if started else None),
            outcome.finished_at_ms or self.replica.clock_ms(),
            {**(started.facts if started else {}), **outcome.facts},
            driven.compiled,
        )

    async def _outcome(self, driven: Driven, executor: Executor, directory: Path) -> Outcome:
        """Wait for the end; when the table wants it stopped, stop it and wait on."""
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(_patiently(lambda: executor.wait(driven.name, directory)))
            stopping = group.create_task(self._stop_when_asked(driven, executor, directory))
            outcome = await waiting
            stopping.cancel()
        return outcome

    async def _stop_when_asked(self, driven: Driven, executor: Executor, directory: Path) -> None:
        await driven.stop.wait()
        log.info("attempt is being stopped", extra=driven.fields())
        await _patiently(lambda: executor.stop(driven.name, directory, STOP_GRACE_S))

    # -- parts -------------------------------------------------------------------------------------------------------

    async def _prepare(self, driven: Driven) -> tuple[AttemptSpec, str]:
        """Compile, fill the attempt's directory and keep the redacted copy."""
        table = self.replica.table
        run = table.rows.runs[driven.run_id]
        sealed = sealed_secrets(table, run.project, run.namespace)
        driven.capability = secrets.token_urlsafe(24)
        return await asyncio.to_thread(self._prepare_blocking, driven, run, sealed)

    def _prepare_blocking(
        self, driven: Driven, run: Run, sealed: Mapping[str, tuple[str, bytes]]
    ) -> tuple[AttemptSpec, str]:
        provisioner = self._provisioner
        kept = provisioner.keep(provisioner.compile(run, driven.instance, sealed, masked=True))
        driven.compiled = kept
        compiled = provisioner.compile(run, driven.instance, sealed)
        spec = self._spec(driven, run, provisioner.bundle(run.bundle), compiled)
        Workspace(spec.directory).fill(compiled)
        return spec, kept

    def _spec(self, driven: Driven, run: Run, bundle: Bundle, compiled: Compiled) -> AttemptSpec:
        config = {**compiled.environment, **compiled.secrets}
        started = launch(bundle, driven.instance, config, driven.executor)
        directory = self._directory(driven.run_id, driven.instance, driven.number)
        limit = bundle.job.metadata.resource.limit
        executor = self._executors.get(driven.executor)
        return AttemptSpec(
            name=driven.name,
            directory=directory,
            log_directory=self._logs.directory(driven.run_id, driven.instance, driven.number),
            command=started.argv,
            entrypoint=started.entrypoint,
            image=started.image or None,
            pull=self._settings.pull,
            environment={**config, **self._told(driven, run, bundle)},
            labels={**self._settings.labels, "io.prime.run": run.id, "io.prime.instance": driven.instance},
            resources=Resources(cores(limit.cpu), size_bytes(limit.memory)),
            not_after_s=self._settings.boottime_s() + (executor.start_window_s if executor is not None else 0),
            stop_grace_s=STOP_GRACE_S,
            log_limit_bytes=self._settings.log_limit_bytes,
            network=self._settings.network,
        )

    def _told(self, driven: Driven, run: Run, bundle: Bundle) -> dict[str, str]:
        """The variables that say to an attempt which one it is, and where to call back."""
        host = self._settings.callback_host(driven.executor)
        directory = self._directory(driven.run_id, driven.instance, driven.number)
        return {
            **instance_environment(bundle, driven.instance, datetime.fromtimestamp(run.scheduled_at_ms / 1000, UTC)),
            "JOB_DIR": str(directory) if driven.executor == "process" else "/data",
            "OPTIMUS_HOST": f"http://{host}/{driven.capability}" if host else "",
            "OPTIMUS_HOSTNAME": host,
            "PRIME_RUN_ID": run.id,
            "PRIME_ATTEMPT": str(driven.number),
        }

    async def _pump(self, driven: Driven, executor: Executor, directory: Path) -> None:
        """Copy an engine's output into this agent's log, each line once, also over restarts of either."""
        target = self._logs.directory(driven.run_id, driven.instance, driven.number)
        while True:
            try:
                return await copy_logs(executor, driven.name, directory, target, self._settings.log_limit_bytes)
            except EngineUnreachable as error:
                log.warning("the engine does not answer", extra={**driven.fields(), "error": str(error)})
                await asyncio.sleep(ENGINE_WAIT_S)
            except (ExecutorError, OSError) as error:  # costs output, never the attempt: someone removed a container
                log.warning("output is incomplete", extra={**driven.fields(), "error": str(error)})
                return None

    async def _tell(self, command: c.AnyCommand) -> None:
        """Propose until it is applied; a repetition is a no-op there."""
        wait_s = 0.05
        while True:
            try:
                await self.replica.propose(command)
            except Refusal as refusal:
                log.warning("the outcome is not taken yet", extra={"code": refusal.code})
                await asyncio.sleep(wait_s)
                wait_s = min(TELL_WAIT_MAX_S, wait_s * 2)
            else:
                return

    async def _journaled(self, call: Callable[[], T]) -> T:
        """Use the journal, in the one thread that may. What it wrote is on disk when this returns.

        On a full disk it waits for room: nothing may be done that is not journaled first (P9).
        """
        while True:
            try:
                return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._journal_thread, call))
            except JournalFull as error:
                log.warning("the disk is full; work waits", extra={"error": str(error)})
                await asyncio.sleep(FULL_WAIT_S)

    # -- cleaning up -------------------------------------------------------------------------------------------------

    def _directory(self, run_id: str, instance: str, number: int) -> Path:
        return self._settings.attempts / run_id / instance / str(number)

    def _retire(self, name: str, executor: str, directory: Path) -> None:
        """The table has applied the outcome: what is left may go, after a time in which it can be looked at."""
        self._ended.append((time.monotonic() + self._settings.keep_ended_s, name, executor, directory))
        self._retired.set()

    async def _clean_up(self) -> None:
        while True:
            await self._retired.wait()
            self._retired.clear()
            while self._ended:
                await asyncio.sleep(max(0.0, self._ended[0][0] - time.monotonic()))
                await self._remove_first()

    async def _remove_first(self) -> None:
        _at_s, name, kind, directory = self._ended[0]
        executor = self._executors.get(kind)
        if executor is not None:
            try:
                await self._remove_from(executor, name, directory)
            except ExecutorError as error:  # the journal keeps it: the next start tries again
                log.warning("an ended attempt cannot be removed", extra={"attempt": name, "error": str(error)})
                self._ended.pop(0)
                return
        await asyncio.to_thread(Workspace(directory).remove, self._settings.attempts)
        await self._journaled(partial(self._journal.forget, [name]))
        self._ended.pop(0)

    async def _remove_from(self, executor: Executor, name: str, directory: Path) -> None:
        """Whatever the table has closed must not run (P3), so it is stopped first. Raises ExecutorError."""
        while True:
            try:
                await executor.stop(name, directory, 0)
                return await executor.remove(name, directory)
            except EngineUnreachable as error:
                log.warning("the engine does not answer", extra={"attempt": name, "error": str(error)})
                await asyncio.sleep(ENGINE_WAIT_S)

    async def remove_ended(self, timeout_s: float) -> None:
        """Remove what is left of ended attempts now, as far as timeout_s seconds reach. For the agent's own end."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._ended:
                    await self._remove_first()
        except TimeoutError:
            log.warning("ended attempts are left; the next start removes them", extra={"count": len(self._ended)})


def _same(mine: str, given: str) -> bool:
    return bool(mine) and secrets.compare_digest(mine.encode(), given.encode(errors="surrogateescape"))


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Ask an engine until it answers: nothing may be decided while it does not, or while it cannot do it (P3)."""
    while True:
        try:
            return await call()
        except ExecutorError as error:
            log.warning("the engine does not answer", extra={"error": str(error)})
            await asyncio.sleep(ENGINE_WAIT_S)
