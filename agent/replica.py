"""The one writer of the run table: propose -> durable log -> apply.

One loop takes all proposals that have come, makes them durable with one fdatasync, applies them in order and answers.
Two threads serve it: one owns the log, one the history. A cluster of one agent needs no more; Raft takes the place of
`_append`, and nothing else here or in `runtable` changes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from agent.errors import AgentStopped, Refusal
from agent.records import history_row
from agent.runtable import commands as c
from agent.runtable.apply import Applied, apply
from agent.runtable.lifecycle import FinishedRun
from agent.runtable.model import Run
from agent.runtable.table import Table
from agent.store.errors import HistoryFull
from agent.store.history import FinishedRun as HistoryRow
from agent.store.history import History
from consensus.errors import LogFull
from consensus.wal import Wal

log = logging.getLogger(__name__)
T = TypeVar("T")

PROPOSALS_MAX: Final = 4096  # waiting for the log; past it the client is told to come again (P12)
BATCH_MAX: Final = 1024  # proposals by one fdatasync
LEAVING_MAX: Final = 10_000  # finished runs on the way to the history
FULL_WAIT_S: Final = 2.0  # between looks at a full disk
SLICE_S: Final = 0.005  # applying yields to the loop after this
SNAPSHOT_BYTES: Final = 64 * 1024 * 1024  # of log since the last snapshot

Proposal = tuple[bytes, "asyncio.Future[Applied]"]


class Replica:
    """The table of this agent and the way to change it.

    table: read it freely on the loop's thread; only this class changes it.
    """

    def __init__(
        self,
        wal: Wal,
        history: History,
        *,
        clock_ms: Callable[[], int],
        snapshot_bytes: int = SNAPSHOT_BYTES,
        on_sync: Callable[[float], None] = lambda _took_s: None,
    ) -> None:
        """wal, history: open. clock_ms: milliseconds since the epoch. snapshot_bytes: of log between two snapshots.

        on_sync: told how long each batch took to become durable, in seconds, on the log's thread.
        """
        self.table = Table()
        self.history = history
        self.clock_ms = clock_ms
        self.applied_at_s = time.monotonic()
        self._wal = wal
        self._snapshot_bytes = snapshot_bytes
        self._on_sync = on_sync
        self._bytes_since_snapshot = 0
        self._queue: deque[Proposal] = deque()
        self._in_flight: list[Proposal] = []
        self._queued = asyncio.Event()
        self._changed: asyncio.Future[None] | None = None
        self._leaving: dict[str, Run] = {}  # finished, and on the way to the history
        self._history_due: list[tuple[int, tuple[FinishedRun, ...]]] = []
        self._history_queued = asyncio.Event()
        self._log_thread = ThreadPoolExecutor(1, thread_name_prefix="log")
        self._history_thread = ThreadPoolExecutor(1, thread_name_prefix="history")
        self._stopped: AgentStopped | None = None
        self.snapshots = 0
        self.finished_counts: Counter[tuple[str, str]] = Counter()  # (state, reason) since this agent started

    # -- reading -----------------------------------------------------------------------------------------------------

    @property
    def applied_index(self) -> int:
        """The index of the last entry that the table holds."""
        return self.table.rows.index

    @property
    def waiting(self) -> int:
        """Proposals that wait for the log."""
        return len(self._queue) + len(self._in_flight)

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
        """Make `command` durable and apply it. Returns what it did; by then it is on disk (P1).

        Raises Refusal ("overloaded", "disk_full") where it was not accepted, AgentStopped where the log has failed.
        """
        if self._stopped is not None:
            raise self._stopped
        if len(self._queue) >= PROPOSALS_MAX:
            raise Refusal("overloaded", "too many requests wait for the log; try again", 429, retry_after_s=1)
        future: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()
        self._queue.append((c.encode(command), future))
        self._queued.set()
        return await future

    def recover(self) -> int:
        """Load the last snapshot and apply the log after it. Returns the number of entries applied. Call before `run`.

        Raises LogDamaged and msgspec.DecodeError for what cannot be read (P9), HistoryError.
        """
        start = 1
        snapshot = self._wal.snapshot()
        if snapshot is not None:
            start = snapshot[0] + 1
            self.table = Table.load(snapshot[1])
        count = 0
        for index, data in self._wal.read(start):
            applied = apply(self.table, index, data)
            self._bytes_since_snapshot += len(data)
            if applied.finished and index > self.history.covered_index:
                self.history.append(rows_of(index, applied.finished))
            count += 1
        return count

    async def run_forever(self) -> None:
        """The loop. Ends when cancelled, and raises AgentStopped when the disk failed (P9)."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._log_loop(), name="log")
                group.create_task(self._history_loop(), name="history")
        except* Exception as errors:
            reason = "; ".join(str(error) for error in errors.exceptions)
            self._stopped = AgentStopped(f"this agent cannot keep its records any more: {reason}")
            raise self._stopped from errors
        finally:
            self._fail_waiting()

    async def _log_loop(self) -> None:
        while True:
            await self._wait_for_proposals()
            self._in_flight = self._take_batch()
            if self._in_flight:
                await self._commit(self._in_flight)
            self._in_flight = []
            if self._bytes_since_snapshot >= self._snapshot_bytes:
                await self.snapshot()
            while len(self._leaving) > LEAVING_MAX:  # the history's disk is slower than the log's (P12)
                await asyncio.shield(self.changed())

    async def _wait_for_proposals(self) -> None:
        """Wait for something to do; when nothing comes, note on disk how far the log is durable (P9)."""
        due_s = self._wal.mark_due_s
        if due_s is not None:
            try:
                async with asyncio.timeout(due_s):
                    await self._queued.wait()
            except TimeoutError:
                await self._on_log_thread(self._wal.mark)
        await self._queued.wait()

    async def _on_log_thread(self, work: Callable[[], T]) -> T:
        """Run `work` where the log lives. It is finished even when this loop is cancelled."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._log_thread, work))

    def _take_batch(self) -> list[Proposal]:
        batch: list[Proposal] = []
        while self._queue and len(batch) < BATCH_MAX:
            proposal = self._queue.popleft()
            if not proposal[1].cancelled():
                batch.append(proposal)
        if not self._queue:
            self._queued.clear()
        return batch

    async def _commit(self, batch: list[Proposal]) -> None:
        records = [data for data, _future in batch]
        try:
            last = await self._on_log_thread(lambda: self._append(records))
        except LogFull as error:
            refusal = Refusal("disk_full", f"the agent's disk is full: {error}", 507, retry_after_s=30)
            for _data, future in batch:
                if not future.done():
                    future.set_exception(refusal)
            return
        await self._apply_all(last - len(batch) + 1, batch)

    def _append(self, records: Sequence[bytes]) -> int:
        """On the log's thread. The table is told only of what is on disk."""
        begin_s = time.perf_counter()
        last = self._wal.append(records)
        self._wal.sync()
        self._on_sync(time.perf_counter() - begin_s)
        return last

    async def _apply_all(self, index: int, batch: list[Proposal]) -> None:
        begin = time.monotonic()
        for data, future in batch:
            applied = apply(self.table, index, data)
            self._bytes_since_snapshot += len(data)
            if applied.finished:
                self._hand_to_history(index, applied.finished)
            if not future.done():
                future.set_result(applied)
            index += 1
            if time.monotonic() - begin > SLICE_S:
                self._wake()
                await asyncio.sleep(0)
                begin = time.monotonic()
        self._wake()

    def _wake(self) -> None:
        self.applied_at_s = time.monotonic()
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    def _fail_waiting(self) -> None:
        """Answer all that was not applied. What was in flight may be on disk: its fate is not known here."""
        error = self._stopped or AgentStopped("the agent is stopping")
        for _data, future in (*self._in_flight, *self._queue):
            if not future.done():
                future.set_exception(error)
        self._queue.clear()

    # -- what leaves the table ---------------------------------------------------------------------------------------

    def _hand_to_history(self, index: int, finished: tuple[FinishedRun, ...]) -> None:
        for one in finished:
            self._leaving[one.run.id] = one.run
            self.finished_counts[one.run.state, one.run.reason or ""] += 1
        self._history_due.append((index, finished))
        self._history_queued.set()

    async def _history_loop(self) -> None:
        """Write what is due, in batches. A failure is fatal: a finished run must not vanish (P4, P9)."""
        while True:
            await self._history_queued.wait()
            self._history_queued.clear()
            due, self._history_due = self._history_due, []
            rows = [row for index, finished in due for row in rows_of(index, finished)]
            await self._append_to_history(rows)
            for _index, finished in due:
                for one in finished:
                    if self._leaving.get(one.run.id) is one.run:
                        del self._leaving[one.run.id]
            self._wake()
            await self._on_history_thread(self._prepare_segment)

    async def _append_to_history(self, rows: list[HistoryRow]) -> None:
        """On a full disk, wait for room: the log has these runs too, so nothing is lost meanwhile (P9)."""
        while True:
            try:
                await self._on_history_thread(partial(self.history.append, rows))
            except HistoryFull as error:
                log.warning("the history waits for room on the disk", extra={"error": str(error)})
                await asyncio.sleep(FULL_WAIT_S)
            else:
                return

    def _prepare_segment(self) -> None:
        """Have the log's next segment ready before it is needed. A full disk is the appender's to report."""
        try:
            self._wal.prepare()
        except LogFull as error:
            log.warning("no room for the log's next segment", extra={"error": str(error)})

    async def _on_history_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._history_thread, work))

    async def history_settled(self) -> None:
        """Wait until the history has every run that has ended so far."""
        while self._leaving:
            await asyncio.shield(self.changed())

    async def snapshot(self) -> None:
        """Write a snapshot of the table and drop the log it covers.

        The history is durable up to the same index first: what the dropped log would have said of finished runs is
        there.
        """
        index, data = self.applied_index, self.table.dump()
        self._bytes_since_snapshot = 0
        await self.history_settled()
        await self._on_history_thread(lambda: self.history.set_covered(index))
        await self._on_log_thread(lambda: self._save(index, data))
        self.snapshots += 1
        log.info("snapshot", extra={"index": index, "bytes": len(data)})

    def _save(self, index: int, data: bytes) -> None:
        self._wal.save_snapshot(index, data)
        self._wal.compact(self._wal.snapshots[0])

    async def close(self) -> None:
        """Let go of threads and files. A finished run that the history lacks is in the log, found at the next start."""
        await asyncio.to_thread(self._log_thread.shutdown)
        await asyncio.to_thread(self._history_thread.shutdown)
        self._wal.close()
        self.history.close()


def rows_of(index: int, finished: tuple[FinishedRun, ...]) -> list[HistoryRow]:
    """The history's rows for the runs that the entry at `index` ended."""
    return [history_row(index, ordinal, one) for ordinal, one in enumerate(finished)]
