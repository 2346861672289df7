"""What keeps a member's log on disk fit: room ahead of it, marks in it, snapshots behind it.

Nothing here is asked for by a Ready, and nothing here holds one up but a full disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from agent.log_thread import LogThread
from agent.machine import Machine
from consensus.durable import DurableLog
from consensus.errors import Compacted, LogFull
from consensus.messages import SnapshotMeta

log = logging.getLogger(__name__)

FULL_WAIT_S: Final = 2.0  # between looks at a full disk


class Upkeep:
    """Belongs to the loop's thread; what blocks is done in the log's, what takes long in the slow one."""

    def __init__(
        self,
        durable: DurableLog,
        machine: Machine,
        thread: LogThread,
        slow: LogThread,
        *,
        applied: Callable[[], SnapshotMeta],
        snapshot_bytes: int,
        wake: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """applied: what the machine has applied now. snapshot_bytes: of log between two snapshots.

        wake: called when there is room again, or none.
        """
        self._durable, self._machine, self._thread, self._slow = durable, machine, thread, slow
        self._applied, self._snapshot_bytes, self._wake, self._failed = applied, snapshot_bytes, wake, failed
        self._loop = asyncio.get_running_loop()
        self._bytes_since_snapshot = durable.bytes_since_snapshot
        self._marked = self._preparing = False
        self._snapshotting: asyncio.Task[None] | None = None
        self.disk_full = False  # nothing is taken until there is room
        self.snapshot_wanted = False  # before its time
        self.snapshots_made = 0

    async def close(self) -> None:
        """Stop. A snapshot that is being made is given up."""
        if self._snapshotting is not None:
            self._snapshotting.cancel()
            await asyncio.wait({self._snapshotting})

    # -- room --------------------------------------------------------------------------------------------------------

    def saved(self) -> None:
        """The log has taken what a Ready holds."""
        self.disk_full = self._marked = False
        if not self._durable.spare_ready:
            self.prepare()

    def full(self, again: Callable[[], None]) -> None:
        """The log had no room. again: called after a time."""
        log.warning("the disk is full; the log waits")
        self.disk_full = True
        self._loop.call_later(FULL_WAIT_S, again)

    def prepare(self) -> None:
        """Have the next segment of the log ready, so that no proposal waits for its zeros."""
        if not self._preparing:
            self._preparing = True
            self._slow.submit(self._durable.prepare, self._on_prepared)

    def _on_prepared(self, _made: bool | None, error: BaseException | None) -> None:  # noqa: FBT001  a callback's
        self._preparing = False
        if isinstance(error, LogFull):
            self.full(self.prepare)
        elif error is not None:
            self._failed(error)
            return
        else:
            self.disk_full = False
        self._wake()

    # -- marks -------------------------------------------------------------------------------------------------------

    def mark(self) -> None:
        """Note on disk how far the log is durable, when nothing more comes that would do it (P9). Once a tick."""
        if not self._marked:
            self._marked = True
            self._thread.submit(self._mark_in_thread, self._on_marked)

    def _mark_in_thread(self) -> bool:
        due_s = self._durable.mark_due_s
        if due_s == 0.0:
            self._durable.mark()
        return due_s is None or due_s == 0.0

    def _on_marked(self, done: bool | None, error: BaseException | None) -> None:  # noqa: FBT001  a callback's
        self._marked = bool(done)
        if error is not None:
            self._failed(error)

    # -- snapshots ---------------------------------------------------------------------------------------------------

    def grew(self, size_bytes: int) -> None:
        """The log has so many bytes more."""
        self._bytes_since_snapshot += size_bytes

    def replaced(self) -> None:
        """A leader's snapshot has taken the place of the log."""
        self._bytes_since_snapshot = 0

    def maybe_snapshot(self) -> None:
        """Begin a snapshot if it is time for one."""
        wanted = self.snapshot_wanted or self._bytes_since_snapshot >= self._snapshot_bytes
        if wanted and self._snapshotting is None:
            self.snapshot_wanted = False
            self._snapshotting = self._loop.create_task(self.snapshot(), name="snapshot")
            self._snapshotting.add_done_callback(self._snapshotted)

    def _snapshotted(self, task: asyncio.Task[None]) -> None:
        self._snapshotting = None
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, LogFull | Compacted):  # no room, or a leader's newer one came first
            log.info("no snapshot was made", extra={"error": str(error)})
        elif error is not None:
            self._failed(error)

    async def snapshot(self) -> None:
        """Write a snapshot of what is applied, then drop the log behind it.

        Raises LogFull, Compacted where a newer one is there, LogFailed.
        """
        self._bytes_since_snapshot = 0
        storage = self._durable.storage
        at, chunks = self._applied(), self._machine.snapshot()  # of one moment
        await self._machine.before_snapshot(at.index)
        head = await self._slow.run(lambda: self._durable.create_snapshot(at, chunks))
        if head.meta.index <= storage.first_index() - 1:
            return  # a leader's newer one was installed meanwhile
        storage.create_snapshot(head.meta.index, head.meta.conf_state, head.snapshot.data)
        self._durable.trim()
        await self._thread.run(self._durable.compact)
        self.snapshots_made += 1
        log.info("snapshot", extra={"index": at.index, "bytes": head.size})
