"""The run table of this agent, kept by consensus: propose -> durable on a majority -> apply.

`driver` makes entries durable and hands them over in order; here they are applied to the table, and what leaves the
table goes to the history. A cluster of one agent is a cluster with one voter.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from agent.clock import LeaderClock
from agent.digests import Digests
from agent.driver import Driver, Network
from agent.errors import AgentStopped, Refusal
from agent.records import history_row
from agent.runtable import commands as c
from agent.runtable.apply import Applied, apply
from agent.runtable.lifecycle import FinishedRun
from agent.runtable.model import Agent, Run, TableImage
from agent.runtable.table import Table, TableLoader, parts_of
from agent.store.errors import HistoryFull
from agent.store.history import FinishedRun as HistoryRow
from agent.store.history import History
from agent.waiters import PROPOSALS_MAX
from consensus.durable import DurableLog
from consensus.messages import NONE, ConfState, Entry, EntryKind, HardState, SnapshotMeta
from consensus.ready import Role

log = logging.getLogger(__name__)
T = TypeVar("T")

LEAVING_MAX: Final = 10_000  # finished runs on the way to the history; with more, applying waits (P12)
FULL_WAIT_S: Final = 2.0  # between looks at a full disk
PROPOSE_S: Final = 5.0  # an election takes less
AGAIN_S: Final = 0.1
LEADER_S: Final = 3.0  # an election, and the first look at the others' clocks
SILENT_S: Final = 2.0  # without a word: some elections take less
APPLY_S: Final = 5.0  # until this agent has applied what the leader has: then who wrote here reads it here
NOTHING_HAPPENED: Final = frozenset({"no_leader", "not_committed", "unreachable", "tables_differ"})
REPEATABLE: Final = (
    c.SubmitRun,
    c.SubmitPipeline,
    c.CreateReplay,
    c.ImportRun,
    c.InstanceStarted,
    c.InstanceEnded,
)  # the second is a no-op
SNAPSHOT_BYTES: Final = 64 * 1024 * 1024  # of log since the last snapshot


def found(durable: DurableLog, agents: Iterable[Agent] = ()) -> None:
    """Begin a log with the founders of a cluster: all of them vote. Nothing happens where it has begun.

    agents: the founders' rows, the same for each of them; none = this node alone, of which nothing is known yet.
    """
    if durable.snapshot_meta().index:
        return
    rows = {row.id: row for row in sorted(agents, key=lambda row: row.id)}
    voters = tuple(sorted(row.node for row in rows.values())) or (durable.identity.node,)
    image = TableImage(index=1, cluster=durable.identity.cluster, agents=rows)
    meta = SnapshotMeta(1, 1, ConfState(voters))
    head = durable.install_snapshot(meta, HardState(1, 0, 1), Table(image).image())
    durable.storage.install_snapshot(head.snapshot)
    durable.storage.hard_state = HardState(1, 0, 1)


class Replica:
    """The table of this agent and the way to change it: the state machine of `driver`.

    table: read it freely on the loop's thread; only this class changes it.
    """

    _told = ("", 0)  # who leads, in which term, as it was logged

    def __init__(
        self,
        durable: DurableLog,
        network: Network,
        history: History,
        *,
        clock_ms: Callable[[], int],
        jitter: Callable[[int], int] = random.randrange,
        snapshot_bytes: int = SNAPSHOT_BYTES,
        on_sync: Callable[[float], None] = lambda _took_s: None,
    ) -> None:
        """durable, history: open, and begun (see `found`). clock_ms: milliseconds since the epoch. jitter: see Config.

        snapshot_bytes: of log between two snapshots. on_sync: told how long each batch took to become durable, in
        seconds, on the log's thread. Raises HistoryError where the history has lost what the log has dropped (P4).
        """
        # An agent that joins has no snapshot yet.
        self.table = Table.load(durable.read_snapshot()) if durable.snapshot_meta().index else Table()
        _check_level(self.table, "the table of this agent")
        self.history = history
        self.clock_ms = clock_ms
        self.digests = Digests()
        self.held: str | None = None  # why nothing may be proposed here
        self.clock = LeaderClock(clock_ms)
        self._before_clock = 0  # proposals that wait for it
        self.applied_at_s = time.monotonic()
        self._durable = durable
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changed: asyncio.Future[None] | None = None
        self._leader_changed: asyncio.Future[None] | None = None
        self._ends: dict[str, asyncio.Future[None]] = {}  # of runs that someone waits for
        self.forward: Callable[[int, bytes], Awaitable[Applied]] | None = None  # (leader, encoded command)
        self._leaving: dict[str, Run] = {}  # finished, and on the way to the history
        self._history_due: list[tuple[int, tuple[FinishedRun, ...]]] = []
        self._history_writing: list[tuple[int, tuple[FinishedRun, ...]]] = []
        self._history_changed: asyncio.Future[None] | None = None
        self._history_queued = asyncio.Event()
        self._history_thread = ThreadPoolExecutor(1, thread_name_prefix="history")
        self.finished_counts: Counter[tuple[str, str]] = Counter()  # (state, reason) since this agent started
        self._old_index = durable.storage.last_index()  # what ended up to here, ended before this agent started
        self._covered_index = history.covered_index
        history.check_covers(durable.snapshot_meta().index, durable.storage.last_index())
        self.driver = Driver(
            durable,
            self,
            network,
            jitter=jitter,
            snapshot_bytes=snapshot_bytes,
            on_sync=on_sync,
            on_failed=self._on_failed,
        )
        self.driver.on_role = self._on_role

    # -- reading -----------------------------------------------------------------------------------------------------

    @property
    def applied_index(self) -> int:
        """The index of the last entry that the table holds."""
        return self.table.rows.index

    @property
    def waiting(self) -> int:
        """Proposals that were not answered yet."""
        return self.driver.waiting

    @property
    def snapshots(self) -> int:
        """How many snapshots were made since this agent started."""
        return self.driver.snapshots_made

    @property
    def leader(self) -> int:
        """The number of the leader that this agent hears, itself included; NONE = none.

        A standby never stands for election: it would name the last one for ever.
        """
        node = self.driver.node
        heard_s = self.driver.heard_s
        if node.leader in (NONE, node.id):
            return node.leader
        return node.leader if heard_s is not None and time.monotonic() - heard_s < SILENT_S else NONE

    def age_ms(self) -> int:
        """For how long there may have been changes that this agent has not heard of, in milliseconds (P6)."""
        node, now_s = self.driver.node, time.monotonic()
        if node.leader == node.id:
            return 0  # without a majority it would have stopped leading
        if self.driver.heard_s is None:  # none since the start: what is known is when the last command was said
            return max(0, self.clock_ms() - self.table.rows.time_ms)
        since_s = self.driver.heard_s
        if node.committed > self.applied_index:
            since_s = min(since_s, self.applied_at_s)
        return round(1000 * (now_s - since_s))

    @property
    def term(self) -> int:
        """The term of the log, as far as this agent knows."""
        return self.driver.node.term

    @property
    def leads(self) -> bool:
        """Whether this agent leads, and has applied everything that was committed before its term."""
        return self.driver.leads

    def run(self, run_id: str) -> Run | None:
        """A run that has not ended, or whose record has not reached the history yet."""
        return self.table.rows.runs.get(run_id) or self._leaving.get(run_id)

    @property
    def leaving(self) -> int:
        """Finished runs that are on the way to the history."""
        return len(self._leaving)

    def unfinished_or_leaving(self) -> list[Run]:
        """Every run whose last state the history does not have yet."""
        return [
            *self.table.rows.runs.values(),
            *(r for r in self._leaving.values() if r.id not in self.table.rows.runs),
        ]

    def changed(self) -> asyncio.Future[None]:
        """A future that is done when something more was applied. Take it before looking at the table."""
        if self._changed is None or self._changed.done():
            self._changed = asyncio.get_running_loop().create_future()
        return self._changed

    def ended(self, run_id: str) -> asyncio.Future[None]:
        """A future that is done when a run that has not ended yet, as was seen just now, may have.

        Who waits for one run is not woken by what becomes of all others.
        """
        future = self._ends.get(run_id)
        if future is None:
            future = self._ends[run_id] = asyncio.get_running_loop().create_future()
        return future

    def _tell_ended(self, run_ids: Iterable[str]) -> None:
        for run_id in run_ids:
            future = self._ends.pop(run_id, None)
            if future is not None and not future.done():
                future.set_result(None)

    async def wait_applied(self, index: int, timeout_s: float) -> bool:
        """Wait until the table holds the entry at `index`. Returns False if that took longer than timeout_s seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.applied_index < index:
                    await asyncio.shield(self.changed())
        except TimeoutError:
            return False
        return True

    # -- writing -----------------------------------------------------------------------------------------------------

    async def propose(self, command: c.AnyCommand) -> Applied:
        """Make `command` durable on a majority and apply it here. Returns what it did (P1).

        It is tried again for `PROPOSE_S` where nothing has happened, or where it says the same twice. Raises Refusal
        ("overloaded", "disk_full", "no_leader", "not_committed", "unreachable", "tables_differ", "feature_level",
        "outcome_unknown") where it was not accepted, or nobody can know; AgentStopped where this agent has failed.
        """
        data = c.encode(command)
        again = NOTHING_HAPPENED | {"outcome_unknown"} if isinstance(command, REPEATABLE) else NOTHING_HAPPENED
        until_s = time.monotonic() + PROPOSE_S
        while True:
            news = self.leader_changed()
            try:
                return await self._propose_once(data)
            except Refusal as refusal:
                if refusal.code not in again or time.monotonic() >= until_s:
                    raise
            await asyncio.wait((news,), timeout=AGAIN_S)

    async def decide(self, command: c.AnyCommand, term: int) -> Applied:
        """Propose what this agent has decided as the leader of `term`: by that term, or not at all; here, and once.

        A later leader may know better by then. Raises Refusal as `propose`.
        """
        if not self.leads or self.term != term:
            raise Refusal("no_leader", "this agent does not lead any more", 503, retry_after_s=1)
        return await self.offer(c.encode(command), term=term)

    async def offer(self, data: bytes, *, term: int | None = None) -> Applied:
        """Propose an encoded command here, while this agent leads: every proposal of the cluster passes this door.

        Raises Refusal as `propose`; "feature_level" for what not every agent knows; "tables_differ" while it is held.
        """
        if self.held is not None:
            raise Refusal("tables_differ", self.held, 503, retry_after_s=5)
        self._refuse_newer(c.level_of(data))
        if self.clock.wanted:
            led = await self._term_with_clock()
            term = led if term is None else term
        applied: Applied = await self.driver.submit(self.clock.stamped(data), term=term)
        return applied

    async def _term_with_clock(self) -> int:
        """The term that this agent leads, once it has compared its clock in it. Raises Refusal, AgentStopped."""
        until_s = time.monotonic() + LEADER_S
        if self._before_clock >= PROPOSALS_MAX:  # P12
            raise Refusal("overloaded", "too many requests wait for a leader; try again", 429, retry_after_s=1)
        self._before_clock += 1
        try:
            while not (self.leads and self.clock.term == self.term):
                waits = (self.leader_changed(), self.changed())
                if self.driver.failure is not None:
                    raise self.driver.failure
                if self.driver.node.leader not in (NONE, self.driver.node.id) or time.monotonic() > until_s:
                    raise Refusal("no_leader", "another agent leads, or none is known", 503, retry_after_s=1)
                await asyncio.wait(waits, timeout=AGAIN_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._before_clock -= 1
        return self.term

    def clock_compared(self, term: int, ahead_ms: int) -> None:
        """See `LeaderClock.compared`."""
        if self.clock.compared(term, ahead_ms):
            self.nudge()

    def hold(self, why: str | None) -> None:
        """Propose nothing from here on; None = as ever."""
        if self.held is not None and why is None:
            log.info("proposals are taken again")
        self.held = why

    def _refuse_newer(self, level: int) -> None:
        """What an agent does not know halts it (`apply`): it is not said before all know it."""
        rows = self.table.rows
        if level > rows.level:
            older = ", ".join(f"{one.id} ({one.version})" for one in rows.agents.values() if one.level < level)
            text = f"this needs feature level {level}, and the cluster is at {rows.level}: start {older}"
            raise Refusal("feature_level", f"{text} with a newer release, or remove what does not return", 409)

    async def _propose_once(self, data: bytes) -> Applied:
        leader = self.driver.node.leader
        if self.forward is None or leader in (NONE, self.driver.node.id):
            applied = await self.offer(data)
        else:
            applied = await self.forward(leader, data)
            await self.wait_applied(applied.index, APPLY_S)
        return applied

    def leader_changed(self) -> asyncio.Future[None]:
        """A future that is done when this agent hears of another leader, or of none. Take it before looking."""
        if self._leader_changed is None or self._leader_changed.done():
            self._leader_changed = asyncio.get_running_loop().create_future()
        return self._leader_changed

    def _on_role(self, role: Role) -> None:
        node = self.driver.node
        names = [agent.id for agent in self.table.rows.agents.values() if agent.node == node.leader]
        who = "nobody is known to lead" if node.leader == NONE else f"{names[0] if names else node.leader} leads"
        if self._told != (who, self.term):
            self._told = (who, self.term)
            log.info(who, extra={"term": self.term, "role": role})
        if self._leader_changed is not None and not self._leader_changed.done():
            self._leader_changed.set_result(None)

    async def caught_up(self) -> int:
        """Wait until the table holds everything that was acknowledged before this call. Returns such an index."""
        return await self.driver.read_index()

    async def run_forever(self) -> None:
        """The replica's life. Ends when cancelled, and raises AgentStopped when the disk failed (P9)."""
        self.driver.start()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._history_loop(), name="history")
                await self._failed
        except ExceptionGroup as errors:
            self.driver.fail(errors.exceptions[0])  # the history's; where it is the driver's own, it has failed already
            raise self.driver.failure or AgentStopped(str(errors)) from errors

    def _on_failed(self, _error: BaseException) -> None:
        if not self._failed.done() and self.driver.failure is not None:
            self._failed.set_exception(self.driver.failure)

    # -- the state machine of the driver -----------------------------------------------------------------------------

    def apply(self, entry: Entry) -> Applied:
        """See `driver.Machine`."""
        if entry.kind != EntryKind.NORMAL or not entry.data:
            self.table.rows.index = entry.index
            return Applied(entry.index)
        before_ms = self.table.rows.time_ms
        applied = apply(self.table, entry.index, entry.data)
        if applied.code == "newer_level":
            raise AgentStopped(_too_old(c.level_of(entry.data), f"entry {entry.index} of the log"))
        self.digests.applied(self.table, before_ms)
        if applied.finished:
            self._hand_to_history(entry.index, applied.finished)
            self._tell_ended(one.run.id for one in applied.finished)
        return applied

    def ready(self) -> bool:
        """See `driver.Machine`. False while the history's disk is slower than the log's (P12)."""
        return len(self._leaving) <= LEAVING_MAX

    def applied(self) -> None:
        """See `driver.Machine`."""
        self.applied_at_s = time.monotonic()
        self._wake()

    def snapshot(self) -> Iterable[bytes]:
        """See `driver.Machine`."""
        return self.table.image()

    def loader(self) -> TableLoader:
        """See `driver.Machine`. It raises msgspec.DecodeError for what is no table (P9)."""
        return TableLoader()

    def restore(self, meta: SnapshotMeta, state: Table) -> Iterable[object]:
        """See `driver.Machine`."""
        _check_level(state, f"the leader's snapshot of entry {meta.index}")
        old, self.table = self.table, state
        self.digests.restart()
        self._tell_ended(tuple(self._ends))
        self._wake()
        return parts_of(old)

    async def before_snapshot(self, index: int) -> None:
        """The history has what the log says of finished runs up to there, or has noted that it is missing (P4).

        An index that is not applied yet is that of a leader's snapshot, which takes the place of what is between.
        """
        if index > self.applied_index:
            held = self.history_index
            log.info("finished runs are missing here", extra={"after": held, "up_to": index})
            await self.write_history(partial(self.history.note_missing, held, index))
        else:
            await self._history_written(index)
            await self.write_history(partial(self.history.set_covered, index))

    def nudge(self) -> None:
        """Have everybody look at the table again who waits for it: something beside it has changed."""
        self._wake()

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    # -- what leaves the table ---------------------------------------------------------------------------------------

    def _hand_to_history(self, index: int, finished: tuple[FinishedRun, ...]) -> None:
        if index <= self._covered_index:
            return  # an entry that is applied again after a start
        for one in finished:
            self._leaving[one.run.id] = one.run
            if index > self._old_index:
                self.finished_counts[one.run.state, one.run.reason or ""] += 1
        self._history_due.append((index, finished))
        self._history_queued.set()

    async def _history_loop(self) -> None:
        """Write what is due, in batches. A failure is fatal: a finished run must not vanish (P4, P9)."""
        while True:
            await self._history_queued.wait()
            self._history_queued.clear()
            due, self._history_due = self._history_due, []
            self._history_writing = due
            rows = [row for index, finished in due for row in rows_of(index, finished)]
            await self.write_history(partial(self.history.append, rows))
            self._history_writing = []
            for _index, finished in due:
                for one in finished:
                    if self._leaving.get(one.run.id) is one.run:
                        del self._leaving[one.run.id]
            self._wake()
            self.driver.wake()

    async def write_history(self, work: Callable[[], None]) -> None:
        """Do this on the history's thread, then wake who waits for the history. Raises what the work raises.

        On a full disk it waits for room: the log, or another agent, has what is to be written, so nothing is lost (P9).
        """
        while True:
            try:
                await self._on_history_thread(work)
            except HistoryFull as error:
                log.warning("the history waits for room on the disk", extra={"error": str(error)})
                await asyncio.sleep(FULL_WAIT_S)
            else:
                break
        if self._history_changed is not None and not self._history_changed.done():
            self._history_changed.set_result(None)

    async def _on_history_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._history_thread, work))

    def history_changed(self) -> asyncio.Future[None]:
        """A future that is done when something was written to the history. Take it before looking."""
        if self._history_changed is None or self._history_changed.done():
            self._history_changed = asyncio.get_running_loop().create_future()
        return self._history_changed

    @property
    def history_index(self) -> int:
        """The history has every run that ended up to this index of the log, but for its holes and what was pruned."""
        due = self._history_writing or self._history_due
        return due[0][0] - 1 if due else self.applied_index

    async def history_settled(self) -> None:
        """Wait until the history has every run that has ended so far."""
        await self._history_written(self.applied_index)

    async def _history_written(self, index: int) -> None:
        while self.history_index < index:
            await asyncio.shield(self.changed())

    async def close(self) -> None:
        """Let go of threads and files. A finished run that the history lacks is in the log, found at the next start."""
        await self.driver.close()
        if not self._failed.done():
            self._failed.cancel()
        await asyncio.to_thread(self._history_thread.shutdown)
        await asyncio.to_thread(self.digests.close)
        self._durable.close()
        self.history.close()


def _check_level(table: Table, where: str) -> None:
    if table.rows.level > c.LEVEL:
        raise AgentStopped(_too_old(table.rows.level, where))


def _too_old(level: int, where: str) -> str:
    return (
        f"{where} is of feature level {level}, and this release knows {c.LEVEL} at most. Nothing of it was applied and "
        "nothing is lost: start this agent with the release of the others"
    )


def rows_of(index: int, finished: tuple[FinishedRun, ...]) -> list[HistoryRow]:
    """The history's rows for the runs that the entry at `index` ended."""
    return [history_row(index, ordinal, one) for ordinal, one in enumerate(finished)]
