"""Makes this agent's attempts match the table.

After everything that was applied, the worker compares the attempts that the table gives this agent with those it
drives, and starts, stops or reports what differs. Nothing is kept in memory alone: what an attempt needs to be found
again stands in the journal and with the executor, so a killed agent goes on where it was (P3).

An attempt's life here: compile -> journal the intent (fsync) -> start -> journal `started` -> wait -> journal `ended`
-> tell the table until it has applied it -> clean up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Executor as Threads
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from agent.attempt import Driven, EndNote, Intent, StartNote
from agent.errors import AgentStopped
from agent.gate import FOREVER, Gate, Guarded, Open
from agent.keyring import SecretError
from agent.leftovers import Leftovers
from agent.outputs import put_out
from agent.prepare import STOP_GRACE_S, Preparer
from agent.prepare import Materials as Materials
from agent.prepare import Settings as Settings
from agent.provision import Provisioner, Workspace, sealed_secrets
from agent.pump import copy_logs
from agent.replica import Replica
from agent.retired import ENGINE_WAIT_S, NO_ROOM, Retired, patiently, until_stopped
from agent.runtable.model import Attempt, Instance, InstanceKind, Reason, Run
from agent.spec.errors import PluginError, SpecError
from agent.store.errors import BlobDamaged, BlobMissing, JournalError, JournalFull, StoreError, is_full
from agent.store.journal import Journal, JournalEntry
from agent.store.logs import LogStore
from agent.telling import TELL_WAIT_MAX_S, Network, Teller, Word
from agent.watchdog import fenceable, how_to_end
from executors.base import AttemptSpec, Executor, Outcome, Started
from executors.errors import ExecutorError, StartRefused, Unsettled

log = logging.getLogger(__name__)
T = TypeVar("T")

FULL_WAIT_S: Final = 2.0  # between looks at a full disk
START_HOLD_S: Final = 0.02
LOG_DRAIN_S: Final = 60.0  # how long the end of an attempt waits for the last of its output
MESSAGE_MAX: Final = 2000
BROKEN_WAIT_MAX_S: Final = 60.0  # between tries to end an attempt that the agent's own error has met


class Worker:
    """Drives the attempts of one agent. `run_forever` is its life."""

    def __init__(
        self,
        replica: Replica,
        journal: Journal,
        journal_thread: Threads,
        executors: Mapping[str, Executor],
        provisioner: Provisioner,
        logs: LogStore,
        settings: Settings,
        gate: Gate | None = None,
        blobs: Network | None = None,
    ) -> None:
        """gate: this agent's lease; blobs: those of the other agents. None = this agent is alone."""
        self.replica = replica
        self._gate: Gate = gate or Open()
        self._adopted = False
        self.on_ended: Callable[[], None] = lambda: None
        self.on_word: Callable[[Word], None] = lambda _word: None
        self.on_output: Callable[[tuple[str, str, int]], None] = lambda _key: None
        self.driven: dict[str, Driven] = {}
        self._journal = journal
        self._executors = executors
        self._provisioner = provisioner
        self._preparer = Preparer(provisioner, logs, settings)
        self.teller = Teller(replica, provisioner.blobs, blobs, self._heard)
        self._logs = logs
        self._settings = settings
        self._journal_thread = journal_thread
        self.retired = Retired(executors, journal, self._journaled, settings.attempts, settings.keep_ended_s)
        self.leftovers = Leftovers(
            replica,
            journal,
            self._journaled,
            executors,
            self._preparer,
            self.retired,
            settings,
            self._gate,
            driven=self.driven.keys,
            name_of=self.name_of,
            changed=self._something_ended,
        )
        self.starts = 0
        self.ended_counts: Counter[tuple[str, str]] = Counter()  # (executor, reason) since this agent started

    # -- reconcile ---------------------------------------------------------------------------------------------------

    async def run_forever(self) -> None:
        """Reconcile now and after everything that is applied. Ends when cancelled; running attempts go on."""
        async with asyncio.TaskGroup() as group:
            while not await self._gate.fresh():  # what an older table does not know must not be taken for a stray
                await self.leftovers.end_lost_epoch()
            self._reconcile(group)
            await self.leftovers.end_unwanted(group)
            self._adopted = True
            self._something_ended()
            group.create_task(self.retired.run_forever(), name="clean-up")
            while True:
                changed, news = self.replica.changed(), self._gate.news()
                self._reconcile(group)
                await asyncio.wait((changed, news), return_when=asyncio.FIRST_COMPLETED)

    def _heard(self, word: Word) -> None:
        self.on_word(word)  # which is set after this worker is made

    def _something_ended(self) -> None:
        self.on_ended()  # which is set after this worker is made

    @property
    def knows_its_work(self) -> bool:
        """Whether all that runs here is among `driven`: what an earlier process left is taken over, or has ended."""
        return self._adopted and not self.leftovers.closing

    def settled(self, epoch: int) -> bool:
        """Whether no work of that epoch or an earlier one may still run here, but what waits by its job's choice."""
        if not self._adopted:
            return self.leftovers.ended_epoch >= epoch
        return not self.leftovers.closing and all(one.epoch > epoch or one.waits for one in self.driven.values())

    def _reconcile(self, group: asyncio.TaskGroup) -> None:
        """Give a task to each attempt that has none, and pass on what the table wants stopped or has taken away."""
        table = self.replica.table
        taken_away = set(self.driven)
        told = self._gate.stops()  # by a leader whose table may be ahead of this one
        for run_id, name in tuple(table.assigned.get(self._settings.agent_id, ())):
            run = table.rows.runs[run_id]
            instance = run.instance(name)
            attempt = instance.open_attempt if instance is not None else None
            assert instance is not None
            assert attempt is not None
            name_of = self.name_of(run, instance, attempt)
            taken_away.discard(name_of)
            driven = self.driven.get(name_of)
            if driven is None:
                driven = self._drive(group, run, instance, attempt)
            if attempt.stop_wanted is not None or driven.key in told:
                driven.stop.set()
        for name_of in taken_away:  # its agent was lost meanwhile, or an operator has decided
            self.driven[name_of].stop.set()

    def is_stopping(self, attempt: tuple[str, str, int]) -> bool:
        """Whether this attempt, (run, instance, number), is being stopped here, or has ended."""
        return any(one.key == attempt and one.stop.is_set() for one in self.driven.values())

    def _drive(self, group: asyncio.TaskGroup, run: Run, instance: Instance, attempt: Attempt) -> Driven:
        name = self.name_of(run, instance, attempt)
        plan = instance.plan
        driven = Driven(name, run.id, plan.name, attempt.number, attempt.epoch, plan.executor)
        driven.waits = instance.outlives_loss
        self.driven[name] = driven
        driven.task = group.create_task(self._live(driven), name=name)
        return driven

    def name_of(self, run: Run, instance: Instance, attempt: Attempt) -> str:
        """The deterministic name of an attempt, the same on every agent and after every restart."""
        rows = self.replica.table.rows
        return f"prime-{rows.cluster}-{rows.generation}-{run.id}-{instance.plan.name}-{attempt.number}"

    def writes(self, run_id: str, instance: str, number: int) -> bool:
        """Whether this attempt's log may still be written to."""
        return any(one.key == (run_id, instance, number) and not one.ended for one in self.driven.values())

    async def materials(self, capability: str) -> Materials | None:
        """What the attempt with this capability works with, secrets included; None where no attempt has it."""
        driven = next((one for one in self.driven.values() if _same(one.capability, capability)), None)
        run = self.replica.table.rows.runs.get(driven.run_id) if driven is not None else None
        if driven is None or run is None or driven.ended:
            return None
        sealed = sealed_secrets(self.replica.table, run.project, run.namespace)
        compile_ = partial(self._provisioner.compile, run, driven.instance, sealed, put_out=put_out(run))
        compiled = await asyncio.to_thread(compile_)
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
            environment={**compiled.environment, **self._preparer.told(driven, run, bundle)},
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
        """All of an attempt's life on this agent. An error that nobody foresaw ends the attempt, never the agent."""
        try:
            await self._live_in_spite(driven)
        finally:
            await driven.tell_no_more()

    async def _live_in_spite(self, driven: Driven) -> None:
        wait_s = ENGINE_WAIT_S
        while True:
            try:
                return await self._live_on(driven)
            except Exception as error:
                if _ends_the_agent(error):
                    raise
                log.exception("an attempt met an error of the agent itself: it is ended", extra=driven.fields())
                driven.broken = _kind(error)
            await asyncio.sleep(wait_s)
            wait_s = min(BROKEN_WAIT_MAX_S, wait_s * 2)

    async def _live_on(self, driven: Driven) -> None:
        """From wherever it is to its end."""
        known = self._journal.may_know(driven.name)
        entry = await self._journaled(partial(self._journal.get, driven.name)) if known else None
        if entry is not None and entry.outcome is not None:
            note = msgspec.msgpack.decode(entry.outcome, type=EndNote)
        elif driven.broken:
            note = await self._as_fenced(driven, await self._end_broken(driven, entry))
        else:
            failed = await (self._begin(driven) if entry is None else self._find_again(driven, entry))
            note = await self._as_fenced(driven, failed or await self._see_through(driven))
        if entry is None or entry.outcome is None:
            note = await self._with_outputs(driven, note)
        seq = await self._journaled(partial(self._journal.ended, driven.name, msgspec.msgpack.encode(note)))
        directory = self._directory(driven)
        await asyncio.to_thread(Workspace(directory).scrub)
        driven.ended = True
        await self._gate.release(driven.name)
        self.ended_counts[driven.executor, note.reason or ""] += 1
        log.info("attempt ended", extra={**driven.fields(), "reason": note.reason, "exit_code": note.exit_code})
        word = driven.end_command(self.replica.clock_ms(), self._settings.agent_id, seq, note)
        await self.teller.tell(driven, word, note.outputs)
        self.retired.add(driven.name, driven.executor, directory)
        del self.driven[driven.name]
        self.on_output(driven.key)
        self._something_ended()

    async def _begin(self, driven: Driven) -> EndNote | None:
        """Start an attempt that nothing is known of. Returns None once it runs, else why it never did."""
        shut = await self._shut_out(driven)
        if shut is not None:
            return shut
        try:
            prepared = await self._prepare_when_there_is_room(driven)
        except (SpecError, PluginError, SecretError, StoreError, ValueError, OSError) as error:
            return await self._refuse(driven, Reason.EXECUTOR_ERROR, str(error))
        if prepared is None:
            return await self._refuse(driven, Reason.CANCELLED, "it was stopped while the disk was full")
        spec, kept = prepared
        executor = self._executors.get(driven.executor)
        if executor is None:
            message = f"the agent {self._settings.agent_id} has no executor {driven.executor!r}"
            return await self._refuse(driven, Reason.EXECUTOR_ERROR, message)
        failed = await self._fetch(driven, executor, spec)
        if failed is not None:
            return failed
        not_after_s = min(self._settings.boottime_s() + executor.start_window_s, self._gate.until_s(driven.epoch))
        spec = replace(spec, not_after_s=not_after_s)
        intent = Intent(
            driven.run_id,
            driven.instance,
            driven.number,
            driven.epoch,
            driven.executor,
            kept,
            driven.capability,
        )
        intend = partial(
            self._journal.intend,
            driven.name,
            msgspec.msgpack.encode(intent),
            spec.not_after_s,
            self._settings.boot_id,
        )
        why_not, _ = await asyncio.gather(self._guard(driven, executor), self._journaled(intend))
        if why_not:
            return self._never_ran(driven, Reason.FENCED, f"it was not started: {why_not}")
        return await self._start(driven, executor, spec)

    async def _shut_out(self, driven: Driven) -> EndNote | None:
        """Wait until the attempt may begin. Returns None then, else why it never will."""
        if await self._gate_opens(driven):
            return None
        if driven.stop.is_set():
            return await self._refuse(driven, Reason.CANCELLED, "it was stopped before it began")
        return await self._refuse(driven, Reason.FENCED, "its agent was lost before it began")

    async def _fetch(self, driven: Driven, executor: Executor, spec: AttemptSpec) -> EndNote | None:
        """Have what the start needs, over more than one lease where that takes long. Returns why it never starts."""
        try:
            await executor.fetch(spec)
        except Unsettled as error:  # the start asks again, and says what comes of it
            log.info("the engine does not answer", extra={"attempt": spec.name, "error": str(error)})
        except ExecutorError as error:
            return await self._refuse(driven, Reason(error.reason), str(error))
        return await self._shut_out(driven)

    async def _guard(self, driven: Driven, executor: Executor, *, runs: bool = False) -> str:
        """Have the watchdog end it with its lease. Returns why it may not start; "" = it may."""
        try:
            end = how_to_end(executor, driven.name, self._directory(driven))
        except (ExecutorError, ValueError) as error:
            return str(error)
        if end is None or not fenceable(executor):  # nobody can: where its agent is lost, it is not known how it goes
            return ""
        return await self._gate.guard(driven.name, Guarded(driven.epoch, driven.waits, end), runs=runs)

    async def _as_fenced(self, driven: Driven, note: EndNote) -> EndNote:
        """How it ended is the watchdog's doing, if that has decided so before."""
        at_ms = await self._gate.fenced_at_ms(driven.name)
        if at_ms is None or note.reason == Reason.FENCED:
            return note
        message = "its lease had ended while the agent was dead, or cut off: the watchdog has stopped it"
        return msgspec.structs.replace(note, reason=Reason.FENCED, message=message)

    async def _gate_opens(self, driven: Driven) -> bool:
        """Wait until the attempt may begin. Returns False where it is to stop, or was taken away, before that."""
        while not driven.stop.is_set():
            changed, news = self.replica.changed(), self._gate.news()
            if self._gate.may_start(driven.epoch):
                return True
            row = self.replica.table.rows.agents.get(self._settings.agent_id)
            if row is not None and row.epoch > driven.epoch:
                return False  # it was lost before it could begin, and its epoch never returns
            await asyncio.wait((changed, news), return_when=asyncio.FIRST_COMPLETED)
        return False

    async def _refuse(self, driven: Driven, reason: Reason, message: str) -> EndNote:
        """Put on record that the attempt will never start, before anybody is told."""
        await self._journaled(partial(self._journal.refuse, driven.name, message))
        return self._never_ran(driven, reason, message)

    def _never_ran(self, driven: Driven, reason: str, message: str) -> EndNote:
        now_ms = self.replica.clock_ms()
        return EndNote(reason, None, message[:MESSAGE_MAX], None, now_ms, {}, driven.compiled)

    async def _start(self, driven: Driven, executor: Executor, spec: AttemptSpec) -> EndNote | None:
        """Start once. Where the engine did not answer, whether it did start is asked, never tried again (P3)."""
        try:
            started = await executor.start(spec)
        except Unsettled as error:
            log.warning("the engine does not answer", extra={"attempt": spec.name, "error": str(error)})
            absent = "the engine did not answer in time; nothing was started"
            failed = await self._find(driven, executor, spec.not_after_s, absent)
        except StartRefused as refused:
            return self._never_ran(driven, Reason.FENCED, str(refused))
        except ExecutorError as error:
            return self._never_ran(driven, error.reason, str(error))
        else:
            failed = None
            await self._note_start(driven, started)
        if failed is None:
            self.starts += 1
            log.info("attempt started", extra=driven.fields())
        return failed

    async def _find_again(self, driven: Driven, entry: JournalEntry) -> EndNote | None:
        """After a restart: an attempt that was meant to start. Returns None once it is found."""
        if entry.payload is None:
            reason = Reason.CANCELLED if driven.stop.is_set() else Reason.EXECUTOR_ERROR
            return self._never_ran(driven, reason, entry.refused or "it was refused")
        intent = msgspec.msgpack.decode(entry.payload, type=Intent)
        driven.capability, driven.compiled, driven.executor = intent.capability, intent.compiled, intent.executor
        if entry.started is not None:
            driven.started = msgspec.msgpack.decode(entry.started, type=StartNote)
        executor = self._executors[intent.executor]  # the agent does not start without those its journal names
        await self._guard(driven, executor, runs=True)
        same_boot = entry.boot_id == self._settings.boot_id
        not_after_s = entry.not_after_s if same_boot and entry.not_after_s is not None else float("-inf")
        absent = "the agent ended before the start; nothing was started"
        failed = await self._find(driven, executor, not_after_s, absent)
        if failed is None:
            log.info("attempt found again", extra=driven.fields())
        return failed

    async def _find(self, driven: Driven, executor: Executor, not_after_s: float, absent: str) -> EndNote | None:
        """Find an attempt whose start, or state, is unknown. Returns None once it is found; else how it ended.

        absent: what to say where it never started.
        """
        try:
            found = await self._attach(executor, driven.name, self._directory(driven), not_after_s)
        except ExecutorError as error:
            return self._note(driven, await self._end_lost(driven, executor, str(error)))
        if found is not None:
            await self._note_start(driven, found)
            return None
        if driven.started is None:
            return self._never_ran(driven, Reason.AGENT_LOST, absent)
        lost = "it had started, and its engine knows nothing of it any more"
        return self._note(driven, await self._end_lost(driven, executor, lost))

    async def _attach(self, executor: Executor, name: str, directory: Path, not_after_s: float) -> Started | None:
        """None = it has not started and never will, as far as the engine knows. Raises ExecutorError but Unsettled."""
        found = await patiently(lambda: executor.attach(name, directory))
        wait_s = not_after_s - self._settings.boottime_s()
        if found is not None or executor.absence_is_proof or wait_s < 0:
            return found
        await asyncio.sleep(wait_s + 1)
        return await patiently(lambda: executor.attach(name, directory))

    async def _end_lost(self, driven: Driven, executor: Executor, why: str) -> Outcome:
        """End what is left of an attempt that can no longer be followed. Returns when that is proven (P3)."""
        log.warning("an attempt is lost; what is left of it is ended", extra={**driven.fields(), "error": why})
        await until_stopped(lambda: executor.stop(driven.name, self._directory(driven), 0), driven.fields())
        return Outcome(None, Reason.EXECUTOR_ERROR, f"{why}; what was left of it has been ended")

    async def _end_broken(self, driven: Driven, entry: JournalEntry | None) -> EndNote:
        why = f"an error of the agent itself ({driven.broken}), which its log tells in full"
        if entry is None or entry.payload is None:
            return await self._refuse(driven, Reason.EXECUTOR_ERROR, why)
        return self._note(driven, await self._end_lost(driven, self._executors[driven.executor], why))

    async def _note_start(self, driven: Driven, started: Started) -> None:
        note = StartNote(started.started_at_ms, dict(started.facts))
        driven.started = note
        driven.started_seq = await self._journaled(
            partial(self._journal.started, driven.name, msgspec.msgpack.encode(note))
        )

    async def _see_through(self, driven: Driven) -> EndNote:
        """From a running attempt to its outcome, with its output on disk."""
        executor = self._executors[driven.executor]
        directory = self._directory(driven)
        driven.telling = asyncio.create_task(self._tell_start(driven), name=f"{driven.name} starts")
        async with asyncio.TaskGroup() as group:
            pump = None if executor.captures_logs else group.create_task(self._pump(driven, executor, directory))
            outcome = await self._outcome(driven, executor, directory)
            if pump is not None:
                await asyncio.wait({pump}, timeout=LOG_DRAIN_S)
                if not pump.done():
                    log.warning("output is incomplete: the engine gave no more", extra=driven.fields())
                    pump.cancel()
        await driven.tell_no_more()
        return self._note(driven, outcome)

    def _note(self, driven: Driven, outcome: Outcome) -> EndNote:
        started = driven.started
        # Work that was told to stop and says that all is well has not done what it was there for.
        cut = outcome.reason is None and driven.stopping
        return EndNote(
            Reason.FENCED if driven.fenced else Reason.CANCELLED if cut else outcome.reason,
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
            waiting = group.create_task(self._wait(driven, executor, directory))
            stopping = group.create_task(self._stop_when_asked(driven, executor, directory))
            fencing = group.create_task(self._stop_when_lease_ends(driven, executor, directory))
            outcome = await waiting
            stopping.cancel()
            fencing.cancel()
        return outcome

    async def _wait(self, driven: Driven, executor: Executor, directory: Path) -> Outcome:
        try:
            return await patiently(lambda: executor.wait(driven.name, directory))
        except ExecutorError as error:
            return await self._end_lost(driven, executor, str(error))

    async def _stop_when_asked(self, driven: Driven, executor: Executor, directory: Path) -> None:
        await driven.stop.wait()
        log.info("attempt is being stopped", extra=driven.fields())
        driven.stopping = True
        await until_stopped(lambda: executor.stop(driven.name, directory, STOP_GRACE_S), driven.fields())

    async def _stop_when_lease_ends(self, driven: Driven, executor: Executor, directory: Path) -> None:
        """Another agent may be given this work from then on. Work that is waited for when its agent is lost goes on."""
        if driven.waits:
            return
        while True:
            news = self._gate.news()
            left_s = self._gate.until_s(driven.epoch) - self._settings.boottime_s()
            if left_s <= 0:
                break
            await asyncio.wait((news,), timeout=None if left_s == FOREVER else left_s)
        log.warning("the lease has ended: an attempt is stopped", extra=driven.fields())
        driven.fenced = True
        await until_stopped(lambda: executor.stop(driven.name, directory, self._gate.stop_grace_s), driven.fields())

    async def _with_outputs(self, driven: Driven, note: EndNote) -> EndNote:
        """How it ended, with what it has put out: of a success alone."""
        if note.reason is not None:
            return note
        run = self.replica.table.rows.runs.get(driven.run_id)
        if run is None:
            return note
        now = sealed_secrets(self.replica.table, run.project, run.namespace)
        look = partial(self._preparer.take_outputs, driven, run, now, put_out(run))
        taken = await asyncio.to_thread(look)
        told = "; ".join(one for one in (note.message, taken.note) if one)
        return msgspec.structs.replace(note, outputs=taken.data, message=told[:MESSAGE_MAX])

    # -- parts -------------------------------------------------------------------------------------------------------

    async def _prepare_when_there_is_room(self, driven: Driven) -> tuple[AttemptSpec, str] | None:
        """Prepare an attempt. A full disk is waited for: the run was accepted (P1). None = it was to stop meanwhile."""
        try:
            return await self._prepare_again_and_again(driven)
        finally:
            NO_ROOM.forget((driven.run_id, driven.instance, driven.number))

    async def _prepare_again_and_again(self, driven: Driven) -> tuple[AttemptSpec, str] | None:
        while not driven.stop.is_set():
            try:
                return await self._prepare(driven)
            except BlobMissing as error:
                if self.teller.network is None:
                    raise
                log.warning("an attempt waits for what it is made of", extra={**driven.fields(), "error": str(error)})
            except (StoreError, OSError) as error:
                if not is_full(error):
                    raise
                NO_ROOM.note((driven.run_id, driven.instance, driven.number), str(error))
                log.warning("the disk is full; an attempt waits", extra={**driven.fields(), "error": str(error)})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(driven.stop.wait(), FULL_WAIT_S)
        return None

    async def _prepare(self, driven: Driven) -> tuple[AttemptSpec, str]:
        driven.capability = secrets.token_urlsafe(24)
        try:
            return await self._prepare_here(driven)
        except (BlobMissing, BlobDamaged):
            if self.teller.network is None:
                raise
        run = self.replica.table.rows.runs[driven.run_id]
        named = [("outputs", one.outputs) for one in run.instances if one.outputs is not None]
        for kind, digest in (("bundle", run.bundle), *named):
            await self.teller.network.fetch_whole(kind, digest, read=True)
        return await self._prepare_here(driven)

    async def _prepare_here(self, driven: Driven) -> tuple[AttemptSpec, str]:
        """From what is on this disk, with the secrets as they are now. Raises what `Preparer.prepare` raises."""
        table = self.replica.table
        run = table.rows.runs[driven.run_id]
        driven.sealed = sealed_secrets(table, run.project, run.namespace)
        return await asyncio.to_thread(self._preparer.prepare, driven, run, driven.sealed, put_out(run))

    async def _pump(self, driven: Driven, executor: Executor, directory: Path) -> None:
        """Copy an engine's output into this agent's log, each line once, also over restarts of either."""
        target = self._logs.directory(driven.run_id, driven.instance, driven.number)
        while True:
            try:
                return await copy_logs(executor, driven.name, directory, target, self._settings.log_limit_bytes)
            except Unsettled as error:
                log.warning("the engine does not answer", extra={**driven.fields(), "error": str(error)})
                await asyncio.sleep(ENGINE_WAIT_S)
            except (ExecutorError, OSError) as error:  # costs output, never the attempt: someone removed a container
                log.warning("output is incomplete", extra={**driven.fields(), "error": str(error)})
                return None

    async def _tell_start(self, driven: Driven) -> None:
        """Work that ends at once is told of once: its end says when it began."""
        await asyncio.sleep(START_HOLD_S)
        told = await self._start_is_told(driven)
        while not told:
            await asyncio.sleep(TELL_WAIT_MAX_S)
            told = await self._start_is_told(driven)

    async def _start_is_told(self, driven: Driven) -> bool:
        try:
            await self.teller.tell(driven, driven.start_command(self.replica.clock_ms(), self._settings.agent_id))
        except Exception as error:
            if not _ends_the_agent(error):  # else whoever tells the end meets it too
                log.exception("a start could not be told; it is tried again", extra=driven.fields())
                return False
        return True

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

    def _directory(self, driven: Driven) -> Path:
        return self._preparer.directory(driven.run_id, driven.instance, driven.number)


def _same(mine: str, given: str) -> bool:
    return bool(mine) and secrets.compare_digest(mine.encode(), given.encode(errors="surrogateescape"))


def _ends_the_agent(error: BaseException) -> bool:
    """Whether nothing may be done any more: the journal, or the agent as a whole, has failed (P9)."""
    if isinstance(error, BaseExceptionGroup):
        return any(_ends_the_agent(one) for one in error.exceptions)
    return isinstance(error, JournalError | AgentStopped)


def _kind(error: BaseException) -> str:
    """What an error is, without its text, which may quote a secret."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__
